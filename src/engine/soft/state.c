/* SPDX-License-Identifier: MIT */
/*
 * Between struct vcpu and the architectural state that all engines share. The vCPU is not running.
 */
#include "engine/soft/sys.h"
#include "engine/soft/sysint.h"
#include <errno.h>
#include <string.h>

void soft_get_state(struct vcpu *cpu, struct cpu_state *s)
{
	/* An INIT or SIPI under way has no place in the state: it happens now. */
	if (atomic_load(&cpu->lapic.init_sipi))
		lapic_take_init_sipi(cpu);
	soft_fpu_park(cpu);
	memset(s, 0, sizeof(*s));
	memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
	s->rip = cpu->rip;
	s->rflags = soft_rflags(cpu);
	memcpy(s->seg, cpu->seg, sizeof(s->seg));
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		s->seg[i].base = cpu->seg_base[i];
	s->gdt = cpu->gdt;
	s->idt = cpu->idt;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->cr8 = lapic_get_cr8(cpu);
	s->efer = cpu->efer;
	s->xcr0 = cpu->xcr0;
	memcpy(s->dr, cpu->dr, sizeof(s->dr));
	s->star = cpu->star;
	s->lstar = cpu->lstar;
	s->cstar = cpu->cstar;
	s->sfmask = cpu->sfmask;
	s->kernel_gs_base = cpu->kernel_gs_base;
	s->sysenter_cs = cpu->sysenter_cs;
	s->sysenter_esp = cpu->sysenter_esp;
	s->sysenter_eip = cpu->sysenter_eip;
	s->pat = cpu->pat;
	s->mtrr_def = cpu->mtrr_def;
	s->misc_enable = cpu->misc_enable;
	s->tsc_aux = cpu->tsc_aux;
	s->spec_ctrl = cpu->spec_ctrl;
	s->tsc = soft_tsc(cpu);
	s->kvmclock_system = cpu->kvmclock_system;
	s->kvmclock_wall = cpu->kvmclock_wall;
	lapic_get_state(cpu, &s->lapic);
	s->mp = cpu->mp;
	s->nmi_pending = cpu->lapic.nmi;
	s->nmi_blocked = cpu->nmi_blocked;
	s->interrupt_shadow = cpu->shadow;
	memcpy(s->xsave, cpu->xsave, sizeof(s->xsave));
	sys_x87_hide_pointers((struct xsave_image *)s->xsave);
}

/* Combinations that no CPU can be in. */
static bool possible(const struct cpu_state *s)
{
	bool lma = s->efer & EFER_LMA;

	if ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE))
		return false;
	if (lma != ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) || (lma && !(s->cr4 & CR4_PAE)))
		return false;
	if (s->mp > CPU_MP_INIT || s->cr8 > 15 || !(s->xcr0 & 1) || (s->xcr0 & ~7ull))
		return false;
	if (!soft_canonical(s->seg[SEG_FS].base) || !soft_canonical(s->seg[SEG_GS].base) ||
		!soft_canonical(s->kernel_gs_base))
		return false;
	/* The image is loaded by xrstor: what that refuses must not get there. */
	uint64_t header[8];
	uint32_t mxcsr;

	memcpy(header, s->xsave + 512, sizeof(header));
	memcpy(&mxcsr, s->xsave + 24, sizeof(mxcsr));
	if ((header[0] & ~7ull) || header[1] || (mxcsr & ~0xffffu))
		return false;
	for (unsigned i = 2; i < 8; i++)
		if (header[i])
			return false;
	return true;
}

/* The CPUs' counters stay equal: the first one's value is for all. */
static void set_tsc(struct vcpu *cpu, uint64_t tsc)
{
	struct engine *engine = cpu->engine;
	uint64_t offset = cpu->tsc_offset + tsc - soft_tsc(cpu);

	for (unsigned i = 0; i < engine->cpus && cpu->index == 0; i++)
		engine->vcpu[i]->tsc_offset = offset;
}

int soft_set_state(struct vcpu *cpu, const struct cpu_state *s)
{
	if (!possible(s) || lapic_set_state(cpu, &s->lapic) < 0)
		return -EINVAL;
	cpu->fpu_loaded = false;
	memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
	cpu->rip = s->rip;
	soft_set_rflags(cpu, s->rflags, ~0ull);
	memcpy(cpu->seg, s->seg, sizeof(cpu->seg));
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg_base[i] = s->seg[i].base;
	cpu->gdt = s->gdt;
	cpu->idt = s->idt;
	cpu->cr0 = s->cr0 | CR0_ET;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->efer = s->efer;
	cpu->xcr0 = s->xcr0;
	memcpy(cpu->dr, s->dr, sizeof(cpu->dr));
	cpu->star = s->star;
	cpu->lstar = s->lstar;
	cpu->cstar = s->cstar;
	cpu->sfmask = s->sfmask;
	cpu->kernel_gs_base = s->kernel_gs_base;
	cpu->sysenter_cs = s->sysenter_cs;
	cpu->sysenter_esp = s->sysenter_esp;
	cpu->sysenter_eip = s->sysenter_eip;
	cpu->pat = s->pat;
	cpu->mtrr_def = s->mtrr_def;
	cpu->misc_enable = s->misc_enable;
	cpu->tsc_aux = s->tsc_aux;
	cpu->spec_ctrl = s->spec_ctrl;
	set_tsc(cpu, s->tsc);
	lapic_timer_rearm(cpu);
	cpu->kvmclock_system = s->kvmclock_system;
	cpu->kvmclock_wall = s->kvmclock_wall;
	cpu->mp = s->mp;
	cpu->lapic.nmi = s->nmi_pending;
	cpu->nmi_blocked = s->nmi_blocked;
	cpu->shadow = s->interrupt_shadow;
	cpu->cpl = (cpu->cr0 & CR0_PE) ? cpu->seg[SEG_CS].selector & 3 : 0;
	cpu->fault.valid = cpu->triple_fault = cpu->failed = false;
	memcpy(cpu->xsave, s->xsave, sizeof(s->xsave));
	soft_update_mode(cpu);
	soft_tlb_flush(cpu, true);
	return 0;
}
