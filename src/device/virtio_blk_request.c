/* SPDX-License-Identifier: MIT */
/*
 * The requests of a block device (virtio 1.4 section 5.2.6). A request is copied and vetted before
 * the disk hears of it, and whatever its shape the driver gets it back with a status.
 */
#include "device/virtio_blk.h"

#include "base/error.h"
#include "base/le.h"

#include <stdlib.h>
#include <string.h>

/* Section 5.2.6. */
#define BLK_T_IN           0
#define BLK_T_OUT          1
#define BLK_T_FLUSH        4
#define BLK_T_GET_ID       8
#define BLK_T_DISCARD      11
#define BLK_T_WRITE_ZEROES 13

#define BLK_S_OK           0
#define BLK_S_IOERR        1
#define BLK_S_UNSUPP       2

#define HEADER_SIZE        16
#define RANGE_SIZE         16
#define RANGE_UNMAP        1u
struct request *blk_request_new(struct blk *blk)
{
	struct request *r = blk->free;

	if (r)
		blk->free = r->next;
	else
		r = malloc(offsetof(struct request, chain) + CHAIN_BYTES(QUEUE_SIZE));
	if (r)
		r->blk = blk;
	return r;
}

void blk_request_free(struct request *r)
{
	r->next = r->blk->free;
	r->blk->free = r;
}

/*
 * Write the status byte, the last of the writable ones however they are cut up, and return the
 * chain.
 */
static void finish(struct request *r, uint8_t status)
{
	struct chain *c = &r->chain;
	size_t left = chain_left_write(c);
	/* Counted is what was written from the start without a gap (2.7.8.2). */
	uint32_t len = left == 1 ? c->write_len : c->written;

	if (left) {
		chain_skip_write(c, left - 1);
		chain_write(c, &status, sizeof(status));
	}
	chain_done_len(c, len);
	r->blk->notify[c->vq->index] = true;
	blk_request_free(r);
}

static void next_range(struct request *r)
{
	const struct range *range = &r->ranges[r->range++];

	r->io.offset = range->offset;
	r->io.len = range->len;
	r->io.unmap = range->unmap;
	disk_submit(r->blk->disk, &r->io);
}

static void io_done(struct disk_request *io)
{
	struct request *r = container_of(io, struct request, io);

	if (io->result) {
		finish(r, io->result == -EOPNOTSUPP ? BLK_S_UNSUPP : BLK_S_IOERR);
		return;
	}
	if (r->range < r->nranges) {
		next_range(r);
		return;
	}
	if (io->op == DISK_READ)
		chain_skip_write(&r->chain, chain_left_write(&r->chain) - 1);
	finish(r, BLK_S_OK);
}

/* One interrupt for all requests that finished together. */
static void notify(void *arg)
{
	struct blk *blk = arg;

	for (unsigned i = 0; i < blk->dev.nqueues; i++) {
		if (!blk->notify[i])
			continue;
		blk->notify[i] = false;
		vq_notify(&blk->dev.queues[i]);
	}
}

/* Must a write be committed before it is reported: cases 1 and 2 of section 5.2.6.2. */
static bool writethrough(const struct blk *blk)
{
	if (vdev_has(&blk->dev, BLK_F_CONFIG_WCE))
		return !blk->writeback;
	return !vdev_has(&blk->dev, BLK_F_FLUSH);
}

/* Is [sector, sector + len bytes) on the disk? */
static bool on_disk(const struct blk *blk, uint64_t sector, uint64_t len, uint64_t *offset)
{
	uint64_t end;

	return !ckd_mul(offset, sector, SECTOR) && !ckd_add(&end, *offset, len) &&
	       end <= disk_limits(blk->disk)->size;
}

/*
 * Start a read or write of the data part; returns a status when there is nothing to wait for, or
 * -1.
 */
static int start_transfer(struct request *r, enum disk_op op, uint64_t sector)
{
	struct chain *c = &r->chain;
	size_t bytes, len = op == DISK_READ ? chain_left_write(c) - 1 : chain_left_read(c);

	if (op == DISK_WRITE && disk_limits(r->blk->disk)->read_only)
		return BLK_S_IOERR;
	if (len % SECTOR || !on_disk(r->blk, sector, len, &r->io.offset))
		return BLK_S_IOERR;
	if (!len)
		return BLK_S_OK;
	r->io.iov = r->iov;
	if (op == DISK_WRITE) {
		r->io.iovcnt = chain_iov_read(c, r->iov, QUEUE_SIZE, &bytes);
	} else {
		/*
		 * Without the status byte, which is the last one of the last segment that has any.
		 */
		r->io.iovcnt = chain_iov_write(c, r->iov, QUEUE_SIZE, &bytes);
		while (r->io.iovcnt && !r->iov[r->io.iovcnt - 1].iov_len)
			r->io.iovcnt--;
		if (r->io.iovcnt)
			r->iov[r->io.iovcnt - 1].iov_len--;
	}
	r->io.op = op;
	disk_submit(r->blk->disk, &r->io);
	return -1;
}

/* The requirements on ranges and their flags are those of section 5.2.6.2. */
static int read_range(struct request *r, struct range *range, bool discard)
{
	uint8_t bytes[RANGE_SIZE];
	uint32_t sectors, flags;

	chain_read(&r->chain, bytes, sizeof(bytes));
	sectors = le32_load(bytes + 8);
	flags = le32_load(bytes + 12);
	if (flags & ~(discard ? 0 : RANGE_UNMAP))
		return BLK_S_UNSUPP;
	range->len = (uint64_t)sectors * SECTOR;
	range->unmap = flags & RANGE_UNMAP;
	if (sectors > RANGE_SECTORS ||
		!on_disk(r->blk, le64_load(bytes), range->len, &range->offset))
		return BLK_S_IOERR;
	return -1;
}

static int start_ranges(struct request *r, bool discard)
{
	size_t len = chain_left_read(&r->chain);

	if (!vdev_has(&r->blk->dev, discard ? BLK_F_DISCARD : BLK_F_WRITE_ZEROES))
		return disk_limits(r->blk->disk)->read_only ? BLK_S_IOERR : BLK_S_UNSUPP;
	if (!len || len % RANGE_SIZE || len / RANGE_SIZE > RANGES_MAX)
		return BLK_S_IOERR;
	/* All are looked at before the first one is carried out. */
	for (r->nranges = 0; r->nranges < len / RANGE_SIZE; r->nranges++) {
		int status = read_range(r, &r->ranges[r->nranges], discard);

		if (status >= 0)
			return status;
	}
	r->io.op = discard ? DISK_DISCARD : DISK_WRITE_ZEROES;
	next_range(r);
	return -1;
}

/* A string of up to 20 bytes, NUL-padded (5.2.6). */
static int get_id(struct request *r)
{
	char id[SERIAL_SIZE] = "";
	size_t room = chain_left_write(&r->chain) - 1;

	if (r->blk->serial)
		memcpy(id, r->blk->serial, strnlen(r->blk->serial, sizeof(id)));
	chain_write(&r->chain, id, MIN(room, sizeof(id)));
	return BLK_S_OK;
}

static int start_request(struct request *r)
{
	uint8_t header[HEADER_SIZE];

	if (chain_read(&r->chain, header, sizeof(header)) != sizeof(header))
		return BLK_S_IOERR;
	/*
	 * Without room for a status the driver cannot learn what became of a request: do nothing.
	 */
	if (!chain_left_write(&r->chain))
		return BLK_S_IOERR;
	switch (le32_load(header)) {
	case BLK_T_IN:
		return start_transfer(r, DISK_READ, le64_load(header + 8));
	case BLK_T_OUT:
		return start_transfer(r, DISK_WRITE, le64_load(header + 8));
	case BLK_T_FLUSH:
		r->io.op = DISK_FLUSH;
		disk_submit(r->blk->disk, &r->io);
		return -1;
	case BLK_T_GET_ID:
		return get_id(r);
	case BLK_T_DISCARD:
		return start_ranges(r, true);
	case BLK_T_WRITE_ZEROES:
		return start_ranges(r, false);
	default:
		return BLK_S_UNSUPP;
	}
}

void blk_kick(struct vdev *dev, struct virtqueue *vq)
{
	struct blk *blk = blk_of(dev);
	struct request *r;

	while ((r = blk_request_new(blk)) && vq_pop(vq, &r->chain) > 0) {
		int status;

		r->nranges = r->range = 0;
		r->io.done = io_done;
		r->io.stable = writethrough(blk);
		status = start_request(r);
		if (status >= 0)
			finish(r, (uint8_t)status);
	}
	if (r)
		blk_request_free(r);
	blk->starved = !r;
	notify(blk);
}

void blk_batch_done(void *arg)
{
	struct blk *blk = arg;

	notify(blk);
	if (!blk->starved)
		return;
	for (unsigned i = 0; i < blk->dev.nqueues; i++)
		vdev_kick(&blk->dev, i);
}
