/* SPDX-License-Identifier: MIT */
/* Writing host instructions, and re-encoding a guest instruction with another memory operand. */
#ifndef VIZOR_SOFT_EMIT_H
#define VIZOR_SOFT_EMIT_H

#include "engine/soft/decode.h"
#include <string.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* p points into the writable mapping; the caller has made sure of room. */
struct emit {
	uint8_t *p;
};

static inline void emit8(struct emit *e, uint8_t v)
{
	*e->p++ = v;
}

static inline void emit32(struct emit *e, uint32_t v)
{
	memcpy(e->p, &v, 4);
	e->p += 4;
}

static inline void emit64(struct emit *e, uint64_t v)
{
	memcpy(e->p, &v, 8);
	e->p += 8;
}

static inline void emit_bytes(struct emit *e, const void *bytes, unsigned n)
{
	memcpy(e->p, bytes, n);
	e->p += n;
}

#define EMIT(e, ...)                                            \
	do {                                                    \
		static const uint8_t emit_[] = { __VA_ARGS__ }; \
		emit_bytes(e, emit_, sizeof(emit_));            \
	} while (0)

/* op reg64, gs:[disp] (opcode 8B mov load, 89 mov store, 33 xor, 03 add, 3B cmp). */
static inline void emit_gs(struct emit *e, uint8_t opcode, unsigned reg, uint32_t disp)
{
	emit8(e, 0x65);
	emit8(e, 0x48 | (reg >> 3) << 2);
	emit8(e, opcode);
	emit8(e, 0x04 | (reg & 7) << 3);
	emit8(e, 0x25);
	emit32(e, disp);
}

static inline void emit_gs_load(struct emit *e, unsigned reg, uint32_t disp)
{
	emit_gs(e, 0x8b, reg, disp);
}

static inline void emit_gs_store(struct emit *e, unsigned reg, uint32_t disp)
{
	emit_gs(e, 0x89, reg, disp);
}

/* op reg64, gs:[index*8 + disp] */
static inline void emit_gs_index(struct emit *e, uint8_t opcode, unsigned reg, unsigned index,
	uint32_t disp)
{
	emit8(e, 0x65);
	emit8(e, 0x48 | (reg >> 3) << 2 | (index >> 3) << 1);
	emit8(e, opcode);
	emit8(e, 0x04 | (reg & 7) << 3);
	emit8(e, 0xc5 | (index & 7) << 3);
	emit32(e, disp);
}

/* mov dword gs:[disp], imm */
static inline void emit_gs_imm32(struct emit *e, uint32_t disp, uint32_t imm)
{
	EMIT(e, 0x65, 0xc7, 0x04, 0x25);
	emit32(e, disp);
	emit32(e, imm);
}

/* mov reg64, value - the shortest form. */
void emit_mov_imm(struct emit *e, unsigned reg, uint64_t value);
/* mov to, from (64-bit). */
void emit_mov(struct emit *e, unsigned to, unsigned from);
/* lea to, [base + index*scale + disp]; REG_NONE for absent ones; address size 8 or 4. */
void emit_lea(struct emit *e, unsigned to, unsigned base, unsigned index, unsigned scale,
	int32_t disp, unsigned addr_size);

/*
 * The instruction with its memory operand replaced by [pointer], pointer being a register other
 * than rsp, rbp, r12 and r13. bytes are the guest's. An instruction that names a high byte register
 * needs pointer < 8.
 */
void emit_reencoded(struct emit *e, const uint8_t *bytes, const struct insn *insn,
	unsigned pointer);

#endif
