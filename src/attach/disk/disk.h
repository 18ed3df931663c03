/* SPDX-License-Identifier: MIT */
/*
 * What the host lends a block device: a byte-addressed disk. Requests are asynchronous and complete
 * on the loop that opened the disk. The format is what the caller says; content is never probed.
 */
#ifndef ATTACH_DISK_DISK_H
#define ATTACH_DISK_DISK_H

#include "loop/loop.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <vizor/error.h>

struct disk;

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

/*
 * Embedded in the device's request. Offset and length are bytes, checked by the caller against
 * disk_size.
 */
struct disk_request {
	enum disk_op op;
	bool unmap;           /* write zeroes: may deallocate */
	bool stable;          /* all that change content: committed when done, as if flushed */
	uint64_t offset, len; /* discard, write zeroes */
	struct iovec *iov;    /* read, write: stays valid until done; the disk may change it */
	unsigned iovcnt;
	int result;                           /* 0 or -errno; short transfers do not exist */
	void (*done)(struct disk_request *r); /* on the loop */
	struct disk *disk;                    /* set by disk_submit */
	struct disk_request *next;            /* the disk's, until done */
};

struct disk_limits {
	uint64_t size;                          /* bytes, a multiple of 512 */
	uint32_t block_size;                    /* logical: 512 or the device's */
	uint32_t physical_size, io_min, io_opt; /* bytes */
	uint32_t discard_align;                 /* bytes; 0: discard is not possible */
	bool read_only, zeroes;                 /* zeroes: write zeroes is possible */
};

struct disk_options {
	const char *path;
	bool read_only;
	bool block_device; /* refuse anything else */
	bool direct;       /* O_DIRECT */
	enum { DISK_SYNC_FULL, DISK_SYNC_FSYNC, DISK_SYNC_NONE } sync;
};

/* A raw image or block device; locked against a second writer (readers share). NULL with *e set. */
struct disk *disk_open_raw(struct loop *loop, const struct disk_options *options,
	struct vz_error *e);
const struct disk_limits *disk_limits(const struct disk *disk);
/*
 * fn is called on the loop after each run of done callbacks: the place for one interrupt for all of
 * them.
 */
void disk_on_batch(struct disk *disk, loop_fn *fn, void *arg);
/* Where the host has no thread to lend, done may have run when this returns. */
void disk_submit(struct disk *disk, struct disk_request *r);
void disk_drain(struct disk *disk); /* returns when nothing is in flight and every done has run */
void disk_close(struct disk *disk); /* drains; NULL is fine */

#endif
