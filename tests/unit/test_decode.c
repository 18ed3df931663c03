/* SPDX-License-Identifier: MIT */
/*
 * The decoder by hand-written cases: the rules of prefixes, lengths and the facts that the
 * translator relies on. test_decode_zydis.c compares the whole opcode space where Zydis is
 * installed.
 */
#include "engine/soft/decode.h"
#include "tap.h"

enum { RAX = 1, RCX = 2, RDX = 4, RBX = 8, RSP = 16, RBP = 32, RSI = 64, RDI = 128 };

static struct insn insn;

#define FEATURES_ALL (~0ull)
#define DECODE(...)                                            \
	decode(FEATURES_ALL, (const uint8_t[]){ __VA_ARGS__ }, \
		sizeof((const uint8_t[]){ __VA_ARGS__ }))

static enum decode_result decode(uint64_t features, const uint8_t *bytes, size_t len)
{
	return insn_decode(bytes, len, features, &insn);
}

static void length_and_operands(void)
{
	CHECK_EQ(DECODE(0x48, 0x8b, 0x84, 0x91, 0x78, 0x56, 0x34, 0x12), DECODE_OK);
	CHECK_EQ(insn.len, 8); /* mov rax, [rcx + rdx*4 + 0x12345678] */
	CHECK_EQ(insn.class, INSN_COPY);
	CHECK_EQ(insn.base, 1);
	CHECK_EQ(insn.index, 2);
	CHECK_EQ(insn.scale, 4);
	CHECK_EQ(insn.disp, 0x12345678);
	CHECK_EQ(insn.mem_size, 8);
	CHECK(insn.mem_read && !insn.mem_write);
	CHECK_EQ(insn.gpr_read, RCX | RDX);
	CHECK_EQ(insn.gpr_write, RAX);
	CHECK_EQ(DECODE(0x89, 0x05, 0xfc, 0xff, 0xff, 0xff), DECODE_OK); /* mov [rip-4], eax */
	CHECK_EQ(insn.base, REG_PC);
	CHECK_EQ(insn.disp, -4);
	CHECK(insn.mem_write && !insn.mem_read);
	CHECK_EQ(DECODE(0x8b, 0x04, 0x25, 0, 0, 0, 0x80), DECODE_OK); /* absolute, sign-extended */
	CHECK_EQ(insn.base, REG_NONE);
	CHECK_EQ(insn.index, REG_NONE);
	CHECK_EQ(insn.disp, (int64_t)INT32_MIN);
}

static void immediates(void)
{
	CHECK_EQ(DECODE(0x66, 0x81, 0xc0, 0x00, 0x80), DECODE_OK); /* add ax, imm16 */
	CHECK_EQ(insn.len, 5);
	CHECK_EQ(insn.imm, -0x8000);
	CHECK_EQ(DECODE(0x66, 0x48, 0x81, 0xc0, 1, 0, 0, 0x80), DECODE_OK); /* REX.W wins over 66 */
	CHECK_EQ(insn.len, 8);
	CHECK_EQ(DECODE(0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8), DECODE_OK);
	CHECK_EQ(insn.imm, 0x0807060504030201);
	CHECK_EQ(DECODE(0xc8, 0x34, 0x12, 0x05), DECODE_OK);
	CHECK_EQ(insn.imm, 0x1234 | 5 << 16);
	CHECK_EQ(DECODE(0xcd, 0x80), DECODE_OK);
	CHECK_EQ(insn.imm, 0x80);
	CHECK_EQ(DECODE(0x67, 0xa1, 0xff, 0xff, 0xff, 0xff), DECODE_OK); /* 32-bit moffs */
	CHECK_EQ(insn.len, 6);
	CHECK_EQ(insn.disp, 0xffffffff);
	CHECK(insn.has_moffs);
}

static void branches(void)
{
	/* Intel ignores 66 on near branches: four bytes of displacement stay four. */
	CHECK_EQ(DECODE(0x66, 0xe8, 1, 0, 0, 0), DECODE_OK);
	CHECK_EQ(insn.len, 6);
	CHECK_EQ(insn.class, INSN_CALL);
	CHECK_EQ(DECODE(0xf2, 0x0f, 0x84, 0xf6, 0xff, 0xff, 0xff), DECODE_OK); /* bnd je */
	CHECK_EQ(insn.class, INSN_JCC);
	CHECK_EQ(insn.imm, -10);
	CHECK_EQ(insn.flags_read, FLAG_ZF);
	CHECK_EQ(DECODE(0x3e, 0xff, 0xe0), DECODE_OK); /* notrack jmp rax */
	CHECK_EQ(insn.class, INSN_JMP_IND);
	CHECK_EQ(DECODE(0x67, 0xe3, 0x00), DECODE_OK); /* jecxz */
	CHECK_EQ(insn.class, INSN_LOOP);
	CHECK_EQ(insn.addr_size, 4);
}

static void prefixes(void)
{
	CHECK_EQ(DECODE(0x48, 0x66, 0x01, 0xc0), DECODE_OK); /* a REX before a prefix is void */
	CHECK_EQ(insn.op_size, 2);
	CHECK_EQ(DECODE(0xf2, 0xf3, 0x0f, 0x10, 0xc1), DECODE_OK); /* the last one counts: movss */
	CHECK_EQ(insn.prefixes, PFX_F3);
	CHECK_EQ(DECODE(0x65, 0x2e, 0x8b, 0x00), DECODE_OK); /* cs: does not undo gs: */
	CHECK_EQ(insn.segment, 5);
	CHECK_EQ(DECODE(0x64, 0x65, 0x8b, 0x00), DECODE_OK);
	CHECK_EQ(insn.segment, 5);
	CHECK_EQ(DECODE(0xf3, 0x0f, 0x28, 0xc1), DECODE_UD); /* movaps has no F3 form */
}

static void lock(void)
{
	CHECK_EQ(DECODE(0xf0, 0x01, 0x00), DECODE_OK);
	CHECK_EQ(DECODE(0xf0, 0x01, 0xc0), DECODE_UD);       /* register destination */
	CHECK_EQ(DECODE(0xf0, 0x39, 0x00), DECODE_UD);       /* cmp writes nothing */
	CHECK_EQ(DECODE(0xf0, 0x0f, 0xa3, 0x00), DECODE_UD); /* bt */
	CHECK_EQ(DECODE(0xf0, 0x0f, 0xab, 0x00), DECODE_OK); /* bts */
	CHECK_EQ(DECODE(0xf2, 0xf0, 0x01, 0x00), DECODE_OK); /* xacquire */
	CHECK(insn.rep_ignored);
}

static void vex(void)
{
	CHECK_EQ(DECODE(0xc5, 0xf4, 0x58, 0x08), DECODE_OK); /* vaddps ymm1, ymm1, [rax] */
	CHECK_EQ(insn.mem_size, 32);
	CHECK_EQ(insn.mem_align, 0);
	CHECK_EQ(insn.vvvv, 1);
	CHECK_EQ(insn.unit, UNIT_AVX);
	CHECK(insn.may_fault);
	CHECK_EQ(DECODE(0xc4, 0x41, 0x7c, 0x28, 0x00), DECODE_OK); /* vmovaps ymm8, [r8] */
	CHECK_EQ(insn.mem_align, 32);
	CHECK_EQ(insn.reg, 8);
	CHECK_EQ(insn.base, 8);
	CHECK_EQ(DECODE(0xc5, 0xf4, 0x28, 0x08), DECODE_UD);       /* vvvv unused, not 1111 */
	CHECK_EQ(DECODE(0x66, 0xc5, 0xf4, 0x58, 0x08), DECODE_UD); /* 66 before VEX */
	CHECK_EQ(DECODE(0x48, 0xc5, 0xf4, 0x58, 0x08), DECODE_UD); /* REX before VEX */
	CHECK_EQ(DECODE(0xf0, 0xc5, 0xf4, 0x58, 0x08), DECODE_UD);
	CHECK_EQ(DECODE(0xc4, 0xe2, 0x7d, 0x18, 0x00), DECODE_OK); /* vbroadcastss ymm0, [rax] */
	CHECK_EQ(insn.mem_size, 4);
	CHECK_EQ(DECODE(0xc4, 0xe2, 0xfd, 0x18, 0x00), DECODE_UD); /* W must be 0 */
	CHECK_EQ(DECODE(0xc4, 0xe2, 0x78, 0xf2, 0xc1), DECODE_OK); /* andn eax, eax, ecx */
	CHECK_EQ(insn.unit, UNIT_NONE);
	CHECK_EQ(insn.gpr_read, RAX | RCX);
	CHECK_EQ(DECODE(0xc4, 0xe2, 0x7c, 0xf2, 0xc1), DECODE_UD); /* L must be 0 */
}

static void gathers(void)
{
	CHECK_EQ(DECODE(0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08), DECODE_OK);
	CHECK_EQ(insn.system, SYS_GATHER);
	CHECK(insn.vsib);
	CHECK_EQ(insn.index, 1);
	CHECK_EQ(insn.gpr_read, RAX);
	CHECK_EQ(DECODE(0xc4, 0xe2, 0x71, 0x90, 0x04, 0x08), DECODE_UD); /* mask = index */
	CHECK_EQ(DECODE(0xc4, 0xe2, 0x69, 0x90, 0x00), DECODE_UD);       /* no SIB */
}

static void registers(void)
{
	CHECK_EQ(DECODE(0x88, 0xe0), DECODE_OK); /* mov al, ah */
	CHECK(insn.high_byte);
	CHECK_EQ(insn.gpr_read, RAX);
	CHECK_EQ(DECODE(0x40, 0x88, 0xe0), DECODE_OK); /* mov al, spl */
	CHECK(!insn.high_byte);
	CHECK_EQ(insn.gpr_read, RAX | RSP);
	CHECK_EQ(DECODE(0xb8, 1, 0, 0, 0), DECODE_OK); /* 32-bit write: the whole register */
	CHECK_EQ(insn.gpr_read, 0);
	CHECK_EQ(DECODE(0x66, 0xb8, 1, 0), DECODE_OK); /* 16-bit write keeps the rest */
	CHECK_EQ(insn.gpr_read, RAX);
	CHECK_EQ(DECODE(0x48, 0xf7, 0xf1), DECODE_OK); /* div rcx */
	CHECK_EQ(insn.gpr_read, RAX | RCX | RDX);
	CHECK_EQ(insn.gpr_write, RAX | RDX);
	CHECK(insn.may_fault);
	CHECK_EQ(DECODE(0x48, 0x0f, 0xc7, 0x0e), DECODE_OK); /* cmpxchg16b [rsi] */
	CHECK_EQ(insn.gpr_read, RAX | RBX | RCX | RDX | RSI);
	CHECK_EQ(insn.gpr_write, RAX | RDX);
	CHECK_EQ(insn.mem_size, 16);
	CHECK_EQ(insn.mem_align, 16);
	CHECK_EQ(DECODE(0x41, 0x90), DECODE_OK); /* xchg r8d, eax, not nop */
	CHECK_EQ(insn.class, INSN_COPY);
	CHECK_EQ(insn.gpr_write, RAX | 1 << 8);
}

static void strings(void)
{
	CHECK_EQ(DECODE(0xf3, 0x48, 0xa5), DECODE_OK);
	CHECK_EQ(insn.class, INSN_STRING);
	CHECK_EQ(insn.op_size, 8);
	CHECK_EQ(insn.gpr_write, RSI | RDI | RCX);
	CHECK_EQ(insn.flags_read, FLAG_DF);
	CHECK(!insn.rep_ignored);
	CHECK_EQ(DECODE(0xac), DECODE_OK);
	CHECK_EQ(insn.gpr_write, RSI | RAX);
	CHECK_EQ(insn.gpr_read, RSI | RAX); /* al is a part of rax */
	CHECK_EQ(DECODE(0xf3, 0xae), DECODE_OK);
	CHECK(insn.flags_maybe);
}

static void flags(void)
{
	CHECK_EQ(DECODE(0xff, 0xc0), DECODE_OK); /* inc keeps CF */
	CHECK_EQ(insn.flags_write, FLAGS_ARITH & ~FLAG_CF);
	CHECK_EQ(DECODE(0xd3, 0xe0), DECODE_OK); /* shl eax, cl */
	CHECK(insn.flags_maybe);
	CHECK_EQ(DECODE(0xc1, 0xe0, 0x20), DECODE_OK); /* the count is masked to 0 */
	CHECK_EQ(insn.flags_write, 0);
	CHECK_EQ(DECODE(0x48, 0xc1, 0xe0, 0x20), DECODE_OK);
	CHECK_EQ(insn.flags_write, FLAGS_ARITH);
	CHECK_EQ(DECODE(0x0f, 0x97, 0xc0), DECODE_OK); /* seta */
	CHECK_EQ(insn.flags_read, FLAG_CF | FLAG_ZF);
}

static void bit_strings(void)
{
	CHECK_EQ(DECODE(0x48, 0x0f, 0xab, 0x08), DECODE_OK); /* bts [rax], rcx */
	CHECK(insn.bit_string);
	CHECK_EQ(insn.mem_size, 8);
	CHECK_EQ(DECODE(0x48, 0x0f, 0xba, 0x28, 0x3f), DECODE_OK); /* bts [rax], 63 */
	CHECK(!insn.bit_string);
	CHECK_EQ(DECODE(0x48, 0x0f, 0xab, 0xc8), DECODE_OK);
	CHECK(!insn.bit_string);
}

static void masked_features(void)
{
	static const uint8_t tzcnt[] = { 0xf3, 0x0f, 0xbc, 0xc1 };
	static const uint8_t sha[] = { 0x0f, 0x38, 0xc8, 0xc1 };

	CHECK_EQ(decode(FEATURES_ALL, tzcnt, 4), DECODE_OK);
	CHECK_EQ(insn.feature, FEAT_BMI1);
	CHECK(!insn.rep_ignored);
	CHECK_EQ(decode(0, tzcnt, 4), DECODE_OK); /* bsf, and the host must not see the F3 */
	CHECK_EQ(insn.feature, FEAT_BASE);
	CHECK(insn.rep_ignored);
	CHECK_EQ(insn.flags_undefined, FLAGS_ARITH & ~FLAG_ZF);
	CHECK_EQ(decode(FEATURES_ALL, sha, 4), DECODE_OK);
	CHECK_EQ(decode(0, sha, 4), DECODE_UD);
}

static void never_copied(void)
{
	static const struct {
		uint8_t bytes[4], len;
		enum decode_result result;
		enum insn_system system;
	} cases[] = {
		{ { 0x0f, 0x05 }, 2, DECODE_OK, SYS_SYSCALL },
		{ { 0x0f, 0x34 }, 2, DECODE_OK, SYS_SYSENTER },
		{ { 0xcd, 0x80 }, 2, DECODE_OK, SYS_INT },
		{ { 0x0f, 0xa2 }, 2, DECODE_OK, SYS_CPUID },
		{ { 0x0f, 0x31 }, 2, DECODE_OK, SYS_RDTSC },
		{ { 0x0f, 0x01, 0xf9 }, 3, DECODE_OK, SYS_RDTSCP },
		{ { 0x0f, 0x01, 0xd0 }, 3, DECODE_OK, SYS_XGETBV },
		{ { 0xf3, 0x0f, 0xc7, 0xf8 }, 4, DECODE_OK, SYS_RDPID },
		{ { 0xf3, 0x0f, 0xae, 0xd0 }, 4, DECODE_OK, SYS_WRFSBASE },
		{ { 0x0f, 0x01, 0x00 }, 3, DECODE_OK, SYS_SGDT },
		{ { 0x0f, 0x00, 0xc0 }, 3, DECODE_OK, SYS_SLDT },
		{ { 0x0f, 0x03, 0xc0 }, 3, DECODE_OK, SYS_LSL },
		{ { 0x8c, 0xc0 }, 2, DECODE_OK, SYS_MOV_FROM_SREG },
		{ { 0x8e, 0xe0 }, 2, DECODE_OK, SYS_MOV_TO_SREG },
		{ { 0x0f, 0x0b }, 2, DECODE_OK, SYS_UD },
		{ { 0x0f, 0xae, 0x20 }, 3, DECODE_OK, SYS_XSAVE },
		{ { 0xf3, 0x90 }, 2, DECODE_OK, SYS_PAUSE },
		{ { 0x0f, 0x01, 0xee }, 3, DECODE_UD, SYS_NONE },       /* rdpkru */
		{ { 0x0f, 0x01, 0xef }, 3, DECODE_UD, SYS_NONE },       /* wrpkru */
		{ { 0x0f, 0x01, 0xd5 }, 3, DECODE_UD, SYS_NONE },       /* xend */
		{ { 0x0f, 0x01, 0xc1 }, 3, DECODE_UD, SYS_NONE },       /* vmcall */
		{ { 0xc6, 0xf8, 0x00 }, 3, DECODE_UD, SYS_NONE },       /* xabort */
		{ { 0xf3, 0x0f, 0xae, 0xf0 }, 4, DECODE_UD, SYS_NONE }, /* umonitor */
		{ { 0xf2, 0x0f, 0xae, 0xf0 }, 4, DECODE_UD, SYS_NONE }, /* umwait */
		{ { 0x66, 0x0f, 0xae, 0xf0 }, 4, DECODE_UD, SYS_NONE }, /* tpause */
		{ { 0xf3, 0x0f, 0xae, 0xe0 }, 4, DECODE_UD, SYS_NONE }, /* ptwrite */
		{ { 0xf3, 0x0f, 0xc7, 0xf0 }, 4, DECODE_UD, SYS_NONE }, /* senduipi */
		{ { 0x0f, 0xc7, 0x18 }, 3, DECODE_UD, SYS_NONE },       /* xrstors */
		{ { 0x82, 0xc0, 0x00 }, 3, DECODE_UD, SYS_NONE },       /* not in 64-bit mode */
		{ { 0x62, 0xf1, 0x7c, 0x48 }, 4, DECODE_UD, SYS_NONE }, /* EVEX */
		{ { 0x0f, 0x0f, 0xc0, 0x9e }, 4, DECODE_UD, SYS_NONE }, /* 3DNow */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CHECK_EQ(decode(FEATURES_ALL, cases[i].bytes, cases[i].len), cases[i].result);
		CHECK_EQ(insn.system, cases[i].system);
		CHECK_EQ(insn.class, cases[i].result == DECODE_OK ? INSN_SYSTEM : INSN_UNDEFINED);
	}
}

static void hints(void)
{
	CHECK_EQ(DECODE(0xf3, 0x0f, 0x1e, 0xfa), DECODE_OK); /* endbr64 */
	CHECK_EQ(insn.class, INSN_NOP);
	CHECK_EQ(DECODE(0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0), DECODE_OK);
	CHECK_EQ(insn.class, INSN_NOP);
	CHECK_EQ(insn.len, 9);
	CHECK_EQ(DECODE(0x0f, 0x0d, 0x08), DECODE_OK); /* prefetchw */
	CHECK_EQ(insn.class, INSN_NOP);
	CHECK_EQ(insn.gpr_read, 0);
}

static void limits(void)
{
	uint8_t b[16];

	CHECK_EQ(decode(FEATURES_ALL, b, 0), DECODE_SHORT);
	memset(b, 0x66, sizeof(b));
	CHECK_EQ(decode(FEATURES_ALL, b, 14), DECODE_SHORT);
	CHECK_EQ(decode(FEATURES_ALL, b, 16), DECODE_LONG);
	b[14] = 0x90;
	CHECK_EQ(decode(FEATURES_ALL, b, 16), DECODE_OK);
	CHECK_EQ(insn.len, 15);
	b[14] = 0x01; /* the ModRM byte would be the sixteenth */
	CHECK_EQ(decode(FEATURES_ALL, b, 16), DECODE_LONG);
	CHECK_EQ(decode(FEATURES_ALL, b, 15), DECODE_LONG);
	CHECK_EQ(DECODE(0x48, 0x8b, 0x80, 1, 2, 3), DECODE_SHORT);
}

static unsigned forms_seen, forms_bad;

static void one_form(void *arg, const struct insn_form *form)
{
	forms_seen++;
	if (insn_decode(form->bytes, form->len, FEATURES_ALL, &insn) != DECODE_OK ||
		insn.len != form->len || insn.has_mem > (form->takes_mem || insn.has_moffs)) {
		printf("# %s\n", form->name);
		forms_bad++;
	}
}

static void every_form(void)
{
	insn_forms(one_form, NULL);
	CHECK(forms_seen > 1500);
	CHECK_EQ(forms_bad, 0);
}

int main(void)
{
	RUN(length_and_operands);
	RUN(immediates);
	RUN(branches);
	RUN(prefixes);
	RUN(lock);
	RUN(vex);
	RUN(gathers);
	RUN(registers);
	RUN(strings);
	RUN(flags);
	RUN(bit_strings);
	RUN(masked_features);
	RUN(never_copied);
	RUN(hints);
	RUN(limits);
	RUN(every_form);
	return tap_done();
}
