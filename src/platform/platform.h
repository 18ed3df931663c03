/* SPDX-License-Identifier: MIT */
/* Chips that are not virtio, and the firmware tables that describe the board. */
#ifndef PLATFORM_PLATFORM_H
#define PLATFORM_PLATFORM_H

#include "bus/pci.h"
#include "memory/memory.h"

struct state;

/* --- serial: 16550A on COM1 (port 0x3f8, IRQ 4) for early messages, panics and a login --- */

#define SERIAL_PORT 0x3f8
#define SERIAL_IRQ  4
struct serial;
/*
 * write: called on the vCPU thread with bytes the guest sent, batched until a newline or the end of
 * a burst; calls never overlap, and it must not call the serial functions. irq may be NULL.
 */
struct serial_host {
	void *arg;
	void (*write)(void *arg, const void *bytes, unsigned len);
	void (*irq)(void *arg, bool level);
};
struct serial *serial_new(struct bus *bus, const struct serial_host *host);
void serial_free(struct serial *serial); /* flushes; NULL is fine */
void serial_reset(struct serial *serial);
/* What does not fit into the receive buffer is lost, as on a real line. Any thread. */
void serial_input(struct serial *serial, const void *bytes, unsigned len);
/* Hand over what waits for its newline: when the guest has stopped. Any thread. */
void serial_flush(struct serial *serial);
int serial_state(struct serial *serial, struct state *s);

/* --- power: sleep and reset registers of hardware-reduced ACPI, power button --- */

#define POWER_PORT    0x600
#define POWER_SCI_PIN 9
struct power;
struct power_host {
	void *arg;
	void (*off)(void *arg);   /* guest entered S5; vCPU thread, no lock held */
	void (*reset)(void *arg); /* guest wrote the reset register; vCPU thread, no lock held */
	/* The event interrupt: pin POWER_SCI_PIN, level-triggered, active high. Any thread. */
	void (*sci)(void *arg, bool level);
};
struct power *power_new(struct bus *bus, const struct power_host *host);
void power_free(struct power *power);
void power_reset(struct power *power);
void power_button(struct power *power); /* any thread */
int power_state(struct power *power, struct state *s);

/* --- ACPI tables (ACPI 6.5) --- */

struct acpi_board {
	unsigned cpus;
	struct pci_windows windows;
	uint64_t address; /* where the tables go; the RSDP first */
	uint64_t limit;   /* end of the room */
};
/* 0 or -ENOSPC. *rsdp: guest-physical address. */
int acpi_write(struct memory *mem, const struct acpi_board *board, uint64_t *rsdp,
	struct vz_error *e);

#endif
