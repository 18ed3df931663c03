/* SPDX-License-Identifier: MIT */
/*
 * The owner's side of a machine: what the core and the vCPUs leave for it, delivered as
 * completions and events from within vz_machine_dispatch.
 */
#include "base/error.h"
#include "machine/machine.h"
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

static void wake(struct vz_machine *m)
{
	eventfd_write(m->owner_fd, 1);
}

void owner_note(struct vz_machine *m, struct note *note)
{
	pthread_mutex_lock(&m->lock);
	/* Two resets that the owner has not yet heard of are one to it. */
	if (!note->queued) {
		note->queued = true;
		list_append(&m->notes, &note->link);
	}
	pthread_mutex_unlock(&m->lock);
	wake(m);
}

/* When the owner does not listen the oldest bytes go: the last ones tell what a guest died of. */
void owner_serial(struct vz_machine *m, const void *bytes, unsigned len)
{
	const char *p = bytes;
	bool first;

	pthread_mutex_lock(&m->lock);
	first = !m->serial.len;
	for (; len; len--, p++) {
		if (m->serial.len == SERIAL_RING_SIZE) {
			m->serial.start = (m->serial.start + 1) % SERIAL_RING_SIZE;
			m->serial.len--;
		}
		m->serial.bytes[(m->serial.start + m->serial.len++) % SERIAL_RING_SIZE] = *p;
	}
	pthread_mutex_unlock(&m->lock);
	if (first)
		wake(m);
}

/* --- on the owner's thread --------------------------------------------------------------- */

static void tell(struct vz_machine *m, const struct vz_event *event)
{
	if (m->event)
		m->event(m->event_arg, event);
}

static void announce(struct vz_machine *m)
{
	if (m->announced == m->state)
		return;
	m->announced = m->state;
	tell(m, &(struct vz_event){ .kind = VZ_EVENT_STATE, .state = m->state });
}

/* What the guest did by itself; an operation under way tells the outcome when it is done. */
static void guest_changed_state(struct vz_machine *m, vz_state state)
{
	if (!m->ops_under_way)
		m->state = state;
	announce(m);
}

static void tell_stopped(struct vz_machine *m, struct note *note)
{
	guest_changed_state(m, VZ_STOPPED);
	tell(m, &(struct vz_event){ .kind = VZ_EVENT_STOPPED, .state = VZ_STOPPED });
}

static void tell_reset(struct vz_machine *m, struct note *note)
{
	tell(m, &(struct vz_event){ .kind = VZ_EVENT_RESET, .state = m->state });
}

static void tell_failed(struct vz_machine *m, struct note *note)
{
	struct vz_event event = {
		.kind = VZ_EVENT_ERROR,
		.state = VZ_ERROR,
		.error = m->failure,
		.detail = m->detail[0] ? m->detail : NULL,
	};

	guest_changed_state(m, VZ_ERROR);
	tell(m, &event);
}

static void op_done(struct vz_machine *m, struct note *note)
{
	struct op *op = container_of(note, struct op, note);

	if (--m->ops_under_way == 0)
		m->state = op->state;
	announce(m);
	if (op->done)
		op->done(op->arg, op->error.code ? &op->error : NULL);
	free(op);
}

static struct note *next_note(struct vz_machine *m)
{
	struct note *note = NULL;

	pthread_mutex_lock(&m->lock);
	if (!list_empty(&m->notes)) {
		note = list_entry(m->notes.next, struct note, link);
		list_remove(&note->link);
		note->queued = false;
	}
	pthread_mutex_unlock(&m->lock);
	return note;
}

static size_t take_serial(struct vz_machine *m)
{
	size_t len, first;

	pthread_mutex_lock(&m->lock);
	len = m->serial.len;
	first = MIN(len, SERIAL_RING_SIZE - m->serial.start);
	memcpy(m->serial_out, m->serial.bytes + m->serial.start, first);
	memcpy(m->serial_out + first, m->serial.bytes, len - first);
	m->serial.start = m->serial.len = 0;
	pthread_mutex_unlock(&m->lock);
	return len;
}

static void tell_serial(struct vz_machine *m)
{
	size_t len = take_serial(m);
	struct vz_event event = {
		.kind = VZ_EVENT_SERIAL,
		.state = m->state,
		.bytes = m->serial_out,
		.len = len,
	};

	if (len)
		tell(m, &event);
}

static void owner_poll(void *arg, uint32_t events)
{
	struct vz_machine *m = arg;
	struct note *note;
	eventfd_t count;

	eventfd_read(m->owner_fd, &count);
	announce(m);
	/* What a guest said comes before what then became of it. */
	tell_serial(m);
	while ((note = next_note(m))) {
		tell_serial(m);
		note->fn(m, note);
	}
}

int owner_begin(struct vz_machine *m, enum vz_verb verb, vz_state meanwhile, vz_done_fn *done,
	void *arg)
{
	struct op *op = calloc(1, sizeof(*op));

	if (!op)
		return -ENOMEM;
	op->verb = verb;
	op->note.fn = op_done;
	op->done = done;
	op->arg = arg;
	m->ops_under_way++;
	m->state = meanwhile;
	pthread_mutex_lock(&m->lock);
	list_append(&m->ops, &op->link);
	pthread_mutex_unlock(&m->lock);
	core_wake(m);
	wake(m); /* to announce the state */
	return 0;
}

int owner_open(struct vz_machine *m, struct vz_error *e)
{
	m->stopped.fn = tell_stopped;
	m->reset.fn = tell_reset;
	m->failed.fn = tell_failed;
	m->owner = loop_new(e);
	if (!m->owner)
		return -ENOMEM;
	m->owner_watch = watch_new(m->owner, m->owner_fd, EPOLLIN, owner_poll, m, e);
	return m->owner_watch ? 0 : -ENOMEM;
}

static bool is_op(const struct note *note)
{
	return note->fn == op_done;
}

/* No other thread is left. Operations nobody will be told about are dropped. */
void owner_close(struct vz_machine *m)
{
	struct list *pos, *next;
	struct note *note;

	while ((note = next_note(m)))
		if (is_op(note))
			free(container_of(note, struct op, note));
	list_for_each_safe (pos, next, &m->ops)
		free(list_entry(pos, struct op, link));
	list_init(&m->ops);
	watch_free(m->owner_watch);
	loop_free(m->owner);
}
