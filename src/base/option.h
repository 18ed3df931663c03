/* SPDX-License-Identifier: MIT */
/*
 * Option tables: the one description of what can be set on an object, read by the parser, --help,
 * the manual and (later) REST. A table ends with an entry whose name is NULL.
 */
#ifndef BASE_OPTION_H
#define BASE_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vizor/error.h>

enum option_type {
	OPT_FLAG, /* bool; given without a value: true */
	OPT_BOOL, /* bool: on/off/true/false */
	OPT_U16,
	OPT_U32,
	OPT_U64,
	OPT_SIZE,   /* uint64_t bytes; accepts K M G T */
	OPT_STRING, /* char *, owned by the object */
	OPT_ENUM,   /* int: index into words */
	OPT_MAC,    /* uint8_t[6] */
	/* int: an open file descriptor inherited by the process, duplicated; -1 when unset */
	OPT_FD,
};

struct option {
	const char *name;
	enum option_type type;
	size_t offset;            /* of the field in the object */
	const char *def;          /* default as text; NULL: none (strings stay NULL) */
	const char *help;         /* one line, no full stop */
	const char *const *words; /* OPT_ENUM: NULL-terminated */
	uint64_t min, max;        /* numbers; max 0: no limit */
	bool required;
};

/*
 * Fill in the defaults of a zeroed object. Without one: descriptors and required words become -1,
 * other fields are left as they are. 0, or -errno for a default that does not parse.
 */
int option_defaults(const struct option *table, void *object, struct vz_error *e);

/*
 * Set one key. value NULL means the key was given alone (only an OPT_FLAG allows that; a flag
 * refuses a value). The error's where is the key; an unknown key names the nearest known one.
 */
int option_set(const struct option *table, void *object, const char *key, const char *value,
	struct vz_error *e);

/*
 * Check the required keys (a number or MAC address counts as missing when 0); reports the first
 * missing.
 */
int option_check(const struct option *table, const void *object, struct vz_error *e);

/* Free strings, close fds, and reset the fields. */
void option_fini(const struct option *table, void *object);

#endif
