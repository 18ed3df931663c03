/* SPDX-License-Identifier: MIT */
/*
 * Event loop on epoll. Everything is called on the loop's own thread except loop_post, loop_call
 * and loop_stop, which are safe from any thread. A loop is run by whoever calls loop_run or
 * loop_dispatch.
 */
#ifndef LOOP_LOOP_H
#define LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <vizor/error.h>

struct loop;
struct watch;
struct timer;

typedef void loop_fn(void *arg);
typedef void watch_fn(void *arg, uint32_t events); /* EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR */

struct loop *loop_new(struct vz_error *e);
/*
 * NULL is fine. Pool jobs and posts are finished first, on this thread; watches and timers are
 * freed.
 */
void loop_free(struct loop *loop);

/*
 * An fd that is readable when loop_dispatch has work; for embedding in another loop. Owned by the
 * loop.
 */
int loop_fd(const struct loop *loop);

void loop_run(struct loop *loop); /* until loop_stop */
void loop_stop(struct loop *loop);
/* Handle what is ready; wait up to timeout_ms (-1: for ever) when nothing is. */
void loop_dispatch(struct loop *loop, int timeout_ms);
/*
 * Is the caller on the loop's thread? That is the one that dispatched last; before, the one that
 * made it.
 */
bool loop_is_current(const struct loop *loop);
/*
 * The caller gives the loop up to a thread that it is about to start: until that one dispatches,
 * calls wait and no thread is the loop's.
 */
void loop_hand_over(struct loop *loop);

/* fd stays the caller's; remove the watch before closing it. NULL with *e set on failure. */
struct watch *watch_new(struct loop *loop, int fd, uint32_t events, watch_fn *fn, void *arg,
	struct vz_error *e);
/* events 0: nothing is reported, not even EPOLLHUP */
void watch_set(struct watch *watch, uint32_t events);
void watch_free(struct watch *watch); /* NULL is fine; also from within its own callback */

/* One-shot timers on CLOCK_MONOTONIC; deadline in ns. Re-arming replaces the deadline. */
struct timer *timer_new(struct loop *loop, loop_fn *fn, void *arg, struct vz_error *e);
void timer_arm(struct timer *timer, uint64_t deadline_ns);
void timer_cancel(struct timer *timer);
void timer_free(struct timer *timer);
uint64_t clock_ns(void); /* CLOCK_MONOTONIC */

/* Run fn on the loop thread, in order of posting. Returns 0 or -ENOMEM. */
int loop_post(struct loop *loop, loop_fn *fn, void *arg);
/*
 * The same, and wait for it. On the loop's own thread fn runs at once. The loop must be running or
 * about to: after loop_stop, once loop_run has returned, it is -ECANCELED and fn does not run. What
 * was posted before has run by then; what is posted later runs in the next loop_run or
 * loop_dispatch, or in loop_free.
 */
int loop_call(struct loop *loop, loop_fn *fn, void *arg);

/*
 * Run work on one of the loop's pool threads (started on first use, at most 4), then done (may be
 * NULL) on the loop thread. loop_free finishes what was submitted. Returns 0 or -errno: then
 * nothing will run.
 */
int pool_run(struct loop *loop, loop_fn *work, loop_fn *done, void *arg);

#endif
