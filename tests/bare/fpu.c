/* SPDX-License-Identifier: MIT */
/*
 * x87, SSE and AVX state: who may use it when, how it is saved and restored, its exceptions, and
 * that nothing disturbs it. Intel SDM volume 1, chapters 8, 10, 11 and 13.
 */
#include "bare.h"

#define MXCSR_DEFAULT 0x1f80u
#define COMPACT       (1ull << 63)

struct area {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved1;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint64_t st[8][2], xmm[16][2];
	uint64_t reserved2[12];
	uint64_t xstate_bv, xcomp_bv, header[6];
	uint64_t ymm[16][2];
	uint8_t more[4096 - 832];
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct area, ymm) == 576, "standard format");

static struct area one, two;
static bool avx;

static struct regs run(const void *code)
{
	struct regs r = kernel_regs(code);

	r.rdi = (uint64_t)&one;
	exec(&r);
	return r;
}

static void set_mxcsr(uint32_t v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}

static uint32_t get_mxcsr(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static void set_xcr0(uint64_t v)
{
	__asm__ volatile("xsetbv"
			 :
			 : "c"(0), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))
			 : "memory");
}

static uint64_t get_xcr0(void)
{
	uint32_t a, d;

	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0) : "memory");
	return a | (uint64_t)d << 32;
}

#define SAVE(insn, area, mask) \
	__asm__ volatile(insn " %0" : "+m"(area) : "a"((uint32_t)(mask)), "d"(0) : "memory")
#define RESTORE(area, mask) \
	__asm__ volatile("xrstor64 %0" : : "m"(area), "a"((uint32_t)(mask)), "d"(0) : "memory")

static void clear(struct area *a)
{
	memset(a, 0, sizeof(*a));
	a->fcw = 0x37f;
	a->mxcsr = MXCSR_DEFAULT;
}

/* Values in all registers that the machine has. */
static void make_values(struct area *a, uint64_t seed)
{
	clear(a);
	for (unsigned i = 0; i < 8; i++) {
		a->st[i][0] = 0x8000000000000000ull | seed * (i + 1);
		a->st[i][1] = 0x3fff + i;
	}
	for (unsigned i = 0; i < 16; i++) {
		a->xmm[i][0] = seed + i;
		a->xmm[i][1] = ~seed - i;
		a->ymm[i][0] = seed * 3 + i;
		a->ymm[i][1] = seed * 5 - i;
	}
	a->ftw = 0xff;
	a->fcw = 0x27f;
	a->mxcsr = 0x3f80 | 0x8000;
	a->xstate_bv = avx ? 7 : 3;
}

static bool same_values(const struct area *a, const struct area *b)
{
	return a->fcw == b->fcw && a->fsw == b->fsw && a->ftw == b->ftw && a->mxcsr == b->mxcsr &&
	       !memcmp(a->st, b->st, sizeof(a->st)) && !memcmp(a->xmm, b->xmm, sizeof(a->xmm)) &&
	       (!avx || !memcmp(a->ymm, b->ymm, sizeof(a->ymm)));
}

/*
 * --- enabled and disabled units
 */
CODE(use_sse, "addps %xmm1, %xmm0");
CODE(use_sse_mem, "movups (%rdi), %xmm0");
CODE(use_ldmxcsr, "ldmxcsr 24(%rdi)");
CODE(use_x87, "fld1; fstp %st(0)");
CODE(use_x87_control, "fninit");
CODE(use_mmx, "paddb %mm1, %mm0");
CODE(use_fxsave, "fxsave (%rdi)");
CODE(use_fxrstor, "fxrstor (%rdi)");
CODE(use_fwait, "fwait");
CODE(use_avx, "vaddps %ymm0, %ymm1, %ymm2");
CODE(use_avx_mem, "vmovups (%rdi), %ymm0");
CODE(use_xsave, "xsave (%rdi)");
CODE(use_xgetbv, "xgetbv");
CODE(not_sse,
	"movnti %rax, (%rdi); prefetcht0 (%rdi); sfence; lfence; mfence; pause; clflush (%rdi)");

static void task_switched(void)
{
	static const void *const codes[] = { use_sse, use_sse_mem, use_ldmxcsr, use_x87,
		use_x87_control, use_mmx, use_fxsave, use_fxrstor, use_fwait };
	struct regs r;

	clear(&one);
	write_cr0(read_cr0() | CR0_TS);
	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		r = run(codes[i]);
		CHECK_TRAP(&r, NM, 0, codes[i]);
	}
	r = run(not_sse);
	CHECK_DONE(&r, not_sse);
	write_cr0(read_cr0() & ~CR0_MP);
	r = run(use_fwait);
	CHECK_DONE(&r, use_fwait);
	write_cr0(read_cr0() | CR0_MP);
	__asm__ volatile("clts");
	r = run(use_sse);
	CHECK_DONE(&r, use_sse);
}

/* The way of a lazy kernel: #NM, clts, and the instruction again. */
static volatile unsigned lazy;
static bool on_not_available(struct regs *frame)
{
	lazy++;
	__asm__ volatile("clts");
	return true;
}

static void lazy_switching(void)
{
	struct regs r;

	lazy = 0;
	set_handler(NM, on_not_available);
	for (unsigned i = 0; i < 50; i++) {
		write_cr0(read_cr0() | CR0_TS);
		r = run(use_sse_mem);
		CHECK_DONE(&r, use_sse_mem);
		r = run(use_x87);
		CHECK_DONE(&r, use_x87);
	}
	set_handler(NM, NULL);
	CHECK_EQ(lazy, 50);
}

static void emulation(void)
{
	struct regs r;

	write_cr0(read_cr0() | CR0_EM);
	r = run(use_x87);
	CHECK_TRAP(&r, NM, 0, use_x87);
	r = run(use_sse);
	CHECK_TRAP(&r, UD, 0, use_sse);
	r = run(use_mmx);
	CHECK_TRAP(&r, UD, 0, use_mmx);
	write_cr0(read_cr0() & ~CR0_EM);
	r = run(use_x87);
	CHECK_DONE(&r, use_x87);
}

static void sse_not_enabled(void)
{
	struct regs r;

	clear(&one);
	write_cr4(read_cr4() & ~CR4_OSFXSR);
	r = run(use_sse);
	CHECK_TRAP(&r, UD, 0, use_sse);
	r = run(use_ldmxcsr);
	CHECK_TRAP(&r, UD, 0, use_ldmxcsr);
	r = run(use_x87);
	CHECK_DONE(&r, use_x87);
	r = run(use_mmx);
	CHECK_DONE(&r, use_mmx);
	r = run(use_fxsave);
	CHECK_DONE(&r, use_fxsave);
	write_cr4(read_cr4() | CR4_OSFXSR);
	r = run(use_sse);
	CHECK_DONE(&r, use_sse);
	__asm__ volatile("emms");
}

static void xsave_not_enabled(void)
{
	struct regs r;

	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	r = run(use_xsave);
	CHECK_TRAP(&r, UD, 0, use_xsave);
	r = run(use_xgetbv);
	CHECK_TRAP(&r, UD, 0, use_xgetbv);
	if (avx) {
		r = run(use_avx);
		CHECK_TRAP(&r, UD, 0, use_avx);
	}
	write_cr4(read_cr4() | CR4_OSXSAVE);
}

static void avx_not_enabled(void)
{
	struct regs r;

	set_xcr0(3);
	CHECK_EQ(get_xcr0(), 3);
	r = run(use_avx);
	CHECK_TRAP(&r, UD, 0, use_avx);
	r = run(use_avx_mem);
	CHECK_TRAP(&r, UD, 0, use_avx_mem);
	set_xcr0(7);
	r = run(use_avx);
	CHECK_DONE(&r, use_avx);
	write_cr0(read_cr0() | CR0_TS);
	r = run(use_avx);
	CHECK_TRAP(&r, NM, 0, use_avx);
	r = run(use_xsave);
	CHECK_TRAP(&r, NM, 0, use_xsave);
	__asm__ volatile("clts");
}

CODE(use_xsetbv, "xsetbv");
static void xcr0_refuses(void)
{
	static const uint64_t bad[] = { 0, 2, 4, 5, 6, 1ull << 40 | 7, 1ull << 62 | 3 };
	uint64_t now = get_xcr0();
	struct regs r;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		r = kernel_regs(use_xsetbv);
		r.rax = (uint32_t)bad[i];
		r.rdx = bad[i] >> 32;
		exec(&r);
		CHECK_TRAP(&r, GP, 0, use_xsetbv);
	}
	r = kernel_regs(use_xsetbv);
	r.rcx = 1;
	r.rax = 3;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, use_xsetbv);
	r = user_regs(use_xsetbv);
	r.rax = 3;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, user(use_xsetbv));
	CHECK_EQ(get_xcr0(), now);
	r = user_regs(use_xgetbv);
	exec(&r);
	CHECK_EQ(r.vector, BP);
	CHECK_EQ(r.rax, now);
}

/*
 * --- fxsave
 */
static void fxsave_initial(void)
{
	memset(&one, 0x55, sizeof(one));
	__asm__ volatile("fninit");
	set_mxcsr(MXCSR_DEFAULT);
	__asm__ volatile("fxsave64 %0" : "=m"(one));
	CHECK_EQ(one.fcw, 0x37f);
	CHECK_EQ(one.fsw, 0);
	CHECK_EQ(one.ftw, 0);
	CHECK_EQ(one.mxcsr, MXCSR_DEFAULT);
	CHECK_EQ(one.mxcsr_mask & 0xffbf, 0xffbf);
	CHECK_EQ(one.xstate_bv, 0x5555555555555555);    /* 512 bytes and no more */
	CHECK_EQ(one.reserved2[6], 0x5555555555555555); /* free for software */
}

static void fxsave_round_trip(void)
{
	make_values(&one, 0x1234567);
	__asm__ volatile("fxrstor64 %0" : : "m"(one));
	memset(&two, 0, sizeof(two));
	__asm__ volatile("fxsave64 %0" : "=m"(two));
	CHECK_EQ(two.fcw, one.fcw);
	CHECK_EQ(two.ftw, 0xff);
	CHECK_EQ(two.mxcsr, one.mxcsr);
	CHECK(!memcmp(one.st, two.st, sizeof(one.st)));
	CHECK(!memcmp(one.xmm, two.xmm, sizeof(one.xmm)));
	clear(&one);
	__asm__ volatile("fxrstor64 %0" : : "m"(one));
	__asm__ volatile("fxsave64 %0" : "=m"(two));
	CHECK_EQ(two.xmm[15][1], 0);
	CHECK_EQ(two.ftw, 0);
}

static void fxsave_faults(void)
{
	struct regs r;

	clear(&one);
	r = kernel_regs(use_fxsave);
	r.rdi = (uint64_t)&one + 8;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, use_fxsave);
	one.mxcsr = 0x10000;
	r = run(use_fxrstor);
	CHECK_TRAP(&r, GP, 0, use_fxrstor);
	r = run(use_ldmxcsr);
	CHECK_TRAP(&r, GP, 0, use_ldmxcsr);
	r = kernel_regs(use_fxsave);
	r.rdi = va_alloc() + PAGE;
	exec(&r);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.error, PF_W);
	/* the second page is missing: nothing is stored */
	uint64_t va = va_alloc();
	uint8_t *page = page_alloc();

	map(va, page, PTE_KRW);
	r = kernel_regs(use_fxsave);
	r.rdi = va + PAGE - 256;
	exec(&r);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.cr2, va + PAGE);
}

/* The instruction pointer is the guest's, where there is one at all. */
CODE(x87_pointer, "fninit; fld1; fldz" LABEL(x87_divide) "fdivrp; fxsave64 (%rdi); fninit");
POINT(x87_divide);
static void x87_pointers(void)
{
	struct regs r = run(x87_pointer);

	CHECK_DONE(&r, x87_pointer);
	CHECK(!one.fip ||
		(one.fip >= (uint64_t)x87_pointer && one.fip < (uint64_t)x87_pointer_end));
	CHECK_EQ(one.fdp, 0);
}

/*
 * --- xsave
 */
static void xsave_round_trip(void)
{
	make_values(&one, 0x89abcdef);
	RESTORE(one, 7);
	memset(&two, 0, sizeof(two));
	SAVE("xsave64", two, 7);
	CHECK(same_values(&one, &two));
	CHECK_EQ(two.xstate_bv, one.xstate_bv);
	CHECK_EQ(two.xcomp_bv, 0);
}

static void xrstor_initializes(void)
{
	make_values(&one, 77);
	RESTORE(one, 7);
	one.xstate_bv = 0;
	one.mxcsr = 0x1fa0;
	RESTORE(one, 7);
	CHECK_EQ(get_mxcsr(), 0x1fa0); /* loaded all the same, in the standard format */
	__asm__ volatile("fxsave64 %0" : "=m"(two));
	CHECK_EQ(two.fcw, 0x37f);
	CHECK_EQ(two.ftw, 0);
	CHECK_EQ(two.xmm[3][0], 0);
	CHECK_EQ(two.xmm[15][1], 0);
	if (avx) {
		clear(&two);
		__asm__ volatile("vextractf128 $1, %%ymm7, %0" : "=m"(two.xmm[0]));
		CHECK_EQ(two.xmm[0][0], 0);
	}
	set_mxcsr(MXCSR_DEFAULT);
}

/* What the mask does not name stays as it is, in registers and in memory. */
static void xsave_masks(void)
{
	make_values(&one, 1000);
	RESTORE(one, 7);
	make_values(&two, 2000);
	two.mxcsr = MXCSR_DEFAULT;
	RESTORE(two, 1);
	SAVE("xsave64", two, 2);
	CHECK_EQ(two.xmm[5][0], 1005);
	CHECK_EQ(two.mxcsr, one.mxcsr);
	CHECK_EQ(two.st[1][0], 0x8000000000000000ull | 4000); /* from before */
	memset(&two, 0x55, offsetof(struct area, xstate_bv));
	memset(&two.xstate_bv, 0, 64);
	SAVE("xsave64", two, 1);
	CHECK_EQ(two.fcw, 0x27f);
	CHECK_EQ(two.st[1][0], 0x8000000000000000ull | 4000); /* what was loaded */
	CHECK_EQ(two.xmm[5][0], 0x5555555555555555);
	CHECK_EQ(two.mxcsr, 0x55555555);
	CHECK_EQ(two.xstate_bv, 1);
}

static void xsave_header(void)
{
	make_values(&one, 5);
	RESTORE(one, 7);
	memset(&two, 0, sizeof(two));
	two.xstate_bv = 2; /* kept: not in the mask */
	SAVE("xsave64", two, 1);
	CHECK_EQ(two.xstate_bv, 3);
	CHECK_EQ(two.header[0], 0);
}

CODE(use_xrstor, "xrstor (%rdi)");
static void xrstor_refused(void)
{
	struct regs r = kernel_regs(use_xrstor);

	r.rdi = (uint64_t)&one;
	r.rax = 7;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, use_xrstor);
}

static void xrstor_faults(void)
{
	struct regs r;

	make_values(&one, 9);
	RESTORE(one, 7);
	one.xstate_bv |= 1ull << 40;
	xrstor_refused();
	make_values(&one, 10);
	one.header[0] = 1;
	xrstor_refused();
	make_values(&one, 10);
	one.xcomp_bv = 1;
	xrstor_refused();
	make_values(&one, 10);
	one.mxcsr = 0x80000000;
	xrstor_refused();
	make_values(&one, 10);
	r = kernel_regs(use_xrstor);
	r.rdi = (uint64_t)&one + 16;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, use_xrstor);
	r = kernel_regs(use_xsave);
	r.rdi = (uint64_t)&one + 32;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, use_xsave);
	SAVE("xsave64", two, 7);
	CHECK_EQ(two.xmm[0][0], 9); /* none of them changed a register */
	r = kernel_regs(use_xsave);
	r.rdi = va_alloc() + PAGE;
	r.rax = 7;
	exec(&r);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.error, PF_W);
}

static void xsave_compacted(void)
{
	make_values(&one, 31);
	RESTORE(one, 7);
	memset(&two, 0, sizeof(two));
	SAVE("xsavec64", two, 7);
	CHECK_EQ(two.xcomp_bv, COMPACT | one.xstate_bv);
	CHECK_EQ(two.xstate_bv, one.xstate_bv);
	CHECK(same_values(&one, &two));
	/* back from the compacted form, in which MXCSR belongs to SSE */
	clear(&one);
	RESTORE(one, 7);
	RESTORE(two, 7);
	memset(&one, 0, sizeof(one));
	SAVE("xsave64", one, 7);
	CHECK(same_values(&one, &two));
	two.xstate_bv = 0;
	RESTORE(two, 7);
	CHECK_EQ(get_mxcsr(), MXCSR_DEFAULT);
	/* initial components are not written */
	memset(&two, 0x55, sizeof(two));
	SAVE("xsavec64", two, 7);
	CHECK_EQ(two.xstate_bv & 5, 0);
	CHECK_EQ(two.ymm[3][0], 0x5555555555555555);
}

static void xsave_optimized(void)
{
	make_values(&one, 31);
	RESTORE(one, 7);
	make_values(&two, 99);
	SAVE("xsaveopt64", two, 7);
	CHECK(same_values(&one, &two));
	RESTORE(two, 7);
	__asm__ volatile("paddq %xmm1, %xmm0");
	SAVE("xsaveopt64", two, 7);
	CHECK_EQ(two.xmm[0][0], 31 + 32);
	CHECK_EQ(two.xmm[1][0], 32);
}

/*
 * --- exceptions
 */
CODE(divide_ps, "divps %xmm1, %xmm0");
CODE(divide_mem, "divps (%rdi), %xmm0");
static void simd_exception(void)
{
	struct regs r;

	clear(&one);
	one.xmm[0][0] = one.xmm[0][1] = 0x3f8000003f800000;
	one.mxcsr = MXCSR_DEFAULT & ~0x200u; /* division by zero is not masked */
	__asm__ volatile("fxrstor64 %0" : : "m"(one));
	r = run(divide_ps);
	CHECK_TRAP(&r, XM, 0, divide_ps);
	CHECK_EQ(get_mxcsr(), (MXCSR_DEFAULT & ~0x200u) | 4);
	__asm__ volatile("fxsave64 %0" : "=m"(two));
	CHECK_EQ(two.xmm[0][0], 0x3f8000003f800000); /* unchanged */
	memset(&one, 0, sizeof(one));
	r = run(divide_mem);
	CHECK_TRAP(&r, XM, 0, divide_mem);
	write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
	r = run(divide_ps);
	CHECK_TRAP(&r, UD, 0, divide_ps);
	write_cr4(read_cr4() | CR4_OSXMMEXCPT);
	set_mxcsr(MXCSR_DEFAULT);
	r = run(divide_ps);
	CHECK_DONE(&r, divide_ps);
	CHECK_EQ(get_mxcsr(), MXCSR_DEFAULT | 4);
	set_mxcsr(MXCSR_DEFAULT);
}

CODE(x87_fault,
	"fninit; fldcw (%rdi); fld1; fldz; fdivrp; fnstsw %ax; nop" LABEL(x87_wait) "fwait");
POINT(x87_wait);
CODE(x87_next, "fninit; fldcw (%rdi); fld1; fldz; fdivrp" LABEL(x87_load) "fldl 8(%rdi)");
POINT(x87_load);
static void x87_exception(void)
{
	struct regs r;

	memset(&one, 0, sizeof(one));
	one.fcw = 0x37b; /* zero divide */
	r = run(x87_fault);
	CHECK_TRAP(&r, MF, 0, x87_wait);
	CHECK_EQ(r.rax & 0x80ff, 0x8084);
	__asm__ volatile("fnclex");
	r = run(x87_next);
	CHECK_TRAP(&r, MF, 0, x87_load);
	__asm__ volatile("fnclex; fninit");
}

CODE(x87_pending_control,
	"fninit; fldcw (%rdi); fld1; fldz; fdivrp; fnstcw 16(%rdi); fnclex; fwait");
static void x87_control_does_not_wait(void)
{
	struct regs r;

	memset(&one, 0, sizeof(one));
	one.fcw = 0x37b;
	r = run(x87_pending_control);
	CHECK_DONE(&r, x87_pending_control);
	CHECK_EQ(*(uint16_t *)((uint8_t *)&one + 16), 0x37b);
	__asm__ volatile("fninit");
}

CODE(environment, "fninit; fld1; fldpi; fnstenv (%rdi); fnsave 64(%rdi); fldenv (%rdi);"
		  "fnstsw %ax; frstor 64(%rdi); fstpl 256(%rdi); fstpl 264(%rdi)");
static void x87_environment(void)
{
	uint16_t *words = (uint16_t *)&one;
	struct regs r;

	memset(&one, 0, sizeof(one));
	r = run(environment);
	CHECK_DONE(&r, environment);
	CHECK_EQ(words[0], 0x37f);
	CHECK_EQ(words[2] >> 11 & 7, 6); /* top */
	CHECK_EQ(words[4], 0x0fff);      /* tags: st0 and st1 valid */
	CHECK_EQ(r.rax >> 11 & 7, 6);
	CHECK_EQ(*(uint64_t *)((uint8_t *)&one + 256), 0x400921fb54442d18);
	CHECK_EQ(*(uint64_t *)((uint8_t *)&one + 264), 0x3ff0000000000000);
}

/*
 * --- AVX
 */
CODE(avx_load, "vmovups (%rdi), %ymm3");
CODE(avx_store, "vmovups %ymm3, (%rdi)");
CODE(avx_aligned, "vmovaps (%rdi), %ymm3");
static void avx_accesses(void)
{
	uint8_t *page = page_alloc();
	uint64_t va = va_alloc();
	struct regs r;

	make_values(&one, 400);
	RESTORE(one, 7);
	map(va, page, PTE_KRW);
	r = kernel_regs(avx_load);
	r.rdi = va + PAGE - 16;
	exec(&r);
	CHECK_PF(&r, 0, avx_load, va + PAGE);
	SAVE("xsave64", two, 7);
	CHECK(same_values(&one, &two));
	r = kernel_regs(avx_store);
	r.rdi = va + PAGE - 31;
	exec(&r);
	CHECK_PF(&r, PF_W, avx_store, va + PAGE);
	CHECK_EQ(page[PAGE - 31], 0);
	r = kernel_regs(avx_aligned);
	r.rdi = va + 16;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, avx_aligned);
	map(va + PAGE, page_alloc(), PTE_KRW);
	r = kernel_regs(avx_store);
	r.rdi = va + PAGE - 16;
	exec(&r);
	CHECK_DONE(&r, avx_store);
	CHECK_EQ(*(uint64_t *)(page + PAGE - 16), one.xmm[3][0]);
	CHECK_EQ(*(uint64_t *)(va + PAGE), one.ymm[3][0]);
	set_mxcsr(MXCSR_DEFAULT);
}

/* SSE leaves the upper half alone, and VEX clears it. */
CODE(upper_halves, "paddq %xmm1, %xmm1; vpaddq %xmm2, %xmm2, %xmm2");
static void avx_upper_halves(void)
{
	struct regs r;

	make_values(&one, 800);
	one.mxcsr = MXCSR_DEFAULT;
	RESTORE(one, 7);
	r = run(upper_halves);
	CHECK_DONE(&r, upper_halves);
	SAVE("xsave64", two, 7);
	CHECK_EQ(two.xmm[1][0], 2 * one.xmm[1][0]);
	CHECK_EQ(two.ymm[1][0], one.ymm[1][0]);
	CHECK_EQ(two.xmm[2][0], 2 * one.xmm[2][0]);
	CHECK_EQ(two.ymm[2][0], 0);
	__asm__ volatile("vzeroupper");
	SAVE("xsave64", two, 6);
	CHECK_EQ(two.xmm[5][0], one.xmm[5][0]);
	CHECK(!(two.xstate_bv & 4) || !two.ymm[5][0]);
}

/* What a mask hides is not accessed. */
CODE(masked_load, "vmaskmovps (%rdi), %ymm1, %ymm2");
CODE(masked_store, "vmaskmovps %ymm2, %ymm1, (%rdi)");
static void avx_masked(void)
{
	uint32_t *page = page_alloc();
	uint64_t va = va_alloc();
	struct regs r;

	for (unsigned i = 0; i < 1024; i++)
		page[i] = i;
	map(va, page, PTE_KRW);
	make_values(&one, 1);
	one.mxcsr = MXCSR_DEFAULT;
	one.xmm[1][0] = 0x8000000000000000ull; /* the second element alone */
	one.xmm[1][1] = one.ymm[1][0] = one.ymm[1][1] = 0;
	RESTORE(one, 7);
	r = kernel_regs(masked_load);
	r.rdi = va + PAGE - 8;
	exec(&r);
	CHECK_DONE(&r, masked_load);
	SAVE("xsave64", two, 7);
	CHECK_EQ(two.xmm[2][0], 1023ull << 32);
	CHECK_EQ(two.xmm[2][1], 0);
	page[1023] = 0;
	r = kernel_regs(masked_store);
	r.rdi = va + PAGE - 8;
	exec(&r);
	CHECK_DONE(&r, masked_store);
	CHECK_EQ(page[1023], 1023);
	CHECK_EQ(page[1022], 1022);
	r = kernel_regs(masked_store);
	r.rdi = va + PAGE - 4;
	exec(&r);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.error, PF_W);
}

/* A gather that faults half-way has its finished elements in the register and out of the mask. */
CODE(gather, "vpgatherdd %ymm1, (%rdi,%ymm2,4), %ymm3");
static void avx_gather(void)
{
	uint32_t *page = page_alloc();
	uint64_t va = va_alloc();
	uint32_t *index = (uint32_t *)one.xmm[2], *mask = (uint32_t *)one.xmm[1];
	struct regs r;

	for (unsigned i = 0; i < 1024; i++)
		page[i] = i + 5000;
	map(va, page, PTE_KRW);
	make_values(&one, 0);
	one.mxcsr = MXCSR_DEFAULT;
	for (unsigned i = 0; i < 4; i++) {
		index[i] = i * 400; /* the fourth is on the next page */
		mask[i] = 0x80000000;
	}
	one.ymm[1][0] = one.ymm[1][1] = 0;
	RESTORE(one, 7);
	r = kernel_regs(gather);
	r.rdi = va;
	exec(&r);
	CHECK_PF(&r, 0, gather, va + 4800);
	SAVE("xsave64", two, 7);
	CHECK_EQ(two.xmm[3][0], 5400ull << 32 | 5000);
	CHECK_EQ(((uint32_t *)two.xmm[1])[0], 0);
	CHECK_EQ(((uint32_t *)two.xmm[1])[3], 0x80000000);
	map(va + PAGE, page, PTE_KRW);
	exec(&r);
	CHECK_DONE(&r, gather);
	SAVE("xsave64", two, 7);
	CHECK_EQ(two.xmm[3][1], (5000ull + 1200 - 1024) << 32 | 5800);
	CHECK_EQ(two.xmm[1][1], 0);
}

/*
 * --- nothing disturbs it
 */
static bool fill(struct regs *frame)
{
	map(read_cr2() & ~(PAGE - 1), page_alloc(), PTE_KRW);
	return true;
}

static bool tick(struct regs *frame)
{
	apic_write(APIC_EOI, 0);
	return true;
}

CODE(disturbances, "1: xor %eax, %eax; cpuid; mov $0xe9, %edx; in $0xe0, %eax; incb (%rdi);"
		   "rdtsc; add $4096, %rdi; mov 0xd0000000, %eax; dec %rsi; jnz 1b");
static void state_survives(void)
{
	struct regs r;

	make_values(&one, 0xabcdef0123);
	one.mxcsr = 0x7f80; /* toward zero, flags clear */
	one.fcw = 0x77f;    /* single precision, toward minus infinity */
	set_handler(PF, fill);
	set_handler(0x51, tick);
	apic_enable(false);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, 0x20051);
	apic_write(APIC_TMICT, 20000);
	r = kernel_regs(disturbances);
	r.rflags |= FL_IF;
	r.rdi = va_alloc();
	r.rsi = 400;
	RESTORE(one, 7);
	exec(&r);
	memset(&two, 0, sizeof(two));
	SAVE("xsave64", two, 7);
	apic_write(APIC_TMICT, 0);
	set_handler(PF, NULL);
	CHECK_DONE(&r, disturbances);
	CHECK(same_values(&one, &two));
	__asm__ volatile("fninit");
	set_mxcsr(MXCSR_DEFAULT);
}

CODE(round_up,
	"movss (%rdi), %xmm0; mov 0xd0000000, %eax; divss 4(%rdi), %xmm0; movss %xmm0, 8(%rdi)");
static void rounding_is_the_guests(void)
{
	uint32_t *words = (uint32_t *)&one;
	struct regs r;

	words[0] = 0x3f800000; /* 1 / 3 */
	words[1] = 0x40400000;
	set_mxcsr(MXCSR_DEFAULT | 0x4000);
	r = run(round_up);
	CHECK_DONE(&r, round_up);
	CHECK_EQ(words[2], 0x3eaaaaab);
	set_mxcsr(MXCSR_DEFAULT | 0x2000);
	run(round_up);
	CHECK_EQ(words[2], 0x3eaaaaaa);
	set_mxcsr(MXCSR_DEFAULT);
}

int main(void)
{
	bool xsave = cpu_has(1, 0, 2, 26);

	avx = xsave && cpu_has(1, 0, 2, 28);
	RUN(task_switched);
	RUN(lazy_switching);
	RUN(emulation);
	RUN(sse_not_enabled);
	RUN(fxsave_initial);
	RUN(fxsave_round_trip);
	RUN(fxsave_faults);
	RUN(x87_pointers);
	RUN(simd_exception);
	RUN(x87_exception);
	RUN(x87_control_does_not_wait);
	RUN(x87_environment);
	if (!xsave) {
		tap_skip("xsave", "not offered");
		return tap_done();
	}
	RUN(xsave_not_enabled);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	set_xcr0(avx ? 7 : 3);
	RUN_IF(avx, avx_not_enabled);
	RUN(xcr0_refuses);
	RUN(xsave_round_trip);
	RUN(xrstor_initializes);
	RUN(xsave_masks);
	RUN(xsave_header);
	RUN(xrstor_faults);
	RUN_IF(cpu_has(0xd, 1, 0, 1), xsave_compacted);
	RUN_IF(cpu_has(0xd, 1, 0, 0), xsave_optimized);
	RUN_IF(avx, avx_accesses);
	RUN_IF(avx, avx_upper_halves);
	RUN_IF(avx, avx_masked);
	RUN_IF(avx && cpu_has(7, 0, 1, 5), avx_gather);
	RUN(state_survives);
	RUN(rounding_is_the_guests);
	return tap_done();
}
