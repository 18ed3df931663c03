/* SPDX-License-Identifier: MIT */
/*
 * Opening a raw image or a block device. The bytes of the image are the guest's: they are never
 * looked at to guess a format, because a guest that writes another format's header would choose
 * what is opened next.
 */
#include "attach/disk/raw.h"

#include "base/arith.h"
#include "base/error.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SECTOR     512u
#define HOST_BLOCK 4096u /* what file systems and drives work in; better overestimated than under */

static void raw_close(struct disk *disk)
{
	struct raw *raw = container_of(disk, struct raw, disk);

	pthread_rwlock_destroy(&raw->write_lock);
	if (raw->fd >= 0)
		close(raw->fd);
}

static const struct disk_ops raw_ops = { .perform = raw_perform, .close = raw_close };

static int open_error(const struct disk_options *o, int err, struct vz_error *e)
{
	const char *path = o->path;

	if (err == ENOENT)
		return err_set(e, err, "path", "disk image '%s' does not exist", path);
	if (err == EISDIR)
		return err_set(e, err, "path", "'%s' is a directory, not a disk image", path);
	if (err == EBUSY)
		return err_set(e, err, "path",
			"'%s' is in use: mounted, or held by another program", path);
	if ((err == EACCES || err == EPERM || err == EROFS) && !o->read_only)
		return err_set(e, err, "path",
			"cannot open '%s' for writing: %s; add 'readonly' to use it unchanged",
			path, strerror(err));
	if (err == EINVAL && o->direct)
		return err_set(e, err, "cache",
			"the file system of '%s' has no direct I/O: leave out 'cache=none'", path);
	return err_set(e, err, "path", "cannot open '%s': %s", path, strerror(err));
}

static int raw_open_file(struct raw *raw, const struct disk_options *o, struct vz_error *e)
{
	/* O_NONBLOCK: a FIFO must not keep us waiting before it is refused. */
	int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (o->read_only ? O_RDONLY : O_RDWR);
	struct stat st;

	if (!stat(o->path, &st) && S_ISBLK(st.st_mode) && !o->read_only)
		flags |= O_EXCL; /* refuses what the host has mounted */
	if (o->direct)
		flags |= O_DIRECT;
	raw->fd = open(o->path, flags);
	if (raw->fd < 0 || fstat(raw->fd, &st))
		return open_error(o, errno, e);
	raw->block_device = S_ISBLK(st.st_mode);
	if (S_ISDIR(st.st_mode))
		return open_error(o, EISDIR, e);
	if (o->block_device && !raw->block_device)
		return err_set(e, ENOTBLK, "path",
			"'%s' is not a block device: leave out 'type=dev'", o->path);
	if (!raw->block_device && !S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "path", "'%s' is neither a file nor a block device",
			o->path);
	fcntl(raw->fd, F_SETFL, fcntl(raw->fd, F_GETFL) & ~O_NONBLOCK);
	return 0;
}

/*
 * The lock belongs to the open file description, so that it holds against other disks of this
 * process too and is not lost when somebody else here closes the same file.
 */
static int raw_lock(struct raw *raw, const struct disk_options *o, struct vz_error *e)
{
	struct flock lock = { .l_type = o->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (!fcntl(raw->fd, F_OFD_SETLK, &lock))
		return 0;
	if (errno != EAGAIN && errno != EACCES)
		return err_set(e, errno, "path", "cannot lock '%s': %s", o->path, strerror(errno));
	if (o->read_only)
		return err_set(e, EBUSY, "path",
			"'%s' is open for writing in another process or as another disk", o->path);
	return err_set(e, EBUSY, "path",
		"'%s' is open in another process or as another disk; only disks that are all "
		"'readonly' can share an image",
		o->path);
}

/* A number from the device's queue in sysfs; a partition's is its parent's. 0: not there. */
static uint64_t queue_attribute(const struct raw *raw, const char *name)
{
	static const char *const formats[] = { "/sys/dev/block/%u:%u/queue/%s",
		"/sys/dev/block/%u:%u/../queue/%s" };
	uint64_t value = 0;
	struct stat st;
	char path[128];

	if (fstat(raw->fd, &st))
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		FILE *f;

		snprintf(path, sizeof(path), formats[i], major(st.st_rdev), minor(st.st_rdev),
			name);
		f = fopen(path, "re");
		if (!f)
			continue;
		/* NOLINTNEXTLINE(cert-err34-c): the kernel writes numbers that fit */
		if (fscanf(f, "%" SCNu64, &value) != 1)
			value = 0;
		fclose(f);
		break;
	}
	return value;
}

static int device_limits(struct raw *raw, const struct disk_options *o, struct vz_error *e)
{
	struct disk_limits *l = &raw->disk.limits;
	unsigned physical = 0, io_min = 0, io_opt = 0;
	int logical = 0, read_only = 0;

	if (ioctl(raw->fd, BLKGETSIZE64, &l->size) || ioctl(raw->fd, BLKSSZGET, &logical))
		return err_set(e, errno, "path", "cannot ask '%s' for its size: %s", o->path,
			strerror(errno));
	if (!ioctl(raw->fd, BLKROGET, &read_only) && read_only && !o->read_only)
		return open_error(o, EROFS, e);
	ioctl(raw->fd, BLKPBSZGET, &physical);
	ioctl(raw->fd, BLKIOMIN, &io_min);
	ioctl(raw->fd, BLKIOOPT, &io_opt);
	l->block_size = (uint32_t)logical;
	l->physical_size = physical;
	l->io_min = io_min;
	l->io_opt = io_opt;
	if (queue_attribute(raw, "discard_max_bytes"))
		l->discard_align = (uint32_t)queue_attribute(raw, "discard_granularity");
	return 0;
}

static int file_limits(struct raw *raw, const struct disk_options *o, struct vz_error *e)
{
	struct disk_limits *l = &raw->disk.limits;
	struct stat st;

	if (fstat(raw->fd, &st))
		return open_error(o, errno, e);
	l->size = (uint64_t)st.st_size;
	l->block_size = SECTOR;
	l->physical_size = HOST_BLOCK;
	l->io_min = HOST_BLOCK;
	/* Past the end of the file there is nothing to lose, and the answer is the same. */
	if (!o->read_only && !fallocate(raw->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     (off_t)align_up(l->size, HOST_BLOCK), HOST_BLOCK))
		l->discard_align = HOST_BLOCK;
	return 0;
}

/*
 * What O_DIRECT asks for; the guest then sees the host's block size, so that it rarely has to be
 * hidden.
 */
static void direct_limits(struct raw *raw)
{
	uint32_t block = raw->block_device ? raw->disk.limits.block_size : HOST_BLOCK;

	raw->mem_align = block;
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (!statx(raw->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) &&
		(stx.stx_mask & STATX_DIOALIGN) && is_pow2(stx.stx_dio_offset_align) &&
		is_pow2(stx.stx_dio_mem_align)) {
		block = stx.stx_dio_offset_align;
		raw->mem_align = stx.stx_dio_mem_align;
	}
#endif
	raw->block = block;
	raw->disk.limits.block_size = MAX(raw->disk.limits.block_size, block);
}

static int check_size(const struct raw *raw, const struct disk_options *o, struct vz_error *e)
{
	const struct disk_limits *l = &raw->disk.limits;

	if (!l->size)
		return err_set(e, EINVAL, "path",
			"'%s' is empty; give it a size, for example with: truncate -s 10G '%s'",
			o->path, o->path);
	if (l->size % SECTOR)
		return err_set(e, EINVAL, "path",
			"the size of '%s', %" PRIu64
			" bytes, is not a multiple of %u; pad it with: truncate -s "
			"%%%u '%s'",
			o->path, l->size, SECTOR, SECTOR, o->path);
	if (l->size % l->block_size)
		return err_set(e, EINVAL, "path",
			"the size of '%s', %" PRIu64
			" bytes, is not a multiple of %u as cache=none asks here; "
			"pad it with: truncate -s %%%u '%s'",
			o->path, l->size, l->block_size, l->block_size, o->path);
	return 0;
}

static int raw_open(struct raw *raw, const struct disk_options *o, struct vz_error *e)
{
	struct disk_limits *l = &raw->disk.limits;
	int r;

	raw->direct = o->direct;
	raw->commit = o->sync != DISK_SYNC_NONE;
	r = raw_open_file(raw, o, e);
	if (!r)
		r = raw_lock(raw, o, e);
	if (!r)
		r = raw->block_device ? device_limits(raw, o, e) : file_limits(raw, o, e);
	if (r)
		return r;
	if (raw->direct)
		direct_limits(raw);
	if (!is_pow2(l->physical_size) || l->physical_size < l->block_size)
		l->physical_size = l->block_size;
	l->read_only = o->read_only;
	l->zeroes = !o->read_only;
	if (o->read_only)
		l->discard_align = 0;
	atomic_store(&raw->no_punch, !l->discard_align);
	return check_size(raw, o, e);
}

struct disk *disk_open_raw(struct loop *loop, const struct disk_options *options,
	struct vz_error *e)
{
	struct raw *raw = calloc(1, sizeof(*raw));

	if (!raw) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	disk_init(&raw->disk, loop, &raw_ops);
	pthread_rwlock_init(&raw->write_lock, NULL);
	raw->fd = -1;
	if (raw_open(raw, options, e)) {
		disk_close(&raw->disk);
		return NULL;
	}
	return &raw->disk;
}
