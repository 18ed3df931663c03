/* SPDX-License-Identifier: MIT */
/*
 * The doors into and out of translated code. This text is never run where the linker puts it: it is
 * copied to the head of the code cache, so that translated code reaches it with 32-bit
 * displacements. It is position-independent and uses nothing but gs-relative memory (layout.h).
 */
#include "engine/soft/layout.h"

#define GPR(n) %gs:(VCPU_GPR + 8 * (n))
#define EXIT_LOOKUP 0
#define EXIT_MISS   1
#define EXIT_INSN   2
#define EXIT_LINK   3
#define EXIT_THUNK  4
#define EXIT_TRAP   5
#define EXIT_POLL   6
#define EXIT_DEAD   7

	.section .rodata.soft_runtime, "a", @progbits
	.balign 64
	.globl soft_runtime_start, soft_runtime_end
	.globl soft_runtime_enter, soft_runtime_lookup, soft_runtime_miss, soft_runtime_insn
	.globl soft_runtime_link, soft_runtime_thunk, soft_runtime_trap, soft_runtime_poll
	.globl soft_runtime_dead
	.hidden soft_runtime_dead
	.hidden soft_runtime_start, soft_runtime_end
	.hidden soft_runtime_enter, soft_runtime_lookup, soft_runtime_miss, soft_runtime_insn
	.hidden soft_runtime_link, soft_runtime_thunk, soft_runtime_trap, soft_runtime_poll
soft_runtime_start:

/* void enter(void): run at gs:ENTRY with the guest's registers until translated code leaves. */
soft_runtime_enter:
	pushq %rbp
	pushq %rbx
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, %gs:VCPU_HOST_RSP
	pushq %gs:VCPU_FLAGS
	popfq
	movq GPR(0), %rax
	movq GPR(1), %rcx
	movq GPR(2), %rdx
	movq GPR(3), %rbx
	movq GPR(5), %rbp
	movq GPR(6), %rsi
	movq GPR(7), %rdi
	movq GPR(8), %r8
	movq GPR(9), %r9
	movq GPR(12), %r12
	movq GPR(13), %r13
	movq GPR(14), %r14
	movq GPR(15), %r15
	movq GPR(4), %rsp
	jmp *%gs:VCPU_ENTRY

	.balign 16
soft_runtime_poll:
	movl $EXIT_POLL, %gs:VCPU_EXIT
	jmp leave
	.balign 16
soft_runtime_dead:
	movl $EXIT_DEAD, %gs:VCPU_EXIT
	jmp leave
	.balign 16
soft_runtime_trap:
	movl $EXIT_TRAP, %gs:VCPU_EXIT
	jmp leave
	.balign 16
soft_runtime_thunk:
	/* A thunk runs with the guest's r10 and r11 in the registers. */
	movq %r10, GPR(10)
	movq %r11, GPR(11)
	movl $EXIT_THUNK, %gs:VCPU_EXIT
	jmp leave
	.balign 16
soft_runtime_link:
	movl $EXIT_LINK, %gs:VCPU_EXIT
	jmp leave
	.balign 16
soft_runtime_insn:
	movl $EXIT_INSN, %gs:VCPU_EXIT
	jmp leave
	.balign 16
soft_runtime_lookup:
	/* From the indirect-branch sequence: rcx was parked. */
	movq %gs:VCPU_TEMP, %rcx
	movl $EXIT_LOOKUP, %gs:VCPU_EXIT
	jmp leave
	.balign 16
soft_runtime_miss:
	/* r10: TLB index, r11: address ^ tag. */
	movq %r10, %gs:(VCPU_TEMP + 16)
	movq %r11, %gs:(VCPU_TEMP + 24)
	movl $EXIT_MISS, %gs:VCPU_EXIT
leave:
	movq %rax, GPR(0)
	movq %rcx, GPR(1)
	movq %rdx, GPR(2)
	movq %rbx, GPR(3)
	movq %rsp, GPR(4)
	movq %rbp, GPR(5)
	movq %rsi, GPR(6)
	movq %rdi, GPR(7)
	movq %r8, GPR(8)
	movq %r9, GPR(9)
	movq %r12, GPR(12)
	movq %r13, GPR(13)
	movq %r14, GPR(14)
	movq %r15, GPR(15)
	movq %gs:VCPU_HOST_RSP, %rsp
	pushfq
	popq %rax
	movq %rax, %gs:VCPU_FLAGS
	cld
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbx
	popq %rbp
	ret
soft_runtime_end:

	.section .note.GNU-stack, "", @progbits
