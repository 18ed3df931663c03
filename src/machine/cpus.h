/* SPDX-License-Identifier: MIT */
/*
 * The vCPU threads: one each, parked or running the guest, all together. While they are on their
 * way out they may still wait for the device loop (a synchronous register access), so that one
 * must go on running until they are parked.
 */
#ifndef MACHINE_CPUS_H
#define MACHINE_CPUS_H

#include "engine/engine.h"
#include <pthread.h>

/* On a vCPU thread. */
struct cpus_events {
	void *arg;
	void (*parked)(void *arg); /* the last one is out; once for each cpus_run */
	void (*failed)(void *arg, unsigned index, enum vcpu_exit exit, const struct vz_error *e);
};

enum cpus_want { CPUS_PARK, CPUS_RUN, CPUS_EXIT };

struct cpu_thread {
	struct cpus *cpus;
	struct vcpu *vcpu;
	unsigned index;
	pthread_t thread;
	bool running;
};

struct cpus {
	const struct engine_class *class;
	struct cpus_events events;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum cpus_want want;
	unsigned running;
	struct cpu_thread *threads;
	unsigned count, started;
};

int cpus_init(struct cpus *c, const struct engine_class *class, struct engine *engine,
	unsigned count, const struct cpus_events *events, struct vz_error *e);
/* Ends the threads; whatever they wait for must still be served. A zeroed struct is fine. */
void cpus_fini(struct cpus *c);

/* All are parked: let them run. The threads are started the first time. */
int cpus_run(struct cpus *c, struct vz_error *e);
/* Any thread, also a vCPU in the middle of an access: everybody out; events.parked tells when. */
void cpus_park(struct cpus *c);

#endif
