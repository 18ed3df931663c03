/* SPDX-License-Identifier: MIT */
/* The state of a CPU as text: what is shown when a guest dies. */
#include "engine/engine.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

struct out {
	char *text;
	unsigned long size, len; /* len: as if there were room for everything */
};

static void __attribute__((format(printf, 2, 3))) put(struct out *o, const char *fmt, ...)
{
	unsigned long room = o->len < o->size ? o->size - o->len : 0;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(room ? o->text + o->len : NULL, room, fmt, ap);
	va_end(ap);
	if (n > 0)
		o->len += (unsigned long)n;
}

static void put_registers(struct out *o, const struct cpu_state *s)
{
	static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi",
		"rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };

	put(o, "rip    %016" PRIx64 "\nrflags %016" PRIx64 "\n", s->rip, s->rflags);
	for (unsigned i = 0; i < 16; i++)
		put(o, "%-6s %016" PRIx64 "\n", names[i], s->gpr[i]);
}

static void put_segments(struct out *o, const struct cpu_state *s)
{
	static const char *const names[SEG_COUNT] = {
		[SEG_ES] = "es",
		[SEG_CS] = "cs",
		[SEG_SS] = "ss",
		[SEG_DS] = "ds",
		[SEG_FS] = "fs",
		[SEG_GS] = "gs",
		[SEG_LDT] = "ldt",
		[SEG_TR] = "tr",
	};

	for (unsigned i = 0; i < SEG_COUNT; i++)
		put(o,
			"%-6s %04x base %016" PRIx64 " limit %08" PRIx32 " attributes %05" PRIx32
			"\n",
			names[i], s->seg[i].selector, s->seg[i].base, s->seg[i].limit,
			s->seg[i].attr);
	put(o, "gdt    base %016" PRIx64 " limit %04x\n", s->gdt.base, s->gdt.limit);
	put(o, "idt    base %016" PRIx64 " limit %04x\n", s->idt.base, s->idt.limit);
}

static void put_control(struct out *o, const struct cpu_state *s)
{
	static const struct {
		const char *name;
		size_t offset;
	} rows[] = {
		{ "cr0", offsetof(struct cpu_state, cr0) },
		{ "cr2", offsetof(struct cpu_state, cr2) },
		{ "cr3", offsetof(struct cpu_state, cr3) },
		{ "cr4", offsetof(struct cpu_state, cr4) },
		{ "cr8", offsetof(struct cpu_state, cr8) },
		{ "efer", offsetof(struct cpu_state, efer) },
		{ "xcr0", offsetof(struct cpu_state, xcr0) },
		{ "dr6", offsetof(struct cpu_state, dr[6]) },
		{ "dr7", offsetof(struct cpu_state, dr[7]) },
		{ "lstar", offsetof(struct cpu_state, lstar) },
		{ "kgsbas", offsetof(struct cpu_state, kernel_gs_base) },
		{ "apic", offsetof(struct cpu_state, lapic.base) },
		{ "tsc", offsetof(struct cpu_state, tsc) },
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		put(o, "%-6s %016" PRIx64 "\n", rows[i].name,
			*(const uint64_t *)((const char *)s + rows[i].offset));
}

int cpu_state_print(char *text, unsigned long size, const struct cpu_state *state)
{
	static const char *const mp[] = { "running", "halted", "waiting for SIPI", "in INIT" };
	struct out o = { text, size, 0 };

	put_registers(&o, state);
	put_segments(&o, state);
	put_control(&o, state);
	put(&o, "state  %s%s%s%s\n", state->mp < 4 ? mp[state->mp] : "unknown",
		state->nmi_pending ? ", NMI pending" : "",
		state->nmi_blocked ? ", NMI blocked" : "",
		state->interrupt_shadow ? ", interrupt shadow" : "");
	return (int)o.len;
}
