/* SPDX-License-Identifier: MIT */
/*
 * A device class for the tests of the core. It pops all it can get and keeps it, up to SLOW_CHAINS,
 * until slow_finish; then it sends back what it was sent. quiesce finishes everything. It counts
 * how it is called.
 */
#ifndef TESTS_SLOW_H
#define TESTS_SLOW_H

#include "base/error.h"
#include "base/le.h"
#include "fake_driver.h"
#include "state/state.h"

#include <stdlib.h>

#define SLOW_CHAINS      64
#define SLOW_CONFIG_SIZE 12 /* 0: a number the device sets; 4: free for the driver; 8: read-only */

struct slow {
	struct vdev dev;
	bool fast; /* finish at once */
	uint16_t number;
	char *text;
	unsigned starts, kicks, quiesces, config_writes, popped;
	uint32_t secret; /* for the saved state */
	void (*on_pop)(struct slow *slow, struct chain *c);
	void *arg; /* of on_pop */
	struct chain *chains[SLOW_CHAINS];
	unsigned held;
};

static inline struct slow *slow_of(struct fake *f)
{
	return (struct slow *)f->dev;
}

static inline void slow_finish(struct slow *slow)
{
	for (unsigned i = 0; i < slow->held; i++) {
		struct chain *c = slow->chains[i];
		uint8_t byte;

		while (chain_left_write(c) && chain_read(c, &byte, 1))
			chain_write(c, &byte, 1);
		chain_done(c);
		vq_notify(c->vq);
	}
	slow->held = 0;
}

static void slow_kick(struct vdev *dev, struct virtqueue *vq)
{
	struct slow *slow = (struct slow *)dev;

	slow->kicks++;
	while (slow->held < SLOW_CHAINS && vq_pop(vq, slow->chains[slow->held]) > 0) {
		slow->popped++;
		if (slow->on_pop)
			slow->on_pop(slow, slow->chains[slow->held]);
		slow->held++;
		if (slow->fast)
			slow_finish(slow);
	}
}

static void slow_start(struct vdev *dev)
{
	((struct slow *)dev)->starts++;
}

static void slow_quiesce(struct vdev *dev)
{
	((struct slow *)dev)->quiesces++;
	slow_finish((struct slow *)dev);
}

static void slow_config_wrote(struct vdev *dev, unsigned offset, unsigned len)
{
	struct slow *slow = (struct slow *)dev;

	slow->config_writes++;
	le32_store(dev->config, slow->number);
	le32_store(dev->config + 8, 0x01020304);
}

static int slow_open(struct vdev *dev, struct vz_error *e)
{
	struct slow *slow = (struct slow *)dev;

	for (unsigned i = 0; i < SLOW_CHAINS; i++)
		slow->chains[i] = malloc(CHAIN_BYTES(dev->class->queue_size));
	slow_config_wrote(dev, 0, SLOW_CONFIG_SIZE);
	le32_store(dev->config + 4, 0x55);
	slow->config_writes = 0;
	return slow->text && !strcmp(slow->text, "fail") ? err_set(e, EIO, "text", "told to") : 0;
}

static void slow_close(struct vdev *dev)
{
	for (unsigned i = 0; i < SLOW_CHAINS; i++)
		free(((struct slow *)dev)->chains[i]);
}

static int slow_state(struct vdev *dev, struct state *s)
{
	return state_u32(s, "secret", &((struct slow *)dev)->secret);
}

static const struct option slow_options[] = {
	{ "number", OPT_U16, offsetof(struct slow, number), "7", "shown in the config space" },
	{ "text", OPT_STRING, offsetof(struct slow, text), .help = "fail: open fails" },
	{ 0 },
};

static const struct device_class slow_class = {
	.name = "slow",
	.id = 43,
	.queues = 3,
	.queue_size = 64,
	.features = 5,
	.config_size = SLOW_CONFIG_SIZE,
	.size = sizeof(struct slow),
	.options = slow_options,
	.open = slow_open,
	.close = slow_close,
	.start = slow_start,
	.kick = slow_kick,
	.quiesce = slow_quiesce,
	.config_wrote = slow_config_wrote,
	.state = slow_state,
};

/* Run a body of a test with both ring formats. */
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

#endif
