/* SPDX-License-Identifier: MIT */
/*
 * What CPUID says, held to what the CPU does: features, state components, address widths, topology,
 * and the frequencies of its clocks. Intel SDM volume 2, CPUID.
 */
#include "bare.h"

enum { EAX, EBX, ECX, EDX };

static uint32_t leaf(uint32_t n, uint32_t sub, unsigned reg)
{
	uint32_t out[4];

	cpuid(n, sub, out);
	return out[reg];
}

static void largest_leaves(void)
{
	CHECK(leaf(0, 0, EAX) >= 0xd);
	CHECK(leaf(0, 0, EAX) < 0x100);
	CHECK(leaf(0x80000000, 0, EAX) >= 0x80000008);
	CHECK(leaf(0x80000000, 0, EAX) < 0x80000100);
	/* upper halves are cleared, and only ecx and eax are looked at */
	uint64_t a = 0xffffffff00000000, b = ~0ull, c = 0xffffffff00000000, d = ~0ull;

	__asm__ volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
	CHECK_EQ(a, leaf(0, 0, EAX));
	CHECK_EQ(b, leaf(0, 0, EBX));
	CHECK_EQ(c, leaf(0, 0, ECX));
	CHECK_EQ(d, leaf(0, 0, EDX));
}

static void base_features(void)
{
	/* fpu tsc msr pae cx8 apic sep pge cmov mmx fxsr sse sse2; sse3, cmpxchg16b */
	const uint32_t need = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 13 | 1 << 15 |
			      1 << 23 | 1 << 24 | 1 << 25 | 1 << 26;

	CHECK_EQ(leaf(1, 0, EDX) & need, need);
	CHECK(cpu_has(1, 0, ECX, 13));
	CHECK(cpu_has(0x80000001, 0, EDX, 29));
	CHECK(cpu_has(0x80000001, 0, EDX, 20));
	CHECK(cpu_has(0x80000001, 0, EDX, 11));
	CHECK(cpu_has(0x80000001, 0, ECX, 0));
}

static void osxsave_mirrors_cr4(void)
{
	CHECK(!cpu_has(1, 0, ECX, 27));
	if (!cpu_has(1, 0, ECX, 26))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	CHECK(cpu_has(1, 0, ECX, 27));
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	CHECK(!cpu_has(1, 0, ECX, 27));
}

/* One instruction of each feature. */
CODE(f_sse3, "haddps %xmm0, %xmm1");
CODE(f_pclmul, "pclmulqdq $0, %xmm0, %xmm1");
CODE(f_ssse3, "pshufb %xmm0, %xmm1");
CODE(f_fma, "vfmadd132ps %ymm0, %ymm1, %ymm2");
CODE(f_cx16, "cmpxchg16b (%rdi)");
CODE(f_sse41, "pmulld %xmm0, %xmm1");
CODE(f_sse42, "crc32 %eax, %ebx");
CODE(f_movbe, "movbe (%rdi), %eax");
CODE(f_popcnt, "popcnt %eax, %ebx");
CODE(f_aes, "aesenc %xmm0, %xmm1");
CODE(f_avx, "vaddps %ymm0, %ymm1, %ymm2");
CODE(f_f16c, "vcvtph2ps %xmm0, %ymm1");
CODE(f_rdrand, "rdrand %eax");
CODE(f_bmi1, "andn %eax, %ebx, %ecx");
CODE(f_avx2, "vpaddb %ymm0, %ymm1, %ymm2");
CODE(f_bmi2, "pdep %eax, %ebx, %ecx");
CODE(f_rdseed, "rdseed %eax");
CODE(f_adx, "adcx %eax, %ebx");
CODE(f_clflushopt, "clflushopt (%rdi)");
CODE(f_clwb, "clwb (%rdi)");
CODE(f_sha, "sha1msg1 %xmm0, %xmm1");
CODE(f_gfni, "gf2p8mulb %xmm0, %xmm1");
CODE(f_vaes, "vaesenc %ymm0, %ymm1, %ymm2");
CODE(f_vpclmul, "vpclmulqdq $0, %ymm0, %ymm1, %ymm2");
CODE(f_rdpid, "rdpid %rax");
CODE(f_lzcnt, "lzcnt %eax, %ebx");
CODE(f_prefetchw, "prefetchw (%rdi)");
CODE(f_rdtscp, "rdtscp");
static const struct {
	uint32_t leaf, reg, bit;
	const uint8_t *code, *end;
} features[] = {
#define F(leaf, reg, bit, code)                  \
	{                                        \
		leaf, reg, bit, code, code##_end \
	}
	F(1, ECX, 0, f_sse3),
	F(1, ECX, 1, f_pclmul),
	F(1, ECX, 9, f_ssse3),
	F(1, ECX, 12, f_fma),
	F(1, ECX, 13, f_cx16),
	F(1, ECX, 19, f_sse41),
	F(1, ECX, 20, f_sse42),
	F(1, ECX, 22, f_movbe),
	F(1, ECX, 23, f_popcnt),
	F(1, ECX, 25, f_aes),
	F(1, ECX, 28, f_avx),
	F(1, ECX, 29, f_f16c),
	F(1, ECX, 30, f_rdrand),
	F(7, EBX, 3, f_bmi1),
	F(7, EBX, 5, f_avx2),
	F(7, EBX, 8, f_bmi2),
	F(7, EBX, 18, f_rdseed),
	F(7, EBX, 19, f_adx),
	F(7, EBX, 23, f_clflushopt),
	F(7, EBX, 24, f_clwb),
	F(7, EBX, 29, f_sha),
	F(7, ECX, 8, f_gfni),
	F(7, ECX, 9, f_vaes),
	F(7, ECX, 10, f_vpclmul),
	F(7, ECX, 22, f_rdpid),
	F(0x80000001, ECX, 5, f_lzcnt),
	F(0x80000001, ECX, 8, f_prefetchw),
	F(0x80000001, EDX, 27, f_rdtscp),
};

/* What is offered works, in the kernel and for the user. */
static void features_work(void)
{
	uint8_t *page = page_alloc();

	if (cpu_has(1, 0, ECX, 26)) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		__asm__ volatile("xsetbv" : : "a"(cpu_has(1, 0, ECX, 28) ? 7 : 3), "d"(0), "c"(0));
	}
	for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		struct regs r = kernel_regs(features[i].code);

		if (!cpu_has(features[i].leaf, 0, features[i].reg, features[i].bit))
			continue;
		r.rdi = (uint64_t)page;
		exec(&r);
		CHECK_TRAP(&r, BP, 0, features[i].end + 1);
		r = user_regs(features[i].code);
		r.rdi = user(page);
		exec(&r);
		CHECK_TRAP(&r, BP, 0, user(features[i].end) + 1);
	}
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
}

/* AVX's relatives come only with AVX. */
static void features_imply_each_other(void)
{
	if (!cpu_has(1, 0, ECX, 28)) {
		CHECK(!cpu_has(7, 0, EBX, 5));
		CHECK(!cpu_has(1, 0, ECX, 12));
		CHECK(!cpu_has(1, 0, ECX, 29));
	}
	if (!cpu_has(1, 0, ECX, 26))
		CHECK(!cpu_has(1, 0, ECX, 28));
	else
		CHECK_EQ(leaf(0xd, 0, EAX) & 3, 3);
	CHECK_EQ(cpu_has(1, 0, ECX, 28), leaf(0xd, 0, EAX) >> 2 & 1);
	CHECK_EQ(leaf(7, 0, EBX) & (1u << 16), 0); /* no AVX-512 without its state */
}

static void state_components(void)
{
	uint32_t all = leaf(0xd, 0, EAX), last = 576;

	write_cr4(read_cr4() | CR4_OSXSAVE);
	for (unsigned i = 2; i < 32; i++) {
		if (!(all >> i & 1))
			continue;
		CHECK(leaf(0xd, i, EBX) >= 576);
		if (leaf(0xd, i, EBX) + leaf(0xd, i, EAX) > last)
			last = leaf(0xd, i, EBX) + leaf(0xd, i, EAX);
	}
	CHECK_EQ(leaf(0xd, 0, ECX), last);
	if (all & 4) {
		CHECK_EQ(leaf(0xd, 2, EAX), 256);
		CHECK_EQ(leaf(0xd, 2, EBX), 576);
	}
	__asm__ volatile("xsetbv" : : "a"(3), "d"(0), "c"(0));
	CHECK_EQ(leaf(0xd, 0, EBX), 576);
	__asm__ volatile("xsetbv" : : "a"(all), "d"(leaf(0xd, 0, EDX)), "c"(0));
	CHECK_EQ(leaf(0xd, 0, EBX), last);
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
}

CODE(touch, "mov (%rdi), %al");
static void address_widths(void)
{
	uint32_t widths = leaf(0x80000008, 0, EAX), physical = widths & 0xff;
	uint64_t va = va_alloc();
	struct regs r = kernel_regs(touch);

	CHECK_EQ(widths >> 8 & 0xff, 48);
	CHECK(physical >= 36 && physical <= 52);
	if (physical == 52)
		return;
	map(va, page_alloc(), PTE_KRW | 1ull << physical);
	r.rdi = va;
	exec(&r);
	CHECK_PF(&r, PF_P | PF_RSVD, touch, va);
}

static volatile uint32_t ids[CPUS_MAX][3];
static void read_ids(void *arg)
{
	unsigned cpu = cpu_index();

	ids[cpu][0] = leaf(1, 0, EBX) >> 24;
	ids[cpu][1] = leaf(0xb, 0, EDX);
	ids[cpu][2] = leaf(0xb, 1, EDX);
}

static void topology(void)
{
	unsigned cpus = device_cpus(), bits = leaf(0xb, 1, EAX) & 31;

	apic_enable(false);
	read_ids(NULL);
	for (unsigned i = 1; i < cpus; i++) {
		CHECK(cpu_start(i));
		cpu_call(i, read_ids, NULL);
		CHECK(cpu_wait(i));
	}
	for (unsigned i = 0; i < cpus; i++) {
		CHECK_EQ(ids[i][0], i);
		CHECK_EQ(ids[i][1], i);
		CHECK_EQ(ids[i][2], i);
	}
	CHECK_EQ(leaf(0xb, 0, ECX) >> 8 & 0xff, 1); /* threads */
	CHECK_EQ(leaf(0xb, 1, ECX) >> 8 & 0xff, 2); /* cores */
	CHECK_EQ(leaf(0xb, 2, ECX) >> 8 & 0xff, 0);
	CHECK_EQ(leaf(0xb, 2, ECX) & 0xff, 2);
	CHECK_EQ(leaf(0xb, 1, EBX) & 0xffff, cpus);
	CHECK(1u << bits >= cpus);
	CHECK(cpus == 1 || cpu_has(1, 0, EDX, 28));
}

/*
 * --- clocks
 */
#define HYPERVISOR 0x40000000u

static bool is_kvm(void)
{
	return cpu_has(1, 0, ECX, 31) && leaf(HYPERVISOR, 0, EBX) == 0x4b4d564b;
}

/* In kHz; 0: not told. */
static uint64_t tsc_khz(void)
{
	uint32_t out[4];

	if (leaf(0, 0, EAX) < 0x15)
		return is_kvm() && leaf(HYPERVISOR, 0, EAX) >= 0x40000010 ? leaf(0x40000010, 0, EAX)
									  : 0;
	cpuid(0x15, 0, out);
	return out[0] ? (uint64_t)out[2] * out[1] / out[0] / 1000 : 0;
}

static bool near(uint64_t a, uint64_t b, uint64_t per_mille)
{
	uint64_t difference = a > b ? a - b : b - a;

	return difference * 1000 <= b * per_mille;
}

static void frequencies_agree(void)
{
	uint64_t khz = tsc_khz();

	CHECK(khz > 100000 && khz < 10000000);
	if (is_kvm() && leaf(HYPERVISOR, 0, EAX) >= 0x40000010)
		CHECK(near(leaf(0x40000010, 0, EAX), khz, 1));
	if (leaf(0, 0, EAX) >= 0x16 && leaf(0x16, 0, EAX))
		CHECK(near((uint64_t)leaf(0x16, 0, EAX) * 1000, khz, 20));
	CHECK(cpu_has(0x80000007, 0, EDX, 8)); /* and it is invariant */
}

static uint64_t bus_khz(void)
{
	if (is_kvm() && leaf(HYPERVISOR, 0, EAX) >= 0x40000010)
		return leaf(0x40000010, 0, EBX);
	return leaf(0x15, 0, ECX) / 1000;
}

/* The APIC timer's clock by the TSC; the best of some tries, for they are not read at once. */
static void timer_frequency(void)
{
	uint64_t khz = tsc_khz(), best = ~0ull, want = bus_khz();

	apic_enable(false);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, 0x10051);
	for (unsigned i = 0; i < 10; i++) {
		uint64_t t0, t1, measured, difference;
		uint32_t c0, c1;

		apic_write(APIC_TMICT, 0xffffffff);
		t0 = rdtsc();
		c0 = apic_read(APIC_TMCCT);
		while (rdtsc() - t0 < khz * 10)
			pause();
		t1 = rdtsc();
		c1 = apic_read(APIC_TMCCT);
		measured = (uint64_t)(c0 - c1) * khz / (t1 - t0);
		difference = measured > want ? measured - want : want - measured;
		if (difference < best)
			best = difference;
	}
	apic_write(APIC_TMICT, 0);
	CHECK(best * 100 < want);
}

struct time_info {
	volatile uint32_t version, pad;
	volatile uint64_t tsc, system;
	volatile uint32_t multiplier;
	volatile int8_t shift;
	volatile uint8_t flags, pad2[2];
} __attribute__((packed));

static uint64_t clock_now(const struct time_info *t)
{
	uint64_t now, delta;
	uint32_t version;

	do {
		version = t->version;
		delta = rdtsc() - t->tsc;
		delta = t->shift < 0 ? delta >> -t->shift : delta << t->shift;
		now = t->system + (uint64_t)((unsigned __int128)delta * t->multiplier >> 32);
	} while ((version & 1) || version != t->version);
	return now;
}

/* The paravirtual clock: nanoseconds, as the TSC tells them. */
static void paravirtual_clock(void)
{
	struct time_info *t = page_alloc();
	uint64_t n0, n1, t0, t1;

	wrmsr(0x4b564d01, (uint64_t)t | 1);
	CHECK_EQ(t->version & 1, 0);
	CHECK(t->version != 0);
	CHECK(t->multiplier != 0);
	n0 = clock_now(t);
	t0 = rdtsc();
	while (rdtsc() - t0 < 20 * tsc_khz())
		pause();
	t1 = rdtsc();
	n1 = clock_now(t);
	CHECK(near((n1 - n0) * tsc_khz() / 1000000, t1 - t0, 20));
	wrmsr(0x4b564d01, 0);
}

int main(void)
{
	RUN(largest_leaves);
	RUN(base_features);
	RUN(osxsave_mirrors_cr4);
	RUN(features_work);
	RUN(features_imply_each_other);
	RUN_IF(cpu_has(1, 0, ECX, 26), state_components);
	RUN(address_widths);
	RUN_IF(leaf(0, 0, EAX) >= 0xb, topology);
	RUN_IF(tsc_khz(), frequencies_agree);
	RUN_IF(tsc_khz(), timer_frequency);
	RUN_IF(is_kvm() && (leaf(0x40000001, 0, EAX) & 8) && tsc_khz(), paravirtual_clock);
	return tap_done();
}
