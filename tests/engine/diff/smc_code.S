/* SPDX-License-Identifier: MIT */
/*
 * Code that modifies itself, position-independent, each ending at the exit slot with its result in
 * rax and rdx. The code pages are also mapped 0x9000000 above.
 */
	.section .rodata
	.macro begin name
	.globl smc_\name
	.hidden smc_\name
smc_\name:
	.endm
	.macro end
	movl $0x31000000, %r15d
	jmp *%r15
	.endm

/* The next instruction. */
	begin next
	movb $7, 1f+1(%rip)
1:	movl $1, %eax
	end

/* An earlier one, in a loop: 1 + 5 + 5. */
	begin loop
	movl $3, %ecx
	xorl %edx, %edx
1:	movl $1, %eax
	addl %eax, %edx
	movb $5, 1b+1(%rip)
	decl %ecx
	jnz 1b
	end

/* One that changes in each round: 1 + 2 + ... + 50. */
	begin rounds
	movl $50, %ecx
	xorl %edx, %edx
1:	movl $1, %eax
	addl %eax, %edx
	incb 1b+1(%rip)
	decl %ecx
	jnz 1b
	end

/* A function that was called before: 1 + 9. */
	begin function
	call 1f
	movl %eax, %edx
	movb $9, 1f+1(%rip)
	call 1f
	addl %eax, %edx
	end
1:	movl $1, %eax
	ret

/* The same through another mapping of the page. */
	begin alias
	call 1f
	movl %eax, %edx
	leaq 1f+1(%rip), %rbx
	movb $9, 0x9000000(%rbx)
	call 1f
	addl %eax, %edx
	end
1:	movl $1, %eax
	ret

/* By xchg, a vector store, push, and rep movs. */
	begin xchg
	call 1f
	movl $9, %ecx
	xchgl %ecx, 1f+1(%rip)
	call 1f
	movl %ecx, %edx
	end
1:	movl $1, %eax
	ret

	begin vector
	call 1f
	movdqu 2f(%rip), %xmm0
	movdqu %xmm0, 1f(%rip)
	call 1f
	end
2:	movl $0x1234, %eax
	ret
	.fill 16, 1, 0x90
1:	movl $1, %eax
	ret
	.fill 16, 1, 0x90

	begin push
	movl $4, %eax
	movq %rsp, %rbx
	leaq 1f+8(%rip), %rsp
	movabsq $0x909090909090c0ff, %rcx
	pushq %rcx
1:	.fill 8, 1, 0x90
	movq %rbx, %rsp
	end

	begin string
	call 1f
	leaq 2f(%rip), %rsi
	leaq 1f(%rip), %rdi
	movl $6, %ecx
	cld
	rep movsb
	call 1f
	end
2:	movl $0x4321, %eax
	ret
1:	movl $1, %eax
	ret

/* A store beside the code, which changes nothing: 100 rounds. */
	begin beside
	movl $100, %ecx
	xorl %edx, %edx
1:	addl $3, %edx
	movl %edx, 2f(%rip)
	addl 2f(%rip), %eax
	decl %ecx
	jnz 1b
	movl 2f(%rip), %eax
	end
	.balign 64
2:	.long 0

/*
 * An immediate that lies across the page border for some placements, stored to on the far side and
 * then across.
 */
	begin crossing
	call 1f
	movl %eax, %edx
	movb $2, 1f+3(%rip)
	call 1f
	addl %eax, %edx
	movl $0x01010101, 1f+1(%rip)
	call 1f
	addl %eax, %edx
	end
	.org smc_crossing + 64 - 3
1:	movl $1, %eax
	ret

/* Many stores beside the code, then one to it: 3 + 2 + 1. */
	begin tagged
	movl $3, %ebx
1:	movl $5, %ecx
2:	movl %ecx, 4f(%rip)
	decl %ecx
	jnz 2b
	movb %bl, 3f+1(%rip)
	call 3f
	addl %eax, %edx
	decl %ebx
	jnz 1b
	end
3:	movl $7, %eax
	ret
4:	.long 0

/* Every text is copied with so much of what follows it. */
	.fill 160, 1, 0x90

	.section .note.GNU-stack, "", @progbits
