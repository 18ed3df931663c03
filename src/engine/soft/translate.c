/* SPDX-License-Identifier: MIT */
/*
 * The translator: one block of guest code to host code. Guest registers are in the host registers
 * of the same name, except r10 and r11, which live in struct vcpu and are the two scratch
 * registers here; the guest's flags are in EFLAGS. Most instructions are copied; a memory operand
 * becomes [r11], where r11 is the host address that the TLB check left. Every side effect of an
 * instruction comes after all of its checks, so a miss or a fault leaves the guest's state as it
 * was before the instruction.
 */
#include "engine/soft/code.h"
#include "engine/soft/layout.h"

#define TEMP(n) (VCPU_TEMP + 8 * (n))
#define GPR(n)  (VCPU_GPR + 8 * (n))

struct trans {
	struct engine *engine;
	struct code *code;
	struct block *block;
	uint32_t number;
	const uint8_t *bytes; /* of the instruction being translated */
	const struct insn *insn;
	uint64_t rip, next; /* of it, and after it */
	struct emit hot, cold;
	bool user, keep; /* keep: the flags are live at this instruction */
	bool left;       /* control went to C: nothing may follow */
	uint32_t start;  /* hot offset of the instruction's code */
};

static uint32_t hot_offset(const struct trans *t)
{
	return (uint32_t)(t->hot.p - t->code->rw);
}

static uint32_t new_site(struct trans *t, uint64_t rip, unsigned size, bool write)
{
	return code_site(t->code, rip, t->start, t->number, size, write);
}

/* jmp rel32 from e to an offset in the cache */
static void emit_jmp(struct trans *t, struct emit *e, uint32_t target)
{
	emit8(e, 0xe9);
	emit32(e, target - (uint32_t)(e->p + 4 - t->code->rw));
}

/* jcc rel32 from hot code to where cold code continues */
static void emit_jcc_cold(struct trans *t, uint8_t cc)
{
	emit8(&t->hot, 0x0f);
	emit8(&t->hot, 0x80 | cc);
	emit32(&t->hot, (uint32_t)(t->cold.p - (t->hot.p + 4)));
}

static void flags_save(struct emit *e)
{
	emit_gs_store(e, RAX, TEMP(0));
	EMIT(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	emit_gs_store(e, RAX, TEMP(1));
	emit_gs_load(e, RAX, TEMP(0));
}

static void flags_restore(struct emit *e)
{
	emit_gs_load(e, RAX, TEMP(1));
	EMIT(e, 0x04, 0x7f, 0x9e); /* add al, 127 (sets OF if al is 1); sahf */
	emit_gs_load(e, RAX, TEMP(0));
}

/* Leave for C, which executes the instruction. */
static void emit_insn_exit(struct trans *t)
{
	emit_gs_imm32(&t->hot, VCPU_SITE, new_site(t, t->rip, 0, false));
	emit_jmp(t, &t->hot, RUNTIME(insn));
	t->left = true;
}

/*
 * r11: guest address in, host address out. r10 is used. The flags are lost; they are in TEMP(1)
 * when t->keep.
 */
static void emit_check(struct trans *t, unsigned size, bool write)
{
	struct emit *e = &t->hot;

	if (t->code->bmi2) {
		EMIT(e, 0xc4, 0x43, 0xfb, 0xf0, 0xd3, 0x0c); /* rorx r10, r11, 12 */
	} else {
		emit_mov(e, R10, R11);
		EMIT(e, 0x49, 0xc1, 0xea, 0x0c); /* shr r10, 12 */
	}
	EMIT(e, 0x45, 0x0f, 0xb7, 0xd2); /* movzx r10d, r10w */
	emit_gs_index(e, 0x33, R11, R10, VCPU_TAG(t->user, write));
	EMIT(e, 0x49, 0x81, 0xfb); /* cmp r11, imm32 */
	emit32(e, MEM_PAGE_SIZE - size);
	emit_jcc_cold(t, 0x7); /* ja */
	emit_gs_index(e, 0x03, R11, R10, VCPU_HOST(t->user));

	if (t->keep)
		flags_restore(&t->cold);
	emit_gs_imm32(&t->cold, VCPU_SITE, new_site(t, t->rip, size, write));
	emit_jmp(t, &t->cold, RUNTIME(miss));
}

static void keep_begin(struct trans *t)
{
	if (t->keep)
		flags_save(&t->hot);
}

static void keep_end(struct trans *t)
{
	if (t->keep)
		flags_restore(&t->hot);
}

/* r11 = address of the memory operand. Changes no flags. */
static void emit_ea(struct trans *t)
{
	const struct insn *in = t->insn;
	struct emit *e = &t->hot;

	if (in->has_moffs) {
		emit_mov_imm(e, R11, in->addr_size == 4 ? (uint32_t)in->disp : (uint64_t)in->disp);
	} else if (in->base == REG_PC) {
		uint64_t ea = t->next + (uint64_t)in->disp;

		emit_mov_imm(e, R11, in->addr_size == 4 ? (uint32_t)ea : ea);
	} else if (in->base == REG_NONE && in->index == REG_NONE) {
		emit_mov_imm(e, R11, in->addr_size == 4 ? (uint32_t)in->disp : (uint64_t)in->disp);
	} else {
		if (in->base == R10 || in->index == R10)
			emit_gs_load(e, R10, GPR(R10));
		if (in->base == R11 || in->index == R11)
			emit_gs_load(e, R11, GPR(R11));
		emit_lea(e, R11, in->base, in->index, in->scale, (int32_t)in->disp, in->addr_size);
	}
	if (in->segment) {
		emit_gs_load(e, R10, VCPU_SEG_BASE + 8 * in->segment);
		emit_lea(e, R11, R11, R10, 1, 0, 8);
	}
}

/* mov [r11], reg and mov reg, [r11], 64-bit */
static void emit_store_r11(struct emit *e, unsigned reg)
{
	emit8(e, 0x49 | (reg >> 3) << 2);
	emit8(e, 0x89);
	emit8(e, 0x03 | (reg & 7) << 3);
}

static void emit_load_r11(struct emit *e, unsigned reg)
{
	emit8(e, 0x49 | (reg >> 3) << 2);
	emit8(e, 0x8b);
	emit8(e, 0x03 | (reg & 7) << 3);
}

static bool names(const struct insn *in, unsigned reg)
{
	return (in->gpr_read | in->gpr_write) >> reg & 1;
}

/*
 * Does a memory instruction name general register reg as data? gpr_read also counts the address,
 * so where reg is part of the address only the operand fields can tell; vector registers share
 * their numbering.
 */
static bool names_as_data(const struct insn *in, unsigned reg)
{
	if (!names(in, reg))
		return false;
	if (in->base != reg && in->index != reg)
		return true;
	return (in->has_modrm && in->reg == reg) || in->vvvv == reg;
}

/* The instruction itself, without memory operand. */
static void emit_register_form(struct trans *t)
{
	const struct insn *in = t->insn;
	struct emit *e = &t->hot;

	for (unsigned reg = R10; reg <= R11; reg++)
		if (names(in, reg))
			emit_gs_load(e, reg, GPR(reg));
	emit_bytes(e, t->bytes, in->len);
	for (unsigned reg = R10; reg <= R11; reg++)
		if (in->gpr_write >> reg & 1)
			emit_gs_store(e, reg, GPR(reg));
}

/* bt, bts, btr, btc m, r: r11 = address of the word that holds the bit. */
static void emit_bit_address(struct trans *t)
{
	const struct insn *in = t->insn;
	struct emit *e = &t->hot;
	unsigned reg = in->reg;

	if (reg == R10 || reg == R11) {
		emit_gs_load(e, R10, GPR(reg));
		reg = R10;
	}
	if (in->op_size == 8) {
		if (reg != R10)
			emit_mov(e, R10, reg);
	} else if (in->op_size == 4) {
		emit8(e, 0x4c | reg >> 3); /* movsxd r10, reg32 */
		emit8(e, 0x63);
		emit8(e, 0xd0 | (reg & 7));
	} else {
		emit8(e, 0x4c | reg >> 3); /* movsx r10, reg16 */
		emit8(e, 0x0f);
		emit8(e, 0xbf);
		emit8(e, 0xd0 | (reg & 7));
	}
	EMIT(e, 0x49, 0xc1, 0xfa, 0x03); /* sar r10, 3 */
	EMIT(e, 0x49, 0x83, 0xe2);       /* and r10, -op_size */
	emit8(e, (uint8_t)-in->op_size);
	emit_lea(e, R11, R11, R10, 1, 0, 8);
}

static void emit_bit_string(struct trans *t)
{
	struct insn in = *t->insn;
	struct emit *e = &t->hot;

	keep_begin(t);
	emit_ea(t);
	emit_bit_address(t);
	emit_check(t, in.mem_size, in.mem_write);
	if (in.reg == R10 || in.reg == R11)
		emit_gs_load(e, R10, GPR(in.reg));
	else
		emit_mov(e, R10, in.reg);
	EMIT(e, 0x41, 0x83, 0xe2); /* and r10d, bits - 1 */
	emit8(e, (uint8_t)(in.op_size * 8 - 1));
	keep_end(t);
	/* The same instruction with r10 as its register. */
	in.modrm = (in.modrm & 0xc7) | (R10 & 7) << 3;
	in.rex |= 0x44;
	emit_reencoded(e, t->bytes, &in, R11);
}

static void emit_copy(struct trans *t)
{
	const struct insn *in = t->insn;
	struct emit *e = &t->hot;
	bool data10, data11;

	if (!in->has_mem) {
		if (in->may_fault)
			new_site(t, t->rip, 0, false);
		if (in->rep_ignored)
			emit_insn_exit(t);
		else
			emit_register_form(t);
		return;
	}
	data10 = names_as_data(in, R10);
	data11 = names_as_data(in, R11);
	if (in->high_byte || (data10 && data11) || !in->mem_size || in->mem_size > 64 ||
		in->rep_ignored || (in->bit_string && in->addr_size == 4)) {
		emit_insn_exit(t);
		return;
	}
	if (in->bit_string) {
		emit_bit_string(t);
		return;
	}
	keep_begin(t);
	emit_ea(t);
	emit_check(t, in->mem_size, in->mem_write);
	keep_end(t);
	if (data11) {
		emit_mov(e, R10, R11);
		emit_gs_load(e, R11, GPR(R11));
		emit_reencoded(e, t->bytes, in, R10);
		if (in->gpr_write >> R11 & 1)
			emit_gs_store(e, R11, GPR(R11));
		return;
	}
	if (data10)
		emit_gs_load(e, R10, GPR(R10));
	emit_reencoded(e, t->bytes, in, R11);
	if (in->gpr_write >> R10 & 1)
		emit_gs_store(e, R10, GPR(R10));
}

static void emit_address_of(struct trans *t)
{
	const struct insn *in = t->insn;

	if (in->base != REG_PC) {
		emit_register_form(t);
		return;
	}
	uint64_t ea = t->next + (uint64_t)in->disp;

	if (in->op_size == 2) {
		emit_insn_exit(t);
		return;
	}
	if (in->addr_size == 4 || in->op_size == 4)
		ea = (uint32_t)ea;
	if (in->reg == R10 || in->reg == R11) {
		emit_mov_imm(&t->hot, R10, ea);
		emit_gs_store(&t->hot, R10, GPR(in->reg));
	} else {
		emit_mov_imm(&t->hot, in->reg, ea);
	}
}

/*
 * --- control flow
 * ----------------------------------------------------------------------------------
 */

/*
 * Go to the guest address in r10: through the branch cache of this privilege level. No flags are
 * changed: the difference between tag and address is tested by jrcxz, and a pending interrupt
 * makes it nonzero (both share their low 16 bits, so their difference is never 65535 or 65537).
 */
static void emit_indirect(struct trans *t)
{
	struct emit *e = &t->hot;
	uint8_t *jump;

	emit_gs_store(e, R10, VCPU_RIP);
	emit_gs_store(e, RCX, TEMP(0));
	EMIT(e, 0x45, 0x0f, 0xb7, 0xda); /* movzx r11d, r10w */
	emit_gs_index(e, 0x8b, RCX, R11, VCPU_BRANCH_TAG(t->user));
	EMIT(e, 0x49, 0xf7, 0xd2);             /* not r10 */
	EMIT(e, 0x4a, 0x8d, 0x4c, 0x11, 0x01); /* lea rcx, [rcx+r10+1] */
	emit_gs_load(e, R10, VCPU_PENDING);
	EMIT(e, 0x4a, 0x8d, 0x0c, 0x11); /* lea rcx, [rcx+r10] */
	EMIT(e, 0xe3, 0x00);             /* jrcxz hit */
	jump = e->p;
	emit_jmp(t, e, RUNTIME(lookup));
	jump[-1] = (uint8_t)(e->p - jump);
	emit_gs_load(e, RCX, TEMP(0));
	/* jmp gs:[r11*8 + BRANCH_HOST] */
	EMIT(e, 0x65, 0x42, 0xff, 0x24, 0xdd);
	emit32(e, VCPU_BRANCH_HOST(t->user));
}

static void emit_indirect_to(struct trans *t, uint64_t target)
{
	emit_mov_imm(&t->hot, R10, target);
	emit_indirect(t);
}

/* A loop's edge: leave when something is pending. */
static void emit_poll(struct trans *t, uint64_t target)
{
	struct emit *e = &t->hot;
	uint32_t site = code_site(t->code, target, hot_offset(t), t->number, 0, false);

	emit_gs_store(e, RCX, TEMP(0));
	emit_gs_load(e, RCX, VCPU_PENDING);
	EMIT(e, 0xe3, 0x05); /* jrcxz past the jump */
	emit_jmp(t, e, (uint32_t)(t->cold.p - t->code->rw));
	emit_gs_load(e, RCX, TEMP(0));

	emit_gs_load(&t->cold, RCX, TEMP(0));
	emit_gs_imm32(&t->cold, VCPU_SITE, site);
	emit_jmp(t, &t->cold, RUNTIME(poll));
}

/*
 * Go to a known guest address. Inside the page that the block was fetched through the mapping is
 * the one the block itself runs under, so the jump may be linked; elsewhere the branch cache
 * tells.
 */
static void emit_direct(struct trans *t, uint64_t target)
{
	uint64_t region = t->block->mode & MODE_LARGE ? ~0x1fffffull : ~0xfffull;
	struct emit *e = &t->hot;

	if (((target ^ t->block->rip) & region) || t->block->crosses || t->engine->exact) {
		emit_indirect_to(t, target);
		return;
	}
	if (target <= t->rip)
		emit_poll(t, target);
	/* The displacement is patched while other CPUs may run here: it must be aligned. */
	while (((uintptr_t)e->p + 1) & 3)
		emit8(e, 0x90);
	uint32_t jump = hot_offset(t);

	emit_jmp(t, e, (uint32_t)(t->cold.p - t->code->rw));
	emit_gs_imm32(&t->cold, VCPU_SITE, code_site(t->code, target, jump, t->number, 0, false));
	emit_jmp(t, &t->cold, RUNTIME(link));
}

static void emit_jcc(struct trans *t)
{
	uint64_t target = t->next + (uint64_t)t->insn->imm;
	uint8_t *jump;
	uint32_t rel;

	emit8(&t->hot, 0x0f);
	emit8(&t->hot, 0x80 | (t->insn->opcode & 15));
	emit32(&t->hot, 0);
	jump = t->hot.p;
	emit_direct(t, t->next);
	rel = (uint32_t)(t->hot.p - jump);
	memcpy(jump - 4, &rel, 4);
	emit_direct(t, target);
}

static void emit_loop(struct trans *t)
{
	const struct insn *in = t->insn;
	uint64_t target = t->next + (uint64_t)in->imm;
	uint64_t zero = target, nonzero = t->next;
	uint8_t *jump;

	if (in->addr_size != 8 || in->opcode < 0xe2) {
		emit_insn_exit(t);
		return;
	}
	if (in->opcode == 0xe2) {
		EMIT(&t->hot, 0x48, 0x8d, 0x49, 0xff); /* lea rcx, [rcx-1] */
		zero = t->next;
		nonzero = target;
	}
	EMIT(&t->hot, 0xe3, 0x05); /* jrcxz past the jump */
	emit8(&t->hot, 0xe9);
	emit32(&t->hot, 0);
	jump = t->hot.p;
	emit_direct(t, zero);
	uint32_t rel = (uint32_t)(t->hot.p - jump);
	memcpy(jump - 4, &rel, 4);
	emit_direct(t, nonzero);
}

/* r11 = host address of the stack slot that a push of 8 bytes will fill. */
static void emit_push_check(struct trans *t)
{
	emit_lea(&t->hot, R11, RSP, REG_NONE, 1, -8, 8);
	emit_check(t, 8, true);
}

static void emit_push(struct trans *t)
{
	const struct insn *in = t->insn;
	struct emit *e = &t->hot;
	bool reg_form = in->map == 0 &&
			((in->opcode & 0xf8) == 0x50 || (in->opcode == 0xff && !in->has_mem));
	unsigned reg = in->rm;

	if (in->op_size != 8 || in->map != 0) {
		emit_insn_exit(t);
		return;
	}
	keep_begin(t);
	if (in->has_mem) {
		emit_ea(t);
		emit_check(t, 8, false);
		emit_load_r11(e, R10);
		emit_gs_store(e, R10, TEMP(4));
	}
	emit_push_check(t);
	keep_end(t);
	if (in->has_mem) {
		emit_gs_load(e, R10, TEMP(4));
		emit_store_r11(e, R10);
	} else if (!reg_form) {
		EMIT(e, 0x49, 0xc7, 0x03); /* mov qword [r11], imm32 */
		emit32(e, (uint32_t)in->imm);
	} else {
		if (reg == R10 || reg == R11) {
			emit_gs_load(e, R10, GPR(reg));
			reg = R10;
		}
		emit_store_r11(e, reg);
	}
	emit_lea(e, RSP, RSP, REG_NONE, 1, -8, 8);
}

static void emit_pop(struct trans *t)
{
	const struct insn *in = t->insn;
	struct emit *e = &t->hot;
	unsigned reg = in->rm;

	if (in->op_size != 8 || in->map != 0 || (in->opcode & 0xf8) != 0x58) {
		emit_insn_exit(t);
		return;
	}
	keep_begin(t);
	emit_mov(e, R11, RSP);
	emit_check(t, 8, false);
	keep_end(t);
	emit_lea(e, RSP, RSP, REG_NONE, 1, 8, 8);
	if (reg == R10 || reg == R11) {
		emit_load_r11(e, R10);
		emit_gs_store(e, R10, GPR(reg));
	} else {
		emit_load_r11(e, reg);
	}
}

/*
 * pushf: the arithmetic flags come from EFLAGS by way of the host's stack, before the check
 * destroys them. RF reads as zero, and VM is never set.
 */
static void emit_pushf(struct trans *t)
{
	struct emit *e = &t->hot;

	if (t->insn->op_size != 8) {
		emit_insn_exit(t);
		return;
	}
	emit_gs_store(e, RSP, TEMP(5));
	emit_gs_load(e, RSP, VCPU_HOST_RSP);
	EMIT(e, 0x9c, 0x41, 0x5a); /* pushfq; pop r10 */
	emit_gs_load(e, RSP, TEMP(5));
	emit_gs_store(e, R10, TEMP(4));
	keep_begin(t);
	emit_push_check(t);
	emit_gs_load(e, R10, TEMP(4));
	EMIT(e, 0x49, 0x81, 0xe2); /* and r10, imm32 */
	emit32(e, FL_ARITH_DF | 2);
	emit_gs(e, 0x0b, R10, VCPU_SYSFLAGS); /* or r10, gs:[SYSFLAGS] */
	EMIT(e, 0x49, 0x81, 0xe2);
	emit32(e, ~(FL_RF | FL_VM));
	keep_end(t);
	emit_store_r11(e, R10);
	emit_lea(e, RSP, RSP, REG_NONE, 1, -8, 8);
}

/* cli and sti of the kernel. When an interrupt waits for sti, C executes it, with its shadow. */
static void emit_interrupt_flag(struct trans *t, bool on)
{
	struct emit *e = &t->hot;

	keep_begin(t);
	if (on) {
		EMIT(e, 0x65, 0x83, 0x3c, 0x25); /* cmp dword gs:[IRQ_WAITING], 0 */
		emit32(e, VCPU_IRQ_WAITING);
		emit8(e, 0);
		emit_jcc_cold(t, 0x5); /* jne */
		if (t->keep)
			flags_restore(&t->cold);
		emit_gs_imm32(&t->cold, VCPU_SITE, new_site(t, t->rip, 0, false));
		emit_jmp(t, &t->cold, RUNTIME(insn));
		EMIT(e, 0x65, 0x81, 0x0c, 0x25); /* or dword gs:[SYSFLAGS], IF */
		emit32(e, VCPU_SYSFLAGS);
		emit32(e, FL_IF);
	} else {
		EMIT(e, 0x65, 0x81, 0x24, 0x25); /* and dword gs:[SYSFLAGS], ~IF */
		emit32(e, VCPU_SYSFLAGS);
		emit32(e, ~FL_IF);
	}
	keep_end(t);
}

static void emit_leave(struct trans *t)
{
	struct emit *e = &t->hot;

	if (t->insn->op_size != 8) {
		emit_insn_exit(t);
		return;
	}
	keep_begin(t);
	emit_mov(e, R11, RBP);
	emit_check(t, 8, false);
	keep_end(t);
	emit_load_r11(e, R10);
	emit_lea(e, RSP, RBP, REG_NONE, 1, 8, 8);
	emit_mov(e, RBP, R10);
}

/*
 * TEMP(4) = target of an indirect call or jump. Flags are in TEMP(1) when kept and memory was read.
 */
static void emit_target(struct trans *t)
{
	const struct insn *in = t->insn;
	struct emit *e = &t->hot;
	unsigned reg = in->rm;

	if (in->has_mem) {
		emit_ea(t);
		emit_check(t, 8, false);
		emit_load_r11(e, R10);
		reg = R10;
	} else if (reg == R10 || reg == R11) {
		emit_gs_load(e, R10, GPR(reg));
		reg = R10;
	}
	emit_gs_store(e, reg, TEMP(4));
}

static void emit_call(struct trans *t)
{
	struct emit *e = &t->hot;
	bool indirect = t->insn->class == INSN_CALL_IND;

	keep_begin(t);
	if (indirect)
		emit_target(t);
	emit_push_check(t);
	keep_end(t);
	emit_mov_imm(e, R10, t->next);
	emit_store_r11(e, R10);
	emit_lea(e, RSP, RSP, REG_NONE, 1, -8, 8);
	if (indirect) {
		emit_gs_load(e, R10, TEMP(4));
		emit_indirect(t);
	} else {
		emit_direct(t, t->next + (uint64_t)t->insn->imm);
	}
}

static void emit_jmp_ind(struct trans *t)
{
	if (t->insn->has_mem)
		keep_begin(t);
	emit_target(t);
	if (t->insn->has_mem)
		keep_end(t);
	emit_gs_load(&t->hot, R10, TEMP(4));
	emit_indirect(t);
}

static void emit_ret(struct trans *t)
{
	struct emit *e = &t->hot;
	int32_t extra = t->insn->imm_size ? (int32_t)(uint16_t)t->insn->imm : 0;

	keep_begin(t);
	emit_mov(e, R11, RSP);
	emit_check(t, 8, false);
	keep_end(t);
	emit_load_r11(e, R10);
	emit_lea(e, RSP, RSP, REG_NONE, 1, 8 + extra, 8);
	emit_indirect(t);
}

/*
 * --- one instruction, one block
 * ---------------------------------------------------------------------
 */

static bool is_interrupt_flag(const struct block *block, const struct insn *in)
{
	return !(block->mode & MODE_USER) && (in->system == SYS_CLI || in->system == SYS_STI);
}

/* Can code of the same block follow? */
static bool falls_through(const struct block *block, const struct insn *in)
{
	switch (in->class) {
	case INSN_COPY:
	case INSN_LEA:
	case INSN_NOP:
	case INSN_PUSH:
	case INSN_POP:
	case INSN_PUSHF:
	case INSN_LEAVE:
		return true;
	case INSN_SYSTEM:
		return is_interrupt_flag(block, in);
	default:
		return false;
	}
}

/* Emit; true: the block ends here. */
static bool translate_insn(struct trans *t)
{
	if (!unit_enabled(t->block->mode, t->insn)) {
		emit_insn_exit(t);
		return true;
	}
	switch ((enum insn_class)t->insn->class) {
	case INSN_COPY:
		emit_copy(t);
		return false;
	case INSN_LEA:
		emit_address_of(t);
		return false;
	case INSN_NOP:
		return false;
	case INSN_PUSH:
		emit_push(t);
		return false;
	case INSN_POP:
		emit_pop(t);
		return false;
	case INSN_LEAVE:
		emit_leave(t);
		return false;
	case INSN_PUSHF:
		emit_pushf(t);
		return false;
	case INSN_CALL:
	case INSN_CALL_IND:
		emit_call(t);
		return true;
	case INSN_RET:
		emit_ret(t);
		return true;
	case INSN_JMP:
		emit_direct(t, t->next + (uint64_t)t->insn->imm);
		return true;
	case INSN_JMP_IND:
		emit_jmp_ind(t);
		return true;
	case INSN_JCC:
		emit_jcc(t);
		return true;
	case INSN_LOOP:
		emit_loop(t);
		return true;
	case INSN_SYSTEM:
		if (!is_interrupt_flag(t->block, t->insn))
			break;
		emit_interrupt_flag(t, t->insn->system == SYS_STI);
		return false;
	case INSN_STRING:
	case INSN_ENTER:
	case INSN_POPF:
	case INSN_UNDEFINED:
		break;
	}
	emit_insn_exit(t);
	return true;
}

/*
 * Flags live before an instruction, given those live after it. Whatever runs in C may look at all
 * of them.
 */
static unsigned live_before(const struct block *block, const struct insn *in, unsigned after)
{
	if (!falls_through(block, in) && in->class != INSN_JCC)
		return FLAGS_ARITH;
	/* A miss starts pushf again, and it must find the flags. */
	if (in->class == INSN_PUSHF)
		return FLAGS_ARITH;
	if (in->flags_maybe)
		return after | in->flags_read;
	/*
	 * What the manual calls undefined is often unchanged in fact (bt, div). Not so AF alone,
	 * which is what logic leaves undefined.
	 */
	if (in->flags_undefined & ~FLAG_AF)
		after &= ~(unsigned)in->flags_write | in->flags_undefined;
	else
		after &= ~(unsigned)in->flags_write;
	return after | in->flags_read;
}

void translate_block(struct engine *engine, struct block *block, const uint8_t *bytes,
	unsigned avail)
{
	struct insn insns[BLOCK_INSNS];
	bool keep[BLOCK_INSNS];
	struct code *code = engine->code;
	struct trans t = { .engine = engine,
		.code = code,
		.block = block,
		.number = (uint32_t)(block - code->blocks),
		.user = block->mode & MODE_USER };
	unsigned n = 0, at = 0, live = FLAGS_ARITH;
	bool ended = false, undefined = false;

	while (n < BLOCK_INSNS && !ended) {
		struct insn *in = &insns[n];
		enum decode_result r = insn_decode(bytes + at, avail - at, engine->features, in);

		if (r == DECODE_SHORT)
			break;
		if (r != DECODE_OK) {
			undefined = true;
			break;
		}
		at += in->len;
		n++;
		ended = !falls_through(block, in) || block->crosses;
	}
	for (unsigned i = n; i-- > 0;) {
		live = live_before(block, &insns[i], live);
		keep[i] = live || engine->exact;
	}

	code->hot = (code->hot + 15) & ~15u;
	t.hot.p = code->rw + code->hot;
	t.cold.p = code->rw + code->cold;
	block->host = code->hot;
	block->dead_stub = code->cold;
	emit_gs_imm32(&t.cold, VCPU_SITE,
		code_site(code, block->rip, code->hot, t.number, 0, false));
	emit_jmp(&t, &t.cold, RUNTIME(dead));
	EMIT(&t.hot, 0x0f, 0x1f, 0x44, 0x00, 0x00); /* becomes a jump when the block dies */

	ended = false;
	t.next = block->rip;
	t.bytes = bytes;
	for (unsigned i = 0; i < n && !ended; i++) {
		t.insn = &insns[i];
		t.keep = keep[i];
		t.rip = t.next;
		t.next = t.rip + t.insn->len;
		t.start = hot_offset(&t);
		ended = translate_insn(&t) || t.left;
		t.bytes += t.insn->len;
	}
	t.rip = t.next;
	t.start = hot_offset(&t);
	if (!ended && undefined)
		emit_insn_exit(&t);
	else if (!ended)
		emit_direct(&t, t.next);
	block->len = (uint16_t)(t.next - block->rip);
	if (undefined && !ended)
		block->len = (uint16_t)MIN(avail, block->len + (unsigned)INSN_MAX_LEN);
	code->hot = hot_offset(&t);
	code->cold = (uint32_t)(t.cold.p - code->rw);
}
