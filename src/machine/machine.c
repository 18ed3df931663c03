/* SPDX-License-Identifier: MIT */
/* vz_machine: the public functions. */
#include "machine/machine.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "machine/validate.h"
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <vizor/vizor.h>

const char *vz_state_name(vz_state state)
{
	static const char *const names[] = {
		[VZ_STOPPED] = "stopped",
		[VZ_RUNNING] = "running",
		[VZ_PAUSED] = "paused",
		[VZ_ERROR] = "error",
		[VZ_STARTING] = "starting",
		[VZ_PAUSING] = "pausing",
		[VZ_RESUMING] = "resuming",
		[VZ_STOPPING] = "stopping",
		[VZ_SAVING] = "saving",
		[VZ_RESTORING] = "restoring",
	};

	return (unsigned)state < ARRAY_SIZE(names) ? names[state] : "unknown";
}

/* --- making and freeing ------------------------------------------------------------------ */

struct opening {
	struct vz_machine *m;
	const struct vz_config *config;
	struct vz_error *error;
	int result;
};

static void guest_serial(void *arg, const void *bytes, unsigned len)
{
	owner_serial(arg, bytes, len);
}

static void open_on_loop(void *arg)
{
	struct opening *o = arg;
	struct vz_machine *m = o->m;
	struct board_host host = {
		.arg = m,
		.off = core_guest_off,
		.reset = core_guest_reset,
		.serial = guest_serial,
	};

	o->result = board_open(&m->board, o->config, m->board.class, m->loop, &host, o->error);
	if (!o->result)
		o->result = core_open(m, o->error);
}

static void halt_on_loop(void *arg)
{
	core_close(arg);
}

static void close_on_loop(void *arg)
{
	struct vz_machine *m = arg;

	board_close(&m->board);
}

static void *loop_main(void *arg)
{
	struct vz_machine *m = arg;

	loop_run(m->loop);
	return NULL;
}

static int start_loop(struct vz_machine *m, struct vz_error *e)
{
	int r;

	m->core_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->owner_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->core_fd < 0 || m->owner_fd < 0)
		return err_set(e, errno, NULL, "cannot make an eventfd: %s", strerror(errno));
	r = owner_open(m, e);
	if (r)
		return r;
	m->loop = loop_new(e);
	if (!m->loop)
		return -ENOMEM;
	loop_hand_over(m->loop);
	r = thread_start(&m->loop_thread, "vz-devices", loop_main, m);
	if (r)
		return err_set(e, r, NULL, "cannot start a thread: %s", strerror(-r));
	m->loop_started = true;
	return 0;
}

static int open_parts(struct vz_machine *m, const struct vz_config *config, struct vz_error *e)
{
	struct opening opening = { m, config, e, 0 };
	struct cpus_events events = { m, core_cpus_parked, core_cpu_failed };
	int r;

	m->board.class = config_engine(config->engine, m->why, sizeof(m->why), e);
	if (!m->board.class)
		return -ENOTSUP;
	r = start_loop(m, e);
	if (r)
		return r;
	r = loop_call(m->loop, open_on_loop, &opening);
	if (!r)
		r = opening.result;
	if (r)
		return r;
	return cpus_init(&m->cpus, m->board.class, m->board.engine, config->cpus, &events, e);
}

vz_machine *vz_machine_new(const vz_config *config, vz_error *e)
{
	struct vz_error own = { 0 };
	struct vz_machine *m;

	if (!e)
		e = &own;
	if (validate_quick(config, e))
		return NULL;
	m = calloc(1, sizeof(*m));
	if (!m) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	m->core_fd = m->owner_fd = -1;
	pthread_mutex_init(&m->lock, NULL);
	list_init(&m->ops);
	list_init(&m->notes);
	if (open_parts(m, config, e)) {
		vz_machine_free(m);
		return NULL;
	}
	log_info("engine %s: %s", m->board.class->name, m->why);
	return m;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void vz_machine_free(vz_machine *m)
{
	if (!m)
		return;
	m->event = NULL;
	/*
	 * The core first, so that it starts no vCPU; then the vCPUs, which may be waiting for the
	 * loop.
	 */
	if (m->loop_started)
		loop_call(m->loop, halt_on_loop, m);
	cpus_fini(&m->cpus);
	if (m->loop_started) {
		loop_call(m->loop, close_on_loop, m);
		loop_stop(m->loop);
		pthread_join(m->loop_thread, NULL);
	}
	loop_free(m->loop);
	owner_close(m);
	close_fd(m->core_fd);
	close_fd(m->owner_fd);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* --- the life cycle ---------------------------------------------------------------------- */

#define IN(state) (1u << (state))

static const unsigned allowed[] = {
	[VZ_VERB_START] = IN(VZ_STOPPED) | IN(VZ_ERROR),
	[VZ_VERB_PAUSE] = IN(VZ_RUNNING),
	[VZ_VERB_RESUME] = IN(VZ_PAUSED),
	[VZ_VERB_REQUEST_STOP] = IN(VZ_RUNNING),
	[VZ_VERB_STOP] = IN(VZ_RUNNING) | IN(VZ_PAUSED) | IN(VZ_ERROR) | IN(VZ_STARTING) |
			 IN(VZ_PAUSING) | IN(VZ_RESUMING) | IN(VZ_SAVING) | IN(VZ_RESTORING),
};

#define TRANSITIONS                                                                             \
	(IN(VZ_STARTING) | IN(VZ_PAUSING) | IN(VZ_RESUMING) | IN(VZ_STOPPING) | IN(VZ_SAVING) | \
		IN(VZ_RESTORING))

vz_state vz_machine_state(const vz_machine *m)
{
	return m->state;
}

bool vz_machine_can(const vz_machine *m, vz_verb verb)
{
	return (unsigned)verb < ARRAY_SIZE(allowed) && (allowed[verb] & IN(m->state));
}

static int begin(vz_machine *m, vz_verb verb, vz_state meanwhile, vz_done_fn *done, void *arg)
{
	if (!vz_machine_can(m, verb))
		return IN(m->state) & TRANSITIONS ? -EBUSY : -EINVAL;
	return owner_begin(m, verb, meanwhile, done, arg);
}

int vz_machine_start(vz_machine *m, vz_done_fn *done, void *arg)
{
	return begin(m, VZ_VERB_START, VZ_STARTING, done, arg);
}

int vz_machine_pause(vz_machine *m, vz_done_fn *done, void *arg)
{
	return begin(m, VZ_VERB_PAUSE, VZ_PAUSING, done, arg);
}

int vz_machine_resume(vz_machine *m, vz_done_fn *done, void *arg)
{
	return begin(m, VZ_VERB_RESUME, VZ_RESUMING, done, arg);
}

int vz_machine_stop(vz_machine *m, vz_done_fn *done, void *arg)
{
	return begin(m, VZ_VERB_STOP, VZ_STOPPING, done, arg);
}

int vz_machine_request_stop(vz_machine *m, vz_error *e)
{
	if (!vz_machine_can(m, VZ_VERB_REQUEST_STOP))
		return err_set(e, IN(m->state) & TRANSITIONS ? EBUSY : EINVAL, NULL,
			"a machine that is %s cannot be asked to stop", vz_state_name(m->state));
	power_button(m->board.power);
	return 0;
}

/* --- the owner's loop -------------------------------------------------------------------- */

void vz_machine_on_event(vz_machine *m, vz_event_fn *fn, void *arg)
{
	m->event = fn;
	m->event_arg = arg;
}

int vz_machine_fd(const vz_machine *m)
{
	return loop_fd(m->owner);
}

void vz_machine_dispatch(vz_machine *m, int timeout_ms)
{
	loop_dispatch(m->owner, timeout_ms);
}

int vz_machine_post(vz_machine *m, void (*fn)(void *arg), void *arg)
{
	return loop_post(m->owner, fn, arg);
}

/* --- questions --------------------------------------------------------------------------- */

const char *vz_machine_engine(const vz_machine *m, const char **why)
{
	if (why)
		*why = m->why;
	return m->board.class->name;
}

bool vz_machine_counter(const vz_machine *m, unsigned index, const char **name, uint64_t *value)
{
	const struct engine_class *class = m->board.class;

	return class->counter && class->counter(m->board.engine, index, name, value);
}
