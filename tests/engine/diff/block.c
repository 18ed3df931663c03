/* SPDX-License-Identifier: MIT */
/*
 * Cases of many instructions: straight runs with bounded branches. A few registers are kept as
 * pointers and counters, which no instruction may write, so that memory operands stay where they
 * are meant to be whatever the rest computes.
 */
#include "diff.h"
#include <string.h>

struct builder {
	struct rng *r;
	struct diff_case *c;
	uint64_t features;
	uint8_t pointer[2], index, counter; /* kept registers; rsp is kept also */
	uint16_t kept;
	unsigned at;  /* in c->code */
	bool in_call; /* the return address is on the stack: leave that alone */
	unsigned target_n;
	struct {
		unsigned fixup, insns; /* rel32 to fill in after so many more instructions */
	} forward[16];
};

#define FREE(b, reg) (!((b)->kept >> (reg)&1))

static void put(struct builder *b, const void *bytes, unsigned n)
{
	struct diff_case *c = b->c;

	memcpy(c->code + b->at, bytes, n);
	c->insn_at[c->ninsns] = (uint16_t)b->at;
	c->insn_len[c->ninsns++] = (uint8_t)n;
	b->at += n;
	for (unsigned i = 0; i < b->target_n; i++) {
		if (--b->forward[i].insns)
			continue;
		uint32_t rel = b->at - (b->forward[i].fixup + 4);

		memcpy(c->code + b->forward[i].fixup, &rel, 4);
		b->forward[i--] = b->forward[--b->target_n];
	}
}

static void put_branch(struct builder *b, const uint8_t *opcode, unsigned n)
{
	uint8_t bytes[8] = { 0 };

	if (b->target_n == 16)
		return;
	memcpy(bytes, opcode, n);
	put(b, bytes, n + 4);
	b->forward[b->target_n].fixup = b->at - 4;
	b->forward[b->target_n++].insns = 1 + rnd(b->r) % 5;
}

static bool acceptable(const struct builder *b, const struct insn *in)
{
	bool control = (in->map == 1 && in->opcode == 0xae) ||
		       (in->map == 0 && in->opcode == 0xd9 && in->has_mem);

	if (b->in_call &&
		(in->class == INSN_PUSH || in->class == INSN_POP || in->class == INSN_PUSHF))
		return false;
	switch (in->class) {
	case INSN_COPY:
	case INSN_LEA:
	case INSN_NOP:
	case INSN_PUSH:
	case INSN_PUSHF:
		break;
	case INSN_POP:
		return FREE(b, in->rm) || in->has_mem;
	default:
		return false;
	}
	if (in->feature == FEAT_RDRAND || in->feature == FEAT_RDSEED)
		return false;
	if (in->map == 0 && (in->opcode & 0xfe) == 0xf6 && (in->modrm >> 3 & 7) >= 6)
		return !(in->gpr_write & b->kept) && chance(b->r, 10); /* division */
	if (control && !chance(b->r, 10))
		return false;
	if (in->class != INSN_COPY && in->class != INSN_LEA)
		return true;
	return !(in->gpr_write & b->kept);
}

static uint64_t target(struct builder *b, const struct insn *in)
{
	uint64_t v = rnd(b->r), at;
	unsigned size = in->mem_size ? in->mem_size : 64, how = v % 200;

	v >>= 8;
	if (b->c->scratch && (v & 0x8000000))
		at = (v & 0x4000000 ? CODE : ALIAS) + b->c->scratch + (v >> 8) % (SCRATCH - size);
	else if (how < 170)
		at = DATA + PAGE + (v & 1) * 3 * PAGE + (v >> 8) % (PAGE - size);
	else if (how < 185)
		at = DATA + 2 * PAGE - v % (size + 1);
	else if (how < 197 && !b->in_call)
		at = STACK + PAGE + (v >> 8) % (2 * PAGE - size);
	else
		at = b->in_call ? HIGH - 8 : pick_target(b->r, size, 1);
	return in->mem_align ? at & ~(uint64_t)(in->mem_align - 1) : at;
}

/* Make the memory operand address a target through a kept pointer. */
static bool aim(struct builder *b, struct enc *e, uint8_t *bytes, struct insn *in)
{
	const uint64_t *gpr = b->c->gpr;
	uint64_t v = rnd(b->r), x;

	e->disp_size = 4;
	if (v % 10 == 0) {
		e->base = REG_PC;
	} else {
		e->base = v % 16 == 1 && !b->in_call ? CPU_RSP : b->pointer[v >> 8 & 1];
		if (v % 10 < 3) {
			e->index = b->index;
			e->scale = (uint8_t)(1 << (v >> 12 & 3));
		}
	}
	if (!encode(e, b->features, bytes, in) || in->has_moffs || in->vsib || !acceptable(b, in))
		return false;
	/* What rsp is there is known only roughly. */
	if (e->base == CPU_RSP) {
		e->disp = (int64_t)(rnd(b->r) & 255) - 64;
		e->disp &= in->mem_align ? -(int64_t)in->mem_align : -1;
		return encode(e, b->features, bytes, in);
	}
	x = target(b, in);
	if (e->base == REG_PC)
		e->disp = (int64_t)(x - (b->c->code_va + b->at + in->len));
	else
		e->disp = (int64_t)(x - gpr[e->base] -
				    (e->index == REG_NONE ? 0 : gpr[e->index] * e->scale));
	if (e->disp != (int32_t)e->disp)
		return false;
	if (e->base != REG_PC && e->disp == (int8_t)e->disp)
		e->disp_size = 1;
	return encode(e, b->features, bytes, in);
}

static bool add_random(struct builder *b)
{
	const struct form *f = &forms[rnd(b->r) % nforms];
	uint8_t bytes[INSN_MAX_LEN + 24];
	struct insn in;
	struct enc e;

	if (!f->supported || !form_wanted(&f->insn) || f->insn.class == INSN_SYSTEM)
		return false;
	/* Integer instructions are few among the forms, and the ones that matter most. */
	if (f->insn.unit != UNIT_NONE && chance(b->r, 75))
		return false;
	enc_random(b->r, f, &e);
	for (unsigned i = 0; f->insn.encoding == ENC_LEGACY && i < f->insn.opcode_offset; i++)
		if (f->row.bytes[i] == 0x66 || f->row.bytes[i] == 0xf2 || f->row.bytes[i] == 0xf3)
			e.prefix[e.nprefixes++] = f->row.bytes[i];
	if (e.mem && f->row.lockable && chance(b->r, 10))
		e.prefix[e.nprefixes++] = 0xf0;
	if (!f->insn.has_modrm && !FREE(b, e.rm))
		e.rm = CPU_RAX;
	if (e.mem ? !aim(b, &e, bytes, &in)
		  : !encode(&e, b->features, bytes, &in) || !acceptable(b, &in))
		return false;
	if (in.class == INSN_POP && in.has_mem)
		return false;
	if (in.bit_string) /* the register moves the address: keep it near */
		return false;
	if (!b->target_n && !in.flags_maybe)
		b->c->flags_any &= ~(uint32_t)in.flags_write;
	b->c->flags_any |= in.flags_undefined;
	put(b, bytes, in.len);
	return true;
}

/* Undefined flags are the host's on both sides, but not to be compared; nor to be acted upon. */
static bool flags_known(const struct builder *b)
{
	return !b->c->flags_any;
}

static void add_loop(struct builder *b)
{
	uint8_t bytes[9] = { 0x48 | b->counter >> 3, 0xff, 0xc8 | (b->counter & 7) }; /* dec */
	unsigned start = b->at, n = 1 + rnd(b->r) % 5;
	int32_t rel;

	while (n--)
		while (!add_random(b))
			;
	bytes[3] = 0x0f;
	bytes[4] = 0x85; /* jnz */
	rel = (int32_t)(start - (b->at + 9));
	memcpy(bytes + 5, &rel, 4);
	put(b, bytes, 9);
	b->c->flags_any = 0;
}

static void put_mov_imm(struct builder *b, unsigned reg, uint32_t value)
{
	uint8_t bytes[5] = { (uint8_t)(0xb8 | reg) };

	memcpy(bytes + 1, &value, 4);
	put(b, bytes, 5);
}

static void add_string(struct builder *b)
{
	static const uint8_t opcodes[] = { 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae,
		0xaf };
	uint64_t v = rnd(b->r);
	uint8_t bytes[2] = { v & 1 ? 0xf3 : 0xf2, opcodes[(v >> 1) % 10] };

	if (b->target_n || !FREE(b, CPU_RSI) || !FREE(b, CPU_RDI) || !FREE(b, CPU_RCX) ||
		!FREE(b, CPU_RAX))
		return;
	put_mov_imm(b, CPU_RSI, (uint32_t)(DATA + PAGE + 512 + (v >> 8) % 7000));
	put_mov_imm(b, CPU_RDI, (uint32_t)(DATA + PAGE + 512 + (v >> 24) % 7000));
	put_mov_imm(b, CPU_RCX, (uint32_t)(v >> 44) % 70);
	put(b, bytes, 2);
}

/* call over a jump to a body that returns. */
static void add_call(struct builder *b)
{
	unsigned over;
	uint32_t rel = 5;
	uint8_t call[5] = { 0xe8 }, jump[5] = { 0xe9 };

	memcpy(call + 1, &rel, 4);
	put(b, call, 5);
	put(b, jump, 5);
	over = b->at;
	b->in_call = true;
	for (unsigned n = rnd(b->r) % 3; n;)
		n -= add_random(b);
	b->in_call = false;
	put(b, "\xc3", 1);
	rel = b->at - over;
	memcpy(b->c->code + over - 4, &rel, 4);
}

static void add_item(struct builder *b)
{
	uint8_t jcc[2] = { 0x0f, 0x80 | (rnd(b->r) & 15) };
	unsigned how = rnd(b->r) % 100;

	if (how < 8 && flags_known(b))
		put_branch(b, jcc, 2);
	else if (how < 10)
		put_branch(b, (const uint8_t[]){ 0xe9 }, 1);
	else if (how < 12)
		put(b, "\x9c\x9d", 2); /* pushfq; popfq */
	else if (how < 14)
		put(b, rnd(b->r) & 1 ? "\xfc" : "\xfd", 1); /* cld, std */
	else if (how < 17)
		add_string(b);
	else if (how < 20)
		add_call(b);
	else
		add_random(b);
}

static void keep(struct builder *b, uint8_t *reg, uint64_t value)
{
	do
		*reg = pick_register(b->r);
	while (!FREE(b, *reg));
	b->kept |= 1u << *reg;
	b->c->gpr[*reg] = value;
}

bool make_block_case(struct rng *r, const struct batch *batch, uint64_t features,
	struct diff_case *c)
{
	struct builder b = { .r = r, .c = c, .features = features, .kept = 1u << CPU_RSP };
	unsigned wanted, tries = 0;
	bool loop;

	memset(c, 0, offsetof(struct diff_case, code));
	c->form = -1;
	c->seed = r->s;
	wanted = 5 + rnd(r) % 36;
	loop = chance(r, 30);
	case_registers(r, batch, c);
	c->gpr[CPU_RSP] = STACK + PAGE + 2048 + (rnd(r) & 0xff0);
	keep(&b, &b.pointer[0], DATA + PAGE + (rnd(r) & 0x1fff));
	keep(&b, &b.pointer[1], STACK + PAGE + (rnd(r) & 0x1fff));
	keep(&b, &b.index, rnd(r) & 0xff);
	keep(&b, &b.counter, 1 + rnd(r) % 4);
	c->code_va = CODE + rnd(r) % (2 * PAGE - CODE_MAX);
	c->rip = c->code_va;
	if (chance(r, 20)) {
		c->scratch = (uint16_t)(rnd(r) % (2 * PAGE - SCRATCH)) & 0xffc0;
		if (c->scratch + (uint64_t)SCRATCH > c->code_va - CODE &&
			c->scratch < c->code_va - CODE + CODE_MAX)
			c->scratch = 0;
	}
	while (c->ninsns < wanted && tries++ < 2000) {
		/* A branch must not skip part of a loop or of a call. */
		if (loop && !b.target_n && chance(r, 10)) {
			add_loop(&b);
			loop = false;
		} else {
			add_item(&b);
		}
	}
	while (b.target_n)
		put(&b, "\x90", 1);
	c->code[b.at] = 0xe9;
	uint32_t rel = (uint32_t)(EXIT_PAGE - (c->code_va + b.at + 5));

	memcpy(c->code + b.at + 1, &rel, 4);
	c->code_len = (uint16_t)(b.at + 5);
	c->flags_dead = true;
	return true;
}
