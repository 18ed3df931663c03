/* SPDX-License-Identifier: MIT */
/*
 * String instructions: the host's own movs, stos, lods, scas and cmps run on the host addresses,
 * in stretches that stay inside one page on each side. Registers are up to date after each
 * stretch, so a fault or an interrupt finds the state that the architecture defines.
 */
#include "engine/soft/code.h"
#include "engine/soft/mmu.h"

struct stretch {
	uint8_t *src, *dst;
	uint64_t count;
	uint64_t rax, flags;
	bool backward;
};

/* Run op with count > 0 in rcx; scan and compare return what is left of count, and the flags. */
#define NATIVE(op)                                                         \
	__asm__ volatile("testb %[back], %[back]\n\tjz 1f\n\tstd\n1:\t" op \
			 "\n\tpushfq\n\tpopq %[fl]\n\tcld"                 \
			 : "+S"(s->src), "+D"(s->dst), "+c"(s->count),     \
			 "+a"(s->rax), [fl] "=&r"(flags)                   \
			 : [back] "q"((uint8_t)s->backward)                \
			 : "memory", "cc")

static void native(struct stretch *s, unsigned kind, unsigned size, bool rep_equal)
{
	uint64_t flags = 0;

	switch (kind | size) {
	case 0xa0 | 1:
		NATIVE("rep movsb");
		break;
	case 0xa0 | 2:
		NATIVE("rep movsw");
		break;
	case 0xa0 | 4:
		NATIVE("rep movsl");
		break;
	case 0xa0 | 8:
		NATIVE("rep movsq");
		break;
	case 0xb0 | 1:
		NATIVE("rep stosb");
		break;
	case 0xb0 | 2:
		NATIVE("rep stosw");
		break;
	case 0xb0 | 4:
		NATIVE("rep stosl");
		break;
	case 0xb0 | 8:
		NATIVE("rep stosq");
		break;
	case 0xc0 | 1:
		NATIVE("rep lodsb");
		break;
	case 0xc0 | 2:
		NATIVE("rep lodsw");
		break;
	case 0xc0 | 4:
		NATIVE("rep lodsl");
		break;
	case 0xc0 | 8:
		NATIVE("rep lodsq");
		break;
	case 0xd0 | 1:
		if (rep_equal)
			NATIVE("repe scasb");
		else
			NATIVE("repne scasb");
		break;
	case 0xd0 | 2:
		if (rep_equal)
			NATIVE("repe scasw");
		else
			NATIVE("repne scasw");
		break;
	case 0xd0 | 4:
		if (rep_equal)
			NATIVE("repe scasl");
		else
			NATIVE("repne scasl");
		break;
	case 0xd0 | 8:
		if (rep_equal)
			NATIVE("repe scasq");
		else
			NATIVE("repne scasq");
		break;
	case 0xe0 | 1:
		if (rep_equal)
			NATIVE("repe cmpsb");
		else
			NATIVE("repne cmpsb");
		break;
	case 0xe0 | 2:
		if (rep_equal)
			NATIVE("repe cmpsw");
		else
			NATIVE("repne cmpsw");
		break;
	case 0xe0 | 4:
		if (rep_equal)
			NATIVE("repe cmpsl");
		else
			NATIVE("repne cmpsl");
		break;
	case 0xe0 | 8:
		if (rep_equal)
			NATIVE("repe cmpsq");
		else
			NATIVE("repne cmpsq");
		break;
	}
	s->flags = flags;
}

/* What an opcode does. kind: for native(). */
struct string_op {
	unsigned kind;
	bool reads_src, reads_dst, writes_dst, compares;
};

static struct string_op classify(uint8_t opcode)
{
	switch (opcode & 0xfe) {
	case 0xa4:
		return (struct string_op){ .kind = 0xa0, .reads_src = true, .writes_dst = true };
	case 0xaa:
		return (struct string_op){ .kind = 0xb0, .writes_dst = true };
	case 0xac:
		return (struct string_op){ .kind = 0xc0, .reads_src = true };
	case 0xae:
		return (struct string_op){ .kind = 0xd0, .reads_dst = true, .compares = true };
	default:
		return (struct string_op){
			.kind = 0xe0, .reads_src = true, .reads_dst = true, .compares = true
		};
	}
}

/*
 * Elements of size bytes from va to the border of its page, in the direction of DF; 0: the first
 * one crosses.
 */
static uint64_t room(uint64_t va, unsigned size, bool backward)
{
	uint64_t offset = va & 0xfff;

	if (offset + size > MEM_PAGE_SIZE)
		return 0;
	return backward ? offset / size + 1 : (MEM_PAGE_SIZE - offset) / size;
}

/* RAM behind one side: NULL when an element must go through the buffer. False: fault raised. */
static bool side(struct vcpu *cpu, uint64_t va, unsigned size, bool write, bool backward,
	uint8_t **host, uint64_t *count)
{
	bool user = cpu->cpl == 3;
	uint64_t fits = room(va, size, backward);
	struct walk walk;

	*host = NULL;
	if (!fits)
		return true;
	*host = tlb_hit(cpu, va, size, write, user);
	if (!*host) {
		if (!mmu_fill(cpu, va, write, user, &walk))
			return false;
		*host = walk.host;
	}
	*count = MIN(*count, fits);
	return true;
}

static uint64_t masked(const struct insn *in, uint64_t v)
{
	return in->addr_size == 4 ? (uint32_t)v : v;
}

static void advance(struct vcpu *cpu, unsigned reg, int64_t bytes)
{
	cpu->gpr[reg] = masked(&cpu->insn, cpu->gpr[reg] + (uint64_t)bytes);
}

/*
 * Do up to *count elements; *count becomes what was done. *stop: a comparison ended the repetition.
 */
static bool stretch(struct vcpu *cpu, const struct string_op *op, uint64_t *count, bool *stop)
{
	const struct insn *in = &cpu->insn;
	unsigned size = in->op_size;
	bool backward = cpu->flags & FLAG_DF, user = cpu->cpl == 3, equal = in->prefixes & PFX_F3;
	uint64_t src = masked(in, cpu->gpr[RSI]), dst = masked(in, cpu->gpr[RDI]);
	struct stretch s = { .rax = cpu->gpr[RAX], .backward = backward };
	uint64_t buffer[2] = { 0, 0 };
	uint64_t want = *count;
	bool buffered;

	if (in->segment)
		src += cpu->seg_base[in->segment];
	if (op->reads_src && !side(cpu, src, size, false, backward, &s.src, &want))
		return false;
	/* The faults of the source come before those of the destination. */
	if (op->reads_src && !s.src && !soft_read(cpu, src, &buffer[0], size, user))
		return false;
	if ((op->reads_dst || op->writes_dst) &&
		!side(cpu, dst, size, op->writes_dst, backward, &s.dst, &want))
		return false;
	buffered = (op->reads_src && !s.src) || ((op->reads_dst || op->writes_dst) && !s.dst);
	if (buffered) {
		want = 1;
		if (s.src && !soft_read(cpu, src, &buffer[0], size, user))
			return false;
		if (op->reads_dst && !soft_read(cpu, dst, &buffer[1], size, user))
			return false;
		s.src = (uint8_t *)&buffer[0];
		s.dst = (uint8_t *)&buffer[1];
	}
	s.count = want;
	native(&s, op->kind, size, equal);
	if (buffered && op->writes_dst && !soft_write(cpu, dst, &buffer[1], size, user))
		return false;
	*count = want - s.count;
	*stop = op->compares && (!(s.flags & FLAG_ZF)) == equal;
	if (op->kind == 0xc0)
		cpu->gpr[RAX] = s.rax;
	if (op->compares)
		cpu->flags = (cpu->flags & ~(uint64_t)FLAGS_ARITH) | (s.flags & FLAGS_ARITH);
	int64_t bytes = (int64_t)(*count * size) * (backward ? -1 : 1);

	if (op->reads_src)
		advance(cpu, RSI, bytes);
	if (op->reads_dst || op->writes_dst)
		advance(cpu, RDI, bytes);
	return true;
}

bool soft_string(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	struct string_op op = classify(in->opcode);
	bool rep = in->prefixes & (PFX_F2 | PFX_F3), stop = false;
	uint64_t flags = cpu->flags;

	for (;;) {
		uint64_t left = rep ? masked(in, cpu->gpr[RCX]) : 1, done = left;

		if (!left)
			break;
		if (cpu->sysflags & FL_TF)
			done = 1;
		if (!stretch(cpu, &op, &done, &stop)) {
			cpu->flags = flags; /* as before the first element */
			return false;
		}
		if (!rep)
			break;
		cpu->gpr[RCX] = left - done;
		if (left == done || stop)
			break;
		/* Interrupts are taken between stretches, with rip at the instruction. */
		if (cpu->sysflags & FL_TF)
			return true;
		if (atomic_load_explicit(&cpu->pending, memory_order_relaxed)) {
			cpu->flags = flags; /* for a fault after it has gone on */
			return true;
		}
	}
	cpu->rip = cpu->next_rip;
	return true;
}
