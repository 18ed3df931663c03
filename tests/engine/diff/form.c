/* SPDX-License-Identifier: MIT */
/* Cases of one instruction each, of a given form, with operands chosen to be difficult. */
#include "form.h"
#include <string.h>

/*
 * --- encoding
 * ------------------------------------------------------------------------------------
 */

static bool branch(const struct insn *in)
{
	return in->class >= INSN_CALL && in->class <= INSN_LOOP;
}

static void add_prefix(struct maker *m, uint8_t byte)
{
	m->e.prefix[m->e.nprefixes++] = byte;
}

static void pick_prefixes(struct maker *m)
{
	static const uint8_t flat[] = { 0x26, 0x2e, 0x36, 0x3e };
	const struct form *f = m->e.form;
	const uint8_t *bytes = f->row.bytes;
	bool legacy = f->insn.encoding == ENC_LEGACY;

	for (unsigned i = 0; legacy && i < f->insn.opcode_offset; i++)
		if (bytes[i] == 0x66 || bytes[i] == 0xf2 || bytes[i] == 0xf3)
			add_prefix(m, bytes[i]);
	if (chance(m->r, f->insn.has_mem || f->insn.class == INSN_STRING ? 15 : 3))
		add_prefix(m, rnd(m->r) & 1 ? 0x64 : 0x65);
	if (chance(m->r, 8))
		add_prefix(m, 0x67);
	if (chance(m->r, 4))
		add_prefix(m, flat[rnd(m->r) & 3]);
	if (legacy && f->row.lockable && m->e.mem && chance(m->r, 40))
		add_prefix(m, 0xf0);
	if (legacy && chance(m->r, 4) && !branch(&f->insn))
		add_prefix(m, 0x66);
	if (legacy && chance(m->r, f->insn.class == INSN_STRING ? 70 : 4))
		add_prefix(m, rnd(m->r) & 1 ? 0xf2 : 0xf3);
	for (unsigned i = m->e.nprefixes; i-- > 1;) {
		unsigned k = rnd(m->r) % (i + 1);
		uint8_t byte = m->e.prefix[i];

		m->e.prefix[i] = m->e.prefix[k];
		m->e.prefix[k] = byte;
	}
}

static void pick_address(struct maker *m)
{
	struct enc *e = &m->e;
	uint64_t v = rnd(m->r);
	unsigned how = v % 100;

	e->scale = (uint8_t)(1 << (v >> 8 & 3));
	e->disp_size = (v >> 10 & 3) == 0 ? 0 : (v >> 10 & 3) == 1 ? 4 : 1;
	e->disp = v >> 16 & 1 ? (int32_t)(v >> 20) : (int32_t)(v >> 20) >> 20;
	if (how < 85)
		e->base = pick_register(m->r);
	else if (how < 92 && !e->form->insn.vsib)
		e->base = REG_PC;
	if (e->disp_size == 0 && e->base < 16 && (e->base & 7) == 5)
		e->disp_size = 1;
	if (e->disp_size == 0)
		e->disp = 0;
	else if (e->disp_size == 1)
		e->disp = (int8_t)e->disp;
	if (e->base != REG_PC && (e->form->insn.vsib || v >> 60 < 6)) {
		e->index = e->form->insn.vsib ? rnd(m->r) & 15 : pick_register(m->r);
		if (e->index == 4 && !e->form->insn.vsib)
			e->index = 12;
	}
}

static bool again(struct maker *m)
{
	return encode(&m->e, m->features, m->bytes, &m->in);
}

/*
 * --- registers and memory that make the operand what it shall be
 * -----------------------------------------
 */

static bool fits(int64_t v)
{
	return v == (int32_t)v;
}

/* The address is a constant: make the displacement, with the help of a segment base. */
static bool solve_constant(struct maker *m, uint64_t *segment)
{
	struct enc *e = &m->e;
	uint64_t next = e->base == REG_PC ? m->at + m->in.len : 0;

	if (m->in.segment && (m->target >> 31 || chance(m->r, 50)))
		*segment = m->target - (rnd(m->r) & 0x7fffffff);
	e->disp = (int64_t)(m->target - *segment - next);
	if (m->in.has_moffs)
		return (m->in.addr_size == 8 || (uint64_t)e->disp >> 32 == 0) && again(m);
	return fits(e->disp) && again(m);
}

static bool solve_registers(struct maker *m, uint64_t *segment)
{
	struct enc *e = &m->e;
	bool short_address = m->in.addr_size == 4, vsib = e->form->insn.vsib;
	uint64_t *gpr = m->c->gpr, x, high = short_address ? rnd(m->r) << 32 : 0;
	bool indexed = e->index != REG_NONE && !vsib;

	if (m->in.segment && short_address)
		*segment = m->target - (rnd(m->r) & 0xffffffff);
	x = m->target - *segment;
	if (short_address && x >> 32)
		return false;
	if (e->base == REG_NONE) {
		if (indexed)
			gpr[e->index] = rnd(m->r) & 0xffff;
		e->disp = (int64_t)(x - (indexed ? gpr[e->index] * e->scale : 0));
		return fits(e->disp) && again(m);
	}
	if (indexed && e->index == e->base) {
		gpr[e->base] = (x / (1u + e->scale)) | high;
		e->disp = (int64_t)(x % (1u + e->scale));
		return (e->disp_size || !e->disp) && again(m);
	}
	x -= (uint64_t)e->disp + (indexed ? gpr[e->index] * e->scale : 0);
	gpr[e->base] = short_address ? (uint32_t)x | high : x;
	return true;
}

static bool canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

static bool solve(struct maker *m)
{
	struct diff_case *c = m->c;
	uint64_t none = 0, *segment = m->in.segment == 4   ? &c->fs
				      : m->in.segment == 5 ? &c->gs
							   : &none;
	bool constant = m->in.has_moffs || m->e.base == REG_PC ||
			(m->e.base == REG_NONE && m->e.index == REG_NONE);

	if (!(constant ? solve_constant(m, segment) : solve_registers(m, segment)))
		return false;
	return canonical(c->fs) && canonical(c->gs);
}

/* bt m, r and friends: the register moves the address. */
static bool solve_bits(struct maker *m)
{
	uint64_t target = m->target, offset = (rnd(m->r) & 0x1ffff) - 0x10000;
	unsigned size = m->in.op_size;

	if (m->e.reg == m->e.base || m->e.reg == m->e.index)
		return solve(m);
	m->target -= (uint64_t)((int64_t)offset >> 3 & -(int64_t)size);
	if (size == 2)
		m->target = target - (uint64_t)((int64_t)(int16_t)offset >> 3 & -2);
	if (!solve(m))
		return false;
	m->c->gpr[m->e.reg] = size == 8   ? offset
			      : size == 4 ? (uint32_t)offset | rnd(m->r) << 32
					  : (uint16_t)offset | rnd(m->r) << 16;
	return true;
}

/*
 * --- where control goes
 * ----------------------------------------------------------------------------
 */

static void put_exit_jump(struct diff_case *c, uint64_t va, unsigned slot)
{
	uint8_t *p = c->code + (va - c->code_va);
	uint32_t rel = (uint32_t)(EXIT_PAGE + slot * EXIT_SLOT - (va + 5));

	p[0] = 0xe9;
	memcpy(p + 1, &rel, 4);
}

/* Relative branches go to exit slot 1, short ones by way of a jump nearby. */
static void place_relative(struct maker *m)
{
	uint64_t next = m->at + m->in.len;
	int32_t rel;

	if (m->in.imm_size == 4) {
		rel = (int32_t)(EXIT_PAGE + EXIT_SLOT - next);
		memcpy(m->bytes + m->in.imm_offset, &rel, 4);
		return;
	}
	rel = rnd(m->r) & 1 ? 5 + (int32_t)(rnd(m->r) % 118)
			    : -128 + (int32_t)(rnd(m->r) % (123u - m->in.len));
	m->bytes[m->in.imm_offset] = (uint8_t)rel;
	put_exit_jump(m->c, next + (uint64_t)(int64_t)rel, 1);
}

static void place_indirect(struct maker *m)
{
	uint64_t exit = EXIT_PAGE + 2 * EXIT_SLOT;

	if (m->in.class == INSN_RET)
		case_poke(m->c, m->c->gpr[CPU_RSP], &exit, 8);
	else if (m->in.has_mem)
		case_poke(m->c, m->target, &exit, 8);
	else
		m->c->gpr[m->in.rm] = exit;
}

static void place(struct maker *m)
{
	struct diff_case *c = m->c;
	uint64_t flags = rnd(m->r) & (chance(m->r, 15) ? ~0x40000ull : ~0x40100ull); /* TF, no AC */

	switch (m->in.class) {
	case INSN_CALL:
	case INSN_JMP:
	case INSN_JCC:
	case INSN_LOOP:
		place_relative(m);
		break;
	case INSN_CALL_IND:
	case INSN_JMP_IND:
	case INSN_RET:
		place_indirect(m);
		break;
	case INSN_POPF:
		case_poke(c, c->gpr[CPU_RSP], &flags, 8);
		break;
	case INSN_ENTER:
		m->bytes[m->in.imm_offset + 1] &= 3;
		m->bytes[m->in.imm_offset + 2] &= chance(m->r, 90) ? 0xe3 : 0xff;
		c->gpr[CPU_RBP] = chance(m->r, 80) ? STACK + PAGE + 512 + (rnd(m->r) & 0xfff)
						   : pick_target(m->r, 8, 1);
		break;
	case INSN_LEAVE:
		c->gpr[CPU_RBP] = pick_target(m->r, 8, 8);
		break;
	}
	memcpy(c->code + (m->at - c->code_va), m->bytes, m->in.len);
	put_exit_jump(c, m->at + m->in.len, 0);
}

/* A fault of a copied instruction may find dead flags changed: see translate.c. */
static bool dead_flags(const struct insn *in)
{
	return in->class == INSN_COPY && !in->flags_maybe &&
	       ((FLAGS_ARITH & ~(unsigned)in->flags_write) | in->flags_read) == 0;
}

static bool try_form(struct maker *m, const struct batch *b)
{
	struct diff_case *c = m->c;
	bool mem;

	pick_prefixes(m);
	if (m->e.mem)
		pick_address(m);
	if (!again(m) || !form_wanted(&m->in))
		return false;
	case_registers(m->r, b, c);
	m->at = chance(m->r, 12) ? CODE + PAGE - rnd(m->r) % 24
				 : CODE + 256 + rnd(m->r) % (2 * PAGE - 1024);
	mem = m->in.has_mem && m->in.class != INSN_NOP;
	if (mem) {
		unsigned size = m->in.mem_size ? m->in.mem_size : XSAVE_BYTES;
		unsigned align = m->in.mem_align  ? m->in.mem_align
				 : m->in.mem_size ? (chance(m->r, 30) ? size & -size : 1)
						  : 64;

		m->target = pick_target(m->r, size,
			m->in.system == SYS_FXSAVE || m->in.system == SYS_FXRSTOR ? 16 : align);
		if (!(m->in.bit_string ? solve_bits(m) : solve(m)))
			return false;
	}
	form_setup(m);
	c->code_va = m->at - 160;
	c->code_len = 160 + 15 + 160;
	memset(c->code, 0xcc, c->code_len);
	c->rip = m->at;
	place(m);
	c->flags_any = m->in.flags_undefined;
	c->flags_dead = dead_flags(&m->in);
	return true;
}

bool make_form_case(struct rng *r, const struct batch *b, unsigned form, uint64_t features,
	struct diff_case *c)
{
	const struct form *f = &forms[form];

	if (!f->supported || !form_wanted(&f->insn))
		return false;
	for (unsigned i = 0; i < 30; i++) {
		struct maker m = { .r = r, .c = c, .features = features };

		memset(c, 0, offsetof(struct diff_case, code));
		c->form = (int)form;
		c->seed = r->s;
		enc_random(r, f, &m.e);
		if (try_form(&m, b))
			return true;
	}
	return false;
}
