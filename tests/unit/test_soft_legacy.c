/* SPDX-License-Identifier: MIT */
/*
 * 16- and 32-bit code on the software CPU. The guest's programs are assembled into this one, copied
 * to guest memory at ORG and stepped through until they halt.
 */
#include "engine/soft/mmu.h"
#include "engine/soft/sysint.h"
#include "tap.h"
#include <pthread.h>

extern const struct engine_class engine_soft;

#define RAM   (2u << 20)
#define ORG   0x8000u
#define STACK 0x7000u
#define DATA  0x9000u
#define GDT   0x6000u

static struct engine *engine;
static struct vcpu *cpu;
static uint8_t *ram;
static uint64_t port_number, port_value;
static unsigned port_size;

/* name: a program of 16- or 32-bit code; label "org" is its beginning, for (label - org). */
#define CODE(name, bits, text)                                                                   \
	extern const uint8_t name[], name##_end[];                                               \
	__asm__(".pushsection .rodata\n" #name ":\n.set org, .\n.code" #bits "\n" text "\nhlt\n" \
		".code64\n" #name "_end:\n.popsection\n")

static uint64_t board_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	(void)arg, (void)size;
	return port ? addr * 0x01010101 : ~0ull;
}

static void board_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	(void)arg;
	if (!port)
		return;
	port_number = addr;
	port_size = size;
	port_value = value;
}

/* Real mode at 0800:0000, or flat 32-bit protected mode, with a stack. */
static void prepare(struct vcpu *c, unsigned bits)
{
	static const struct descriptor code = { .base = ORG, .limit = 0xffff, .attr = 0x9b };
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };

	soft_cpu_reset(c, false);
	memcpy(ram + GDT, gdt, sizeof(gdt));
	c->gdt = (struct cpu_table){ GDT, sizeof(gdt) - 1 };
	c->mp = CPU_MP_RUNNING;
	if (bits == 16) {
		segment_set(c, SEG_CS, ORG >> 4, &code);
		c->rip = 0;
	} else {
		c->cr0 |= CR0_PE;
		segment_flat(c, SEG_CS, 8, 0, true, false);
		for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
			if (seg != SEG_CS)
				segment_flat(c, seg, 16, 0, false, false);
		c->rip = ORG;
	}
	c->gpr[CPU_RSP] = STACK;
}

/* Until it halts, faults, or is in 64-bit mode: then true. */
static bool run(struct vcpu *c)
{
	for (unsigned i = 0; i < 1000000; i++) {
		if (!soft_legacy_step(c) || c->mp == CPU_MP_HALTED)
			return false;
		if (c->long_mode)
			return true;
	}
	return false;
}

static bool load_and_run(const uint8_t *code, const uint8_t *end, unsigned bits)
{
	memcpy(ram + ORG, code, (size_t)(end - code));
	prepare(cpu, bits);
	return run(cpu);
}

#define RUN_CODE(name, bits) load_and_run(name, name##_end, bits)
#define EAX                  ((uint32_t)cpu->gpr[CPU_RAX])
#define EBX                  ((uint32_t)cpu->gpr[CPU_RBX])
#define ECX                  ((uint32_t)cpu->gpr[CPU_RCX])
#define EDX                  ((uint32_t)cpu->gpr[CPU_RDX])
#define ESI                  ((uint32_t)cpu->gpr[CPU_RSI])
#define EDI                  ((uint32_t)cpu->gpr[CPU_RDI])
#define EBP                  ((uint32_t)cpu->gpr[CPU_RBP])
#define ESP                  ((uint32_t)cpu->gpr[CPU_RSP])
#define ARITH                (cpu->flags & FLAGS_ARITH)
#define HALTED               (cpu->mp == CPU_MP_HALTED && !cpu->fault.valid)

static uint32_t data32(unsigned offset)
{
	uint32_t v;

	memcpy(&v, ram + DATA + offset, 4);
	return v;
}

static void set_data(const void *bytes, unsigned n)
{
	memset(ram + DATA, 0, 0x1000);
	memcpy(ram + DATA, bytes, n);
}

/*
 * --- arithmetic
 * -------------------------------------------------------------------------------------
 */

CODE(arith16, 16,
	"mov $0x7fff, %ax\n add $1, %ax\n pushf\n pop %bx\n" /* overflow into the sign */
	"mov $0xff, %cl\n add $1, %cl\n pushf\n pop %dx\n"   /* carry, zero */
	"stc\n mov $0x10, %si\n sbb $0x0f, %si\n pushf\n pop %di\n"
	"mov $0x12345678, %ebp\n add $0x1000, %bp\n");

static void arithmetic_16(void)
{
	RUN_CODE(arith16, 16);
	CHECK(HALTED);
	CHECK_EQ(EAX, 0x8000);
	CHECK_EQ(EBX & FLAGS_ARITH, FLAG_OF | FLAG_SF | FLAG_PF | FLAG_AF);
	CHECK_EQ(ECX, 0);
	CHECK_EQ(EDX & FLAGS_ARITH & 0xff, FLAG_CF | FLAG_ZF | FLAG_PF | FLAG_AF);
	CHECK_EQ(ESI, 0);
	CHECK_EQ(EDI & FLAGS_ARITH, FLAG_ZF | FLAG_PF | FLAG_AF);
	CHECK_EQ(EBP, 0x12346678);
}

CODE(arith32, 32,
	"mov $0x9000, %ebx\n movl $5, (%ebx)\n addl $-6, (%ebx)\n sbb %eax, %eax\n" /* 5 - 6 */
	"movb $0x80, 4(%ebx)\n incb 4(%ebx)\n decw 4(%ebx)\n negl 8(%ebx)\n notb 12(%ebx)\n"
	"mov $0xff00ff00, %ecx\n xor %ch, %cl\n and $0xf0, %ch\n or %cl, %ch\n"
	"mov $10, %edx\n cmp $20, %edx\n setb %dh\n cmovl %ecx, %esi\n cmovg %ebx, %esi\n"
	"test $0x0a, %dl\n");

static void arithmetic_32(void)
{
	static const uint32_t before[] = { 0, 0, 3, 0xff };

	set_data(before, sizeof(before));
	RUN_CODE(arith32, 32);
	CHECK(HALTED);
	CHECK_EQ(data32(0), 0xffffffff);
	CHECK_EQ(EAX, 0); /* 5 + 0xfffffffa has no carry */
	CHECK_EQ(data32(4), 0x80);
	CHECK_EQ(data32(8), 0xfffffffd);
	CHECK_EQ(data32(12), 0);
	CHECK_EQ(ECX, 0xff00ffff);
	CHECK_EQ(EDX, 0x10a);
	CHECK_EQ(ESI, 0xff00ffff);
	CHECK_EQ(ARITH, FLAG_PF);
}

CODE(muldiv, 32,
	"mov $0x10000, %eax\n mov $0x30000, %ecx\n mul %ecx\n push %edx\n" /* 3:00000000 */
	"mov $-3, %eax\n mov $7, %ecx\n imul %ecx\n push %eax\n push %edx\n"
	"mov $-22, %eax\n cltd\n idiv %ecx\n push %eax\n push %edx\n"
	"mov $0x123, %ax\n mov $0x10, %cl\n div %cl\n push %eax\n"
	"imul $-5, %ecx, %esi\n imul %esi, %esi\n"
	"mov $200, %al\n mov $2, %bl\n mul %bl\n mov %ax, %bp\n"
	"mov $-100, %al\n cbw\n cwd\n");

static void multiply_divide(void)
{
	const uint32_t *stack = (const uint32_t *)(ram + STACK);

	RUN_CODE(muldiv, 32);
	CHECK(HALTED);
	CHECK_EQ(stack[-1], 3);
	CHECK_EQ(stack[-2], (uint32_t)-21);
	CHECK_EQ(stack[-3], UINT32_MAX);
	CHECK_EQ(stack[-4], (uint32_t)-3);
	CHECK_EQ(stack[-5], (uint32_t)-1);
	CHECK_EQ(stack[-6] & 0xffff, 0x0312);
	CHECK_EQ(ESI, 80 * 80);
	CHECK_EQ(EBP & 0xffff, 400);
	CHECK_EQ(EAX & 0xffff, 0xff9c);
	CHECK_EQ(EDX & 0xffff, 0xffff);
}

CODE(div_zero, 32, "xor %ecx, %ecx\n push %ecx\n div %ecx\n");
CODE(div_large, 32, "mov $2, %edx\n mov $2, %ecx\n div %ecx\n");
CODE(div_least, 32, "mov $0x80000000, %edx\n xor %eax, %eax\n mov $-1, %ecx\n idiv %ecx\n");

static void divide_errors(void)
{
	RUN_CODE(div_zero, 32);
	CHECK(cpu->fault.valid && cpu->fault.vector == EXC_DE);
	CHECK_EQ(cpu->rip, ORG + 3);
	CHECK_EQ(ESP, STACK - 4);
	RUN_CODE(div_large, 32);
	CHECK(cpu->fault.valid && cpu->fault.vector == EXC_DE);
	CHECK_EQ(EDX, 2);
	RUN_CODE(div_least, 32);
	CHECK(cpu->fault.valid && cpu->fault.vector == EXC_DE);
}

CODE(shifts, 32,
	"mov $0x80000001, %eax\n rol $1, %eax\n mov $0xf0, %bl\n sar $2, %bl\n"
	"mov $4, %cl\n mov $0x1234, %dx\n shl %cl, %dx\n shr %dx\n"
	"mov $0x12345678, %esi\n mov $0x9abcdef0, %edi\n"
	"shld $8, %edi, %esi\n shrd %cl, %esi, %edi\n"
	"stc\n mov $1, %ebp\n rcr $1, %ebp\n pushf\n bswap %ebp\n popf\n");

static void shift_and_rotate(void)
{
	RUN_CODE(shifts, 32);
	CHECK(HALTED);
	CHECK_EQ(EAX, 3);
	CHECK_EQ(EBX & 0xff, 0xfc);
	CHECK_EQ(EDX & 0xffff, 0x11a0);
	CHECK_EQ(ESI, 0x3456789a);
	CHECK_EQ(EDI, 0xa9abcdef);
	CHECK_EQ(EBP, 0x80);
	CHECK(ARITH & FLAG_CF);
}

CODE(bits, 32,
	"mov $0x9000, %ebx\n mov $70, %eax\n bts %eax, (%ebx)\n" /* bit 6 of the third word */
	"mov $-1, %ecx\n add $4, %ebx\n btc %ecx, (%ebx)\n"      /* bit 31 of the first */
	"mov $0xff, %edx\n btr $35, %edx\n setc %al\n bt $3, %edx\n setc %ah\n"
	"mov $0x00f0, %esi\n bsf %esi, %edi\n bsr %esi, %ebp\n xor %esi, %esi\n bsf %esi, %edi\n");

static void bit_instructions(void)
{
	set_data("", 0);
	RUN_CODE(bits, 32);
	CHECK(HALTED);
	CHECK_EQ(data32(0), 0x80000000);
	CHECK_EQ(data32(8), 0x40);
	CHECK_EQ(EDX, 0xf7);
	CHECK_EQ(EAX & 0xffff, 1);
	CHECK_EQ(EDI, 4);
	CHECK_EQ(EBP, 7);
	CHECK(ARITH & FLAG_ZF);
}

CODE(exchanges, 32,
	"mov $0x9000, %ebx\n mov $7, %eax\n mov $9, %ecx\n lock cmpxchg %ecx, (%ebx)\n" /* equal */
	"lock cmpxchg %edx, (%ebx)\n" /* not equal: eax = 9 */
	"mov $5, %edx\n lock xadd %edx, 4(%ebx)\n"
	"mov $0x1122, %si\n xchg %si, 8(%ebx)\n"
	"mov $1, %edi\n xadd %edi, %edi\n"
	"mov $0x33, %ch\n xchg %ch, 12(%ebx)\n lock decb 13(%ebx)\n");

static void compare_and_exchange(void)
{
	static const uint32_t before[] = { 7, 100, 0xaaaabbbb, 0x44 };

	set_data(before, sizeof(before));
	RUN_CODE(exchanges, 32);
	CHECK(HALTED);
	CHECK_EQ(EAX, 9);
	CHECK_EQ(data32(0), 9);
	CHECK_EQ(data32(4), 105);
	CHECK_EQ(EDX, 100);
	CHECK_EQ(data32(8), 0xaaaa1122);
	CHECK_EQ(ESI, 0xbbbb);
	CHECK_EQ(EDI, 2);
	CHECK_EQ(ECX, 0x4409);
	CHECK_EQ(data32(12), 0xff33);
}

/*
 * --- addresses, stack, strings
 * ----------------------------------------------------------------------
 */

CODE(address16, 16,
	"mov $0x900, %ax\n mov %ax, %ds\n mov %ax, %ss\n mov $0x10, %bx\n mov $0x20, %si\n"
	"mov $0x40, %di\n mov $0x80, %bp\n"
	"movb $1, (%bx,%si)\n movb $2, (%bx,%di)\n movb $3, 1(%bp,%si)\n movb $4, 2(%bp,%di)\n"
	"movb $5, (%si)\n movb $6, -1(%di)\n movb $7, 0x300(%bp)\n"
	"movb $8, (%bx)\n movb $9, 0x777\n"
	"movb $10, %es:0x9400\n movb $11, -1(%bx)\n mov $0xfff0, %bx\n movb $12, 0x20(%bx)\n"
	"mov $0x500, %eax\n movb $13, 4(%eax,%eax,2)\n lea 2(%bp,%di), %cx\n mov 0x777, %al\n");

static void addresses_16(void)
{
	set_data("", 0);
	RUN_CODE(address16, 16);
	CHECK(HALTED);
	CHECK_EQ(ram[DATA + 0x30], 1);
	CHECK_EQ(ram[DATA + 0x50], 2);
	CHECK_EQ(ram[DATA + 0xa1], 3);
	CHECK_EQ(ram[DATA + 0xc2], 4);
	CHECK_EQ(ram[DATA + 0x20], 5);
	CHECK_EQ(ram[DATA + 0x3f], 6);
	CHECK_EQ(ram[DATA + 0x380], 7);
	CHECK_EQ(ram[DATA + 0x777], 9);
	CHECK_EQ(ram[DATA + 0x400], 10);
	CHECK_EQ(ram[DATA + 0x0f], 11);
	CHECK_EQ(ram[DATA + 0x10], 12); /* over the 8 of (%bx): the offset wraps */
	CHECK_EQ(ram[DATA + 0xf04], 13);
	CHECK_EQ(ECX, 0xc2);
	CHECK_EQ(EAX & 0xff, 9);
}

CODE(address32, 32,
	"mov $0x9000, %ebx\n mov $4, %ecx\n movl $1, (%ebx,%ecx,4)\n movl $2, 0x100(%ebx)\n"
	"movl $3, 0x9200(,%ecx,8)\n mov %ebx, %ebp\n movl $4, 0x30(%ebp)\n movl $5, 0x9034\n"
	"mov %ebx, %esp\n movl $6, 0x38(%esp)\n add $0x80, %esp\n push $8\n pop 4(%esp)\n"
	"mov $0x1, %esi\n mov $0xc, %bx\n movl $7, %ds:-12(%ebp,%esi,2)\n"
	"mov $0x9040, %di\n addr16 movl $9, (%di)\n movzbl 0x9010, %eax\n movsbl 0x9050, %edx\n"
	"movswl 0x9050, %esi\n lea -1(%ecx,%ecx,8), %edi\n mov 0x9034, %ebp\n");

static void addresses_32(void)
{
	set_data("", 0);
	ram[DATA + 0x50] = 0x80;
	ram[DATA + 0x51] = 0xff;
	RUN_CODE(address32, 32);
	CHECK(HALTED);
	CHECK_EQ(data32(0x10), 1);
	CHECK_EQ(data32(0x100), 2);
	CHECK_EQ(data32(0x220), 3);
	CHECK_EQ(data32(0x30), 4);
	CHECK_EQ(data32(0x34), 5);
	CHECK_EQ(data32(0x38), 6);
	CHECK_EQ(data32(0x84), 8); /* the address is that after the pop */
	CHECK_EQ(data32(0x40), 9);
	CHECK_EQ(EAX, 1);
	CHECK_EQ(EDX, 0xffffff80);
	CHECK_EQ(ESI, 0xffffff80);
	CHECK_EQ(EDI, 35);
	CHECK_EQ(EBP, 5);
}

CODE(stack16, 16,
	"mov $0x1111, %ax\n mov $0x2222, %bx\n pusha\n pop %si\n pop %si\n add $12, %sp\n"
	"push $-2\n pop %cx\n pushl $0x12345678\n pop %dx\n pop %di\n"
	"push %cs\n pop %ds\n mov $0x11234, %esp\n push %ax\n mov %sp, %bp\n push %bx\n leave\n"
	"mov %ax, %bp\n"
	"call 1f\n mov $0x77, %al\n hlt\n1: ret\n");

static void stack_16(void)
{
	RUN_CODE(stack16, 16);
	CHECK(HALTED);
	CHECK_EQ(ECX, 0xfffe);
	CHECK_EQ(EDX & 0xffff, 0x5678);
	CHECK_EQ(EDI, 0x1234);
	CHECK_EQ(cpu->seg[SEG_DS].base, ORG);
	CHECK_EQ(cpu->seg[SEG_DS].selector, ORG >> 4);
	CHECK_EQ(EAX, 0x1177);
	CHECK_EQ(EBP, 0x1111);
	CHECK_EQ(ESP, 0x11234); /* the upper half is not the stack's */
}

CODE(stack32, 32,
	"mov $1, %eax\n mov $2, %ecx\n mov $5, %ebp\n pushal\n xor %eax, %eax\n popal\n"
	"pushl $0x200cd5\n popfl\n pushfl\n pop %ebx\n cld\n"
	"push $(1f - org + 0x8000)\n ret $4\n hlt\n1: mov %esp, %esi\n"
	"mov $(2f - org + 0x8000), %edx\n call *%edx\n jmp 3f\n2: pop %edi\n push %edi\n ret\n"
	"3: push %ds\n pop %es\n sahf\n lahf\n");

static void stack_32(void)
{
	RUN_CODE(stack32, 32);
	CHECK(HALTED);
	CHECK_EQ(ECX, 2);
	CHECK_EQ(EBP, 5);
	CHECK_EQ(EBX, 0x200cd7);
	CHECK_EQ(ESI, STACK + 4);
	CHECK_EQ(cpu->sysflags & FL_ID, FL_ID);
	CHECK_EQ(cpu->seg[SEG_ES].selector, 16);
	CHECK_EQ(EAX, 0x0201);
}

CODE(strings, 32,
	"cld\n mov $0x9000, %esi\n mov $0x9100, %edi\n mov $3, %ecx\n rep movsl\n movsb\n"
	"push %esi\n push %edi\n"
	"mov $0x9200, %edi\n mov $0x41, %al\n mov $10000, %ecx\n rep stosb\n"
	"mov $0x9000, %edi\n xor %al, %al\n mov $-1, %ecx\n repne scasb\n not %ecx\n push %ecx\n"
	"mov $0x9000, %esi\n mov $0x9100, %edi\n mov $20, %ecx\n repe cmpsb\n push %ecx\n"
	"std\n mov $0x9003, %esi\n lodsb\n mov %al, %bl\n"
	"lodsw\n cld\n xor %ecx, %ecx\n rep stosl\n");

static void string_instructions(void)
{
	const uint32_t *stack = (const uint32_t *)(ram + STACK);

	set_data("hello, world", 13);
	memset(ram + DATA + 0x110, 1, 16);
	RUN_CODE(strings, 32);
	CHECK(HALTED);
	CHECK(memcmp(ram + DATA + 0x100, "hello, world", 13) == 0);
	CHECK_EQ(stack[-1], DATA + 13);
	CHECK_EQ(stack[-2], DATA + 0x10d);
	CHECK_EQ(ram[DATA + 0x200], 0x41);
	CHECK_EQ(ram[DATA + 0x200 + 9999], 0x41);
	CHECK_EQ(ram[DATA + 0x200 + 10000], 0);
	CHECK_EQ(stack[-3], 13);
	CHECK_EQ(stack[-4], 3); /* the 17th byte differs */
	CHECK_EQ(EBX & 0xff, 'l');
	CHECK_EQ(EAX & 0xffff, 'l' | 'l' << 8);
	CHECK_EQ(ESI, DATA);
}

CODE(string16, 16,
	"mov $0xfffe, %di\n mov $4, %cx\n mov $0x5a, %al\n rep stosb\n hlt\n"
	"1: mov $0x9000, %si\n es lodsb\n");

static void strings_wrap_16(void)
{
	ram[0xfffe] = ram[0xffff] = ram[0] = ram[1] = ram[0x10000] = 0;
	RUN_CODE(string16, 16);
	CHECK_EQ(EDI, 2);
	CHECK_EQ(ram[0xfffe], 0x5a);
	CHECK_EQ(ram[1], 0x5a);
	CHECK_EQ(ram[0x10000], 0);
}

/*
 * --- control
 * ----------------------------------------------------------------------------------------
 */

CODE(conditions, 32,
	"mov $100, %ecx\n xor %eax, %eax\n"
	"cmp $1, %eax\n jae 9f\n jbe 1f\n jmp 9f\n1: jl 1f\n jmp 9f\n1: jle 1f\n jmp 9f\n"
	"1: jg 9f\n jge 9f\n js 1f\n jmp 9f\n1: jns 9f\n jc 1f\n jmp 9f\n"
	"1: jo 9f\n jno 1f\n jmp 9f\n1: jp 1f\n jmp 9f\n1: jnp 9f\n jz 9f\n jne 1f\n jmp 9f\n"
	"1: jne.d32 1f\n jmp 9f\n1:\n"
	"2: inc %eax\n loop 2b\n jecxz 3f\n jmp 9f\n"
	"3: mov $5, %ecx\n4: cmp $2, %ecx\n loopne 4b\n push %ecx\n pop %ebx\n"
	"mov $3, %ecx\n5: cmp %eax, %eax\n loope 5b\n jmp 8f\n"
	"9: mov $-1, %eax\n8:\n");

static void conditions_and_loops(void)
{
	RUN_CODE(conditions, 32);
	CHECK(HALTED);
	CHECK_EQ(EAX, 100);
	CHECK_EQ(EBX, 1);
	CHECK_EQ(ECX, 0);
}

CODE(wrap16, 16, "jmp 1f\n hlt\n 1: mov $1, %ax\n .byte 0xe9\n .word 0xfff0 - (2f - org)\n 2:\n");

static void jumps_wrap_16(void)
{
	static const uint8_t there[] = { 0xb3, 0x55, 0xf4 }; /* mov $0x55, %bl; hlt */

	memcpy(ram + ORG + 0xfff0, there, sizeof(there));
	RUN_CODE(wrap16, 16);
	CHECK(HALTED);
	CHECK_EQ(EBX, 0x55);
	CHECK_EQ(cpu->rip, 0xfff3);
	/* and so does the end of the segment */
	memset(ram + ORG + 0xfff0, 0x90, 16);
	ram[ORG] = 0xf4;
	prepare(cpu, 16);
	cpu->rip = 0xfff0;
	run(cpu);
	CHECK(HALTED);
	CHECK_EQ(cpu->rip, 1);
}

CODE(real_far, 16,
	"ljmp $0x801, $(1f - org - 0x10)\n hlt\n .fill 32\n"
	"1: mov %cs, %ax\n lcall $0x800, $(2f - org)\n mov $3, %dl\n"
	"movw $(3f - org), 0x84\n movw $0x800, 0x86\n sti\n int $0x21\n mov $4, %dh\n hlt\n"
	"2: mov %cs, %bx\n lret\n"
	"3: pushf\n pop %si\n mov %sp, %bp\n mov 4(%bp), %di\n iret\n");

static void real_mode_far(void)
{
	RUN_CODE(real_far, 16);
	CHECK(HALTED);
	CHECK_EQ(EAX, 0x801);
	CHECK_EQ(EBX, 0x800);
	CHECK_EQ(EDX & 0xffff, 0x403);
	CHECK_EQ(ESI & FL_IF, 0);
	CHECK_EQ(EDI & FL_IF, FL_IF);
	CHECK(cpu->sysflags & FL_IF);
	CHECK_EQ(ESP & 0xffff, STACK);
	CHECK_EQ(cpu->seg[SEG_CS].base, 0x8010);
}

CODE(tables, 16,
	"lgdt 0x9000\n sgdt 0x9010\n data32 lidt 0x9000\n sidt 0x9020\n smsw %ax\n"
	"mov $0x10, %dx\n out %al, %dx\n in $0x42, %al\n in %dx, %eax\n mov %eax, %ebx\n"
	"mov $0x1234, %ax\n out %ax, $0x80\n");

static void tables_and_ports(void)
{
	static const uint8_t table[] = { 0x27, 0, 0x44, 0x33, 0x22, 0x11 };

	set_data(table, sizeof(table));
	RUN_CODE(tables, 16);
	CHECK(HALTED);
	CHECK_EQ(cpu->gdt.limit, 0x27);
	CHECK_EQ(cpu->gdt.base, 0x223344); /* 24 bits with 16-bit operands */
	CHECK_EQ(cpu->idt.base, 0x11223344);
	CHECK_EQ(data32(0x10), 0x33440027);
	CHECK_EQ(data32(0x22), 0x11223344);
	CHECK_EQ(EBX, 0x10101010);
	CHECK_EQ(port_number, 0x80);
	CHECK_EQ(port_size, 2);
	CHECK_EQ(port_value, 0x1234);
}

CODE(identify, 16,
	"pushfl\n popl %eax\n movl %eax, %ebx\n xorl $0x200000, %eax\n pushl %eax\n popfl\n"
	"pushfl\n popl %eax\n xorl %eax, %ebx\n movl $0x80000000, %eax\n cpuid\n movl %eax, %esi\n"
	"movl $1, %eax\n cpuid\n movl %edx, %edi\n movl $0xc0000080, %ecx\n rdmsr\n bts $8, %eax\n"
	"wrmsr\n rdtsc\n wbinvd\n pause\n nopw (%bx)\n sti\n");

static void identification(void)
{
	RUN_CODE(identify, 16);
	CHECK(HALTED);
	CHECK(ESI >= 0x80000001);
	CHECK(EDI & 1u << 6); /* PAE */
	CHECK_EQ(cpu->efer, EFER_LME);
	CHECK(cpu->sysflags & FL_IF);
}

CODE(undefined, 32, "push %eax\n .byte 0x0f, 0x0b\n");
CODE(undefined_lea, 32, "lea 1(%eax), %ecx\n .byte 0x8d, 0xc0\n");
CODE(bad_push, 32, "mov $0x28, %eax\n mov %eax, %ss\n");

static void undefined_opcodes(void)
{
	RUN_CODE(undefined, 32);
	CHECK(cpu->fault.valid && cpu->fault.vector == EXC_UD);
	CHECK_EQ(cpu->rip, ORG + 1);
	RUN_CODE(undefined_lea, 32);
	CHECK(cpu->fault.valid && cpu->fault.vector == EXC_UD);
	CHECK_EQ(cpu->rip, ORG + 3);
	/* Beyond the table of descriptors: #GP of the selector. */
	RUN_CODE(bad_push, 32);
	CHECK(cpu->fault.valid && cpu->fault.vector == EXC_GP);
	CHECK_EQ(cpu->fault.error, 0x28);
	/* Other privilege levels are not run. */
	prepare(cpu, 32);
	cpu->cpl = 3;
	CHECK(!soft_legacy_step(cpu));
	CHECK_EQ(cpu->fault.vector, EXC_UD);
	/* Fifteen bytes are an instruction's most. */
	memset(ram + ORG, 0x66, 16);
	prepare(cpu, 32);
	CHECK(!soft_legacy_step(cpu));
	CHECK_EQ(cpu->fault.vector, EXC_GP);
}

/*
 * --- to 64-bit mode
 * ---------------------------------------------------------------------------------
 */

#define TABLES 0x20000u

/* Identity-mapped large pages over 1 GiB. */
static void make_tables(void)
{
	uint64_t *table = (uint64_t *)(ram + TABLES);

	memset(table, 0, 0x3000);
	table[0] = (TABLES + 0x1000) | 3;
	table[512] = (TABLES + 0x2000) | 3;
	for (uint64_t i = 0; i < 512; i++)
		table[1024 + i] = i << 21 | 0x83;
}

/* A start-up message's code as operating systems have it: real, protected, compatibility mode. */
CODE(trampoline, 16,
	"cli\n wbinvd\n mov %cs, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n"
	"mov $0xff0, %sp\n call 5f\n testl %eax, %eax\n jnz 9f\n"
	"lidtl 6f - org\n lgdtl 7f - org\n movw $1, %ax\n lmsw %ax\n ljmpl *(8f - org)\n"
	"5: pushf\n push $0\n popf\n xorl %eax, %eax\n cpuid\n popf\n xorl %eax, %eax\n ret\n"
	".code32\n"
	"1: mov $0x18, %edx\n mov %edx, %ss\n mov %edx, %ds\n mov %edx, %es\n mov %edx, %fs\n"
	"2: lock btsl $0, 0x9000\n jnc 3f\n pause\n jmp 2b\n"
	"3: movl $0x9ff0, %esp\n movl $0x20, %eax\n movl %eax, %cr4\n movl $0x20000, %eax\n"
	"movl %eax, %cr3\n movl $0xc0000080, %ecx\n movl $0x901, %eax\n xorl %edx, %edx\n wrmsr\n"
	"movl $0x80010001, %eax\n movl %eax, %cr0\n"
	"movl $0x5a5a, %esi\n ljmpl *(4f - org + 0x8000)\n"
	"9: hlt\n"
	".balign 8\n"
	"6: .word 0\n .long 0\n"
	"7: .word 31\n .long 9f - org + 0x8000\n"
	"8: .long 1b - org + 0x8000\n .word 8, 0\n"
	"4: .long 0x12345678\n .word 16, 0\n"
	".balign 8\n"
	"9: .quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff\n");

static void trampoline_to_long_mode(void)
{
	set_data("", 0);
	make_tables();
	memcpy(ram + ORG, trampoline, (size_t)(trampoline_end - trampoline));
	soft_cpu_reset(cpu, false);
	atomic_store(&cpu->lapic.init_sipi, 0x803);
	lapic_take_init_sipi(cpu);
	CHECK(run(cpu));
	CHECK(!cpu->fault.valid);
	CHECK_EQ(cpu->rip, 0x12345678);
	CHECK_EQ(cpu->efer, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE);
	CHECK_EQ(cpu->cr0 & (CR0_PG | CR0_WP | CR0_PE), CR0_PG | CR0_WP | CR0_PE);
	CHECK_EQ(cpu->cr3, 0x20000);
	CHECK_EQ(cpu->seg[SEG_CS].selector, 16);
	CHECK_EQ(cpu->seg[SEG_SS].selector, 0x18);
	CHECK_EQ(cpu->cpl, 0);
	CHECK_EQ(ESI, 0x5a5a);
	CHECK_EQ(data32(0), 1);
}

/* The 32-bit entry of a kernel that was loaded by a 32-bit boot protocol. */
CODE(pvh, 32,
	"cld\n lgdt (1f - org + 0x8000)\n mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n"
	"mov %eax, %ss\n mov $0x9100, %edi\n mov %ebx, %esi\n"
	"mov $40, %ecx\n shr $2, %ecx\n rep movsl\n"
	"mov $0x9f00, %esp\n mov %cr4, %eax\n orl $0x20, %eax\n mov %eax, %cr4\n"
	"mov $0xc0000080, %ecx\n rdmsr\n btsl $8, %eax\n"
	"wrmsr\n mov $0x20000, %eax\n mov %eax, %cr3\n"
	"mov $0x80000001, %eax\n mov %eax, %cr0\n push $8\n push $0x123456\n lret\n"
	"1: .word 23\n .long 2f - org + 0x8000\n"
	"2: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff\n");

static void pvh_entry_to_long_mode(void)
{
	set_data("start of day information in forty bytes", 40);
	make_tables();
	memcpy(ram + ORG, pvh, (size_t)(pvh_end - pvh));
	prepare(cpu, 32);
	cpu->gpr[CPU_RBX] = DATA;
	CHECK(run(cpu));
	CHECK_EQ(cpu->rip, 0x123456);
	CHECK(memcmp(ram + DATA, ram + DATA + 0x100, 40) == 0);
	CHECK_EQ(ESP, 0x9f00);
	CHECK_EQ(cpu->seg[SEG_CS].attr & SEG_L, SEG_L);
}

CODE(crossing, 32, "nop\n");

/* In compatibility mode faults are those of the page tables. */
static void page_fault_in_fetch(void)
{
	uint64_t *table;

	make_tables();
	table = (uint64_t *)(ram + TABLES);
	table[1024] = (TABLES + 0x3000) | 3;
	for (uint64_t i = 0; i < 512; i++)
		table[1536 + i] = i << 12 | 3;
	table[1536 + 9] = 0;
	RUN_CODE(crossing, 32);
	cpu->cr4 = CR4_PAE;
	cpu->cr3 = TABLES;
	cpu->efer = EFER_LME;
	CHECK(soft_set_cr0(cpu, cpu->cr0 | CR0_PG));
	CHECK(!cpu->long_mode);
	ram[0x8ffe] = 0xb8; /* mov $..., %eax: four of its bytes are on the absent page */
	cpu->rip = 0x8ffe;
	CHECK(!soft_legacy_step(cpu));
	CHECK_EQ(cpu->fault.vector, EXC_PF);
	CHECK_EQ(cpu->fault.address, 0x9000);
	CHECK_EQ(cpu->rip, 0x8ffe);
	/* A push that faults leaves the stack pointer. */
	ram[0x8ff0] = 0x60;
	cpu->rip = 0x8ff0;
	cpu->gpr[CPU_RSP] = 0xa008;
	CHECK(!soft_legacy_step(cpu));
	CHECK_EQ(cpu->fault.address, 0x9ffc);
	CHECK_EQ(ESP, 0xa008);
	soft_cpu_reset(cpu, false);
}

/*
 * --- other CPUs
 * -------------------------------------------------------------------------------------
 */

CODE(contend, 32,
	"mov $30000, %ecx\n1: lock incl 0x9000\n mov $1, %eax\n lock xaddw %ax, 0x9004\n"
	"2: lock btsl $0, 0x9008\n jc 2b\n incl 0x900c\n movl $0, 0x9008\n loop 1b\n");

static pthread_barrier_t start;

static void *contender(void *arg)
{
	struct vcpu *c = arg;

	pthread_barrier_wait(&start);
	soft_running(c);
	run(c);
	soft_not_running(c);
	return NULL;
}

static void locks_are_atomic(void)
{
	pthread_t thread[2];

	pthread_barrier_init(&start, NULL, 2);
	set_data("", 0);
	memcpy(ram + ORG, contend, (size_t)(contend_end - contend));
	for (unsigned i = 0; i < 2; i++) {
		prepare(engine->vcpu[i + 1], 32);
		pthread_create(&thread[i], NULL, contender, engine->vcpu[i + 1]);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	CHECK_EQ(data32(0), 60000);
	CHECK_EQ(data32(4), 60000);
	CHECK_EQ(data32(12), 60000);
}

int main(void)
{
	struct engine_config config = { .cpus = 3,
		.board = { .read = board_read, .write = board_write } };
	struct vz_error e;

	if (engine_soft.probe(&e) < 0)
		SKIP_ALL("the host lacks what the software CPU needs");
	config.mem = mem_new(RAM, &e);
	if (!config.mem || engine_soft.open(&engine, &config, &e) < 0)
		return 1;
	cpu = engine->vcpu[0];
	ram = mmu_ram(engine, 0);
	soft_running(cpu);

	RUN(arithmetic_16);
	RUN(arithmetic_32);
	RUN(multiply_divide);
	RUN(divide_errors);
	RUN(shift_and_rotate);
	RUN(bit_instructions);
	RUN(compare_and_exchange);
	RUN(addresses_16);
	RUN(addresses_32);
	RUN(stack_16);
	RUN(stack_32);
	RUN(string_instructions);
	RUN(strings_wrap_16);
	RUN(conditions_and_loops);
	RUN(jumps_wrap_16);
	RUN(real_mode_far);
	RUN(tables_and_ports);
	RUN(identification);
	RUN(undefined_opcodes);
	RUN(trampoline_to_long_mode);
	RUN(pvh_entry_to_long_mode);
	RUN(page_fault_in_fetch);
	RUN(locks_are_atomic);
	soft_not_running(cpu);
	engine_soft.close(engine);
	mem_free(config.mem);
	return tap_done();
}
