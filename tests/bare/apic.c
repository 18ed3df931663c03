/* SPDX-License-Identifier: MIT */
/*
 * The local APIC in both of its forms (Intel SDM volume 3, chapter 11), the I/O APIC, other CPUs,
 * and the runner's test device.
 */
#include "bare.h"

#define APIC_MMIO   0xfee00000ull
#define IOAPIC_MMIO 0xfec00000ull
#define WAKE_VECTOR 0xf0

extern uint8_t trampoline[], trampoline_end[], trampoline_cr3[], trampoline_stack[];

bool apic_x2;

static struct ap {
	volatile bool online;
	void (*volatile call)(void *);
	void *volatile arg;
	uint8_t stack[16384] __attribute__((aligned(16)));
} aps[CPUS_MAX];
static volatile unsigned starting;

uint32_t apic_read(unsigned reg)
{
	if (apic_x2)
		return (uint32_t)rdmsr(0x800 + reg / 16);
	return *(volatile uint32_t *)(APIC_MMIO + reg);
}

void apic_write(unsigned reg, uint32_t value)
{
	if (apic_x2)
		wrmsr(0x800 + reg / 16, value);
	else
		*(volatile uint32_t *)(APIC_MMIO + reg) = value;
}

void apic_ipi(unsigned dest, uint32_t low)
{
	if (apic_x2) {
		wrmsr(0x800 + APIC_ICR / 16, (uint64_t)dest << 32 | low);
		return;
	}
	apic_write(APIC_ICR2, dest << 24);
	apic_write(APIC_ICR, low);
	while (apic_read(APIC_ICR) & 0x1000)
		pause();
}

bool apic_bit(unsigned reg, unsigned vector)
{
	return apic_read(reg + vector / 32 * 16) >> vector % 32 & 1;
}

void apic_enable(bool x2)
{
	uint64_t base = rdmsr(MSR_APIC_BASE) | 0x800;

	wrmsr(MSR_APIC_BASE, base);
	if (x2)
		wrmsr(MSR_APIC_BASE, base | 0x400);
	apic_x2 = x2;
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_TPR, 0);
}

uint32_t ioapic_read(unsigned reg)
{
	*(volatile uint32_t *)IOAPIC_MMIO = reg;
	return *(volatile uint32_t *)(IOAPIC_MMIO + 0x10);
}

void ioapic_write(unsigned reg, uint32_t value)
{
	*(volatile uint32_t *)IOAPIC_MMIO = reg;
	*(volatile uint32_t *)(IOAPIC_MMIO + 0x10) = value;
}

/*
 * --- other CPUs
 */

void ap_main(void)
{
	unsigned cpu = starting;
	struct ap *ap = &aps[cpu];

	bare_init_cpu(cpu);
	apic_enable(apic_x2);
	ap->online = true;
	for (;;) {
		void (*call)(void *) = ap->call;

		if (call) {
			call(ap->arg);
			ap->call = NULL;
		} else {
			sti_hlt();
		}
	}
}

static bool woken(struct regs *frame)
{
	apic_write(APIC_EOI, 0);
	return true;
}

static void set_parameter(const uint8_t *symbol, uint64_t value)
{
	*(volatile uint64_t *)(TRAMPOLINE + (symbol - trampoline)) = value;
}

static void delay(void)
{
	for (uint64_t start = rdtsc(); rdtsc() - start < 300000;)
		pause();
}

bool cpu_start(unsigned cpu)
{
	struct ap *ap = &aps[cpu];

	memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	set_parameter(trampoline_cr3, read_cr3());
	set_parameter(trampoline_stack, (uint64_t)ap->stack + sizeof(ap->stack));
	set_handler(WAKE_VECTOR, woken);
	ap->online = false;
	ap->call = NULL;
	starting = cpu;
	apic_ipi(cpu, ICR_INIT);
	delay();
	apic_ipi(cpu, ICR_SIPI | TRAMPOLINE >> 12);
	delay();
	apic_ipi(cpu, ICR_SIPI | TRAMPOLINE >> 12);
	return WAIT_FOR(ap->online);
}

void cpu_call(unsigned cpu, void (*fn)(void *), void *arg)
{
	aps[cpu].arg = arg;
	aps[cpu].call = fn;
	apic_ipi(cpu, WAKE_VECTOR);
}

bool cpu_wait(unsigned cpu)
{
	return WAIT_FOR(!aps[cpu].call);
}

/*
 * --- the test device
 */

bool device_present(void)
{
	return inl(0xe8) == DEVICE_MAGIC;
}

void device_command(unsigned command, unsigned pin, uint32_t address, uint32_t data)
{
	outl(0xe0, address);
	outl(0xe4, data);
	outl(0xe8, command << 8 | pin);
}

void device_sync(void)
{
	while (inl(0xe4))
		pause();
}

uint32_t device_eois(void)
{
	return inl(0xe0);
}

unsigned device_cpus(void)
{
	return device_present() ? inl(0xec) : 1;
}
