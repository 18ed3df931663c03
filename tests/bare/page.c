/* SPDX-License-Identifier: MIT */
/* Pages of the bare-metal runtime: physical pages, free addresses, and the page tables. */
#include "bare.h"

extern uint8_t bss_end[];

static uint64_t next_page, next_large, next_va;

void *page_alloc(void)
{
	void *page = (void *)next_page;

	if (next_page >= next_large)
		__asm__ volatile("ud2");
	next_page += PAGE;
	memset(page, 0, PAGE);
	return page;
}

void *large_alloc(void)
{
	next_large -= LARGE;
	return (void *)next_large;
}

uint64_t va_alloc(void)
{
	uint64_t va = next_va;

	next_va += LARGE;
	return va;
}

uint64_t *pte(uint64_t va, unsigned level)
{
	uint64_t *table = (uint64_t *)(read_cr3() & PTE_ADDR);

	for (unsigned l = 4;; l--) {
		uint64_t *entry = &table[va >> (3 + 9 * l) & 511];

		if (l == level)
			return entry;
		if (!(*entry & PTE_P) || (*entry & PTE_PS))
			*entry = (uint64_t)page_alloc() | PTE_URW;
		table = (uint64_t *)(*entry & PTE_ADDR);
	}
}

void map_at(unsigned level, uint64_t va, uint64_t pa, uint64_t flags)
{
	*pte(va, level) = pa | flags | (level > 1 ? PTE_PS : 0);
	invlpg(va);
}

void map(uint64_t va, const void *page, uint64_t flags)
{
	map_at(1, va, (uint64_t)page, flags);
}

void page_init(void)
{
	uint64_t *pml4;

	next_page = (uint64_t)bss_end;
	next_large = RAM_SIZE;
	next_va = 0x10000000000ull;
	pml4 = page_alloc();
	/* The tables that the machine started with stay in use until all others are filled in. */
	uint64_t *low = page_alloc(), *high = page_alloc();

	pml4[0] = (uint64_t)low | PTE_URW;
	pml4[USER_BASE >> 39] = (uint64_t)high | PTE_URW;
	for (unsigned g = 0; g < 4; g++) {
		uint64_t *directory = page_alloc();

		low[g] = (uint64_t)directory | PTE_URW;
		for (unsigned i = 0; i < 512; i++)
			directory[i] = (g * 512ull + i) * LARGE | PTE_KRW | PTE_PS;
	}
	uint64_t *directory = page_alloc();

	high[0] = (uint64_t)directory | PTE_URW;
	for (unsigned i = 0; i < RAM_SIZE / LARGE; i++)
		directory[i] = i * LARGE | PTE_URW | PTE_PS;
	write_cr3((uint64_t)pml4);
}
