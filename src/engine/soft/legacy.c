/* SPDX-License-Identifier: MIT */
/*
 * An interpreter for 16-bit real mode, 16- and 32-bit protected mode and compatibility mode at
 * privilege level 0: what processors run between start-up and 64-bit mode. Intel SDM volume 2,
 * chapter 2 for the instruction format, volume 3, chapter 20 for real mode. Segment limits are not
 * checked, and a fault finds no handler but a 64-bit one.
 */
#include "engine/soft/legacy.h"

/*
 * --- fetching
 * ----------------------------------------------------------------------------------------
 */

static bool next_byte(struct legacy *l, uint8_t *byte)
{
	struct vcpu *cpu = l->cpu;
	uint32_t at = legacy_linear(l, SEG_CS, l->ip);

	if (++l->len > INSN_MAX_LEN)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (!l->code || !(at & 0xfff) || !l->ip) {
		uint64_t pa;
		uint8_t *host;

		if (!soft_translate(cpu, at, ACCESS_FETCH, false, &pa, &host, NULL, NULL))
			return false;
		if (!host)
			return soft_raise_error(cpu, EXC_GP, 0);
		l->code = host - (at & 0xfff);
	}
	*byte = l->code[at & 0xfff];
	l->ip++;
	if (!(cpu->seg[SEG_CS].attr & SEG_DB))
		l->ip &= 0xffff;
	return true;
}

bool legacy_fetch(struct legacy *l, void *to, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		if (!next_byte(l, (uint8_t *)to + i))
			return false;
	return true;
}

bool legacy_imm(struct legacy *l, unsigned size, uint32_t *value)
{
	*value = 0;
	return legacy_fetch(l, value, size);
}

bool legacy_simm(struct legacy *l, unsigned size, uint32_t *value)
{
	unsigned shift = 32 - 8 * size;

	if (!legacy_imm(l, size, value))
		return false;
	*value = (uint32_t)((int32_t)(*value << shift) >> shift);
	return true;
}

/*
 * --- operands
 * ----------------------------------------------------------------------------------------
 */

uint32_t legacy_linear(const struct legacy *l, unsigned seg, uint32_t offset)
{
	return (uint32_t)l->cpu->seg_base[seg] + offset;
}

/* The address in ModRM with 16-bit addresses. */
static bool address16(struct legacy *l)
{
	static const uint8_t base[8] = { CPU_RBX, CPU_RBX, CPU_RBP, CPU_RBP, CPU_RSI, CPU_RDI,
		CPU_RBP, CPU_RBX };
	uint32_t disp = 0, ea;
	bool absolute = l->mod == 0 && l->rm == 6;

	ea = absolute ? 0 : legacy_reg(l, base[l->rm], 2);
	if (l->rm < 4)
		ea += legacy_reg(l, l->rm & 1 ? CPU_RDI : CPU_RSI, 2);
	if (l->mod == 1 ? !legacy_simm(l, 1, &disp)
			: (l->mod == 2 || absolute) && !legacy_imm(l, 2, &disp))
		return false;
	l->ea = (ea + disp) & 0xffff;
	l->ea_seg = !absolute && base[l->rm] == CPU_RBP ? SEG_SS : SEG_DS;
	return true;
}

static bool address32(struct legacy *l)
{
	uint8_t base = l->rm, sib = 0;
	uint32_t ea = 0, disp = 0;
	bool absolute;

	if (base == 4) {
		if (!legacy_fetch(l, &sib, 1))
			return false;
		base = sib & 7;
		if ((sib >> 3 & 7) != CPU_RSP)
			ea = legacy_reg(l, sib >> 3 & 7, 4) << (sib >> 6);
	}
	absolute = l->mod == 0 && base == CPU_RBP;
	if (!absolute)
		ea += legacy_reg(l, base, 4);
	if (l->mod == 1 ? !legacy_simm(l, 1, &disp)
			: (l->mod == 2 || absolute) && !legacy_imm(l, 4, &disp))
		return false;
	l->ea = ea + disp;
	l->ea_seg = !absolute && (base == CPU_RSP || base == CPU_RBP) ? SEG_SS : SEG_DS;
	return true;
}

bool legacy_modrm(struct legacy *l)
{
	uint8_t byte = 0;

	if (!legacy_fetch(l, &byte, 1))
		return false;
	l->mod = byte >> 6;
	l->reg = byte >> 3 & 7;
	l->rm = byte & 7;
	l->mem = l->mod != 3;
	if (!l->mem)
		return true;
	if (!(l->addr == 2 ? address16(l) : address32(l)))
		return false;
	if (l->segment != SEG_COUNT)
		l->ea_seg = l->segment;
	return true;
}

bool legacy_load(struct legacy *l, unsigned seg, uint32_t offset, unsigned size, uint32_t *value)
{
	*value = 0;
	return soft_read(l->cpu, legacy_linear(l, seg, offset), value, size, false);
}

bool legacy_store(struct legacy *l, unsigned seg, uint32_t offset, unsigned size, uint32_t value)
{
	return soft_write(l->cpu, legacy_linear(l, seg, offset), &value, size, false);
}

uint32_t legacy_reg(const struct legacy *l, unsigned reg, unsigned size)
{
	if (size == 1)
		return (uint8_t)(l->cpu->gpr[reg & 3] >> (reg & 4 ? 8 : 0));
	return size == 2 ? (uint16_t)l->cpu->gpr[reg] : (uint32_t)l->cpu->gpr[reg];
}

void legacy_set_reg(struct legacy *l, unsigned reg, unsigned size, uint32_t value)
{
	uint64_t *gpr = &l->cpu->gpr[size == 1 ? reg & 3 : reg];
	unsigned shift = size == 1 && (reg & 4) ? 8 : 0;
	uint64_t mask = (size == 1 ? 0xffull : 0xffffull) << shift;

	if (size == 4)
		*gpr = value;
	else
		*gpr = (*gpr & ~mask) | ((uint64_t)value << shift & mask);
}

bool legacy_get_rm(struct legacy *l, unsigned size, uint32_t *value)
{
	if (l->mem)
		return legacy_load(l, l->ea_seg, l->ea, size, value);
	*value = legacy_reg(l, l->rm, size);
	return true;
}

bool legacy_begin_rm(struct legacy *l, unsigned size, uint32_t *value)
{
	uint32_t at = legacy_linear(l, l->ea_seg, l->ea);
	uint64_t pa;

	l->host = NULL;
	if (!l->mem || !l->lock || (at & 0xfff) + size > 0x1000)
		return legacy_get_rm(l, size, value);
	if (!soft_translate(l->cpu, at, ACCESS_WRITE, false, &pa, &l->host, NULL, NULL))
		return false;
	if (!l->host)
		return legacy_get_rm(l, size, value);
	*value = 0;
	soft_copy(value, l->host, size);
	l->seen = *value;
	return true;
}

/* Write under a lock prefix, if nobody has written since the read. */
static bool exchange(struct legacy *l, unsigned size, uint32_t value)
{
	uint8_t seen8 = (uint8_t)l->seen;
	uint16_t seen16 = (uint16_t)l->seen;

	if (size == 1)
		return __atomic_compare_exchange_n(l->host, &seen8, (uint8_t)value, false,
			__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	if (size == 2)
		return __atomic_compare_exchange_n((uint16_t *)l->host, &seen16, (uint16_t)value,
			false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return __atomic_compare_exchange_n((uint32_t *)l->host, &l->seen, value, false,
		__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

bool legacy_put_rm(struct legacy *l, unsigned size, uint32_t value)
{
	if (!l->mem) {
		legacy_set_reg(l, l->rm, size, value);
		return true;
	}
	if (!l->host)
		return legacy_store(l, l->ea_seg, l->ea, size, value);
	l->again = !exchange(l, size, value);
	if (l->again)
		return false;
	mmu_wrote(l->cpu, l->host, size);
	return true;
}

unsigned legacy_stack_size(const struct legacy *l)
{
	return l->cpu->seg[SEG_SS].attr & SEG_DB ? 4 : 2;
}

bool legacy_push(struct legacy *l, unsigned size, uint32_t value)
{
	unsigned wide = legacy_stack_size(l);
	uint32_t sp = legacy_reg(l, CPU_RSP, wide) - size;

	if (!legacy_store(l, SEG_SS, wide == 2 ? (uint16_t)sp : sp, size, value))
		return false;
	legacy_set_reg(l, CPU_RSP, wide, sp);
	return true;
}

bool legacy_pop(struct legacy *l, unsigned size, uint32_t *value)
{
	unsigned wide = legacy_stack_size(l);
	uint32_t sp = legacy_reg(l, CPU_RSP, wide);

	if (!legacy_load(l, SEG_SS, sp, size, value))
		return false;
	legacy_set_reg(l, CPU_RSP, wide, sp + size);
	return true;
}

/*
 * --- a step
 * ------------------------------------------------------------------------------------------
 */

/* Prefixes; *opcode is the byte after them. */
static bool prefixes(struct legacy *l, uint8_t *opcode)
{
	uint8_t narrow = l->size;

	for (;;) {
		if (!legacy_fetch(l, opcode, 1))
			return false;
		switch (*opcode) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			l->segment = SEG_ES + (*opcode >> 3 & 3);
			break;
		case 0x64:
		case 0x65:
			l->segment = SEG_FS + (*opcode & 1);
			break;
		case 0x66:
			l->size = 6 - narrow;
			break;
		case 0x67:
			l->addr = 6 - narrow;
			break;
		case 0xf0:
			l->lock = true;
			break;
		case 0xf2:
		case 0xf3:
			l->rep = *opcode;
			break;
		default:
			return true;
		}
	}
}

/* May this instruction be locked? Its ModRM is looked at in advance. */
static bool lockable(const struct legacy *l, uint8_t opcode)
{
	struct legacy ahead = *l;
	bool two = opcode == 0x0f, yes;
	uint8_t modrm, group;

	if ((two && !legacy_fetch(&ahead, &opcode, 1)) || !legacy_fetch(&ahead, &modrm, 1))
		return false;
	group = modrm >> 3 & 7;
	switch (opcode | two << 8) {
	case 0x80 ... 0x83:
		yes = group != 7;
		break;
	case 0xf6:
	case 0xf7:
		yes = group == 2 || group == 3;
		break;
	case 0xfe:
	case 0xff:
		yes = group < 2;
		break;
	case 0x1ba:
		yes = group > 4;
		break;
	case 0x86:
	case 0x87:
	case 0x1ab:
	case 0x1b0:
	case 0x1b1:
	case 0x1b3:
	case 0x1bb:
	case 0x1c0:
	case 0x1c1:
		yes = true;
		break;
	default:
		yes = !two && opcode < 0x38 && (opcode & 7) < 2;
		break;
	}
	return (yes && modrm < 0xc0) || soft_raise(l->cpu, EXC_UD);
}

bool soft_legacy_step(struct vcpu *cpu)
{
	uint8_t size = cpu->seg[SEG_CS].attr & SEG_DB ? 4 : 2, opcode = 0;
	struct legacy l = { .cpu = cpu,
		.ip = (uint32_t)cpu->rip,
		.size = size,
		.addr = size,
		.segment = SEG_COUNT };
	uint64_t rsp = cpu->gpr[CPU_RSP];

	if (cpu->cpl != 0)
		return soft_raise(cpu, EXC_UD);
	if (!prefixes(&l, &opcode) || (l.lock && !lockable(&l, opcode)) ||
		!legacy_exec(&l, opcode)) {
		cpu->gpr[CPU_RSP] = rsp;
		return l.again;
	}
	if (!l.again && !l.rip_set)
		cpu->rip = l.ip;
	return true;
}
