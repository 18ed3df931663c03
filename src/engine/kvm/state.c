/* SPDX-License-Identifier: MIT */
/*
 * Between KVM's vCPU and the architectural state that all engines share. The vCPU is not running,
 * and has completed its last access. Documentation/virt/kvm/api.rst.
 */
#include "base/arith.h"
#include "engine/kvm/internal.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#define LAPIC_ISR        0x10 /* registers by offset / 16 */
#define LAPIC_IRR        0x20

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u

#define XSAVE_HEADER     512
#define XSAVE_COMPONENTS 7ull
#define XCR0_X87         1ull

static const struct {
	uint32_t index;
	size_t offset;
} msr_fields[] = {
#define FIELD(index, field)                              \
	{                                                \
		index, offsetof(struct cpu_state, field) \
	}
	FIELD(0xc0000081, star),
	FIELD(0xc0000082, lstar),
	FIELD(0xc0000083, cstar),
	FIELD(0xc0000084, sfmask),
	FIELD(0xc0000102, kernel_gs_base),
	FIELD(0x174, sysenter_cs),
	FIELD(0x175, sysenter_esp),
	FIELD(0x176, sysenter_eip),
	FIELD(0x277, pat),
	FIELD(0x2ff, mtrr_def),
	FIELD(0x1a0, misc_enable),
	FIELD(0xc0000103, tsc_aux),
	FIELD(0x48, spec_ctrl),
	FIELD(MSR_TSC, tsc),
	FIELD(0x4b564d00, kvmclock_wall),
	FIELD(0x4b564d01, kvmclock_system),
#undef FIELD
};

/* --- registers ---------------------------------------------------------------------------- */

static void get_registers(const struct vcpu *cpu, struct cpu_state *s)
{
	struct kvm_regs r = { 0 };

	ioctl(cpu->fd, KVM_GET_REGS, &r);
	s->gpr[CPU_RAX] = r.rax;
	s->gpr[CPU_RCX] = r.rcx;
	s->gpr[CPU_RDX] = r.rdx;
	s->gpr[CPU_RBX] = r.rbx;
	s->gpr[CPU_RSP] = r.rsp;
	s->gpr[CPU_RBP] = r.rbp;
	s->gpr[CPU_RSI] = r.rsi;
	s->gpr[CPU_RDI] = r.rdi;
	memcpy(&s->gpr[8], &r.r8, 8 * sizeof(s->gpr[0]));
	s->rip = r.rip;
	s->rflags = r.rflags;
}

static int set_registers(const struct vcpu *cpu, const struct cpu_state *s)
{
	struct kvm_regs r = {
		.rax = s->gpr[CPU_RAX],
		.rcx = s->gpr[CPU_RCX],
		.rdx = s->gpr[CPU_RDX],
		.rbx = s->gpr[CPU_RBX],
		.rsp = s->gpr[CPU_RSP],
		.rbp = s->gpr[CPU_RBP],
		.rsi = s->gpr[CPU_RSI],
		.rdi = s->gpr[CPU_RDI],
		.rip = s->rip,
		.rflags = s->rflags,
	};

	memcpy(&r.r8, &s->gpr[8], 8 * sizeof(s->gpr[0]));
	return ioctl(cpu->fd, KVM_SET_REGS, &r);
}

static struct cpu_segment from_kvm(const struct kvm_segment *k)
{
	return (struct cpu_segment){
		.base = k->base,
		.limit = k->limit,
		.selector = k->selector,
		.attr = k->type | (uint32_t)k->s << 4 | (uint32_t)k->dpl << 5 |
			(uint32_t)k->present << 7 | (uint32_t)k->avl << 12 | (uint32_t)k->l << 13 |
			(uint32_t)k->db << 14 | (uint32_t)k->g << 15 |
			(k->unusable ? SEG_UNUSABLE : 0),
	};
}

static struct kvm_segment to_kvm(const struct cpu_segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = SEG_TYPE(s->attr),
		.s = s->attr >> 4 & 1,
		.dpl = SEG_DPL(s->attr),
		.present = s->attr >> 7 & 1,
		.avl = s->attr >> 12 & 1,
		.l = s->attr >> 13 & 1,
		.db = s->attr >> 14 & 1,
		.g = s->attr >> 15 & 1,
		.unusable = s->attr & SEG_UNUSABLE ? 1 : 0,
	};
}

static struct kvm_segment *segment(struct kvm_sregs *r, unsigned i)
{
	struct kvm_segment *const order[SEG_COUNT] = {
		[SEG_ES] = &r->es,
		[SEG_CS] = &r->cs,
		[SEG_SS] = &r->ss,
		[SEG_DS] = &r->ds,
		[SEG_FS] = &r->fs,
		[SEG_GS] = &r->gs,
		[SEG_LDT] = &r->ldt,
		[SEG_TR] = &r->tr,
	};

	return order[i];
}

static void get_system(const struct vcpu *cpu, struct cpu_state *s)
{
	struct kvm_sregs r = { 0 };

	ioctl(cpu->fd, KVM_GET_SREGS, &r);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = from_kvm(segment(&r, i));
	s->gdt = (struct cpu_table){ r.gdt.base, r.gdt.limit };
	s->idt = (struct cpu_table){ r.idt.base, r.idt.limit };
	s->cr0 = r.cr0;
	s->cr2 = r.cr2;
	s->cr3 = r.cr3;
	s->cr4 = r.cr4;
	s->cr8 = r.cr8;
	s->efer = r.efer;
	s->lapic.base = r.apic_base;
}

static int set_system(const struct vcpu *cpu, const struct cpu_state *s)
{
	struct kvm_sregs r = {
		.gdt = { .base = s->gdt.base, .limit = s->gdt.limit },
		.idt = { .base = s->idt.base, .limit = s->idt.limit },
		.cr0 = s->cr0,
		.cr2 = s->cr2,
		.cr3 = s->cr3,
		.cr4 = s->cr4,
		.cr8 = s->cr8,
		.efer = s->efer,
		.apic_base = s->lapic.base,
	};

	for (unsigned i = 0; i < SEG_COUNT; i++)
		*segment(&r, i) = to_kvm(&s->seg[i]);
	return ioctl(cpu->fd, KVM_SET_SREGS, &r);
}

/* --- debug and extended state ------------------------------------------------------------- */

static void get_debug(const struct vcpu *cpu, struct cpu_state *s)
{
	struct kvm_debugregs r = { 0 };

	ioctl(cpu->fd, KVM_GET_DEBUGREGS, &r);
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = r.db[i];
	s->dr[6] = r.dr6;
	s->dr[7] = r.dr7;
}

static int set_debug(const struct vcpu *cpu, const struct cpu_state *s)
{
	struct kvm_debugregs r = { .dr6 = s->dr[6], .dr7 = s->dr[7] };

	for (unsigned i = 0; i < 4; i++)
		r.db[i] = s->dr[i];
	return ioctl(cpu->fd, KVM_SET_DEBUGREGS, &r);
}

static void get_extended(const struct vcpu *cpu, struct cpu_state *s)
{
	struct kvm_xsave x = { 0 };
	struct kvm_xcrs xcrs = { 0 };
	uint64_t components;

	ioctl(cpu->fd, KVM_GET_XSAVE, &x);
	memcpy(s->xsave, x.region, sizeof(s->xsave));
	/* CPUID offers no others, so that they are in their initial state. */
	memcpy(&components, s->xsave + XSAVE_HEADER, sizeof(components));
	components &= XSAVE_COMPONENTS;
	memcpy(s->xsave + XSAVE_HEADER, &components, sizeof(components));
	s->xcr0 = XCR0_X87;
	if (!ioctl(cpu->fd, KVM_GET_XCRS, &xcrs))
		for (unsigned i = 0; i < xcrs.nr_xcrs; i++)
			if (xcrs.xcrs[i].xcr == 0)
				s->xcr0 = xcrs.xcrs[i].value;
}

static int set_extended(const struct vcpu *cpu, const struct cpu_state *s)
{
	struct kvm_xsave x = { 0 };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = s->xcr0 } } };

	memcpy(x.region, s->xsave, sizeof(s->xsave));
	return ioctl(cpu->fd, KVM_SET_XCRS, &xcrs) || ioctl(cpu->fd, KVM_SET_XSAVE, &x);
}

static void get_msrs(const struct vcpu *cpu, struct cpu_state *s)
{
	struct kvm_msr_entry msrs[ARRAY_SIZE(msr_fields)] = { 0 };
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++)
		msrs[i].index = msr_fields[i].index;
	n = kvm_msrs_get(cpu, msrs, ARRAY_SIZE(msrs));
	for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++)
		for (unsigned m = 0; m < n; m++)
			if (msrs[m].index == msr_fields[i].index)
				memcpy((char *)s + msr_fields[i].offset, &msrs[m].data,
					sizeof(msrs[m].data));
}

static int set_msrs(const struct vcpu *cpu, const struct cpu_state *s)
{
	struct kvm_msr_entry msrs[ARRAY_SIZE(msr_fields)] = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++) {
		msrs[i].index = msr_fields[i].index;
		memcpy(&msrs[i].data, (const char *)s + msr_fields[i].offset, sizeof(msrs[i].data));
	}
	return kvm_msrs_set(cpu, msrs, ARRAY_SIZE(msrs));
}

/* --- interrupts --------------------------------------------------------------------------- */

static uint32_t *lapic_register(struct kvm_lapic_state *k, size_t reg)
{
	return (uint32_t *)(void *)(k->regs + 16 * reg);
}

static void get_lapic(const struct vcpu *cpu, struct cpu_lapic *lapic)
{
	struct kvm_msr_entry deadline = { .index = MSR_TSC_DEADLINE };
	struct kvm_lapic_state k = { 0 };

	ioctl(cpu->fd, KVM_GET_LAPIC, &k);
	for (unsigned i = 0; i < ARRAY_SIZE(lapic->regs); i++)
		lapic->regs[i] = *lapic_register(&k, i);
	if (kvm_msrs_get(cpu, &deadline, 1))
		lapic->tsc_deadline = deadline.data;
}

/* The deadline comes after the mode of the timer, and after the time stamp counter. */
static int set_lapic(const struct vcpu *cpu, const struct cpu_lapic *lapic)
{
	struct kvm_msr_entry deadline = { .index = MSR_TSC_DEADLINE, .data = lapic->tsc_deadline };
	struct kvm_lapic_state k = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(lapic->regs); i++)
		*lapic_register(&k, i) = lapic->regs[i];
	return ioctl(cpu->fd, KVM_SET_LAPIC, &k) || kvm_msrs_set(cpu, &deadline, 1);
}

/*
 * An interrupt that KVM took from the local APIC and has not delivered yet goes back there. An
 * exception in that place comes again when its instruction is executed again.
 */
static void get_events(const struct vcpu *cpu, struct cpu_state *s)
{
	struct kvm_vcpu_events events = { 0 };
	unsigned vector;

	ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events);
	s->nmi_pending = events.nmi.pending || events.nmi.injected;
	/* One that waits to be delivered again blocks itself in KVM; here it is only pending. */
	s->nmi_blocked = events.nmi.masked && !events.nmi.injected;
	s->interrupt_shadow = events.interrupt.shadow;
	vector = events.interrupt.nr;
	if (events.interrupt.injected && !events.interrupt.soft) {
		s->lapic.regs[LAPIC_ISR + vector / 32] &= ~(1u << vector % 32);
		s->lapic.regs[LAPIC_IRR + vector / 32] |= 1u << vector % 32;
	}
}

static int set_events(const struct vcpu *cpu, const struct cpu_state *s)
{
	struct kvm_vcpu_events events = {
		.nmi = { .pending = s->nmi_pending, .masked = s->nmi_blocked },
		.interrupt.shadow = s->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0,
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
	};

	return ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events);
}

static const uint32_t mp_states[] = {
	[CPU_MP_RUNNING] = KVM_MP_STATE_RUNNABLE,
	[CPU_MP_HALTED] = KVM_MP_STATE_HALTED,
	[CPU_MP_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
	[CPU_MP_INIT] = KVM_MP_STATE_UNINITIALIZED,
};

static void get_mp(const struct vcpu *cpu, struct cpu_state *s)
{
	struct kvm_mp_state mp = { 0 };

	ioctl(cpu->fd, KVM_GET_MP_STATE, &mp);
	s->mp = CPU_MP_RUNNING;
	for (size_t i = 0; i < ARRAY_SIZE(mp_states); i++)
		if (mp_states[i] == mp.mp_state)
			s->mp = (uint8_t)i;
}

static int set_mp(const struct vcpu *cpu, const struct cpu_state *s)
{
	struct kvm_mp_state mp = { .mp_state = mp_states[s->mp] };

	return ioctl(cpu->fd, KVM_SET_MP_STATE, &mp);
}

/* --- all ---------------------------------------------------------------------------------- */

void kvm_get_state(struct vcpu *cpu, struct cpu_state *s)
{
	memset(s, 0, sizeof(*s));
	/* First: it takes in the INIT and SIPI that have arrived. */
	get_mp(cpu, s);
	get_registers(cpu, s);
	get_system(cpu, s);
	get_debug(cpu, s);
	get_extended(cpu, s);
	get_msrs(cpu, s);
	get_lapic(cpu, &s->lapic);
	get_events(cpu, s);
}

int kvm_set_state(struct vcpu *cpu, const struct cpu_state *s)
{
	if (s->mp >= ARRAY_SIZE(mp_states) || s->cr8 > 15)
		return -EINVAL;
	if (set_system(cpu, s) || set_registers(cpu, s) || set_extended(cpu, s) ||
		set_debug(cpu, s) || set_msrs(cpu, s) || set_lapic(cpu, &s->lapic) ||
		set_events(cpu, s) || set_mp(cpu, s))
		return -EINVAL;
	return 0;
}
