/* SPDX-License-Identifier: MIT */
/* Moves and stack opcodes of the 16- and 32-bit interpreter: Intel SDM volume 2. */
#include "engine/soft/legacy.h"

static bool push_all(struct legacy *l)
{
	uint32_t sp = legacy_reg(l, CPU_RSP, l->size);

	for (unsigned reg = 0; reg < 8; reg++)
		if (!legacy_push(l, l->size, reg == CPU_RSP ? sp : legacy_reg(l, reg, l->size)))
			return false;
	return true;
}

static bool pop_all(struct legacy *l)
{
	uint32_t value[8];

	for (unsigned i = 0; i < 8; i++)
		if (!legacy_pop(l, l->size, &value[7 - i]))
			return false;
	for (unsigned reg = 0; reg < 8; reg++)
		if (reg != CPU_RSP)
			legacy_set_reg(l, reg, l->size, value[reg]);
	return true;
}

static bool pop_flags(struct legacy *l)
{
	uint64_t mask = FL_ARITH_DF | FL_TF | FL_IF | FL_IOPL | FL_NT | FL_AC | FL_ID;
	uint32_t value;

	if (!legacy_pop(l, l->size, &value))
		return false;
	soft_set_rflags(l->cpu, value, l->size == 2 ? mask & 0xffff : mask);
	l->cpu->sysflags &= ~(uint64_t)FL_RF;
	return true;
}

/* 86..8e, b0..bf, c6, c7, a0..a3 */
bool legacy_move(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint32_t value;

	if ((opcode & 0xfc) == 0xa0) {
		uint32_t offset;
		unsigned seg = l->segment == SEG_COUNT ? SEG_DS : l->segment;

		if (!legacy_imm(l, l->addr, &offset))
			return false;
		if (opcode & 2)
			return legacy_store(l, seg, offset, size, legacy_reg(l, CPU_RAX, size));
		if (!legacy_load(l, seg, offset, size, &value))
			return false;
		legacy_set_reg(l, CPU_RAX, size, value);
		return true;
	}
	if ((opcode & 0xf0) == 0xb0) {
		size = opcode & 8 ? l->size : 1;
		if (!legacy_imm(l, size, &value))
			return false;
		legacy_set_reg(l, opcode & 7, size, value);
		return true;
	}
	if (!legacy_modrm(l))
		return false;
	switch (opcode) {
	case 0x86:
	case 0x87:
		l->lock = true; /* xchg always is */
		if (!legacy_begin_rm(l, size, &value) ||
			!legacy_put_rm(l, size, legacy_reg(l, l->reg, size)))
			return false;
		break;
	case 0x88:
	case 0x89:
		return legacy_put_rm(l, size, legacy_reg(l, l->reg, size));
	case 0x8a:
	case 0x8b:
		if (!legacy_get_rm(l, size, &value))
			return false;
		break;
	case 0x8c:
		if (l->reg > SEG_GS)
			return legacy_undefined(l);
		return legacy_put_rm(l, l->mem ? 2 : l->size, l->cpu->seg[l->reg].selector);
	case 0x8d:
		if (!l->mem)
			return legacy_undefined(l);
		size = l->size;
		value = l->ea;
		break;
	case 0x8e:
		if (l->reg > SEG_GS || l->reg == SEG_CS)
			return legacy_undefined(l);
		return legacy_get_rm(l, 2, &value) &&
		       legacy_load_segment(l, l->reg, (uint16_t)value);
	default:
		if (l->reg)
			return legacy_undefined(l);
		return legacy_imm(l, size, &value) && legacy_put_rm(l, size, value);
	}
	legacy_set_reg(l, l->reg, size, value);
	return true;
}

/* Frames of nested procedures, which no compiler makes, are not supported. */
static bool enter(struct legacy *l)
{
	unsigned wide = legacy_stack_size(l);
	uint32_t room, level;

	if (!legacy_imm(l, 2, &room) || !legacy_imm(l, 1, &level))
		return false;
	if (level & 31)
		return legacy_undefined(l);
	if (!legacy_push(l, l->size, legacy_reg(l, CPU_RBP, l->size)))
		return false;
	legacy_set_reg(l, CPU_RBP, l->size, legacy_reg(l, CPU_RSP, l->size));
	legacy_set_reg(l, CPU_RSP, wide, legacy_reg(l, CPU_RSP, wide) - room);
	return true;
}

/* push and pop in all their forms, enter, leave */
bool legacy_stack(struct legacy *l, uint8_t opcode)
{
	unsigned size;
	uint32_t value;

	switch (opcode) {
	case 0x60:
		return push_all(l);
	case 0x61:
		return pop_all(l);
	case 0x68:
		return legacy_imm(l, l->size, &value) && legacy_push(l, l->size, value);
	case 0x6a:
		return legacy_simm(l, 1, &value) && legacy_push(l, l->size, value);
	case 0x8f: /* an address of esp is that after the pop */
		return legacy_pop(l, l->size, &value) && legacy_modrm(l) &&
		       (l->reg ? legacy_undefined(l) : legacy_put_rm(l, l->size, value));
	case 0x9c:
		return legacy_push(l, l->size, soft_rflags(l->cpu) & ~(uint32_t)(FL_RF | FL_VM));
	case 0x9d:
		return pop_flags(l);
	case 0xc8:
		return enter(l);
	case 0xc9:
		size = legacy_stack_size(l);
		legacy_set_reg(l, CPU_RSP, size, legacy_reg(l, CPU_RBP, size));
		if (!legacy_pop(l, l->size, &value))
			return false;
		legacy_set_reg(l, CPU_RBP, l->size, value);
		return true;
	default:
		break;
	}
	if ((opcode & 0xf8) == 0x50)
		return legacy_push(l, l->size, legacy_reg(l, opcode & 7, l->size));
	if ((opcode & 0xf8) == 0x58) {
		if (!legacy_pop(l, l->size, &value))
			return false;
		legacy_set_reg(l, opcode & 7, l->size, value);
		return true;
	}
	if (opcode & 1)
		return legacy_pop(l, l->size, &value) &&
		       legacy_load_segment(l, opcode >> 3, (uint16_t)value);
	return legacy_push(l, l->size, l->cpu->seg[opcode >> 3].selector);
}
