/* SPDX-License-Identifier: MIT */
/* Port and MMIO dispatch. */
#include "bus/bus.h"
#include "tap.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

struct probe {
	unsigned reads, writes, size;
	uint64_t offset, value;
};

static uint64_t probe_read(void *arg, uint64_t offset, unsigned size)
{
	struct probe *p = arg;

	p->reads++;
	p->offset = offset;
	p->size = size;
	return 0x1122334455667788;
}

static void probe_write(void *arg, uint64_t offset, unsigned size, uint64_t value)
{
	struct probe *p = arg;

	p->writes++;
	p->offset = offset;
	p->size = size;
	p->value = value;
}

static const struct bus_ops ops = { .read = probe_read, .write = probe_write };

static void finds_the_owner(void)
{
	struct bus *bus = bus_new();
	struct probe probes[40] = { 0 };

	/* In an order that is neither up nor down. */
	for (unsigned i = 0; i < 40; i++) {
		unsigned at = i * 7 % 40;

		CHECK_EQ(bus_add(bus, BUS_MMIO, 0x1000 + at * 0x100, 0x80, &ops, &probes[at]), 0);
	}
	for (unsigned i = 0; i < 40; i++) {
		CHECK_EQ(bus_read(bus, BUS_MMIO, 0x1000 + i * 0x100 + 0x7c, 4), 0x55667788);
		CHECK_EQ(probes[i].reads, 1);
		CHECK_EQ(probes[i].offset, 0x7c);
		CHECK_EQ(probes[i].size, 4);
		/* The gap behind it. */
		CHECK_EQ(bus_read(bus, BUS_MMIO, 0x1000 + i * 0x100 + 0x80, 4), 0xffffffff);
		CHECK_EQ(probes[i].reads, 1);
	}
	bus_free(bus);
}

static void masks_values(void)
{
	struct bus *bus = bus_new();
	struct probe p = { 0 };

	bus_add(bus, BUS_PORT, 0x60, 8, &ops, &p);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0x60, 1), 0x88);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0x60, 8), 0x1122334455667788);
	bus_write(bus, BUS_PORT, 0x60, 2, 0xabcdef);
	CHECK_EQ(p.value, 0xcdef);
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0x60, 1), 0xff);
	bus_free(bus);
}

static void nobody_there(void)
{
	struct bus *bus = bus_new();

	CHECK_EQ(bus_read(bus, BUS_MMIO, 0, 1), 0xff);
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0, 2), 0xffff);
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0, 4), 0xffffffff);
	CHECK(bus_read(bus, BUS_MMIO, UINT64_MAX, 8) == UINT64_MAX);
	bus_write(bus, BUS_MMIO, UINT64_MAX, 8, 0);
	bus_free(bus);
}

/* Row 49: an 8-byte access at the last byte; and one that begins before the range. */
static void crossing_accesses_reach_nobody(void)
{
	struct bus *bus = bus_new();
	struct probe p = { 0 };

	bus_add(bus, BUS_MMIO, 0x1000, 0x10, &ops, &p);
	bus_add(bus, BUS_MMIO, 0x1010, 0x10, &ops, &p);
	CHECK(bus_read(bus, BUS_MMIO, 0x101f, 8) == UINT64_MAX);
	CHECK(bus_read(bus, BUS_MMIO, 0x0fff, 2) == 0xffff);
	CHECK(bus_read(bus, BUS_MMIO, 0x100e, 4) == 0xffffffff);
	bus_write(bus, BUS_MMIO, 0x101d, 4, 0);
	CHECK_EQ(p.reads + p.writes, 0);
	bus_free(bus);
}

static void odd_sizes_reach_nobody(void)
{
	static const unsigned sizes[] = { 0, 3, 5, 6, 7, 9, 16, 64, 0x80000000 };
	struct bus *bus = bus_new();
	struct probe p = { 0 };

	bus_add(bus, BUS_MMIO, 0, 0x1000, &ops, &p);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		bus_read(bus, BUS_MMIO, 0, sizes[i]);
		bus_write(bus, BUS_MMIO, 0, sizes[i], 0);
	}
	CHECK_EQ(p.reads + p.writes, 0);
	bus_free(bus);
}

static void refuses_bad_ranges(void)
{
	struct bus *bus = bus_new();
	struct probe p = { 0 };

	CHECK_EQ(bus_add(bus, BUS_MMIO, 0x1000, 0, &ops, &p), -EINVAL);
	CHECK_EQ(bus_add(bus, BUS_MMIO, UINT64_MAX, 2, &ops, &p), -EINVAL);
	CHECK_EQ(bus_add(bus, BUS_PORT, 0xffff, 2, &ops, &p), -EINVAL);
	CHECK_EQ(bus_add(bus, BUS_MMIO, UINT64_MAX, 1, &ops, &p), 0);
	CHECK_EQ(bus_read(bus, BUS_MMIO, UINT64_MAX, 1), 0x88);
	CHECK_EQ(bus_add(bus, BUS_MMIO, 0x1000, 0x100, &ops, &p), 0);
	CHECK_EQ(bus_add(bus, BUS_MMIO, 0x10ff, 1, &ops, &p), -EEXIST);
	CHECK_EQ(bus_add(bus, BUS_MMIO, 0xfff, 2, &ops, &p), -EEXIST);
	CHECK_EQ(bus_add(bus, BUS_MMIO, 0, 0x10000, &ops, &p), -EEXIST);
	CHECK_EQ(bus_add(bus, BUS_MMIO, 0x1010, 1, &ops, &p), -EEXIST);
	CHECK_EQ(bus_add(bus, BUS_MMIO, 0x1100, 1, &ops, &p), 0);
	CHECK_EQ(bus_add(bus, BUS_MMIO, 0xfff, 1, &ops, &p), 0);
	bus_free(bus);
}

static void removed_ranges_are_gone(void)
{
	struct bus *bus = bus_new();
	struct probe p = { 0 }, q = { 0 };

	bus_add(bus, BUS_MMIO, 0x1000, 0x100, &ops, &p);
	bus_add(bus, BUS_MMIO, 0x2000, 0x100, &ops, &q);
	bus_remove(bus, BUS_MMIO, 0x1080); /* not a base */
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0x1000, 1), 0x88);
	bus_remove(bus, BUS_MMIO, 0x1000);
	bus_remove(bus, BUS_MMIO, 0x1000);
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0x1000, 1), 0xff);
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0x2000, 1), 0x88);
	bus_free(bus);
}

static uint64_t moves_itself(void *arg, uint64_t offset, unsigned size)
{
	struct bus *bus = arg;

	bus_remove(bus, BUS_MMIO, 0x1000);
	return 7;
}

/* As a BAR does when the access that moves it is its own. */
static void handler_may_change_the_map(void)
{
	static const struct bus_ops moving = { .read = moves_itself };
	struct bus *bus = bus_new();

	bus_add(bus, BUS_MMIO, 0x1000, 0x100, &moving, bus);
	bus_write(bus, BUS_MMIO, 0x1000, 1, 0);
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0x1000, 1), 7);
	CHECK_EQ(bus_read(bus, BUS_MMIO, 0x1000, 1), 0xff);
	bus_free(bus);
}

struct mover {
	struct bus *bus;
	atomic_bool stop;
};

static uint64_t one(void *arg, uint64_t offset, unsigned size)
{
	return 1;
}

static void *move_about(void *arg)
{
	static const struct bus_ops one_ops = { .read = one };
	struct mover *m = arg;

	while (!m->stop) {
		bus_add(m->bus, BUS_MMIO, 0x5000, 0x100, &one_ops, NULL);
		bus_remove(m->bus, BUS_MMIO, 0x5000);
	}
	return NULL;
}

static void map_changes_while_others_look(void)
{
	static const struct bus_ops one_ops = { .read = one };
	struct mover m = { .bus = bus_new() };
	unsigned bad = 0;
	pthread_t thread;

	bus_add(m.bus, BUS_MMIO, 0x4000, 0x100, &one_ops, NULL);
	bus_add(m.bus, BUS_MMIO, 0x6000, 0x100, &one_ops, NULL);
	CHECK_EQ(pthread_create(&thread, NULL, move_about, &m), 0);
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t seen = bus_read(m.bus, BUS_MMIO, 0x5000, 1);

		bad += seen != 1 && seen != 0xff;
		bad += bus_read(m.bus, BUS_MMIO, i & 1 ? 0x4000 : 0x6000, 1) != 1;
	}
	m.stop = true;
	pthread_join(thread, NULL);
	CHECK_EQ(bad, 0);
	bus_free(m.bus);
}

int main(void)
{
	RUN(finds_the_owner);
	RUN(masks_values);
	RUN(nobody_there);
	RUN(crossing_accesses_reach_nobody);
	RUN(odd_sizes_reach_nobody);
	RUN(refuses_bad_ranges);
	RUN(removed_ranges_are_gone);
	RUN(handler_may_change_the_map);
	RUN(map_changes_while_others_look);
	return tap_done();
}
