/* SPDX-License-Identifier: MIT */
/*
 * Known mistakes of other monitors that the device core answers for, whatever the device. The
 * numbers are rows of the project's hardening table. A guest may break its own device, and nothing
 * else: it is told to reset it, and then all works again.
 */
#include "base/arith.h"
#include "slow.h"
#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>

#define TOP FAKE_MEMORY /* the first address that is not RAM */

static struct fake *begin(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(f && fake_start(f, features, 16));
	return f;
}

static bool is_packed(uint64_t features)
{
	return features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
}

static bool echoes(struct fake *f, unsigned queue)
{
	uint8_t in[3] = { 0 };
	struct fake_buf bufs[] = { FAKE_OUT("abc", 3), FAKE_IN(in, 3) };

	slow_of(f)->fast = true;
	return fake_request(f, queue, bufs, 2) == 3 && !memcmp(in, "abc", 3);
}

static bool recovers(struct fake *f, uint64_t features)
{
	return fake_start(f, features, 16) && echoes(f, 0) && echoes(f, 2);
}

/* The chain must break the device, without the class having seen it. */
static void refused(uint64_t features, const struct fake_desc *descs, unsigned n)
{
	struct fake *f = begin(features);

	fake_evil_chain(f, 0, descs, n);
	fake_kick_always(f, 0);
	CHECK(fake_needs_reset(f));
	CHECK_EQ(f->config_changes, 1);
	CHECK_EQ(slow_of(f)->popped, 0);
	/* Not even a good chain is taken now, of any queue. */
	fake_post(f, 1, &FAKE_OUT("x", 1), 1);
	fake_kick_always(f, 1);
	fake_kick_always(f, 0);
	CHECK_EQ(slow_of(f)->popped, 0);
	CHECK_EQ(f->q[0].interrupts, 0);
	CHECK(recovers(f, features));
	fake_free(f);
}

/* The chain is odd but fine: the class gets it, with so many bytes. */
static void taken(uint64_t features, const struct fake_desc *descs, unsigned n, uint32_t read_len,
	uint32_t write_len)
{
	struct fake *f = begin(features);
	struct chain *c = slow_of(f)->chains[0];

	fake_evil_chain(f, 0, descs, n);
	fake_kick_always(f, 0);
	CHECK(!fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->popped, 1);
	CHECK_EQ(c->read_len, read_len);
	CHECK_EQ(c->write_len, write_len);
	CHECK_EQ(chain_left_write(c), write_len);
	fake_free(f);
}

/* --- rows 1, 17, 32, 58: set-up ------------------------------------------ */

static void hardening_1_frozen_fields(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);
	struct virtqueue before;

	for (unsigned step = 0; step < 2; step++) {
		CHECK(fake_negotiate(f, features));
		fake_queue_setup(f, 0, 16);
		if (step)
			fake_driver_ok(f);
		before = *vdev_queue(f->dev, 0);
		fake_evil_queue(f, 0, 32768, 0x10, 0x20, 0x30);
		fake_evil_queue(f, 0, 0, UINT64_MAX, UINT64_MAX, UINT64_MAX);
		CHECK(!memcmp(&before, vdev_queue(f->dev, 0), sizeof(before)));
		/* A queue that was left out cannot be added once the device runs. */
		if (step) {
			before = *vdev_queue(f->dev, 1);
			fake_evil_queue(f, 1, 16, 0x1000, 0x2000, 0x3000);
			CHECK(!memcmp(&before, vdev_queue(f->dev, 1), sizeof(before)));
		}
	}
	vdev_features_set(f->dev, 0, 0);
	vdev_features_set(f->dev, 1, UINT32_MAX);
	CHECK(!fake_needs_reset(f));
	CHECK(echoes(f, 0));
	fake_free(f);
}
EACH_FORMAT(hardening_1_frozen_fields)

static void hardening_17_no_such_queue(uint64_t features)
{
	static const unsigned indices[] = { 3, 63, 64, 0x7fff, 0xffff, 0x10000, UINT32_MAX };
	struct fake *f = begin(features);

	for (unsigned i = 0; i < ARRAY_SIZE(indices); i++) {
		CHECK(!vdev_queue(f->dev, indices[i]));
		fake_evil_queue(f, indices[i], 16, 0x1000, 0x2000, 0x3000);
		vdev_queue_reset(f->dev, indices[i]);
		vdev_kick(f->dev, indices[i]);
	}
	for (unsigned area = 3; area; area *= 2)
		vdev_queue_area(f->dev, 0, area, true, UINT32_MAX);
	CHECK(echoes(f, 0));
	CHECK(!fake_needs_reset(f));
	fake_free(f);
}
EACH_FORMAT(hardening_17_no_such_queue)

/* Enabling with these values must break the device; nothing is mapped. */
static void bad_queue(uint64_t features, uint16_t size, uint64_t desc, uint64_t driver,
	uint64_t device)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(fake_negotiate(f, features));
	fake_evil_queue(f, 0, size, desc, driver, device);
	CHECK(fake_needs_reset(f));
	CHECK(!vdev_queue(f->dev, 0)->enabled);
	fake_driver_ok(f);
	vdev_kick(f->dev, 0);
	CHECK_EQ(slow_of(f)->kicks, 0);
	CHECK(recovers(f, features));
	fake_free(f);
}

static void hardening_32_queue_size(uint64_t features)
{
	static const uint16_t sizes[] = { 0, 65, 128, 1024, 32768, 65535 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		bad_queue(features, sizes[i], 0x1000, 0x2000, 0x3000);
	/* Packed rings may have any size. */
	if (is_packed(features))
		return;
	bad_queue(features, 3, 0x1000, 0x2000, 0x3000);
	bad_queue(features, 48, 0x1000, 0x2000, 0x3000);
}
EACH_FORMAT(hardening_32_queue_size)

static void hardening_32_queue_alignment(uint64_t features)
{
	bad_queue(features, 16, 0x1008, 0x2000, 0x3000);
	bad_queue(features, 16, 0x1001, 0x2000, 0x3000);
	bad_queue(features, 16, 0x1000, 0x2001, 0x3000);
	bad_queue(features, 16, 0x1000, 0x2000, 0x3002);
	if (is_packed(features))
		bad_queue(features, 16, 0x1000, 0x2002, 0x3000);
}
EACH_FORMAT(hardening_32_queue_alignment)

static void hardening_3_queue_areas(uint64_t features)
{
	static const uint64_t bad[] = { TOP, TOP + 0x1000, 0xfebf0000, 0xc0000000, 1ull << 32,
		1ull << 63, UINT64_MAX - 15, UINT64_MAX & ~0xfffull };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		bad_queue(features, 16, bad[i], 0x2000, 0x3000);
		bad_queue(features, 16, 0x1000, bad[i], 0x3000);
		bad_queue(features, 16, 0x1000, 0x2000, bad[i]);
	}
	/* The last bytes stick out. */
	bad_queue(features, 16, TOP - 16 * 15, 0x2000, 0x3000);
	if (is_packed(features))
		return;
	bad_queue(features, 16, 0x1000, TOP - 4 - 32, 0x3000);
	bad_queue(features, 16, 0x1000, 0x2000, TOP - 4 - 128);
}
EACH_FORMAT(hardening_3_queue_areas)

/* Areas that end where RAM ends are fine. */
static void queue_areas_at_the_end(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(fake_negotiate(f, features));
	fake_evil_queue(f, 0, 16, TOP - 256, 0x2000, 0x3000);
	fake_evil_queue(f, 1, 16, 0x1000, TOP - (is_packed(features) ? 4 : 38), 0x3000);
	fake_evil_queue(f, 2, 16, 0x1000, 0x2000, TOP - (is_packed(features) ? 4 : 136));
	CHECK(!fake_needs_reset(f));
	fake_driver_ok(f);
	for (unsigned i = 0; i < 3; i++)
		vdev_kick(f->dev, i);
	fake_free(f);
}
EACH_FORMAT(queue_areas_at_the_end)

/* One area inside another one, or all in one place: the guest harms itself only. */
static void rings_overlap(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	for (unsigned fill = 0; fill < 256; fill++) {
		CHECK(fake_negotiate(f, features));
		memset(fake_ptr(f, 0x1000), (int)fill, 0x1000);
		fake_evil_queue(f, 0, 16, 0x1000, 0x1000, 0x1000);
		fake_evil_queue(f, 1, 16, 0x1000, 0x1010, 0x1020);
		slow_of(f)->fast = true;
		fake_driver_ok(f);
		for (unsigned i = 0; i < 4; i++)
			fake_kick_always(f, i % 2);
	}
	CHECK(recovers(f, features));
	fake_free(f);
}
EACH_FORMAT(rings_overlap)

static void hardening_58_not_ready(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);
	struct slow *slow = slow_of(f);

	slow->fast = true;
	vdev_kick(f->dev, 0);
	CHECK(fake_negotiate(f, features));
	vdev_kick(f->dev, 0);
	fake_queue_setup(f, 0, 16);
	CHECK(fake_post(f, 0, &FAKE_OUT("x", 1), 1) >= 0);
	vdev_kick(f->dev, 0);
	vdev_kick(f->dev, 1);
	CHECK_EQ(slow->kicks, 0);
	fake_driver_ok(f);
	CHECK_EQ(slow->popped, 1);
	vdev_status_set(f->dev, 0);
	slow->kicks = 0;
	vdev_kick(f->dev, 0);
	CHECK_EQ(slow->kicks, 0);
	/* Nor does the class get anything by itself. */
	CHECK_EQ(vq_pop(vdev_queue(f->dev, 0), slow->chains[0]), 0);
	CHECK(vq_empty(vdev_queue(f->dev, 0)));
	vq_notify_off(vdev_queue(f->dev, 0));
	vq_notify(vdev_queue(f->dev, 0));
	fake_free(f);
}
EACH_FORMAT(hardening_58_not_ready)

/* --- rows 3, 38, 55: addresses and lengths ------------------------------- */

static void hardening_3_buffer_outside_ram(uint64_t features)
{
	static const struct fake_desc bad[] = {
		{ TOP, 1, 0, 0 },
		{ TOP - 1, 2, 0, 0 },
		{ TOP - 1, 2, FAKE_F_WRITE, 0 },
		{ TOP - 0x1000, UINT32_MAX, 0, 0 },
		{ 0, (uint32_t)TOP + 1, FAKE_F_WRITE, 0 },
		{ UINT64_MAX, 1, 0, 0 },
		{ UINT64_MAX, 2, FAKE_F_WRITE, 0 },
		{ UINT64_MAX - 0xfff, 0x2000, 0, 0 },
		{ 1ull << 32, 1, 0, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		refused(features, &bad[i], 1);
}
EACH_FORMAT(hardening_3_buffer_outside_ram)

/* Registers of devices are no buffers, nor are the interrupt chips. */
static void hardening_38_buffer_is_mmio(uint64_t features)
{
	static const uint64_t bad[] = { 0xc0000000, 0xd0000000, 0xfebf0000, 0xfec00000, 0xfee00000,
		0xfffff000 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct fake_desc d = { bad[i], 4, i % 2 ? FAKE_F_WRITE : 0, 0 };

		refused(features, &d, 1);
	}
}
EACH_FORMAT(hardening_38_buffer_is_mmio)

static void hardening_55_lengths_sum(uint64_t features)
{
	struct fake_desc d[64];
	struct fake *f;

	for (unsigned i = 0; i < 64; i++)
		d[i] = (struct fake_desc){ 0, (uint32_t)TOP, i < 63 ? FAKE_F_NEXT : 0,
			(uint16_t)(i + 1) };
	d[63].next = 0;
	for (unsigned half = 0; half < 2; half++) {
		/* In one direction, then in both. */
		for (unsigned i = 32; i < 64 && half; i++)
			d[i].flags |= FAKE_F_WRITE;
		f = fake_new(&slow_class, NULL, NULL);
		CHECK(fake_start(f, features, 64));
		fake_evil_chain(f, 0, d, 64);
		fake_kick_always(f, 0);
		CHECK(fake_needs_reset(f));
		CHECK_EQ(slow_of(f)->popped, 0);
		fake_free(f);
	}
	/* One byte less is the most there can be. */
	d[63].len--;
	f = fake_new(&slow_class, NULL, NULL);
	CHECK(fake_start(f, features, 64));
	fake_evil_chain(f, 0, d, 64);
	fake_kick_always(f, 0);
	CHECK(!fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->chains[0]->read_len + slow_of(f)->chains[0]->write_len, UINT32_MAX);
	slow_of(f)->held = 0;
	fake_free(f);
}
EACH_FORMAT(hardening_55_lengths_sum)

/* Row 52 for the core: nothing at all, only room, only data. */
static void hardening_52_chain_shapes(uint64_t features)
{
	static const struct fake_desc nothing[] = { { 0, 0, 0, 0 } };
	static const struct fake_desc room[] = { { 0, 9, FAKE_F_WRITE, 0 } };
	static const struct fake_desc data[] = { { 0, 9, 0, 0 } };
	static const struct fake_desc wrong[] = { { 0, 9, FAKE_F_WRITE | FAKE_F_NEXT, 1 },
		{ 0, 9, 0, 0 } };

	taken(features, nothing, 1, 0, 0);
	taken(features, room, 1, 0, 9);
	taken(features, data, 1, 9, 0);
	refused(features, wrong, 2);
}
EACH_FORMAT(hardening_52_chain_shapes)

/* --- rows 14, 26, 30, 54: what is available ------------------------------ */

static void hardening_14_head_in_flight_split(void)
{
	struct fake *f = begin(FAKE_ALL);

	CHECK(fake_post(f, 0, &FAKE_OUT("x", 1), 1) >= 0);
	fake_kick(f, 0);
	CHECK_EQ(slow_of(f)->held, 1);
	fake_evil_head(f, 0, 0);
	fake_kick_always(f, 0);
	CHECK(fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->popped, 1);
	/* The one that is in flight may still come back. */
	slow_finish(slow_of(f));
	CHECK(recovers(f, FAKE_ALL));
	fake_free(f);
}

static void hardening_14_head_in_flight_packed(void)
{
	static const struct fake_desc d = { 0, 1, 0, 7 };
	struct fake *f = begin(FAKE_PACKED);

	fake_evil_chain(f, 0, &d, 1);
	fake_kick_always(f, 0);
	CHECK_EQ(slow_of(f)->held, 1);
	fake_evil_chain(f, 0, &d, 1);
	fake_kick_always(f, 0);
	CHECK(fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->popped, 1);
	slow_finish(slow_of(f));
	CHECK(recovers(f, FAKE_PACKED));
	fake_free(f);
}

/* A buffer id is any 16-bit number. */
static void buffer_ids_packed(void)
{
	static const uint16_t ids[] = { 15, 16, 255, 0x7fff, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
		struct fake_desc d = { 0, 1, 0, ids[i] };
		struct fake *f = begin(FAKE_PACKED);

		slow_of(f)->fast = true;
		fake_evil_chain(f, 0, &d, 1);
		fake_kick_always(f, 0);
		CHECK(!fake_needs_reset(f));
		CHECK_EQ(le16_load((uint8_t *)fake_ptr(f, f->q[0].desc) + 12), ids[i]);
		/* Used, and nothing written. */
		CHECK_EQ(le16_load((uint8_t *)fake_ptr(f, f->q[0].desc) + 14), 0x8080);
		fake_free(f);
	}
}

static void hardening_26_index_jump_split(void)
{
	static const uint16_t jumps[] = { 17, 18, 0x7fff, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(jumps); i++) {
		struct fake *f = begin(FAKE_ALL);

		fake_evil_jump(f, 0, jumps[i]);
		fake_kick_always(f, 0);
		CHECK(fake_needs_reset(f));
		CHECK_EQ(slow_of(f)->popped, 0);
		CHECK(recovers(f, FAKE_ALL));
		fake_free(f);
	}
}

static void hardening_30_more_than_the_ring_split(void)
{
	struct fake *f = begin(FAKE_ALL);

	for (unsigned i = 0; i < 16; i++)
		CHECK(fake_post(f, 0, &FAKE_OUT("x", 1), 1) >= 0);
	fake_kick(f, 0);
	CHECK_EQ(slow_of(f)->held, 16);
	CHECK(!fake_needs_reset(f));
	fake_evil_head(f, 0, 3);
	fake_kick_always(f, 0);
	CHECK(fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->popped, 16);
	CHECK(recovers(f, FAKE_ALL));
	fake_free(f);
}

static void hardening_30_more_than_the_ring_packed(void)
{
	struct fake *f = begin(FAKE_PACKED);

	for (unsigned i = 0; i <= 16; i++) {
		struct fake_desc d = { 0, 1, 0, (uint16_t)(100 + i) };

		CHECK(!fake_needs_reset(f));
		CHECK_EQ(slow_of(f)->held, i);
		fake_evil_chain(f, 0, &d, 1);
		fake_kick_always(f, 0);
	}
	CHECK(fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->popped, 16);
	CHECK(recovers(f, FAKE_PACKED));
	fake_free(f);
}

/* A chain that runs into slots which the device still has. */
static void hardening_30_chain_over_slots_in_flight_packed(void)
{
	struct fake_desc d[10];
	struct fake *f = begin(FAKE_PACKED);

	for (unsigned i = 0; i < 10; i++)
		d[i] = (struct fake_desc){ 0, 1, i < 9 ? FAKE_F_NEXT : 0, 1 };
	fake_evil_chain(f, 0, d, 10);
	fake_kick_always(f, 0);
	CHECK_EQ(slow_of(f)->held, 1);
	d[9].next = 2;
	fake_evil_chain(f, 0, d, 10);
	fake_kick_always(f, 0);
	CHECK(fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->popped, 1);
	fake_free(f);
}

static void hardening_54_head_outside_table_split(void)
{
	static const uint16_t heads[] = { 16, 17, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(heads); i++) {
		struct fake *f = begin(FAKE_ALL);

		fake_evil_head(f, 0, heads[i]);
		fake_kick_always(f, 0);
		CHECK(fake_needs_reset(f));
		CHECK_EQ(slow_of(f)->popped, 0);
		CHECK(recovers(f, FAKE_ALL));
		fake_free(f);
	}
}

static void hardening_54_next_outside_table_split(void)
{
	static const uint16_t next[] = { 16, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(next); i++) {
		struct fake_desc d = { 0, 1, FAKE_F_NEXT, next[i] };

		refused(FAKE_ALL, &d, 1);
	}
}

/* --- rows 19, 20, 31: loops ---------------------------------------------- */

/* The guest's other CPU: it takes back what is done and has the next chain ready at once. */
static void refill(struct slow *slow, struct chain *c)
{
	struct fake *f = slow->arg;

	fake_reap(f, c->vq->index);
	CHECK(fake_post(f, c->vq->index, &FAKE_OUT("x", 1), 1) >= 0);
}

static void hardening_19_guest_feeds_forever(uint64_t features)
{
	struct fake *f = begin(features);
	struct slow *slow = slow_of(f);

	slow->fast = true;
	slow->on_pop = refill;
	slow->arg = f;
	CHECK(fake_post(f, 0, &FAKE_OUT("x", 1), 1) >= 0);
	vdev_kick(f->dev, 0);
	CHECK_EQ(slow->popped, 16);
	/* Others have their turn; then it goes on, without a notification. */
	for (unsigned turn = 2; turn <= 5; turn++) {
		loop_dispatch(f->loop, 10);
		CHECK_EQ(slow->popped, 16 * turn);
	}
	slow->on_pop = NULL;
	loop_dispatch(f->loop, 10);
	CHECK_EQ(slow->popped, 16 * 5 + 1);
	CHECK(vq_empty(vdev_queue(f->dev, 0)));
	CHECK(echoes(f, 0));
	fake_free(f);
}
EACH_FORMAT(hardening_19_guest_feeds_forever)

static void hardening_20_many_malformed(uint64_t features)
{
	static const struct fake_desc bad[] = { { TOP, 1, 0, 0 } };
	struct fake *f = begin(features);

	for (unsigned i = 0; i < 256; i++) {
		CHECK(fake_start(f, features, 16));
		fake_evil_chain(f, 0, bad, 1);
		fake_kick_always(f, 0);
		CHECK(fake_needs_reset(f));
	}
	CHECK(recovers(f, features));
	fake_free(f);
}
EACH_FORMAT(hardening_20_many_malformed)

static void hardening_31_loops_split(void)
{
	static const struct fake_desc self[] = { { 0, 1, FAKE_F_NEXT, 0 } };
	static const struct fake_desc pair[] = { { 0, 1, FAKE_F_NEXT, 1 },
		{ 0, 1, FAKE_F_NEXT, 0 } };
	static const struct fake_desc empty[] = { { 0, 0, FAKE_F_NEXT, 1 },
		{ 0, 0, FAKE_F_NEXT, 0 } };

	refused(FAKE_ALL, self, 1);
	refused(FAKE_ALL, pair, 2);
	refused(FAKE_ALL, empty, 2);
}

/* Every slot says that there is a next one. */
static void hardening_31_loops_packed(void)
{
	struct fake_desc d[16];

	for (unsigned i = 0; i < 16; i++)
		d[i] = (struct fake_desc){ 0, i % 2, FAKE_F_NEXT, 0 };
	refused(FAKE_PACKED, d, 16);
}

static void hardening_31_empty_descriptors(uint64_t features)
{
	static const struct fake_desc d[] = { { 0, 0, FAKE_F_NEXT, 1 }, { TOP, 0, FAKE_F_NEXT, 2 },
		{ 0, 4, FAKE_F_NEXT, 3 }, { 0, 0, FAKE_F_NEXT | FAKE_F_WRITE, 4 },
		{ 64, 2, FAKE_F_NEXT | FAKE_F_WRITE, 5 }, { UINT64_MAX, 0, FAKE_F_WRITE, 0 } };

	taken(features, d, 6, 4, 2);
}
EACH_FORMAT(hardening_31_empty_descriptors)

/* --- rows 33, 50: indirect tables ---------------------------------------- */

/* A chain of one indirect descriptor for n entries of table, len bytes in all (0: as many as n). */
static void indirect(uint64_t features, const struct fake_desc *table, unsigned n, uint32_t len,
	uint16_t flags, bool fine)
{
	struct fake *f = begin(features);
	struct fake_desc d[] = { { fake_table(f, table, n), len ? len : 16 * n,
					 FAKE_F_INDIRECT | flags, 1 },
		{ 0, 1, 0, 0 } };

	fake_evil_chain(f, 0, d, flags & FAKE_F_NEXT ? 2 : 1);
	fake_kick_always(f, 0);
	CHECK_EQ(fake_needs_reset(f), !fine);
	CHECK_EQ(slow_of(f)->popped, fine);
	CHECK(recovers(f, features));
	fake_free(f);
}

static void hardening_33_table_length(uint64_t features)
{
	static const struct fake_desc table[17];
	static const uint32_t bad[] = { 1, 15, 17, 31, 17 * 16, 0xfffffff0, UINT32_MAX };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		indirect(features, table, 17, bad[i], 0, false);
	indirect(features, table, 1, 16, 0, true);
	/* The write flag means nothing there. */
	indirect(features, table, 1, 16, FAKE_F_WRITE, true);
	indirect(features, table, 1, 16, FAKE_F_NEXT, false);
}
EACH_FORMAT(hardening_33_table_length)

static void hardening_33_empty_table(uint64_t features)
{
	static const struct fake_desc d = { 0x1000, 0, FAKE_F_INDIRECT, 0 };

	refused(features, &d, 1);
}
EACH_FORMAT(hardening_33_empty_table)

static void hardening_33_nested_table_split(void)
{
	static const struct fake_desc table[] = { { 0x1000, 16, FAKE_F_INDIRECT, 0 } };

	indirect(FAKE_ALL, table, 1, 0, 0, false);
}

/* Section 2.8.7: flags of entries other than WRITE are ignored. */
static void hardening_33_nested_table_packed(void)
{
	static const struct fake_desc table[] = { { 0x1000, 16, FAKE_F_INDIRECT | FAKE_F_NEXT,
		0 } };

	indirect(FAKE_PACKED, table, 1, 0, 0, true);
}

static void hardening_33_table_loops_split(void)
{
	static const struct fake_desc self[] = { { 0, 1, FAKE_F_NEXT, 0 } };
	static const struct fake_desc pair[] = { { 0, 1, FAKE_F_NEXT, 1 },
		{ 0, 1, FAKE_F_NEXT, 0 } };
	static const struct fake_desc outside[] = { { 0, 1, FAKE_F_NEXT, 2 }, { 0, 1, 0, 0 } };

	indirect(FAKE_ALL, self, 1, 0, 0, false);
	indirect(FAKE_ALL, pair, 2, 0, 0, false);
	indirect(FAKE_ALL, outside, 2, 0, 0, false);
}

static void hardening_33_table_not_negotiated(uint64_t features)
{
	static const struct fake_desc d = { 0x1000, 16, FAKE_F_INDIRECT, 0 };

	refused(features & ~VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC), &d, 1);
}
EACH_FORMAT(hardening_33_table_not_negotiated)

/* Ring descriptors and the table together are longer than the queue. */
static void hardening_33_chain_and_table_too_long_split(void)
{
	static const struct fake_desc entries[15] = { { 0, 0, 0, 0 } };
	struct fake_desc table[15], d[3];
	struct fake *f = begin(FAKE_ALL);

	for (unsigned i = 0; i < 15; i++) {
		table[i] = entries[i];
		table[i].flags = i < 14 ? FAKE_F_NEXT : 0;
		table[i].next = (uint16_t)(i + 1);
	}
	d[0] = (struct fake_desc){ 0, 0, FAKE_F_NEXT, 1 };
	d[1] = (struct fake_desc){ 0, 0, FAKE_F_NEXT, 2 };
	d[2] = (struct fake_desc){ fake_table(f, table, 15), 15 * 16, FAKE_F_INDIRECT, 0 };
	fake_evil_chain(f, 0, d, 3);
	fake_kick_always(f, 0);
	CHECK(fake_needs_reset(f));
	CHECK_EQ(slow_of(f)->popped, 0);
	fake_free(f);
}

static void hardening_33_table_among_others_packed(void)
{
	static const struct fake_desc d[] = { { 0, 1, FAKE_F_NEXT, 0 },
		{ 0x1000, 16, FAKE_F_INDIRECT, 0 } };

	refused(FAKE_PACKED, d, 2);
}

static void hardening_50_table_outside_ram(uint64_t features)
{
	static const uint64_t bad[] = { TOP, TOP - 8, 0xfebf0000, UINT64_MAX - 15, UINT64_MAX - 7 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct fake_desc d = { bad[i], 16, FAKE_F_INDIRECT, 0 };

		refused(features, &d, 1);
	}
}
EACH_FORMAT(hardening_50_table_outside_ram)

static void hardening_50_buffer_in_table_outside_ram(uint64_t features)
{
	static const struct fake_desc table[] = { { TOP - 4, 8, FAKE_F_WRITE, 0 } };

	indirect(features, table, 1, 0, 0, false);
}
EACH_FORMAT(hardening_50_buffer_in_table_outside_ram)

/* --- rows 11, 23, 49: config space --------------------------------------- */

static void hardening_11_config_offset_overflow(void)
{
	struct fake *f = begin(FAKE_ALL);
	uint8_t before[256];

	memcpy(before, f->dev->config, sizeof(before));
	for (uint64_t back = 0; back < 16; back++) {
		for (unsigned len = 1; len <= 8; len *= 2) {
			CHECK_EQ(fake_config(f, UINT64_MAX - back, len), 0);
			vdev_config_write(f->dev, UINT64_MAX - back, len, UINT64_MAX);
			vdev_config_write(f->dev, (1ull << 32) + back, len, UINT64_MAX);
			vdev_config_write(f->dev, 256 - back, len, UINT64_MAX);
		}
	}
	CHECK(!memcmp(before, f->dev->config, sizeof(before)));
	CHECK_EQ(slow_of(f)->config_writes, 0);
	fake_free(f);
}

static void hardening_23_config_widths(void)
{
	struct fake *f = begin(FAKE_ALL);

	for (unsigned len = 0; len <= 17; len++) {
		for (unsigned offset = 0; offset < 40; offset++) {
			bool fine = len <= 8 && is_pow2(len) && offset + len <= SLOW_CONFIG_SIZE;
			unsigned before = slow_of(f)->config_writes;
			uint64_t want = fine ? le_load(f->dev->config + offset, len) : 0;

			CHECK_EQ(fake_config(f, offset, len), want);
			vdev_config_write(f->dev, offset, len, UINT64_MAX);
			CHECK_EQ(slow_of(f)->config_writes - before, fine);
		}
	}
	CHECK(!fake_needs_reset(f));
	fake_free(f);
}

/* The last byte is there; a wider access at it is not. */
static void hardening_49_config_last_byte(void)
{
	struct fake *f = begin(FAKE_ALL);

	CHECK_EQ(fake_config(f, SLOW_CONFIG_SIZE - 1, 1), 1);
	CHECK_EQ(fake_config(f, SLOW_CONFIG_SIZE - 1, 2), 0);
	CHECK_EQ(fake_config(f, SLOW_CONFIG_SIZE - 1, 8), 0);
	CHECK_EQ(fake_config(f, SLOW_CONFIG_SIZE, 1), 0);
	fake_free(f);
}

/* --- rows 18, 51: memory that changes while we look ---------------------- */

struct race {
	struct fake *f;
	uint64_t desc, table;
	atomic_bool stop;
	unsigned outside, chains;
};

/* Another CPU of the guest rewrites descriptor and table without rest. */
static void *flip(void *arg)
{
	struct race *race = arg;
	volatile uint64_t *addr = fake_ptr(race->f, race->desc);
	volatile uint64_t *in_table = fake_ptr(race->f, race->table);
	volatile uint32_t *len = fake_ptr(race->f, race->desc + 8);
	volatile uint32_t *table_len = fake_ptr(race->f, race->table + 8);

	while (!atomic_load(&race->stop)) {
		*addr = *in_table = TOP - 4;
		*len = *table_len = UINT32_MAX;
		*len = *table_len = 4;
		*addr = *in_table = UINT64_MAX - 3;
		*addr = race->table;
		*len = 16;
		*in_table = 0;
	}
	return NULL;
}

static void check_segments(struct slow *slow, struct chain *c)
{
	struct race *race = slow->arg;
	const struct mem_region *r;
	uint64_t total = 0;

	mem_regions(race->f->mem, &r);
	for (unsigned i = 0; i < (unsigned)c->nread + c->nwrite; i++) {
		const uint8_t *p = c->iov[i].iov_base;

		total += c->iov[i].iov_len;
		if (p < r->host || c->iov[i].iov_len > r->size ||
			p + c->iov[i].iov_len > r->host + r->size)
			race->outside++;
	}
	if (total != (uint64_t)c->read_len + c->write_len)
		race->outside++;
	race->chains++;
}

static void hardening_51_descriptors_change(uint64_t features)
{
	struct fake_desc entry = { 0, 4, 0, 0 };
	struct race race = { .f = begin(features) };
	struct fake *f = race.f;
	pthread_t thread;

	slow_of(f)->on_pop = check_segments;
	slow_of(f)->arg = &race;
	race.table = fake_table(f, &entry, 1);
	race.desc = f->q[0].desc;
	CHECK(!pthread_create(&thread, NULL, flip, &race));
	for (unsigned i = 0; i < 20000; i++) {
		struct fake_desc d = { race.table, 16, i % 2 ? FAKE_F_INDIRECT : FAKE_F_WRITE, 0 };

		if (!f->q[0].size || fake_needs_reset(f) || f->q[0].avail)
			fake_start(f, features, 16);
		fake_evil_chain(f, 0, &d, 1);
		vdev_kick(f->dev, 0);
		slow_of(f)->held = 0;
	}
	atomic_store(&race.stop, true);
	pthread_join(thread, NULL);
	CHECK_EQ(race.outside, 0);
	CHECK(race.chains > 0);
	CHECK(recovers(f, features));
	fake_free(f);
}
EACH_FORMAT(hardening_51_descriptors_change)

int main(void)
{
	RUN_EACH(hardening_1_frozen_fields);
	RUN_EACH(hardening_17_no_such_queue);
	RUN_EACH(hardening_32_queue_size);
	RUN_EACH(hardening_32_queue_alignment);
	RUN_EACH(hardening_3_queue_areas);
	RUN_EACH(queue_areas_at_the_end);
	RUN_EACH(rings_overlap);
	RUN_EACH(hardening_58_not_ready);
	RUN_EACH(hardening_3_buffer_outside_ram);
	RUN_EACH(hardening_38_buffer_is_mmio);
	RUN_EACH(hardening_55_lengths_sum);
	RUN_EACH(hardening_52_chain_shapes);
	RUN(hardening_14_head_in_flight_split);
	RUN(hardening_14_head_in_flight_packed);
	RUN(buffer_ids_packed);
	RUN(hardening_26_index_jump_split);
	RUN(hardening_30_more_than_the_ring_split);
	RUN(hardening_30_more_than_the_ring_packed);
	RUN(hardening_30_chain_over_slots_in_flight_packed);
	RUN(hardening_54_head_outside_table_split);
	RUN(hardening_54_next_outside_table_split);
	RUN_EACH(hardening_19_guest_feeds_forever);
	RUN_EACH(hardening_20_many_malformed);
	RUN(hardening_31_loops_split);
	RUN(hardening_31_loops_packed);
	RUN_EACH(hardening_31_empty_descriptors);
	RUN_EACH(hardening_33_table_length);
	RUN_EACH(hardening_33_empty_table);
	RUN(hardening_33_nested_table_split);
	RUN(hardening_33_nested_table_packed);
	RUN(hardening_33_table_loops_split);
	RUN_EACH(hardening_33_table_not_negotiated);
	RUN(hardening_33_chain_and_table_too_long_split);
	RUN(hardening_33_table_among_others_packed);
	RUN_EACH(hardening_50_table_outside_ram);
	RUN_EACH(hardening_50_buffer_in_table_outside_ram);
	RUN(hardening_11_config_offset_overflow);
	RUN(hardening_23_config_widths);
	RUN(hardening_49_config_last_byte);
	RUN_EACH(hardening_51_descriptors_change);
	return tap_done();
}
