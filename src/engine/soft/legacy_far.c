/* SPDX-License-Identifier: MIT */
/*
 * Segments and far transfers of the 16- and 32-bit interpreter: Intel SDM volume 3, sections 5.8
 * and 20.1. In protected mode only within privilege level 0, without gates and tasks.
 */
#include "engine/soft/legacy.h"

static bool protected(const struct vcpu *cpu)
{
	return cpu->cr0 & CR0_PE;
}

bool legacy_load_segment(struct legacy *l, unsigned seg, uint16_t selector)
{
	struct descriptor d = { .base = (uint32_t)selector << 4, .limit = 0xffff, .attr = 0x93 };

	if (protected(l->cpu)) {
		if (!soft_load_segment(l->cpu, seg, selector))
			return false;
	} else {
		const struct cpu_segment *old = &l->cpu->seg[seg];

		/* Limit and attributes stay what protected mode made them. */
		if (!(old->attr & SEG_UNUSABLE)) {
			d.limit = old->limit;
			d.attr = old->attr;
		}
		segment_set(l->cpu, seg, selector, &d);
	}
	l->cpu->shadow |= seg == SEG_SS;
	return true;
}

static bool code_descriptor(struct vcpu *cpu, uint16_t selector, struct descriptor *d)
{
	bool l;

	if (!(selector & 0xfffc))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (!segment_descriptor(cpu, selector, EXC_GP, 0, d))
		return false;
	l = (cpu->efer & EFER_LMA) && (d->attr & SEG_L);
	if (!(d->attr & SEG_S) || !(d->attr & SEG_CODE) || SEG_DPL(d->attr) != 0 ||
		(selector & 3) != 0 || (l && (d->attr & SEG_DB)))
		return soft_raise_error(cpu, EXC_GP, selector & 0xfffcu);
	if (!(d->attr & SEG_P))
		return soft_raise_error(cpu, EXC_NP, selector & 0xfffcu);
	return segment_mark_accessed(cpu, d);
}

bool legacy_far_jump(struct legacy *l, uint16_t selector, uint32_t offset)
{
	struct descriptor d = { .base = (uint32_t)selector << 4, .limit = 0xffff, .attr = 0x9b };

	if (protected(l->cpu) && !code_descriptor(l->cpu, selector, &d))
		return false;
	segment_set(l->cpu, SEG_CS, selector, &d);
	l->ip = offset;
	soft_update_mode(l->cpu);
	return true;
}

bool legacy_far_call(struct legacy *l, uint16_t selector, uint32_t offset)
{
	return legacy_push(l, l->size, l->cpu->seg[SEG_CS].selector) &&
	       legacy_push(l, l->size, l->ip) && legacy_far_jump(l, selector, offset);
}

bool legacy_far_return(struct legacy *l, uint32_t extra)
{
	uint32_t offset, selector;
	unsigned wide = legacy_stack_size(l);

	if (!legacy_pop(l, l->size, &offset) || !legacy_pop(l, l->size, &selector) ||
		!legacy_far_jump(l, (uint16_t)selector, offset))
		return false;
	legacy_set_reg(l, CPU_RSP, wide, legacy_reg(l, CPU_RSP, wide) + extra);
	return true;
}

bool legacy_iret(struct legacy *l)
{
	uint64_t mask = FL_ARITH_DF | FL_TF | FL_IF | FL_IOPL | FL_NT | FL_RF | FL_AC | FL_ID;
	uint32_t offset, selector, flags;

	if (protected(l->cpu) && (l->cpu->sysflags & FL_NT))
		return soft_raise_error(l->cpu, EXC_GP, 0);
	if (!legacy_pop(l, l->size, &offset) || !legacy_pop(l, l->size, &selector) ||
		!legacy_pop(l, l->size, &flags) || !legacy_far_jump(l, (uint16_t)selector, offset))
		return false;
	soft_set_rflags(l->cpu, flags, l->size == 2 ? mask & 0xffff : mask);
	l->cpu->nmi_blocked = false;
	return true;
}

/* int n: through the 64-bit table, or in real mode through the table of far pointers. */
bool legacy_int(struct legacy *l, unsigned vector)
{
	struct vcpu *cpu = l->cpu;
	uint32_t offset, selector;
	uint64_t table = cpu->idt.base + 4ull * vector;

	if (protected(cpu)) {
		cpu->next_rip = l->ip;
		l->rip_set = true;
		return soft_interrupt(cpu, vector, true);
	}
	if (4 * vector + 3 > cpu->idt.limit)
		return soft_raise_error(cpu, EXC_GP, 8 * vector + 2);
	offset = selector = 0;
	if (!soft_read(cpu, table, &offset, 2, false) ||
		!soft_read(cpu, table + 2, &selector, 2, false) ||
		!legacy_push(l, 2, (uint32_t)soft_rflags(cpu)) ||
		!legacy_push(l, 2, cpu->seg[SEG_CS].selector) || !legacy_push(l, 2, l->ip))
		return false;
	cpu->sysflags &= ~(uint64_t)(FL_IF | FL_TF | FL_AC | FL_RF);
	return legacy_far_jump(l, (uint16_t)selector, offset);
}
