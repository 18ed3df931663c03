/* SPDX-License-Identifier: MIT */
/*
 * The device core: options, the status machine, features, config space, pause, reset, and the saved
 * state (virtio 1.4 sections 2.1, 2.2, 2.4 to 2.6 and 3.1).
 */
#include "base/log.h"
#include "slow.h"
#include "tap.h"

#define STATUS_ACK    VIRTIO_STATUS_ACKNOWLEDGE
#define STATUS_DRIVER (STATUS_ACK | VIRTIO_STATUS_DRIVER)
#define STATUS_FEATS  (STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK)
#define STATUS_OK     (STATUS_FEATS | VIRTIO_STATUS_DRIVER_OK)

static struct fake *begin(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(f && fake_start(f, features, 16));
	return f;
}

static bool echoes(struct fake *f, unsigned queue)
{
	uint8_t in[3] = { 0 };
	struct fake_buf bufs[] = { FAKE_OUT("abc", 3), FAKE_IN(in, 3) };

	slow_of(f)->fast = true;
	return fake_request(f, queue, bufs, 2) == 3 && !memcmp(in, "abc", 3);
}

/* --- options ------------------------------------------------------------- */

static void options(void)
{
	static const char *const given[] = { "number=9", "text=a=b", NULL };
	struct fake *f = fake_new(&slow_class, given, NULL);

	CHECK_EQ(slow_of(f)->number, 9);
	CHECK_STR(slow_of(f)->text, "a=b");
	CHECK_EQ(fake_config(f, 0, 4), 9);
	fake_free(f);
	f = fake_new(&slow_class, NULL, NULL);
	CHECK_EQ(slow_of(f)->number, 7);
	fake_free(f);
}

static void option_error_names_key(void)
{
	static const char *const given[] = { "nunber=9", NULL };
	struct vz_error e = { 0 };

	CHECK(!fake_new(&slow_class, given, &e));
	CHECK_STR(e.where, "nunber");
	CHECK(strstr(e.text, "number") != NULL);
}

static void open_failure_closes(void)
{
	static const char *const given[] = { "text=fail", NULL };
	struct vz_error e = { 0 };

	CHECK(!fake_new(&slow_class, given, &e));
	CHECK_EQ(e.code, -EIO);
	CHECK_STR(e.where, "text");
}

/* --- status and features ------------------------------------------------- */

static void status_steps_in_order(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK_EQ(f->dev->status, 0);
	vdev_features_set(f->dev, 1, 1);
	vdev_status_set(f->dev, VIRTIO_STATUS_DRIVER);
	CHECK_EQ(f->dev->status, 0);
	vdev_status_set(f->dev, STATUS_ACK | VIRTIO_STATUS_DRIVER_OK);
	CHECK_EQ(f->dev->status, STATUS_ACK);
	vdev_status_set(f->dev, STATUS_DRIVER);
	vdev_status_set(f->dev, STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK);
	CHECK_EQ(f->dev->status, STATUS_DRIVER);
	CHECK_EQ(slow_of(f)->starts, 0);
	vdev_status_set(f->dev, STATUS_FEATS);
	vdev_status_set(f->dev, STATUS_OK);
	CHECK_EQ(f->dev->status, STATUS_OK);
	CHECK_EQ(slow_of(f)->starts, 1);
	fake_free(f);
}

static void status_bits_stay(void)
{
	struct fake *f = begin(FAKE_ALL);

	vdev_status_set(f->dev, STATUS_ACK);
	CHECK_EQ(f->dev->status, STATUS_OK);
	/* The device's own bit, and those that mean nothing. */
	vdev_status_set(f->dev, STATUS_OK | VIRTIO_STATUS_NEEDS_RESET | 0x30);
	CHECK_EQ(f->dev->status, STATUS_OK);
	vdev_status_set(f->dev, STATUS_OK);
	CHECK_EQ(slow_of(f)->starts, 1);
	vdev_status_set(f->dev, STATUS_OK | VIRTIO_STATUS_FAILED);
	CHECK_EQ(f->dev->status, STATUS_OK | VIRTIO_STATUS_FAILED);
	vdev_status_set(f->dev, 0);
	CHECK_EQ(f->dev->status, 0);
	fake_free(f);
}

static void failed_goes_no_further(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(fake_negotiate(f, FAKE_ALL));
	vdev_status_set(f->dev, STATUS_FEATS | VIRTIO_STATUS_FAILED);
	vdev_status_set(f->dev, STATUS_OK | VIRTIO_STATUS_FAILED);
	CHECK_EQ(f->dev->status, STATUS_FEATS | VIRTIO_STATUS_FAILED);
	CHECK_EQ(slow_of(f)->starts, 0);
	fake_free(f);
}

static bool accepts(struct fake *f, uint32_t select, uint32_t bits)
{
	vdev_status_set(f->dev, 0);
	vdev_status_set(f->dev, STATUS_DRIVER);
	vdev_features_set(f->dev, 1, 1); /* VERSION_1 */
	vdev_features_set(f->dev, select, bits);
	vdev_status_set(f->dev, STATUS_FEATS);
	return f->dev->status & VIRTIO_STATUS_FEATURES_OK;
}

static void features_must_be_offered(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK_EQ(vdev_features_get(f->dev, 0), 5u | 1u << 28 | 1u << 29);
	CHECK_EQ(vdev_features_get(f->dev, 1), 1u | 1u << 2 | 1u << 8);
	CHECK_EQ(vdev_features_get(f->dev, 2), 0);
	CHECK_EQ(vdev_features_get(f->dev, UINT32_MAX), 0);
	CHECK(accepts(f, 0, 1));
	CHECK(accepts(f, 0, 5));
	CHECK(!accepts(f, 0, 2));
	CHECK(!accepts(f, 1, 1 | 2)); /* ACCESS_PLATFORM */
	CHECK(!accepts(f, 1, 0));     /* no VERSION_1 */
	CHECK(!accepts(f, 2, 1));
	CHECK(!accepts(f, 3, 1u << 31));
	CHECK(accepts(f, 3, 0));
	CHECK(accepts(f, 4, 1)); /* there is no such word */
	fake_free(f);
}

static void features_freeze(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(accepts(f, 0, 1));
	vdev_features_set(f->dev, 0, 4);
	CHECK_EQ(vdev_features_driver(f->dev, 0), 1);
	CHECK_EQ(f->dev->accepted, 1ull << 32 | 1);
	vdev_status_set(f->dev, 0);
	CHECK_EQ(f->dev->accepted, 0);
	fake_free(f);
}

static void no_buffers_before_driver_ok(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);
	uint8_t in[3];
	struct fake_buf bufs[] = { FAKE_OUT("abc", 3), FAKE_IN(in, 3) };
	int token;

	CHECK(fake_negotiate(f, features));
	fake_queue_setup(f, 0, 0);
	fake_queue_setup(f, 2, 0);
	token = fake_post(f, 0, bufs, 2);
	fake_kick_always(f, 0);
	CHECK_EQ(slow_of(f)->popped, 0);
	slow_of(f)->fast = true;
	/* Then every enabled queue is looked at once. */
	fake_driver_ok(f);
	CHECK_EQ(slow_of(f)->kicks, 2);
	CHECK_EQ(fake_wait(f, 0, token), 3);
	fake_free(f);
}
EACH_FORMAT(no_buffers_before_driver_ok)

static void queues_need_features_ok(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	vdev_status_set(f->dev, STATUS_DRIVER);
	fake_evil_queue(f, 0, 16, 0x1000, 0x2000, 0x3000);
	CHECK(!vdev_queue(f->dev, 0)->enabled);
	CHECK(!fake_needs_reset(f));
	fake_free(f);
}

/* --- reset --------------------------------------------------------------- */

/* What was in flight is finished before the status reads 0; nothing is written later. */
static void reset_with_request_in_flight(uint64_t features)
{
	struct fake *f = begin(features);
	struct slow *slow = slow_of(f);
	uint64_t at = fake_alloc(f, 64, 16);
	struct fake_desc bufs[] = { { at, 4, 0, 0 }, { at + 16, 4, FAKE_F_WRITE, 0 } };

	memcpy(fake_ptr(f, at), "data", 4);
	CHECK(fake_post_gpa(f, 0, bufs, 2) >= 0);
	CHECK(fake_post_gpa(f, 1, bufs, 2) >= 0);
	fake_kick(f, 0);
	fake_kick(f, 1);
	CHECK_EQ(slow->held, 2);
	fake_reset(f);
	CHECK_EQ(slow->quiesces, 1);
	CHECK_EQ(slow->held, 0);
	CHECK_EQ(f->dev->status, 0);
	CHECK(!vdev_queue(f->dev, 0)->enabled);
	memset(fake_ptr(f, at + 16), 0, 4);
	fake_spin(f, 5);
	CHECK_EQ(*(uint32_t *)fake_ptr(f, at + 16), 0);
	CHECK(fake_start(f, features, 8));
	CHECK(echoes(f, 0));
	fake_free(f);
}
EACH_FORMAT(reset_with_request_in_flight)

static void reset_restores_queue_fields(void)
{
	struct fake *f = begin(FAKE_ALL);
	struct virtqueue *vq = vdev_queue(f->dev, 1);

	CHECK_EQ(vq->size, 16);
	fake_reset(f);
	CHECK_EQ(vq->size, 64);
	CHECK_EQ(vq->desc | vq->driver | vq->device, 0);
	CHECK_EQ(vq->next_avail, 0);
	fake_free(f);
}

static void quiesce_only_when_started(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(fake_negotiate(f, FAKE_ALL));
	vdev_pause(f->dev);
	vdev_resume(f->dev);
	fake_reset(f);
	CHECK_EQ(slow_of(f)->quiesces, 0);
	fake_free(f);
}

static void ring_reset(uint64_t features)
{
	struct fake *f = begin(features);
	uint8_t in[3];
	struct fake_buf bufs[] = { FAKE_OUT("abc", 3), FAKE_IN(in, 3) };
	int token;

	CHECK(echoes(f, 0));
	CHECK(echoes(f, 1));
	slow_of(f)->fast = false;
	token = fake_post(f, 1, bufs, 2);
	fake_kick(f, 1);
	vdev_queue_reset(f->dev, 0);
	CHECK(!vdev_queue(f->dev, 0)->enabled);
	CHECK_EQ(vdev_queue(f->dev, 0)->size, 64);
	/* The others go on: one that was under way is complete, new ones are taken. */
	CHECK(fake_done(f, 1, token));
	CHECK(echoes(f, 1));
	fake_kick_always(f, 0);
	fake_queue_setup(f, 0, 4);
	CHECK(vdev_queue(f->dev, 0)->enabled);
	CHECK_EQ(vdev_queue(f->dev, 0)->size, 4);
	for (unsigned i = 0; i < 10; i++)
		CHECK(echoes(f, 0));
	CHECK(echoes(f, 1));
	CHECK_EQ(slow_of(f)->starts, 1);
	fake_free(f);
}
EACH_FORMAT(ring_reset)

static void ring_reset_needs_feature(void)
{
	struct fake *f = begin(FAKE_ALL & ~VIRTIO_BIT(VIRTIO_F_RING_RESET));

	vdev_queue_reset(f->dev, 0);
	CHECK(vdev_queue(f->dev, 0)->enabled);
	CHECK(echoes(f, 0));
	fake_free(f);
}

/* --- config space -------------------------------------------------------- */

static void config_change_tells_driver(void)
{
	struct fake *f = begin(FAKE_ALL);
	uint32_t before = f->dev->generation;

	slow_of(f)->number = 99;
	le32_store(f->dev->config, 99);
	vdev_config_changed(f->dev);
	CHECK(f->dev->generation != before);
	CHECK_EQ(f->config_changes, 1);
	CHECK_EQ(fake_config(f, 0, 4), 99);
	fake_reset(f);
	CHECK_EQ(fake_config(f, 0, 4), 99);
	vdev_config_changed(f->dev);
	CHECK_EQ(f->config_changes, 1);
	fake_free(f);
}

static void config_writes(void)
{
	struct fake *f = begin(FAKE_ALL);

	vdev_config_write(f->dev, 4, 4, 0x11223344);
	CHECK_EQ(slow_of(f)->config_writes, 1);
	CHECK_EQ(fake_config(f, 4, 4), 0x11223344);
	CHECK_EQ(fake_config(f, 5, 1), 0x33);
	/* What the class does not accept it puts back. */
	vdev_config_write(f->dev, 8, 4, 5);
	CHECK_EQ(fake_config(f, 8, 4), 0x01020304);
	CHECK_EQ(f->config_changes, 0);
	fake_free(f);
}

/* Reset takes back the driver's writes, and not what the device changed meanwhile. */
static void config_reset(void)
{
	struct fake *f = begin(FAKE_ALL);

	vdev_config_write(f->dev, 0, 8, UINT64_MAX);
	CHECK_EQ(fake_config(f, 0, 8), 0xffffffff00000007);
	slow_of(f)->number = 100;
	le32_store(f->dev->config, 100);
	vdev_config_changed(f->dev);
	fake_reset(f);
	CHECK_EQ(fake_config(f, 0, 4), 100);
	CHECK_EQ(fake_config(f, 4, 4), 0x55);
	CHECK_EQ(slow_of(f)->config_writes, 2);
	fake_reset(f);
	CHECK_EQ(slow_of(f)->config_writes, 2);
	/* To what the device said last, not to what it said first. */
	le32_store(f->dev->config + 4, 0x66);
	vdev_config_changed(f->dev);
	vdev_config_write(f->dev, 4, 4, 1);
	fake_reset(f);
	CHECK_EQ(fake_config(f, 4, 4), 0x66);
	fake_free(f);
}

static void config_without_verb_is_read_only(void)
{
	struct device_class class = slow_class;
	struct fake *f;

	class.config_wrote = NULL;
	f = fake_new(&class, NULL, NULL);
	vdev_config_write(f->dev, 4, 4, 0);
	CHECK_EQ(fake_config(f, 4, 4), 0x55);
	fake_free(f);
}

/* --- broken -------------------------------------------------------------- */

static unsigned lines;

static void count_line(void *arg, enum log_level level, const char *line)
{
	lines += strstr(line, "slow") != NULL;
}

static void broken_tells_driver_once(uint64_t features)
{
	struct fake *f = begin(features);
	uint8_t in[3];

	CHECK(fake_post(f, 0, &FAKE_IN(in, 3), 1) >= 0);
	lines = 0;
	log_set_sink(LOG_INFO, count_line, NULL);
	vdev_broken(f->dev, "test");
	vdev_broken(f->dev, "test");
	log_set_sink(LOG_INFO, NULL, NULL);
	CHECK_EQ(lines, 1);
	CHECK_EQ(f->config_changes, 1);
	CHECK(fake_needs_reset(f));
	/* Nothing more is taken, until the driver resets. */
	fake_kick_always(f, 0);
	CHECK_EQ(slow_of(f)->popped, 0);
	vdev_status_set(f->dev, STATUS_OK);
	CHECK(fake_needs_reset(f));
	CHECK(fake_start(f, features, 0));
	CHECK(!fake_needs_reset(f));
	CHECK(echoes(f, 0));
	fake_free(f);
}
EACH_FORMAT(broken_tells_driver_once)

static void broken_before_driver_ok(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(fake_negotiate(f, FAKE_ALL));
	fake_evil_queue(f, 0, 16, 1, 2, 3);
	CHECK(fake_needs_reset(f));
	CHECK_EQ(f->config_changes, 0);
	/* The driver learns of it when it may be told. */
	fake_driver_ok(f);
	CHECK_EQ(f->config_changes, 1);
	CHECK_EQ(slow_of(f)->starts, 0);
	fake_free(f);
}

static void log_is_limited(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	lines = 0;
	log_set_sink(LOG_INFO, count_line, NULL);
	for (unsigned i = 0; i < 1000; i++) {
		CHECK(fake_start(f, FAKE_ALL, 16));
		vdev_broken(f->dev, "test");
	}
	log_set_sink(LOG_INFO, NULL, NULL);
	CHECK(lines >= 1 && lines < 20);
	CHECK_EQ(f->config_changes, 1000);
	fake_free(f);
}

/* --- pause and saved state ----------------------------------------------- */

static void pause_and_resume(uint64_t features)
{
	struct fake *f = begin(features);
	uint8_t in[3];
	struct fake_buf bufs[] = { FAKE_OUT("abc", 3), FAKE_IN(in, 3) };
	int first = fake_post(f, 0, bufs, 2), second;

	fake_kick(f, 0);
	CHECK_EQ(slow_of(f)->held, 1);
	vdev_pause(f->dev);
	CHECK_EQ(slow_of(f)->held, 0);
	CHECK(fake_done(f, 0, first));
	second = fake_post(f, 0, bufs, 2);
	fake_kick_always(f, 0);
	CHECK_EQ(slow_of(f)->popped, 1);
	/* Not even if the class asks, from a callback of its own. */
	CHECK_EQ(vq_pop(vdev_queue(f->dev, 0), slow_of(f)->chains[0]), 0);
	CHECK(vq_empty(vdev_queue(f->dev, 0)));
	slow_of(f)->fast = true;
	vdev_resume(f->dev);
	CHECK_EQ(fake_wait(f, 0, second), 3);
	CHECK_EQ(f->q[0].interrupts, 2);
	fake_free(f);
}
EACH_FORMAT(pause_and_resume)

/* In the middle of a lap, with a chain posted that the device has not seen. */
static void state_round_trip(uint64_t features)
{
	struct fake *f = begin(features);
	uint8_t in[3];
	struct fake_buf bufs[] = { FAKE_OUT("abc", 3), FAKE_IN(in, 3) };
	uint64_t accepted = f->dev->accepted;
	int token;

	for (unsigned i = 0; i < 37; i++)
		CHECK(echoes(f, 0));
	slow_of(f)->secret = 0xdeadbeef;
	vdev_config_write(f->dev, 4, 4, 0x7777);
	vdev_pause(f->dev);
	token = fake_post(f, 0, bufs, 2);
	fake_kick_always(f, 0);
	CHECK_EQ(fake_save_restore(f, NULL, NULL), 0);
	CHECK_EQ(f->dev->status, STATUS_OK);
	CHECK_EQ(f->dev->accepted, accepted);
	CHECK_EQ(slow_of(f)->starts, 1);
	CHECK_EQ(slow_of(f)->secret, 0xdeadbeef);
	CHECK_EQ(fake_config(f, 4, 4), 0x7777);
	CHECK_EQ(slow_of(f)->held, 1);
	slow_finish(slow_of(f));
	CHECK_EQ(fake_wait(f, 0, token), 3);
	for (unsigned i = 0; i < 40; i++)
		CHECK(echoes(f, i % 2));
	CHECK(!fake_needs_reset(f));
	fake_reset(f);
	CHECK_EQ(fake_config(f, 4, 4), 0x55);
	fake_free(f);
}
EACH_FORMAT(state_round_trip)

static void state_before_driver_ok(void)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(fake_negotiate(f, FAKE_ALL));
	fake_queue_setup(f, 0, 8);
	CHECK_EQ(fake_save_restore(f, NULL, NULL), 0);
	CHECK_EQ(f->dev->status, STATUS_FEATS);
	CHECK_EQ(slow_of(f)->starts, 0);
	fake_driver_ok(f);
	CHECK(echoes(f, 0));
	fake_free(f);
}

static void state_of_broken_device(uint64_t features)
{
	struct fake *f = begin(features);

	vq_break(vdev_queue(f->dev, 0), "test");
	CHECK_EQ(fake_save_restore(f, NULL, NULL), 0);
	CHECK(fake_needs_reset(f));
	fake_kick_always(f, 0);
	CHECK_EQ(slow_of(f)->popped, 0);
	CHECK(fake_start(f, features, 0));
	CHECK(echoes(f, 0));
	fake_free(f);
}
EACH_FORMAT(state_of_broken_device)

static void state_of_other_class(void)
{
	struct device_class other = slow_class;
	struct fake *f = begin(FAKE_ALL), *g;
	struct state *save = state_save_new(), *load;
	const void *bytes;
	size_t len;

	other.id = 44;
	g = fake_new(&other, NULL, NULL);
	CHECK_EQ(vdev_state(f->dev, save), 0);
	bytes = state_bytes(save, &len);
	load = state_load_new(bytes, len);
	CHECK_EQ(vdev_state(g->dev, load), -EINVAL);
	CHECK_EQ(g->dev->status, 0);
	state_free(load);
	state_free(save);
	fake_free(f);
	fake_free(g);
}

/* Load the device's own state with the position of the first queue replaced. */
static int load_position(struct fake *f, uint16_t position)
{
	struct state *save = state_save_new(), *load;
	const void *bytes;
	uint8_t *copy, *field;
	size_t len;
	int r;

	CHECK_EQ(vdev_state(f->dev, save), 0);
	bytes = state_bytes(save, &len);
	copy = malloc(len);
	memcpy(copy, bytes, len);
	field = memmem(copy, len, "position", 8);
	CHECK(field != NULL);
	le16_store(field + 8 + 4, position); /* behind name and length */
	load = state_load_new(copy, len);
	r = vdev_state(f->dev, load);
	state_free(load);
	state_free(save);
	free(copy);
	return r;
}

static void hardening_12_position_outside_ring(void)
{
	static const uint16_t bad[] = { 16, 17, 0x8000, 0xffff };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fake *f = begin(FAKE_PACKED);

		CHECK_EQ(load_position(f, bad[i]), -EINVAL);
		CHECK_EQ(f->dev->status, 0);
		fake_free(f);
	}
}

/* A queue that is not enabled yet would be enabled with that position later. */
static void hardening_12_position_of_disabled_queue(uint64_t features)
{
	struct fake *f = fake_new(&slow_class, NULL, NULL);

	CHECK(fake_negotiate(f, features));
	CHECK_EQ(load_position(f, 0xffff), 0);
	CHECK_EQ(vdev_queue(f->dev, 0)->next_avail, 0);
	vdev_resume(f->dev);
	fake_queue_setup(f, 0, 8);
	fake_driver_ok(f);
	CHECK(echoes(f, 0));
	fake_free(f);
}
EACH_FORMAT(hardening_12_position_of_disabled_queue)

/* Row 12: a snapshot file is hostile too. Every byte is changed in turn, in several ways. */
static void hardening_12_mutated_state(uint64_t features)
{
	static const uint8_t masks[] = { 0xff, 0x01, 0x80, 0x10 };
	struct fake *f = begin(features);
	struct state *save = state_save_new();
	unsigned refused = 0, taken = 0;
	const uint8_t *bytes;
	uint8_t *copy;
	size_t len;

	for (unsigned i = 0; i < 5; i++)
		CHECK(echoes(f, 0));
	CHECK_EQ(vdev_state(f->dev, save), 0);
	bytes = state_bytes(save, &len);
	copy = malloc(len);
	for (size_t i = 0; i < len * 4; i++) {
		struct state *load;
		int r;

		memcpy(copy, bytes, len);
		copy[i / 4] ^= masks[i % 4];
		load = state_load_new(copy, len);
		r = vdev_state(f->dev, load);
		if (r) {
			refused++;
			CHECK_EQ(f->dev->status, 0);
		} else {
			taken++;
		}
		state_free(load);
		/* The device must be usable, or at least harmless. */
		vdev_resume(f->dev);
		for (unsigned q = 0; q < 3; q++)
			vdev_kick(f->dev, q);
		loop_dispatch(f->loop, 0);
	}
	CHECK(refused > len && taken > 20);
	free(copy);
	state_free(save);
	fake_free(f);
}
EACH_FORMAT(hardening_12_mutated_state)

int main(void)
{
	RUN(options);
	RUN(option_error_names_key);
	RUN(open_failure_closes);
	RUN(status_steps_in_order);
	RUN(status_bits_stay);
	RUN(failed_goes_no_further);
	RUN(features_must_be_offered);
	RUN(features_freeze);
	RUN_EACH(no_buffers_before_driver_ok);
	RUN(queues_need_features_ok);
	RUN_EACH(reset_with_request_in_flight);
	RUN(reset_restores_queue_fields);
	RUN(quiesce_only_when_started);
	RUN_EACH(ring_reset);
	RUN(ring_reset_needs_feature);
	RUN(config_change_tells_driver);
	RUN(config_writes);
	RUN(config_reset);
	RUN(config_without_verb_is_read_only);
	RUN_EACH(broken_tells_driver_once);
	RUN(broken_before_driver_ok);
	RUN(log_is_limited);
	RUN_EACH(pause_and_resume);
	RUN_EACH(state_round_trip);
	RUN(state_before_driver_ok);
	RUN_EACH(state_of_broken_device);
	RUN(state_of_other_class);
	RUN(hardening_12_position_outside_ring);
	RUN_EACH(hardening_12_position_of_disabled_queue);
	RUN_EACH(hardening_12_mutated_state);
	return tap_done();
}
