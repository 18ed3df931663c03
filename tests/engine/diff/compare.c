/* SPDX-License-Identifier: MIT */
/* Comparing what happened natively with what happened in the engine. */
#include "diff.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FLAGS_COMPARED (FLAGS_ARITH | FLAG_DF | 0x3200u | 0x4000u | 0x200000u) /* IOPL IF NT ID */

static bool say_enabled;

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	va_list args;

	if (!say_enabled)
		return;
	va_start(args, format);
	printf("#   ");
	vprintf(format, args);
	printf("\n");
	va_end(args);
}

#define USER_END 0x7ffffffff000ull /* as Linux has it */

/* What CPUs are free to do, by the instruction that faults. */
struct freedom {
	bool fault;      /* a page fault need not come, or not first */
	bool address;    /* any address of the operand may be the one that is reported */
	bool vectors;    /* vector state may have changed in part */
	bool memory;     /* the operand may be written in part */
	uint32_t errors; /* bits of a page fault's error code to compare */
};

static struct freedom freedom_of(const struct diff_case *c, const struct outcome *n,
	const struct outcome *s)
{
	const struct outcome *at = n->vector >= 0 ? n : s;
	uint64_t offset = at->rip - c->code_va;
	struct freedom f = { .errors = 0x17 }; /* P, W, U, I */
	struct insn in;
	bool x87;

	if (at->vector < 0 || offset >= c->code_len ||
		insn_decode(c->code + offset, c->code_len - offset, ~0ull, &in) != DECODE_OK)
		return f;
	/* The switch from x87 to MMX, and exception flags of a store that converts. */
	x87 = in.unit == UNIT_X87 || in.unit == UNIT_MMX;
	f.vectors = in.unit == UNIT_MMX || in.feature == FEAT_F16C || in.system == SYS_GATHER;
	/* An x87 exception that is pending, or keeps a store from taking place. */
	f.fault =
		(x87 && (n->xsave[0] & 0x3f) != 0x3f) || in.feature == FEAT_F16C || n->vector == 16;
	/* Elements that the mask leaves out; parts of an xsave area that are not asked for. */
	f.fault |= (in.system == SYS_MASKMOV && !in.has_mem) ||
		   (in.system >= SYS_XSAVE && in.system <= SYS_XRSTOR);
	/* Ten bytes are two stores (fstp, fbstp), and so is a far return address. */
	f.memory = (in.map == 0 && (in.opcode == 0xdb || in.opcode == 0xdf)) ||
		   in.system == SYS_CALL_FAR;
	/* Which of its operands cmps reads first. */
	if (in.class == INSN_STRING && (in.opcode & 0xfe) == 0xa6)
		f.address = f.fault = true;
	/* In what order an area is gone through; how wide a selector is on the stack. */
	f.address |= in.class == INSN_SYSTEM;
	f.fault |= in.system == SYS_RETF;
	/* Alignment, or the address beyond the canonical range. */
	f.fault |= in.class == INSN_SYSTEM && n->vector == 12 && s->vector == 13;
	return f;
}

/* Memory of the native child itself, which the engine's guest does not have. */
static bool stray(const struct outcome *s)
{
	bool shadow = false;

#ifdef __SANITIZE_ADDRESS__
	shadow = s->cr2 >= 0x7fff7000 && s->cr2 < 0x100080000000;
#endif
	return s->vector == 14 && (shadow || (s->cr2 & ~0xfffull) == NATIVE_CONTEXT);
}

#define U(v) ((unsigned long long)(v))

static bool same_registers(const struct diff_case *c, const struct outcome *n,
	const struct outcome *s)
{
	static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi",
		"rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	bool same = true;

	for (unsigned i = 0; i < 16; i++) {
		if (n->gpr[i] == s->gpr[i] || (n->vector == OUTCOME_DONE && c->gpr_any >> i & 1))
			continue;
		say("%s: native %llx, engine %llx, was %llx", names[i], U(n->gpr[i]), U(s->gpr[i]),
			U(c->gpr[i]));
		same = false;
	}
	if (n->fs != s->fs || n->gs != s->gs) {
		say("fs, gs base: native %llx %llx, engine %llx %llx", U(n->fs), U(n->gs), U(s->fs),
			U(s->gs));
		same = false;
	}
	return same;
}

static bool same_vectors(const struct diff_case *c, const struct outcome *n,
	const struct outcome *s)
{
	bool same = true;

	for (unsigned i = 0; i < XSAVE_BYTES; i += 16) {
		uint64_t a[2], b[2], was[2];

		memcpy(a, n->xsave + i, 16);
		memcpy(b, s->xsave + i, 16);
		memcpy(was, c->xsave + i, 16);
		if (a[0] == b[0] && a[1] == b[1])
			continue;
		if (i < 32)
			say("x87 or mxcsr at %u: native %016llx %016llx, engine %016llx %016llx, "
			    "was %016llx %016llx",
				i, U(a[0]), U(a[1]), U(b[0]), U(b[1]), U(was[0]), U(was[1]));
		else
			say("%s%u: native %016llx%016llx, engine %016llx%016llx, was "
			    "%016llx%016llx",
				i < 160   ? "st"
				: i < 416 ? "xmm"
					  : "ymm-high",
				(i - (i < 160          ? 32
					     : i < 416 ? 160
						       : 576)) /
					16,
				U(a[1]), U(a[0]), U(b[1]), U(b[0]), U(was[1]), U(was[0]));
		same = false;
	}
	return same;
}

static bool same_memory(const struct outcome *n, const struct outcome *s)
{
	if (n->hash == s->hash && n->nlines == s->nlines)
		return true;
	say("memory: native changed %u lines, engine %u", n->nlines, s->nlines);
	for (unsigned i = 0; i < LINES; i++) {
		const struct outcome *sides[2] = { n, s };

		if (i < n->nlines && i < s->nlines && n->line[i].at == s->line[i].at &&
			!memcmp(n->line[i].bytes, s->line[i].bytes, 64))
			continue;
		for (unsigned k = 0; k < 2; k++) {
			char text[129];

			if (i >= sides[k]->nlines)
				continue;
			for (unsigned j = 0; j < 64; j++)
				snprintf(text + 2 * j, 3, "%02x", sides[k]->line[i].bytes[j]);
			say("%s +%05x: %s", k ? "engine" : "native", sides[k]->line[i].at, text);
		}
	}
	return false;
}

static bool same_fault(const struct freedom *f, const struct outcome *n, const struct outcome *s)
{
	uint32_t errors = f->errors;
	bool same = true;

	if (n->vector != s->vector || n->rip != s->rip) {
		say("native %s %d at %llx (address %llx), engine %s %d at %llx (address %llx)",
			n->vector < 0 ? "ended" : "vector", n->vector, U(n->rip), U(n->cr2),
			s->vector < 0 ? "ended" : "vector", s->vector, U(s->rip), U(s->cr2));
		same = false;
	}
	if (n->vector != 14 || s->vector != 14)
		return same &&
		       (n->vector < 0 || n->vector == 14 || n->error == s->error ||
			       (say("error: native %x, engine %x", n->error, s->error), false));
	/* The kernel hides which of its own addresses are mapped. */
	if (n->cr2 >= USER_END || f->address)
		errors &= ~1u;
	if ((n->cr2 != s->cr2 && !f->address) || ((n->error ^ s->error) & errors)) {
		say("#PF: native address %llx error %x, engine address %llx error %x", U(n->cr2),
			n->error, U(s->cr2), s->error);
		same = false;
	}
	return same;
}

bool outcome_same(const struct diff_case *c, const struct outcome *n, const struct outcome *s,
	enum side side, bool text)
{
	struct freedom f = freedom_of(c, n, s);
	uint64_t flags = FLAGS_COMPARED;
	bool same;

	say_enabled = text;
	if (f.fault && n->vector != s->vector &&
		((n->vector >= 12 && n->vector <= 14) || (s->vector >= 12 && s->vector <= 14)))
		return true;
	if (side == SIDE_KERNEL)
		f.errors &= ~4u;
	if (stray(s))
		return true;
	/* A jump to where no address can be: some CPUs fault at the jump, some at its target. */
	if (n->vector == 13 && s->vector == 13 && (int64_t)(s->rip << 16) >> 16 != (int64_t)s->rip)
		return true;
	same = same_fault(&f, n, s);
	if (!same && !text)
		return false;
	if (n->vector == OUTCOME_DONE)
		flags &= ~(uint64_t)c->flags_any;
	else if (c->flags_dead && side != SIDE_EXACT)
		flags &= ~(uint64_t)FLAGS_ARITH;
	if ((n->flags ^ s->flags) & flags) {
		say("flags: native %llx, engine %llx, were %llx", U(n->flags), U(s->flags),
			U(c->flags));
		same = false;
	}
	same &= same_registers(c, n, s);
	same &= f.vectors || same_vectors(c, n, s);
	same &= f.memory || same_memory(n, s);
	return same;
}

void case_print(const struct diff_case *c)
{
	printf("# %s, state %llx, rip %llx\n", c->form >= 0 ? forms[c->form].row.name : "block",
		U(c->seed), U(c->rip));
	for (unsigned i = 0; i < 16; i++)
		printf("%s%llx%s", i % 8 ? " " : "#  registers: ", U(c->gpr[i]),
			i % 8 == 7 ? "\n" : "");
	printf("#  flags %llx fs %llx gs %llx\n", U(c->flags), U(c->fs), U(c->gs));
	for (unsigned i = 0; i < c->npokes; i++) {
		printf("#  memory %llx:", U(c->poke[i].va));
		for (unsigned k = 0; k < c->poke[i].len; k++)
			printf(" %02x", c->poke[i].bytes[k]);
		printf("\n");
	}
	for (unsigned i = 0; i < c->ninsns; i++) {
		const uint8_t *p = c->code + c->insn_at[i];

		printf("#  %llx:", U(c->code_va + c->insn_at[i]));
		for (unsigned k = 0; k < c->insn_len[i]; k++)
			printf(" %02x", p[k]);
		printf("\n");
	}
	if (!c->ninsns) {
		printf("#  code:");
		for (unsigned k = 0; k < 20; k++)
			printf(" %02x", c->code[c->rip - c->code_va + k]);
		printf("\n");
	}
	fflush(stdout);
}
