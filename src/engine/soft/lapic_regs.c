/* SPDX-License-Identifier: MIT */
/*
 * Registers of the local APIC, in their memory-mapped (xAPIC) and MSR (x2APIC) forms: Intel SDM
 * volume 3, sections 11.4 to 11.12. A register's number is its offset divided by 16.
 */
#include "engine/soft/lapic.h"
#include <errno.h>

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC       0x800u

enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_CMCI = 0x2f,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT = 0x32,
	REG_INITIAL = 0x38,
	REG_CURRENT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,
};

#define VERSION         (0x14u | (LVT_COUNT - 1) << 16)

#define LVT_STATUS_BITS 0x5000u /* delivery status and remote IRR: read-only */
#define ICR_LOGICAL     0x800u
#define ICR_SHORTHAND   0xc0000u
#define ICR_SELF        0x40000u
#define ICR_ALL         0x80000u
#define ICR_ALL_BUT     0xc0000u
#define ICR_BUSY        0x1000u
#define ICR_RESERVED    0xfff32000u

static const uint32_t lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0x700ff,
	[LVT_THERMAL] = 0x107ff,
	[LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff,
	[LVT_LINT1] = 0x1a7ff,
	[LVT_ERROR] = 0x100ff,
	[LVT_CMCI] = 0x107ff,
};

static int lvt_index(unsigned reg)
{
	if (reg == REG_CMCI)
		return LVT_CMCI;
	return reg >= REG_LVT && reg < REG_INITIAL ? (int)(reg - REG_LVT) : -1;
}

/*
 * --- reading
 * -----------------------------------------------------------------------------------------
 */

static uint32_t bits_read(const struct lapic *lapic, unsigned reg)
{
	unsigned n = reg & 7;
	uint64_t word = reg < REG_TMR   ? lapic->isr[n >> 1]
			: reg < REG_IRR ? atomic_load(&lapic->tmr[n >> 1])
					: atomic_load(&lapic->irr[n >> 1]);

	return (uint32_t)(word >> 32 * (n & 1));
}

/* False: there is no such register, or it cannot be read. */
static bool reg_read(const struct vcpu *cpu, unsigned reg, uint64_t *value)
{
	const struct lapic *lapic = &cpu->lapic;
	bool x2apic = lapic_x2apic(cpu);
	int lvt = lvt_index(reg);

	*value = 0;
	if (lvt >= 0)
		return *value = lapic->lvt[lvt], true;
	if (reg >= REG_ISR && reg < REG_ESR)
		return *value = bits_read(lapic, reg), true;
	switch (reg) {
	case REG_ID:
		*value = x2apic ? lapic->id : lapic->id << 24;
		return true;
	case REG_VERSION:
		*value = VERSION;
		return true;
	case REG_TPR:
		*value = lapic->tpr;
		return true;
	case REG_PPR:
		*value = lapic_ppr(cpu);
		return true;
	case REG_LDR:
		*value = lapic_ldr(cpu);
		return true;
	case REG_SVR:
		*value = lapic->svr;
		return true;
	case REG_ESR:
		*value = lapic->esr;
		return true;
	case REG_ICR:
		*value = lapic->icr_low | (x2apic ? (uint64_t)lapic->icr_high << 32 : 0);
		return true;
	case REG_INITIAL:
		*value = lapic->timer_initial;
		return true;
	case REG_CURRENT:
		*value = timer_current(cpu);
		return true;
	case REG_DIVIDE:
		*value = lapic->timer_divide;
		return true;
	case REG_DFR:
		*value = lapic->dfr;
		return !x2apic;
	case REG_ICR_HIGH:
		*value = lapic->icr_high;
		return !x2apic;
	case REG_APR:
	case REG_EOI:
	case REG_RRD:
		return !x2apic;
	default:
		return false;
	}
}

/*
 * --- writing
 * -----------------------------------------------------------------------------------------
 */

static void send_ipi(struct vcpu *cpu, uint32_t low, uint32_t dest)
{
	struct message m = { .dest = dest,
		.vector = MESSAGE_VECTOR(low),
		.mode = MESSAGE_MODE(low),
		.logical = low & ICR_LOGICAL,
		.deassert = (low & MESSAGE_LEVEL_TRIGGER) && !(low & MESSAGE_LEVEL_ASSERT) };

	if ((m.mode == DELIVER_FIXED || m.mode == DELIVER_LOWEST) && m.vector < 16) {
		lapic_error(cpu, ESR_SEND_ILLEGAL);
		return;
	}
	switch (low & ICR_SHORTHAND) {
	case ICR_SELF:
		lapic_accept_message(cpu, &m);
		return;
	case ICR_ALL_BUT:
		m.skip = cpu;
		/* fall through */
	case ICR_ALL:
		m.dest = DEST_ALL;
		break;
	default:
		break;
	}
	lapic_send(cpu->engine, &m);
}

static void write_lvt(struct vcpu *cpu, unsigned index, uint32_t value)
{
	struct lapic *lapic = &cpu->lapic;
	uint32_t old = lapic->lvt[index];

	if (!(lapic->svr & SVR_ENABLE))
		value |= LVT_MASKED;
	shared_write(lapic->lvt[index], value);
	if (index == LVT_TIMER)
		timer_lvt_written(cpu, old);
}

static void write_svr(struct vcpu *cpu, uint32_t value)
{
	shared_write(cpu->lapic.svr, value);
	if (!(value & SVR_ENABLE))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			write_lvt(cpu, i, cpu->lapic.lvt[i]);
}

/* False: there is no such register, or a reserved bit is set where that matters (x2APIC). */
static bool reg_write(struct vcpu *cpu, unsigned reg, uint32_t value)
{
	struct lapic *lapic = &cpu->lapic;
	bool x2apic = lapic_x2apic(cpu);
	int lvt = lvt_index(reg);

	if (lvt >= 0) {
		if (x2apic && (value & ~(lvt_writable[lvt] | LVT_STATUS_BITS)))
			return false;
		write_lvt(cpu, (unsigned)lvt, value & lvt_writable[lvt]);
		return true;
	}
	switch (reg) {
	case REG_TPR:
		if (x2apic && value > 0xff)
			return false;
		shared_write(lapic->tpr, (uint8_t)value);
		return true;
	case REG_EOI:
		if (x2apic && value)
			return false;
		lapic_eoi(cpu);
		return true;
	case REG_SVR:
		if (x2apic && (value & ~0x3ffu))
			return false;
		write_svr(cpu, value & 0x3ff);
		return true;
	case REG_ESR:
		if (x2apic && value)
			return false;
		lapic->esr = __atomic_exchange_n(&lapic->esr_pending, 0, __ATOMIC_RELAXED);
		return true;
	case REG_INITIAL:
		timer_write_initial(cpu, value);
		return true;
	case REG_DIVIDE:
		if (x2apic && (value & ~0xbu))
			return false;
		timer_write_divide(cpu, value & 0xb);
		return true;
	default:
		break;
	}
	if (x2apic)
		return false;
	switch (reg) {
	case REG_LDR:
		shared_write(lapic->ldr, value & 0xff000000);
		return true;
	case REG_DFR:
		shared_write(lapic->dfr, value | 0x0fffffff);
		return true;
	case REG_ICR:
		lapic->icr_low = value & ~(ICR_RESERVED | ICR_BUSY);
		value = lapic->icr_high >> 24;
		send_ipi(cpu, lapic->icr_low, value == 0xff ? DEST_ALL : value);
		return true;
	case REG_ICR_HIGH:
		lapic->icr_high = value & 0xff000000;
		return true;
	case REG_ID: /* read-only since the Pentium 4 */
		return true;
	default:
		return false;
	}
}

uint64_t lapic_mmio_read(struct vcpu *cpu, uint32_t offset)
{
	uint64_t value = 0;

	if ((offset & 0xf) == 0 && !reg_read(cpu, offset >> 4, &value))
		lapic_error(cpu, ESR_REGISTER);
	return (uint32_t)value;
}

void lapic_mmio_write(struct vcpu *cpu, uint32_t offset, uint32_t value)
{
	if ((offset & 0xf) == 0 && !reg_write(cpu, offset >> 4, value))
		lapic_error(cpu, ESR_REGISTER);
}

/*
 * --- MSRs
 * --------------------------------------------------------------------------------------------
 */

/* Section 11.12.5: out of x2APIC mode the way leads only through the disabled state. */
static bool write_base(struct vcpu *cpu, uint64_t value)
{
	uint64_t old = cpu->lapic.base, mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	bool valid = !(value & ~(APIC_BASE_ADDR | APIC_BASE_BSP | mode));

	if ((value & mode) == APIC_BASE_X2APIC)
		valid = false;
	if ((value & mode) == APIC_BASE_ENABLE && (old & mode) == mode)
		valid = false;
	if ((value & mode) == mode && !(old & APIC_BASE_ENABLE))
		valid = false;
	if (!valid)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (!(value & APIC_BASE_ENABLE))
		lapic_clear(cpu);
	shared_write(cpu->lapic.base, value);
	return true;
}

bool lapic_msr_read(struct vcpu *cpu, uint32_t msr, uint64_t *value)
{
	if (msr == MSR_APIC_BASE)
		return *value = cpu->lapic.base, true;
	if (msr == MSR_TSC_DEADLINE)
		return *value = timer_read_deadline(cpu), true;
	if (!lapic_x2apic(cpu) || !reg_read(cpu, msr - MSR_X2APIC, value))
		return soft_raise_error(cpu, EXC_GP, 0);
	return true;
}

bool lapic_msr_write(struct vcpu *cpu, uint32_t msr, uint64_t value)
{
	unsigned reg = msr - MSR_X2APIC;

	if (msr == MSR_APIC_BASE)
		return write_base(cpu, value);
	if (msr == MSR_TSC_DEADLINE)
		return timer_write_deadline(cpu, value), true;
	if (!lapic_x2apic(cpu))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (reg == REG_ICR && !(value & ICR_RESERVED)) {
		cpu->lapic.icr_low = (uint32_t)value & ~ICR_BUSY;
		cpu->lapic.icr_high = (uint32_t)(value >> 32);
		send_ipi(cpu, cpu->lapic.icr_low, cpu->lapic.icr_high);
		return true;
	}
	if (reg == REG_SELF_IPI && value <= 0xff) {
		send_ipi(cpu, ICR_SELF | (uint32_t)value, 0);
		return true;
	}
	if (value >> 32 || !reg_write(cpu, reg, (uint32_t)value))
		return soft_raise_error(cpu, EXC_GP, 0);
	return true;
}

/*
 * --- saved state
 * -------------------------------------------------------------------------------------
 */

void lapic_get_state(struct vcpu *cpu, struct cpu_lapic *s)
{
	uint32_t current;

	timer_get_state(cpu, &current, &s->tsc_deadline);
	for (unsigned reg = 0; reg < ARRAY_SIZE(s->regs); reg++) {
		uint64_t value = 0;

		if (!reg_read(cpu, reg, &value))
			value = 0;
		s->regs[reg] = (uint32_t)value;
	}
	/* Errors that the guest has not latched yet are not kept. */
	s->regs[REG_ICR_HIGH] = cpu->lapic.icr_high;
	s->regs[REG_CURRENT] = current;
	s->base = cpu->lapic.base;
}

static bool possible(const struct cpu_lapic *s)
{
	const uint32_t *r = s->regs;

	if ((s->base & ~(APIC_BASE_ADDR | APIC_BASE_BSP | APIC_BASE_ENABLE | APIC_BASE_X2APIC)) ||
		(s->base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_X2APIC)
		return false;
	for (unsigned reg = REG_CMCI; reg < REG_INITIAL; reg++) {
		int lvt = lvt_index(reg);

		if (lvt >= 0 && (r[reg] & ~lvt_writable[lvt]))
			return false;
	}
	/* Vectors below 16 are exceptions. */
	return !((r[REG_ISR] | r[REG_IRR]) & 0xffff) && r[REG_TPR] <= 0xff && r[REG_SVR] <= 0x3ff &&
	       !(r[REG_DIVIDE] & ~0xbu);
}

static uint64_t bits_load(const uint32_t *r, size_t i)
{
	return r[2 * i] | (uint64_t)r[2 * i + 1] << 32;
}

int lapic_set_state(struct vcpu *cpu, const struct cpu_lapic *s)
{
	struct lapic *lapic = &cpu->lapic;
	const uint32_t *r = s->regs;

	if (!possible(s))
		return -EINVAL;
	lapic_reset(cpu);
	shared_write(lapic->base, s->base);
	shared_write(lapic->tpr, (uint8_t)r[REG_TPR]);
	shared_write(lapic->svr, r[REG_SVR]);
	if (!(s->base & APIC_BASE_X2APIC)) {
		shared_write(lapic->ldr, r[REG_LDR] & 0xff000000);
		shared_write(lapic->dfr, r[REG_DFR] | 0x0fffffff);
	}
	for (unsigned i = 0; i < 4; i++) {
		lapic->isr[i] = bits_load(r + REG_ISR, i);
		atomic_store(&lapic->tmr[i], bits_load(r + REG_TMR, i));
		atomic_store(&lapic->irr[i], bits_load(r + REG_IRR, i));
	}
	lapic->esr = r[REG_ESR];
	lapic->icr_low = r[REG_ICR];
	lapic->icr_high = r[REG_ICR_HIGH];
	for (unsigned reg = REG_CMCI; reg < REG_INITIAL; reg++)
		if (lvt_index(reg) >= 0)
			shared_write(lapic->lvt[lvt_index(reg)], r[reg]);
	timer_set_state(cpu, s);
	soft_wake(cpu);
	return 0;
}
