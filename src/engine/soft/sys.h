/* SPDX-License-Identifier: MIT */
/*
 * System instructions that keep to themselves: identification, model-specific registers, time,
 * extended state, masked vector accesses, and port I/O. Each executes cpu->insn (decoded, next_rip
 * set). False: a fault was raised. True: done, and the caller goes on at next_rip; only sys_ins and
 * sys_outs set rip.
 */
#ifndef VIZOR_SOFT_SYS_H
#define VIZOR_SOFT_SYS_H

#include "engine/soft/soft.h"

/* cpuid.c, light */
bool sys_cpuid(struct vcpu *cpu);
bool cpuid_is_amd(void); /* the host's, hence the guest's vendor is AMD or a descendant */

/* msr.c, light but for the paravirtual clock and unknown registers */
bool sys_rdmsr(struct vcpu *cpu);
bool sys_wrmsr(struct vcpu *cpu);

/* kvmclock.c */
bool sys_rdtsc(struct vcpu *cpu);
bool sys_rdtscp(struct vcpu *cpu);
bool sys_rdpid(struct vcpu *cpu);
bool sys_rdpmc(struct vcpu *cpu);
void kvmclock_set_system(struct vcpu *cpu, uint64_t value); /* heavy */
void kvmclock_set_wall(struct vcpu *cpu, uint64_t value);   /* heavy */
/* The guest's TSC or its frequency changed: publish the clock again where one is set. Heavy. */
void kvmclock_update(struct vcpu *cpu);

/*
 * The guest's vector state as the host's XSAVE left it, in the standard format. A component that is
 * not in xstate_bv is in its initial state, whatever its bytes say.
 */
#define XSTATE_X87      1u
#define XSTATE_SSE      2u
#define XSTATE_AVX      4u
#define XSTATE_FCW_INIT 0x37fu
struct xsave_image {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved; /* bit n: physical register n is not empty */
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16]; /* by distance from the top */
	uint8_t xmm[16][16];
	uint8_t unused[96];
	uint64_t xstate_bv, xcomp_bv, zero[6];
	uint8_t ymm_high[16][16];
} __attribute__((may_alias, aligned(64)));

/* xstate.c, heavy */
/* Park, and make the components valid for reading and writing. */
struct xsave_image *sys_image(struct vcpu *cpu, unsigned components);
bool sys_xstate(struct vcpu *cpu); /* xsave, xsaveopt, xsavec, xrstor, fxsave, fxrstor, and x87's */
bool sys_xgetbv(struct vcpu *cpu);
bool sys_xsetbv(struct vcpu *cpu);
/* Is the register unit that cpu->insn needs enabled? False: #UD or #NM raised. */
bool sys_unit_ready(struct vcpu *cpu);

/* x87.c, heavy */
bool sys_x87_state(struct vcpu *cpu, uint64_t ea); /* fnstenv, fldenv, fnsave, frstor */
/* Does an unmasked x87 exception wait for the next x87 instruction? */
bool sys_x87_pending(const struct xsave_image *image);
/* Move the top of the x87 stack; the physical registers keep their values. */
void sys_x87_set_top(struct xsave_image *image, unsigned top);
/* Make the summary bits of the status word follow from the exceptions and their masks. */
void sys_x87_summarize(struct xsave_image *image);
/* The instruction and data pointers are addresses of the host: guests read zeroes. */
void sys_x87_hide_pointers(struct xsave_image *image);

/* vector.c, heavy */
bool sys_maskmov(struct vcpu *cpu);
bool sys_gather(struct vcpu *cpu);

/* portio.c, heavy */
bool sys_in(struct vcpu *cpu);
bool sys_out(struct vcpu *cpu);
/* At most 1024 repetitions: while more are due, rip stays at the instruction. */
bool sys_ins(struct vcpu *cpu);
bool sys_outs(struct vcpu *cpu);

#endif
