/* SPDX-License-Identifier: MIT */
/* The thread that watches the local APICs' timers, and the frequency of the host's TSC. */
#include "base/error.h"
#include "base/thread.h"
#include "engine/soft/soft.h"
#include <cpuid.h>
#include <linux/perf_event.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STOP   UINT32_MAX
#define EVENTS 16

static void *timer_main(void *arg)
{
	struct engine *engine = arg;
	struct epoll_event event[EVENTS];

	for (;;) {
		int n = epoll_wait(engine->timer_epoll, event, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			if (event[i].data.u32 == STOP)
				return NULL;
			lapic_timer_expired(engine->vcpu[event[i].data.u32]);
		}
	}
}

static int watch(struct engine *engine, int fd, uint32_t index)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = index };

	return epoll_ctl(engine->timer_epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void close_fds(struct engine *engine)
{
	if (engine->timer_epoll >= 0)
		close(engine->timer_epoll);
	if (engine->timer_stop >= 0)
		close(engine->timer_stop);
	engine->timer_epoll = engine->timer_stop = -1;
}

int timer_thread_start(struct engine *engine, struct vz_error *e)
{
	int r;

	engine->timer_stop = eventfd(0, EFD_CLOEXEC);
	engine->timer_epoll = epoll_create1(EPOLL_CLOEXEC);
	r = engine->timer_epoll < 0 || engine->timer_stop < 0 ? -errno : 0;
	if (r == 0)
		r = watch(engine, engine->timer_stop, STOP);
	for (unsigned i = 0; i < engine->cpus && r == 0; i++)
		r = watch(engine, engine->vcpu[i]->lapic.timer_fd, i);
	if (r == 0)
		r = thread_start(&engine->timer_thread, "timer", timer_main, engine);
	if (r == 0)
		return 0;
	close_fds(engine);
	return err_set(e, r, "engine", "cannot start the timer thread");
}

void timer_thread_stop(struct engine *engine)
{
	static const uint64_t one = 1;

	if (engine->timer_epoll < 0)
		return;
	while (write(engine->timer_stop, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(engine->timer_thread, NULL);
	close_fds(engine);
}

/*
 * --- frequency of the TSC
 * ----------------------------------------------------------------------------
 */

/* What the host's kernel itself reckons with: see perf_event_open(2), cap_user_time. */
static uint64_t khz_of_perf(void)
{
	static const struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.exclude_kernel = 1,
		.exclude_hv = 1 };
	long size = sysconf(_SC_PAGESIZE);
	int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	const struct perf_event_mmap_page *page;
	uint64_t khz = 0;

	if (fd < 0)
		return 0;
	page = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED) {
		/* ns = ticks * mult >> shift */
		if (page->cap_user_time && page->time_mult && page->time_shift < 44)
			khz = ((1000000ull << page->time_shift) + page->time_mult / 2) /
			      page->time_mult;
		munmap((void *)page, (size_t)size);
	}
	close(fd);
	return khz;
}

static uint64_t khz_of_cpuid(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 31)) {
		__cpuid(0x40000000, a, b, c, d);
		if (a >= 0x40000010 && a < 0x40010000) {
			__cpuid(0x40000010, a, b, c, d);
			if (a)
				return a;
		}
	}
	if (__get_cpuid(0x15, &a, &b, &c, &d) && a && b && c)
		return (uint64_t)c * b / a / 1000;
	return 0;
}

struct sample {
	uint64_t tsc, ns;
};

/* A moment on both clocks: the reading that took the shortest time is the most exact. */
static struct sample sample(void)
{
	struct sample best = { 0, 0 };
	uint64_t shortest = UINT64_MAX;

	for (unsigned i = 0; i < 16; i++) {
		uint64_t before = __builtin_ia32_rdtsc(), after;
		struct timespec t;

		clock_gettime(CLOCK_MONOTONIC_RAW, &t);
		after = __builtin_ia32_rdtsc();
		if (after - before >= shortest)
			continue;
		shortest = after - before;
		best.tsc = before + shortest / 2;
		best.ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	}
	return best;
}

static uint64_t khz_measured(void)
{
	static const struct timespec pause = { .tv_nsec = 1900000 };
	struct sample first = sample(), last;

	nanosleep(&pause, NULL);
	last = sample();
	return last.ns > first.ns ? (last.tsc - first.tsc) * 1000000u / (last.ns - first.ns) : 0;
}

uint64_t soft_tsc_khz(void)
{
	uint64_t khz = khz_of_perf();

	if (!khz)
		khz = khz_of_cpuid();
	if (!khz)
		khz = khz_measured();
	return khz ? khz : 1000000;
}
