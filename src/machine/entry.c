/* SPDX-License-Identifier: MIT */
/*
 * The first CPU's state at the kernel's entry: Linux Documentation/arch/x86/boot.rst, "64-bit
 * boot protocol", and the Xen PVH entry (docs/misc/pvh.pandoc): flat segments, interrupts off.
 */
#include "machine/board.h"
#include <string.h>

#define CR0_PE        0x00000001u
#define CR0_MP        0x00000002u
#define CR0_ET        0x00000010u
#define CR0_NE        0x00000020u
#define CR0_WP        0x00010000u
#define CR0_PG        0x80000000u
#define CR4_PAE       0x00000020u
#define EFER_LME      0x00000100u
#define EFER_LMA      0x00000400u

#define RFLAGS_FIXED  0x2u

#define TYPE_CODE     0xbu /* execute, read, accessed */
#define TYPE_DATA     0x3u /* read, write, accessed */
#define TYPE_BUSY_TSS 0xbu
#define TYPE_LDT      0x2u

#define SELECTOR_CODE 0x10
#define SELECTOR_DATA 0x18

static void set_flat(struct cpu_state *s, uint32_t code_size)
{
	static const unsigned data[] = { SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

	s->seg[SEG_CS] = (struct cpu_segment){
		.limit = UINT32_MAX,
		.attr = TYPE_CODE | SEG_S | SEG_P | SEG_G | code_size,
		.selector = SELECTOR_CODE,
	};
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		s->seg[data[i]] = (struct cpu_segment){
			.limit = UINT32_MAX,
			.attr = TYPE_DATA | SEG_S | SEG_P | SEG_G | SEG_DB,
			.selector = SELECTOR_DATA,
		};
	s->seg[SEG_TR] = (struct cpu_segment){ .limit = 0x67, .attr = TYPE_BUSY_TSS | SEG_P };
	s->seg[SEG_LDT] = (struct cpu_segment){ .attr = TYPE_LDT | SEG_UNUSABLE };
}

void board_entry_state(struct cpu_state *s, const struct boot_result *boot)
{
	memset(s->gpr, 0, sizeof(s->gpr));
	s->rip = boot->rip;
	s->rflags = RFLAGS_FIXED;
	s->idt = (struct cpu_table){ 0 };
	s->cr2 = 0;
	s->mp = CPU_MP_RUNNING;
	if (boot->entry == BOOT_ENTRY_PVH) {
		set_flat(s, SEG_DB);
		s->gpr[CPU_RBX] = boot->rbx;
		s->gdt = (struct cpu_table){ 0 };
		s->cr0 = CR0_PE | CR0_ET;
		s->cr3 = s->cr4 = s->efer = 0;
		return;
	}
	set_flat(s, SEG_L);
	s->gpr[CPU_RSI] = boot->rsi;
	s->gpr[CPU_RSP] = boot->rsp;
	s->gdt = (struct cpu_table){ boot->gdt, boot->gdt_limit };
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = boot->cr3;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}
