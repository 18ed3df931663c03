/* SPDX-License-Identifier: MIT */
/* The UART as drivers use it, and the power registers beside it. */
#include "platform/platform.h"
#include "platform/power.h"
#include "state/state.h"
#include "tap.h"

#include <pthread.h>

struct board {
	struct bus *bus;
	struct serial *serial;
	char out[65536];
	unsigned len, calls, edges;
	bool level;
};

static void wrote(void *arg, const void *bytes, unsigned len)
{
	struct board *b = arg;

	if (len <= sizeof(b->out) - b->len)
		memcpy(b->out + b->len, bytes, len);
	b->len += len;
	b->calls++;
}

static void irq(void *arg, bool level)
{
	struct board *b = arg;

	CHECK(level != b->level);
	b->edges += level;
	b->level = level;
}

static struct board *board_new(void)
{
	struct board *b = calloc(1, sizeof(*b));
	struct serial_host host = { b, wrote, irq };

	b->bus = bus_new();
	b->serial = serial_new(b->bus, &host);
	return b;
}

static void board_free(struct board *b)
{
	serial_free(b->serial);
	bus_free(b->bus);
	free(b);
}

static uint8_t in(struct board *b, unsigned reg)
{
	return bus_read(b->bus, BUS_PORT, SERIAL_PORT + reg, 1);
}

static void out(struct board *b, unsigned reg, uint8_t value)
{
	bus_write(b->bus, BUS_PORT, SERIAL_PORT + reg, 1, value);
}

static void say(struct board *b, const char *text)
{
	for (; *text; text++)
		out(b, 0, *text);
}

/* The steps of Linux's autoconfig() and autoconfig_16550a(). */
static void looks_like_a_16550a(void)
{
	struct board *b = board_new();

	out(b, 1, 0);
	CHECK_EQ(in(b, 1), 0);
	out(b, 1, 0x0f);
	CHECK_EQ(in(b, 1), 0x0f);
	out(b, 1, 0xff);
	CHECK_EQ(in(b, 1), 0x0f);
	out(b, 1, 0);
	out(b, 4, 0x1a); /* loopback: RTS and OUT2 come back as CTS and DCD */
	CHECK_EQ(in(b, 6) & 0xf0, 0x90);
	out(b, 4, 0);
	CHECK_EQ(in(b, 2), 0x01);
	out(b, 2, 1);
	CHECK_EQ(in(b, 2), 0xc1);
	out(b, 7, 0xa5);
	CHECK_EQ(in(b, 7), 0xa5);
	CHECK_EQ(in(b, 5), 0x60);
	board_free(b);
}

/* Drivers count the FIFO in loopback: 16 bytes, and none of them may come out. */
static void loopback(void)
{
	struct board *b = board_new();
	unsigned n = 0;

	out(b, 2, 1);
	out(b, 4, 0x10);
	for (unsigned i = 0; i < 256; i++)
		out(b, 0, i);
	while (in(b, 5) & 1)
		CHECK_EQ(in(b, 0), n++);
	CHECK_EQ(n, 16);
	serial_flush(b->serial);
	CHECK_EQ(b->len, 0);
	board_free(b);
}

static void output_is_batched_by_line(void)
{
	struct board *b = board_new();

	say(b, "hello");
	CHECK_EQ(b->calls, 0);
	say(b, " world\nnext");
	CHECK_EQ(b->calls, 1);
	CHECK_EQ(b->len, 12);
	CHECK(!memcmp(b->out, "hello world\n", 12));
	serial_flush(b->serial);
	CHECK_EQ(b->len, 16);
	serial_flush(b->serial);
	CHECK_EQ(b->calls, 2);
	board_free(b);
}

/* A prompt has no newline: it comes out when the driver turns its interrupt off. */
static void output_ends_with_the_burst(void)
{
	struct board *b = board_new();

	out(b, 1, 2);
	say(b, "login: ");
	CHECK_EQ(b->len, 0);
	out(b, 1, 0);
	CHECK_EQ(b->len, 7);
	board_free(b);
}

static void output_is_never_lost(void)
{
	struct board *b = board_new();

	for (unsigned i = 0; i < 1000; i++)
		out(b, 0, 'x');
	CHECK(b->len >= 1000 - 256);
	serial_reset(b->serial);
	CHECK_EQ(b->len, 1000);
	board_free(b);
}

static void transmit_interrupt(void)
{
	struct board *b = board_new();

	out(b, 2, 1);
	out(b, 1, 2);
	CHECK_EQ(b->level, true); /* at once: the transmitter is empty */
	CHECK_EQ(in(b, 2), 0xc2);
	CHECK_EQ(b->level, false); /* reading told the driver */
	CHECK_EQ(in(b, 2), 0xc1);
	out(b, 0, 'a');
	CHECK_EQ(b->level, true);
	CHECK_EQ(b->edges, 2);
	out(b, 1, 0);
	CHECK_EQ(b->level, false);
	/* Linux's test whether it is raised again. */
	out(b, 1, 2);
	CHECK_EQ(in(b, 2), 0xc2);
	board_free(b);
}

static void receive_interrupt(void)
{
	struct board *b = board_new();

	out(b, 2, 1);
	serial_input(b->serial, "ab", 2);
	CHECK_EQ(b->level, false);
	out(b, 1, 1);
	CHECK_EQ(b->level, true);
	CHECK_EQ(in(b, 2), 0xc4);
	CHECK_EQ(in(b, 5) & 1, 1);
	CHECK_EQ(in(b, 0), 'a');
	CHECK_EQ(b->level, true);
	CHECK_EQ(in(b, 0), 'b');
	CHECK_EQ(b->level, false);
	CHECK_EQ(in(b, 0), 0);
	CHECK_EQ(in(b, 5) & 1, 0);
	board_free(b);
}

/* Row 5: what nobody reads is bounded. */
static void input_is_bounded(void)
{
	struct board *b = board_new();
	char junk[5000];
	unsigned n = 0;

	memset(junk, 'j', sizeof(junk));
	for (unsigned i = 0; i < 10; i++)
		serial_input(b->serial, junk, sizeof(junk));
	while (in(b, 5) & 1)
		n += in(b, 0) == 'j';
	CHECK_EQ(n, 1024);
	serial_input(b->serial, junk, 10);
	out(b, 2, 3); /* clear the FIFO */
	CHECK_EQ(in(b, 5) & 1, 0);
	board_free(b);
}

static void divisor_is_apart(void)
{
	struct board *b = board_new();

	out(b, 3, 0x83);
	out(b, 0, 0x34);
	out(b, 1, 0x12);
	CHECK_EQ(in(b, 0), 0x34);
	CHECK_EQ(in(b, 1), 0x12);
	out(b, 3, 0x03);
	CHECK_EQ(in(b, 1), 0);
	serial_flush(b->serial);
	CHECK_EQ(b->len, 0);
	board_free(b);
}

static void serial_every_width(void)
{
	struct board *b = board_new();

	for (unsigned size = 1; size <= 8; size++)
		for (unsigned port = SERIAL_PORT - 8; port < SERIAL_PORT + 16; port++) {
			bus_write(b->bus, BUS_PORT, port, size, UINT64_MAX);
			bus_read(b->bus, BUS_PORT, port, size);
		}
	board_free(b);
}

static void *shout(void *arg)
{
	for (unsigned i = 0; i < 1000; i++)
		say(arg, "0123456789\n");
	return NULL;
}

static void many_cpus(void)
{
	struct board *b = board_new();
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, shout, b), 0);
	shout(b);
	pthread_join(thread, NULL);
	serial_flush(b->serial);
	CHECK_EQ(b->len, 22000);
	board_free(b);
}

static void serial_state_moves_over(void)
{
	struct board *b = board_new(), *c = board_new();
	struct state *save = state_save_new(), *load;
	const void *bytes;
	size_t len;

	out(b, 2, 1);
	out(b, 7, 9);
	out(b, 1, 3);
	say(b, "x");
	CHECK_EQ(serial_state(b->serial, save), 0);
	CHECK_EQ(b->len, 1);
	bytes = state_bytes(save, &len);
	load = state_load_new(bytes, len);
	CHECK_EQ(serial_state(c->serial, load), 0);
	CHECK_EQ(in(c, 7), 9);
	CHECK_EQ(c->level, true);
	CHECK_EQ(in(c, 2), 0xc2);
	state_free(load);
	state_free(save);
	board_free(b);
	board_free(c);
}

/* --- power --- */

struct plant {
	unsigned off, reset, sci_edges;
	bool sci;
};

static void off(void *arg)
{
	((struct plant *)arg)->off++;
}

static void reset(void *arg)
{
	((struct plant *)arg)->reset++;
}

static void sci(void *arg, bool level)
{
	struct plant *p = arg;

	p->sci = level;
	p->sci_edges++;
}

static void power_registers(void)
{
	struct plant plant = { 0 };
	struct power_host host = { &plant, off, reset, sci };
	struct bus *bus = bus_new();
	struct power *power = power_new(bus, &host);

	bus_write(bus, BUS_PORT, POWER_PORT + POWER_SLEEP_CONTROL, 1, 5 << 2);
	bus_write(bus, BUS_PORT, POWER_PORT + POWER_SLEEP_CONTROL, 1, 3 << 2 | 0x20);
	CHECK_EQ(plant.off, 0);
	bus_write(bus, BUS_PORT, POWER_PORT + POWER_SLEEP_CONTROL, 1, 5 << 2 | 0x20);
	CHECK_EQ(plant.off, 1);
	bus_write(bus, BUS_PORT, POWER_PORT + POWER_RESET, 1, 0);
	CHECK_EQ(plant.reset, 0);
	bus_write(bus, BUS_PORT, POWER_PORT + POWER_RESET, 1, POWER_RESET_VALUE);
	CHECK_EQ(plant.reset, 1);
	CHECK_EQ(bus_read(bus, BUS_PORT, POWER_PORT + POWER_SLEEP_STATUS, 1), 0);
	power_free(power);
	bus_free(bus);
}

static void power_button_pressed(void)
{
	struct plant plant = { 0 };
	struct power_host host = { &plant, off, reset, sci };
	struct bus *bus = bus_new();
	struct power *power = power_new(bus, &host);

	CHECK_EQ(bus_read(bus, BUS_PORT, POWER_PORT + POWER_EVENTS, 1), 0);
	power_button(power);
	power_button(power);
	CHECK_EQ(plant.sci, true);
	CHECK_EQ(plant.sci_edges, 1);
	CHECK_EQ(bus_read(bus, BUS_PORT, POWER_PORT + POWER_EVENTS, 1), POWER_EVENT_BUTTON);
	CHECK_EQ(plant.sci, false);
	CHECK_EQ(bus_read(bus, BUS_PORT, POWER_PORT + POWER_EVENTS, 1), 0);
	power_button(power);
	power_reset(power);
	CHECK_EQ(plant.sci, false);
	power_free(power);
	bus_free(bus);
}

int main(void)
{
	RUN(looks_like_a_16550a);
	RUN(loopback);
	RUN(output_is_batched_by_line);
	RUN(output_ends_with_the_burst);
	RUN(output_is_never_lost);
	RUN(transmit_interrupt);
	RUN(receive_interrupt);
	RUN(input_is_bounded);
	RUN(divisor_is_apart);
	RUN(serial_every_width);
	RUN(many_cpus);
	RUN(serial_state_moves_over);
	RUN(power_registers);
	RUN(power_button_pressed);
	return tap_done();
}
