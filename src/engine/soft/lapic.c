/* SPDX-License-Identifier: MIT */
/*
 * Local APIC: messages between processors and from devices, priorities, end of interrupt. Intel SDM
 * volume 3, chapter 11. Any thread may set bits of IRR and TMR, init_sipi and nmi, and then wakes
 * the vCPU; everything else is written by the vCPU's own thread.
 */
#include "engine/soft/lapic.h"
#include "engine/soft/sysint.h"

#define MSI_BASE     0xfee00000ull
#define MSI_LOGICAL  0x4u
#define MSI_REDIRECT 0x8u

#define INIT_ARRIVED 1u
#define SIPI_ARRIVED 2u

static int highest(const uint64_t word[4])
{
	for (int i = 3; i >= 0; i--)
		if (word[i])
			return i * 64 + 63 - __builtin_clzll(word[i]);
	return -1;
}

/*
 * --- receiving
 * ---------------------------------------------------------------------------------------
 */

void lapic_post(struct vcpu *cpu, unsigned vector, bool level)
{
	struct lapic *lapic = &cpu->lapic;
	uint64_t bit = 1ull << (vector & 63);
	unsigned i = vector >> 6 & 3;

	if (level)
		atomic_fetch_or(&lapic->tmr[i], bit);
	else if (atomic_load_explicit(&lapic->tmr[i], memory_order_relaxed) & bit)
		atomic_fetch_and(&lapic->tmr[i], ~bit);
	/* Who set the bit before has woken the vCPU or is about to. */
	if (!(atomic_fetch_or(&lapic->irr[i], bit) & bit))
		soft_wake(cpu);
}

void lapic_error(struct vcpu *cpu, uint32_t bits)
{
	uint32_t old = __atomic_fetch_or(&cpu->lapic.esr_pending, bits, __ATOMIC_RELAXED);
	uint32_t lvt = shared_read(cpu->lapic.lvt[LVT_ERROR]);

	if ((bits & ~old) && !(lvt & LVT_MASKED) && (lvt & LVT_VECTOR) >= 16)
		lapic_post(cpu, lvt & LVT_VECTOR, false);
}

static void post_startup(struct vcpu *cpu, uint8_t vector)
{
	_Atomic uint32_t *word = &cpu->lapic.init_sipi;
	uint32_t old = atomic_load(word);

	while (!atomic_compare_exchange_weak(word, &old,
		(old & INIT_ARRIVED) | SIPI_ARRIVED | (uint32_t)vector << 8))
		;
	soft_wake(cpu);
}

bool lapic_accept_message(struct vcpu *cpu, const struct message *m)
{
	switch (m->mode) {
	case DELIVER_FIXED:
	case DELIVER_LOWEST:
		if (!(shared_read(cpu->lapic.svr) & SVR_ENABLE))
			return false;
		if (m->vector < 16)
			lapic_error(cpu, ESR_RECEIVE_ILLEGAL);
		else
			lapic_post(cpu, m->vector, m->level);
		return true;
	case DELIVER_NMI:
		atomic_store(&cpu->lapic.nmi, true);
		soft_wake(cpu);
		return true;
	case DELIVER_INIT:
		if (m->deassert)
			return true;
		/* A start-up message that came before it is lost with everything else. */
		atomic_store(&cpu->lapic.init_sipi, INIT_ARRIVED);
		soft_wake(cpu);
		return true;
	case DELIVER_STARTUP:
		post_startup(cpu, m->vector);
		return true;
	default: /* SMI, ExtINT: there is no SMM and no 8259 */
		return false;
	}
}

/*
 * --- sending
 * -----------------------------------------------------------------------------------------
 */

uint32_t lapic_ldr(const struct vcpu *cpu)
{
	uint32_t id = cpu->lapic.id;

	if (lapic_x2apic(cpu))
		return id >> 4 << 16 | 1u << (id & 15);
	return shared_read(cpu->lapic.ldr);
}

static bool logical_match(const struct vcpu *cpu, uint32_t dest)
{
	uint32_t ldr = lapic_ldr(cpu);

	if (lapic_x2apic(cpu))
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
	if (dest > 0xff)
		return false;
	ldr >>= 24;
	if (shared_read(cpu->lapic.dfr) >> 28 == 0xf) /* flat */
		return ldr & dest;
	return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf);
}

static bool addressed(const struct vcpu *cpu, const struct message *m)
{
	if (cpu == m->skip || !(shared_read(cpu->lapic.base) & APIC_BASE_ENABLE))
		return false;
	if (m->dest == DEST_ALL)
		return true;
	return m->logical ? logical_match(cpu, m->dest) : cpu->lapic.id == m->dest;
}

/* Among those who are addressed, the least busy; equals share the vectors. */
static struct vcpu *arbitrate(struct engine *engine, const struct message *m)
{
	struct vcpu *best = NULL;

	for (unsigned i = 0; i < engine->cpus; i++) {
		struct vcpu *cpu = engine->vcpu[(i + m->vector) % engine->cpus];

		if (!addressed(cpu, m) || !(shared_read(cpu->lapic.svr) & SVR_ENABLE))
			continue;
		if (!best || shared_read(cpu->lapic.tpr) < shared_read(best->lapic.tpr))
			best = cpu;
	}
	return best;
}

bool lapic_send(struct engine *engine, const struct message *m)
{
	bool accepted = false;

	if (m->mode == DELIVER_LOWEST) {
		struct vcpu *cpu = arbitrate(engine, m);

		return cpu && lapic_accept_message(cpu, m);
	}
	for (unsigned i = 0; i < engine->cpus; i++) {
		struct vcpu *cpu = engine->vcpu[i];

		if (addressed(cpu, m) && lapic_accept_message(cpu, m))
			accepted = true;
	}
	return accepted;
}

bool lapic_send_msi(struct engine *engine, uint64_t address, uint32_t data)
{
	uint32_t dest = (uint32_t)(address >> 12) & 0xff;
	struct message m = { .dest = dest == 0xff ? DEST_ALL : dest,
		.vector = MESSAGE_VECTOR(data),
		.mode = MESSAGE_MODE(data),
		.logical = address & MSI_LOGICAL,
		.level = data & MESSAGE_LEVEL_TRIGGER,
		.deassert = (data & MESSAGE_LEVEL_TRIGGER) && !(data & MESSAGE_LEVEL_ASSERT) };

	/* The guest chose the address; elsewhere than here it would be a write to memory. */
	if ((address ^ MSI_BASE) >> 20)
		return false;
	if ((address & MSI_REDIRECT) && m.mode == DELIVER_FIXED)
		m.mode = DELIVER_LOWEST;
	return lapic_send(engine, &m);
}

void lapic_deliver(struct engine *engine, uint64_t address, uint32_t data)
{
	lapic_send_msi(engine, address, data);
}

/*
 * --- the vCPU's side
 * ---------------------------------------------------------------------------------
 */

uint8_t lapic_ppr(const struct vcpu *cpu)
{
	int vector = highest(cpu->lapic.isr);
	uint8_t tpr = cpu->lapic.tpr;

	return vector >> 4 > tpr >> 4 ? (uint8_t)(vector & 0xf0) : tpr;
}

int lapic_pending(struct vcpu *cpu)
{
	uint64_t irr[4], any = 0;
	int vector;

	for (unsigned i = 0; i < 4; i++)
		any |= irr[i] = atomic_load_explicit(&cpu->lapic.irr[i], memory_order_relaxed);
	if (!any)
		return -1;
	vector = highest(irr);
	return vector >> 4 > lapic_ppr(cpu) >> 4 ? vector : -1;
}

int lapic_accept(struct vcpu *cpu)
{
	int vector = lapic_pending(cpu);

	if (vector >= 0) {
		uint64_t bit = 1ull << (vector & 63);

		atomic_fetch_and(&cpu->lapic.irr[vector >> 6], ~bit);
		cpu->lapic.isr[vector >> 6] |= bit;
	}
	return vector;
}

void lapic_eoi(struct vcpu *cpu)
{
	int vector = highest(cpu->lapic.isr);
	uint64_t bit = 1ull << (vector & 63);

	if (vector < 0)
		return;
	cpu->lapic.isr[vector >> 6] &= ~bit;
	if (!(atomic_load(&cpu->lapic.tmr[vector >> 6]) & bit))
		return;
	/* A device may be told, and its lock may be held by one who waits for this vCPU. */
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	ioapic_eoi(&cpu->engine->ioapic, (unsigned)vector);
	soft_running(cpu);
}

uint8_t lapic_get_cr8(const struct vcpu *cpu)
{
	return cpu->lapic.tpr >> 4;
}

void lapic_set_cr8(struct vcpu *cpu, uint8_t value)
{
	shared_write(cpu->lapic.tpr, (uint8_t)(value << 4));
}

/*
 * --- reset, INIT, start-up
 * ---------------------------------------------------------------------------
 */

void lapic_clear(struct vcpu *cpu)
{
	struct lapic *lapic = &cpu->lapic;

	timer_clear(cpu);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		shared_write(lapic->lvt[i], LVT_MASKED);
	shared_write(lapic->svr, 0xffu);
	shared_write(lapic->dfr, UINT32_MAX);
	shared_write(lapic->ldr, 0u);
	shared_write(lapic->tpr, (uint8_t)0);
	shared_write(lapic->esr_pending, 0u);
	lapic->esr = lapic->icr_low = lapic->icr_high = 0;
	for (unsigned i = 0; i < 4; i++) {
		lapic->irr[i] = lapic->tmr[i] = 0;
		lapic->isr[i] = 0;
	}
}

void lapic_reset(struct vcpu *cpu)
{
	cpu->lapic.id = cpu->index;
	shared_write(cpu->lapic.base,
		ENGINE_LAPIC_BASE | APIC_BASE_ENABLE | (cpu->index == 0 ? APIC_BASE_BSP : 0));
	lapic_clear(cpu);
	atomic_store(&cpu->lapic.init_sipi, 0);
	atomic_store(&cpu->lapic.nmi, false);
}

void lapic_take_init_sipi(struct vcpu *cpu)
{
	uint32_t word = atomic_exchange(&cpu->lapic.init_sipi, 0), vector = word >> 8 & 0xff;
	struct descriptor cs = { .base = vector << 12, .limit = 0xffff, .attr = 0x9b };

	if (word & INIT_ARRIVED) {
		soft_cpu_reset(cpu, true);
		lapic_clear(cpu);
		cpu->mp = CPU_MP_WAIT_SIPI;
	}
	if (!(word & SIPI_ARRIVED) || cpu->mp != CPU_MP_WAIT_SIPI)
		return;
	segment_set(cpu, SEG_CS, (uint16_t)(vector << 8), &cs);
	cpu->rip = 0;
	cpu->mp = CPU_MP_RUNNING;
}
