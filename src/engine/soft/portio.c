/* SPDX-License-Identifier: MIT */
/*
 * Port I/O: permission by IOPL and by the bitmap of the task state segment (Intel SDM volume 1,
 * chapter 19), and the accesses themselves through the board.
 */
#include "engine/soft/emit.h"
#include "engine/soft/sys.h"

#define TSS_IO_MAP 102 /* offset of the bitmap's offset */
#define REP_CHUNK  1024

static bool refuse(struct vcpu *cpu)
{
	return soft_raise_error(cpu, EXC_GP, 0);
}

static bool permitted(struct vcpu *cpu, uint16_t port, unsigned size)
{
	const struct cpu_segment *tss = &cpu->seg[SEG_TR];
	uint16_t map, bits;
	uint32_t at;

	if (cpu->cpl <= (cpu->sysflags & FL_IOPL) >> 12)
		return true;
	if (!(tss->attr & SEG_P) || tss->limit < TSS_IO_MAP + 1)
		return refuse(cpu);
	if (!soft_read(cpu, tss->base + TSS_IO_MAP, &map, sizeof(map), false))
		return false;
	at = (uint32_t)map + port / 8;
	/* Two bytes are always read: the bits of one access may lie in both. */
	if (at + 1 > tss->limit)
		return refuse(cpu);
	if (!soft_read(cpu, tss->base + at, &bits, sizeof(bits), false))
		return false;
	if (bits >> port % 8 & ((1u << size) - 1))
		return refuse(cpu);
	return true;
}

static uint16_t named_port(const struct vcpu *cpu)
{
	return cpu->insn.opcode < 0xe8 ? (uint8_t)cpu->insn.imm : (uint16_t)cpu->gpr[RDX];
}

static uint64_t low_bytes(uint64_t value, unsigned size)
{
	return value & (~0ull >> (64 - 8 * size));
}

bool sys_in(struct vcpu *cpu)
{
	unsigned size = cpu->insn.op_size;
	uint16_t port = named_port(cpu);
	uint64_t value;

	if (!permitted(cpu, port, size))
		return false;
	value = low_bytes(soft_board_read(cpu, true, port, size), size);
	if (size < 4)
		value |= cpu->gpr[RAX] & ~low_bytes(~0ull, size);
	cpu->gpr[RAX] = value;
	return true;
}

bool sys_out(struct vcpu *cpu)
{
	unsigned size = cpu->insn.op_size;
	uint16_t port = named_port(cpu);

	if (!permitted(cpu, port, size))
		return false;
	soft_board_write(cpu, true, port, size, low_bytes(cpu->gpr[RAX], size));
	return true;
}

/* --- string forms ----------------------------------------------------------------------------- */

/* A register as the address size has it; writing 32 bits clears the upper half. */
static uint64_t address_register(const struct vcpu *cpu, unsigned reg)
{
	return cpu->insn.addr_size == 4 ? (uint32_t)cpu->gpr[reg] : cpu->gpr[reg];
}

static void advance(struct vcpu *cpu, unsigned reg, int64_t by)
{
	cpu->gpr[reg] += (uint64_t)by;
	if (cpu->insn.addr_size == 4)
		cpu->gpr[reg] = (uint32_t)cpu->gpr[reg];
}

static bool in_element(struct vcpu *cpu, uint16_t port, unsigned size, int64_t step)
{
	uint64_t to = address_register(cpu, RDI), value;

	/* Reading a port has effects, so the destination is tried first. */
	if (!soft_probe(cpu, to, size, ACCESS_WRITE, cpu->cpl == 3))
		return false;
	value = soft_board_read(cpu, true, port, size);
	if (!soft_write(cpu, to, &value, size, cpu->cpl == 3))
		return false;
	advance(cpu, RDI, step);
	return true;
}

static bool out_element(struct vcpu *cpu, uint16_t port, unsigned size, int64_t step)
{
	uint64_t from = address_register(cpu, RSI), value = 0;

	if (cpu->insn.segment)
		from += cpu->seg_base[cpu->insn.segment];
	if (!soft_read(cpu, from, &value, size, cpu->cpl == 3))
		return false;
	soft_board_write(cpu, true, port, size, value);
	advance(cpu, RSI, step);
	return true;
}

static bool port_string(struct vcpu *cpu,
	bool (*element)(struct vcpu *, uint16_t, unsigned, int64_t))
{
	unsigned size = cpu->insn.op_size, done = 0;
	int64_t step = cpu->flags & FLAG_DF ? -(int64_t)size : (int64_t)size;
	bool rep = cpu->insn.prefixes & (PFX_F2 | PFX_F3);
	uint16_t port = (uint16_t)cpu->gpr[RDX];

	if (!permitted(cpu, port, size))
		return false;
	if (!rep) {
		if (!element(cpu, port, size, step))
			return false;
		cpu->rip = cpu->next_rip;
		return true;
	}
	for (; address_register(cpu, RCX) && done < REP_CHUNK; done++) {
		if (!element(cpu, port, size, step))
			return false;
		advance(cpu, RCX, -1);
	}
	if (!address_register(cpu, RCX))
		cpu->rip = cpu->next_rip;
	return true;
}

bool sys_ins(struct vcpu *cpu)
{
	return port_string(cpu, in_element);
}

bool sys_outs(struct vcpu *cpu)
{
	return port_string(cpu, out_element);
}
