/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: the one door to guest memory. RAM is one memfd, mapped shared once; guest-physical
 * addresses 0 .. low_size and 4 GiB .. are RAM, everything else is a hole. An address never travels
 * without its length: a range is inside one RAM region or it is refused.
 *
 * A host-side write to RAM must be announced with mem_written, so that the dirty log and translated
 * code stay true; mem_write does so by itself. Safe from any thread; the map does not change after
 * mem_new.
 */
#ifndef MEMORY_MEMORY_H
#define MEMORY_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vizor/error.h>

#define MEM_PAGE_SIZE  4096u
#define MEM_HOLE_START 0xc0000000ull  /* RAM below 4 GiB ends here at the latest: 3 GiB */
#define MEM_HIGH_START 0x100000000ull /* the rest of RAM starts here */

struct memory;

struct span {
	uint8_t *p;
	size_t len;
};

struct mem_region {
	uint64_t gpa, size; /* guest-physical, bytes */
	uint8_t *host;
	uint64_t offset; /* in the memfd */
};

/* size: bytes, a multiple of MEM_PAGE_SIZE, at least 1 MiB. NULL with *e set on failure. */
struct memory *mem_new(uint64_t size, struct vz_error *e);
void mem_free(struct memory *mem);

uint64_t mem_size(const struct memory *mem);
int mem_fd(const struct memory *mem); /* the memfd, owned by mem */
/* count, 1 or 2 */
unsigned mem_regions(const struct memory *mem, const struct mem_region **regions);

/* The host bytes of [gpa, gpa + len), or false when any of it is not RAM or len is 0. */
bool mem_span(const struct memory *mem, uint64_t gpa, uint64_t len, struct span *span);

/* Copy out / in; 0 or -EFAULT when the range is not RAM (then nothing was copied). */
int mem_read(const struct memory *mem, uint64_t gpa, void *to, size_t len);
int mem_write(struct memory *mem, uint64_t gpa, const void *from, size_t len);

/* Tell that the host wrote [gpa, gpa + len) through a span. */
void mem_written(struct memory *mem, uint64_t gpa, uint64_t len);

/*
 * One observer of host-side writes (the software CPU: to drop translations). Set before any vCPU
 * runs. fn is called from whatever thread wrote.
 */
typedef void mem_written_fn(void *arg, uint64_t gpa, uint64_t len);
void mem_observe(struct memory *mem, mem_written_fn *fn, void *arg);

/* Dirty log of host-side writes, one bit per page of the memfd; off until started. */
int mem_dirty_start(struct memory *mem);
void mem_dirty_stop(struct memory *mem);
/* Move the log into bits (mem_size / 4096 / 64 words, rounded up) and clear it. */
void mem_dirty_fetch(struct memory *mem, uint64_t *bits);

/* Give pages back to the host (they read as zeroes afterwards). Page aligned. 0 or -errno. */
int mem_discard(struct memory *mem, uint64_t gpa, uint64_t len);
/* Zero all RAM, as at power-on. */
void mem_clear(struct memory *mem);

#endif
