/* SPDX-License-Identifier: MIT */
/*
 * What guests see of the CPU: what KVM supports, without what the board does not offer and without
 * what struct cpu_state does not carry; topology by APIC id, one thread for each core. Intel SDM
 * volume 2, CPUID; AMD APM volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "base/arith.h"
#include "base/error.h"
#include "engine/kvm/internal.h"
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { EAX, EBX, ECX, EDX };

#define BIT(n)         (1u << (n))

#define BASIC_MAX      0x1fu
#define EXT_MAX        0x80000021u
#define HYPERVISOR     0x40000000u
#define HYPERVISOR_MAX 0x40000010u
#define APIC_BUS_KHZ   1000000u

/* Leaves that are about nothing the board has. 0xb and 0x1f are made here. */
static const uint32_t dropped[] = { 0x5, 0x9, 0xa, 0xb, 0xf, 0x10, 0x12, 0x14, 0x17, 0x18, 0x19,
	0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x8000000a, 0x8000001b, 0x8000001c, 0x8000001f,
	0x80000020 };

/* Bits that are taken away, or with keep the only ones that stay. */
static const struct {
	uint32_t leaf;
	uint8_t subleaf, reg;
	bool keep;
	uint32_t bits;
} filters[] = {
	/* debug store, monitor, VMX, SMX, EIST, TM2, context id, debug interface, PDCM, DCA */
	{ 0x1, 0, ECX, false,
		BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(10) | BIT(11) |
			BIT(14) | BIT(15) | BIT(18) },
	{ 0x6, 0, EAX, true, BIT(2) }, /* ARAT */
	{ 0x6, 0, EBX, true, 0 },
	{ 0x6, 0, ECX, true, 0 },
	/* SGX, HLE, RTM, PQM, MPX, PQE; AVX-512 and processor trace */
	{ 0x7, 0, EBX, false, BIT(2) | BIT(4) | BIT(11) | BIT(12) | BIT(14) | BIT(15) },
	{ 0x7, 0, EBX, false,
		BIT(16) | BIT(17) | BIT(21) | BIT(25) | BIT(26) | BIT(27) | BIT(28) | BIT(30) |
			BIT(31) },
	/* AVX-512, PKU, WAITPKG, CET, LA57, bus lock, ENQCMD, SGX_LC, PKS */
	{ 0x7, 0, ECX, false,
		BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(11) | BIT(12) | BIT(14) |
			BIT(16) | BIT(24) | BIT(29) | BIT(30) | BIT(31) },
	/* AVX-512, user interrupts, TSXLDTRK, architectural LBR, CET, AMX */
	{ 0x7, 0, EDX, false,
		BIT(2) | BIT(3) | BIT(5) | BIT(8) | BIT(11) | BIT(13) | BIT(16) | BIT(18) |
			BIT(19) | BIT(20) | BIT(22) | BIT(23) | BIT(24) | BIT(25) },
	/* AVX-512, FRED, LKGS, AMX, HRESET, LAM, MSRLIST */
	{ 0x7, 1, EAX, false,
		BIT(3) | BIT(5) | BIT(17) | BIT(18) | BIT(21) | BIT(22) | BIT(26) | BIT(27) },
	{ 0x7, 1, EBX, true, 0 },
	{ 0x7, 1, ECX, true, 0 },
	{ 0x7, 1, EDX, true, BIT(4) | BIT(5) | BIT(10) | BIT(14) }, /* AVX forms, PREFETCHI */
	{ 0xd, 0, EAX, true, 7 },
	{ 0xd, 0, EDX, true, 0 },
	{ 0xd, 1, EAX, true, BIT(0) | BIT(1) | BIT(2) }, /* xsaveopt, xsavec, xgetbv 1 */
	{ 0xd, 1, ECX, true, 0 },
	{ 0xd, 1, EDX, true, 0 },
	/* SVM, extended APIC space, OSVW, IBS, SKINIT, LWP, node id, counters, mwaitx */
	{ 0x80000001, 0, ECX, false,
		BIT(2) | BIT(3) | BIT(9) | BIT(10) | BIT(12) | BIT(15) | BIT(19) | BIT(23) |
			BIT(24) | BIT(26) | BIT(28) | BIT(29) },
	{ 0x80000007, 0, EAX, true, 0 },
	{ 0x80000007, 0, EBX, true, 0 },
	{ 0x80000007, 0, EDX, true, BIT(8) },   /* invariant TSC */
	{ 0x80000008, 0, EBX, false, BIT(25) }, /* VIRT_SSBD: a register of its own */
	{ HYPERVISOR + 1, 0, EBX, true, 0 },
	{ HYPERVISOR + 1, 0, ECX, true, 0 },
	{ HYPERVISOR + 1, 0, EDX, true, 0 },
};

/*
 * The paravirtual features that keep no state but the clock's: no I/O delay, clock by the new
 * registers, unhalt, send IPI, clock stable across CPUs.
 */
#define KVM_FEATURES (BIT(1) | BIT(3) | BIT(7) | BIT(11) | BIT(24))

static uint32_t *reg_of(struct kvm_cpuid_entry2 *entry, unsigned reg)
{
	uint32_t *const order[] = { &entry->eax, &entry->ebx, &entry->ecx, &entry->edx };

	return order[reg];
}

static void filter(struct kvm_cpuid_entry2 *entry)
{
	for (unsigned i = 0; i < ARRAY_SIZE(filters); i++) {
		uint32_t mask = filters[i].keep ? filters[i].bits : ~filters[i].bits;

		if (filters[i].leaf == entry->function && filters[i].subleaf == entry->index)
			*reg_of(entry, filters[i].reg) &= mask;
	}
	/* The size that the components left need; KVM itself follows those that are enabled. */
	if (entry->function == 0xd && entry->index == 0)
		entry->ecx = entry->eax & 4 ? CPU_XSAVE_SIZE : 576;
}

static bool is_dropped(const struct kvm_cpuid_entry2 *entry)
{
	for (unsigned i = 0; i < ARRAY_SIZE(dropped); i++)
		if (dropped[i] == entry->function)
			return true;
	if (entry->function == 0xd && entry->index > 2)
		return true;
	if (entry->function == 0x7 && entry->index > 2)
		return true;
	if (entry->function >= 0x40000000 && entry->function < 0x80000000)
		return entry->function > HYPERVISOR + 1;
	return entry->function > (entry->function >> 31 ? EXT_MAX : BASIC_MAX);
}

int kvm_cpuid_init(struct engine *engine, struct vz_error *e)
{
	/* Room for what is added. */
	struct kvm_cpuid2 *s = calloc(1, sizeof(*s) + (KVM_CPUID_MAX + 8) * sizeof(s->entries[0]));
	unsigned n = 0;

	engine->supported = s;
	if (!s)
		return err_set(e, ENOMEM, "engine", "out of memory");
	s->nent = KVM_CPUID_MAX;
	if (ioctl(engine->kvm, KVM_GET_SUPPORTED_CPUID, s))
		return err_set(e, errno, "engine", "KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	for (unsigned i = 0; i < s->nent; i++) {
		if (is_dropped(&s->entries[i]))
			continue;
		filter(&s->entries[i]);
		s->entries[n++] = s->entries[i];
		/* "AuthenticAMD", "HygonGenuine" */
		if (s->entries[i].function == 0)
			engine->amd =
				s->entries[i].ebx == 0x68747541 || s->entries[i].ebx == 0x6f677948;
	}
	s->nent = n;
	return 0;
}

/* Bits of an APIC id that tell the cores of the package apart. */
static unsigned core_bits(const struct engine *engine)
{
	unsigned bits = 0;

	while (1u << bits < engine->cpus)
		bits++;
	return bits;
}

/* Leaves 4 and 0x8000001d: the last-level cache is shared by all, the others by nobody. */
static void share_cache(const struct engine *engine, struct kvm_cpuid_entry2 *entry)
{
	uint32_t cores = (1u << core_bits(engine)) - 1;

	if (!(entry->eax & 31))
		return;
	entry->eax &= 0x3fff;
	if ((entry->eax >> 5 & 7) >= 3)
		entry->eax |= cores << 14;
	if (entry->function == 4)
		entry->eax |= cores << 26;
}

static void leaf_1(const struct vcpu *cpu, struct kvm_cpuid_entry2 *entry)
{
	unsigned cpus = cpu->engine->cpus;

	entry->ebx = cpu->index << 24 | cpus << 16 | (entry->ebx & 0xff00);
	entry->ecx |= BIT(21) | BIT(24) | BIT(31); /* x2APIC, TSC-deadline, hypervisor */
	entry->edx = cpus > 1 ? entry->edx | BIT(28) : entry->edx & ~BIT(28);
}

/* What depends on the vCPU and on how many there are. */
static void adapt(const struct vcpu *cpu, struct kvm_cpuid_entry2 *entry)
{
	const struct engine *engine = cpu->engine;

	switch (entry->function) {
	case 0x0:
		entry->eax = engine->amd ? 0x10 : BASIC_MAX;
		break;
	case 0x1:
		leaf_1(cpu, entry);
		break;
	case 0x4:
	case 0x8000001d:
		share_cache(engine, entry);
		break;
	case HYPERVISOR:
		entry->eax = HYPERVISOR_MAX;
		break;
	case HYPERVISOR + 1:
		entry->eax &= KVM_FEATURES;
		break;
	case 0x80000000:
		entry->eax = MIN(entry->eax, EXT_MAX);
		break;
	case 0x80000008:
		if (engine->amd)
			entry->ecx = core_bits(engine) << 12 | (engine->cpus - 1);
		break;
	case 0x8000001e:
		entry->eax = entry->ebx = cpu->index;
		entry->ecx = entry->edx = 0;
		break;
	}
}

static struct kvm_cpuid_entry2 *add(struct kvm_cpuid2 *all, uint32_t leaf)
{
	struct kvm_cpuid_entry2 *entry = &all->entries[all->nent++];

	memset(entry, 0, sizeof(*entry));
	entry->function = leaf;
	return entry;
}

static void add_topology(const struct vcpu *cpu, struct kvm_cpuid2 *all, uint32_t leaf)
{
	const uint32_t shift[] = { 0, core_bits(cpu->engine), 0 };
	const uint32_t count[] = { 1, cpu->engine->cpus, 0 };

	for (uint32_t level = 0; level < 3; level++) { /* thread, core, end */
		struct kvm_cpuid_entry2 *entry = add(all, leaf);

		entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		entry->index = level;
		entry->eax = shift[level];
		entry->ebx = count[level];
		entry->ecx = level | (level < 2 ? level + 1 : 0) << 8;
		entry->edx = cpu->index;
	}
}

int kvm_cpuid_set(struct vcpu *cpu, struct vz_error *e)
{
	const struct engine *engine = cpu->engine;
	size_t size = sizeof(*engine->supported) +
		      (KVM_CPUID_MAX + 8) * sizeof(engine->supported->entries[0]);
	struct kvm_cpuid2 *own = malloc(size);
	struct kvm_cpuid_entry2 *entry;
	int khz = ioctl(cpu->fd, KVM_GET_TSC_KHZ, 0), r;

	if (!own)
		return err_set(e, ENOMEM, "cpus", "out of memory");
	memcpy(own, engine->supported, size);
	for (unsigned i = 0; i < own->nent; i++)
		adapt(cpu, &own->entries[i]);
	add_topology(cpu, own, 0xb);
	if (!engine->amd)
		add_topology(cpu, own, 0x1f);
	entry = add(own, HYPERVISOR_MAX);
	entry->eax = khz > 0 ? (uint32_t)khz : 0;
	entry->ebx = APIC_BUS_KHZ;
	r = ioctl(cpu->fd, KVM_SET_CPUID2, own) ? -errno : 0;
	free(own);
	return r ? err_set(e, r, "engine", "KVM_SET_CPUID2: %s", strerror(-r)) : 0;
}
