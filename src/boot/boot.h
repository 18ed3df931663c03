/* SPDX-License-Identifier: MIT */
/*
 * Kernel loaders, x86-64: a bzImage, whose payload is decompressed on the host, or an ELF vmlinux;
 * entered at its 64-bit entry point (Documentation/arch/x86/boot.rst, "64-bit boot protocol") or
 * through PVH.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include "memory/memory.h"
#include <vizor/error.h>

/* Guest-physical layout below 1 MiB that the loader fills. */
#define BOOT_GDT_ADDR     0x500
#define BOOT_ZERO_PAGE    0x7000
#define BOOT_STACK        0x8ff0
#define BOOT_PAGE_TABLES  0x9000 /* 6 pages: identity map of the first 4 GiB in 2 MiB pages */
#define BOOT_CMDLINE      0x20000
#define BOOT_CMDLINE_MAX  65535   /* also limited by the kernel's own cmdline_size */
#define BOOT_ACPI_RSDP    0xe0000 /* tables from here to 1 MiB; set up by platform/acpi */
#define BOOT_RESERVED_END 0x100000

struct boot_request {
	const char *kernel;  /* path */
	const char *initrd;  /* path or NULL */
	const char *cmdline; /* or NULL */
	uint64_t rsdp;       /* guest-physical address of the ACPI RSDP */
	/* Guest-physical ranges that the memory map must report as reserved (ECAM…). */
	struct boot_reserved {
		uint64_t base, size;
	} reserved[4];
	unsigned nreserved;
};

enum boot_entry { BOOT_ENTRY_LINUX64, BOOT_ENTRY_PVH };

/* How to start the first CPU. The loader has put everything else into guest memory. */
struct boot_result {
	enum boot_entry entry;
	uint64_t rip;
	uint64_t rsi;      /* LINUX64: address of the zero page */
	uint64_t rbx;      /* PVH: address of the start-info struct */
	uint64_t rsp, cr3; /* LINUX64: identity-mapping page tables */
	uint64_t
		/* LINUX64: GDT with __BOOT_CS 0x10 and __BOOT_DS 0x18; its limit is gdt_limit */
		gdt;
	uint16_t gdt_limit;
};

/* A kernel file read and checked once; loading it into memory can be repeated (reset). */
struct boot_kernel;

/*
 * Open kernel and initrd and check their headers, sizes and places in memory; where in errors:
 * "bootloader.kernel", "bootloader.initrd", "bootloader.cmdline", "memory". The files' content is
 * hostile. The files stay open; boot_load decompresses straight into guest RAM, so no copy of the
 * kernel is kept.
 */
int boot_open(struct boot_kernel **kernel, const struct boot_request *request, uint64_t memory_size,
	struct vz_error *e);
/* Check only, as boot_open does: for validation. */
int boot_check(const struct boot_request *request, uint64_t memory_size, struct vz_error *e);
int boot_load(struct boot_kernel *kernel, struct memory *mem, struct boot_result *result,
	struct vz_error *e);
void boot_close(struct boot_kernel *kernel);

#endif
