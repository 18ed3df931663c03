/* SPDX-License-Identifier: MIT */
/* The whole public interface of libvizor. */
#ifndef VIZOR_VIZOR_H
#define VIZOR_VIZOR_H

#include <vizor/config.h>
#include <vizor/error.h>
#include <vizor/log.h>
#include <vizor/machine.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* The library's version, "0.1.0". */
const char *vz_version(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
