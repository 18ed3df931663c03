/* SPDX-License-Identifier: MIT */
/*
 * Accesses to PCI configuration space, at any width and alignment that stays inside one function:
 * through ECAM (PCI Express 3.0 section 7.2.2) and through ports 0xcf8 and 0xcfc (PCI 3.0 section
 * 3.2.2.3.2). Nobody there: reads give all ones, writes are dropped.
 */
#include "bus/pci_internal.h"

#include "base/le.h"

static bool touches(unsigned offset, unsigned size, unsigned start, unsigned len)
{
	return offset < start + len && start < offset + size;
}

static struct pci_dev *dev_at(struct pci_bus *pci, unsigned slot, unsigned function)
{
	struct pci_dev *dev;

	pthread_mutex_lock(&pci->lock);
	dev = function ? NULL : pci->slots[slot];
	pthread_mutex_unlock(&pci->lock);
	return dev;
}

static uint64_t config_read(struct pci_dev *dev, unsigned offset, unsigned size)
{
	if (!dev || offset + size > PCI_CONFIG_SIZE)
		return UINT64_MAX;
	if (dev->config_read)
		dev->config_read(dev->arg, offset, size);
	return pci_config_get(dev, offset, size);
}

static void config_write(struct pci_dev *dev, unsigned offset, unsigned size, uint64_t value)
{
	struct pci_bus *pci;

	if (!dev || offset + size > PCI_CONFIG_SIZE)
		return;
	pci = dev->bus;
	pthread_mutex_lock(&pci->lock);
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = dev->writable[offset + i];

		dev->config[offset + i] &= ~mask;
		dev->config[offset + i] |= mask & (value >> (8 * i));
	}
	if (touches(offset, size, PCI_COMMAND, 2) || touches(offset, size, PCI_BAR0, 4 * PCI_BARS))
		pci_remap(pci);
	if (dev->msix.capability && touches(offset, size, dev->msix.capability + 2, 2))
		msix_control_wrote(dev);
	pthread_mutex_unlock(&pci->lock);
	if (dev->config_wrote)
		dev->config_wrote(dev->arg, offset, size);
}

static uint64_t ecam_read(void *arg, uint64_t offset, unsigned size)
{
	struct pci_dev *dev = dev_at(arg, offset >> 15 & 31, offset >> 12 & 7);

	return config_read(dev, offset % PCI_CONFIG_SIZE, size);
}

static void ecam_write(void *arg, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_dev *dev = dev_at(arg, offset >> 15 & 31, offset >> 12 & 7);

	config_write(dev, offset % PCI_CONFIG_SIZE, size, value);
}

const struct bus_ops pci_ecam_ops = { .read = ecam_read, .write = ecam_write };

/* The device and register that the ports select; the access is to the data port or beyond it. */
static struct pci_dev *port_target(struct pci_bus *pci, uint64_t port, unsigned *offset)
{
	uint32_t selected;

	pthread_mutex_lock(&pci->lock);
	selected = pci->selected;
	pthread_mutex_unlock(&pci->lock);
	*offset = (selected & 0xfc) + (port - 4);
	if (!(selected >> 31) || (selected >> 16 & 0xff))
		return NULL;
	return dev_at(pci, selected >> 11 & 31, selected >> 8 & 7);
}

static uint64_t port_read(void *arg, uint64_t port, unsigned size)
{
	struct pci_bus *pci = arg;
	struct pci_dev *dev;
	unsigned offset;
	uint32_t selected;

	if (port >= 4) {
		dev = port_target(pci, port, &offset);
		return config_read(dev, offset, size);
	}
	if (port || size != 4)
		return UINT64_MAX;
	pthread_mutex_lock(&pci->lock);
	selected = pci->selected;
	pthread_mutex_unlock(&pci->lock);
	return selected;
}

static void port_write(void *arg, uint64_t port, unsigned size, uint64_t value)
{
	struct pci_bus *pci = arg;
	struct pci_dev *dev;
	unsigned offset;

	if (port >= 4) {
		dev = port_target(pci, port, &offset);
		config_write(dev, offset, size, value);
	} else if (!port && size == 4) {
		pthread_mutex_lock(&pci->lock);
		pci->selected = value & 0x80fffffc;
		pthread_mutex_unlock(&pci->lock);
	}
}

const struct bus_ops pci_port_ops = { .read = port_read, .write = port_write };

uint64_t pci_config_get(struct pci_dev *dev, unsigned offset, unsigned size)
{
	uint64_t value;

	pthread_mutex_lock(&dev->bus->lock);
	value = le_load(dev->config + offset, size);
	pthread_mutex_unlock(&dev->bus->lock);
	return value;
}

void pci_config_set(struct pci_dev *dev, unsigned offset, unsigned size, uint64_t value)
{
	pthread_mutex_lock(&dev->bus->lock);
	le_store(dev->config + offset, value, size);
	pthread_mutex_unlock(&dev->bus->lock);
}
