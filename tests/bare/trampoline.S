/* SPDX-License-Identifier: MIT */
/*
 * What another CPU runs after its start-up message: from real mode at TRAMPOLINE to ap_main in
 * 64-bit mode. The code is copied there, so it may only name what is inside it by its offset.
 */
#include "layout.h"

#define AT(label) (TRAMPOLINE + (label) - trampoline)

	.section .rodata
	.balign 16
	.globl	trampoline, trampoline_end, trampoline_cr3, trampoline_stack
	.code16
trampoline:
	cli
	cld
	movw	%cs, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	/* A word that the starter changes: real mode must see memory as everyone does. */
	movw	trampoline_magic - trampoline, %ax
	cmpw	$0x1234, %ax
	jne	2f
	lidtl	trampoline_idtr - trampoline
	lgdtl	trampoline_gdtr - trampoline
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x08, $AT(1f)
2:	hlt
	jmp	2b

	.code32
1:	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$0x20, %eax
	movl	%eax, %cr4
	movl	AT(trampoline_cr3), %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x901, %eax		/* NXE, LME, SCE */
	wrmsr
	movl	$0x80010033, %eax
	movl	%eax, %cr0
	ljmpl	$0x18, $AT(1f)

	.code64
1:	movq	AT(trampoline_stack), %rsp
	xorl	%ebp, %ebp
	movabsq	$ap_main, %rax
	callq	*%rax
	ud2

	.balign 8
trampoline_gdt:
	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
trampoline_gdtr:
	.word	31
	.long	AT(trampoline_gdt)
trampoline_idtr:
	.word	0
	.long	0
trampoline_magic:
	.word	0x1234
	.balign 8
trampoline_cr3:
	.quad	0
trampoline_stack:
	.quad	0
trampoline_end:
	.section .note.GNU-stack, "", @progbits
