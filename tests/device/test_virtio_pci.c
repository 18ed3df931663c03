/* SPDX-License-Identifier: MIT */
/*
 * The virtio-pci transport as a driver meets it: everything goes through the bus, from a thread
 * that is not the device's loop. The device is a small one of our own: it returns each chain at
 * once.
 */
#include "base/le.h"
#include "bus/virtio_pci.h"
#include "state/state.h"
#include "tap.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define ECAM       0xe8000000ull
#define MMIO32     0xd0000000ull
#define MMIO64     0x4000000000ull
#define QUEUES     2
#define QUEUE_SIZE 64
#define CONFIG     24

/* Common configuration. */
enum {
	DEV_SEL = 0x00,
	DEV_FEATURE = 0x04,
	DRV_SEL = 0x08,
	DRV_FEATURE = 0x0c,
	CFG_VECTOR = 0x10,
	NUM_QUEUES = 0x12,
	STATUS = 0x14,
	GENERATION = 0x15,
	Q_SELECT = 0x16,
	Q_SIZE = 0x18,
	Q_VECTOR = 0x1a,
	Q_ENABLE = 0x1c,
	Q_NOTIFY_OFF = 0x1e,
	Q_DESC = 0x20,
	Q_DRIVER = 0x28,
	Q_DEVICE = 0x30,
	Q_RESET = 0x3a,
};

/* Guest memory of queue i. */
#define DESC(i)   (0x10000ull + (i)*0x4000)
#define AVAIL(i)  (0x11000ull + (i)*0x4000)
#define USED(i)   (0x12000ull + (i)*0x4000)
#define BUFFER(i) (0x13000ull + (i)*0x4000)

/* --- the device --- */

struct toy {
	struct vdev vdev;
	atomic_uint kicks, chains, starts, quiesces;
	bool slow_quiesce;
};

static void toy_kick(struct vdev *dev, struct virtqueue *vq)
{
	struct toy *toy = (struct toy *)dev;
	uint64_t room[(CHAIN_BYTES(QUEUE_SIZE) + 7) / 8];
	struct chain *chain = (struct chain *)room;

	toy->kicks++;
	while (vq_pop(vq, chain) > 0) {
		chain_write(chain, "toy", 3);
		chain_done(chain);
		toy->chains++;
	}
	vq_notify(vq);
}

static void toy_start(struct vdev *dev)
{
	((struct toy *)dev)->starts++;
}

static void toy_quiesce(struct vdev *dev)
{
	struct toy *toy = (struct toy *)dev;

	if (toy->slow_quiesce)
		usleep(50000);
	toy->quiesces++;
}

static void toy_config_wrote(struct vdev *dev, unsigned offset, unsigned len)
{
}

static const struct device_class toy_class = {
	.name = "toy",
	.summary = "returns what it gets",
	.id = 42,
	.pci_class = { 0xff, 0x01, 0x02 },
	.queues = QUEUES,
	.queue_size = QUEUE_SIZE,
	.features = 0x5,
	.config_size = CONFIG,
	.size = sizeof(struct toy),
	.kick = toy_kick,
	.start = toy_start,
	.quiesce = toy_quiesce,
	.config_wrote = toy_config_wrote,
};

/* --- the machine around it --- */

struct bound {
	uint64_t address;
	int fd;
};

struct board {
	struct bus *bus;
	struct pci_bus *pci;
	struct memory *mem;
	struct loop *loop;
	pthread_t thread;
	struct toy *toy;
	struct virtio_pci *vp;
	bool bind_works;
	struct bound bound[8];
	unsigned nbound, binds;
	atomic_uint messages, last_data;
	unsigned common, notify, isr, device,
		window; /* offsets in the BAR; window: in config space */
	uint16_t avail[QUEUES];
};

static void send_msi(void *arg, uint64_t address, uint32_t data)
{
	struct board *b = arg;

	b->last_data = data;
	b->messages++;
}

static int bind_doorbell(void *arg, uint64_t address, unsigned size, int fd)
{
	struct board *b = arg;

	CHECK_EQ(size, 2);
	if (!b->bind_works || b->nbound == 8)
		return -ENOSPC;
	b->bound[b->nbound++] = (struct bound){ address, fd };
	b->binds++;
	return 0;
}

static void unbind_doorbell(void *arg, uint64_t address, unsigned size, int fd)
{
	struct board *b = arg;

	for (unsigned i = 0; i < b->nbound; i++)
		if (b->bound[i].address == address && b->bound[i].fd == fd) {
			b->bound[i] = b->bound[--b->nbound];
			return;
		}
	CHECK(!"unbound what was not bound");
}

static void *run_loop(void *arg)
{
	loop_run(arg);
	return NULL;
}

static uint64_t cfg_get(struct board *b, unsigned offset, unsigned size)
{
	return bus_read(b->bus, BUS_MMIO, ECAM + (virtio_pci_slot(b->vp) << 15) + offset, size);
}

static void cfg_set(struct board *b, unsigned offset, unsigned size, uint64_t value)
{
	bus_write(b->bus, BUS_MMIO, ECAM + (virtio_pci_slot(b->vp) << 15) + offset, size, value);
}

static uint64_t bar(struct board *b)
{
	return cfg_get(b, 0x20, 8) & ~0xfull;
}

static void discover(struct board *b)
{
	for (unsigned at = cfg_get(b, 0x34, 1); at; at = cfg_get(b, at + 1, 1)) {
		if (cfg_get(b, at, 1) != 9)
			continue;
		switch (cfg_get(b, at + 3, 1)) {
		case 1:
			b->common = cfg_get(b, at + 8, 4);
			break;
		case 2:
			b->notify = cfg_get(b, at + 8, 4);
			break;
		case 3:
			b->isr = cfg_get(b, at + 8, 4);
			break;
		case 4:
			b->device = cfg_get(b, at + 8, 4);
			break;
		case 5:
			b->window = at;
			break;
		}
	}
}

static struct board *board_new_with(bool bind_works)
{
	static const struct pci_windows windows = { ECAM, MMIO32, 0x18000000, MMIO64, 1ull << 36 };
	struct board *b = calloc(1, sizeof(*b));
	struct virtio_pci_host host = { b, send_msi, bind_doorbell, unbind_doorbell };

	b->bind_works = bind_works;
	b->mem = mem_new(1 << 21, NULL);
	b->bus = bus_new();
	b->pci = pci_bus_new(b->bus, &windows, NULL);
	b->loop = loop_new(NULL);
	b->toy = (struct toy *)vdev_new(&toy_class);
	CHECK_EQ(vdev_open(&b->toy->vdev, b->loop, b->mem, "toy 'one'", NULL), 0);
	for (unsigned i = 0; i < CONFIG; i++)
		b->toy->vdev.config[i] = 0x40 + i;
	b->vp = virtio_pci_new(b->pci, &b->toy->vdev, &host, -1, NULL);
	CHECK(b->vp != NULL);
	discover(b);
	loop_hand_over(b->loop);
	pthread_create(&b->thread, NULL, run_loop, b->loop);
	return b;
}

static struct board *board_new(void)
{
	return board_new_with(false);
}

static void board_free(struct board *b)
{
	loop_stop(b->loop);
	pthread_join(b->thread, NULL);
	virtio_pci_free(b->vp);
	CHECK_EQ(b->nbound, 0);
	vdev_free(&b->toy->vdev);
	loop_free(b->loop);
	pci_bus_free(b->pci);
	bus_free(b->bus);
	mem_free(b->mem);
	free(b);
}

/* --- the driver --- */

static uint64_t get(struct board *b, unsigned offset, unsigned size)
{
	return bus_read(b->bus, BUS_MMIO, bar(b) + b->common + offset, size);
}

static void set(struct board *b, unsigned offset, unsigned size, uint64_t value)
{
	bus_write(b->bus, BUS_MMIO, bar(b) + b->common + offset, size, value);
}

static void ring(struct board *b, unsigned queue)
{
	bus_write(b->bus, BUS_MMIO, bar(b) + b->notify + 4 * queue, 2, queue);
}

static unsigned msix_at(struct board *b)
{
	unsigned at = cfg_get(b, 0x34, 1);

	while (at && cfg_get(b, at, 1) != 0x11)
		at = cfg_get(b, at + 1, 1);
	return at;
}

static void msix_on(struct board *b)
{
	unsigned at = msix_at(b);
	uint64_t table = bar(b) + (cfg_get(b, at + 4, 4) & ~7u);

	CHECK_EQ(cfg_get(b, at + 4, 4) & 7, 4);
	for (unsigned i = 0; i <= QUEUES; i++) {
		bus_write(b->bus, BUS_MMIO, table + 16 * i, 8, 0xfee00000);
		bus_write(b->bus, BUS_MMIO, table + 16 * i + 8, 8, 0x40 + i);
	}
	cfg_set(b, at + 2, 2, 0x8000);
}

static void negotiate(struct board *b)
{
	set(b, STATUS, 1, 0);
	set(b, STATUS, 1, 1);
	set(b, STATUS, 1, 3);
	set(b, DRV_SEL, 4, 1);
	set(b, DRV_FEATURE, 4, 1); /* VERSION_1 */
	set(b, DRV_SEL, 4, 0);
	set(b, DRV_FEATURE, 4, 5);
	set(b, STATUS, 1, 0xb);
	CHECK_EQ(get(b, STATUS, 1), 0xb);
}

static void queue_up(struct board *b, unsigned i)
{
	static const uint8_t empty[4];

	mem_write(b->mem, AVAIL(i), empty, sizeof(empty));
	b->avail[i] = 0;
	set(b, Q_SELECT, 2, i);
	set(b, Q_SIZE, 2, 16);
	set(b, Q_VECTOR, 2, i + 1);
	set(b, Q_DESC, 4, DESC(i));
	set(b, Q_DESC + 4, 4, 0);
	set(b, Q_DRIVER, 8, AVAIL(i));
	set(b, Q_DEVICE, 8, USED(i));
	set(b, Q_ENABLE, 2, 1);
	CHECK_EQ(get(b, Q_ENABLE, 2), 1);
}

static void start(struct board *b)
{
	negotiate(b);
	set(b, CFG_VECTOR, 2, 0);
	for (unsigned i = 0; i < QUEUES; i++)
		queue_up(b, i);
	set(b, STATUS, 1, 0xf);
	CHECK_EQ(get(b, STATUS, 1), 0xf);
}

/* Make a chain of one writable buffer available; the driver does not ring. */
static void post(struct board *b, unsigned i, uint64_t address)
{
	uint8_t desc[16] = { 0 }, le[2];

	le64_store(desc, address);
	le32_store(desc + 8, 16);
	le16_store(desc + 12, 2); /* device writes */
	mem_write(b->mem, DESC(i), desc, sizeof(desc));
	le16_store(le, 0);
	mem_write(b->mem, AVAIL(i) + 4 + 2 * (b->avail[i] % 16), le, 2);
	le16_store(le, ++b->avail[i]);
	mem_write(b->mem, AVAIL(i) + 2, le, 2);
}

static bool wait_for(atomic_uint *counter, unsigned value)
{
	for (unsigned ms = 0; ms < 5000; ms++) {
		if (*counter >= value)
			return true;
		usleep(1000);
	}
	return false;
}

static void nothing(void *arg)
{
}

/* Long enough for a doorbell to have had its effect. */
static void settle(struct board *b)
{
	usleep(20000);
	loop_call(b->loop, nothing, NULL);
}

/* --- tests --- */

static void identity(void)
{
	struct board *b = board_new();

	CHECK_EQ(cfg_get(b, 0, 4), (0x1040 + 42) << 16 | 0x1af4);
	CHECK_EQ(cfg_get(b, 8, 4), 0xff010201);
	CHECK(cfg_get(b, 0x2e, 2) >= 0x40);
	CHECK_EQ(cfg_get(b, 0x3d, 1), 0);
	CHECK_EQ(cfg_get(b, 0x20, 4) & 0xf, 4);
	board_free(b);
}

static void capabilities(void)
{
	struct board *b = board_new();
	unsigned seen = 0;

	for (unsigned at = cfg_get(b, 0x34, 1); at; at = cfg_get(b, at + 1, 1)) {
		unsigned type = cfg_get(b, at + 3, 1), len = cfg_get(b, at + 2, 1);

		CHECK_EQ(at % 4, 0);
		if (cfg_get(b, at, 1) != 9)
			continue;
		seen |= 1 << type;
		CHECK_EQ(len, type == 2 || type == 5 ? 20 : 16);
		if (type == 5)
			continue;
		CHECK_EQ(cfg_get(b, at + 4, 1), 4);
		CHECK(cfg_get(b, at + 8, 4) + cfg_get(b, at + 12, 4) <= 0x8000);
		if (type == 2)
			CHECK_EQ(cfg_get(b, at + 16, 4), 4);
		if (type == 4)
			CHECK_EQ(cfg_get(b, at + 12, 4), CONFIG);
	}
	CHECK_EQ(seen, 0x3e);
	CHECK_EQ(cfg_get(b, msix_at(b) + 2, 2), QUEUES);
	board_free(b);
}

static void features(void)
{
	struct board *b = board_new();

	set(b, DEV_SEL, 4, 0);
	CHECK_EQ(get(b, DEV_FEATURE, 4) & 0xffffff, 5);
	set(b, DEV_SEL, 4, 1);
	CHECK_EQ(get(b, DEV_FEATURE, 4) & 1, 1);
	set(b, DEV_SEL, 4, 2);
	CHECK_EQ(get(b, DEV_FEATURE, 4), 0);
	set(b, DEV_SEL, 4, UINT32_MAX);
	CHECK_EQ(get(b, DEV_FEATURE, 4), 0);
	set(b, STATUS, 1, 3);
	set(b, DRV_SEL, 4, 1);
	set(b, DRV_FEATURE, 4, 1);
	CHECK_EQ(get(b, DRV_FEATURE, 4), 1);
	set(b, DRV_SEL, 4, 0);
	CHECK_EQ(get(b, DRV_FEATURE, 4), 0);
	CHECK_EQ(get(b, NUM_QUEUES, 2), QUEUES);
	board_free(b);
}

static void chain_goes_round(void)
{
	struct board *b = board_new();
	uint8_t text[4] = { 0 };

	msix_on(b);
	start(b);
	CHECK_EQ(b->toy->starts, 1);
	post(b, 1, BUFFER(1));
	ring(b, 1);
	CHECK(wait_for(&b->messages, 1));
	CHECK_EQ(b->last_data, 0x42);
	mem_read(b->mem, BUFFER(1), text, 3);
	CHECK_STR((char *)text, "toy");
	/* The 32-bit doorbell that a driver uses who sends data along. */
	post(b, 0, BUFFER(0));
	bus_write(b->bus, BUS_MMIO, bar(b) + b->notify, 4, 0);
	CHECK(wait_for(&b->messages, 2));
	CHECK_EQ(b->last_data, 0x41);
	/* MSI-X needs no ISR. */
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, bar(b) + b->isr, 1), 0);
	board_free(b);
}

static void row_1_frozen_after_driver_ok(void)
{
	struct board *b = board_new();

	start(b);
	set(b, Q_SELECT, 2, 0);
	set(b, Q_SIZE, 2, 0);
	set(b, Q_SIZE, 2, 1024);
	for (unsigned i = Q_DESC; i < Q_DEVICE + 8; i += 4)
		set(b, i, 4, 0xfffff000);
	set(b, Q_ENABLE, 2, 0);
	set(b, DRV_FEATURE, 4, UINT32_MAX);
	set(b, NUM_QUEUES, 2, 0xffff);
	set(b, GENERATION, 1, 0xff);
	set(b, Q_NOTIFY_OFF, 2, 0xffff);
	CHECK_EQ(get(b, Q_SIZE, 2), 16);
	CHECK_EQ(get(b, Q_DESC, 8), DESC(0));
	CHECK_EQ(get(b, Q_DRIVER, 8), AVAIL(0));
	CHECK_EQ(get(b, Q_DEVICE, 8), USED(0));
	CHECK_EQ(get(b, Q_ENABLE, 2), 1);
	CHECK_EQ(get(b, DRV_FEATURE, 4), 5);
	CHECK_EQ(get(b, NUM_QUEUES, 2), QUEUES);
	CHECK_EQ(get(b, STATUS, 1), 0xf);
	post(b, 0, BUFFER(0));
	ring(b, 0);
	CHECK(wait_for(&b->toy->chains, 1));
	board_free(b);
}

static void row_17_49_select_beyond_the_queues(void)
{
	static const unsigned selects[] = { QUEUES, QUEUES + 1, 63, 64, 0x7fff, 0xffff };
	struct board *b = board_new();

	negotiate(b);
	for (unsigned i = 0; i < sizeof(selects) / sizeof(selects[0]); i++) {
		set(b, Q_SELECT, 2, selects[i]);
		CHECK_EQ(get(b, Q_SELECT, 2), selects[i]);
		for (unsigned offset = Q_SIZE; offset < 0x40; offset += 2) {
			set(b, offset, 2, 1);
			CHECK_EQ(get(b, offset, 2), offset == Q_VECTOR ? 0xffff : 0);
		}
		for (unsigned offset = Q_DESC; offset < Q_DEVICE + 8; offset += 4)
			set(b, offset, 4, 1);
		CHECK_EQ(get(b, Q_DESC, 4), 0);
	}
	board_free(b);
}

static void row_11_23_every_width_everywhere(void)
{
	struct board *b = board_new();
	uint64_t base = bar(b);

	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned size = 1; size <= 8; size++)
			for (unsigned i = 0; i < 0x8000; i++) {
				if (i % 0x1000 == 0x60)
					i += 0xf90; /* the pages' middles are all the same */
				bus_read(b->bus, BUS_MMIO, base + i, size);
				bus_write(b->bus, BUS_MMIO, base + i, size,
					0x0101010101010101ull * (i + size));
			}
		start(b);
	}
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, base + 0x7fff, 8), -1);
	board_free(b);
}

static void device_config_widths(void)
{
	struct board *b = board_new();
	uint64_t at = bar(b) + b->device;

	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at, 1), 0x40);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + 2, 2), 0x4342);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + 4, 4), 0x47464544);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + CONFIG - 4, 4), 0x57565554);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + CONFIG - 2, 4), 0);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + CONFIG, 1), 0);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + 0xffc, 8), 0);
	bus_write(b->bus, BUS_MMIO, at + 8, 4, 0xdeadbeef);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + 8, 4), 0xdeadbeef);
	board_free(b);
}

static void row_54_doorbell_of_no_queue(void)
{
	struct board *b = board_new();

	start(b);
	settle(b);
	b->toy->kicks = 0;
	ring(b, QUEUES);
	ring(b, 64);
	ring(b, 1023);
	bus_write(b->bus, BUS_MMIO, bar(b) + b->notify + 2, 2, 0);
	settle(b);
	CHECK_EQ(b->toy->kicks, 0);
	board_free(b);
}

static void row_58_doorbell_out_of_season(void)
{
	struct board *b = board_new();

	ring(b, 0);
	negotiate(b);
	ring(b, 0);
	queue_up(b, 0);
	ring(b, 0);
	settle(b);
	CHECK_EQ(b->toy->kicks, 0);
	start(b);
	set(b, STATUS, 1, 0);
	settle(b);
	b->toy->kicks = 0;
	ring(b, 0);
	settle(b);
	CHECK_EQ(b->toy->kicks, 0);
	board_free(b);
}

static void row_38_buffer_in_own_registers(void)
{
	struct board *b = board_new();

	msix_on(b);
	start(b);
	post(b, 0, bar(b));
	ring(b, 0);
	CHECK(wait_for(&b->messages, 1));
	CHECK_EQ(b->last_data, 0x40); /* a configuration change */
	CHECK_EQ(get(b, STATUS, 1), 0x4f);
	CHECK_EQ(b->toy->chains, 0);
	start(b);
	board_free(b);
}

static void reset_is_complete_when_read_back(void)
{
	struct board *b = board_new();

	start(b);
	b->toy->slow_quiesce = true;
	b->toy->quiesces = 0;
	set(b, STATUS, 1, 0);
	CHECK_EQ(get(b, STATUS, 1), 0);
	CHECK_EQ(b->toy->quiesces, 1);
	set(b, Q_SELECT, 2, 0);
	CHECK_EQ(get(b, Q_ENABLE, 2), 0);
	CHECK_EQ(get(b, Q_SIZE, 2), QUEUE_SIZE);
	CHECK_EQ(get(b, Q_VECTOR, 2), 0xffff);
	CHECK_EQ(get(b, CFG_VECTOR, 2), 0xffff);
	CHECK_EQ(get(b, Q_DESC, 8), 0);
	b->toy->slow_quiesce = false;
	board_free(b);
}

static void queue_reset(void)
{
	struct board *b = board_new();

	set(b, STATUS, 1, 0);
	set(b, STATUS, 1, 3);
	set(b, DRV_SEL, 4, 1);
	set(b, DRV_FEATURE, 4, 1 | 1 << (40 - 32)); /* with RING_RESET */
	set(b, STATUS, 1, 0xb);
	queue_up(b, 0);
	set(b, STATUS, 1, 0xf);
	set(b, Q_RESET, 2, 1);
	CHECK_EQ(get(b, Q_RESET, 2), 0);
	CHECK_EQ(get(b, Q_ENABLE, 2), 0);
	queue_up(b, 0);
	CHECK_EQ(get(b, STATUS, 1), 0xf);
	board_free(b);
}

static void vectors(void)
{
	struct board *b = board_new();

	CHECK_EQ(get(b, CFG_VECTOR, 2), 0xffff);
	set(b, CFG_VECTOR, 2, QUEUES);
	CHECK_EQ(get(b, CFG_VECTOR, 2), QUEUES);
	set(b, CFG_VECTOR, 2, QUEUES + 1);
	CHECK_EQ(get(b, CFG_VECTOR, 2), 0xffff);
	set(b, Q_SELECT, 2, 1);
	set(b, Q_VECTOR, 2, 0);
	CHECK_EQ(get(b, Q_VECTOR, 2), 0);
	set(b, Q_VECTOR, 2, 0x7ff);
	CHECK_EQ(get(b, Q_VECTOR, 2), 0xffff);
	set(b, Q_SELECT, 2, 0);
	CHECK_EQ(get(b, Q_VECTOR, 2), 0xffff);
	board_free(b);
}

static void no_vector_no_interrupt(void)
{
	struct board *b = board_new();

	msix_on(b);
	start(b);
	set(b, Q_SELECT, 2, 0);
	set(b, Q_VECTOR, 2, 0xffff);
	post(b, 0, BUFFER(0));
	ring(b, 0);
	CHECK(wait_for(&b->toy->chains, 1));
	settle(b);
	CHECK_EQ(b->messages, 0);
	board_free(b);
}

static void isr_without_msix(void)
{
	struct board *b = board_new();
	uint64_t isr = bar(b) + b->isr;

	start(b);
	CHECK_EQ(cfg_get(b, 6, 1) & 8, 0);
	post(b, 0, BUFFER(0));
	ring(b, 0);
	CHECK(wait_for(&b->toy->chains, 1));
	settle(b);
	CHECK_EQ(b->messages, 0);
	CHECK_EQ(cfg_get(b, 6, 1) & 8, 8);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, isr, 1), 1);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, isr, 1), 0);
	CHECK_EQ(cfg_get(b, 4, 4) >> 16 & 8, 0);
	board_free(b);
}

static void change_config(void *arg)
{
	struct vdev *dev = arg;

	dev->config[0]++;
	vdev_config_changed(dev);
}

static void config_change_is_told(void)
{
	struct board *b = board_new();
	unsigned before;

	msix_on(b);
	start(b);
	before = get(b, GENERATION, 1);
	loop_call(b->loop, change_config, &b->toy->vdev);
	CHECK_EQ(b->messages, 1);
	CHECK_EQ(b->last_data, 0x40);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, bar(b) + b->isr, 1), 2);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, bar(b) + b->device, 1), 0x41);
	CHECK(get(b, GENERATION, 1) != before);
	board_free(b);
}

/* 256 changes between two reads must not look like none (section 4.1.4.3.1). */
static void generation_does_not_wrap_unseen(void)
{
	struct board *b = board_new();
	unsigned before = get(b, GENERATION, 1);

	for (unsigned i = 0; i < 256; i++)
		loop_call(b->loop, change_config, &b->toy->vdev);
	bus_read(b->bus, BUS_MMIO, bar(b) + b->device, 1);
	CHECK(get(b, GENERATION, 1) != before);
	before = get(b, GENERATION, 1);
	bus_read(b->bus, BUS_MMIO, bar(b) + b->device, 1);
	CHECK_EQ(get(b, GENERATION, 1), before);
	board_free(b);
}

static uint32_t window_read(struct board *b, unsigned bar_index, uint32_t offset, uint32_t len)
{
	cfg_set(b, b->window + 4, 1, bar_index);
	cfg_set(b, b->window + 8, 4, offset);
	cfg_set(b, b->window + 12, 4, len);
	return cfg_get(b, b->window + 16, len == 1 || len == 2 ? len : 4);
}

static void window_in_configuration_space(void)
{
	struct board *b = board_new();

	/* It works with memory decoding off. */
	cfg_set(b, 4, 2, 0);
	CHECK_EQ(window_read(b, 4, b->common + NUM_QUEUES, 2), QUEUES);
	CHECK_EQ(window_read(b, 4, b->device, 4), 0x43424140);
	window_read(b, 4, b->common + STATUS, 1);
	cfg_set(b, b->window + 16, 1, 1);
	CHECK_EQ(window_read(b, 4, b->common + STATUS, 1), 1);
	/* Nowhere: what is there stays what it was. */
	cfg_set(b, b->window + 12, 4, 3);
	cfg_set(b, b->window + 16, 4, 0x12345678);
	CHECK_EQ(window_read(b, 0, 0, 4), 0x12345678);
	CHECK_EQ(window_read(b, 4, 1, 4), 0x12345678);
	CHECK_EQ(window_read(b, 4, 0x8000, 4), 0x12345678);
	CHECK_EQ(window_read(b, 4, 0xfffffffc, 4), 0x12345678);
	CHECK_EQ(window_read(b, 4, 0, 0), 0x12345678);
	CHECK_EQ(window_read(b, 4, 0, 0xffffffff), 0x12345678);
	CHECK_EQ(window_read(b, 4, 0x7ffc, 4), 0);
	board_free(b);
}

static void doorbells_follow_the_bar(void)
{
	struct board *b = board_new_with(true);
	uint64_t new = MMIO64 + 0x100000;
	uint64_t one = 1;

	start(b);
	CHECK_EQ(b->nbound, QUEUES);
	CHECK_EQ(b->bound[1].address, bar(b) + b->notify + 4);
	cfg_set(b, 4, 2, 0);
	CHECK_EQ(b->nbound, 0);
	cfg_set(b, 0x20, 8, new);
	cfg_set(b, 4, 2, 6);
	CHECK_EQ(b->nbound, QUEUES);
	CHECK_EQ(b->binds, 2 * QUEUES);
	CHECK_EQ(b->bound[0].address, new + b->notify);
	/* As the engine does it. */
	post(b, 0, BUFFER(0));
	CHECK_EQ(write(b->bound[0].fd, &one, 8), 8);
	CHECK(wait_for(&b->toy->chains, 1));
	board_free(b);
}

static void machine_reset(void)
{
	struct board *b = board_new_with(true);
	uint64_t at = bar(b);

	msix_on(b);
	start(b);
	cfg_set(b, 0x20, 8, MMIO64);
	virtio_pci_reset(b->vp);
	pci_bus_reset(b->pci);
	CHECK_EQ(bar(b), at);
	CHECK_EQ(b->nbound, QUEUES);
	CHECK_EQ(b->bound[0].address, at + b->notify);
	CHECK_EQ(get(b, STATUS, 1), 0);
	CHECK_EQ(get(b, CFG_VECTOR, 2), 0xffff);
	CHECK_EQ(cfg_get(b, b->window + 4, 1), 0);
	CHECK_EQ(cfg_get(b, msix_at(b) + 2, 2), QUEUES);
	board_free(b);
}

static void state_moves_over(void)
{
	struct board *b = board_new(), *c = board_new();
	struct state *save = state_save_new(), *load;
	const void *bytes;
	size_t len;

	msix_on(b);
	set(b, CFG_VECTOR, 2, 2);
	set(b, Q_SELECT, 2, 1);
	set(b, Q_VECTOR, 2, 1);
	set(b, DEV_SEL, 4, 1);
	CHECK_EQ(virtio_pci_state(b->vp, save), 0);
	bytes = state_bytes(save, &len);
	load = state_load_new(bytes, len);
	CHECK_EQ(virtio_pci_state(c->vp, load), 0);
	CHECK_EQ(get(c, CFG_VECTOR, 2), 2);
	CHECK_EQ(get(c, Q_SELECT, 2), 1);
	CHECK_EQ(get(c, Q_VECTOR, 2), 1);
	CHECK_EQ(get(c, DEV_SEL, 4), 1);
	CHECK_EQ(cfg_get(c, msix_at(c) + 2, 2), 0x8000 | QUEUES);
	state_free(load);
	state_free(save);
	board_free(b);
	board_free(c);
}

/* Row 12: any byte of a saved state changed; nothing bad afterwards. */
static void hostile_state(void)
{
	struct board *b = board_new();
	struct state *save = state_save_new();
	const uint8_t *bytes;
	unsigned refused = 0;
	uint8_t *evil;
	size_t len;

	virtio_pci_state(b->vp, save);
	bytes = state_bytes(save, &len);
	evil = malloc(len);
	for (size_t i = 0; i < len; i++) {
		struct state *load;

		memcpy(evil, bytes, len);
		evil[i] ^= 0x7f;
		load = state_load_new(evil, len);
		refused += load && virtio_pci_state(b->vp, load) != 0;
		state_free(load);
	}
	CHECK(refused > 100);
	pci_bus_reset(b->pci);
	virtio_pci_reset(b->vp);
	msix_on(b);
	start(b);
	post(b, 0, BUFFER(0));
	ring(b, 0);
	CHECK(wait_for(&b->messages, 1));
	free(evil);
	state_free(save);
	board_free(b);
}

/* --- everybody at once: nobody waits for anybody for ever --- */

struct crowd {
	struct board *b;
	atomic_bool stop;
	unsigned who;
};

static void *jostle(void *arg)
{
	struct crowd *c = arg;
	struct board *b = c->b;
	uint64_t old = bar(b), table = old + 0x4000;
	unsigned msix = msix_at(b);

	for (unsigned i = 0; !c->stop; i++) {
		switch (c->who) {
		case 0: /* registers */
			bus_read(b->bus, BUS_MMIO, old + b->common + STATUS, 1);
			bus_write(b->bus, BUS_MMIO, old + b->device, 1, i);
			ring(b, i % QUEUES);
			break;
		case 1: /* masks, and the window */
			cfg_set(b, msix + 2, 2, i & 1 ? 0xc000 : 0x8000);
			bus_write(b->bus, BUS_MMIO, table + 12, 4, i & 1);
			window_read(b, 4, b->common + STATUS, 1);
			break;
		case 2: /* the BAR itself */
			cfg_set(b, 4, 2, i & 1 ? 6 : 0);
			cfg_set(b, 0x20, 8, i & 2 ? MMIO64 : old);
			break;
		}
	}
	return NULL;
}

static void nobody_waits_for_ever(void)
{
	struct board *b = board_new_with(true);
	struct crowd crowd[3];
	pthread_t threads[3];

	msix_on(b);
	start(b);
	for (unsigned i = 0; i < 3; i++) {
		crowd[i] = (struct crowd){ .b = b, .who = i };
		pthread_create(&threads[i], NULL, jostle, &crowd[i]);
	}
	for (unsigned i = 0; i < 2000; i++)
		loop_call(b->loop, change_config, &b->toy->vdev);
	for (unsigned i = 0; i < 3; i++) {
		crowd[i].stop = true;
		pthread_join(threads[i], NULL);
	}
	board_free(b);
}

int main(void)
{
	alarm(120);
	RUN(identity);
	RUN(capabilities);
	RUN(features);
	RUN(chain_goes_round);
	RUN(row_1_frozen_after_driver_ok);
	RUN(row_17_49_select_beyond_the_queues);
	RUN(row_11_23_every_width_everywhere);
	RUN(device_config_widths);
	RUN(row_54_doorbell_of_no_queue);
	RUN(row_58_doorbell_out_of_season);
	RUN(row_38_buffer_in_own_registers);
	RUN(reset_is_complete_when_read_back);
	RUN(queue_reset);
	RUN(vectors);
	RUN(no_vector_no_interrupt);
	RUN(isr_without_msix);
	RUN(config_change_is_told);
	RUN(generation_does_not_wrap_unseen);
	RUN(window_in_configuration_space);
	RUN(doorbells_follow_the_bar);
	RUN(machine_reset);
	RUN(state_moves_over);
	RUN(hostile_state);
	RUN(nobody_waits_for_ever);
	return tap_done();
}
