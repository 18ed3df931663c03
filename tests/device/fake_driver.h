/* SPDX-License-Identifier: MIT */
/*
 * A guest driver in the test's own process, for split and packed rings: it makes guest memory, a
 * loop and one device, negotiates, posts chains and reaps them. Everything runs on the caller's
 * thread: the device works inside fake_kick, fake_wait and fake_spin.
 *
 *	static const char *const options[] = { "path=disk.img", NULL };
 *	struct fake *f = fake_new(&virtio_blk, options, NULL);
 *	char head[16] = ..., sector[512], status;
 *	struct fake_buf bufs[] = { FAKE_OUT(head, 16), FAKE_IN(sector, 512), FAKE_IN(&status, 1) };
 *
 *	fake_start(f, FAKE_ALL, 0);
 *	used = fake_request(f, 0, bufs, 3);
 *	fake_free(f);
 */
#ifndef TESTS_FAKE_DRIVER_H
#define TESTS_FAKE_DRIVER_H

#include "virtio/vdev.h"
#include <errno.h>

#define FAKE_MEMORY  (64ull << 20)
#define FAKE_TIMEOUT 5000 /* ms that fake_wait waits */

/*
 * Features to ask for; VERSION_1 is implied, and bits that the device does not offer are left out.
 */
#define FAKE_ALL    (~(uint64_t)0 & ~VIRTIO_BIT(VIRTIO_F_RING_PACKED)) /* split */
#define FAKE_PACKED (~(uint64_t)0)
#define FAKE_NONE   ((uint64_t)0)

/* Descriptor flags of both formats. */
#define FAKE_F_NEXT     1
#define FAKE_F_WRITE    2
#define FAKE_F_INDIRECT 4

/* A buffer of a chain: the driver's bytes, or room for the device's. */
struct fake_buf {
	void *ptr;
	uint32_t len;
	bool write; /* the device writes it */
};
#define FAKE_OUT(ptr, len) ((struct fake_buf){ (void *)(ptr), (len), false })
#define FAKE_IN(ptr, len)  ((struct fake_buf){ (ptr), (len), true })

/* The same by guest address, without copies; also as it lies in a descriptor, for evil. */
struct fake_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct fake_token; /* a chain in flight */

struct fake_queue {
	unsigned interrupts;  /* counted since fake_start */
	unsigned completions; /* chains reaped */
	unsigned kicks;       /* sent; suppressed ones are not counted */
	uint16_t size;
	bool packed, event_idx;
	bool indirect; /* use an indirect table for chains of 2 and more; default: off */
	uint64_t desc, driver, device; /* guest addresses of the areas */
	uint16_t avail, used;          /* split: free running; packed: slot */
	bool avail_wrap, used_wrap;
	uint16_t kicked; /* avail when fake_kick last looked */
	uint16_t room, first_free;
	uint64_t areas;
	bool kicked_wrap;
	uint32_t interrupt_after;  /* see fake_interrupt_after */
	uint16_t nfree, *free;     /* descriptors (split) or ids (packed) */
	uint16_t slots_free;       /* packed */
	uint16_t *next;            /* split: of each descriptor */
	struct fake_token *tokens; /* by head or id */
};

struct fake {
	struct memory *mem;
	struct loop *loop;
	struct vdev *dev;
	unsigned config_changes; /* counted since fake_new */
	uint64_t next_alloc;
	struct fake_queue q[VDEV_QUEUES_MAX];
};

/*
 * Memory, loop and an opened device; options is a NULL-terminated list of "key=value" or "key", or
 * NULL. NULL with *e set on failure (of an option, or of open).
 */
struct fake *fake_new(const struct device_class *class, const char *const *options,
	struct vz_error *e);
void fake_free(struct fake *f); /* NULL is fine */

/*
 * Reset the device, negotiate, set up every queue with the given size (0, or too large: the
 * device's own), DRIVER_OK. False when the device did not take the features. The pieces are below.
 */
bool fake_start(struct fake *f, uint64_t features, uint16_t size);
bool fake_negotiate(struct fake *f, uint64_t features); /* reset .. FEATURES_OK */
void fake_queue_setup(struct fake *f, unsigned queue, uint16_t size);
void fake_driver_ok(struct fake *f);
void fake_reset(struct fake *f); /* status 0; what was in flight is forgotten */

/*
 * Post a chain: readable buffers are copied into guest memory now, writable ones out of it when the
 * chain is reaped (so they must live until then). No kick. Returns a token >= 0, or -ENOSPC.
 */
int fake_post(struct fake *f, unsigned queue, const struct fake_buf *bufs, unsigned n);
/* The same with guest addresses; only FAKE_F_WRITE of the flags is looked at. */
int fake_post_gpa(struct fake *f, unsigned queue, const struct fake_desc *descs, unsigned n);
/* Notify, unless the device asked not to; and let the device work. */
void fake_kick(struct fake *f, unsigned queue);
/* The first half of fake_kick, for a driver with its own way to notify. */
bool fake_kick_wanted(struct fake *f, unsigned queue);
void fake_kick_always(struct fake *f, unsigned queue); /* notify in any case; then the same */
/* Run the loop for ms. */
void fake_spin(struct fake *f, int ms);
/* Take what the device has returned; number of chains. */
unsigned fake_reap(struct fake *f, unsigned queue);
/* Run the loop until the chain is back: its used length, or -ETIMEDOUT. */
int64_t fake_wait(struct fake *f, unsigned queue, int token);
bool fake_done(struct fake *f, unsigned queue, int token); /* without waiting; reaps */
/* post, kick, wait; the used length or -errno. */
int64_t fake_request(struct fake *f, unsigned queue, const struct fake_buf *bufs, unsigned n);
/*
 * From now on ask for an interrupt when n more chains are returned (with event index; n > 1 needs
 * it; packed: n slots), 1: for every one (the default), 0: never. n > 1 holds once, then it is
 * never.
 */
void fake_interrupt_after(struct fake *f, unsigned queue, uint16_t n);

/* Config space, little-endian, as the driver accesses it. */
uint64_t fake_config(struct fake *f, uint64_t offset, unsigned len);
bool fake_needs_reset(const struct fake *f);
/* Pause, save, destroy, make anew with the same class and options, restore, resume. 0 or -errno. */
int fake_save_restore(struct fake *f, const char *const *options, struct vz_error *e);

/* Guest memory, never freed before fake_free; aligned to align (a power of two). */
uint64_t fake_alloc(struct fake *f, uint64_t len, uint64_t align);
void *fake_ptr(struct fake *f, uint64_t gpa);

/* Evil: no bookkeeping, the device is expected to break or ignore it. None of these kick. */
/*
 * Put n descriptors as they are (flags and next too) into the ring and make the first available:
 * split: in slots 0 .. n-1; packed: in the next slots, with AVAIL and USED bits, and next of the
 * last one as the buffer id.
 */
void fake_evil_chain(struct fake *f, unsigned queue, const struct fake_desc *descs, unsigned n);
/* Split: make head available, whatever is there. */
void fake_evil_head(struct fake *f, unsigned queue, uint16_t head);
void fake_evil_jump(struct fake *f, unsigned queue, uint16_t n); /* split: add n to avail->idx */
/* Write an indirect table; its guest address. */
uint64_t fake_table(struct fake *f, const struct fake_desc *descs, unsigned n);
/* Write areas and size as given, and enable; 0 addresses too. */
void fake_evil_queue(struct fake *f, unsigned queue, uint16_t size, uint64_t desc, uint64_t driver,
	uint64_t device);

#endif
