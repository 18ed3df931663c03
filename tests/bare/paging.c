/* SPDX-License-Identifier: MIT */
/*
 * Address translation: Intel SDM volume 3, chapter 4. Rights at every level, accessed and dirty
 * bits, reserved bits, large pages, and what makes a change of the tables visible.
 */
#include "bare.h"

CODE(read8, "mov (%rax), %rbx");
CODE(write8, "mov %rbx, (%rax)");
CODE(add8, "add %rbx, (%rax)");
CODE(jump, "jmp *%rax");
CODE(stack_read, "mov 8(%rbp), %rbx");
CODE(push_rbx, "push %rbx");
CODE(call_rax, "call *%rax");
CODE(plain_ret, "ret");

/* A page in a mapping of its own; the entry at each level is fresh. */
static uint8_t *page;
static uint64_t va;

static void fresh(uint64_t flags)
{
	page = page_alloc();
	va = va_alloc();
	map(va, page, flags);
}

static struct regs run(const void *code, uint64_t rax)
{
	struct regs r = kernel_regs(code);

	r.rax = rax;
	r.rbx = 0x1122334455667788;
	exec(&r);
	return r;
}

static struct regs run_user(const void *code, uint64_t rax)
{
	struct regs r = user_regs(code);

	r.rax = rax;
	r.rbx = 0x1122334455667788;
	exec(&r);
	return r;
}

static bool flag(uint64_t address, unsigned level, uint64_t bit)
{
	return *pte(address, level) & bit;
}

static void read_sets_accessed(void)
{
	fresh(PTE_KRW);
	/* Nobody used the directory of this address. */
	*pte(va, 2) &= ~PTE_A;
	invlpg(va);
	CHECK(!flag(va, 1, PTE_A));
	struct regs r = run(read8, va);

	CHECK_DONE(&r, read8);
	CHECK(flag(va, 1, PTE_A));
	CHECK(!flag(va, 1, PTE_D));
	CHECK(flag(va, 2, PTE_A));
	CHECK(flag(va, 3, PTE_A));
	CHECK(flag(va, 4, PTE_A));
	CHECK(!flag(va, 2, PTE_D));
}

static void write_after_read_sets_dirty(void)
{
	fresh(PTE_KRW);
	run(read8, va);
	CHECK(!flag(va, 1, PTE_D));
	run(write8, va);
	CHECK(flag(va, 1, PTE_D));
	CHECK_EQ(*(uint64_t *)page, 0x1122334455667788);
}

static void modify_sets_dirty(void)
{
	fresh(PTE_KRW);
	run(add8, va);
	CHECK(flag(va, 1, PTE_D));
	CHECK(flag(va, 1, PTE_A));
}

static void dirty_is_set_again(void)
{
	fresh(PTE_KRW);
	run(write8, va);
	*pte(va, 1) &= ~(PTE_D | PTE_A);
	invlpg(va);
	run(read8, va);
	CHECK(flag(va, 1, PTE_A));
	CHECK(!flag(va, 1, PTE_D));
	run(write8, va + 64);
	CHECK(flag(va, 1, PTE_D));
}

static void refused_write_is_not_dirty(void)
{
	fresh(PTE_P);
	struct regs r = run(write8, va);

	CHECK_PF(&r, PF_P | PF_W, write8, va);
	CHECK(!flag(va, 1, PTE_D));
	CHECK_EQ(*(uint64_t *)page, 0);
}

static void fetch_sets_accessed_only(void)
{
	fresh(PTE_KRW);
	page[0] = 0xcc;
	struct regs r = run(jump, va);

	CHECK_TRAP(&r, BP, 0, va + 1);
	CHECK(flag(va, 1, PTE_A));
	CHECK(!flag(va, 1, PTE_D));
}

static void large_page_accessed_dirty(void)
{
	va = va_alloc();
	map_at(2, va, (uint64_t)large_alloc(), PTE_KRW);
	run(read8, va + 0x12340);
	CHECK(flag(va, 2, PTE_A));
	CHECK(!flag(va, 2, PTE_D));
	run(write8, va + 0x56780);
	CHECK(flag(va, 2, PTE_D));
}

static void absent_page(void)
{
	struct regs r;

	fresh(0);
	r = run(read8, va + 8);
	CHECK_PF(&r, 0, read8, va + 8);
	CHECK_EQ(r.rbx, 0x1122334455667788);
	r = run(write8, va + 16);
	CHECK_PF(&r, PF_W, write8, va + 16);
	r = run(add8, va + 24);
	CHECK_PF(&r, PF_W, add8, va + 24);
	r = run(jump, va + 32);
	CHECK_PF(&r, PF_I, va + 32, va + 32);
	r = run_user(read8, va);
	CHECK_PF(&r, PF_U, user(read8), va);
	r = run_user(write8, va);
	CHECK_PF(&r, PF_U | PF_W, user(write8), va);
	r = run_user(jump, va);
	CHECK_PF(&r, PF_U | PF_I, va, va);
}

static void absent_tables(void)
{
	struct regs r;

	for (unsigned level = 2; level <= 4; level++) {
		/* An address whose PML4 entry nobody shares. */
		fresh(PTE_KRW);
		uint64_t alone = 0x500000000000ull;

		map(alone, page, PTE_KRW);
		r = run(read8, alone);
		CHECK_DONE(&r, read8);
		*pte(alone, level) &= ~PTE_P;
		invlpg(alone);
		flush_tlb();
		r = run(write8, alone);
		CHECK_PF(&r, PF_W, write8, alone);
		*pte(alone, level) |= PTE_P;
	}
}

static void new_entry_needs_no_flush(void)
{
	struct regs r;

	fresh(0);
	r = run(read8, va);
	CHECK_EQ(r.vector, PF);
	*pte(va, 1) |= PTE_KRW;
	r = run(read8, va);
	CHECK_DONE(&r, read8);
}

static void write_protect_off(void)
{
	struct regs r;

	fresh(PTE_P | PTE_U);
	write_cr0(read_cr0() & ~CR0_WP);
	r = run(write8, va);
	CHECK_DONE(&r, write8);
	CHECK_EQ(*(uint64_t *)page, 0x1122334455667788);
	CHECK(flag(va, 1, PTE_D));
	r = run_user(write8, va);
	CHECK_PF(&r, PF_P | PF_W | PF_U, user(write8), va);
	write_cr0(read_cr0() | CR0_WP);
	r = run(write8, va);
	CHECK_PF(&r, PF_P | PF_W, write8, va);
}

static void read_only_directory(void)
{
	struct regs r;

	fresh(PTE_URW);
	*pte(va, 2) &= ~PTE_W;
	invlpg(va);
	r = run(read8, va);
	CHECK_DONE(&r, read8);
	r = run(write8, va);
	CHECK_PF(&r, PF_P | PF_W, write8, va);
	r = run_user(write8, va);
	CHECK_PF(&r, PF_P | PF_W | PF_U, user(write8), va);
}

static void supervisor_page(void)
{
	struct regs r;

	fresh(PTE_KRW);
	r = run(read8, va); /* the kernel may have it in its TLB */
	CHECK_DONE(&r, read8);
	r = run_user(read8, va);
	CHECK_PF(&r, PF_P | PF_U, user(read8), va);
	r = run_user(write8, va);
	CHECK_PF(&r, PF_P | PF_U | PF_W, user(write8), va);
	r = run_user(jump, va);
	CHECK_PF(&r, PF_P | PF_U | PF_I, va, va);
}

static void supervisor_directory(void)
{
	struct regs r;

	fresh(PTE_URW);
	r = run_user(read8, va);
	CHECK_EQ(r.vector, BP);
	*pte(va, 2) &= ~PTE_U;
	invlpg(va);
	r = run_user(read8, va);
	CHECK_PF(&r, PF_P | PF_U, user(read8), va);
}

static void no_execute(void)
{
	struct regs r;

	fresh(PTE_URW | PTE_NX);
	page[0] = 0xcc;
	r = run(read8, va);
	CHECK_DONE(&r, read8);
	r = run(jump, va);
	CHECK_PF(&r, PF_P | PF_I, va, va);
	r = run_user(jump, va);
	CHECK_PF(&r, PF_P | PF_I | PF_U, va, va);
	*pte(va, 1) &= ~PTE_NX;
	invlpg(va);
	r = run(jump, va);
	CHECK_TRAP(&r, BP, 0, va + 1);
	*pte(va, 2) |= PTE_NX;
	invlpg(va);
	r = run(jump, va);
	CHECK_PF(&r, PF_P | PF_I, va, va);
}

static void no_execute_disabled(void)
{
	struct regs r;

	fresh(PTE_KRW | PTE_NX);
	r = run(read8, va);
	CHECK_DONE(&r, read8);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
	flush_tlb();
	r = run(read8, va);
	CHECK_PF(&r, PF_P | PF_RSVD, read8, va);
	*pte(va, 1) = 0;
	invlpg(va);
	r = run(jump, va); /* no I bit without NXE and SMEP */
	CHECK_PF(&r, 0, va, va);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

static void smep(void)
{
	struct regs r;

	fresh(PTE_URW);
	page[0] = 0xcc;
	r = run(jump, va);
	CHECK_TRAP(&r, BP, 0, va + 1);
	write_cr4(read_cr4() | CR4_SMEP);
	r = run(jump, va);
	CHECK_PF(&r, PF_P | PF_I, va, va);
	r = run(read8, va);
	CHECK_DONE(&r, read8);
	r = run_user(jump, va);
	CHECK_TRAP(&r, BP, 0, va + 1);
	write_cr4(read_cr4() & ~CR4_SMEP);
	r = run(jump, va);
	CHECK_TRAP(&r, BP, 0, va + 1);
}

static void reserved_address_bit(void)
{
	struct regs r;
	uint32_t out[4];

	cpuid(0x80000008, 0, out);
	if ((out[0] & 0xff) > 51)
		return;
	for (unsigned level = 1; level <= 3; level++) {
		fresh(PTE_URW);
		*pte(va, level) |= 1ull << 51;
		invlpg(va);
		r = run(read8, va);
		CHECK_PF(&r, PF_P | PF_RSVD, read8, va);
		r = run(write8, va);
		CHECK_PF(&r, PF_P | PF_RSVD | PF_W, write8, va);
		r = run_user(jump, va);
		CHECK_PF(&r, PF_P | PF_RSVD | PF_U | PF_I, va, va);
		*pte(va, level) &= ~(1ull << 51);
		invlpg(va);
	}
}

static void reserved_large_bits(void)
{
	struct regs r;

	va = va_alloc();
	map_at(2, va, (uint64_t)large_alloc() | 0x2000, PTE_KRW);
	r = run(read8, va);
	CHECK_PF(&r, PF_P | PF_RSVD, read8, va);
	map_at(3, 0x480000000000ull, 0x200000, PTE_KRW);
	r = run(read8, 0x480000000000ull);
	CHECK_PF(&r, PF_P | PF_RSVD, read8, 0x480000000000ull);
	*pte(0x480000000000ull, 3) = 0;
	*pte(0x480000000000ull, 4) |= PTE_PS;
	flush_tlb();
	r = run(read8, 0x480000000000ull);
	CHECK_PF(&r, PF_P | PF_RSVD, read8, 0x480000000000ull);
	*pte(0x480000000000ull, 4) &= ~PTE_PS;
}

static void ignored_bits(void)
{
	fresh(PTE_KRW | 0xe00 | PTE_PWT | PTE_PCD | 0x7full << 52);
	struct regs r = run(read8, va);

	CHECK_DONE(&r, read8);
}

/* A function "mov $n, %eax; ret" at the start of a page. */
static void *function(uint32_t n)
{
	uint8_t *p = page_alloc();

	p[0] = 0xb8;
	memcpy(p + 1, &n, 4);
	p[5] = 0xc3;
	*(uint64_t *)(p + 64) = n;
	return p;
}

static uint32_t call(uint64_t at)
{
	return ((uint32_t(*)(void))at)();
}

static uint64_t load(uint64_t at)
{
	return *(volatile uint64_t *)at;
}

static void invlpg_small(void)
{
	void *one = function(1), *two = function(2);

	va = va_alloc();
	for (unsigned i = 0; i < 20; i++) {
		map(va, one, PTE_KRW);
		CHECK_EQ(call(va), 1);
		CHECK_EQ(load(va + 64), 1);
		*pte(va, 1) = (uint64_t)two | PTE_KRW;
		invlpg(va + 123);
		CHECK_EQ(load(va + 64), 2);
		CHECK_EQ(call(va), 2);
	}
}

static void cr3_write_flushes(void)
{
	void *one = function(1), *two = function(2);

	va = va_alloc();
	map(va, one, PTE_KRW);
	CHECK_EQ(call(va), 1);
	CHECK_EQ(load(va + 64), 1);
	*pte(va, 1) = (uint64_t)two | PTE_KRW;
	flush_tlb();
	CHECK_EQ(load(va + 64), 2);
	CHECK_EQ(call(va), 2);
}

static void global_page(void)
{
	void *one = function(1), *two = function(2);

	va = va_alloc();
	map(va, one, PTE_KRW | PTE_G);
	CHECK_EQ(call(va), 1);
	CHECK_EQ(load(va + 64), 1);
	flush_tlb();
	CHECK_EQ(call(va), 1);
	CHECK_EQ(load(va + 64), 1);
	*pte(va, 1) = (uint64_t)two | PTE_KRW | PTE_G;
	write_cr4(read_cr4() & ~CR4_PGE);
	CHECK_EQ(load(va + 64), 2);
	CHECK_EQ(call(va), 2);
	/* Without CR4.PGE the bit means nothing. */
	*pte(va, 1) = (uint64_t)one | PTE_KRW | PTE_G;
	flush_tlb();
	CHECK_EQ(load(va + 64), 1);
	CHECK_EQ(call(va), 1);
	write_cr4(read_cr4() | CR4_PGE);
	CHECK_EQ(load(va + 64), 1);
	*pte(va, 1) = (uint64_t)two | PTE_KRW | PTE_G;
	invlpg(va);
	CHECK_EQ(load(va + 64), 2);
	CHECK_EQ(call(va), 2);
}

/* The same address in two address spaces, for data and for code, back and forth. */
static void address_spaces(void)
{
	uint64_t first = read_cr3(), second = (uint64_t)page_alloc(), sum = 0;
	uint64_t at = 0x300000000000ull;

	memcpy((void *)second, (void *)first, PAGE);
	map(at, function(1), PTE_KRW);
	write_cr3(second);
	map(at, function(100), PTE_KRW);
	for (unsigned i = 0; i < 1000; i++) {
		write_cr3(first);
		sum += call(at) + load(at + 64);
		write_cr3(second);
		sum += call(at) + load(at + 64);
	}
	write_cr3(first);
	CHECK_EQ(sum, 1000 * (2 + 200));
}

static void invlpg_large(void)
{
	uint64_t *one = large_alloc(), *two = large_alloc();

	memcpy((uint8_t *)one + 0x5000, function(1), 128);
	memcpy((uint8_t *)two + 0x5000, function(2), 128);
	va = va_alloc();
	map_at(2, va, (uint64_t)one, PTE_KRW);
	CHECK_EQ(call(va + 0x5000), 1);
	CHECK_EQ(load(va + 0x5040), 1);
	*pte(va, 2) = (uint64_t)two | PTE_KRW | PTE_PS;
	invlpg(va + 0x100000); /* any address of the page */
	CHECK_EQ(load(va + 0x5040), 2);
	CHECK_EQ(call(va + 0x5000), 2);
}

static void huge_page(void)
{
	uint64_t at = 0x400000000000ull;
	uint64_t *one = (uint64_t *)function(1);

	map_at(3, at, 0, PTE_KRW);
	CHECK_EQ(call(at + (uint64_t)one), 1);
	CHECK_EQ(load(at + (uint64_t)one + 64), 1);
	CHECK(flag(at, 3, PTE_A));
	CHECK(!flag(at, 3, PTE_D));
	*(volatile uint64_t *)(at + (uint64_t)one + 72) = 5;
	CHECK_EQ(one[9], 5);
	CHECK(flag(at, 3, PTE_D));
	*pte(at, 3) = 0;
	invlpg(at + 0x3fffffff);
	struct regs r = run(read8, at + (uint64_t)one);

	CHECK_PF(&r, 0, read8, at + (uint64_t)one);
}

static void split_large_page(void)
{
	uint8_t *big = large_alloc();
	uint64_t *table = page_alloc(), *other = function(7);

	memcpy(big + 0x3000, function(1), 128);
	memcpy(big + 0x4000, function(2), 128);
	va = va_alloc();
	map_at(2, va, (uint64_t)big, PTE_KRW);
	CHECK_EQ(call(va + 0x3000), 1);
	CHECK_EQ(call(va + 0x4000), 2);
	for (unsigned i = 0; i < 512; i++)
		table[i] = ((uint64_t)big + i * PAGE) | PTE_KRW;
	table[3] = (uint64_t)other | PTE_KRW;
	*pte(va, 2) = (uint64_t)table | PTE_KRW;
	invlpg(va + 0x3000);
	CHECK_EQ(call(va + 0x3000), 7);
	CHECK_EQ(load(va + 0x3040), 7);
	flush_tlb();
	CHECK_EQ(call(va + 0x4000), 2);
	table[4] = 0;
	invlpg(va + 0x4000);
	struct regs r = run(read8, va + 0x4000);

	CHECK_PF(&r, 0, read8, va + 0x4000);
	/* and back: the small pages must not survive in any cache */
	*pte(va, 2) = (uint64_t)big | PTE_KRW | PTE_PS;
	flush_tlb();
	CHECK_EQ(call(va + 0x3000), 1);
	CHECK_EQ(load(va + 0x4040), 2);
}

/* Addresses that are 256 MiB and more apart, used by turns and in one instruction. */
CODE(push_mem, "push (%rax)");
CODE(call_mem, "call *(%rax)\n\tnop" LABEL(call_target) "nop");
POINT(call_target);
CODE(copy_mem, "rep movsq");
static void distant_aliases(void)
{
	uint64_t base = 0x600000000000ull, sum = 0;
	struct regs r;

	for (unsigned i = 0; i < 8; i++) {
		uint64_t *p = page_alloc();

		p[0] = i + 1;
		map(base + i * 0x10000000ull, p, PTE_KRW);
	}
	for (unsigned n = 0; n < 100; n++)
		for (unsigned i = 0; i < 8; i++)
			sum += load(base + i * 0x10000000ull);
	CHECK_EQ(sum, 3600);

	r = kernel_regs(push_mem);
	r.rax = base;
	r.rsp = base + 0x10000000 + 2048;
	exec(&r);
	CHECK_DONE(&r, push_mem);
	CHECK_EQ(load(base + 0x10000000 + 2040), 1);

	*(volatile uint64_t *)(base + 8) = (uint64_t)call_target;
	r = kernel_regs(call_mem);
	r.rax = base + 8;
	r.rsp = base + 0x10000000 + 2048;
	exec(&r);
	CHECK_DONE(&r, call_mem);
	CHECK_EQ(r.rsp, base + 0x10000000 + 2040);

	r = kernel_regs(copy_mem);
	r.rsi = base;
	r.rdi = base + 0x30000000;
	r.rcx = 512;
	exec(&r);
	CHECK_DONE(&r, copy_mem);
	CHECK_EQ(load(base + 0x30000000), 1);
	CHECK_EQ(load(base + 0x30000008), (uint64_t)call_target);
}

#define HOLE 0x0000800000000000ull

static void non_canonical(void)
{
	struct regs r;

	r = run(read8, HOLE);
	CHECK_TRAP(&r, GP, 0, read8);
	r = run(write8, 0xffff7fffffffffff);
	CHECK_TRAP(&r, GP, 0, write8);
	r = run(add8, HOLE + 0x1000);
	CHECK_TRAP(&r, GP, 0, add8);
	r = run_user(read8, HOLE);
	CHECK_TRAP(&r, GP, 0, user(read8));
	r = run(jump, HOLE);
	CHECK_EQ(r.vector, GP);
	CHECK_EQ(r.error, 0);
}

static void non_canonical_stack(void)
{
	struct regs r = kernel_regs(stack_read);

	r.rbp = HOLE;
	exec(&r);
	CHECK_TRAP(&r, SS, 0, stack_read);
	r = kernel_regs(push_rbx);
	r.rsp = HOLE + 64;
	exec(&r);
	CHECK_TRAP(&r, SS, 0, push_rbx);
	CHECK_EQ(r.rsp, HOLE + 64);
	r = kernel_regs(call_rax);
	r.rax = (uint64_t)plain_ret;
	r.rsp = HOLE + 64;
	exec(&r);
	CHECK_TRAP(&r, SS, 0, call_rax);
	r = kernel_regs(plain_ret);
	r.rsp = HOLE + 64;
	exec(&r);
	CHECK_TRAP(&r, SS, 0, plain_ret);
}

static void end_of_lower_half(void)
{
	uint64_t last = HOLE - PAGE;
	struct regs r;

	map(last, page_alloc(), PTE_KRW);
	r = run(read8, HOLE - 8);
	CHECK_DONE(&r, read8);
	r = run(read8, HOLE - 4);
	CHECK_TRAP(&r, GP, 0, read8);
	CHECK_EQ(r.rbx, 0x1122334455667788);
}

static void upper_half(void)
{
	uint64_t at = 0xffff800000000000ull;
	void *one = function(1);

	map(at, one, PTE_KRW | PTE_G);
	CHECK_EQ(call(at), 1);
	CHECK_EQ(load(at + 64), 1);
	map(0xfffffffffffff000ull, one, PTE_KRW);
	CHECK_EQ(call(0xfffffffffffff000ull), 1);
	CHECK_EQ(load(0xfffffffffffff040ull), 1);
}

/* Page tables that are changed through a mapping which is itself in use. */
static void tables_behind_their_own_mapping(void)
{
	void *one = function(1), *two = function(2);
	uint64_t window = va_alloc();

	va = va_alloc();
	map(va, one, PTE_KRW);
	CHECK_EQ(load(va + 64), 1);
	map(window, (void *)((uint64_t)pte(va, 1) & ~(PAGE - 1)), PTE_KRW);
	((volatile uint64_t *)window)[va >> 12 & 511] = (uint64_t)two | PTE_KRW;
	invlpg(va);
	CHECK_EQ(load(va + 64), 2);
	CHECK_EQ(call(va), 2);
}

static void cr2_keeps_its_value(void)
{
	write_cr2(0x123456789abc);
	struct regs r = run(read8, HOLE);

	CHECK_EQ(r.vector, GP);
	CHECK_EQ(read_cr2(), 0x123456789abc);
}

int main(void)
{
	RUN(read_sets_accessed);
	RUN(write_after_read_sets_dirty);
	RUN(modify_sets_dirty);
	RUN(dirty_is_set_again);
	RUN(refused_write_is_not_dirty);
	RUN(fetch_sets_accessed_only);
	RUN(large_page_accessed_dirty);
	RUN(absent_page);
	RUN(absent_tables);
	RUN(new_entry_needs_no_flush);
	RUN(write_protect_off);
	RUN(read_only_directory);
	RUN(supervisor_page);
	RUN(supervisor_directory);
	RUN(no_execute);
	RUN(no_execute_disabled);
	RUN_IF(cpu_has(7, 0, 1, 7), smep);
	RUN(reserved_address_bit);
	RUN(reserved_large_bits);
	RUN(ignored_bits);
	RUN(invlpg_small);
	RUN(cr3_write_flushes);
	RUN(global_page);
	RUN(address_spaces);
	RUN(invlpg_large);
	RUN_IF(cpu_has(0x80000001, 0, 3, 26), huge_page);
	RUN(split_large_page);
	RUN(distant_aliases);
	RUN(non_canonical);
	RUN(non_canonical_stack);
	RUN(end_of_lower_half);
	RUN(upper_half);
	RUN(tables_behind_their_own_mapping);
	RUN(cr2_keeps_its_value);
	return tap_done();
}
