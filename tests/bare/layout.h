/* SPDX-License-Identifier: MIT */
/* Numbers that the C and the assembly of the bare-metal runtime share. */
#ifndef BARE_LAYOUT_H
#define BARE_LAYOUT_H

#define REGS_RIP    136
#define REGS_CS     144
#define REGS_RFLAGS 152
#define REGS_RSP    160
#define REGS_SS     168

/* Selectors; syscall, sysret, sysenter and sysexit want them in this order. */
#define KERNEL_CS 0x08
#define KERNEL_SS 0x10
#define USER_CS32 0x1b
#define USER_SS   0x23
#define USER_CS   0x2b
#define USER_SS2  0x33
#define SPARE_SEL 0x38 /* to 0x78: for tests */
#define TSS_SEL   0x80 /* 16 more for each CPU */

#define CPUS_MAX  8

/* Where the trampoline of the other CPUs is, and what it finds behind its code. */
#define TRAMPOLINE 0x8000

#endif
