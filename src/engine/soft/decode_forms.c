/* SPDX-License-Identifier: MIT */
/*
 * Enumerates the decoder's whitelist for the differential tests: a template encoding of every
 * row, in each operand size and vector length that it takes. Names live here, outside the tables
 * that the decode path touches.
 */
#include "engine/soft/decode_attr.h"

#include <string.h>

#define LEG(m, p, o, n, ...)      [OP_INDEX(m, PP_##p, o)] = #n,
#define LEGR(m, p, o, o2, n, ...) [OP_INDEX(m, PP_##p, o)... OP_INDEX(m, PP_##p, o2)] = #n,
#define VEX(...)
#define GRP(...)
#define GRPR(...)
static const char *const legacy_names[4 * 4 * 256] = {
#include "engine/soft/decode_rows.def"
#include "engine/soft/decode_rows_vec.def"
};
#undef LEG
#undef LEGR
#undef VEX

#define LEG(...)
#define LEGR(...)
#define VEX(m, p, o, n, ...) [OP_INDEX(m, PP_##p, o)] = #n,
static const char *const vex_names[4 * 4 * 256] = {
#include "engine/soft/decode_rows.def"
#include "engine/soft/decode_rows_vec.def"
};
#undef VEX
#undef GRP
#undef GRPR

#define VEX(...)
#define GRP(g, slot, n, ...)         [G_##g + (slot)] = #n,
#define GRPR(g, slot, slot2, n, ...) [G_##g + (slot)... G_##g + (slot2)] = #n,
static const char *const group_names[G_COUNT] = {
#include "engine/soft/decode_rows.def"
#include "engine/soft/decode_rows_vec.def"
};

struct emitter {
	void (*fn)(void *arg, const struct insn_form *form);
	void *arg;
	unsigned map, pp, opcode;
	bool vex;
};

static unsigned imm_bytes(const struct op *op, unsigned size)
{
	static const uint8_t fixed[] = {
		[IMM_IB] = 1,
		[IMM_UB] = 1,
		[IMM_2B] = 2,
		[IMM_IW] = 2,
		[IMM_ENTER] = 3,
		[IMM_REL8] = 1,
		[IMM_REL32] = 4,
		[IMM_MOFFS] = 8,
	};

	if (op->imm == IMM_IZ)
		return size == 2 ? 2 : 4;
	if (op->imm == IMM_IV)
		return size;
	return fixed[op->imm];
}

static void put(struct insn_form *f, unsigned byte)
{
	f->bytes[f->len++] = byte;
}

static void put_legacy(const struct emitter *em, struct insn_form *f, unsigned size)
{
	static const uint8_t prefix[4] = { 0, 0x66, 0xf3, 0xf2 };

	if (size == 2)
		put(f, 0x66);
	if (em->pp)
		put(f, prefix[em->pp]);
	if (size == 8)
		put(f, 0x48);
	if (em->map)
		put(f, 0x0f);
	if (em->map > 1)
		put(f, em->map == 2 ? 0x38 : 0x3a);
}

/* One form. modrm < 0 when there is none. */
static void emit(const struct emitter *em, const struct op *op, const char *name, int modrm,
	unsigned size, bool w, bool l)
{
	struct insn_form f = { .name = name, .lockable = op->lockable };
	unsigned vvvv = op->vsib ? 2 : 0;
	unsigned imm = imm_bytes(op, size);

	if (em->vex) {
		put(&f, 0xc4);
		put(&f, 0xe0 | em->map);
		put(&f, w << 7 | (~vvvv & 15) << 3 | l << 2 | em->pp);
	} else {
		put_legacy(em, &f, size);
	}
	put(&f, em->opcode);
	if (modrm >= 0) {
		f.takes_mem = !op->reg_only && !op->mod_ignored && modrm < 0xc0;
		f.takes_reg = !op->mem_only && (modrm >= 0xc0 || op->rm & OP_GPR || op->unit);
		put(&f, op->vsib ? 4 : modrm);
		if (op->vsib)
			put(&f, 0x08);
	}
	f.len += imm;
	em->fn(em->arg, &f);
}

static void emit_sizes(const struct emitter *em, const struct op *op, const char *name, int modrm)
{
	bool sized =
		op->size == SIZE_V && (op->rm & OP_GPR || op->reg || op->imp_write || op->imp_read);

	if (em->vex) {
		for (int l = op->l1; l <= !op->l0; l++)
			for (int w = op->w1; w <= !op->w0; w++)
				emit(em, op, name, modrm, 4, w, l);
		return;
	}
	emit(em, op, name, modrm, 4, false, false);
	if (op->size == SIZE_D64 || op->size == SIZE_Z || sized)
		if (em->map == 0 || op->any66 || em->pp == PP_F3 || em->pp == PP_F2)
			emit(em, op, name, modrm, 2, false, false);
	if (op->size == SIZE_Y || sized)
		emit(em, op, name, modrm, 8, false, false);
}

static void emit_group(const struct emitter *em, const struct op *head)
{
	unsigned rows = head->wide_table ? 72 : 16;

	for (unsigned i = 0; i < rows; i++) {
		const struct op *op = &insn_groups[head->group + i];
		int modrm = i < 8 ? i << 3 : head->wide_table ? 0xb8 + i : 0xc0 + ((i - 8) << 3);

		if (op->class != INSN_UNDEFINED)
			emit_sizes(em, op, group_names[head->group + i], modrm);
	}
}

void insn_forms(void (*fn)(void *arg, const struct insn_form *form), void *arg)
{
	struct emitter em = { .fn = fn, .arg = arg };

	for (unsigned i = 0; i < 2 * 4 * 4 * 256; i++) {
		const struct op *op;
		const char *name;
		unsigned k = i % (4 * 4 * 256);

		em.vex = i != k;
		em.map = k / 1024;
		em.pp = k / 256 % 4;
		em.opcode = k % 256;
		op = em.vex ? &insn_vex[k] : &insn_legacy[k];
		name = em.vex ? vex_names[k] : legacy_names[k];
		if (op->group)
			emit_group(&em, op);
		else if (op->class != INSN_UNDEFINED)
			emit_sizes(&em, op, name,
				op->no_modrm                      ? -1
				: op->reg_only || op->mod_ignored ? 0xc0
								  : 0);
	}
}
