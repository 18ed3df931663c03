/* SPDX-License-Identifier: MIT */
/*
 * The KVM engine with guests of a few instructions, so that they also run on a KVM that has to
 * emulate them: exits, doorbells, interrupts by every way in, kicks, memory, state.
 */
#include "engine/engine.h"
#include "engine/kvm/kvm.h"
#include "tests/tap.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define RAM        (16u << 20)
#define CODE       0x100000u
#define STACK      0x200000u
#define IDT        0x8000u
#define HANDLER    0x110000u
#define TRAMPOLINE 0x6000u
#define MMIO       0xd0000000u
#define VECTOR     0x41u
#define PORT_END   0xf4
#define PORT_IRQ   0xe0
#define PATIENCE   20 /* seconds */

#define LAPIC_ID   0x02
#define LAPIC_SVR  0x0f

/* Guest code between two labels. */
#define GUEST(name, text)                          \
	extern const uint8_t name[], name##_end[]; \
	__asm__(".pushsection .rodata\n" #name ": " text "\n" #name "_end: .popsection")

GUEST(say_ports, "mov $0x1234, %edx; mov $0xa1b2c3d4, %eax; outb %al, %dx; outw %ax, %dx;"
		 "outl %eax, %dx; inl %dx, %eax; mov %eax, %ebx; mov %eax, (0x300000);"
		 "mov $0x100000, %esi; mov $3, %ecx; cld; rep outsb;"
		 "mov $0xf4, %dx; outb %al, %dx; 1: hlt; jmp 1b");
GUEST(say_mmio, "mov $0xd0000000, %eax; mov $0x1122334455667788, %rbx; mov %bl, (%rax);"
		"mov %bx, 8(%rax); mov %ebx, 16(%rax); mov %rbx, 24(%rax);"
		"mov 32(%rax), %rcx; mov %rcx, (0x300000);"
		"mov $0xf4, %dx; outb %al, %dx; 1: hlt; jmp 1b");
GUEST(ring,
	"mov $0xd0000100, %eax; movw $7, (%rax); mov $0xf4, %dx; outb %al, %dx; 1: hlt; jmp 1b");
GUEST(wait_for_interrupts, "1: sti; hlt; jmp 1b");
GUEST(spin, "1: jmp 1b");
GUEST(sleep_for_ever, "cli; 1: hlt; jmp 1b");
GUEST(touch, "movl $1, (0x345678); mov $0xf4, %dx; outb %al, %dx; 1: hlt; jmp 1b");
GUEST(die, "ud2");
/* Tell the port, end the interrupt. */
GUEST(handler, "push %rax; push %rcx; push %rdx; mov $0xe0, %dx; outb %al, %dx; mov $0x80b, %ecx;"
	       "xor %eax, %eax; xor %edx, %edx; wrmsr; pop %rdx; pop %rcx; pop %rax; iretq");
/* INIT and SIPI to CPU 1 by the x2APIC. */
GUEST(start_other, "mov $0x830, %ecx; mov $1, %edx; mov $0x4500, %eax; wrmsr;"
		   "mov $0x4606, %eax; wrmsr; 1: hlt; jmp 1b");
GUEST(other, ".code16; mov $0x5a, %al; outb %al, $0xf4; 1: hlt; jmp 1b; .code64");

static struct test {
	struct memory *mem;
	struct engine *engine;
	pthread_t threads[2];
	unsigned cpus, started;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct access {
		bool write, port;
		uint64_t addr, value;
		unsigned size;
	} log[64];
	unsigned logged, interrupts, eois;
	bool ended, stop, lower_at_eoi;
	enum vcpu_exit exit;
	struct vz_error error;
} t = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static uint64_t board_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	pthread_mutex_lock(&t.lock);
	if (t.logged < 64)
		t.log[t.logged++] = (struct access){ false, port, addr, 0, size };
	pthread_mutex_unlock(&t.lock);
	return 0x8877665544332211;
}

static void board_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	pthread_mutex_lock(&t.lock);
	if (port && addr == PORT_END)
		t.ended = true;
	else if (port && addr == PORT_IRQ)
		t.interrupts++;
	else if (t.logged < 64)
		t.log[t.logged++] = (struct access){ true, port, addr, value, size };
	pthread_cond_broadcast(&t.changed);
	pthread_mutex_unlock(&t.lock);
}

static void board_eoi(void *arg, unsigned pin)
{
	if (t.lower_at_eoi)
		engine_kvm.irq_line(t.engine, pin, false);
	pthread_mutex_lock(&t.lock);
	t.eois++;
	pthread_cond_broadcast(&t.changed);
	pthread_mutex_unlock(&t.lock);
}

static void put(uint64_t gpa, uint64_t value)
{
	mem_write(t.mem, gpa, &value, sizeof(value));
}

/* The first 4 GiB mapped to themselves, and one interrupt handler. */
static void make_tables(void)
{
	static const uint64_t gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };

	put(0x1000, 0x2003);
	for (unsigned g = 0; g < 4; g++) {
		put(0x2000 + 8 * g, 0x3003 + g * 0x1000);
		for (unsigned i = 0; i < 512; i++)
			put(0x3000 + g * 0x1000 + 8 * i, (g * 512ull + i) << 21 | 0x83);
	}
	mem_write(t.mem, 0x7000, gdt, sizeof(gdt));
	put(IDT + 16 * VECTOR,
		0x8e0000080000ull | (HANDLER & 0xffff) | (uint64_t)(HANDLER >> 16) << 48);
	put(IDT + 16 * VECTOR + 8, 0);
	mem_write(t.mem, HANDLER, handler, (size_t)(handler_end - handler));
}

static void entry_state(struct cpu_state *s)
{
	static const unsigned data[] = { SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

	s->rip = CODE;
	s->gpr[CPU_RSP] = STACK;
	s->rflags = 2;
	s->cr0 = 0x80010033;
	s->cr3 = 0x1000;
	s->cr4 = 0x20;
	s->efer = 0x500;
	s->gdt = (struct cpu_table){ 0x7000, 23 };
	s->idt = (struct cpu_table){ IDT, 0xfff };
	s->seg[SEG_CS] = (struct cpu_segment){
		.limit = UINT32_MAX, .attr = 0xb | SEG_S | SEG_P | SEG_G | SEG_L, .selector = 8
	};
	for (unsigned i = 0; i < sizeof(data) / sizeof(data[0]); i++)
		s->seg[data[i]] = (struct cpu_segment){ .limit = UINT32_MAX,
			.attr = 0x3 | SEG_S | SEG_P | SEG_G | SEG_DB,
			.selector = 16 };
	s->seg[SEG_TR] = (struct cpu_segment){ .limit = 0x67, .attr = 0xb | SEG_P };
	s->seg[SEG_LDT] = (struct cpu_segment){ .attr = 2 | SEG_UNUSABLE };
	s->lapic.base |= 0xc00; /* x2APIC */
	s->lapic.regs[LAPIC_SVR] = 0x1ff;
	s->mp = CPU_MP_RUNNING;
}

static struct cpu_state state_of(unsigned cpu)
{
	struct cpu_state s;

	engine_kvm.get_state(engine_kvm.vcpu(t.engine, cpu), &s);
	return s;
}

static void up(unsigned cpus, const uint8_t *code, const uint8_t *end)
{
	struct engine_config config = { .cpus = cpus,
		.board = { NULL, board_read, board_write, board_eoi } };
	struct cpu_state s;

	t.cpus = cpus;
	t.logged = t.interrupts = t.eois = t.started = 0;
	t.ended = t.stop = t.lower_at_eoi = false;
	t.error = (struct vz_error){ 0 };
	t.mem = mem_new(RAM, NULL);
	config.mem = t.mem;
	if (!t.mem || engine_kvm.open(&t.engine, &config, &t.error)) {
		printf("Bail out! %s\n", t.error.text);
		exit(1);
	}
	make_tables();
	mem_write(t.mem, CODE, code, (size_t)(end - code));
	s = state_of(0);
	entry_state(&s);
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &s), 0);
}

static void *cpu_main(void *arg)
{
	enum vcpu_exit why = VCPU_KICKED;
	bool stop = false;

	while (why == VCPU_KICKED && !stop) {
		struct vz_error e = { 0 };

		why = engine_kvm.run(arg, &e);
		pthread_mutex_lock(&t.lock);
		stop = t.stop;
		if (why != VCPU_KICKED) {
			t.exit = why;
			t.error = e;
			t.ended = true;
			pthread_cond_broadcast(&t.changed);
		}
		pthread_mutex_unlock(&t.lock);
	}
	return NULL;
}

static void start(void)
{
	for (; t.started < t.cpus; t.started++)
		pthread_create(&t.threads[t.started], NULL, cpu_main,
			engine_kvm.vcpu(t.engine, t.started));
}

static void stop(void)
{
	pthread_mutex_lock(&t.lock);
	t.stop = true;
	pthread_mutex_unlock(&t.lock);
	for (unsigned i = 0; i < t.started; i++)
		engine_kvm.kick(engine_kvm.vcpu(t.engine, i));
	for (unsigned i = 0; i < t.started; i++)
		pthread_join(t.threads[i], NULL);
	t.started = 0;
}

static void down(void)
{
	stop();
	engine_kvm.close(t.engine);
	mem_free(t.mem);
}

#define UNTIL(condition)                                                                    \
	({                                                                                  \
		struct timespec end_;                                                       \
		bool met_;                                                                  \
		clock_gettime(CLOCK_REALTIME, &end_);                                       \
		end_.tv_sec += PATIENCE;                                                    \
		pthread_mutex_lock(&t.lock);                                                \
		while (!(condition) && !pthread_cond_timedwait(&t.changed, &t.lock, &end_)) \
			continue;                                                           \
		met_ = (condition);                                                         \
		pthread_mutex_unlock(&t.lock);                                              \
		met_;                                                                       \
	})

#define UP(cpus, code) up(cpus, code, code##_end)

static bool was(unsigned i, bool write, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	const struct access *a = &t.log[i];

	return a->write == write && a->port == port && a->addr == addr && a->size == size &&
	       a->value == value;
}

/* --- exits -------------------------------------------------------------------------------- */

static void ports_reach_the_board(void)
{
	uint32_t read = 0;

	UP(1, say_ports);
	start();
	CHECK(UNTIL(t.ended));
	CHECK_EQ(t.logged, 7);
	CHECK(was(0, true, true, 0x1234, 1, 0xd4));
	CHECK(was(1, true, true, 0x1234, 2, 0xc3d4));
	CHECK(was(2, true, true, 0x1234, 4, 0xa1b2c3d4));
	CHECK(was(3, false, true, 0x1234, 4, 0));
	for (unsigned i = 0; i < 3; i++)
		CHECK(was(4 + i, true, true, 0x1234, 1, say_ports[i]));
	mem_read(t.mem, 0x300000, &read, sizeof(read));
	CHECK_EQ(read, 0x44332211);
	down();
}

static void mmio_reaches_the_board(void)
{
	uint64_t read = 0;

	UP(1, say_mmio);
	start();
	CHECK(UNTIL(t.ended));
	CHECK_EQ(t.logged, 5);
	CHECK(was(0, true, false, MMIO, 1, 0x88));
	CHECK(was(1, true, false, MMIO + 8, 2, 0x7788));
	CHECK(was(2, true, false, MMIO + 16, 4, 0x55667788));
	CHECK(was(3, true, false, MMIO + 24, 8, 0x1122334455667788));
	CHECK(was(4, false, false, MMIO + 32, 8, 0));
	mem_read(t.mem, 0x300000, &read, sizeof(read));
	CHECK_EQ(read, 0x8877665544332211);
	down();
}

static void triple_fault_ends_the_run(void)
{
	struct cpu_state s;

	UP(1, die);
	s = state_of(0);
	s.idt = (struct cpu_table){ 0 };
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &s), 0);
	start();
	CHECK(UNTIL(t.ended));
	CHECK_EQ(t.exit, VCPU_SHUTDOWN);
	CHECK(strstr(t.error.text, "triple fault"));
	down();
}

/* --- doorbells and interrupts ------------------------------------------------------------- */

static void a_doorbell_rings_without_the_board(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t count = 0;

	UP(1, ring);
	CHECK_EQ(engine_kvm.bind_doorbell(t.engine, MMIO + 0x100, 2, fd), 0);
	start();
	CHECK(UNTIL(t.ended));
	CHECK_EQ(eventfd_read(fd, &count), 0);
	CHECK_EQ(count, 1);
	CHECK_EQ(t.logged, 0);
	down();
	close(fd);
}

static void an_unbound_doorbell_is_the_boards(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t count = 0;

	UP(1, ring);
	CHECK_EQ(engine_kvm.bind_doorbell(t.engine, MMIO + 0x100, 2, fd), 0);
	engine_kvm.unbind_doorbell(t.engine, MMIO + 0x100, 2, fd);
	start();
	CHECK(UNTIL(t.ended));
	CHECK(eventfd_read(fd, &count) < 0);
	CHECK_EQ(t.logged, 1);
	CHECK(was(0, true, false, MMIO + 0x100, 2, 7));
	down();
	close(fd);
}

static void a_message_interrupts(void)
{
	UP(1, wait_for_interrupts);
	start();
	for (unsigned i = 1; i <= 3; i++) {
		engine_kvm.msi(t.engine, ENGINE_LAPIC_BASE, VECTOR);
		CHECK(UNTIL(t.interrupts == i));
	}
	down();
}

static void an_irqfd_interrupts(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	UP(1, wait_for_interrupts);
	CHECK_EQ(engine_kvm.bind_irqfd(t.engine, fd, ENGINE_LAPIC_BASE, VECTOR), 0);
	start();
	for (unsigned i = 1; i <= 3; i++) {
		eventfd_write(fd, 1);
		CHECK(UNTIL(t.interrupts == i));
	}
	engine_kvm.unbind_irqfd(t.engine, fd);
	eventfd_write(fd, 1);
	/* What comes next is the message's. */
	engine_kvm.msi(t.engine, ENGINE_LAPIC_BASE, VECTOR);
	CHECK(UNTIL(t.interrupts == 4));
	CHECK_EQ(t.interrupts, 4);
	down();
	close(fd);
}

static void many_irqfds_keep_apart(void)
{
	int fds[8];

	UP(1, wait_for_interrupts);
	for (unsigned i = 0; i < 8; i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		CHECK_EQ(engine_kvm.bind_irqfd(t.engine, fds[i], ENGINE_LAPIC_BASE, VECTOR), 0);
	}
	for (unsigned i = 0; i < 8; i += 2)
		engine_kvm.unbind_irqfd(t.engine, fds[i]);
	start();
	for (unsigned i = 1; i < 8; i += 2) {
		eventfd_write(fds[i], 1);
		CHECK(UNTIL(t.interrupts == (i + 1) / 2));
	}
	down();
	for (unsigned i = 0; i < 8; i++)
		close(fds[i]);
}

/* The board's way to the I/O APIC is the guest's: its registers. */
static void program_pin(unsigned pin, uint32_t low)
{
	struct cpu_state s = state_of(0);
	uint8_t code[] = { 0xb8, 0, 0, 0xc0, 0xfe, 0xc7, 0, 0x10, 0, 0, 0, 0xc7, 0x40, 0x10, 0, 0,
		0, 0, 0xe9, 0, 0, 0, 0 };
	int32_t back = -(int32_t)sizeof(code) - 0x40;

	/* mov $ioapic, %eax; movl $index, (%rax); movl $low, 16(%rax); jmp to the code */
	code[7] = (uint8_t)(0x10 + 2 * pin);
	memcpy(code + 14, &low, sizeof(low));
	memcpy(code + 19, &back, sizeof(back));
	mem_write(t.mem, CODE + 0x40, code, sizeof(code));
	s.rip = CODE + 0x40;
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &s), 0);
}

static void an_edge_interrupts_once(void)
{
	UP(1, wait_for_interrupts);
	program_pin(5, VECTOR);
	start();
	/* Raised until the guest has unmasked the pin. */
	for (unsigned i = 0; i < 1000 && !t.interrupts; i++) {
		engine_kvm.irq_line(t.engine, 5, false);
		engine_kvm.irq_line(t.engine, 5, true);
		usleep(10000);
	}
	CHECK_EQ(t.interrupts, 1);
	engine_kvm.irq_line(t.engine, 5, true);
	engine_kvm.msi(t.engine, ENGINE_LAPIC_BASE, VECTOR);
	CHECK(UNTIL(t.interrupts == 2));
	CHECK_EQ(t.eois, 0);
	down();
}

static void a_level_lasts_until_it_is_lowered(void)
{
	unsigned seen;

	UP(1, wait_for_interrupts);
	program_pin(9, VECTOR | 0x8000);
	engine_kvm.irq_line(t.engine, 9, true);
	start();
	CHECK(UNTIL(t.interrupts >= 3));
	CHECK(UNTIL(t.eois >= 2));
	t.lower_at_eoi = true;
	/* One may be under way; then there is silence. */
	usleep(200000);
	seen = t.interrupts;
	usleep(100000);
	CHECK_EQ(t.interrupts, seen);
	CHECK_EQ(t.eois, seen);
	down();
}

/* --- kicks -------------------------------------------------------------------------------- */

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void a_kick_ends_a_loop(void)
{
	double begin;

	UP(1, spin);
	start();
	usleep(50000);
	begin = seconds();
	stop();
	CHECK(seconds() - begin < 2);
	CHECK_EQ(state_of(0).rip, CODE);
	down();
}

static void a_kick_ends_a_sleep(void)
{
	double end = seconds() + PATIENCE;

	UP(1, sleep_for_ever);
	/* On a busy machine it may not have come to its hlt. */
	do {
		double begin;

		t.stop = false;
		start();
		usleep(50000);
		begin = seconds();
		stop();
		CHECK(seconds() - begin < 2);
	} while (state_of(0).mp != CPU_MP_HALTED && seconds() < end);
	CHECK_EQ(state_of(0).mp, CPU_MP_HALTED);
	down();
}

static void a_kick_before_the_run_counts(void)
{
	struct vz_error e = { 0 };
	struct vcpu *cpu;

	UP(1, spin);
	cpu = engine_kvm.vcpu(t.engine, 0);
	for (unsigned i = 0; i < 100; i++) {
		engine_kvm.kick(cpu);
		engine_kvm.kick(cpu);
		CHECK_EQ(engine_kvm.run(cpu, &e), VCPU_KICKED);
	}
	down();
}

static void *kick_often(void *arg)
{
	for (unsigned i = 0; i < 2000; i++)
		engine_kvm.kick(arg);
	return NULL;
}

static void no_kick_is_lost(void)
{
	struct vz_error e = { 0 };
	struct vcpu *cpu;
	pthread_t kicker;

	UP(1, spin);
	cpu = engine_kvm.vcpu(t.engine, 0);
	pthread_create(&kicker, NULL, kick_often, cpu);
	CHECK_EQ(engine_kvm.run(cpu, &e), VCPU_KICKED);
	pthread_join(kicker, NULL);
	/* One may be left, more than one would be one too many. */
	engine_kvm.kick(cpu);
	CHECK_EQ(engine_kvm.run(cpu, &e), VCPU_KICKED);
	down();
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	signals++;
}

static void kicks_run_no_handler(void)
{
	struct sigaction mine = { .sa_handler = on_signal }, old;
	sigset_t pending;

	sigaction(SIGRTMAX, &mine, &old);
	UP(1, spin);
	start();
	usleep(50000);
	down();
	sigpending(&pending);
	CHECK_EQ(signals, 0);
	CHECK(!sigismember(&pending, SIGRTMAX));
	sigaction(SIGRTMAX, &old, NULL);
}

/* --- memory, state, more CPUs ------------------------------------------------------------- */

static void written_pages_are_logged(void)
{
	static uint64_t bits[RAM / 4096 / 64];

	UP(1, touch);
	CHECK_EQ(engine_kvm.dirty_log(t.engine, true), 0);
	CHECK_EQ(engine_kvm.dirty_fetch(t.engine, bits), 0);
	start();
	CHECK(UNTIL(t.ended));
	CHECK_EQ(engine_kvm.dirty_fetch(t.engine, bits), 0);
	CHECK(bits[0x345 / 64] >> (0x345 % 64) & 1);
	CHECK(!(bits[0x346 / 64] >> (0x346 % 64) & 1));
	CHECK_EQ(engine_kvm.dirty_fetch(t.engine, bits), 0);
	CHECK_EQ(bits[0x345 / 64], 0);
	CHECK_EQ(engine_kvm.dirty_log(t.engine, false), 0);
	CHECK(engine_kvm.dirty_fetch(t.engine, bits) < 0);
	down();
}

static void check_same(const struct cpu_state *a, const struct cpu_state *b)
{
	CHECK(!memcmp(a->gpr, b->gpr, sizeof(a->gpr)));
	CHECK_EQ(a->rip, b->rip);
	CHECK_EQ(a->rflags, b->rflags);
	CHECK(!memcmp(a->seg, b->seg, sizeof(a->seg)));
	CHECK_EQ(a->gdt.base, b->gdt.base);
	CHECK_EQ(a->idt.limit, b->idt.limit);
	CHECK_EQ(a->cr0, b->cr0);
	CHECK_EQ(a->cr2, b->cr2);
	CHECK_EQ(a->cr3, b->cr3);
	CHECK_EQ(a->cr4, b->cr4);
	CHECK_EQ(a->cr8, b->cr8);
	CHECK_EQ(a->efer, b->efer);
	CHECK_EQ(a->xcr0, b->xcr0);
	CHECK(!memcmp(a->dr, b->dr, sizeof(a->dr)));
	CHECK_EQ(a->star, b->star);
	CHECK_EQ(a->lstar, b->lstar);
	CHECK_EQ(a->sfmask, b->sfmask);
	CHECK_EQ(a->kernel_gs_base, b->kernel_gs_base);
	CHECK_EQ(a->sysenter_eip, b->sysenter_eip);
	CHECK_EQ(a->pat, b->pat);
	CHECK_EQ(a->lapic.base, b->lapic.base);
	CHECK(!memcmp(a->lapic.regs, b->lapic.regs, sizeof(a->lapic.regs)));
	CHECK_EQ(a->mp, b->mp);
	CHECK_EQ(a->nmi_blocked, b->nmi_blocked);
	CHECK_EQ(a->interrupt_shadow, b->interrupt_shadow);
	CHECK(!memcmp(a->xsave, b->xsave, sizeof(a->xsave)));
}

static void state_is_read_as_it_was_set(void)
{
	struct cpu_state want, got;

	UP(1, spin);
	want = state_of(0);
	for (unsigned i = 0; i < 16; i++)
		want.gpr[i] = 0x0101010101010101 * (i + 1);
	want.cr2 = 0x123456789000;
	want.cr8 = 5;
	want.lapic.regs[0x08] = 0x50;
	want.lapic.regs[0x0a] = 0x50; /* processor priority follows */
	want.dr[0] = 0x1000;
	want.dr[3] = 0x4000;
	want.star = 0x23001000000000;
	want.lstar = 0xffffffff81000000;
	want.sfmask = 0x47700;
	want.kernel_gs_base = 0xffff888000000000;
	want.sysenter_eip = 0x82000000;
	want.pat = 0x0407050600070106;
	want.seg[SEG_FS].base = 0x7f0000001000;
	want.interrupt_shadow = true;
	want.xsave[0] = 0x7f; /* x87 control word */
	want.xsave[1] = 0x02;
	want.xsave[160] = 0xab; /* xmm0 */
	want.xsave[512] |= 3;
	want.nmi_blocked = true;
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &want), 0);
	got = state_of(0);
	check_same(&want, &got);
	down();
}

static void impossible_state_is_refused(void)
{
	struct cpu_state s;

	UP(1, spin);
	s = state_of(0);
	s.cr8 = 16;
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &s), -EINVAL);
	s = state_of(0);
	s.cr4 = 0; /* long mode without PAE */
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &s), -EINVAL);
	s = state_of(0);
	s.xcr0 = 0;
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &s), -EINVAL);
	s = state_of(0);
	s.mp = 17;
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 0), &s), -EINVAL);
	down();
}

static void reset_is_power_on(void)
{
	struct engine_config config = { .cpus = 2,
		.board = { NULL, board_read, board_write, NULL } };
	struct cpu_state first[2], second;

	t.mem = config.mem = mem_new(RAM, NULL);
	CHECK_EQ(engine_kvm.open(&t.engine, &config, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		first[i] = state_of(i);
		second = first[i];
		entry_state(&second);
		second.lapic.regs[LAPIC_ID] = i;
		second.lstar = 0xffffffff81000000;
		second.dr[1] = 0x2000;
		CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, i), &second), 0);
	}
	CHECK_EQ(first[0].rip, 0xfff0);
	CHECK_EQ(first[0].mp, CPU_MP_RUNNING);
	CHECK_EQ(first[1].mp, CPU_MP_WAIT_SIPI);
	engine_kvm.reset(t.engine);
	for (unsigned i = 0; i < 2; i++) {
		second = state_of(i);
		check_same(&first[i], &second);
		CHECK_EQ(second.lstar, 0);
	}
	engine_kvm.close(t.engine);
	mem_free(t.mem);
}

static void a_second_cpu_starts(void)
{
	struct cpu_state s;

	UP(2, start_other);
	mem_write(t.mem, TRAMPOLINE, other, (size_t)(other_end - other));
	s = state_of(1);
	CHECK_EQ(s.mp, CPU_MP_WAIT_SIPI);
	s.lapic.base |= 0xc00;
	s.lapic.regs[LAPIC_ID] = 1;
	CHECK_EQ(engine_kvm.set_state(engine_kvm.vcpu(t.engine, 1), &s), 0);
	start();
	CHECK(UNTIL(t.ended));
	stop();
	s = state_of(1);
	CHECK_EQ(s.seg[SEG_CS].base, TRAMPOLINE);
	CHECK_EQ(s.gpr[CPU_RAX] & 0xff, 0x5a);
	down();
}

int main(void)
{
	struct vz_error e = { 0 };

	if (engine_kvm.probe(&e)) {
		printf("1..0 # SKIP KVM: %s\n", e.text);
		return 0;
	}
	RUN(ports_reach_the_board);
	RUN(mmio_reaches_the_board);
	RUN(triple_fault_ends_the_run);
	RUN(a_doorbell_rings_without_the_board);
	RUN(an_unbound_doorbell_is_the_boards);
	RUN(a_message_interrupts);
	RUN(an_irqfd_interrupts);
	RUN(many_irqfds_keep_apart);
	RUN(an_edge_interrupts_once);
	RUN(a_level_lasts_until_it_is_lowered);
	RUN(a_kick_ends_a_loop);
	RUN(a_kick_ends_a_sleep);
	RUN(a_kick_before_the_run_counts);
	RUN(no_kick_is_lost);
	RUN(kicks_run_no_handler);
	RUN(written_pages_are_logged);
	RUN(state_is_read_as_it_was_set);
	RUN(impossible_state_is_refused);
	RUN(reset_is_power_on);
	RUN(a_second_cpu_starts);
	return tap_done();
}
