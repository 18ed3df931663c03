/* SPDX-License-Identifier: MIT */
/*
 * The device core: one virtio device between its class (facts and verbs, one file in src/device/)
 * and its host (virtio-pci, vhost-user, or a test's fake driver). The core polices the status
 * machine, feature negotiation, queue set-up and the config space (virtio 1.4 sections 2.1, 2.2,
 * 2.4, 2.5, 3.1); a class never sees a state the specification does not allow.
 *
 * Threads: a device lives on one loop; all functions here are called on it, unless they say
 * otherwise.
 */
#ifndef VIRTIO_VDEV_H
#define VIRTIO_VDEV_H

#include "base/log.h"
#include "base/option.h"
#include "loop/loop.h"
#include "virtio/queue.h"

/* Device status, section 2.1. */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01
#define VIRTIO_STATUS_DRIVER      0x02
#define VIRTIO_STATUS_DRIVER_OK   0x04
#define VIRTIO_STATUS_FEATURES_OK 0x08
#define VIRTIO_STATUS_NEEDS_RESET 0x40
#define VIRTIO_STATUS_FAILED      0x80

/* Feature bits of section 6, offered by the core for every device. */
#define VIRTIO_F_INDIRECT_DESC     28
#define VIRTIO_F_EVENT_IDX         29
#define VIRTIO_F_VERSION_1         32
#define VIRTIO_F_ACCESS_PLATFORM   33 /* never offered */
#define VIRTIO_F_RING_PACKED       34
#define VIRTIO_F_IN_ORDER          35 /* offered where class->in_order */
#define VIRTIO_F_NOTIFICATION_DATA 38
#define VIRTIO_F_RING_RESET        40
#define VIRTIO_BIT(n)              (1ull << (n))

#define VIRTIO_NO_VECTOR           0xffff
#define VDEV_QUEUES_MAX            64

struct vdev;

/* A device class: facts, then verbs. Only kick is required. */
struct device_class {
	const char *name;     /* command line, log tag, man section: "virtio-rng" */
	const char *summary;  /* one line for help */
	uint16_t id;          /* virtio device id, section 5 */
	uint8_t pci_class[3]; /* base class, subclass, interface */
	uint16_t queues;      /* default number of queues; open may change dev->nqueues */
	uint16_t queue_size;  /* default and maximum size of each; a power of two <= VQ_SIZE_MAX */
	uint64_t features; /* device-specific bits always offered; open may change dev->offered */
	uint16_t config_size; /* bytes of device config space */
	size_t size;          /* of the device struct, which starts with struct vdev */
	bool in_order;        /* completes each queue's chains in the order it pops them */
	const struct option
		*options; /* keys of --device NAME,key=value; offsets into the device struct */
	bool (*parse)(struct vdev *dev, const char *key, const char *value, struct vz_error *e,
		int *result);
	/* keys that no table can say; false: not mine */

	/*
	 * Whatever open would refuse, told without lasting effects: options that exclude each
	 * other, files. All required keys are there; loop is there for the call, the device is not
	 * open.
	 */
	int (*check)(struct vdev *dev, struct loop *loop, struct vz_error *e);
	int (*open)(struct vdev *dev,
		struct vz_error *e);     /* acquire host resources; before the guest runs */
	void (*close)(struct vdev *dev); /* also after a failed open */
	/* FEATURES_OK: features final; for config fields that depend on them. Not when loading. */
	void (*negotiated)(struct vdev *dev);
	/* DRIVER_OK: features final, queues enabled. When loading a state: just before state. */
	void (*start)(struct vdev *dev);
	void (*kick)(struct vdev *dev, struct virtqueue *vq); /* buffers may be available */
	/*
	 * Return with nothing in flight: before a reset, a pause, the reset of one queue, the end.
	 * Only between start and reset; vq_pop gives nothing while it runs.
	 */
	void (*quiesce)(struct vdev *dev);
	/*
	 * The driver wrote to dev->config; what it may not change the class puts back. Also on
	 * reset, when the core has put back what the driver did change. Without this verb the
	 * config space is read-only.
	 */
	void (*config_wrote)(struct vdev *dev, unsigned offset, unsigned len);
	int (*state)(struct vdev *dev, struct state *s);
};

/* What carries the device: three functions. */
struct vdev_host {
	void *arg;
	/* Interrupt the driver for a queue; the host maps queues to vectors. Any thread. */
	void (*interrupt)(void *arg, unsigned queue);
	void (*config_changed)(void *arg);
	/*
	 * Shared-memory region id (virtio-fs DAX, gpu): offset within the region, host fd. 0 or
	 * -errno.
	 */
	int (*shm_map)(void *arg, unsigned id, uint64_t offset, uint64_t len, int fd,
		uint64_t fd_offset, bool rw);
};

struct vdev {
	const struct device_class *class;
	struct loop *loop;
	struct memory *mem;
	struct vdev_host host;
	char *name; /* for log and errors: "virtio-blk 'root'"; owned */

	uint64_t offered, accepted; /* feature bits; accepted is final after FEATURES_OK */
	uint64_t accepted_high;     /* bits 64 to 127, of which none is offered */
	uint8_t status;
	bool opened;  /* open was tried: close is due */
	bool live;    /* between start and reset */
	bool running; /* live and neither paused nor broken: kick is delivered */
	bool paused;
	uint32_t generation; /* of the config space */
	uint16_t nqueues;
	struct virtqueue *queues; /* VDEV_QUEUES_MAX of them; open may lower their size_max */
	struct timer *again;      /* kicks queues whose budget is spent */
	uint8_t config[256];      /* little-endian, as the driver reads it */
	uint8_t config_base[256]; /* without what the driver wrote */
	bool config_dirty[256];   /* bytes that the driver changed */
	struct log_limit log_limit;
};

/* Allocate a device of class with its option defaults set. NULL: out of memory. */
struct vdev *vdev_new(const struct device_class *class);
/* Set an option; through the class's table (error's where: the key). */
int vdev_option(struct vdev *dev, const char *key, const char *value, struct vz_error *e);
/*
 * Open on a loop, over mem, carried by host; name is copied. Error's where is relative to the
 * device.
 */
int vdev_open(struct vdev *dev, struct loop *loop, struct memory *mem, const char *name,
	struct vz_error *e);
void vdev_set_host(struct vdev *dev, const struct vdev_host *host);
void vdev_free(struct vdev *dev); /* quiesces, closes; NULL is fine */

/* The transport's side: what the driver does. All values are the driver's and hostile. */
uint32_t vdev_features_get(const struct vdev *dev, uint32_t select);
void vdev_features_set(struct vdev *dev, uint32_t select, uint32_t bits);
uint32_t vdev_features_driver(const struct vdev *dev, uint32_t select);
void vdev_status_set(struct vdev *dev, uint8_t status); /* 0: reset */
/* len 1, 2, 4 or 8; out of range reads give 0, writes are ignored. */
uint64_t vdev_config_read(struct vdev *dev, uint64_t offset, unsigned len);
void vdev_config_write(struct vdev *dev, uint64_t offset, unsigned len, uint64_t value);
/* Queue fields, ignored once frozen; index beyond the last queue is ignored, reads give 0. */
/* NULL when there is no such queue */
struct virtqueue *vdev_queue(struct vdev *dev, unsigned index);
void vdev_queue_size(struct vdev *dev, unsigned index, uint16_t size);
void vdev_queue_area(struct vdev *dev, unsigned index, unsigned area /* 0 desc 1 driver 2 device */,
	bool high, uint32_t value);
void vdev_queue_enable(struct vdev *dev, unsigned index);
void vdev_queue_reset(struct vdev *dev, unsigned index); /* VIRTIO_F_RING_RESET */
void vdev_kick(struct vdev *dev, unsigned index);

/* The class's side. */
static inline bool vdev_has(const struct vdev *dev, unsigned feature)
{
	return dev->accepted & VIRTIO_BIT(feature);
}
/* The guest broke the rules: DEVICE_NEEDS_RESET, a rate-limited log line, a config interrupt. */
void vdev_broken(struct vdev *dev, const char *why);
/* The class changed dev->config: bumps the generation and tells the driver. */
void vdev_config_changed(struct vdev *dev);

/* A queue spent its budget: kick it from the loop. For queue.c. */
void vdev_kick_again(struct virtqueue *vq);

/* The machine's side. */
void vdev_pause(struct vdev *dev);  /* nothing in flight afterwards, kicks wait */
void vdev_resume(struct vdev *dev); /* kicks every enabled queue once */
void vdev_reset(struct vdev *dev);  /* as the driver's status 0; also on machine reset */
/*
 * Pauses the device, both ways; the caller resumes it. Loading resets it first, and again when that
 * fails.
 */
int vdev_state(struct vdev *dev, struct state *s);

#endif
