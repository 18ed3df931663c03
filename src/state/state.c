/* SPDX-License-Identifier: MIT */
/*
 * The save/restore stream. It starts with a magic and a format number; then come items,
 * little-endian:
 *
 *   enter  0x01, name, u32 version
 *   field  0x02, name, u32 length, that many bytes
 *   leave  0x03
 *
 * A name is one length byte and that many characters. Loading walks the same calls as saving did
 * and compares each item with the expected one; nothing in the stream decides what is allocated or
 * where a value goes.
 */
#include "state/state.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "base/str.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC     "VZSTATE\n"
#define MAGIC_LEN 8
#define FORMAT    1
#define DEPTH_MAX 16

enum { ITEM_ENTER = 1, ITEM_FIELD, ITEM_LEAVE };

struct state {
	bool loading;
	struct strbuf out;
	const uint8_t *in;
	size_t len, at; /* of in */
	struct vz_error error;
	char path[VZ_ERROR_WHERE_SIZE]; /* the sections entered, joined by dots */
	size_t ends[DEPTH_MAX];         /* length of path outside of each of them */
	unsigned depth;
};

static int fail(struct state *s, int code, const char *name, const char *why)
{
	if (s->error.code)
		return s->error.code;
	err_set(&s->error, code, name, "saved state: '%s': %s", name, why);
	return s->path[0] ? err_where(&s->error, "%s", s->path) : s->error.code;
}

static void put(struct state *s, const void *bytes, size_t len)
{
	strbuf_addn(&s->out, bytes, len);
}

static void put_u32(struct state *s, uint32_t v)
{
	uint8_t le[4];

	le32_store(le, v);
	put(s, le, sizeof(le));
}

static void put_item(struct state *s, uint8_t item, const char *name)
{
	size_t len = strlen(name);
	uint8_t head[2] = { item, (uint8_t)len };

	assert(len && len <= UINT8_MAX);
	put(s, head, sizeof(head));
	put(s, name, len);
}

/* After writing an item: did it fit into memory? */
static int put_done(struct state *s, const char *name)
{
	return s->out.failed ? fail(s, ENOMEM, name, "out of memory") : 0;
}

/* The next len bytes, or NULL at the end of the stream. */
static const uint8_t *take(struct state *s, size_t len)
{
	const uint8_t *p = s->in + s->at;

	if (len > s->len - s->at)
		return NULL;
	s->at += len;
	return p;
}

static int take_u32(struct state *s, const char *name, uint32_t *v)
{
	const uint8_t *p = take(s, 4);

	if (!p)
		return fail(s, EPROTO, name, "the data ends too early");
	*v = le32_load(p);
	return 0;
}

static int take_item(struct state *s, uint8_t item, const char *name)
{
	const uint8_t *head = take(s, 2);
	size_t len = strlen(name);
	const uint8_t *p = head ? take(s, head[1]) : NULL;

	if (!p)
		return fail(s, EPROTO, name, "the data ends too early");
	if (head[0] != item || head[1] != len || memcmp(p, name, len))
		return fail(s, EPROTO, name,
			"something else was saved here; the machine must have the same devices");
	return 0;
}

struct state *state_save_new(void)
{
	struct state *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	put(s, MAGIC, MAGIC_LEN);
	put_u32(s, FORMAT);
	if (s->out.failed) {
		state_free(s);
		return NULL;
	}
	return s;
}

struct state *state_load_new(const void *bytes, size_t len)
{
	struct state *s = calloc(1, sizeof(*s));
	const uint8_t *magic;
	uint32_t format = 0;

	if (!s)
		return NULL;
	s->loading = true;
	s->in = bytes;
	s->len = len;
	magic = take(s, MAGIC_LEN);
	if (!magic || memcmp(magic, MAGIC, MAGIC_LEN))
		fail(s, EPROTO, "magic", "this is no saved machine state");
	else if (!take_u32(s, "format", &format) && format != FORMAT)
		fail(s, EPROTO, "format", "it was written by another version of vizor");
	return s;
}

void state_free(struct state *s)
{
	if (!s)
		return;
	strbuf_fini(&s->out);
	free(s);
}

bool state_loading(const struct state *s)
{
	return s->loading;
}

const void *state_bytes(const struct state *s, size_t *len)
{
	*len = s->out.len;
	return s->out.text;
}

int state_error(const struct state *s, struct vz_error *e)
{
	if (s->error.code && e)
		*e = s->error;
	return s->error.code;
}

static void push(struct state *s, const char *name)
{
	size_t end = strlen(s->path), room = sizeof(s->path) - 1 - end;
	size_t n = MIN(strlen(name), room ? room - 1 : 0);

	assert(s->depth < DEPTH_MAX);
	s->ends[s->depth++] = end;
	if (!n)
		return;
	if (end)
		s->path[end++] = '.';
	memcpy(s->path + end, name, n);
	s->path[end + n] = '\0';
}

int state_enter(struct state *s, const char *name, uint32_t version, uint32_t *found)
{
	uint32_t v = version;

	if (s->error.code)
		return s->error.code;
	if (!s->loading) {
		put_item(s, ITEM_ENTER, name);
		put_u32(s, version);
		if (put_done(s, name))
			return s->error.code;
	} else if (take_item(s, ITEM_ENTER, name) || take_u32(s, name, &v)) {
		return s->error.code;
	} else if (!v || v > version) {
		return fail(s, EPROTO, name, "it was saved by a newer version of vizor");
	}
	push(s, name);
	if (found)
		*found = v;
	return 0;
}

int state_leave(struct state *s)
{
	static const uint8_t item = ITEM_LEAVE;
	const uint8_t *p;

	if (s->error.code)
		return s->error.code;
	assert(s->depth);
	if (!s->loading) {
		put(s, &item, 1);
		if (put_done(s, "end"))
			return s->error.code;
	} else {
		p = take(s, 1);
		if (!p)
			return fail(s, EPROTO, "end", "the data ends too early");
		if (*p != item)
			return fail(s, EPROTO, "end", "there is more than this version knows");
	}
	s->path[s->ends[--s->depth]] = '\0';
	return 0;
}

/* One field: len bytes go out, or come in only when everything about them is as expected. */
static int field(struct state *s, const char *name, void *bytes, size_t len)
{
	const uint8_t *p;
	uint32_t found = 0;

	if (s->error.code)
		return s->error.code;
	if (len > UINT32_MAX)
		return fail(s, E2BIG, name, "it is too large for one field");
	if (!s->loading) {
		put_item(s, ITEM_FIELD, name);
		put_u32(s, (uint32_t)len);
		put(s, bytes, len);
		return put_done(s, name);
	}
	if (take_item(s, ITEM_FIELD, name) || take_u32(s, name, &found))
		return s->error.code;
	if (found != len)
		return fail(s, EPROTO, name, "its size differs from what this machine has");
	p = take(s, len);
	if (!p)
		return fail(s, EPROTO, name, "the data ends too early");
	if (len)
		memcpy(bytes, p, len);
	return 0;
}

int state_u8(struct state *s, const char *name, uint8_t *v)
{
	return field(s, name, v, sizeof(*v));
}

int state_u16(struct state *s, const char *name, uint16_t *v)
{
	uint8_t le[2];
	int r;

	le16_store(le, *v);
	r = field(s, name, le, sizeof(le));
	if (!r)
		*v = le16_load(le);
	return r;
}

int state_u32(struct state *s, const char *name, uint32_t *v)
{
	uint8_t le[4];
	int r;

	le32_store(le, *v);
	r = field(s, name, le, sizeof(le));
	if (!r)
		*v = le32_load(le);
	return r;
}

int state_u64(struct state *s, const char *name, uint64_t *v)
{
	uint8_t le[8];
	int r;

	le64_store(le, *v);
	r = field(s, name, le, sizeof(le));
	if (!r)
		*v = le64_load(le);
	return r;
}

int state_bool(struct state *s, const char *name, bool *v)
{
	uint8_t byte = *v;
	int r = field(s, name, &byte, 1);

	if (!r && byte > 1)
		r = fail(s, EPROTO, name, "it is neither true nor false");
	if (!r)
		*v = byte;
	return r;
}

int state_blob(struct state *s, const char *name, void *bytes, size_t len)
{
	return field(s, name, bytes, len);
}

int state_reject(struct state *s, const char *name, const char *why)
{
	return fail(s, EINVAL, name, why);
}
