/* SPDX-License-Identifier: MIT */
/*
 * Virtqueues, device side: split (virtio 1.4 section 2.7) and packed (2.8) rings behind one
 * iterator.
 *
 * A descriptor chain is copied out of guest memory and vetted once, when it is popped; what a
 * device sees afterwards cannot be changed by the guest except for the bytes of the buffers
 * themselves. A ring that breaks a rule marks the queue broken (vq_broken); the device core then
 * sets DEVICE_NEEDS_RESET.
 */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include "memory/memory.h"
#include <sys/uio.h>

#define VQ_SIZE_MAX 1024 /* of a queue, and so of a chain: descriptors */

struct vdev;
struct state;

struct virtqueue {
	struct vdev *dev;
	struct memory *mem;
	unsigned index;

	/* Negotiated before enable, frozen after it. */
	uint16_t size, size_max;
	uint64_t desc, driver, device; /* guest-physical addresses of the three areas */
	bool enabled, packed, event_idx, in_order, indirect;

	const char *broken; /* why, or NULL */
	/* Ring positions. */
	uint16_t next_avail, next_used; /* split: free running; packed: ring offset */
	bool avail_wrap, used_wrap;     /* packed */
	uint16_t in_flight;             /* chains popped and not yet done */
	uint32_t used_pending;          /* ring slots used since the last vq_notify */
	uint16_t budget;      /* chains vq_pop gives before it is another's turn on the loop */
	bool again;           /* the budget is spent: the core kicks the queue by itself */
	bool thawed;          /* reset on its own (VIRTIO_F_RING_RESET): may be set up anew */
	struct vq_ring *ring; /* mapped areas and per-head bookkeeping while enabled */
};

/* A vetted chain. All readable (driver to device) segments come before all writable ones. */
struct chain {
	struct virtqueue *vq;
	uint16_t head;                /* split: head index; packed: buffer id */
	uint16_t ndesc;               /* ring slots it takes (packed) */
	uint16_t nread, nwrite;       /* segments of each kind */
	uint32_t read_len, write_len; /* bytes of each kind: sums fit, or the chain was refused */
	/* Cursor: the stream functions below advance it. */
	uint16_t seg_read, seg_write;
	uint32_t off_read, off_write, taken, written;
	/* nread readable, then nwrite writable segments; host addresses in RAM */
	struct iovec iov[];
};

/* Bytes to allocate for a chain of a queue of the given size. */
#define CHAIN_BYTES(size) (sizeof(struct chain) + (size_t)(size) * sizeof(struct iovec))

/*
 * Take the next available chain into *c, which has room for vq->size segments (CHAIN_BYTES).
 * 1: got one; 0: none available (the driver is asked to notify again: no need to recheck);
 * -EPROTO: the ring is broken. A chain that is malformed in itself breaks the queue too.
 * While a device works through a batch it calls vq_pop until 0; at most vq->size chains are in
 * flight. A guest that refills the ring meanwhile cannot keep the loop busy: after vq->size chains
 * the answer is 0, too, and the class is kicked again once others had their turn. A device that is
 * not running (see vdev.h) gets 0.
 */
int vq_pop(struct virtqueue *vq, struct chain *c);
bool vq_empty(struct virtqueue *vq); /* a peek; does not ask for notification */

/*
 * Suppress driver notifications while polling; vq_pop re-enables them by itself when it finds
 * nothing.
 */
void vq_notify_off(struct virtqueue *vq);

/* Stream copy; returns bytes copied, less than len at the end of that side of the chain. */
size_t chain_read(struct chain *c, void *to, size_t len);
size_t chain_write(struct chain *c, const void *from, size_t len);
size_t chain_left_read(const struct chain *c);
size_t chain_left_write(const struct chain *c);
/*
 * The rest of one side as host spans for readv/writev; returns the number of iovecs filled (at most
 * max) and their bytes in *bytes. Advance with chain_skip_*; skipping writable bytes counts them as
 * written.
 */
unsigned chain_iov_read(const struct chain *c, struct iovec *iov, unsigned max, size_t *bytes);
unsigned chain_iov_write(const struct chain *c, struct iovec *iov, unsigned max, size_t *bytes);
void chain_skip_read(struct chain *c, size_t len);
void chain_skip_write(struct chain *c, size_t len);

/*
 * Return the chain to the driver with c->written (or the given) bytes; announces the written
 * buffers to memory (mem_written). No interrupt yet: vq_notify raises at most one for everything
 * done since the last.
 */
void chain_done(struct chain *c);
void chain_done_len(struct chain *c, uint32_t written);
/* Give the chain back unused, as if it had not been popped (only the most recently popped one). */
void chain_unpop(struct chain *c);
void vq_notify(struct virtqueue *vq);

/*
 * For the core. Enable vets and maps the rings: 0, or -errno with the reason in vq->broken; the
 * caller tells the driver. It leaves the ring positions alone, which reset clears with all else.
 * Break marks the queue broken and the device in need of a reset. The state is that of a queue with
 * nothing in flight; loading fills in a queue that was just reset.
 */
int vq_enable(struct virtqueue *vq);
void vq_reset(struct virtqueue *vq);
void vq_break(struct virtqueue *vq, const char *why);
int vq_state(struct virtqueue *vq, struct state *s);

#endif
