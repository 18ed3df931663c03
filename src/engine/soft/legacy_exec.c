/* SPDX-License-Identifier: MIT */
/* One-byte opcodes of the 16- and 32-bit interpreter: Intel SDM volume 2, appendix A. */
#include "engine/soft/legacy.h"

/* A far pointer in memory: offset, then selector. */
static bool far_pointer(struct legacy *l, uint32_t *offset, uint32_t *selector)
{
	if (!l->mem)
		return legacy_undefined(l);
	return legacy_load(l, l->ea_seg, l->ea, l->size, offset) &&
	       legacy_load(l, l->ea_seg, l->ea + l->size, 2, selector);
}

static void jump(struct legacy *l, uint32_t target)
{
	l->ip = l->size == 2 ? (uint16_t)target : target;
}

static bool jump_relative(struct legacy *l, unsigned size, bool taken)
{
	uint32_t disp;

	if (!legacy_simm(l, size, &disp))
		return false;
	if (taken)
		jump(l, l->ip + disp);
	return true;
}

/* fe, ff: inc, dec, call, jmp, push */
static bool group5(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint32_t a, selector;

	if (!legacy_modrm(l))
		return false;
	if (l->reg < 2)
		return legacy_step_rm(l, l->reg ? ALU_DEC : ALU_INC, size);
	if (opcode == 0xfe || l->reg == 7)
		return legacy_undefined(l);
	if (l->reg == 3 || l->reg == 5) {
		if (!far_pointer(l, &a, &selector))
			return false;
		return l->reg == 3 ? legacy_far_call(l, (uint16_t)selector, a)
				   : legacy_far_jump(l, (uint16_t)selector, a);
	}
	if (!legacy_get_rm(l, size, &a))
		return false;
	if (l->reg == 6)
		return legacy_push(l, size, a);
	if (l->reg == 2 && !legacy_push(l, size, l->ip))
		return false;
	jump(l, a);
	return true;
}

/* e0..e3: loopne, loope, loop, jcxz */
static bool loop(struct legacy *l, uint8_t opcode)
{
	uint32_t count = legacy_reg(l, CPU_RCX, l->addr);
	bool zero = l->cpu->flags & FLAG_ZF;

	if (opcode == 0xe3)
		return jump_relative(l, 1, count == 0);
	if (!jump_relative(l, 1, count != 1 && (opcode == 0xe2 || zero == (opcode == 0xe1))))
		return false;
	legacy_set_reg(l, CPU_RCX, l->addr, count - 1);
	return true;
}

/* call, jmp, ret, far and near; int, iret */
static bool flow(struct legacy *l, uint8_t opcode)
{
	uint32_t a, b = 0;
	unsigned wide = legacy_stack_size(l);

	switch (opcode) {
	case 0x9a:
	case 0xea:
		if (!legacy_imm(l, l->size, &a) || !legacy_imm(l, 2, &b))
			return false;
		return opcode == 0x9a ? legacy_far_call(l, (uint16_t)b, a)
				      : legacy_far_jump(l, (uint16_t)b, a);
	case 0xc2:
	case 0xc3:
		if ((opcode == 0xc2 && !legacy_imm(l, 2, &b)) || !legacy_pop(l, l->size, &a))
			return false;
		legacy_set_reg(l, CPU_RSP, wide, legacy_reg(l, CPU_RSP, wide) + b);
		jump(l, a);
		return true;
	case 0xca:
	case 0xcb:
		if (opcode == 0xca && !legacy_imm(l, 2, &b))
			return false;
		return legacy_far_return(l, b);
	case 0xcc:
		return legacy_int(l, EXC_BP);
	case 0xcd:
		return legacy_imm(l, 1, &a) && legacy_int(l, a);
	case 0xcf:
		return legacy_iret(l);
	case 0xe8:
		if (!legacy_simm(l, l->size, &a) || !legacy_push(l, l->size, l->ip))
			return false;
		jump(l, l->ip + a);
		return true;
	case 0xe9:
	case 0xeb:
		return jump_relative(l, opcode == 0xeb ? 1 : l->size, true);
	default:
		return loop(l, opcode);
	}
}

/* e4..e7, ec..ef */
static bool port(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint32_t number = legacy_reg(l, CPU_RDX, 2);

	if (!(opcode & 8) && !legacy_imm(l, 1, &number))
		return false;
	if (opcode & 2)
		soft_board_write(l->cpu, true, number, size, legacy_reg(l, CPU_RAX, size));
	else
		legacy_set_reg(l, CPU_RAX, size,
			(uint32_t)soft_board_read(l->cpu, true, number, size));
	return true;
}

/* 98, 99, 9e, 9f */
static void extend(struct legacy *l, uint8_t opcode)
{
	uint32_t a = legacy_reg(l, CPU_RAX, l->size);
	struct vcpu *cpu = l->cpu;

	switch (opcode) {
	case 0x98:
		a = l->size == 2 ? (uint32_t)(int8_t)a : (uint32_t)(int16_t)a;
		legacy_set_reg(l, CPU_RAX, l->size, a);
		break;
	case 0x99:
		legacy_set_reg(l, CPU_RDX, l->size, a >> (8 * l->size - 1) ? UINT32_MAX : 0);
		break;
	case 0x9e:
		cpu->flags = (cpu->flags & ~0xd5ull) | (legacy_reg(l, 4, 1) & 0xd5);
		break;
	default:
		legacy_set_reg(l, 4, 1, (uint32_t)(cpu->flags & 0xd5) | 2);
		break;
	}
}

/* Flags, halt. */
static bool control(struct legacy *l, uint8_t opcode)
{
	struct vcpu *cpu = l->cpu;

	switch (opcode) {
	case 0xf4:
		cpu->mp = CPU_MP_HALTED;
		return true;
	case 0xf5:
		cpu->flags ^= FLAG_CF;
		return true;
	case 0xf8:
		cpu->flags &= ~(uint64_t)FLAG_CF;
		return true;
	case 0xf9:
		cpu->flags |= FLAG_CF;
		return true;
	case 0xfa:
		cpu->sysflags &= ~(uint64_t)FL_IF;
		return true;
	case 0xfb:
		cpu->shadow |= !(cpu->sysflags & FL_IF);
		cpu->sysflags |= FL_IF;
		return true;
	case 0xfc:
		cpu->flags &= ~(uint64_t)FLAG_DF;
		return true;
	default:
		cpu->flags |= FLAG_DF;
		return true;
	}
}

static void exchange_reg(struct legacy *l, unsigned reg)
{
	uint32_t a = legacy_reg(l, CPU_RAX, l->size);

	legacy_set_reg(l, CPU_RAX, l->size, legacy_reg(l, reg, l->size));
	legacy_set_reg(l, reg, l->size, a);
}

static bool high_half(struct legacy *l, uint8_t opcode)
{
	switch (opcode) {
	case 0x9a:
	case 0xc2:
	case 0xc3:
	case 0xca:
	case 0xcb:
	case 0xcc:
	case 0xcd:
	case 0xcf:
	case 0xe0 ... 0xe3:
	case 0xe8 ... 0xeb:
		return flow(l, opcode);
	case 0x98:
	case 0x99:
	case 0x9e:
	case 0x9f:
		extend(l, opcode);
		return true;
	case 0x9c:
	case 0x9d:
	case 0xc8:
	case 0xc9:
		return legacy_stack(l, opcode);
	case 0x90 ... 0x97: /* 90: nop, and with F3 pause */
		exchange_reg(l, opcode & 7);
		return true;
	case 0xa0 ... 0xa3:
	case 0xb0 ... 0xbf:
	case 0xc6:
	case 0xc7:
		return legacy_move(l, opcode);
	case 0xa4 ... 0xa7:
	case 0xaa ... 0xaf:
		return legacy_string(l, opcode);
	case 0xa8:
	case 0xa9:
	case 0xc0:
	case 0xc1:
	case 0xd0 ... 0xd3:
	case 0xf6:
	case 0xf7:
		return legacy_arithmetic(l, opcode);
	case 0xe4 ... 0xe7:
	case 0xec ... 0xef:
		return port(l, opcode);
	case 0xf4:
	case 0xf5:
	case 0xf8 ... 0xfd:
		return control(l, opcode);
	case 0xfe:
	case 0xff:
		return group5(l, opcode);
	default:
		return legacy_undefined(l);
	}
}

bool legacy_exec(struct legacy *l, uint8_t opcode)
{
	switch (opcode) {
	case 0x0f:
		return legacy_two_byte(l);
	case 0x06:
	case 0x07:
	case 0x0e:
	case 0x16:
	case 0x17:
	case 0x1e:
	case 0x1f:
	case 0x50 ... 0x61:
	case 0x68:
	case 0x6a:
	case 0x8f:
		return legacy_stack(l, opcode);
	case 0x27: /* daa, das, aaa, aas */
	case 0x2f:
	case 0x37:
	case 0x3f:
	case 0x62 ... 0x67:
	case 0x6c ... 0x6f:
		return legacy_undefined(l);
	case 0x70 ... 0x7f:
		return jump_relative(l, 1, alu_condition(opcode & 15, l->cpu->flags));
	case 0x86 ... 0x8e:
		return legacy_move(l, opcode);
	default:
		return opcode < 0x90 ? legacy_arithmetic(l, opcode) : high_half(l, opcode);
	}
}
