/* SPDX-License-Identifier: MIT */
/*
 * The interrupt controllers of the software CPU: three local APICs and an I/O APIC, without any
 * running guest. The test acts as the vCPUs' threads.
 */
#include "engine/soft/soft.h"
#include "tap.h"
#include <poll.h>
#include <time.h>
#include <unistd.h>

extern const struct engine_class engine_soft;

#define X2APIC   0xc00u /* in IA32_APIC_BASE */
#define XAPIC    0x800u

#define ID       0x20u
#define TPR      0x80u
#define PPR      0xa0u
#define EOI      0xb0u
#define LDR      0xd0u
#define DFR      0xe0u
#define SVR      0xf0u
#define ISR      0x100u
#define TMR      0x180u
#define IRR      0x200u
#define ESR      0x280u
#define ICR      0x300u
#define ICR2     0x310u
#define LVT      0x320u
#define LVT_ERR  0x370u
#define INITIAL  0x380u
#define CURRENT  0x390u
#define DIVIDE   0x3e0u

#define PERIODIC 0x20000u
#define DEADLINE 0x40000u
#define MASKED   0x10000u

static struct engine *engine;
static struct vcpu *cpus[3], *cpu;
static unsigned eois, eoi_pin;
static bool lower_at_eoi;

static uint64_t board_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	(void)arg, (void)port, (void)addr, (void)size;
	return ~0ull;
}

static void board_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	(void)arg, (void)port, (void)addr, (void)size, (void)value;
}

static void board_eoi(void *arg, unsigned pin)
{
	(void)arg;
	eois++;
	eoi_pin = pin;
	if (lower_at_eoi)
		ioapic_line(&engine->ioapic, pin, false);
}

static uint32_t reg(struct vcpu *c, unsigned offset)
{
	return (uint32_t)lapic_mmio_read(c, offset);
}

static void set(struct vcpu *c, unsigned offset, uint32_t value)
{
	lapic_mmio_write(c, offset, value);
}

/* All reset, in xAPIC mode, enabled by software; flat logical ids 1, 2, 4. */
static void reset(void)
{
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++)
		ioapic_line(&engine->ioapic, pin, false);
	ioapic_reset(&engine->ioapic);
	for (unsigned i = 0; i < 3; i++) {
		soft_cpu_reset(cpus[i], false);
		lapic_reset(cpus[i]);
		set(cpus[i], SVR, 0x1ff);
		set(cpus[i], LDR, 1u << (24 + i));
		cpus[i]->pending = 0;
		cpus[i]->fault.valid = false;
	}
	eois = 0;
	lower_at_eoi = false;
}

static bool x2apic(struct vcpu *c)
{
	return lapic_msr_write(c, 0x1b, c->lapic.base | X2APIC);
}

/* Which CPUs have the vector in IRR and were woken, as bits; forgets it. */
static unsigned received(unsigned vector)
{
	unsigned who = 0;

	for (unsigned i = 0; i < 3; i++) {
		uint64_t bit = 1ull << (vector & 63);

		if (!(cpus[i]->lapic.irr[vector / 64] & bit))
			continue;
		who |= cpus[i]->pending ? 1u << i : 0x100u;
		cpus[i]->lapic.irr[vector / 64] &= ~bit;
		cpus[i]->pending = 0;
	}
	return who;
}

static void ipi(uint32_t dest, uint32_t low)
{
	set(cpu, ICR2, dest << 24);
	set(cpu, ICR, low);
}

static void msi(uint32_t dest, uint32_t bits, uint32_t data)
{
	lapic_deliver(engine, 0xfee00000u | dest << 12 | bits, data);
}

/*
 * --- one local APIC
 * ----------------------------------------------------------------------------------
 */

static void reset_values(void)
{
	lapic_reset(cpus[1]);
	CHECK_EQ(reg(cpus[1], ID), 1u << 24);
	CHECK_EQ(reg(cpus[1], 0x30), 0x60014);
	CHECK_EQ(reg(cpus[1], SVR), 0xff);
	CHECK_EQ(reg(cpus[1], DFR), 0xffffffff);
	CHECK_EQ(reg(cpus[1], LVT), MASKED);
	CHECK_EQ(cpus[0]->lapic.base, 0xfee00900);
	CHECK_EQ(cpus[1]->lapic.base, 0xfee00800);
}

static void disabled_accepts_nothing(void)
{
	lapic_reset(cpu);
	msi(0, 0, 0x41);
	CHECK_EQ(lapic_pending(cpu), -1);
	/* and its local vectors stay masked */
	set(cpu, LVT, 0x40);
	CHECK_EQ(reg(cpu, LVT), MASKED | 0x40);
}

static void higher_priority_first(void)
{
	msi(0, 0, 0x31);
	msi(0, 0, 0x95);
	msi(0, 0, 0x33);
	CHECK_EQ(lapic_pending(cpu), 0x95);
	CHECK_EQ(lapic_accept(cpu), 0x95);
	CHECK_EQ(reg(cpu, ISR + 0x40), 1u << 0x15);
	CHECK_EQ(reg(cpu, PPR), 0x90);
	CHECK_EQ(lapic_accept(cpu), -1);
	msi(0, 0, 0x99); /* of the same class: not above */
	CHECK_EQ(lapic_accept(cpu), -1);
	msi(0, 0, 0xa0);
	CHECK_EQ(lapic_accept(cpu), 0xa0);
	set(cpu, EOI, 0);
	set(cpu, EOI, 0);
	CHECK_EQ(lapic_accept(cpu), 0x99);
	set(cpu, EOI, 0);
	CHECK_EQ(lapic_accept(cpu), 0x33);
	set(cpu, EOI, 0);
	CHECK_EQ(lapic_accept(cpu), 0x31);
	set(cpu, EOI, 0);
	CHECK_EQ(reg(cpu, PPR), 0);
	CHECK_EQ(lapic_accept(cpu), -1);
	set(cpu, EOI, 0); /* nothing in service */
	CHECK_EQ(eois, 0);
}

static void tpr_holds_off(void)
{
	msi(0, 0, 0x51);
	lapic_set_cr8(cpu, 5);
	CHECK_EQ(reg(cpu, TPR), 0x50);
	CHECK_EQ(lapic_pending(cpu), -1);
	set(cpu, TPR, 0x4f);
	CHECK_EQ(lapic_get_cr8(cpu), 4);
	CHECK_EQ(lapic_pending(cpu), 0x51);
	CHECK_EQ(reg(cpu, PPR), 0x4f);
	CHECK_EQ(reg(cpu, IRR + 0x20), 1u << 0x11);
}

static void error_status(void)
{
	set(cpu, LVT_ERR, 0xfe);
	msi(0, 0, 0x0f);
	CHECK_EQ(lapic_pending(cpu), 0xfe);
	CHECK_EQ(reg(cpu, ESR), 0);
	set(cpu, ESR, 0);
	CHECK_EQ(reg(cpu, ESR), 0x40);
	ipi(1, 0x05);
	set(cpu, 0x3f0, 1); /* reserved in xAPIC mode */
	set(cpu, ESR, 0);
	CHECK_EQ(reg(cpu, ESR), 0xa0);
	set(cpu, ESR, 0);
	CHECK_EQ(reg(cpu, ESR), 0);
}

/*
 * --- MSRs and modes
 * ----------------------------------------------------------------------------------
 */

static bool gp(bool done)
{
	bool raised = !done && cpu->fault.valid && cpu->fault.vector == EXC_GP;

	cpu->fault.valid = false;
	return raised;
}

static void mode_transitions(void)
{
	uint64_t base = cpu->lapic.base & ~0xc00ull, v;

	CHECK(gp(lapic_msr_read(cpu, 0x802, &v)));
	CHECK(gp(lapic_msr_write(cpu, 0x1b, base | 0x400)));
	CHECK(lapic_msr_write(cpu, 0x1b, base | X2APIC));
	CHECK(lapic_msr_read(cpu, 0x802, &v) && v == 0);
	CHECK(gp(lapic_msr_write(cpu, 0x1b, base | XAPIC)));
	CHECK(gp(lapic_msr_write(cpu, 0x1b, base | 0x400)));
	CHECK(lapic_msr_write(cpu, 0x1b, base));
	CHECK(gp(lapic_msr_write(cpu, 0x1b, base | X2APIC)));
	CHECK(lapic_msr_write(cpu, 0x1b, base | XAPIC));
	CHECK_EQ(reg(cpu, SVR), 0xff); /* the disabled state resets */
	CHECK(gp(lapic_msr_write(cpu, 0x1b, base | XAPIC | 1)));
	CHECK(gp(lapic_msr_write(cpu, 0x1b, base | XAPIC | 1ull << 52)));
	CHECK(lapic_msr_write(cpu, 0x1b, base | XAPIC));
}

static void x2apic_registers(void)
{
	uint64_t v;

	cpu = cpus[2];
	CHECK(x2apic(cpu));
	CHECK(lapic_msr_read(cpu, 0x802, &v) && v == 2);
	CHECK(lapic_msr_read(cpu, 0x80d, &v) && v == 4);
	CHECK(gp(lapic_msr_write(cpu, 0x802, 1)));
	CHECK(gp(lapic_msr_write(cpu, 0x80d, 1)));
	CHECK(gp(lapic_msr_read(cpu, 0x80e, &v)));
	CHECK(gp(lapic_msr_read(cpu, 0x831, &v)));
	CHECK(gp(lapic_msr_read(cpu, 0x80b, &v)));
	CHECK(gp(lapic_msr_write(cpu, 0x80b, 1)));
	CHECK(gp(lapic_msr_write(cpu, 0x808, 0x100)));
	CHECK(gp(lapic_msr_write(cpu, 0x808, 1ull << 32)));
	CHECK(gp(lapic_msr_write(cpu, 0x80f, 0x1000)));
	CHECK(gp(lapic_msr_write(cpu, 0x828, 1)));
	CHECK(gp(lapic_msr_write(cpu, 0x830, 1u << 20)));
	CHECK(gp(lapic_msr_write(cpu, 0x832, 1u << 20)));
	CHECK(gp(lapic_msr_write(cpu, 0x83f, 0x100)));
	CHECK(gp(lapic_msr_read(cpu, 0x83f, &v)));
	CHECK(gp(lapic_msr_read(cpu, 0x800, &v)));
	CHECK(lapic_msr_write(cpu, 0x808, 0x20) && lapic_get_cr8(cpu) == 2);
	CHECK(lapic_msr_write(cpu, 0x83f, 0x77));
	CHECK_EQ(lapic_accept(cpu), 0x77);
	CHECK(lapic_msr_write(cpu, 0x80b, 0));
	CHECK(lapic_msr_write(cpu, 0x830, 0x100000078ull));
	CHECK(lapic_msr_read(cpu, 0x830, &v) && v == 0x100000078ull);
	CHECK_EQ(received(0x78), 2);
}

/*
 * --- addressing
 * --------------------------------------------------------------------------------------
 */

static void ipi_destinations(void)
{
	ipi(2, 0x40);
	CHECK_EQ(received(0x40), 4);
	ipi(0xff, 0x41);
	CHECK_EQ(received(0x41), 7);
	ipi(0x05, 0x842); /* logical */
	CHECK_EQ(received(0x42), 5);
	ipi(0xff, 0x843);
	CHECK_EQ(received(0x43), 7);
	ipi(9, 0x44);
	CHECK_EQ(received(0x44), 0);
	ipi(2, 0x40045); /* self */
	CHECK_EQ(received(0x45), 1);
	ipi(2, 0x80046); /* all */
	CHECK_EQ(received(0x46), 7);
	ipi(2, 0xc0047); /* all but self */
	CHECK_EQ(received(0x47), 6);
	CHECK_EQ(reg(cpu, ICR), 0xc0047);
}

static void cluster_model(void)
{
	for (unsigned i = 0; i < 3; i++) {
		set(cpus[i], DFR, 0);
		set(cpus[i], LDR, (i == 2 ? 0x21u : 0x11u << i) << 24);
	}
	/* clusters: 1.1, 2.2, 2.1 */
	ipi(0x11, 0x850);
	CHECK_EQ(received(0x50), 1);
	ipi(0x23, 0x851);
	CHECK_EQ(received(0x51), 6);
	ipi(0xff, 0x852);
	CHECK_EQ(received(0x52), 7);
}

static void x2apic_destinations(void)
{
	for (unsigned i = 0; i < 3; i++)
		x2apic(cpus[i]);
	lapic_msr_write(cpu, 0x830, 0xffffffff00000050ull);
	CHECK_EQ(received(0x50), 7);
	lapic_msr_write(cpu, 0x830, 0xff00000051ull); /* a CPU, and there is none */
	CHECK_EQ(received(0x51), 0);
	lapic_msr_write(cpu, 0x830, 0x0000000600000852ull);
	CHECK_EQ(received(0x52), 6);
	lapic_msr_write(cpu, 0x830, 0x0001000600000853ull); /* another cluster */
	CHECK_EQ(received(0x53), 0);
}

static void msi_destinations(void)
{
	msi(1, 0, 0x60);
	CHECK_EQ(received(0x60), 2);
	msi(0xff, 0, 0x61);
	CHECK_EQ(received(0x61), 7);
	msi(6, 4, 0x62);
	CHECK_EQ(received(0x62), 6);
	lapic_deliver(engine, 0x12345000, 0x63);
	CHECK_EQ(received(0x63), 0);
	x2apic(cpus[0]);
	msi(3, 4, 0x64); /* one in x2APIC mode, one not */
	CHECK_EQ(received(0x64), 3);
}

static void lowest_priority_goes_to_one(void)
{
	set(cpus[0], TPR, 0x30);
	set(cpus[2], TPR, 0x20);
	msi(7, 4, 0x161);
	CHECK_EQ(received(0x61), 2);
	msi(5, 4, 0x162);
	CHECK_EQ(received(0x62), 4);
	msi(7, 4 | 8, 0x63); /* redirection hint */
	CHECK_EQ(received(0x63), 2);
	set(cpus[1], SVR, 0xff);
	msi(7, 4, 0x164);
	CHECK_EQ(received(0x64), 4);
}

static void nmi(void)
{
	ipi(1, 0x400);
	CHECK(cpus[1]->lapic.nmi && cpus[1]->pending);
	CHECK(!cpus[0]->lapic.nmi && !cpus[2]->lapic.nmi);
	cpus[1]->pending = 0;
	msi(2, 0, 0x400);
	CHECK(cpus[2]->lapic.nmi);
}

/*
 * --- INIT and start-up
 * --------------------------------------------------------------------------------
 */

static void init_and_sipi(void)
{
	struct vcpu *ap = cpus[1];

	ap->mp = CPU_MP_RUNNING;
	ap->gpr[3] = 7;
	ipi(1, 0xc500); /* INIT, level assert */
	ipi(1, 0x8500); /* deassert: nothing */
	ipi(1, 0x69f);  /* start-up */
	ipi(1, 0x69f);
	CHECK(ap->pending && ap->lapic.init_sipi);
	lapic_take_init_sipi(ap);
	CHECK_EQ(ap->mp, CPU_MP_RUNNING);
	CHECK_EQ(ap->seg[SEG_CS].selector, 0x9f00);
	CHECK_EQ(ap->seg[SEG_CS].base, 0x9f000);
	CHECK_EQ(ap->seg_base[SEG_CS], 0x9f000);
	CHECK_EQ(ap->rip, 0);
	CHECK_EQ(ap->gpr[3], 0);
	CHECK_EQ(ap->lapic.svr, 0xff);
	CHECK_EQ(ap->lapic.init_sipi, 0);
	/* One that runs already does not start again. */
	ap->rip = 0x55;
	ipi(1, 0x611);
	lapic_take_init_sipi(ap);
	CHECK_EQ(ap->rip, 0x55);
	CHECK_EQ(ap->seg[SEG_CS].base, 0x9f000);
}

static void init_alone_waits(void)
{
	ipi(1, 0x611);
	ipi(1, 0x4500); /* the start-up message before it is lost */
	cpus[1]->mp = CPU_MP_RUNNING;
	lapic_take_init_sipi(cpus[1]);
	CHECK_EQ(cpus[1]->mp, CPU_MP_WAIT_SIPI);
	ipi(1, 0x612);
	lapic_take_init_sipi(cpus[1]);
	CHECK_EQ(cpus[1]->mp, CPU_MP_RUNNING);
	CHECK_EQ(cpus[1]->seg[SEG_CS].base, 0x12000);
}

static void init_keeps_x2apic(void)
{
	x2apic(cpus[1]);
	ipi(1, 0x4500);
	lapic_take_init_sipi(cpus[1]);
	CHECK_EQ(cpus[1]->lapic.base & X2APIC, X2APIC);
	ipi(1, 0x612); /* still found by its id */
	lapic_take_init_sipi(cpus[1]);
	CHECK_EQ(cpus[1]->mp, CPU_MP_RUNNING);
}

/*
 * --- timer
 * ----------------------------------------------------------------------------------------
 */

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Wait until the vector arrives; the time that took, or 0 after ms. */
static uint64_t await(unsigned vector, unsigned ms)
{
	uint64_t start = now();

	while (now() - start < ms * 1000000ull) {
		if (received(vector))
			return MAX(now() - start, 1u);
		poll(NULL, 0, 1);
	}
	return 0;
}

static void timer_one_shot(void)
{
	uint32_t left;

	set(cpu, DIVIDE, 0xb); /* by 1 */
	set(cpu, LVT, 0x70);
	set(cpu, INITIAL, 20000000);
	left = reg(cpu, CURRENT);
	CHECK(left > 0 && left <= 20000000);
	CHECK(await(0x70, 1000) >= 19000000);
	CHECK_EQ(reg(cpu, CURRENT), 0);
	CHECK_EQ(await(0x70, 50), 0);
	set(cpu, LVT, PERIODIC | 0x70);
	CHECK_EQ(reg(cpu, CURRENT), 0); /* what has ended stays so */
}

static void timer_divides(void)
{
	set(cpu, LVT, 0x71);
	set(cpu, DIVIDE, 3); /* by 16 */
	set(cpu, INITIAL, 2000000);
	CHECK(await(0x71, 1000) >= 31000000);
	set(cpu, INITIAL, 4000000000);
	set(cpu, DIVIDE, 0xb);
	CHECK(reg(cpu, CURRENT) > 3000000000);
	poll(NULL, 0, 5);
	CHECK(reg(cpu, CURRENT) < 3996000000);
}

static void timer_periodic(void)
{
	unsigned n = 0;

	set(cpu, DIVIDE, 0xb);
	set(cpu, LVT, PERIODIC | 0x72);
	set(cpu, INITIAL, 5000000);
	while (n < 5 && await(0x72, 1000))
		n++;
	CHECK_EQ(n, 5);
	set(cpu, INITIAL, 0);
	received(0x72);
	CHECK_EQ(await(0x72, 50), 0);
}

static void timer_changes_mode(void)
{
	uint32_t left;

	set(cpu, DIVIDE, 0xb);
	set(cpu, LVT, PERIODIC | 0x79);
	set(cpu, INITIAL, 100000000);
	CHECK(await(0x79, 1000));
	set(cpu, LVT, 0x79); /* the count of this period goes on, and is the last */
	left = reg(cpu, CURRENT);
	CHECK(left > 0 && left <= 100000000);
	CHECK(await(0x79, 1000));
	CHECK_EQ(reg(cpu, CURRENT), 0);
	CHECK_EQ(await(0x79, 150), 0);
}

static void timer_masked(void)
{
	set(cpu, DIVIDE, 0xb);
	set(cpu, LVT, MASKED | 0x73);
	set(cpu, INITIAL, 2000000);
	poll(NULL, 0, 10);
	CHECK_EQ(reg(cpu, CURRENT), 0);
	set(cpu, LVT, 0x73);
	CHECK_EQ(await(0x73, 30), 0); /* it ended while masked */
	set(cpu, LVT, MASKED | 0x73);
	set(cpu, INITIAL, 200000000);
	set(cpu, LVT, 0x73);
	CHECK(await(0x73, 1000));
}

static void timer_deadline(void)
{
	uint64_t ms = engine->tsc_khz, v, at;

	CHECK(lapic_msr_write(cpu, 0x6e0, soft_tsc(cpu) + ms)); /* ignored in another mode */
	CHECK(lapic_msr_read(cpu, 0x6e0, &v) && v == 0);
	set(cpu, LVT, DEADLINE | 0x74);
	at = soft_tsc(cpu) + 50 * ms;
	CHECK(lapic_msr_write(cpu, 0x6e0, at));
	CHECK(lapic_msr_read(cpu, 0x6e0, &v) && v == at);
	CHECK(await(0x74, 1000));
	CHECK(soft_tsc(cpu) >= at);
	CHECK(lapic_msr_read(cpu, 0x6e0, &v) && v == 0);
	CHECK_EQ(await(0x74, 30), 0);
	lapic_msr_write(cpu, 0x6e0, soft_tsc(cpu) - 5); /* past: at once */
	CHECK_EQ(received(0x74), 1);
	lapic_msr_write(cpu, 0x6e0, 1);
	CHECK_EQ(received(0x74), 1);
	lapic_msr_write(cpu, 0x6e0, ~0ull); /* not in this century */
	CHECK_EQ(await(0x74, 20), 0);
	lapic_msr_write(cpu, 0x6e0, soft_tsc(cpu) + 50 * ms);
	lapic_msr_write(cpu, 0x6e0, 0);
	CHECK_EQ(await(0x74, 70), 0);
	lapic_msr_write(cpu, 0x6e0, soft_tsc(cpu) + 50 * ms);
	set(cpu, LVT, 0x74); /* leaving the mode disarms */
	CHECK_EQ(await(0x74, 70), 0);
}

static void timer_follows_tsc(void)
{
	uint64_t ms = engine->tsc_khz;

	set(cpu, LVT, DEADLINE | 0x75);
	lapic_msr_write(cpu, 0x6e0, soft_tsc(cpu) + 100000 * ms);
	cpu->tsc_offset += 99980 * ms;
	lapic_timer_rearm(cpu);
	CHECK(await(0x75, 1000));
	cpu->tsc_offset = 0;
}

static void tsc_frequency(void)
{
	uint64_t t0 = __builtin_ia32_rdtsc(), n0 = now(), t1, n1, khz;

	poll(NULL, 0, 50);
	t1 = __builtin_ia32_rdtsc();
	n1 = now();
	khz = (t1 - t0) * 1000000 / (n1 - n0);
	/* CLOCK_MONOTONIC may be steered by 500 ppm. */
	CHECK(khz > engine->tsc_khz - engine->tsc_khz / 1000);
	CHECK(khz < engine->tsc_khz + engine->tsc_khz / 1000);
}

/*
 * --- I/O APIC
 * ---------------------------------------------------------------------------------------
 */

static uint32_t io_reg(unsigned index)
{
	ioapic_write(&engine->ioapic, 0, 4, index);
	return (uint32_t)ioapic_read(&engine->ioapic, 0x10, 4);
}

static void io_set(unsigned index, uint32_t value)
{
	ioapic_write(&engine->ioapic, 0, 4, index);
	ioapic_write(&engine->ioapic, 0x10, 4, value);
}

static void route(unsigned pin, uint32_t low, uint32_t dest)
{
	io_set(0x11 + 2 * pin, dest << 24);
	io_set(0x10 + 2 * pin, low);
}

static void ioapic_registers(void)
{
	CHECK_EQ(io_reg(1), 0x170011);
	CHECK_EQ(io_reg(0x10 + 2 * 23), MASKED);
	CHECK_EQ(io_reg(0x40), 0);
	io_set(0, 0xffffffff);
	CHECK_EQ(io_reg(0), 0x0f000000);
	route(5, 0xffffffff, 0xff);
	CHECK_EQ(io_reg(0x1a), 0x1afff); /* status and remote IRR are read-only */
	CHECK_EQ(io_reg(0x1b), 0xff000000);
	ioapic_line(&engine->ioapic, 24, true); /* no such pin */
	ioapic_line(&engine->ioapic, 4000000000u, true);
}

static void ioapic_edge(void)
{
	route(4, 0x80, 1);
	ioapic_line(&engine->ioapic, 4, true);
	CHECK_EQ(received(0x80), 2);
	ioapic_line(&engine->ioapic, 4, true); /* no edge */
	CHECK_EQ(received(0x80), 0);
	ioapic_line(&engine->ioapic, 4, false);
	CHECK_EQ(received(0x80), 0);
	ioapic_line(&engine->ioapic, 4, true);
	CHECK_EQ(received(0x80), 2);
	ioapic_line(&engine->ioapic, 4, false);
	route(4, MASKED | 0x80, 1);
	ioapic_line(&engine->ioapic, 4, true);
	route(4, 0x80, 1);
	CHECK_EQ(received(0x80), 0); /* a masked edge is lost */
	route(4, 0x880, 6);
	ioapic_line(&engine->ioapic, 4, false);
	ioapic_line(&engine->ioapic, 4, true);
	CHECK_EQ(received(0x80), 6);
	CHECK_EQ(reg(cpus[1], TMR + 0x40), 0);
}

static void ioapic_level(void)
{
	route(9, 0x8081, 0);
	ioapic_line(&engine->ioapic, 9, true);
	CHECK_EQ(lapic_accept(cpu), 0x81);
	CHECK_EQ(reg(cpu, TMR + 0x40), 2);
	CHECK_EQ(io_reg(0x22), 0xc081);
	ioapic_line(&engine->ioapic, 9, false);
	ioapic_line(&engine->ioapic, 9, true); /* the interrupt is in service */
	CHECK_EQ(received(0x81), 0);
	set(cpu, EOI, 0); /* and again, for the line is high */
	CHECK_EQ(eois, 1);
	CHECK_EQ(eoi_pin, 9);
	CHECK_EQ(lapic_accept(cpu), 0x81);
	lower_at_eoi = true;
	set(cpu, EOI, 0);
	CHECK_EQ(eois, 2);
	CHECK_EQ(lapic_pending(cpu), -1);
	CHECK_EQ(io_reg(0x22), 0x8081);
}

static void ioapic_level_masked(void)
{
	route(9, MASKED | 0x8082, 0);
	ioapic_line(&engine->ioapic, 9, true);
	CHECK_EQ(received(0x82), 0);
	route(9, 0x8082, 0);
	CHECK_EQ(received(0x82), 1);
	/* Edge and back again clears remote IRR by force. */
	route(9, MASKED | 0x82, 0);
	CHECK_EQ(io_reg(0x22), MASKED | 0x82);
	route(9, 0x8082, 0);
	CHECK_EQ(received(0x82), 1);
}

static void ioapic_level_refused(void)
{
	route(9, 0x8083, 0x55); /* nobody: no remote IRR */
	ioapic_line(&engine->ioapic, 9, true);
	CHECK_EQ(io_reg(0x22), 0x8083);
	io_set(0x23, 2u << 24);
	CHECK_EQ(received(0x83), 4);
}

/*
 * --- state
 * ----------------------------------------------------------------------------------------
 */

static void state_round_trip(void)
{
	struct cpu_lapic s, t;

	msi(0, 0, 0x91);
	lapic_accept(cpu);
	msi(0, 0, 0xa2);
	msi(0, 0, 0x8044);
	set(cpu, TPR, 0x20);
	set(cpu, DIVIDE, 0xb);
	set(cpu, LVT, PERIODIC | 0x76);
	set(cpu, INITIAL, 1000000000);
	lapic_get_state(cpu, &s);
	lapic_reset(cpu);
	CHECK_EQ(lapic_set_state(cpu, &s), 0);
	lapic_get_state(cpu, &t);
	CHECK(s.regs[0x39] - t.regs[0x39] < 500000000);
	t.regs[0x39] = s.regs[0x39];
	CHECK(memcmp(&s, &t, sizeof(s)) == 0);
	CHECK_EQ(lapic_accept(cpu), 0xa2);
	CHECK_EQ(cpu->pending, 1);
}

static void state_keeps_due_timer(void)
{
	struct cpu_lapic s;

	set(cpu, LVT, DEADLINE | 0x77);
	lapic_msr_write(cpu, 0x6e0, soft_tsc(cpu) + 1000 * engine->tsc_khz);
	lapic_get_state(cpu, &s);
	lapic_reset(cpu);
	s.tsc_deadline = soft_tsc(cpu) - 1;
	CHECK_EQ(lapic_set_state(cpu, &s), 0);
	received(0x77);
	lapic_timer_rearm(cpu);
	CHECK_EQ(received(0x77), 1);
	/* A count that has ended without the timer's thread having seen it. */
	timer_thread_stop(engine);
	set(cpu, LVT, 0x78);
	set(cpu, INITIAL, 1000);
	poll(NULL, 0, 2);
	lapic_get_state(cpu, &s);
	CHECK_EQ(s.regs[0x39], 0);
	CHECK_EQ(s.regs[0x23], 1u << 0x18);
	CHECK_EQ(timer_thread_start(engine, NULL), 0);
	received(0x78);
	lapic_get_state(cpu, &s);
	CHECK_EQ(s.regs[0x23], 0); /* once */
	lapic_reset(cpu);
	CHECK_EQ(lapic_set_state(cpu, &s), 0);
	CHECK_EQ(await(0x78, 20), 0);
}

/* A deadline is one of the guest's TSC, which the state sets too. */
static void state_deadline_moves_with_tsc(void)
{
	static struct cpu_state s;
	uint64_t v;

	set(cpu, LVT, DEADLINE | 0x7a);
	lapic_msr_write(cpu, 0x6e0, soft_tsc(cpu) + 100 * engine->tsc_khz);
	soft_get_state(cpu, &s);
	s.tsc /= 2;
	s.lapic.tsc_deadline = s.tsc + 100 * engine->tsc_khz;
	s.xcr0 = 1;
	CHECK_EQ(soft_set_state(cpu, &s), 0);
	CHECK(lapic_msr_read(cpu, 0x6e0, &v) && v == s.lapic.tsc_deadline);
	CHECK_EQ(received(0x7a), 0);
	CHECK(await(0x7a, 1000));
	for (unsigned i = 0; i < 3; i++)
		cpus[i]->tsc_offset = 0;
}

static void state_refused(void)
{
	struct cpu_lapic good, s;

	lapic_get_state(cpu, &good);
	CHECK_EQ(lapic_set_state(cpu, &good), 0);
	s = good;
	s.base = 0xfee00400; /* x2APIC without enable */
	CHECK(lapic_set_state(cpu, &s) < 0);
	s = good;
	s.base |= 1;
	CHECK(lapic_set_state(cpu, &s) < 0);
	s = good;
	s.regs[0x20] = 1u << 14;
	CHECK(lapic_set_state(cpu, &s) < 0);
	s = good;
	s.regs[0x10] = 1;
	CHECK(lapic_set_state(cpu, &s) < 0);
	s = good;
	s.regs[0x32] = 1u << 20;
	CHECK(lapic_set_state(cpu, &s) < 0);
	s = good;
	s.regs[0x3e] = 4;
	CHECK(lapic_set_state(cpu, &s) < 0);
}

#define APIC_TEST(fn)          \
	do {                   \
		cpu = cpus[0]; \
		reset();       \
		RUN(fn);       \
	} while (0)

int main(void)
{
	struct engine_config config = { .cpus = 3,
		.board = { .read = board_read, .write = board_write, .eoi = board_eoi } };
	struct vz_error e;

	if (engine_soft.probe(&e) < 0)
		SKIP_ALL("the host lacks what the software CPU needs");
	config.mem = mem_new(1u << 20, &e);
	if (!config.mem || engine_soft.open(&engine, &config, &e) < 0)
		return 1;
	for (unsigned i = 0; i < 3; i++)
		cpus[i] = engine->vcpu[i];
	soft_running(cpus[0]);

	APIC_TEST(reset_values);
	APIC_TEST(disabled_accepts_nothing);
	APIC_TEST(higher_priority_first);
	APIC_TEST(tpr_holds_off);
	APIC_TEST(error_status);
	APIC_TEST(mode_transitions);
	APIC_TEST(x2apic_registers);
	APIC_TEST(ipi_destinations);
	APIC_TEST(cluster_model);
	APIC_TEST(x2apic_destinations);
	APIC_TEST(msi_destinations);
	APIC_TEST(lowest_priority_goes_to_one);
	APIC_TEST(nmi);
	APIC_TEST(init_and_sipi);
	APIC_TEST(init_alone_waits);
	APIC_TEST(init_keeps_x2apic);
	APIC_TEST(timer_one_shot);
	APIC_TEST(timer_divides);
	APIC_TEST(timer_periodic);
	APIC_TEST(timer_changes_mode);
	APIC_TEST(timer_masked);
	APIC_TEST(timer_deadline);
	APIC_TEST(timer_follows_tsc);
	APIC_TEST(tsc_frequency);
	APIC_TEST(ioapic_registers);
	APIC_TEST(ioapic_edge);
	APIC_TEST(ioapic_level);
	APIC_TEST(ioapic_level_masked);
	APIC_TEST(ioapic_level_refused);
	APIC_TEST(state_round_trip);
	APIC_TEST(state_keeps_due_timer);
	APIC_TEST(state_deadline_moves_with_tsc);
	APIC_TEST(state_refused);
	soft_not_running(cpus[0]);
	engine_soft.close(engine);
	mem_free(config.mem);
	return tap_done();
}
