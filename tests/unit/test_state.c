/* SPDX-License-Identifier: MIT */
/* The save/restore stream: round trip, and every way in which a stream can be wrong. */
#include "base/error.h"
#include "state/state.h"
#include "tests/tap.h"

struct sample {
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	bool flag;
	uint8_t blob[5];
};

static int walk(struct state *s, struct sample *v, uint32_t version, uint32_t *found)
{
	state_enter(s, "machine", version, found);
	state_u8(s, "u8", &v->u8);
	state_u16(s, "u16", &v->u16);
	state_enter(s, "device", 1, NULL);
	state_u32(s, "u32", &v->u32);
	state_u64(s, "u64", &v->u64);
	state_leave(s);
	state_bool(s, "flag", &v->flag);
	state_blob(s, "blob", v->blob, sizeof(v->blob));
	state_leave(s);
	return state_error(s, NULL);
}

static const struct sample sample = { 1, 0x2233, 0x44556677, 0x8899aabbccddeeff, true, "blob" };
static uint8_t saved[512];
static size_t saved_len;

static void save(void)
{
	struct state *s = state_save_new();
	struct sample v = sample;
	uint32_t found = 0;
	const void *bytes;

	CHECK(!state_loading(s));
	CHECK_EQ(walk(s, &v, 2, &found), 0);
	CHECK_EQ(found, 2);
	bytes = state_bytes(s, &saved_len);
	CHECK(saved_len < sizeof(saved));
	memcpy(saved, bytes, saved_len);
	state_free(s);
}

/* Load from an exact copy on the heap, where a read too far is caught by the sanitizer. */
static int load(const uint8_t *bytes, size_t len, uint32_t version, struct sample *v,
	struct vz_error *e)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct state *s;
	uint32_t found;
	int r;

	memcpy(copy, bytes, len);
	s = state_load_new(copy, len);
	r = walk(s, v, version, &found);
	CHECK_EQ(state_error(s, e), r);
	state_free(s);
	free(copy);
	return r;
}

static void round_trip(void)
{
	struct sample v;

	memset(&v, 0, sizeof(v));
	CHECK_EQ(load(saved, saved_len, 2, &v, NULL), 0);
	CHECK_EQ(v.u8, sample.u8);
	CHECK_EQ(v.u16, sample.u16);
	CHECK_EQ(v.u32, sample.u32);
	CHECK(v.u64 == sample.u64);
	CHECK(v.flag);
	CHECK(!memcmp(v.blob, "blob", 5));
}

static void truncated_anywhere(void)
{
	struct vz_error e;

	for (size_t len = 0; len < saved_len; len++) {
		struct sample v = { 0 };

		CHECK_EQ(load(saved, len, 2, &v, &e), -EPROTO);
		CHECK(e.text[0]);
	}
}

static void any_bit_flipped(void)
{
	for (size_t i = 0; i < saved_len * 8; i++) {
		struct sample v = { 0 };
		uint8_t copy[sizeof(saved)];

		memcpy(copy, saved, saved_len);
		copy[i / 8] ^= 1 << i % 8;
		load(copy, saved_len, 2, &v, NULL); /* it may be a value: only must not crash */
		CHECK(v.flag == false || v.flag == true);
	}
}

static uint8_t *find(uint8_t *bytes, const char *name)
{
	return memmem(bytes, saved_len, name, strlen(name));
}

static void other_name(void)
{
	struct sample v = { .u32 = 5 };
	struct vz_error e;
	uint8_t copy[sizeof(saved)];

	memcpy(copy, saved, saved_len);
	find(copy, "u32")[1] = 'X';
	CHECK_EQ(load(copy, saved_len, 2, &v, &e), -EPROTO);
	CHECK_STR(e.where, "machine.device.u32");
	CHECK(strstr(e.text, "'u32'"));
	CHECK_EQ(v.u8, 1);
	CHECK_EQ(v.u32, 5);
	CHECK_EQ(v.u64, 0);
}

static void long_sizes(void)
{
	static const uint32_t sizes[] = { 0, 4, 6, 0x7fffffff, 0x80000000, 0xffffffff };
	struct vz_error e;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct sample v = { 0 };
		uint8_t copy[sizeof(saved)];

		memcpy(copy, saved, saved_len);
		memcpy(find(copy, "\4blob") + 5, &sizes[i], 4);
		CHECK_EQ(load(copy, saved_len, 2, &v, &e), -EPROTO);
		CHECK_STR(e.where, "machine.blob");
		CHECK_EQ(v.blob[0], 0);
	}
}

static void versions(void)
{
	struct sample v = { 0 };
	struct vz_error e;
	struct state *s;
	uint32_t found = 0;

	CHECK_EQ(load(saved, saved_len, 1, &v, &e), -EPROTO);
	CHECK(strstr(e.text, "newer"));
	CHECK_EQ(load(saved, saved_len, 3, &v, &e), 0);
	s = state_load_new(saved, saved_len);
	CHECK_EQ(state_enter(s, "machine", 3, &found), 0);
	CHECK_EQ(found, 2);
	state_free(s);
}

static void format_number(void)
{
	struct sample v = { 0 };
	uint8_t copy[sizeof(saved)];

	memcpy(copy, saved, saved_len);
	copy[8] = 2;
	CHECK_EQ(load(copy, saved_len, 2, &v, NULL), -EPROTO);
}

static void bool_is_0_or_1(void)
{
	struct sample v = { 0 };
	struct vz_error e;
	uint8_t copy[sizeof(saved)];

	memcpy(copy, saved, saved_len);
	find(copy, "flag")[8] = 2;
	CHECK_EQ(load(copy, saved_len, 2, &v, &e), -EPROTO);
	CHECK_STR(e.where, "machine.flag");
}

static void unread_fields(void)
{
	struct state *s = state_load_new(saved, saved_len);
	uint8_t v;

	state_enter(s, "machine", 2, NULL);
	state_u8(s, "u8", &v);
	CHECK_EQ(state_leave(s), -EPROTO);
	state_free(s);
}

static void rejected_value(void)
{
	struct state *s = state_load_new(saved, saved_len);
	struct vz_error e;
	uint8_t v = 0;
	uint16_t w = 7;

	state_enter(s, "machine", 2, NULL);
	state_u8(s, "u8", &v);
	CHECK_EQ(state_reject(s, "u8", "it must be odd"), -EINVAL);
	CHECK_EQ(state_u16(s, "u16", &w), -EINVAL);
	CHECK_EQ(w, 7);
	CHECK_EQ(state_reject(s, "u16", "another"), -EINVAL);
	CHECK_EQ(state_error(s, &e), -EINVAL);
	CHECK_STR(e.where, "machine.u8");
	CHECK(strstr(e.text, "must be odd"));
	state_free(s);
}

int main(void)
{
	RUN(save);
	RUN(round_trip);
	RUN(truncated_anywhere);
	RUN(any_bit_flipped);
	RUN(other_name);
	RUN(long_sizes);
	RUN(versions);
	RUN(format_number);
	RUN(bool_is_0_or_1);
	RUN(unread_fields);
	RUN(rejected_value);
	state_free(NULL);
	return tap_done();
}
