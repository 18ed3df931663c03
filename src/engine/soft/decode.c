/* SPDX-License-Identifier: MIT */
/*
 * x86-64 instruction decoder: prefixes, opcode, ModRM, immediates (SDM volume 2, chapter 2) and
 * what makes an encoding illegal. decode_effects.c adds what the instruction reads and writes.
 * Bytes past the end read as 0 and set cursor.over, which is looked at before any verdict: no
 * byte outside bytes[0..avail) is touched.
 */
#include "engine/soft/decode_table.h"

#include <string.h>

struct cursor {
	const uint8_t *bytes;
	unsigned pos, limit;
	bool over;
};

struct decoding {
	struct cursor c;
	struct insn *insn;
	uint64_t features;
	uint8_t pp;       /* mandatory prefix as VEX.pp numbers it */
	uint8_t vex_vvvv; /* 0 when it names no register, as VEX.vvvv = 1111 */
	const struct op *op;
};

static inline uint8_t take(struct cursor *c)
{
	if (c->pos < c->limit)
		return c->bytes[c->pos++];
	c->over = true;
	return 0;
}

static uint64_t take_le(struct cursor *c, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n; i++)
		v |= (uint64_t)take(c) << (8 * i);
	return v;
}

static int64_t take_signed(struct cursor *c, unsigned n)
{
	unsigned shift = 64 - 8 * n;

	return (int64_t)(take_le(c, n) << shift) >> shift;
}

static enum decode_result verdict(struct decoding *d, enum decode_result r)
{
	d->insn->len = d->c.pos;
	if (d->c.over)
		r = d->c.limit < INSN_MAX_LEN ? DECODE_SHORT : DECODE_LONG;
	if (r != DECODE_OK)
		d->insn->class = INSN_UNDEFINED;
	return r;
}

/* Returns the first byte that is not a prefix. */
static uint8_t read_prefixes(struct decoding *d)
{
	struct insn *insn = d->insn;
	uint8_t b;

	for (;;) {
		b = take(&d->c);
		if ((b & 0xf0) == 0x40) {
			insn->rex = b;
			continue;
		}
		switch (b) {
		case 0x66:
			insn->prefixes |= PFX_66;
			break;
		case 0x67:
			insn->prefixes |= PFX_67;
			insn->addr_size = 4;
			break;
		case 0xf0:
			insn->prefixes |= PFX_LOCK;
			break;
		case 0xf2:
			insn->prefixes = (insn->prefixes & ~PFX_F3) | PFX_F2;
			break;
		case 0xf3:
			insn->prefixes = (insn->prefixes & ~PFX_F2) | PFX_F3;
			break;
		case 0x64:
		case 0x65:
			insn->segment = b & 7;
			break;
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			break;
		default:
			return b;
		}
		insn->rex = 0; /* a REX counts only directly before the opcode */
	}
}

/* After C4 or C5. */
static bool read_vex(struct decoding *d, bool three)
{
	struct insn *insn = d->insn;
	uint8_t b = take(&d->c), map = 1;

	if (insn->rex || insn->prefixes & (PFX_66 | PFX_F2 | PFX_F3 | PFX_LOCK))
		return false;
	insn->encoding = three ? ENC_VEX3 : ENC_VEX2;
	insn->rex = b & 0x80 ? 0 : 4;
	if (three) {
		insn->rex |= (b & 0x40 ? 0 : 2) | (b & 0x20 ? 0 : 1);
		map = b & 0x1f;
		b = take(&d->c);
		insn->rex |= b & 0x80 ? 8 : 0;
	}
	d->vex_vvvv = ~b >> 3 & 15;
	insn->vex_l = b >> 2 & 1;
	d->pp = b & 3;
	insn->map = map;
	return map >= 1 && map <= 3;
}

static bool read_opcode(struct decoding *d)
{
	static const uint8_t pp_of[16] = {
		[PFX_66] = PP_66,
		[PFX_F3] = PP_F3,
		[PFX_F3 | PFX_66] = PP_F3,
		[PFX_F2] = PP_F2,
		[PFX_F2 | PFX_66] = PP_F2,
	};
	struct insn *insn = d->insn;
	uint8_t b = read_prefixes(d);

	if (b == 0xc4 || b == 0xc5) {
		if (!read_vex(d, b == 0xc4))
			return false;
		b = take(&d->c);
	} else {
		d->pp = pp_of[insn->prefixes & (PFX_66 | PFX_F2 | PFX_F3)];
		if (b == 0x0f) {
			insn->map = 1;
			b = take(&d->c);
			if (b == 0x38 || b == 0x3a) {
				insn->map = b == 0x38 ? 2 : 3;
				b = take(&d->c);
			}
		}
	}
	insn->opcode = b;
	insn->opcode_offset = d->c.pos - 1;
	return true;
}

/* The row of one table slot; reads the ModRM byte when the slot is a group. */
static const struct op *slot(struct decoding *d, unsigned pp)
{
	struct insn *insn = d->insn;
	const struct op *table = insn->encoding == ENC_LEGACY ? insn_legacy : insn_vex;
	const struct op *op = &table[OP_INDEX(insn->map, pp, insn->opcode)];
	unsigned row;

	if (!op->group)
		return op->class != INSN_UNDEFINED ? op : NULL;
	if (!insn->has_modrm) {
		insn->modrm = take(&d->c);
		insn->has_modrm = true;
	}
	if (insn->modrm < 0xc0)
		row = insn->modrm >> 3 & 7;
	else
		row = 8 + (op->wide_table ? insn->modrm & 63 : insn->modrm >> 3 & 7);
	op = &insn_groups[op->group + row];
	return op->class != INSN_UNDEFINED ? op : NULL;
}

static bool has_feature(const struct decoding *d, unsigned feature)
{
	return d->features >> feature & 1;
}

static const struct op *find_row(struct decoding *d)
{
	struct insn *insn = d->insn;
	const struct op *op = slot(d, d->pp);

	if (op && (!op->else_np || has_feature(d, op->feature)))
		return op;
	if (insn->encoding != ENC_LEGACY || d->pp == PP_NP)
		return NULL;
	op = slot(d, PP_NP);
	if (!op)
		return NULL;
	if (insn->map != 0) {
		if (insn->prefixes & PFX_66 && !op->any66)
			return NULL;
		if (d->pp != PP_66 && !op->any_rep)
			return NULL;
	}
	insn->rep_ignored = d->pp != PP_66 && op->class != INSN_STRING && op->system != SYS_INS &&
			    op->system != SYS_OUTS;
	return op;
}

static void read_memory(struct decoding *d)
{
	struct insn *insn = d->insn;
	unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;

	insn->has_mem = true;
	insn->base = rm | (insn->rex & 1) << 3;
	if (rm == 4) {
		insn->sib = take(&d->c);
		insn->scale = 1 << (insn->sib >> 6);
		insn->index = (insn->sib >> 3 & 7) | (insn->rex & 2) << 2;
		if (insn->index == 4 && !d->op->vsib)
			insn->index = REG_NONE;
		rm = insn->sib & 7;
		insn->base = rm | (insn->rex & 1) << 3;
		if (mod == 0 && rm == 5)
			insn->base = REG_NONE;
	} else if (mod == 0 && rm == 5) {
		insn->base = REG_PC;
	}
	if (mod == 1)
		insn->disp = take_signed(&d->c, 1);
	else if (mod == 2 || (mod == 0 && rm == 5))
		insn->disp = take_signed(&d->c, 4);
}

static void read_modrm(struct decoding *d)
{
	struct insn *insn = d->insn;

	if (d->op->no_modrm) {
		insn->rm = (insn->opcode & 7) | (insn->rex & 1) << 3;
		return;
	}
	if (!insn->has_modrm) {
		insn->modrm = take(&d->c);
		insn->has_modrm = true;
	}
	insn->reg = (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
	if (insn->modrm >= 0xc0 || d->op->mod_ignored)
		insn->rm = (insn->modrm & 7) | (insn->rex & 1) << 3;
	else
		read_memory(d);
}

static uint8_t operand_size(const struct insn *insn, unsigned rule)
{
	bool w = insn->rex & 8, p66 = insn->prefixes & PFX_66;

	switch (rule) {
	case SIZE_B:
		return 1;
	case SIZE_Y:
		return w ? 8 : 4;
	case SIZE_Z:
		return p66 && !w ? 2 : 4;
	case SIZE_D64:
		return p66 && !w ? 2 : 8;
	case SIZE_F64:
		return 8;
	default:
		return w ? 8 : p66 ? 2 : 4;
	}
}

static void read_immediate(struct decoding *d)
{
	struct insn *insn = d->insn;
	struct cursor *c = &d->c;

	insn->imm_offset = c->pos;
	switch (d->op->imm) {
	case IMM_NONE:
		return;
	case IMM_IB:
	case IMM_REL8:
		insn->imm = take_signed(c, 1);
		break;
	case IMM_UB:
		insn->imm = take(c);
		break;
	case IMM_2B:
	case IMM_IW:
		insn->imm = take_le(c, 2);
		break;
	case IMM_IZ:
		insn->imm = take_signed(c, insn->op_size == 2 ? 2 : 4);
		break;
	case IMM_IV:
		insn->imm = take_signed(c, insn->op_size);
		break;
	case IMM_ENTER:
		insn->imm = take_le(c, 3);
		break;
	case IMM_REL32:
		insn->imm = take_signed(c, 4);
		break;
	case IMM_MOFFS:
		insn->has_mem = insn->has_moffs = true;
		insn->disp = take_le(c, insn->addr_size);
		insn->imm_offset = c->pos;
		return;
	}
	insn->imm_size = c->pos - insn->imm_offset;
}

static bool vex_legal(const struct decoding *d)
{
	const struct op *op = d->op;
	struct insn *insn = d->insn;
	bool w = insn->rex & 8;

	if (insn->vex_l ? op->l0 : op->l1)
		return false;
	if (w ? op->w0 : op->w1)
		return false;
	if (op->vvvv || op->nds || (op->nds_reg && !insn->has_mem)) {
		insn->vvvv = d->vex_vvvv;
	} else if (d->vex_vvvv) {
		return false;
	}
	if (op->unit == UNIT_AVX && !has_feature(d, FEAT_AVX))
		return false;
	if (op->reg_avx2 && !insn->has_mem && !has_feature(d, FEAT_AVX2))
		return false;
	if (op->vsib) { /* needs a SIB byte, and three different registers */
		if ((insn->modrm & 7) != 4 || insn->reg == insn->index || insn->reg == insn->vvvv ||
			insn->index == insn->vvvv)
			return false;
	}
	return true;
}

static bool legal(const struct decoding *d)
{
	const struct op *op = d->op;
	const struct insn *insn = d->insn;

	if (insn->has_mem ? op->reg_only : op->mem_only)
		return false;
	if (insn->prefixes & PFX_LOCK && !(op->lockable && insn->has_mem))
		return false;
	if (op->sreg && (insn->reg > 5 || (op->system == SYS_MOV_TO_SREG && insn->reg == 1)))
		return false;
	if (op->system == SYS_MOV_FROM_CR || op->system == SYS_MOV_TO_CR)
		return insn->reg <= 8 && 0x11d & 1 << insn->reg; /* cr0, 2, 3, 4, 8 */
	if (op->system == SYS_MOV_FROM_DR || op->system == SYS_MOV_TO_DR)
		return insn->reg < 8;
	if (insn->encoding != ENC_LEGACY && !vex_legal(d))
		return false;
	return has_feature(d, insn->feature);
}

enum decode_result insn_decode(const uint8_t *bytes, size_t avail, uint64_t features,
	struct insn *insn)
{
	struct decoding d = {
		.c = { .bytes = bytes, .limit = avail < INSN_MAX_LEN ? avail : INSN_MAX_LEN },
		.insn = insn,
		.features = features | 1ull << FEAT_BASE,
	};

	memset(insn, 0, sizeof(*insn));
	insn->addr_size = 8;
	insn->base = insn->index = insn->vvvv = REG_NONE;
	insn->scale = 1;
	if (!read_opcode(&d))
		return verdict(&d, DECODE_UD);
	d.op = find_row(&d);
	if (insn->map == 0 && insn->opcode == 0x90 && insn->rex & 1 && d.pp != PP_F3) {
		d.op = &insn_legacy[OP_INDEX(0, PP_NP, 0x91)];
		insn->rep_ignored = insn->prefixes & PFX_F2;
	}
	if (!d.op)
		return verdict(&d, DECODE_UD);
	insn->class = d.op->class;
	insn->system = d.op->system;
	insn->unit = d.op->unit;
	insn->feature = insn->vex_l ? d.op->feature256 : d.op->feature;
	insn->op_size = operand_size(insn, d.op->size);
	insn->serializing = d.op->serial;
	read_modrm(&d);
	if (d.op->sreg)
		insn->reg &= 7;
	read_immediate(&d);
	if (!legal(&d) || d.c.over)
		return verdict(&d, DECODE_UD);
	insn_effects(insn, d.op);
	return verdict(&d, DECODE_OK);
}
