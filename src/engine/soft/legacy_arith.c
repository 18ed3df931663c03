/* SPDX-License-Identifier: MIT */
/* Arithmetic opcodes of the 16- and 32-bit interpreter: Intel SDM volume 2. */
#include "engine/soft/legacy.h"

/* add or adc sbb and sub xor cmp, of *to and b; the result goes through put_rm or into reg. */
static bool arithmetic_rm(struct legacy *l, unsigned op, unsigned size, uint32_t b)
{
	uint64_t flags = l->cpu->flags;
	uint32_t a;

	if (!(op == ALU_CMP ? legacy_get_rm(l, size, &a) : legacy_begin_rm(l, size, &a)))
		return false;
	a = alu_binary(op, size, a, b, &flags);
	if (op != ALU_CMP && !legacy_put_rm(l, size, a))
		return false;
	legacy_set_flags(l, flags);
	return true;
}

static void arithmetic_reg(struct legacy *l, unsigned op, unsigned size, unsigned reg, uint32_t b)
{
	uint64_t flags = l->cpu->flags;
	uint32_t a = alu_binary(op, size, legacy_reg(l, reg, size), b, &flags);

	if (op != ALU_CMP)
		legacy_set_reg(l, reg, size, a);
	legacy_set_flags(l, flags);
}

/* 00..3f but for the columns 6 and 7. */
static bool arithmetic(struct legacy *l, uint8_t opcode)
{
	unsigned op = opcode >> 3, size = opcode & 1 ? l->size : 1;
	uint32_t b;

	if (opcode & 4) {
		if (!legacy_imm(l, size, &b))
			return false;
		arithmetic_reg(l, op, size, CPU_RAX, b);
		return true;
	}
	if (!legacy_modrm(l))
		return false;
	if (!(opcode & 2))
		return arithmetic_rm(l, op, size, legacy_reg(l, l->reg, size));
	if (!legacy_get_rm(l, size, &b))
		return false;
	arithmetic_reg(l, op, size, l->reg, b);
	return true;
}

/* 80..83 */
static bool arithmetic_imm(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint32_t b;

	return legacy_modrm(l) && legacy_simm(l, opcode == 0x81 ? size : 1, &b) &&
	       arithmetic_rm(l, l->reg, size, b);
}

bool legacy_step_rm(struct legacy *l, unsigned op, unsigned size)
{
	uint64_t flags = l->cpu->flags;
	uint32_t a;

	if (!legacy_begin_rm(l, size, &a))
		return false;
	a = alu_unary(op, size, a, &flags);
	if (!legacy_put_rm(l, size, a))
		return false;
	legacy_set_flags(l, flags);
	return true;
}

/* c0, c1, d0..d3 */
static bool shift(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint32_t count = 1, a;
	uint64_t flags = l->cpu->flags;

	if (!legacy_modrm(l))
		return false;
	if (opcode < 0xd0 && !legacy_imm(l, 1, &count))
		return false;
	if (opcode >= 0xd2)
		count = legacy_reg(l, CPU_RCX, 1);
	if (!legacy_get_rm(l, size, &a))
		return false;
	a = alu_shift(l->reg, size, a, count, &flags);
	if (!legacy_put_rm(l, size, a))
		return false;
	legacy_set_flags(l, flags);
	return true;
}

static void set_carry(struct legacy *l, bool carry)
{
	legacy_set_flags(l,
		(l->cpu->flags & ~(uint64_t)(FLAG_CF | FLAG_OF)) | (carry ? FLAG_CF | FLAG_OF : 0));
}

/* rdx:rax, dx:ax or ax from one 2 * size bytes wide value. */
static void set_wide(struct legacy *l, unsigned size, uint64_t value)
{
	if (size == 1) {
		legacy_set_reg(l, CPU_RAX, 2, (uint32_t)value);
		return;
	}
	legacy_set_reg(l, CPU_RAX, size, (uint32_t)value);
	legacy_set_reg(l, CPU_RDX, size, (uint32_t)(value >> 8 * size));
}

static int64_t sign_extend(uint64_t value, unsigned size)
{
	unsigned shift = 64 - 8 * size;

	return (int64_t)(value << shift) >> shift;
}

static void multiply(struct legacy *l, bool is_signed, unsigned size, uint32_t b)
{
	uint32_t a = legacy_reg(l, CPU_RAX, size);
	uint64_t product;

	if (is_signed) {
		product = (uint64_t)(sign_extend(a, size) * sign_extend(b, size));
		set_carry(l, sign_extend(product, size) != (int64_t)product);
	} else {
		product = (uint64_t)a * b;
		set_carry(l, product >> 8 * size);
	}
	set_wide(l, size, product);
}

static bool divide(struct legacy *l, bool is_signed, unsigned size, uint32_t b)
{
	uint64_t a = legacy_reg(l, CPU_RAX, size == 1 ? 2 : size), quotient, rest;

	if (size != 1)
		a |= (uint64_t)legacy_reg(l, CPU_RDX, size) << 8 * size;
	if (!b)
		return soft_raise(l->cpu, EXC_DE);
	if (is_signed) {
		int64_t n = sign_extend(a, 2 * size), d = sign_extend(b, size);

		/* The one quotient that does not fit the host's registers either. */
		if (n == INT64_MIN && d == -1)
			return soft_raise(l->cpu, EXC_DE);
		quotient = (uint64_t)(n / d);
		rest = (uint64_t)(n % d);
		if (sign_extend(quotient, size) != (int64_t)quotient)
			return soft_raise(l->cpu, EXC_DE);
	} else {
		quotient = a / b;
		rest = a % b;
		if (quotient >> 8 * size)
			return soft_raise(l->cpu, EXC_DE);
	}
	if (size == 1) {
		legacy_set_reg(l, CPU_RAX, 2, (uint32_t)((rest & 0xff) << 8 | (quotient & 0xff)));
		return true;
	}
	legacy_set_reg(l, CPU_RAX, size, (uint32_t)quotient);
	legacy_set_reg(l, CPU_RDX, size, (uint32_t)rest);
	return true;
}

static void test(struct legacy *l, unsigned size, uint32_t a, uint32_t b)
{
	uint64_t flags = l->cpu->flags;

	alu_binary(ALU_AND, size, a, b, &flags);
	legacy_set_flags(l, flags);
}

/* f6, f7: test, not, neg, mul, imul, div, idiv */
static bool group3(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint32_t a, b;

	if (!legacy_modrm(l))
		return false;
	switch (l->reg) {
	case 0:
	case 1:
		if (!legacy_imm(l, size, &b) || !legacy_get_rm(l, size, &a))
			return false;
		test(l, size, a, b);
		return true;
	case 2:
		return legacy_begin_rm(l, size, &a) && legacy_put_rm(l, size, ~a);
	case 3:
		return legacy_step_rm(l, ALU_NEG, size);
	default:
		if (!legacy_get_rm(l, size, &a))
			return false;
		if (l->reg >= 6)
			return divide(l, l->reg == 7, size, a);
		multiply(l, l->reg == 5, size, a);
		return true;
	}
}

/* 69, 6b: imul r, rm, imm */
static bool multiply_imm(struct legacy *l, uint8_t opcode)
{
	uint64_t flags = l->cpu->flags;
	uint32_t a, b;

	if (!legacy_modrm(l) || !legacy_simm(l, opcode == 0x6b ? 1 : l->size, &b) ||
		!legacy_get_rm(l, l->size, &a))
		return false;
	legacy_set_reg(l, l->reg, l->size, alu_imul(l->size, a, b, &flags));
	legacy_set_flags(l, flags);
	return true;
}

static void step_reg(struct legacy *l, unsigned op, unsigned reg)
{
	uint64_t flags = l->cpu->flags;

	legacy_set_reg(l, reg, l->size,
		alu_unary(op, l->size, legacy_reg(l, reg, l->size), &flags));
	legacy_set_flags(l, flags);
}

bool legacy_arithmetic(struct legacy *l, uint8_t opcode)
{
	unsigned size = opcode & 1 ? l->size : 1;
	uint32_t value;

	if (opcode < 0x40)
		return arithmetic(l, opcode);
	if (opcode < 0x50) {
		step_reg(l, opcode & 8 ? ALU_DEC : ALU_INC, opcode & 7);
		return true;
	}
	switch (opcode) {
	case 0x69:
	case 0x6b:
		return multiply_imm(l, opcode);
	case 0x84:
	case 0x85:
		if (!legacy_modrm(l) || !legacy_get_rm(l, size, &value))
			return false;
		test(l, size, value, legacy_reg(l, l->reg, size));
		return true;
	case 0xa8:
	case 0xa9:
		if (!legacy_imm(l, size, &value))
			return false;
		test(l, size, legacy_reg(l, CPU_RAX, size), value);
		return true;
	case 0xf6:
	case 0xf7:
		return group3(l, opcode);
	default:
		return opcode < 0x84 ? arithmetic_imm(l, opcode) : shift(l, opcode);
	}
}
