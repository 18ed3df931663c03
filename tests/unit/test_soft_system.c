/* SPDX-License-Identifier: MIT */
/*
 * System instructions of the software CPU that need no running guest: CPUID policy, MSRs, the
 * paravirtual clock, the formats of saved vector state and masked vector accesses. Where the host
 * has the instruction, it says what is right.
 */
#include "base/error.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "tap.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

extern const struct engine_class engine_soft;

#define RAM      (4u << 20)
#define AREA     0x100000u /* where the operands are, in a region that both sides have */
#define AREA_LEN 0x4000u
#define ABSENT   (AREA + 0x2000u) /* a page that is not mapped while paging is on */
#define TABLES   0x10000u
#define ROUNDS   2000

static struct engine *engine;
static struct memory *mem;
static struct vcpu *cpu;
static uint8_t *ram, *mirror; /* the guest's memory; the same bytes for native execution */
static uint64_t last_port, last_value;

static uint64_t board_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	(void)arg;
	(void)size;
	last_port = port ? addr : 0;
	return 0x1122334455667788u;
}

static void board_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	(void)arg;
	(void)size;
	last_port = port ? addr : 0;
	last_value = value;
}

static uint64_t random_u64(void)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void random_bytes(void *to, size_t n)
{
	uint8_t *p = to;

	while (n--)
		*p++ = (uint8_t)(random_u64() >> 24);
}

static void reset(void)
{
	soft_cpu_reset(cpu, false);
	cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE;
	cpu->cr0 = CR0_PE | CR0_ET | CR0_NE;
	cpu->xcr0 = 7;
	cpu->cpl = 0;
}

/* Identity-mapped small pages over the first 2 MiB, of which one is absent. */
static void paging_on(void)
{
	uint64_t *table = (uint64_t *)(ram + TABLES);

	memset(table, 0, 4096 * 4);
	table[0] = (TABLES + 0x1000) | 7;
	table[512] = (TABLES + 0x2000) | 7;
	table[1024] = (TABLES + 0x3000) | 7;
	for (unsigned i = 0; i < 512; i++)
		table[1536 + i] = i == ABSENT >> 12 ? 0 : i << 12 | 7;
	cpu->cr3 = TABLES;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
	cpu->cr0 |= CR0_PG | CR0_WP;
	soft_tlb_flush(cpu, true);
}

/* Decode bytes into cpu->insn. */
static bool load_insn(const uint8_t *bytes, unsigned n)
{
	if (insn_decode(bytes, n, engine->features, &cpu->insn) != DECODE_OK)
		return false;
	cpu->rip = 0x1000;
	cpu->next_rip = cpu->rip + cpu->insn.len;
	cpu->fault.valid = false;
	return true;
}

/* What execution raised, or -1. */
static int run(const uint8_t *bytes, unsigned n)
{
	if (!load_insn(bytes, n))
		return EXC_UD;
	if (soft_system(cpu))
		return -1;
	cpu->fault.valid = false;
	return cpu->fault.vector;
}
#define RUN_INSN(...) \
	run((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* --- native execution ------------------------------------------------------------------------- */

static uint8_t *thunk;
static struct xsave_image own;
static sigjmp_buf escape;

static void on_fault(int number)
{
	siglongjmp(escape, number);
}

/*
 * Load *in, run the bytes with rax = address, rcx = mask, rdi = address, edx = 0 after moving rcx
 * to eax when by_mask (the xsave family addresses through rdi), store the state to *out. False: it
 * faulted.
 */
static bool native(const uint8_t *bytes, unsigned n, const struct xsave_image *in,
	struct xsave_image *out, void *address, uint32_t eax)
{
	memcpy(thunk, bytes, n);
	thunk[n] = 0xc3;
	memset(out, 0, sizeof(*out));
	__asm__ volatile("xsave64 %0" : "+m"(own) : "a"(7), "d"(0) : "memory");
	if (sigsetjmp(escape, 1)) {
		__asm__ volatile("xrstor64 %0" : : "m"(own), "a"(7), "d"(0) : "memory");
		return false;
	}
	__asm__ volatile("xrstor64 (%[in])\n\t"
			 "mov %[eax], %%eax\n\t"
			 "call *%[thunk]\n\t"
			 "mov $7, %%eax\n\t"
			 "xor %%edx, %%edx\n\t"
			 "xsave64 (%[out])\n\t"
			 "xrstor64 (%[own])"
			 :
			 : "a"(7), "d"(0), [in] "r"(in), [out] "r"(out), [own] "r"(&own),
			 [thunk] "r"(thunk), [eax] "b"(eax), "D"(address)
			 : "memory", "cc");
	return true;
}

static void clear_pointers(struct xsave_image *image)
{
	image->fop = 0;
	image->fip = image->fdp = 0;
}

/*
 * Components in their initial state have their initial bytes, and nothing is left that may differ.
 */
static void canonical(struct xsave_image *image)
{
	if (!(image->xstate_bv & XSTATE_X87)) {
		memset(image, 0, 24);
		image->fcw = 0x37f;
		memset(image->st, 0, sizeof(image->st));
	}
	if (!(image->xstate_bv & XSTATE_SSE))
		memset(image->xmm, 0, sizeof(image->xmm));
	if (!(image->xstate_bv & XSTATE_AVX))
		memset(image->ymm_high, 0, sizeof(image->ymm_high));
	for (unsigned i = 0; i < 8; i++)
		memset(image->st[i] + 10, 0, 6);
	clear_pointers(image);
	image->reserved = 0;
	image->mxcsr_mask = 0;
	image->xstate_bv = 0;
	memset(image->unused, 0, sizeof(image->unused));
}

static bool same_state(const struct xsave_image *a, const struct xsave_image *b)
{
	struct xsave_image x = *a, y = *b;

	canonical(&x);
	canonical(&y);
	return !memcmp(&x, &y, sizeof(x));
}

static uint32_t host_mxcsr_mask(void)
{
	struct xsave_image now;

	__asm__ volatile("fxsave64 %0" : "=m"(now));
	return now.mxcsr_mask ? now.mxcsr_mask : 0xffbf;
}

/*
 * Any state that a CPU can be in: no pending x87 exception, which would go off in the test itself.
 */
static void random_image(struct xsave_image *image)
{
	random_bytes(image, sizeof(*image));
	image->fcw = (image->fcw & 0x1f00) | 0x7f;
	image->fsw &= 0x7f7f & ~0x40;
	clear_pointers(image);
	image->reserved = 0;
	image->mxcsr = (image->mxcsr & 0xffff & host_mxcsr_mask()) | 0x1f80;
	if (random_u64() & 1)
		image->mxcsr = 0x1f80;
	image->mxcsr_mask = host_mxcsr_mask();
	for (unsigned i = 0; i < 8; i++) {
		memset(image->st[i] + 10, 0, 6);
		if (random_u64() & 1) /* zeroes, infinities, denormals, valid numbers */
			image->st[i][9] = image->st[i][8] = random_u64() & 1 ? 0 : 0x7f;
		if (random_u64() & 1)
			memset(image->st[i], 0, 8);
	}
	memset(image->unused, 0, sizeof(image->unused));
	image->xstate_bv = random_u64() & 7;
	image->xcomp_bv = 0;
	memset(image->zero, 0, sizeof(image->zero));
	memcpy(cpu->xsave, image, sizeof(*image));
}

/* --- CPUID ------------------------------------------------------------------------------------ */

static uint32_t leaf(uint32_t number, uint32_t sub, unsigned reg)
{
	uint32_t out[4];

	soft_cpuid(cpu, number, sub, out);
	return out[reg];
}

static void cpuid_agrees_with_decoder(void)
{
	uint64_t f = engine->features;

	CHECK_EQ(leaf(1, 0, 2) >> 28 & 1, f >> FEAT_AVX & 1);
	CHECK_EQ(leaf(7, 0, 1) >> 5 & 1, f >> FEAT_AVX2 & 1);
	CHECK_EQ(leaf(1, 0, 2) >> 12 & 1, f >> FEAT_FMA & 1);
	CHECK_EQ(leaf(7, 0, 1) >> 29 & 1, f >> FEAT_SHA & 1);
	CHECK_EQ(leaf(0x80000001, 0, 2) >> 5 & 1, f >> FEAT_LZCNT & 1);
	CHECK_EQ(leaf(0xd, 1, 0) >> 1 & 1, f >> FEAT_XSAVEC & 1);
	CHECK(!(f >> FEAT_SSE4A & 1) && !(f >> FEAT_MOVDIRI & 1));
}

static void cpuid_hides(void)
{
	CHECK_EQ(leaf(1, 0, 2) & (1u << 3 | 1u << 5 | 1u << 17), 0); /* monitor, VMX, PCID */
	/* HLE, INVPCID, RTM, MPX, AVX512F, SMAP, PT */
	CHECK_EQ(leaf(7, 0, 1) & (1u << 4 | 1u << 10 | 1u << 11 | 1u << 14 | 1u << 16 | 1u << 20 |
					 1u << 25),
		0);
	/* UMIP, PKU, WAITPKG, CET, LA57, MOVDIR64B */
	CHECK_EQ(leaf(7, 0, 2) & (1u << 2 | 1u << 3 | 1u << 5 | 1u << 7 | 1u << 16 | 1u << 28), 0);
	CHECK_EQ(leaf(7, 0, 3) & (1u << 20 | 1u << 22 | 1u << 24 | 1u << 25), 0); /* IBT, AMX */
	CHECK_EQ(leaf(0xd, 1, 0) & 0x1c, 0); /* XGETBV1, XSAVES, XFD */
	CHECK_EQ(leaf(0xd, 0, 0) & ~7u, 0);
	CHECK_EQ(leaf(0x80000001, 0, 2) & (1u << 2 | 1u << 6 | 1u << 11 | 1u << 16),
		0); /* SVM, SSE4A, XOP, FMA4 */
	CHECK_EQ(leaf(0xa, 0, 0), 0);
}

static void cpuid_mirrors_state(void)
{
	reset();
	CHECK_EQ(leaf(1, 0, 2) >> 27 & 1, 1);
	CHECK_EQ(leaf(0xd, 0, 1), 832);
	cpu->cr4 = 0;
	cpu->xcr0 = 3;
	CHECK_EQ(leaf(1, 0, 2) >> 27 & 1, 0);
	CHECK_EQ(leaf(0xd, 0, 1), 576);
	CHECK_EQ(leaf(0xd, 0, 2), 832);
}

static void cpuid_topology(void)
{
	struct vcpu *second = engine->vcpu[1];
	uint32_t out[4];

	soft_cpuid(second, 0xb, 0, out);
	CHECK(out[0] == 0 && out[1] == 1 && out[2] == 0x100 && out[3] == 1);
	soft_cpuid(second, 0xb, 1, out);
	CHECK(out[0] == 2 && out[1] == 3 && out[2] == 0x201 && out[3] == 1); /* three CPUs */
	soft_cpuid(second, 0xb, 2, out);
	CHECK(out[0] == 0 && out[1] == 0 && out[2] == 2 && out[3] == 1);
	soft_cpuid(second, 1, 0, out);
	CHECK_EQ(out[1] >> 16, 0x103);
	CHECK(out[3] >> 28 & 1);
}

static void cpuid_tells_tsc_frequency(void)
{
	uint64_t khz = engine->tsc_khz;
	static const uint64_t tried[] = { 2000000, 2595124, 3999999, 4700000, 5300001 };

	for (unsigned i = 0; i < ARRAY_SIZE(tried); i++) {
		uint32_t out[4];
		uint64_t hz;

		engine->tsc_khz = tried[i];
		soft_cpuid(cpu, 0x15, 0, out);
		hz = (uint64_t)out[2] * out[1] / out[0];
		CHECK_EQ(hz, tried[i] * 1000);
		/* What Linux computes in 32 bits. */
		CHECK((uint64_t)(out[2] / 1000) * out[1] <= UINT32_MAX);
		CHECK_EQ(leaf(0x40000010, 0, 0), tried[i]);
	}
	engine->tsc_khz = khz;
}

static void cpuid_out_of_range(void)
{
	uint32_t a[4], b[4];

	soft_cpuid(cpu, 0x7fffffff, 0, a);
	soft_cpuid(cpu, leaf(0, 0, 0), 0, b);
	if (cpuid_is_amd())
		CHECK(!(a[0] | a[1] | a[2] | a[3]));
	else
		CHECK(!memcmp(a, b, sizeof(a)));
	CHECK_EQ(leaf(0x40000000, 0, 1), 0x4b4d564b);
	CHECK_EQ(leaf(0x40000001, 0, 0), 0x0100000a);
	CHECK_EQ(leaf(0x40000005, 0, 0), 0);
}

/* --- MSRs ------------------------------------------------------------------------------------- */

static bool wr(uint32_t msr, uint64_t value)
{
	bool done = soft_wrmsr(cpu, msr, value);

	CHECK(done || (cpu->fault.valid && cpu->fault.vector == EXC_GP));
	cpu->fault.valid = false;
	return done;
}

static uint64_t rd(uint32_t msr)
{
	uint64_t value = 0;

	CHECK(soft_rdmsr(cpu, msr, &value));
	return value;
}

static void msr_bases(void)
{
	reset();
	CHECK(wr(0xc0000100, 0x7fff12345678));
	CHECK_EQ(cpu->seg_base[SEG_FS], 0x7fff12345678);
	CHECK_EQ(cpu->seg[SEG_FS].base, 0x7fff12345678);
	CHECK(!wr(0xc0000100, 1ull << 47));
	CHECK(!wr(0xc0000101, 1ull << 63));
	CHECK(!wr(0xc0000102, 0x0000800000000000));
	CHECK(!wr(0xc0000082, 0x0000800000000000));
	CHECK(wr(0xc0000082, 0xffffffff81000000));
	CHECK_EQ(rd(0xc0000082), 0xffffffff81000000);
	CHECK_EQ(rd(0xc0000100), 0x7fff12345678);
}

static void msr_validity(void)
{
	uint64_t value;

	reset();
	CHECK(wr(0x277, 0x0407050600070106));
	CHECK(!wr(0x277, 0x0207050600070106));
	CHECK(!wr(0x277, 0x0807050600070106));
	CHECK(wr(0x2ff, 0xc06));
	CHECK(!wr(0x2ff, 0x802));
	CHECK(!wr(0x2ff, 0x1006));
	CHECK(wr(0x48, 1));
	CHECK_EQ(rd(0x48), 1);
	CHECK(!wr(0x48, 8));
	CHECK(wr(0x49, 1));
	CHECK(!wr(0x49, 2));
	CHECK(!wr(0xfe, 0));
	CHECK(!wr(0x10a, 0));
	CHECK(!wr(0xc0000103, 1ull << 32));
	CHECK(!soft_rdmsr(cpu, 0x49, &value));
	CHECK(!soft_rdmsr(cpu, 0xdeadbeef, &value));
	CHECK(!soft_rdmsr(cpu, 0x840, &value));
	CHECK_EQ(cpu->fault.vector, EXC_GP);
	cpu->fault.valid = false;
}

static void msr_needs_ring_0(void)
{
	reset();
	cpu->cpl = 3;
	cpu->gpr[1] = 0x10;
	CHECK_EQ(RUN_INSN(0x0f, 0x32), EXC_GP);
	CHECK_EQ(RUN_INSN(0x0f, 0x30), EXC_GP);
	cpu->cpl = 0;
	cpu->gpr[0] = cpu->gpr[2] = ~0ull;
	CHECK_EQ(RUN_INSN(0x0f, 0x32), -1);
	CHECK_EQ(cpu->gpr[0] >> 32 | cpu->gpr[2] >> 32, 0);
}

static void msr_tsc_moves_with_adjust(void)
{
	uint64_t now, clock;

	reset();
	CHECK(wr(0x10, 1ull << 40));
	now = rd(0x10);
	CHECK(now - (1ull << 40) < 1u << 30);
	CHECK_EQ(rd(0x3b), cpu->tsc_offset);
	clock = soft_tsc(cpu) - rd(0x3b);
	CHECK(wr(0x3b, 0));
	CHECK(soft_tsc(cpu) - clock < 1u << 30);
}

static void rdtsc_obeys_tsd(void)
{
	reset();
	cpu->cr4 |= 4;
	CHECK_EQ(RUN_INSN(0x0f, 0x31), -1);
	cpu->cpl = 3;
	CHECK_EQ(RUN_INSN(0x0f, 0x31), EXC_GP);
	cpu->cr4 &= ~4ull;
	CHECK_EQ(RUN_INSN(0x0f, 0x31), -1);
	CHECK_EQ(cpu->gpr[0] >> 32, 0);
	cpu->tsc_aux = 0x12345;
	if (engine->features >> FEAT_RDTSCP & 1) {
		CHECK_EQ(RUN_INSN(0x0f, 0x01, 0xf9), -1);
		CHECK_EQ(cpu->gpr[1], 0x12345);
	}
	if (engine->features >> FEAT_RDPID & 1) {
		CHECK_EQ(RUN_INSN(0xf3, 0x41, 0x0f, 0xc7, 0xf9), -1); /* rdpid r9 */
		CHECK_EQ(cpu->gpr[9], 0x12345);
	}
	CHECK_EQ(RUN_INSN(0x0f, 0x33), EXC_GP);
}

struct pvclock {
	uint32_t version, pad;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};

static uint64_t clock_now(const struct pvclock *c)
{
	uint64_t delta = soft_tsc(cpu) - c->tsc;

	delta = c->shift < 0 ? delta >> -c->shift : delta << c->shift;
	return c->ns + (uint64_t)((unsigned __int128)delta * c->mul >> 32);
}

static void kvmclock_runs_at_the_right_rate(void)
{
	const struct pvclock *clock = (struct pvclock *)(ram + AREA);
	struct timespec pause = { 0, 50000000 }, from, to;
	uint64_t a, b, ns;

	reset();
	memset(ram + AREA, 0, 64);
	CHECK(wr(0x4b564d01, AREA | 1));
	CHECK(clock->version && !(clock->version & 1));
	CHECK_EQ(clock->flags, 1);
	clock_gettime(CLOCK_MONOTONIC, &from);
	a = clock_now(clock);
	nanosleep(&pause, NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	b = clock_now(clock);
	ns = (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000 +
	     (uint64_t)(to.tv_nsec - from.tv_nsec);
	CHECK(llabs((long long)(b - a - ns)) < (long long)ns / 50);

	/* A TSC that the guest moves does not move the clock. */
	a = clock_now(clock);
	CHECK(wr(0x10, 12345));
	CHECK(clock_now(clock) - a < 1000000000);
	CHECK_EQ(clock->version & 1, 0);
}

static void kvmclock_tells_the_time_of_day(void)
{
	const struct pvclock *clock = (struct pvclock *)(ram + AREA);
	const uint32_t *wall = (uint32_t *)(ram + AREA + 64);
	uint64_t now;

	reset();
	memset(ram + AREA, 0, 128);
	CHECK(wr(0x4b564d01, AREA | 1));
	CHECK(wr(0x4b564d00, AREA + 64));
	CHECK(wall[0] && !(wall[0] & 1) && wall[2] < 1000000000);
	now = wall[1] + (wall[2] + clock_now(clock)) / 1000000000;
	CHECK(llabs((long long)now - (long long)time(NULL)) <= 1);
	CHECK(wr(0x4b564d01, 0xfffffffffff000 | 1)); /* no RAM there: ignored */
	CHECK(wr(0x4b564d00, RAM - 4));
}

/* --- extended state --------------------------------------------------------------------------- */

#define SAVED 896

/* What the host's instruction makes of the memory in mirror, without what guests do not see. */
static void save_on_host(const uint8_t *bytes, unsigned n, bool header, uint32_t mask,
	const struct xsave_image *image)
{
	struct xsave_image after;

	CHECK(native(bytes, n, image, &after, mirror, mask));
	if (!header || (mask & (cpu->insn.system == SYS_XSAVE ? 1 : image->xstate_bv & 1)))
		clear_pointers((struct xsave_image *)mirror);
}

/*
 * Compare what an instruction that saves writes, over memory that held noise. The host's kernel may
 * switch tasks in the middle, and a component that it reloads may then count as initial: another
 * try tells.
 */
static void compare_save(const uint8_t *bytes, unsigned n, bool header, uint32_t mask)
{
	uint8_t *guest = ram + AREA, noise[SAVED];
	struct xsave_image image;
	bool same = false;

	random_image(&image);
	random_bytes(guest, SAVED);
	if (header && random_u64() & 1)
		memset(guest + 512, 0, 64);
	memcpy(noise, guest, SAVED);
	cpu->gpr[0] = mask | random_u64() << 32;
	cpu->gpr[2] = random_u64();
	cpu->gpr[7] = AREA;
	CHECK_EQ(run(bytes, n), -1);
	for (unsigned tries = 0; tries < 5 && !same; tries++) {
		memcpy(mirror, noise, SAVED);
		save_on_host(bytes, n, header, mask, &image);
		same = !memcmp(guest, mirror, SAVED);
	}
	CHECK(same);
	for (unsigned i = 0; i < SAVED && !same; i++)
		if (guest[i] != mirror[i]) {
			printf("# mask %u, byte %u: %#x instead of %#x\n", mask, i, guest[i],
				mirror[i]);
			break;
		}
}

static void xsave_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++) {
		uint32_t mask = (uint32_t)random_u64() & 7;

		compare_save((const uint8_t[]){ 0x48, 0x0f, 0xae, 0x27 }, 4, true, mask);
		compare_save((const uint8_t[]){ 0x0f, 0xae, 0x27 }, 3, true, mask);
	}
}

static void xsaveopt_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++)
		compare_save((const uint8_t[]){ 0x48, 0x0f, 0xae, 0x37 }, 4, true,
			random_u64() & 7);
}

static void xsavec_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++)
		compare_save((const uint8_t[]){ 0x48, 0x0f, 0xc7, 0x27 }, 4, true,
			random_u64() & 7);
}

static void fxsave_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++)
		compare_save((const uint8_t[]){ 0x48, 0x0f, 0xae, 0x07 }, 4, false, 0);
}

/* An area in memory as a guest might present it: mostly valid. */
static void random_area(uint8_t *p, bool compact)
{
	struct xsave_image *a = (struct xsave_image *)p, keep;

	memcpy(&keep, cpu->xsave, sizeof(keep));
	random_image(a);
	memcpy(cpu->xsave, &keep, sizeof(keep));
	if (random_u64() % 8 == 0)
		a->mxcsr |= 1u << 16 << random_u64() % 16;
	a->xstate_bv = random_u64() & 7;
	if (compact) {
		a->xcomp_bv = 1ull << 63 | a->xstate_bv | (random_u64() & 7);
		if (random_u64() % 8 == 0)
			a->xcomp_bv &= ~(random_u64() & 7);
	}
	if (random_u64() % 8 == 0)
		a->xstate_bv |= 8ull << random_u64() % 2;
	if (random_u64() % 8 == 0)
		a->zero[random_u64() % 6] = 1;
	if (random_u64() % 16 == 0)
		a->xcomp_bv |= 1ull << random_u64() % 5;
}

static void compare_restore(const uint8_t *bytes, unsigned n, bool compact, bool header)
{
	struct xsave_image image, after;
	uint32_t mask = (uint32_t)random_u64() & 7;
	bool done;

	random_image(&image);
	random_area(ram + AREA, compact);
	memcpy(mirror, ram + AREA, 832);
	done = native(bytes, n, &image, &after, mirror, mask);
	cpu->gpr[0] = mask;
	cpu->gpr[2] = 0;
	cpu->gpr[7] = AREA;
	CHECK_EQ(run(bytes, n), done ? -1 : EXC_GP);
	CHECK(same_state((struct xsave_image *)cpu->xsave, done ? &after : &image));
	CHECK(header || !done || (((struct xsave_image *)cpu->xsave)->xstate_bv & 3) == 3);
}

static void xrstor_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++) {
		compare_restore((const uint8_t[]){ 0x48, 0x0f, 0xae, 0x2f }, 4, false, true);
		compare_restore((const uint8_t[]){ 0x48, 0x0f, 0xae, 0x2f }, 4, true, true);
	}
}

static void fxrstor_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++)
		compare_restore((const uint8_t[]){ 0x48, 0x0f, 0xae, 0x0f }, 4, false, false);
}

static void xstate_raises(void)
{
	static const uint8_t xsave[] = { 0x48, 0x0f, 0xae, 0x27 },
			     fxsave[] = { 0x48, 0x0f, 0xae, 0x07 };

	reset();
	cpu->gpr[0] = 7;
	cpu->gpr[7] = AREA + 16;
	CHECK_EQ(run(xsave, 4), EXC_GP);
	CHECK_EQ(run(fxsave, 4), -1);
	cpu->gpr[7] = AREA + 8;
	CHECK_EQ(run(fxsave, 4), EXC_GP);
	cpu->gpr[7] = AREA;
	cpu->cr0 |= CR0_TS;
	CHECK_EQ(run(xsave, 4), EXC_NM);
	CHECK_EQ(run(fxsave, 4), EXC_NM);
	cpu->cr0 &= ~(uint64_t)CR0_TS;
	cpu->cr4 &= ~(uint64_t)CR4_OSXSAVE;
	CHECK_EQ(run(xsave, 4), EXC_UD);
	cpu->cr0 |= CR0_EM;
	CHECK_EQ(run(fxsave, 4), EXC_UD);
}

/* A fault in the second page leaves the first as it was. */
static void xsave_faults_whole(void)
{
	struct xsave_image image;
	uint8_t before[512];

	reset();
	paging_on();
	random_image(&image);
	random_bytes(before, sizeof(before));
	memcpy(ram + ABSENT - 512, before, sizeof(before));
	cpu->gpr[0] = 7;
	cpu->gpr[7] = ABSENT - 512;
	CHECK_EQ(RUN_INSN(0x48, 0x0f, 0xae, 0x27), EXC_PF);
	CHECK_EQ(cpu->fault.address, ABSENT);
	CHECK(!memcmp(ram + ABSENT - 512, before, sizeof(before)));
	CHECK_EQ(RUN_INSN(0x48, 0x0f, 0xae, 0x2f), EXC_PF);
	CHECK(!memcmp(cpu->xsave, &image, sizeof(image)));
}

/* Environment instructions, with what the host writes for the pointers taken out. */
static void compare_x87(const uint8_t *bytes, unsigned n, unsigned size, bool save)
{
	struct xsave_image image, after;
	unsigned step = size == 14 || size == 94 ? 2 : 4;

	random_image(&image);
	image.xstate_bv |= 1;
	memcpy(cpu->xsave, &image, sizeof(image));
	random_bytes(ram + AREA, 128);
	if (!save) {
		ram[AREA] |= 0x3f; /* a pending exception would go off in the test itself */
	}
	memcpy(mirror, ram + AREA, 128);
	CHECK(native(bytes, n, &image, &after, mirror, 0));
	cpu->gpr[7] = AREA;
	CHECK_EQ(run(bytes, n), -1);
	if (save) {
		memset(mirror + 3 * step, 0, step * 4);
		if (step == 4) {
			memset(mirror + 26, 0xff, 2);
		}
	}
	CHECK(!memcmp(mirror, ram + AREA, 128));
	CHECK(same_state((struct xsave_image *)cpu->xsave, &after));
	if (!tap_current_bad)
		return;
	for (unsigned i = 0; i < 128; i++)
		if (mirror[i] != ram[AREA + i])
			printf("# byte %u: %#x instead of %#x\n", i, ram[AREA + i], mirror[i]);
	printf("# fcw %#x fsw %#x ftw %#x instead of %#x %#x %#x\n",
		cpu->xsave[0] | cpu->xsave[1] << 8, cpu->xsave[2] | cpu->xsave[3] << 8,
		cpu->xsave[4], after.fcw, after.fsw, after.ftw);
}

static void x87_environment_matches_host(void)
{
	static const struct {
		uint8_t bytes[4], n, size;
		bool save;
	} forms[] = {
		{ { 0xd9, 0x37 }, 2, 28, true },
		{ { 0x66, 0xd9, 0x37 }, 3, 14, true },
		{ { 0xdd, 0x37 }, 2, 108, true },
		{ { 0x66, 0xdd, 0x37 }, 3, 94, true },
		{ { 0xd9, 0x27 }, 2, 28, false },
		{ { 0x66, 0xd9, 0x27 }, 3, 14, false },
		{ { 0xdd, 0x27 }, 2, 108, false },
		{ { 0x66, 0xdd, 0x27 }, 3, 94, false },
	};

	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++)
		compare_x87(forms[i % 8].bytes, forms[i % 8].n, forms[i % 8].size,
			forms[i % 8].save);
}

static void guest_sees_no_host_pointers(void)
{
	struct xsave_image image, *area = (struct xsave_image *)(ram + AREA);

	reset();
	random_image(&image);
	image.xstate_bv = 7;
	image.fip = 0x7f1234567890;
	image.fdp = 0x7f1234567890;
	memcpy(cpu->xsave, &image, sizeof(image));
	cpu->gpr[0] = 7;
	cpu->gpr[7] = AREA;
	CHECK_EQ(RUN_INSN(0x48, 0x0f, 0xae, 0x27), -1);
	CHECK(!area->fip && !area->fdp);
	memcpy(cpu->xsave, &image, sizeof(image));
	CHECK_EQ(RUN_INSN(0x48, 0x0f, 0xae, 0x07), -1);
	CHECK(!area->fip && !area->fdp);
}

static void xsetbv_checks(void)
{
	static const uint8_t xsetbv[] = { 0x0f, 0x01, 0xd1 };
	static const struct {
		uint64_t rax, rcx;
		int fault;
	} tried[] = { { 7, 0, -1 }, { 3, 0, -1 }, { 1, 0, -1 }, { 5, 0, EXC_GP }, { 6, 0, EXC_GP },
		{ 0xe7, 0, EXC_GP }, { 7, 1, EXC_GP }, { 7, 1ull << 32, -1 } };

	for (unsigned i = 0; i < ARRAY_SIZE(tried); i++) {
		reset();
		cpu->xcr0 = 1;
		cpu->gpr[0] = tried[i].rax;
		cpu->gpr[1] = tried[i].rcx;
		cpu->gpr[2] = 0;
		CHECK_EQ(run(xsetbv, 3), tried[i].fault);
		CHECK_EQ(cpu->xcr0, tried[i].fault < 0 ? tried[i].rax : 1);
	}
	reset();
	cpu->gpr[0] = 3;
	cpu->gpr[2] = 0;
	cpu->cpl = 3;
	CHECK_EQ(run(xsetbv, 3), EXC_GP);
	CHECK_EQ(RUN_INSN(0x0f, 0x01, 0xd0), -1);
	CHECK_EQ(cpu->gpr[0], 7);
	cpu->cr4 = 0;
	CHECK_EQ(RUN_INSN(0x0f, 0x01, 0xd0), EXC_UD);
}

/* --- masked moves and gathers ----------------------------------------------------------------- */

static void random_vectors(struct xsave_image *image)
{
	random_image(image);
	image->xstate_bv = 7;
	image->fsw &= 0x3fff;
	memcpy(cpu->xsave, image, sizeof(*image));
}

static void compare_vector(const uint8_t *bytes, unsigned n, const struct xsave_image *image)
{
	struct xsave_image after;

	random_bytes(ram + AREA, 0x1000);
	memcpy(mirror, ram + AREA, 0x1000);
	CHECK(native(bytes, n, image, &after, mirror + 0x800, 0));
	cpu->gpr[7] = AREA + 0x800;
	CHECK_EQ(run(bytes, n), -1);
	CHECK(!memcmp(mirror, ram + AREA, 0x1000));
	CHECK(same_state((struct xsave_image *)cpu->xsave, &after));
	if (tap_current_bad)
		printf("# opcode %#x, length %u\n", cpu->insn.opcode, n);
}

/* vmaskmovps/pd, vpmaskmovd/q: load and store, 128 and 256 bits; registers 0..15. */
static void maskmov_matches_host(void)
{
	static const struct {
		uint8_t opcode, w;
	} forms[] = { { 0x2c, 0 }, { 0x2d, 0 }, { 0x2e, 0 }, { 0x2f, 0 }, { 0x8c, 0 },
		{ 0x8c, 0x80 }, { 0x8e, 0 }, { 0x8e, 0x80 } };

	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++) {
		unsigned reg = random_u64() & 15, mask = random_u64() & 15, l = random_u64() & 1;
		uint8_t bytes[] = { 0xc4, (uint8_t)((reg & 8 ? 0x62 : 0xe2)),
			(uint8_t)(forms[i % 8].w | (~mask & 15) << 3 | l << 2 | 1),
			forms[i % 8].opcode, (uint8_t)((reg & 7) << 3 | 7) };
		struct xsave_image image;

		random_vectors(&image);
		compare_vector(bytes, sizeof(bytes), &image);
	}
}

static void byte_maskmov_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < ROUNDS && !tap_current_bad; i++) {
		uint8_t modrm = 0xc0 | (random_u64() & 63);
		struct xsave_image image;

		random_vectors(&image);
		compare_vector((const uint8_t[]){ 0x66, 0x0f, 0xf7, modrm }, 4, &image);
		random_vectors(&image);
		compare_vector((const uint8_t[]){ 0x66, 0x45, 0x0f, 0xf7, modrm }, 5, &image);
		random_vectors(&image);
		compare_vector((const uint8_t[]){ 0xc5, 0xf9, 0xf7, modrm }, 4, &image);
		random_vectors(&image);
		compare_vector((const uint8_t[]){ 0x0f, 0xf7, modrm }, 3, &image);
	}
}

/* Indices that stay inside the area with a scale of 1, 2 or 4. */
static void small_indices(struct xsave_image *image, unsigned reg, bool quad)
{
	for (unsigned i = 0; i < (quad ? 4 : 8); i++) {
		int64_t index = (int64_t)(random_u64() % 0x100) - 0x80;
		unsigned size = quad ? 8 : 4, at = i * size;

		memcpy(at < 16 ? image->xmm[reg] + at : image->ymm_high[reg] + at - 16, &index,
			size);
	}
}

static unsigned gather_bytes(uint8_t bytes[7], unsigned form, const unsigned reg[3], unsigned scale,
	int8_t disp)
{
	unsigned l = form & 1, w = form >> 1 & 1, opcode = 0x90 + (form >> 2 & 3);

	bytes[0] = 0xc4;
	bytes[1] = (uint8_t)(0x22 | (reg[0] & 8 ? 0 : 0x80) | (reg[1] & 8 ? 0 : 0x40));
	bytes[2] = (uint8_t)(w << 7 | (~reg[2] & 15) << 3 | l << 2 | 1);
	bytes[3] = (uint8_t)opcode;
	bytes[4] = (uint8_t)(0x44 | (reg[0] & 7) << 3);
	bytes[5] = (uint8_t)(scale << 6 | (reg[1] & 7) << 3 | 7); /* base rdi */
	bytes[6] = (uint8_t)disp;
	return 7;
}

static void gather_matches_host(void)
{
	reset();
	for (unsigned i = 0; i < 2 * ROUNDS && !tap_current_bad; i++) {
		unsigned reg[3] = { random_u64() & 15, random_u64() & 15, random_u64() & 15 };
		struct xsave_image image;
		uint8_t bytes[7];
		unsigned n;

		if (reg[0] == reg[1] || reg[0] == reg[2] || reg[1] == reg[2])
			continue;
		random_vectors(&image);
		n = gather_bytes(bytes, i % 16, reg, random_u64() % 3, (int8_t)random_u64());
		small_indices(&image, reg[1], bytes[3] & 1);
		memcpy(cpu->xsave, &image, sizeof(image));
		compare_vector(bytes, n, &image);
	}
}

/* vpgatherdd ymm0, [rdi + ymm1*4], ymm2 with the third element on an absent page. */
static void gather_keeps_progress(void)
{
	static const uint8_t bytes[] = { 0xc4, 0xe2, 0x6d, 0x90, 0x04, 0x8f };
	struct xsave_image *image = (struct xsave_image *)cpu->xsave, start;
	uint32_t index[8] = { 0, 1, 0x400, 2, 3, 4, 5, 6 }, v[4], mask[4];

	reset();
	paging_on();
	random_vectors(&start);
	memset(image->xmm[2], 0xff, 16);
	memset(image->ymm_high[2], 0xff, 16);
	memset(image->xmm[2] + 4, 0, 4); /* the second element is not asked for */
	memcpy(image->xmm[1], index, 16);
	memcpy(image->ymm_high[1], index + 4, 16);
	memcpy(image->xmm[0], start.xmm[0], 16);
	random_bytes(ram + ABSENT - 0x1000, 64);
	cpu->gpr[7] = ABSENT - 0x1000;
	CHECK_EQ(run(bytes, sizeof(bytes)), EXC_PF);
	CHECK_EQ(cpu->fault.address, ABSENT);
	memcpy(v, image->xmm[0], 16);
	memcpy(mask, image->xmm[2], 16);
	CHECK(!memcmp(&v[0], ram + ABSENT - 0x1000, 4));
	CHECK(!memcmp(&v[1], start.xmm[0] + 4, 12));
	CHECK(mask[0] == 0 && mask[1] == 0 && mask[2] == ~0u && mask[3] == ~0u);
	/* With the element's bit clear nothing faults. */
	memset(image->xmm[2] + 8, 0, 4);
	CHECK_EQ(run(bytes, sizeof(bytes)), -1);
	CHECK(!memcmp(image->xmm[0] + 12, ram + ABSENT - 0x1000 + 8, 4));
	memcpy(mask, image->xmm[2], 16);
	CHECK(!(mask[0] | mask[1] | mask[2] | mask[3]));
}

/* vmaskmovps [rdi], ymm2, ymm0 across the border of an absent page. */
static void maskmov_faults_only_where_it_stores(void)
{
	static const uint8_t bytes[] = { 0xc4, 0xe2, 0x6d, 0x2e, 0x07 };
	struct xsave_image *image = (struct xsave_image *)cpu->xsave, start;
	uint8_t *at = ram + ABSENT - 16, before[16];

	reset();
	paging_on();
	random_vectors(&start);
	memset(image->xmm[2], 0xff, 16);
	memset(image->ymm_high[2], 0x7f, 16);
	random_bytes(before, 16);
	memcpy(at, before, 16);
	cpu->gpr[7] = ABSENT - 16;
	CHECK_EQ(run(bytes, sizeof(bytes)), -1);
	CHECK(!memcmp(at, image->xmm[0], 16));
	memcpy(at, before, 16);
	image->ymm_high[2][15] = 0xff;
	CHECK_EQ(run(bytes, sizeof(bytes)), EXC_PF);
	CHECK_EQ(cpu->fault.address, ABSENT + 12);
	CHECK(!memcmp(at, before, 16));
}

/* --- ports ------------------------------------------------------------------------------------ */

static void ports_merge_by_size(void)
{
	reset();
	cpu->gpr[0] = ~0ull;
	cpu->gpr[2] = 0x3f8;
	CHECK_EQ(RUN_INSN(0xec), -1); /* in al, dx */
	CHECK_EQ(cpu->gpr[0], 0xffffffffffffff88);
	CHECK_EQ(last_port, 0x3f8);
	CHECK_EQ(RUN_INSN(0x66, 0xe5, 0x80), -1); /* in ax, 0x80 */
	CHECK_EQ(cpu->gpr[0], 0xffffffffffff7788);
	CHECK_EQ(last_port, 0x80);
	CHECK_EQ(RUN_INSN(0xed), -1);
	CHECK_EQ(cpu->gpr[0], 0x55667788);
	CHECK_EQ(RUN_INSN(0x66, 0xef), -1);
	CHECK_EQ(last_value, 0x7788);
	CHECK_EQ(cpu->rip, 0x1002);
}

static void ports_obey_the_bitmap(void)
{
	reset();
	cpu->cpl = 3;
	cpu->gpr[2] = 0x3ff;
	cpu->seg[SEG_TR].base = AREA;
	cpu->seg[SEG_TR].attr = SEG_P | 11;
	cpu->seg[SEG_TR].limit = 104 + 0x400 / 8;
	memset(ram + AREA, 0, 0x200);
	ram[AREA + 102] = 104;
	CHECK_EQ(RUN_INSN(0xec), -1);
	CHECK_EQ(RUN_INSN(0xed), -1);
	ram[AREA + 104 + 0x400 / 8] = 1; /* port 0x400: in reach of the 4-byte access alone */
	CHECK_EQ(RUN_INSN(0xec), -1);
	CHECK_EQ(RUN_INSN(0xed), EXC_GP);
	cpu->seg[SEG_TR].limit--;
	CHECK_EQ(RUN_INSN(0xec), EXC_GP);
	cpu->sysflags |= FL_IOPL;
	CHECK_EQ(RUN_INSN(0xec), -1);
}

static void port_strings_stop_now_and_then(void)
{
	static const uint8_t rep_insb[] = { 0xf3, 0x6c };

	reset();
	cpu->gpr[1] = 1025;
	cpu->gpr[2] = 0x80;
	cpu->gpr[7] = AREA;
	CHECK_EQ(run(rep_insb, 2), -1);
	CHECK_EQ(cpu->rip, 0x1000);
	CHECK_EQ(cpu->gpr[1], 1);
	CHECK_EQ(cpu->gpr[7], AREA + 1024);
	CHECK_EQ(run(rep_insb, 2), -1);
	CHECK_EQ(cpu->rip, 0x1002);
	CHECK_EQ(ram[AREA + 1024], 0x88);
	cpu->flags |= FLAG_DF;
	cpu->gpr[6] = AREA + 8;
	memcpy(ram + AREA + 8, "\x78\x56\x34\x12", 4);
	CHECK_EQ(RUN_INSN(0x6f), -1); /* outsl */
	CHECK_EQ(last_value, 0x12345678);
	CHECK_EQ(cpu->gpr[6], AREA + 4);
	CHECK_EQ(cpu->rip, 0x1001);
}

int main(void)
{
	struct engine_config config = { .cpus = 3,
		.board = { .read = board_read, .write = board_write } };
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };
	struct vz_error e;

	if (engine_soft.probe(&e) < 0)
		SKIP_ALL("the host lacks what the software CPU needs");
	mem = mem_new(RAM, &e);
	config.mem = mem;
	if (!mem || engine_soft.open(&engine, &config, &e) < 0)
		return 1;
	if (!(engine->features >> FEAT_AVX2 & 1) || !(engine->features >> FEAT_XSAVEC & 1))
		SKIP_ALL("the host lacks AVX2 or XSAVEC to compare with");
	cpu = engine->vcpu[0];
	ram = mmu_ram(engine, 0);
	mirror = mmap(NULL, AREA_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	thunk = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	if (mirror == MAP_FAILED || thunk == MAP_FAILED)
		return 1;
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGFPE, &action, NULL);
	soft_running(cpu);

	RUN(cpuid_agrees_with_decoder);
	RUN(cpuid_hides);
	RUN(cpuid_mirrors_state);
	RUN(cpuid_topology);
	RUN(cpuid_tells_tsc_frequency);
	RUN(cpuid_out_of_range);
	RUN(msr_bases);
	RUN(msr_validity);
	RUN(msr_needs_ring_0);
	RUN(msr_tsc_moves_with_adjust);
	RUN(rdtsc_obeys_tsd);
	RUN(kvmclock_runs_at_the_right_rate);
	RUN(kvmclock_tells_the_time_of_day);
	RUN(xsave_matches_host);
	RUN(xsaveopt_matches_host);
	RUN(xsavec_matches_host);
	RUN(fxsave_matches_host);
	RUN(xrstor_matches_host);
	RUN(fxrstor_matches_host);
	RUN(xstate_raises);
	RUN(xsave_faults_whole);
	RUN(x87_environment_matches_host);
	RUN(guest_sees_no_host_pointers);
	RUN(xsetbv_checks);
	RUN(maskmov_matches_host);
	RUN(byte_maskmov_matches_host);
	RUN(gather_matches_host);
	RUN(gather_keeps_progress);
	RUN(maskmov_faults_only_where_it_stores);
	RUN(ports_merge_by_size);
	RUN(ports_obey_the_bitmap);
	RUN(port_strings_stop_now_and_then);
	soft_not_running(cpu);
	engine_soft.close(engine);
	mem_free(mem);
	return tap_done();
}
