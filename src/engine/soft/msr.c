/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers of the software CPU (Intel SDM volume 4; AMD APM volume 2, appendix A):
 * those that hold state of the CPU, and those that systems read without asking whether they exist.
 * All others raise #GP, as on a CPU that lacks them.
 */
#include "base/log.h"
#include "engine/soft/emit.h"
#include "engine/soft/sys.h"

#define MSR_TSC             0x10
#define MSR_PLATFORM_ID     0x17
#define MSR_APIC_BASE       0x1b
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_TSC_ADJUST      0x3b
#define MSR_SPEC_CTRL       0x48
#define MSR_PRED_CMD        0x49
#define MSR_MICROCODE       0x8b
#define MSR_PLATFORM_INFO   0xce
#define MSR_MTRR_CAP        0xfe
#define MSR_ARCH_CAPS       0x10a
#define MSR_MISC_FEATURES   0x140
#define MSR_SYSENTER_CS     0x174
#define MSR_SYSENTER_ESP    0x175
#define MSR_SYSENTER_EIP    0x176
#define MSR_MCG_CAP         0x179
#define MSR_MCG_STATUS      0x17a
#define MSR_MISC_ENABLE     0x1a0
#define MSR_DEBUGCTL        0x1d9
#define MSR_PAT             0x277
#define MSR_MTRR_DEF        0x2ff
#define MSR_TSC_DEADLINE    0x6e0
#define MSR_X2APIC          0x800
#define MSR_X2APIC_END      0x83f
#define MSR_EFER            0xc0000080
#define MSR_STAR            0xc0000081
#define MSR_LSTAR           0xc0000082
#define MSR_CSTAR           0xc0000083
#define MSR_SFMASK          0xc0000084
#define MSR_FS_BASE         0xc0000100
#define MSR_GS_BASE         0xc0000101
#define MSR_KERNEL_GS_BASE  0xc0000102
#define MSR_TSC_AUX         0xc0000103
#define MSR_AMD_SYSCFG      0xc0010010
#define MSR_AMD_HWCR        0xc0010015
#define MSR_AMD_DE_CFG      0xc0011029
#define MSR_KVM_WALL_OLD    0x11
#define MSR_KVM_SYSTEM_OLD  0x12
#define MSR_KVM_WALL        0x4b564d00
#define MSR_KVM_SYSTEM      0x4b564d01

/*
 * Not affected by any of the known leaks: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO,
 * IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO,
 * ITS_NO. The host's kernel defends the host; for the guest the costly answers would buy nothing,
 * as its branches are rewritten anyway.
 */
#define ARCH_CAPS                                                                             \
	(1ull << 0 | 1ull << 1 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 |  \
		1ull << 13 | 1ull << 14 | 1ull << 15 | 1ull << 20 | 1ull << 24 | 1ull << 26 | \
		1ull << 27 | 1ull << 62)

/*
 * IBRS, STIBP, SSBD, and BHI_DIS_S: without it Linux clears the branch history in a loop at every
 * system call, BHI_NO notwithstanding.
 */
#define SPEC_CTRL_VALID  0x407u
#define DEBUGCTL_IGNORED 3u         /* LBR, BTF */
#define MTRR_CAP         (1u << 10) /* write-combining; no ranges: all has the default type */
#define MTRR_DEF_VALID   0xcffu     /* type, fixed enable, enable */
#define MICROCODE_INTEL  (1ull << 32)
#define MICROCODE_AMD    0x01000065u
#define HWCR_TSC_FREQ    (1u << 24) /* the TSC counts at the P0 frequency */
#define DE_CFG_LFENCE    (1u << 1)  /* lfence serializes */

static bool is_lapic(uint32_t msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC && msr <= MSR_X2APIC_END);
}

static bool refuse(struct vcpu *cpu)
{
	return soft_raise_error(cpu, EXC_GP, 0);
}

/* Systems probe for registers; what they looked for helps to understand one that does not start. */
static bool unknown(struct vcpu *cpu, const char *what, uint32_t msr)
{
	static struct log_limit limit;

	soft_fpu_park(cpu);
	if (log_enabled(LOG_DEBUG) && log_allow(&limit, 20))
		log_at(LOG_DEBUG, "CPU %u: %s of unknown MSR %#x at %#llx", cpu->index, what, msr,
			(unsigned long long)cpu->rip);
	return refuse(cpu);
}

/* The registers that are one word of struct vcpu and that any value may be read from. */
static uint64_t *plain(struct vcpu *cpu, uint32_t msr)
{
	switch (msr) {
	case MSR_EFER:
		return &cpu->efer;
	case MSR_STAR:
		return &cpu->star;
	case MSR_LSTAR:
		return &cpu->lstar;
	case MSR_CSTAR:
		return &cpu->cstar;
	case MSR_SFMASK:
		return &cpu->sfmask;
	case MSR_FS_BASE:
		return &cpu->seg_base[SEG_FS];
	case MSR_GS_BASE:
		return &cpu->seg_base[SEG_GS];
	case MSR_KERNEL_GS_BASE:
		return &cpu->kernel_gs_base;
	case MSR_TSC_AUX:
		return &cpu->tsc_aux;
	case MSR_TSC_ADJUST:
		return &cpu->tsc_adjust;
	case MSR_SYSENTER_CS:
		return &cpu->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &cpu->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &cpu->sysenter_eip;
	case MSR_PAT:
		return &cpu->pat;
	case MSR_MTRR_DEF:
		return &cpu->mtrr_def;
	case MSR_MISC_ENABLE:
		return &cpu->misc_enable;
	case MSR_SPEC_CTRL:
		return &cpu->spec_ctrl;
	case MSR_KVM_SYSTEM:
	case MSR_KVM_SYSTEM_OLD:
		return &cpu->kvmclock_system;
	case MSR_KVM_WALL:
	case MSR_KVM_WALL_OLD:
		return &cpu->kvmclock_wall;
	default:
		return NULL;
	}
}

/* Registers of one vendor, which the other does not have. */
static bool foreign(uint32_t msr)
{
	switch (msr) {
	case MSR_PLATFORM_ID:
	case MSR_FEATURE_CONTROL:
	case MSR_PLATFORM_INFO:
	case MSR_ARCH_CAPS:
	case MSR_MISC_FEATURES:
		return cpuid_is_amd();
	case MSR_AMD_SYSCFG:
	case MSR_AMD_HWCR:
	case MSR_AMD_DE_CFG:
		return !cpuid_is_amd();
	default:
		return false;
	}
}

bool soft_rdmsr(struct vcpu *cpu, uint32_t msr, uint64_t *value)
{
	const uint64_t *word = plain(cpu, msr);

	if (word) {
		*value = *word;
		return true;
	}
	if (is_lapic(msr))
		return lapic_msr_read(cpu, msr, value);
	if (foreign(msr))
		return unknown(cpu, "read", msr);
	switch (msr) {
	case MSR_TSC:
		*value = soft_tsc(cpu);
		return true;
	case MSR_MICROCODE:
		*value = cpuid_is_amd() ? MICROCODE_AMD : MICROCODE_INTEL;
		return true;
	case MSR_FEATURE_CONTROL: /* locked */
		*value = 1;
		return true;
	case MSR_MTRR_CAP:
		*value = MTRR_CAP;
		return true;
	case MSR_ARCH_CAPS:
		*value = ARCH_CAPS;
		return true;
	case MSR_AMD_HWCR:
		*value = HWCR_TSC_FREQ;
		return true;
	case MSR_AMD_DE_CFG:
		*value = DE_CFG_LFENCE;
		return true;
	case MSR_PLATFORM_ID:
	case MSR_PLATFORM_INFO:
	case MSR_MISC_FEATURES:
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
	case MSR_DEBUGCTL:
	case MSR_AMD_SYSCFG:
		*value = 0;
		return true;
	default:
		return unknown(cpu, "read", msr);
	}
}

/* The guest moves its TSC: the deadline timer and the paravirtual clock follow. */
static void move_tsc(struct vcpu *cpu, uint64_t by)
{
	uint64_t deadline = cpu->lapic.tsc_deadline;

	if (!by)
		return;
	cpu->tsc_offset += by;
	cpu->tsc_adjust += by;
	if (deadline)
		lapic_msr_write(cpu, MSR_TSC_DEADLINE, deadline);
	kvmclock_update(cpu);
}

static bool valid_pat(uint64_t value)
{
	for (unsigned i = 0; i < 8; i++, value >>= 8)
		if ((value & 0xff) > 7 || (value & 0xff) == 2 || (value & 0xff) == 3)
			return false;
	return true;
}

static bool valid_mtrr_def(uint64_t value)
{
	unsigned type = value & 0xff;

	return !(value & ~(uint64_t)MTRR_DEF_VALID) && type <= 6 && type != 2 && type != 3;
}

/* May value be written to a register of plain()? */
static bool valid(uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
		return soft_canonical(value);
	case MSR_TSC_AUX:
	case MSR_SFMASK:
		return value <= UINT32_MAX;
	case MSR_PAT:
		return valid_pat(value);
	case MSR_MTRR_DEF:
		return valid_mtrr_def(value);
	case MSR_SPEC_CTRL:
		return !(value & ~(uint64_t)SPEC_CTRL_VALID);
	default:
		return true;
	}
}

static bool write_plain(struct vcpu *cpu, uint32_t msr, uint64_t value, uint64_t *word)
{
	if (!valid(msr, value))
		return refuse(cpu);
	switch (msr) {
	case MSR_EFER:
		return soft_set_efer(cpu, value);
	case MSR_TSC_ADJUST:
		move_tsc(cpu, value - cpu->tsc_adjust);
		return true;
	case MSR_KVM_SYSTEM:
	case MSR_KVM_SYSTEM_OLD:
		kvmclock_set_system(cpu, value);
		return true;
	case MSR_KVM_WALL:
	case MSR_KVM_WALL_OLD:
		kvmclock_set_wall(cpu, value);
		return true;
	case MSR_FS_BASE:
		cpu->seg[SEG_FS].base = value;
		break;
	case MSR_GS_BASE:
		cpu->seg[SEG_GS].base = value;
		break;
	}
	*word = value;
	return true;
}

bool soft_wrmsr(struct vcpu *cpu, uint32_t msr, uint64_t value)
{
	uint64_t *word = plain(cpu, msr);

	if (word)
		return write_plain(cpu, msr, value, word);
	if (is_lapic(msr))
		return lapic_msr_write(cpu, msr, value);
	if (foreign(msr))
		return unknown(cpu, "write", msr);
	switch (msr) {
	case MSR_TSC:
		move_tsc(cpu, value - soft_tsc(cpu));
		return true;
	case MSR_PRED_CMD: /* the only command is the indirect branch barrier */
		return value <= 1 ? true : refuse(cpu);
	case MSR_MCG_STATUS:
	case MSR_MISC_FEATURES:
		return value ? refuse(cpu) : true;
	case MSR_DEBUGCTL:
		return value & ~(uint64_t)DEBUGCTL_IGNORED ? refuse(cpu) : true;
	case MSR_MICROCODE: /* is cleared before its revision is asked for */
	case MSR_AMD_SYSCFG:
	case MSR_AMD_HWCR:
	case MSR_AMD_DE_CFG:
		return true;
	default:
		return unknown(cpu, "write", msr);
	}
}

bool sys_rdmsr(struct vcpu *cpu)
{
	uint64_t value;

	if (cpu->cpl)
		return refuse(cpu);
	if (!soft_rdmsr(cpu, (uint32_t)cpu->gpr[RCX], &value))
		return false;
	cpu->gpr[RAX] = (uint32_t)value;
	cpu->gpr[RDX] = value >> 32;
	return true;
}

bool sys_wrmsr(struct vcpu *cpu)
{
	if (cpu->cpl)
		return refuse(cpu);
	return soft_wrmsr(cpu, (uint32_t)cpu->gpr[RCX],
		cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX]);
}
