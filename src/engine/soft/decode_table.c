/* SPDX-License-Identifier: MIT */
/*
 * The decoder's tables, expanded from the row files, and the effects on the arithmetic flags (SDM
 * volume 1, appendix A, and the instruction pages of volume 2).
 */
#include "engine/soft/decode_attr.h"

#define ROW(cls, rmv, regv, ...)                                               \
	{                                                                      \
		.class = INSN_##cls, .rm = (rmv), .reg = (regv), ##__VA_ARGS__ \
	}

#define LEG(m, p, o, n, ...) [OP_INDEX(m, PP_##p, o)] = ROW(__VA_ARGS__),
#define LEGR(m, p, o, o2, n, ...) \
	[OP_INDEX(m, PP_##p, o)... OP_INDEX(m, PP_##p, o2)] = ROW(__VA_ARGS__),
#define VEX(...)
#define GRP(...)
#define GRPR(...)
const struct op insn_legacy[4 * 4 * 256] = {
#include "engine/soft/decode_rows.def"
#include "engine/soft/decode_rows_vec.def"
};
#undef LEG
#undef LEGR
#undef VEX

#define LEG(...)
#define LEGR(...)
#define VEX(m, p, o, n, ...) [OP_INDEX(m, PP_##p, o)] = ROW(__VA_ARGS__),
const struct op insn_vex[4 * 4 * 256] = {
#include "engine/soft/decode_rows.def"
#include "engine/soft/decode_rows_vec.def"
};
#undef VEX
#undef GRP
#undef GRPR

#define VEX(...)
#define GRP(g, slot, n, ...)         [G_##g + (slot)] = ROW(__VA_ARGS__),
#define GRPR(g, slot, slot2, n, ...) [G_##g + (slot)... G_##g + (slot2)] = ROW(__VA_ARGS__),
const struct op insn_groups[G_COUNT] = {
#include "engine/soft/decode_rows.def"
#include "engine/soft/decode_rows_vec.def"
};

#define CF FLAG_CF
#define PF FLAG_PF
#define AF FLAG_AF
#define ZF FLAG_ZF
#define SF FLAG_SF
#define OF FLAG_OF

/* read, written, undefined; what depends on a count or a condition is refined in decode.c */
const struct flag_effect insn_fx[FX_COUNT] = {
	[FX_ALU] = { 0, FLAGS_ARITH, 0 },
	[FX_ADC] = { CF, FLAGS_ARITH, 0 },
	[FX_LOGIC] = { 0, FLAGS_ARITH, AF },
	[FX_INC] = { 0, FLAGS_ARITH & ~CF, 0 },
	[FX_MUL] = { 0, FLAGS_ARITH, SF | ZF | AF | PF },
	[FX_DIV] = { 0, FLAGS_ARITH, FLAGS_ARITH },
	[FX_SH1] = { 0, FLAGS_ARITH, AF },
	[FX_SHI] = { 0, FLAGS_ARITH, AF | OF },
	[FX_SHC] = { 0, FLAGS_ARITH, AF | OF },
	[FX_RO1] = { 0, CF | OF, 0 },
	[FX_ROI] = { 0, CF | OF, OF },
	[FX_ROC] = { 0, CF | OF, OF },
	[FX_RC1] = { CF, CF | OF, 0 },
	[FX_RCI] = { CF, CF | OF, OF },
	[FX_RCC] = { CF, CF | OF, OF },
	[FX_SDI] = { 0, FLAGS_ARITH, AF | OF },
	[FX_SDC] = { 0, FLAGS_ARITH, AF | OF },
	[FX_BT] = { 0, CF | OF | SF | AF | PF, OF | SF | AF | PF },
	[FX_BSF] = { 0, FLAGS_ARITH, CF | OF | SF | AF | PF },
	[FX_TZCNT] = { 0, FLAGS_ARITH, OF | SF | AF | PF },
	[FX_ANDN] = { 0, FLAGS_ARITH, AF | PF },
	[FX_BEXTR] = { 0, FLAGS_ARITH, AF | SF | PF },
	[FX_ADCX] = { CF, CF, 0 },
	[FX_ADOX] = { OF, OF, 0 },
	[FX_ZF] = { 0, ZF, 0 },
	[FX_CF] = { 0, CF, 0 },
	[FX_CMC] = { CF, CF, 0 },
	[FX_DF] = { 0, FLAG_DF, 0 },
	[FX_LAHF] = { SF | ZF | AF | PF | CF, 0, 0 },
	[FX_SAHF] = { 0, SF | ZF | AF | PF | CF, 0 },
	[FX_RZF] = { ZF, 0, 0 },
	[FX_STR] = { FLAG_DF, 0, 0 },
	[FX_CMPS] = { FLAG_DF, FLAGS_ARITH, 0 },
	[FX_RALL] = { FLAGS_ARITH | FLAG_DF, 0, 0 },
	[FX_SYSCALL] = { FLAGS_ARITH | FLAG_DF, FLAGS_ARITH | FLAG_DF, 0 },
	[FX_WALL] = { 0, FLAGS_ARITH | FLAG_DF, 0 },
	[FX_FCMOVB] = { CF, 0, 0 },
	[FX_FCMOVE] = { ZF, 0, 0 },
	[FX_FCMOVBE] = { CF | ZF, 0, 0 },
	[FX_FCMOVU] = { PF, 0, 0 },
};
