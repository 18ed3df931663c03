/* SPDX-License-Identifier: MIT */
/*
 * The interpreter of 16- and 32-bit code among its files: legacy.c (fetch, operands, the step),
 * legacy_alu.c (results and flags), legacy_arith.c, legacy_move.c and legacy_exec.c (one-byte
 * opcodes), legacy_string.c, legacy_two.c (0F opcodes), legacy_far.c (segments, far transfers).
 * Functions that return bool return false after a fault was raised, with no guest register changed
 * but rsp, which the step puts back.
 */
#ifndef VIZOR_SOFT_LEGACY_H
#define VIZOR_SOFT_LEGACY_H

#include "engine/soft/sysint.h"

struct legacy {
	struct vcpu *cpu;
	uint32_t ip; /* of the next byte; at the end, of the next instruction */
	const uint8_t *code;
	uint8_t len;     /* bytes fetched */
	uint8_t size;    /* of operands: 2 or 4 */
	uint8_t addr;    /* of addresses: 2 or 4 */
	uint8_t rep;     /* 0, 0xf2 or 0xf3 */
	uint8_t segment; /* override, or SEG_COUNT */
	bool lock;
	bool again;   /* rip stays: more repetitions are due, or a locked access lost a race */
	bool rip_set; /* cpu->rip is where execution goes on, not ip */

	uint8_t mod, reg, rm;
	bool mem; /* the ModRM operand is memory, at ea in segment ea_seg */
	uint8_t ea_seg;
	uint32_t ea;
	uint8_t *host; /* of a locked access */
	uint32_t seen; /* what was read there */
};

/* legacy.c */
bool legacy_fetch(struct legacy *l, void *to, unsigned size);
bool legacy_imm(struct legacy *l, unsigned size, uint32_t *value);  /* zero-extended */
bool legacy_simm(struct legacy *l, unsigned size, uint32_t *value); /* sign-extended */
bool legacy_modrm(struct legacy *l);
uint32_t legacy_linear(const struct legacy *l, unsigned seg, uint32_t offset);
bool legacy_load(struct legacy *l, unsigned seg, uint32_t offset, unsigned size, uint32_t *value);
bool legacy_store(struct legacy *l, unsigned seg, uint32_t offset, unsigned size, uint32_t value);
uint32_t legacy_reg(const struct legacy *l, unsigned reg, unsigned size);
void legacy_set_reg(struct legacy *l, unsigned reg, unsigned size, uint32_t value);
bool legacy_get_rm(struct legacy *l, unsigned size, uint32_t *value);
/* The same to be followed by put_rm: together they are atomic under a lock prefix. */
bool legacy_begin_rm(struct legacy *l, unsigned size, uint32_t *value);
bool legacy_put_rm(struct legacy *l, unsigned size, uint32_t value);
bool legacy_push(struct legacy *l, unsigned size, uint32_t value);
bool legacy_pop(struct legacy *l, unsigned size, uint32_t *value);
unsigned legacy_stack_size(const struct legacy *l);

static inline bool legacy_undefined(struct legacy *l)
{
	return soft_raise(l->cpu, EXC_UD);
}

/* legacy_exec.c */
bool legacy_exec(struct legacy *l, uint8_t opcode);

/* legacy_arith.c */
bool legacy_arithmetic(struct legacy *l, uint8_t opcode);
bool legacy_step_rm(struct legacy *l, unsigned op, unsigned size); /* inc, dec, neg */

/* legacy_move.c */
bool legacy_move(struct legacy *l, uint8_t opcode);
bool legacy_stack(struct legacy *l, uint8_t opcode);

/* legacy_string.c */
bool legacy_string(struct legacy *l, uint8_t opcode);
/* legacy_two.c */
bool legacy_two_byte(struct legacy *l);

/* legacy_far.c */
bool legacy_load_segment(struct legacy *l, unsigned seg, uint16_t selector);
bool legacy_far_jump(struct legacy *l, uint16_t selector, uint32_t offset);
bool legacy_far_call(struct legacy *l, uint16_t selector, uint32_t offset);
bool legacy_far_return(struct legacy *l, uint32_t extra);
bool legacy_iret(struct legacy *l);
bool legacy_int(struct legacy *l, unsigned vector);

/* legacy_alu.c: the arithmetic flags of *flags are read and written. */
enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };
enum { ALU_INC, ALU_DEC, ALU_NEG };
uint32_t alu_binary(unsigned op, unsigned size, uint32_t a, uint32_t b, uint64_t *flags);
uint32_t alu_unary(unsigned op, unsigned size, uint32_t a, uint64_t *flags);
/* bsf, bsr: the old destination stays when a is 0. */
uint32_t alu_scan(bool reverse, uint32_t a, uint32_t old, uint64_t *flags);
/* op as in ModRM.reg of the shift group. */
uint32_t alu_shift(unsigned op, unsigned size, uint32_t a, unsigned count, uint64_t *flags);
uint32_t alu_shift_double(bool right, unsigned size, uint32_t a, uint32_t b, unsigned count,
	uint64_t *flags);
uint32_t alu_imul(unsigned size, uint32_t a, uint32_t b, uint64_t *flags);
bool alu_condition(unsigned condition, uint64_t flags);

static inline void legacy_set_flags(struct legacy *l, uint64_t flags)
{
	l->cpu->flags = (l->cpu->flags & ~(uint64_t)FLAGS_ARITH) | (flags & FLAGS_ARITH);
}

#endif
