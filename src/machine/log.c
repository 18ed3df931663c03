/* SPDX-License-Identifier: MIT */
/* vz_log: the application's sink behind the library's. */
#include "base/log.h"
#include <stddef.h>
#include <vizor/vizor.h>

static vz_log_fn *sink;

_Static_assert((int)VZ_LOG_ERROR == LOG_ERROR && (int)VZ_LOG_INFO == LOG_INFO &&
		       (int)VZ_LOG_DEBUG == LOG_DEBUG,
	"the public levels are the internal ones");

static void forward(void *arg, enum log_level level, const char *line)
{
	sink(arg, (vz_log_level)level, line);
}

void vz_log_set(vz_log_level max, vz_log_fn *fn, void *arg)
{
	log_set_sink((enum log_level)max, NULL, NULL);
	sink = fn;
	log_set_sink((enum log_level)max, fn ? forward : NULL, arg);
}

const char *vz_version(void)
{
	return VIZOR_VERSION;
}
