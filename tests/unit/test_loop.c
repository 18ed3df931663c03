/* SPDX-License-Identifier: MIT */
/* The event loop: descriptors, timers, posts and calls from other threads, the worker pool. */
#include "base/thread.h"
#include "loop/loop.h"
#include "tests/tap.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

/* A string that can be the argument of a callback. */
#define TEXT(s) ((char[]){ s })
#define MS      1000000ull

/* What ran, in order: a letter each. */
static char order[64];

static void note(void *arg)
{
	size_t len = strlen(order);

	snprintf(order + len, sizeof(order) - len, "%s", (const char *)arg);
}

struct pipe_watch {
	int fds[2];
	struct watch *watch;
	struct watch **victim; /* freed by the callback */
	int calls;
	uint32_t events;
};

static void on_pipe(void *arg, uint32_t events)
{
	struct pipe_watch *p = arg;

	p->calls++;
	p->events = events;
	if (p->victim) {
		watch_free(*p->victim);
		*p->victim = NULL;
	}
}

static void pipe_open(struct pipe_watch *p, struct loop *loop)
{
	memset(p, 0, sizeof(*p));
	CHECK_EQ(pipe(p->fds), 0);
	p->watch = watch_new(loop, p->fds[0], EPOLLIN, on_pipe, p, NULL);
	CHECK(p->watch);
}

static void pipe_close(struct pipe_watch *p)
{
	watch_free(p->watch);
	close(p->fds[0]);
	close(p->fds[1]);
}

static bool readable(const struct loop *loop)
{
	struct pollfd pfd = { .fd = loop_fd(loop), .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

static void descriptors(void)
{
	struct loop *loop = loop_new(NULL);
	struct pipe_watch p;
	struct vz_error e = { 0 };

	pipe_open(&p, loop);
	loop_dispatch(loop, 0);
	CHECK_EQ(p.calls, 0);
	CHECK(!readable(loop));
	CHECK_EQ(write(p.fds[1], "x", 1), 1);
	CHECK(readable(loop));
	loop_dispatch(loop, -1);
	CHECK_EQ(p.events, EPOLLIN);
	watch_set(p.watch, 0);
	loop_dispatch(loop, 0);
	CHECK_EQ(p.calls, 1);
	watch_set(p.watch, EPOLLIN);
	loop_dispatch(loop, 0);
	CHECK_EQ(p.calls, 2);
	CHECK(!watch_new(loop, 12345, EPOLLIN, on_pipe, &p, &e));
	CHECK_EQ(e.code, -EBADF);
	pipe_close(&p);
	loop_free(loop);
	loop_free(NULL);
	watch_free(NULL);
	timer_free(NULL);
}

static void hang_up_can_be_ignored(void)
{
	struct loop *loop = loop_new(NULL);
	struct pipe_watch p;

	pipe_open(&p, loop);
	close(p.fds[1]);
	watch_set(p.watch, 0);
	loop_dispatch(loop, 0); /* may take the one edge of the hang-up */
	CHECK(!readable(loop));
	CHECK_EQ(p.calls, 0);
	watch_set(p.watch, EPOLLIN);
	loop_dispatch(loop, 0);
	CHECK(p.events & EPOLLHUP);
	watch_free(p.watch);
	close(p.fds[0]);
	loop_free(loop);
}

static void freed_while_ready(void)
{
	struct loop *loop = loop_new(NULL);
	struct pipe_watch a, b;

	/* Both are ready in one round: whichever comes first frees the other one. */
	pipe_open(&a, loop);
	pipe_open(&b, loop);
	a.victim = &b.watch;
	b.victim = &a.watch;
	CHECK_EQ(write(a.fds[1], "x", 1), 1);
	CHECK_EQ(write(b.fds[1], "x", 1), 1);
	loop_dispatch(loop, 0);
	CHECK_EQ(a.calls + b.calls, 1);
	a.victim = b.victim = NULL;
	pipe_close(&a);
	pipe_close(&b);
	loop_free(loop);
}

static void frees_itself(void)
{
	struct loop *loop = loop_new(NULL);
	struct pipe_watch a;

	pipe_open(&a, loop);
	a.victim = &a.watch;
	CHECK_EQ(write(a.fds[1], "x", 1), 1);
	loop_dispatch(loop, 0);
	loop_dispatch(loop, 0);
	CHECK_EQ(a.calls, 1);
	pipe_close(&a);
	loop_free(loop);
}

static void timers_in_order(void)
{
	struct loop *loop = loop_new(NULL);
	struct timer *a = timer_new(loop, note, TEXT("a"), NULL);
	struct timer *b = timer_new(loop, note, TEXT("b"), NULL);
	struct timer *c = timer_new(loop, note, TEXT("c"), NULL);
	struct timer *d = timer_new(loop, note, TEXT("d"), NULL);
	uint64_t now = clock_ns();

	order[0] = '\0';
	timer_arm(a, now + 30 * MS);
	timer_arm(b, now + 10 * MS);
	timer_arm(c, now + 10 * MS);
	timer_arm(d, now + 5 * MS);
	timer_cancel(d);
	CHECK(!readable(loop));
	loop_dispatch(loop, -1);
	CHECK_STR(order, "bc");
	CHECK(clock_ns() >= now + 10 * MS);
	timer_arm(a, now); /* earlier than before: due at once */
	CHECK(readable(loop));
	loop_dispatch(loop, 0);
	CHECK_STR(order, "bca");
	timer_arm(d, 0);
	loop_dispatch(loop, -1);
	CHECK_STR(order, "bcad");
	CHECK(!readable(loop));
	timer_arm(a, clock_ns() + 1000 * MS);
	timer_free(a);
	timer_free(b);
	timer_arm(c, clock_ns() + 1000 * MS);
	loop_free(loop); /* c and d go with it */
}

struct again {
	struct timer *timer, *other;
	int fired;
};

static void fire_again(void *arg)
{
	struct again *a = arg;

	a->fired++;
	timer_arm(a->timer, 1);
	timer_free(a->other);
	a->other = NULL;
}

static void timer_arms_itself_and_frees_another(void)
{
	struct loop *loop = loop_new(NULL);
	struct again a = { 0 };

	order[0] = '\0';
	a.timer = timer_new(loop, fire_again, &a, NULL);
	a.other = timer_new(loop, note, TEXT("x"), NULL);
	timer_arm(a.timer, 1);
	timer_arm(a.other, 2); /* due in the same round */
	loop_dispatch(loop, 0);
	CHECK_EQ(a.fired, 1);
	loop_dispatch(loop, 0);
	CHECK_EQ(a.fired, 2);
	CHECK_STR(order, "");
	timer_free(a.timer);
	loop_free(loop);
}

static void dispatch_inside(void *arg)
{
	note(TEXT("("));
	loop_dispatch(arg, -1); /* the post behind us must not be stuck */
	note(TEXT(")"));
}

static void nested_dispatch(void)
{
	struct loop *loop = loop_new(NULL);
	struct timer *timer = timer_new(loop, dispatch_inside, loop, NULL);
	struct timer *due = timer_new(loop, note, TEXT("t"), NULL);

	order[0] = '\0';
	loop_post(loop, dispatch_inside, loop);
	loop_post(loop, note, TEXT("p"));
	loop_dispatch(loop, -1);
	CHECK_STR(order, "(p)");
	order[0] = '\0';
	timer_arm(timer, 1);
	timer_arm(due, 2);
	loop_dispatch(loop, -1);
	CHECK_STR(order, "(t)");
	loop_free(loop);
}

#define POSTS   2000
#define POSTERS 3

struct poster {
	struct loop *loop;
	int next, bad;
};

static int total;

struct numbered {
	struct poster *from;
	int n;
};

static void count_post(void *arg)
{
	struct numbered *p = arg;
	struct loop *loop = p->from->loop;

	p->from->bad += p->n != p->from->next++ || !loop_is_current(loop);
	free(p);
	if (++total == POSTS * POSTERS)
		loop_stop(loop);
}

static void *poster(void *arg)
{
	struct poster *p = arg;

	for (int i = 0; i < POSTS; i++) {
		struct numbered *n = malloc(sizeof(*n));

		n->from = p;
		n->n = i;
		loop_post(p->loop, count_post, n);
	}
	return NULL;
}

static void posts_from_threads(void)
{
	struct loop *loop = loop_new(NULL);
	struct poster posters[POSTERS] = { 0 };
	pthread_t threads[POSTERS];

	total = 0;
	for (int i = 0; i < POSTERS; i++) {
		posters[i].loop = loop;
		CHECK_EQ(thread_start(&threads[i], "poster", poster, &posters[i]), 0);
	}
	loop_run(loop);
	for (int i = 0; i < POSTERS; i++) {
		pthread_join(threads[i], NULL);
		CHECK_EQ(posters[i].next, POSTS);
		CHECK_EQ(posters[i].bad, 0);
	}
	loop_free(loop);
}

static void *run_loop(void *arg)
{
	loop_run(arg);
	return NULL;
}

struct answer {
	struct loop *loop;
	bool on_loop;
	int value;
};

static void answer(void *arg)
{
	struct answer *a = arg;

	a->on_loop = loop_is_current(a->loop);
	a->value++;
}

static void calls_wait(void)
{
	struct loop *loop = loop_new(NULL);
	struct answer a = { .loop = loop };
	pthread_t thread;

	CHECK(loop_is_current(loop));
	CHECK_EQ(loop_call(loop, answer, &a), 0);
	CHECK_EQ(a.value, 1);
	loop_hand_over(loop);
	CHECK(!loop_is_current(loop));
	thread_start(&thread, "loop", run_loop, loop);
	for (int i = 0; i < 500; i++) {
		a.on_loop = false;
		CHECK_EQ(loop_call(loop, answer, &a), 0);
		CHECK_EQ(a.value, i + 2);
		CHECK(a.on_loop);
	}
	CHECK(!loop_is_current(loop));
	loop_stop(loop);
	pthread_join(thread, NULL);
	CHECK_EQ(loop_call(loop, answer, &a), -ECANCELED);
	CHECK_EQ(a.value, 501);
	loop_dispatch(loop, 0); /* takes the loop over */
	CHECK_EQ(loop_call(loop, answer, &a), 0);
	loop_free(loop);
}

static void *caller(void *arg)
{
	struct answer *a = arg;
	int r;

	while (!(r = loop_call(a->loop, answer, a)))
		;
	return (void *)(intptr_t)r;
}

static void stop_hangs_no_caller(void)
{
	for (int i = 0; i < 50; i++) {
		struct loop *loop = loop_new(NULL);
		struct answer a = { .loop = loop };
		pthread_t runner, thread;
		void *r;

		loop_hand_over(loop);
		thread_start(&runner, "loop", run_loop, loop);
		thread_start(&thread, "caller", caller, &a);
		loop_call(loop, answer, &a);
		loop_stop(loop);
		pthread_join(runner, NULL);
		pthread_join(thread, &r);
		CHECK_EQ((intptr_t)r, -ECANCELED);
		loop_free(loop);
	}
}

static void free_runs_posts(void)
{
	struct loop *loop = loop_new(NULL);

	order[0] = '\0';
	loop_post(loop, note, TEXT("a"));
	loop_post(loop, note, TEXT("b"));
	CHECK(readable(loop));
	loop_free(loop);
	CHECK_STR(order, "ab");
}

struct task {
	struct loop *loop;
	atomic_int worked;
	int done, more;
	bool on_loop_work, on_loop_done, signals_open;
};

static void work(void *arg)
{
	struct task *t = arg;
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	t->signals_open |= !sigismember(&mask, SIGINT) || sigismember(&mask, SIGSEGV);
	t->on_loop_work |= loop_is_current(t->loop);
	usleep(1000);
	t->worked++;
}

static void done(void *arg)
{
	struct task *t = arg;

	t->on_loop_done = loop_is_current(t->loop);
	t->done++;
	if (t->more) {
		t->more--;
		pool_run(t->loop, work, done, t);
	}
}

static void pool_works(void)
{
	struct loop *loop = loop_new(NULL);
	struct task t[20] = { 0 };
	int finished = 0;

	for (int i = 0; i < 20; i++) {
		t[i].loop = loop;
		CHECK_EQ(pool_run(loop, work, done, &t[i]), 0);
	}
	while (finished < 20) {
		finished = 0;
		loop_dispatch(loop, 1000);
		for (int i = 0; i < 20; i++)
			finished += t[i].done;
	}
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(t[i].worked, 1);
		CHECK(!t[i].on_loop_work && t[i].on_loop_done && !t[i].signals_open);
	}
	loop_free(loop);
}

static void free_with_work_pending(void)
{
	struct loop *loop = loop_new(NULL);
	struct task t[10] = { 0 };

	for (int i = 0; i < 10; i++) {
		t[i].loop = loop;
		t[i].more = 1; /* done submits once more, while the loop goes away */
		pool_run(loop, work, done, &t[i]);
	}
	pool_run(loop, work, NULL, &t[0]);
	loop_free(loop);
	for (int i = 0; i < 10; i++) {
		CHECK_EQ(t[i].worked, i ? 2 : 3);
		CHECK_EQ(t[i].done, 2);
	}
}

static void idle_loop_sleeps(void)
{
	struct loop *loop = loop_new(NULL);
	struct rusage before, after;

	timer_arm(timer_new(loop, note, TEXT(""), NULL), clock_ns() + 3600000 * MS);
	loop_post(loop, note, TEXT(""));
	loop_dispatch(loop, 0);
	getrusage(RUSAGE_THREAD, &before);
	loop_dispatch(loop, 100);
	getrusage(RUSAGE_THREAD, &after);
	CHECK(after.ru_nvcsw - before.ru_nvcsw <= 2);
	CHECK(!readable(loop));
	loop_free(loop);
}

int main(void)
{
	RUN(descriptors);
	RUN(hang_up_can_be_ignored);
	RUN(freed_while_ready);
	RUN(frees_itself);
	RUN(timers_in_order);
	RUN(timer_arms_itself_and_frees_another);
	RUN(nested_dispatch);
	RUN(posts_from_threads);
	RUN(calls_wait);
	RUN(stop_hangs_no_caller);
	RUN(free_runs_posts);
	RUN(pool_works);
	RUN(free_with_work_pending);
	RUN(idle_loop_sleeps);
	return tap_done();
}
