/* SPDX-License-Identifier: MIT */
/*
 * Virtqueues in use (virtio 1.4 sections 2.7 and 2.8), with a device that sends back what it is
 * sent. Each test runs on split and on packed rings.
 */
#include "fake_driver.h"

#include "base/arith.h"
#include "tap.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define QUEUE_MAX 256

struct echo {
	struct vdev dev;
	struct chain *chain;
	bool silent; /* polls: asks for no notification while it works */
	unsigned kicks;
};

static void serve(struct chain *c)
{
	uint8_t bytes[4096];
	size_t n;

	while ((n = chain_read(c, bytes, sizeof(bytes))) > 0)
		chain_write(c, bytes, n);
	chain_done(c);
}

static void echo_kick(struct vdev *dev, struct virtqueue *vq)
{
	struct echo *echo = (struct echo *)dev;

	echo->kicks++;
	if (echo->silent)
		vq_notify_off(vq);
	while (vq_pop(vq, echo->chain) > 0)
		serve(echo->chain);
	vq_notify(vq);
}

static int echo_open(struct vdev *dev, struct vz_error *e)
{
	((struct echo *)dev)->chain = malloc(CHAIN_BYTES(QUEUE_MAX));
	return 0;
}

static void echo_close(struct vdev *dev)
{
	free(((struct echo *)dev)->chain);
}

static const struct device_class echo_class = {
	.name = "echo",
	.id = 42,
	.queues = 2,
	.queue_size = QUEUE_MAX,
	.size = sizeof(struct echo),
	.in_order = true,
	.open = echo_open,
	.close = echo_close,
	.kick = echo_kick,
};

static struct echo *echo_of(struct fake *f)
{
	return (struct echo *)f->dev;
}

static struct fake *begin(uint64_t features, uint16_t size)
{
	struct fake *f = fake_new(&echo_class, NULL, NULL);

	CHECK(f && fake_start(f, features, size));
	return f;
}

/* Every body below is run with both ring formats. */
#define EACH_FORMAT(fn)               \
	static void fn##_split(void)  \
	{                             \
		fn(FAKE_ALL);         \
	}                             \
	static void fn##_packed(void) \
	{                             \
		fn(FAKE_PACKED);      \
	}
#define RUN_EACH(fn)              \
	do {                      \
		RUN(fn##_split);  \
		RUN(fn##_packed); \
	} while (0)

/* Send a pattern cut in two pieces, get it back in three. */
static bool echoes(struct fake *f, unsigned queue, uint8_t seed)
{
	uint8_t out[100], in[110] = { 0 };
	struct fake_buf bufs[] = { FAKE_OUT(out, 33), FAKE_OUT(out + 33, 67), FAKE_IN(in, 1),
		FAKE_IN(in + 1, 60), FAKE_IN(in + 61, 49) };

	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(seed + i);
	return fake_request(f, queue, bufs, 5) == 100 && !memcmp(in, out, 100);
}

static void round_trip(uint64_t features)
{
	struct fake *f = begin(features, 0);

	CHECK(echoes(f, 0, 1));
	CHECK(echoes(f, 1, 2));
	CHECK_EQ(f->q[0].interrupts, 1);
	CHECK_EQ(f->q[1].interrupts, 1);
	fake_free(f);
}
EACH_FORMAT(round_trip)

/* Through many laps, at every size that the format allows. */
static void all_sizes(uint64_t features)
{
	struct fake *f = fake_new(&echo_class, NULL, NULL);
	bool packed = features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);

	for (uint16_t size = 1; size <= QUEUE_MAX;
		size = packed && size < 40 ? size + 1 : size * 2) {
		uint8_t byte = (uint8_t)size, back = 0;
		struct fake_buf bufs[] = { FAKE_OUT(&byte, 1), FAKE_IN(&back, 1) };
		bool fine = fake_start(f, features, size) && f->q[0].size == size;

		for (unsigned i = 0; i < 5u * size && fine; i++) {
			if (size == 1)
				fine = fake_request(f, 0, bufs, 1) == 0;
			else
				fine = fake_request(f, 0, bufs, 2) == 1 && back == byte;
			back = 0;
		}
		CHECK(fine);
		CHECK_EQ(f->q[0].interrupts, 5 * size);
	}
	fake_free(f);
}
EACH_FORMAT(all_sizes)

/* More than 65536 chains: the free-running index of split rings wraps. */
static void index_wrap(uint64_t features)
{
	struct fake *f = begin(features, 16);
	unsigned bad = 0;

	for (unsigned i = 0; i < 70000; i++) {
		uint8_t byte = (uint8_t)i, back = 0;
		struct fake_buf bufs[] = { FAKE_OUT(&byte, 1), FAKE_IN(&back, 1) };

		bad += fake_request(f, 0, bufs, 2) != 1 || back != byte;
	}
	CHECK_EQ(bad, 0);
	CHECK_EQ(f->q[0].interrupts, 70000);
	CHECK_EQ(f->q[0].kicks, 70000);
	fake_free(f);
}
EACH_FORMAT(index_wrap)

static void post_many(struct fake *f, unsigned n)
{
	static uint8_t byte = 1;
	struct fake_buf bufs[] = { FAKE_OUT(&byte, 1) };

	for (unsigned i = 0; i < n; i++)
		CHECK(fake_post(f, 0, bufs, 1) >= 0);
}

static void full_ring(uint64_t features)
{
	struct fake *f = begin(features, 64);

	for (unsigned lap = 0; lap < 5; lap++) {
		post_many(f, 64);
		CHECK_EQ(fake_post(f, 0, &FAKE_OUT(f, 1), 1), -ENOSPC);
		fake_kick(f, 0);
		CHECK_EQ(fake_reap(f, 0), 64);
	}
	CHECK(!fake_needs_reset(f));
	fake_free(f);
}
EACH_FORMAT(full_ring)

static void one_interrupt_a_batch(uint64_t features)
{
	struct fake *f = begin(features & ~VIRTIO_BIT(VIRTIO_F_EVENT_IDX), 64);

	post_many(f, 50);
	fake_kick(f, 0);
	CHECK_EQ(f->q[0].interrupts, 1);
	CHECK_EQ(fake_reap(f, 0), 50);
	fake_free(f);
}
EACH_FORMAT(one_interrupt_a_batch)

static void driver_wants_no_interrupt(uint64_t features)
{
	struct fake *f = begin(features & ~VIRTIO_BIT(VIRTIO_F_EVENT_IDX), 64);

	fake_interrupt_after(f, 0, 0);
	post_many(f, 5);
	fake_kick(f, 0);
	CHECK_EQ(f->q[0].interrupts, 0);
	CHECK_EQ(fake_reap(f, 0), 5);
	fake_interrupt_after(f, 0, 1);
	post_many(f, 5);
	fake_kick(f, 0);
	CHECK_EQ(f->q[0].interrupts, 1);
	fake_free(f);
}
EACH_FORMAT(driver_wants_no_interrupt)

/* The driver names the completion that it wants to hear of; each batch is one chain here. */
static void event_index_interrupts(uint64_t features)
{
	struct fake *f = begin(features, 64);

	for (unsigned lap = 0; lap < 40; lap++) {
		unsigned before = f->q[0].interrupts;

		fake_interrupt_after(f, 0, 10);
		for (unsigned i = 1; i <= 20; i++) {
			post_many(f, 1);
			fake_kick(f, 0);
			CHECK_EQ(fake_reap(f, 0), 1);
			CHECK_EQ(f->q[0].interrupts, before + (i >= 10));
		}
	}
	fake_interrupt_after(f, 0, 0);
	post_many(f, 30);
	fake_kick(f, 0);
	CHECK_EQ(f->q[0].interrupts, 40);
	fake_free(f);
}
EACH_FORMAT(event_index_interrupts)

/* In one batch that goes over the index asked for. */
static void event_index_in_batch(uint64_t features)
{
	struct fake *f = begin(features, 64);

	for (unsigned lap = 0; lap < 40; lap++) {
		fake_interrupt_after(f, 0, 7);
		post_many(f, 6);
		fake_kick(f, 0);
		CHECK_EQ(f->q[0].interrupts, lap);
		post_many(f, 33);
		fake_kick(f, 0);
		CHECK_EQ(f->q[0].interrupts, lap + 1);
		CHECK_EQ(fake_reap(f, 0), 39);
	}
	fake_free(f);
}
EACH_FORMAT(event_index_in_batch)

/* The device asks for a notification when it has found nothing, and for one only. */
static void notification_suppression(uint64_t features, unsigned wanted)
{
	struct fake *f = begin(features, 64);
	unsigned kicks;

	echo_of(f)->silent = true;
	post_many(f, 1);
	fake_kick(f, 0);
	kicks = f->q[0].kicks;
	/* While it works (here: does not look) further chains are silent. */
	vq_notify_off(vdev_queue(f->dev, 0));
	post_many(f, 1);
	fake_kick(f, 0);
	CHECK_EQ(f->q[0].kicks - kicks, wanted);
	fake_kick_always(f, 0);
	CHECK_EQ(fake_reap(f, 0), 2);
	kicks = f->q[0].kicks;
	post_many(f, 1);
	fake_kick(f, 0);
	CHECK_EQ(f->q[0].kicks - kicks, 1);
	fake_free(f);
}

static void notification_flag(uint64_t features)
{
	notification_suppression(features & ~VIRTIO_BIT(VIRTIO_F_EVENT_IDX), 0);
}
EACH_FORMAT(notification_flag)

static void notification_packed_event_index(void)
{
	notification_suppression(FAKE_PACKED, 0);
}

/* With event index a driver that goes on past the index asked for is silent. */
static void event_index_kicks(uint64_t features)
{
	struct fake *f = begin(features, 64);
	unsigned kicks;

	post_many(f, 1);
	fake_kick(f, 0);
	vdev_pause(f->dev);
	kicks = f->q[0].kicks;
	for (unsigned i = 0; i < 5; i++) {
		post_many(f, 1);
		fake_kick(f, 0);
	}
	CHECK_EQ(f->q[0].kicks - kicks, 1);
	vdev_resume(f->dev);
	CHECK_EQ(fake_reap(f, 0), 6);
	fake_free(f);
}
EACH_FORMAT(event_index_kicks)

static void indirect(uint64_t features)
{
	struct fake *f = begin(features, 8);

	f->q[0].indirect = true;
	for (unsigned i = 0; i < 100; i++)
		CHECK(echoes(f, 0, (uint8_t)i));
	CHECK_EQ(f->q[0].interrupts, 100);
	fake_free(f);
}
EACH_FORMAT(indirect)

/* Section 2.7.5.3.2: plain descriptors, then one that is indirect. */
static void chain_ends_in_table(void)
{
	struct fake *f = begin(FAKE_ALL, 8);
	uint64_t at = fake_alloc(f, 64, 16);
	struct fake_desc table[] = { { at + 4, 4, FAKE_F_NEXT, 1 },
		{ at + 8, 8, FAKE_F_WRITE, 0 } };
	struct fake_desc chain[] = { { at, 4, FAKE_F_NEXT, 1 },
		{ fake_table(f, table, 2), 32, FAKE_F_INDIRECT | FAKE_F_WRITE, 0 } };

	memcpy(fake_ptr(f, at), "descend", 8);
	fake_evil_chain(f, 0, chain, 2);
	fake_kick(f, 0);
	CHECK(!memcmp(fake_ptr(f, at + 8), "descend", 8));
	fake_free(f);
}

/* The longest chain there may be. */
static void chain_of_queue_size(uint64_t features)
{
	struct fake *f = begin(features, 32);
	struct fake_buf bufs[32];
	uint8_t out[16], in[16] = { 0 };

	for (unsigned i = 0; i < 16; i++) {
		out[i] = (uint8_t)(i * 3);
		bufs[i] = FAKE_OUT(&out[i], 1);
		bufs[16 + i] = FAKE_IN(&in[i], 1);
	}
	for (unsigned lap = 0; lap < 3; lap++) {
		memset(in, 0, sizeof(in));
		f->q[0].indirect = lap == 2;
		CHECK_EQ(fake_request(f, 0, bufs, 32), 16);
		CHECK(!memcmp(in, out, 16));
	}
	fake_free(f);
}
EACH_FORMAT(chain_of_queue_size)

static void in_order(uint64_t features)
{
	struct fake *f = begin(features, 16);

	CHECK(vdev_has(f->dev, VIRTIO_F_IN_ORDER));
	CHECK(vdev_queue(f->dev, 0)->in_order);
	for (unsigned lap = 0; lap < 20; lap++) {
		post_many(f, 5);
		fake_kick(f, 0);
		CHECK_EQ(fake_reap(f, 0), 5);
		CHECK(echoes(f, 0, (uint8_t)lap));
	}
	fake_free(f);
}
EACH_FORMAT(in_order)

/* Neither event index, nor indirect, nor in order. */
static void plain(uint64_t features)
{
	struct fake *f = begin(features & VIRTIO_BIT(VIRTIO_F_RING_PACKED), 16);

	CHECK_EQ(f->dev->accepted & ~VIRTIO_BIT(VIRTIO_F_RING_PACKED),
		VIRTIO_BIT(VIRTIO_F_VERSION_1));
	for (unsigned i = 0; i < 50; i++)
		CHECK(echoes(f, 0, (uint8_t)i));
	CHECK_EQ(f->q[0].interrupts, 50);
	fake_free(f);
}
EACH_FORMAT(plain)

/* Cursor functions on segments of 3, 5 and 8 bytes. */
static void cursor(uint64_t features)
{
	struct fake *f = begin(features, 16);
	struct chain *c = echo_of(f)->chain;
	struct virtqueue *vq = vdev_queue(f->dev, 0);
	uint8_t in[16] = { 0 }, got[16];
	struct fake_buf bufs[] = { FAKE_OUT("abc", 3), FAKE_OUT("defgh", 5), FAKE_IN(in, 3),
		FAKE_IN(in + 3, 5), FAKE_IN(in + 8, 8) };
	int token = fake_post(f, 0, bufs, 5);
	struct iovec iov[4];
	size_t bytes;

	CHECK_EQ(vq_pop(vq, c), 1);
	CHECK_EQ(chain_left_read(c), 8);
	CHECK_EQ(chain_left_write(c), 16);
	CHECK_EQ(chain_read(c, got, 4), 4);
	CHECK(!memcmp(got, "abcd", 4));
	CHECK_EQ(chain_iov_read(c, iov, 4, &bytes), 1);
	CHECK_EQ(bytes, 4);
	CHECK(!memcmp(iov[0].iov_base, "efgh", 4));
	chain_skip_read(c, 1);
	CHECK_EQ(chain_read(c, got, 16), 3);
	CHECK(!memcmp(got, "fgh", 3));
	CHECK_EQ(chain_read(c, got, 16), 0);
	CHECK_EQ(chain_iov_read(c, iov, 4, &bytes), 0);

	CHECK_EQ(chain_write(c, "1234", 4), 4);
	CHECK_EQ(chain_iov_write(c, iov, 4, &bytes), 2);
	CHECK_EQ(bytes, 12);
	CHECK_EQ(iov[0].iov_len, 4);
	CHECK_EQ(iov[1].iov_len, 8);
	CHECK_EQ(chain_iov_write(c, iov, 1, &bytes), 1);
	CHECK_EQ(bytes, 4);
	chain_skip_write(c, 5);
	CHECK_EQ(chain_write(c, "0123456789", 10), 7);
	CHECK_EQ(chain_left_write(c), 0);
	chain_done(c);
	CHECK_EQ(fake_wait(f, 0, token), 16);
	CHECK(!memcmp(in,
		"1234\0\0\0\0\0"
		"0123456",
		16));
	fake_free(f);
}
EACH_FORMAT(cursor)

/* Used length: what was written, never more than there is room for. */
static void used_length_bounded(uint64_t features)
{
	struct fake *f = begin(features, 16);
	struct chain *c = echo_of(f)->chain;
	uint8_t in[10];
	int token = fake_post(f, 0, &FAKE_IN(in, 10), 1);

	CHECK_EQ(vq_pop(vdev_queue(f->dev, 0), c), 1);
	chain_done_len(c, 1000);
	CHECK_EQ(fake_wait(f, 0, token), 10);
	fake_free(f);
}
EACH_FORMAT(used_length_bounded)

static void unpop(uint64_t features)
{
	struct fake *f = begin(features, 4);
	struct chain *c = echo_of(f)->chain;
	struct virtqueue *vq = vdev_queue(f->dev, 0);

	for (unsigned i = 0; i < 20; i++) {
		uint8_t byte = (uint8_t)i;
		struct fake_buf bufs[] = { FAKE_OUT(&byte, 1), FAKE_OUT(&byte, 1),
			FAKE_OUT(&byte, 1) };
		uint8_t got = 0;
		int token = fake_post(f, 0, bufs, 3);

		CHECK_EQ(vq_pop(vq, c), 1);
		chain_unpop(c);
		CHECK_EQ(vq->in_flight, 0);
		CHECK(!vq_empty(vq));
		CHECK_EQ(vq_pop(vq, c), 1);
		CHECK_EQ(chain_read(c, &got, 1), 1);
		CHECK_EQ(got, byte);
		chain_done(c);
		CHECK(fake_done(f, 0, token));
		CHECK(vq_empty(vq));
		CHECK_EQ(vq_pop(vq, c), 0);
	}
	fake_free(f);
}
EACH_FORMAT(unpop)

/* Chains done in another order than they came. */
static void out_of_order(uint64_t features)
{
	struct fake *f = begin(features & ~VIRTIO_BIT(VIRTIO_F_IN_ORDER), 8);
	struct virtqueue *vq = vdev_queue(f->dev, 0);
	struct chain *c[3];

	for (unsigned i = 0; i < 3; i++)
		c[i] = malloc(CHAIN_BYTES(8));
	for (unsigned lap = 0; lap < 30; lap++) {
		int token[3];
		uint8_t in[3] = { 0 };

		for (unsigned i = 0; i < 3; i++) {
			struct fake_buf bufs[] = { FAKE_OUT("xy", 1), FAKE_IN(&in[i], 1) };

			token[i] = fake_post(f, 0, bufs, i == 1 ? 2 : 1);
			CHECK_EQ(vq_pop(vq, c[i]), 1);
		}
		for (unsigned i = 0; i < 3; i++)
			chain_done_len(c[(i + lap) % 3], UINT32_MAX);
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(fake_wait(f, 0, token[i]), i == 1);
		CHECK_EQ(vq_pop(vq, c[0]), 0);
	}
	CHECK_EQ(vq->in_flight, 0);
	for (unsigned i = 0; i < 3; i++)
		free(c[i]);
	fake_free(f);
}
EACH_FORMAT(out_of_order)

static uint64_t written_from, written_bytes;

static void written(void *arg, uint64_t gpa, uint64_t len)
{
	uint64_t from = *(uint64_t *)arg;

	if (gpa >= from && gpa < from + 32) {
		written_from = gpa;
		written_bytes += len;
	}
}

/* Memory learns which guest bytes a chain wrote. */
static void writes_announced(uint64_t features)
{
	struct fake *f = begin(features, 16);
	uint64_t at = fake_alloc(f, 64, 64);
	struct fake_desc bufs[] = { { at + 40, 20, 0, 0 }, { at, 7, FAKE_F_WRITE, 0 },
		{ at + 16, 16, FAKE_F_WRITE, 0 } };
	int token;

	mem_observe(f->mem, written, &at);
	written_bytes = 0;
	token = fake_post_gpa(f, 0, bufs, 3);
	fake_kick(f, 0);
	CHECK_EQ(fake_wait(f, 0, token), 20);
	CHECK_EQ(written_bytes, 20);
	CHECK_EQ(written_from, at + 16);
	mem_observe(f->mem, NULL, NULL);
	fake_free(f);
}
EACH_FORMAT(writes_announced)

/*
 * The driver on a CPU of its own: notifications and interrupts are sent only when they are asked
 * for, and each side sleeps when it finds nothing. A lost one is a driver that waits on.
 */
struct cpus {
	struct fake *f;
	int kick, interrupt;
};

static void on_kick(void *arg, uint32_t events)
{
	struct cpus *cpus = arg;
	eventfd_t value;

	eventfd_read(cpus->kick, &value);
	vdev_kick(cpus->f->dev, 0);
}

static void on_interrupt(void *arg, unsigned queue)
{
	eventfd_write(((struct cpus *)arg)->interrupt, 1);
}

static void *device_cpu(void *arg)
{
	loop_run(((struct cpus *)arg)->f->loop);
	return NULL;
}

static bool wait_for_interrupt(struct cpus *cpus)
{
	struct pollfd p = { .fd = cpus->interrupt, .events = POLLIN };
	eventfd_t value;

	return poll(&p, 1, FAKE_TIMEOUT) == 1 && !eventfd_read(cpus->interrupt, &value);
}

/*
 * Until n chains came back; the number that did before one got stuck. It posts a few, dawdles, and
 * sleeps only when it cannot go on: so the two meet in all places.
 */
static unsigned driver_cpu(struct cpus *cpus, unsigned n)
{
	struct fake *f = cpus->f;
	unsigned posted = 0, back = 0, seed = 1;

	while (back < n) {
		bool stuck = posted == n;

		seed = seed * 1103515245 + 12345;
		for (unsigned burst = 1 + (seed >> 16) % 4; burst && posted < n && !stuck;
			burst--) {
			stuck = fake_post(f, 0, &FAKE_OUT("x", 1), 1) < 0;
			posted += !stuck;
		}
		if (fake_kick_wanted(f, 0))
			eventfd_write(cpus->kick, 1);
		for (volatile unsigned i = (seed >> 20) % 1024; i; i--)
			;
		back += fake_reap(f, 0);
		if (stuck && back < posted) {
			unsigned more;

			fake_interrupt_after(f, 0, 1);
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			more = fake_reap(f, 0);
			back += more;
			if (!more && !wait_for_interrupt(cpus))
				break;
		}
	}
	return back;
}

static void no_lost_notification(uint64_t features)
{
	struct fake *f = begin(features, 8);
	struct cpus cpus = {
		.f = f, .kick = eventfd(0, EFD_NONBLOCK), .interrupt = eventfd(0, EFD_NONBLOCK)
	};
	struct vdev_host host = { .arg = &cpus, .interrupt = on_interrupt };
	struct watch *watch = watch_new(f->loop, cpus.kick, EPOLLIN, on_kick, &cpus, NULL);
	pthread_t thread;

	vdev_set_host(f->dev, &host);
	echo_of(f)->silent = true;
	loop_hand_over(f->loop);
	CHECK(!pthread_create(&thread, NULL, device_cpu, &cpus));
	CHECK_EQ(driver_cpu(&cpus, 60000), 60000);
	loop_stop(f->loop);
	pthread_join(thread, NULL);
	watch_free(watch);
	close(cpus.kick);
	close(cpus.interrupt);
	fake_free(f);
}
EACH_FORMAT(no_lost_notification)

static void no_lost_notification_flags(uint64_t features)
{
	no_lost_notification(features & ~VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
}
EACH_FORMAT(no_lost_notification_flags)

int main(void)
{
	RUN_EACH(round_trip);
	RUN_EACH(all_sizes);
	RUN_EACH(index_wrap);
	RUN_EACH(full_ring);
	RUN_EACH(one_interrupt_a_batch);
	RUN_EACH(driver_wants_no_interrupt);
	RUN_EACH(event_index_interrupts);
	RUN_EACH(event_index_in_batch);
	RUN_EACH(notification_flag);
	RUN(notification_packed_event_index);
	RUN_EACH(event_index_kicks);
	RUN_EACH(indirect);
	RUN(chain_ends_in_table);
	RUN_EACH(chain_of_queue_size);
	RUN_EACH(in_order);
	RUN_EACH(plain);
	RUN_EACH(cursor);
	RUN_EACH(used_length_bounded);
	RUN_EACH(unpop);
	RUN_EACH(out_of_order);
	RUN_EACH(writes_announced);
	RUN_EACH(no_lost_notification);
	RUN_EACH(no_lost_notification_flags);
	return tap_done();
}
