/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: a sealed memfd, mapped once per region between guard pages, the log of pages that the
 * host wrote, and the observer of such writes.
 */
#include "memory/memory.h"

#include "base/arith.h"
#include "base/error.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Regions start at a multiple of this on the host too, so that huge pages fit. */
#define HUGE_SIZE (2 * MiB)

struct memory {
	int fd;
	uint64_t size;
	unsigned nregions;
	struct mem_region regions[2];
	struct {
		void *base;
		size_t len;
	} reserved[2]; /* address space around each region */

	atomic_bool watched; /* someone wants to know of writes: an observer, or the dirty log */
	mem_written_fn *observer;
	void *observer_arg;
	atomic_bool logging;
	_Atomic(uint64_t) *dirty; /* once allocated it stays: a writer may still be looking at it */
	size_t dirty_words;
};

static void *no_memory(struct vz_error *e, int code, uint64_t size)
{
	err_set(e, code, "memory",
		"cannot get %llu MiB of guest memory (%s); choose a smaller 'memory'",
		(unsigned long long)(size / MiB), strerror(code));
	return NULL;
}

/*
 * A memfd of the given size that nobody, not even a process it is shared with, can shrink under us.
 */
static int make_fd(uint64_t size)
{
	struct rlimit limit;
	int fd, err;

	/* The kernel would kill the process with SIGXFSZ. */
	if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY &&
		size > limit.rlim_cur)
		return -EFBIG;
	fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (size > INT64_MAX) {
		close(fd);
		return -EFBIG;
	}
	if (ftruncate(fd, (off_t)size) ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

static int map_region(struct memory *mem, uint64_t gpa, uint64_t offset, uint64_t size)
{
	struct mem_region *r = &mem->regions[mem->nregions];
	uint64_t len;
	uint8_t *base, *host;

	if (ckd_add(&len, size, 2 * HUGE_SIZE) || len > SIZE_MAX)
		return -ENOMEM;
	base = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -errno;
	mem->reserved[mem->nregions].base = base;
	mem->reserved[mem->nregions].len = len;
	host = base + (align_up((uintptr_t)base + MEM_PAGE_SIZE, HUGE_SIZE) - (uintptr_t)base);
	*r = (struct mem_region){ .gpa = gpa, .size = size, .host = host, .offset = offset };
	mem->nregions++;
	if (mmap(host, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
		    mem->fd, (off_t)offset) == MAP_FAILED)
		return -errno;
	/* Wishes: a kernel without them runs the guest as well. */
	madvise(host, size, MADV_HUGEPAGE);
	madvise(host, size, MADV_DONTDUMP);
	return 0;
}

struct memory *mem_new(uint64_t size, struct vz_error *e)
{
	uint64_t low = MIN(size, (uint64_t)MEM_HOLE_START);
	struct memory *mem;
	int r;

	if (size < MiB || size % MEM_PAGE_SIZE) {
		err_set(e, EINVAL, "memory", "%llu bytes: at least 1 MiB, in whole pages of 4 KiB",
			(unsigned long long)size);
		return NULL;
	}
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return no_memory(e, ENOMEM, size);
	mem->size = size;
	mem->dirty_words = (size / MEM_PAGE_SIZE + 63) / 64;
	mem->fd = make_fd(size);
	r = mem->fd < 0 ? mem->fd : map_region(mem, 0, 0, low);
	if (!r && size > low)
		r = map_region(mem, MEM_HIGH_START, low, size - low);
	if (r) {
		mem_free(mem);
		return no_memory(e, -r, size);
	}
	return mem;
}

void mem_free(struct memory *mem)
{
	if (!mem)
		return;
	for (unsigned i = 0; i < mem->nregions; i++)
		munmap(mem->reserved[i].base, mem->reserved[i].len);
	if (mem->fd >= 0)
		close(mem->fd);
	free(mem->dirty);
	free(mem);
}

uint64_t mem_size(const struct memory *mem)
{
	return mem->size;
}

int mem_fd(const struct memory *mem)
{
	return mem->fd;
}

unsigned mem_regions(const struct memory *mem, const struct mem_region **regions)
{
	*regions = mem->regions;
	return mem->nregions;
}

/* The region that holds all of a range, or NULL. */
static const struct mem_region *find_region(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->nregions; i++) {
		const struct mem_region *r = &mem->regions[i];
		uint64_t at = gpa - r->gpa;

		if (gpa >= r->gpa && at < r->size && len <= r->size - at)
			return len ? r : NULL;
	}
	return NULL;
}

bool mem_span(const struct memory *mem, uint64_t gpa, uint64_t len, struct span *span)
{
	const struct mem_region *r = find_region(mem, gpa, len);

	if (!r)
		return false;
	span->p = r->host + (gpa - r->gpa);
	span->len = len;
	return true;
}

int mem_read(const struct memory *mem, uint64_t gpa, void *to, size_t len)
{
	struct span s;

	if (!mem_span(mem, gpa, len, &s))
		return -EFAULT;
	memcpy(to, s.p, len);
	return 0;
}

int mem_write(struct memory *mem, uint64_t gpa, const void *from, size_t len)
{
	struct span s;

	if (!mem_span(mem, gpa, len, &s))
		return -EFAULT;
	memcpy(s.p, from, len);
	mem_written(mem, gpa, len);
	return 0;
}

static void log_dirty(struct memory *mem, const struct mem_region *r, uint64_t gpa, uint64_t len)
{
	uint64_t offset = r->offset + (gpa - r->gpa);
	uint64_t page = offset / MEM_PAGE_SIZE, last = (offset + len - 1) / MEM_PAGE_SIZE;

	while (page <= last) {
		unsigned first = page % 64;
		unsigned n = (unsigned)MIN(last - page + 1, (uint64_t)64 - first);
		uint64_t mask = (n == 64 ? UINT64_MAX : (1ull << n) - 1) << first;

		atomic_fetch_or(&mem->dirty[page / 64], mask);
		page += n;
	}
}

static void tell_written(struct memory *mem, uint64_t gpa, uint64_t len)
{
	const struct mem_region *r = find_region(mem, gpa, len);

	if (!r)
		return;
	if (atomic_load_explicit(&mem->logging, memory_order_acquire))
		log_dirty(mem, r, gpa, len);
	if (mem->observer)
		mem->observer(mem->observer_arg, gpa, len);
}

void mem_written(struct memory *mem, uint64_t gpa, uint64_t len)
{
	if (atomic_load_explicit(&mem->watched, memory_order_acquire))
		tell_written(mem, gpa, len);
}

void mem_observe(struct memory *mem, mem_written_fn *fn, void *arg)
{
	mem->observer_arg = arg;
	mem->observer = fn;
	atomic_store(&mem->watched, fn || atomic_load(&mem->logging));
}

int mem_dirty_start(struct memory *mem)
{
	if (!mem->dirty)
		mem->dirty = calloc(mem->dirty_words, sizeof(*mem->dirty));
	if (!mem->dirty)
		return -ENOMEM;
	for (size_t i = 0; i < mem->dirty_words; i++)
		atomic_store_explicit(&mem->dirty[i], 0, memory_order_relaxed);
	atomic_store(&mem->logging, true);
	atomic_store(&mem->watched, true);
	return 0;
}

void mem_dirty_stop(struct memory *mem)
{
	atomic_store(&mem->logging, false);
	atomic_store(&mem->watched, mem->observer != NULL);
}

void mem_dirty_fetch(struct memory *mem, uint64_t *bits)
{
	for (size_t i = 0; i < mem->dirty_words; i++)
		bits[i] = mem->dirty ? atomic_exchange(&mem->dirty[i], 0) : 0;
}

static int punch(struct memory *mem, uint64_t offset, uint64_t len)
{
	int r;

	do
		r = fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			(off_t)len);
	while (r && errno == EINTR);
	return r ? -errno : 0;
}

int mem_discard(struct memory *mem, uint64_t gpa, uint64_t len)
{
	const struct mem_region *r = find_region(mem, gpa, len);
	int err;

	if (gpa % MEM_PAGE_SIZE || len % MEM_PAGE_SIZE)
		return -EINVAL;
	if (!r)
		return -EFAULT;
	err = punch(mem, r->offset + (gpa - r->gpa), len);
	if (!err)
		mem_written(mem, gpa, len);
	return err;
}

void mem_clear(struct memory *mem)
{
	for (unsigned i = 0; i < mem->nregions; i++) {
		const struct mem_region *r = &mem->regions[i];

		if (punch(mem, r->offset, r->size))
			memset(r->host, 0, r->size);
		mem_written(mem, r->gpa, r->size);
	}
}
