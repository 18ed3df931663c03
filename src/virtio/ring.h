/* SPDX-License-Identifier: MIT */
/*
 * Inside src/virtio only: what the split and the packed ring have in common. Both descriptor
 * formats are 16 bytes with the same address and length; the other two fields are swapped.
 *
 * The driver may change guest memory at any time, on another CPU. Ring memory is therefore read
 * only by copy_once and load16, each field once.
 */
#ifndef VIRTIO_RING_H
#define VIRTIO_RING_H

#include "base/le.h"
#include "virtio/queue.h"

#define DESC_SIZE       16u
#define DESC_F_NEXT     1
#define DESC_F_WRITE    2
#define DESC_F_INDIRECT 4

/* A descriptor in host byte order. other: split: next, packed: buffer id. */
struct ring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, other;
};

struct vq_ring {
	uint8_t *desc, *driver, *device;
	uint16_t avail_seen; /* split: the driver's index when last looked at */
	/* What the driver was last told about notifications, or told_valid false: not known. */
	bool told_valid;
	uint32_t told;
	unsigned nids;     /* heads or buffer ids there can be */
	uint64_t in_use[]; /* bit per id: the chain is in flight */
};

static inline bool ring_id_used(const struct vq_ring *r, unsigned id)
{
	return r->in_use[id / 64] >> (id % 64) & 1;
}

static inline void ring_id_set(struct vq_ring *r, unsigned id, bool used)
{
	uint64_t bit = 1ull << (id % 64);

	r->in_use[id / 64] = used ? r->in_use[id / 64] | bit : r->in_use[id / 64] & ~bit;
}

/* The compiler must not look at from again afterwards. */
static inline void copy_once(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
	__asm__ volatile("" ::: "memory");
}

static inline uint16_t load16(const uint8_t *p, int order)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, order));
}

static inline void store16(uint8_t *p, uint16_t v, int order)
{
	__atomic_store_n((uint16_t *)p, htole16(v), order);
}

/* Between our store and our load of what the driver stores before it loads ours. */
static inline void full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Adds a segment to the chain being built; NULL, or what is wrong with it. */
const char *chain_add(struct chain *c, const struct ring_desc *d);

/*
 * The two formats. pop: as vq_pop, without its checks of the queue's condition; the queue is broken
 * on -EPROTO. ready: is a chain available; enable_notify: ask the driver to notify, and look again.
 */
int split_pop(struct virtqueue *vq, struct chain *c);
bool split_ready(struct virtqueue *vq);
bool split_enable_notify(struct virtqueue *vq);
void split_disable_notify(struct virtqueue *vq);
void split_use(struct virtqueue *vq, const struct chain *c, uint32_t len);
bool split_wants_interrupt(struct virtqueue *vq);

int packed_pop(struct virtqueue *vq, struct chain *c);
bool packed_ready(struct virtqueue *vq);
bool packed_enable_notify(struct virtqueue *vq);
void packed_disable_notify(struct virtqueue *vq);
void packed_use(struct virtqueue *vq, const struct chain *c, uint32_t len);
bool packed_wants_interrupt(struct virtqueue *vq);
void packed_unpop(struct virtqueue *vq, const struct chain *c);

#endif
