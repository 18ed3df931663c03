/* SPDX-License-Identifier: MIT */
/*
 * Input and output of a raw disk. Runs on pool threads, and the iovecs point into guest memory: the
 * bytes may change at any time, so nothing is ever decided on them.
 */
#include "attach/disk/raw.h"

#include "base/arith.h"
#include "base/error.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BOUNCE_SIZE (256 * KiB)
#define ZERO_SIZE   (64 * KiB)

struct io {
	struct raw *raw;
	bool write;
	int flags; /* RWF_ */
	struct iovec *iov;
	unsigned n;
	uint64_t offset;
};

/* Take len bytes off the front, and empty segments with them. */
static void advance(struct io *io, size_t len)
{
	io->offset += len;
	while (io->n && len >= io->iov->iov_len) {
		len -= io->iov->iov_len;
		io->iov++;
		io->n--;
	}
	if (io->n) {
		io->iov->iov_base = (char *)io->iov->iov_base + len;
		io->iov->iov_len -= len;
	}
}

/* All of it, however little the kernel moves at a time; what was moved is not moved again. */
static int transfer(struct io *io)
{
	advance(io, 0);
	while (io->n) {
		int n = (int)MIN(io->n, (unsigned)IOV_MAX), fd = io->raw->fd;
		ssize_t moved = io->write ? pwritev2(fd, io->iov, n, (off_t)io->offset, io->flags)
					  : preadv2(fd, io->iov, n, (off_t)io->offset, 0);

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return -errno;
		if (!moved)
			return -EIO; /* the image was cut short behind our back */
		advance(io, (size_t)moved);
	}
	return 0;
}

static int transfer_plain(struct raw *raw, bool write, int flags, void *p, size_t len,
	uint64_t offset)
{
	struct iovec iov = { p, len };
	struct io io = { raw, write, flags, &iov, 1, offset };

	return transfer(&io);
}

static size_t io_len(const struct io *io)
{
	size_t len = 0;

	for (unsigned i = 0; i < io->n; i++)
		len += io->iov[i].iov_len;
	return len;
}

static bool aligned_memory(const struct io *io)
{
	for (unsigned i = 0; i < io->n; i++)
		if (((uintptr_t)io->iov[i].iov_base & (io->raw->mem_align - 1)) ||
			(io->iov[i].iov_len & (io->raw->block - 1)))
			return false;
	return true;
}

/* Between the bounce buffer and the segments. */
static void copy(struct io *io, char *p, size_t len)
{
	while (len) {
		size_t part = MIN(len, io->iov->iov_len);

		if (io->write)
			memcpy(p, io->iov->iov_base, part);
		else
			memcpy(io->iov->iov_base, p, part);
		advance(io, part);
		p += part;
		len -= part;
	}
}

/* Up to one buffer of whole blocks, the first and last of which may be ours only in part. */
static int bounce_some(struct io *io, char *buffer, size_t left)
{
	struct raw *raw = io->raw;
	uint64_t start = align_down(io->offset, raw->block);
	size_t head = (size_t)(io->offset - start);
	size_t len = MIN(left, BOUNCE_SIZE - head);
	size_t whole = (size_t)align_up(head + len, raw->block);
	size_t last = whole - raw->block;
	int r = 0;

	if (!io->write) {
		r = transfer_plain(raw, false, 0, buffer, whole, start);
		if (!r)
			copy(io, buffer + head, len);
		return r;
	}
	if (head)
		r = transfer_plain(raw, false, 0, buffer, raw->block, start);
	if (!r && head + len < whole && (last || !head))
		r = transfer_plain(raw, false, 0, buffer + last, raw->block, start + last);
	if (r)
		return r;
	copy(io, buffer + head, len);
	return transfer_plain(raw, true, io->flags, buffer, whole, start);
}

static int bounce(struct io *io, size_t len)
{
	uint64_t end = io->offset + len;
	char *buffer = NULL;
	int r = 0;

	if (posix_memalign((void **)&buffer, MAX((size_t)io->raw->mem_align, sizeof(void *)),
		    BOUNCE_SIZE))
		return -ENOMEM;
	advance(io, 0);
	while (!r && io->offset < end)
		r = bounce_some(io, buffer, (size_t)(end - io->offset));
	free(buffer);
	return r;
}

/* O_DIRECT wants whole blocks in aligned memory; a guest may send sectors anywhere. */
static int transfer_direct(struct io *io)
{
	size_t len = io_len(io);
	bool whole = !((io->offset | len) & (io->raw->block - 1));
	int r;

	if (io->write && whole)
		pthread_rwlock_rdlock(&io->raw->write_lock);
	else if (io->write)
		pthread_rwlock_wrlock(&io->raw->write_lock);
	r = whole && aligned_memory(io) ? transfer(io) : bounce(io, len);
	if (io->write)
		pthread_rwlock_unlock(&io->raw->write_lock);
	return r;
}

static int raw_transfer(struct raw *raw, struct disk_request *r)
{
	struct io io = { raw, r->op == DISK_WRITE, 0, r->iov, r->iovcnt, r->offset };

	if (io.write && r->stable && raw->commit)
		io.flags = RWF_DSYNC;
	return raw->direct ? transfer_direct(&io) : transfer(&io);
}

static int raw_flush(struct raw *raw)
{
	int r;

	if (!raw->commit)
		return 0;
	do
		r = fdatasync(raw->fd);
	while (r && errno == EINTR);
	return r ? -errno : 0;
}

static int raw_fallocate(struct raw *raw, int mode, uint64_t offset, uint64_t len)
{
	int r;

	do
		r = fallocate(raw->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
	while (r && errno == EINTR);
	return r ? -errno : 0;
}

static bool cannot(int r)
{
	return r == -EOPNOTSUPP || r == -ENOSYS || r == -ENOTTY;
}

/* A hint: it is no error when the host cannot follow it. */
static int raw_discard(struct raw *raw, uint64_t offset, uint64_t len)
{
	uint64_t align = raw->disk.limits.block_size, end = align_down(offset + len, align);
	int r;

	offset = align_up(offset, align);
	if (offset >= end || atomic_load(&raw->no_punch))
		return 0;
	if (raw->block_device) {
		uint64_t range[2] = { offset, end - offset };

		r = ioctl(raw->fd, BLKDISCARD, range) ? -errno : 0;
	} else {
		r = raw_fallocate(raw, FALLOC_FL_PUNCH_HOLE, offset, end - offset);
	}
	if (!cannot(r))
		return r;
	atomic_store(&raw->no_punch, true);
	return 0;
}

static int write_zeroes(struct raw *raw, uint64_t offset, uint64_t len)
{
	static const char zeroes[ZERO_SIZE] __attribute__((aligned(4096)));
	struct iovec iov[16];

	while (len) {
		struct io io = { raw, true, 0, iov, 0, offset };
		uint64_t some = 0;
		int r;

		for (; io.n < ARRAY_SIZE(iov) && some < len; io.n++) {
			iov[io.n].iov_base = (void *)zeroes;
			iov[io.n].iov_len = (size_t)MIN((uint64_t)ZERO_SIZE, len - some);
			some += iov[io.n].iov_len;
		}
		r = raw->direct ? transfer_direct(&io) : transfer(&io);
		if (r)
			return r;
		offset += some;
		len -= some;
	}
	return 0;
}

/* Reads give zeroes afterwards, by the cheapest way the host has (virtio 1.4 section 5.2.6.2). */
static int raw_zero(struct raw *raw, const struct disk_request *r)
{
	bool whole = !((r->offset | r->len) & (raw->disk.limits.block_size - 1));
	int err = -EOPNOTSUPP;

	if (!r->len)
		return 0;
	if (whole && r->unmap && !atomic_load(&raw->no_punch)) {
		err = raw_fallocate(raw, FALLOC_FL_PUNCH_HOLE, r->offset, r->len);
		if (cannot(err) && !raw->block_device)
			atomic_store(&raw->no_punch, true);
	}
	if (whole && cannot(err) && !atomic_load(&raw->no_zero_range)) {
		err = raw_fallocate(raw, FALLOC_FL_ZERO_RANGE, r->offset, r->len);
		if (cannot(err))
			atomic_store(&raw->no_zero_range, true);
	}
	return cannot(err) ? write_zeroes(raw, r->offset, r->len) : err;
}

int raw_perform(struct disk *disk, struct disk_request *r)
{
	struct raw *raw = container_of(disk, struct raw, disk);
	int err;

	switch (r->op) {
	case DISK_READ:
		return raw_transfer(raw, r);
	case DISK_FLUSH:
		return raw_flush(raw);
	case DISK_WRITE:
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (disk->limits.read_only)
		return -EROFS;
	if (r->op == DISK_WRITE)
		return raw_transfer(raw, r);
	err = r->op == DISK_DISCARD ? raw_discard(raw, r->offset, r->len) : raw_zero(raw, r);
	if (!err && r->stable)
		err = raw_flush(raw);
	return err;
}
