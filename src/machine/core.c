/* SPDX-License-Identifier: MIT */
/*
 * The life cycle, on the machine's loop. Every change of the running machine goes the same way:
 * ask the vCPUs out, and when the last one is parked settle what there was reason to stop for,
 * the gravest first: failure, off, reset, pause.
 */
#include "base/error.h"
#include "machine/machine.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

void core_wake(struct vz_machine *m)
{
	eventfd_write(m->core_fd, 1);
}

/* --- requests of the vCPUs --------------------------------------------------------------- */

void core_guest_off(void *arg)
{
	struct vz_machine *m = arg;

	pthread_mutex_lock(&m->lock);
	m->requests.off = true;
	pthread_mutex_unlock(&m->lock);
	cpus_park(&m->cpus);
}

void core_guest_reset(void *arg)
{
	struct vz_machine *m = arg;

	pthread_mutex_lock(&m->lock);
	m->requests.reset = true;
	pthread_mutex_unlock(&m->lock);
	cpus_park(&m->cpus);
}

/* When several fail, the first one tells. */
void core_cpu_failed(void *arg, unsigned index, enum vcpu_exit exit, const struct vz_error *e)
{
	struct vz_machine *m = arg;

	pthread_mutex_lock(&m->lock);
	if (!m->requests.failed) {
		m->requests.failed = true;
		m->requests.failed_cpu = index;
		m->requests.error = *e;
		if (!e->text[0])
			err_set(&m->requests.error, EIO, NULL, "%s",
				exit == VCPU_SHUTDOWN ? "triple fault" : "the engine gave up");
		err_prefix(&m->requests.error, "CPU %u", index);
	}
	pthread_mutex_unlock(&m->lock);
}

/*
 * The only request that wakes the core: the others say why, and are settled when everybody is
 * out.
 */
void core_cpus_parked(void *arg)
{
	struct vz_machine *m = arg;

	pthread_mutex_lock(&m->lock);
	m->requests.parked = true;
	pthread_mutex_unlock(&m->lock);
	core_wake(m);
}

/* --- the answers to operations ----------------------------------------------------------- */

static vz_state public_state(const struct vz_machine *m)
{
	static const vz_state states[] = {
		[CORE_OFF] = VZ_STOPPED,
		[CORE_RUNNING] = VZ_RUNNING,
		[CORE_PAUSED] = VZ_PAUSED,
		[CORE_FAILED] = VZ_ERROR,
	};

	return states[m->core];
}

static void finish(struct vz_machine *m, struct op *op)
{
	if (!op)
		return;
	op->state = public_state(m);
	owner_note(m, &op->note);
}

static void finish_failed(struct vz_machine *m, struct op *op, const char *why)
{
	if (!op)
		return;
	err_set(&op->error, ECANCELED, NULL, "%s", why);
	finish(m, op);
}

static struct op *take(struct op **slot)
{
	struct op *op = *slot;

	*slot = NULL;
	return op;
}

/* --- steps ------------------------------------------------------------------------------- */

static int run(struct vz_machine *m, struct vz_error *e)
{
	int r = cpus_run(&m->cpus, e);

	if (r)
		return r;
	m->cpus_out = false;
	m->core = CORE_RUNNING;
	return 0;
}

static void power_off(struct vz_machine *m)
{
	bool was_on = m->core != CORE_OFF;

	board_power_off(&m->board);
	m->core = CORE_OFF;
	if (was_on)
		owner_note(m, &m->stopped);
}

static void describe_cpu(struct vz_machine *m, unsigned index)
{
	const struct engine_class *class = m->board.class;
	struct cpu_state *state = aligned_alloc(_Alignof(struct cpu_state), sizeof(*state));
	int n = snprintf(m->detail, sizeof(m->detail), "CPU %u:\n", index);

	if (!state)
		return;
	class->get_state(class->vcpu(m->board.engine, index), state);
	cpu_state_print(m->detail + n, sizeof(m->detail) - (unsigned)n, state);
	free(state);
}

/*
 * The owner reads failure and detail when it is told; the core writes them again only after a new
 * start.
 */
static void fail(struct vz_machine *m, const struct vz_error *e)
{
	board_pause(&m->board);
	m->core = CORE_FAILED;
	m->failure = *e;
	owner_note(m, &m->failed);
}

static void settle_failure(struct vz_machine *m, const struct requests *asked)
{
	describe_cpu(m, asked->failed_cpu);
	fail(m, &asked->error);
	finish_failed(m, take(&m->pausing), "the guest died");
	if (m->stopping) {
		power_off(m);
		finish(m, take(&m->stopping));
	}
}

static void settle_off(struct vz_machine *m)
{
	power_off(m);
	finish_failed(m, take(&m->pausing), "the machine is off");
	finish(m, take(&m->stopping));
}

static void settle_pause(struct vz_machine *m)
{
	board_pause(&m->board);
	m->core = CORE_PAUSED;
	finish(m, take(&m->pausing));
}

static void settle(struct vz_machine *m)
{
	struct requests asked = m->asked;
	struct vz_error error = { 0 };

	memset(&m->asked, 0, sizeof(m->asked));
	board_flush(&m->board);
	if (asked.failed) {
		settle_failure(m, &asked);
		return;
	}
	if (asked.off || m->stopping) {
		settle_off(m);
		return;
	}
	if (asked.reset) {
		if (board_power_on(&m->board, &error))
			goto failed;
		owner_note(m, &m->reset);
	}
	if (m->pausing) {
		settle_pause(m);
		return;
	}
	if (!run(m, &error))
		return;
failed:
	m->detail[0] = '\0';
	fail(m, &error);
	finish_failed(m, take(&m->pausing), error.text);
}

/* --- operations -------------------------------------------------------------------------- */

static void begin_start(struct vz_machine *m, struct op *op)
{
	int r;

	if (m->core != CORE_OFF && m->core != CORE_FAILED) {
		finish_failed(m, op, "the machine is on already");
		return;
	}
	r = board_power_on(&m->board, &op->error);
	if (!r)
		r = run(m, &op->error);
	if (r) {
		board_pause(&m->board);
		m->core = CORE_FAILED;
	}
	finish(m, op);
}

static void begin_pause(struct vz_machine *m, struct op *op)
{
	if (m->core != CORE_RUNNING || m->pausing) {
		finish_failed(m, op, "the machine does not run");
		return;
	}
	m->pausing = op;
	cpus_park(&m->cpus);
}

static void begin_resume(struct vz_machine *m, struct op *op)
{
	if (m->core != CORE_PAUSED) {
		finish_failed(m, op, "the machine is not paused");
		return;
	}
	board_resume(&m->board);
	if (run(m, &op->error))
		board_pause(&m->board);
	finish(m, op);
}

static void begin_stop(struct vz_machine *m, struct op *op)
{
	if (m->core == CORE_RUNNING && !m->stopping) {
		m->stopping = op;
		cpus_park(&m->cpus);
		return;
	}
	if (m->core == CORE_RUNNING) {
		finish_failed(m, op, "the machine is stopping already");
		return;
	}
	power_off(m);
	finish(m, op);
}

static void begin(struct vz_machine *m, struct op *op)
{
	switch (op->verb) {
	case VZ_VERB_START:
		begin_start(m, op);
		break;
	case VZ_VERB_PAUSE:
		begin_pause(m, op);
		break;
	case VZ_VERB_RESUME:
		begin_resume(m, op);
		break;
	default:
		begin_stop(m, op);
		break;
	}
}

static void merge_requests(struct requests *to, const struct requests *from)
{
	to->off |= from->off;
	to->reset |= from->reset;
	if (from->failed && !to->failed) {
		to->failed = true;
		to->failed_cpu = from->failed_cpu;
		to->error = from->error;
	}
}

static struct op *next_op(struct vz_machine *m)
{
	struct op *op = NULL;

	pthread_mutex_lock(&m->lock);
	if (!list_empty(&m->ops)) {
		op = list_entry(m->ops.next, struct op, link);
		list_remove(&op->link);
	}
	pthread_mutex_unlock(&m->lock);
	return op;
}

static void core_poll(void *arg, uint32_t events)
{
	struct vz_machine *m = arg;
	struct requests now;
	eventfd_t count;
	struct op *op;

	eventfd_read(m->core_fd, &count);
	pthread_mutex_lock(&m->lock);
	now = m->requests;
	memset(&m->requests, 0, sizeof(m->requests));
	pthread_mutex_unlock(&m->lock);
	merge_requests(&m->asked, &now);
	if (now.parked)
		m->cpus_out = true;
	while ((op = next_op(m))) {
		begin(m, op);
		/* Settle before the next one begins: it finds the state that this one led to. */
		if (m->core == CORE_RUNNING && m->cpus_out)
			settle(m);
	}
	if (m->core == CORE_RUNNING && m->cpus_out)
		settle(m);
}

int core_open(struct vz_machine *m, struct vz_error *e)
{
	m->cpus_out = true;
	m->core_watch = watch_new(m->loop, m->core_fd, EPOLLIN, core_poll, m, e);
	return m->core_watch ? 0 : -ENOMEM;
}

void core_close(struct vz_machine *m)
{
	watch_free(m->core_watch);
	m->core_watch = NULL;
	free(take(&m->pausing));
	free(take(&m->stopping));
}
