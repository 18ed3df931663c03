/* SPDX-License-Identifier: MIT */
/*
 * A machine and its life. All functions are called on one thread, the owner's, except
 * vz_machine_post. vCPUs and devices run on threads of their own; callbacks and events come back on
 * the owner's thread, from within vz_machine_dispatch. The library never takes over the process: it
 * calls no exit and changes no terminal. It blocks all signals on its own threads. The software CPU
 * needs a handler for SIGFPE, SIGSEGV, SIGBUS and SIGILL; it passes on whatever is not its own.
 */
#ifndef VIZOR_MACHINE_H
#define VIZOR_MACHINE_H

#include <stddef.h>
#include <vizor/config.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef struct vz_machine vz_machine;

typedef enum vz_state {
	VZ_STOPPED,
	VZ_RUNNING,
	VZ_PAUSED,
	VZ_ERROR,
	VZ_STARTING,
	VZ_PAUSING,
	VZ_RESUMING,
	VZ_STOPPING,
	VZ_SAVING,
	VZ_RESTORING
} vz_state;
const char *vz_state_name(vz_state state); /* "stopped", … */

typedef enum vz_verb {
	VZ_VERB_START,
	VZ_VERB_PAUSE,
	VZ_VERB_RESUME,
	VZ_VERB_REQUEST_STOP,
	VZ_VERB_STOP
} vz_verb;

/*
 * Deep-copies the configuration. Opens the kernel, the disks and the engine. NULL with *error set.
 */
vz_machine *vz_machine_new(const vz_config *config, vz_error *error);
/* Stops a running machine first; runs no callbacks. Not from within one. NULL is fine. */
void vz_machine_free(vz_machine *machine);

vz_state vz_machine_state(const vz_machine *machine);
bool vz_machine_can(const vz_machine *machine, vz_verb verb);
/* The engine in use and why it was chosen; strings live as long as the machine. */
const char *vz_machine_engine(const vz_machine *machine, const char **why);

/*
 * Completion of an asynchronous call, on the owner's thread: error is NULL on success. May be NULL.
 * Each returns 0 when the operation was begun, or -EBUSY / -EINVAL when the state does not allow it
 * (then done is not called).
 */
typedef void vz_done_fn(void *arg, const vz_error *error);
int vz_machine_start(vz_machine *machine, vz_done_fn *done, void *arg);
/* no vCPU runs, nothing in flight */
int vz_machine_pause(vz_machine *machine, vz_done_fn *done, void *arg);
int vz_machine_resume(vz_machine *machine, vz_done_fn *done, void *arg);
/* Press the power button: the guest is asked, and may take its time or refuse. Complete at once. */
int vz_machine_request_stop(vz_machine *machine, vz_error *error);
/*
 * Pull the plug: the guest is not asked. Flushes nothing of the guest's, loses nothing it was told
 * is safe.
 */
int vz_machine_stop(vz_machine *machine, vz_done_fn *done, void *arg);

typedef enum vz_event_kind {
	VZ_EVENT_STATE,   /* the state changed; see state */
	VZ_EVENT_RESET,   /* the guest rebooted within this machine */
	VZ_EVENT_STOPPED, /* the guest powered off or was stopped */
	/* the machine is in VZ_ERROR: error tells why, with the CPU state in detail */
	VZ_EVENT_ERROR,
	VZ_EVENT_SERIAL /* bytes from the early serial port COM1 */
} vz_event_kind;
typedef struct vz_event {
	vz_event_kind kind;
	vz_state state;
	vz_error error;
	const char *detail; /* ERROR: several lines, or NULL; valid during the callback */
	const void *bytes;  /* SERIAL; valid during the callback */
	size_t len;
} vz_event;
typedef void vz_event_fn(void *arg, const vz_event *event);
void vz_machine_on_event(vz_machine *machine, vz_event_fn *fn, void *arg);

/* Becomes readable when vz_machine_dispatch has work. Owned by the machine. */
int vz_machine_fd(const vz_machine *machine);
/*
 * Deliver completions and events; waits up to timeout_ms for the first (-1: for ever, 0: not at
 * all).
 */
void vz_machine_dispatch(vz_machine *machine, int timeout_ms);
/* Run fn on the owner's thread from within vz_machine_dispatch. Any thread. 0 or -ENOMEM. */
int vz_machine_post(vz_machine *machine, void (*fn)(void *arg), void *arg);

/* Consoles: index counts the virtio-serial devices in the order they were added. */
const char *vz_machine_console_pty(const vz_machine *machine, unsigned index); /* NULL: no pty */
/* Tell that the terminal behind a stdio console may have a new size (after SIGWINCH). */
void vz_machine_console_resized(vz_machine *machine, unsigned index);
/*
 * See the bytes a stdio console reads before the guest does; fn may shorten and change them in
 * place and returns how many remain. Called on an internal thread; set before start.
 */
typedef size_t vz_console_filter_fn(void *arg, char *bytes, size_t len);
void vz_machine_console_filter(vz_machine *machine, unsigned index, vz_console_filter_fn *fn,
	void *arg);

/* Counters: name and value by index; false past the last one. For measurements. */
bool vz_machine_counter(const vz_machine *machine, unsigned index, const char **name,
	uint64_t *value);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
