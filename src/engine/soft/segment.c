/* SPDX-License-Identifier: MIT */
/*
 * Segments: descriptor tables, selector loads with their checks (Intel SDM volume 3, chapters 3 and
 * 5), and the fs and gs bases.
 */
#include "engine/soft/sysint.h"

bool segment_descriptor(struct vcpu *cpu, uint16_t selector, unsigned fault, uint32_t ext,
	struct descriptor *d)
{
	uint64_t base = cpu->gdt.base, raw;
	uint32_t limit = cpu->gdt.limit, at = selector & 0xfff8u;

	if (selector & 4) {
		base = cpu->seg[SEG_LDT].base;
		limit = cpu->seg[SEG_LDT].attr & SEG_P ? cpu->seg[SEG_LDT].limit : 0;
	}
	if (at + 7 > limit)
		return soft_raise_error(cpu, fault, (selector & 0xfffcu) | ext);
	d->address = base + at;
	if (!soft_read_u64(cpu, d->address, &raw, false))
		return false;
	d->attr = (uint32_t)(raw >> 40) & 0xf0ff;
	d->base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000);
	d->limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000));
	if (d->attr & SEG_G)
		d->limit = d->limit << 12 | 0xfff;
	return true;
}

/* The upper half of a 16-byte system descriptor. */
static bool descriptor_high(struct vcpu *cpu, struct descriptor *d)
{
	uint64_t raw;

	if (!(cpu->efer & EFER_LMA))
		return true;
	if (!soft_read_u64(cpu, d->address + 8, &raw, false))
		return false;
	d->base |= raw << 32;
	return true;
}

bool segment_mark_accessed(struct vcpu *cpu, struct descriptor *d)
{
	uint8_t access;

	if (d->attr & SEG_ACCESSED)
		return true;
	d->attr |= SEG_ACCESSED;
	access = (uint8_t)d->attr;
	return soft_write(cpu, d->address + 5, &access, 1, false);
}

void segment_set(struct vcpu *cpu, unsigned seg, uint16_t selector, const struct descriptor *d)
{
	struct cpu_segment *s = &cpu->seg[seg];

	s->selector = selector;
	s->base = d->base;
	s->limit = d->limit;
	s->attr = d->attr;
	cpu->seg_base[seg] = d->base;
}

void segment_flat(struct vcpu *cpu, unsigned seg, uint16_t selector, unsigned dpl, bool code,
	bool long_code)
{
	struct descriptor d = { .limit = UINT32_MAX, .attr = 0x13u | dpl << 5 | SEG_P | SEG_G };

	if (code)
		d.attr |= SEG_CODE | (long_code ? SEG_L : SEG_DB);
	else
		d.attr |= SEG_DB;
	segment_set(cpu, seg, selector, &d);
}

bool soft_load_segment(struct vcpu *cpu, unsigned seg, uint16_t selector)
{
	unsigned rpl = selector & 3;
	uint32_t error = selector & 0xfffcu;
	struct descriptor d = { .attr = SEG_UNUSABLE };
	bool data;

	if (!error) {
		if (seg == SEG_SS) {
			if (!cpu->long_mode || cpu->cpl == 3 || rpl != cpu->cpl)
				return soft_raise_error(cpu, EXC_GP, 0);
			d.attr |= (uint32_t)cpu->cpl << 5;
		}
		segment_set(cpu, seg, selector, &d);
		return true;
	}
	if (!segment_descriptor(cpu, selector, EXC_GP, 0, &d))
		return false;
	data = (d.attr & SEG_S) && !(d.attr & SEG_CODE);
	if (seg == SEG_SS) {
		if (!data || !(d.attr & SEG_READWRITE) || rpl != cpu->cpl ||
			SEG_DPL(d.attr) != cpu->cpl)
			return soft_raise_error(cpu, EXC_GP, error);
		if (!(d.attr & SEG_P))
			return soft_raise_error(cpu, EXC_SS, error);
	} else {
		bool conforming = (d.attr & SEG_CODE) && (d.attr & SEG_CONFORMING);

		if (!(d.attr & SEG_S) || (!data && !(d.attr & SEG_READWRITE)) ||
			(!conforming && (rpl > SEG_DPL(d.attr) || cpu->cpl > SEG_DPL(d.attr))))
			return soft_raise_error(cpu, EXC_GP, error);
		if (!(d.attr & SEG_P))
			return soft_raise_error(cpu, EXC_NP, error);
	}
	if (!segment_mark_accessed(cpu, &d))
		return false;
	segment_set(cpu, seg, selector, &d);
	return true;
}

static bool load_system(struct vcpu *cpu, uint16_t selector, bool task)
{
	uint32_t error = selector & 0xfffcu;
	struct descriptor d = { .attr = SEG_UNUSABLE };
	unsigned type;

	if (!error) {
		if (task)
			return soft_raise_error(cpu, EXC_GP, 0);
		segment_set(cpu, SEG_LDT, selector, &d);
		return true;
	}
	if (selector & 4)
		return soft_raise_error(cpu, EXC_GP, error);
	if (!segment_descriptor(cpu, selector, EXC_GP, 0, &d) || !descriptor_high(cpu, &d))
		return false;
	type = d.attr & 0x1f;
	if (type != (task ? 9 : 2))
		return soft_raise_error(cpu, EXC_GP, error);
	if (!(d.attr & SEG_P))
		return soft_raise_error(cpu, EXC_NP, error);
	if (task) {
		uint8_t busy = (uint8_t)(d.attr |= 2);

		if (!soft_write(cpu, d.address + 5, &busy, 1, false))
			return false;
	}
	segment_set(cpu, task ? SEG_TR : SEG_LDT, selector, &d);
	return true;
}

/*
 * lar, lsl, verr, verw: may the descriptor be seen from here? *valid tells; only memory can fault.
 */
static bool visible(struct vcpu *cpu, uint16_t selector, struct descriptor *d, bool *valid)
{
	*valid = false;
	if (!(selector & 0xfffc))
		return true;
	if (!segment_descriptor(cpu, selector, EXC_GP, 0, d)) {
		if (cpu->fault.vector == EXC_PF)
			return false;
		cpu->fault.valid = false;
		return true;
	}
	*valid = (d->attr & SEG_S) && (d->attr & SEG_CODE) && (d->attr & SEG_CONFORMING);
	if (!*valid)
		*valid = SEG_DPL(d->attr) >= cpu->cpl && SEG_DPL(d->attr) >= (selector & 3u);
	return true;
}

static bool examine(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	struct descriptor d = { 0 };
	uint64_t selector;
	bool ok;

	if (!operand_read(cpu, &selector, 2) || !visible(cpu, (uint16_t)selector, &d, &ok))
		return false;
	if (in->system == SYS_VERR || in->system == SYS_VERW) {
		bool code = d.attr & SEG_CODE;

		ok = ok && (d.attr & SEG_S) &&
		     (in->system == SYS_VERR ? !code || (d.attr & SEG_READWRITE)
					     : !code && (d.attr & SEG_READWRITE));
	} else if (ok && !(d.attr & SEG_S)) {
		unsigned type = d.attr & 0xf;

		ok = type == 2 || type == 9 || type == 0xb ||
		     (type == 0xc && in->system == SYS_LAR);
	}
	if (ok && in->system == SYS_LAR)
		gpr_write(cpu, in->reg, (uint64_t)d.attr << 8, in->op_size);
	if (ok && in->system == SYS_LSL)
		gpr_write(cpu, in->reg, d.limit, in->op_size);
	cpu->flags = (cpu->flags & ~(uint64_t)FLAG_ZF) | (ok ? FLAG_ZF : 0);
	return true;
}

/* lfs, lgs, lss: offset, then selector. */
static bool load_far(struct vcpu *cpu, unsigned seg)
{
	const struct insn *in = &cpu->insn;
	uint64_t ea = soft_ea(cpu), offset = 0;
	uint16_t selector;

	if (!soft_read(cpu, ea, &offset, in->op_size, cpu->cpl == 3) ||
		!soft_read(cpu, ea + in->op_size, &selector, 2, cpu->cpl == 3) ||
		!soft_load_segment(cpu, seg, selector))
		return false;
	gpr_write(cpu, in->reg, offset, in->op_size);
	return true;
}

bool sys_segment(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t value = 0;
	unsigned seg;

	switch (in->system) {
	case SYS_MOV_FROM_SREG:
		return operand_write(cpu, cpu->seg[in->reg & 7].selector, 2);
	case SYS_MOV_TO_SREG:
		seg = in->reg & 7;
		if (seg == SEG_CS || seg > SEG_GS)
			return soft_raise(cpu, EXC_UD);
		if (!operand_read(cpu, &value, 2) || !soft_load_segment(cpu, seg, (uint16_t)value))
			return false;
		cpu->shadow |= seg == SEG_SS;
		return true;
	case SYS_POP_SREG:
		if (!soft_read(cpu, cpu->gpr[CPU_RSP], &value, 2, cpu->cpl == 3) ||
			!soft_load_segment(cpu, in->opcode == 0xa1 ? SEG_FS : SEG_GS,
				(uint16_t)value))
			return false;
		cpu->gpr[CPU_RSP] += in->op_size;
		return true;
	case SYS_LFS:
		return load_far(cpu, SEG_FS);
	case SYS_LGS:
		return load_far(cpu, SEG_GS);
	case SYS_LSS:
		return load_far(cpu, SEG_SS);
	case SYS_LLDT:
	case SYS_LTR:
		return ring0(cpu) && operand_read(cpu, &value, 2) &&
		       load_system(cpu, (uint16_t)value, in->system == SYS_LTR);
	case SYS_SLDT:
		return operand_write(cpu, cpu->seg[SEG_LDT].selector, 2);
	case SYS_STR:
		return operand_write(cpu, cpu->seg[SEG_TR].selector, 2);
	default:
		return examine(cpu);
	}
}

bool sys_base(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	unsigned seg = in->system == SYS_RDFSBASE || in->system == SYS_WRFSBASE ? SEG_FS : SEG_GS;
	uint64_t value;

	if (in->system == SYS_SWAPGS) {
		if (!ring0(cpu))
			return false;
		value = cpu->kernel_gs_base;
		cpu->kernel_gs_base = cpu->seg_base[SEG_GS];
	} else {
		if (!(cpu->cr4 & CR4_FSGSBASE))
			return soft_raise(cpu, EXC_UD);
		if (in->system == SYS_RDFSBASE || in->system == SYS_RDGSBASE) {
			gpr_write(cpu, in->rm, cpu->seg_base[seg], in->op_size);
			return true;
		}
		value = in->op_size == 4 ? (uint32_t)cpu->gpr[in->rm] : cpu->gpr[in->rm];
		if (!soft_canonical(value))
			return soft_raise_error(cpu, EXC_GP, 0);
	}
	cpu->seg_base[seg] = cpu->seg[seg].base = value;
	return true;
}
