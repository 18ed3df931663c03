/* SPDX-License-Identifier: MIT */
/*
 * The software CPU against the host's: every instruction form with many operands, and random
 * blocks.
 * VIZOR_DIFF_SEED, VIZOR_DIFF_CASES (per form) and VIZOR_DIFF_BLOCKS make longer runs;
 * VIZOR_DIFF_FORM limits the first part to forms of that name.
 */
#include "../../tap.h"
#include "diff.h"
#include <time.h>

struct run {
	struct guest *guest[SIDES];
	struct rng r;
	uint64_t features;
	uint64_t cases, mismatches, ended, faulted;
	unsigned printed;
};

static struct run run;

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/*
 * --- comparing
 * -------------------------------------------------------------------------------------
 */

/* Both sides again, alone. True: they still differ. */
static bool differs(unsigned side, const struct diff_case *c, bool text)
{
	static struct outcome o;
	struct batch *b = native_batch(0);
	const struct outcome *n = &b->native[0];

	if (c != &b->cases[0])
		b->cases[0] = *c;
	b->n = 1;
	native_submit(0);
	if (!native_wait())
		return true;
	guest_load(run.guest[side], b);
	guest_run(run.guest[side], b, &b->cases[0], &o);
	return !outcome_same(&b->cases[0], n, &o, side, text);
}

/* Replace what is not needed for the difference by nops. */
static void shrink(unsigned side, struct diff_case *c)
{
	static struct diff_case less;

	for (unsigned i = c->ninsns; i-- > 0;) {
		less = *c;
		memset(less.code + c->insn_at[i], 0x90, c->insn_len[i]);
		if (differs(side, &less, false))
			*c = less;
	}
	less = *c;
	less.ninsns = 0;
	for (unsigned i = 0; i < c->ninsns; i++) {
		const uint8_t *p = c->code + c->insn_at[i];
		bool nop = true;

		for (unsigned k = 0; k < c->insn_len[i]; k++)
			nop = nop && p[k] == 0x90;
		if (nop)
			continue;
		less.insn_at[less.ninsns] = c->insn_at[i];
		less.insn_len[less.ninsns++] = c->insn_len[i];
	}
	*c = less;
}

/* The batch is done with: its memory is used for the experiments. */
static void report(unsigned side, const struct batch *b, const struct diff_case *found)
{
	static struct diff_case c;
	struct batch *scratch = native_batch(0);

	if (run.printed++ >= setting("VIZOR_DIFF_PRINT", 40))
		return;
	c = *found;
	if (scratch != b)
		memcpy(scratch->memory, b->memory, sizeof(b->memory));
	static const char *const names[SIDES] = { "default", "exact", "kernel", "device" };

	printf("# --- %s\n", names[side]);
	if (!differs(side, &c, false)) {
		printf("# not when run alone:\n");
		case_print(&c);
		return;
	}
	if (c.ninsns)
		shrink(side, &c);
	case_print(&c);
	differs(side, &c, true);
}

/* Cases that differed, with their memory, until nothing is in flight. */
#define FOUND_MAX 8
static struct {
	struct diff_case c;
	uint8_t memory[DATA_PAGES * PAGE];
	unsigned side;
} found[FOUND_MAX];
static unsigned nfound;

static void note(unsigned side, const struct batch *b, const struct diff_case *c)
{
	run.mismatches++;
	if (nfound == FOUND_MAX)
		return;
	found[nfound].c = *c;
	memcpy(found[nfound].memory, b->memory, sizeof(b->memory));
	found[nfound++].side = side;
}

static void report_found(void)
{
	static struct batch b;

	for (unsigned i = 0; i < nfound; i++) {
		memcpy(b.memory, found[i].memory, sizeof(b.memory));
		report(found[i].side, &b, &found[i].c);
	}
	nfound = 0;
}

static void compare_batch(const struct batch *b)
{
	static struct outcome o;

	for (unsigned side = 0; side < SIDES; side++) {
		guest_load(run.guest[side], b);
		for (unsigned i = 0; i < b->n; i++) {
			const struct diff_case *c = &b->cases[i];
			const struct outcome *n = &b->native[i];

			if (!guest_takes(run.guest[side], c, n))
				continue;
			guest_run(run.guest[side], b, c, &o);
			run.cases++;
			if (!outcome_same(c, n, &o, side, false)) {
				note(side, b, c);
				continue;
			}
			if (n->vector == OUTCOME_DONE)
				run.ended++;
			else
				run.faulted++;
			if (c->form < 0)
				continue;
			if (n->vector == OUTCOME_DONE)
				forms[c->form].executed++;
			else
				forms[c->form].faulted++;
		}
	}
}

/*
 * --- the two parts
 * ---------------------------------------------------------------------------------
 */

/* One batch runs natively while the one before runs in the engine. fill: false at the end. */
static void run_batches(bool (*fill)(struct batch *b))
{
	unsigned at = 0;
	bool more, flying = false;

	do {
		struct batch *b = native_batch(at);

		b->n = 0;
		fill_template(&run.r, b);
		more = fill(b);
		if (flying && !native_wait())
			break;
		native_submit(at);
		if (flying)
			compare_batch(native_batch(!at));
		flying = true;
		at = !at;
		if (nfound) { /* let nothing be in flight, and look at them */
			if (!native_wait())
				break;
			compare_batch(native_batch(!at));
			flying = false;
			report_found();
		}
	} while (more);
	if (flying && native_wait())
		compare_batch(native_batch(!at));
	report_found();
}

static unsigned next_form, round_left;
static uint64_t blocks_left;

static bool fill_forms(struct batch *b)
{
	const char *only = getenv("VIZOR_DIFF_FORM");

	while (b->n < BATCH) {
		if (next_form == nforms) {
			next_form = 0;
			if (--round_left == 0)
				return false;
		}
		if ((!only || (forms[next_form].row.name &&
				      !strcmp(only, forms[next_form].row.name))) &&
			make_form_case(&run.r, b, next_form, run.features, &b->cases[b->n]))
			b->n++;
		next_form++;
	}
	return true;
}

static bool fill_blocks(struct batch *b)
{
	while (b->n < BATCH && blocks_left) {
		make_block_case(&run.r, b, run.features, &b->cases[b->n++]);
		blocks_left--;
	}
	return blocks_left;
}

static void begin(void)
{
	run.cases = run.mismatches = run.ended = run.faulted = 0;
	run.printed = 0;
}

static void end(double start)
{
	double took = seconds() - start;

	printf("# %llu cases in %.1f s (%.0f/s): %llu ran to the end, %llu faulted, %llu differ\n",
		(unsigned long long)run.cases, took, (double)run.cases / took,
		(unsigned long long)run.ended, (unsigned long long)run.faulted,
		(unsigned long long)run.mismatches);
	for (unsigned i = 0; i < SIDES; i++)
		guest_print_counters(run.guest[i]);
	CHECK_EQ(run.mismatches, 0);
}

static void count_forms(void)
{
	unsigned supported = 0, wanted = 0, ran = 0, copies = 0, missing = 0;

	for (unsigned i = 0; i < nforms; i++) {
		const struct form *f = &forms[i];

		supported += f->supported;
		if (!f->supported || !form_wanted(&f->insn))
			continue;
		wanted++;
		ran += f->executed || f->faulted;
		if (f->insn.class != INSN_COPY)
			continue;
		copies++;
		if (f->executed)
			continue;
		missing++;
		printf("# never ran to the end: %s, opcode %02x\n", f->row.name, f->insn.opcode);
	}
	printf("# %u forms, %u offered here, %u comparable, %u compared; %u are copied, %u of "
	       "those ran\n",
		nforms, supported, wanted, ran, copies, copies - missing);
	CHECK_EQ(missing, 0);
	CHECK_EQ(ran, wanted);
}

static void test_forms(void)
{
	double start = seconds();

	begin();
	round_left = (unsigned)setting("VIZOR_DIFF_CASES", 50);
	run_batches(fill_forms);
	end(start);
	if (!getenv("VIZOR_DIFF_FORM"))
		count_forms();
}

static void test_blocks(void)
{
	double start = seconds();

	begin();
	blocks_left = setting("VIZOR_DIFF_BLOCKS", 60000);
	if (blocks_left)
		run_batches(fill_blocks);
	end(start);
}

static void test_modified_code(void)
{
	CHECK_EQ(modified_code_failures(), 0);
}

int main(void)
{
	run.r.s = setting("VIZOR_DIFF_SEED", 1);
	if (!native_start())
		SKIP_ALL("the native side needs FSGSBASE");
	for (unsigned i = 0; i < SIDES; i++)
		run.guest[i] = guest_new(i);
	run.features = guest_features(run.guest[0]);
	forms_load(run.features);
	RUN(test_modified_code);
	RUN(test_forms);
	RUN(test_blocks);
	for (unsigned i = 0; i < SIDES; i++)
		guest_free(run.guest[i]);
	native_stop();
	free(forms);
	return tap_done();
}
