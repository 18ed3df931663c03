/* SPDX-License-Identifier: MIT */
/* System instructions by file: each executes cpu->insn; see soft_system. */
#ifndef VIZOR_SOFT_SYSINT_H
#define VIZOR_SOFT_SYSINT_H

#include "engine/soft/soft.h"

/* segment.c */
struct descriptor {
	uint64_t base;
	uint32_t limit, attr;
	uint64_t address; /* of the descriptor itself */
};
#define SEG_CODE       0x8u
#define SEG_CONFORMING 0x4u
#define SEG_READWRITE  0x2u
#define SEG_ACCESSED   0x1u
/* Read a selector's descriptor; fault: the vector raised when it lies outside its table. */
bool segment_descriptor(struct vcpu *cpu, uint16_t selector, unsigned fault, uint32_t ext,
	struct descriptor *d);
bool segment_mark_accessed(struct vcpu *cpu, struct descriptor *d);
void segment_set(struct vcpu *cpu, unsigned seg, uint16_t selector, const struct descriptor *d);
/* A flat segment as syscall and friends load: code or data of a privilege level. */
void segment_flat(struct vcpu *cpu, unsigned seg, uint16_t selector, unsigned dpl, bool code,
	bool long_code);
/* mov to/from, pop, lfs.., lar, lsl, verr, verw, lldt, ltr, sldt, str */
bool sys_segment(struct vcpu *cpu);
bool sys_base(struct vcpu *cpu); /* rd/wr fs/gs base, swapgs */

/* control.c */
bool sys_control(struct vcpu *cpu); /* cr, dr, clts, smsw, lmsw, lgdt, lidt, sgdt, sidt, invlpg */

/* transfer.c */
/* iret, syscall, sysret, sysenter, sysexit, far call, jmp, ret */
bool sys_transfer(struct vcpu *cpu);

/* Source and destination of a system instruction's ModRM operand. */
bool operand_read(struct vcpu *cpu, uint64_t *value, unsigned size);
bool operand_write(struct vcpu *cpu, uint64_t value, unsigned mem_size);
void gpr_write(struct vcpu *cpu, unsigned reg, uint64_t value, unsigned size);

static inline bool ring0(struct vcpu *cpu)
{
	return cpu->cpl == 0 || soft_raise_error(cpu, EXC_GP, 0);
}

#endif
