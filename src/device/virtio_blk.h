/* SPDX-License-Identifier: MIT */
/* The block device, shared by its class (virtio_blk.c) and its requests (virtio_blk_request.c). */
#ifndef DEVICE_VIRTIO_BLK_H
#define DEVICE_VIRTIO_BLK_H

#include "attach/disk/disk.h"
#include "base/arith.h"
#include "virtio/vdev.h"

#define SECTOR      512u
#define QUEUE_SIZE  256
#define QUEUES_MAX  8
#define SERIAL_SIZE 20 /* of VIRTIO_BLK_T_GET_ID */

/* Section 5.2.3. */
#define BLK_F_SEG_MAX      2
#define BLK_F_RO           5
#define BLK_F_BLK_SIZE     6
#define BLK_F_FLUSH        9
#define BLK_F_TOPOLOGY     10
#define BLK_F_CONFIG_WCE   11
#define BLK_F_MQ           12
#define BLK_F_DISCARD      13
#define BLK_F_WRITE_ZEROES 14

/* Discard and write zeroes: ranges of one request, and sectors of each: 2 GiB take no ages. */
#define RANGES_MAX    16
#define RANGE_SECTORS (1u << 22)

struct range {
	uint64_t offset, len;
	bool unmap;
};

struct request {
	struct disk_request io;
	struct blk *blk;
	struct request *next;    /* when it is free */
	unsigned nranges, range; /* discard, write zeroes: how many, and which one is under way */
	struct range ranges[RANGES_MAX];
	struct iovec iov[QUEUE_SIZE];
	struct chain chain; /* with its iovecs: last */
};

struct blk {
	struct vdev dev;
	char *path, *serial;
	bool readonly;
	int type, cache, sync;
	uint16_t queues;

	struct disk *disk;
	/* Slots are made as they are needed and kept: at most one for each ring entry. */
	struct request *free;
	bool writeback;
	bool starved;            /* no memory for another slot: go on when one is free */
	bool notify[QUEUES_MAX]; /* queues with something done since their last interrupt */
};

static inline struct blk *blk_of(struct vdev *dev)
{
	return container_of(dev, struct blk, dev);
}

/* A slot for a request, or NULL: out of memory. */
struct request *blk_request_new(struct blk *blk);
void blk_request_free(struct request *r);
void blk_kick(struct vdev *dev, struct virtqueue *vq);
void blk_batch_done(void *arg); /* struct blk: the disk has called done for what was finished */

#endif
