/* SPDX-License-Identifier: MIT */
/*
 * x86-64 instruction decoder (64-bit mode) of the software CPU: a whitelist. What the table does
 * not name is an undefined opcode (#UD) and never reaches the host CPU. The decoder reports the
 * shape of an instruction - length, operands, what it reads and writes - and never executes
 * anything. Sources: Intel SDM volume 2, AMD APM volume 3.
 */
#ifndef VIZOR_SOFT_DECODE_H
#define VIZOR_SOFT_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INSN_MAX_LEN 15

/* How the translator treats an instruction. */
enum insn_class {
	INSN_UNDEFINED, /* #UD: not on the whitelist, or an illegal combination of prefixes */
	INSN_COPY,      /* the guest's own bytes run on the host, the memory operand re-encoded */
	INSN_LEA,  /* like COPY, but the memory operand is only an address: nothing is accessed */
	INSN_NOP,  /* nop, multi-byte nop, prefetch, endbr: no effect, nothing accessed */
	INSN_PUSH, /* push r64/r16, imm, m (the memory operand is read), fs, gs */
	INSN_POP,  /* pop r64/r16, m (the memory operand is written) */
	INSN_PUSHF,
	INSN_POPF,
	INSN_ENTER,
	INSN_LEAVE,
	INSN_CALL,     /* call rel32: target = rip_next + imm */
	INSN_CALL_IND, /* call r64 / m64 */
	INSN_RET,      /* ret, ret imm16 */
	INSN_JMP,      /* jmp rel8/rel32 */
	INSN_JMP_IND,  /* jmp r64 / m64 */
	INSN_JCC,      /* condition in (opcode & 15) */
	INSN_LOOP,     /* loop, loope, loopne, jrcxz/jecxz: opcode E0..E3 */
	INSN_STRING,   /* movs stos lods scas cmps, with or without rep; op_size = element bytes */
	INSN_SYSTEM,   /* executed by a C helper, named in .system */
};

/* INSN_SYSTEM: which helper. The decoder does not check the privilege level; the helper does. */
/* clang-format off */
enum insn_system {
	SYS_NONE,
	SYS_CPUID, SYS_RDTSC, SYS_RDTSCP, SYS_RDPID, SYS_RDMSR, SYS_WRMSR, SYS_RDPMC,
	SYS_XGETBV, SYS_XSETBV,
	SYS_MOV_FROM_CR, SYS_MOV_TO_CR, SYS_MOV_FROM_DR, SYS_MOV_TO_DR,
	SYS_CLTS, SYS_SMSW, SYS_LMSW,
	SYS_LGDT, SYS_LIDT, SYS_SGDT, SYS_SIDT, SYS_LLDT, SYS_SLDT, SYS_LTR, SYS_STR,
	SYS_VERR, SYS_VERW, SYS_LAR, SYS_LSL,
	SYS_MOV_FROM_SREG, SYS_MOV_TO_SREG, SYS_POP_SREG, /* pop fs/gs */
	SYS_LFS, SYS_LGS, SYS_LSS,
	SYS_RDFSBASE, SYS_RDGSBASE, SYS_WRFSBASE, SYS_WRGSBASE, SYS_SWAPGS,
	SYS_IN, SYS_OUT,       /* immediate or dx form, by opcode */
	SYS_INS, SYS_OUTS,     /* with rep */
	SYS_HLT, SYS_CLI, SYS_STI,
	SYS_INT3, SYS_INT1, SYS_INT, /* vector in imm */
	SYS_IRET, SYS_SYSCALL, SYS_SYSRET, SYS_SYSENTER, SYS_SYSEXIT,
	SYS_RETF, SYS_CALL_FAR, SYS_JMP_FAR, /* far forms; memory operand m16:16/32/64 */
	SYS_INVLPG, SYS_WBINVD, SYS_INVD,
	SYS_PAUSE, SYS_MWAIT, SYS_MONITOR,
	SYS_XSAVE, SYS_XSAVEOPT, SYS_XSAVEC, SYS_XRSTOR, SYS_FXSAVE, SYS_FXRSTOR,
	SYS_FNSTENV, SYS_FLDENV, SYS_FNSAVE, SYS_FRSTOR,
	SYS_CLFLUSH,           /* clflush, clflushopt, clwb: checks the address, nothing else */
	SYS_MASKMOV,           /* maskmovq/maskmovdqu/vmaskmovdqu, vmaskmovps/pd, vpmaskmovd/q */
	SYS_GATHER,            /* vgatherXX, vpgatherXX */
	SYS_XLAT,              /* xlat: al = byte at segment:rbx + al */
	SYS_UD,                /* ud0, ud1, ud2: #UD by definition, named for the log */
	SYS_COUNT
};
/* clang-format on */

/* Register state that must be enabled (CR0.TS/EM, CR4.OSFXSR, CR4.OSXSAVE and XCR0). */
enum insn_unit { UNIT_NONE, UNIT_X87, UNIT_MMX, UNIT_SSE, UNIT_AVX };

/* CPUID feature that an instruction belongs to; the decoder is told which it may accept. */
/* clang-format off */
enum insn_feature {
	FEAT_BASE, /* everything of x86-64-v1, fxsr, cx16, lahf */
	FEAT_SSE3, FEAT_SSSE3, FEAT_SSE41, FEAT_SSE42, FEAT_POPCNT, FEAT_AES, FEAT_PCLMUL, FEAT_SHA,
	FEAT_MOVBE, FEAT_ADX, FEAT_BMI1, FEAT_BMI2, FEAT_LZCNT,
	FEAT_AVX, FEAT_AVX2, FEAT_FMA, FEAT_F16C,
	FEAT_VAES, FEAT_VPCLMUL, FEAT_GFNI, FEAT_AVX_VNNI,
	FEAT_RDRAND, FEAT_RDSEED, FEAT_RDTSCP, FEAT_RDPID,
	FEAT_FSGSBASE, FEAT_XSAVE, FEAT_XSAVEOPT, FEAT_XSAVEC, FEAT_CLFLUSHOPT, FEAT_CLWB,
	FEAT_SSE4A, FEAT_PREFETCHW, FEAT_CLDEMOTE, FEAT_MOVDIRI, FEAT_SERIALIZE,
	FEAT_COUNT
};
/* clang-format on */

enum insn_encoding { ENC_LEGACY, ENC_VEX2, ENC_VEX3 };

/* Prefix bits. */
#define PFX_66   0x01 /* operand size, present anywhere */
#define PFX_67   0x02 /* address size 32 */
#define PFX_F2   0x04
#define PFX_F3   0x08 /* of F2 and F3 the last one counts; only that bit is set */
#define PFX_LOCK 0x10

#define REG_NONE 0xff
#define REG_PC   16

/* Arithmetic flags as in EFLAGS. */
#define FLAG_CF     0x001u
#define FLAG_PF     0x004u
#define FLAG_AF     0x010u
#define FLAG_ZF     0x040u
#define FLAG_SF     0x080u
#define FLAG_DF     0x400u
#define FLAG_OF     0x800u
#define FLAGS_ARITH 0x8d5u

struct insn {
	uint8_t len;       /* whole instruction, 1..15 */
	uint8_t class;     /* enum insn_class */
	uint8_t system;    /* enum insn_system */
	uint8_t feature;   /* enum insn_feature */
	uint8_t unit;      /* enum insn_unit */
	uint8_t encoding;  /* enum insn_encoding */
	uint8_t map;       /* 0 one byte, 1 0F, 2 0F38, 3 0F3A */
	uint8_t opcode;    /* last opcode byte */
	uint8_t prefixes;  /* PFX_* */
	uint8_t segment;   /* override: 0 none or flat, 4 fs, 5 gs (es, cs, ss, ds are ignored) */
	uint8_t rex;       /* the REX byte, or 0 (for VEX: equivalent W R X B bits, without 0x40) */
	uint8_t vvvv;      /* VEX.vvvv register, REG_NONE when there is none */
	uint8_t vex_l;     /* VEX.L */
	uint8_t op_size;   /* integer operand size in bytes: 1, 2, 4, 8 */
	uint8_t addr_size; /* 4 or 8 */

	bool has_modrm;
	uint8_t modrm, sib;
	uint8_t reg; /* ModRM.reg with REX.R / VEX.R */
	uint8_t rm;  /* ModRM.rm with REX.B, when mod == 3; or the register in the opcode */
	uint8_t opcode_offset; /* of the last opcode byte; the modrm follows it */
	uint8_t imm_offset;    /* of the immediate, = len when there is none */
	uint8_t imm_size;      /* bytes of immediate(s); moffs is not an immediate: see has_moffs */
	int64_t imm;           /* extended as the instruction does; enter: size | nesting << 16 */

	bool has_mem;               /* a memory operand through ModRM, or moffs */
	bool has_moffs;             /* mov al/ax/eax/rax <-> moffs: disp is the 64-bit address */
	uint8_t base, index, scale; /* register number or REG_NONE / REG_PC; scale is 1, 2, 4, 8 */
	int64_t disp;
	uint16_t mem_size; /* bytes accessed; 0: depends (xsave) or none (lea, nop, invlpg) */
	uint8_t mem_align; /* 16, 32: #GP(0) when the operand is not aligned so; 0: anywhere */
	bool mem_read, mem_write;
	bool vsib; /* index is a vector register (gathers); mem_size is that of one element */
	/*
	 * bt/bts/btr/btc m,r: the register operand also moves the address, by
	 * (bit offset >> 4, 5 or 6, signed) * op_size.
	 */
	bool bit_string;
	/*
	 * The F2 or F3 in prefixes means nothing to this instruction and must not reach the host,
	 * where it may name an instruction of a masked feature (tzcnt for bsf) or elide a lock.
	 */
	bool rep_ignored;

	/*
	 * Bit n: general register n is read (explicitly, implicitly or in an address), written. A
	 * register that is written only partly or conditionally is also in gpr_read.
	 */
	uint16_t gpr_read, gpr_write;
	bool high_byte; /* names AH, CH, DH or BH: the instruction cannot take a REX prefix */
	uint16_t flags_read, flags_write; /* FLAG_*: write covers set, cleared and undefined */
	uint16_t flags_undefined;         /* subset of flags_write the manual leaves undefined */
	bool flags_maybe; /* may leave the flags as they were (shift by cl, rep with rcx == 0) */
	bool may_fault;   /* can raise #DE, #XM, #MF or #GP (alignment) of its own while running */
	bool serializing; /* ends a block: changes modes, rip, or interrupts */
};

enum decode_result {
	DECODE_OK,
	DECODE_SHORT, /* more bytes are needed than avail */
	DECODE_LONG,  /* longer than 15 bytes: #GP(0) */
	DECODE_UD,    /* undefined opcode: insn->len holds the bytes looked at */
};

/*
 * Decode one instruction at bytes[0..avail). features is a bit mask of 1ull << FEAT_*; FEAT_BASE is
 * always accepted. Pure function; safe in any thread. On DECODE_OK *insn is completely filled in.
 */
enum decode_result insn_decode(const uint8_t *bytes, size_t avail, uint64_t features,
	struct insn *insn);

/*
 * Enumerate the table, for tests: calls fn once for each instruction form the whitelist names,
 * with a short mnemonic and a template encoding (registers 0, memory operand [rax] where it takes
 * one).
 */
struct insn_form {
	const char *name;
	uint8_t bytes[INSN_MAX_LEN];
	uint8_t len;
	bool takes_mem, takes_reg; /* the ModRM operand may be memory / a register */
	bool lockable;
};
void insn_forms(void (*fn)(void *arg, const struct insn_form *form), void *arg);

#endif
