/* SPDX-License-Identifier: MIT */
/*
 * Event loop on epoll: the epoll set holds the watches, an eventfd for posts from other threads and
 * a timerfd for the nearest timer, so that its own descriptor is readable whenever there is work.
 * Nothing else wakes it up: an idle loop sleeps.
 */
#include "loop/loop.h"

#include "base/error.h"
#include "loop/internal.h"

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS_PER_ROUND 64

struct watch {
	struct list link;
	struct loop *loop;
	int fd;
	uint32_t events;
	watch_fn *fn; /* NULL: freed during this dispatch */
	void *arg;
};

/* Its address is different in every thread: a thread's identity without a system call. */
static __thread char this_thread;

static int add_internal(struct loop *loop, int fd, void *tag)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = tag };

	return epoll_ctl(loop->epfd, EPOLL_CTL_ADD, fd, &ev);
}

struct loop *loop_new(struct vz_error *e)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (!loop) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	list_init(&loop->watches);
	list_init(&loop->dead);
	list_init(&loop->timers);
	list_init(&loop->due);
	list_init(&loop->all_timers);
	list_init(&loop->posts);
	list_init(&loop->ready);
	pthread_mutex_init(&loop->lock, NULL);
	pool_init(&loop->pool);
	loop->owner = &this_thread;
	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	loop->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (loop->epfd < 0 || loop->eventfd < 0 || loop->timerfd < 0 ||
		add_internal(loop, loop->eventfd, &loop->eventfd) ||
		add_internal(loop, loop->timerfd, &loop->timerfd)) {
		err_set(e, errno, NULL, "cannot make an event loop: %s", strerror(errno));
		loop_free(loop);
		return NULL;
	}
	return loop;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void wake(struct loop *loop)
{
	/* It can only fail when the counter is full, and then the loop is awake anyway. */
	eventfd_write(loop->eventfd, 1);
}

/* Move what was posted to the list of what runs now. */
static void take_posts(struct loop *loop)
{
	eventfd_t count;

	eventfd_read(loop->eventfd, &count);
	pthread_mutex_lock(&loop->lock);
	loop->woken = false;
	while (!list_empty(&loop->posts)) {
		struct list *first = loop->posts.next;

		list_remove(first);
		list_append(&loop->ready, first);
	}
	pthread_mutex_unlock(&loop->lock);
}

/* The list belongs to the loop: a dispatch nested in a post goes on with the next one, in order. */
static void run_ready(struct loop *loop)
{
	while (!list_empty(&loop->ready)) {
		struct post *post = list_entry(loop->ready.next, struct post, link);

		list_remove(&post->link);
		if (post->fn)
			post->fn(post->arg);
		post->ran(post);
	}
}

static void free_dead(struct loop *loop)
{
	struct list *pos, *next;

	list_for_each_safe (pos, next, &loop->dead)
		free(list_entry(pos, struct watch, link));
	list_init(&loop->dead);
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	loop->owner = &this_thread;
	pool_stop(&loop->pool);
	/* A post may post again, and a finished job may start another one. */
	for (take_posts(loop); !list_empty(&loop->ready); take_posts(loop))
		run_ready(loop);
	while (!list_empty(&loop->watches))
		watch_free(list_entry(loop->watches.next, struct watch, link));
	free_dead(loop);
	timers_drop(loop);
	close_fd(loop->timerfd);
	close_fd(loop->eventfd);
	close_fd(loop->epfd);
	pool_fini(&loop->pool);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

int loop_fd(const struct loop *loop)
{
	return loop->epfd;
}

bool loop_is_current(const struct loop *loop)
{
	return loop->owner == &this_thread;
}

void loop_hand_over(struct loop *loop)
{
	loop->owner = NULL;
}

static void claim(struct loop *loop)
{
	if (loop_is_current(loop) && !loop->stopped)
		return;
	pthread_mutex_lock(&loop->lock);
	loop->owner = &this_thread;
	loop->stopped = false;
	pthread_mutex_unlock(&loop->lock);
}

static void run_watch(struct watch *watch, uint32_t events)
{
	/* An earlier callback of this round may have freed it or asked for other events. */
	if (!watch->fn || !watch->events)
		return;
	events &= watch->events | EPOLLHUP | EPOLLERR;
	if (events)
		watch->fn(watch->arg, events);
}

void loop_dispatch(struct loop *loop, int timeout_ms)
{
	struct epoll_event ev[EVENTS_PER_ROUND];
	int n;

	claim(loop);
	timers_sync(loop);
	/* Only in a nested dispatch: the outer one has taken these out of epoll's sight. */
	if (!list_empty(&loop->ready) || !list_empty(&loop->due))
		timeout_ms = 0;
	n = epoll_wait(loop->epfd, ev, EVENTS_PER_ROUND, timeout_ms);

	loop->depth++;
	for (int i = 0; i < n; i++) {
		if (ev[i].data.ptr == &loop->eventfd)
			take_posts(loop);
		else if (ev[i].data.ptr == &loop->timerfd)
			timers_run(loop);
		else
			run_watch(ev[i].data.ptr, ev[i].events);
	}
	if (!list_empty(&loop->due))
		timers_run(loop);
	run_ready(loop);
	loop->depth--;

	if (!loop->depth) {
		free_dead(loop);
		timers_sync(loop);
	}
}

void loop_run(struct loop *loop)
{
	claim(loop);
	while (!atomic_load(&loop->stop))
		loop_dispatch(loop, -1);
	/* From here on calls are refused, so whoever was in time is answered by this last round. */
	pthread_mutex_lock(&loop->lock);
	loop->stopped = true;
	pthread_mutex_unlock(&loop->lock);
	take_posts(loop);
	run_ready(loop);
	atomic_store(&loop->stop, false);
}

void loop_stop(struct loop *loop)
{
	/* Under the lock: once loop_run has seen it, the loop may be gone. */
	pthread_mutex_lock(&loop->lock);
	atomic_store(&loop->stop, true);
	wake(loop);
	pthread_mutex_unlock(&loop->lock);
}

/* Called with the lock held; true: wake the loop. */
static bool enqueue_locked(struct loop *loop, struct post *post)
{
	bool first = !loop->woken;

	list_append(&loop->posts, &post->link);
	loop->woken = true;
	return first;
}

void loop_enqueue(struct loop *loop, struct post *post)
{
	bool first;

	pthread_mutex_lock(&loop->lock);
	first = enqueue_locked(loop, post);
	/* Under the lock: once the post has run, the loop may be gone. */
	if (first)
		wake(loop);
	pthread_mutex_unlock(&loop->lock);
}

static void post_ran(struct post *post)
{
	free(post);
}

int loop_post(struct loop *loop, loop_fn *fn, void *arg)
{
	struct post *post = calloc(1, sizeof(*post));

	if (!post)
		return -ENOMEM;
	post->fn = fn;
	post->arg = arg;
	post->ran = post_ran;
	loop_enqueue(loop, post);
	return 0;
}

struct call {
	struct post post;
	sem_t done;
};

static void call_ran(struct post *post)
{
	sem_post(&container_of(post, struct call, post)->done);
}

int loop_call(struct loop *loop, loop_fn *fn, void *arg)
{
	struct call call = { .post = { .fn = fn, .arg = arg, .ran = call_ran } };
	bool stopped;

	if (loop_is_current(loop)) {
		fn(arg);
		return 0;
	}
	sem_init(&call.done, 0, 0);
	pthread_mutex_lock(&loop->lock);
	stopped = loop->stopped;
	if (!stopped && enqueue_locked(loop, &call.post))
		wake(loop);
	pthread_mutex_unlock(&loop->lock);
	if (!stopped)
		while (sem_wait(&call.done))
			;
	sem_destroy(&call.done);
	return stopped ? -ECANCELED : 0;
}

/*
 * The epoll events of a watch. One that wants nothing stays in the set, so that this cannot fail
 * later.
 */
static uint32_t epoll_events(uint32_t events)
{
	/*
	 * Hang-ups and errors cannot be masked: edge-triggered, they wake the loop no more than
	 * once.
	 */
	return events ? events : EPOLLET;
}

struct watch *watch_new(struct loop *loop, int fd, uint32_t events, watch_fn *fn, void *arg,
	struct vz_error *e)
{
	struct watch *watch = calloc(1, sizeof(*watch));
	struct epoll_event ev = { .events = epoll_events(events), .data.ptr = watch };

	if (!watch) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	if (epoll_ctl(loop->epfd, EPOLL_CTL_ADD, fd, &ev)) {
		err_set(e, errno, NULL, "cannot wait for file descriptor %d: %s", fd,
			strerror(errno));
		free(watch);
		return NULL;
	}
	watch->loop = loop;
	watch->fd = fd;
	watch->events = events;
	watch->fn = fn;
	watch->arg = arg;
	list_append(&loop->watches, &watch->link);
	return watch;
}

void watch_set(struct watch *watch, uint32_t events)
{
	struct epoll_event ev = { .events = epoll_events(events), .data.ptr = watch };

	if (events == watch->events)
		return;
	watch->events = events;
	epoll_ctl(watch->loop->epfd, EPOLL_CTL_MOD, watch->fd, &ev);
}

void watch_free(struct watch *watch)
{
	struct loop *loop;

	if (!watch)
		return;
	loop = watch->loop;
	epoll_ctl(loop->epfd, EPOLL_CTL_DEL, watch->fd, NULL);
	list_remove(&watch->link);
	if (!loop->depth) {
		free(watch);
		return;
	}
	watch->fn = NULL;
	list_append(&loop->dead, &watch->link);
}
