/* SPDX-License-Identifier: MIT */
/*
 * Port and MMIO dispatch: a sorted array of ranges for each space, searched by halves under a read
 * lock. The lock is not held while a handler runs, because a handler may move a BAR or wait for a
 * device's loop; so a handler may still be at work when bus_remove returns, and what its argument
 * points at must live until no vCPU runs.
 */
#include "bus/bus.h"

#include "base/arith.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PORTS 0x10000ull

struct range {
	uint64_t base, last; /* inclusive: a range may end at the top of the space */
	const struct bus_ops *ops;
	void *arg;
};

struct space {
	struct range *ranges;
	unsigned n, room;
};

struct bus {
	pthread_rwlock_t lock;
	struct space spaces[2];
};

struct bus *bus_new(void)
{
	struct bus *bus = calloc(1, sizeof(*bus));
	pthread_rwlockattr_t attr;

	if (!bus)
		return NULL;
	/* vCPUs that never stop polling a register must not keep a BAR from moving. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&bus->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return bus;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	free(bus->spaces[BUS_PORT].ranges);
	free(bus->spaces[BUS_MMIO].ranges);
	pthread_rwlock_destroy(&bus->lock);
	free(bus);
}

/* The index of the first range that ends at addr or later; n when there is none. */
static unsigned find(const struct space *space, uint64_t addr)
{
	unsigned low = 0, high = space->n;

	while (low < high) {
		unsigned mid = low + (high - low) / 2;

		if (space->ranges[mid].last < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int insert(struct space *space, const struct range *new)
{
	unsigned at = find(space, new->base);

	if (at < space->n && space->ranges[at].base <= new->last)
		return -EEXIST;
	if (space->n == space->room) {
		unsigned room = space->room ? space->room * 2 : 16;
		struct range *more = realloc(space->ranges, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		space->ranges = more;
		space->room = room;
	}
	memmove(&space->ranges[at + 1], &space->ranges[at],
		(space->n - at) * sizeof(*space->ranges));
	space->ranges[at] = *new;
	space->n++;
	return 0;
}

int bus_add(struct bus *bus, enum bus_space which, uint64_t base, uint64_t size,
	const struct bus_ops *ops, void *arg)
{
	struct range new = { .base = base, .ops = ops, .arg = arg };
	int r;

	if (!size || ckd_add(&new.last, base, size - 1))
		return -EINVAL;
	if (which == BUS_PORT && new.last >= PORTS)
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	r = insert(&bus->spaces[which], &new);
	pthread_rwlock_unlock(&bus->lock);
	return r;
}

void bus_remove(struct bus *bus, enum bus_space which, uint64_t base)
{
	struct space *space = &bus->spaces[which];
	unsigned at;

	pthread_rwlock_wrlock(&bus->lock);
	at = find(space, base);
	if (at < space->n && space->ranges[at].base == base) {
		space->n--;
		memmove(&space->ranges[at], &space->ranges[at + 1],
			(space->n - at) * sizeof(*space->ranges));
	}
	pthread_rwlock_unlock(&bus->lock);
}

/* A copy of the range that holds all of the access. */
static bool lookup(struct bus *bus, enum bus_space which, uint64_t addr, unsigned size,
	struct range *found)
{
	const struct space *space = &bus->spaces[which];
	uint64_t last;
	unsigned at;
	bool ok;

	if (size > 8 || !is_pow2(size) || ckd_add(&last, addr, size - 1))
		return false;
	pthread_rwlock_rdlock(&bus->lock);
	at = find(space, addr);
	ok = at < space->n && space->ranges[at].base <= addr && last <= space->ranges[at].last;
	if (ok)
		*found = space->ranges[at];
	pthread_rwlock_unlock(&bus->lock);
	return ok;
}

uint64_t bus_read(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size)
{
	uint64_t ones = size < 8 ? (1ull << (8 * size)) - 1 : UINT64_MAX;
	struct range r;

	if (!lookup(bus, space, addr, size, &r) || !r.ops->read)
		return ones;
	return r.ops->read(r.arg, addr - r.base, size) & ones;
}

void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size, uint64_t value)
{
	uint64_t ones = size < 8 ? (1ull << (8 * size)) - 1 : UINT64_MAX;
	struct range r;

	if (lookup(bus, space, addr, size, &r) && r.ops->write)
		r.ops->write(r.arg, addr - r.base, size, value & ones);
}
