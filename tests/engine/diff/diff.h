/* SPDX-License-Identifier: MIT */
/*
 * The differential test of the software CPU: the same code with the same registers and memory runs
 * natively in a sandboxed child and in the engine, and everything that the architecture defines
 * must come out the same. Memory lies at the same virtual addresses on both sides; the exit page
 * holds slots that end a case.
 */
#ifndef TESTS_DIFF_H
#define TESTS_DIFF_H

#include "engine/cpu.h"
#include "engine/soft/decode.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE           0x1000ull
#define DATA           0x10000000ull
#define STACK          0x20000000ull
#define HIGH           0x123456789000ull
#define CODE           0x30000000ull
#define ALIAS          0x39000000ull /* the code pages again, writable */
#define EXIT_PAGE      0x31000000ull
#define EXIT_SLOT      16
#define NATIVE_CONTEXT 0x40000000ull /* a page of the native side */

/* The arena: DATA_PAGES pages that are compared, then code, then the exit page. */
#define DATA_PAGES  9
#define CODE_AT     (DATA_PAGES * PAGE)
#define EXIT_AT     (CODE_AT + 2 * PAGE)
#define ARENA_BYTES (EXIT_AT + PAGE)

struct area {
	uint64_t va, at; /* virtual address, offset in the arena */
	unsigned pages;
	bool write, exec;
};
#define AREAS 10
extern const struct area areas[AREAS];

#define XSAVE_BYTES 832
#define CODE_MAX    1536
#define POKES       6
#define MASKS       4
#define SCRATCH     256
#define LINES       6
#define INSNS_MAX   80

struct diff_case {
	uint8_t xsave[XSAVE_BYTES] __attribute__((aligned(64)));
	uint64_t gpr[16], rip, flags, fs, gs;
	uint64_t code_va;
	uint16_t scratch; /* data beside the code: offset in the code pages, or 0 */
	uint16_t code_len;
	uint8_t npokes, nmasks;
	struct {
		uint64_t va;
		uint8_t len, bytes[64];
	} poke[POKES]; /* memory that differs from the template */
	struct {
		uint64_t va;
		uint32_t len;
	} mask[MASKS]; /* memory that is not compared */
	/* Not compared: flags and registers at the end. */
	uint32_t flags_any;
	uint16_t gpr_any;
	bool flags_dead; /* a fault may find other flags, unless the engine is "exact" */
	int form;        /* or -1: a block */
	uint64_t seed;   /* for the report */
	/* For shrinking: where the instructions of a block are. */
	uint16_t ninsns, insn_at[INSNS_MAX];
	uint8_t insn_len[INSNS_MAX];
	uint8_t code[CODE_MAX];
};

#define OUTCOME_DONE (-1)
#define OUTCOME_HANG (-2) /* did not come to an end */
#define OUTCOME_DIED (-3) /* the native child, or the engine, failed */

struct outcome {
	uint8_t xsave[XSAVE_BYTES];
	int vector; /* of the fault, or OUTCOME_* */
	uint32_t error;
	uint64_t gpr[16], rip, flags, fs, gs, cr2; /* rip: of an exit slot when done */
	uint64_t hash; /* over all lines that differ from the template */
	uint32_t nlines;
	struct {
		uint32_t at;
		uint8_t bytes[64];
	} line[LINES];
};

#define BATCH 128
struct batch {
	struct diff_case cases[BATCH];
	struct outcome native[BATCH];
	uint8_t memory[DATA_PAGES * PAGE]; /* what the data pages hold before each case */
	unsigned n;
};

/* common.c */
struct rng {
	uint64_t s;
};
uint64_t rnd(struct rng *r);
static inline bool chance(struct rng *r, unsigned percent)
{
	return rnd(r) % 100 < percent;
}
/* Where a virtual address is in the arena; left: bytes to the end of its page. NULL: unmapped. */
uint8_t *arena_at(uint8_t *arena, uint64_t va);
bool area_writable(uint64_t va);
void arena_load(uint8_t *arena, const struct batch *b);
void arena_prepare(uint8_t *arena, const struct diff_case *c);
/* Fill in the memory part of o, and put the template back. */
void arena_collect(uint8_t *arena, const struct batch *b, const struct diff_case *c,
	struct outcome *o);
/* Make xsave images comparable: write out init states, zero host addresses and reserved bytes. */
void xsave_normalise(uint8_t *image);
void fill_template(struct rng *r, struct batch *b);

/* native.c */
bool native_start(void);                    /* false: this machine cannot do it */
struct batch *native_batch(unsigned index); /* 0 or 1, in shared memory */
void native_submit(unsigned index);
bool native_wait(void); /* of what was submitted last */
void native_stop(void);

/* guest.c */
struct guest;
/*
 * How the engine runs a case: as it does by default; with its option "exact"; at CPL 0, without
 * code for newer CPUs, and disturbed now and then; with pages of the arena in a device.
 */
enum side { SIDE_DEFAULT, SIDE_EXACT, SIDE_KERNEL, SIDE_DEVICE, SIDES };
struct guest *guest_new(enum side side);
bool guest_takes(const struct guest *g, const struct diff_case *c, const struct outcome *native);
void guest_free(struct guest *g);
uint64_t guest_features(const struct guest *g);
void guest_load(struct guest *g, const struct batch *b);
void guest_run(struct guest *g, const struct batch *b, const struct diff_case *c,
	struct outcome *o);
/* The bytes of the arena, for tests that look into it. */
uint8_t *guest_arena(struct guest *g);
void guest_print_counters(struct guest *g);

/* encode.c */
struct form {
	struct insn_form row;
	struct insn insn; /* of the template */
	bool digit;       /* ModRM.reg is part of the opcode */
	bool fixed_modrm;
	bool vvvv; /* VEX.vvvv is an operand */
	bool supported;
	uint32_t executed, faulted; /* cases that ran to the end, natively and in the engine */
};
extern struct form *forms;
extern unsigned nforms;
void forms_load(uint64_t features);

/* An encoding under construction. base, index as in struct insn. */
struct enc {
	const struct form *form;
	uint8_t prefix[8], nprefixes;
	uint8_t reg, rm, vvvv;
	bool mem, vex2, rex_w, force_rex;
	bool reg_dead; /* reg is a digit */
	uint8_t base, index, scale, disp_size;
	int64_t disp;
	uint8_t imm[8];
};
/* Bytes with 8 bytes of immediate at the end; *insn tells how long it is. False: not decodable. */
bool encode(const struct enc *e, uint64_t features, uint8_t *bytes, struct insn *insn);
void enc_random(struct rng *r, const struct form *f, struct enc *e);
uint8_t pick_register(struct rng *r);

/* form.c, block.c */
void case_registers(struct rng *r, const struct batch *b, struct diff_case *c);
uint64_t pick_target(struct rng *r, unsigned size, unsigned align);
void case_poke(struct diff_case *c, uint64_t va, const void *bytes, unsigned len);
bool make_form_case(struct rng *r, const struct batch *b, unsigned form, uint64_t features,
	struct diff_case *c);
bool form_wanted(const struct insn *in);
bool make_block_case(struct rng *r, const struct batch *b, uint64_t features, struct diff_case *c);

/* compare.c */
/* True: the same. With text, differences are printed to stdout as TAP comments. */
bool outcome_same(const struct diff_case *c, const struct outcome *native,
	const struct outcome *soft, enum side side, bool text);
void case_print(const struct diff_case *c);

/* smc.c */
unsigned modified_code_failures(void);

#endif
