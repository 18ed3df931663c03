/* SPDX-License-Identifier: MIT */
/*
 * CPUID of the software CPU (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E). The guest
 * sees the host's vendor, family, model and brand, so that its libraries dispatch as they would on
 * the host, with features from a whitelist: what translated code can run, or C emulates. One table
 * gives both the bits that the guest sees and the mask that the decoder obeys, so the two cannot
 * differ.
 *
 * The host is asked once, because CPUID is slow where the host is itself a virtual machine.
 */
#include "engine/soft/emit.h"
#include "engine/soft/sys.h"
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };

#define BIT(n)          (1u << (n))

#define BASIC_MAX_INTEL 0x1fu
#define BASIC_MAX_AMD   0x10u
#define EXT_MAX_INTEL   0x80000008u
#define EXT_MAX_AMD     0x80000021u
#define HYPERVISOR      0x40000000u
#define HYPERVISOR_MAX  0x40000010u
#define HYPERVISOR_END  0x400000ffu
#define APIC_BUS_KHZ    1000000u

static const struct {
	uint32_t leaf;
	uint8_t subleaves;
} wanted[] = {
	{ 0x0, 1 },
	{ 0x1, 1 },
	{ 0x2, 1 },
	{ 0x4, 8 },
	{ 0x7, 3 },
	{ 0xd, 2 },
	{ 0x80000000, 1 },
	{ 0x80000001, 1 },
	{ 0x80000002, 1 },
	{ 0x80000003, 1 },
	{ 0x80000004, 1 },
	{ 0x80000005, 1 },
	{ 0x80000006, 1 },
	{ 0x80000007, 1 },
	{ 0x80000008, 1 },
	{ 0x80000019, 1 },
	{ 0x8000001d, 8 },
};

static struct {
	bool amd, avx;
	unsigned count;
	struct {
		uint32_t leaf, subleaf, out[4];
	} entry[40];
} host;

/* A feature that the guest has when the host has it. */
struct feature {
	uint32_t leaf;
	uint8_t subleaf, reg, bit;
	uint8_t feat; /* FEAT_BASE: nothing that the decoder asks about */
	bool avx;     /* lives in ymm registers: the host's kernel must save them */
};

static const struct feature features[] = {
	{ 0x1, 0, ECX, 0, FEAT_SSE3, false },
	{ 0x1, 0, ECX, 1, FEAT_PCLMUL, false },
	{ 0x1, 0, ECX, 9, FEAT_SSSE3, false },
	{ 0x1, 0, ECX, 12, FEAT_FMA, true },
	{ 0x1, 0, ECX, 13, FEAT_BASE, false }, /* cmpxchg16b */
	{ 0x1, 0, ECX, 19, FEAT_SSE41, false },
	{ 0x1, 0, ECX, 20, FEAT_SSE42, false },
	{ 0x1, 0, ECX, 22, FEAT_MOVBE, false },
	{ 0x1, 0, ECX, 23, FEAT_POPCNT, false },
	{ 0x1, 0, ECX, 25, FEAT_AES, false },
	{ 0x1, 0, ECX, 26, FEAT_XSAVE, false },
	{ 0x1, 0, ECX, 28, FEAT_AVX, true },
	{ 0x1, 0, ECX, 29, FEAT_F16C, true },
	{ 0x1, 0, ECX, 30, FEAT_RDRAND, false },
	{ 0x7, 0, EBX, 0, FEAT_FSGSBASE, false },
	{ 0x7, 0, EBX, 3, FEAT_BMI1, false },
	{ 0x7, 0, EBX, 5, FEAT_AVX2, true },
	{ 0x7, 0, EBX, 6, FEAT_BASE, false }, /* x87 data pointer only on exceptions */
	{ 0x7, 0, EBX, 8, FEAT_BMI2, false },
	{ 0x7, 0, EBX, 9, FEAT_BASE, false }, /* ERMS */
	{ 0x7, 0, EBX, 18, FEAT_RDSEED, false },
	{ 0x7, 0, EBX, 19, FEAT_ADX, false },
	{ 0x7, 0, EBX, 23, FEAT_CLFLUSHOPT, false },
	{ 0x7, 0, EBX, 24, FEAT_CLWB, false },
	{ 0x7, 0, EBX, 29, FEAT_SHA, false },
	{ 0x7, 0, ECX, 8, FEAT_GFNI, false },
	{ 0x7, 0, ECX, 9, FEAT_VAES, true },
	{ 0x7, 0, ECX, 10, FEAT_VPCLMUL, true },
	{ 0x7, 0, ECX, 22, FEAT_RDPID, false },
	{ 0x7, 0, EDX, 4, FEAT_BASE, false }, /* FSRM */
	{ 0x7, 0, EDX, 14, FEAT_SERIALIZE, false },
	{ 0x7, 1, EAX, 4, FEAT_AVX_VNNI, true },
	{ 0x7, 1, EAX, 10, FEAT_BASE, false }, /* fast zero-length rep movsb */
	{ 0x7, 1, EAX, 11, FEAT_BASE, false }, /* fast short rep stosb */
	{ 0x7, 1, EAX, 12, FEAT_BASE, false }, /* fast short rep cmpsb, scasb */
	{ 0xd, 1, EAX, 0, FEAT_XSAVEOPT, false },
	{ 0xd, 1, EAX, 1, FEAT_XSAVEC, false },
	{ 0x80000001, 0, ECX, 0, FEAT_BASE, false }, /* lahf, sahf */
	{ 0x80000001, 0, ECX, 5, FEAT_LZCNT, false },
	{ 0x80000001, 0, ECX, 8, FEAT_PREFETCHW, false },
	{ 0x80000001, 0, EDX, 27, FEAT_RDTSCP, false },
};

enum whose { EVERY, INTEL, AMD };

/*
 * What every guest has: done in C, or part of x86-64. The second half says that the CPU is not
 * affected by what the host must see to itself, so that guests choose no mitigation that costs.
 */
static const struct {
	uint32_t leaf;
	uint8_t subleaf, reg, whose;
	uint32_t bits;
} fixed[] = {
	/* x2APIC, TSC-deadline, hypervisor */
	{ 0x1, 0, ECX, EVERY, BIT(21) | BIT(24) | BIT(31) },
	/*
	 * fpu, de, pse, tsc, msr, pae, mce, cx8, apic, sep, mtrr, pge, mca, cmov, pat, pse36,
	 * clflush, mmx, fxsr, sse, sse2
	 */
	{ 0x1, 0, EDX, EVERY, 0x078bfbfd }, { 0x6, 0, EAX, EVERY, BIT(2) }, /* ARAT */
	{ 0x7, 0, EBX, EVERY, BIT(1) | BIT(7) | BIT(13) }, /* TSC_ADJUST, SMEP, no FCS and FDS */
	{ 0x80000001, 0, EDX, EVERY,
		BIT(11) | BIT(20) | BIT(26) | BIT(29) }, /* syscall, NX, 1G, LM */
	{ 0x80000001, 0, ECX, AMD, BIT(22) },            /* topology extensions */
	{ 0x80000001, 0, EDX, AMD, BIT(22) },            /* MMX extensions */
	{ 0x80000007, 0, EDX, EVERY, BIT(8) },           /* invariant TSC */
	{ 0x7, 0, EAX, INTEL, 2 },                       /* subleaves */
	{ 0x7, 0, EAX, AMD, 1 },
	{ 0x7, 0, EDX, INTEL, BIT(26) | BIT(29) },   /* IBRS and IBPB, ARCH_CAPABILITIES */
	{ 0x7, 2, EDX, INTEL, BIT(4) | BIT(5) },     /* BHI_CTRL, MCDT_NO */
	{ 0x80000008, 0, EAX, EVERY, 48 << 8 | 46 }, /* linear, physical address bits */
	/* IBPB, IBRS, SSB_NO, BTC_NO */
	{ 0x80000008, 0, EBX, AMD, BIT(12) | BIT(14) | BIT(26) | BIT(29) },
	/*
	 * no nested data breakpoints, lfence serializes, null selector clears base, AutoIBRS,
	 * SRSO_NO
	 */
	{ 0x80000021, 0, EAX, AMD, BIT(0) | BIT(2) | BIT(6) | BIT(8) | BIT(29) },
	{ 0x80000021, 0, ECX, AMD, BIT(1) | BIT(2) }, /* TSA_SQ_NO, TSA_L1_NO */
};

static uint32_t host_reg(uint32_t leaf, uint32_t subleaf, unsigned reg)
{
	for (unsigned i = 0; i < host.count; i++)
		if (host.entry[i].leaf == leaf && host.entry[i].subleaf == subleaf)
			return host.entry[i].out[reg];
	return 0;
}

static void ask_host(void)
{
	unsigned max[2] = { __get_cpuid_max(0, NULL), __get_cpuid_max(0x80000000, NULL) };
	unsigned n = 0;
	uint32_t xcr0, high;

	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (wanted[i].leaf > max[wanted[i].leaf >> 31])
			continue;
		for (unsigned s = 0; s < wanted[i].subleaves; s++, n++) {
			uint32_t *out = host.entry[n].out;

			host.entry[n].leaf = wanted[i].leaf;
			host.entry[n].subleaf = s;
			__cpuid_count(wanted[i].leaf, s, out[EAX], out[EBX], out[ECX], out[EDX]);
		}
	}
	host.count = n;
	/* "AuthenticAMD", "HygonGenuine" */
	host.amd = host_reg(0, 0, EBX) == 0x68747541 || host_reg(0, 0, EBX) == 0x6f677948;
	if (host_reg(1, 0, ECX) & bit_OSXSAVE) {
		__asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
		host.avx = (xcr0 & 6) == 6;
	}
}

static bool present(const struct feature *f)
{
	return (host_reg(f->leaf, f->subleaf, f->reg) >> f->bit & 1) && (host.avx || !f->avx);
}

uint64_t soft_cpuid_features(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	uint64_t mask = 1ull << FEAT_BASE;

	pthread_once(&once, ask_host);
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
		if (present(&features[i]))
			mask |= 1ull << features[i].feat;
	return mask;
}

bool cpuid_is_amd(void)
{
	return host.amd;
}

static void feature_bits(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	unsigned vendor = host.amd ? AMD : INTEL;

	for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
		if (features[i].leaf == leaf && features[i].subleaf == subleaf &&
			present(&features[i]))
			out[features[i].reg] |= BIT(features[i].bit);
	for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++)
		if (fixed[i].leaf == leaf && fixed[i].subleaf == subleaf &&
			(fixed[i].whose == EVERY || fixed[i].whose == vendor))
			out[fixed[i].reg] |= fixed[i].bits;
}

static void host_leaf(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	for (unsigned i = 0; i < 4; i++)
		out[i] = host_reg(leaf, subleaf, i);
}

/* Bits of an APIC id that tell the cores of the package apart. */
static unsigned core_bits(const struct vcpu *cpu)
{
	unsigned bits = 0;

	while (1u << bits < cpu->engine->cpus)
		bits++;
	return bits;
}

static void leaf_1(const struct vcpu *cpu, uint32_t out[4])
{
	out[EAX] = host_reg(1, 0, EAX);
	out[EBX] = cpu->index << 24 | cpu->engine->cpus << 16 | 8 << 8; /* clflush of 64 bytes */
	if (cpu->cr4 & CR4_OSXSAVE)
		out[ECX] |= bit_OSXSAVE;
	if (cpu->engine->cpus > 1)
		out[EDX] |= BIT(28);
}

/* Leaves 4 and 0x8000001d: the last-level cache is shared by all, the others by nobody. */
static void leaf_caches(const struct vcpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	uint32_t cores = (1u << core_bits(cpu)) - 1;

	host_leaf(leaf, subleaf, out);
	if (!(out[EAX] & 31))
		return;
	out[EAX] &= 0x3fff;
	if ((out[EAX] >> 5 & 7) >= 3)
		out[EAX] |= cores << 14;
	if (leaf == 4)
		out[EAX] |= cores << 26;
}

static void leaf_topology(const struct vcpu *cpu, uint32_t subleaf, uint32_t out[4])
{
	out[ECX] = subleaf & 0xff;
	out[EDX] = cpu->index;
	if (subleaf == 0) { /* one thread */
		out[EBX] = 1;
		out[ECX] |= 1 << 8;
	} else if (subleaf == 1) { /* cores */
		out[EAX] = core_bits(cpu);
		out[EBX] = cpu->engine->cpus;
		out[ECX] |= 2 << 8;
	}
}

static void leaf_xstate(const struct vcpu *cpu, uint32_t subleaf, uint32_t out[4])
{
	uint32_t enabled = cpu->xcr0 & 4 ? CPU_XSAVE_SIZE : 576;

	if (subleaf == 0) {
		out[EAX] = host.avx ? 7 : 3;
		out[EBX] = enabled;
		out[ECX] = host.avx ? CPU_XSAVE_SIZE : 576;
	} else if (subleaf == 1) {
		out[EBX] = out[EAX] & BIT(1) ? enabled : 0;
	} else if (subleaf == 2 && host.avx) {
		out[EAX] = 256;
		out[EBX] = 576;
	}
}

/*
 * TSC = crystal * numerator / denominator. The crystal is also the APIC timer's clock, unless the
 * products that guests compute in 32 bits of kHz would overflow.
 */
static void leaf_tsc(const struct vcpu *cpu, uint32_t out[4])
{
	uint64_t khz = cpu->engine->tsc_khz, a = khz, b = APIC_BUS_KHZ;

	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	if (a && khz / a * APIC_BUS_KHZ <= UINT32_MAX) {
		out[EAX] = (uint32_t)(APIC_BUS_KHZ / a);
		out[EBX] = (uint32_t)(khz / a);
		out[ECX] = APIC_BUS_KHZ * 1000;
	} else {
		unsigned half = khz * 1000 > UINT32_MAX;

		out[EAX] = 1;
		out[EBX] = 1 + half;
		out[ECX] = (uint32_t)(khz * 1000 >> half);
	}
}

static void leaf_hypervisor(const struct vcpu *cpu, uint32_t leaf, uint32_t out[4])
{
	switch (leaf) {
	case HYPERVISOR:
		out[EAX] = HYPERVISOR_MAX;
		out[EBX] = 0x4b4d564b; /* "KVMK", "VMKV", "M" */
		out[ECX] = 0x564b4d56;
		out[EDX] = 0x4d;
		break;
	case HYPERVISOR +
		1: /* no I/O delay, clock by the new registers, clock stable across CPUs */
		out[EAX] = BIT(1) | BIT(3) | BIT(24);
		break;
	case HYPERVISOR_MAX:
		out[EAX] = (uint32_t)cpu->engine->tsc_khz;
		out[EBX] = APIC_BUS_KHZ;
		break;
	}
}

static void leaf_extended(const struct vcpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	switch (leaf) {
	case 0x80000000:
		host_leaf(leaf, 0, out);
		out[EAX] = host.amd ? EXT_MAX_AMD : EXT_MAX_INTEL;
		break;
	case 0x80000001:
		out[EAX] = host_reg(leaf, 0, EAX);
		out[EBX] = host_reg(leaf, 0, EBX);
		if (host.amd) { /* repeats what leaf 1 has */
			uint32_t one[4] = { 0, 0, 0, 0 };

			feature_bits(1, 0, one);
			out[EDX] |= one[EDX] & 0x0183f3ff;
		}
		break;
	case 0x80000008:
		if (host.amd)
			out[ECX] = core_bits(cpu) << 12 | (cpu->engine->cpus - 1);
		break;
	case 0x8000001d:
		leaf_caches(cpu, leaf, subleaf, out);
		break;
	case 0x8000001e:
		out[EAX] = out[EBX] = cpu->index;
		break;
	case 0x80000002 ... 0x80000006:
	case 0x80000019:
		host_leaf(leaf, 0, out);
		break;
	}
}

static void leaf_basic(const struct vcpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	switch (leaf) {
	case 0x0:
		host_leaf(leaf, 0, out);
		out[EAX] = host.amd ? BASIC_MAX_AMD : BASIC_MAX_INTEL;
		break;
	case 0x1:
		leaf_1(cpu, out);
		break;
	case 0x2:
		host_leaf(leaf, 0, out);
		break;
	case 0x4:
		leaf_caches(cpu, leaf, subleaf, out);
		break;
	case 0xb:
	case 0x1f:
		leaf_topology(cpu, subleaf, out);
		break;
	case 0xd:
		leaf_xstate(cpu, subleaf, out);
		break;
	case 0x15:
		leaf_tsc(cpu, out);
		break;
	case 0x16: /* MHz: base, maximum, bus */
		out[EAX] = out[EBX] = (uint32_t)(cpu->engine->tsc_khz / 1000);
		out[ECX] = 100;
		break;
	}
}

void soft_cpuid(const struct vcpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	bool by_subleaf = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f ||
			  leaf == 0x8000001d;

	out[EAX] = out[EBX] = out[ECX] = out[EDX] = 0;
	if (leaf >= HYPERVISOR && leaf <= HYPERVISOR_END) {
		leaf_hypervisor(cpu, leaf, out);
		return;
	}
	/* Beyond the end AMD answers zeroes, and Intel what the highest basic leaf would. */
	if (leaf >> 31 ? leaf > (host.amd ? EXT_MAX_AMD : EXT_MAX_INTEL)
		       : leaf > (host.amd ? BASIC_MAX_AMD : BASIC_MAX_INTEL)) {
		if (host.amd)
			return;
		leaf = BASIC_MAX_INTEL;
		by_subleaf = true;
	}
	feature_bits(leaf, by_subleaf ? subleaf : 0, out);
	if (leaf >> 31)
		leaf_extended(cpu, leaf, subleaf, out);
	else
		leaf_basic(cpu, leaf, subleaf, out);
}

bool sys_cpuid(struct vcpu *cpu)
{
	uint32_t out[4];

	soft_cpuid(cpu, (uint32_t)cpu->gpr[RAX], (uint32_t)cpu->gpr[RCX], out);
	cpu->gpr[RAX] = out[EAX];
	cpu->gpr[RBX] = out[EBX];
	cpu->gpr[RCX] = out[ECX];
	cpu->gpr[RDX] = out[EDX];
	return true;
}
