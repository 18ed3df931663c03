/* SPDX-License-Identifier: MIT */
/* Code that changes while it runs: every store must be seen by the instructions after it. */
#include "diff.h"
#include <stdio.h>
#include <string.h>

#define CASES(X)             \
	X(next, 7, 0)        \
	X(loop, 5, 11)       \
	X(rounds, 50, 1275)  \
	X(function, 9, 10)   \
	X(alias, 9, 10)      \
	X(xchg, 9, 1)        \
	X(vector, 0x1234, 0) \
	X(push, 5, 0)        \
	X(string, 0x4321, 0) \
	X(beside, 300, 300)  \
	X(tagged, 1, 6)      \
	X(crossing, 0x1010101, 0x1010101 + 0x20001 + 1)

#define X(name, rax, rdx) extern const uint8_t smc_##name[];
CASES(X)
#undef X

/* The whole text is placed at every offset that puts the border of the page somewhere in it. */
#define TEXT_BYTES 160

static bool run(struct guest *g, const char *name, const uint8_t *text, unsigned at, uint64_t rax,
	uint64_t rdx)
{
	static struct batch batch;
	static struct outcome o;
	struct diff_case *c = &batch.cases[0];

	memset(c, 0, sizeof(*c));
	c->code_va = c->rip = CODE + at;
	c->code_len = TEXT_BYTES;
	memcpy(c->code, text, TEXT_BYTES);
	c->gpr[CPU_RSP] = STACK + 2 * PAGE;
	c->xsave[24] = 0x80;
	c->xsave[25] = 0x1f;
	guest_run(g, &batch, c, &o);
	if (o.vector == OUTCOME_DONE && o.gpr[CPU_RAX] == rax && o.gpr[CPU_RDX] == rdx)
		return true;
	printf("# %s at %#x: vector %d rip %llx rax %llx rdx %llx, not %llx %llx\n", name, at,
		o.vector, (unsigned long long)o.rip, (unsigned long long)o.gpr[CPU_RAX],
		(unsigned long long)o.gpr[CPU_RDX], (unsigned long long)rax,
		(unsigned long long)rdx);
	return false;
}

unsigned modified_code_failures(void)
{
	unsigned failures = 0;

	for (unsigned side = 0; side < SIDES; side++) {
		struct guest *g = guest_new(side);

#define X(name, rax, rdx)                                              \
	for (unsigned at = 0x1000 - 0x40; at < 0x1000 + 0x80; at += 1) \
		failures += !run(g, #name, smc_##name, at - 0x40, rax, rdx);
		CASES(X)
#undef X
		guest_free(g);
	}
	return failures;
}
