/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic of the 16- and 32-bit interpreter. The host is of the same architecture, so it
 * computes results and flags itself.
 */
#include "engine/soft/legacy.h"

#define FLAGS_IN(flags) (((flags)&FLAGS_ARITH) | 2)

/* insn with the guest's flags before and after it: on a (and b, cl). */
#define HOST(insn)                                                                   \
	__asm__ volatile("push %[f]\n\tpopf\n\t" insn "\n\tpushf\n\tpop %[f]\n\tcld" \
			 : [f] "+&r"(f), [a] "+&r"(a)                                \
			 : [b] "r"(b), "c"(count)                                    \
			 : "cc", "memory")
#define HOST_BY_SIZE(insn, operands_b, operands_w, operands_l) \
	do {                                                   \
		if (size == 1)                                 \
			HOST(insn "b " operands_b);            \
		else if (size == 2)                            \
			HOST(insn "w " operands_w);            \
		else                                           \
			HOST(insn "l " operands_l);            \
	} while (0)
#define BINARY(insn) HOST_BY_SIZE(insn, "%b[b], %b[a]", "%w[b], %w[a]", "%k[b], %k[a]")
#define UNARY(insn)  HOST_BY_SIZE(insn, "%b[a]", "%w[a]", "%k[a]")
#define SHIFT(insn)  HOST_BY_SIZE(insn, "%%cl, %b[a]", "%%cl, %w[a]", "%%cl, %k[a]")

uint32_t alu_binary(unsigned op, unsigned size, uint32_t a, uint32_t b, uint64_t *flags)
{
	uint64_t f = FLAGS_IN(*flags);
	unsigned count = 0;

	switch (op) {
	case ALU_ADD:
		BINARY("add");
		break;
	case ALU_OR:
		BINARY("or");
		break;
	case ALU_ADC:
		BINARY("adc");
		break;
	case ALU_SBB:
		BINARY("sbb");
		break;
	case ALU_AND:
		BINARY("and");
		break;
	case ALU_SUB:
		BINARY("sub");
		break;
	case ALU_XOR:
		BINARY("xor");
		break;
	default:
		BINARY("cmp");
		break;
	}
	*flags = f;
	return a;
}

uint32_t alu_unary(unsigned op, unsigned size, uint32_t a, uint64_t *flags)
{
	uint64_t f = FLAGS_IN(*flags);
	uint32_t b = 0;
	unsigned count = 0;

	if (op == ALU_INC)
		UNARY("inc");
	else if (op == ALU_DEC)
		UNARY("dec");
	else
		UNARY("neg");
	*flags = f;
	return a;
}

uint32_t alu_shift(unsigned op, unsigned size, uint32_t a, unsigned count, uint64_t *flags)
{
	uint64_t f = FLAGS_IN(*flags);
	uint32_t b = 0;

	switch (op) {
	case 0:
		SHIFT("rol");
		break;
	case 1:
		SHIFT("ror");
		break;
	case 2:
		SHIFT("rcl");
		break;
	case 3:
		SHIFT("rcr");
		break;
	case 5:
		SHIFT("shr");
		break;
	case 7:
		SHIFT("sar");
		break;
	default: /* 6 is another name of 4 */
		SHIFT("shl");
		break;
	}
	*flags = f;
	return a;
}

uint32_t alu_shift_double(bool right, unsigned size, uint32_t a, uint32_t b, unsigned count,
	uint64_t *flags)
{
	uint64_t f = FLAGS_IN(*flags);

	if (right && size == 2)
		HOST("shrdw %%cl, %w[b], %w[a]");
	else if (right)
		HOST("shrdl %%cl, %k[b], %k[a]");
	else if (size == 2)
		HOST("shldw %%cl, %w[b], %w[a]");
	else
		HOST("shldl %%cl, %k[b], %k[a]");
	*flags = f;
	return a;
}

uint32_t alu_imul(unsigned size, uint32_t a, uint32_t b, uint64_t *flags)
{
	uint64_t f = FLAGS_IN(*flags);
	unsigned count = 0;

	if (size == 2)
		HOST("imulw %w[b], %w[a]");
	else
		HOST("imull %k[b], %k[a]");
	*flags = f;
	return a;
}

uint32_t alu_scan(bool reverse, uint32_t a, uint32_t old, uint64_t *flags)
{
	*flags = (*flags & ~(uint64_t)FLAG_ZF) | (a ? 0 : FLAG_ZF);
	if (!a)
		return old;
	return (uint32_t)(reverse ? 31 - __builtin_clz(a) : __builtin_ctz(a));
}

bool alu_condition(unsigned condition, uint64_t flags)
{
	bool sign = !(flags & FLAG_SF) != !(flags & FLAG_OF), yes;

	switch (condition >> 1 & 7) {
	case 0:
		yes = flags & FLAG_OF;
		break;
	case 1:
		yes = flags & FLAG_CF;
		break;
	case 2:
		yes = flags & FLAG_ZF;
		break;
	case 3:
		yes = flags & (FLAG_CF | FLAG_ZF);
		break;
	case 4:
		yes = flags & FLAG_SF;
		break;
	case 5:
		yes = flags & FLAG_PF;
		break;
	case 6:
		yes = sign;
		break;
	default:
		yes = sign || (flags & FLAG_ZF);
		break;
	}
	return yes != (condition & 1);
}
