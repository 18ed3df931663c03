/* SPDX-License-Identifier: MIT */
/*
 * The architectural state of one x86-64 CPU, common to all engines: what a snapshot holds, what is
 * printed when a guest dies, and what a boot loader sets. Intel SDM volume 3, chapters 2, 3 and 10.
 */
#ifndef ENGINE_CPU_H
#define ENGINE_CPU_H

#include <stdbool.h>
#include <stdint.h>

enum { CPU_RAX, CPU_RCX, CPU_RDX, CPU_RBX, CPU_RSP, CPU_RBP, CPU_RSI, CPU_RDI }; /* then r8..r15 */
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDT, SEG_TR, SEG_COUNT };

/*
 * Descriptor attributes as bits 8..23 of a descriptor's high word, shifted right by 8: type, S,
 * DPL, P, AVL, L, DB, G.
 */
#define SEG_TYPE(a)  ((a)&0xf)
#define SEG_S        0x0010
#define SEG_DPL(a)   (((a) >> 5) & 3)
#define SEG_P        0x0080
#define SEG_L        0x2000
#define SEG_DB       0x4000
#define SEG_G        0x8000
#define SEG_UNUSABLE 0x10000

struct cpu_segment {
	uint64_t base;
	uint32_t limit; /* in bytes, granularity applied */
	uint32_t attr;
	uint16_t selector;
};

struct cpu_table {
	uint64_t base;
	uint16_t limit;
};

#define CPU_XSAVE_SIZE 832 /* standard format: x87, SSE, AVX (components 0..2) */

struct cpu_lapic {
	uint64_t base;     /* IA32_APIC_BASE */
	uint32_t regs[64]; /* registers by offset / 16 */
	uint64_t tsc_deadline;
};

enum cpu_mp { CPU_MP_RUNNING, CPU_MP_HALTED, CPU_MP_WAIT_SIPI, CPU_MP_INIT };

struct cpu_state {
	uint64_t gpr[16], rip, rflags;
	struct cpu_segment seg[SEG_COUNT];
	struct cpu_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0;
	uint64_t dr[8];
	/* Model-specific registers that hold state; fs and gs base are in seg[]. */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, mtrr_def, misc_enable, tsc_aux, spec_ctrl;
	uint64_t tsc;                            /* the guest's value at the time of reading */
	uint64_t kvmclock_system, kvmclock_wall; /* paravirtual clock: MSR values */
	struct cpu_lapic lapic;
	uint8_t mp; /* enum cpu_mp */
	bool nmi_pending, nmi_blocked, interrupt_shadow;
	uint8_t xsave[CPU_XSAVE_SIZE] __attribute__((aligned(64)));
};

#endif
