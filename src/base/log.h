/* SPDX-License-Identifier: MIT */
/*
 * Log lines. One sink per process, set by the application (default: nothing is printed). Safe in
 * any thread. Levels are those of the command line: error, info, debug.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_INFO, LOG_DEBUG };

typedef void log_sink_fn(void *arg, enum log_level level, const char *line);

/* Lines above max are dropped before they are formatted. sink == NULL: no output. */
void log_set_sink(enum log_level max, log_sink_fn *sink, void *arg);
bool log_enabled(enum log_level level);

void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                  \
	do {                                            \
		if (log_enabled(LOG_DEBUG))             \
			log_at(LOG_DEBUG, __VA_ARGS__); \
	} while (0)

/*
 * For what a guest can provoke: at most burst lines per second; the count of dropped ones is told
 * later.
 */
struct log_limit {
	uint64_t window_start; /* CLOCK_MONOTONIC ns */
	unsigned printed, dropped;
};
bool log_allow(struct log_limit *limit, unsigned burst);

#endif
