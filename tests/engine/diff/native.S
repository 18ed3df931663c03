/* SPDX-License-Identifier: MIT */
/*
 * Entering and leaving native test code. All state passes through a page at a fixed low address,
 * which is reached without registers; the exit code is copied into the exit page.
 */
#include "native.h"

	.text
	.globl native_run, native_resume, native_signal, native_exit_start, native_exit_end
	.hidden native_run, native_resume, native_signal, native_exit_start, native_exit_end

/* void native_run(void) */
native_run:
	pushq %rbp
	pushq %rbx
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, CTX_HOST_RSP
	rdfsbase %rax
	movq %rax, CTX_HOST_FS
	movq CTX_XIN, %rbx
	movl CTX_XMASK, %eax
	xorl %edx, %edx
	xrstor64 (%rbx)
	movq CTX_FS, %rax
	movq CTX_GS, %rcx
	wrgsbase %rcx
	pushq CTX_FLAGS
	wrfsbase %rax
	popfq
	movq CTX_GPR + 0, %rax
	movq CTX_GPR + 8, %rcx
	movq CTX_GPR + 16, %rdx
	movq CTX_GPR + 24, %rbx
	movq CTX_GPR + 40, %rbp
	movq CTX_GPR + 48, %rsi
	movq CTX_GPR + 56, %rdi
	movq CTX_GPR + 64, %r8
	movq CTX_GPR + 72, %r9
	movq CTX_GPR + 80, %r10
	movq CTX_GPR + 88, %r11
	movq CTX_GPR + 96, %r12
	movq CTX_GPR + 104, %r13
	movq CTX_GPR + 112, %r14
	movq CTX_GPR + 120, %r15
	movq CTX_GPR + 32, %rsp
	jmp *CTX_RIP

/* In the exit page: the slot has written its number. */
native_exit_start:
	movq %rax, CTX_OUT + 0
	movq %rcx, CTX_OUT + 8
	movq %rdx, CTX_OUT + 16
	movq %rbx, CTX_OUT + 24
	movq %rsp, CTX_OUT + 32
	movq %rbp, CTX_OUT + 40
	movq %rsi, CTX_OUT + 48
	movq %rdi, CTX_OUT + 56
	movq %r8, CTX_OUT + 64
	movq %r9, CTX_OUT + 72
	movq %r10, CTX_OUT + 80
	movq %r11, CTX_OUT + 88
	movq %r12, CTX_OUT + 96
	movq %r13, CTX_OUT + 104
	movq %r14, CTX_OUT + 112
	movq %r15, CTX_OUT + 120
	movq CTX_HOST_RSP, %rsp
	pushfq
	popq CTX_OUT_FLAGS
	rdfsbase %rax
	movq %rax, CTX_OUT_FS
	movl CTX_XMASK, %eax
	xorl %edx, %edx
	movl $CTX_XOUT, %ebx
	xsave64 (%rbx)
	jmp *CTX_RESUME
native_exit_end:

native_resume:
	movq CTX_HOST_FS, %rax
	wrfsbase %rax
	rdgsbase %rax
	movq %rax, CTX_OUT_GS
	movq CTX_HOST_RSP, %rsp
	pushq $0x202
	popfq
	fninit
	ldmxcsr default_mxcsr(%rip)
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbx
	popq %rbp
	ret

/* Signal handler: C code needs its own fs base. */
native_signal:
	rdfsbase %rax
	movq %rax, CTX_OUT_FS
	movq CTX_HOST_FS, %rax
	wrfsbase %rax
	jmp native_caught

	.section .rodata
	.balign 4
default_mxcsr:
	.long 0x1f80
	.section .note.GNU-stack, "", @progbits
