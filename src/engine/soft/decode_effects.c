/* SPDX-License-Identifier: MIT */
/*
 * What a decoded instruction reads and writes: the memory operand's size and access, general
 * registers, arithmetic flags, from its table row and fields.
 */
#include "engine/soft/decode_table.h"

static unsigned width(const struct insn *insn, unsigned operand)
{
	unsigned vector = 16u << insn->vex_l;

	switch (OP_SIZE(operand)) {
	case SZ_V:
		return insn->op_size;
	case SZ_B:
		return 1;
	case SZ_W:
		return 2;
	case SZ_D:
		return 4;
	case SZ_Q:
		return 8;
	case SZ_T:
		return 10;
	case SZ_O:
		return 16;
	case SZ_Y:
		return insn->rex & 8 ? 8 : 4;
	case SZ_Z:
		return insn->op_size == 2 ? 2 : 4;
	case SZ_X:
		return vector;
	case SZ_H:
		return vector / 2;
	case SZ_QT:
		return vector / 4;
	case SZ_ET:
		return vector / 8;
	case SZ_DUP:
		return insn->vex_l ? 32 : 8;
	case SZ_2Y:
		return insn->rex & 8 ? 16 : 8;
	case SZ_P:
		return insn->op_size + 2;
	case SZ_FX:
		return 512;
	case SZ_ENV:
		return insn->op_size == 2 ? 14 : 28;
	case SZ_FSAVE:
		return insn->op_size == 2 ? 94 : 108;
	default:
		return 0;
	}
}

static void use_gpr(struct insn *insn, unsigned reg, unsigned operand, unsigned size)
{
	if (!(operand & OP_GPR))
		return;
	if (size == 1 && !insn->rex && reg >= 4) {
		reg -= 4;
		insn->high_byte = true;
	}
	if (operand & OP_R || size < 4)
		insn->gpr_read |= 1 << reg;
	if (operand & OP_W)
		insn->gpr_write |= 1 << reg;
}

static void fill_memory(struct insn *insn, const struct op *op)
{
	insn->mem_size = width(insn, op->rm);
	insn->mem_read = op->rm & OP_R;
	insn->mem_write = op->rm & OP_W;
	insn->vsib = op->vsib;
	insn->bit_string = op->bits;
	if (op->aligned)
		insn->mem_align = insn->mem_size & ~15; /* not cmpxchg8b */
	else if (op->unit == UNIT_SSE && insn->mem_size == 16 && !op->unaligned)
		insn->mem_align = 16;
	if (insn->class == INSN_NOP)
		return;
	if (insn->base < REG_PC)
		insn->gpr_read |= 1 << insn->base;
	if (insn->index < 16 && !insn->vsib)
		insn->gpr_read |= 1 << insn->index;
}

static void fill_operands(struct insn *insn, const struct op *op)
{
	insn->gpr_read = op->imp_read;
	insn->gpr_write = op->imp_write;
	if (insn->op_size < 4 && (insn->class != INSN_SYSTEM || op->system == SYS_IN))
		insn->gpr_read |= insn->gpr_write;
	if (insn->has_mem)
		fill_memory(insn, op);
	else
		use_gpr(insn, insn->rm, op->rm, op->reg_full ? insn->op_size : width(insn, op->rm));
	use_gpr(insn, insn->reg, op->reg, width(insn, op->reg));
	if (op->vvvv)
		use_gpr(insn, insn->vvvv, op->vvvv, width(insn, op->vvvv));
	if (insn->prefixes & (PFX_F2 | PFX_F3) && !insn->rep_ignored &&
		(op->fx == FX_STR || op->fx == FX_CMPS)) {
		insn->gpr_write |= RCX;
		insn->gpr_read |= insn->gpr_write; /* nothing is written when rcx is 0 */
		insn->flags_maybe = op->fx == FX_CMPS;
	}
	insn->may_fault = op->fault || insn->mem_align;
}

/* Shifts and rotates: a masked count of 0 leaves the flags, other counts leave some undefined. */
static void shift_flags(struct insn *insn, const struct op *op)
{
	unsigned count = insn->imm & (insn->op_size == 8 ? 63 : 31), bits = insn->op_size * 8;
	bool by_imm = op->fx == FX_SHI || op->fx == FX_ROI || op->fx == FX_RCI || op->fx == FX_SDI;
	bool shld = op->fx == FX_SDI || op->fx == FX_SDC;

	if (by_imm && count == 0) {
		insn->flags_write = insn->flags_undefined = insn->flags_read = 0;
		return;
	}
	if (!by_imm) {
		insn->flags_maybe = true;
		count = 31;
	}
	if (count == 1)
		insn->flags_undefined &= ~FLAG_OF;
	if (op->fx == FX_RCI && bits < 32 && count % (bits + 1) == 0)
		insn->flags_maybe = true;
	if (shld && count > bits)
		insn->flags_undefined = FLAGS_ARITH;
	if ((op->fx == FX_SHI || op->fx == FX_SHC) && count >= bits && (insn->modrm >> 3 & 7) != 7)
		insn->flags_undefined |= FLAG_CF;
}

static void fill_flags(struct insn *insn, const struct op *op)
{
	static const uint16_t condition[8] = {
		FLAG_OF,
		FLAG_CF,
		FLAG_ZF,
		FLAG_CF | FLAG_ZF,
		FLAG_SF,
		FLAG_PF,
		FLAG_SF | FLAG_OF,
		FLAG_ZF | FLAG_SF | FLAG_OF,
	};

	insn->flags_read = insn_fx[op->fx].read;
	insn->flags_write = insn_fx[op->fx].write;
	insn->flags_undefined = insn_fx[op->fx].undefined;
	switch (op->fx) {
	case FX_CC:
		insn->flags_read = condition[insn->opcode >> 1 & 7];
		break;
	case FX_SHI:
	case FX_SHC:
	case FX_ROI:
	case FX_ROC:
	case FX_RCI:
	case FX_RCC:
	case FX_SDI:
	case FX_SDC:
		shift_flags(insn, op);
		break;
	}
}

void insn_effects(struct insn *insn, const struct op *op)
{
	fill_operands(insn, op);
	fill_flags(insn, op);
}
