/* SPDX-License-Identifier: MIT */
/*
 * A 16550A UART (National Semiconductor PC16550D data sheet, section 8) on COM1. The transmitter
 * is always ready, and the line speed is ignored. Modem lines are up and never change.
 */
#include "platform/platform.h"

#include "base/arith.h"
#include "state/state.h"

#include <stdlib.h>
#include <string.h>

#define PORTS    8
#define RX_SIZE  1024 /* bytes typed ahead */
#define RX_FIFO  16   /* the chip's own FIFO: what fits in loopback */
#define OUT_SIZE 256

enum {
	REG_DATA,
	REG_IER,
	REG_IIR_FCR,
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCRATCH,
};

#define IER_RX      0x01
#define IER_TX      0x02
#define IER_MASK    0x0f
#define IIR_NONE    0x01
#define IIR_TX      0x02
#define IIR_RX      0x04
#define IIR_FIFO    0xc0
#define FCR_ENABLE  0x01
#define FCR_CLEAR   0x02
#define LCR_DIVISOR 0x80
#define MCR_MASK    0x1f
#define MCR_LOOP    0x10
#define LSR_DATA    0x01
#define LSR_IDLE    0x60 /* holding register and transmitter empty */
#define MSR_UP      0xb0 /* carrier, data set ready, clear to send */

struct serial {
	struct bus *bus;
	struct serial_host host;
	pthread_mutex_t lock; /* of everything below, and of calls to the host */
	uint8_t ier, fcr, lcr, mcr, scratch, divisor[2];
	bool tx_event; /* the transmitter became empty, and nobody has been told */
	bool level;
	uint8_t rx[RX_SIZE];
	uint16_t rx_at, rx_len;
	uint8_t out[OUT_SIZE];
	unsigned out_len;
};

static uint8_t interrupt_id(const struct serial *s)
{
	if (s->ier & IER_RX && s->rx_len)
		return IIR_RX;
	if (s->ier & IER_TX && s->tx_event)
		return IIR_TX;
	return IIR_NONE;
}

static void update_irq(struct serial *s)
{
	bool level = interrupt_id(s) != IIR_NONE;

	if (level == s->level)
		return;
	s->level = level;
	if (s->host.irq)
		s->host.irq(s->host.arg, level);
}

static void flush(struct serial *s)
{
	if (s->out_len && s->host.write)
		s->host.write(s->host.arg, s->out, s->out_len);
	s->out_len = 0;
}

static void rx_put(struct serial *s, uint8_t byte, unsigned room)
{
	if (s->rx_len < room)
		s->rx[(s->rx_at + s->rx_len++) % RX_SIZE] = byte;
}

static uint8_t rx_get(struct serial *s)
{
	uint8_t byte;

	if (!s->rx_len)
		return 0;
	byte = s->rx[s->rx_at];
	s->rx_at = (s->rx_at + 1) % RX_SIZE;
	s->rx_len--;
	return byte;
}

static void transmit(struct serial *s, uint8_t byte)
{
	s->tx_event = true;
	if (s->mcr & MCR_LOOP) {
		rx_put(s, byte, RX_FIFO);
		return;
	}
	s->out[s->out_len++] = byte;
	if (byte == '\n' || s->out_len == OUT_SIZE)
		flush(s);
}

/* In loopback the modem inputs are wired to the outputs. */
static uint8_t modem_status(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_UP;
	return (s->mcr & 0x0c) << 4 | (s->mcr & 0x02) << 3 | (s->mcr & 0x01) << 5;
}

static uint8_t reg_read(struct serial *s, unsigned reg)
{
	uint8_t id;

	switch (reg) {
	case REG_DATA:
		return s->lcr & LCR_DIVISOR ? s->divisor[0] : rx_get(s);
	case REG_IER:
		return s->lcr & LCR_DIVISOR ? s->divisor[1] : s->ier;
	case REG_IIR_FCR:
		id = interrupt_id(s);
		if (id == IIR_TX)
			s->tx_event = false;
		return id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return LSR_IDLE | (s->rx_len ? LSR_DATA : 0);
	case REG_MSR:
		return modem_status(s);
	default:
		return s->scratch;
	}
}

static void ier_write(struct serial *s, uint8_t value)
{
	/* Turning the transmit interrupt on raises one at once: the transmitter is empty. */
	if (value & ~s->ier & IER_TX)
		s->tx_event = true;
	s->ier = value & IER_MASK;
	/* Linux writes this register at the end of each burst: the prompt has no newline. */
	flush(s);
}

static void reg_write(struct serial *s, unsigned reg, uint8_t value)
{
	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DIVISOR)
			s->divisor[0] = value;
		else
			transmit(s, value);
		break;
	case REG_IER:
		if (s->lcr & LCR_DIVISOR)
			s->divisor[1] = value;
		else
			ier_write(s, value);
		break;
	case REG_IIR_FCR:
		/* Switching the FIFO on or off clears it too. */
		if (value & FCR_CLEAR || (value ^ s->fcr) & FCR_ENABLE)
			s->rx_len = 0;
		s->fcr = value & FCR_ENABLE;
		break;
	case REG_LCR:
		s->lcr = value;
		break;
	case REG_MCR:
		s->mcr = value & MCR_MASK;
		break;
	case REG_SCRATCH:
		s->scratch = value;
		break;
	}
}

/* A wide access is one of consecutive bytes, as the ISA bridge splits it. */
static uint64_t ports_read(void *arg, uint64_t port, unsigned size)
{
	struct serial *s = arg;
	uint64_t value = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)reg_read(s, port + i) << (8 * i);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

static void ports_write(void *arg, uint64_t port, unsigned size, uint64_t value)
{
	struct serial *s = arg;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < size; i++) {
		reg_write(s, port + i, value >> (8 * i));
		update_irq(s);
	}
	pthread_mutex_unlock(&s->lock);
}

static const struct bus_ops ops = { .read = ports_read, .write = ports_write };

struct serial *serial_new(struct bus *bus, const struct serial_host *host)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->bus = bus;
	s->host = *host;
	pthread_mutex_init(&s->lock, NULL);
	if (bus_add(bus, BUS_PORT, SERIAL_PORT, PORTS, &ops, s)) {
		pthread_mutex_destroy(&s->lock);
		free(s);
		return NULL;
	}
	return s;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	bus_remove(s->bus, BUS_PORT, SERIAL_PORT);
	flush(s);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void serial_reset(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	flush(s);
	s->ier = s->fcr = s->lcr = s->mcr = s->scratch = 0;
	memset(s->divisor, 0, sizeof(s->divisor));
	s->tx_event = false;
	s->rx_len = 0;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

void serial_input(struct serial *s, const void *bytes, unsigned len)
{
	const uint8_t *p = bytes;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < len; i++)
		rx_put(s, p[i], RX_SIZE);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

void serial_flush(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	flush(s);
	pthread_mutex_unlock(&s->lock);
}

/* The bytes in flight are not saved: output is flushed, typed-ahead input belongs to the host. */
int serial_state(struct serial *s, struct state *state)
{
	uint32_t version;
	int r = state_enter(state, "serial", 1, &version);

	pthread_mutex_lock(&s->lock);
	flush(s);
	r = r ? r : state_u8(state, "ier", &s->ier);
	r = r ? r : state_u8(state, "fcr", &s->fcr);
	r = r ? r : state_u8(state, "lcr", &s->lcr);
	r = r ? r : state_u8(state, "mcr", &s->mcr);
	r = r ? r : state_u8(state, "scratch", &s->scratch);
	r = r ? r : state_blob(state, "divisor", s->divisor, sizeof(s->divisor));
	r = r ? r : state_bool(state, "tx_event", &s->tx_event);
	s->ier &= IER_MASK;
	s->fcr &= FCR_ENABLE;
	s->mcr &= MCR_MASK;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return r ? r : state_leave(state);
}
