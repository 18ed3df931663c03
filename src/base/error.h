/* SPDX-License-Identifier: MIT */
/*
 * Filling vz_error. All functions accept e == NULL and return the negative error code, so that a
 * caller can write `return err_set(e, EINVAL, "memory", "…")`.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <errno.h>
#include <vizor/error.h>

/* Record an error; code is an errno value of either sign; where may be NULL. Returns -abs(code). */
int err_set(struct vz_error *e, int code, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * Put "prefix: " before the text of an error already recorded. Returns e->code (-EIO when e is
 * NULL).
 */
int err_prefix(struct vz_error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "prefix." before the field path of an error already recorded. Returns e->code. */
int err_where(struct vz_error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
