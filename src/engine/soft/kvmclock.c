/* SPDX-License-Identifier: MIT */
/*
 * Time as the guest sees it: the time stamp counter (Intel SDM volume 3, 18.17), which is the
 * host's plus an offset, and KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst),
 * two small structures in guest memory that say how to turn the counter into nanoseconds and what
 * the time of day was at zero.
 *
 * The clock counts from where the guest's TSC would be zero had the guest not moved it. That makes
 * it the same line for all CPUs, and it goes on after a snapshot as the TSC does.
 */
#include "engine/soft/emit.h"
#include "engine/soft/sys.h"
#include <time.h>

#define CR4_TSD  0x4u
#define NS_PER_S 1000000000ull

/* Layouts of the guest. version is odd while a structure is being written. */
struct clock_system {
	uint32_t version, pad;
	uint64_t tsc, ns;
	uint32_t multiplier;
	int8_t shift;
	uint8_t flags; /* bit 0: the same on all CPUs */
	uint8_t pad2[2];
};

struct clock_wall {
	uint32_t version, seconds, nanoseconds;
};

/* ns = ((tsc << shift) * multiplier) >> 32, a negative shift being one to the right. */
struct scale {
	uint32_t multiplier;
	int8_t shift;
};

static uint64_t host_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

uint64_t soft_tsc(const struct vcpu *cpu)
{
	return host_tsc() + cpu->tsc_offset;
}

static struct scale tsc_scale(uint64_t khz)
{
	uint64_t hz = khz ? khz * 1000 : NS_PER_S, ns = NS_PER_S;
	struct scale s = { 0, 0 };

	while (hz > ns * 2 || hz > UINT32_MAX) {
		hz >>= 1;
		s.shift--;
	}
	while (hz <= ns) {
		hz <<= 1;
		s.shift++;
	}
	/* 1 < hz / ns <= 2, so the quotient has 32 bits. */
	s.multiplier = (uint32_t)((ns << 32) / hz);
	return s;
}

static uint64_t scale_tsc(struct scale s, uint64_t tsc)
{
	tsc = s.shift < 0 ? tsc >> -s.shift : tsc << s.shift;
	return (uint64_t)((unsigned __int128)tsc * s.multiplier >> 32);
}

/* The even version that follows the one in guest memory. */
static bool next_version(struct vcpu *cpu, uint64_t address, uint32_t *version)
{
	if (mem_read(cpu->engine->mem, address, version, sizeof(*version)) < 0)
		return false;
	*version = (*version | 1) + 1;
	return true;
}

/* Write a structure that begins with its version. */
static void publish(struct vcpu *cpu, uint64_t address, void *from, unsigned size)
{
	struct memory *mem = cpu->engine->mem;
	uint32_t *version = from, even = *version, odd = even - 1;

	soft_not_running(cpu); /* telling the translator takes its lock */
	*version = odd;
	if (mem_write(mem, address, from, size) == 0) {
		atomic_thread_fence(memory_order_release);
		mem_write(mem, address, &even, sizeof(even));
	}
	soft_running(cpu);
}

void kvmclock_set_system(struct vcpu *cpu, uint64_t value)
{
	struct scale scale = tsc_scale(cpu->engine->tsc_khz);
	struct clock_system clock = { .tsc = cpu->tsc_adjust,
		.multiplier = scale.multiplier,
		.shift = scale.shift,
		.flags = 1 };
	uint64_t address = value & ~1ull;

	soft_fpu_park(cpu);
	cpu->kvmclock_system = value;
	if ((value & 1) && next_version(cpu, address, &clock.version))
		publish(cpu, address, &clock, sizeof(clock));
}

void kvmclock_set_wall(struct vcpu *cpu, uint64_t value)
{
	struct clock_wall wall = { 0, 0, 0 };
	struct timespec now;
	uint64_t ns;

	soft_fpu_park(cpu);
	cpu->kvmclock_wall = value;
	clock_gettime(CLOCK_REALTIME, &now);
	ns = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec -
	     scale_tsc(tsc_scale(cpu->engine->tsc_khz), soft_tsc(cpu) - cpu->tsc_adjust);
	wall.seconds = (uint32_t)(ns / NS_PER_S);
	wall.nanoseconds = (uint32_t)(ns % NS_PER_S);
	if (next_version(cpu, value, &wall.version))
		publish(cpu, value, &wall, sizeof(wall));
}

void kvmclock_update(struct vcpu *cpu)
{
	if (cpu->kvmclock_system & 1)
		kvmclock_set_system(cpu, cpu->kvmclock_system);
}

static bool may_read_tsc(struct vcpu *cpu)
{
	if ((cpu->cr4 & CR4_TSD) && cpu->cpl)
		return soft_raise_error(cpu, EXC_GP, 0);
	return true;
}

bool sys_rdtsc(struct vcpu *cpu)
{
	uint64_t tsc;

	if (!may_read_tsc(cpu))
		return false;
	tsc = soft_tsc(cpu);
	cpu->gpr[RAX] = (uint32_t)tsc;
	cpu->gpr[RDX] = tsc >> 32;
	return true;
}

bool sys_rdtscp(struct vcpu *cpu)
{
	if (!sys_rdtsc(cpu))
		return false;
	cpu->gpr[RCX] = (uint32_t)cpu->tsc_aux;
	return true;
}

bool sys_rdpid(struct vcpu *cpu)
{
	cpu->gpr[cpu->insn.rm] = (uint32_t)cpu->tsc_aux;
	return true;
}

/* There are no counters. */
bool sys_rdpmc(struct vcpu *cpu)
{
	return soft_raise_error(cpu, EXC_GP, 0);
}
