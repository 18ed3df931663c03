/* SPDX-License-Identifier: MIT */
/*
 * x87 state in the parked image: what its parts mean to each other, and the instructions that save
 * and restore the environment (Intel SDM volume 1, section 8.1). The image holds data registers by
 * distance from the top of the stack, so whoever moves the top moves them.
 */
#include "engine/soft/sys.h"

#define FCW_MASKS   0x3fu
#define FCW_VALID   0x1f3fu
#define FCW_ONE     0x40u
#define FSW_TOP     0x3800u
#define FSW_ES_B    0x8080u
#define ENV_BYTES   28
#define ENV16_BYTES 14

bool sys_x87_pending(const struct xsave_image *image)
{
	return (image->xstate_bv & XSTATE_X87) && (image->fsw & ~image->fcw & FCW_MASKS);
}

void sys_x87_set_top(struct xsave_image *image, unsigned top)
{
	unsigned by = top - (image->fsw >> 11 & 7);
	uint8_t old[8][16];

	soft_copy(old, image->st, sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		soft_copy(image->st[i], old[(i + by) & 7], 16);
	image->fsw = (uint16_t)((image->fsw & ~FSW_TOP) | top << 11);
}

/* The summary bits follow from the exceptions and their masks. */
void sys_x87_summarize(struct xsave_image *image)
{
	if (image->fsw & ~image->fcw & FCW_MASKS)
		image->fsw |= FSW_ES_B;
	else
		image->fsw &= ~FSW_ES_B;
}

void sys_x87_hide_pointers(struct xsave_image *image)
{
	image->fop = 0;
	image->fip = image->fdp = 0;
}

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static unsigned tag_of(const uint8_t st[16])
{
	uint64_t mantissa;
	uint16_t exponent;

	__builtin_memcpy(&mantissa, st, sizeof(mantissa));
	__builtin_memcpy(&exponent, st + 8, sizeof(exponent));
	exponent &= 0x7fff;
	if (exponent == 0)
		return mantissa ? TAG_SPECIAL : TAG_ZERO;
	if (exponent == 0x7fff || !(mantissa >> 63))
		return TAG_SPECIAL;
	return TAG_VALID;
}

static uint16_t tag_word(const struct xsave_image *image)
{
	unsigned top = image->fsw >> 11 & 7, word = 0;

	for (unsigned i = 0; i < 8; i++) {
		unsigned tag = image->ftw >> i & 1 ? tag_of(image->st[(i - top) & 7]) : TAG_EMPTY;

		word |= tag << 2 * i;
	}
	return (uint16_t)word;
}

/*
 * Control, status and tag words lie 2 or 4 bytes apart; unused halves read as ones, pointers as
 * zeroes.
 */
static void build_environment(const struct xsave_image *image, uint16_t *env, bool small)
{
	size_t step = small ? 1 : 2, words = (small ? ENV16_BYTES : ENV_BYTES) / 2;

	for (size_t i = 0; i < words; i++)
		env[i] = !small && (i == 1 || i == 3 || i == 5 || i == 13) ? 0xffff : 0;
	env[0] = image->fcw;
	env[step] = image->fsw;
	env[2 * step] = tag_word(image);
}

static void take_environment(struct xsave_image *image, const uint16_t *env, bool small)
{
	size_t step = small ? 1 : 2;
	unsigned tags = env[2 * step];

	image->fcw = (env[0] & FCW_VALID) | FCW_ONE;
	sys_x87_set_top(image, env[step] >> 11 & 7);
	image->fsw = env[step];
	image->ftw = 0;
	for (unsigned i = 0; i < 8; i++)
		if ((tags >> 2 * i & 3) != TAG_EMPTY)
			image->ftw |= 1u << i;
	sys_x87_hide_pointers(image);
	sys_x87_summarize(image);
}

bool sys_x87_state(struct vcpu *cpu, uint64_t ea)
{
	struct xsave_image *image = sys_image(cpu, XSTATE_X87);
	unsigned size = cpu->insn.mem_size, env_size;
	bool whole = cpu->insn.system == SYS_FNSAVE || cpu->insn.system == SYS_FRSTOR;
	bool small = cpu->insn.op_size == 2, user = cpu->cpl == 3;
	union {
		uint16_t env[ENV_BYTES / 2];
		uint8_t bytes[ENV_BYTES + 80];
	} area;

	env_size = small ? ENV16_BYTES : ENV_BYTES;
	if (cpu->insn.system == SYS_FNSTENV || cpu->insn.system == SYS_FNSAVE) {
		build_environment(image, area.env, small);
		for (size_t i = 0; whole && i < 8; i++)
			soft_copy(area.bytes + env_size + 10 * i, image->st[i], 10);
		if (!soft_write(cpu, ea, area.bytes, size, user))
			return false;
		if (whole) { /* as fninit: the registers are empty, and keep what they held */
			sys_x87_set_top(image, 0);
			image->fcw = XSTATE_FCW_INIT;
			image->fsw = 0;
			image->ftw = 0;
		} else {
			image->fcw |= FCW_MASKS;
			sys_x87_summarize(image);
		}
		return true;
	}
	if (sys_x87_pending(image))
		return soft_raise(cpu, EXC_MF);
	if (!soft_read(cpu, ea, area.bytes, size, user))
		return false;
	take_environment(image, area.env, small);
	for (size_t i = 0; whole && i < 8; i++)
		soft_copy(image->st[i], area.bytes + env_size + 10 * i, 10);
	return true;
}
