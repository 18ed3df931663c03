/* SPDX-License-Identifier: MIT */
/*
 * Interrupts: the local APIC with its timer, in both of its forms, the I/O APIC, messages, NMI, and
 * when the processor takes them. Intel SDM volume 3, chapters 6 and 11; 82093AA data sheet.
 */
#include "bare.h"

#define VECTOR  0x51
#define LOW     0x41
#define HIGH    0x91
#define DIVIDE1 0xbu
#define MASKED  0x10000u
#define PERIOD  0x20000u
#define BY_TSC  0x40000u

static volatile unsigned count, order_count;
static volatile uint64_t last_rip;
static volatile uint8_t order[16];
static volatile bool in_service;

static bool on_interrupt(struct regs *frame)
{
	last_rip = frame->rip;
	in_service = apic_bit(APIC_ISR, (unsigned)frame->vector);
	if (order_count < 16)
		order[order_count++] = (uint8_t)frame->vector;
	count++;
	apic_write(APIC_EOI, 0);
	return true;
}

static void begin(void)
{
	count = order_count = 0;
	set_handler(VECTOR, on_interrupt);
	set_handler(LOW, on_interrupt);
	set_handler(HIGH, on_interrupt);
}

/* Long enough for what is due to arrive. */
static void linger(void)
{
	for (uint64_t start = rdtsc(); rdtsc() - start < 3000000;)
		pause();
}

static void self_ipi(unsigned vector)
{
	apic_ipi(0, ICR_SELF | vector);
}

/*
 * --- the timer
 */
static void timer(uint32_t mode, uint32_t initial)
{
	apic_write(APIC_TDCR, DIVIDE1);
	apic_write(APIC_LVTT, mode | VECTOR);
	apic_write(APIC_TMICT, initial);
}

static void timer_one_shot(void)
{
	sti();
	for (unsigned i = 0; i < 20; i++) {
		begin();
		timer(0, 200000);
		CHECK(WAIT_FOR(count == 1));
	}
	linger();
	cli();
	CHECK_EQ(count, 1);
	CHECK_EQ(apic_read(APIC_TMCCT), 0);
	CHECK(in_service);
	CHECK(!apic_bit(APIC_ISR, VECTOR));
}

static void timer_counts_down(void)
{
	uint32_t first, second;

	timer(MASKED, 0xffffffff);
	first = apic_read(APIC_TMCCT);
	second = apic_read(APIC_TMCCT);
	CHECK(second < first);
	apic_write(APIC_TMICT, 0);
	CHECK_EQ(apic_read(APIC_TMCCT), 0);
}

static void timer_periodic(void)
{
	begin();
	sti();
	timer(PERIOD, 100000);
	CHECK(WAIT_FOR(count >= 10));
	apic_write(APIC_LVTT, MASKED | PERIOD | VECTOR);
	linger();
	unsigned stopped = count;

	linger();
	CHECK_EQ(count, stopped);
	apic_write(APIC_LVTT, PERIOD | VECTOR);
	CHECK(WAIT_FOR(count > stopped));
	apic_write(APIC_TMICT, 0);
	linger();
	stopped = count;
	linger();
	cli();
	CHECK_EQ(count, stopped);
}

static void timer_masked(void)
{
	begin();
	sti();
	timer(MASKED, 10000);
	CHECK(WAIT_FOR(!apic_read(APIC_TMCCT)));
	linger();
	cli();
	CHECK_EQ(count, 0);
	CHECK(!apic_bit(APIC_IRR, VECTOR));
}

static void timer_deadline(void)
{
	if (!cpu_has(1, 0, 2, 24))
		return;
	begin();
	sti();
	apic_write(APIC_LVTT, BY_TSC | VECTOR);
	uint64_t deadline = rdtsc() + 1000000;

	wrmsr(MSR_DEADLINE, deadline);
	CHECK(WAIT_FOR(count == 1));
	CHECK(rdtsc() >= deadline);
	CHECK_EQ(rdmsr(MSR_DEADLINE), 0);
	wrmsr(MSR_DEADLINE, 1); /* long gone */
	CHECK(WAIT_FOR(count == 2));
	wrmsr(MSR_DEADLINE, rdtsc() + 100000000000ull);
	CHECK(rdmsr(MSR_DEADLINE) != 0);
	wrmsr(MSR_DEADLINE, 0);
	CHECK_EQ(rdmsr(MSR_DEADLINE), 0);
	linger();
	cli();
	CHECK_EQ(count, 2);
	apic_write(APIC_LVTT, MASKED | VECTOR);
}

/* No wakeup may be lost between sti and hlt. */
static void halt_wakes(void)
{
	begin();
	for (unsigned i = 0; i < 500; i++) {
		timer(0, 1000 + i * 50);
		sti_hlt();
		CHECK_EQ(count, i + 1);
	}
}

/*
 * --- when an interrupt is taken
 */
CODE(enable, "sti" LABEL(enable_1) "nop" LABEL(enable_2) "nop");
POINT(enable_2);
CODE(enable_disable, "sti; cli; nop; nop");
CODE(enable_popf, "push $0x202; popf" LABEL(popf_1) "nop");
POINT(popf_1);
CODE(enable_twice, "sti; sti" LABEL(twice_1) "nop; nop");
POINT(twice_1);

static struct regs with_pending(const void *code, uint64_t flags)
{
	struct regs r = kernel_regs(code);

	begin();
	self_ipi(VECTOR);
	CHECK(WAIT_FOR(apic_bit(APIC_IRR, VECTOR)));
	CHECK_EQ(count, 0);
	r.rflags |= flags;
	exec(&r);
	return r;
}

static void taken_after_sti_shadow(void)
{
	struct regs r = with_pending(enable, 0);

	CHECK_DONE(&r, enable);
	CHECK_EQ(count, 1);
	CHECK_EQ(last_rip, (uint64_t)enable_2);
	r = with_pending(enable_twice, 0);
	CHECK_EQ(count, 1);
	CHECK_EQ(last_rip, (uint64_t)twice_1);
}

static void sti_cli_takes_none(void)
{
	struct regs r = with_pending(enable_disable, 0);

	CHECK_DONE(&r, enable_disable);
	CHECK_EQ(count, 0);
	CHECK(apic_bit(APIC_IRR, VECTOR));
	sti();
	CHECK(WAIT_FOR(count == 1));
	cli();
}

static void taken_after_popf(void)
{
	struct regs r = with_pending(enable_popf, 0);

	CHECK_DONE(&r, enable_popf);
	CHECK_EQ(count, 1);
	CHECK_EQ(last_rip, (uint64_t)popf_1);
}

static void taken_after_iret(void)
{
	struct regs r = with_pending(enable, FL_IF);

	CHECK_DONE(&r, enable);
	CHECK_EQ(count, 1);
	CHECK_EQ(last_rip, (uint64_t)enable);
}

static void taken_in_user_mode(void)
{
	struct regs r = user_regs(enable_2);

	begin();
	self_ipi(VECTOR);
	r.rflags |= FL_IF;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(enable_end) + 1);
	CHECK_EQ(count, 1);
	CHECK_EQ(last_rip, user(enable_2));
}

/* Loops that do nothing but run. */
CODE(spin_self, LABEL(spin_jump) "jmp spin_jump");
CODE(spin_indirect, "lea 1f(%rip), %rax\n1: jmp *%rax");
CODE(spin_loop, "1: mov $-1, %rcx\n2: loop 2b; jmp 1b");
CODE(spin_call, "1: call 2f; jmp 1b\n2: ret");
CODE(spin_forward, "1: jmp 2f\n3: jmp 1b\n2: jmp 3b");
CODE(spin_pages, "jmp *%rbx");
CODE(spin_string, "1: mov $0x4000000, %ecx; xor %edi, %edi; xor %esi, %esi; rep lodsb; jmp 1b");

static bool leave_loop(struct regs *frame)
{
	count++;
	apic_write(APIC_EOI, 0);
	return false;
}

static void taken_in_any_loop(void)
{
	static const void *const codes[] = { spin_self, spin_indirect, spin_loop, spin_call,
		spin_forward, spin_string, spin_pages };
	uint8_t *one = page_alloc(), *two = page_alloc();

	memcpy(one, "\xff\xe1", 2); /* jmp *%rcx */
	memcpy(two, "\xff\xe3", 2); /* jmp *%rbx */
	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		struct regs r = kernel_regs(codes[i]);

		begin();
		set_handler(VECTOR, leave_loop);
		r.rflags |= FL_IF;
		r.rbx = (uint64_t)one;
		r.rcx = (uint64_t)two;
		timer(0, 300000);
		exec(&r);
		CHECK_EQ(r.vector, VECTOR);
		CHECK_EQ(count, 1);
	}
}

/* A computation in all registers and the flags, under as many interrupts as there can be. */
CODE(compute, "1: add %rbx, %rax; adc %rcx, %rdx; rol $7, %rax; xor %rdx, %rsi; sbb %rsi, %rdi;"
	      "lea 1(%r8,%rdi), %r8; imul %r9, %r8; adc %r8, %r10; rcr $3, %r11; xor %r10, %r12;"
	      "push %r12; adc %r11, (%rsp); pop %r13; adc %r13, %r14; dec %r15; jnz 1b");
static struct regs computation(bool interrupts)
{
	struct regs r = kernel_regs(compute);

	r.rax = 0x123456789abcdef;
	r.rbx = 0xfedcba987654321;
	r.rcx = 0x1111222233334444;
	r.r9 = 0x9e3779b97f4a7c15;
	r.r11 = 0xaaaa5555aaaa5555;
	r.r15 = 200000;
	if (interrupts)
		r.rflags |= FL_IF;
	exec(&r);
	return r;
}

static void state_survives(void)
{
	struct regs quiet = computation(false), busy = quiet;

	begin();
	timer(PERIOD, 20000);
	for (unsigned i = 0; i < 1000 && count < 20; i++)
		busy = computation(true);
	apic_write(APIC_TMICT, 0);
	apic_write(APIC_LVTT, MASKED);
	sti();
	linger();
	cli();
	CHECK(count >= 20);
	CHECK_DONE(&busy, compute);
	CHECK(!memcmp(&quiet, &busy, offsetof(struct regs, vector)));
	CHECK_EQ(busy.rflags & ~FL_IF, quiet.rflags);
}

/*
 * --- priorities
 */
static void task_priority(void)
{
	begin();
	apic_write(APIC_TPR, 0x60);
	CHECK_EQ(read_cr8(), 6);
	sti();
	self_ipi(VECTOR);
	linger();
	CHECK_EQ(count, 0);
	CHECK(apic_bit(APIC_IRR, VECTOR));
	CHECK_EQ(apic_read(APIC_PPR), 0x60);
	self_ipi(HIGH);
	CHECK(WAIT_FOR(count == 1));
	CHECK_EQ(order[0], HIGH);
	write_cr8(5); /* 0x51 is of class 5: not above it */
	linger();
	CHECK_EQ(count, 1);
	CHECK_EQ(apic_read(APIC_TPR), 0x50);
	write_cr8(4);
	CHECK(WAIT_FOR(count == 2));
	cli();
	write_cr8(0);
	CHECK_EQ(order[1], VECTOR);
}

static void highest_first(void)
{
	begin();
	self_ipi(LOW);
	self_ipi(HIGH);
	self_ipi(VECTOR);
	CHECK(WAIT_FOR(apic_bit(APIC_IRR, VECTOR) && apic_bit(APIC_IRR, HIGH)));
	sti();
	CHECK(WAIT_FOR(count == 3));
	cli();
	CHECK_EQ(order[0], HIGH);
	CHECK_EQ(order[1], VECTOR);
	CHECK_EQ(order[2], LOW);
}

static volatile uint32_t ppr_inside;
static bool nest(struct regs *frame)
{
	self_ipi(LOW);
	self_ipi(HIGH);
	ppr_inside = apic_read(APIC_PPR);
	sti();
	WAIT_FOR(count == 1);
	linger();
	cli();
	order[order_count++] = (uint8_t)frame->vector;
	apic_write(APIC_EOI, 0);
	return true;
}

static void nested(void)
{
	begin();
	set_handler(VECTOR, nest);
	self_ipi(VECTOR);
	sti();
	CHECK(WAIT_FOR(count == 2));
	cli();
	CHECK_EQ(ppr_inside, 0x50);
	CHECK_EQ(order[0], HIGH);
	CHECK_EQ(order[1], VECTOR);
	CHECK_EQ(order[2], LOW);
}

/* Many of one vector are one. */
static void pending_once(void)
{
	begin();
	for (unsigned i = 0; i < 5; i++)
		self_ipi(VECTOR);
	CHECK(WAIT_FOR(apic_bit(APIC_IRR, VECTOR)));
	sti();
	linger();
	cli();
	CHECK_EQ(count, 1);
}

/*
 * --- messages between local APICs
 */
static void ipi_destinations(void)
{
	begin();
	sti();
	apic_ipi(0, VECTOR); /* physical: this CPU */
	CHECK(WAIT_FOR(count == 1));
	if (!apic_x2) {
		apic_write(APIC_DFR, 0xffffffff);
		apic_write(APIC_LDR, 0x04000000);
	}
	apic_ipi(apic_x2 ? apic_read(APIC_LDR) : 4, 0x800 | VECTOR);
	CHECK(WAIT_FOR(count == 2));
	apic_ipi(apic_x2 ? 2 : 8, 0x800 | VECTOR); /* nobody */
	linger();
	CHECK_EQ(count, 2);
	apic_ipi(0, ICR_ALL | VECTOR);
	CHECK(WAIT_FOR(count == 3));
	if (apic_x2) {
		wrmsr(0x800 + APIC_SELF / 16, VECTOR);
		CHECK(WAIT_FOR(count == 4));
	}
	cli();
}

/* An error that has not been asked for yet may be forgotten when the machine is stopped. */
static void illegal_vector(void)
{
	uint32_t errors = 0;

	for (unsigned i = 0; i < 10 && !errors; i++) {
		apic_write(APIC_ESR, 0);
		apic_ipi(0, 5);
		apic_write(APIC_ESR, 0);
		errors = apic_read(APIC_ESR);
	}
	CHECK_EQ(errors, 0x20);
	apic_write(APIC_ESR, 0);
	CHECK_EQ(apic_read(APIC_ESR), 0);
}

static void software_disabled(void)
{
	timer(0, 0);
	apic_write(APIC_SVR, 0xff);
	CHECK_EQ(apic_read(APIC_LVTT) & MASKED, MASKED);
	apic_write(APIC_LVTT, VECTOR); /* the mask cannot be cleared */
	CHECK_EQ(apic_read(APIC_LVTT) & MASKED, MASKED);
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_LVTT, VECTOR);
	CHECK_EQ(apic_read(APIC_LVTT), VECTOR);
}

static void apic_registers(void)
{
	CHECK_EQ(apic_read(APIC_ID), 0);
	CHECK_EQ(apic_read(APIC_VERSION) & 0xf0, 0x10);
	CHECK((apic_read(APIC_VERSION) >> 16 & 0xff) >= 4);
	CHECK_EQ(apic_read(APIC_SVR) & 0x1ff, 0x1ff);
	CHECK_EQ(rdmsr(MSR_APIC_BASE) & 0xfffff900, 0xfee00900);
	CHECK_EQ(rdmsr(MSR_APIC_BASE) >> 10 & 1, apic_x2);
	apic_write(APIC_LVTERR, VECTOR);
	CHECK_EQ(apic_read(APIC_LVTERR), VECTOR);
	apic_write(APIC_LVTERR, MASKED);
}

CODE(read_msr, "rdmsr");
CODE(write_msr, "wrmsr");
static void x2apic_refuses(void)
{
	static const uint32_t reads[] = { 0x804, 0x80b, 0x80e, 0x831, 0x83f };
	struct regs r;

	for (unsigned i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
		r = kernel_regs(read_msr);
		r.rcx = reads[i];
		exec(&r);
		CHECK_TRAP(&r, GP, 0, read_msr);
	}
	r = kernel_regs(write_msr);
	r.rcx = 0x802; /* the ID is fixed */
	exec(&r);
	CHECK_TRAP(&r, GP, 0, write_msr);
	r = kernel_regs(write_msr);
	r.rcx = 0x80b;
	r.rax = 1;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, write_msr);
	r = kernel_regs(write_msr); /* straight back to the memory-mapped form */
	r.rcx = MSR_APIC_BASE;
	r.rax = 0xfee00900;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, write_msr);
}

/*
 * --- NMI
 */
static volatile unsigned nmis, nmi_depth, nmi_max;
static bool on_nmi(struct regs *frame)
{
	if (++nmi_depth > nmi_max)
		nmi_max = nmi_depth;
	if (++nmis < 3)
		apic_ipi(0, ICR_NMI); /* waits until iret */
	linger();
	nmi_depth--;
	return true;
}

static void nmi(void)
{
	nmis = nmi_max = 0;
	set_handler(NMI, on_nmi);
	cli();
	apic_ipi(0, ICR_NMI);
	CHECK(WAIT_FOR(nmis == 3));
	CHECK_EQ(nmi_max, 1);
	linger();
	CHECK_EQ(nmis, 3);
}

static volatile bool halted_nmi;
static bool count_nmi(struct regs *frame)
{
	halted_nmi = true;
	return true;
}

static void nmi_wakes_halt(void)
{
	if (!device_present())
		return;
	halted_nmi = false;
	set_handler(NMI, count_nmi);
	device_command(IRQ_MSI, 0, 0xfee00000, ICR_NMI);
	__asm__ volatile("1: cmpb $0, %0; jne 2f; hlt; 2:" : : "m"(halted_nmi));
	CHECK(WAIT_FOR(halted_nmi));
}

/*
 * --- the I/O APIC
 */
#define PIN    5u
#define LEVEL  0x8000u
#define REMOTE 0x4000u

static void redirect(uint32_t low)
{
	ioapic_write(0x10 + 2 * PIN + 1, 0);
	ioapic_write(0x10 + 2 * PIN, low);
}

static void ioapic_registers(void)
{
	CHECK_EQ(ioapic_read(1) >> 16 & 0xff, 23);
	CHECK_EQ(ioapic_read(0x10 + 2 * PIN) & MASKED, MASKED);
	redirect(MASKED | 0xa000 | VECTOR);
	CHECK_EQ(ioapic_read(0x10 + 2 * PIN), MASKED | 0xa000 | VECTOR);
	redirect(MASKED);
}

static void ioapic_edge(void)
{
	begin();
	sti();
	redirect(VECTOR);
	device_command(IRQ_PULSE, PIN, 0, 0);
	CHECK(WAIT_FOR(count == 1));
	CHECK(!apic_bit(APIC_TMR, VECTOR));
	device_command(IRQ_RAISE, PIN, 0, 0);
	CHECK(WAIT_FOR(count == 2));
	device_command(IRQ_RAISE, PIN, 0, 0); /* no edge */
	device_sync();
	linger();
	CHECK_EQ(count, 2);
	device_command(IRQ_LOWER, PIN, 0, 0);
	device_sync();
	linger();
	CHECK_EQ(count, 2);
	/* an edge while masked is lost */
	redirect(MASKED | VECTOR);
	device_command(IRQ_PULSE, PIN, 0, 0);
	device_sync();
	redirect(VECTOR);
	linger();
	cli();
	CHECK_EQ(count, 2);
	redirect(MASKED);
}

static void ioapic_level(void)
{
	uint32_t eois = device_eois();

	begin();
	redirect(LEVEL | VECTOR);
	device_command(IRQ_LEVEL, PIN, 0, 0);
	CHECK(WAIT_FOR(apic_bit(APIC_IRR, VECTOR)));
	CHECK_EQ(ioapic_read(0x10 + 2 * PIN) & REMOTE, REMOTE);
	CHECK(apic_bit(APIC_TMR, VECTOR));
	sti();
	CHECK(WAIT_FOR(count == 1));
	linger();
	cli();
	CHECK_EQ(count, 1);
	CHECK_EQ(device_eois(), eois + 1);
	CHECK_EQ(ioapic_read(0x10 + 2 * PIN) & REMOTE, 0);
	redirect(MASKED);
}

static bool lower_third(struct regs *frame)
{
	if (++count == 3) {
		device_command(IRQ_LOWER, PIN, 0, 0);
		device_sync();
	}
	apic_write(APIC_EOI, 0);
	return true;
}

/* A line that stays up interrupts again after each end of interrupt. */
static void ioapic_level_stays(void)
{
	begin();
	set_handler(VECTOR, lower_third);
	redirect(LEVEL | MASKED | VECTOR);
	device_command(IRQ_RAISE, PIN, 0, 0);
	device_sync();
	sti();
	linger();
	CHECK_EQ(count, 0);
	redirect(LEVEL | VECTOR);
	CHECK(WAIT_FOR(count == 3));
	linger();
	cli();
	CHECK_EQ(count, 3);
	redirect(MASKED);
}

static void ioapic_logical(void)
{
	begin();
	sti();
	if (!apic_x2) {
		apic_write(APIC_DFR, 0xffffffff);
		apic_write(APIC_LDR, 0x01000000);
	}
	ioapic_write(0x10 + 2 * PIN + 1, 0x01000000);
	ioapic_write(0x10 + 2 * PIN, 0x900 | VECTOR); /* lowest priority of CPU 0 alone */
	device_command(IRQ_PULSE, PIN, 0, 0);
	CHECK(WAIT_FOR(count == 1));
	cli();
	redirect(MASKED);
}

static void message(void)
{
	begin();
	sti();
	for (unsigned i = 1; i <= 200; i++) {
		device_command(IRQ_MSI, 0, 0xfee00000, VECTOR);
		CHECK(WAIT_FOR(count == i));
	}
	cli();
	for (unsigned i = 1; i <= 200; i++) {
		device_command(IRQ_MSI, 0, 0xfee00000, HIGH);
		while (count < 200 + i)
			sti_hlt();
	}
	CHECK_EQ(count, 400);
}

static const struct {
	void (*fn)(void);
	const char *name;
	bool device;
} tests[] = {
#define TEST(fn)               \
	{                      \
		fn, #fn, false \
	}
#define DEVICE(fn)            \
	{                     \
		fn, #fn, true \
	}
	TEST(apic_registers),
	TEST(timer_one_shot),
	TEST(timer_counts_down),
	TEST(timer_periodic),
	TEST(timer_masked),
	TEST(timer_deadline),
	TEST(halt_wakes),
	TEST(taken_after_sti_shadow),
	TEST(sti_cli_takes_none),
	TEST(taken_after_popf),
	TEST(taken_after_iret),
	TEST(taken_in_user_mode),
	TEST(taken_in_any_loop),
	TEST(state_survives),
	TEST(task_priority),
	TEST(highest_first),
	TEST(nested),
	TEST(pending_once),
	TEST(ipi_destinations),
	TEST(illegal_vector),
	TEST(software_disabled),
	TEST(nmi),
	DEVICE(nmi_wakes_halt),
	DEVICE(ioapic_registers),
	DEVICE(ioapic_edge),
	DEVICE(ioapic_level),
	DEVICE(ioapic_level_stays),
	DEVICE(ioapic_logical),
	DEVICE(message),
};

static void run_all(const char *form)
{
	printf("# %s\n", form);
	for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		if (!tests[i].device || device_present())
			tap_run(tests[i].fn, tests[i].name);
		else
			tap_skip(tests[i].name, "no test device");
}

int main(void)
{
	apic_enable(false);
	run_all("xAPIC");
	if (cpu_has(1, 0, 2, 21)) {
		apic_enable(true);
		run_all("x2APIC");
		RUN(x2apic_refuses);
	}
	return tap_done();
}
