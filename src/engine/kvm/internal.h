/* SPDX-License-Identifier: MIT */
/*
 * Inside the KVM engine. The virtual machine has KVM's local APICs and an I/O APIC of our own (a
 * "split" interrupt chip): see docs/kvm.md.
 */
#ifndef ENGINE_KVM_INTERNAL_H
#define ENGINE_KVM_INTERNAL_H

#include "engine/engine.h"
#include "engine/ioapic.h"
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#define KVM_ROUTES_MAX  1024u /* MSI routes of irqfds, beside those of the I/O APIC's pins */
#define KVM_CPUID_MAX   128u
#define KVM_MSRS_AT_ONE 64u

enum kvm_count {
	COUNT_EXITS,
	COUNT_IO,
	COUNT_MMIO,
	COUNT_EOI,
	COUNT_INTERRUPTED,
	COUNT_KINDS,
};

/* A vCPU as it was made: what reset goes back to. */
struct kvm_power_on {
	struct cpu_state state;
	unsigned nmsrs;
	struct kvm_msr_entry msrs[];
};

struct vcpu {
	struct engine *engine;
	unsigned index;
	int fd;
	struct kvm_run *run;
	struct kvm_power_on *power_on;
	uint64_t count[COUNT_KINDS];

	atomic_bool kicked;
	pthread_mutex_t lock; /* of what follows */
	bool running;         /* thread is in kvm_vcpu_run */
	bool signalled;       /* the kick signal is pending there */
	pthread_t thread;
};

/* A message that KVM delivers by itself. Pins: only so that KVM reports ends of interrupt. */
struct kvm_route {
	bool used;
	int fd;
	uint64_t address;
	uint32_t data;
};

struct engine {
	struct memory *mem;
	struct engine_board board;
	int kvm, vm;
	unsigned cpus;
	size_t run_size;
	struct vcpu *vcpu[ENGINE_CPUS_MAX];
	struct kvm_cpuid2 *supported;
	bool any_length; /* ioeventfds may match writes of every length */
	bool amd;
	bool dirty_log;
	struct ioapic ioapic;
	pthread_mutex_t routes_lock;
	struct kvm_route pins[ENGINE_IOAPIC_PINS], *routes;
	unsigned nroutes;
};

/* host.c: /dev/kvm open and good enough, or -errno with the reason. */
int kvm_host_open(struct vz_error *e);
int kvm_host_probe(struct vz_error *e);
int kvm_host_advise(struct vz_error *e);

/* vcpu.c */
enum vcpu_exit kvm_vcpu_run(struct vcpu *cpu, struct vz_error *e);
void kvm_vcpu_kick(struct vcpu *cpu);

/* cpuid.c */
int kvm_cpuid_init(struct engine *engine, struct vz_error *e);
int kvm_cpuid_set(struct vcpu *cpu, struct vz_error *e);

/* msr.c: leave out what cannot be read; the number of those that are left. */
unsigned kvm_msrs_get(const struct vcpu *cpu, struct kvm_msr_entry *msrs, unsigned count);
/*
 * Write all. One that KVM refuses is an error, unless it has the value already: -EINVAL, its number
 * in the log.
 */
int kvm_msrs_set(const struct vcpu *cpu, const struct kvm_msr_entry *msrs, unsigned count);
/* What KVM knows of, with values; *count is set. NULL: out of memory. */
struct kvm_power_on *kvm_msrs_all(const struct vcpu *cpu);

/* state.c */
void kvm_get_state(struct vcpu *cpu, struct cpu_state *state);
int kvm_set_state(struct vcpu *cpu, const struct cpu_state *state);

/* irq.c; these two as struct ioapic_host has them. */
bool kvm_send_msi(void *engine, uint64_t address, uint32_t data);
void kvm_route_pin(void *engine, unsigned pin, bool used, uint64_t address, uint32_t data);
void kvm_msi(struct engine *engine, uint64_t address, uint32_t data);
int kvm_bind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd);
void kvm_unbind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd);
int kvm_bind_irqfd(struct engine *engine, int fd, uint64_t address, uint32_t data);
void kvm_unbind_irqfd(struct engine *engine, int fd);

#endif
