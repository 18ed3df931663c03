/* SPDX-License-Identifier: MIT */
/* String instructions of the 16- and 32-bit interpreter: movs, cmps, stos, lods, scas. */
#include "engine/soft/legacy.h"

enum { MOVS = 0xa4, CMPS = 0xa6, STOS = 0xaa, LODS = 0xac, SCAS = 0xae };

/* Repetitions in one step: interrupts are looked for between steps. */
#define CHUNK 4096

static void advance(struct legacy *l, unsigned reg, unsigned size)
{
	uint32_t by = l->cpu->flags & FLAG_DF ? 0 - size : size;

	legacy_set_reg(l, reg, l->addr, legacy_reg(l, reg, l->addr) + by);
}

static bool once(struct legacy *l, unsigned op, unsigned size)
{
	unsigned from = l->segment == SEG_COUNT ? SEG_DS : l->segment;
	uint32_t si = legacy_reg(l, CPU_RSI, l->addr), di = legacy_reg(l, CPU_RDI, l->addr);
	bool source = op == MOVS || op == CMPS || op == LODS, dest = op != LODS;
	uint32_t a = legacy_reg(l, CPU_RAX, size), b;
	uint64_t flags = l->cpu->flags;

	if (source && !legacy_load(l, from, si, size, &a))
		return false;
	if (op == MOVS || op == STOS) {
		if (!legacy_store(l, SEG_ES, di, size, a))
			return false;
	} else if (op == CMPS || op == SCAS) {
		if (!legacy_load(l, SEG_ES, di, size, &b))
			return false;
		alu_binary(ALU_CMP, size, a, b, &flags);
		legacy_set_flags(l, flags);
	} else {
		legacy_set_reg(l, CPU_RAX, size, a);
	}
	if (source)
		advance(l, CPU_RSI, size);
	if (dest)
		advance(l, CPU_RDI, size);
	return true;
}

bool legacy_string(struct legacy *l, uint8_t opcode)
{
	unsigned op = opcode & 0xfe, size = opcode & 1 ? l->size : 1;
	bool compares = op == CMPS || op == SCAS;

	if (!l->rep)
		return once(l, op, size);
	for (unsigned i = 0; i < CHUNK; i++) {
		uint32_t count = legacy_reg(l, CPU_RCX, l->addr);

		if (!count)
			return true;
		if (!once(l, op, size))
			return false;
		legacy_set_reg(l, CPU_RCX, l->addr, count - 1);
		if (compares && !(l->cpu->flags & FLAG_ZF) == (l->rep == 0xf3))
			return true;
	}
	l->again = true;
	return true;
}
