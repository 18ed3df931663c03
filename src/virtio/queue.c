/* SPDX-License-Identifier: MIT */
/*
 * Virtqueues, device side: what both formats share. Vetting and mapping the areas (virtio 1.4
 * sections 2.7 and 2.8), the chain cursor, interrupts, and the saved state.
 */
#include "virtio/queue.h"

#include "base/arith.h"
#include "base/error.h"
#include "state/state.h"
#include "virtio/ring.h"
#include "virtio/vdev.h"

#include <stdio.h>
#include <stdlib.h>

/* --- chains -------------------------------------------------------------- */

/*
 * The caller counts descriptors, so that there is room. A segment of no bytes is left out: it says
 * nothing, and devices need not know of it.
 */
const char *chain_add(struct chain *c, const struct ring_desc *d)
{
	bool write = d->flags & DESC_F_WRITE;
	uint32_t *sum = write ? &c->write_len : &c->read_len;
	struct iovec *iov = &c->iov[c->nread + c->nwrite];
	uint32_t total;
	struct span s;

	if (!write && c->nwrite)
		return "a readable descriptor after a writable one";
	if (!d->len)
		return NULL;
	if (ckd_add(&total, c->read_len + c->write_len, d->len))
		return "a descriptor chain is 4 GiB or longer";
	if (!mem_span(c->vq->mem, d->addr, d->len, &s))
		return "a buffer is not in RAM";
	*sum += d->len;
	iov->iov_base = s.p;
	iov->iov_len = s.len;
	if (write)
		c->nwrite++;
	else
		c->nread++;
	return NULL;
}

size_t chain_left_read(const struct chain *c)
{
	return c->read_len - c->taken;
}

size_t chain_left_write(const struct chain *c)
{
	return c->write_len - c->written;
}

/*
 * Advance one side's cursor by len, copying from or to a buffer, or neither. Returns what there
 * was.
 */
static size_t advance(const struct iovec *iov, unsigned n, uint16_t *seg, uint32_t *off, void *to,
	const void *from, size_t len)
{
	size_t done = 0;

	while (done < len && *seg < n) {
		size_t part = MIN(len - done, iov[*seg].iov_len - *off);
		uint8_t *p = (uint8_t *)iov[*seg].iov_base + *off;

		if (to)
			memcpy((uint8_t *)to + done, p, part);
		else if (from)
			memcpy(p, (const uint8_t *)from + done, part);
		done += part;
		*off += (uint32_t)part;
		if (*off == iov[*seg].iov_len) {
			*off = 0;
			(*seg)++;
		}
	}
	return done;
}

size_t chain_read(struct chain *c, void *to, size_t len)
{
	size_t n = advance(c->iov, c->nread, &c->seg_read, &c->off_read, to, NULL, len);

	c->taken += (uint32_t)n;
	return n;
}

size_t chain_write(struct chain *c, const void *from, size_t len)
{
	size_t n = advance(c->iov + c->nread, c->nwrite, &c->seg_write, &c->off_write, NULL, from,
		len);

	c->written += (uint32_t)n;
	return n;
}

void chain_skip_read(struct chain *c, size_t len)
{
	c->taken +=
		(uint32_t)advance(c->iov, c->nread, &c->seg_read, &c->off_read, NULL, NULL, len);
}

void chain_skip_write(struct chain *c, size_t len)
{
	c->written += (uint32_t)advance(c->iov + c->nread, c->nwrite, &c->seg_write, &c->off_write,
		NULL, NULL, len);
}

static unsigned rest(const struct iovec *from, unsigned n, uint32_t off, struct iovec *iov,
	unsigned max, size_t *bytes)
{
	unsigned i;

	*bytes = 0;
	for (i = 0; i < n && i < max; i++, off = 0) {
		iov[i].iov_base = (uint8_t *)from[i].iov_base + off;
		iov[i].iov_len = from[i].iov_len - off;
		*bytes += iov[i].iov_len;
	}
	return i;
}

unsigned chain_iov_read(const struct chain *c, struct iovec *iov, unsigned max, size_t *bytes)
{
	return rest(c->iov + c->seg_read, c->nread - c->seg_read, c->off_read, iov, max, bytes);
}

unsigned chain_iov_write(const struct chain *c, struct iovec *iov, unsigned max, size_t *bytes)
{
	return rest(c->iov + c->nread + c->seg_write, c->nwrite - c->seg_write, c->off_write, iov,
		max, bytes);
}

/* --- taking and returning ------------------------------------------------ */

int vq_pop(struct virtqueue *vq, struct chain *c)
{
	int r;

	if (vq->broken)
		return -EPROTO;
	if (!vq->ring || !vq->dev->running)
		return 0;
	if (!vq->budget) {
		vdev_kick_again(vq);
		return 0;
	}
	*c = (struct chain){ .vq = vq };
	r = vq->packed ? packed_pop(vq, c) : split_pop(vq, c);
	if (r > 0) {
		ring_id_set(vq->ring, c->head, true);
		vq->in_flight++;
		vq->budget--;
	} else if (!r) {
		vq->budget = vq->size;
	}
	return r;
}

bool vq_empty(struct virtqueue *vq)
{
	if (vq->broken || !vq->ring || !vq->dev->running)
		return true;
	return vq->packed ? !packed_ready(vq) : !split_ready(vq);
}

void vq_notify_off(struct virtqueue *vq)
{
	if (vq->broken || !vq->ring)
		return;
	if (vq->packed)
		packed_disable_notify(vq);
	else
		split_disable_notify(vq);
}

/* Tell memory of the first bytes of the writable side. */
static void announce(const struct chain *c, uint32_t bytes)
{
	const struct mem_region *regions;
	unsigned n = mem_regions(c->vq->mem, &regions);

	for (unsigned i = c->nread; bytes && i < (unsigned)c->nread + c->nwrite; i++) {
		const uint8_t *p = c->iov[i].iov_base;
		uint32_t part = MIN(bytes, (uint32_t)c->iov[i].iov_len);
		const struct mem_region *r = regions;

		while (r < regions + n - 1 && (p < r->host || p >= r->host + r->size))
			r++;
		mem_written(c->vq->mem, r->gpa + (uint64_t)(p - r->host), part);
		bytes -= part;
	}
}

/* The chain leaves the device. False: the queue knows nothing of it (any more). */
static bool leave(struct chain *c)
{
	struct virtqueue *vq = c->vq;

	if (!vq->ring || c->head >= vq->ring->nids || !ring_id_used(vq->ring, c->head))
		return false;
	ring_id_set(vq->ring, c->head, false);
	vq->in_flight--;
	return true;
}

void chain_done_len(struct chain *c, uint32_t written)
{
	struct virtqueue *vq = c->vq;

	written = MIN(written, c->write_len);
	announce(c, MAX(written, c->written));
	if (!leave(c) || vq->broken)
		return;
	if (vq->packed)
		packed_use(vq, c, written);
	else
		split_use(vq, c, written);
}

void chain_done(struct chain *c)
{
	chain_done_len(c, c->written);
}

void chain_unpop(struct chain *c)
{
	struct virtqueue *vq = c->vq;

	announce(c, c->written);
	if (!leave(c) || vq->broken)
		return;
	vq->budget++;
	if (vq->packed)
		packed_unpop(vq, c);
	else
		vq->next_avail--;
}

void vq_notify(struct virtqueue *vq)
{
	bool wanted;

	if (!vq->used_pending || !vq->ring || vq->broken)
		return;
	wanted = vq->packed ? packed_wants_interrupt(vq) : split_wants_interrupt(vq);
	vq->used_pending = 0;
	if (wanted && vq->dev->host.interrupt)
		vq->dev->host.interrupt(vq->dev->host.arg, vq->index);
}

void vq_break(struct virtqueue *vq, const char *why)
{
	char text[160];

	if (!vq->broken)
		vq->broken = why;
	snprintf(text, sizeof(text), "queue %u: %s", vq->index, why);
	vdev_broken(vq->dev, text);
}

/* --- set-up -------------------------------------------------------------- */

static bool map(const struct virtqueue *vq, uint64_t gpa, uint64_t len, uint64_t align, uint8_t **p)
{
	struct span s;

	if (gpa % align || !mem_span(vq->mem, gpa, len, &s))
		return false;
	*p = s.p;
	return true;
}

static const char *map_areas(const struct virtqueue *vq, struct vq_ring *r)
{
	uint64_t event = vq->event_idx ? 2 : 0;
	uint64_t driver = vq->packed ? 4 : 4 + 2ull * vq->size + event;
	uint64_t device = vq->packed ? 4 : 4 + 8ull * vq->size + event;

	if (!map(vq, vq->desc, (uint64_t)vq->size * DESC_SIZE, DESC_SIZE, &r->desc))
		return "the descriptor area is misaligned or not in RAM";
	if (!map(vq, vq->driver, driver, vq->packed ? 4 : 2, &r->driver))
		return "the driver area is misaligned or not in RAM";
	if (!map(vq, vq->device, device, 4, &r->device))
		return "the device area is misaligned or not in RAM";
	return NULL;
}

int vq_enable(struct virtqueue *vq)
{
	/* A buffer id is any 16-bit number; a head is an index. */
	unsigned nids = vq->packed ? 1u << 16 : vq->size;
	struct vq_ring *r;

	if (!vq->size || vq->size > vq->size_max || (!vq->packed && !is_pow2(vq->size))) {
		vq->broken = "the queue size is wrong";
		return -EINVAL;
	}
	r = calloc(1, sizeof(*r) + (nids + 63) / 64 * sizeof(r->in_use[0]));
	if (!r) {
		vq->broken = "out of memory";
		return -ENOMEM;
	}
	r->nids = nids;
	vq->broken = map_areas(vq, r);
	if (vq->broken) {
		free(r);
		return -EINVAL;
	}
	r->avail_seen = vq->next_avail;
	vq->ring = r;
	vq->budget = vq->size;
	vq->enabled = true;
	return 0;
}

void vq_reset(struct virtqueue *vq)
{
	struct virtqueue fresh = {
		.dev = vq->dev,
		.mem = vq->mem,
		.index = vq->index,
		.size = vq->size_max,
		.size_max = vq->size_max,
		.avail_wrap = true,
		.used_wrap = true,
	};

	free(vq->ring);
	*vq = fresh;
}

/* With nothing in flight both positions are one, which is all there is to save. */
static int state_position(struct virtqueue *vq, struct state *s, bool enabled)
{
	uint16_t position = vq->next_avail;
	bool wrap = vq->avail_wrap;
	int r;

	state_u16(s, "position", &position);
	state_bool(s, "wrap", &wrap);
	r = state_u32(s, "used_pending", &vq->used_pending);
	/* A queue that is yet to be enabled starts from the beginning. */
	if (r || !state_loading(s) || !enabled)
		return r;
	if (vq->packed && position >= vq->size)
		return state_reject(s, "position", "it is outside the ring");
	vq->next_avail = vq->next_used = position;
	vq->avail_wrap = vq->used_wrap = wrap;
	return 0;
}

int vq_state(struct virtqueue *vq, struct state *s)
{
	bool enabled = vq->enabled, broken = vq->broken;
	uint32_t found;
	int r;

	state_enter(s, "queue", 1, &found);
	state_u16(s, "size", &vq->size);
	state_u64(s, "desc", &vq->desc);
	state_u64(s, "driver", &vq->driver);
	state_u64(s, "device", &vq->device);
	state_bool(s, "thawed", &vq->thawed);
	state_bool(s, "enabled", &enabled);
	state_bool(s, "broken", &broken);
	r = state_position(vq, s, enabled);
	if (r)
		return r;
	if (state_loading(s) && broken) {
		/* It waits for a reset: there is no ring to go on with. */
		vq->broken = "it was broken when the machine was saved";
		vq->enabled = enabled;
	} else if (state_loading(s) && enabled && vq_enable(vq)) {
		return state_reject(s, "enabled", vq->broken);
	}
	return state_leave(s);
}
