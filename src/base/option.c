/* SPDX-License-Identifier: MIT */
/* Option tables: from text to the fields of an object. */
#include "base/option.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/str.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEYS_MAX 64

static void *field(const struct option *o, void *object)
{
	return (char *)object + o->offset;
}

static void append_words(struct strbuf *b, const char *const *words)
{
	for (; *words; words++)
		strbuf_add(b, "%s'%s'%s", b->len ? " " : "", *words, words[1] ? "," : "");
}

/* What there is instead of an unknown word: the nearest one, or all. */
static int unknown_word(struct vz_error *e, const char *where, const char *what, const char *given,
	const char *const *words)
{
	const char *near = nearest_word(given, words);
	struct strbuf list = { 0 };
	int r;

	if (near)
		return err_set(e, EINVAL, where, "there is no %s '%s'; did you mean '%s'?", what,
			given, near);
	append_words(&list, words);
	r = err_set(e, EINVAL, where, "there is no %s '%s'; choose one of %s", what, given,
		list.text ? list.text : "none");
	strbuf_fini(&list);
	return r;
}

/* A limit as the user would write it. */
static void format_limit(const struct option *o, uint64_t v, char *to, size_t size)
{
	static const char suffixes[] = "\0KMGT";
	unsigned i = 0;

	if (o->type == OPT_SIZE)
		for (; v && v % 1024 == 0 && i < 4; i++)
			v /= 1024;
	snprintf(to, size, "%llu%.1s", (unsigned long long)v, suffixes + i);
}

static int set_number(const struct option *o, void *to, const char *value, struct vz_error *e)
{
	uint64_t top = o->type == OPT_U16   ? UINT16_MAX
		       : o->type == OPT_U32 ? UINT32_MAX
					    : UINT64_MAX;
	uint64_t max = o->max ? MIN(o->max, top) : top;
	char low[32], high[32];
	uint64_t v = 0;
	int r = o->type == OPT_SIZE ? parse_size(value, &v) : parse_u64(value, &v);

	if (r == -EINVAL)
		return err_set(e, EINVAL, o->name, "'%s' is not a %s", value,
			o->type == OPT_SIZE ? "size: give bytes, or a number with K, M, G or T"
					    : "number");
	if (r || v < o->min || v > max) {
		format_limit(o, o->min, low, sizeof(low));
		format_limit(o, max, high, sizeof(high));
		return err_set(e, ERANGE, o->name, "'%s' is out of range: choose from %s to %s",
			value, low, high);
	}
	if (o->type == OPT_U16)
		*(uint16_t *)to = (uint16_t)v;
	else if (o->type == OPT_U32)
		*(uint32_t *)to = (uint32_t)v;
	else
		*(uint64_t *)to = v;
	return 0;
}

static int set_word(const struct option *o, void *to, const char *value, struct vz_error *e)
{
	for (int i = 0; o->words[i]; i++) {
		if (!strcmp(o->words[i], value)) {
			*(int *)to = i;
			return 0;
		}
	}
	return unknown_word(e, o->name, "value", value, o->words);
}

static int hex_pair(const char *p)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *a = p[0] ? strchr(digits, p[0]) : NULL;
	const char *b = a && p[1] ? strchr(digits, p[1]) : NULL;

	return b ? (int)(((a - digits) % 16) * 16 + (b - digits) % 16) : -1;
}

static int set_mac(const struct option *o, void *to, const char *value, struct vz_error *e)
{
	static const uint8_t zero[6];
	uint8_t mac[6];
	const char *p = value;

	for (int i = 0; i < 6; i++) {
		int v = hex_pair(p);

		if (v < 0 || p[2] != (i < 5 ? ':' : '\0'))
			return err_set(e, EINVAL, o->name,
				"'%s' is not a MAC address like 52:54:00:12:34:56", value);
		mac[i] = (uint8_t)v;
		p += 3;
	}
	if ((mac[0] & 1) || !memcmp(mac, zero, sizeof(mac)))
		return err_set(e, EINVAL, o->name, "'%s' is not the address of one interface",
			value);
	memcpy(to, mac, sizeof(mac));
	return 0;
}

static int set_fd(const struct option *o, void *to, const char *value, struct vz_error *e)
{
	uint64_t v;
	int fd, *slot = to;

	if (parse_u64(value, &v) || v > INT32_MAX)
		return err_set(e, EINVAL, o->name, "'%s' is not a file descriptor", value);
	fd = fcntl((int)v, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return err_set(e, errno, o->name, "file descriptor %s: %s", value, strerror(errno));
	if (*slot >= 0)
		close(*slot);
	*slot = fd;
	return 0;
}

static int set_value(const struct option *o, void *object, const char *value, struct vz_error *e)
{
	void *to = field(o, object);

	switch (o->type) {
	case OPT_FLAG:
	case OPT_BOOL:
		if (parse_bool(value, to))
			return err_set(e, EINVAL, o->name, "'%s' is neither 'on' nor 'off'", value);
		return 0;
	case OPT_U16:
	case OPT_U32:
	case OPT_U64:
	case OPT_SIZE:
		return set_number(o, to, value, e);
	case OPT_STRING:
		if (str_replace(to, value))
			return err_set(e, ENOMEM, o->name, "out of memory");
		return 0;
	case OPT_ENUM:
		return set_word(o, to, value, e);
	case OPT_MAC:
		return set_mac(o, to, value, e);
	case OPT_FD:
		return set_fd(o, to, value, e);
	}
	return err_set(e, EINVAL, o->name, "unknown option type %d", (int)o->type);
}

int option_defaults(const struct option *table, void *object, struct vz_error *e)
{
	for (const struct option *o = table; o->name; o++) {
		int r = 0;

		/* 0 is a descriptor and a word: what is not set must look different. */
		if (o->type == OPT_FD || (o->type == OPT_ENUM && o->required && !o->def))
			*(int *)field(o, object) = -1;
		if (o->def)
			r = set_value(o, object, o->def, e);
		if (r)
			return r;
	}
	return 0;
}

static int unknown_key(const struct option *table, const char *key, struct vz_error *e)
{
	const char *words[KEYS_MAX + 1] = { NULL };

	for (unsigned n = 0; table[n].name && n < KEYS_MAX; n++)
		words[n] = table[n].name;
	if (!words[0])
		return err_set(e, EINVAL, key, "there is no key '%s'", key);
	return unknown_word(e, key, "key", key, words);
}

int option_set(const struct option *table, void *object, const char *key, const char *value,
	struct vz_error *e)
{
	const struct option *o = table;

	while (o->name && strcmp(o->name, key))
		o++;
	if (!o->name)
		return unknown_key(table, key, e);
	if (o->type == OPT_FLAG) {
		if (value)
			return err_set(e, EINVAL, key, "'%s' takes no value", key);
		value = "on";
	} else if (!value) {
		return err_set(e, EINVAL, key, "'%s' needs a value: %s=...", key, key);
	}
	return set_value(o, object, value, e);
}

static bool is_set(const struct option *o, const void *object)
{
	static const uint8_t zero[8];
	const void *from = (const char *)object + o->offset;

	switch (o->type) {
	case OPT_FLAG:
	case OPT_BOOL:
		return true;
	case OPT_STRING:
		return *(char *const *)from;
	case OPT_ENUM:
	case OPT_FD:
		return *(const int *)from >= 0;
	case OPT_MAC:
		return memcmp(from, zero, 6) != 0;
	case OPT_U16:
		return *(const uint16_t *)from;
	case OPT_U32:
		return *(const uint32_t *)from;
	case OPT_U64:
	case OPT_SIZE:
		return *(const uint64_t *)from;
	}
	return false;
}

int option_check(const struct option *table, const void *object, struct vz_error *e)
{
	for (const struct option *o = table; o->name; o++)
		if (o->required && !is_set(o, object))
			return err_set(e, EINVAL, o->name, "'%s' is missing: %s", o->name,
				o->help ? o->help : "it must be set");
	return 0;
}

static void reset_field(const struct option *o, void *to)
{
	switch (o->type) {
	case OPT_FLAG:
	case OPT_BOOL:
		*(bool *)to = false;
		break;
	case OPT_U16:
		*(uint16_t *)to = 0;
		break;
	case OPT_U32:
		*(uint32_t *)to = 0;
		break;
	case OPT_U64:
	case OPT_SIZE:
		*(uint64_t *)to = 0;
		break;
	case OPT_STRING:
		free(*(char **)to);
		*(char **)to = NULL;
		break;
	case OPT_ENUM:
		*(int *)to = 0;
		break;
	case OPT_MAC:
		memset(to, 0, 6);
		break;
	case OPT_FD:
		if (*(int *)to >= 0)
			close(*(int *)to);
		*(int *)to = -1;
		break;
	}
}

void option_fini(const struct option *table, void *object)
{
	for (const struct option *o = table; o->name; o++)
		reset_field(o, field(o, object));
}
