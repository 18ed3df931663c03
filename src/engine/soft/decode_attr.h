/* SPDX-License-Identifier: MIT */
/*
 * Vocabulary of the decoder's row files (decode_rows.def, decode_rows_vec.def): operands and
 * attributes as designated initialisers of struct op. A file that expands the rows defines LEG,
 * LEGR, VEX, GRP and GRPR itself. Private to decode_table.c and decode_forms.c.
 */
#ifndef VIZOR_SOFT_DECODE_ATTR_H
#define VIZOR_SOFT_DECODE_ATTR_H

#include "engine/soft/decode_table.h"

#define E(acc, size) (OP_GPR | OP_##acc | SZ_##size)
#define M(acc, size) (OP_##acc | SZ_##size)
#define NIL          0

#define SYS(x)       .system = SYS_##x
#define UN(x)        .unit = UNIT_##x
#define FT(x)        .feature = FEAT_##x
#define FT256(x)     .feature256 = FEAT_##x
#define IMM(x)       .imm = IMM_##x
#define SIZE(x)      .size = SIZE_##x
#define FX(x)        .fx = FX_##x
#define VVVV(x)      .vvvv = (x)
#define RD(x)        .imp_read = (x)
#define WR(x)        .imp_write = (x)
#define GROUP(x)     .group = G_##x
#define NOMODRM      .no_modrm = 1
#define OPREG        .opcode_reg = 1, .no_modrm = 1
#define MEMONLY      .mem_only = 1
#define REGONLY      .reg_only = 1
#define MODIGN       .mod_ignored = 1
#define LOCKABLE     .lockable = 1
#define ANY66        .any66 = 1
#define ANY          .any66 = 1, .any_rep = 1
#define ELSE_NP      .else_np = 1
#define WIDE         .wide_table = 1
#define REGFULL      .reg_full = 1
#define UNAL         .unaligned = 1
#define ALIGNED      .aligned = 1
#define FAULT        .fault = 1
#define SERIAL       .serial = 1
#define BITS         .bits = 1
#define SREG         .sreg = 1
#define NDS          .nds = 1
#define NDSREG       .nds_reg = 1
#define VSIB         .vsib = 1
#define REGAVX2      .reg_avx2 = 1
#define L0           .l0 = 1
#define L1           .l1 = 1
#define W0           .w0 = 1
#define W1           .w1 = 1

/* Rows of a group for the memory and the register form. */
#define GB(g, r, ...)          \
	GRP(g, r, __VA_ARGS__) \
	GRP(g, 8 + (r), __VA_ARGS__)

#endif
