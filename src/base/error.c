/* SPDX-License-Identifier: MIT */
/* Filling vz_error. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* snprintf("%s") without the compiler's worry about truncation, which is what we want here. */
static void copy_text(char *to, size_t size, const char *from)
{
	size_t len = strnlen(from, size - 1);

	memmove(to, from, len);
	to[len] = '\0';
}

/* Put prefix before text, dropping what does not fit at the end. */
static void insert(char *text, size_t size, const char *prefix)
{
	size_t n = strnlen(prefix, size - 1);
	size_t len = strnlen(text, size - 1 - n);

	memmove(text + n, text, len);
	memcpy(text, prefix, n);
	text[n + len] = '\0';
}

int err_set(struct vz_error *e, int code, const char *where, const char *fmt, ...)
{
	/* The arguments may point into *e: build the text aside. */
	char text[VZ_ERROR_TEXT_SIZE], place[VZ_ERROR_WHERE_SIZE];
	va_list ap;

	code = -abs(code);
	if (!e)
		return code;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	copy_text(place, sizeof(place), where ? where : "");
	e->code = code;
	memcpy(e->text, text, sizeof(text));
	memcpy(e->where, place, sizeof(place));
	return code;
}

int err_prefix(struct vz_error *e, const char *fmt, ...)
{
	char prefix[VZ_ERROR_TEXT_SIZE];
	va_list ap;

	if (!e)
		return -EIO;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	insert(e->text, sizeof(e->text), ": ");
	insert(e->text, sizeof(e->text), prefix);
	return e->code;
}

int err_where(struct vz_error *e, const char *fmt, ...)
{
	char prefix[VZ_ERROR_WHERE_SIZE];
	va_list ap;

	if (!e)
		return -EIO;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	if (e->where[0])
		insert(e->where, sizeof(e->where), ".");
	insert(e->where, sizeof(e->where), prefix);
	return e->code;
}
