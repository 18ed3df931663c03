/* SPDX-License-Identifier: MIT */
/*
 * String instructions against loops in C: every kind and size, forward and backward, overlapping,
 * across pages, with a repeat count, and interrupted.
 */
#include "bare.h"

#define ARENA (4 * PAGE)

enum { MOVS, STOS, LODS, SCAS, CMPS, KINDS };

static uint8_t *pages[2], model[2][ARENA];
static uint64_t arena[2]; /* addresses under which the pages lie in another order */
static uint64_t random_state = 12345;

static uint32_t next_random(void)
{
	random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(random_state >> 33);
}

/* op, size 1 2 4 8, prefix: none, rep/repe, repne */
#define STRING_CODE(name, insn)              \
	CODE(name##_0, insn);                \
	CODE(name##_1, ".byte 0xf3; " insn); \
	CODE(name##_2, ".byte 0xf2; " insn)
STRING_CODE(movs1, "movsb");
STRING_CODE(movs2, "movsw");
STRING_CODE(movs4, "movsl");
STRING_CODE(movs8, "movsq");
STRING_CODE(stos1, "stosb");
STRING_CODE(stos2, "stosw");
STRING_CODE(stos4, "stosl");
STRING_CODE(stos8, "stosq");
STRING_CODE(lods1, "lodsb");
STRING_CODE(lods2, "lodsw");
STRING_CODE(lods4, "lodsl");
STRING_CODE(lods8, "lodsq");
STRING_CODE(scas1, "scasb");
STRING_CODE(scas2, "scasw");
STRING_CODE(scas4, "scasl");
STRING_CODE(scas8, "scasq");
STRING_CODE(cmps1, "cmpsb");
STRING_CODE(cmps2, "cmpsw");
STRING_CODE(cmps4, "cmpsl");
STRING_CODE(cmps8, "cmpsq");
#define ROW(kind)                                                                         \
	{                                                                                 \
		{ kind##1_0, kind##1_1, kind##1_2 }, { kind##2_0, kind##2_1, kind##2_2 }, \
			{ kind##4_0, kind##4_1, kind##4_2 },                              \
		{                                                                         \
			kind##8_0, kind##8_1, kind##8_2                                   \
		}                                                                         \
	}
static uint8_t *const codes[KINDS][4][3] = { ROW(movs), ROW(stos), ROW(lods), ROW(scas),
	ROW(cmps) };

static uint64_t load(const uint8_t *p, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, p, size);
	return v;
}

/* CF PF AF ZF SF OF of a comparison. */
static uint64_t compare_flags(uint64_t a, uint64_t b, unsigned size)
{
	unsigned bits = size * 8;
	uint64_t mask = size == 8 ? ~0ull : (1ull << bits) - 1, r = (a - b) & mask, flags = 0;
	unsigned parity = (unsigned)(r & 0xff);

	parity ^= parity >> 4;
	parity ^= parity >> 2;
	parity ^= parity >> 1;
	flags |= a < b ? FL_CF : 0;
	flags |= parity & 1 ? 0 : FL_PF;
	flags |= (a ^ b ^ r) & 0x10 ? FL_AF : 0;
	flags |= r ? 0 : FL_ZF;
	flags |= r >> (bits - 1) & 1 ? FL_SF : 0;
	flags |= ((a ^ b) & (a ^ r)) >> (bits - 1) & 1 ? FL_OF : 0;
	return flags;
}

/* What the instruction does, on the model and on *r, whose rsi and rdi are offsets. */
static void simulate(struct regs *r, unsigned kind, unsigned size, unsigned prefix)
{
	int64_t step = r->rflags & FL_DF ? -(int64_t)size : (int64_t)size;

	while (!prefix || r->rcx) {
		uint8_t *src = &model[0][r->rsi], *dst = &model[1][r->rdi];
		uint64_t a, b;

		switch (kind) {
		case MOVS:
			memcpy(dst, src, size);
			break;
		case STOS:
			memcpy(dst, &r->rax, size);
			break;
		case LODS:
			a = load(src, size);
			if (size == 4)
				r->rax = a;
			else
				memcpy(&r->rax, &a, size);
			break;
		default:
			a = kind == SCAS ? load((uint8_t *)&r->rax, size) : load(src, size);
			b = load(dst, size);
			r->rflags &= ~(FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF);
			r->rflags |= compare_flags(a, b, size);
		}
		if (kind != STOS && kind != SCAS)
			r->rsi += (uint64_t)step;
		if (kind != LODS)
			r->rdi += (uint64_t)step;
		if (!prefix)
			return;
		r->rcx--;
		if (kind >= SCAS && !(r->rflags & FL_ZF) == (prefix == 1))
			return;
	}
}

static void map_arenas(void)
{
	static const uint8_t order[2][4] = { { 2, 0, 3, 1 }, { 1, 3, 0, 2 } };

	for (unsigned a = 0; a < 2; a++) {
		arena[a] = va_alloc();
		pages[a] = page_alloc();
		for (unsigned i = 1; i < 4; i++)
			page_alloc();
		for (unsigned i = 0; i < 4; i++)
			map(arena[a] + i * PAGE, pages[a] + order[a][i] * PAGE, PTE_KRW);
	}
}

static void fill(bool alike)
{
	for (unsigned a = 0; a < 2; a++)
		for (unsigned i = 0; i < ARENA; i++)
			model[a][i] = alike ? (uint8_t)(next_random() % 64 ? 0x5a : 0)
					    : (uint8_t)next_random();
	for (unsigned a = 0; a < 2; a++)
		memcpy((void *)arena[a], model[a], ARENA);
}

static void one_case(unsigned kind, unsigned size_log, unsigned prefix, bool backward)
{
	unsigned size = 1u << size_log, count = next_random() % 300;
	struct regs want = kernel_regs(codes[kind][size_log][prefix]), r;

	if (next_random() % 8 == 0)
		count *= 5;
	if (!prefix)
		count = 1;
	want.rax = kind == SCAS && next_random() % 2 ? 0x5a5a5a5a5a5a5a5a : next_random();
	want.rcx = prefix ? count : 7;
	want.rsi = next_random() % (ARENA - count * size - 8);
	want.rdi = next_random() % (ARENA - count * size - 8);
	if (backward) {
		want.rflags |= FL_DF;
		want.rsi += (uint64_t)(count ? count - 1 : 0) * size;
		want.rdi += (uint64_t)(count ? count - 1 : 0) * size;
	}
	r = want;
	r.rsi += arena[0];
	r.rdi += arena[1];
	exec(&r);
	simulate(&want, kind, size, prefix);
	CHECK_EQ(r.vector, BP);
	CHECK_EQ(r.rax, want.rax);
	CHECK_EQ(r.rcx, want.rcx);
	CHECK_EQ(r.rsi - arena[0], want.rsi);
	CHECK_EQ(r.rdi - arena[1], want.rdi);
	CHECK_EQ(r.rflags, want.rflags);
}

static void all_cases(unsigned kind, bool alike)
{
	fill(alike);
	for (unsigned n = 0; n < 6; n++)
		for (unsigned size = 0; size < 4; size++)
			for (unsigned prefix = 0; prefix < (kind >= SCAS ? 3u : 2u); prefix++)
				for (unsigned backward = 0; backward < 2; backward++)
					one_case(kind, size, prefix, backward);
	CHECK(!memcmp((void *)arena[0], model[0], ARENA));
	CHECK(!memcmp((void *)arena[1], model[1], ARENA));
}

static void copies(void)
{
	all_cases(MOVS, false);
}

static void stores(void)
{
	all_cases(STOS, false);
}

static void loads(void)
{
	all_cases(LODS, false);
}

static void scans(void)
{
	all_cases(SCAS, true);
	all_cases(SCAS, false);
}

static void comparisons(void)
{
	all_cases(CMPS, true);
	all_cases(CMPS, false);
}

/* A copy onto itself, a few bytes further: a pattern is repeated, byte by byte. */
static void overlapping(void)
{
	uint8_t *at = (uint8_t *)arena[0];

	for (unsigned distance = 1; distance < 20; distance++)
		for (unsigned size_log = 0; size_log < 4; size_log++) {
			struct regs r = kernel_regs(codes[MOVS][size_log][1]);
			unsigned size = 1u << size_log, count = 6000 >> size_log;
			unsigned start = (unsigned)PAGE - 1000 - distance;

			for (unsigned i = 0; i < ARENA; i++)
				at[i] = model[0][i] = (uint8_t)(i * 11);
			for (unsigned i = 0; i < count; i++) {
				uint64_t v = load(&model[0][start + i * size], size);

				memcpy(&model[0][start + distance + i * size], &v, size);
			}
			r.rsi = arena[0] + start;
			r.rdi = r.rsi + distance;
			r.rcx = count;
			exec(&r);
			CHECK_EQ(r.rcx, 0);
			CHECK(!memcmp(at, model[0], ARENA));
		}
}

/* The same memory under two addresses, so that they overlap without looking so. */
static void overlapping_aliases(void)
{
	uint64_t alias = va_alloc();
	uint8_t *page = page_alloc();
	struct regs r = kernel_regs(codes[MOVS][0][1]);

	map(alias, page, PTE_KRW);
	for (unsigned i = 0; i < PAGE; i++)
		page[i] = (uint8_t)i;
	r.rsi = (uint64_t)page + 10;
	r.rdi = alias + 13;
	r.rcx = 3000;
	exec(&r);
	CHECK_DONE(&r, movs1_1);
	for (unsigned i = 0; i < 3000; i++)
		if (page[13 + i] != 10 + i % 3) {
			CHECK_EQ(page[13 + i], 10 + i % 3);
			break;
		}
}

/* 32-bit addresses: registers wrap at 4 GiB and lose their upper halves. */
CODE(short_addresses, "addr32 rep movsb");
static void address_size(void)
{
	uint8_t *from = page_alloc(), *to = page_alloc();
	struct regs r = kernel_regs(short_addresses);

	memcpy(from, "address-size", 12);
	r.rsi = (uint64_t)from | 0xffull << 32;
	r.rdi = (uint64_t)to | 0xffull << 40;
	r.rcx = 12 | 1ull << 32;
	exec(&r);
	CHECK_DONE(&r, short_addresses);
	CHECK(!memcmp(to, "address-size", 12));
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(r.rsi, (uint64_t)from + 12);
	CHECK_EQ(r.rdi, (uint64_t)to + 12);
}

/* The source may have another segment; the destination may not. */
CODE(other_segment, "mov $8, %ecx; rep movsb %fs:(%rsi), %es:(%rdi)");
static void segment_override(void)
{
	uint8_t *from = page_alloc(), *to = page_alloc();
	struct regs r = kernel_regs(other_segment);

	memcpy(from + 256, "segment!", 8);
	wrmsr(MSR_FS_BASE, (uint64_t)from);
	r.rsi = 256;
	r.rdi = (uint64_t)to;
	exec(&r);
	CHECK_DONE(&r, other_segment);
	CHECK(!memcmp(to, "segment!", 8));
	wrmsr(MSR_FS_BASE, 0);
}

/*
 * --- interrupted: the registers must always tell how far it is
 */
static volatile unsigned ticks, wrong;
static uint64_t base_rsi, base_rdi, total;
static uint64_t string_rip;
static bool tick(struct regs *frame)
{
	ticks++;
	apic_write(APIC_EOI, 0);
	if (frame->rip == string_rip) {
		uint64_t done = total - frame->rcx;

		if (frame->rsi != base_rsi + done * 8 || frame->rdi != base_rdi + done * 8)
			wrong++;
	}
	return true;
}

static void interrupted(void)
{
	uint64_t *from = large_alloc(), *to = large_alloc();
	unsigned rounds = 0, bad = 0;

	ticks = wrong = 0;
	total = LARGE / 8;
	for (unsigned i = 0; i < total; i++)
		from[i] = i * 0x9e3779b97f4a7c15ull;
	base_rsi = (uint64_t)from;
	base_rdi = (uint64_t)to;
	string_rip = (uint64_t)movs8_1;
	set_handler(0x51, tick);
	apic_enable(false);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, 0x20051);
	apic_write(APIC_TMICT, 30000);
	while (ticks < 50 && rounds < 2000) {
		struct regs r = kernel_regs(movs8_1);

		rounds++;
		r.rflags |= FL_IF;
		r.rsi = base_rsi;
		r.rdi = base_rdi;
		r.rcx = total;
		exec(&r);
		bad += r.rcx != 0;
	}
	apic_write(APIC_TMICT, 0);
	CHECK(ticks >= 50);
	CHECK_EQ(wrong, 0);
	CHECK_EQ(bad, 0);
	CHECK(!memcmp(from, to, LARGE));
}

int main(void)
{
	map_arenas();
	RUN(copies);
	RUN(stores);
	RUN(loads);
	RUN(scans);
	RUN(comparisons);
	RUN(overlapping);
	RUN(overlapping_aliases);
	RUN(address_size);
	RUN(segment_override);
	RUN(interrupted);
	return tap_done();
}
