/* SPDX-License-Identifier: MIT */
/*
 * Control and debug registers, descriptor-table registers, invlpg: Intel SDM volume 3, chapter 2.
 */
#include "engine/soft/sys.h"
#include "engine/soft/sysint.h"

#define CR0_NW        0x20000000u
#define CR0_CD        0x40000000u
#define CR4_ALLOWED   0x1507ffull /* everything up to OSXMMEXCPT, FSGSBASE, OSXSAVE, SMEP */
#define EFER_AUTOIBRS (1u << 21)
#define CR3_RESERVED  0xffffc00000000000ull

bool soft_set_cr0(struct vcpu *cpu, uint64_t value)
{
	uint64_t changed;

	value |= CR0_ET;
	if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) ||
		((value & CR0_NW) && !(value & CR0_CD)))
		return soft_raise_error(cpu, EXC_GP, 0);
	changed = value ^ cpu->cr0;
	if (changed & CR0_PG) {
		if (value & CR0_PG) {
			if ((cpu->efer & EFER_LME) && !(cpu->cr4 & CR4_PAE))
				return soft_raise_error(cpu, EXC_GP, 0);
			if (cpu->efer & EFER_LME)
				cpu->efer |= EFER_LMA;
		} else {
			if (cpu->long_mode)
				return soft_raise_error(cpu, EXC_GP, 0);
			cpu->efer &= ~(uint64_t)EFER_LMA;
		}
	}
	cpu->cr0 = value;
	if (changed & (CR0_PG | CR0_WP | CR0_PE | CR0_CD | CR0_NW))
		soft_tlb_flush(cpu, true);
	soft_update_mode(cpu);
	return true;
}

bool soft_set_cr4(struct vcpu *cpu, uint64_t value)
{
	uint64_t allowed = CR4_ALLOWED & ~(uint64_t)CR4_UMIP, changed = value ^ cpu->cr4;

	if (!(cpu->engine->features >> FEAT_FSGSBASE & 1))
		allowed &= ~(uint64_t)CR4_FSGSBASE;
	if ((value & ~allowed) || ((cpu->efer & EFER_LMA) && !(value & CR4_PAE)))
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->cr4 = value;
	if (changed & (CR4_PGE | CR4_PAE | CR4_PSE | CR4_SMEP))
		soft_tlb_flush(cpu, true);
	return true;
}

bool soft_set_efer(struct vcpu *cpu, uint64_t value)
{
	uint64_t allowed = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE, changed;

	if (cpuid_is_amd())
		allowed |= EFER_AUTOIBRS;
	value = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
	changed = value ^ cpu->efer;
	if ((value & ~allowed) || ((changed & EFER_LME) && (cpu->cr0 & CR0_PG)))
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->efer = value;
	if (changed & EFER_NXE)
		soft_tlb_flush(cpu, true);
	return true;
}

static bool set_cr3(struct vcpu *cpu, uint64_t value)
{
	if (value & CR3_RESERVED)
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->cr3 = value;
	soft_tlb_flush(cpu, false);
	return true;
}

static bool read_cr(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t value;

	switch (in->reg) {
	case 0:
		value = cpu->cr0;
		break;
	case 2:
		value = cpu->cr2;
		break;
	case 3:
		value = cpu->cr3;
		break;
	case 4:
		value = cpu->cr4;
		break;
	case 8:
		value = lapic_get_cr8(cpu);
		break;
	default:
		return soft_raise(cpu, EXC_UD);
	}
	cpu->gpr[in->rm] = value;
	return true;
}

static bool write_cr(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t value = cpu->gpr[in->rm];

	switch (in->reg) {
	case 0:
		return soft_set_cr0(cpu, value);
	case 2:
		cpu->cr2 = value;
		return true;
	case 3:
		return set_cr3(cpu, value);
	case 4:
		return soft_set_cr4(cpu, value);
	case 8:
		if (value > 15)
			return soft_raise_error(cpu, EXC_GP, 0);
		lapic_set_cr8(cpu, (uint8_t)value);
		return true;
	default:
		return soft_raise(cpu, EXC_UD);
	}
}

/* Breakpoints are stored, not armed. */
static bool move_dr(struct vcpu *cpu, bool write)
{
	const struct insn *in = &cpu->insn;
	unsigned n = in->reg & 7;
	uint64_t value = cpu->gpr[in->rm];

	if (in->reg > 7 || ((n == 4 || n == 5) && (cpu->cr4 & 8)))
		return soft_raise(cpu, EXC_UD);
	if (n == 4 || n == 5)
		n += 2;
	if (!write) {
		cpu->gpr[in->rm] = cpu->dr[n];
		return true;
	}
	if (n >= 6 && value >> 32)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (n == 6)
		value = (value & 0xe00f) | 0xffff0ff0;
	if (n == 7)
		value = (value & 0xffff2bff) | 0x400;
	cpu->dr[n] = value;
	return true;
}

static bool load_table(struct vcpu *cpu, struct cpu_table *table)
{
	uint64_t ea = soft_ea(cpu), base;
	uint16_t limit;

	if (!ring0(cpu) || !soft_read(cpu, ea, &limit, 2, false) ||
		!soft_read_u64(cpu, ea + 2, &base, false))
		return false;
	if (!soft_canonical(base))
		return soft_raise_error(cpu, EXC_GP, 0);
	table->base = base;
	table->limit = limit;
	return true;
}

static bool store_table(struct vcpu *cpu, const struct cpu_table *table)
{
	uint8_t bytes[10];

	soft_copy(bytes, &table->limit, 2);
	soft_copy(bytes + 2, &table->base, 8);
	return soft_write(cpu, soft_ea(cpu), bytes, sizeof(bytes), cpu->cpl == 3);
}

bool sys_control(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t value;

	switch (in->system) {
	case SYS_SGDT:
		return store_table(cpu, &cpu->gdt);
	case SYS_SIDT:
		return store_table(cpu, &cpu->idt);
	case SYS_SMSW:
		return operand_write(cpu, cpu->cr0, 2);
	case SYS_LGDT:
		return load_table(cpu, &cpu->gdt);
	case SYS_LIDT:
		return load_table(cpu, &cpu->idt);
	default:
		break;
	}
	if (!ring0(cpu))
		return false;
	switch (in->system) {
	case SYS_MOV_FROM_CR:
		return read_cr(cpu);
	case SYS_MOV_TO_CR:
		return write_cr(cpu);
	case SYS_MOV_FROM_DR:
		return move_dr(cpu, false);
	case SYS_MOV_TO_DR:
		return move_dr(cpu, true);
	case SYS_CLTS:
		cpu->cr0 &= ~(uint64_t)CR0_TS;
		return true;
	case SYS_LMSW:
		if (!operand_read(cpu, &value, 2))
			return false;
		return soft_set_cr0(cpu, (cpu->cr0 & ~0xeull) | (value & 0xf));
	default:
		soft_tlb_invlpg(cpu, soft_ea(cpu));
		return true;
	}
}
