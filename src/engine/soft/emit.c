/* SPDX-License-Identifier: MIT */
/* Writing host instructions; see emit.h. Encodings: Intel SDM volume 2, chapter 2. */
#include "engine/soft/emit.h"

void emit_mov_imm(struct emit *e, unsigned reg, uint64_t value)
{
	if (value <= UINT32_MAX) {
		if (reg >= 8)
			emit8(e, 0x41);
		emit8(e, 0xb8 | (reg & 7));
		emit32(e, (uint32_t)value);
	} else if ((uint64_t)(int64_t)(int32_t)value == value) {
		emit8(e, 0x48 | reg >> 3);
		emit8(e, 0xc7);
		emit8(e, 0xc0 | (reg & 7));
		emit32(e, (uint32_t)value);
	} else {
		emit8(e, 0x48 | reg >> 3);
		emit8(e, 0xb8 | (reg & 7));
		emit64(e, value);
	}
}

void emit_mov(struct emit *e, unsigned to, unsigned from)
{
	emit8(e, 0x48 | (from >> 3) << 2 | to >> 3);
	emit8(e, 0x89);
	emit8(e, 0xc0 | (from & 7) << 3 | (to & 7));
}

void emit_lea(struct emit *e, unsigned to, unsigned base, unsigned index, unsigned scale,
	int32_t disp, unsigned addr_size)
{
	uint8_t rex = 0x48 | (to >> 3) << 2;
	uint8_t ss = scale == 8 ? 0xc0 : scale == 4 ? 0x80 : scale == 2 ? 0x40 : 0;
	bool short_disp = disp >= -128 && disp <= 127;

	if (index != REG_NONE)
		rex |= (index >> 3) << 1;
	if (base != REG_NONE)
		rex |= base >> 3;
	if (addr_size == 4)
		emit8(e, 0x67);
	emit8(e, rex);
	emit8(e, 0x8d);
	if (base == REG_NONE) {
		emit8(e, 0x04 | (to & 7) << 3);
		emit8(e, ss | (index == REG_NONE ? 4 : index & 7) << 3 | 5);
		emit32(e, (uint32_t)disp);
		return;
	}
	uint8_t mod = disp == 0 && (base & 7) != 5 ? 0 : short_disp ? 0x40 : 0x80;

	if (index == REG_NONE && (base & 7) != 4) {
		emit8(e, mod | (to & 7) << 3 | (base & 7));
	} else {
		emit8(e, mod | (to & 7) << 3 | 4);
		emit8(e, ss | (index == REG_NONE ? 4 : index & 7) << 3 | (base & 7));
	}
	if (mod == 0x40)
		emit8(e, (uint8_t)disp);
	else if (mod == 0x80)
		emit32(e, (uint32_t)disp);
}

static void emit_vex(struct emit *e, const uint8_t *bytes, const struct insn *insn,
	unsigned pointer)
{
	uint8_t last = bytes[insn->opcode_offset - 1];
	uint8_t not_r, map;

	if (insn->encoding == ENC_VEX2) {
		not_r = last & 0x80;
		map = 1;
		last &= 0x7f;
	} else {
		not_r = bytes[insn->opcode_offset - 2] & 0x80;
		map = bytes[insn->opcode_offset - 2] & 0x1f;
	}
	emit8(e, 0xc4);
	emit8(e, not_r | 0x40 | (pointer >= 8 ? 0 : 0x20) | map);
	emit8(e, last);
	emit8(e, insn->opcode);
}

void emit_reencoded(struct emit *e, const uint8_t *bytes, const struct insn *insn, unsigned pointer)
{
	uint8_t opcode = insn->opcode, reg = insn->modrm >> 3 & 7, rex = 0;

	if (insn->encoding != ENC_LEGACY) {
		emit_vex(e, bytes, insn, pointer);
	} else {
		if (insn->prefixes & PFX_LOCK)
			emit8(e, 0xf0);
		if (insn->prefixes & PFX_66)
			emit8(e, 0x66);
		if (insn->prefixes & PFX_F2)
			emit8(e, 0xf2);
		if (insn->prefixes & PFX_F3)
			emit8(e, 0xf3);
		if (insn->rex || pointer >= 8)
			rex = 0x40 | (insn->rex & 0x0c) | pointer >> 3;
		if (insn->has_moffs) {
			/* A0..A3 mov rax, moffs become 8A, 8B, 88, 89. */
			opcode = 0x88 | (opcode & 1) | (opcode & 2 ? 0 : 2);
			reg = 0;
			rex &= 0x4b;
		}
		if (rex)
			emit8(e, rex);
		if (insn->map >= 1)
			emit8(e, 0x0f);
		if (insn->map == 2)
			emit8(e, 0x38);
		if (insn->map == 3)
			emit8(e, 0x3a);
		emit8(e, opcode);
	}
	emit8(e, reg << 3 | (pointer & 7));
	emit_bytes(e, bytes + insn->imm_offset, insn->imm_size);
}
