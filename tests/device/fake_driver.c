/* SPDX-License-Identifier: MIT */
/*
 * The guest driver of the device tests: memory, set-up, and posting and reaping for the split
 * (virtio 1.4 section 2.7) and the packed ring (2.8). Allocation failure ends the test program.
 */
#include "fake_driver.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>

#define PACKED_AVAIL (1u << 7)
#define PACKED_USED  (1u << 15)
#define EVENT_WRAP   (1u << 15)
#define ALLOC_START  0x10000
#define BUFS_MAX     VQ_SIZE_MAX

struct fake_token {
	bool busy;
	uint16_t slots; /* packed: ring slots; split: descriptors */
	uint32_t used_len;
	bool done;
	uint64_t room, room_size;   /* guest memory for the buffers, kept */
	uint64_t table, table_size; /* and for an indirect table */
	struct fake_buf *bufs;      /* to copy out, or NULL */
	unsigned nbufs;
};

static void die(const char *why)
{
	printf("Bail out! fake driver: %s\n", why);
	exit(1);
}

/* --- memory -------------------------------------------------------------- */

uint64_t fake_alloc(struct fake *f, uint64_t len, uint64_t align)
{
	uint64_t at = align_up(f->next_alloc, align);

	if (at + len > mem_size(f->mem))
		die("out of guest memory");
	f->next_alloc = at + len;
	memset(fake_ptr(f, at), 0, len);
	return at;
}

void *fake_ptr(struct fake *f, uint64_t gpa)
{
	struct span s;

	if (!mem_span(f->mem, gpa, 1, &s))
		die("not RAM");
	return s.p;
}

static uint16_t get16(struct fake *f, uint64_t gpa)
{
	return le16toh(__atomic_load_n((uint16_t *)fake_ptr(f, gpa), __ATOMIC_ACQUIRE));
}

static void put16(struct fake *f, uint64_t gpa, uint16_t v)
{
	__atomic_store_n((uint16_t *)fake_ptr(f, gpa), htole16(v), __ATOMIC_RELEASE);
}

static void put_desc(struct fake *f, uint64_t gpa, const struct fake_desc *d, uint16_t a,
	uint16_t b)
{
	uint8_t *p = fake_ptr(f, gpa);

	le64_store(p, d->addr);
	le32_store(p + 8, d->len);
	le16_store(p + 12, a);
	put16(f, gpa + 14, b);
}

/* --- life ---------------------------------------------------------------- */

static void count_interrupt(void *arg, unsigned queue)
{
	((struct fake *)arg)->q[queue].interrupts++;
}

static void count_change(void *arg)
{
	((struct fake *)arg)->config_changes++;
}

static int open_device(struct fake *f, const struct device_class *class, const char *const *options,
	struct vz_error *e)
{
	struct vdev_host host = {
		.arg = f, .interrupt = count_interrupt, .config_changed = count_change
	};
	int r;

	f->dev = vdev_new(class);
	if (!f->dev)
		return err_set(e, ENOMEM, NULL, "out of memory");
	for (; options && *options; options++) {
		char key[64];
		const char *value = strchr(*options, '=');

		snprintf(key, sizeof(key), "%.*s",
			(int)(value ? value - *options : (long)strlen(*options)), *options);
		r = vdev_option(f->dev, key, value ? value + 1 : NULL, e);
		if (r)
			return r;
	}
	r = vdev_open(f->dev, f->loop, f->mem, class->name, e);
	if (!r)
		vdev_set_host(f->dev, &host);
	return r;
}

struct fake *fake_new(const struct device_class *class, const char *const *options,
	struct vz_error *e)
{
	struct fake *f = calloc(1, sizeof(*f));

	if (!f)
		die("out of memory");
	f->next_alloc = ALLOC_START;
	f->mem = mem_new(FAKE_MEMORY, e);
	f->loop = f->mem ? loop_new(e) : NULL;
	if (!f->loop || open_device(f, class, options, e)) {
		fake_free(f);
		return NULL;
	}
	return f;
}

/* Guest memory stays allocated: a test may start the device any number of times. */
static void forget_queue(struct fake_queue *q)
{
	for (unsigned i = 0; i < q->room; i++) {
		q->tokens[i].busy = q->tokens[i].done = false;
		q->tokens[i].nbufs = 0;
	}
	q->size = 0;
	q->interrupts = q->completions = q->kicks = 0;
	q->indirect = false;
	q->avail = q->used = q->kicked = q->first_free = 0;
}

static void free_queue(struct fake_queue *q)
{
	for (unsigned i = 0; i < q->room; i++)
		free(q->tokens[i].bufs);
	free(q->tokens);
	free(q->free);
	free(q->next);
}

void fake_free(struct fake *f)
{
	if (!f)
		return;
	vdev_free(f->dev);
	loop_free(f->loop);
	mem_free(f->mem);
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
		free_queue(&f->q[i]);
	free(f);
}

void fake_reset(struct fake *f)
{
	vdev_status_set(f->dev, 0);
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
		forget_queue(&f->q[i]);
}

bool fake_negotiate(struct fake *f, uint64_t features)
{
	uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
	uint64_t offered;

	fake_reset(f);
	vdev_status_set(f->dev, VIRTIO_STATUS_ACKNOWLEDGE);
	vdev_status_set(f->dev, status);
	offered = vdev_features_get(f->dev, 0) | (uint64_t)vdev_features_get(f->dev, 1) << 32;
	features = (features | VIRTIO_BIT(VIRTIO_F_VERSION_1)) & offered;
	vdev_features_set(f->dev, 0, (uint32_t)features);
	vdev_features_set(f->dev, 1, (uint32_t)(features >> 32));
	vdev_status_set(f->dev, status | VIRTIO_STATUS_FEATURES_OK);
	return f->dev->status & VIRTIO_STATUS_FEATURES_OK;
}

void fake_evil_queue(struct fake *f, unsigned queue, uint16_t size, uint64_t desc, uint64_t driver,
	uint64_t device)
{
	uint64_t areas[] = { desc, driver, device };

	vdev_queue_size(f->dev, queue, size);
	for (unsigned i = 0; i < 3; i++) {
		vdev_queue_area(f->dev, queue, i, false, (uint32_t)areas[i]);
		vdev_queue_area(f->dev, queue, i, true, (uint32_t)(areas[i] >> 32));
	}
	vdev_queue_enable(f->dev, queue);
}

static void alloc_queue(struct fake *f, struct fake_queue *q, uint16_t size)
{
	if (q->room < size) {
		free_queue(q);
		q->room = size;
		q->areas = fake_alloc(f, 64 + 28ull * size, 16);
		q->free = calloc(size, sizeof(*q->free));
		q->next = calloc(size, sizeof(*q->next));
		q->tokens = calloc(size, sizeof(*q->tokens));
		if (!q->free || !q->next || !q->tokens)
			die("out of memory");
	}
	memset(fake_ptr(f, q->areas), 0, 64 + 28ull * q->room);
	q->desc = q->areas;
	q->driver = q->desc + 16ull * size;
	q->device = align_up(q->driver + 6 + 2ull * size, 4);
}

void fake_queue_setup(struct fake *f, unsigned queue, uint16_t size)
{
	struct fake_queue *q = &f->q[queue];
	uint16_t max = vdev_queue(f->dev, queue)->size_max;

	forget_queue(q);
	q->size = size && size <= max ? size : max;
	q->packed = vdev_has(f->dev, VIRTIO_F_RING_PACKED);
	q->event_idx = vdev_has(f->dev, VIRTIO_F_EVENT_IDX);
	alloc_queue(f, q, q->size);
	q->avail_wrap = q->used_wrap = q->kicked_wrap = true;
	/* Split: descriptor 0 is handed out first, as IN_ORDER wants it. */
	for (unsigned i = 0; i < q->size; i++)
		q->free[i] = (uint16_t)i;
	q->nfree = q->slots_free = q->size;
	fake_interrupt_after(f, queue, 1);
	fake_evil_queue(f, queue, q->size, q->desc, q->driver, q->device);
}

void fake_driver_ok(struct fake *f)
{
	vdev_status_set(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
					VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
}

bool fake_start(struct fake *f, uint64_t features, uint16_t size)
{
	if (!fake_negotiate(f, features))
		return false;
	for (unsigned i = 0; i < f->dev->nqueues; i++)
		fake_queue_setup(f, i, size);
	fake_driver_ok(f);
	return true;
}

/* --- posting ------------------------------------------------------------- */

/* Free numbers go round: taken at the front, returned at the back. */
static uint16_t take(struct fake_queue *q)
{
	uint16_t id = q->free[q->first_free];

	q->first_free = (uint16_t)((q->first_free + 1) % q->size);
	q->nfree--;
	return id;
}

static void give(struct fake_queue *q, uint16_t id)
{
	q->free[(q->first_free + q->nfree++) % q->size] = id;
}

static uint64_t grow(struct fake *f, uint64_t *gpa, uint64_t *size, uint64_t want)
{
	if (*size < want) {
		*gpa = fake_alloc(f, want, 16);
		*size = want;
	}
	return *gpa;
}

static struct fake_desc put_table(struct fake *f, struct fake_token *t,
	const struct fake_desc *descs, unsigned n)
{
	uint64_t at = grow(f, &t->table, &t->table_size, 16ull * n);
	bool packed = vdev_has(f->dev, VIRTIO_F_RING_PACKED);

	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = descs[i].flags & FAKE_F_WRITE;

		if (packed)
			put_desc(f, at + 16 * i, &descs[i], 0, flags);
		else
			put_desc(f, at + 16 * i, &descs[i], flags | (i + 1 < n ? FAKE_F_NEXT : 0),
				(uint16_t)(i + 1));
	}
	return (struct fake_desc){ at, 16 * n, FAKE_F_INDIRECT, 0 };
}

/* ids: the descriptors to use; the first is the head. */
static void post_split(struct fake *f, struct fake_queue *q, const uint16_t *ids,
	const struct fake_desc *descs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		bool last = i + 1 == n;

		q->next[ids[i]] = last ? 0 : ids[i + 1];
		put_desc(f, q->desc + 16 * ids[i], &descs[i],
			(descs[i].flags & ~FAKE_F_NEXT) | (last ? 0 : FAKE_F_NEXT),
			q->next[ids[i]]);
	}
	put16(f, q->driver + 4 + 2 * (q->avail % q->size), ids[0]);
	put16(f, q->driver + 2, ++q->avail);
}

static uint16_t packed_bits(bool wrap)
{
	return wrap ? PACKED_AVAIL : PACKED_USED;
}

/* as_given: NEXT is taken from the descriptors. */
static void post_packed(struct fake *f, struct fake_queue *q, uint16_t id,
	const struct fake_desc *descs, unsigned n, bool as_given)
{
	uint64_t first = q->desc + 16 * q->avail;
	uint16_t first_flags = 0;

	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = descs[i].flags | packed_bits(q->avail_wrap);
		uint64_t at = q->desc + 16 * q->avail;

		if (!as_given)
			flags = (flags & ~FAKE_F_NEXT) | (i + 1 < n ? FAKE_F_NEXT : 0);
		/* The first one becomes available when all are there. */
		put_desc(f, at, &descs[i], id, i ? flags : flags ^ (PACKED_AVAIL | PACKED_USED));
		if (!i)
			first_flags = flags;
		if (++q->avail == q->size) {
			q->avail = 0;
			q->avail_wrap = !q->avail_wrap;
		}
	}
	put16(f, first + 14, first_flags);
}

/* The head or id for a chain of n ring slots with all of its descriptors, or -ENOSPC. */
static int reserve(struct fake_queue *q, uint16_t *ids, unsigned n)
{
	if (q->packed ? n > q->slots_free || !q->nfree : n > q->nfree)
		return -ENOSPC;
	if (q->packed) {
		q->slots_free -= n;
		ids[0] = take(q);
	} else {
		for (unsigned i = 0; i < n; i++)
			ids[i] = take(q);
	}
	q->tokens[ids[0]].busy = true;
	q->tokens[ids[0]].done = false;
	q->tokens[ids[0]].slots = (uint16_t)n;
	return ids[0];
}

static void expose(struct fake *f, struct fake_queue *q, const uint16_t *ids,
	const struct fake_desc *descs, unsigned n, bool indirect)
{
	struct fake_desc table;

	if (indirect) {
		table = put_table(f, &q->tokens[ids[0]], descs, n);
		descs = &table;
		n = 1;
	}
	if (q->packed)
		post_packed(f, q, ids[0], descs, n, false);
	else
		post_split(f, q, ids, descs, n);
}

int fake_post_gpa(struct fake *f, unsigned queue, const struct fake_desc *descs, unsigned n)
{
	struct fake_queue *q = &f->q[queue];
	bool indirect = q->indirect && n > 1;
	uint16_t ids[BUFS_MAX];
	struct fake_desc clean[BUFS_MAX];
	int token;

	if (n > BUFS_MAX)
		return -ENOSPC;
	token = reserve(q, ids, indirect ? 1 : n);
	if (token < 0)
		return token;
	for (unsigned i = 0; i < n; i++) {
		clean[i] = descs[i];
		clean[i].flags &= FAKE_F_WRITE;
	}
	q->tokens[token].nbufs = 0;
	expose(f, q, ids, clean, n, indirect);
	return token;
}

int fake_post(struct fake *f, unsigned queue, const struct fake_buf *bufs, unsigned n)
{
	struct fake_queue *q = &f->q[queue];
	bool indirect = q->indirect && n > 1;
	struct fake_desc descs[BUFS_MAX];
	uint16_t ids[BUFS_MAX];
	uint64_t at = 0, total = 0;
	struct fake_token *t;
	int token;

	if (n > BUFS_MAX)
		return -ENOSPC;
	token = reserve(q, ids, indirect ? 1 : n);
	if (token < 0)
		return token;
	t = &q->tokens[token];
	for (unsigned i = 0; i < n; i++)
		total += bufs[i].len;
	if (total)
		at = grow(f, &t->room, &t->room_size, total);
	for (unsigned i = 0; i < n; i++) {
		descs[i] =
			(struct fake_desc){ at, bufs[i].len, bufs[i].write ? FAKE_F_WRITE : 0, 0 };
		if (bufs[i].len && bufs[i].write)
			memset(fake_ptr(f, at), 0, bufs[i].len);
		else if (bufs[i].len)
			memcpy(fake_ptr(f, at), bufs[i].ptr, bufs[i].len);
		at += bufs[i].len;
	}
	free(t->bufs);
	t->bufs = malloc(MAX(n, 1u) * sizeof(*bufs));
	if (!t->bufs)
		die("out of memory");
	memcpy(t->bufs, bufs, n * sizeof(*bufs));
	t->nbufs = n;
	expose(f, q, ids, descs, n, indirect);
	return token;
}

/* --- notifying ----------------------------------------------------------- */

void fake_kick_always(struct fake *f, unsigned queue)
{
	f->q[queue].kicks++;
	vdev_kick(f->dev, queue);
	loop_dispatch(f->loop, 0);
}

/* Was something made available that the device wants to be told of? Asks for all since the last. */
bool fake_kick_wanted(struct fake *f, unsigned queue)
{
	struct fake_queue *q = &f->q[queue];
	uint16_t event, flags, pending;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->packed) {
		pending = q->avail - q->kicked;
		q->kicked = q->avail;
		if (!q->event_idx)
			return !(get16(f, q->device) & 1);
		event = get16(f, q->device + 4 + 8ull * q->size);
		return (uint16_t)(q->avail - event - 1) < pending;
	}
	pending =
		(uint16_t)(q->avail - q->kicked + (q->avail_wrap == q->kicked_wrap ? 0 : q->size));
	q->kicked = q->avail;
	q->kicked_wrap = q->avail_wrap;
	flags = get16(f, q->device + 2) & 3;
	event = get16(f, q->device);
	if (flags == 2) {
		int at = (event & ~EVENT_WRAP) -
			 (!!(event & EVENT_WRAP) == q->avail_wrap ? 0 : q->size);

		return at < q->avail && q->avail - at - 1 < pending;
	}
	return flags != 1;
}

void fake_kick(struct fake *f, unsigned queue)
{
	if (fake_kick_wanted(f, queue))
		fake_kick_always(f, queue);
	else
		loop_dispatch(f->loop, 0);
}

void fake_spin(struct fake *f, int ms)
{
	uint64_t end = clock_ns() + (uint64_t)ms * 1000000u;

	do
		loop_dispatch(f->loop, 1);
	while (clock_ns() < end);
}

void fake_interrupt_after(struct fake *f, unsigned queue, uint16_t n)
{
	struct fake_queue *q = &f->q[queue];

	q->interrupt_after = n;
	if (q->packed && n > 1) {
		unsigned at = q->used + n - 1u;
		bool wrap = at < q->size ? q->used_wrap : !q->used_wrap;

		put16(f, q->driver, (uint16_t)((at % q->size) | (wrap ? EVENT_WRAP : 0)));
		put16(f, q->driver + 2, 2);
	} else if (q->packed) {
		put16(f, q->driver + 2, n ? 0 : 1);
	} else if (q->event_idx) {
		/* Never: an index that is as far away as can be. */
		put16(f, q->driver + 4 + 2ull * q->size, (uint16_t)(q->used + n - 1));
	} else {
		put16(f, q->driver, n ? 0 : 1);
	}
}

/* --- reaping ------------------------------------------------------------- */

static void finish(struct fake *f, struct fake_queue *q, unsigned id, uint32_t len)
{
	struct fake_token *t = id < q->size ? &q->tokens[id] : NULL;
	uint64_t at;

	if (!t || !t->busy)
		die("the device returned a chain that it does not have");
	t->busy = false;
	t->done = true;
	t->used_len = len;
	at = t->room;
	for (unsigned i = 0; i < t->nbufs; i++) {
		if (t->bufs[i].write && t->bufs[i].len)
			memcpy(t->bufs[i].ptr, fake_ptr(f, at), t->bufs[i].len);
		at += t->bufs[i].len;
	}
	q->completions++;
	if (q->packed) {
		give(q, (uint16_t)id);
		q->slots_free += t->slots;
		return;
	}
	for (unsigned i = 0; i < t->slots; i++) {
		give(q, (uint16_t)id);
		id = q->next[id];
	}
}

static bool reap_split(struct fake *f, struct fake_queue *q)
{
	uint64_t at = q->device + 4 + 8ull * (q->used % q->size);
	const uint8_t *p;

	if (get16(f, q->device + 2) == q->used)
		return false;
	p = fake_ptr(f, at);
	q->used++;
	finish(f, q, le32_load(p), le32_load(p + 4));
	return true;
}

static bool reap_packed(struct fake *f, struct fake_queue *q)
{
	uint64_t at = q->desc + 16ull * q->used;
	uint16_t flags = get16(f, at + 14);
	const uint8_t *p = fake_ptr(f, at);
	unsigned id, slots;

	if (!!(flags & PACKED_AVAIL) != q->used_wrap || !!(flags & PACKED_USED) != q->used_wrap)
		return false;
	id = le16_load(p + 12);
	slots = id < q->size ? q->tokens[id].slots : 1;
	q->used += slots;
	if (q->used >= q->size) {
		q->used -= q->size;
		q->used_wrap = !q->used_wrap;
	}
	finish(f, q, id, flags & FAKE_F_WRITE ? le32_load(p + 8) : 0);
	return true;
}

unsigned fake_reap(struct fake *f, unsigned queue)
{
	struct fake_queue *q = &f->q[queue];
	unsigned n = 0;

	if (!q->size)
		return 0;
	while (q->packed ? reap_packed(f, q) : reap_split(f, q))
		n++;
	/* Interrupts for every chain: the event index follows. */
	if (n && !q->packed && q->event_idx && q->interrupt_after <= 1)
		fake_interrupt_after(f, queue, (uint16_t)q->interrupt_after);
	return n;
}

bool fake_done(struct fake *f, unsigned queue, int token)
{
	fake_reap(f, queue);
	return token >= 0 && f->q[queue].size && f->q[queue].tokens[token].done;
}

int64_t fake_wait(struct fake *f, unsigned queue, int token)
{
	uint64_t end = clock_ns() + FAKE_TIMEOUT * 1000000ull;

	if (token < 0)
		return token;

	while (!fake_done(f, queue, token)) {
		if (clock_ns() > end)
			return -ETIMEDOUT;
		loop_dispatch(f->loop, 10);
	}
	return f->q[queue].tokens[token].used_len;
}

int64_t fake_request(struct fake *f, unsigned queue, const struct fake_buf *bufs, unsigned n)
{
	int token = fake_post(f, queue, bufs, n);

	if (token < 0)
		return token;
	fake_kick(f, queue);
	return fake_wait(f, queue, token);
}

/* --- the rest ------------------------------------------------------------ */

uint64_t fake_config(struct fake *f, uint64_t offset, unsigned len)
{
	return vdev_config_read(f->dev, offset, len);
}

bool fake_needs_reset(const struct fake *f)
{
	return f->dev->status & VIRTIO_STATUS_NEEDS_RESET;
}

int fake_save_restore(struct fake *f, const char *const *options, struct vz_error *e)
{
	const struct device_class *class = f->dev->class;
	struct state *save = state_save_new(), *load = NULL;
	const void *bytes;
	size_t len;
	int r;

	if (!save)
		die("out of memory");
	vdev_state(f->dev, save);
	r = state_error(save, e);
	if (!r) {
		vdev_free(f->dev);
		r = open_device(f, class, options, e);
	}
	bytes = state_bytes(save, &len);
	if (!r && !(load = state_load_new(bytes, len)))
		die("out of memory");
	if (!r) {
		vdev_state(f->dev, load);
		r = state_error(load, e);
	}
	if (!r)
		vdev_resume(f->dev);
	state_free(load);
	state_free(save);
	return r;
}

void fake_evil_chain(struct fake *f, unsigned queue, const struct fake_desc *descs, unsigned n)
{
	struct fake_queue *q = &f->q[queue];

	if (q->packed) {
		post_packed(f, q, descs[n - 1].next, descs, n, true);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		put_desc(f, q->desc + 16ull * i, &descs[i], descs[i].flags, descs[i].next);
	fake_evil_head(f, queue, 0);
}

void fake_evil_head(struct fake *f, unsigned queue, uint16_t head)
{
	struct fake_queue *q = &f->q[queue];

	put16(f, q->driver + 4 + 2ull * (q->avail % q->size), head);
	fake_evil_jump(f, queue, 1);
}

void fake_evil_jump(struct fake *f, unsigned queue, uint16_t n)
{
	struct fake_queue *q = &f->q[queue];

	q->avail += n;
	put16(f, q->driver + 2, q->avail);
}

uint64_t fake_table(struct fake *f, const struct fake_desc *descs, unsigned n)
{
	uint64_t at = fake_alloc(f, MAX(16ull * n, 16ull), 16);
	bool packed = vdev_has(f->dev, VIRTIO_F_RING_PACKED);

	for (unsigned i = 0; i < n; i++)
		put_desc(f, at + 16ull * i, &descs[i], packed ? descs[i].next : descs[i].flags,
			packed ? descs[i].flags : descs[i].next);
	return at;
}
