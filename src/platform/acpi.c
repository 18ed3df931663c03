/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables (ACPI 6.5 chapter 5): RSDP, XSDT, FADT, MADT, MCFG and the compiled DSDT. The
 * platform is hardware-reduced: no PM1 blocks, no SCI, no 8259, 8254, HPET, 8042, VGA or CMOS
 * clock; what is left is a sleep control register, a reset register and the generic event device.
 *
 * There is no CMOS clock on purpose: the paravirtual clock tells the time to the nanosecond, and
 * Linux would set its clock from a CMOS one later, to the second.
 */
#include "platform/dsdt.h"
#include "platform/power.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"

#include <stdlib.h>

#define IOAPIC_BASE      0xfec00000
#define LAPIC_BASE       0xfee00000

#define HEADER_SIZE      36
#define RSDP_SIZE        36
#define FADT_SIZE        276
#define MADT_SIZE        44
#define MADT_LAPIC_SIZE  8
#define MADT_X2APIC_SIZE 16
#define MADT_IOAPIC_SIZE 12
#define MCFG_SIZE        60

/* FADT, ACPI 6.5 section 5.2.9. */
#define FADT_NO_VGA           (1 << 2)
#define FADT_NO_ASPM          (1 << 4)
#define FADT_NO_CMOS_CLOCK    (1 << 5)
#define FADT_WBINVD           (1 << 0)
#define FADT_NO_FIXED_POWER   (1 << 4)
#define FADT_NO_FIXED_SLEEP   (1 << 5)
#define FADT_RESET_REGISTER   (1 << 10)
#define FADT_HARDWARE_REDUCED (1 << 20)

/* Where the tables grow. */
struct room {
	uint8_t *bytes;
	size_t size, used;
	uint64_t address; /* of bytes in guest memory */
	bool full;
};

/* len zeroed bytes; NULL when there is no room for them. */
static uint8_t *room_take(struct room *room, size_t len)
{
	size_t at = align_up(room->used, 16);

	if (room->full || at > room->size || len > room->size - at) {
		room->full = true;
		return NULL;
	}
	room->used = at + len;
	return room->bytes + at;
}

static uint64_t room_address(const struct room *room, const uint8_t *p)
{
	return p ? room->address + (p - room->bytes) : 0;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t total = 0;

	while (len--)
		total += *p++;
	return total;
}

static void identify(uint8_t *p)
{
	memcpy(p + 10, "VIZOR VIZOR   ", 14);
	le32_store(p + 24, 1);
	memcpy(p + 28, "VIZR", 4);
	le32_store(p + 32, 1);
}

static uint8_t *table_new(struct room *room, const char *signature, uint8_t revision, size_t len)
{
	uint8_t *p = room_take(room, len);

	if (!p)
		return NULL;
	memcpy(p, signature, 4);
	le32_store(p + 4, len);
	p[8] = revision;
	identify(p);
	return p;
}

static void table_seal(uint8_t *p)
{
	p[9] = 0;
	p[9] = -sum(p, le32_load(p + 4));
}

/* Generic address structure of a byte-wide port. */
static void port_address(uint8_t *p, uint16_t port)
{
	p[0] = 1; /* system I/O */
	p[1] = 8; /* bits */
	p[3] = 1; /* byte accesses */
	le64_store(p + 4, port);
}

/* The range of a QWord address space descriptor, section 6.4.3.5.1. */
static void patch_range(uint8_t *descriptor, uint64_t base, uint64_t size)
{
	le64_store(descriptor + 14, base);
	le64_store(descriptor + 22, base + size - 1);
	le64_store(descriptor + 38, size);
}

static uint8_t *add_dsdt(struct room *room, const struct pci_windows *w)
{
	uint8_t *p = room_take(room, sizeof(dsdt));

	if (!p)
		return NULL;
	memcpy(p, dsdt, sizeof(dsdt));
	identify(p);
	patch_range(p + DSDT_MMIO32, w->mmio32, w->mmio32_size);
	patch_range(p + DSDT_MMIO64, w->mmio64, w->mmio64_size);
	patch_range(p + DSDT_ECAM, w->ecam, MiB);
	table_seal(p);
	return p;
}

static uint8_t *add_fadt(struct room *room, uint64_t dsdt_address)
{
	uint8_t *p = table_new(room, "FACP", 6, FADT_SIZE);

	if (!p)
		return NULL;
	le16_store(p + 109, FADT_NO_VGA | FADT_NO_ASPM | FADT_NO_CMOS_CLOCK);
	le32_store(p + 112, FADT_WBINVD | FADT_NO_FIXED_POWER | FADT_NO_FIXED_SLEEP |
				    FADT_RESET_REGISTER | FADT_HARDWARE_REDUCED);
	port_address(p + 116, POWER_PORT + POWER_RESET);
	p[128] = POWER_RESET_VALUE;
	p[131] = 5; /* minor version */
	le64_store(p + 140, dsdt_address);
	port_address(p + 244, POWER_PORT + POWER_SLEEP_CONTROL);
	port_address(p + 256, POWER_PORT + POWER_SLEEP_STATUS);
	memcpy(p + 268, "vizor", 5); /* hypervisor vendor */
	table_seal(p);
	return p;
}

/* APIC id 255 means everybody, so from there on only x2APIC entries will do. */
static size_t madt_cpu_size(unsigned id)
{
	return id < 255 ? MADT_LAPIC_SIZE : MADT_X2APIC_SIZE;
}

static void madt_cpu(uint8_t *p, unsigned id)
{
	p[1] = madt_cpu_size(id);
	if (id < 255) {
		p[0] = 0; /* processor local APIC */
		p[2] = p[3] = id;
		le32_store(p + 4, 1); /* enabled */
	} else {
		p[0] = 9; /* processor local x2APIC */
		le32_store(p + 4, id);
		le32_store(p + 8, 1);
		le32_store(p + 12, id);
	}
}

static uint8_t *add_madt(struct room *room, unsigned cpus)
{
	size_t len = MADT_SIZE + MADT_IOAPIC_SIZE;
	uint8_t *p, *entry;

	for (unsigned i = 0; i < cpus; i++)
		len += madt_cpu_size(i);
	p = table_new(room, "APIC", 5, len);
	if (!p)
		return NULL;
	le32_store(p + 36, LAPIC_BASE);
	entry = p + MADT_SIZE;
	for (unsigned i = 0; i < cpus; i++) {
		madt_cpu(entry, i);
		entry += madt_cpu_size(i);
	}
	entry[0] = 1; /* I/O APIC 0, global interrupts from 0 */
	entry[1] = MADT_IOAPIC_SIZE;
	le32_store(entry + 4, IOAPIC_BASE);
	table_seal(p);
	return p;
}

static uint8_t *add_mcfg(struct room *room, const struct pci_windows *w)
{
	uint8_t *p = table_new(room, "MCFG", 1, MCFG_SIZE);

	if (!p)
		return NULL;
	le64_store(p + 44, w->ecam); /* segment 0, bus 0 to 0 */
	table_seal(p);
	return p;
}

static void fill_rsdp(uint8_t *p, uint64_t xsdt)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "VIZOR ", 6);
	p[15] = 2; /* revision */
	le32_store(p + 20, RSDP_SIZE);
	le64_store(p + 24, xsdt);
	p[8] = -sum(p, 20);
	p[32] = -sum(p, RSDP_SIZE);
}

static void build(struct room *room, const struct acpi_board *board)
{
	uint8_t *rsdp = room_take(room, RSDP_SIZE);
	uint8_t *dsdt_table = add_dsdt(room, &board->windows);
	uint8_t *tables[] = {
		add_fadt(room, room_address(room, dsdt_table)),
		add_madt(room, board->cpus),
		add_mcfg(room, &board->windows),
	};
	uint8_t *xsdt = table_new(room, "XSDT", 1, HEADER_SIZE + 8 * ARRAY_SIZE(tables));

	if (room->full)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		le64_store(xsdt + HEADER_SIZE + 8 * i, room_address(room, tables[i]));
	table_seal(xsdt);
	fill_rsdp(rsdp, room_address(room, xsdt));
}

int acpi_write(struct memory *mem, const struct acpi_board *board, uint64_t *rsdp,
	struct vz_error *e)
{
	struct room room = { .address = board->address };
	int r;

	if (board->limit <= board->address || board->address % 16)
		return err_set(e, EINVAL, NULL, "ACPI tables: there is no room given for them");
	room.size = MIN(board->limit - board->address, MiB);
	room.bytes = calloc(1, room.size);
	if (!room.bytes)
		return err_set(e, ENOMEM, NULL, "ACPI tables: out of memory");
	build(&room, board);
	if (room.full)
		r = err_set(e, ENOSPC, NULL, "ACPI tables: %zu bytes are not enough for %u CPUs",
			room.size, board->cpus);
	else if (mem_write(mem, board->address, room.bytes, room.used))
		r = err_set(e, EFAULT, NULL, "ACPI tables: no memory at %#llx",
			(unsigned long long)board->address);
	else
		r = 0;
	free(room.bytes);
	if (!r)
		*rsdp = board->address;
	return r;
}
