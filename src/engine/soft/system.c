/* SPDX-License-Identifier: MIT */
/* System instructions: the dispatcher, and those too small for a file of their own. */
#include "engine/soft/sys.h"
#include "engine/soft/sysint.h"
#include <sys/syscall.h>
#include <unistd.h>

#define PAUSES 32 /* from one yield to the next */

void gpr_write(struct vcpu *cpu, unsigned reg, uint64_t value, unsigned size)
{
	if (size == 2)
		cpu->gpr[reg] = (cpu->gpr[reg] & ~0xffffull) | (uint16_t)value;
	else
		cpu->gpr[reg] = size == 4 ? (uint32_t)value : value;
}

bool operand_read(struct vcpu *cpu, uint64_t *value, unsigned size)
{
	const struct insn *in = &cpu->insn;

	*value = 0;
	if (in->has_mem)
		return soft_read(cpu, soft_ea(cpu), value, size, cpu->cpl == 3);
	*value = cpu->gpr[in->rm];
	return true;
}

bool operand_write(struct vcpu *cpu, uint64_t value, unsigned mem_size)
{
	const struct insn *in = &cpu->insn;

	if (in->has_mem)
		return soft_write(cpu, soft_ea(cpu), &value, mem_size, cpu->cpl == 3);
	gpr_write(cpu, in->rm, value, in->op_size);
	return true;
}

uint64_t soft_ea(const struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t ea = (uint64_t)in->disp;

	if (in->base == REG_PC)
		ea += cpu->next_rip;
	else if (in->base != REG_NONE)
		ea += cpu->gpr[in->base];
	if (in->index != REG_NONE && !in->vsib)
		ea += cpu->gpr[in->index] * in->scale;
	if (in->addr_size == 4)
		ea = (uint32_t)ea;
	if (in->segment)
		ea += cpu->seg_base[in->segment];
	return ea;
}

void soft_update_mode(struct vcpu *cpu)
{
	cpu->long_mode = (cpu->efer & EFER_LMA) && (cpu->seg[SEG_CS].attr & SEG_L);
}

void soft_cpu_reset(struct vcpu *cpu, bool init)
{
	static const struct descriptor data = { .limit = 0xffff, .attr = 0x93 };
	static const struct descriptor code = { .base = 0xffff0000, .limit = 0xffff, .attr = 0x9b };
	static const struct descriptor ldt = { .limit = 0xffff, .attr = 0x82 };
	static const struct descriptor task = { .limit = 0xffff, .attr = 0x8b };
	uint32_t out[4];

	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = 0;
	soft_cpuid(cpu, 1, 0, out);
	cpu->gpr[CPU_RDX] = out[0];
	cpu->rip = 0xfff0;
	cpu->flags = 2;
	cpu->sysflags = 0;
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		segment_set(cpu, i, 0, &data);
	segment_set(cpu, SEG_CS, 0xf000, &code);
	segment_set(cpu, SEG_LDT, 0, &ldt);
	segment_set(cpu, SEG_TR, 0, &task);
	cpu->gdt = cpu->idt = (struct cpu_table){ 0, 0xffff };
	cpu->cr0 = init ? (cpu->cr0 & 0x60000000u) | CR0_ET : 0x60000010u;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
	cpu->dr[0] = cpu->dr[1] = cpu->dr[2] = cpu->dr[3] = 0;
	cpu->dr[6] = 0xffff0ff0;
	cpu->dr[7] = 0x400;
	cpu->cpl = 0;
	cpu->long_mode = cpu->shadow = cpu->nmi_blocked = cpu->triple_fault = cpu->failed = false;
	cpu->fault.valid = false;
	cpu->mp = init || cpu->index ? CPU_MP_WAIT_SIPI : CPU_MP_RUNNING;
	if (!init) {
		static const uint32_t mxcsr = 0x1f80;

		cpu->xcr0 = 1;
		cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = cpu->kernel_gs_base = 0;
		cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = 0;
		cpu->pat = 0x0007040600070406ull;
		cpu->mtrr_def = 0xc06;
		cpu->misc_enable = 1;
		cpu->tsc_aux = cpu->spec_ctrl = cpu->tsc_adjust = cpu->tsc_offset = 0;
		cpu->kvmclock_system = cpu->kvmclock_wall = 0;
		cpu->fpu_loaded = false;
		for (unsigned i = 0; i < sizeof(cpu->xsave); i++)
			((volatile uint8_t *)cpu->xsave)[i] = 0;
		soft_copy(cpu->xsave + 24, &mxcsr, 4);
	}
	soft_tlb_flush(cpu, true);
}

static bool sys_pushf(struct vcpu *cpu)
{
	unsigned size = cpu->insn.op_size;
	uint64_t value = soft_rflags(cpu) & ~(uint64_t)(FL_RF | FL_VM);

	if (!soft_write(cpu, cpu->gpr[CPU_RSP] - size, &value, size, cpu->cpl == 3))
		return false;
	cpu->gpr[CPU_RSP] -= size;
	return true;
}

static bool sys_popf(struct vcpu *cpu)
{
	unsigned size = cpu->insn.op_size;
	uint64_t value = 0, mask = FL_ARITH_DF | FL_TF | FL_NT | FL_AC | FL_ID;

	if (!soft_read(cpu, cpu->gpr[CPU_RSP], &value, size, cpu->cpl == 3))
		return false;
	if (cpu->cpl == 0)
		mask |= FL_IOPL;
	if (cpu->cpl <= (cpu->sysflags & FL_IOPL) >> 12)
		mask |= FL_IF;
	if (size == 2)
		mask &= 0xffff;
	cpu->gpr[CPU_RSP] += size;
	soft_set_rflags(cpu, value, mask);
	cpu->sysflags &= ~(uint64_t)FL_RF;
	return true;
}

static bool sys_interrupt_flag(struct vcpu *cpu, bool on)
{
	if (cpu->cpl > (cpu->sysflags & FL_IOPL) >> 12)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (on && !(cpu->sysflags & FL_IF))
		cpu->shadow = true;
	if (on)
		cpu->sysflags |= FL_IF;
	else
		cpu->sysflags &= ~(uint64_t)FL_IF;
	return true;
}

static bool sys_xlat(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	uint64_t ea = cpu->gpr[CPU_RBX] + (uint8_t)cpu->gpr[CPU_RAX];
	uint8_t value;

	if (in->addr_size == 4)
		ea = (uint32_t)ea;
	if (in->segment)
		ea += cpu->seg_base[in->segment];
	if (!soft_read(cpu, ea, &value, 1, cpu->cpl == 3))
		return false;
	cpu->gpr[CPU_RAX] = (cpu->gpr[CPU_RAX] & ~0xffull) | value;
	return true;
}

static bool sys_halt(struct vcpu *cpu)
{
	if (!ring0(cpu))
		return false;
	cpu->mp = CPU_MP_HALTED;
	return true;
}

/*
 * The guest waits for another CPU or for a device, whose thread may be waiting for this one's host
 * CPU. A wait that is short on hardware stays one.
 */
static bool sys_pause(struct vcpu *cpu)
{
	if (++cpu->pauses % PAUSES == 0) {
		soft_fpu_park(cpu);
		syscall(SYS_sched_yield);
	}
	return true;
}

/* rip is already where the handler starts. */
static bool sys_int(struct vcpu *cpu, unsigned vector)
{
	if (!soft_interrupt(cpu, vector, true))
		return false;
	cpu->next_rip = cpu->rip;
	return true;
}

/* Like int n, but nobody's permission is needed. */
static bool sys_int1(struct vcpu *cpu)
{
	uint64_t rip = cpu->rip;

	cpu->rip = cpu->next_rip;
	if (!soft_interrupt(cpu, EXC_DB, false)) {
		cpu->rip = rip;
		return false;
	}
	cpu->next_rip = cpu->rip;
	return true;
}

static bool execute(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;

	switch ((enum insn_system)in->system) {
	case SYS_CPUID:
		return sys_cpuid(cpu);
	case SYS_RDTSC:
		return sys_rdtsc(cpu);
	case SYS_RDTSCP:
		return sys_rdtscp(cpu);
	case SYS_RDPID:
		return sys_rdpid(cpu);
	case SYS_RDMSR:
		return sys_rdmsr(cpu);
	case SYS_WRMSR:
		return sys_wrmsr(cpu);
	case SYS_RDPMC:
		return sys_rdpmc(cpu);
	case SYS_XGETBV:
		return sys_xgetbv(cpu);
	case SYS_XSETBV:
		return sys_xsetbv(cpu);
	case SYS_MOV_FROM_CR:
	case SYS_MOV_TO_CR:
	case SYS_MOV_FROM_DR:
	case SYS_MOV_TO_DR:
	case SYS_CLTS:
	case SYS_SMSW:
	case SYS_LMSW:
	case SYS_LGDT:
	case SYS_LIDT:
	case SYS_SGDT:
	case SYS_SIDT:
	case SYS_INVLPG:
		return sys_control(cpu);
	case SYS_LLDT:
	case SYS_SLDT:
	case SYS_LTR:
	case SYS_STR:
	case SYS_VERR:
	case SYS_VERW:
	case SYS_LAR:
	case SYS_LSL:
	case SYS_MOV_FROM_SREG:
	case SYS_MOV_TO_SREG:
	case SYS_POP_SREG:
	case SYS_LFS:
	case SYS_LGS:
	case SYS_LSS:
		return sys_segment(cpu);
	case SYS_RDFSBASE:
	case SYS_RDGSBASE:
	case SYS_WRFSBASE:
	case SYS_WRGSBASE:
	case SYS_SWAPGS:
		return sys_base(cpu);
	case SYS_IN:
		return sys_in(cpu);
	case SYS_OUT:
		return sys_out(cpu);
	case SYS_HLT:
		return sys_halt(cpu);
	case SYS_CLI:
		return sys_interrupt_flag(cpu, false);
	case SYS_STI:
		return sys_interrupt_flag(cpu, true);
	case SYS_INT3:
		return sys_int(cpu, EXC_BP);
	case SYS_INT1:
		return sys_int1(cpu);
	case SYS_INT:
		return sys_int(cpu, (uint8_t)in->imm);
	case SYS_IRET:
	case SYS_SYSCALL:
	case SYS_SYSRET:
	case SYS_SYSENTER:
	case SYS_SYSEXIT:
	case SYS_RETF:
	case SYS_CALL_FAR:
	case SYS_JMP_FAR:
		return sys_transfer(cpu);
	case SYS_WBINVD:
	case SYS_INVD:
		return ring0(cpu);
	case SYS_PAUSE:
		return sys_pause(cpu);
	case SYS_XSAVE:
	case SYS_XSAVEOPT:
	case SYS_XSAVEC:
	case SYS_XRSTOR:
	case SYS_FXSAVE:
	case SYS_FXRSTOR:
	case SYS_FNSTENV:
	case SYS_FLDENV:
	case SYS_FNSAVE:
	case SYS_FRSTOR:
		return sys_xstate(cpu);
	case SYS_CLFLUSH:
		return soft_probe(cpu, soft_ea(cpu), 1, ACCESS_READ, cpu->cpl == 3);
	case SYS_MASKMOV:
		return sys_maskmov(cpu);
	case SYS_GATHER:
		return sys_gather(cpu);
	case SYS_XLAT:
		return sys_xlat(cpu);
	default: /* mwait and monitor are not offered; ud0, ud1, ud2 */
		return soft_raise(cpu, EXC_UD);
	}
}

bool soft_system(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	bool done;

	if (in->system == SYS_INS)
		return sys_ins(cpu);
	if (in->system == SYS_OUTS)
		return sys_outs(cpu);
	if (in->class == INSN_PUSHF)
		done = sys_pushf(cpu);
	else if (in->class == INSN_POPF)
		done = sys_popf(cpu);
	else
		done = execute(cpu);
	if (done)
		cpu->rip = cpu->next_rip;
	return done;
}
