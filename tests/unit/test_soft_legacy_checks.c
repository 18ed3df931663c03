/* SPDX-License-Identifier: MIT */
/*
 * The software CPU outside 64-bit mode, where it is easy to be nearly right: results and flags of
 * arithmetic, compared with the host's; what raises which exception, and leaves what behind;
 * memory operands under a lock prefix.
 */
#include "base/error.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sysint.h"
#include "tap.h"
#include <sys/mman.h>

extern const struct engine_class engine_soft;

#define RAM    (4u << 20)
#define CODE   0x7000u
#define STACK  0x6000u
#define DATA   0x5000u
#define GDT    0x4000u
#define TABLES 0x10000u

static struct engine *engine;
static struct memory *mem;
static struct vcpu *cpu;
static uint8_t *ram;

static uint64_t board_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	(void)arg, (void)port, (void)addr, (void)size;
	return 0;
}

static void board_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	(void)arg, (void)port, (void)addr, (void)size, (void)value;
}

/* Machine code for a snippet: name[] to name_end[]. */
#define SNIPPET(name, bits, text)                                                        \
	extern const uint8_t name[], name##_end[];                                       \
	__asm__(".pushsection .rodata\n\t.code" #bits "\n" #name ":\n\t" text "\n" #name \
		"_end:\n\t.code64\n\t.popsection")

static uint32_t get32(uint32_t at)
{
	uint32_t v;

	memcpy(&v, ram + at, 4);
	return v;
}

static void put(uint32_t at, uint64_t v, unsigned size)
{
	memcpy(ram + at, &v, size);
}

static void real_mode(void)
{
	struct descriptor code = { .limit = 0xffff, .attr = 0x9b };

	soft_cpu_reset(cpu, false);
	segment_set(cpu, SEG_CS, 0, &code);
	cpu->gpr[CPU_RSP] = STACK;
	cpu->rip = CODE;
}

/* Null, code of 32, 64 and 16 bits, data. */
enum { CS32 = 8, CS64 = 16, CS16 = 24, DS32 = 32, DS_ABSENT = 40, CS_USER = 48 };
static void make_gdt(void)
{
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00af9b000000ffff,
		0x000f9b000000ffff, 0x00cf93000000ffff, 0x00cf13000000ffff, 0x00cffb000000ffff };

	memcpy(ram + GDT, gdt, sizeof(gdt));
	cpu->gdt = (struct cpu_table){ GDT, sizeof(gdt) - 1 };
}

static void protected_mode(void)
{
	soft_cpu_reset(cpu, false);
	cpu->cr0 = CR0_PE | CR0_ET;
	make_gdt();
	segment_flat(cpu, SEG_CS, CS32, 0, true, false);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		if (i != SEG_CS)
			segment_flat(cpu, i, DS32, 0, false, false);
	cpu->gpr[CPU_RSP] = STACK;
	cpu->rip = CODE;
}

/* Run a snippet to its end; what was raised, or -1. */
static int run(const uint8_t *start, const uint8_t *end)
{
	uint64_t stop = CODE + (uint64_t)(end - start);

	memcpy(ram + CODE, start, (size_t)(end - start));
	cpu->rip = CODE;
	cpu->fault.valid = false;
	for (unsigned i = 0; i < 10000 && cpu->rip != stop; i++)
		if (!soft_legacy_step(cpu))
			return cpu->fault.vector;
	return cpu->rip == stop ? -1 : 1000;
}
#define RUN_SNIPPET(name) run(name, name##_end)

static int run_bytes(const uint8_t *bytes, unsigned n)
{
	return run(bytes, bytes + n);
}
#define RUN_BYTES(...) \
	run_bytes((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* --- arithmetic against the host -------------------------------------------------------------- */

struct regs {
	uint64_t rax, rcx, rdx, rbx, flags;
};

static uint8_t *thunk;

static void native(const uint8_t *bytes, unsigned n, struct regs *r)
{
	memcpy(thunk, bytes, n);
	thunk[n] = 0xc3;
	__asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
			 "push %[flags]\n\t"
			 "popf\n\t"
			 "call *%[thunk]\n\t"
			 "pushf\n\t"
			 "pop %[flags]\n\t"
			 "cld\n\t"
			 "lea 128(%%rsp), %%rsp"
			 : "+a"(r->rax), "+c"(r->rcx), "+d"(r->rdx),
			 "+b"(r->rbx), [flags] "+r"(r->flags)
			 : [thunk] "r"(thunk)
			 : "memory", "cc");
}

static uint64_t random_u64(void)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* Values near the borders are more telling than others. */
static uint32_t operand(void)
{
	static const uint32_t edges[] = { 0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff,
		0x7fffffff, 0x80000000, 0xffffffff };
	uint64_t x = random_u64();

	return x & 1 ? edges[(x >> 8) % 11] : (uint32_t)(x >> 16);
}

/* How to make an instance: the opcode varies over [first, last], with a ModRM of registers. */
struct form {
	const char *name;
	uint8_t two, first, last;
	uint8_t imm;   /* bytes; 9: of the operand size */
	int8_t reg;    /* ModRM.reg, -1: any, -2: no ModRM, -3: and only where there is one */
	uint32_t mask; /* of defined flags */
};

#define NO_AF (FLAGS_ARITH & ~FLAG_AF)
#define MULT  (FLAG_CF | FLAG_OF)
static const struct form forms[] = {
	{ "add", 0, 0x00, 0x03, 0, -1, FLAGS_ARITH },
	{ "or", 0, 0x08, 0x0b, 0, -1, NO_AF },
	{ "adc", 0, 0x10, 0x13, 0, -1, FLAGS_ARITH },
	{ "sbb", 0, 0x18, 0x1b, 0, -1, FLAGS_ARITH },
	{ "and", 0, 0x20, 0x23, 0, -1, NO_AF },
	{ "sub", 0, 0x28, 0x2b, 0, -1, FLAGS_ARITH },
	{ "xor", 0, 0x30, 0x33, 0, -1, NO_AF },
	{ "cmp", 0, 0x38, 0x3b, 0, -1, FLAGS_ARITH },
	{ "adc al", 0, 0x14, 0x14, 1, -2, FLAGS_ARITH },
	{ "sub eax", 0, 0x2d, 0x2d, 9, -2, FLAGS_ARITH },
	{ "group 1 adc", 0, 0x83, 0x83, 1, 2, FLAGS_ARITH },
	{ "group 1 sub", 0, 0x80, 0x80, 1, 5, FLAGS_ARITH },
	{ "group 1 add", 0, 0x81, 0x81, 9, 0, FLAGS_ARITH },
	{ "group 1 cmp", 0, 0x83, 0x83, 1, 7, FLAGS_ARITH },
	{ "test", 0, 0x84, 0x85, 0, -1, NO_AF },
	{ "test al", 0, 0xa8, 0xa8, 1, -2, NO_AF },
	{ "test eax", 0, 0xa9, 0xa9, 9, -2, NO_AF },
	{ "xchg", 0, 0x86, 0x87, 0, -1, FLAGS_ARITH },
	{ "mov", 0, 0x88, 0x8b, 0, -1, FLAGS_ARITH },
	{ "mov imm8", 0, 0xb0, 0xb7, 1, -2, FLAGS_ARITH },
	{ "mov imm", 0, 0xb8, 0xbb, 9, -2, FLAGS_ARITH },
	{ "xchg eax", 0, 0x91, 0x93, 0, -2, FLAGS_ARITH },
	{ "cbw", 0, 0x98, 0x98, 0, -2, FLAGS_ARITH },
	{ "cwd", 0, 0x99, 0x99, 0, -2, FLAGS_ARITH },
	{ "lahf", 0, 0x9f, 0x9f, 0, -2, FLAGS_ARITH },
	{ "sahf", 0, 0x9e, 0x9e, 0, -2, FLAGS_ARITH },
	{ "cmc", 0, 0xf5, 0xf5, 0, -2, FLAGS_ARITH },
	{ "clc stc", 0, 0xf8, 0xf9, 0, -2, FLAGS_ARITH },
	{ "imul imm8", 0, 0x6b, 0x6b, 1, -1, MULT },
	{ "imul imm", 0, 0x69, 0x69, 9, -1, MULT },
	{ "rol 1", 0, 0xd0, 0xd1, 0, 0, NO_AF },
	{ "ror 1", 0, 0xd0, 0xd1, 0, 1, NO_AF },
	{ "rcl 1", 0, 0xd0, 0xd1, 0, 2, NO_AF },
	{ "rcr 1", 0, 0xd0, 0xd1, 0, 3, NO_AF },
	{ "shl 1", 0, 0xd0, 0xd1, 0, 4, NO_AF },
	{ "shr 1", 0, 0xd0, 0xd1, 0, 5, NO_AF },
	{ "sar 1", 0, 0xd0, 0xd1, 0, 7, NO_AF },
	{ "rol cl", 0, 0xd3, 0xd3, 0, 0, NO_AF & ~FLAG_OF },
	{ "ror imm", 0, 0xc1, 0xc1, 1, 1, NO_AF & ~FLAG_OF },
	{ "shl cl", 0, 0xd3, 0xd3, 0, 4, FLAG_ZF | FLAG_SF | FLAG_PF },
	{ "shr imm", 0, 0xc1, 0xc1, 1, 5, FLAG_ZF | FLAG_SF | FLAG_PF },
	{ "sar cl", 0, 0xd2, 0xd3, 0, 7, FLAG_ZF | FLAG_SF | FLAG_PF },
	{ "test imm8", 0, 0xf6, 0xf6, 1, 0, NO_AF },
	{ "test imm", 0, 0xf7, 0xf7, 9, 0, NO_AF },
	{ "not", 0, 0xf6, 0xf7, 0, 2, FLAGS_ARITH },
	{ "neg", 0, 0xf6, 0xf7, 0, 3, FLAGS_ARITH },
	{ "mul", 0, 0xf6, 0xf7, 0, 4, MULT },
	{ "imul", 0, 0xf6, 0xf7, 0, 5, MULT },
	{ "inc", 0, 0xfe, 0xff, 0, 0, FLAGS_ARITH },
	{ "dec", 0, 0xfe, 0xff, 0, 1, FLAGS_ARITH },
	{ "cmovcc", 1, 0x40, 0x4f, 0, -1, FLAGS_ARITH },
	{ "setcc", 1, 0x90, 0x9f, 0, -1, FLAGS_ARITH },
	{ "bt", 1, 0xa3, 0xa3, 0, -1, FLAG_CF },
	{ "bts", 1, 0xab, 0xab, 0, -1, FLAG_CF },
	{ "btr", 1, 0xb3, 0xb3, 0, -1, FLAG_CF },
	{ "btc", 1, 0xbb, 0xbb, 0, -1, FLAG_CF },
	{ "bt imm", 1, 0xba, 0xba, 1, 4, FLAG_CF },
	{ "bts imm", 1, 0xba, 0xba, 1, 5, FLAG_CF },
	{ "btr imm", 1, 0xba, 0xba, 1, 6, FLAG_CF },
	{ "btc imm", 1, 0xba, 0xba, 1, 7, FLAG_CF },
	{ "imul reg", 1, 0xaf, 0xaf, 0, -1, MULT },
	{ "cmpxchg", 1, 0xb0, 0xb1, 0, -1, FLAGS_ARITH },
	{ "xadd", 1, 0xc0, 0xc1, 0, -1, FLAGS_ARITH },
	{ "movzx", 1, 0xb6, 0xb7, 0, -1, FLAGS_ARITH },
	{ "movsx", 1, 0xbe, 0xbf, 0, -1, FLAGS_ARITH },
	{ "bsf bsr", 1, 0xbc, 0xbd, 0, -1, FLAG_ZF },
	{ "bswap", 1, 0xc8, 0xcb, 0, -2, FLAGS_ARITH },
};

/* Bytes of an instance with operand size 4, or 2 when narrow. */
static unsigned instance(const struct form *f, bool narrow, uint8_t *bytes)
{
	unsigned n = 0, imm = f->imm == 9 ? (narrow ? 2 : 4) : f->imm;
	uint64_t x = random_u64();

	if (narrow)
		bytes[n++] = 0x66;
	if (f->two)
		bytes[n++] = 0x0f;
	bytes[n++] = (uint8_t)(f->first + (x >> 32) % (f->last - f->first + 1u));
	if (f->reg != -2)
		bytes[n++] = (uint8_t)(0xc0 | (f->reg < 0 ? x & 3 : (unsigned)f->reg) << 3 |
				       (x >> 8 & 3));
	for (unsigned i = 0; i < imm; i++)
		bytes[n++] = (uint8_t)(x >> (16 + 8 * i));
	return n;
}

static void arithmetic_matches_host(void)
{
	for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		const struct form *f = &forms[i];
		bool good = true;

		for (unsigned round = 0; round < 2000 && good; round++) {
			struct regs r = { operand(), operand(), operand(), operand(),
				(random_u64() & FLAGS_ARITH) | 0x202 };
			bool narrow = round & 1 && !(f->two && f->first == 0xc8);
			uint8_t bytes[16];
			unsigned n = instance(f, narrow, bytes);

			protected_mode();
			cpu->gpr[CPU_RAX] = r.rax;
			cpu->gpr[CPU_RCX] = r.rcx;
			cpu->gpr[CPU_RDX] = r.rdx;
			cpu->gpr[CPU_RBX] = r.rbx;
			cpu->flags = (r.flags & FLAGS_ARITH) | FLAG_DF | 2;
			good = run_bytes(bytes, n) == -1;
			native(bytes, n, &r);
			good = good && cpu->gpr[CPU_RAX] == r.rax && cpu->gpr[CPU_RCX] == r.rcx &&
			       cpu->gpr[CPU_RDX] == r.rdx && cpu->gpr[CPU_RBX] == r.rbx &&
			       !((cpu->flags ^ r.flags) & f->mask) && (cpu->flags & FLAG_DF);
			if (!good)
				printf("# %s: %02x %02x %02x %02x\n", f->name, bytes[0], bytes[1],
					bytes[2], bytes[3]);
		}
		CHECK(good);
	}
}

static void shift_by_nothing_keeps_flags(void)
{
	protected_mode();
	cpu->flags = FLAGS_ARITH | 2;
	cpu->gpr[CPU_RAX] = 5;
	CHECK_EQ(RUN_BYTES(0xc1, 0xe0, 0x20), -1); /* shl $32, %eax */
	CHECK_EQ(cpu->gpr[CPU_RAX], 5);
	CHECK_EQ(cpu->flags, FLAGS_ARITH | 2);
}

/* --- operands --------------------------------------------------------------------------------- */

SNIPPET(stack32, 32,
	"movl $1, %eax; movl $2, %ebx; pushl %eax; pushw %bx; pushl $-3; pushl 0x5000\n"
	"popl 4(%esp); popl %ecx; popw %dx; popl %esi; pushl %esp; popl %edi\n"
	"pushal; xorl %eax, %eax; popal; pushl %ds; popl %fs; pushl %ebp; movl %esp, %ebp\n"
	"pushl $9; leave; enter $16, $0; movl %esp, %ebx; leave");
static void stack_of_32_bits(void)
{
	protected_mode();
	put(DATA, 0x77, 4);
	CHECK_EQ(RUN_SNIPPET(stack32), -1);
	CHECK_EQ(cpu->gpr[CPU_RAX], 1);
	/* pop 4(%esp) takes the address after the pop: it hits the word and half of eax */
	CHECK_EQ(cpu->gpr[CPU_RCX], 0xfffffffd);
	CHECK_EQ((uint16_t)cpu->gpr[CPU_RDX], 0x77);
	CHECK_EQ(cpu->gpr[CPU_RDI], STACK);
	CHECK_EQ(cpu->seg[SEG_FS].selector, DS32);
	CHECK_EQ(cpu->gpr[CPU_RBX], STACK - 20);
	CHECK_EQ(cpu->gpr[CPU_RSP], STACK);
}

SNIPPET(clear, 32, "movl $0x100000, %edi; movl $0x40000, %ecx; xorl %eax, %eax; rep stosl");
static void long_repetitions_take_several_steps(void)
{
	protected_mode();
	memset(ram + 0x100000, 0xff, 0x100004);
	CHECK_EQ(RUN_SNIPPET(clear), -1);
	CHECK_EQ(get32(0x100000), 0);
	CHECK_EQ(get32(0x1ffffc), 0);
	CHECK_EQ(get32(0x200000), 0xffffffff);
	CHECK_EQ(cpu->gpr[CPU_RCX], 0);
}

SNIPPET(locked, 32,
	"movl $0x5000, %ebx; movl $0, (%ebx); movl $5, 4(%ebx)\n"
	"lock btsl $3, (%ebx); setc %al; lock btsl $3, (%ebx); setc %ah\n"
	"movl $2, %ecx; lock xaddl %ecx, 4(%ebx); movl $0x99, %edx; xchgl %edx, 8(%ebx)\n"
	"pushl %eax; movl $7, %eax; movl $11, %esi; lock cmpxchgl %esi, 4(%ebx); setz %cl\n"
	"lock cmpxchgl %esi, 4(%ebx); movl %eax, %edi; popl %eax; movl $65, %esi\n"
	"lock btrl %esi, -8(%ebx); btl %esi, (%ebx); lock incl (%ebx); lock notb (%ebx)");
static void locked_instructions(void)
{
	protected_mode();
	put(DATA - 8, 0xffffffffffffffff, 8);
	put(DATA + 8, 0x42, 4);
	CHECK_EQ(RUN_SNIPPET(locked), -1);
	CHECK_EQ((uint16_t)cpu->gpr[CPU_RAX], 0x0100);
	CHECK_EQ(get32(DATA), 0xf6); /* bit 65 from -8 is bit 1 here, which was clear; 9; not */
	CHECK_EQ(get32(DATA + 4), 11);
	CHECK_EQ(cpu->gpr[CPU_RDX], 0x42);
	CHECK_EQ(get32(DATA + 8), 0x99);
	CHECK_EQ((uint8_t)cpu->gpr[CPU_RCX], 1);
	CHECK_EQ(cpu->gpr[CPU_RDI], 11); /* the second one finds it changed */
}

/* --- segments and system ---------------------------------------------------------------------- */

SNIPPET(far32, 32,
	"lcall $24, $0x5000; pushfl; pushl $8; pushl $1f - far32 + 0x7000; iretl; hlt\n"
	"1: pushl $8; pushl $2f - far32 + 0x7000; lret; hlt\n"
	"2:");
static void far_transfers_in_protected_mode(void)
{
	protected_mode();
	/* of 16 bits there: mov $0x1234, %bx; lretl */
	memcpy(ram + DATA, (const uint8_t[]){ 0xbb, 0x34, 0x12, 0x66, 0xcb }, 5);
	CHECK_EQ(RUN_SNIPPET(far32), -1);
	CHECK_EQ(cpu->gpr[CPU_RBX], 0x1234);
	CHECK_EQ(cpu->seg[SEG_CS].selector, CS32);
	CHECK_EQ(cpu->gpr[CPU_RSP], STACK);
	CHECK_EQ(cpu->mp, CPU_MP_RUNNING);
}

static void bad_selectors_raise(void)
{
	static const struct {
		uint8_t cs, vector;
	} bad[] = { { 0, EXC_GP }, { DS32, EXC_GP }, { CS_USER, EXC_GP }, { 0xf8, EXC_GP } };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		protected_mode();
		CHECK_EQ(RUN_BYTES(0xea, 0, 0x50, 0, 0, bad[i].cs, 0), bad[i].vector);
		CHECK_EQ(cpu->fault.error, bad[i].cs);
		CHECK_EQ(cpu->rip, CODE);
		CHECK_EQ(cpu->seg[SEG_CS].selector, CS32);
	}
	protected_mode();
	cpu->gpr[CPU_RAX] = DS_ABSENT;
	CHECK_EQ(RUN_BYTES(0x8e, 0xd8), EXC_NP); /* mov %eax, %ds */
	CHECK_EQ(RUN_BYTES(0x8e, 0xc8), EXC_UD); /* mov %eax, %cs */
	cpu->gpr[CPU_RAX] = 0;
	CHECK_EQ(RUN_BYTES(0x8e, 0xd0), EXC_GP); /* mov %eax, %ss */
	CHECK_EQ(RUN_BYTES(0x8e, 0xe8), -1);     /* mov %eax, %gs */
}

static void real_mode_keeps_limits(void)
{
	real_mode();
	cpu->gpr[CPU_RAX] = 0x1234;
	cpu->seg[SEG_DS].limit = UINT32_MAX;
	cpu->seg[SEG_DS].attr = 0xc093;
	CHECK_EQ(RUN_BYTES(0x8e, 0xd8), -1); /* mov %ax, %ds */
	CHECK_EQ(cpu->seg_base[SEG_DS], 0x12340);
	CHECK_EQ(cpu->seg[SEG_DS].limit, UINT32_MAX);
	CHECK_EQ(cpu->seg[SEG_DS].attr, 0xc093);
}

static void nested_task_matters_in_protected_mode(void)
{
	protected_mode();
	cpu->sysflags = FL_NT;
	CHECK_EQ(RUN_BYTES(0xcf), EXC_GP); /* iret */
	real_mode();
	cpu->sysflags = FL_NT;
	put(STACK, 0x7001, 8); /* ip, cs, flags */
	CHECK_EQ(RUN_BYTES(0xcf), -1);
	CHECK_EQ(cpu->sysflags, 0);
}

static void interrupts_wait_after_sti_and_ss(void)
{
	protected_mode();
	CHECK_EQ(RUN_BYTES(0xfb), -1); /* sti */
	CHECK(cpu->shadow);
	CHECK(cpu->sysflags & FL_IF);
	cpu->shadow = false;
	CHECK_EQ(RUN_BYTES(0x16, 0x17), -1); /* push %ss; pop %ss */
	CHECK(cpu->shadow);
}

static void undefined_raises(void)
{
	protected_mode();
	CHECK_EQ(RUN_BYTES(0x0f, 0x0b), EXC_UD);       /* ud2 */
	CHECK_EQ(RUN_BYTES(0x0f, 0x05), EXC_UD);       /* syscall */
	CHECK_EQ(RUN_BYTES(0xf0, 0x90), EXC_UD);       /* lock nop */
	CHECK_EQ(RUN_BYTES(0xf0, 0x01, 0xc0), EXC_UD); /* lock add of a register */
	CHECK_EQ(RUN_BYTES(0xf0, 0x39, 0x00), EXC_UD); /* lock cmp */
	CHECK_EQ(RUN_BYTES(0x8d, 0xc0), EXC_UD);       /* lea of a register */
	CHECK_EQ(RUN_BYTES(0xc6, 0xc8, 0), EXC_UD);    /* c6 /1 */
	CHECK_EQ(RUN_BYTES(0xc5, 0xf8, 0x77), EXC_UD); /* vzeroupper */
	CHECK_EQ(RUN_BYTES(0x0f, 0x28, 0xc1), EXC_UD); /* movaps */
	CHECK_EQ(RUN_BYTES(0x0f, 0x01, 0xd0), EXC_UD); /* xgetbv */
	CHECK_EQ(RUN_BYTES(0x0f, 0x22, 0xc8), EXC_UD); /* mov to cr1 */
	CHECK_EQ(RUN_BYTES(0xff, 0xf8), EXC_UD);       /* ff /7 */
	cpu->cpl = 3;
	CHECK_EQ(RUN_BYTES(0x90), EXC_UD);
	cpu->cpl = 0;
}

static void endless_instruction_raises(void)
{
	protected_mode();
	CHECK_EQ(RUN_BYTES(0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e,
			 0x2e, 0x2e, 0x2e, 0x90),
		EXC_GP);
}

/* --- paging ----------------------------------------------------------------------------------- */

/* Identity-mapped small pages over the first 2 MiB: 0x9000 absent, 0xa000 read-only. */
static void compatibility_mode(void)
{
	uint64_t *table = (uint64_t *)(ram + TABLES);

	protected_mode();
	memset(table, 0, 4096 * 4);
	table[0] = (TABLES + 0x1000) | 3;
	table[512] = (TABLES + 0x2000) | 3;
	table[1024] = (TABLES + 0x3000) | 3;
	for (unsigned i = 0; i < 512; i++)
		table[1536 + i] = i << 12 | (i == 9 ? 0 : i == 10 ? 1 : 3);
	cpu->cr3 = TABLES;
	cpu->cr4 = CR4_PAE;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
	cpu->cr0 |= CR0_PG | CR0_WP;
	soft_update_mode(cpu);
	soft_tlb_flush(cpu, true);
}

static void faults_change_nothing(void)
{
	compatibility_mode();
	cpu->gpr[CPU_RAX] = 1;
	cpu->gpr[CPU_RBX] = 0x9000;
	cpu->flags = 2;
	CHECK(!cpu->long_mode);
	CHECK_EQ(RUN_BYTES(0x01, 0x03), EXC_PF); /* add %eax, (%ebx) */
	CHECK_EQ(cpu->fault.address, 0x9000);
	CHECK_EQ(RUN_BYTES(0x8f, 0x03), EXC_PF); /* pop (%ebx) */
	CHECK_EQ(cpu->gpr[CPU_RSP], STACK);
	cpu->gpr[CPU_RBX] = 0xa000;
	memset(ram + 0xa000, 0xff, 4);
	CHECK_EQ(RUN_BYTES(0x01, 0x03), EXC_PF);
	CHECK_EQ(cpu->fault.error, 3);
	CHECK_EQ(RUN_BYTES(0xf0, 0x01, 0x03), EXC_PF); /* the same locked */
	CHECK_EQ(RUN_BYTES(0x87, 0x03), EXC_PF);       /* xchg %eax, (%ebx) */
	CHECK_EQ(RUN_BYTES(0x0f, 0xc1, 0x03), EXC_PF); /* xadd %eax, (%ebx) */
	CHECK_EQ(cpu->gpr[CPU_RAX], 1);
	CHECK_EQ(cpu->flags, 2);
	cpu->gpr[CPU_RSP] = 0xa008;
	CHECK_EQ(RUN_BYTES(0x60), EXC_PF);       /* pusha */
	CHECK_EQ(RUN_BYTES(0xff, 0xd3), EXC_PF); /* call *%ebx */
	CHECK_EQ(cpu->gpr[CPU_RSP], 0xa008);
	CHECK_EQ(cpu->rip, CODE);
}

static void fetch_crosses_pages_and_faults(void)
{
	compatibility_mode();
	memcpy(ram + 0x7ffd, (const uint8_t[]){ 0xb8, 1, 2, 3, 4 }, 5); /* mov $imm, %eax */
	cpu->rip = 0x7ffd;
	CHECK(soft_legacy_step(cpu));
	CHECK_EQ(cpu->gpr[CPU_RAX], 0x04030201);
	CHECK_EQ(cpu->rip, 0x8002);
	memcpy(ram + 0x8ffd, (const uint8_t[]){ 0xb8, 1, 2, 3, 4 }, 5);
	cpu->rip = 0x8ffd;
	CHECK(!soft_legacy_step(cpu));
	CHECK_EQ(cpu->fault.vector, EXC_PF);
	CHECK_EQ(cpu->fault.address, 0x9000);
	CHECK_EQ(cpu->fault.error, 0x10);
	CHECK_EQ(cpu->rip, 0x8ffd);
}

static void repetition_keeps_progress_over_a_fault(void)
{
	compatibility_mode();
	cpu->gpr[CPU_RDI] = 0x8ff8;
	cpu->gpr[CPU_RCX] = 4;
	CHECK_EQ(RUN_BYTES(0xf3, 0xab), EXC_PF); /* rep stosl */
	CHECK_EQ(cpu->gpr[CPU_RDI], 0x9000);
	CHECK_EQ(cpu->gpr[CPU_RCX], 2);
	CHECK_EQ(cpu->rip, CODE);
}

static void far_jump_needs_a_sane_long_segment(void)
{
	compatibility_mode();
	put(GDT + CS64, 0x00ef9b000000ffff, 8); /* L and D together */
	CHECK_EQ(RUN_BYTES(0xea, 0, 0x50, 0, 0, CS64, 0), EXC_GP);
	CHECK_EQ(cpu->fault.error, CS64);
	put(GDT + CS64, 0x00af9b000000ffff, 8);
	memcpy(ram + CODE, (const uint8_t[]){ 0xea, 0, 0x50, 0, 0, CS64, 0 }, 7);
	CHECK(soft_legacy_step(cpu));
	CHECK(cpu->long_mode);
	CHECK_EQ(cpu->rip, 0x5000);
}

/* --- start-up --------------------------------------------------------------------------------- */

int main(void)
{
	struct engine_config config = { .cpus = 1,
		.board = { .read = board_read, .write = board_write } };
	struct vz_error e;

	if (engine_soft.probe(&e) < 0)
		SKIP_ALL("the host lacks what the software CPU needs");
	mem = mem_new(RAM, &e);
	config.mem = mem;
	if (!mem || engine_soft.open(&engine, &config, &e) < 0)
		return 1;
	cpu = engine->vcpu[0];
	ram = mmu_ram(engine, 0);
	thunk = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	if (thunk == MAP_FAILED)
		return 1;
	soft_running(cpu);

	RUN(arithmetic_matches_host);
	RUN(shift_by_nothing_keeps_flags);
	RUN(stack_of_32_bits);
	RUN(long_repetitions_take_several_steps);
	RUN(locked_instructions);
	RUN(far_transfers_in_protected_mode);
	RUN(bad_selectors_raise);
	RUN(real_mode_keeps_limits);
	RUN(nested_task_matters_in_protected_mode);
	RUN(interrupts_wait_after_sti_and_ss);
	RUN(undefined_raises);
	RUN(endless_instruction_raises);
	RUN(faults_change_nothing);
	RUN(fetch_crosses_pages_and_faults);
	RUN(repetition_keeps_progress_over_a_fault);
	RUN(far_jump_needs_a_sane_long_segment);
	soft_not_running(cpu);
	engine_soft.close(engine);
	mem_free(mem);
	return tap_done();
}
