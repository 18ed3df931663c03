/* SPDX-License-Identifier: MIT */
/* The virtio-pci transport, modern only: virtio 1.4 section 4.1. Carries one struct vdev. */
#ifndef BUS_VIRTIO_PCI_H
#define BUS_VIRTIO_PCI_H

#include "bus/pci.h"
#include "virtio/vdev.h"

struct virtio_pci;

/* What the transport needs of the engine; every function may be called on any thread. */
struct virtio_pci_host {
	void *arg;
	void (*send_msi)(void *arg, uint64_t address, uint32_t data);
	/*
	 * Signal fd instead of calling the bus when the guest writes to [address, +size): the
	 * doorbell path that does not wait. 0, or -errno when the engine cannot (then the bus
	 * handler is used).
	 */
	int (*bind_doorbell)(void *arg, uint64_t address, unsigned size, int fd);
	void (*unbind_doorbell)(void *arg, uint64_t address, unsigned size, int fd);
};

/* dev (opened) stays the caller's and must outlive the transport. */
struct virtio_pci *virtio_pci_new(struct pci_bus *pci, struct vdev *dev,
	const struct virtio_pci_host *host, int slot, struct vz_error *e);
void virtio_pci_free(struct virtio_pci *vp);
void virtio_pci_reset(struct virtio_pci *vp); /* machine reset */
int virtio_pci_state(struct virtio_pci *vp, struct state *s);
unsigned virtio_pci_slot(const struct virtio_pci *vp);

#endif
