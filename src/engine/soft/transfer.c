/* SPDX-License-Identifier: MIT */
/*
 * Far transfers: iret, syscall and sysret, sysenter and sysexit, far call, jump and return. Intel
 * SDM volume 2 for each, volume 3 section 5.8. They set next_rip to the target. There are no call
 * gates and no task switches.
 */
#include "engine/soft/sysint.h"

/* Everything that iret and retf leave alone or change together. */
#define RFLAGS_IRET ((uint64_t)(FL_ARITH_DF | FL_TF | FL_NT | FL_RF | FL_AC | FL_ID))

static bool selector_fault(struct vcpu *cpu, unsigned vector, uint16_t selector)
{
	return soft_raise_error(cpu, vector, selector & 0xfffcu);
}

/*
 * A code segment for a return to the privilege level of the selector, or a jump at the current one.
 */
static bool check_code(struct vcpu *cpu, uint16_t selector, unsigned cpl, struct descriptor *d)
{
	if (!(selector & 0xfffc))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (!segment_descriptor(cpu, selector, EXC_GP, 0, d))
		return false;
	if (!(d->attr & SEG_S) || !(d->attr & SEG_CODE) ||
		((d->attr & SEG_L) && (d->attr & SEG_DB)))
		return selector_fault(cpu, EXC_GP, selector);
	if (d->attr & SEG_CONFORMING ? SEG_DPL(d->attr) > cpl : SEG_DPL(d->attr) != cpl)
		return selector_fault(cpu, EXC_GP, selector);
	if (!(d->attr & SEG_P))
		return selector_fault(cpu, EXC_NP, selector);
	return true;
}

static bool check_stack(struct vcpu *cpu, uint16_t selector, unsigned cpl, bool long_code,
	struct descriptor *d)
{
	*d = (struct descriptor){ .attr = SEG_UNUSABLE | cpl << 5 };
	if ((selector & 3) != cpl)
		return selector_fault(cpu, EXC_GP, selector);
	if (!(selector & 0xfffc))
		return (long_code && cpl != 3) || soft_raise_error(cpu, EXC_GP, 0);
	if (!segment_descriptor(cpu, selector, EXC_GP, 0, d))
		return false;
	if (!(d->attr & SEG_S) || (d->attr & SEG_CODE) || !(d->attr & SEG_READWRITE) ||
		SEG_DPL(d->attr) != cpl)
		return selector_fault(cpu, EXC_GP, selector);
	if (!(d->attr & SEG_P))
		return selector_fault(cpu, EXC_SS, selector);
	return segment_mark_accessed(cpu, d);
}

/* A less privileged level must not keep data segments that it may not have. */
static void drop_segments(struct vcpu *cpu, unsigned cpl)
{
	static const uint8_t segs[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	struct descriptor null = { .attr = SEG_UNUSABLE };

	for (unsigned i = 0; i < sizeof(segs); i++) {
		const struct cpu_segment *s = &cpu->seg[segs[i]];
		bool conforming = (s->attr & SEG_CODE) && (s->attr & SEG_CONFORMING);

		if ((s->selector & 0xfffc) && !conforming && SEG_DPL(s->attr) < cpl)
			segment_set(cpu, segs[i], 0, &null);
	}
}

static void enter_level(struct vcpu *cpu, unsigned cpl)
{
	if (cpl > cpu->cpl)
		drop_segments(cpu, cpl);
	cpu->cpl = (uint8_t)cpl;
	soft_update_mode(cpu);
}

/* word[]: rip, cs, rflags, rsp, ss as popped, n of them, each size bytes wide. */
static bool pop_words(struct vcpu *cpu, uint64_t rsp, uint64_t *word, unsigned n, unsigned size)
{
	uint8_t bytes[5 * 8];

	if (!soft_read(cpu, rsp, bytes, n * size, cpu->cpl == 3))
		return false;
	for (size_t i = 0; i < n; i++) {
		word[i] = 0;
		soft_copy(&word[i], bytes + i * size, size);
	}
	return true;
}

static bool far_target(struct vcpu *cpu, const struct descriptor *cs, uint64_t rip)
{
	if (cs->attr & SEG_L ? soft_canonical(rip) : rip >> 32 == 0)
		return true;
	return soft_raise_error(cpu, EXC_GP, 0);
}

static bool sys_iret(struct vcpu *cpu)
{
	unsigned size = cpu->insn.op_size;
	uint64_t word[5], mask = RFLAGS_IRET;
	struct descriptor cs, ss;
	uint16_t cs_sel, ss_sel;
	unsigned cpl;

	if (cpu->sysflags & FL_NT)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (!pop_words(cpu, cpu->gpr[CPU_RSP], word, 5, size))
		return false;
	cs_sel = (uint16_t)word[1];
	ss_sel = (uint16_t)word[4];
	cpl = cs_sel & 3;
	if (cpl < cpu->cpl)
		return selector_fault(cpu, EXC_GP, cs_sel);
	if (!check_code(cpu, cs_sel, cpl, &cs) || !far_target(cpu, &cs, word[0]) ||
		!check_stack(cpu, ss_sel, cpl, cs.attr & SEG_L, &ss) ||
		!segment_mark_accessed(cpu, &cs))
		return false;
	if (cpu->cpl == 0)
		mask |= FL_IOPL;
	if (cpu->cpl <= (cpu->sysflags & FL_IOPL) >> 12)
		mask |= FL_IF;
	if (size == 2)
		mask &= 0xffff;
	segment_set(cpu, SEG_CS, cs_sel, &cs);
	segment_set(cpu, SEG_SS, ss_sel, &ss);
	soft_set_rflags(cpu, word[2], mask);
	cpu->gpr[CPU_RSP] = word[3];
	cpu->next_rip = word[0];
	cpu->nmi_blocked = false;
	enter_level(cpu, cpl);
	return true;
}

static bool sys_retf(struct vcpu *cpu)
{
	unsigned size = cpu->insn.op_size, cpl;
	uint64_t word[5], rsp = cpu->gpr[CPU_RSP] + 2ull * size;
	uint16_t extra = cpu->insn.imm_size ? (uint16_t)cpu->insn.imm : 0;
	struct descriptor cs, ss;
	uint16_t cs_sel;

	if (!pop_words(cpu, cpu->gpr[CPU_RSP], word, 2, size))
		return false;
	cs_sel = (uint16_t)word[1];
	cpl = cs_sel & 3;
	if (cpl < cpu->cpl)
		return selector_fault(cpu, EXC_GP, cs_sel);
	if (!check_code(cpu, cs_sel, cpl, &cs) || !far_target(cpu, &cs, word[0]))
		return false;
	rsp += extra;
	if (cpl > cpu->cpl) {
		if (!pop_words(cpu, rsp, word + 3, 2, size) ||
			!check_stack(cpu, (uint16_t)word[4], cpl, cs.attr & SEG_L, &ss))
			return false;
		segment_set(cpu, SEG_SS, (uint16_t)word[4], &ss);
		rsp = word[3] + extra;
	}
	if (!segment_mark_accessed(cpu, &cs))
		return false;
	segment_set(cpu, SEG_CS, cs_sel, &cs);
	cpu->gpr[CPU_RSP] = rsp;
	cpu->next_rip = word[0];
	enter_level(cpu, cpl);
	return true;
}

/* call and jmp m16:16, m16:32, m16:64. */
static bool sys_far(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	unsigned size = in->op_size;
	uint64_t ea = soft_ea(cpu), rip = 0, frame[2];
	struct descriptor cs;
	uint16_t selector;

	if (!soft_read(cpu, ea, &rip, size, cpu->cpl == 3) ||
		!soft_read(cpu, ea + size, &selector, 2, cpu->cpl == 3) ||
		!check_code(cpu, selector, cpu->cpl, &cs) || !far_target(cpu, &cs, rip))
		return false;
	if (in->system == SYS_CALL_FAR) {
		uint8_t bytes[16];

		frame[0] = cpu->next_rip;
		frame[1] = cpu->seg[SEG_CS].selector;
		soft_copy(bytes, &frame[0], size);
		soft_copy(bytes + size, &frame[1], size);
		if (!soft_write(cpu, cpu->gpr[CPU_RSP] - 2ull * size, bytes, 2 * size,
			    cpu->cpl == 3))
			return false;
		cpu->gpr[CPU_RSP] -= 2ull * size;
	}
	if (!segment_mark_accessed(cpu, &cs))
		return false;
	segment_set(cpu, SEG_CS, (uint16_t)((selector & 0xfffcu) | cpu->cpl), &cs);
	cpu->next_rip = rip;
	soft_update_mode(cpu);
	return true;
}

static bool sys_syscall(struct vcpu *cpu)
{
	uint16_t cs = (uint16_t)(cpu->star >> 32) & 0xfffc;

	if (!(cpu->efer & EFER_SCE))
		return soft_raise(cpu, EXC_UD);
	cpu->gpr[CPU_RCX] = cpu->next_rip;
	cpu->gpr[11] = soft_rflags(cpu) & ~(uint64_t)FL_RF;
	soft_set_rflags(cpu, 0, cpu->sfmask | FL_RF);
	segment_flat(cpu, SEG_CS, cs, 0, true, true);
	segment_flat(cpu, SEG_SS, (uint16_t)(cs + 8), 0, false, false);
	cpu->next_rip = cpu->lstar;
	cpu->cpl = 0;
	soft_update_mode(cpu);
	return true;
}

static bool sys_sysret(struct vcpu *cpu)
{
	uint16_t base = (uint16_t)(cpu->star >> 48);
	bool wide = cpu->insn.op_size == 8;

	if (!(cpu->efer & EFER_SCE))
		return soft_raise(cpu, EXC_UD);
	if (!ring0(cpu))
		return false;
	if (wide && !soft_canonical(cpu->gpr[CPU_RCX]))
		return soft_raise_error(cpu, EXC_GP, 0);
	soft_set_rflags(cpu, cpu->gpr[11], RFLAGS_IRET | FL_IF | FL_IOPL);
	cpu->sysflags &= ~(uint64_t)FL_RF;
	segment_flat(cpu, SEG_CS, (uint16_t)((base + (wide ? 16 : 0)) | 3), 3, true, wide);
	segment_flat(cpu, SEG_SS, (uint16_t)((base + 8) | 3), 3, false, false);
	cpu->next_rip = wide ? cpu->gpr[CPU_RCX] : (uint32_t)cpu->gpr[CPU_RCX];
	cpu->cpl = 3;
	soft_update_mode(cpu);
	return true;
}

static bool sys_sysenter(struct vcpu *cpu)
{
	uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xfffc;

	if (!cs)
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->sysflags &= ~(uint64_t)(FL_VM | FL_IF | FL_RF);
	segment_flat(cpu, SEG_CS, cs, 0, true, true);
	segment_flat(cpu, SEG_SS, (uint16_t)(cs + 8), 0, false, false);
	cpu->gpr[CPU_RSP] = cpu->sysenter_esp;
	cpu->next_rip = cpu->sysenter_eip;
	cpu->cpl = 0;
	soft_update_mode(cpu);
	return true;
}

static bool sys_sysexit(struct vcpu *cpu)
{
	uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xfffc;
	bool wide = cpu->insn.op_size == 8;
	uint64_t rip = cpu->gpr[CPU_RDX], rsp = cpu->gpr[CPU_RCX];

	if (!cs || cpu->cpl != 0)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (wide && (!soft_canonical(rip) || !soft_canonical(rsp)))
		return soft_raise_error(cpu, EXC_GP, 0);
	segment_flat(cpu, SEG_CS, (uint16_t)((cs + (wide ? 32 : 16)) | 3), 3, true, wide);
	segment_flat(cpu, SEG_SS, (uint16_t)((cs + (wide ? 40 : 24)) | 3), 3, false, false);
	cpu->next_rip = wide ? rip : (uint32_t)rip;
	cpu->gpr[CPU_RSP] = wide ? rsp : (uint32_t)rsp;
	cpu->cpl = 3;
	soft_update_mode(cpu);
	return true;
}

bool sys_transfer(struct vcpu *cpu)
{
	switch (cpu->insn.system) {
	case SYS_IRET:
		return sys_iret(cpu);
	case SYS_RETF:
		return sys_retf(cpu);
	case SYS_SYSCALL:
		return sys_syscall(cpu);
	case SYS_SYSRET:
		return sys_sysret(cpu);
	case SYS_SYSENTER:
		return sys_sysenter(cpu);
	case SYS_SYSEXIT:
		return sys_sysexit(cpu);
	default:
		return sys_far(cpu);
	}
}
