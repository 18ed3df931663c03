/* SPDX-License-Identifier: MIT */
/* Random registers, and addresses worth accessing. */
#include "diff.h"
#include <string.h>

/* A value for a general register. */
static uint64_t value(struct rng *r)
{
	static const uint64_t special[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff,
		0x7fffffff, 0x80000000, 0xffffffff, 1ull << 63, ~0ull, ~0ull >> 1,
		0xffffffff80000000 };
	uint64_t v = rnd(r);

	switch (rnd(r) % 6) {
	case 0:
		return special[v % 16];
	case 1:
		return v & 0xff;
	case 2:
		return (uint32_t)v;
	case 3:
		return DATA + PAGE + (v & 0x1fff);
	default:
		return v;
	}
}

/* Page borders: what lies before and after differs in every way. */
static const uint64_t borders[] = { DATA + 1 * PAGE, DATA + 2 * PAGE, DATA + 2 * PAGE,
	DATA + 2 * PAGE, DATA + 3 * PAGE, DATA + 4 * PAGE, DATA + 5 * PAGE, DATA + 6 * PAGE,
	DATA + 7 * PAGE, DATA + 8 * PAGE, DATA + 9 * PAGE, STACK + 2 * PAGE, HIGH, HIGH + PAGE };
static const uint64_t usable[] = { DATA + 1 * PAGE, DATA + 2 * PAGE, DATA + 4 * PAGE,
	DATA + 6 * PAGE, STACK + 1 * PAGE, HIGH };

uint64_t pick_target(struct rng *r, unsigned size, unsigned align)
{
	unsigned how = rnd(r) % 100;
	uint64_t v = rnd(r), at;

	if (size == 0)
		size = 8;
	if (how < 60) {
		at = usable[v % 6] + (v >> 8) % (PAGE - size);
	} else if (how < 88) {
		at = borders[v % 14] - (v >> 8) % (size + 1);
	} else if (how < 92) {
		at = DATA + 3 * PAGE + (v >> 8) % (PAGE - size); /* read-only */
	} else if (how < 96) {
		at = DATA + 5 * PAGE + (v >> 8) % PAGE; /* not present */
	} else if (how < 98) {
		at = v & 0xfff;
	} else if (how < 99) {
		at = 1ull << 47 | v >> 20; /* not canonical */
	} else {
		at = 0xffffffff80000000 + (v & 0xfff);
	}
	if (align > 1 && chance(r, 85))
		at &= ~(uint64_t)(align - 1);
	return at;
}

static uint64_t pick_rsp(struct rng *r)
{
	unsigned how = rnd(r) % 100;
	uint64_t v = rnd(r);

	if (how < 60)
		return STACK + PAGE + 1024 + (v & 0x17f8);
	if (how < 75)
		return STACK + PAGE + 1024 + (v & 0x17ff);
	if (how < 83)
		return STACK + 2 * PAGE + 16 - v % 33;
	if (how < 90)
		return STACK + PAGE + 16 - v % 33;
	if (how < 96)
		return STACK + 3 * PAGE + 16 - v % 33;
	return pick_target(r, 8, 1);
}

static uint64_t segment_base(struct rng *r)
{
	uint64_t v = rnd(r);

	switch (v % 4) {
	case 0:
		return 0;
	case 1:
		return DATA + (v >> 40);
	case 2:
		return v >> 18;
	default:
		return v >> 17 | 0xffff800000000000;
	}
}

static void x87_register(struct rng *r, uint8_t *st)
{
	uint64_t mantissa = rnd(r) | 1ull << 63, v = rnd(r);
	uint16_t exponent = 0x3fff;

	switch (v % 8) {
	case 0:
		mantissa = exponent = 0;
		break;
	case 1:
		exponent = 0x7fff;
		mantissa = v & 256 ? 1ull << 63 : mantissa | (v & 512 ? 1ull << 62 : 0);
		break;
	case 2:
		exponent = 0;
		mantissa &= ~(1ull << 63);
		break;
	case 3: /* a small integer */
		mantissa = 1ull << 63 | rnd(r) << 56;
		exponent += v >> 16 & 7;
		break;
	case 4:
		exponent += v >> 16 & 63;
		break;
	case 5:
		exponent = v >> 16 & 0x7fff;
		break;
	default:
		exponent += (v >> 16 & 3) - 2;
	}
	exponent |= v >> 40 & 0x8000;
	memcpy(st, &mantissa, 8);
	memcpy(st + 8, &exponent, 2);
}

static void vector_state(struct rng *r, const struct batch *b, uint8_t *image)
{
	uint16_t fcw = 0x37f, fsw;
	uint32_t mxcsr = 0x1f80;
	uint64_t v = rnd(r), present = 7;

	memset(image, 0, XSAVE_BYTES);
	if (v % 100 >= 60)
		fcw = (v >> 8 & 0xf00) | 0x7f;
	if (v % 100 >= 92)
		fcw &= ~(v >> 20 & 0x3f);
	v = rnd(r);
	fsw = v & 0x7f00;
	if (v >> 20 & 1)
		fsw = 0;
	if ((v >> 21 & 7) == 0)
		fsw |= v & 0x3f;
	memcpy(image, &fcw, 2);
	memcpy(image + 2, &fsw, 2);
	image[4] = (v >> 24 & 7) < 5 ? 0xff : (v >> 24 & 7) < 6 ? 0 : v >> 32;
	v = rnd(r);
	if (v % 100 >= 60)
		mxcsr = (v >> 8 & 0xe07f) | 0x1f80;
	if (v % 100 >= 92)
		mxcsr &= ~(v >> 24 & 0x1f80);
	memcpy(image + 24, &mxcsr, 4);
	for (unsigned i = 0; i < 8; i++)
		x87_register(r, image + 32 + 16 * i);
	for (unsigned i = 0; i < 16; i++) {
		v = rnd(r);
		memcpy(image + 160 + 16 * i, b->memory + v % (DATA_PAGES * PAGE - 32) / 8 * 8, 16);
		memcpy(image + 576 + 16 * i,
			b->memory + (v >> 32) % (DATA_PAGES * PAGE - 32) / 8 * 8, 16);
	}
	memcpy(image + 512, &present, 8);
}

void case_registers(struct rng *r, const struct batch *b, struct diff_case *c)
{
	for (unsigned i = 0; i < 16; i++)
		c->gpr[i] = value(r);
	c->gpr[CPU_RSP] = pick_rsp(r);
	c->flags = (rnd(r) & FLAGS_ARITH) | (chance(r, 20) ? FLAG_DF : 0) | 2;
	c->fs = segment_base(r);
	c->gs = segment_base(r);
	vector_state(r, b, c->xsave);
}

void case_poke(struct diff_case *c, uint64_t va, const void *bytes, unsigned len)
{
	if (c->npokes == POKES)
		return;
	c->poke[c->npokes].va = va;
	c->poke[c->npokes].len = (uint8_t)len;
	memcpy(c->poke[c->npokes++].bytes, bytes, len);
}
