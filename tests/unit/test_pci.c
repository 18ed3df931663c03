/* SPDX-License-Identifier: MIT */
/* PCI configuration space, BARs and MSI-X, as a guest sees them. */
#include "base/le.h"
#include "bus/pci.h"
#include "state/state.h"
#include "tap.h"

#include <errno.h>

#define ECAM   0xe8000000ull
#define MMIO32 0xd0000000ull
#define MMIO64 0x4000000000ull
#define TABLE  0x1000
#define PBA    0x2000

static const struct pci_windows windows = {
	.ecam = ECAM,
	.mmio32 = MMIO32,
	.mmio32_size = 0x18000000,
	.mmio64 = MMIO64,
	.mmio64_size = 0x1000000000,
};

struct board {
	struct bus *bus;
	struct pci_bus *pci;
	struct pci_dev dev;
	unsigned mapped, unmapped;
	uint64_t address;
	unsigned messages, last_data;
	uint64_t last_address;
	unsigned hook_reads, hook_writes, hook_offset, hook_size;
};

static uint64_t bar_read(void *arg, uint64_t offset, unsigned size)
{
	struct board *b = arg;

	if (offset >= PBA)
		return msix_pba_read(&b->dev, offset - PBA, size);
	if (offset >= TABLE)
		return msix_table_read(&b->dev, offset - TABLE, size);
	return 0x5a5a5a5a5a5a5a5a;
}

static void bar_write(void *arg, uint64_t offset, unsigned size, uint64_t value)
{
	struct board *b = arg;

	if (offset >= TABLE && offset < PBA)
		msix_table_write(&b->dev, offset - TABLE, size, value);
}

static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };

static void moved(void *arg, bool mapped)
{
	struct board *b = arg;

	if (mapped)
		b->mapped++;
	else
		b->unmapped++;
	b->address = b->dev.bars[2].address;
}

static void sent(void *arg, uint64_t address, uint32_t data)
{
	struct board *b = arg;

	b->messages++;
	b->last_address = address;
	b->last_data = data;
}

static void hook_read(void *arg, unsigned offset, unsigned size)
{
	struct board *b = arg;

	b->hook_reads++;
	b->hook_offset = offset;
	b->hook_size = size;
}

static void hook_wrote(void *arg, unsigned offset, unsigned size)
{
	((struct board *)arg)->hook_writes++;
	hook_read(arg, offset, size);
}

static void describe(struct board *b, struct pci_dev *dev)
{
	pci_dev_init(dev, 0x1234, 0x5678, 0x1af4, 0x1100, 0x020301, 9);
	dev->arg = b;
	dev->bars[2] = (struct pci_bar){
		.size = 0x4000, .is64 = true, .ops = &bar_ops, .arg = b, .moved = moved
	};
}

static struct board *board_new(void)
{
	struct board *b = calloc(1, sizeof(*b));

	b->bus = bus_new();
	b->pci = pci_bus_new(b->bus, &windows, NULL);
	describe(b, &b->dev);
	b->dev.config_read = hook_read;
	b->dev.config_wrote = hook_wrote;
	b->dev.msix.send = sent;
	b->dev.msix.send_arg = b;
	CHECK_EQ(msix_init(&b->dev, 2, TABLE, PBA, 3), 0);
	CHECK_EQ(pci_dev_add(b->pci, &b->dev, -1, NULL), 0);
	return b;
}

static void board_free(struct board *b)
{
	pci_dev_remove(&b->dev);
	msix_fini(&b->dev);
	pci_bus_free(b->pci);
	bus_free(b->bus);
	free(b);
}

static uint64_t ecam(unsigned slot, unsigned offset)
{
	return ECAM + (slot << 15) + offset;
}

static uint64_t get(struct board *b, unsigned offset, unsigned size)
{
	return bus_read(b->bus, BUS_MMIO, ecam(b->dev.slot, offset), size);
}

static void set(struct board *b, unsigned offset, unsigned size, uint64_t value)
{
	bus_write(b->bus, BUS_MMIO, ecam(b->dev.slot, offset), size, value);
}

static uint64_t bar_address(struct board *b)
{
	return (get(b, 0x18, 4) & ~0xfull) | get(b, 0x1c, 4) << 32;
}

static void identity(void)
{
	struct board *b = board_new();

	CHECK_EQ(b->dev.slot, 1);
	CHECK_EQ(get(b, 0, 4), 0x56781234);
	CHECK_EQ(get(b, 8, 4), 0x02030109);
	CHECK_EQ(get(b, 0x2c, 4), 0x11001af4);
	CHECK_EQ(get(b, 0x0e, 1), 0);
	CHECK_EQ(get(b, 0x3d, 1), 0);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, ecam(0, 0x0a), 2), 0x0600);
	/* No such slot, no such function, and nothing to write there. */
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, ecam(2, 0), 4), 0xffffffff);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, ecam(1, 0x1000), 4), 0xffffffff);
	bus_write(b->bus, BUS_MMIO, ecam(2, 0), 4, 0);
	set(b, 0, 4, 0xaaaaaaaa);
	CHECK_EQ(get(b, 0, 4), 0x56781234);
	board_free(b);
}

/* Row 23: all widths at all offsets, in all of configuration space. */
static void every_width_everywhere(void)
{
	struct board *b = board_new();

	for (unsigned size = 1; size <= 8; size++)
		for (unsigned i = 0; i < 0x3000; i++) {
			bus_read(b->bus, BUS_MMIO, ecam(1, 0) - 0x1000 + i, size);
			bus_write(b->bus, BUS_MMIO, ecam(1, 0) - 0x1000 + i, size,
				0x0123456789abcdefull * (i + size));
		}
	CHECK_EQ(get(b, 0, 2), 0x1234);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, ecam(1, 0xffe), 4), 0xffffffff);
	for (unsigned size = 1; size <= 8; size++)
		for (unsigned port = 0xcf4; port < 0xd04; port++) {
			bus_write(b->bus, BUS_PORT, 0xcf8, 4, 0x800008fc);
			bus_read(b->bus, BUS_PORT, port, size);
			bus_write(b->bus, BUS_PORT, port, size, UINT64_MAX);
		}
	board_free(b);
}

static void config_ports(void)
{
	struct board *b = board_new();
	struct bus *bus = b->bus;

	/* What Linux does to find out that there are such ports. */
	bus_write(bus, BUS_PORT, 0xcfb, 1, 1);
	bus_write(bus, BUS_PORT, 0xcf8, 4, 0x80000000);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0xcf8, 4), 0x80000000);

	bus_write(bus, BUS_PORT, 0xcf8, 4, 0x80000800);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0xcfc, 4), 0x56781234);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0xcfe, 2), 0x5678);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0xcfd, 1), 0x12);
	bus_write(bus, BUS_PORT, 0xcf8, 4, 0x8000083c);
	bus_write(bus, BUS_PORT, 0xcfc, 1, 0x42);
	CHECK_EQ(get(b, 0x3c, 1), 0x42);
	/* Not enabled; another bus; another function. */
	bus_write(bus, BUS_PORT, 0xcf8, 4, 0x00000800);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0xcfc, 4), 0xffffffff);
	bus_write(bus, BUS_PORT, 0xcf8, 4, 0x80010800);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0xcfc, 4), 0xffffffff);
	bus_write(bus, BUS_PORT, 0xcf8, 4, 0x80000900);
	CHECK_EQ(bus_read(bus, BUS_PORT, 0xcfc, 4), 0xffffffff);
	board_free(b);
}

static void bar_is_mapped_from_the_start(void)
{
	struct board *b = board_new();
	uint64_t at = bar_address(b);

	CHECK_EQ(get(b, 4, 2), 6);
	CHECK_EQ(get(b, 0x18, 4) & 0xf, 4);
	CHECK(at >= MMIO32 && at < ECAM && at % 0x4000 == 0);
	CHECK_EQ(b->mapped, 1);
	CHECK_EQ(b->address, at);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at, 4), 0x5a5a5a5a);
	board_free(b);
}

static void bar_sizing(void)
{
	struct board *b = board_new();
	uint64_t at = bar_address(b);

	set(b, 4, 2, 0);
	CHECK_EQ(b->unmapped, 1);
	set(b, 0x18, 4, 0xffffffff);
	set(b, 0x1c, 4, 0xffffffff);
	CHECK_EQ(get(b, 0x18, 4), 0xffffc004);
	CHECK_EQ(get(b, 0x1c, 4), 0xffffffff);
	set(b, 0x18, 4, at);
	set(b, 0x1c, 4, at >> 32);
	set(b, 4, 2, 6);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at, 1), 0x5a);
	/* There is nothing behind the others. */
	set(b, 0x10, 4, 0xffffffff);
	CHECK_EQ(get(b, 0x10, 4), 0);
	set(b, 0x30, 4, 0xffffffff);
	CHECK_EQ(get(b, 0x30, 4), 0);
	board_free(b);
}

static void bar_moves(void)
{
	struct board *b = board_new();
	uint64_t old = bar_address(b), new = MMIO64 + 0x123450000;

	set(b, 0x18, 8, new);
	CHECK_EQ(b->mapped, 2);
	CHECK_EQ(b->unmapped, 1);
	CHECK_EQ(b->address, new);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, old, 1), 0xff);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, new, 1), 0x5a);
	/* The same again is no move. */
	set(b, 0x18, 8, new);
	CHECK_EQ(b->mapped, 2);
	pci_bus_reset(b->pci);
	CHECK_EQ(bar_address(b), old);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, old, 1), 0x5a);
	board_free(b);
}

/* Over RAM, interrupt controllers, configuration space, the end of a window or of everything. */
static void bar_stays_in_the_windows(void)
{
	static const uint64_t places[] = {
		0,
		0x100000,
		0xcfffc000,
		ECAM,
		0xfec00000,
		0xfee00000,
		0x100000000,
		MMIO64 - 0x4000,
		MMIO64 + 0x1000000000,
		0xffffffffffffc000,
	};
	struct board *b = board_new();

	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		set(b, 0x18, 8, places[i]);
		CHECK_EQ(b->dev.bars[2].mapped, false);
	}
	CHECK_EQ(get(b, 0, 2), 0x1234);
	set(b, 0x18, 8, ECAM - 0x4000);
	CHECK_EQ(b->dev.bars[2].mapped, true);
	board_free(b);
}

static void overlapping_bar_waits(void)
{
	struct board *b = board_new();
	struct pci_dev other;
	uint64_t first = bar_address(b);

	describe(b, &other);
	other.bars[2].moved = NULL;
	CHECK_EQ(pci_dev_add(b->pci, &other, 5, NULL), 0);
	CHECK(other.bars[2].address != first);
	CHECK_EQ(other.bars[2].mapped, true);
	bus_write(b->bus, BUS_MMIO, ecam(5, 0x18), 8, first);
	CHECK_EQ(other.bars[2].mapped, false);
	CHECK_EQ(b->dev.bars[2].mapped, true);
	set(b, 4, 2, 0);
	CHECK_EQ(b->dev.bars[2].mapped, false);
	CHECK_EQ(other.bars[2].mapped, true);
	CHECK_EQ(other.bars[2].address, first);
	pci_dev_remove(&other);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, first, 1), 0xff);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, ecam(5, 0), 4), 0xffffffff);
	board_free(b);
}

static void slots_and_windows_run_out(void)
{
	struct board *b = board_new();
	struct pci_dev *devs = calloc(PCI_SLOTS, sizeof(*devs));
	struct vz_error e = { 0 };
	struct pci_dev big;

	describe(b, &big);
	big.bars[2].size = 1ull << 40;
	CHECK_EQ(pci_dev_add(b->pci, &big, -1, &e), -ENOSPC);
	CHECK(e.text[0] != 0);
	for (unsigned i = 2; i < PCI_SLOTS; i++) {
		pci_dev_init(&devs[i], 1, 2, 3, 4, 0, 0);
		CHECK_EQ(pci_dev_add(b->pci, &devs[i], -1, NULL), 0);
		CHECK_EQ(devs[i].slot, i);
	}
	pci_dev_init(&devs[0], 1, 2, 3, 4, 0, 0);
	CHECK_EQ(pci_dev_add(b->pci, &devs[0], -1, &e), -ENOSPC);
	CHECK_EQ(pci_dev_add(b->pci, &devs[0], 3, &e), -EEXIST);
	for (unsigned i = 2; i < PCI_SLOTS; i++)
		pci_dev_remove(&devs[i]);
	free(devs);
	board_free(b);
}

static void big_bars_go_high(void)
{
	struct board *b = board_new();
	struct pci_dev big;

	describe(b, &big);
	big.bars[2].size = 1ull << 30;
	big.bars[2].moved = NULL;
	CHECK_EQ(pci_dev_add(b->pci, &big, -1, NULL), 0);
	CHECK_EQ(big.bars[2].address, MMIO64);
	pci_dev_remove(&big);
	board_free(b);
}

static void hooks_are_called(void)
{
	struct board *b = board_new();

	get(b, 0x44, 2);
	CHECK_EQ(b->hook_reads, 1);
	CHECK_EQ(b->hook_offset, 0x44);
	CHECK_EQ(b->hook_size, 2);
	set(b, 0x48, 4, 0);
	CHECK_EQ(b->hook_writes, 1);
	CHECK_EQ(b->hook_offset, 0x48);
	board_free(b);
}

/* --- MSI-X --- */

static unsigned find_msix(struct board *b)
{
	unsigned at = get(b, 0x34, 1);

	CHECK_EQ(get(b, 6, 2) & 0x10, 0x10);
	while (at && get(b, at, 1) != 0x11)
		at = get(b, at + 1, 1);
	return at;
}

static void entry(struct board *b, unsigned vector, uint64_t address, uint32_t data, bool masked)
{
	uint64_t at = bar_address(b) + TABLE + 16 * vector;

	bus_write(b->bus, BUS_MMIO, at, 4, address);
	bus_write(b->bus, BUS_MMIO, at + 4, 4, address >> 32);
	bus_write(b->bus, BUS_MMIO, at + 8, 4, data);
	bus_write(b->bus, BUS_MMIO, at + 12, 4, masked);
}

static void control(struct board *b, uint16_t value)
{
	set(b, find_msix(b) + 2, 2, value);
}

static unsigned pending(struct board *b)
{
	return bus_read(b->bus, BUS_MMIO, bar_address(b) + PBA, 4);
}

static void msix_capability(void)
{
	struct board *b = board_new();
	unsigned at = find_msix(b);

	CHECK(at != 0);
	CHECK_EQ(get(b, at + 2, 2), 2); /* three vectors, off */
	CHECK_EQ(get(b, at + 4, 4), TABLE | 2);
	CHECK_EQ(get(b, at + 8, 4), PBA | 2);
	set(b, at, 8, UINT64_MAX);
	CHECK_EQ(get(b, at + 2, 2), 0xc002);
	CHECK_EQ(get(b, at + 4, 4), TABLE | 2);
	board_free(b);
}

static void msix_sends(void)
{
	struct board *b = board_new();

	entry(b, 1, 0x1fee00000, 0x41, false);
	msix_raise(&b->dev, 1);
	CHECK_EQ(b->messages, 0); /* not enabled */
	CHECK_EQ(msix_enabled(&b->dev), false);
	control(b, 0x8000);
	CHECK_EQ(msix_enabled(&b->dev), true);
	CHECK_EQ(b->messages, 0);
	msix_raise(&b->dev, 1);
	CHECK_EQ(b->messages, 1);
	CHECK_EQ(b->last_address, 0x1fee00000);
	CHECK_EQ(b->last_data, 0x41);
	CHECK_EQ(pending(b), 0);
	msix_raise(&b->dev, 3);
	msix_raise(&b->dev, 0xffff);
	msix_raise(&b->dev, UINT32_MAX);
	CHECK_EQ(b->messages, 1);
	board_free(b);
}

static void msix_masked_vector_waits(void)
{
	struct board *b = board_new();

	control(b, 0x8000);
	msix_raise(&b->dev, 2); /* masked since reset */
	CHECK_EQ(b->messages, 0);
	CHECK_EQ(pending(b), 4);
	msix_raise(&b->dev, 2);
	entry(b, 2, 0xfee00000, 0x52, false);
	CHECK_EQ(b->messages, 1);
	CHECK_EQ(b->last_data, 0x52);
	CHECK_EQ(pending(b), 0);
	board_free(b);
}

static void msix_function_mask_waits(void)
{
	struct board *b = board_new();

	entry(b, 0, 0xfee00000, 0x30, false);
	entry(b, 1, 0xfee00000, 0x31, false);
	control(b, 0xc000);
	msix_raise(&b->dev, 0);
	msix_raise(&b->dev, 1);
	CHECK_EQ(b->messages, 0);
	CHECK_EQ(pending(b), 3);
	/* Only the byte that holds the bits: that must do too. */
	set(b, find_msix(b) + 3, 1, 0x80);
	CHECK_EQ(b->messages, 2);
	CHECK_EQ(pending(b), 0);
	board_free(b);
}

static void msix_table_widths(void)
{
	struct board *b = board_new();
	uint64_t at = bar_address(b) + TABLE;

	bus_write(b->bus, BUS_MMIO, at, 8, 0x11223344fee01007);
	bus_write(b->bus, BUS_MMIO, at + 8, 8, 0xfffffffe00000042);
	CHECK(bus_read(b->bus, BUS_MMIO, at, 8) == 0x11223344fee01004);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + 8, 8), 0x42);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + 4, 4), 0x11223344);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, at + 2, 2), 0xfee0);
	/* Narrow and crooked writes do nothing. */
	bus_write(b->bus, BUS_MMIO, at, 1, 0xff);
	bus_write(b->bus, BUS_MMIO, at, 2, 0xffff);
	bus_write(b->bus, BUS_MMIO, at + 2, 4, 0);
	bus_write(b->bus, BUS_MMIO, at + 12, 8, UINT64_MAX);
	CHECK(bus_read(b->bus, BUS_MMIO, at, 8) == 0x11223344fee01004);
	/* Row 23, around the end of the table and of the pending bits too. */
	for (unsigned size = 1; size <= 8; size++)
		for (unsigned i = 0; i < 0x3000; i++) {
			bus_read(b->bus, BUS_MMIO, at + i, size);
			bus_write(b->bus, BUS_MMIO, at + i, size, 0);
		}
	board_free(b);
}

static void reset_forgets(void)
{
	struct board *b = board_new();

	control(b, 0x8000);
	entry(b, 0, 0xfee00000, 0x30, false);
	set(b, 0x3c, 1, 5);
	set(b, 4, 2, 0);
	pci_bus_reset(b->pci);
	CHECK_EQ(get(b, 4, 2), 6);
	CHECK_EQ(get(b, 0x3c, 1), 0);
	CHECK_EQ(get(b, find_msix(b) + 2, 2), 2);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, bar_address(b) + TABLE, 8), 0);
	CHECK_EQ(bus_read(b->bus, BUS_MMIO, bar_address(b) + TABLE + 12, 4), 1);
	msix_raise(&b->dev, 0);
	CHECK_EQ(b->messages, 0);
	board_free(b);
}

static void state_moves_over(void)
{
	struct board *b = board_new(), *c = board_new();
	struct state *out = state_save_new(), *in;
	const void *bytes;
	size_t len;

	control(b, 0x8000);
	entry(b, 1, 0xfee01000, 0x77, true);
	msix_raise(&b->dev, 1);
	set(b, 0x18, 8, MMIO64 + 0x8000);
	CHECK_EQ(pci_dev_state(&b->dev, out), 0);
	bytes = state_bytes(out, &len);
	in = state_load_new(bytes, len);
	CHECK_EQ(pci_dev_state(&c->dev, in), 0);
	CHECK_EQ(bar_address(c), MMIO64 + 0x8000);
	CHECK_EQ(bus_read(c->bus, BUS_MMIO, MMIO64 + 0x8000, 1), 0x5a);
	CHECK_EQ(pending(c), 2);
	CHECK_EQ(c->messages, 0);
	entry(c, 1, 0xfee01000, 0x77, false);
	CHECK_EQ(c->messages, 1);
	state_free(in);
	state_free(out);
	board_free(b);
	board_free(c);
}

/* Row 12: whatever byte is changed, the restore succeeds or is refused, and the board works on. */
static void hostile_state(void)
{
	struct board *b = board_new();
	struct state *out = state_save_new();
	unsigned refused = 0;
	const uint8_t *bytes;
	uint8_t *evil;
	size_t len;

	pci_dev_state(&b->dev, out);
	bytes = state_bytes(out, &len);
	evil = malloc(len);
	for (size_t i = 0; i < len; i++) {
		struct state *in;

		memcpy(evil, bytes, len);
		evil[i] ^= 0xff;
		in = state_load_new(evil, len);
		refused += in && pci_dev_state(&b->dev, in) != 0;
		state_free(in);
	}
	CHECK(refused > 100);
	CHECK_EQ(get(b, 0, 4), 0x56781234);
	free(evil);
	state_free(out);
	board_free(b);
}

int main(void)
{
	RUN(identity);
	RUN(every_width_everywhere);
	RUN(config_ports);
	RUN(bar_is_mapped_from_the_start);
	RUN(bar_sizing);
	RUN(bar_moves);
	RUN(bar_stays_in_the_windows);
	RUN(overlapping_bar_waits);
	RUN(slots_and_windows_run_out);
	RUN(big_bars_go_high);
	RUN(hooks_are_called);
	RUN(msix_capability);
	RUN(msix_sends);
	RUN(msix_masked_vector_waits);
	RUN(msix_function_mask_waits);
	RUN(msix_table_widths);
	RUN(reset_forgets);
	RUN(state_moves_over);
	RUN(hostile_state);
	return tap_done();
}
