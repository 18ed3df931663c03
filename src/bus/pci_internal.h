/* SPDX-License-Identifier: MIT */
/* What pci.c and msix.c tell each other. */
#ifndef BUS_PCI_INTERNAL_H
#define BUS_PCI_INTERNAL_H

#include "bus/pci.h"

/* Configuration space, PCI 3.0 section 6.1. */
#define PCI_COMMAND             0x04
#define PCI_COMMAND_MEMORY      0x0002
#define PCI_COMMAND_MASTER      0x0004
#define PCI_COMMAND_NO_INTX     0x0400
#define PCI_STATUS              0x06
#define PCI_STATUS_INTERRUPT    0x08
#define PCI_STATUS_CAPABILITIES 0x10
#define PCI_BAR0                0x10
#define PCI_CAPABILITY_POINTER  0x34
#define PCI_INTERRUPT_LINE      0x3c
#define PCI_HEADER_END          0x40

#define PCI_CAPABILITY_VENDOR   0x09
#define PCI_CAPABILITY_MSIX     0x11

struct pci_bus {
	struct bus *bus;
	struct pci_windows windows;
	pthread_mutex_t lock; /* of all configuration space and BARs */
	uint32_t selected;    /* what port 0xcf8 holds */
	struct pci_dev *slots[PCI_SLOTS];
	struct pci_dev bridge;
};

/* What answers the ECAM range and ports 0xcf8 to 0xcff; arg is the struct pci_bus. */
extern const struct bus_ops pci_ecam_ops, pci_port_ops;

/* Make the map agree with all command registers and BARs. The bus's lock is held. */
void pci_remap(struct pci_bus *pci);

/* The guest, or a restore, wrote the capability's control word. Called with the bus's lock held. */
void msix_control_wrote(struct pci_dev *dev);
void msix_reset(struct pci_dev *dev);
int msix_state(struct pci_dev *dev, struct state *s);

#endif
