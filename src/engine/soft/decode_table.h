/* SPDX-License-Identifier: MIT */
/*
 * The decoder's tables: one row per opcode and mandatory prefix. The rows themselves are data, in
 * decode_rows.def and decode_rows_vec.def; decode_table.c and decode_forms.c expand them. Private
 * to the decoder.
 */
#ifndef VIZOR_SOFT_DECODE_TABLE_H
#define VIZOR_SOFT_DECODE_TABLE_H

#include "engine/soft/decode.h"

/* Mandatory prefix, numbered as VEX.pp does. */
enum { PP_NP, PP_66, PP_F3, PP_F2 };

/* Operand codes: access, whether it is a general register when it is a register, and size. */
#define OP_N        0x00
#define OP_R        0x20
#define OP_W        0x40
#define OP_RW       0x60
#define OP_GPR      0x80
#define OP_SIZE(op) ((op)&0x1f)

enum op_width {
	SZ_0, /* no access, or a size that is only known when it runs */
	SZ_V, /* the operand size */
	SZ_B,
	SZ_W,
	SZ_D,
	SZ_Q, /* 1, 2, 4, 8 */
	SZ_T,
	SZ_O, /* 10, 16 */
	SZ_Y, /* 4, or 8 with REX.W/VEX.W */
	SZ_Z, /* 2 with 16-bit operand size, else 4 */
	SZ_X, /* the vector: 16, or 32 with VEX.L */
	SZ_H,
	SZ_QT,
	SZ_ET,  /* a half, quarter, eighth of the vector */
	SZ_DUP, /* movddup: 8, or 32 with VEX.L */
	SZ_2Y,  /* cmpxchg8b/16b: 8, or 16 with REX.W */
	SZ_P,   /* far pointer: operand size + 2 */
	SZ_FX,  /* 512: fxsave */
	SZ_ENV,
	SZ_FSAVE, /* x87 environment 28 (14), x87 state 108 (94 with 16-bit operand size) */
};

enum op_size_rule {
	SIZE_V,   /* 4; 2 with 66; 8 with W */
	SIZE_B,   /* 1 */
	SIZE_Y,   /* 4; 8 with W; 66 means something else */
	SIZE_Z,   /* 4; 2 with 66; W is ignored */
	SIZE_D64, /* 8; 2 with 66 */
	SIZE_F64, /* 8 */
};

enum op_imm {
	IMM_NONE,
	IMM_IB, /* byte, sign-extended */
	IMM_UB, /* byte, zero-extended */
	IMM_2B, /* two bytes */
	IMM_IW, /* 16 bits, zero-extended */
	IMM_IZ, /* 16 bits with a 16-bit operand size, else 32, sign-extended */
	IMM_IV, /* like IZ, but 64 bits with a 64-bit operand size */
	IMM_ENTER,
	IMM_REL8,
	IMM_REL32,
	IMM_MOFFS,
};

/* Effects on the arithmetic flags: index into insn_fx[]. */
enum op_fx {
	FX_NONE,
	FX_ALU,
	FX_ADC,
	FX_LOGIC,
	FX_INC,
	FX_MUL,
	FX_DIV,
	FX_SH1,
	FX_SHI,
	FX_SHC, /* shifts by 1, immediate, cl */
	FX_RO1,
	FX_ROI,
	FX_ROC, /* rol, ror */
	FX_RC1,
	FX_RCI,
	FX_RCC, /* rcl, rcr */
	FX_SDI,
	FX_SDC, /* shld, shrd */
	FX_BT,
	FX_BSF,
	FX_TZCNT,
	FX_ANDN,
	FX_BEXTR,
	FX_ADCX,
	FX_ADOX,
	FX_ZF,
	FX_CF,
	FX_CMC,
	FX_DF,
	FX_LAHF,
	FX_SAHF,
	FX_CC, /* reads the condition in the opcode's low bits */
	FX_RZF,
	FX_STR,
	FX_CMPS,
	FX_RALL,
	FX_WALL,
	FX_SYSCALL,
	FX_FCMOVB,
	FX_FCMOVE,
	FX_FCMOVBE,
	FX_FCMOVU,
	FX_COUNT
};

struct flag_effect {
	uint16_t read, write, undefined;
};

/* Register bits of the implicit operands. */
enum {
	RAX = 0x01,
	RCX = 0x02,
	RDX = 0x04,
	RBX = 0x08,
	RSP = 0x10,
	RBP = 0x20,
	RSI = 0x40,
	RDI = 0x80,
	R11 = 0x800
};

struct op {
	uint8_t class, system, unit;
	uint8_t feature, feature256; /* 256: with VEX.L */
	uint8_t imm, size, fx;
	uint8_t rm, reg, vvvv;        /* operand codes */
	uint16_t imp_read, imp_write; /* implicit general registers */
	uint16_t group;               /* offset in insn_groups[], 0: none */
	uint32_t no_modrm : 1;
	uint32_t opcode_reg : 1; /* the rm operand is the register in the opcode */
	uint32_t mem_only : 1, reg_only : 1;
	uint32_t mod_ignored : 1; /* mov cr/dr: always a register, whatever mod says */
	uint32_t lockable : 1;
	uint32_t any66 : 1; /* row without a mandatory prefix: 66 is the operand size or ignored */
	uint32_t any_rep : 1;    /* ... and F2, F3 are ignored */
	uint32_t else_np : 1;    /* feature masked: the prefix is ignored (tzcnt is bsf) */
	uint32_t wide_table : 1; /* group of 8 memory rows by reg, then 64 register rows by modrm */
	uint32_t reg_full : 1;   /* as a register the rm operand has the operand size */
	uint32_t unaligned : 1;  /* legacy SSE 16-byte operand that may lie anywhere */
	uint32_t aligned : 1;    /* VEX operand that must be aligned; cmpxchg16b */
	uint32_t fault : 1;
	uint32_t serial : 1;
	uint32_t bits : 1;     /* memory form addresses a bit string */
	uint32_t sreg : 1;     /* reg is a segment register */
	uint32_t reg_avx2 : 1; /* the register form needs AVX2 */
	uint32_t nds : 1;      /* VEX.vvvv is a vector operand */
	uint32_t nds_reg : 1;  /* ... in the register form only */
	uint32_t vsib : 1;
	uint32_t l0 : 1, l1 : 1, w0 : 1, w1 : 1; /* required VEX.L, VEX.W */
};

#define OP_INDEX(map, pp, opcode) (((map)*4 + (pp)) * 256 + (opcode))

extern const struct op insn_legacy[4 * 4 * 256]; /* map 0 uses PP_NP only */
extern const struct op insn_vex[4 * 4 * 256];
extern const struct op insn_groups[];
extern const struct flag_effect insn_fx[FX_COUNT];

/* Fill in the fields of insn that describe memory, registers and flags. */
void insn_effects(struct insn *insn, const struct op *op);

/* Offsets in insn_groups[]. A group has 8 rows by ModRM.reg for memory, then 8 for registers. */
enum {
	G_80 = 16,
	G_81 = 32,
	G_83 = 48,
	G_8F = 64,
	G_C0 = 80,
	G_C1 = 96,
	G_C6 = 112,
	G_C7 = 128,
	G_D0 = 144,
	G_D1 = 160,
	G_D2 = 176,
	G_D3 = 192,
	G_F6 = 208,
	G_F7 = 224,
	G_FE = 240,
	G_FF = 256,
	G_0F00 = 272,
	G_0FBA = 288,
	G_0FC7 = 304,
	G_0FC7_F3 = 320,
	G_0FAE = 336,
	G_0FAE_66 = 352,
	G_0FAE_F3 = 368,
	G_0F71 = 384,
	G_0F72 = 400,
	G_0F73 = 416,
	G_0F71_66 = 432,
	G_0F72_66 = 448,
	G_0F73_66 = 464,
	G_0F78_66 = 480,
	G_V71 = 496,
	G_V72 = 512,
	G_V73 = 528,
	G_VAE = 544,
	G_VF3 = 560,
	/* wide tables, 8 + 64 rows */
	G_0F01 = 576,
	G_X87 = 648,
	G_D8 = G_X87,
	G_D9 = G_D8 + 72,
	G_DA = G_D9 + 72,
	G_DB = G_DA + 72,
	G_DC = G_DB + 72,
	G_DD = G_DC + 72,
	G_DE = G_DD + 72,
	G_DF = G_DE + 72,
	G_COUNT = G_DF + 72
};

#endif
