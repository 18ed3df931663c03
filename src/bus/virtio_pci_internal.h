/* SPDX-License-Identifier: MIT */
/* The transport's state, shared by virtio_pci.c (the PCI device) and virtio_pci_regs.c. */
#ifndef BUS_VIRTIO_PCI_INTERNAL_H
#define BUS_VIRTIO_PCI_INTERNAL_H

#include "bus/virtio_pci.h"

/* Layout of the BAR: a page for each structure, so that a guest may map them one by one. */
#define VIRTIO_PCI_BAR      4
#define VIRTIO_PCI_COMMON   0x0000
#define VIRTIO_PCI_ISR      0x1000
#define VIRTIO_PCI_DEVICE   0x2000
#define VIRTIO_PCI_NOTIFY   0x3000
#define VIRTIO_PCI_TABLE    0x4000
#define VIRTIO_PCI_PBA      0x5000
#define VIRTIO_PCI_BAR_SIZE 0x8000

#define COMMON_SIZE         0x40
#define NOTIFY_MULTIPLIER   4

#define ISR_QUEUE           0x1
#define ISR_CONFIG          0x2

struct virtio_pci_queue {
	struct virtio_pci *vp;
	unsigned index;
	_Atomic uint16_t vector;
	int doorbell; /* eventfd */
	struct watch *watch;
	bool bound; /* to the engine, at the place where the BAR is mapped */
};

struct virtio_pci {
	struct pci_dev pci;
	struct vdev *dev;
	struct virtio_pci_host host;
	unsigned window; /* offset of the PCI_CFG capability */

	/* Registers; those that are not atomic belong to the device's loop. */
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	_Atomic uint16_t config_vector;
	_Atomic uint8_t isr;
	/* What the driver sees moves on only when it has read a config space that changed. */
	uint8_t generation;
	uint32_t generation_read; /* dev->generation at the driver's last read */

	unsigned nqueues;
	struct virtio_pci_queue queues[];
};

/* Accesses to the BAR, from any thread but with no lock held; size is 1, 2, 4 or 8. */
extern const struct bus_ops virtio_pci_bar_ops;
/* Forget what the driver set up in the transport; on the loop. */
void virtio_pci_regs_reset(struct virtio_pci *vp);

#endif
