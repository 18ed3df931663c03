/* SPDX-License-Identifier: MIT */
/*
 * The assembly of the bare-metal runtime: where the image is entered, the 256 interrupt stubs, and
 * the two halves of exec(), which runs code with every register given until it traps.
 */
#include "layout.h"

	.section .start, "ax"
	.globl	start
start:
	jmp	start_64

/*
 * A multiboot header (version 1, with addresses, because the image is flat), so that other machines
 * can run a program too.
 */
	.balign 4
multiboot:
	.long	0x1badb002, 0x00010000, -0x1baeb002
	.long	multiboot, image_start, image_end, bss_end, start_32

	.code32
start_32:
	movl	$0x2003, 0x1000		/* one PML4, one PDPT, four directories: 4 GiB */
	movl	$0x3003, 0x2000
	movl	$0x4003, 0x2008
	movl	$0x5003, 0x2010
	movl	$0x6003, 0x2018
	movl	$0x83, %eax
	movl	$0x3000, %edi
1:	movl	%eax, (%edi)
	movl	$0, 4(%edi)
	addl	$8, %edi
	addl	$0x200000, %eax
	jnc	1b
	movl	$0x1000, %eax
	movl	%eax, %cr3
	movl	$0x20, %eax
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	$0x80010033, %eax
	movl	%eax, %cr0
	lgdt	start_gdtr
	ljmp	$8, $start_64
	.balign 8
start_gdt:
	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
start_gdtr:
	.word	23
	.long	start_gdt

	.code64
start_64:
	leaq	boot_stack_end(%rip), %rsp
	xorl	%ebp, %ebp
	call	bare_init
	call	main
	movl	%eax, %edi
	call	bare_exit

	.text
/* Each stub is 16 bytes long and leaves an error code, or 0, and its vector on the stack. */
	.balign 16
	.globl	trap_stubs
trap_stubs:
	.set	vector, 0
	.rept	256
	.balign 16
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	pushq	$0
	.endif
	pushq	$vector
	jmp	trap_entry
	.set	vector, vector + 1
	.endr

	.balign 16
trap_entry:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rbx
	pushq	%rbp
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	cld
	movq	%rsp, %rdi
	call	bare_trap
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rbp
	popq	%rbx
	popq	%rdx
	popq	%rcx
	popq	%rax
	addq	$16, %rsp
	iretq

/* void exec_enter(struct regs *, uint64_t *saved_rsp): returns through exec_leave. */
	.globl	exec_enter
exec_enter:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushfq
	movq	%rsp, (%rsi)
	pushq	REGS_SS(%rdi)
	pushq	REGS_RSP(%rdi)
	pushq	REGS_RFLAGS(%rdi)
	pushq	REGS_CS(%rdi)
	pushq	REGS_RIP(%rdi)
	movq	0(%rdi), %r15
	movq	8(%rdi), %r14
	movq	16(%rdi), %r13
	movq	24(%rdi), %r12
	movq	32(%rdi), %r11
	movq	40(%rdi), %r10
	movq	48(%rdi), %r9
	movq	56(%rdi), %r8
	movq	72(%rdi), %rsi
	movq	80(%rdi), %rbp
	movq	88(%rdi), %rbx
	movq	96(%rdi), %rdx
	movq	104(%rdi), %rcx
	movq	112(%rdi), %rax
	movq	64(%rdi), %rdi
	iretq

/* void exec_leave(uint64_t rsp): back to the caller of exec_enter. iretq lets NMIs in again. */
	.globl	exec_leave
exec_leave:
	movl	%ss, %eax
	pushq	%rax
	pushq	%rdi
	pushq	$2
	movl	%cs, %eax
	pushq	%rax
	pushq	$1f
	iretq
1:	popfq
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

	.bss
	.balign 16
	.skip	32768
boot_stack_end:
	.section .note.GNU-stack, "", @progbits
