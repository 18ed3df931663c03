/* SPDX-License-Identifier: MIT */
/*
 * Which forms are compared, and operands that make an instruction do something of interest:
 * divisors that divide, counts in range, comparisons that hold, images that can be loaded.
 */
#include "form.h"
#include <string.h>

bool form_wanted(const struct insn *in)
{
	if (in->class != INSN_SYSTEM)
		return in->class != INSN_UNDEFINED;
	switch (in->system) {
	case SYS_CPUID: /* other values than the host's, on purpose */
	case SYS_RDTSC:
	case SYS_RDTSCP:
	case SYS_RDPID:
	case SYS_RDPMC:
	case SYS_XGETBV:
	case SYS_SMSW: /* what user mode sees depends on the host's kernel */
	case SYS_SGDT:
	case SYS_SIDT:
	case SYS_SLDT:
	case SYS_STR:
	case SYS_VERR:
	case SYS_VERW:
	case SYS_LAR:
	case SYS_LSL:
	case SYS_MOV_TO_SREG:
	case SYS_POP_SREG:
	case SYS_LFS:
	case SYS_LGS:
	case SYS_LSS:
	case SYS_INT: /* system calls, and what leaves the test */
	case SYS_SYSCALL:
	case SYS_SYSENTER:
		return false;
	case SYS_CALL_FAR:
	case SYS_JMP_FAR:
		return in->op_size == 4; /* others have REX.W ignored */
	default:
		return true;
	}
}

static uint64_t unsegment(struct maker *m, uint64_t va)
{
	uint64_t x = va - (m->in.segment == 4 ? m->c->fs : m->in.segment == 5 ? m->c->gs : 0);

	return m->in.addr_size == 4 ? (uint32_t)x | rnd(m->r) << 32 : x;
}

static void setup_string(struct maker *m)
{
	static const uint32_t counts[] = { 0, 1, 2, 3, 7, 8, 9, 16, 33, 100, 511, 1000, 3000,
		0xffffff };
	uint64_t *gpr = m->c->gpr;
	unsigned size = m->in.op_size;

	gpr[CPU_RSI] = pick_target(m->r, size, chance(m->r, 50) ? size : 1);
	gpr[CPU_RDI] = pick_target(m->r, size, chance(m->r, 50) ? size : 1);
	if (chance(m->r, 25))
		gpr[CPU_RDI] = gpr[CPU_RSI] + rnd(m->r) % 65 - 32;
	if (chance(m->r, 10))
		gpr[CPU_RDI] = gpr[CPU_RSI] = DATA + 4 * PAGE + 1024 + rnd(m->r) % 512;
	gpr[CPU_RSI] = unsegment(m, gpr[CPU_RSI]);
	if (m->in.addr_size == 4)
		gpr[CPU_RDI] = (uint32_t)gpr[CPU_RDI] | rnd(m->r) << 32;
	gpr[CPU_RCX] = counts[rnd(m->r) % 14];
	/* CPUs differ in when they clear the upper halves. */
	if (m->in.addr_size == 4 && m->in.prefixes & (PFX_F2 | PFX_F3)) {
		gpr[CPU_RSI] = (uint32_t)gpr[CPU_RSI];
		gpr[CPU_RDI] = (uint32_t)gpr[CPU_RDI];
	}
	if (chance(m->r, 40))
		gpr[CPU_RAX] = rnd(m->r) & 1 ? 0 : 0x5a5a5a5a5a5a5a5a;
}

static void setup_division(struct maker *m)
{
	uint64_t *gpr = m->c->gpr;

	if (chance(m->r, 30))
		return;
	gpr[CPU_RDX] = m->in.modrm >> 3 & 1 && gpr[CPU_RAX] >> 63 ? ~0ull : 0;
	if (m->in.op_size == 1)
		gpr[CPU_RAX] &= 0xff;
	else if (m->in.op_size < 8)
		gpr[CPU_RAX] >>= 33;
}

static void setup_compare(struct maker *m, bool wide)
{
	struct diff_case *c = m->c;
	uint64_t pair[2] = { c->gpr[CPU_RAX], c->gpr[CPU_RDX] };

	if (wide && m->in.mem_size == 8)
		pair[0] = (uint32_t)pair[0] | pair[1] << 32;
	if (chance(m->r, 50))
		return;
	if (m->in.has_mem)
		case_poke(c, m->target, pair, m->in.mem_size);
	else if (m->in.rm != CPU_RSP)
		c->gpr[m->in.rm] = pair[0];
}

static void setup_gather(struct maker *m)
{
	bool dwords = !(m->in.opcode & 1);
	uint8_t *low = m->c->xsave + 160 + 16 * m->in.index;
	uint8_t *high = m->c->xsave + 576 + 16 * m->in.index;
	int32_t lane[8];

	for (unsigned i = 0; i < 8; i++) {
		lane[i] = (int32_t)(rnd(m->r) & 0x7ff) - 1024;
		if (!dwords && (i & 1))
			lane[i] = lane[i - 1] >> 31;
	}
	memcpy(low, lane, 16);
	memcpy(high, lane + 4, 16);
}

static void mask_memory(struct diff_case *c, uint64_t va, uint32_t len)
{
	c->mask[c->nmasks].va = va;
	c->mask[c->nmasks++].len = len;
}

/* The x87 pointers that these store are the host's. */
static void setup_state_image(struct maker *m)
{
	struct diff_case *c = m->c;
	uint64_t t = m->target;
	uint8_t header[64] = { (uint8_t)(rnd(m->r) & 7) };
	uint32_t mxcsr = rnd(m->r) & 0xffff;

	c->gpr[CPU_RAX] &= 7;
	c->gpr[CPU_RDX] = 0;
	switch (m->in.system) {
	case SYS_FNSTENV:
	case SYS_FNSAVE:
		mask_memory(c, t + (m->in.op_size == 2 ? 6 : 12), m->in.op_size == 2 ? 8 : 16);
		break;
	case SYS_FXSAVE:
	case SYS_XSAVE:
	case SYS_XSAVEOPT:
	case SYS_XSAVEC:
		mask_memory(c, t + 6, 18);
		break;
	case SYS_FXRSTOR:
	case SYS_XRSTOR:
		if (chance(m->r, 90))
			case_poke(c, t + 24, &mxcsr, 4);
		if (chance(m->r, 90))
			case_poke(c, t + 512, header, 64);
		break;
	default:
		break;
	}
	if (m->in.system == SYS_XSAVE || m->in.system == SYS_XSAVEOPT || m->in.system == SYS_XSAVEC)
		case_poke(c, t + 512, header, 64);
}

/* rip, cs and for iret also rflags, rsp, ss: to exit slot 3 at the same level. */
static void setup_far(struct maker *m)
{
	uint64_t word[5] = { EXIT_PAGE + 3 * EXIT_SLOT, 0x33, rnd(m->r) & ~0x44100ull,
		m->c->gpr[CPU_RSP] + 64, 0x2b };
	unsigned size = m->in.op_size, n = m->in.system == SYS_IRET ? 5 : 2;
	uint8_t bytes[40];

	for (unsigned i = 0; i < n; i++)
		memcpy(bytes + i * size, &word[i], size);
	case_poke(m->c, m->in.has_mem ? m->target : m->c->gpr[CPU_RSP], bytes, n * size);
}

static void setup_system(struct maker *m)
{
	struct diff_case *c = m->c;

	switch (m->in.system) {
	case SYS_XLAT:
		c->gpr[CPU_RBX] = unsegment(m, pick_target(m->r, 1, 1) - (c->gpr[CPU_RAX] & 0xff));
		break;
	case SYS_MASKMOV:
		if (!m->in.has_mem)
			c->gpr[CPU_RDI] = unsegment(m, pick_target(m->r, 16, 1));
		break;
	case SYS_GATHER:
		setup_gather(m);
		break;
	case SYS_IRET:
	case SYS_RETF:
	case SYS_CALL_FAR:
	case SYS_JMP_FAR:
		setup_far(m);
		break;
	case SYS_WRFSBASE:
	case SYS_WRGSBASE:
		if (m->in.rm != CPU_RSP && chance(m->r, 80))
			c->gpr[m->in.rm] = c->gpr[m->in.rm] >> 17;
		break;
	default:
		if (m->in.has_mem)
			setup_state_image(m);
	}
}

/* Operands that most instructions need in a certain range to do anything of interest. */
void form_setup(struct maker *m)
{
	struct diff_case *c = m->c;
	const struct insn *in = &m->in;
	unsigned digit = in->modrm >> 3 & 7;
	uint32_t word = rnd(m->r) & 0xffff;

	if (in->class == INSN_STRING)
		setup_string(m);
	else if (in->class == INSN_SYSTEM)
		setup_system(m);
	else if (in->map == 0 && (in->opcode & 0xfe) == 0xf6 && digit >= 6)
		setup_division(m);
	else if (in->map == 1 && (in->opcode & 0xfe) == 0xb0)
		setup_compare(m, false);
	else if (in->map == 1 && in->opcode == 0xc7 && in->has_mem && digit == 1)
		setup_compare(m, true);
	else if (in->map == 1 && in->opcode == 0xae && digit == 2 && chance(m->r, 85))
		case_poke(c, m->target, &(uint32_t){ word | 0x1f80 }, 4);
	else if (in->map == 0 && in->opcode == 0xd9 && in->has_mem && digit == 5)
		case_poke(c, m->target, &(uint16_t){ (uint16_t)((word & 0xf3f) | 0x7f) }, 2);
	else if (in->flags_maybe && chance(m->r, 60))
		c->gpr[CPU_RCX] = (c->gpr[CPU_RCX] & ~0xffull) | (rnd(m->r) & 31);
	if (in->feature == FEAT_RDRAND || in->feature == FEAT_RDSEED)
		c->gpr_any |= 1u << in->rm;
}
