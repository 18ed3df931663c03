/* SPDX-License-Identifier: MIT */
/*
 * Accesses that reach the board: ports and memory-mapped registers, their widths, and every form of
 * instruction that may make them. Needs the runner's test device.
 */
#include "bare.h"

#define LOG     (DEVICE_MMIO + 2048)
#define READS   0
#define R_AT    1
#define R_SIZE  2
#define WRITES  3
#define W_AT    4
#define W_SIZE  5
#define W_VALUE 6

static volatile uint8_t *const mmio = (volatile uint8_t *)DEVICE_MMIO;

static uint64_t logged(unsigned n)
{
	return ((volatile uint64_t *)LOG)[n];
}

static void put(unsigned offset, uint64_t v)
{
	*(volatile uint64_t *)(mmio + offset) = v;
}

static uint64_t get(unsigned offset)
{
	return *(volatile uint64_t *)(mmio + offset);
}

static struct regs run(const void *code, unsigned offset)
{
	struct regs r = kernel_regs(code);

	r.rdi = DEVICE_MMIO + offset;
	r.rax = 0xa1a2a3a4a5a6a7a8;
	r.rbx = 0xb1b2b3b4b5b6b7b8;
	r.rcx = 3;
	r.r10 = 0x1010101010101010;
	r.r11 = 0x1111111111111111;
	exec(&r);
	CHECK_EQ(r.vector, BP);
	return r;
}

CODE(w1, "mov %bl, (%rdi)");
CODE(w1h, "mov %bh, (%rdi)");
CODE(w2, "mov %bx, (%rdi)");
CODE(w4, "mov %ebx, (%rdi)");
CODE(w8, "mov %rbx, (%rdi)");
CODE(w11, "mov %r11, (%rdi)");
CODE(wi, "movl $0x12345678, (%rdi)");
static void write_widths(void)
{
	static const struct {
		const uint8_t *code;
		unsigned size;
		uint64_t value;
	} cases[] = { { w1, 1, 0xb8 }, { w1h, 1, 0xb7 }, { w2, 2, 0xb7b8 }, { w4, 4, 0xb5b6b7b8 },
		{ w8, 8, 0xb1b2b3b4b5b6b7b8 }, { w11, 8, 0x1111111111111111 },
		{ wi, 4, 0x12345678 } };

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t before = logged(WRITES);

		run(cases[i].code, 64 + 8 * i);
		CHECK_EQ(logged(WRITES), before + 1);
		CHECK_EQ(logged(W_AT), 64 + 8 * i);
		CHECK_EQ(logged(W_SIZE), cases[i].size);
		CHECK_EQ(logged(W_VALUE), cases[i].value);
	}
}

CODE(r1, "mov (%rdi), %bl");
CODE(r1h, "mov (%rdi), %bh");
CODE(r2, "mov (%rdi), %bx");
CODE(r4, "mov (%rdi), %ebx");
CODE(r8, "mov (%rdi), %rbx");
CODE(rzx, "movzbl (%rdi), %ebx");
CODE(rsx, "movswq (%rdi), %rbx");
CODE(r10_, "mov (%rdi), %r10; mov %r10, %rbx");
CODE(rcmov, "test %al, %al; cmovz (%rdi), %rbx");
static void read_widths(void)
{
	static const struct {
		const uint8_t *code;
		unsigned size;
		uint64_t value;
	} cases[] = { { r1, 1, 0xb1b2b3b4b5b6b7f8 }, { r1h, 1, 0xb1b2b3b4b5b6f8b8 },
		{ r2, 2, 0xb1b2b3b4b5b6f7f8 }, { r4, 4, 0xf5f6f7f8 }, { r8, 8, 0xf1f2f3f4f5f6f7f8 },
		{ rzx, 1, 0xf8 }, { rsx, 2, 0xfffffffffffff7f8 }, { r10_, 8, 0xf1f2f3f4f5f6f7f8 },
		{ rcmov, 8, 0xb1b2b3b4b5b6b7b8 } }; /* the read happens, the move does not */

	put(8, 0xf1f2f3f4f5f6f7f8);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t before = logged(READS);
		struct regs r = run(cases[i].code, 8);

		CHECK_EQ(logged(READS), before + 1);
		CHECK_EQ(logged(R_AT), 8);
		CHECK_EQ(logged(R_SIZE), cases[i].size);
		CHECK_EQ(r.rbx, cases[i].value);
	}
}

CODE(m_add, "addq $5, (%rdi)");
CODE(m_lock, "lock incl (%rdi)");
CODE(m_xchg, "xchg %rbx, (%rdi)");
CODE(m_xadd, "lock xadd %ebx, (%rdi)");
CODE(m_cas, "lock cmpxchg %rbx, (%rdi)");
CODE(m_or, "orb $0x80, (%rdi)");
CODE(m_not, "notq (%rdi)");
CODE(m_bts, "lock btsl $4, (%rdi)");
CODE(m_btr, "btq %rcx, (%rdi)");
CODE(m_cmp, "cmpl $7, (%rdi); setz %bl");
CODE(m_test, "testb $8, (%rdi); setnz %bl");
static void read_modify_write(void)
{
	struct regs r;

	put(16, 10);
	run(m_add, 16);
	CHECK_EQ(get(16), 15);
	run(m_lock, 16);
	CHECK_EQ(get(16), 16);
	r = run(m_xchg, 16);
	CHECK_EQ(r.rbx, 16);
	CHECK_EQ(get(16), 0xb1b2b3b4b5b6b7b8);
	put(16, 7);
	r = run(m_xadd, 16);
	CHECK_EQ(r.rbx, 7);
	CHECK_EQ(get(16), 0xb5b6b7bf);
	put(16, 0xa1a2a3a4a5a6a7a8);
	r = run(m_cas, 16);
	CHECK_EQ(get(16), 0xb1b2b3b4b5b6b7b8);
	CHECK_EQ(r.rflags & FL_ZF, FL_ZF);
	r = run(m_cas, 16);
	CHECK_EQ(r.rax, 0xb1b2b3b4b5b6b7b8);
	put(16, 1);
	run(m_or, 16);
	CHECK_EQ(get(16), 0x81);
	run(m_not, 16);
	CHECK_EQ(get(16), ~0x81ull);
	put(16, 0);
	run(m_bts, 16);
	CHECK_EQ(get(16), 0x10);
	put(16, 8);
	r = run(m_btr, 16);
	CHECK_EQ(r.rflags & FL_CF, FL_CF);
	put(16, 7);
	r = run(m_cmp, 16);
	CHECK_EQ(r.rbx & 0xff, 1);
	put(16, 8);
	r = run(m_test, 16);
	CHECK_EQ(r.rbx & 0xff, 1);
}

CODE(s_push, "push (%rdi)");
CODE(s_pop, "push %rbx; pop (%rdi)");
static void stack_operands(void)
{
	struct regs r;

	put(24, 0x2424);
	r = run(s_push, 24);
	CHECK_EQ(*(uint64_t *)r.rsp, 0x2424);
	run(s_pop, 24);
	CHECK_EQ(get(24), 0xb1b2b3b4b5b6b7b8);
}

/* A stack that is a device, for what it is worth. */
CODE(s_stack, "mov %rsp, %rsi; mov %rdi, %rsp; push %rbx; pop %rcx; call 1f\n"
	      "1: pop %rdx; mov %rsi, %rsp");
static void stack_in_device(void)
{
	struct regs r = run(s_stack, 512);

	CHECK_EQ(r.rcx, 0xb1b2b3b4b5b6b7b8);
	CHECK(r.rdx > (uint64_t)s_stack && r.rdx < (uint64_t)s_stack_end);
	CHECK_EQ(logged(W_AT), 504);
}

CODE(v_set, "movq %rbx, %xmm0; movq %rax, %xmm2; punpcklqdq %xmm2, %xmm0; movups %xmm0, (%rdi);"
	    "movups (%rdi), %xmm1; movq %xmm1, %rcx; psrldq $8, %xmm1; movq %xmm1, %rdx");
static void vectors(void)
{
	struct regs r = run(v_set, 32);

	CHECK_EQ(r.rcx, 0xb1b2b3b4b5b6b7b8);
	CHECK_EQ(r.rdx, 0xa1a2a3a4a5a6a7a8);
	CHECK_EQ(get(32), 0xb1b2b3b4b5b6b7b8);
	CHECK_EQ(get(40), 0xa1a2a3a4a5a6a7a8);
	CHECK_EQ(logged(R_SIZE), 8);
}

CODE(strings_in, "rep movsl");
CODE(strings_fill, "rep stosw");
CODE(strings_scan, "repne scasb");
static void strings(void)
{
	uint32_t *ram = page_alloc();
	struct regs r;
	uint64_t before;

	for (unsigned i = 0; i < 16; i++)
		ram[i] = i * 3 + 1;
	before = logged(WRITES);
	r = kernel_regs(strings_in);
	r.rsi = (uint64_t)ram;
	r.rdi = DEVICE_MMIO + 256;
	r.rcx = 16;
	exec(&r);
	CHECK_DONE(&r, strings_in);
	CHECK_EQ(logged(WRITES), before + 16);
	CHECK_EQ(logged(W_SIZE), 4);
	CHECK_EQ(get(256), 4ull << 32 | 1);
	before = logged(READS);
	r = kernel_regs(strings_in);
	r.rsi = DEVICE_MMIO + 256;
	r.rdi = (uint64_t)ram + 512;
	r.rcx = 16;
	exec(&r);
	CHECK_EQ(logged(READS), before + 16);
	CHECK(!memcmp(ram, ram + 128, 64));
	r = kernel_regs(strings_fill);
	r.rdi = DEVICE_MMIO + 320;
	r.rax = 0x7766;
	r.rcx = 8;
	exec(&r);
	CHECK_EQ(get(328), 0x7766776677667766);
	r = kernel_regs(strings_scan);
	r.rdi = DEVICE_MMIO + 256;
	r.rcx = 64;
	r.rax = 4;
	exec(&r);
	CHECK_EQ(r.rdi, DEVICE_MMIO + 261);
	CHECK_EQ(r.rcx, 59);
}

/* Half in RAM, half in the device. */
static void crossing(void)
{
	uint64_t va = va_alloc();
	uint8_t *page = page_alloc();

	map(va, page, PTE_KRW);
	map(va + PAGE, (void *)DEVICE_MMIO, PTE_KRW);
	put(0, 0);
	*(volatile uint64_t *)(va + PAGE - 4) = 0x8877665544332211;
	CHECK_EQ(*(uint32_t *)(page + PAGE - 4), 0x44332211);
	CHECK_EQ(get(0), 0x88776655);
	CHECK_EQ(*(volatile uint64_t *)(va + PAGE - 3), 0x8877665544332211 >> 8);
}

/* Nobody is there. */
static void holes(void)
{
	volatile uint64_t *nobody = (uint64_t *)0xd8000000;

	*nobody = 5;
	CHECK_EQ(*nobody, ~0ull);
	CHECK_EQ(*(volatile uint16_t *)nobody, 0xffff);
	CHECK_EQ(inl(0x1234), ~0u);
}

CODE(port_in, "mov $0xe8, %dx; xor %eax, %eax; in %dx, %al; mov %eax, %ebx; mov $-1, %rax;"
	      "in %dx, %ax; mov %rax, %rcx; mov $-1, %rax; in %dx, %eax; in $0xe8, %al");
static void port_widths(void)
{
	struct regs r = run(port_in, 0);

	CHECK_EQ(r.rbx, DEVICE_MAGIC & 0xff);
	CHECK_EQ(r.rcx, 0xffffffffffff0000 | (DEVICE_MAGIC & 0xffff));
	CHECK_EQ(r.rax, DEVICE_MAGIC);
}

CODE(port_strings, "mov $0xe8, %edx; rep insl");
CODE(port_out_strings, "mov $0xe4, %edx; rep outsl");
static void port_string_instructions(void)
{
	uint32_t *ram = page_alloc();
	uint64_t va = va_alloc();
	struct regs r = kernel_regs(port_strings);

	r.rdi = (uint64_t)ram;
	r.rcx = 5;
	exec(&r);
	CHECK_DONE(&r, port_strings);
	CHECK_EQ(ram[4], DEVICE_MAGIC);
	CHECK_EQ(ram[5], 0);
	CHECK_EQ(r.rdi, (uint64_t)ram + 20);
	CHECK_EQ(r.rcx, 0);
	/* a page ends on the way */
	map(va, ram, PTE_KRW);
	r = kernel_regs(port_strings);
	r.rdi = va + PAGE - 8;
	r.rcx = 5;
	exec(&r);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.error, PF_W);
	CHECK_EQ(r.cr2, va + PAGE);
	CHECK_EQ(r.rcx, 3);
	CHECK_EQ(r.rdi, va + PAGE);
	r = kernel_regs(port_out_strings);
	r.rsi = (uint64_t)ram;
	r.rcx = 3;
	exec(&r);
	CHECK_DONE(&r, port_out_strings);
	CHECK_EQ(r.rsi, (uint64_t)ram + 12);
}

int main(void)
{
	if (!device_present()) {
		printf("1..0 # SKIP no test device\n");
		return 0;
	}
	RUN(write_widths);
	RUN(read_widths);
	RUN(read_modify_write);
	RUN(stack_operands);
	RUN(stack_in_device);
	RUN(vectors);
	RUN(strings);
	RUN(crossing);
	RUN(holes);
	RUN(port_widths);
	RUN(port_string_instructions);
	return tap_done();
}
