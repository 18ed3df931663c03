/* SPDX-License-Identifier: MIT */
/*
 * Page walks and the TLB, for the files of the software CPU that look past soft_read and
 * soft_write.
 */
#ifndef VIZOR_SOFT_MMU_H
#define VIZOR_SOFT_MMU_H

#include "engine/soft/soft.h"

struct walk {
	uint64_t pa;
	uint8_t *host; /* the byte in RAM, or NULL: not RAM */
	bool large, global;
	bool dirty; /* writes are permitted and the dirty bit is set: a write tag may be made */
};

/* Guest-virtual to guest-physical, with the accessed and dirty bits set as the access demands. */
bool mmu_walk(struct vcpu *cpu, uint64_t va, enum access access, bool user, struct walk *walk);
/* Walk and make the TLB entry; *host is NULL for MMIO and for a write to a page that holds code. */
bool mmu_fill(struct vcpu *cpu, uint64_t va, bool write, bool user, struct walk *walk);

/* RAM at a guest-physical address; left: bytes to the end of its region. */
uint8_t *mmu_ram(const struct engine *engine, uint64_t pa);
/* Offset in the memfd of a host address in RAM. */
uint64_t mmu_offset(const struct engine *engine, const uint8_t *host);

/* The host address of [va, va + size) if the TLB has it, else NULL. */
static inline uint8_t *tlb_hit(const struct vcpu *cpu, uint64_t va, unsigned size, bool write,
	bool user)
{
	unsigned index = (va >> 12) & (TLB_SIZE - 1);
	uint64_t offset = va ^ cpu->tags[user][write][index];

	return offset <= MEM_PAGE_SIZE - size ? (uint8_t *)(cpu->host[user][index] + offset) : NULL;
}

#endif
