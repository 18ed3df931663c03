/* SPDX-License-Identifier: MIT */
/*
 * The PCI host bridge and its devices: slots, BARs, capabilities (PCI 3.0 chapter 6). A BAR is
 * mapped while memory decoding is on and it lies wholly inside one of the bridge's windows, clear
 * of other BARs; so it never covers RAM, an interrupt controller or configuration space itself.
 */
#include "bus/pci_internal.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "state/state.h"

#include <assert.h>
#include <stdlib.h>

#define ECAM_SIZE    (1 * MiB)
#define CONFIG_PORT  0xcf8
#define CONFIG_PORTS 8

static bool in_window(uint64_t base, uint64_t size, uint64_t address, uint64_t len)
{
	return len <= size && address >= base && address - base <= size - len;
}

static bool in_windows(const struct pci_bus *pci, uint64_t address, uint64_t len)
{
	const struct pci_windows *w = &pci->windows;

	return in_window(w->mmio32, w->mmio32_size, address, len) ||
	       in_window(w->mmio64, w->mmio64_size, address, len);
}

static uint64_t bar_register(const struct pci_dev *dev, size_t i)
{
	const uint8_t *p = dev->config + PCI_BAR0 + 4 * i;
	uint64_t value = dev->bars[i].is64 ? le64_load(p) : le32_load(p);

	return value & ~0xfull;
}

static void bar_register_set(struct pci_dev *dev, size_t i, uint64_t address)
{
	const struct pci_bar *bar = &dev->bars[i];
	uint32_t flags = (bar->is64 ? 0x4 : 0) | (bar->prefetch ? 0x8 : 0);

	le_store(dev->config + PCI_BAR0 + 4 * i, address | flags, bar->is64 ? 8 : 4);
}

static bool bar_wanted(const struct pci_dev *dev, unsigned i)
{
	return dev->bars[i].size && le16_load(dev->config + PCI_COMMAND) & PCI_COMMAND_MEMORY &&
	       in_windows(dev->bus, bar_register(dev, i), dev->bars[i].size);
}

static void bars_unmap(struct pci_dev *dev)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bars[i];

		if (!bar->mapped || (bar_wanted(dev, i) && bar->address == bar_register(dev, i)))
			continue;
		if (bar->moved)
			bar->moved(bar->arg, false);
		bus_remove(dev->bus->bus, BUS_MMIO, bar->address);
		bar->mapped = false;
	}
}

static void bars_map(struct pci_dev *dev)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bars[i];

		if (bar->mapped || !bar_wanted(dev, i))
			continue;
		bar->address = bar_register(dev, i);
		/* Refused when it overlaps another BAR: it waits until that one moves away. */
		if (bus_add(dev->bus->bus, BUS_MMIO, bar->address, bar->size, bar->ops, bar->arg))
			continue;
		bar->mapped = true;
		if (bar->moved)
			bar->moved(bar->arg, true);
	}
}

void pci_remap(struct pci_bus *pci)
{
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (pci->slots[i])
			bars_unmap(pci->slots[i]);
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (pci->slots[i])
			bars_map(pci->slots[i]);
}

struct pci_bus *pci_bus_new(struct bus *bus, const struct pci_windows *windows, struct vz_error *e)
{
	struct pci_bus *pci = calloc(1, sizeof(*pci));
	int r;

	if (!pci) {
		err_set(e, ENOMEM, NULL, "PCI bus: out of memory");
		return NULL;
	}
	pci->bus = bus;
	pci->windows = *windows;
	pthread_mutex_init(&pci->lock, NULL);
	r = bus_add(bus, BUS_MMIO, windows->ecam, ECAM_SIZE, &pci_ecam_ops, pci);
	if (r) {
		err_set(e, r, NULL, "PCI bus: no room for configuration space at %#llx",
			(unsigned long long)windows->ecam);
		goto fail;
	}
	r = bus_add(bus, BUS_PORT, CONFIG_PORT, CONFIG_PORTS, &pci_port_ops, pci);
	if (r) {
		err_set(e, r, NULL, "PCI bus: ports 0xcf8 to 0xcff are taken");
		goto fail_port;
	}
	/* QEMU's generic PCI Express host bridge: nothing in it needs a driver. */
	pci_dev_init(&pci->bridge, 0x1b36, 0x0008, 0x1af4, 0x1100, 0x060000, 0);
	pci_dev_add(pci, &pci->bridge, 0, NULL);
	return pci;

fail_port:
	bus_remove(bus, BUS_MMIO, windows->ecam);
fail:
	pthread_mutex_destroy(&pci->lock);
	free(pci);
	return NULL;
}

void pci_bus_free(struct pci_bus *pci)
{
	if (!pci)
		return;
	pci_dev_remove(&pci->bridge);
	bus_remove(pci->bus, BUS_MMIO, pci->windows.ecam);
	bus_remove(pci->bus, BUS_PORT, CONFIG_PORT);
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}

/* Everything that the guest may write is zero after reset, but for these. */
static void dev_reset(struct pci_dev *dev)
{
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		dev->config[i] &= ~dev->writable[i];
	le16_store(dev->config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (dev->bars[i].size)
			bar_register_set(dev, i, dev->bars[i].initial);
	msix_reset(dev);
}

void pci_bus_reset(struct pci_bus *pci)
{
	pthread_mutex_lock(&pci->lock);
	pci->selected = 0;
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (pci->slots[i])
			dev_reset(pci->slots[i]);
	pci_remap(pci);
	pthread_mutex_unlock(&pci->lock);
}

void pci_dev_init(struct pci_dev *dev, uint16_t vendor, uint16_t device, uint16_t subvendor,
	uint16_t subdevice, uint32_t class_code, uint8_t revision)
{
	memset(dev, 0, sizeof(*dev));
	le16_store(dev->config + 0x00, vendor);
	le16_store(dev->config + 0x02, device);
	le32_store(dev->config + 0x08, class_code << 8 | revision);
	le16_store(dev->config + 0x2c, subvendor);
	le16_store(dev->config + 0x2e, subdevice);
	le16_store(dev->writable + PCI_COMMAND,
		PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX);
	dev->writable[PCI_INTERRUPT_LINE] = 0xff;
	dev->next_capability = PCI_HEADER_END;
}

unsigned pci_add_capability(struct pci_dev *dev, uint8_t id, unsigned len)
{
	unsigned offset = dev->next_capability;

	assert(offset + len < 0x100);
	dev->config[offset] = id;
	dev->config[dev->last_capability ? dev->last_capability + 1 : PCI_CAPABILITY_POINTER] =
		offset;
	dev->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	dev->last_capability = offset;
	dev->next_capability = align_up(offset + len, 4);
	return offset;
}

/* Where the BAR of some device that touches the range ends; 0: the range is free. */
static uint64_t taken_until(const struct pci_bus *pci, uint64_t base, uint64_t size)
{
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		const struct pci_dev *dev = pci->slots[slot];

		for (unsigned i = 0; dev && i < PCI_BARS; i++) {
			const struct pci_bar *bar = &dev->bars[i];

			if (bar->size && bar->initial < base + size &&
				base < bar->initial + bar->size)
				return bar->initial + bar->size;
			if (bar->mapped && bar->address < base + size &&
				base < bar->address + bar->size)
				return bar->address + bar->size;
		}
	}
	return 0;
}

static bool place(const struct pci_bus *pci, struct pci_bar *bar, uint64_t base, uint64_t size)
{
	uint64_t at = align_up(base, bar->size), next;

	while (in_window(base, size, at, bar->size)) {
		next = taken_until(pci, at, bar->size);
		if (!next) {
			bar->initial = at;
			return true;
		}
		at = align_up(next, bar->size);
	}
	return false;
}

/*
 * Small BARs go below 4 GiB, where every guest can reach them; big ones leave that window to the
 * others.
 */
static bool bar_assign(const struct pci_bus *pci, struct pci_bar *bar)
{
	const struct pci_windows *w = &pci->windows;
	bool big = bar->size > w->mmio32_size / 64;

	if (bar->is64 && big && place(pci, bar, w->mmio64, w->mmio64_size))
		return true;
	if (place(pci, bar, w->mmio32, w->mmio32_size))
		return true;
	return bar->is64 && place(pci, bar, w->mmio64, w->mmio64_size);
}

static int bars_assign(struct pci_bus *pci, struct pci_dev *dev, struct vz_error *e)
{
	for (size_t i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bars[i];

		if (!bar->size)
			continue;
		assert(is_pow2(bar->size) && bar->size >= 4096);
		if (!bar_assign(pci, bar))
			return err_set(e, ENOSPC, NULL,
				"no room for %llu bytes of device registers in the PCI windows",
				(unsigned long long)bar->size);
		le_store(dev->writable + PCI_BAR0 + 4 * i, ~(bar->size - 1), bar->is64 ? 8 : 4);
	}
	return 0;
}

int pci_dev_add(struct pci_bus *pci, struct pci_dev *dev, int slot, struct vz_error *e)
{
	int r = 0;

	pthread_mutex_lock(&pci->lock);
	if (slot < 0)
		for (slot = 1; slot < PCI_SLOTS && pci->slots[slot]; slot++)
			;
	if (slot >= PCI_SLOTS)
		r = err_set(e, ENOSPC, NULL, "all %d PCI slots are taken", PCI_SLOTS);
	else if (pci->slots[slot])
		r = err_set(e, EEXIST, NULL, "PCI slot %d is taken", slot);
	else
		r = bars_assign(pci, dev, e);
	if (!r) {
		dev->bus = pci;
		dev->slot = slot;
		pci->slots[slot] = dev;
		dev_reset(dev);
		pci_remap(pci);
	}
	pthread_mutex_unlock(&pci->lock);
	return r;
}

void pci_dev_remove(struct pci_dev *dev)
{
	struct pci_bus *pci = dev->bus;

	if (!pci)
		return;
	pthread_mutex_lock(&pci->lock);
	le16_store(dev->config + PCI_COMMAND, 0);
	bars_unmap(dev);
	pci->slots[dev->slot] = NULL;
	dev->bus = NULL;
	pci_remap(pci);
	pthread_mutex_unlock(&pci->lock);
}

/* What the guest cannot write must be what this board would show. */
static int config_load(struct pci_dev *dev, const uint8_t *saved, unsigned len, struct state *s)
{
	for (unsigned i = 0; i < len; i++)
		if ((saved[i] ^ dev->config[i]) & ~dev->writable[i])
			return state_reject(s, "config", "it belongs to another device");
	memcpy(dev->config, saved, len);
	msix_control_wrote(dev);
	pci_remap(dev->bus);
	return 0;
}

int pci_dev_state(struct pci_dev *dev, struct state *s)
{
	uint8_t config[256]; /* nothing lives above */
	uint32_t version;
	int r = state_enter(s, "pci", 1, &version);

	pthread_mutex_lock(&dev->bus->lock);
	/* Made up when it is read. */
	dev->config[PCI_STATUS] &= ~PCI_STATUS_INTERRUPT;
	memcpy(config, dev->config, sizeof(config));
	if (!r)
		r = state_blob(s, "config", config, sizeof(config));
	if (!r && dev->msix.capability)
		r = msix_state(dev, s);
	if (!r && state_loading(s))
		r = config_load(dev, config, sizeof(config), s);
	pthread_mutex_unlock(&dev->bus->lock);
	return r ? r : state_leave(s);
}
