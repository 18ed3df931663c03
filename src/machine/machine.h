/* SPDX-License-Identifier: MIT */
/*
 * A machine inside the library. Three kinds of thread meet here:
 *
 *  - the owner's: the public functions, callbacks and events (machine.c, owner.c);
 *  - the machine's loop: devices, and the life cycle's every step (core.c);
 *  - the vCPUs' (cpus.c), which only leave requests.
 *
 * What passes between them lies in lists and flags under one lock, announced through two
 * eventfds, and is allocated before it can be needed: a machine that must tell that it died does
 * not depend on malloc.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "base/list.h"
#include "loop/loop.h"
#include "machine/board.h"
#include "machine/cpus.h"
#include <vizor/machine.h>

#define SERIAL_RING_SIZE 16384u
#define DETAIL_SIZE      4096u

/* Something to tell the owner; fn runs on the owner's thread. In at most one list; embedded. */
struct note {
	struct list link;
	void (*fn)(struct vz_machine *m, struct note *note);
	bool queued;
};

/* An asynchronous call on its way to the core and back. */
struct op {
	struct list link; /* to the core */
	struct note note; /* back */
	enum vz_verb verb;
	vz_done_fn *done;
	void *arg;
	vz_state state; /* where the machine is afterwards */
	struct vz_error error;
};

/* The life cycle as the core sees it; it is always in exactly one of these. */
enum core_state { CORE_OFF, CORE_RUNNING, CORE_PAUSED, CORE_FAILED };

/* What vCPUs ask of the core. */
struct requests {
	bool parked, off, reset, failed;
	unsigned failed_cpu;
	struct vz_error error;
};

struct vz_machine {
	struct board board;
	struct cpus cpus;
	char why[VZ_ERROR_TEXT_SIZE];

	/* Between threads, under the lock. */
	pthread_mutex_t lock;
	struct list ops, notes;
	struct requests requests;
	struct {
		char bytes[SERIAL_RING_SIZE];
		size_t start, len;
	} serial;
	int core_fd, owner_fd; /* eventfds */

	/* The core's, on the machine's loop. */
	struct loop *loop;
	pthread_t loop_thread;
	bool loop_started;
	struct watch *core_watch;
	enum core_state core;
	bool cpus_out; /* all parked */
	struct requests asked;
	struct op *pausing, *stopping;

	/* The core's notes, beside the ops. */
	struct note stopped, reset, failed;
	struct vz_error failure;
	char detail[DETAIL_SIZE];

	/* The owner's. */
	struct loop *owner;
	struct watch *owner_watch;
	vz_state state, announced;
	unsigned ops_under_way;
	vz_event_fn *event;
	void *event_arg;
	char serial_out[SERIAL_RING_SIZE];
};

/* owner.c: any thread. */
void owner_note(struct vz_machine *m, struct note *note);
void owner_serial(struct vz_machine *m, const void *bytes, unsigned len);
/* owner.c: the owner's thread. Begin an asynchronous call that the state allows. */
int owner_begin(struct vz_machine *m, enum vz_verb verb, vz_state meanwhile, vz_done_fn *done,
	void *arg);
int owner_open(struct vz_machine *m, struct vz_error *e);
void owner_close(struct vz_machine *m);

/*
 * core.c: on the machine's loop, before the first operation; after close nothing begins any more.
 */
int core_open(struct vz_machine *m, struct vz_error *e);
void core_close(struct vz_machine *m);
/* core.c: any thread, after something was put into ops or requests. */
void core_wake(struct vz_machine *m);
/* core.c: what vCPUs call; arg is the machine. */
void core_guest_off(void *arg);
void core_guest_reset(void *arg);
void core_cpus_parked(void *arg);
void core_cpu_failed(void *arg, unsigned index, enum vcpu_exit exit, const struct vz_error *e);

#endif
