/* SPDX-License-Identifier: MIT */
/* The entropy device, driven by a fake driver over split and packed rings. getrandom is wrapped. */
#include "tests/device/fake_driver.h"

#include "base/error.h"
#include "device/device.h"
#include "tap.h"

#include <sys/random.h>

static unsigned dry; /* how many calls find no randomness yet */

ssize_t __real_getrandom(void *to, size_t len, unsigned flags);
ssize_t __wrap_getrandom(void *to, size_t len, unsigned flags);

ssize_t __wrap_getrandom(void *to, size_t len, unsigned flags)
{
	if (!dry)
		return __real_getrandom(to, len, flags);
	dry--;
	errno = EAGAIN;
	return -1;
}

static uint64_t features;
static struct fake *f;

static void begin(void)
{
	f = fake_new(&virtio_rng, NULL, NULL);
	CHECK(f && fake_start(f, features, 0));
}

static void end(void)
{
	CHECK(!fake_needs_reset(f));
	fake_free(f);
}

static bool all_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

static int64_t get(void *to, uint32_t len)
{
	struct fake_buf buf = FAKE_IN(to, len);

	return fake_request(f, 0, &buf, 1);
}

static void a_buffer_is_filled(void)
{
	uint8_t bytes[512] = { 0 };

	begin();
	CHECK_EQ(get(bytes, sizeof(bytes)), sizeof(bytes));
	for (size_t i = 0; i < sizeof(bytes); i += 64)
		CHECK(!all_zero(bytes + i, 64));
	end();
}

static void no_two_answers_are_alike(void)
{
	uint8_t a[32], b[32];

	begin();
	CHECK_EQ(get(a, sizeof(a)), sizeof(a));
	CHECK_EQ(get(b, sizeof(b)), sizeof(b));
	CHECK(memcmp(a, b, sizeof(a)));
	end();
}

static void all_segments_are_filled(void)
{
	uint8_t bytes[96] = { 0 };
	struct fake_buf bufs[] = { FAKE_IN(bytes, 31), FAKE_IN(bytes + 31, 1),
		FAKE_IN(bytes + 32, 64) };

	begin();
	CHECK_EQ(fake_request(f, 0, bufs, 3), 96);
	CHECK(!all_zero(bytes, 16) && !all_zero(bytes + 64, 32));
	end();
}

static void one_byte_is_enough(void)
{
	uint8_t byte;

	begin();
	CHECK_EQ(get(&byte, 1), 1);
	end();
}

/* Hardening row 6: what a request costs does not depend on the length that the guest claims. */
static void row_6_a_huge_request_is_capped(void)
{
	enum { MOST = 64 << 10, SEG = 16 << 20, N = 60 };
	struct fake_desc descs[N];
	uint64_t gpa;
	int token;

	begin();
	gpa = fake_alloc(f, SEG, 4096);
	for (unsigned i = 0; i < N; i++)
		descs[i] = (struct fake_desc){ .addr = gpa, .len = SEG, .flags = FAKE_F_WRITE };
	token = fake_post_gpa(f, 0, descs, N);
	CHECK(token >= 0);
	fake_kick(f, 0);
	CHECK_EQ(fake_wait(f, 0, token), MOST);
	CHECK(!all_zero((uint8_t *)fake_ptr(f, gpa) + MOST - 16, 16));
	CHECK(all_zero((uint8_t *)fake_ptr(f, gpa) + MOST, SEG - MOST));
	end();
}

static void a_buffer_for_reading_is_returned_empty(void)
{
	uint8_t bytes[64] = { 1 };
	struct fake_buf buf = FAKE_OUT(bytes, sizeof(bytes));

	begin();
	CHECK_EQ(fake_request(f, 0, &buf, 1), 0);
	CHECK_EQ(get(bytes, sizeof(bytes)), sizeof(bytes));
	end();
}

/* More at once than the device serves in one turn. */
static void all_of_many_requests_are_served(void)
{
	enum { N = 50 };
	static uint8_t bytes[N][16];
	int tokens[N];

	begin();
	for (unsigned i = 0; i < N; i++) {
		struct fake_buf buf = FAKE_IN(bytes[i], 16);

		tokens[i] = fake_post(f, 0, &buf, 1);
	}
	fake_kick(f, 0);
	for (unsigned i = 0; i < N; i++)
		CHECK_EQ(fake_wait(f, 0, tokens[i]), 16);
	CHECK(f->q[0].interrupts < N);
	end();
}

static void a_host_without_randomness_is_asked_again(void)
{
	uint8_t bytes[32];

	begin();
	dry = 2;
	CHECK_EQ(get(bytes, sizeof(bytes)), sizeof(bytes));
	CHECK_EQ(dry, 0);
	end();
}

static void a_reset_forgets_a_request_that_waits(void)
{
	uint8_t bytes[32];
	struct fake_buf buf = FAKE_IN(bytes, sizeof(bytes));

	begin();
	dry = 1000;
	CHECK(fake_post(f, 0, &buf, 1) >= 0);
	fake_kick(f, 0);
	fake_reset(f);
	dry = 0;
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(get(bytes, sizeof(bytes)), sizeof(bytes));
	end();
}

static void it_works_after_save_and_restore(void)
{
	uint8_t bytes[32];

	begin();
	CHECK_EQ(get(bytes, sizeof(bytes)), sizeof(bytes));
	CHECK_EQ(fake_save_restore(f, NULL, NULL), 0);
	CHECK_EQ(get(bytes, sizeof(bytes)), sizeof(bytes));
	end();
}

static void there_are_no_options(void)
{
	static const char *const options[] = { "speed=9", NULL };
	struct vz_error e = { 0 };

	CHECK(!fake_new(&virtio_rng, options, &e));
	CHECK_STR(e.where, "speed");
}

#define BOTH(fn)                        \
	do {                            \
		features = FAKE_ALL;    \
		RUN(fn);                \
		features = FAKE_PACKED; \
		RUN(fn);                \
	} while (0)

int main(void)
{
	BOTH(a_buffer_is_filled);
	BOTH(no_two_answers_are_alike);
	BOTH(all_segments_are_filled);
	BOTH(one_byte_is_enough);
	BOTH(row_6_a_huge_request_is_capped);
	BOTH(a_buffer_for_reading_is_returned_empty);
	BOTH(all_of_many_requests_are_served);
	BOTH(a_host_without_randomness_is_asked_again);
	BOTH(a_reset_forgets_a_request_that_waits);
	BOTH(it_works_after_save_and_restore);
	RUN(there_are_no_options);
	return tap_done();
}
