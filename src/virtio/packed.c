/* SPDX-License-Identifier: MIT */
/* The packed virtqueue, device side: virtio 1.4 section 2.8. */
#include "base/error.h"
#include "virtio/ring.h"

/* Offsets in a descriptor and in an event suppression structure (2.8.14). */
#define DESC_LEN       8u
#define DESC_ID        12u
#define DESC_FLAGS     14u
#define EVENT_OFF_WRAP 0u
#define EVENT_FLAGS    2u

#define DESC_F_AVAIL   (1u << 7)
#define DESC_F_USED    (1u << 15)

#define EVENTS_ENABLE  0u
#define EVENTS_DISABLE 1u
#define EVENTS_DESC    2u
#define EVENTS_MASK    3u
#define EVENT_WRAP     (1u << 15)

static void read_desc(struct ring_desc *d, const uint8_t *from)
{
	uint8_t bytes[DESC_SIZE];

	copy_once(bytes, from, sizeof(bytes));
	d->addr = le64_load(bytes);
	d->len = le32_load(bytes + DESC_LEN);
	d->other = le16_load(bytes + DESC_ID);
	d->flags = le16_load(bytes + DESC_FLAGS);
}

/* Slots between the next one to use and the next one to pop. */
static unsigned slots_in_flight(const struct virtqueue *vq)
{
	return vq->next_avail - vq->next_used + (vq->avail_wrap == vq->used_wrap ? 0 : vq->size);
}

static void advance(const struct virtqueue *vq, uint16_t *at, bool *wrap, unsigned n)
{
	unsigned to = *at + n;

	if (to >= vq->size) {
		to -= vq->size;
		*wrap = !*wrap;
	}
	*at = (uint16_t)to;
}

bool packed_ready(struct virtqueue *vq)
{
	uint16_t flags = load16(vq->ring->desc + (size_t)vq->next_avail * DESC_SIZE + DESC_FLAGS,
		__ATOMIC_ACQUIRE);

	return !!(flags & DESC_F_AVAIL) == vq->avail_wrap &&
	       !!(flags & DESC_F_USED) != vq->avail_wrap;
}

static void tell(struct virtqueue *vq, uint16_t off_wrap, uint16_t flags)
{
	struct vq_ring *r = vq->ring;
	uint32_t v = (uint32_t)flags << 16 | off_wrap;

	if (r->told_valid && r->told == v)
		return;
	r->told_valid = true;
	r->told = v;
	store16(r->device + EVENT_OFF_WRAP, off_wrap, __ATOMIC_RELAXED);
	/* The driver looks at the offset when the flags say so. */
	store16(r->device + EVENT_FLAGS, flags, __ATOMIC_RELEASE);
	mem_written(vq->mem, vq->device, 4);
}

bool packed_enable_notify(struct virtqueue *vq)
{
	if (vq->event_idx)
		tell(vq, vq->next_avail | (vq->avail_wrap ? EVENT_WRAP : 0), EVENTS_DESC);
	else
		tell(vq, 0, EVENTS_ENABLE);
	/* The driver stores its descriptor, then loads what was just told. */
	full_barrier();
	return packed_ready(vq);
}

void packed_disable_notify(struct virtqueue *vq)
{
	tell(vq, 0, EVENTS_DISABLE);
}

/* The flags of table entries other than WRITE are reserved, and ignored (2.8.7). */
static const char *walk_table(struct virtqueue *vq, struct chain *c, const struct ring_desc *table)
{
	struct ring_desc d;
	struct span s;

	if (!table->len || table->len % DESC_SIZE || table->len / DESC_SIZE > vq->size)
		return "the length of an indirect table is wrong";
	if (!mem_span(vq->mem, table->addr, table->len, &s))
		return "an indirect table is not in RAM";
	for (size_t at = 0; at < s.len; at += DESC_SIZE) {
		const char *why;

		read_desc(&d, s.p + at);
		why = chain_add(c, &d);
		if (why)
			return why;
	}
	return NULL;
}

static const char *walk(struct virtqueue *vq, struct chain *c)
{
	unsigned room = vq->size - slots_in_flight(vq), at = vq->next_avail;
	struct ring_desc d;
	const char *why;

	do {
		if (c->ndesc == room)
			return "a descriptor chain runs into slots in flight";
		read_desc(&d, vq->ring->desc + (size_t)at * DESC_SIZE);
		at = at + 1 == vq->size ? 0 : at + 1;
		c->ndesc++;
		if (d.flags & DESC_F_INDIRECT) {
			if (!vq->indirect)
				return "an indirect descriptor where none is allowed";
			if (c->ndesc > 1 || d.flags & DESC_F_NEXT)
				return "an indirect descriptor among others";
			why = walk_table(vq, c, &d);
		} else {
			why = chain_add(c, &d);
		}
		if (why)
			return why;
	} while (d.flags & DESC_F_NEXT);
	c->head = d.other;
	return ring_id_used(vq->ring, c->head) ? "a buffer id is in flight already" : NULL;
}

int packed_pop(struct virtqueue *vq, struct chain *c)
{
	const char *why;

	if (!packed_ready(vq) && !packed_enable_notify(vq))
		return 0;
	why = walk(vq, c);
	if (why) {
		vq_break(vq, why);
		return -EPROTO;
	}
	advance(vq, &vq->next_avail, &vq->avail_wrap, c->ndesc);
	return 1;
}

void packed_unpop(struct virtqueue *vq, const struct chain *c)
{
	if (vq->next_avail < c->ndesc)
		vq->avail_wrap = !vq->avail_wrap;
	vq->next_avail = vq->next_avail < c->ndesc ? vq->next_avail + vq->size - c->ndesc
						   : vq->next_avail - c->ndesc;
}

void packed_use(struct virtqueue *vq, const struct chain *c, uint32_t len)
{
	unsigned at = vq->next_used * DESC_SIZE;
	uint8_t *p = vq->ring->desc + at;

	le16_store(p + DESC_ID, c->head);
	le32_store(p + DESC_LEN, len);
	store16(p + DESC_FLAGS,
		(vq->used_wrap ? DESC_F_AVAIL | DESC_F_USED : 0) | (len ? DESC_F_WRITE : 0),
		__ATOMIC_RELEASE);
	mem_written(vq->mem, vq->desc + at, DESC_SIZE);
	advance(vq, &vq->next_used, &vq->used_wrap, c->ndesc);
	vq->used_pending += c->ndesc;
}

bool packed_wants_interrupt(struct virtqueue *vq)
{
	const uint8_t *driver = vq->ring->driver;
	uint16_t flags, off_wrap;
	int64_t event;

	/* The driver stores its wish, then loads the descriptor. */
	full_barrier();
	flags = load16(driver + EVENT_FLAGS, __ATOMIC_ACQUIRE) & EVENTS_MASK;
	if (flags != EVENTS_DESC || !vq->event_idx)
		return flags != EVENTS_DISABLE;
	off_wrap = load16(driver + EVENT_OFF_WRAP, __ATOMIC_RELAXED);
	/* The slot asked for, in the lap of next_used or in the one before. */
	event = off_wrap & ~EVENT_WRAP;
	if (!!(off_wrap & EVENT_WRAP) != vq->used_wrap)
		event -= vq->size;
	return event < vq->next_used && vq->next_used - event - 1 < vq->used_pending;
}
