/* SPDX-License-Identifier: MIT */
/* Entropy device (virtio 1.4 section 5.4): random bytes from the host's kernel. */
#include "base/arith.h"
#include "base/error.h"
#include "device/device.h"

#include <stdlib.h>
#include <sys/random.h>

#define QUEUE_SIZE  64
#define REQUEST_MAX (64u << 10) /* of one request; the driver sees how much it got (5.4.6.1) */
#define RETRY_NS    100000000u  /* a host that has just booted may have no randomness yet */

struct rng {
	struct vdev dev;
	struct timer *retry;
	struct chain *chain;
};

static void rng_retry(void *arg)
{
	vdev_kick(arg, 0);
}

static int rng_open(struct vdev *dev, struct vz_error *e)
{
	struct rng *rng = container_of(dev, struct rng, dev);

	rng->chain = malloc(CHAIN_BYTES(QUEUE_SIZE));
	rng->retry = timer_new(dev->loop, rng_retry, dev, e);
	if (!rng->chain || !rng->retry)
		return err_set(e, ENOMEM, NULL, "out of memory");
	return 0;
}

static void rng_close(struct vdev *dev)
{
	struct rng *rng = container_of(dev, struct rng, dev);

	timer_free(rng->retry);
	free(rng->chain);
}

/*
 * At least one byte (5.4.6.2), unless the driver gave no room for it; false: the host has none yet.
 */
static bool fill(struct chain *c)
{
	size_t left = MIN(chain_left_write(c), (size_t)REQUEST_MAX);

	while (left) {
		uint8_t bytes[4096];
		ssize_t n = getrandom(bytes, MIN(left, sizeof(bytes)), GRND_NONBLOCK);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return c->written;
		left -= chain_write(c, bytes, (size_t)n);
	}
	return true;
}

static void rng_kick(struct vdev *dev, struct virtqueue *vq)
{
	struct rng *rng = container_of(dev, struct rng, dev);

	while (vq_pop(vq, rng->chain) > 0) {
		if (!fill(rng->chain)) {
			chain_unpop(rng->chain);
			timer_arm(rng->retry, clock_ns() + RETRY_NS);
			break;
		}
		chain_done(rng->chain);
	}
	vq_notify(vq);
}

static void rng_quiesce(struct vdev *dev)
{
	timer_cancel(container_of(dev, struct rng, dev)->retry);
}

const struct device_class virtio_rng = {
	.name = "virtio-rng",
	.summary = "entropy from the host",
	.id = 4,
	.pci_class = { 0xff, 0x00, 0x00 },
	.queues = 1,
	.queue_size = QUEUE_SIZE,
	.size = sizeof(struct rng),
	.in_order = true,
	.open = rng_open,
	.close = rng_close,
	.kick = rng_kick,
	.quiesce = rng_quiesce,
};
