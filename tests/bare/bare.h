/* SPDX-License-Identifier: MIT */
/*
 * The bare-metal runtime: what a test program without an operating system is made of. A program has
 * main(), prints TAP through port 0xe9 and ends through port 0xf4. It runs in 64-bit mode with the
 * first 4 GiB mapped to themselves, all 256 vectors caught, and one stack for each CPU.
 *
 * Most tests use CODE() to name a piece of assembly and exec() to run it with all registers given:
 * it comes back at the first trap, with the registers as the trap found them.
 */
#ifndef BARE_H
#define BARE_H

#include "layout.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	DE = 0,
	DB = 1,
	NMI = 2,
	BP = 3,
	UD = 6,
	NM = 7,
	DF = 8,
	TS = 10,
	NP = 11,
	SS = 12,
	GP = 13,
	PF = 14,
	MF = 16,
	AC = 17,
	XM = 19
};

#define FL_CF          0x1ull
#define FL_PF          0x4ull
#define FL_AF          0x10ull
#define FL_ZF          0x40ull
#define FL_SF          0x80ull
#define FL_TF          0x100ull
#define FL_IF          0x200ull
#define FL_DF          0x400ull
#define FL_OF          0x800ull
#define FL_IOPL        0x3000ull
#define FL_NT          0x4000ull
#define FL_RF          0x10000ull
#define FL_AC          0x40000ull
#define FL_ID          0x200000ull

#define CR0_MP         0x2ull
#define CR0_EM         0x4ull
#define CR0_TS         0x8ull
#define CR0_NE         0x20ull
#define CR0_WP         0x10000ull
#define CR0_AM         0x40000ull
#define CR4_TSD        0x4ull
#define CR4_DE         0x8ull
#define CR4_PGE        0x80ull
#define CR4_OSFXSR     0x200ull
#define CR4_OSXMMEXCPT 0x400ull
#define CR4_FSGSBASE   0x10000ull
#define CR4_OSXSAVE    0x40000ull
#define CR4_SMEP       0x100000ull

#define MSR_APIC_BASE  0x1bu
#define MSR_SYSENTER   0x174u /* cs, esp, eip */
#define MSR_DEADLINE   0x6e0u
#define MSR_EFER       0xc0000080u
#define MSR_STAR       0xc0000081u
#define MSR_LSTAR      0xc0000082u
#define MSR_SFMASK     0xc0000084u
#define MSR_FS_BASE    0xc0000100u
#define MSR_GS_BASE    0xc0000101u
#define MSR_KERNEL_GS  0xc0000102u
#define MSR_TSC_AUX    0xc0000103u
#define EFER_SCE       0x1ull
#define EFER_NXE       0x800ull

struct regs {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
	uint64_t cr2;
};
_Static_assert(offsetof(struct regs, rip) == REGS_RIP, "layout.h");
_Static_assert(offsetof(struct regs, ss) == REGS_SS, "layout.h");

/*
 * --- output (print.c)
 */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void bare_exit(int code) __attribute__((noreturn));
void tap_check(bool ok, const char *file, int line, const char *text);
void tap_equal(uint64_t a, uint64_t b, const char *file, int line, const char *an, const char *bn);
void tap_run(void (*fn)(void), const char *name);
void tap_skip(const char *name, const char *why);
int tap_done(void);
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#define CHECK(cond)    tap_check(cond, __FILE__, __LINE__, #cond)
#define CHECK_EQ(a, b) tap_equal((uint64_t)(a), (uint64_t)(b), __FILE__, __LINE__, #a, #b)
#define RUN(fn)        tap_run(fn, #fn)
/* Run a test where the CPU has what it needs. */
#define RUN_IF(cond, fn)                              \
	do {                                          \
		if (cond)                             \
			RUN(fn);                      \
		else                                  \
			tap_skip(#fn, "not offered"); \
	} while (0)

/*
 * --- traps and exec (bare.c)
 */

/* A named piece of assembly, ended by int3: trapping with #BP at name_end means it ran through. */
#define CODE(name, text)                                                                   \
	__asm__(".pushsection .text.code, \"ax\"\n\t.globl " #name "\n" #name ":\n\t" text \
		"\n\t.globl " #name "_end\n" #name "_end:\n\tint3\n\t.popsection");        \
	extern uint8_t name[], name##_end[]
/* A label inside a CODE: "LABEL(name) insn", and POINT(name) to have it in C. */
#define LABEL(name) "\n\t.globl " #name "\n" #name ":\n\t"
#define POINT(name) extern uint8_t name[]

/* Registers for code at CPL 0 on a stack of its own, or at CPL 3 through the user's alias. */
struct regs kernel_regs(const void *code);
struct regs user_regs(const void *code);
void exec(struct regs *r);

/* Did exec end as expected? */
#define CHECK_DONE(r, name)                                   \
	do {                                                  \
		CHECK_EQ((r)->vector, BP);                    \
		CHECK_EQ((r)->rip, (uint64_t)name##_end + 1); \
	} while (0)
#define CHECK_TRAP(r, vec, err, at)                 \
	do {                                        \
		CHECK_EQ((r)->vector, vec);         \
		CHECK_EQ((r)->error, err);          \
		CHECK_EQ((r)->rip, (uint64_t)(at)); \
	} while (0)
#define CHECK_PF(r, err, at, address)                    \
	do {                                             \
		CHECK_TRAP(r, PF, err, at);              \
		CHECK_EQ((r)->cr2, (uint64_t)(address)); \
	} while (0)

/* True: the trap is dealt with, go on where it happened (or where the frame now says). */
typedef bool trap_fn(struct regs *frame);
trap_fn *set_handler(unsigned vector, trap_fn *fn); /* returns the previous one */

#define GATE_INTERRUPT 0xeu
#define GATE_TRAP      0xfu
void set_gate(unsigned vector, const void *target, unsigned type, unsigned dpl, unsigned ist);
void reset_gate(unsigned vector); /* as bare_init left it */
extern uint8_t trap_stubs[];      /* 16 bytes each */
extern uint64_t gdt[];
struct tss {
	uint32_t reserved;
	uint64_t rsp[3], reserved2, ist[7], reserved3;
	uint16_t reserved4, io_map;
} __attribute__((packed));
extern struct tss tss[CPUS_MAX];
unsigned cpu_index(void);
void bare_init(void);
void bare_init_cpu(unsigned cpu);
void exec_enter(struct regs *r, uint64_t *saved);
void exec_leave(uint64_t rsp) __attribute__((noreturn));
void bare_trap(struct regs *frame);

/*
 * --- pages (page.c)
 */
#define PAGE      4096ull
#define LARGE     0x200000ull
#define HUGE      0x40000000ull
#define PTE_P     0x1ull
#define PTE_W     0x2ull
#define PTE_U     0x4ull
#define PTE_PWT   0x8ull
#define PTE_PCD   0x10ull
#define PTE_A     0x20ull
#define PTE_D     0x40ull
#define PTE_PS    0x80ull
#define PTE_G     0x100ull
#define PTE_NX    (1ull << 63)
#define PTE_ADDR  0x000ffffffffff000ull
#define PTE_KRW   (PTE_P | PTE_W)
#define PTE_URW   (PTE_P | PTE_W | PTE_U)

#define PF_P      1u
#define PF_W      2u
#define PF_U      4u
#define PF_RSVD   8u
#define PF_I      16u

#define USER_BASE 0x20000000000ull /* the first 64 MiB again, for CPL 3 */
#define RAM_SIZE  0x4000000ull

void page_init(void);
void *page_alloc(void);  /* zeroed */
void *large_alloc(void); /* 2 MiB, aligned */
uint64_t va_alloc(void); /* 2 MiB of addresses that nobody uses */
/* The entry for va at a level (4 = PML4 .. 1), tables made as needed, open to the user. */
uint64_t *pte(uint64_t va, unsigned level);
void map(uint64_t va, const void *page, uint64_t flags);
void map_at(unsigned level, uint64_t va, uint64_t pa, uint64_t flags);
static inline uint64_t user(const void *p)
{
	return (uint64_t)p + USER_BASE;
}

/*
 * --- the local APIC and other CPUs (apic.c)
 */
#define APIC_ID      0x20u
#define APIC_VERSION 0x30u
#define APIC_TPR     0x80u
#define APIC_PPR     0xa0u
#define APIC_EOI     0xb0u
#define APIC_LDR     0xd0u
#define APIC_DFR     0xe0u
#define APIC_SVR     0xf0u
#define APIC_ISR     0x100u
#define APIC_TMR     0x180u
#define APIC_IRR     0x200u
#define APIC_ESR     0x280u
#define APIC_ICR     0x300u
#define APIC_ICR2    0x310u
#define APIC_LVTT    0x320u
#define APIC_LINT0   0x350u
#define APIC_LVTERR  0x370u
#define APIC_TMICT   0x380u
#define APIC_TMCCT   0x390u
#define APIC_TDCR    0x3e0u
#define APIC_SELF    0x3f0u
#define ICR_FIXED    0x0u
#define ICR_NMI      0x400u
#define ICR_INIT     0x4500u
#define ICR_SIPI     0x4600u
#define ICR_SELF     0x40000u
#define ICR_ALL      0x80000u
#define ICR_OTHERS   0xc0000u

extern bool apic_x2;
void apic_enable(bool x2); /* of this CPU; x2APIC cannot be left again */
uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t value);
void apic_ipi(unsigned dest, uint32_t low);
bool apic_bit(unsigned reg, unsigned vector); /* of ISR, TMR or IRR */
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t value);

/* Start CPU n with INIT, SIPI, SIPI; true when it answered. */
bool cpu_start(unsigned cpu);
/* Have a started CPU call fn(arg); cpu_wait waits until it has returned. */
void cpu_call(unsigned cpu, void (*fn)(void *), void *arg);
bool cpu_wait(unsigned cpu);
void ap_main(void) __attribute__((noreturn));

/*
 * --- the test device of the runner: see run_bare.c
 */
#define DEVICE_MAGIC 0x45524142u
#define DEVICE_MMIO  0xd0000000ull
enum { IRQ_LOWER, IRQ_RAISE, IRQ_PULSE, IRQ_MSI, IRQ_LEVEL, RAM_WRITE };
bool device_present(void);
void device_command(unsigned command, unsigned pin, uint32_t address, uint32_t data);
void device_sync(void);     /* wait until all commands are done */
uint32_t device_eois(void); /* calls of the board for an end of interrupt */
unsigned device_cpus(void); /* CPUs of this machine; 1 without a test device */

/*
 * --- instructions
 */
static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t a, d;

	__asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(msr) : "memory");
	return a | (uint64_t)d << 32;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))
			 : "memory");
}
#define DEFINE_CR(n)                                                           \
	static inline uint64_t read_cr##n(void)                                \
	{                                                                      \
		uint64_t v;                                                    \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory"); \
		return v;                                                      \
	}                                                                      \
	static inline void write_cr##n(uint64_t v)                             \
	{                                                                      \
		__asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");     \
	}
DEFINE_CR(0)
DEFINE_CR(2)
DEFINE_CR(3)
DEFINE_CR(4)
DEFINE_CR(8)
static inline void invlpg(uint64_t va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}
static inline void flush_tlb(void)
{
	write_cr3(read_cr3());
}
static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(sub)
			 : "memory");
}
static inline bool cpu_has(uint32_t leaf, uint32_t sub, unsigned reg, unsigned bit)
{
	uint32_t out[4];

	cpuid(leaf & 0x80000000u, 0, out);
	if (out[0] < leaf)
		return false;
	cpuid(leaf, sub, out);
	return out[reg] >> bit & 1;
}
static inline uint64_t rdtsc(void)
{
	uint32_t a, d;

	__asm__ volatile("lfence; rdtsc" : "=a"(a), "=d"(d) : : "memory");
	return a | (uint64_t)d << 32;
}
static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}
static inline void sti(void)
{
	__asm__ volatile("sti" : : : "memory");
}
static inline void cli(void)
{
	__asm__ volatile("cli" : : : "memory");
}
static inline void sti_hlt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* Wait for something that takes microseconds; gives up, with false, after many seconds. */
#define WAIT_CYCLES 30000000000ull
#define WAIT_FOR(cond)                                                 \
	({                                                             \
		uint64_t wait_start_ = rdtsc();                        \
		while (!(cond) && rdtsc() - wait_start_ < WAIT_CYCLES) \
			pause();                                       \
		(bool)(cond);                                          \
	})

#endif
