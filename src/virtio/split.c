/* SPDX-License-Identifier: MIT */
/* The split virtqueue, device side: virtio 1.4 section 2.7. */
#include "base/error.h"
#include "virtio/ring.h"

/* Offsets in the available (driver) and the used (device) ring. */
#define RING_FLAGS           0u
#define RING_IDX             2u
#define AVAIL_ENTRY(i)       (4u + 2u * (i))
#define USED_EVENT(size)     AVAIL_ENTRY(size)
#define USED_ENTRY(i)        (4u + 8u * (i))
#define AVAIL_EVENT(size)    USED_ENTRY(size)

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

static void read_desc(struct ring_desc *d, const uint8_t *from)
{
	uint8_t bytes[DESC_SIZE];

	copy_once(bytes, from, sizeof(bytes));
	d->addr = le64_load(bytes);
	d->len = le32_load(bytes + 8);
	d->flags = le16_load(bytes + 12);
	d->other = le16_load(bytes + 14);
}

/* Look at the driver's index. Returns the number of chains to pop, or -EPROTO. */
static int look(struct virtqueue *vq)
{
	struct vq_ring *r = vq->ring;
	uint16_t n;

	r->avail_seen = load16(r->driver + RING_IDX, __ATOMIC_ACQUIRE);
	n = r->avail_seen - vq->next_avail;
	if (n > vq->size - vq->in_flight) {
		vq_break(vq, "the available index is ahead by more than the ring holds");
		return -EPROTO;
	}
	return n;
}

bool split_ready(struct virtqueue *vq)
{
	return vq->ring->avail_seen != vq->next_avail ||
	       load16(vq->ring->driver + RING_IDX, __ATOMIC_ACQUIRE) != vq->next_avail;
}

static void tell(struct virtqueue *vq, uint32_t offset, uint16_t v)
{
	struct vq_ring *r = vq->ring;

	if (r->told_valid && r->told == v)
		return;
	r->told_valid = true;
	r->told = v;
	store16(r->device + offset, v, __ATOMIC_RELAXED);
	mem_written(vq->mem, vq->device + offset, sizeof(v));
}

bool split_enable_notify(struct virtqueue *vq)
{
	if (vq->event_idx)
		tell(vq, AVAIL_EVENT(vq->size), vq->next_avail);
	else
		tell(vq, RING_FLAGS, 0);
	/* The driver stores its index, then loads what was just told (2.7.13.4.1). */
	full_barrier();
	return split_ready(vq);
}

void split_disable_notify(struct virtqueue *vq)
{
	/* With event index the driver is silent already: it was told an index and has passed it. */
	if (!vq->event_idx)
		tell(vq, RING_FLAGS, USED_F_NO_NOTIFY);
}

/* The descriptors of one table from index i on. *left: how many more the chain may have. */
static const char *walk(struct virtqueue *vq, struct chain *c, const uint8_t *table, unsigned count,
	unsigned i, bool indirect)
{
	unsigned left = vq->size - c->ndesc;
	struct ring_desc d;
	const char *why;

	for (;; i = d.other) {
		if (i >= count)
			return "a descriptor index is outside the table";
		if (!left--)
			return "a descriptor chain is longer than the queue, or a loop";
		read_desc(&d, table + (size_t)i * DESC_SIZE);
		if (d.flags & DESC_F_INDIRECT) {
			struct span s;

			if (!vq->indirect || indirect)
				return "an indirect descriptor where none is allowed";
			if (d.flags & DESC_F_NEXT)
				return "an indirect descriptor that has a next one";
			if (!d.len || d.len % DESC_SIZE || d.len / DESC_SIZE > vq->size)
				return "the length of an indirect table is wrong";
			if (!mem_span(vq->mem, d.addr, d.len, &s))
				return "an indirect table is not in RAM";
			return walk(vq, c, s.p, d.len / DESC_SIZE, 0, true);
		}
		c->ndesc++;
		why = chain_add(c, &d);
		if (why)
			return why;
		if (!(d.flags & DESC_F_NEXT))
			return NULL;
	}
}

int split_pop(struct virtqueue *vq, struct chain *c)
{
	struct vq_ring *r = vq->ring;
	const char *why;
	uint16_t head;
	int n = (uint16_t)(r->avail_seen - vq->next_avail);

	while (!n) {
		n = look(vq);
		if (n < 0)
			return n;
		if (!n && !split_enable_notify(vq))
			return 0;
	}
	head = load16(r->driver + AVAIL_ENTRY(vq->next_avail & (vq->size - 1)), __ATOMIC_RELAXED);
	if (head >= vq->size)
		why = "the head of a chain is outside the descriptor table";
	else if (ring_id_used(r, head))
		why = "the head of a chain is in flight already";
	else
		why = walk(vq, c, r->desc, vq->size, head, false);
	if (why) {
		vq_break(vq, why);
		return -EPROTO;
	}
	c->head = head;
	vq->next_avail++;
	return 1;
}

void split_use(struct virtqueue *vq, const struct chain *c, uint32_t len)
{
	struct vq_ring *r = vq->ring;
	unsigned at = USED_ENTRY(vq->next_used & (vq->size - 1u));

	le32_store(r->device + at, c->head);
	le32_store(r->device + at + 4, len);
	mem_written(vq->mem, vq->device + at, 8);
	vq->next_used++;
	store16(r->device + RING_IDX, vq->next_used, __ATOMIC_RELEASE);
	mem_written(vq->mem, vq->device + RING_IDX, 2);
	vq->used_pending++;
}

bool split_wants_interrupt(struct virtqueue *vq)
{
	const uint8_t *driver = vq->ring->driver;
	uint16_t event;

	/* The driver stores its wish, then loads the used index (2.7.7). */
	full_barrier();
	if (!vq->event_idx)
		return !(load16(driver + RING_FLAGS, __ATOMIC_RELAXED) & AVAIL_F_NO_INTERRUPT);
	event = load16(driver + USED_EVENT(vq->size), __ATOMIC_RELAXED);
	return (uint16_t)(vq->next_used - event - 1) < vq->used_pending;
}
