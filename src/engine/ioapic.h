/* SPDX-License-Identifier: MIT */
/*
 * I/O APIC with 24 pins (Intel 82093AA), for every engine: interrupts leave as messages. Pins are
 * active high whatever the polarity bit says. Any thread may call these functions.
 */
#ifndef ENGINE_IOAPIC_H
#define ENGINE_IOAPIC_H

#include "engine/engine.h"
#include <pthread.h>

struct ioapic_host {
	void *arg;
	/* Deliver a message; did a local APIC accept it? Called with the lock held. */
	bool (*send)(void *arg, uint64_t address, uint32_t data);
	/*
	 * The message of a level-triggered pin, for engines that must be told whose end of
	 * interrupt to report; used false: none. Called with the lock held. May be NULL.
	 */
	void (*route)(void *arg, unsigned pin, bool used, uint64_t address, uint32_t data);
	/* The guest ended a level-triggered interrupt; its device may change the line here. */
	void (*ended)(void *arg, unsigned pin);
};

struct ioapic {
	pthread_mutex_t lock;
	struct ioapic_host host;
	uint32_t id, select;
	uint64_t redirection[ENGINE_IOAPIC_PINS];
	uint32_t level; /* of the pins */
};

void ioapic_init(struct ioapic *ioapic, const struct ioapic_host *host);
void ioapic_fini(struct ioapic *ioapic);
/* The lines are the devices', who lower them when they are reset themselves. */
void ioapic_reset(struct ioapic *ioapic);
void ioapic_line(struct ioapic *ioapic, unsigned pin, bool level);
/* offset: from ENGINE_IOAPIC_BASE. */
uint64_t ioapic_read(struct ioapic *ioapic, uint64_t offset, unsigned size);
void ioapic_write(struct ioapic *ioapic, uint64_t offset, unsigned size, uint64_t value);
void ioapic_eoi(struct ioapic *ioapic, unsigned vector);
int ioapic_state(struct ioapic *ioapic, struct state *s);

#endif
