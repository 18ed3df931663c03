/* SPDX-License-Identifier: MIT */
/*
 * What the kernel finds in low memory: the zero page (Documentation/arch/x86/zero-page.rst) with
 * the memory map, or PVH's hvm_start_info (Xen's public/arch-x86/hvm/start_info.h); command line,
 * GDT, page tables.
 */
#include "base/arith.h"
#include "base/le.h"
#include "boot/image.h"
#include <sys/random.h>

/* struct boot_params */
#define ACPI_RSDP_ADDR    0x070
#define EXT_RAMDISK_IMAGE 0x0c0
#define EXT_RAMDISK_SIZE  0x0c4
#define E820_ENTRIES      0x1e8
#define BOOT_FLAG         0x1fe
#define HEADER_MAGIC      0x202
#define HEADER_VERSION    0x206
#define TYPE_OF_LOADER    0x210
#define LOADFLAGS         0x211
#define RAMDISK_IMAGE     0x218
#define RAMDISK_SIZE      0x21c
#define CMD_LINE_PTR      0x228
#define SETUP_DATA        0x250
#define E820_TABLE        0x2d0
#define LOADED_HIGH       0x01
#define KASLR_FLAG        0x02

#define PAGE              ((uint64_t)MEM_PAGE_SIZE)
#define LOW_RAM_END       0xa0000
#define SEED_ADDR         0x6000 /* struct setup_data, SETUP_RNG_SEED */
#define SETUP_RNG_SEED    9
#define SEED_SIZE         32

#define PVH_MAGIC         0x336ec578
#define PVH_MODULE        (BOOT_ZERO_PAGE + 0x40)
#define PVH_MAP           (BOOT_ZERO_PAGE + 0x80)
#define E820_RAM          1
#define E820_RESERVED     2
#define MAP_MAX           (4 + 2 * ARRAY_SIZE(((struct boot_request *)0)->reserved))

struct map {
	struct {
		uint64_t base, size;
		uint32_t type;
	} entry[MAP_MAX];
	unsigned n;
};

/* Low memory is RAM: the memory module takes no machine under 1 MiB. */
static uint8_t *low(struct memory *mem, uint64_t gpa, uint64_t len)
{
	struct span s = { 0 };

	mem_span(mem, gpa, len, &s);
	return s.p;
}

static void map_add(struct map *map, uint64_t base, uint64_t end, uint32_t type)
{
	if (base >= end || map->n == MAP_MAX)
		return;
	map->entry[map->n].base = base;
	map->entry[map->n].size = end - base;
	map->entry[map->n++].type = type;
}

/* RAM between base and end but for the reserved ranges, which are few and in no order. */
static void map_ram(struct map *map, const struct boot_params *params, uint64_t base, uint64_t end)
{
	while (base < end) {
		uint64_t stop = end, next = end;

		for (unsigned i = 0; i < params->nreserved; i++) {
			uint64_t from = params->reserved[i].base,
				 to = from + params->reserved[i].size;

			if (to > base && from < stop) {
				stop = MAX(from, base);
				next = to;
			}
		}
		map_add(map, base, stop, E820_RAM);
		base = next;
	}
}

static void make_map(struct map *map, const struct memory *mem, const struct boot_params *params)
{
	const struct mem_region *region;
	unsigned n = mem_regions(mem, &region);

	map->n = 0;
	map_add(map, 0, LOW_RAM_END, E820_RAM);
	map_add(map, LOW_RAM_END, BOOT_RESERVED_END, E820_RESERVED);
	map_ram(map, params, BOOT_RESERVED_END, region[0].size);
	for (unsigned i = 0; i < params->nreserved; i++)
		map_add(map, params->reserved[i].base,
			params->reserved[i].base + params->reserved[i].size, E820_RESERVED);
	if (n > 1)
		map_ram(map, params, region[1].gpa, region[1].gpa + region[1].size);
}

static void write_cmdline(struct memory *mem, const struct boot_params *params)
{
	mem_write(mem, BOOT_CMDLINE, params->cmdline, strlen(params->cmdline) + 1);
}

/* Flat 64-bit code and data segments, and the identity map of the first 4 GiB. */
static void write_cpu_tables(struct memory *mem, struct boot_result *result)
{
	static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	uint8_t *tables = low(mem, BOOT_PAGE_TABLES, 6 * PAGE),
		*g = low(mem, BOOT_GDT_ADDR, sizeof(gdt));

	for (size_t i = 0; i < ARRAY_SIZE(gdt); i++)
		le64_store(g + 8 * i, gdt[i]);
	mem_written(mem, BOOT_GDT_ADDR, sizeof(gdt));

	memset(tables, 0, 2 * PAGE);
	le64_store(tables, (BOOT_PAGE_TABLES + PAGE) | 3); /* present, writable */
	for (uint64_t i = 0; i < 4; i++)
		le64_store(tables + PAGE + 8 * i, (BOOT_PAGE_TABLES + (2 + i) * PAGE) | 3);
	for (uint64_t i = 0; i < UINT64_C(4) * 512; i++)
		le64_store(tables + 2 * PAGE + 8 * i, i << 21 | 0x83); /* and: 2 MiB page */
	mem_written(mem, BOOT_PAGE_TABLES, 6 * PAGE);

	result->gdt = BOOT_GDT_ADDR;
	result->gdt_limit = sizeof(gdt) - 1;
	result->cr3 = BOOT_PAGE_TABLES;
	result->rsp = BOOT_STACK;
}

/* Without it and without entropy device a guest waits for jitter before its first random number. */
static void write_seed(struct memory *mem, uint8_t *zero_page)
{
	uint8_t *data = low(mem, SEED_ADDR, 16 + SEED_SIZE);

	memset(data, 0, 16);
	if (getrandom(data + 16, SEED_SIZE, GRND_NONBLOCK) != SEED_SIZE)
		return;
	le32_store(data + 8, SETUP_RNG_SEED);
	le32_store(data + 12, SEED_SIZE);
	mem_written(mem, SEED_ADDR, 16 + SEED_SIZE);
	le64_store(zero_page + SETUP_DATA, SEED_ADDR);
}

static void write_header(uint8_t *zero_page, const struct boot_params *params)
{
	if (params->header) {
		memcpy(zero_page + SETUP_HEADER, params->header, SETUP_HEADER_END - SETUP_HEADER);
	} else {
		le16_store(zero_page + BOOT_FLAG, 0xaa55);
		le32_store(zero_page + HEADER_MAGIC, 0x53726448); /* HdrS */
		le16_store(zero_page + HEADER_VERSION, 0x20f);
	}
	zero_page[TYPE_OF_LOADER] = 0xff;
	zero_page[LOADFLAGS] = (zero_page[LOADFLAGS] | LOADED_HIGH) & ~KASLR_FLAG;
	le32_store(zero_page + CMD_LINE_PTR, BOOT_CMDLINE);
	le64_store(zero_page + SETUP_DATA, 0);
	le32_store(zero_page + RAMDISK_IMAGE, (uint32_t)params->initrd);
	le32_store(zero_page + RAMDISK_SIZE, (uint32_t)params->initrd_size);
	le32_store(zero_page + EXT_RAMDISK_IMAGE, (uint32_t)(params->initrd >> 32));
	le32_store(zero_page + EXT_RAMDISK_SIZE, (uint32_t)(params->initrd_size >> 32));
	le64_store(zero_page + ACPI_RSDP_ADDR, params->rsdp);
}

void params_write_linux(struct memory *mem, const struct boot_params *params,
	struct boot_result *result)
{
	uint8_t *zero_page = low(mem, BOOT_ZERO_PAGE, PAGE);
	struct map map;

	memset(zero_page, 0, PAGE);
	write_header(zero_page, params);
	write_seed(mem, zero_page);
	make_map(&map, mem, params);
	zero_page[E820_ENTRIES] = (uint8_t)map.n;
	for (size_t i = 0; i < map.n; i++) {
		uint8_t *entry = zero_page + E820_TABLE + 20 * i;

		le64_store(entry, map.entry[i].base);
		le64_store(entry + 8, map.entry[i].size);
		le32_store(entry + 16, map.entry[i].type);
	}
	mem_written(mem, BOOT_ZERO_PAGE, PAGE);
	write_cmdline(mem, params);
	write_cpu_tables(mem, result);
	result->rsi = BOOT_ZERO_PAGE;
}

void params_write_pvh(struct memory *mem, const struct boot_params *params,
	struct boot_result *result)
{
	uint8_t *info = low(mem, BOOT_ZERO_PAGE, PAGE);
	struct map map;

	memset(info, 0, PAGE);
	make_map(&map, mem, params);
	le32_store(info, PVH_MAGIC);
	le32_store(info + 4, 1); /* version: with memory map */
	le32_store(info + 12, params->initrd_size ? 1 : 0);
	le64_store(info + 16, params->initrd_size ? PVH_MODULE : 0);
	le64_store(info + 24, BOOT_CMDLINE);
	le64_store(info + 32, params->rsdp);
	le64_store(info + 40, PVH_MAP);
	le32_store(info + 48, map.n);
	le64_store(info + (PVH_MODULE - BOOT_ZERO_PAGE), params->initrd);
	le64_store(info + (PVH_MODULE - BOOT_ZERO_PAGE) + 8, params->initrd_size);
	for (size_t i = 0; i < map.n; i++) {
		uint8_t *entry = info + (PVH_MAP - BOOT_ZERO_PAGE) + 24 * i;

		le64_store(entry, map.entry[i].base);
		le64_store(entry + 8, map.entry[i].size);
		le32_store(entry + 16, map.entry[i].type);
	}
	mem_written(mem, BOOT_ZERO_PAGE, PAGE);
	write_cmdline(mem, params);
	result->rbx = BOOT_ZERO_PAGE;
}
