/* SPDX-License-Identifier: MIT */
/* Encoding instructions of the decoder's forms with chosen operands. */
#include "diff.h"
#include "engine/soft/decode_table.h"
#include <stdlib.h>
#include <string.h>

struct form *forms;
unsigned nforms;

/* The row that the decoder uses, as far as the template tells. */
static const struct op *row_of(const struct insn *in, const uint8_t *bytes)
{
	const struct op *table = in->encoding == ENC_LEGACY ? insn_legacy : insn_vex;
	unsigned pp = PP_NP;

	if (in->encoding == ENC_VEX3)
		pp = bytes[in->opcode_offset - 1] & 3;
	else if (in->prefixes & (PFX_F2 | PFX_F3))
		pp = in->prefixes & PFX_F3 ? PP_F3 : PP_F2;
	else if (in->prefixes & PFX_66)
		pp = PP_66;
	const struct op *op = &table[OP_INDEX(in->map, pp, in->opcode)];

	if (!op->group && op->class == INSN_UNDEFINED)
		op = &table[OP_INDEX(in->map, PP_NP, in->opcode)];
	return op;
}

static void add_form(void *arg, const struct insn_form *row)
{
	uint64_t features = *(uint64_t *)arg;
	struct form *f;
	const struct op *op;

	forms = realloc(forms, (nforms + 1) * sizeof(*forms));
	f = &forms[nforms++];
	memset(f, 0, sizeof(*f));
	f->row = *row;
	if (insn_decode(row->bytes, row->len, ~0ull, &f->insn) != DECODE_OK)
		return;
	f->supported = f->insn.feature == FEAT_BASE || (features >> f->insn.feature & 1);
	op = row_of(&f->insn, row->bytes);
	f->digit = op->group;
	f->fixed_modrm = op->wide_table && f->insn.modrm >= 0xc0;
	f->vvvv = op->vvvv || op->nds || op->nds_reg;
}

void forms_load(uint64_t features)
{
	insn_forms(add_form, &features);
}

uint8_t pick_register(struct rng *r)
{
	static const uint8_t likely[] = { 10, 10, 10, 11, 11, 11, 4, 0, 5, 12, 13, 1, 2, 3, 6, 7 };
	uint64_t v = rnd(r);

	return v & 0x100 ? likely[v & 15] : (uint8_t)(v & 15);
}

/* Random operands; memory only where the form takes it. */
void enc_random(struct rng *r, const struct form *f, struct enc *e)
{
	bool both = f->row.takes_mem && f->row.takes_reg && !f->digit;

	memset(e, 0, sizeof(*e));
	e->form = f;
	e->reg = pick_register(r);
	e->rm = pick_register(r);
	e->vvvv = pick_register(r);
	e->vex2 = chance(r, 50);
	e->rex_w = (f->insn.rex & 8);
	e->force_rex = chance(r, 20);
	e->mem = f->row.takes_mem && f->insn.has_mem && !(both && chance(r, 40));
	if (f->insn.vsib)
		e->mem = true;
	for (unsigned i = 0; i < 8; i++)
		e->imm[i] = (uint8_t)rnd(r);
	e->base = e->index = REG_NONE;
	e->scale = 1;
}

static unsigned put_prefixes(const struct enc *e, uint8_t *p)
{
	unsigned n = 0;

	memcpy(p, e->prefix, e->nprefixes);
	n = e->nprefixes;
	return n;
}

static unsigned put_opcode(const struct enc *e, uint8_t *p, uint8_t rex)
{
	const struct insn *in = &e->form->insn;
	const uint8_t *bytes = e->form->row.bytes;
	unsigned n = 0;

	if (in->encoding == ENC_LEGACY) {
		if (rex || e->force_rex)
			p[n++] = 0x40 | rex;
		if (in->map >= 1)
			p[n++] = 0x0f;
		if (in->map >= 2)
			p[n++] = in->map == 2 ? 0x38 : 0x3a;
	} else {
		uint8_t last = bytes[in->opcode_offset - 1];

		if (e->form->vvvv)
			last = (uint8_t)((last & 0x87) | (~e->vvvv & 15) << 3);
		if (e->vex2 && in->map == 1 && !(rex & 3) && !(last & 0x80)) {
			p[n++] = 0xc5;
			p[n++] = last | (rex & 4 ? 0 : 0x80);
		} else {
			p[n++] = 0xc4;
			p[n++] = (uint8_t)(in->map | (~rex & 7) << 5);
			p[n++] = last;
		}
	}
	return n;
}

static unsigned put_modrm(const struct enc *e, uint8_t *p)
{
	uint8_t reg = e->form->digit ? e->form->insn.modrm >> 3 & 7 : e->reg & 7, mod;
	unsigned n = 0;
	bool sib;

	if (e->form->fixed_modrm) {
		p[n++] = e->form->insn.modrm;
		return n;
	}
	if (!e->mem) {
		p[n++] = 0xc0 | reg << 3 | (e->rm & 7);
		return n;
	}
	if (e->base == REG_PC || e->base == REG_NONE)
		mod = 0;
	else
		mod = e->disp_size == 0 ? 0 : e->disp_size == 1 ? 1 : 2;
	sib = e->base != REG_PC &&
	      (e->index != REG_NONE || e->base == REG_NONE || (e->base & 7) == 4);
	if (!sib) {
		p[n++] = mod << 6 | reg << 3 | (e->base == REG_PC ? 5 : e->base & 7);
	} else {
		unsigned ss = e->scale == 8 ? 3 : e->scale == 4 ? 2 : e->scale == 2 ? 1 : 0;

		p[n++] = mod << 6 | reg << 3 | 4;
		p[n++] = (uint8_t)(ss << 6 | (e->index == REG_NONE ? 4 : e->index & 7) << 3 |
				   (e->base == REG_NONE ? 5 : e->base & 7));
	}
	unsigned bytes = mod == 1                                               ? 1
			 : mod == 2 || e->base == REG_PC || e->base == REG_NONE ? 4
										: 0;

	memcpy(p + n, &e->disp, bytes);
	return n + bytes;
}

bool encode(const struct enc *e, uint64_t features, uint8_t *bytes, struct insn *insn)
{
	const struct insn *in = &e->form->insn;
	uint8_t rex = e->rex_w ? 8 : 0;
	unsigned n = 0;

	if (in->has_modrm && !e->form->fixed_modrm) {
		if (!e->form->digit || chance(&(struct rng){ e->imm[0] }, 20))
			rex |= e->reg >> 3 << 2;
		if (e->mem) {
			if (e->base < 16)
				rex |= e->base >> 3;
			if (e->index < 16)
				rex |= (e->index >> 3) << 1;
		} else {
			rex |= e->rm >> 3;
		}
	} else if (!in->has_modrm) {
		rex |= e->rm >> 3;
	}
	n += put_prefixes(e, bytes);
	n += put_opcode(e, bytes + n, rex);
	bytes[n++] = in->opcode;
	if (in->has_modrm)
		n += put_modrm(e, bytes + n);
	if (in->has_moffs) {
		memcpy(bytes + n, &e->disp, 8);
		n += 8;
	}
	memcpy(bytes + n, e->imm, 8);
	if (n > INSN_MAX_LEN || insn_decode(bytes, n + 8, features, insn) != DECODE_OK)
		return false;
	return true;
}
