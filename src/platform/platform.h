/* SPDX-License-Identifier: MIT */
/* Chips that are not virtio, and the firmware tables that describe the board. */
#ifndef PLATFORM_PLATFORM_H
#define PLATFORM_PLATFORM_H

#include "bus/pci.h"
#include "memory/memory.h"

/*
 * --- serial: 16550A on COM1 (port 0x3f8, IRQ 4), output only: early messages and panics.
 * -------------
 */
struct serial;
/*
 * write: called on the vCPU thread with bytes the guest sent; batches where it can. irq may be
 * NULL.
 */
struct serial_host {
	void *arg;
	void (*write)(void *arg, const void *bytes, unsigned len);
	void (*irq)(void *arg, bool level);
};
struct serial *serial_new(struct bus *bus, const struct serial_host *host);
void serial_free(struct serial *serial);
void serial_reset(struct serial *serial);
void serial_input(struct serial *serial, const void *bytes, unsigned len); /* any thread */

/*
 * --- power: ACPI fixed or hardware-reduced sleep and reset registers, power button.
 * ------------------
 */
struct power;
struct power_host {
	void *arg;
	void (*off)(void *arg);             /* guest entered S5; vCPU thread */
	void (*reset)(void *arg);           /* guest wrote the reset register; vCPU thread */
	void (*sci)(void *arg, bool level); /* the event interrupt, pin POWER_SCI_PIN */
};
#define POWER_SCI_PIN 9
struct power *power_new(struct bus *bus, const struct power_host *host);
void power_free(struct power *power);
void power_reset(struct power *power);
void power_button(struct power *power); /* any thread */

/*
 * --- rtc: MC146818 time-of-day registers on ports 0x70/0x71, read-only host UTC time.
 * ----------------
 */
struct rtc;
struct rtc *rtc_new(struct bus *bus);
void rtc_free(struct rtc *rtc);

/*
 * --- ACPI tables (ACPI 6.5), written below 1 MiB at BOOT_ACPI_RSDP's address.
 * ------------------------
 */
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
