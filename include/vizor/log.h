/* SPDX-License-Identifier: MIT */
/* The library's log lines. Nothing is printed unless the application asks. */
#ifndef VIZOR_LOG_H
#define VIZOR_LOG_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef enum vz_log_level { VZ_LOG_ERROR, VZ_LOG_INFO, VZ_LOG_DEBUG } vz_log_level;
/* line has no newline. Called on any thread, one call at a time. */
typedef void vz_log_fn(void *arg, vz_log_level level, const char *line);
/* One sink for the process; fn NULL: none. Set before machines exist. */
void vz_log_set(vz_log_level max, vz_log_fn *fn, void *arg);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
