/* SPDX-License-Identifier: MIT */
/*
 * Inside the KVM engine. The virtual machine has KVM's local APICs and an I/O APIC of our own (a
 * "split" interrupt chip): see docs/kvm.md.
 */
#ifndef ENGINE_KVM_INTERNAL_H
#define ENGINE_KVM_INTERNAL_H

#include "engine/engine.h"
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

struct kvm_ioapic {
	pthread_mutex_t lock;
	uint32_t id, select, level;
	uint64_t redirection[ENGINE_IOAPIC_PINS];
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
	struct kvm_ioapic ioapic;
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

/* ioapic.c */
void kvm_ioapic_reset(struct engine *engine);
uint64_t kvm_ioapic_read(struct engine *engine, uint64_t offset, unsigned size);
void kvm_ioapic_write(struct engine *engine, uint64_t offset, unsigned size, uint64_t value);
void kvm_ioapic_line(struct engine *engine, unsigned pin, bool level);
void kvm_ioapic_eoi(struct engine *engine, unsigned vector);
int kvm_ioapic_state(struct engine *engine, struct state *s);

/* irq.c */
bool kvm_send_msi(struct engine *engine, uint64_t address, uint32_t data); /* somebody took it */
void kvm_route_pin(struct engine *engine, unsigned pin, const struct kvm_route *route);
void kvm_msi(struct engine *engine, uint64_t address, uint32_t data);
int kvm_bind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd);
void kvm_unbind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd);
int kvm_bind_irqfd(struct engine *engine, int fd, uint64_t address, uint32_t data);
void kvm_unbind_irqfd(struct engine *engine, int fd);

#endif
