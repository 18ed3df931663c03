/* SPDX-License-Identifier: MIT */
/* Log lines: one sink per process, called with one line at a time. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE_SIZE 1024

/* Recursive, so that a sink that calls into the library does not lock itself out. */
static pthread_mutex_t sink_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static log_sink_fn *sink_fn;
static void *sink_arg;
static atomic_int max_level = -1;

void log_set_sink(enum log_level max, log_sink_fn *sink, void *arg)
{
	pthread_mutex_lock(&sink_lock);
	sink_fn = sink;
	sink_arg = arg;
	atomic_store_explicit(&max_level, sink ? (int)max : -1, memory_order_relaxed);
	pthread_mutex_unlock(&sink_lock);
}

bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

void log_at(enum log_level level, const char *fmt, ...)
{
	char line[LINE_SIZE];
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	/* Some text comes from the guest: it must not steer the terminal that shows the log. */
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	pthread_mutex_lock(&sink_lock);
	if (sink_fn)
		sink_fn(sink_arg, level, line);
	pthread_mutex_unlock(&sink_lock);
}

bool log_allow(struct log_limit *limit, unsigned burst)
{
	struct timespec ts;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	if (!limit->window_start || now - limit->window_start >= 1000000000u) {
		if (limit->dropped)
			log_error("%u messages like the next one were dropped", limit->dropped);
		limit->window_start = now;
		limit->printed = limit->dropped = 0;
	}
	if (limit->printed >= burst) {
		limit->dropped++;
		return false;
	}
	limit->printed++;
	return true;
}
