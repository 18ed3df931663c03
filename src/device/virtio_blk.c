/* SPDX-License-Identifier: MIT */
/*
 * Block device (virtio 1.4 section 5.2) on a disk of attach/disk. Requests complete in any order;
 * the disk moves data straight between the host and the guest's buffers.
 */
#include "device/virtio_blk.h"

#include "base/error.h"
#include "base/le.h"
#include "device/device.h"
#include "state/state.h"

#include <stdlib.h>
#include <string.h>

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
	first = blk_request_new(blk);
	if (!first)
		return err_set(e, ENOMEM, NULL, "out of memory");
	blk_request_free(first);
	blk->disk = disk_open_raw(dev->loop, &o, e);
	if (!blk->disk)
		return -EIO;
	disk_on_batch(blk->disk, blk_batch_done, blk);
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
