/* SPDX-License-Identifier: MIT */
/*
 * Power: the sleep control, sleep status and reset registers of a hardware-reduced ACPI platform
 * (ACPI 6.5 section 4.8.3.7 and 4.8.3.6), and one event register of our own behind the generic
 * event device of dsdt.asl: reading it tells which events happened and clears them.
 */
#include "platform/power.h"

#include "state/state.h"

#include <stdlib.h>

#define SLEEP_ENABLE  0x20
#define SLEEP_TYPE(v) ((v) >> 2 & 7)

struct power {
	struct bus *bus;
	struct power_host host;
	pthread_mutex_t lock; /* of events and the interrupt line */
	uint8_t events;
};

static void set_events(struct power *p, uint8_t events)
{
	bool was = p->events, is = events;

	p->events = events;
	if (was != is && p->host.sci)
		p->host.sci(p->host.arg, is);
}

static uint64_t ports_read(void *arg, uint64_t port, unsigned size)
{
	struct power *p = arg;
	uint8_t events;

	if (port != POWER_EVENTS || size != 1)
		return 0;
	pthread_mutex_lock(&p->lock);
	events = p->events;
	set_events(p, 0);
	pthread_mutex_unlock(&p->lock);
	return events;
}

static void ports_write(void *arg, uint64_t port, unsigned size, uint64_t value)
{
	struct power *p = arg;

	if (size != 1)
		return;
	if (port == POWER_SLEEP_CONTROL && value & SLEEP_ENABLE &&
		SLEEP_TYPE(value) == POWER_SLEEP_TYPE_S5)
		p->host.off(p->host.arg);
	else if (port == POWER_RESET && value == POWER_RESET_VALUE)
		p->host.reset(p->host.arg);
}

static const struct bus_ops ops = { .read = ports_read, .write = ports_write };

struct power *power_new(struct bus *bus, const struct power_host *host)
{
	struct power *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->bus = bus;
	p->host = *host;
	pthread_mutex_init(&p->lock, NULL);
	if (bus_add(bus, BUS_PORT, POWER_PORT, POWER_PORTS, &ops, p)) {
		pthread_mutex_destroy(&p->lock);
		free(p);
		return NULL;
	}
	return p;
}

void power_free(struct power *p)
{
	if (!p)
		return;
	bus_remove(p->bus, BUS_PORT, POWER_PORT);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void power_reset(struct power *p)
{
	pthread_mutex_lock(&p->lock);
	set_events(p, 0);
	pthread_mutex_unlock(&p->lock);
}

void power_button(struct power *p)
{
	pthread_mutex_lock(&p->lock);
	set_events(p, p->events | POWER_EVENT_BUTTON);
	pthread_mutex_unlock(&p->lock);
}

int power_state(struct power *p, struct state *s)
{
	uint32_t version;
	uint8_t events;
	int r = state_enter(s, "power", 1, &version);

	pthread_mutex_lock(&p->lock);
	events = p->events;
	r = r ? r : state_u8(s, "events", &events);
	set_events(p, events & POWER_EVENT_BUTTON);
	pthread_mutex_unlock(&p->lock);
	return r ? r : state_leave(s);
}
