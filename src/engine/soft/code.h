/* SPDX-License-Identifier: MIT */
/*
 * The code cache: memory that is written at one address and executed at another, the blocks
 * translated into it, and the sites inside them that C must be able to recognise.
 */
#ifndef VIZOR_SOFT_CODE_H
#define VIZOR_SOFT_CODE_H

#include "engine/soft/emit.h"
#include "engine/soft/soft.h"

#define CODE_BYTES   (64u << 20)
#define CODE_HOT_END (40u << 20) /* hot code grows up to here, cold stubs from here to the end */
#define BLOCKS_MAX   (1u << 20)
#define SITES_MAX    (4u << 20)
#define BLOCK_INSNS  64
#define BUCKETS      (1u << 16)

/* Part of a block's key: what a translation depends on beside its bytes and address. */
#define MODE_USER  0x01
#define MODE_X87   0x02 /* the unit is enabled */
#define MODE_SSE   0x04
#define MODE_AVX   0x08
#define MODE_LARGE 0x10 /* fetched through a page of 2 MiB or more */

struct block {
	uint64_t rip; /* guest-virtual start */
	/* memfd offsets of the start and, for one that crosses, of the second page */
	uint64_t phys, phys2;
	uint32_t host;         /* offset of the entry in the cache */
	uint32_t dead_stub;    /* where a dead block's entry jumps */
	uint32_t hash_next;    /* block number + 1 */
	uint32_t page_next[2]; /* in the list of the first and of the second page */
	uint16_t len;          /* guest bytes */
	uint8_t mode;
	bool crosses;
	_Atomic bool dead;
};

/* A place in translated code. host grows with the index, so a host address can be looked up. */
struct site {
	/* of the instruction; for links and polls: where execution goes on */
	uint64_t rip;
	uint32_t host; /* start of the instruction's code; of the jump to patch */
	uint32_t block;
	uint8_t size; /* MISS: bytes accessed */
	bool write;
};

struct code {
	uint8_t *rw, *rx; /* the same bytes */
	int fd;
	uint32_t first; /* end of the runtime and the thunks: blocks start here */
	uint32_t hot, cold;
	struct block *blocks;
	uint32_t nblocks;
	struct site *sites;
	uint32_t nsites;
	_Atomic uint32_t *buckets; /* block number + 1 */
	uint32_t *page_first;      /* per RAM page: block number + 1 */
	uint64_t npages;
	uint64_t generation; /* counts flushes */
	bool bmi2;
	uint64_t count_translated, count_killed;
};

/* Runtime entry points as offsets from code->rx. */
extern const uint8_t soft_runtime_start[], soft_runtime_end[], soft_runtime_enter[],
	soft_runtime_lookup[], soft_runtime_miss[], soft_runtime_insn[], soft_runtime_link[],
	soft_runtime_thunk[], soft_runtime_trap[], soft_runtime_poll[], soft_runtime_dead[];
#define RUNTIME(name) ((uint32_t)(soft_runtime_##name - soft_runtime_start))

/* Which units' instructions may run: MODE_X87 | MODE_SSE | MODE_AVX. */
static inline uint8_t soft_units(const struct vcpu *cpu)
{
	uint8_t units = 0;

	if (cpu->cr0 & (CR0_EM | CR0_TS))
		return 0;
	units |= MODE_X87;
	if (cpu->cr4 & CR4_OSFXSR)
		units |= MODE_SSE;
	if ((cpu->cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6)
		units |= MODE_AVX;
	return units;
}

/* Is the unit that insn needs enabled? */
static inline bool unit_enabled(uint8_t mode, const struct insn *insn)
{
	static const uint8_t need[] = { [UNIT_NONE] = 0,
		[UNIT_X87] = MODE_X87,
		[UNIT_MMX] = MODE_X87,
		[UNIT_SSE] = MODE_SSE,
		[UNIT_AVX] = MODE_AVX };

	return (mode & need[insn->unit]) == need[insn->unit];
}

/*
 * Translate the code at block->rip (block filled in up to mode) from bytes[0..avail); the caller
 * holds the lock and has made room. Sets len, host, dead_stub.
 */
void translate_block(struct engine *engine, struct block *block, const uint8_t *bytes,
	unsigned avail);
#define TRANSLATE_ROOM (64u << 10) /* bytes that must be free in each half of the cache */

uint32_t code_site(struct code *code, uint64_t rip, uint32_t host, uint32_t block, unsigned size,
	bool write);
/* The site of the instruction whose code contains a host address, or NULL. */
const struct site *code_find_site(const struct code *code, const void *host);
/*
 * EXIT_LINK, EXIT_DEAD: set rip, and let the jump at cpu->site, or the dead block's entry, go
 * straight to its block from now on.
 */
void code_link(struct vcpu *cpu);
/* Run translated code at host; the guest's vector state is loaded first. Returns cpu->exit. */
unsigned soft_enter(struct vcpu *cpu, uint64_t host);

#endif
