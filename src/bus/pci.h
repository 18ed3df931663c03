/* SPDX-License-Identifier: MIT */
/*
 * PCI: one host bridge with one bus, configuration space through ECAM and ports 0xcf8/0xcfc, memory
 * BARs, MSI-X. There are no I/O BARs, no bridges and no INTx. Sources: PCI Local Bus 3.0, PCI
 * Express Base 3.0 chapter 7, PCI Firmware 3.0 (ECAM).
 *
 * Threads: configuration accesses arrive on vCPU threads and are serialised by the bus's lock;
 * BAR accesses arrive there too and hold no lock; msix_raise may be called from any thread. Devices
 * are added and removed while no vCPU runs.
 *
 * Locks, outermost first: the pci bus, then the port and MMIO map or the device's MSI-X lock.
 * bar.moved and msix.send are called with locks held: they may enter the engine, but neither wait
 * for a vCPU or a loop nor come back here. The config_ hooks are called without a lock.
 */
#ifndef BUS_PCI_H
#define BUS_PCI_H

#include "bus/bus.h"

#include <pthread.h>

#define PCI_SLOTS       32
#define PCI_CONFIG_SIZE 4096u
#define PCI_BARS        6

struct pci_bus;
struct state;

struct pci_bar {
	uint64_t size; /* bytes, a power of two >= 4096; 0: none */
	bool is64, prefetch;
	const struct bus_ops *ops;
	void *arg;
	uint64_t initial; /* where it is after reset */
	uint64_t address; /* where it is mapped now */
	bool mapped;
	/* Called after the BAR was mapped (address valid) or before it is unmapped; may be NULL. */
	void (*moved)(void *arg, bool mapped);
};

struct msix {
	pthread_mutex_t lock; /* of everything below */
	unsigned capability;  /* its offset in configuration space; 0: no MSI-X */
	uint16_t vectors;
	bool enabled, masked;
	struct {
		uint64_t address;
		uint32_t data;
		bool masked, pending;
	} * table;
	/* Deliver a message; the machine points it at the engine. */
	void (*send)(void *arg, uint64_t address, uint32_t data);
	void *send_arg;
};

struct pci_dev {
	struct pci_bus *bus;
	unsigned slot; /* device number; function 0 */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* mask of bits that the guest may write */
	struct pci_bar bars[PCI_BARS];     /* a 64-bit BAR takes two: the second stays empty */
	struct msix msix;
	void *arg;
	uint8_t last_capability, next_capability; /* where the list and the room go on */
	/*
	 * A register that reacts to accesses (virtio's PCI_CFG window): before a read, after a
	 * write; may be NULL. They use pci_config_get and pci_config_set.
	 */
	void (*config_read)(void *arg, unsigned offset, unsigned size);
	void (*config_wrote)(void *arg, unsigned offset, unsigned size);
};

struct pci_windows {
	uint64_t ecam; /* base of 1 MiB: bus 0 */
	uint64_t mmio32, mmio32_size;
	uint64_t mmio64, mmio64_size;
};

struct pci_bus *pci_bus_new(struct bus *bus, const struct pci_windows *windows, struct vz_error *e);
void pci_bus_free(struct pci_bus *pci);
/* Machine reset: BARs get their initial addresses again, MSI-X off. */
void pci_bus_reset(struct pci_bus *pci);

/*
 * Initialise *dev with its identity. class_code: base << 16 | sub << 8 | interface.
 * pci_dev_add places it in the next free slot (or dev->slot when set to one), assigns initial BAR
 * addresses from the windows (no firmware does it for us) and enables memory decoding and bus
 * mastering.
 */
void pci_dev_init(struct pci_dev *dev, uint16_t vendor, uint16_t device, uint16_t subvendor,
	uint16_t subdevice, uint32_t class_code, uint8_t revision);
int pci_dev_add(struct pci_bus *pci, struct pci_dev *dev, int slot /* -1: any */,
	struct vz_error *e);
void pci_dev_remove(struct pci_dev *dev);
/* Append a capability of len bytes (2-byte header included); returns its offset in config space. */
unsigned pci_add_capability(struct pci_dev *dev, uint8_t id, unsigned len);
/* Any bytes of configuration space, under the bus's lock; set does not honour the writable mask. */
uint64_t pci_config_get(struct pci_dev *dev, unsigned offset, unsigned size);
void pci_config_set(struct pci_dev *dev, unsigned offset, unsigned size, uint64_t value);
/*
 * MSI-X with its table and pending bits in the given BAR, which the caller has set up; 0 or
 * -ENOMEM.
 */
int msix_init(struct pci_dev *dev, unsigned bar, uint32_t table_offset, uint32_t pba_offset,
	unsigned vectors);
uint64_t msix_table_read(struct pci_dev *dev, uint64_t offset, unsigned size);
void msix_table_write(struct pci_dev *dev, uint64_t offset, unsigned size, uint64_t value);
uint64_t msix_pba_read(struct pci_dev *dev, uint64_t offset, unsigned size);
/* Sends, or marks pending while masked; nothing while MSI-X is disabled. Any thread. */
void msix_raise(struct pci_dev *dev, unsigned vector);
bool msix_enabled(struct pci_dev *dev); /* any thread */
void msix_fini(struct pci_dev *dev);
int pci_dev_state(struct pci_dev *dev, struct state *s);

#endif
