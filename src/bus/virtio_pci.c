/* SPDX-License-Identifier: MIT */
/*
 * The virtio-pci transport, modern only (virtio 1.4 section 4.1): identity, capabilities, the
 * window in configuration space, doorbells and interrupts. Registers are in virtio_pci_regs.c.
 * There is no INTx (the interrupt pin reads 0): a driver that leaves MSI-X off polls the ISR.
 */
#include "bus/pci_internal.h"
#include "bus/virtio_pci_internal.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "state/state.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define VENDOR_VIRTIO    0x1af4
#define DEVICE_ID_BASE   0x1040
#define SUBSYSTEM_DEVICE 0x1100 /* 0x40 or higher: not for legacy drivers */

/* struct virtio_pci_cap, section 4.1.4. */
#define CAP_SIZE        16
#define CAP_BAR         4
#define CAP_OFFSET      8
#define CAP_LENGTH      12
#define CAP_EXTRA       16
#define CAP_TYPE_COMMON 1
#define CAP_TYPE_NOTIFY 2
#define CAP_TYPE_ISR    3
#define CAP_TYPE_DEVICE 4
#define CAP_TYPE_PCI    5

/* --- interrupts: any thread --- */

static void interrupt(void *arg, unsigned queue)
{
	struct virtio_pci *vp = arg;
	uint16_t vector;

	if (queue >= vp->nqueues)
		return;
	if (!msix_enabled(&vp->pci)) {
		atomic_fetch_or(&vp->isr, ISR_QUEUE);
		return;
	}
	vector = vp->queues[queue].vector;
	if (vector != VIRTIO_NO_VECTOR)
		msix_raise(&vp->pci, vector);
}

static void config_changed(void *arg)
{
	struct virtio_pci *vp = arg;
	uint16_t vector = vp->config_vector;

	atomic_fetch_or(&vp->isr, ISR_CONFIG);
	if (vector != VIRTIO_NO_VECTOR)
		msix_raise(&vp->pci, vector);
}

static int no_shm_map(void *arg, unsigned id, uint64_t offset, uint64_t len, int fd,
	uint64_t fd_offset, bool rw)
{
	return -ENOTSUP;
}

/* --- doorbells --- */

static void doorbell_rang(void *arg, uint32_t events)
{
	struct virtio_pci_queue *q = arg;
	uint64_t count;

	if (read(q->doorbell, &count, sizeof(count)) == sizeof(count))
		vdev_kick(q->vp->dev, q->index);
}

/* The BAR was mapped, or is about to be unmapped: a vCPU's thread, or the machine's. */
static void bar_moved(void *arg, bool mapped)
{
	struct virtio_pci *vp = arg;
	const struct virtio_pci_host *h = &vp->host;
	uint64_t at = vp->pci.bars[VIRTIO_PCI_BAR].address + VIRTIO_PCI_NOTIFY;

	for (unsigned i = 0; i < vp->nqueues; i++, at += NOTIFY_MULTIPLIER) {
		struct virtio_pci_queue *q = &vp->queues[i];

		if (mapped && h->bind_doorbell)
			q->bound = !h->bind_doorbell(h->arg, at, 2, q->doorbell);
		else if (!mapped && q->bound) {
			h->unbind_doorbell(h->arg, at, 2, q->doorbell);
			q->bound = false;
		}
	}
}

/* --- the window in configuration space, section 4.1.4.9 --- */

/* Where the window points; false when that is nowhere. */
static bool window_target(struct virtio_pci *vp, uint32_t *offset, uint32_t *size)
{
	uint32_t bar = pci_config_get(&vp->pci, vp->window + CAP_BAR, 1);

	*offset = pci_config_get(&vp->pci, vp->window + CAP_OFFSET, 4);
	*size = pci_config_get(&vp->pci, vp->window + CAP_LENGTH, 4);
	return bar == VIRTIO_PCI_BAR && (*size == 1 || *size == 2 || *size == 4) &&
	       *offset % *size == 0 && *offset < VIRTIO_PCI_BAR_SIZE;
}

static bool window_touched(const struct virtio_pci *vp, unsigned offset, unsigned size)
{
	unsigned data = vp->window + CAP_EXTRA;

	return offset < data + 4 && data < offset + size;
}

static void config_read(void *arg, unsigned offset, unsigned size)
{
	struct virtio_pci *vp = arg;
	uint32_t at, len;
	uint8_t status;

	if (offset <= PCI_STATUS && PCI_STATUS < offset + size) {
		status = pci_config_get(&vp->pci, PCI_STATUS, 1) & ~PCI_STATUS_INTERRUPT;
		if (vp->isr && !msix_enabled(&vp->pci))
			status |= PCI_STATUS_INTERRUPT;
		pci_config_set(&vp->pci, PCI_STATUS, 1, status);
	}
	if (window_touched(vp, offset, size) && window_target(vp, &at, &len))
		pci_config_set(&vp->pci, vp->window + CAP_EXTRA, len,
			virtio_pci_bar_ops.read(vp, at, len));
}

static void config_wrote(void *arg, unsigned offset, unsigned size)
{
	struct virtio_pci *vp = arg;
	uint32_t at, len;

	if (window_touched(vp, offset, size) && window_target(vp, &at, &len))
		virtio_pci_bar_ops.write(vp, at, len,
			pci_config_get(&vp->pci, vp->window + CAP_EXTRA, len));
}

/* --- life --- */

static unsigned add_capability(struct virtio_pci *vp, uint8_t type, uint32_t offset,
	uint32_t length, unsigned extra)
{
	unsigned at = pci_add_capability(&vp->pci, PCI_CAPABILITY_VENDOR, CAP_SIZE + extra);
	uint8_t *p = vp->pci.config + at;

	p[2] = CAP_SIZE + extra;
	p[3] = type;
	p[CAP_BAR] = VIRTIO_PCI_BAR;
	le32_store(p + CAP_OFFSET, offset);
	le32_store(p + CAP_LENGTH, length);
	return at;
}

static void add_capabilities(struct virtio_pci *vp)
{
	unsigned at;

	add_capability(vp, CAP_TYPE_COMMON, VIRTIO_PCI_COMMON, COMMON_SIZE, 0);
	at = add_capability(vp, CAP_TYPE_NOTIFY, VIRTIO_PCI_NOTIFY,
		MAX(vp->nqueues, 1u) * NOTIFY_MULTIPLIER, 4);
	le32_store(vp->pci.config + at + CAP_EXTRA, NOTIFY_MULTIPLIER);
	add_capability(vp, CAP_TYPE_ISR, VIRTIO_PCI_ISR, 1, 0);
	if (vp->dev->class->config_size)
		add_capability(vp, CAP_TYPE_DEVICE, VIRTIO_PCI_DEVICE, vp->dev->class->config_size,
			0);
	vp->window = add_capability(vp, CAP_TYPE_PCI, 0, 0, 4);
	/* A register that resets to 0; so does everything that the guest may write. */
	vp->pci.config[vp->window + CAP_BAR] = 0;
	vp->pci.writable[vp->window + CAP_BAR] = 0xff;
	memset(vp->pci.writable + vp->window + CAP_OFFSET, 0xff, 12);
}

static int describe(struct virtio_pci *vp, struct vz_error *e)
{
	const struct device_class *class = vp->dev->class;
	struct pci_bar *bar = &vp->pci.bars[VIRTIO_PCI_BAR];
	uint32_t class_code =
		class->pci_class[0] << 16 | class->pci_class[1] << 8 | class->pci_class[2];

	pci_dev_init(&vp->pci, VENDOR_VIRTIO, DEVICE_ID_BASE + class->id, VENDOR_VIRTIO,
		SUBSYSTEM_DEVICE, class_code, 1);
	vp->pci.arg = vp;
	vp->pci.config_read = config_read;
	vp->pci.config_wrote = config_wrote;
	bar->size = VIRTIO_PCI_BAR_SIZE;
	bar->is64 = true;
	bar->ops = &virtio_pci_bar_ops;
	bar->arg = vp;
	bar->moved = bar_moved;
	add_capabilities(vp);
	vp->pci.msix.send = vp->host.send_msi;
	vp->pci.msix.send_arg = vp->host.arg;
	if (msix_init(&vp->pci, VIRTIO_PCI_BAR, VIRTIO_PCI_TABLE, VIRTIO_PCI_PBA, vp->nqueues + 1))
		return err_set(e, ENOMEM, NULL, "out of memory");
	return 0;
}

struct start {
	struct virtio_pci *vp;
	struct vz_error *e;
	int r;
};

static void start_on_loop(void *arg)
{
	struct start *start = arg;
	struct virtio_pci *vp = start->vp;
	struct vdev_host host = {
		.arg = vp,
		.interrupt = interrupt,
		.config_changed = config_changed,
		.shm_map = no_shm_map,
	};

	start->r = 0;
	for (unsigned i = 0; i < vp->nqueues; i++) {
		struct virtio_pci_queue *q = &vp->queues[i];

		q->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->doorbell < 0) {
			start->r = err_set(start->e, errno, NULL, "cannot create an eventfd: %s",
				strerror(errno));
			return;
		}
		q->watch =
			watch_new(vp->dev->loop, q->doorbell, EPOLLIN, doorbell_rang, q, start->e);
		if (!q->watch) {
			start->r = start->e ? start->e->code : -EIO;
			return;
		}
	}
	virtio_pci_regs_reset(vp);
	vp->generation_read = vp->dev->generation;
	vdev_set_host(vp->dev, &host);
}

static void stop_on_loop(void *arg)
{
	struct virtio_pci *vp = arg;

	vdev_reset(vp->dev);
	vdev_set_host(vp->dev, &(struct vdev_host){ 0 });
	for (unsigned i = 0; i < vp->nqueues; i++)
		watch_free(vp->queues[i].watch);
}

struct virtio_pci *virtio_pci_new(struct pci_bus *pci, struct vdev *dev,
	const struct virtio_pci_host *host, int slot, struct vz_error *e)
{
	struct virtio_pci *vp =
		calloc(1, sizeof(*vp) + dev->nqueues * sizeof(struct virtio_pci_queue));
	struct start start = { .vp = vp, .e = e };
	int r;

	if (!vp) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	assert(dev->nqueues <= VDEV_QUEUES_MAX);
	vp->dev = dev;
	vp->host = *host;
	vp->nqueues = dev->nqueues;
	for (unsigned i = 0; i < vp->nqueues; i++) {
		vp->queues[i].vp = vp;
		vp->queues[i].index = i;
		vp->queues[i].doorbell = -1;
	}
	r = describe(vp, e);
	if (!r)
		r = loop_call(dev->loop, start_on_loop, &start);
	if (!r)
		r = start.r;
	if (!r)
		r = pci_dev_add(pci, &vp->pci, slot, e);
	if (r) {
		virtio_pci_free(vp);
		return NULL;
	}
	return vp;
}

void virtio_pci_free(struct virtio_pci *vp)
{
	if (!vp)
		return;
	pci_dev_remove(&vp->pci);
	/* A loop that was stopped runs nothing any more, so this thread may. */
	if (loop_call(vp->dev->loop, stop_on_loop, vp) < 0)
		stop_on_loop(vp);
	for (unsigned i = 0; i < vp->nqueues; i++)
		if (vp->queues[i].doorbell >= 0)
			close(vp->queues[i].doorbell);
	msix_fini(&vp->pci);
	free(vp);
}

static void reset_on_loop(void *arg)
{
	struct virtio_pci *vp = arg;

	vdev_reset(vp->dev);
	virtio_pci_regs_reset(vp);
}

void virtio_pci_reset(struct virtio_pci *vp)
{
	if (loop_call(vp->dev->loop, reset_on_loop, vp) < 0)
		reset_on_loop(vp);
}

unsigned virtio_pci_slot(const struct virtio_pci *vp)
{
	return vp->pci.slot;
}

static int state_vector(struct state *s, struct virtio_pci *vp, const char *name,
	_Atomic uint16_t *field)
{
	uint16_t vector = *field;
	int r = state_u16(s, name, &vector);

	if (!r && vector != VIRTIO_NO_VECTOR && vector >= vp->pci.msix.vectors)
		r = state_reject(s, name, "there is no such vector");
	if (!r)
		*field = vector;
	return r;
}

int virtio_pci_state(struct virtio_pci *vp, struct state *s)
{
	uint32_t version;
	uint8_t isr = vp->isr;
	int r = state_enter(s, "virtio-pci", 1, &version);

	r = r ? r : state_u32(s, "device_feature_select", &vp->device_feature_select);
	r = r ? r : state_u32(s, "driver_feature_select", &vp->driver_feature_select);
	r = r ? r : state_u16(s, "queue_select", &vp->queue_select);
	r = r ? r : state_u8(s, "generation", &vp->generation);
	r = r ? r : state_u32(s, "generation_read", &vp->generation_read);
	r = r ? r : state_u8(s, "isr", &isr);
	r = r ? r : state_vector(s, vp, "config_vector", &vp->config_vector);
	for (unsigned i = 0; i < vp->nqueues && !r; i++)
		r = state_vector(s, vp, "vector", &vp->queues[i].vector);
	vp->isr = isr & (ISR_QUEUE | ISR_CONFIG);
	r = r ? r : pci_dev_state(&vp->pci, s);
	return r ? r : state_leave(s);
}
