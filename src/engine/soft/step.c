/* SPDX-License-Identifier: MIT */
/*
 * One instruction at a time, with the guest's registers in struct vcpu: for what translated code
 * cannot do in line (device memory, page crossings, stores to code, high byte registers), for the
 * instruction after sti, and for single-stepping. Arithmetic is not re-implemented: the
 * instruction itself runs as a thunk, with its memory operand pointing at RAM or at a buffer that
 * checked accesses filled and will write back.
 */
#include "engine/soft/code.h"
#include "engine/soft/layout.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"

bool soft_fetch(struct vcpu *cpu, uint8_t *bytes)
{
	bool user = cpu->cpl == 3;
	unsigned avail = MEM_PAGE_SIZE - (cpu->rip & 0xfff);
	enum decode_result r;
	struct walk walk;

	if (!mmu_walk(cpu, cpu->rip, ACCESS_FETCH, user, &walk))
		return false;
	if (!walk.host)
		return soft_raise_error(cpu, EXC_GP, 0);
	avail = MIN(avail, (unsigned)INSN_MAX_LEN);
	soft_copy(bytes, walk.host, avail);
	r = insn_decode(bytes, avail, cpu->engine->features, &cpu->insn);
	if (r == DECODE_SHORT && avail < INSN_MAX_LEN) {
		if (!mmu_walk(cpu, cpu->rip + avail, ACCESS_FETCH, user, &walk))
			return false;
		if (!walk.host)
			return soft_raise_error(cpu, EXC_GP, 0);
		soft_copy(bytes + avail, walk.host, INSN_MAX_LEN - avail);
		r = insn_decode(bytes, INSN_MAX_LEN, cpu->engine->features, &cpu->insn);
	}
	if (r == DECODE_UD)
		return soft_raise(cpu, EXC_UD);
	if (r != DECODE_OK)
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->next_rip = cpu->rip + cpu->insn.len;
	return true;
}

/*
 * --- thunks
 * -----------------------------------------------------------------------------------------
 */

/* A register that the instruction does not name, to hold the pointer. */
static unsigned spare_register(const struct insn *in)
{
	static const uint8_t candidates[] = { RBX, RSI, RDI, RAX, RCX, RDX, R8, R9, R14, R15, R10,
		R11 };
	uint16_t used = in->gpr_write;

	if (in->has_modrm)
		used |= 1u << in->reg;
	if (in->vvvv != REG_NONE)
		used |= 1u << in->vvvv;
	/* What is read and is not merely part of the address. */
	uint16_t address = 0;

	if (in->base < 16)
		address |= 1u << in->base;
	if (in->index < 16 && !in->vsib)
		address |= 1u << in->index;
	used |= in->gpr_read & ~address;
	/* Implicit operands that may also be address registers: keep clear of all of them. */
	used |= in->gpr_read & 0xf;
	if (in->high_byte)
		used |= 0xf;
	for (unsigned i = 0; i < sizeof(candidates); i++)
		if (!(used >> candidates[i] & 1))
			return candidates[i];
	return R11;
}

/* Run cpu->insn (bytes) with its memory operand at *pointer; pointer NULL: it has none. */
static bool run_thunk(struct vcpu *cpu, const uint8_t *bytes, void *pointer)
{
	struct code *code = cpu->engine->code;
	struct emit e = { cpu->thunk_rw };
	struct insn in = cpu->insn;
	unsigned reg = pointer ? spare_register(&in) : 0;
	uint64_t saved = cpu->gpr[reg];
	unsigned exit;

	if (in.rep_ignored)
		in.prefixes &= ~(PFX_F2 | PFX_F3);
	emit_gs_load(&e, R10, VCPU_GPR + 8 * R10);
	emit_gs_load(&e, R11, VCPU_GPR + 8 * R11);
	if (pointer) {
		cpu->gpr[reg] = (uint64_t)pointer;
		emit_reencoded(&e, bytes, &in, reg);
	} else if (in.rep_ignored) {
		for (unsigned i = 0; i < in.len; i++)
			if (i >= in.opcode_offset || (bytes[i] != 0xf2 && bytes[i] != 0xf3))
				emit8(&e, bytes[i]);
	} else {
		emit_bytes(&e, bytes, in.len);
	}
	emit8(&e, 0xe9);
	emit32(&e, RUNTIME(thunk) - (uint32_t)(e.p + 4 - code->rw));
	exit = soft_enter(cpu, (uint64_t)cpu->thunk_rx);
	if (pointer)
		cpu->gpr[reg] = saved;
	return exit == EXIT_THUNK;
}

/*
 * The address of cpu->insn's operand; for bit strings, of the word, with the register reduced in
 * *bit.
 */
static uint64_t operand_address(struct vcpu *cpu, uint64_t *bit)
{
	const struct insn *in = &cpu->insn;
	uint64_t ea = soft_ea(cpu), base;
	int64_t offset;

	if (!in->bit_string)
		return ea;
	offset = (int64_t)cpu->gpr[in->reg];
	if (in->op_size == 4)
		offset = (int32_t)offset;
	else if (in->op_size == 2)
		offset = (int16_t)offset;
	*bit = (uint64_t)offset & (in->op_size * 8 - 1);
	base = in->segment ? cpu->seg_base[in->segment] : 0;
	ea += (uint64_t)((offset >> 3) & -(int64_t)in->op_size) - base;
	return (in->addr_size == 4 ? (uint32_t)ea : ea) + base;
}

/* An operand with no single host address: through the buffer. */
static bool run_split(struct vcpu *cpu, const uint8_t *bytes, uint64_t ea, bool user)
{
	const struct insn *in = &cpu->insn;
	bool done = false;

	if (in->mem_write && !soft_probe(cpu, ea, in->mem_size, ACCESS_WRITE, user))
		return false;
	/* An x87 store with an unmasked exception does not take place. */
	if (!(in->mem_read || in->unit == UNIT_X87) ||
		soft_read(cpu, ea, cpu->bounce, in->mem_size, user))
		done = run_thunk(cpu, bytes, cpu->bounce);
	return done && (!in->mem_write || soft_write(cpu, ea, cpu->bounce, in->mem_size, user));
}

/*
 * A locked operand across two pages: nobody else may run between its read and its write. Devices
 * lock nothing, and must not be called while others are held up.
 */
static bool run_locked_split(struct vcpu *cpu, const uint8_t *bytes, uint64_t ea, bool user)
{
	struct engine *engine = cpu->engine;
	unsigned size = cpu->insn.mem_size, first = MEM_PAGE_SIZE - (ea & 0xfff);
	struct walk low, high;
	bool done;

	if (!mmu_walk(cpu, ea, ACCESS_WRITE, user, &low) ||
		!mmu_walk(cpu, ea + first, ACCESS_WRITE, user, &high))
		return false;
	if (!low.host || !high.host)
		return run_split(cpu, bytes, ea, user);
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	pthread_mutex_lock(&engine->lock);
	atomic_store(&cpu->running, 1);
	exclusive_begin(engine, cpu);
	soft_copy(cpu->bounce, low.host, first);
	soft_copy(cpu->bounce + first, high.host, size - first);
	done = run_thunk(cpu, bytes, cpu->bounce);
	if (done) {
		soft_copy(low.host, cpu->bounce, first);
		soft_copy(high.host, cpu->bounce + first, size - first);
	}
	soft_fpu_park(cpu);
	exclusive_end(engine);
	pthread_mutex_unlock(&engine->lock);
	if (done) {
		mmu_wrote(cpu, low.host, first);
		mmu_wrote(cpu, high.host, size - first);
	}
	return done;
}

static bool is_locked(const struct insn *in)
{
	return (in->prefixes & PFX_LOCK) || (in->opcode == 0x87 && in->map == 0);
}

static bool run_memory(struct vcpu *cpu, const uint8_t *bytes)
{
	const struct insn *in = &cpu->insn;
	bool user = cpu->cpl == 3, done;
	uint64_t bit = 0, saved = 0, ea = operand_address(cpu, &bit);
	struct walk walk;

	cpu->count_bounce++;
	if (!in->mem_size || in->mem_size > sizeof(cpu->bounce))
		return soft_raise(cpu, EXC_UD);
	if (in->mem_align && (ea & (in->mem_align - 1u)))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (in->bit_string) {
		saved = cpu->gpr[in->reg];
		cpu->gpr[in->reg] = bit;
	}
	if ((ea & 0xfff) + in->mem_size > MEM_PAGE_SIZE) {
		done = is_locked(in) ? run_locked_split(cpu, bytes, ea, user)
				     : run_split(cpu, bytes, ea, user);
	} else if (!mmu_walk(cpu, ea, in->mem_write ? ACCESS_WRITE : ACCESS_READ, user, &walk)) {
		done = false;
	} else if (!walk.host) {
		done = run_split(cpu, bytes, ea, user);
	} else {
		done = run_thunk(cpu, bytes, walk.host);
		if (done && in->mem_write)
			mmu_wrote(cpu, walk.host, in->mem_size);
	}
	if (in->bit_string)
		cpu->gpr[in->reg] = saved;
	return done;
}

/*
 * --- stack and control flow
 * --------------------------------------------------------------------------
 */

static bool push(struct vcpu *cpu, uint64_t value, unsigned size)
{
	if (!soft_write(cpu, cpu->gpr[RSP] - size, &value, size, cpu->cpl == 3))
		return false;
	cpu->gpr[RSP] -= size;
	return true;
}

static void set_gpr(struct vcpu *cpu, unsigned reg, uint64_t value, unsigned size)
{
	if (size == 2)
		cpu->gpr[reg] = (cpu->gpr[reg] & ~0xffffull) | (uint16_t)value;
	else
		cpu->gpr[reg] = size == 4 ? (uint32_t)value : value;
}

/* The value of a push, or the target of an indirect call or jump. */
static bool operand_value(struct vcpu *cpu, uint64_t *value, unsigned size)
{
	const struct insn *in = &cpu->insn;

	*value = 0;
	if (in->has_mem)
		return soft_read(cpu, soft_ea(cpu), value, size, cpu->cpl == 3);
	*value = cpu->gpr[in->rm];
	return true;
}

static bool step_push(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t value;

	if (in->map == 1)
		value = cpu->seg[in->opcode == 0xa0 ? SEG_FS : SEG_GS].selector;
	else if (in->opcode == 0x68 || in->opcode == 0x6a)
		value = (uint64_t)in->imm;
	else if (!operand_value(cpu, &value, in->op_size))
		return false;
	return push(cpu, value, in->op_size);
}

static bool step_pop(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t value = 0, rsp = cpu->gpr[RSP];

	if (!soft_read(cpu, rsp, &value, in->op_size, cpu->cpl == 3))
		return false;
	cpu->gpr[RSP] = rsp + in->op_size; /* the address of pop m is computed after this */
	if (!in->has_mem) {
		set_gpr(cpu, in->rm, value, in->op_size);
		return true;
	}
	if (soft_write(cpu, soft_ea(cpu), &value, in->op_size, cpu->cpl == 3))
		return true;
	cpu->gpr[RSP] = rsp;
	return false;
}

static bool step_enter(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	unsigned size = in->op_size, level = (unsigned)(in->imm >> 16) & 31;
	uint64_t rsp = cpu->gpr[RSP], rbp = cpu->gpr[RBP], frame, value = rbp;
	bool user = cpu->cpl == 3;

	rsp -= size;
	if (!soft_write(cpu, rsp, &value, size, user))
		return false;
	frame = rsp;
	for (unsigned i = 1; i < level; i++) {
		rbp -= size;
		rsp -= size;
		value = 0;
		if (!soft_read(cpu, rbp, &value, size, user) ||
			!soft_write(cpu, rsp, &value, size, user))
			return false;
	}
	if (level) {
		rsp -= size;
		if (!soft_write(cpu, rsp, &frame, size, user))
			return false;
	}
	rsp -= (uint16_t)in->imm;
	if (!soft_probe(cpu, rsp, 1, ACCESS_WRITE, user))
		return false;
	set_gpr(cpu, RBP, frame, size);
	cpu->gpr[RSP] = rsp;
	return true;
}

static bool step_leave(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t value = 0, rbp = cpu->gpr[RBP];

	if (!soft_read(cpu, rbp, &value, in->op_size, cpu->cpl == 3))
		return false;
	cpu->gpr[RSP] = rbp + in->op_size;
	set_gpr(cpu, RBP, value, in->op_size);
	return true;
}

static bool condition(uint64_t flags, unsigned cc)
{
	bool cf = flags & FLAG_CF, zf = flags & FLAG_ZF, sf = flags & FLAG_SF, of = flags & FLAG_OF;
	bool v;

	switch (cc >> 1) {
	case 0:
		v = of;
		break;
	case 1:
		v = cf;
		break;
	case 2:
		v = zf;
		break;
	case 3:
		v = cf || zf;
		break;
	case 4:
		v = sf;
		break;
	case 5:
		v = flags & FLAG_PF;
		break;
	case 6:
		v = sf != of;
		break;
	default:
		v = zf || sf != of;
	}
	return v != (cc & 1);
}

static bool step_loop(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t count = cpu->gpr[RCX];
	bool zf = cpu->flags & FLAG_ZF, taken;

	if (in->opcode != 0xe3) {
		count--;
		set_gpr(cpu, RCX, in->addr_size == 4 ? (uint32_t)count : count, 8);
	}
	if (in->addr_size == 4)
		count = (uint32_t)count;
	switch (in->opcode) {
	case 0xe0:
		taken = count && !zf;
		break;
	case 0xe1:
		taken = count && zf;
		break;
	case 0xe2:
		taken = count;
		break;
	default:
		taken = !count;
	}
	if (taken)
		cpu->next_rip += (uint64_t)in->imm;
	return true;
}

static bool step_branch(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t target = 0;

	switch (in->class) {
	case INSN_CALL:
		target = cpu->next_rip + (uint64_t)in->imm;
		if (!push(cpu, cpu->next_rip, 8))
			return false;
		break;
	case INSN_CALL_IND:
		if (!operand_value(cpu, &target, 8))
			return false;
		if (!soft_canonical(target))
			return soft_raise_error(cpu, EXC_GP, 0);
		if (!push(cpu, cpu->next_rip, 8))
			return false;
		break;
	case INSN_JMP_IND:
		if (!operand_value(cpu, &target, 8))
			return false;
		break;
	case INSN_RET:
		if (!soft_read_u64(cpu, cpu->gpr[RSP], &target, cpu->cpl == 3))
			return false;
		break;
	case INSN_JMP:
		target = cpu->next_rip + (uint64_t)in->imm;
		break;
	default:
		target = cpu->next_rip;
		if (condition(cpu->flags, in->opcode & 15))
			target += (uint64_t)in->imm;
	}
	if (!soft_canonical(target))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (in->class == INSN_RET)
		cpu->gpr[RSP] += 8 + (in->imm_size ? (uint16_t)in->imm : 0);
	cpu->next_rip = target;
	return true;
}

static bool execute(struct vcpu *cpu, const uint8_t *bytes)
{
	switch ((enum insn_class)cpu->insn.class) {
	case INSN_COPY:
		return cpu->insn.has_mem ? run_memory(cpu, bytes) : run_thunk(cpu, bytes, NULL);
	case INSN_LEA:
		set_gpr(cpu, cpu->insn.reg,
			soft_ea(cpu) - (cpu->insn.segment ? cpu->seg_base[cpu->insn.segment] : 0),
			cpu->insn.op_size);
		return true;
	case INSN_NOP:
		return true;
	case INSN_PUSH:
		return step_push(cpu);
	case INSN_POP:
		return step_pop(cpu);
	case INSN_ENTER:
		return step_enter(cpu);
	case INSN_LEAVE:
		return step_leave(cpu);
	case INSN_LOOP:
		return step_loop(cpu);
	case INSN_CALL:
	case INSN_CALL_IND:
	case INSN_RET:
	case INSN_JMP:
	case INSN_JMP_IND:
	case INSN_JCC:
		return step_branch(cpu);
	case INSN_UNDEFINED:
		return soft_raise(cpu, EXC_UD);
	case INSN_STRING:
	case INSN_SYSTEM:
	case INSN_PUSHF:
	case INSN_POPF:
		break;
	}
	return soft_raise(cpu, EXC_UD);
}

/* #GP for an address that is not canonical is #SS where the stack segment is used. */
static void stack_fault(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	bool implicit = (in->class >= INSN_PUSH && in->class <= INSN_RET) ||
			in->system == SYS_CALL_FAR || in->system == SYS_RETF ||
			in->system == SYS_IRET;

	if (cpu->fault.vector != EXC_GP || !cpu->fault.address)
		return;
	if (in->has_mem && (!implicit || cpu->fault.address - soft_ea(cpu) < 16))
		implicit = !in->segment && (in->base == RSP || in->base == RBP);
	if (implicit)
		cpu->fault.vector = EXC_SS;
}

static bool execute_any(struct vcpu *cpu, const uint8_t *bytes)
{
	const struct insn *in = &cpu->insn;

	if (in->class == INSN_SYSTEM || in->class == INSN_PUSHF || in->class == INSN_POPF)
		return soft_system(cpu);
	if (in->class == INSN_STRING)
		return soft_string(cpu);
	if (!unit_enabled(soft_units(cpu), in) && !sys_unit_ready(cpu))
		return false;
	if (!execute(cpu, bytes))
		return false;
	cpu->rip = cpu->next_rip;
	return true;
}

bool soft_execute(struct vcpu *cpu, const uint8_t *bytes)
{
	bool done = execute_any(cpu, bytes);

	if (!done)
		stack_fault(cpu);
	return done;
}

bool soft_step(struct vcpu *cpu)
{
	uint8_t bytes[INSN_MAX_LEN];

	return soft_fetch(cpu, bytes) && soft_execute(cpu, bytes);
}
