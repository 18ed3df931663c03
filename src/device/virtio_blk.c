/* SPDX-License-Identifier: MIT */
/*
 * Block device (virtio 1.4 section 5.2) on a disk of attach/disk. Requests complete in any order;
 * the disk moves data straight between the host and the guest's buffers.
 */
#include "attach/disk/disk.h"
#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "device/device.h"
#include "state/state.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

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

/* Section 5.2.4. */
#define CONFIG_CAPACITY         0
#define CONFIG_SEG_MAX          12
#define CONFIG_BLK_SIZE         20
#define CONFIG_PHYSICAL_EXP     24
#define CONFIG_MIN_IO           26
#define CONFIG_OPT_IO           28
#define CONFIG_WRITEBACK        32
#define CONFIG_NUM_QUEUES       34
#define CONFIG_DISCARD_SECTORS  36
#define CONFIG_DISCARD_SEG      40
#define CONFIG_DISCARD_ALIGN    44
#define CONFIG_ZEROES_SECTORS   48
#define CONFIG_ZEROES_SEG       52
#define CONFIG_ZEROES_MAY_UNMAP 56
#define CONFIG_SIZE             60

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
#define RANGES_MAX         16         /* of one discard or write zeroes request */
#define RANGE_SECTORS      (1u << 22) /* of each: 2 GiB, so that none takes for ever */

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
	struct request *
		free; /* slots, made as they are needed and kept; at most one for each ring entry */
	bool writeback;
	bool starved;            /* no memory for another slot: go on when one is free */
	bool notify[QUEUES_MAX]; /* queues with something done since their last interrupt */
};

static struct blk *blk_of(struct vdev *dev)
{
	return container_of(dev, struct blk, dev);
}

static struct request *request_new(struct blk *blk)
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

static void request_free(struct request *r)
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
	request_free(r);
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

static void blk_kick(struct vdev *dev, struct virtqueue *vq)
{
	struct blk *blk = blk_of(dev);
	struct request *r;

	while ((r = request_new(blk)) && vq_pop(vq, &r->chain) > 0) {
		int status;

		r->nranges = r->range = 0;
		r->io.done = io_done;
		r->io.stable = writethrough(blk);
		status = start_request(r);
		if (status >= 0)
			finish(r, (uint8_t)status);
	}
	if (r)
		request_free(r);
	blk->starved = !r;
	notify(blk);
}

static void batch_done(void *arg)
{
	struct blk *blk = arg;

	notify(blk);
	if (!blk->starved)
		return;
	for (unsigned i = 0; i < blk->dev.nqueues; i++)
		vdev_kick(&blk->dev, i);
}

/* Nothing is written to guest memory after this: what is under way is waited for, not abandoned. */
static void blk_quiesce(struct vdev *dev)
{
	struct blk *blk = blk_of(dev);

	disk_drain(blk->disk);
}

static void fill_config(struct blk *blk)
{
	const struct disk_limits *l = disk_limits(blk->disk);
	uint8_t *c = blk->dev.config;

	/* Unused and padding bytes stay 0 (5.2.5.2). */
	memset(c, 0, CONFIG_SIZE);
	le64_store(c + CONFIG_CAPACITY, l->size / SECTOR);
	le32_store(c + CONFIG_SEG_MAX, QUEUE_SIZE - 2); /* header and status take one each */
	le32_store(c + CONFIG_BLK_SIZE, l->block_size);
	c[CONFIG_PHYSICAL_EXP] = (uint8_t)__builtin_ctz(l->physical_size / l->block_size);
	le16_store(c + CONFIG_MIN_IO, (uint16_t)MIN(l->io_min / l->block_size, 0xffffu));
	le32_store(c + CONFIG_OPT_IO, l->io_opt / l->block_size);
	c[CONFIG_WRITEBACK] = blk->writeback;
	le16_store(c + CONFIG_NUM_QUEUES, blk->queues);
	if (l->discard_align) {
		le32_store(c + CONFIG_DISCARD_SECTORS, RANGE_SECTORS);
		le32_store(c + CONFIG_DISCARD_SEG, RANGES_MAX);
		le32_store(c + CONFIG_DISCARD_ALIGN, MAX(l->discard_align / SECTOR, 1u));
	}
	if (l->zeroes) {
		le32_store(c + CONFIG_ZEROES_SECTORS, RANGE_SECTORS);
		le32_store(c + CONFIG_ZEROES_SEG, RANGES_MAX);
		c[CONFIG_ZEROES_MAY_UNMAP] = l->discard_align != 0;
	}
}

/* Without flushes there is no write-back cache to start with (5.2.5.2). */
static void blk_negotiated(struct vdev *dev)
{
	struct blk *blk = blk_of(dev);

	blk->writeback = vdev_has(dev, BLK_F_FLUSH) || !vdev_has(dev, BLK_F_CONFIG_WCE);
	fill_config(blk);
}

/* The cache mode is all that a driver can change. */
static void blk_config_wrote(struct vdev *dev, unsigned offset, unsigned len)
{
	struct blk *blk = blk_of(dev);

	if (vdev_has(dev, BLK_F_CONFIG_WCE))
		blk->writeback = dev->config[CONFIG_WRITEBACK] != 0;
	fill_config(blk);
}

static int check_options(const struct blk *blk, struct vz_error *e)
{
	if (blk->serial && strlen(blk->serial) > SERIAL_SIZE)
		return err_set(e, EINVAL, "deviceId", "the deviceId '%s' is longer than %d bytes",
			blk->serial, SERIAL_SIZE);
	return 0;
}

static void offer(struct blk *blk)
{
	const struct disk_limits *l = disk_limits(blk->disk);
	uint64_t *f = &blk->dev.offered;

	if (l->read_only)
		*f |= VIRTIO_BIT(BLK_F_RO);
	/*
	 * Whoever gives up safety must not offer to flush (5.2.6.2, the note on
	 * VIRTIO_BLK_F_FLUSH).
	 */
	if (blk->sync != DISK_SYNC_NONE)
		*f |= VIRTIO_BIT(BLK_F_FLUSH) | VIRTIO_BIT(BLK_F_CONFIG_WCE);
	if (blk->queues > 1)
		*f |= VIRTIO_BIT(BLK_F_MQ);
	if (l->discard_align)
		*f |= VIRTIO_BIT(BLK_F_DISCARD);
	if (l->zeroes)
		*f |= VIRTIO_BIT(BLK_F_WRITE_ZEROES);
}

static struct disk_options disk_options(const struct blk *blk)
{
	return (struct disk_options){
		.path = blk->path,
		.read_only = blk->readonly,
		.block_device = blk->type == 1,
		.direct = blk->cache == 1,
		.sync = blk->sync,
	};
}

static int blk_check(struct vdev *dev, struct loop *loop, struct vz_error *e)
{
	struct disk_options o = disk_options(blk_of(dev));
	int r = check_options(blk_of(dev), e);
	struct disk *disk;

	if (r)
		return r;
	disk = disk_open_raw(loop, &o, e);
	if (!disk)
		return -EIO;
	disk_close(disk);
	return 0;
}

static int blk_open(struct vdev *dev, struct vz_error *e)
{
	struct blk *blk = blk_of(dev);
	struct disk_options o = disk_options(blk);
	struct request *first;
	int r = check_options(blk, e);

	if (r)
		return r;
	/* One slot there must be; with more the queue only gets faster. */
	first = request_new(blk);
	if (!first)
		return err_set(e, ENOMEM, NULL, "out of memory");
	request_free(first);
	blk->disk = disk_open_raw(dev->loop, &o, e);
	if (!blk->disk)
		return -EIO;
	disk_on_batch(blk->disk, batch_done, blk);
	dev->nqueues = blk->queues;
	blk->writeback = true;
	offer(blk);
	fill_config(blk);
	return 0;
}

static void blk_close(struct vdev *dev)
{
	struct blk *blk = blk_of(dev);
	struct request *r;

	disk_close(blk->disk);
	while ((r = blk->free)) {
		blk->free = r->next;
		free(r);
	}
}

static int blk_state(struct vdev *dev, struct state *s)
{
	struct blk *blk = blk_of(dev);
	uint64_t size = disk_limits(blk->disk)->size, saved = size;

	state_u64(s, "size", &saved);
	if (saved != size)
		return state_reject(s, "size",
			"the disk has another size than when the machine was saved");
	if (state_bool(s, "writeback", &blk->writeback))
		return state_bool(s, "writeback", &blk->writeback);
	fill_config(blk);
	return 0;
}

static const char *const types[] = { "image", "dev", NULL };
static const char *const caches[] = { "writeback", "none", NULL };
static const char *const syncs[] = { "full", "fsync", "none", NULL };

static const struct option blk_options[] = {
	{ "path", OPT_STRING, offsetof(struct blk, path), .help = "raw disk image or block device",
		.required = true },
	{ "type", OPT_ENUM, offsetof(struct blk, type), "image",
		"image: a raw image or block device; dev: a block device and nothing else", types },
	{ "readonly", OPT_FLAG, offsetof(struct blk, readonly),
		.help = "the guest cannot write; several machines may share the image" },
	{ "deviceId", OPT_STRING, offsetof(struct blk, serial),
		.help = "serial number the guest sees, up to 20 bytes" },
	{ "cache", OPT_ENUM, offsetof(struct blk, cache), "writeback",
		"writeback: through the host's page cache; none: around it", caches },
	{ "sync", OPT_ENUM, offsetof(struct blk, sync), "full",
		"what a flush by the guest does; none loses data when the host crashes", syncs },
	{ "queues", OPT_U16, offsetof(struct blk, queues), "1", "request queues", .min = 1,
		.max = QUEUES_MAX },
	{ 0 },
};

const struct device_class virtio_blk = {
	.name = "virtio-blk",
	.summary = "disk: a raw image or a block device",
	.id = 2,
	.pci_class = { 0x01, 0x80, 0x00 },
	.queues = 1,
	.queue_size = QUEUE_SIZE,
	.features =
		VIRTIO_BIT(BLK_F_SEG_MAX) | VIRTIO_BIT(BLK_F_BLK_SIZE) | VIRTIO_BIT(BLK_F_TOPOLOGY),
	.config_size = CONFIG_SIZE,
	.size = sizeof(struct blk),
	.options = blk_options,
	.check = blk_check,
	.open = blk_open,
	.close = blk_close,
	.negotiated = blk_negotiated,
	.kick = blk_kick,
	.quiesce = blk_quiesce,
	.config_wrote = blk_config_wrote,
	.state = blk_state,
};
