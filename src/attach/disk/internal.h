/* SPDX-License-Identifier: MIT */
/* The inside of a disk, shared by the queue of requests (disk.c) and the formats behind it. */
#ifndef ATTACH_DISK_INTERNAL_H
#define ATTACH_DISK_INTERNAL_H

#include "attach/disk/disk.h"

#include <pthread.h>

struct disk_ops {
	/* Carry out a request; on any thread, several at a time; may block. 0 or -errno. */
	int (*perform)(struct disk *disk, struct disk_request *r);
	/* Release everything but the memory of the disk itself. */
	void (*close)(struct disk *disk);
};

/* Singly linked, in order of arrival. */
struct disk_queue {
	struct disk_request *first, *last;
};

/* A format's own struct starts with this one; it is allocated with malloc. */
struct disk {
	const struct disk_ops *ops;
	struct loop *loop;
	struct disk_limits limits;
	loop_fn *batch;
	void *batch_arg;
	unsigned in_flight; /* submitted, done not yet called; on the loop's thread */

	pthread_mutex_t lock; /* for the rest: */
	pthread_cond_t progress;
	struct disk_queue waiting, finished;
	unsigned runners; /* threads at work on the queue, or about to be */
	unsigned refs;    /* callbacks under way to the loop that name this disk */
	bool announced;   /* one of them is a call to collect what is finished */
	bool closed;
};

void disk_init(struct disk *disk, struct loop *loop, const struct disk_ops *ops);

#endif
