/* SPDX-License-Identifier: MIT */
/*
 * Where translated code finds things relative to the gs base: the first fields of struct vcpu, and
 * the TLB and branch-cache arrays that follow the struct in one mapping. Read by C and by
 * runtime.S.
 */
#ifndef VIZOR_SOFT_LAYOUT_H
#define VIZOR_SOFT_LAYOUT_H

#define VCPU_GPR         0
#define VCPU_RIP         128
#define VCPU_FLAGS       136
#define VCPU_SEG_BASE    144
#define VCPU_PENDING     208
#define VCPU_HOST_RSP    216
#define VCPU_TEMP        224 /* words: 0 rax or rcx, 1 flags, 2-3 a miss, 4 target, 5 rsp */
#define VCPU_EXIT        272
#define VCPU_SITE        276
#define VCPU_ENTRY       280
#define VCPU_SYSFLAGS    288
#define VCPU_IRQ_WAITING 296

/* Arrays of 65,536 words each. */
#define VCPU_ARRAY_BYTES       0x80000
#define VCPU_ARRAYS            0x10000
#define VCPU_TAG(user, write)  (VCPU_ARRAYS + ((user)*2 + (write)) * VCPU_ARRAY_BYTES)
#define VCPU_HOST(user)        (VCPU_ARRAYS + (4 + (user)) * VCPU_ARRAY_BYTES)
#define VCPU_BRANCH_TAG(user)  (VCPU_ARRAYS + (6 + (user)) * VCPU_ARRAY_BYTES)
#define VCPU_BRANCH_HOST(user) (VCPU_ARRAYS + (8 + (user)) * VCPU_ARRAY_BYTES)
#define VCPU_MAPPING           (VCPU_ARRAYS + 10 * VCPU_ARRAY_BYTES)

#endif
