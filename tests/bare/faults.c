/* SPDX-License-Identifier: MIT */
/*
 * Exceptions and their delivery: Intel SDM volume 3, chapter 6. Vectors, error codes and return
 * addresses; stacks; faults while a fault is delivered; single stepping; returns from handlers.
 */
#include "bare.h"

static struct regs run(const void *code)
{
	struct regs r = kernel_regs(code);

	exec(&r);
	return r;
}

static struct regs run_user(const void *code)
{
	struct regs r = user_regs(code);

	exec(&r);
	return r;
}

/*
 * --- one exception each
 */
CODE(div64, "div %rcx");
CODE(div8, "div %cl");
CODE(idiv32, "cltd; idiv %ecx");
CODE(div_mem, "divl (%rdi)");
static void divide_error(void)
{
	static const uint32_t zero;
	struct regs r = run(div64);

	CHECK_TRAP(&r, DE, 0, div64);
	r = run(div8);
	CHECK_TRAP(&r, DE, 0, div8);
	r = kernel_regs(idiv32);
	r.rax = 0x80000000;
	r.rcx = 0xffffffff;
	exec(&r);
	CHECK_TRAP(&r, DE, 0, idiv32 + 1);
	CHECK_EQ(r.rax, 0x80000000);
	CHECK_EQ(r.rdx, 0xffffffff);
	r = kernel_regs(div64); /* the quotient does not fit */
	r.rdx = 5;
	r.rcx = 5;
	exec(&r);
	CHECK_TRAP(&r, DE, 0, div64);
	r = kernel_regs(div_mem);
	r.rdi = (uint64_t)&zero;
	exec(&r);
	CHECK_TRAP(&r, DE, 0, div_mem);
	r = run_user(div64);
	CHECK_TRAP(&r, DE, 0, user(div64));
	CHECK_EQ(r.cs, USER_CS);
}

CODE(undefined2, "ud2");
CODE(push_es, ".byte 0x06");
CODE(into_, ".byte 0xce");
CODE(lock_mov, ".byte 0xf0; mov %rax, (%rdi)");
CODE(lock_register, ".byte 0xf0; add %rax, %rbx");
CODE(lock_cmp, ".byte 0xf0; cmp %rax, (%rdi)");
CODE(lea_register, ".byte 0x8d, 0xc0");
CODE(mov_cs, "mov %eax, %cs");
CODE(mov_cr1, ".byte 0x0f, 0x20, 0xc8");
CODE(bad_group, ".byte 0x0f, 0xc7, 0xd0");
CODE(far_jump_register, ".byte 0xff, 0xe8");
static void undefined(void)
{
	static const void *const codes[] = { undefined2, push_es, into_, lock_mov, lock_register,
		lock_cmp, lea_register, mov_cs, mov_cr1, bad_group, far_jump_register };

	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		struct regs r = run(codes[i]);

		CHECK_TRAP(&r, UD, 0, codes[i]);
		r = run_user(codes[i]);
		CHECK_TRAP(&r, UD, 0, user(codes[i]));
	}
}

/* Fifteen bytes are the most that an instruction may have. */
CODE(long_15, ".rept 14; .byte 0x66; .endr; nop");
CODE(long_16, ".rept 15; .byte 0x66; .endr; nop");
static void instruction_length(void)
{
	struct regs r = run(long_15);

	CHECK_DONE(&r, long_15);
	r = run(long_16);
	CHECK_TRAP(&r, GP, 0, long_16);
}

CODE(breakpoint, "int3");
CODE(breakpoint2, ".byte 0xcd, 3");
CODE(icebp, ".byte 0xf1");
static void breakpoints(void)
{
	struct regs r = run(breakpoint);

	CHECK_TRAP(&r, BP, 0, breakpoint + 1);
	CHECK_EQ(r.rflags, 2);
	r = run_user(breakpoint);
	CHECK_TRAP(&r, BP, 0, user(breakpoint) + 1);
	r = run(breakpoint2);
	CHECK_TRAP(&r, BP, 0, breakpoint2 + 2);
	r = run(icebp);
	CHECK_TRAP(&r, DB, 0, icebp + 1);
	r = run_user(icebp); /* needs no permission */
	CHECK_TRAP(&r, DB, 0, user(icebp) + 1);
}

/*
 * --- int n
 */
CODE(int_80, "int $0x80");
CODE(int_ff, "int $0xff");
static void software_interrupt(void)
{
	struct regs r = run(int_80);

	CHECK_TRAP(&r, 0x80, 0, int_80 + 2);
	r = run_user(int_80); /* the gate is for ring 0 */
	CHECK_TRAP(&r, GP, 0x80 * 8 + 2, user(int_80));
	set_gate(0x80, trap_stubs + 16 * 0x80, GATE_INTERRUPT, 3, 0);
	r = run_user(int_80);
	CHECK_TRAP(&r, 0x80, 0, user(int_80) + 2);
	CHECK_EQ(r.ss, USER_SS);
	reset_gate(0x80);
}

struct idtr {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static void bad_gate(void)
{
	struct idtr idtr, less;
	uint64_t *idt;
	struct regs r;

	__asm__ volatile("sidt %0" : "=m"(idtr));
	idt = (uint64_t *)idtr.base;
	idt[0x80 * 2] &= ~(1ull << 47);
	r = run(int_80);
	CHECK_TRAP(&r, NP, 0x80 * 8 + 2, int_80);
	reset_gate(0x80);
	idt[0x80 * 2] &= ~(0xfull << 40);
	r = run(int_80);
	CHECK_TRAP(&r, GP, 0x80 * 8 + 2, int_80);
	reset_gate(0x80);
	idt[0x80 * 2] &= ~(0xffffull << 16); /* no code segment */
	r = run(int_80);
	CHECK_TRAP(&r, GP, 0, int_80);
	reset_gate(0x80);
	idt[0x80 * 2] |= (uint64_t)KERNEL_SS << 16;
	idt[0x80 * 2] &= ~((uint64_t)KERNEL_CS << 16);
	r = run(int_80);
	CHECK_TRAP(&r, GP, KERNEL_SS, int_80);
	reset_gate(0x80);
	less = idtr;
	less.limit = 0xff * 16 + 14;
	__asm__ volatile("lidt %0" : : "m"(less));
	r = run(int_ff);
	CHECK_TRAP(&r, GP, 0xff * 8 + 2, int_ff);
	r = run(int_80);
	CHECK_TRAP(&r, 0x80, 0, int_80 + 2);
	__asm__ volatile("lidt %0" : : "m"(idtr));
}

/*
 * --- stacks and flags of handlers
 */
static uint64_t seen_frame, seen_flags, seen_ss, seen_cs;
static bool look(struct regs *frame)
{
	uint64_t flags;
	uint32_t ss, cs;

	__asm__ volatile("pushfq; popq %0; mov %%ss, %1; mov %%cs, %2"
			 : "=r"(flags), "=r"(ss), "=r"(cs));
	seen_frame = (uint64_t)&frame->ss + 8;
	seen_flags = flags;
	seen_ss = ss;
	seen_cs = cs;
	return true;
}

static void handler_stack(void)
{
	struct regs r = kernel_regs(int_80);
	uint64_t rsp = r.rsp - 3;

	set_handler(0x80, look);
	r.rsp = rsp;
	exec(&r); /* on the current stack, aligned to 16 */
	CHECK_EQ(seen_frame, rsp & ~15ull);
	CHECK_EQ(seen_ss, KERNEL_SS);
	CHECK_DONE(&r, int_80);
	CHECK_EQ(r.rsp, rsp);
	set_gate(0x80, trap_stubs + 16 * 0x80, GATE_INTERRUPT, 3, 1);
	r = run(int_80);
	CHECK_EQ(seen_frame, tss[0].ist[0]);
	r = run_user(int_80);
	CHECK_EQ(seen_frame, tss[0].ist[0]);
	CHECK_EQ(seen_ss, 0); /* null, after a change of privilege */
	CHECK_EQ(seen_cs, KERNEL_CS);
	set_gate(0x80, trap_stubs + 16 * 0x80, GATE_INTERRUPT, 3, 0);
	r = run_user(int_80);
	CHECK_EQ(seen_frame, tss[0].rsp[0]);
	set_handler(0x80, NULL);
	reset_gate(0x80);
}

static void handler_flags(void)
{
	const uint64_t flags = 2 | FL_IF | FL_NT | FL_CF | FL_ID | FL_AC;
	struct regs r = kernel_regs(int_80);

	set_handler(0x80, look);
	r.rflags = flags & ~FL_NT; /* iret refuses NT; the code sets it */
	exec(&r);
	CHECK_EQ(seen_flags & (FL_IF | FL_AC | FL_ID), FL_AC | FL_ID);
	CHECK_DONE(&r, int_80);
	CHECK_EQ(r.rflags, flags & ~FL_NT);
	set_gate(0x80, trap_stubs + 16 * 0x80, GATE_TRAP, 0, 0);
	r = kernel_regs(int_80);
	r.rflags = 2 | FL_IF;
	exec(&r);
	CHECK_EQ(seen_flags & FL_IF, FL_IF);
	set_handler(0x80, NULL);
	reset_gate(0x80);
}

static void resume_flag(void)
{
	struct regs r = run(undefined2);

	CHECK_EQ(r.rflags & FL_RF, FL_RF);
	r = run(breakpoint);
	CHECK_EQ(r.rflags & FL_RF, 0);
	r = kernel_regs(undefined2);
	r.rflags |= FL_IF | FL_DF | FL_CF;
	exec(&r);
	CHECK_EQ(r.rflags, 2 | FL_IF | FL_DF | FL_CF | FL_RF);
}

/*
 * --- faults during delivery
 */
CODE(push_only, "push %rax");
static void double_fault(void)
{
	struct regs r = kernel_regs(push_only);

	/* The handler of page faults uses the stack that is not there. */
	set_gate(PF, trap_stubs + 16 * PF, GATE_INTERRUPT, 0, 0);
	r.rsp = va_alloc() + 2 * PAGE;
	exec(&r);
	CHECK_TRAP(&r, DF, 0, push_only);
	CHECK_EQ(r.cr2 / PAGE, (r.rsp - 1) / PAGE);
	reset_gate(PF);
}

static void absent(unsigned vector)
{
	struct idtr idtr;

	__asm__ volatile("sidt %0" : "=m"(idtr));
	((uint64_t *)idtr.base)[vector * 2] &= ~(1ull << 47);
}

CODE(bad_selector, "mov %eax, %ds");
static void contributory_faults(void)
{
	struct regs r;

	absent(DE);
	r = run(div64);
	CHECK_TRAP(&r, DF, 0, div64);
	reset_gate(DE);
	absent(GP);
	r = kernel_regs(bad_selector);
	r.rax = 0xfff8;
	exec(&r);
	CHECK_TRAP(&r, DF, 0, bad_selector);
	reset_gate(GP);
	absent(PF);
	r = kernel_regs(push_only);
	r.rsp = va_alloc() + 2 * PAGE;
	exec(&r);
	CHECK_TRAP(&r, DF, 0, push_only);
	reset_gate(PF);
}

static void benign_faults_follow_each_other(void)
{
	struct regs r;

	absent(UD);
	r = run(undefined2);
	CHECK_TRAP(&r, NP, UD * 8 + 3, undefined2);
	reset_gate(UD);
	absent(BP);
	r = run(breakpoint);
	CHECK_TRAP(&r, NP, BP * 8 + 2, breakpoint);
	reset_gate(BP);
	/* #UD, and its frame faults */
	set_gate(UD, trap_stubs + 16 * UD, GATE_INTERRUPT, 0, 0);
	r = kernel_regs(undefined2);
	r.rsp = va_alloc() + 2 * PAGE;
	uint64_t rsp = r.rsp;

	exec(&r);
	CHECK_TRAP(&r, PF, PF_W, undefined2);
	CHECK_EQ(r.cr2 / PAGE, (rsp - 1) / PAGE);
	CHECK_EQ(r.rsp, rsp);
	reset_gate(UD);
}

/* A page fault whose handler may run: the instruction goes on as if nothing had been. */
static uint64_t filled;
static bool fill(struct regs *frame)
{
	map(read_cr2() & ~(PAGE - 1), page_alloc(), PTE_KRW);
	filled++;
	return true;
}

CODE(fill_pages, "1: add %rcx, (%rdi); adc %rcx, %rax; add $4096, %rdi; dec %rcx; jnz 1b");
static void demand_paging(void)
{
	struct regs r = kernel_regs(fill_pages);

	filled = 0;
	set_handler(PF, fill);
	r.rdi = va_alloc();
	r.rcx = 100;
	exec(&r);
	set_handler(PF, NULL);
	CHECK_DONE(&r, fill_pages);
	CHECK_EQ(filled, 100);
	CHECK_EQ(r.rax, 5050);
}

/*
 * --- #TS, #NP, #SS from segments and the task state
 */
CODE(load_ds, "mov %eax, %ds");
CODE(load_ss, "mov %eax, %ss");
static void segment_faults(void)
{
	struct regs r;

	gdt[SPARE_SEL / 8] = 0x00cf13000000ffff; /* not present */
	r = kernel_regs(load_ds);
	r.rax = SPARE_SEL;
	exec(&r);
	CHECK_TRAP(&r, NP, SPARE_SEL, load_ds);
	r = kernel_regs(load_ss);
	r.rax = SPARE_SEL;
	exec(&r);
	CHECK_TRAP(&r, SS, SPARE_SEL, load_ss);
	r = kernel_regs(load_ds);
	r.rax = sizeof(uint64_t) * 64; /* beyond the table */
	exec(&r);
	CHECK_TRAP(&r, GP, 512, load_ds);
	r = kernel_regs(load_ds);
	r.rax = SPARE_SEL | 4; /* there is no LDT */
	exec(&r);
	CHECK_TRAP(&r, GP, SPARE_SEL | 4, load_ds);
	r = kernel_regs(load_ss);
	r.rax = USER_SS;
	exec(&r);
	CHECK_TRAP(&r, GP, USER_SS & ~3, load_ss);
	r = kernel_regs(load_ss);
	r.rax = KERNEL_CS;
	exec(&r);
	CHECK_TRAP(&r, GP, KERNEL_CS, load_ss);
	r = user_regs(load_ss);
	exec(&r);
	CHECK_TRAP(&r, GP, 0, user(load_ss));
	r = user_regs(load_ds);
	r.rax = KERNEL_SS | 3;
	exec(&r);
	CHECK_TRAP(&r, GP, KERNEL_SS, user(load_ds));
}

static void invalid_task_state(void)
{
	uint64_t saved[2] = { gdt[TSS_SEL / 8], gdt[TSS_SEL / 8 + 1] };
	struct regs r;

	/* A task state too short for its interrupt stacks. */
	gdt[TSS_SEL / 8] = (saved[0] & ~0xffffull & ~(2ull << 40)) | 0x23;
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL) : "memory");
	set_gate(TS, trap_stubs + 16 * TS, GATE_INTERRUPT, 0, 0);
	set_gate(BP, trap_stubs + 16 * BP, GATE_INTERRUPT, 0, 0);
	set_gate(0x80, trap_stubs + 16 * 0x80, GATE_INTERRUPT, 0, 1);
	r = run(int_80);
	CHECK_TRAP(&r, TS, TSS_SEL, int_80);
	reset_gate(0x80);
	gdt[TSS_SEL / 8] = saved[0] & ~(2ull << 40);
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL) : "memory");
	CHECK_EQ(gdt[TSS_SEL / 8] >> 40 & 0xff, 0x8b); /* busy again */
	reset_gate(TS);
	reset_gate(BP);
}

/*
 * --- single stepping
 */
static uint64_t steps, step_rips[32];
static bool count_step(struct regs *frame)
{
	if (steps < 32)
		step_rips[steps] = frame->rip;
	steps++;
	return true;
}

static struct regs trace(const void *code, uint64_t rcx)
{
	struct regs r = kernel_regs(code);

	steps = 0;
	set_handler(DB, count_step);
	r.rflags |= FL_TF;
	r.rcx = rcx;
	r.rsi = r.rdi = (uint64_t)page_alloc();
	exec(&r);
	set_handler(DB, NULL);
	return r;
}

CODE(three, "nop" LABEL(three_1) "inc %rax" LABEL(three_2) "mov %rax, %rbx");
POINT(three_1);
POINT(three_2);
static void step_each(void)
{
	struct regs r = trace(three, 0);

	CHECK_DONE(&r, three);
	CHECK_EQ(steps, 3);
	CHECK_EQ(step_rips[0], (uint64_t)three_1);
	CHECK_EQ(step_rips[1], (uint64_t)three_2);
	CHECK_EQ(step_rips[2], (uint64_t)three_end);
	CHECK_EQ(r.rbx, 1);
	CHECK_EQ(r.rflags & FL_TF, FL_TF);
	uint64_t dr6;

	__asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
	CHECK_EQ(dr6 & 0x4000, 0x4000);
	__asm__ volatile("mov %0, %%dr6" : : "r"(0xffff0ff0ull));
}

CODE(branches, "jmp 1f; nop"
	       "\n1: call 2f; nop"
	       "\n2: dec %rcx; jnz 2b");
static void step_branches(void)
{
	struct regs r = trace(branches, 3);

	CHECK_DONE(&r, branches);
	CHECK_EQ(steps, 2 + 3 * 2);
}

CODE(repeated, "rep movsb");
static void step_repeated(void)
{
	struct regs r = trace(repeated, 4);

	CHECK_DONE(&r, repeated);
	CHECK_EQ(steps, 4);
	CHECK_EQ(step_rips[0], (uint64_t)repeated);
	CHECK_EQ(step_rips[2], (uint64_t)repeated);
	CHECK_EQ(step_rips[3], (uint64_t)repeated_end);
}

CODE(stack_switch, "mov %ss, %eax" LABEL(switch_1) "mov %eax, %ss" LABEL(switch_2) "nop" LABEL(
			   switch_3) "nop");
POINT(switch_1);
POINT(switch_3);
static void no_step_after_mov_ss(void)
{
	struct regs r = trace(stack_switch, 0);

	CHECK_DONE(&r, stack_switch);
	CHECK_EQ(steps, 3);
	CHECK_EQ(step_rips[0], (uint64_t)switch_1);
	CHECK_EQ(step_rips[1], (uint64_t)switch_3);
}

CODE(set_trap, "pushfq; orq $0x100, (%rsp); popfq" LABEL(trap_1) "nop" LABEL(
		       trap_2) "pushfq; andq $~0x100, (%rsp); popfq" LABEL(trap_3) "nop");
POINT(trap_2);
POINT(trap_3);
static void step_begins_after_popf(void)
{
	struct regs r = kernel_regs(set_trap);

	steps = 0;
	set_handler(DB, count_step);
	exec(&r);
	set_handler(DB, NULL);
	CHECK_DONE(&r, set_trap);
	/* nop, pushfq, and, and popf itself, which clears it: the trap was armed before */
	CHECK_EQ(steps, 4);
	CHECK_EQ(step_rips[0], (uint64_t)trap_2);
	CHECK_EQ(step_rips[3], (uint64_t)trap_3);
}

CODE(step_fault, "nop" LABEL(step_fault_1) "mov (%rdi), %rax");
POINT(step_fault_1);
static void fault_instead_of_step(void)
{
	struct regs r = kernel_regs(step_fault);

	steps = 0;
	set_handler(DB, count_step);
	r.rflags |= FL_TF;
	r.rdi = va_alloc() + LARGE / 2;
	exec(&r);
	set_handler(DB, NULL);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.rip, (uint64_t)step_fault_1);
	CHECK_EQ(steps, 1);
	CHECK_EQ(r.rflags & (FL_TF | FL_RF), FL_TF | FL_RF);
}

static void step_user(void)
{
	struct regs r = user_regs(three);

	r.rflags |= FL_TF;
	exec(&r);
	CHECK_TRAP(&r, DB, 0, user(three_1));
	CHECK_EQ(r.cs, USER_CS);
	CHECK_EQ(r.rflags & (FL_TF | FL_RF), FL_TF);
	exec(&r);
	CHECK_TRAP(&r, DB, 0, user(three_2));
}

/*
 * --- iret
 */
CODE(iretq_, "iretq");
static uint64_t frame_words[8] __attribute__((aligned(16)));

static struct regs iret(uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
	struct regs r = kernel_regs(iretq_);

	frame_words[0] = rip;
	frame_words[1] = cs;
	frame_words[2] = flags;
	frame_words[3] = rsp;
	frame_words[4] = ss;
	r.rsp = (uint64_t)frame_words;
	exec(&r);
	return r;
}

static void iret_same_level(void)
{
	uint64_t stack = (uint64_t)page_alloc() + PAGE, flags = 2 | FL_CF | FL_ID | FL_AC | FL_IF;
	struct regs r = iret((uint64_t)breakpoint, KERNEL_CS, flags, stack, KERNEL_SS);

	CHECK_TRAP(&r, BP, 0, breakpoint + 1);
	CHECK_EQ(r.rsp, stack);
	CHECK_EQ(r.rflags, flags);
	r = iret((uint64_t)breakpoint, KERNEL_CS, flags | FL_NT | FL_IOPL, stack, 0);
	CHECK_TRAP(&r, BP, 0, breakpoint + 1);
	CHECK_EQ(r.ss, 0);
	CHECK_EQ(r.rflags, flags | FL_NT | FL_IOPL);
}

static void iret_to_user(void)
{
	uint64_t stack = user(page_alloc()) + 512;
	struct regs r = iret(user(breakpoint), USER_CS, 2 | FL_IOPL, stack, USER_SS);

	CHECK_TRAP(&r, BP, 0, user(breakpoint) + 1);
	CHECK_EQ(r.cs, USER_CS);
	CHECK_EQ(r.ss, USER_SS);
	CHECK_EQ(r.rsp, stack);
	CHECK_EQ(r.rflags, 2 | FL_IOPL);
}

static void iret_faults(void)
{
	uint64_t rip = (uint64_t)breakpoint, stack = (uint64_t)page_alloc() + 512;
	struct regs r;

	r = iret(rip, 0, 2, stack, KERNEL_SS);
	CHECK_TRAP(&r, GP, 0, iretq_);
	CHECK_EQ(r.rsp, (uint64_t)frame_words);
	r = iret(rip, KERNEL_SS, 2, stack, KERNEL_SS); /* not code */
	CHECK_TRAP(&r, GP, KERNEL_SS, iretq_);
	r = iret(rip, KERNEL_CS | 3, 2, stack, USER_SS); /* privileges differ */
	CHECK_TRAP(&r, GP, KERNEL_CS, iretq_);
	r = iret(rip, KERNEL_CS, 2, stack, USER_SS);
	CHECK_TRAP(&r, GP, USER_SS & ~3, iretq_);
	r = iret(rip, USER_CS, 2, stack, KERNEL_SS);
	CHECK_TRAP(&r, GP, KERNEL_SS, iretq_);
	r = iret(rip, USER_CS, 2, stack, 3); /* null, for the user */
	CHECK_TRAP(&r, GP, 0, iretq_);
	r = iret(rip, 1024, 2, stack, KERNEL_SS);
	CHECK_TRAP(&r, GP, 1024, iretq_);
	r = iret(0x800000000000ull, KERNEL_CS, 2, stack, KERNEL_SS);
	CHECK_EQ(r.vector, GP);
	CHECK_EQ(r.error, 0);
	gdt[SPARE_SEL / 8] = 0x00af1b000000ffff;
	r = iret(rip, SPARE_SEL, 2, stack, KERNEL_SS);
	CHECK_TRAP(&r, NP, SPARE_SEL, iretq_);
	gdt[SPARE_SEL / 8] = 0x00cf13000000ffff;
	r = iret(rip, KERNEL_CS, 2, stack, SPARE_SEL);
	CHECK_TRAP(&r, SS, SPARE_SEL, iretq_);
}

CODE(iret_nested, "pushfq; orq $0x4000, (%rsp); popfq" LABEL(iret_nested_at) "iretq");
POINT(iret_nested_at);
static void iret_with_nested_task(void)
{
	struct regs r = run(iret_nested);

	CHECK_TRAP(&r, GP, 0, iret_nested_at);
}

CODE(iretl_, "iretl");
static void iret_of_32_bits(void)
{
	uint32_t *words = (uint32_t *)page_alloc();
	struct regs r = kernel_regs(iretl_);

	words[0] = (uint32_t)(uint64_t)breakpoint;
	words[1] = KERNEL_CS;
	words[2] = 2 | FL_CF;
	words[3] = (uint32_t)(uint64_t)words + 1024;
	words[4] = KERNEL_SS;
	r.rsp = (uint64_t)words;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, breakpoint + 1);
	CHECK_EQ(r.rsp, (uint64_t)words + 1024);
	CHECK_EQ(r.rflags, 2 | FL_CF);
}

/* At CPL 3 iret may neither raise the privilege nor enable interrupts. */
static void iret_of_user(void)
{
	uint64_t *words = (uint64_t *)page_alloc();
	struct regs r = user_regs(iretq_);

	words[0] = user(breakpoint);
	words[1] = USER_CS;
	words[2] = 2 | FL_IF | FL_IOPL | FL_CF;
	words[3] = user(words) + 2048;
	words[4] = USER_SS;
	r.rsp = user(words);
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(breakpoint) + 1);
	CHECK_EQ(r.rflags, 2 | FL_CF);
	words[1] = KERNEL_CS;
	words[4] = KERNEL_SS;
	r = user_regs(iretq_);
	r.rsp = user(words);
	exec(&r);
	CHECK_TRAP(&r, GP, KERNEL_CS, user(iretq_));
}

int main(void)
{
	RUN(divide_error);
	RUN(undefined);
	RUN(instruction_length);
	RUN(breakpoints);
	RUN(software_interrupt);
	RUN(bad_gate);
	RUN(handler_stack);
	RUN(handler_flags);
	RUN(resume_flag);
	RUN(double_fault);
	RUN(contributory_faults);
	RUN(benign_faults_follow_each_other);
	RUN(demand_paging);
	RUN(segment_faults);
	RUN(invalid_task_state);
	RUN(step_each);
	RUN(step_branches);
	RUN(step_repeated);
	RUN(no_step_after_mov_ss);
	RUN(step_begins_after_popf);
	RUN(fault_instead_of_step);
	RUN(step_user);
	RUN(iret_same_level);
	RUN(iret_to_user);
	RUN(iret_faults);
	RUN(iret_with_nested_task);
	RUN(iret_of_32_bits);
	RUN(iret_of_user);
	return tap_done();
}
