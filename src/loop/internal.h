/* SPDX-License-Identifier: MIT */
/* The inside of a loop, shared by loop.c, timer.c and pool.c. */
#ifndef LOOP_INTERNAL_H
#define LOOP_INTERNAL_H

#include "base/list.h"
#include "loop/loop.h"

#include <pthread.h>
#include <stdatomic.h>

#define POOL_THREADS 4

/* Something to run on the loop's thread. The owner's storage must last until ran is called. */
struct post {
	struct list link;
	loop_fn *fn;
	void *arg;
	void (*ran)(struct post *post); /* after fn; may release the post */
};

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct list jobs;
	pthread_t threads[POOL_THREADS];
	unsigned nthreads, idle;
	bool stopping;
};

struct loop {
	int epfd, eventfd, timerfd;
	_Atomic(const void *)
		owner;  /* identity of the loop's thread; NULL: handed over, not yet taken */
	unsigned depth; /* nested dispatches under way */
	struct list watches,
		dead; /* dead: freed during a dispatch whose events may still name them */

	struct list timers, due; /* by deadline; taken out to be run */
	struct list all_timers;
	uint64_t armed; /* what timerfd is set to; 0: off */

	pthread_mutex_t lock; /* for what other threads touch: */
	struct list posts;
	bool woken;   /* eventfd was written and not yet read */
	bool stopped; /* loop_run returned: nobody would answer a call */
	atomic_bool stop;

	struct list ready; /* posts taken out to be run */
	struct pool pool;
};

void loop_enqueue(struct loop *loop, struct post *post);

void timers_sync(struct loop *loop); /* make timerfd agree with the list */
void timers_run(struct loop *loop);
void timers_drop(struct loop *loop); /* free them all */

void pool_init(struct pool *pool);
void pool_stop(struct pool *pool); /* finish all jobs; later ones run in pool_run itself */
void pool_fini(struct pool *pool);

#endif
