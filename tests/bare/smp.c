/* SPDX-License-Identifier: MIT */
/*
 * Several CPUs: how they start, interrupt each other, order and lock their accesses, change page
 * tables and code under each other. Intel SDM volume 3, chapter 9 and section 4.10.5.
 */
#include "bare.h"

#define VECTOR 0x51
#define FLUSH  0x61
#define SYNC   0x71

static unsigned cpus;

static void on_others(void (*fn)(void *), void *arg)
{
	for (unsigned i = 1; i < cpus; i++)
		cpu_call(i, fn, arg);
}

static bool others_done(void)
{
	bool done = true;

	for (unsigned i = 1; i < cpus; i++)
		done &= cpu_wait(i);
	return done;
}

static void cpu_relax_until(volatile unsigned *word, unsigned value)
{
	while (*word < value)
		pause();
}

/*
 * --- starting
 */
static volatile uint64_t seen[CPUS_MAX][4];
static void look(void *arg)
{
	unsigned cpu = cpu_index();

	seen[cpu][0] = cpu + 100;
	seen[cpu][1] = apic_x2 ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
	seen[cpu][2] = rdmsr(MSR_APIC_BASE) & 0xfff;
	seen[cpu][3] = read_cr0();
}

static void check_look(unsigned cpu)
{
	cpu_call(cpu, look, NULL);
	CHECK(cpu_wait(cpu));
	CHECK_EQ(seen[cpu][0], cpu + 100);
	CHECK_EQ(seen[cpu][1], cpu);
	CHECK_EQ(seen[cpu][2] & ~0x400u, 0x800); /* not the first CPU */
	CHECK_EQ(seen[cpu][3], read_cr0());
}

static void start_by_xapic(void)
{
	apic_enable(false);
	CHECK(cpu_start(1));
	check_look(1);
}

static void start_again(void)
{
	CHECK(cpu_start(1)); /* INIT takes it from where it is */
	check_look(1);
}

static void start_by_x2apic(void)
{
	if (cpu_has(1, 0, 2, 21))
		apic_enable(true);
	for (unsigned i = 1; i < cpus; i++) {
		CHECK(cpu_start(i));
		check_look(i);
	}
}

static void spin_closed(void *arg)
{
	cli();
	__asm__ volatile("1: jmp 1b");
}

/* INIT ends a loop with interrupts off, and nothing is left of what the CPU did. */
static void init_ends_a_loop(void)
{
	cpu_call(1, spin_closed, NULL);
	for (uint64_t start = rdtsc(); rdtsc() - start < 1000000;)
		pause();
	CHECK(cpu_start(1));
	check_look(1);
}

/*
 * --- interrupts between CPUs
 */
static volatile unsigned received[CPUS_MAX];
static bool on_ipi(struct regs *frame)
{
	received[cpu_index()]++;
	apic_write(APIC_EOI, 0);
	return true;
}

static volatile unsigned stop;
static void listen(void *arg)
{
	sti();
	while (!stop)
		pause();
	cli();
}

static bool all_received(unsigned from, unsigned n)
{
	for (unsigned i = from; i < cpus; i++)
		if (received[i] != n)
			return false;
	return true;
}

static void broadcasts(void)
{
	stop = 0;
	memset((void *)received, 0, sizeof(received));
	set_handler(VECTOR, on_ipi);
	on_others(listen, NULL);
	sti();
	for (unsigned i = 1; i < cpus; i++) {
		apic_ipi(i, VECTOR);
		CHECK(WAIT_FOR(received[i] == 1));
	}
	apic_ipi(0, ICR_OTHERS | VECTOR);
	CHECK(WAIT_FOR(all_received(1, 2)));
	CHECK_EQ(received[0], 0);
	apic_ipi(0, ICR_ALL | VECTOR);
	CHECK(WAIT_FOR(all_received(1, 3) && received[0] == 1));
	cli();
	stop = 1;
	CHECK(others_done());
}

static void nap(void *arg)
{
	while (!stop)
		sti_hlt();
}

/* A CPU that sleeps wakes up each time. */
static void halted_cpus_wake(void)
{
	stop = 0;
	memset((void *)received, 0, sizeof(received));
	on_others(nap, NULL);
	for (unsigned n = 1; n <= 100; n++) {
		apic_ipi(0, ICR_OTHERS | VECTOR);
		CHECK(WAIT_FOR(all_received(1, n)));
	}
	stop = 1;
	apic_ipi(0, ICR_OTHERS | VECTOR);
	CHECK(others_done());
}

static volatile unsigned ball;
static bool on_ball(struct regs *frame)
{
	ball++;
	apic_write(APIC_EOI, 0);
	if (ball < 1000)
		apic_ipi(!cpu_index(), FLUSH);
	return true;
}

/* Both sleep while the other has the turn. */
static void ping_pong(void)
{
	ball = stop = 0;
	set_handler(FLUSH, on_ball);
	cpu_call(1, nap, NULL);
	apic_ipi(1, FLUSH);
	while (ball < 999)
		sti_hlt();
	CHECK(WAIT_FOR(ball == 1000));
	stop = 1;
	apic_ipi(1, VECTOR);
	CHECK(cpu_wait(1));
}

static bool on_nmi(struct regs *frame)
{
	received[cpu_index()]++;
	return true;
}

static void closed_wait(void *arg)
{
	while (!stop)
		pause();
}

static void nmi_to_others(void)
{
	stop = 0;
	memset((void *)received, 0, sizeof(received));
	set_handler(NMI, on_nmi);
	on_others(closed_wait, NULL);
	apic_ipi(0, ICR_OTHERS | ICR_NMI);
	CHECK(WAIT_FOR(all_received(1, 1)));
	stop = 1;
	CHECK(others_done());
	CHECK_EQ(received[0], 0);
}

static void message_to_several(void)
{
	if (!device_present())
		return;
	stop = 0;
	memset((void *)received, 0, sizeof(received));
	on_others(listen, NULL);
	for (unsigned i = 1; i < cpus; i++) {
		device_command(IRQ_MSI, 0, 0xfee00000 | i << 12, VECTOR);
		CHECK(WAIT_FOR(received[i] == 1));
	}
	/* logical: in one cluster all ids below 16 are bits */
	device_command(IRQ_MSI, 0, 0xfee00004 | ((1u << cpus) - 2) << 12, VECTOR);
	CHECK(WAIT_FOR(all_received(1, 2)));
	stop = 1;
	CHECK(others_done());
}

/*
 * --- shared memory
 */
#define ROUNDS 20000u

static struct {
	volatile uint64_t plain, add, xadd, xchg_lock, ticket, serving, guarded;
	volatile uint64_t wide[2] __attribute__((aligned(16)));
	volatile uint64_t bits;
} shared __attribute__((aligned(64)));
static uint8_t *split; /* near the end of a page whose neighbour is elsewhere */

static void xchg_lock(void)
{
	uint64_t v;

	do {
		while (shared.xchg_lock)
			pause();
		v = 1;
		__asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(shared.xchg_lock) : : "memory");
	} while (v);
}

static void wide_increment(void)
{
	uint64_t low = shared.wide[0], high = shared.wide[1];
	bool done;

	do
		__asm__ volatile("lock cmpxchg16b %1"
				 : "=@ccz"(done), "+m"(shared.wide), "+a"(low), "+d"(high)
				 : "b"(low + 1), "c"(high - 1)
				 : "memory");
	while (!done);
}

static void hammer(void *arg)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t one = 1, ticket = 1;

		__asm__ volatile("lock incq %0" : "+m"(shared.add));
		__asm__ volatile("lock xadd %0, %1" : "+r"(one), "+m"(shared.xadd));
		__asm__ volatile("lock addq $1, %0" : "+m"(*(volatile uint64_t *)split));
		wide_increment();
		xchg_lock();
		shared.plain++;
		__asm__ volatile("movq $0, %0" : "=m"(shared.xchg_lock) : : "memory");
		if (i % 8)
			continue;
		__asm__ volatile("lock xadd %0, %1"
				 : "+r"(ticket), "+m"(shared.ticket)
				 :
				 : "memory");
		while (shared.serving != ticket)
			pause();
		shared.guarded++;
		__asm__ volatile("" : : : "memory");
		shared.serving = ticket + 1;
	}
}

static void locked_instructions(void)
{
	uint64_t va = va_alloc();

	map(va, page_alloc(), PTE_KRW);
	map(va + PAGE, page_alloc(), PTE_KRW);
	split = (uint8_t *)va + PAGE - 3;
	on_others(hammer, NULL);
	hammer(NULL);
	CHECK(others_done());
	CHECK_EQ(shared.add, cpus * ROUNDS);
	CHECK_EQ(shared.xadd, cpus * ROUNDS);
	CHECK_EQ(*(uint64_t *)split, cpus * ROUNDS);
	CHECK_EQ(shared.plain, cpus * ROUNDS);
	CHECK_EQ(shared.wide[0], cpus * ROUNDS);
	CHECK_EQ(shared.wide[1], -(uint64_t)cpus * ROUNDS);
	CHECK_EQ(shared.guarded, cpus * ROUNDS / 8);
}

static void hammer_split(void *arg)
{
	for (unsigned i = 0; i < 3 * ROUNDS; i++)
		__asm__ volatile("lock addq $1, %0" : "+m"(*(volatile uint64_t *)split));
}

static void locked_across_pages(void)
{
	*(volatile uint64_t *)split = 0;
	on_others(hammer_split, NULL);
	hammer_split(NULL);
	CHECK(others_done());
	CHECK_EQ(*(volatile uint64_t *)split, cpus * 3 * ROUNDS);
}

static void set_bits(void *arg)
{
	uint64_t bit = cpu_index();

	for (unsigned i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock btsq %1, %0" : "+m"(shared.bits) : "r"(bit));
		__asm__ volatile("lock btrq %1, %0" : "+m"(shared.bits) : "r"(bit));
	}
	__asm__ volatile("lock btsq %1, %0" : "+m"(shared.bits) : "r"(bit));
}

static void locked_bits(void)
{
	shared.bits = 0;
	on_others(set_bits, NULL);
	set_bits(NULL);
	CHECK(others_done());
	CHECK_EQ(shared.bits, (1u << cpus) - 1);
}

/* What one CPU stores in order, another sees in order. */
static volatile uint64_t data_word __attribute__((aligned(64)));
static volatile uint64_t flag_word __attribute__((aligned(64)));
static volatile unsigned disorder;
static void reader(void *arg)
{
	uint64_t flag;

	do {
		flag = flag_word;
		if (data_word < flag)
			disorder++;
	} while (flag < ROUNDS);
}

static void stores_in_order(void)
{
	data_word = flag_word = disorder = 0;
	on_others(reader, NULL);
	for (uint64_t i = 1; i <= ROUNDS; i++) {
		data_word = i;
		flag_word = i;
	}
	CHECK(others_done());
	CHECK_EQ(disorder, 0);
}

/* After mfence a CPU's store is there before its next load: not both may see zero. */
static volatile unsigned turn[2], mine[2], got[2];
static void fence_side(unsigned me)
{
	for (unsigned i = 1; i <= 3000; i++) {
		mine[me] = i;
		__asm__ volatile("mfence" : : : "memory");
		got[me] = mine[!me];
		turn[me] = i;
		cpu_relax_until(&turn[!me], i);
		if (got[0] < i && got[1] < i)
			disorder++;
		__asm__ volatile("mfence" : : : "memory");
		/* both have looked before either goes on */
		turn[me] = i;
		received[me] = i;
		cpu_relax_until(&received[!me], i);
	}
}

static void fence_other(void *arg)
{
	fence_side(1);
}

static void fences(void)
{
	memset((void *)received, 0, sizeof(received));
	disorder = 0;
	cpu_call(1, fence_other, NULL);
	fence_side(0);
	CHECK(cpu_wait(1));
	CHECK_EQ(disorder, 0);
}

static volatile uint64_t last_tsc;
static void tsc_side(unsigned me)
{
	for (unsigned i = 1; i <= 2000; i++) {
		cpu_relax_until(&ball, 2 * i - 2 + me);
		uint64_t now = rdtsc();

		if (now < last_tsc)
			disorder++;
		last_tsc = now;
		ball++;
	}
}

static void tsc_other(void *arg)
{
	tsc_side(1);
}

static void time_stamps_agree(void)
{
	ball = disorder = 0;
	last_tsc = 0;
	cpu_call(1, tsc_other, NULL);
	tsc_side(0);
	CHECK(cpu_wait(1));
	CHECK_EQ(disorder, 0);
}

/*
 * --- page tables
 */
static volatile uint64_t window, generation;
static volatile unsigned flushed;
static bool on_flush(struct regs *frame)
{
	invlpg(window);
	__asm__ volatile("lock incl %0" : "+m"(flushed));
	apic_write(APIC_EOI, 0);
	return true;
}

static void watch_window(void *arg)
{
	sti();
	while (!stop) {
		uint64_t at_least = generation;

		if (*(volatile uint64_t *)window < at_least)
			disorder++;
	}
	cli();
}

static void tlb_shootdown(void)
{
	uint64_t *pages[2] = { page_alloc(), page_alloc() };

	window = va_alloc();
	generation = stop = disorder = 0;
	set_handler(FLUSH, on_flush);
	map(window, pages[0], PTE_KRW);
	on_others(watch_window, NULL);
	for (uint64_t i = 1; i <= 40; i++) {
		pages[i & 1][0] = i;
		flushed = 0;
		*pte(window, 1) = (uint64_t)pages[i & 1] | PTE_KRW;
		invlpg(window);
		apic_ipi(0, ICR_OTHERS | FLUSH);
		CHECK(WAIT_FOR(flushed == cpus - 1));
		generation = i;
		pages[!(i & 1)][0] = 0; /* the old page is somebody else's now */
	}
	stop = 1;
	CHECK(others_done());
	CHECK_EQ(disorder, 0);
}

/* No write is lost while another CPU takes away permissions and dirty bits. */
static volatile uint64_t writes[CPUS_MAX];
static bool wait_for_page(struct regs *frame)
{
	uint64_t *entry = pte(read_cr2(), 1);

	sti(); /* who took the page away waits for this CPU to know */
	while ((*(volatile uint64_t *)entry & PTE_W) == 0)
		pause();
	cli();
	return true;
}

static void write_window(void *arg)
{
	unsigned cpu = cpu_index();

	sti();
	while (!stop) {
		((volatile uint64_t *)window)[cpu * 8]++;
		writes[cpu]++;
	}
	cli();
}

static void protection_changes(void)
{
	uint64_t *page = page_alloc(), *entry;
	unsigned lost = 0;

	window = va_alloc();
	map(window, page, PTE_KRW);
	entry = pte(window, 1);
	stop = 0;
	memset((void *)writes, 0, sizeof(writes));
	set_handler(PF, wait_for_page);
	on_others(write_window, NULL);
	for (unsigned n = 0; n < 30; n++) {
		uint64_t copy[CPUS_MAX];

		flushed = 0;
		__asm__ volatile("lock andq %1, %0"
				 : "+m"(*entry)
				 : "r"(~(PTE_W | PTE_D))
				 : "memory");
		apic_ipi(0, ICR_OTHERS | FLUSH);
		CHECK(WAIT_FOR(flushed == cpus - 1));
		for (unsigned i = 0; i < cpus; i++)
			copy[i] = page[i * 8];
		for (unsigned i = 0; i < 200; i++)
			pause();
		for (unsigned i = 0; i < cpus; i++)
			lost += ((volatile uint64_t *)page)[i * 8] != copy[i];
		lost += (*entry & PTE_D) != 0;
		__asm__ volatile("lock orq %1, %0" : "+m"(*entry) : "r"(PTE_W) : "memory");
	}
	stop = 1;
	CHECK(others_done());
	set_handler(PF, NULL);
	CHECK_EQ(lost, 0);
	for (unsigned i = 1; i < cpus; i++)
		CHECK_EQ(page[i * 8], writes[i]);
}

/*
 * --- code
 */
static uint8_t *volatile function; /* mov $n, %eax; ret */
static volatile unsigned version, acknowledged;

static void serialize(void)
{
	uint32_t out[4];

	cpuid(0, 0, out);
}

static uint32_t call_function(void)
{
	return ((uint32_t(*)(void))(uint64_t)function)();
}

static void run_function(void *arg)
{
	unsigned known = 0;

	while (!stop) {
		if (version == known)
			continue;
		known = version;
		serialize();
		if (call_function() != known)
			disorder++;
		__asm__ volatile("lock incl %0" : "+m"(acknowledged));
	}
}

/* The algorithm of section 9.1.3: write, tell, serialize, run. */
static void cross_modified_code(void)
{
	function = page_alloc();
	memcpy(function, "\xb8\0\0\0\0\xc3", 6);
	version = stop = disorder = 0;
	on_others(run_function, NULL);
	for (unsigned i = 1; i <= 40; i++) {
		acknowledged = 0;
		memcpy(function + 1, &i, 4);
		version = i;
		CHECK(WAIT_FOR(acknowledged == cpus - 1));
	}
	stop = 1;
	CHECK(others_done());
	CHECK_EQ(disorder, 0);
}

static bool on_sync(struct regs *frame)
{
	serialize();
	__asm__ volatile("lock incl %0" : "+m"(acknowledged));
	apic_write(APIC_EOI, 0);
	return true;
}

static void sync_others(void)
{
	acknowledged = 0;
	apic_ipi(0, ICR_OTHERS | SYNC);
	CHECK(WAIT_FOR(acknowledged == cpus - 1));
}

static volatile uint64_t patch_point, breakpoints;
static bool skip_patch(struct regs *frame)
{
	if (frame->rip != patch_point + 1)
		return false;
	/* the five bytes as a whole: leave eax as it is */
	frame->rip += 4;
	breakpoints = 1;
	return true;
}

/* Runs the function all the time: what it returns is a version, and never an older one. */
static void run_patched(void *arg)
{
	sti();
	while (!stop) {
		uint32_t at_least = version, r;

		r = ((uint32_t(*)(void))(uint64_t)function)();
		if (r != 0xffff && r < at_least)
			disorder++;
	}
	cli();
}

/* How Linux patches code that others run: breakpoint, tail, head, with a sync after each. */
static void patched_under_way(void)
{
	function = page_alloc();
	/* mov $0xffff, %eax; mov $0, %eax; ret */
	memcpy(function, "\xb8\xff\xff\0\0\xb8\0\0\0\0\xc3", 11);
	patch_point = (uint64_t)function + 5;
	version = stop = disorder = 0;
	set_handler(BP, skip_patch);
	set_handler(SYNC, on_sync);
	on_others(run_patched, NULL);
	for (uint32_t i = 1; i <= 16; i++) {
		volatile uint8_t *at = (uint8_t *)patch_point;

		at[0] = 0xcc;
		sync_others();
		memcpy((void *)(at + 1), &i, 4);
		sync_others();
		at[0] = 0xb8;
		sync_others();
		version = i;
	}
	stop = 1;
	CHECK(others_done());
	set_handler(BP, NULL);
	CHECK_EQ(disorder, 0);
	CHECK_EQ(call_function(), 16);
}

/* A call's target changed by one aligned store, with nobody told before. */
static volatile uint64_t calls_a, calls_b;
static void run_calls(void *arg)
{
	uint32_t r;

	while (!stop) {
		r = call_function();
		if (r == 1)
			calls_a = 1;
		else if (r == 2)
			calls_b = 1;
		else
			disorder++;
	}
}

static void retargeted_call(void)
{
	uint32_t target[2] = { 0x10 - 8, 0x20 - 8 };
	uint8_t *p = page_alloc();

	/* nop; nop; nop; call +; ret; two leaves at 0x10 and 0x20 */
	memcpy(p, "\x90\x90\x90\xe8\x08\0\0\0\xc3", 9);
	memcpy(p + 0x10, "\xb8\1\0\0\0\xc3", 6);
	memcpy(p + 0x20, "\xb8\2\0\0\0\xc3", 6);
	function = p;
	stop = disorder = 0;
	on_others(run_calls, NULL);
	for (unsigned i = 0; i < 2000; i++)
		*(volatile uint32_t *)(p + 4) = target[i & 1];
	calls_a = calls_b = 0;
	CHECK(WAIT_FOR(calls_b));
	*(volatile uint32_t *)(p + 4) = target[0];
	CHECK(WAIT_FOR(calls_a));
	stop = 1;
	CHECK(others_done());
	CHECK_EQ(disorder, 0);
}

/* New code is made all the time while others run with interrupts off. */
static void spin_until_stop(void *arg)
{
	cli();
	__asm__ volatile("1: cmpl $0, %0; je 1b" : : "m"(stop));
}

static void new_code_beside_closed_loops(void)
{
	uint8_t *p = page_alloc();
	uint64_t sum = 0;

	stop = 0;
	on_others(spin_until_stop, NULL);
	for (uint32_t i = 0; i < 300; i++) {
		function = p + i * 8 % 2048;
		memcpy(function, "\xb8\0\0\0\0\xc3", 6);
		memcpy(function + 1, &i, 4);
		serialize();
		sum += call_function();
		*(volatile uint64_t *)(p + 3000) = i; /* data beside it */
	}
	stop = 1;
	CHECK(others_done());
	CHECK_EQ(sum, 299 * 300 / 2);
}

/* Each CPU counts beside the code that the others run. */
static void count_beside(void *arg)
{
	volatile uint64_t *counter = (uint64_t *)(function + 1024) + cpu_index();

	for (unsigned i = 0; i < 3000; i++) {
		(*counter)++;
		if (call_function() != 7)
			disorder++;
	}
}

static void data_beside_code(void)
{
	function = page_alloc();
	memcpy(function, "\xb8\7\0\0\0\xc3", 6);
	disorder = 0;
	on_others(count_beside, NULL);
	count_beside(NULL);
	CHECK(others_done());
	CHECK_EQ(disorder, 0);
	for (unsigned i = 0; i < cpus; i++)
		CHECK_EQ(((uint64_t *)(function + 1024))[i], 3000);
}

int main(void)
{
	uint32_t out[4];

	cpuid(1, 0, out);
	cpus = device_present() ? device_cpus() : out[1] >> 16 & 0xff;
	if (cpus < 2) {
		printf("1..0 # SKIP one CPU\n");
		return 0;
	}
	if (cpus > CPUS_MAX)
		cpus = CPUS_MAX;
	RUN(start_by_xapic);
	RUN(start_again);
	RUN(start_by_x2apic);
	RUN(init_ends_a_loop);
	RUN(broadcasts);
	RUN(halted_cpus_wake);
	RUN(ping_pong);
	RUN(nmi_to_others);
	RUN(message_to_several);
	RUN(locked_instructions);
	RUN(locked_across_pages);
	RUN(locked_bits);
	RUN(stores_in_order);
	RUN(fences);
	RUN(time_stamps_agree);
	RUN(tlb_shootdown);
	RUN(protection_changes);
	RUN(cross_modified_code);
	RUN(patched_under_way);
	RUN(retargeted_call);
	RUN(new_code_beside_closed_loops);
	RUN(data_beside_code);
	return tap_done();
}
