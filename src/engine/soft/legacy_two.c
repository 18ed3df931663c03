/* SPDX-License-Identifier: MIT */
/*
 * 0F opcodes of the 16- and 32-bit interpreter: system instructions, bits, conditional moves and
 * the like. Intel SDM volume 2, appendix A.
 */
#include "engine/soft/legacy.h"

/*
 * --- system
 * ------------------------------------------------------------------------------------------
 */

/* An instruction that is the same in 64-bit mode; its operand is a register, or memory at ea. */
static bool same_as_long(struct legacy *l, enum insn_system system)
{
	struct insn *in = &l->cpu->insn;

	for (unsigned i = 0; i < sizeof(*in); i++)
		((volatile uint8_t *)in)[i] = 0;
	in->class = INSN_SYSTEM;
	in->system = (uint8_t)system;
	in->op_size = l->size;
	in->addr_size = 8;
	in->reg = l->reg;
	in->rm = l->rm;
	in->has_mem = l->mem;
	in->base = in->index = REG_NONE;
	in->disp = l->mem ? legacy_linear(l, l->ea_seg, l->ea) : 0;
	l->cpu->next_rip = l->ip;
	return soft_system(l->cpu);
}

/* 0f 00: sldt, str, lldt, ltr, verr, verw */
static bool group6(struct legacy *l)
{
	static const uint8_t system[] = { SYS_SLDT, SYS_STR, SYS_LLDT, SYS_LTR, SYS_VERR,
		SYS_VERW };

	if (!legacy_modrm(l))
		return false;
	if (l->reg >= ARRAY_SIZE(system) || !(l->cpu->cr0 & CR0_PE))
		return legacy_undefined(l);
	return same_as_long(l, system[l->reg]);
}

static bool load_table(struct legacy *l, struct cpu_table *table)
{
	uint32_t limit, base;

	if (!legacy_load(l, l->ea_seg, l->ea, 2, &limit) ||
		!legacy_load(l, l->ea_seg, l->ea + 2, 4, &base))
		return false;
	table->limit = (uint16_t)limit;
	table->base = l->size == 2 ? base & 0xffffff : base;
	return true;
}

static bool store_table(struct legacy *l, const struct cpu_table *table)
{
	return legacy_store(l, l->ea_seg, l->ea, 2, table->limit) &&
	       legacy_store(l, l->ea_seg, l->ea + 2, 4, (uint32_t)table->base);
}

/* 0f 01: sgdt, sidt, lgdt, lidt, smsw, lmsw, invlpg */
static bool group7(struct legacy *l)
{
	struct vcpu *cpu = l->cpu;
	uint32_t value;

	if (!legacy_modrm(l))
		return false;
	if (!l->mem && l->reg != 4 && l->reg != 6)
		return legacy_undefined(l);
	switch (l->reg) {
	case 0:
		return store_table(l, &cpu->gdt);
	case 1:
		return store_table(l, &cpu->idt);
	case 2:
		return load_table(l, &cpu->gdt);
	case 3:
		return load_table(l, &cpu->idt);
	case 4:
		return legacy_put_rm(l, l->mem ? 2 : l->size, (uint32_t)cpu->cr0);
	case 6:
		return legacy_get_rm(l, 2, &value) &&
		       soft_set_cr0(cpu, (cpu->cr0 & ~0xeull) | (value & 0xf));
	case 7:
		soft_tlb_invlpg(cpu, legacy_linear(l, l->ea_seg, l->ea));
		return true;
	default:
		return legacy_undefined(l);
	}
}

/* 0f 20..23; ModRM names registers whatever its mod says */
static bool move_control(struct legacy *l, uint8_t opcode)
{
	static const uint8_t system[] = { SYS_MOV_FROM_CR, SYS_MOV_FROM_DR, SYS_MOV_TO_CR,
		SYS_MOV_TO_DR };
	uint64_t *gpr;
	uint8_t modrm;

	if (!legacy_fetch(l, &modrm, 1))
		return false;
	l->reg = modrm >> 3 & 7;
	l->rm = modrm & 7;
	gpr = &l->cpu->gpr[l->rm];
	*gpr = (uint32_t)*gpr;
	if (!same_as_long(l, system[opcode & 3]))
		return false;
	*gpr = (uint32_t)*gpr;
	return true;
}

static bool system_opcode(struct legacy *l, uint8_t opcode)
{
	switch (opcode) {
	case 0x00:
		return group6(l);
	case 0x01:
		return group7(l);
	case 0x06:
		return same_as_long(l, SYS_CLTS);
	case 0x08:
	case 0x09:
		return true; /* invd, wbinvd: there are no caches to see */
	case 0x20 ... 0x23:
		return move_control(l, opcode);
	case 0x30:
		return same_as_long(l, SYS_WRMSR);
	case 0x31:
		return same_as_long(l, SYS_RDTSC);
	case 0x32:
		return same_as_long(l, SYS_RDMSR);
	default:
		return same_as_long(l, SYS_CPUID);
	}
}

/*
 * --- bits
 * --------------------------------------------------------------------------------------------
 */

/* bt, bts, btr, btc */
static bool bit_test(struct legacy *l, unsigned op, uint32_t bit)
{
	uint32_t value, mask = 1u << (bit & (8u * l->size - 1));
	uint64_t flags = l->cpu->flags & ~(uint64_t)FLAG_CF;

	if (!(op ? legacy_begin_rm(l, l->size, &value) : legacy_get_rm(l, l->size, &value)))
		return false;
	if (value & mask)
		flags |= FLAG_CF;
	if (op == 1)
		value |= mask;
	else if (op == 2)
		value &= ~mask;
	else
		value ^= mask;
	if (op && !legacy_put_rm(l, l->size, value))
		return false;
	legacy_set_flags(l, flags);
	return true;
}

/* 0f a3, ab, b3, bb: the register also moves the address of a memory operand. */
static bool bit_test_reg(struct legacy *l, uint8_t opcode)
{
	int32_t bit;

	if (!legacy_modrm(l))
		return false;
	bit = (int32_t)legacy_reg(l, l->reg, l->size);
	if (l->size == 2)
		bit = (int16_t)bit;
	if (l->mem) {
		l->ea += (uint32_t)((bit >> (l->size == 2 ? 4 : 5)) * l->size);
		if (l->addr == 2)
			l->ea &= 0xffff;
	}
	return bit_test(l, opcode >> 3 & 3, (uint32_t)bit);
}

/* 0f ba */
static bool group8(struct legacy *l)
{
	uint32_t bit;

	if (!legacy_modrm(l) || !legacy_imm(l, 1, &bit))
		return false;
	return l->reg >= 4 ? bit_test(l, l->reg & 3, bit) : legacy_undefined(l);
}

/* 0f a4, a5, ac, ad */
static bool shift_double(struct legacy *l, uint8_t opcode)
{
	uint32_t count = legacy_reg(l, CPU_RCX, 1), a;
	uint64_t flags = l->cpu->flags;

	if (!legacy_modrm(l) || (!(opcode & 1) && !legacy_imm(l, 1, &count)) ||
		!legacy_get_rm(l, l->size, &a))
		return false;
	a = alu_shift_double(opcode & 8, l->size, a, legacy_reg(l, l->reg, l->size), count, &flags);
	if (!legacy_put_rm(l, l->size, a))
		return false;
	legacy_set_flags(l, flags);
	return true;
}

/*
 * --- operations on a register and an operand
 * ---------------------------------------------------------
 */

/* 0f b0, b1, c0, c1 */
static bool exchange_add(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint64_t flags = l->cpu->flags;
	uint32_t old, b;
	bool equal;

	if (!legacy_modrm(l) || !legacy_begin_rm(l, size, &old))
		return false;
	b = legacy_reg(l, l->reg, size);
	if (opcode >= 0xc0) {
		uint32_t sum = alu_binary(ALU_ADD, size, old, b, &flags);

		/* Of two operands in one register the sum stays. */
		if (!l->mem)
			legacy_set_reg(l, l->reg, size, old);
		if (!legacy_put_rm(l, size, sum))
			return false;
		if (l->mem)
			legacy_set_reg(l, l->reg, size, old);
	} else {
		alu_binary(ALU_CMP, size, legacy_reg(l, CPU_RAX, size), old, &flags);
		equal = flags & FLAG_ZF;
		if (!legacy_put_rm(l, size, equal ? b : old))
			return false;
		if (!equal)
			legacy_set_reg(l, CPU_RAX, size, old);
	}
	legacy_set_flags(l, flags);
	return true;
}

/* movzx, movsx: 0f b6, b7, be, bf */
static bool move_extend(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? 2 : 1;
	uint32_t value;

	if (!legacy_modrm(l) || !legacy_get_rm(l, size, &value))
		return false;
	if (opcode & 8)
		value = size == 1 ? (uint32_t)(int8_t)value : (uint32_t)(int16_t)value;
	legacy_set_reg(l, l->reg, l->size, value);
	return true;
}

/* lss, lfs, lgs: 0f b2, b4, b5 */
static bool load_far(struct legacy *l, uint8_t opcode)
{
	uint32_t offset, selector;

	if (!legacy_modrm(l))
		return false;
	if (!l->mem)
		return legacy_undefined(l);
	if (!legacy_load(l, l->ea_seg, l->ea, l->size, &offset) ||
		!legacy_load(l, l->ea_seg, l->ea + l->size, 2, &selector) ||
		!legacy_load_segment(l, opcode & 7, (uint16_t)selector))
		return false;
	legacy_set_reg(l, l->reg, l->size, offset);
	return true;
}

/* cmov, imul, bsf, bsr: 0f 40..4f, af, bc, bd */
static bool reg_rm(struct legacy *l, uint8_t opcode)
{
	uint64_t flags = l->cpu->flags;
	uint32_t old, value;

	if (!legacy_modrm(l) || !legacy_get_rm(l, l->size, &value))
		return false;
	old = legacy_reg(l, l->reg, l->size);
	if (opcode == 0xaf)
		value = alu_imul(l->size, old, value, &flags);
	else if (opcode >= 0xbc)
		value = alu_scan(opcode & 1, value, old, &flags);
	else if (!alu_condition(opcode & 15, flags))
		value = old;
	legacy_set_reg(l, l->reg, l->size, value);
	legacy_set_flags(l, flags);
	return true;
}

/* push and pop of fs and gs: 0f a0, a1, a8, a9 */
static bool stack_segment(struct legacy *l, uint8_t opcode)
{
	unsigned seg = opcode & 8 ? SEG_GS : SEG_FS;
	uint32_t selector;

	if (!(opcode & 1))
		return legacy_push(l, l->size, l->cpu->seg[seg].selector);
	return legacy_pop(l, l->size, &selector) && legacy_load_segment(l, seg, (uint16_t)selector);
}

static bool jump_near(struct legacy *l, bool taken)
{
	uint32_t disp;

	if (!legacy_simm(l, l->size, &disp))
		return false;
	if (taken)
		l->ip = l->size == 2 ? (uint16_t)(l->ip + disp) : l->ip + disp;
	return true;
}

bool legacy_two_byte(struct legacy *l)
{
	uint8_t opcode;

	if (!legacy_fetch(l, &opcode, 1))
		return false;
	switch (opcode) {
	case 0x00:
	case 0x01:
	case 0x06:
	case 0x08:
	case 0x09:
	case 0x20 ... 0x23:
	case 0x30 ... 0x32:
	case 0xa2:
		return system_opcode(l, opcode);
	case 0x0d: /* prefetches, endbr32, nop with an operand */
	case 0x18 ... 0x1f:
		return legacy_modrm(l);
	case 0x40 ... 0x4f:
	case 0xaf:
	case 0xbc:
	case 0xbd:
		return reg_rm(l, opcode);
	case 0x80 ... 0x8f:
		return jump_near(l, alu_condition(opcode & 15, l->cpu->flags));
	case 0x90 ... 0x9f:
		return legacy_modrm(l) &&
		       legacy_put_rm(l, 1, alu_condition(opcode & 15, l->cpu->flags));
	case 0xa0:
	case 0xa1:
	case 0xa8:
	case 0xa9:
		return stack_segment(l, opcode);
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb:
		return bit_test_reg(l, opcode);
	case 0xa4:
	case 0xa5:
	case 0xac:
	case 0xad:
		return shift_double(l, opcode);
	case 0xb0:
	case 0xb1:
	case 0xc0:
	case 0xc1:
		return exchange_add(l, opcode);
	case 0xb2:
	case 0xb4:
	case 0xb5:
		return load_far(l, opcode);
	case 0xb6:
	case 0xb7:
	case 0xbe:
	case 0xbf:
		return move_extend(l, opcode);
	case 0xba:
		return group8(l);
	case 0xc8 ... 0xcf:
		legacy_set_reg(l, opcode & 7, 4, __builtin_bswap32(legacy_reg(l, opcode & 7, 4)));
		return true;
	default:
		return legacy_undefined(l);
	}
}
