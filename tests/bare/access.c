/* SPDX-License-Identifier: MIT */
/*
 * Precise faults: an instruction that faults has done nothing, wherever its accesses lie; a string
 * instruction has done exactly the elements before the fault.
 */
#include "bare.h"

/* Three pages side by side: the one in the middle is present, its neighbours are not. */
static uint8_t *page;
static uint64_t va, end;

static void arena(uint64_t flags)
{
	page = page_alloc();
	va = va_alloc() + PAGE;
	end = va + PAGE;
	map(va, page, flags);
	map(va - PAGE, NULL, 0);
	map(end, NULL, 0);
	for (unsigned i = 0; i < PAGE; i++)
		page[i] = (uint8_t)(i * 7 + 1);
}

static bool untouched(void)
{
	for (unsigned i = 0; i < PAGE; i++)
		if (page[i] != (uint8_t)(i * 7 + 1))
			return false;
	return true;
}

static struct regs regs(const void *code)
{
	struct regs r = kernel_regs(code);

	r.rax = 0xa0a1a2a3a4a5a6a7;
	r.rbx = 0xb0b1b2b3b4b5b6b7;
	r.rcx = 5;
	r.rdx = 0xd0d1d2d3d4d5d6d7;
	r.r10 = 0x1010101010101010;
	r.r11 = 0x1111111111111111;
	r.rflags = 2 | FL_CF | FL_PF | FL_ZF | FL_SF | FL_OF | FL_AF;
	return r;
}

/*
 * Everything that a faulting instruction must leave alone. Arithmetic flags that the instruction
 * would overwrite when it runs again need not survive.
 */
static void unchanged(const struct regs *r, const struct regs *was, uint64_t dead)
{
	CHECK(!memcmp(r, was, offsetof(struct regs, vector)));
	CHECK_EQ(r->rsp, was->rsp);
	CHECK_EQ(r->rip, was->rip);
	CHECK_EQ(r->rflags & ~(FL_RF | dead), was->rflags & ~dead);
	CHECK(untouched());
}

CODE(load1, "mov (%rdi), %bl");
CODE(load8, "mov (%rdi), %rbx");
CODE(load_r11, "mov (%rdi), %r11");
CODE(loadx, "movups (%rdi), %xmm0");
CODE(store2, "mov %bx, (%rdi)");
CODE(store8, "mov %rbx, (%rdi)");
CODE(store_r10, "mov %r10, (%rdi)");
CODE(store_ah, "mov %ah, (%rdi)");
CODE(storex, "movups %xmm0, (%rdi)");
CODE(addm, "add %rbx, (%rdi)");
CODE(adcm, "adcl $5, (%rdi)");
CODE(lockadd, "lock addq $1, (%rdi)");
CODE(xchgm, "xchg %rbx, (%rdi)");
CODE(xaddm, "xadd %rbx, (%rdi)");
CODE(cmpxchgm, "cmpxchg %rbx, (%rdi)");
CODE(incm, "incq (%rdi)");
CODE(notm, "notl (%rdi)");
CODE(shlm, "shlq $3, (%rdi)");
CODE(btsm, "btsq $5, (%rdi)");
CODE(setm, "setz (%rdi)");
CODE(popm, "pop (%rdi)");
CODE(pushm, "push (%rdi)");
CODE(callm, "call *(%rdi)");
CODE(jumpm, "jmp *(%rdi)");
CODE(movsq, "movsq");
CODE(stosq, "stosq");
CODE(cmpsq, "cmpsq");
CODE(scasq, "scasq");
CODE(cmovm, "cmovc (%rdi), %rbx");
CODE(cmov_not, "cmovnc (%rdi), %rbx");
CODE(mulm, "mulq (%rdi)");
CODE(divm, "divq (%rdi)");
CODE(imulm, "imul $3, (%rdi), %rbx");
CODE(cmpm, "cmp %rbx, (%rdi)");
CODE(btm, "btq $5, (%rdi)");
CODE(fldm, "fldl (%rdi)");
CODE(movsxm, "movslq (%rdi), %r10");
CODE(lockbts, "lock btsq %rdx, (%rdi)");

#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

static bool sets_all_flags(const void *code)
{
	const void *const setters[] = { addm, lockadd, xaddm, cmpxchgm, shlm, mulm, divm, imulm,
		cmpm };

	for (unsigned i = 0; i < sizeof(setters) / sizeof(setters[0]); i++)
		if (code == setters[i])
			return true;
	return false;
}

static void faults_at(const void *code, uint64_t rdi, uint64_t rsp, uint32_t error, uint64_t cr2)
{
	struct regs was = regs(code), r;

	was.rdi = rdi;
	was.rsi = rdi;
	if (rsp)
		was.rsp = rsp;
	r = was;
	exec(&r);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.error, error);
	CHECK_EQ(r.cr2, cr2);
	unchanged(&r, &was, sets_all_flags(code) ? FL_ARITH : 0);
}

static const void *const readers[] = { load1, load8, load_r11, loadx, pushm, callm, jumpm, cmovm,
	cmov_not, mulm, divm, imulm, cmpm, btm, cmpsq, scasq, fldm, movsxm };
static const void *const writers[] = { store2, store8, store_r10, store_ah, storex, addm, adcm,
	lockadd, xchgm, xaddm, cmpxchgm, incm, notm, shlm, btsm, setm, popm, stosq };

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void absent_operand(void)
{
	arena(PTE_KRW);
	for (unsigned i = 0; i < COUNT(readers); i++)
		faults_at(readers[i], end + 8, 0, 0, end + 8);
	for (unsigned i = 0; i < COUNT(writers); i++)
		faults_at(writers[i], end + 8, 0, PF_W, end + 8);
}

static void read_only_operand(void)
{
	arena(PTE_P);
	for (unsigned i = 0; i < COUNT(writers); i++)
		faults_at(writers[i], va + 8, 0, PF_P | PF_W, va + 8);
}

/* The second half is missing. */
static void crossing_up(void)
{
	arena(PTE_KRW);
	faults_at(load8, end - 3, 0, 0, end);
	faults_at(load_r11, end - 3, 0, 0, end);
	faults_at(loadx, end - 15, 0, 0, end);
	faults_at(store2, end - 1, 0, PF_W, end);
	faults_at(store8, end - 3, 0, PF_W, end);
	faults_at(store_r10, end - 3, 0, PF_W, end);
	faults_at(storex, end - 15, 0, PF_W, end);
	faults_at(addm, end - 1, 0, PF_W, end);
	faults_at(adcm, end - 1, 0, PF_W, end);
	faults_at(lockadd, end - 7, 0, PF_W, end);
	faults_at(xchgm, end - 4, 0, PF_W, end);
	faults_at(xaddm, end - 4, 0, PF_W, end);
	faults_at(cmpxchgm, end - 4, 0, PF_W, end);
	faults_at(popm, end - 4, 0, PF_W, end);
	faults_at(pushm, end - 4, 0, 0, end);
	faults_at(callm, end - 4, 0, 0, end);
	faults_at(stosq, end - 4, 0, PF_W, end);
	faults_at(scasq, end - 4, 0, 0, end);
}

/* The first half is missing. */
static void crossing_down(void)
{
	arena(PTE_KRW);
	faults_at(load8, va - 3, 0, 0, va - 3);
	faults_at(loadx, va - 15, 0, 0, va - 15);
	faults_at(store8, va - 3, 0, PF_W, va - 3);
	faults_at(storex, va - 1, 0, PF_W, va - 1);
	faults_at(addm, va - 1, 0, PF_W, va - 1);
	faults_at(xchgm, va - 4, 0, PF_W, va - 4);
}

CODE(push_rbx, "push %rbx");
CODE(push_imm, "push $-3");
CODE(pushf_, "pushfq");
CODE(call_near, "call load8");
CODE(call_reg, "call *%rbx");
CODE(enter_, "enter $32, $0");
CODE(pop_r10, "pop %r10");
CODE(popf_, "popfq");
CODE(ret_, "ret");
CODE(ret_imm, "ret $16");
CODE(iretq_, "iretq");
CODE(push_fs, "push %fs");

static void absent_stack(void)
{
	arena(PTE_KRW);
	faults_at(push_rbx, 0, end + 16, PF_W, end + 8);
	faults_at(push_imm, 0, end + 16, PF_W, end + 8);
	faults_at(push_fs, 0, end + 16, PF_W, end + 8);
	faults_at(pushf_, 0, end + 16, PF_W, end + 8);
	faults_at(call_near, 0, end + 16, PF_W, end + 8);
	faults_at(call_reg, 0, end + 16, PF_W, end + 8);
	faults_at(enter_, 0, end + 16, PF_W, end + 8);
	faults_at(pop_r10, 0, end + 16, 0, end + 16);
	faults_at(popf_, 0, end + 16, 0, end + 16);
	faults_at(ret_, 0, end + 16, 0, end + 16);
	faults_at(ret_imm, 0, end + 16, 0, end + 16);
	faults_at(iretq_, 0, end + 16, 0, end + 16);
	/* one operand is there, the other is not */
	faults_at(pushm, va + 64, end + 16, PF_W, end + 8);
	faults_at(callm, va + 64, end + 16, PF_W, end + 8);
	faults_at(popm, va + 64, end + 16, 0, end + 16);
	faults_at(pushm, end + 64, va + 64, 0, end + 64);
	faults_at(popm, end + 64, va + 64, PF_W, end + 64);
}

static void crossing_stack(void)
{
	arena(PTE_KRW);
	faults_at(push_rbx, 0, end + 4, PF_W, end);
	faults_at(call_near, 0, end + 4, PF_W, end);
	faults_at(pop_r10, 0, end - 4, 0, end);
	faults_at(ret_, 0, end - 4, 0, end);
	faults_at(push_rbx, 0, va + 4, PF_W, va - 4);
}

static void read_only_stack(void)
{
	arena(PTE_P);
	faults_at(push_rbx, 0, va + 64, PF_P | PF_W, va + 56);
	faults_at(call_near, 0, va + 64, PF_P | PF_W, va + 56);
}

CODE(leave_, "leave");
static void absent_frame(void)
{
	struct regs was = regs(leave_), r;

	arena(PTE_KRW);
	was.rbp = end + 8;
	r = was;
	exec(&r);
	CHECK_PF(&r, 0, leave_, end + 8);
	unchanged(&r, &was, 0);
}

/* Two pages that are both there, but nowhere near each other. */
static void crossing_works(void)
{
	uint8_t *second = page_alloc();
	struct regs r;

	arena(PTE_KRW);
	map(end, second, PTE_KRW);
	memcpy(second, "abcdefgh", 8);
	memcpy(page + PAGE - 4, "1234", 4);
	r = regs(load8);
	r.rdi = end - 4;
	exec(&r);
	CHECK_DONE(&r, load8);
	CHECK_EQ(r.rbx, 0x6463626134333231);
	r = regs(store8);
	r.rdi = end - 3;
	exec(&r);
	CHECK_DONE(&r, store8);
	CHECK_EQ(*(uint32_t *)(page + PAGE - 4), 0xb5b6b731);
	CHECK_EQ(*(uint64_t *)second, 0x686766b0b1b2b3b4);
	r = regs(addm);
	r.rdi = end - 3;
	exec(&r);
	CHECK_DONE(&r, addm);
	CHECK_EQ(*(uint32_t *)(page + PAGE - 4), 0x6b6d6e31);
	CHECK_EQ(*(uint64_t *)second, 0x6867666163656769);
	CHECK_EQ(r.rflags & FL_CF, FL_CF);
	r = regs(lockbts);
	r.rdi = end - 3;
	r.rdx = 64;
	exec(&r);
	CHECK_DONE(&r, lockbts);
	CHECK_EQ(second[5], 0x66 | 1);
	r = regs(push_rbx);
	r.rsp = end + 3;
	exec(&r);
	CHECK_DONE(&r, push_rbx);
	CHECK_EQ(*(uint32_t *)second, 0x63b0b1b2);
	CHECK_EQ(r.rsp, end - 5);
	r = regs(loadx);
	r.rdi = end - 9;
	exec(&r);
	CHECK_DONE(&r, loadx);
}

CODE(store_load, "movups (%rdi), %xmm3; movups %xmm3, (%rsi)");
static void crossing_vector(void)
{
	uint8_t *second = page_alloc(), *to = page_alloc();
	uint64_t to_va = va_alloc();

	arena(PTE_KRW);
	map(end, second, PTE_KRW);
	map(to_va, to, PTE_KRW);
	map(to_va + PAGE, to, PTE_KRW); /* the same page again */
	memcpy(page + PAGE - 8, "01234567", 8);
	memcpy(second, "89abcdef", 8);
	struct regs r = regs(store_load);

	r.rdi = end - 8;
	r.rsi = to_va + PAGE - 6;
	exec(&r);
	CHECK_DONE(&r, store_load);
	CHECK(!memcmp(to + PAGE - 6, "012345", 6));
	CHECK(!memcmp(to, "6789abcdef", 10));
}

/* An aligned 16-byte access faults on its alignment before anything else. */
CODE(aligned_load, "movaps (%rdi), %xmm0");
CODE(aligned_store, "movaps %xmm0, (%rdi)");
CODE(aligned_add, "paddq (%rdi), %xmm0");
CODE(wide_exchange, "lock cmpxchg16b (%rdi)");
static void misaligned(void)
{
	static const void *const codes[] = { aligned_load, aligned_store, aligned_add,
		wide_exchange };

	arena(PTE_KRW);
	for (unsigned i = 0; i < COUNT(codes); i++) {
		struct regs was = regs(codes[i]), r;

		was.rdi = va + 8;
		r = was;
		exec(&r);
		CHECK_TRAP(&r, GP, 0, codes[i]);
		unchanged(&r, &was, 0);
	}
	faults_at(aligned_store, end, 0, PF_W, end);
	faults_at(wide_exchange, end, 0, PF_W, end);
}

/* cmpxchg writes what it read when the comparison fails. */
static void compare_exchange_always_writes(void)
{
	arena(PTE_P);
	faults_at(cmpxchgm, va, 0, PF_P | PF_W, va);
	arena(PTE_KRW);
	struct regs r = regs(cmpxchgm);

	r.rdi = va;
	exec(&r);
	CHECK_DONE(&r, cmpxchgm);
	CHECK_EQ(r.rax, *(uint64_t *)page);
	CHECK_EQ(r.rflags & FL_ZF, 0);
	CHECK(*pte(va, 1) & PTE_D);
	CHECK(untouched());
}

/*
 * --- rep
 */
CODE(rep_movsb, "rep movsb");
CODE(rep_movsq, "rep movsq");
CODE(rep_stosb, "rep stosb");
CODE(rep_stosq, "rep stosq");
CODE(repne_scasb, "repne scasb");
CODE(repe_cmpsb, "repe cmpsb");
CODE(rep_lodsb, "rep lodsb");

static void rep_store_fault(void)
{
	struct regs r;

	arena(PTE_KRW);
	r = kernel_regs(rep_stosb);
	r.rdi = end - 100;
	r.rcx = 1000;
	r.rax = 0x5a;
	exec(&r);
	CHECK_PF(&r, PF_W, rep_stosb, end);
	CHECK_EQ(r.rcx, 900);
	CHECK_EQ(r.rdi, end);
	CHECK_EQ(page[PAGE - 101], (uint8_t)((PAGE - 101) * 7 + 1));
	CHECK_EQ(page[PAGE - 100], 0x5a);
	CHECK_EQ(page[PAGE - 1], 0x5a);
	/* the page appears, and the instruction goes on */
	map(end, page_alloc(), PTE_KRW);
	exec(&r);
	CHECK_DONE(&r, rep_stosb);
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(r.rdi, end + 900);
}

static void rep_store_crossing_fault(void)
{
	struct regs r;

	arena(PTE_KRW);
	r = kernel_regs(rep_stosq);
	r.rdi = end - 20;
	r.rcx = 10;
	exec(&r);
	CHECK_PF(&r, PF_W, rep_stosq, end);
	CHECK_EQ(r.rcx, 8);
	CHECK_EQ(r.rdi, end - 4);
	CHECK_EQ(page[PAGE - 5], 0);
	CHECK_EQ(page[PAGE - 4], (uint8_t)((PAGE - 4) * 7 + 1));
}

static void rep_copy_source_fault(void)
{
	uint8_t *to = page_alloc();
	struct regs r;

	arena(PTE_KRW);
	r = kernel_regs(rep_movsb);
	r.rsi = end - 10;
	r.rdi = (uint64_t)to;
	r.rcx = 50;
	exec(&r);
	CHECK_PF(&r, 0, rep_movsb, end);
	CHECK_EQ(r.rcx, 40);
	CHECK_EQ(r.rsi, end);
	CHECK_EQ(r.rdi, (uint64_t)to + 10);
	CHECK(!memcmp(to, page + PAGE - 10, 10));
	CHECK_EQ(to[10], 0);
}

static void rep_copy_target_fault(void)
{
	uint8_t *from = page_alloc();
	struct regs r;

	arena(PTE_KRW);
	memset(from, 0x33, PAGE);
	r = kernel_regs(rep_movsq);
	r.rsi = (uint64_t)from;
	r.rdi = end - 32;
	r.rcx = 100;
	exec(&r);
	CHECK_PF(&r, PF_W, rep_movsq, end);
	CHECK_EQ(r.rcx, 96);
	CHECK_EQ(r.rsi, (uint64_t)from + 32);
	CHECK_EQ(r.rdi, end);
	CHECK_EQ(page[PAGE - 32], 0x33);
}

static void rep_copy_backward_fault(void)
{
	uint8_t *to = page_alloc();
	struct regs r;

	arena(PTE_KRW);
	r = kernel_regs(rep_movsb);
	r.rflags |= FL_DF;
	r.rsi = va + 9;
	r.rdi = (uint64_t)to + 100;
	r.rcx = 50;
	exec(&r);
	CHECK_PF(&r, 0, rep_movsb, va - 1);
	CHECK_EQ(r.rcx, 40);
	CHECK_EQ(r.rsi, va - 1);
	CHECK_EQ(r.rdi, (uint64_t)to + 90);
	CHECK(r.rflags & FL_DF);
	CHECK(!memcmp(to + 91, page, 10));
}

static void rep_scan_fault(void)
{
	struct regs r;

	arena(PTE_KRW);
	memset(page, 0, PAGE);
	r = kernel_regs(repne_scasb);
	r.rdi = end - 16;
	r.rcx = 100;
	r.rax = 1;
	exec(&r);
	CHECK_PF(&r, 0, repne_scasb, end);
	CHECK_EQ(r.rcx, 84);
	CHECK_EQ(r.rdi, end);
	r = kernel_regs(repe_cmpsb);
	r.rsi = end - 16;
	r.rdi = va;
	r.rcx = 100;
	exec(&r);
	CHECK_PF(&r, 0, repe_cmpsb, end);
	CHECK_EQ(r.rcx, 84);
	CHECK_EQ(r.rsi, end);
	CHECK_EQ(r.rdi, va + 16);
	r = kernel_regs(rep_lodsb);
	r.rsi = end - 16;
	r.rcx = 100;
	exec(&r);
	CHECK_PF(&r, 0, rep_lodsb, end);
	CHECK_EQ(r.rcx, 84);
}

/* No element, no access. */
static void rep_zero(void)
{
	struct regs r;

	arena(PTE_KRW);
	r = kernel_regs(rep_movsb);
	r.rsi = r.rdi = end + 8;
	exec(&r);
	CHECK_DONE(&r, rep_movsb);
	CHECK_EQ(r.rdi, end + 8);
	r = kernel_regs(repe_cmpsb);
	r.rsi = r.rdi = end + 8;
	r.rflags |= FL_CF;
	exec(&r);
	CHECK_DONE(&r, repe_cmpsb);
	CHECK_EQ(r.rflags & (FL_CF | FL_ZF), FL_CF);
}

/*
 * --- code at the end of a page
 */
static void code_crosses_into_absent_page(void)
{
	struct regs r;

	arena(PTE_KRW);
	memcpy(page + PAGE - 4, "\x48\xb8\x01\x02", 4); /* movabs $..., %rax */
	r = kernel_regs((void *)(end - 4));
	exec(&r);
	CHECK_PF(&r, PF_I, end - 4, end);
	CHECK_EQ(r.rax, 0);
	/* complete, and then nothing follows */
	memcpy(page + PAGE - 3, "\x48\xff\xc0", 3); /* inc %rax */
	r = kernel_regs((void *)(end - 3));
	exec(&r);
	CHECK_PF(&r, PF_I, end, end);
	CHECK_EQ(r.rax, 1);
}

static void code_crosses_pages(void)
{
	uint8_t *second = page_alloc(), *third = page_alloc();
	struct regs r;

	arena(PTE_KRW);
	map(end, second, PTE_KRW);
	memcpy(page + PAGE - 5, "\x90\x48\xb8\x01\x02", 5);
	memcpy(second, "\x03\x04\x05\x06\x07\x08\xcc", 7);
	r = kernel_regs((void *)(end - 5));
	exec(&r);
	CHECK_TRAP(&r, BP, 0, end + 7);
	CHECK_EQ(r.rax, 0x0807060504030201);
	/* another page in its place */
	memcpy(third, "\x13\x14\x15\x16\x17\x18\xcc", 7);
	map(end, third, PTE_KRW);
	r = kernel_regs((void *)(end - 5));
	exec(&r);
	CHECK_EQ(r.rax, 0x1817161514130201);
	/* and other bytes in that */
	third[0] = 0x55;
	r = kernel_regs((void *)(end - 5));
	exec(&r);
	CHECK_EQ(r.rax, 0x1817161514550201);
	map(end, third, PTE_KRW | PTE_NX);
	r = kernel_regs((void *)(end - 5));
	exec(&r);
	CHECK_PF(&r, PF_P | PF_I, end - 4, end);
}

/* A load whose page and whose next instruction's page are the same, and so on. */
CODE(pop_rsp, "pop %rsp");
CODE(push_rsp, "push %rsp");
CODE(pop_mem_rsp, "pop 8(%rsp)");
CODE(push_mem_rsp, "push 8(%rsp)");
static void stack_pointer_operands(void)
{
	struct regs r;
	uint64_t *p;

	arena(PTE_KRW);
	p = (uint64_t *)page;
	r = regs(push_rsp);
	r.rsp = va + 64;
	exec(&r);
	CHECK_DONE(&r, push_rsp);
	CHECK_EQ(p[7], va + 64);
	p[8] = va + 512;
	r = regs(pop_rsp);
	r.rsp = va + 64;
	exec(&r);
	CHECK_DONE(&r, pop_rsp);
	CHECK_EQ(r.rsp, va + 512);
	p[8] = 1;
	p[9] = 2;
	p[10] = 3;
	r = regs(pop_mem_rsp); /* the address is computed with rsp after the pop */
	r.rsp = va + 64;
	exec(&r);
	CHECK_DONE(&r, pop_mem_rsp);
	CHECK_EQ(p[10], 1);
	r = regs(push_mem_rsp); /* and before the push */
	r.rsp = va + 64;
	exec(&r);
	CHECK_DONE(&r, push_mem_rsp);
	CHECK_EQ(p[7], 2);
}

int main(void)
{
	RUN(absent_operand);
	RUN(read_only_operand);
	RUN(crossing_up);
	RUN(crossing_down);
	RUN(absent_stack);
	RUN(crossing_stack);
	RUN(read_only_stack);
	RUN(absent_frame);
	RUN(crossing_works);
	RUN(crossing_vector);
	RUN(misaligned);
	RUN(compare_exchange_always_writes);
	RUN(rep_store_fault);
	RUN(rep_store_crossing_fault);
	RUN(rep_copy_source_fault);
	RUN(rep_copy_target_fault);
	RUN(rep_copy_backward_fault);
	RUN(rep_scan_fault);
	RUN(rep_zero);
	RUN(code_crosses_into_absent_page);
	RUN(code_crosses_pages);
	RUN(stack_pointer_operands);
	return tap_done();
}
