/* SPDX-License-Identifier: MIT */
/*
 * The engine interface: what runs guest instructions. An engine knows memory and a bus callback; it
 * knows no device. It includes the interrupt controllers (local APICs, I/O APIC at 0xfec00000 with
 * 24 pins), because KVM's live in the kernel, and the paravirtual clock.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "engine/cpu.h"
#include "memory/memory.h"
#include <vizor/error.h>

#define ENGINE_IOAPIC_BASE 0xfec00000ull
#define ENGINE_IOAPIC_PINS 24
#define ENGINE_LAPIC_BASE  0xfee00000ull
#define ENGINE_CPUS_MAX    64

struct engine;
struct vcpu;
struct state;

/*
 * The board, as the engine sees it. Called on the vCPU thread that made the access. size: 1, 2, 4
 * or 8.
 */
struct engine_board {
	void *arg;
	uint64_t (*read)(void *arg, bool port, uint64_t addr, unsigned size);
	void (*write)(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value);
	/*
	 * The guest asked the I/O APIC for end-of-interrupt on a level-triggered pin; may be NULL.
	 */
	void (*eoi)(void *arg, unsigned pin);
};

struct engine_config {
	struct memory *mem; /* outlives the engine */
	unsigned cpus;
	struct engine_board board;
	const char *options; /* engine-specific words for tests: "exact", "nogroup", …; or NULL */
};

enum vcpu_exit {
	VCPU_KICKED,   /* vcpu_kick was called */
	VCPU_SHUTDOWN, /* triple fault: the error tells, with the CPU state */
	VCPU_FAILED,   /* the engine cannot go on: the error tells */
};

struct engine_class {
	const char *name; /* "soft", "kvm" */
	const char *summary;
	/* 0 when it works here; else -errno with the reason and the remedy. */
	int (*probe)(struct vz_error *e);
	/*
	 * It works: is there a reason against taking it unasked? 0, or -errno with the reason. May
	 * be NULL.
	 */
	int (*advise)(struct vz_error *e);
	int (*open)(struct engine **engine, const struct engine_config *config, struct vz_error *e);
	void (*close)(struct engine *engine); /* no vCPU may be running */

	/*
	 * vCPUs 0 .. cpus-1 exist from open on, in the power-on state (vCPU 0 runs, others wait for
	 * SIPI).
	 */
	struct vcpu *(*vcpu)(struct engine *engine, unsigned index);
	void (*reset)(struct engine *
			engine); /* all vCPUs and interrupt controllers to power-on; none running */

	/*
	 * Run on the calling thread, always the same one for a vCPU, until an exit. HLT sleeps
	 * inside.
	 */
	enum vcpu_exit (*run)(struct vcpu *vcpu, struct vz_error *e);
	/* From any thread: make run return soon, or at once when it is called next. */
	void (*kick)(struct vcpu *vcpu);

	/* Only while the vCPU does not run. set returns -EINVAL for state the CPU cannot be in. */
	void (*get_state)(struct vcpu *vcpu, struct cpu_state *state);
	int (*set_state)(struct vcpu *vcpu, const struct cpu_state *state);

	/* Interrupts, from any thread. */
	void (*msi)(struct engine *engine, uint64_t address, uint32_t data);
	void (*irq_line)(struct engine *engine, unsigned pin, bool level);
	/* Signal fd on a guest MMIO write to [address, +size). 0 or -errno. */
	int (*bind_doorbell)(struct engine *engine, uint64_t address, unsigned size, int fd);
	void (*unbind_doorbell)(struct engine *engine, uint64_t address, unsigned size, int fd);
	/* Inject an MSI when fd is signalled; may be NULL (then the caller uses msi). */
	int (*bind_irqfd)(struct engine *engine, int fd, uint64_t address, uint32_t data);
	void (*unbind_irqfd)(struct engine *engine, int fd);

	/*
	 * Log of the pages that the guest writes, one bit per page of the memfd as memory.h's.
	 * fetch overwrites the bits and clears the log. 0 or -errno. May be NULL.
	 */
	int (*dirty_log)(struct engine *engine, bool on);
	int (*dirty_fetch)(struct engine *engine, uint64_t *bits);

	/* Counters for tests and benchmarks: name and value pairs until it returns false. */
	bool (*counter)(struct engine *engine, unsigned index, const char **name, uint64_t *value);
	/* Interrupt controllers and clock beside the per-vCPU state. */
	int (*state)(struct engine *engine, struct state *s);
};

/* In the order "auto" tries them, NULL-terminated. */
extern const struct engine_class *const engine_classes[];

/* Name and all registers as text, one item a line; returns the length like snprintf. */
int cpu_state_print(char *text, unsigned long size, const struct cpu_state *state);

#endif
