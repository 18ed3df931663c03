/* SPDX-License-Identifier: MIT */
/* One-shot timers: a list sorted by deadline, and a timerfd set to the first of them. */
#include "loop/internal.h"

#include "base/error.h"

#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000u

struct timer {
	struct list link; /* empty: not armed */
	struct list all;  /* of the loop */
	struct loop *loop;
	uint64_t deadline;
	loop_fn *fn;
	void *arg;
};

uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void timers_sync(struct loop *loop)
{
	struct itimerspec when = { 0 };
	uint64_t first = 0;

	if (!list_empty(&loop->timers))
		first = list_entry(loop->timers.next, struct timer, link)->deadline;
	if (first == loop->armed)
		return;
	when.it_value.tv_sec = (time_t)(first / NS_PER_S);
	when.it_value.tv_nsec = (long)(first % NS_PER_S);
	timerfd_settime(loop->timerfd, TFD_TIMER_ABSTIME, &when, NULL);
	loop->armed = first;
}

void timers_run(struct loop *loop)
{
	uint64_t expired, now;

	if (read(loop->timerfd, &expired, sizeof(expired)) == sizeof(expired))
		loop->armed = 0;
	now = clock_ns();
	/*
	 * Taken out first, so that a timer that arms itself for the past waits for the next round.
	 * The list belongs to the loop: a dispatch nested in a callback goes on with it.
	 */
	while (!list_empty(&loop->timers)) {
		struct list *first = loop->timers.next;

		if (list_entry(first, struct timer, link)->deadline > now)
			break;
		list_remove(first);
		list_append(&loop->due, first);
	}
	while (!list_empty(&loop->due)) {
		struct timer *timer = list_entry(loop->due.next, struct timer, link);

		list_remove(&timer->link);
		timer->fn(timer->arg);
	}
}

struct timer *timer_new(struct loop *loop, loop_fn *fn, void *arg, struct vz_error *e)
{
	struct timer *timer = calloc(1, sizeof(*timer));

	if (!timer) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	list_init(&timer->link);
	list_append(&loop->all_timers, &timer->all);
	timer->loop = loop;
	timer->fn = fn;
	timer->arg = arg;
	return timer;
}

void timer_arm(struct timer *timer, uint64_t deadline_ns)
{
	struct loop *loop = timer->loop;
	struct list *at;

	list_remove(&timer->link);
	timer->deadline = deadline_ns ? deadline_ns : 1; /* 0 would switch the timerfd off */
	/* Behind those of the same deadline: timers run in the order they were armed. */
	for (at = loop->timers.prev; at != &loop->timers; at = at->prev)
		if (list_entry(at, struct timer, link)->deadline <= timer->deadline)
			break;
	list_append(at->next, &timer->link);
	if (!loop->depth)
		timers_sync(loop);
}

void timer_cancel(struct timer *timer)
{
	list_remove(&timer->link);
	if (!timer->loop->depth)
		timers_sync(timer->loop);
}

void timer_free(struct timer *timer)
{
	if (!timer)
		return;
	timer_cancel(timer);
	list_remove(&timer->all);
	free(timer);
}

void timers_drop(struct loop *loop)
{
	struct list *pos, *next;

	list_for_each_safe (pos, next, &loop->all_timers)
		free(list_entry(pos, struct timer, all));
}
