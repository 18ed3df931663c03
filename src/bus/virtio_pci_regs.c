/* SPDX-License-Identifier: MIT */
/*
 * The registers of virtio-pci (virtio 1.4 sections 4.1.4.3 to 4.1.4.6). An access arrives on a vCPU
 * thread; common and device-specific configuration cross over to the device's loop and wait, ISR
 * and doorbells do not.
 */
#include "bus/virtio_pci_internal.h"

#include "base/le.h"

#include <stdatomic.h>
#include <unistd.h>

/* struct virtio_pci_common_cfg, section 4.1.4.3. */
enum {
	DEVICE_FEATURE_SELECT = 0x00,
	DEVICE_FEATURE = 0x04,
	DRIVER_FEATURE_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	CONFIG_MSIX_VECTOR = 0x10,
	NUM_QUEUES = 0x12,
	DEVICE_STATUS = 0x14,
	CONFIG_GENERATION = 0x15,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_MSIX_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
	QUEUE_RESET = 0x3a,
};

static struct virtio_pci_queue *selected(struct virtio_pci *vp)
{
	return vp->queue_select < vp->nqueues ? &vp->queues[vp->queue_select] : NULL;
}

void virtio_pci_regs_reset(struct virtio_pci *vp)
{
	vp->device_feature_select = vp->driver_feature_select = 0;
	vp->queue_select = 0;
	vp->config_vector = VIRTIO_NO_VECTOR;
	for (unsigned i = 0; i < vp->nqueues; i++)
		vp->queues[i].vector = VIRTIO_NO_VECTOR;
	vp->isr = 0;
}

/*
 * No register of this structure changes by being read, so a read of any width at any offset is cut
 * out of a picture of the whole.
 */
static void common_picture(struct virtio_pci *vp, uint8_t *p)
{
	const struct virtio_pci_queue *q = selected(vp);
	const struct virtqueue *vq = vdev_queue(vp->dev, vp->queue_select);

	memset(p, 0, COMMON_SIZE);
	le32_store(p + DEVICE_FEATURE_SELECT, vp->device_feature_select);
	le32_store(p + DEVICE_FEATURE, vdev_features_get(vp->dev, vp->device_feature_select));
	le32_store(p + DRIVER_FEATURE_SELECT, vp->driver_feature_select);
	le32_store(p + DRIVER_FEATURE, vdev_features_driver(vp->dev, vp->driver_feature_select));
	le16_store(p + CONFIG_MSIX_VECTOR, vp->config_vector);
	le16_store(p + NUM_QUEUES, vp->nqueues);
	p[DEVICE_STATUS] = vp->dev->status;
	p[CONFIG_GENERATION] = vp->generation;
	le16_store(p + QUEUE_SELECT, vp->queue_select);
	le16_store(p + QUEUE_MSIX_VECTOR, VIRTIO_NO_VECTOR);
	if (!q || !vq)
		return;
	le16_store(p + QUEUE_SIZE, vq->size);
	le16_store(p + QUEUE_MSIX_VECTOR, q->vector);
	le16_store(p + QUEUE_ENABLE, vq->enabled);
	le16_store(p + QUEUE_NOTIFY_OFF, q->index);
	le64_store(p + QUEUE_DESC, vq->desc);
	le64_store(p + QUEUE_DRIVER, vq->driver);
	le64_store(p + QUEUE_DEVICE, vq->device);
}

static uint16_t vector_for(const struct virtio_pci *vp, uint16_t wanted)
{
	return wanted < vp->pci.msix.vectors ? wanted : VIRTIO_NO_VECTOR;
}

static void status_write(struct virtio_pci *vp, uint8_t status)
{
	vdev_status_set(vp->dev, status);
	if (!status)
		virtio_pci_regs_reset(vp);
}

static void common_write8(struct virtio_pci *vp, unsigned offset, uint8_t value)
{
	if (offset == DEVICE_STATUS)
		status_write(vp, value);
}

static void common_write16(struct virtio_pci *vp, unsigned offset, uint16_t value)
{
	struct virtio_pci_queue *q = selected(vp);

	switch (offset) {
	case CONFIG_MSIX_VECTOR:
		vp->config_vector = vector_for(vp, value);
		return;
	case QUEUE_SELECT:
		vp->queue_select = value;
		return;
	}
	if (!q)
		return;
	switch (offset) {
	case QUEUE_SIZE:
		vdev_queue_size(vp->dev, q->index, value);
		break;
	case QUEUE_MSIX_VECTOR:
		q->vector = vector_for(vp, value);
		break;
	case QUEUE_ENABLE:
		if (value == 1)
			vdev_queue_enable(vp->dev, q->index);
		break;
	case QUEUE_RESET:
		if (value == 1)
			vdev_queue_reset(vp->dev, q->index);
		break;
	}
}

static void common_write32(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	switch (offset) {
	case DEVICE_FEATURE_SELECT:
		vp->device_feature_select = value;
		break;
	case DRIVER_FEATURE_SELECT:
		vp->driver_feature_select = value;
		break;
	case DRIVER_FEATURE:
		vdev_features_set(vp->dev, vp->driver_feature_select, value);
		break;
	case QUEUE_DESC:
	case QUEUE_DESC + 4:
	case QUEUE_DRIVER:
	case QUEUE_DRIVER + 4:
	case QUEUE_DEVICE:
	case QUEUE_DEVICE + 4:
		vdev_queue_area(vp->dev, vp->queue_select, (offset - QUEUE_DESC) / 8, offset & 4,
			value);
		break;
	}
}

/* A field is written at its own width or not at all; 64-bit fields are two of 32 bits. */
static void common_write(struct virtio_pci *vp, unsigned offset, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		common_write8(vp, offset, value);
		break;
	case 2:
		common_write16(vp, offset, value);
		break;
	case 4:
		common_write32(vp, offset, value);
		break;
	case 8:
		if (offset < QUEUE_DESC || offset > QUEUE_DEVICE || offset & 7)
			break;
		common_write32(vp, offset, value);
		common_write32(vp, offset + 4, value >> 32);
		break;
	}
}

/* An access on its way to the loop. */
struct access {
	struct virtio_pci *vp;
	unsigned offset, size;
	uint64_t value;
};

static void common_read_on_loop(void *arg)
{
	struct access *a = arg;
	uint8_t picture[COMMON_SIZE];

	if (a->offset + a->size > sizeof(picture))
		return;
	common_picture(a->vp, picture);
	a->value = le_load(picture + a->offset, a->size);
}

static void common_write_on_loop(void *arg)
{
	struct access *a = arg;

	common_write(a->vp, a->offset, a->size, a->value);
}

static void device_read_on_loop(void *arg)
{
	struct access *a = arg;
	struct virtio_pci *vp = a->vp;

	if (vp->generation_read != vp->dev->generation) {
		vp->generation_read = vp->dev->generation;
		vp->generation++;
	}
	a->value = vdev_config_read(vp->dev, a->offset, a->size);
}

static void device_write_on_loop(void *arg)
{
	struct access *a = arg;

	vdev_config_write(a->vp->dev, a->offset, a->size, a->value);
}

/* A value that no loop filled in (the machine is stopping) stays 0. */
static uint64_t cross(struct virtio_pci *vp, loop_fn *fn, uint64_t offset, unsigned size,
	uint64_t value)
{
	struct access a = { .vp = vp, .offset = offset, .size = size, .value = value };

	loop_call(vp->dev->loop, fn, &a);
	return a.value;
}

static void ring(struct virtio_pci *vp, uint64_t offset, unsigned size)
{
	uint64_t index = offset / NOTIFY_MULTIPLIER, one = 1;

	if (index >= vp->nqueues || offset % NOTIFY_MULTIPLIER || (size != 2 && size != 4))
		return;
	/* It does not block; when the counter is full the loop will look anyway. */
	(void)!write(vp->queues[index].doorbell, &one, sizeof(one));
}

static uint64_t bar_read(void *arg, uint64_t offset, unsigned size)
{
	struct virtio_pci *vp = arg;
	uint64_t at = offset & 0xfff;

	/* Only accesses that begin in a structure's page and end beyond it come to nothing. */
	if (at + size > 0x1000)
		return 0;
	switch (offset - at) {
	case VIRTIO_PCI_COMMON:
		return cross(vp, common_read_on_loop, at, size, 0);
	case VIRTIO_PCI_ISR:
		return at ? 0 : atomic_exchange(&vp->isr, 0);
	case VIRTIO_PCI_DEVICE:
		return cross(vp, device_read_on_loop, at, size, 0);
	case VIRTIO_PCI_TABLE:
		return msix_table_read(&vp->pci, at, size);
	case VIRTIO_PCI_PBA:
		return msix_pba_read(&vp->pci, at, size);
	}
	return 0;
}

static void bar_write(void *arg, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *vp = arg;
	uint64_t at = offset & 0xfff;

	if (at + size > 0x1000)
		return;
	switch (offset - at) {
	case VIRTIO_PCI_COMMON:
		cross(vp, common_write_on_loop, at, size, value);
		break;
	case VIRTIO_PCI_DEVICE:
		cross(vp, device_write_on_loop, at, size, value);
		break;
	case VIRTIO_PCI_NOTIFY:
		ring(vp, at, size);
		break;
	case VIRTIO_PCI_TABLE:
		msix_table_write(&vp->pci, at, size, value);
		break;
	}
}

const struct bus_ops virtio_pci_bar_ops = { .read = bar_read, .write = bar_write };
