/* SPDX-License-Identifier: MIT */
/* What both sides of the differential test share: addresses, memory before and after a case. */
#include "diff.h"
#include <string.h>

const struct area areas[AREAS] = {
	{ DATA + 1 * PAGE, 0 * PAGE, 2, true, false },
	{ DATA + 3 * PAGE, 2 * PAGE, 1, false, false },
	{ DATA + 4 * PAGE, 3 * PAGE, 1, true, false },
	{ DATA + 6 * PAGE, 4 * PAGE, 1, true, false },
	{ DATA + 8 * PAGE, 5 * PAGE, 1, false, false },
	{ STACK + 1 * PAGE, 6 * PAGE, 2, true, false },
	{ HIGH, 8 * PAGE, 1, true, false },
	{ CODE, CODE_AT, 2, true, true },
	{ ALIAS, CODE_AT, 2, true, false },
	{ EXIT_PAGE, EXIT_AT, 1, false, true },
};

uint64_t rnd(struct rng *r)
{
	uint64_t z = r->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static const struct area *find_area(uint64_t va)
{
	for (unsigned i = 0; i < AREAS; i++)
		if (va - areas[i].va < areas[i].pages * PAGE)
			return &areas[i];
	return NULL;
}

uint8_t *arena_at(uint8_t *arena, uint64_t va)
{
	const struct area *a = find_area(va);

	return a ? arena + a->at + (va - a->va) : NULL;
}

bool area_writable(uint64_t va)
{
	const struct area *a = find_area(va);

	return a && a->write;
}

void arena_load(uint8_t *arena, const struct batch *b)
{
	memcpy(arena, b->memory, sizeof(b->memory));
}

static uint8_t scratch_byte(const struct diff_case *c, unsigned i)
{
	return (uint8_t)((c->seed >> i % 56) * 37);
}

void arena_prepare(uint8_t *arena, const struct diff_case *c)
{
	for (unsigned i = 0; i < c->npokes; i++)
		for (unsigned k = 0; k < c->poke[i].len; k++) {
			uint8_t *p = arena_at(arena, c->poke[i].va + k);

			if (p && p < arena + DATA_PAGES * PAGE)
				*p = c->poke[i].bytes[k];
		}
	memcpy(arena_at(arena, c->code_va), c->code, c->code_len);
	for (unsigned i = 0; c->scratch && i < SCRATCH; i++)
		arena[CODE_AT + c->scratch + i] = scratch_byte(c, i);
}

static void collect_line(struct outcome *o, uint32_t at, const uint8_t *line)
{
	uint64_t word;

	for (unsigned i = 0; i < 64; i += 8) {
		memcpy(&word, line + i, 8);
		o->hash = (o->hash ^ word ^ at) * 0x9e3779b97f4a7c15ull;
		o->hash ^= o->hash >> 29;
	}
	if (o->nlines < LINES) {
		o->line[o->nlines].at = at;
		memcpy(o->line[o->nlines].bytes, line, 64);
	}
	o->nlines++;
}

void arena_collect(uint8_t *arena, const struct batch *b, const struct diff_case *c,
	struct outcome *o)
{
	o->hash = 0;
	o->nlines = 0;
	for (unsigned i = 0; i < c->nmasks; i++)
		for (unsigned k = 0; k < c->mask[i].len; k++) {
			uint8_t *p = arena_at(arena, c->mask[i].va + k);

			if (p && p < arena + DATA_PAGES * PAGE)
				*p = 0;
		}
	for (unsigned page = 0; page < DATA_PAGES; page++) {
		uint32_t at = (uint32_t)(page * PAGE);

		if (!memcmp(arena + at, b->memory + at, PAGE))
			continue;
		for (uint32_t line = at; line < at + PAGE; line += 64)
			if (memcmp(arena + line, b->memory + line, 64))
				collect_line(o, line, arena + line);
		memcpy(arena + at, b->memory + at, PAGE);
	}
	for (uint32_t i = 0; c->scratch && i < SCRATCH; i += 64)
		collect_line(o, (uint32_t)CODE_AT + c->scratch + i,
			arena + CODE_AT + c->scratch + i);
}

void xsave_normalise(uint8_t *image)
{
	uint64_t present;

	memcpy(&present, image + 512, 8);
	if (!(present & 1)) {
		memset(image, 0, 24);
		image[0] = 0x7f;
		image[1] = 0x03;
		memset(image + 32, 0, 128);
	}
	if (!(present & 2))
		memset(image + 160, 0, 256);
	if (!(present & 4))
		memset(image + 576, 0, 256);
	/* FOP, FIP, FDP, the mask of MXCSR, and what is reserved. */
	memset(image + 5, 0, 19);
	memset(image + 28, 0, 4);
	for (unsigned i = 0; i < 8; i++)
		memset(image + 32 + 16 * i + 10, 0, 6);
	memset(image + 416, 0, 576 - 416);
}

/* One line of test data: 64 bytes. */
static void fill_line(struct rng *r, uint8_t *line)
{
	static const uint64_t doubles[] = { 0, 1ull << 63, 0x3ff0000000000000, 0xbff0000000000000,
		0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001,
		0x0000000000000001, 0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff,
		0x4340000000000000, 0x41dfffffffc00000, 0xc1e0000000000000, 0x3fe0000000000000 };
	static const uint32_t floats[] = { 0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
		0xff800000, 0x7fc00000, 0x7f800001, 1, 0x007fffff, 0x00800000, 0x7f7fffff,
		0x4f000000, 0xcf000000, 0x3f000000, 0x40490fdb };
	uint64_t word[8];
	unsigned kind = rnd(r) % 8;

	for (unsigned i = 0; i < 8; i++) {
		uint64_t v = rnd(r);

		switch (kind) {
		case 0: /* special doubles */
			word[i] = doubles[v % 16];
			break;
		case 1: /* doubles near one */
			word[i] = (v & 0x800fffffffffffff) | (0x3f8ull + (v >> 56 & 15)) << 52;
			break;
		case 2: /* special floats */
			word[i] = floats[v % 16] | (uint64_t)floats[v / 16 % 16] << 32;
			break;
		case 3: /* floats near one */
			word[i] = (v & 0x807fffff807fffff) | 0x3c8000003c800000 |
				  (v >> 3 & 0x0380000003800000);
			break;
		case 4: /* small integers */
			word[i] = (v & 0x7f) - (v >> 20 & 1 ? 64 : 0);
			break;
		case 5:
			word[i] = v >> 8 & 1 ? ~0ull : 0;
			break;
		default:
			word[i] = v;
		}
	}
	memcpy(line, word, 64);
}

void fill_template(struct rng *r, struct batch *b)
{
	for (unsigned at = 0; at < sizeof(b->memory); at += 64)
		fill_line(r, b->memory + at);
	/* A stretch in which comparisons of strings run long. */
	memset(b->memory + 3 * PAGE + 1024, (int)(rnd(r) & 1 ? 0 : 0x5a), 1024);
}
