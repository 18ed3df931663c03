/* SPDX-License-Identifier: MIT */
/*
 * The device core: opening, the status machine and feature negotiation (virtio 1.4 sections 2.1,
 * 2.2 and 3.1), the config space (2.5), queue set-up, pause and the saved state.
 */
#include "virtio/vdev.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "base/str.h"
#include "state/state.h"

#include <assert.h>
#include <stdlib.h>

/* What a driver may set, in the order in which it does. */
#define STATUS_DRIVER_BITS                                                              \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK | \
		VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FAILED)

#define LOG_BURST 5

/* --- making and opening -------------------------------------------------- */

struct vdev *vdev_new(const struct device_class *class)
{
	struct vdev *dev = calloc(1, class->size);

	assert(class->size >= sizeof(*dev) && class->queues <= VDEV_QUEUES_MAX);
	assert(is_pow2(class->queue_size) && class->queue_size <= VQ_SIZE_MAX);
	assert(class->config_size <= sizeof(dev->config));
	if (!dev)
		return NULL;
	dev->class = class;
	dev->nqueues = class->queues;
	dev->offered = class->features | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) |
		       VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_VERSION_1) |
		       VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(VIRTIO_F_RING_RESET);
	if (class->in_order)
		dev->offered |= VIRTIO_BIT(VIRTIO_F_IN_ORDER);
	dev->queues = calloc(VDEV_QUEUES_MAX, sizeof(*dev->queues));
	if (!dev->queues || (class->options && option_defaults(class->options, dev, NULL))) {
		vdev_free(dev);
		return NULL;
	}
	return dev;
}

int vdev_option(struct vdev *dev, const char *key, const char *value, struct vz_error *e)
{
	static const struct option none[] = { { 0 } };
	int r = 0;

	if (dev->class->parse && dev->class->parse(dev, key, value, e, &r))
		return r;
	return option_set(dev->class->options ? dev->class->options : none, dev, key, value, e);
}

static void kick_again(void *arg);

int vdev_open(struct vdev *dev, struct loop *loop, struct memory *mem, const char *name,
	struct vz_error *e)
{
	int r;

	if (str_replace(&dev->name, name))
		return err_set(e, ENOMEM, NULL, "out of memory");
	r = dev->class->options ? option_check(dev->class->options, dev, e) : 0;
	if (r)
		return r;
	dev->loop = loop;
	dev->mem = mem;
	dev->again = timer_new(loop, kick_again, dev, e);
	if (!dev->again)
		return -ENOMEM;
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++) {
		dev->queues[i].dev = dev;
		dev->queues[i].mem = mem;
		dev->queues[i].index = i;
		dev->queues[i].size_max = dev->class->queue_size;
	}
	dev->opened = true;
	r = dev->class->open ? dev->class->open(dev, e) : 0;
	if (r)
		return r;
	assert(dev->nqueues <= VDEV_QUEUES_MAX);
	for (unsigned i = 0; i < dev->nqueues; i++)
		vq_reset(&dev->queues[i]);
	memcpy(dev->config_base, dev->config, sizeof(dev->config));
	return 0;
}

void vdev_set_host(struct vdev *dev, const struct vdev_host *host)
{
	dev->host = *host;
}

void vdev_free(struct vdev *dev)
{
	if (!dev)
		return;
	dev->host = (struct vdev_host){ 0 };
	if (dev->opened) {
		vdev_reset(dev);
		if (dev->class->close)
			dev->class->close(dev);
	}
	timer_free(dev->again);
	if (dev->class->options)
		option_fini(dev->class->options, dev);
	free(dev->queues);
	free(dev->name);
	free(dev);
}

/* --- running and stopping ------------------------------------------------ */

static void kick(struct virtqueue *vq)
{
	struct vdev *dev = vq->dev;

	if (!dev->running || !vq->ring)
		return;
	vq->budget = vq->size;
	dev->class->kick(dev, vq);
}

/* Buffers may have been made available while nobody looked. */
static void run(struct vdev *dev)
{
	dev->running = dev->live && !dev->paused && !(dev->status & VIRTIO_STATUS_NEEDS_RESET);
	for (unsigned i = 0; i < dev->nqueues; i++)
		kick(&dev->queues[i]);
}

static void stop(struct vdev *dev)
{
	dev->running = false;
	if (dev->live && dev->class->quiesce)
		dev->class->quiesce(dev);
}

static void kick_again(void *arg)
{
	struct vdev *dev = arg;

	for (unsigned i = 0; i < dev->nqueues; i++) {
		struct virtqueue *vq = &dev->queues[i];

		if (!vq->again)
			continue;
		vq->again = false;
		kick(vq);
	}
}

void vdev_kick_again(struct virtqueue *vq)
{
	vq->again = true;
	timer_arm(vq->dev->again, 0);
}

void vdev_kick(struct vdev *dev, unsigned index)
{
	if (index < dev->nqueues)
		kick(&dev->queues[index]);
}

void vdev_pause(struct vdev *dev)
{
	if (dev->paused)
		return;
	dev->paused = true;
	stop(dev);
}

void vdev_resume(struct vdev *dev)
{
	dev->paused = false;
	run(dev);
}

static void tell_needs_reset(struct vdev *dev)
{
	if ((dev->status & VIRTIO_STATUS_DRIVER_OK) && dev->host.config_changed)
		dev->host.config_changed(dev->host.arg);
}

void vdev_broken(struct vdev *dev, const char *why)
{
	if (dev->status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	if (log_allow(&dev->log_limit, LOG_BURST))
		log_error("%s: the guest broke the rules: %s; the device needs a reset", dev->name,
			why);
	dev->status |= VIRTIO_STATUS_NEEDS_RESET;
	dev->running = false;
	tell_needs_reset(dev);
}

/* --- status and features ------------------------------------------------- */

uint32_t vdev_features_get(const struct vdev *dev, uint32_t select)
{
	return select < 2 ? (uint32_t)(dev->offered >> 32 * select) : 0;
}

uint32_t vdev_features_driver(const struct vdev *dev, uint32_t select)
{
	if (select < 2)
		return (uint32_t)(dev->accepted >> 32 * select);
	return select < 4 ? (uint32_t)(dev->accepted_high >> 32 * (select - 2)) : 0;
}

void vdev_features_set(struct vdev *dev, uint32_t select, uint32_t bits)
{
	uint64_t *word = select < 2 ? &dev->accepted : &dev->accepted_high;
	unsigned shift = select % 2 * 32;

	if (select >= 4 || (dev->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	*word = (*word & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)bits << shift;
}

static bool features_fine(const struct vdev *dev)
{
	return !(dev->accepted & ~dev->offered) && !dev->accepted_high &&
	       vdev_has(dev, VIRTIO_F_VERSION_1);
}

static void start(struct vdev *dev)
{
	/* Broken while it was set up, when the driver could not be told yet. */
	if (dev->status & VIRTIO_STATUS_NEEDS_RESET) {
		tell_needs_reset(dev);
		return;
	}
	dev->live = true;
	dev->running = !dev->paused;
	if (dev->class->start)
		dev->class->start(dev);
}

void vdev_status_set(struct vdev *dev, uint8_t status)
{
	static const uint8_t steps[] = { VIRTIO_STATUS_ACKNOWLEDGE, VIRTIO_STATUS_DRIVER,
		VIRTIO_STATUS_FEATURES_OK, VIRTIO_STATUS_DRIVER_OK };

	if (!status) {
		vdev_reset(dev);
		return;
	}
	dev->status |= status & VIRTIO_STATUS_FAILED;
	/* Bits are not cleared, and each needs those before it. */
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		if (dev->status & steps[i])
			continue;
		if (!(status & steps[i]) || (dev->status & VIRTIO_STATUS_FAILED))
			return;
		if (steps[i] == VIRTIO_STATUS_FEATURES_OK && !features_fine(dev))
			return;
		dev->status |= steps[i];
		if (steps[i] == VIRTIO_STATUS_FEATURES_OK && dev->class->negotiated)
			dev->class->negotiated(dev);
		if (steps[i] == VIRTIO_STATUS_DRIVER_OK) {
			start(dev);
			run(dev);
		}
	}
}

/* What the driver changed goes back to what the device says; the class may keep copies. */
static void reset_config(struct vdev *dev)
{
	unsigned first = sizeof(dev->config), last = 0;

	for (unsigned i = 0; i < sizeof(dev->config); i++) {
		if (!dev->config_dirty[i])
			continue;
		dev->config_dirty[i] = false;
		dev->config[i] = dev->config_base[i];
		first = MIN(first, i);
		last = i;
	}
	if (first > last)
		return;
	dev->class->config_wrote(dev, first, last - first + 1);
	dev->generation++;
}

void vdev_reset(struct vdev *dev)
{
	stop(dev);
	if (dev->again)
		timer_cancel(dev->again);
	reset_config(dev);
	for (unsigned i = 0; i < dev->nqueues; i++)
		vq_reset(&dev->queues[i]);
	dev->live = false;
	dev->accepted = dev->accepted_high = 0;
	dev->status = 0;
}

/* --- config space -------------------------------------------------------- */

static bool config_access(const struct vdev *dev, uint64_t offset, unsigned len)
{
	return len <= 8 && is_pow2(len) && offset < dev->class->config_size &&
	       len <= dev->class->config_size - offset;
}

uint64_t vdev_config_read(struct vdev *dev, uint64_t offset, unsigned len)
{
	return config_access(dev, offset, len) ? le_load(dev->config + offset, len) : 0;
}

void vdev_config_write(struct vdev *dev, uint64_t offset, unsigned len, uint64_t value)
{
	uint8_t before[8];

	if (!config_access(dev, offset, len) || !dev->class->config_wrote)
		return;
	memcpy(before, dev->config + offset, len);
	le_store(dev->config + offset, value, len);
	dev->class->config_wrote(dev, (unsigned)offset, len);
	/* What the class did not put back is the driver's until reset. */
	for (unsigned i = 0; i < len; i++)
		if (dev->config[offset + i] != before[i])
			dev->config_dirty[offset + i] = true;
}

void vdev_config_changed(struct vdev *dev)
{
	for (unsigned i = 0; i < sizeof(dev->config); i++)
		if (!dev->config_dirty[i])
			dev->config_base[i] = dev->config[i];
	dev->generation++;
	/* Also before DRIVER_OK: the driver may have read the old values while it set up. */
	if ((dev->status & VIRTIO_STATUS_DRIVER) && dev->host.config_changed)
		dev->host.config_changed(dev->host.arg);
}

/* --- queues -------------------------------------------------------------- */

struct virtqueue *vdev_queue(struct vdev *dev, unsigned index)
{
	return index < dev->nqueues ? &dev->queues[index] : NULL;
}

/* The queue when the driver may set it up now, or NULL. */
static struct virtqueue *open_queue(struct vdev *dev, unsigned index)
{
	struct virtqueue *vq = vdev_queue(dev, index);

	if (!vq || vq->enabled || ((dev->status & VIRTIO_STATUS_DRIVER_OK) && !vq->thawed))
		return NULL;
	return vq;
}

void vdev_queue_size(struct vdev *dev, unsigned index, uint16_t size)
{
	struct virtqueue *vq = open_queue(dev, index);

	if (vq)
		vq->size = size;
}

void vdev_queue_area(struct vdev *dev, unsigned index, unsigned area, bool high, uint32_t value)
{
	struct virtqueue *vq = open_queue(dev, index);
	uint64_t *field;

	if (!vq || area > 2)
		return;
	field = area == 0 ? &vq->desc : area == 1 ? &vq->driver : &vq->device;
	*field = high ? (*field & UINT32_MAX) | (uint64_t)value << 32
		      : (*field & ~(uint64_t)UINT32_MAX) | value;
}

static void set_ring_features(struct virtqueue *vq)
{
	vq->packed = vdev_has(vq->dev, VIRTIO_F_RING_PACKED);
	vq->event_idx = vdev_has(vq->dev, VIRTIO_F_EVENT_IDX);
	vq->in_order = vdev_has(vq->dev, VIRTIO_F_IN_ORDER);
	vq->indirect = vdev_has(vq->dev, VIRTIO_F_INDIRECT_DESC);
}

void vdev_queue_enable(struct vdev *dev, unsigned index)
{
	struct virtqueue *vq = open_queue(dev, index);

	if (!vq || !(dev->status & VIRTIO_STATUS_FEATURES_OK) ||
		(dev->status & VIRTIO_STATUS_NEEDS_RESET))
		return;
	set_ring_features(vq);
	if (vq_enable(vq))
		vq_break(vq, vq->broken);
	else
		kick(vq);
}

void vdev_queue_reset(struct vdev *dev, unsigned index)
{
	struct virtqueue *vq = vdev_queue(dev, index);

	if (!vq || !(dev->status & VIRTIO_STATUS_FEATURES_OK) ||
		!vdev_has(dev, VIRTIO_F_RING_RESET))
		return;
	/* Devices stop as a whole; the other queues go on where they were. */
	stop(dev);
	vq_reset(vq);
	vq->thawed = true;
	run(dev);
}

/* --- saved state --------------------------------------------------------- */

static int check_status(const struct vdev *dev, struct state *s)
{
	uint8_t known = STATUS_DRIVER_BITS | VIRTIO_STATUS_NEEDS_RESET;

	if ((dev->status & ~known) || ((dev->status & VIRTIO_STATUS_DRIVER_OK) &&
					      !(dev->status & VIRTIO_STATUS_FEATURES_OK)))
		return state_reject(s, "status", "no device has such a status");
	if ((dev->status & VIRTIO_STATUS_FEATURES_OK) && !features_fine(dev))
		return state_reject(s, "accepted",
			"the guest uses features that the device does not have here");
	return 0;
}

/*
 * The config space is the device's own, as it was opened here; saved is what the driver wrote, and
 * it is written again.
 */
static int state_config(struct vdev *dev, struct state *s)
{
	uint8_t bytes[sizeof(dev->config)], dirty[sizeof(dev->config)];
	unsigned size = dev->class->config_size;
	int r;

	memcpy(bytes, dev->config, size);
	for (unsigned i = 0; i < size; i++)
		dirty[i] = dev->config_dirty[i];
	state_blob(s, "config", bytes, size);
	r = state_blob(s, "config_dirty", dirty, size);
	for (unsigned i = 0; i < size && !r && state_loading(s); i++)
		if (dirty[i])
			vdev_config_write(dev, i, 1, bytes[i]);
	return r ? r : state_u32(s, "generation", &dev->generation);
}

static int state_fields(struct vdev *dev, struct state *s)
{
	uint16_t id = dev->class->id, nqueues = dev->nqueues;
	int r;

	state_u16(s, "id", &id);
	state_u16(s, "queues", &nqueues);
	if (id != dev->class->id || nqueues != dev->nqueues)
		return state_reject(s, "queues", "the device is not the one that was saved");
	state_u64(s, "accepted", &dev->accepted);
	state_u64(s, "accepted_high", &dev->accepted_high);
	state_u8(s, "status", &dev->status);
	r = state_config(dev, s);
	if (!r)
		r = check_status(dev, s);
	for (unsigned i = 0; i < dev->nqueues && !r; i++) {
		set_ring_features(&dev->queues[i]);
		r = vq_state(&dev->queues[i], s);
	}
	return r;
}

int vdev_state(struct vdev *dev, struct state *s)
{
	uint32_t found;
	int r;

	vdev_pause(dev);
	if (state_loading(s))
		vdev_reset(dev);
	r = state_enter(s, "device", 1, &found);
	if (!r)
		r = state_fields(dev, s);
	if (!r && state_loading(s) && (dev->status & VIRTIO_STATUS_DRIVER_OK))
		start(dev);
	if (!r && dev->class->state)
		r = dev->class->state(dev, s);
	if (!r)
		r = state_leave(s);
	if (r && state_loading(s))
		vdev_reset(dev);
	return r;
}
