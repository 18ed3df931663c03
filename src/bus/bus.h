/* SPDX-License-Identifier: MIT */
/*
 * Port and MMIO dispatch: which handler owns an address. Handlers run on the thread that made the
 * access (a vCPU); a device that lives on a loop crosses over itself with loop_call. The map may
 * change while vCPUs run (a BAR moves); lookups take a read lock.
 */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include <stdbool.h>
#include <stdint.h>
#include <vizor/error.h>

enum bus_space { BUS_PORT, BUS_MMIO };

/*
 * offset: from the range's base; size: 1, 2, 4 or 8 bytes; the access lies wholly inside the range.
 */
struct bus_ops {
	uint64_t (*read)(void *arg, uint64_t offset, unsigned size);
	void (*write)(void *arg, uint64_t offset, unsigned size, uint64_t value);
};

struct bus;

struct bus *bus_new(void);
void bus_free(struct bus *bus);
/* -EEXIST when the range overlaps another one, -EINVAL when it wraps or is empty. */
int bus_add(struct bus *bus, enum bus_space space, uint64_t base, uint64_t size,
	const struct bus_ops *ops, void *arg);
void bus_remove(struct bus *bus, enum bus_space space, uint64_t base);
/* Nobody there: reads give all ones of size bytes, writes are dropped. */
uint64_t bus_read(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size);
void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size, uint64_t value);

#endif
