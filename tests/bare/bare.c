/* SPDX-License-Identifier: MIT */
/* The bare-metal runtime: descriptor tables, traps, and code run with all its registers given. */
#include "bare.h"

#define STACK_BYTES 16384
#define IST_TRAP    1
#define IST_NMI     2
#define IST_DF      3

struct gate {
	uint16_t low, selector;
	uint8_t ist, type;
	uint16_t middle;
	uint32_t high, reserved;
};

struct table {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static struct gate idt[256] __attribute__((aligned(4096)));
uint64_t gdt[64] __attribute__((aligned(4096)));
struct tss tss[CPUS_MAX];
static uint8_t trap_stacks[CPUS_MAX][3][STACK_BYTES] __attribute__((aligned(16)));
static uint8_t ring0_stack[CPUS_MAX][STACK_BYTES] __attribute__((aligned(16)));
static uint8_t exec_stack[CPUS_MAX][STACK_BYTES] __attribute__((aligned(4096)));
static trap_fn *handlers[256];
static struct regs *active[CPUS_MAX];
static uint64_t saved_rsp[CPUS_MAX];

unsigned cpu_index(void)
{
	uint32_t selector;

	__asm__ volatile("str %0" : "=r"(selector));
	return selector ? ((selector & 0xffff) - TSS_SEL) / 16 : 0;
}

void set_gate(unsigned vector, const void *target, unsigned type, unsigned dpl, unsigned ist)
{
	uint64_t at = (uint64_t)target;

	idt[vector] = (struct gate){ .low = (uint16_t)at,
		.selector = KERNEL_CS,
		.ist = (uint8_t)ist,
		.type = (uint8_t)(0x80 | dpl << 5 | type),
		.middle = (uint16_t)(at >> 16),
		.high = (uint32_t)(at >> 32) };
}

/*
 * Exceptions have a stack of their own, so that code with any rsp can be caught; interrupts nest on
 * the current one.
 */
void reset_gate(unsigned vector)
{
	unsigned ist = vector == DF ? IST_DF : vector == NMI ? IST_NMI : vector < 32 ? IST_TRAP : 0;

	set_gate(vector, trap_stubs + 16 * vector, GATE_INTERRUPT, vector == BP ? 3 : 0, ist);
}

trap_fn *set_handler(unsigned vector, trap_fn *fn)
{
	trap_fn *old = handlers[vector];

	handlers[vector] = fn;
	return old;
}

static void make_tss(unsigned cpu)
{
	uint64_t base = (uint64_t)&tss[cpu];

	for (unsigned i = 0; i < 3; i++)
		tss[cpu].ist[i] = (uint64_t)trap_stacks[cpu][i] + STACK_BYTES;
	tss[cpu].rsp[0] = (uint64_t)ring0_stack[cpu] + STACK_BYTES;
	tss[cpu].io_map = sizeof(struct tss);
	gdt[TSS_SEL / 8 + 2 * cpu] = (sizeof(struct tss) - 1) | (base & 0xffffff) << 16 |
				     0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[TSS_SEL / 8 + 2 * cpu + 1] = base >> 32;
}

void bare_init_cpu(unsigned cpu)
{
	struct table g = { sizeof(gdt) - 1, (uint64_t)gdt }, i = { sizeof(idt) - 1, (uint64_t)idt };

	make_tss(cpu);
	__asm__ volatile("lgdt %0; lidt %1" : : "m"(g), "m"(i));
	__asm__ volatile("pushq %0; pushq $1f; lretq; 1:" : : "i"(KERNEL_CS) : "memory");
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" : : "r"(0));
	__asm__ volatile("mov %0, %%ss" : : "r"(KERNEL_SS));
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL + 16 * cpu));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE | EFER_NXE);
	write_cr0((read_cr0() | CR0_WP | CR0_MP | CR0_NE) & ~(CR0_TS | CR0_EM | CR0_AM));
	write_cr4(read_cr4() | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT);
}

void bare_init(void)
{
	gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
	gdt[KERNEL_SS / 8] = 0x00cf93000000ffff;
	gdt[USER_CS32 / 8] = 0x00cffb000000ffff;
	gdt[USER_SS / 8] = 0x00cff3000000ffff;
	gdt[USER_CS / 8] = 0x00affb000000ffff;
	gdt[USER_SS2 / 8] = 0x00cff3000000ffff;
	for (unsigned i = 0; i < 256; i++)
		reset_gate(i);
	outb(0x21, 0xff); /* the interrupt controllers of older machines keep quiet */
	outb(0xa1, 0xff);
	bare_init_cpu(0);
	page_init();
}

struct regs kernel_regs(const void *code)
{
	return (struct regs){ .rip = (uint64_t)code,
		.cs = KERNEL_CS,
		.rflags = 2,
		.rsp = (uint64_t)exec_stack[cpu_index()] + STACK_BYTES - 64,
		.ss = KERNEL_SS };
}

struct regs user_regs(const void *code)
{
	struct regs r = kernel_regs(NULL);

	r.rip = user(code);
	r.rsp += USER_BASE;
	r.cs = USER_CS;
	r.ss = USER_SS;
	return r;
}

void exec(struct regs *r)
{
	unsigned cpu = cpu_index();

	active[cpu] = r;
	exec_enter(r, &saved_rsp[cpu]);
}

static void unexpected(const struct regs *r)
{
	printf("Bail out! CPU %u: trap %lu, error 0x%lx, rip 0x%lx, rsp 0x%lx, cr2 0x%lx\n",
		cpu_index(), r->vector, r->error, r->rip, r->rsp, read_cr2());
	bare_exit(2);
}

void bare_trap(struct regs *frame)
{
	unsigned cpu = cpu_index();
	struct regs *r = active[cpu];

	if (handlers[frame->vector] && handlers[frame->vector](frame))
		return;
	if (!r)
		unexpected(frame);
	memcpy(r, frame, offsetof(struct regs, cr2));
	r->cr2 = read_cr2();
	active[cpu] = NULL;
	exec_leave(saved_rsp[cpu]);
}
