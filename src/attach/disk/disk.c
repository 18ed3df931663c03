/* SPDX-License-Identifier: MIT */
/*
 * The queue of requests of a disk. Requests wait in one list; up to DISK_RUNNERS jobs on the loop's
 * pool work it off, so that a burst of requests costs a few wake-ups and not one each. Finished
 * ones are collected on the loop, as many at a time as there are.
 */
#include "attach/disk/internal.h"

#include <stdlib.h>

#define DISK_RUNNERS 4
/*
 * A job ends after this many requests, so that one disk cannot keep the pool's threads to itself.
 */
#define RUNNER_REQUESTS 16

static void queue_push(struct disk_queue *q, struct disk_request *r)
{
	r->next = NULL;
	if (q->first)
		q->last->next = r;
	else
		q->first = r;
	q->last = r;
}

static struct disk_request *queue_pop(struct disk_queue *q)
{
	struct disk_request *r = q->first;

	if (r)
		q->first = r->next;
	return r;
}

void disk_init(struct disk *disk, struct loop *loop, const struct disk_ops *ops)
{
	disk->ops = ops;
	disk->loop = loop;
	pthread_mutex_init(&disk->lock, NULL);
	pthread_cond_init(&disk->progress, NULL);
}

const struct disk_limits *disk_limits(const struct disk *disk)
{
	return &disk->limits;
}

void disk_on_batch(struct disk *disk, loop_fn *fn, void *arg)
{
	disk->batch = fn;
	disk->batch_arg = arg;
}

/* Call done for what is finished. On the loop's thread; done may submit again. */
static void collect(struct disk *disk)
{
	struct disk_request *r, *next;

	pthread_mutex_lock(&disk->lock);
	r = disk->finished.first;
	disk->finished.first = NULL;
	pthread_mutex_unlock(&disk->lock);
	if (!r)
		return;
	for (; r; r = next) {
		next = r->next;
		disk->in_flight--;
		r->done(r);
	}
	if (disk->batch)
		disk->batch(disk->batch_arg);
}

static void destroy(struct disk *disk)
{
	pthread_cond_destroy(&disk->progress);
	pthread_mutex_destroy(&disk->lock);
	free(disk);
}

/* A callback that names the disk has arrived; false: it was the last trace of a closed disk. */
static bool unref(struct disk *disk)
{
	bool gone;

	pthread_mutex_lock(&disk->lock);
	gone = !--disk->refs && disk->closed;
	pthread_mutex_unlock(&disk->lock);
	if (gone)
		destroy(disk);
	return !gone;
}

static void announced(void *arg)
{
	struct disk *disk = arg;

	pthread_mutex_lock(&disk->lock);
	disk->announced = false;
	pthread_mutex_unlock(&disk->lock);
	if (unref(disk))
		collect(disk);
}

/* With the lock held, on any thread. When it fails, the end of the job collects. */
static void announce(struct disk *disk)
{
	if (disk->announced || loop_post(disk->loop, announced, disk))
		return;
	disk->announced = true;
	disk->refs++;
}

/* The job: on a pool thread, or on the loop's where that must wait anyway. */
static void work(void *arg)
{
	struct disk *disk = arg;
	struct disk_request *r;

	pthread_mutex_lock(&disk->lock);
	for (unsigned n = 0; n < RUNNER_REQUESTS && (r = queue_pop(&disk->waiting)); n++) {
		/*
		 * The end of this job will tell of the last one, so a lone request costs one
		 * wake-up.
		 */
		if (disk->finished.first)
			announce(disk);
		pthread_mutex_unlock(&disk->lock);
		r->result = disk->ops->perform(disk, r);
		pthread_mutex_lock(&disk->lock);
		queue_push(&disk->finished, r);
		pthread_cond_signal(&disk->progress);
	}
	disk->runners--;
	pthread_cond_signal(&disk->progress);
	pthread_mutex_unlock(&disk->lock);
}

static void worked(void *arg);

/* Start another job if there is work for it. */
static void start(struct disk *disk)
{
	bool wanted;

	pthread_mutex_lock(&disk->lock);
	wanted = disk->waiting.first && disk->runners < DISK_RUNNERS;
	disk->runners += wanted;
	disk->refs += wanted;
	pthread_mutex_unlock(&disk->lock);
	if (wanted && pool_run(disk->loop, work, worked, disk)) {
		work(disk);
		worked(disk);
	}
}

static void worked(void *arg)
{
	struct disk *disk = arg;

	if (!unref(disk))
		return;
	start(disk);
	/* start() frees no disk: one with requests waiting is not closed. */
	collect(disk); /* NOLINT(clang-analyzer-unix.Malloc) */
}

void disk_submit(struct disk *disk, struct disk_request *r)
{
	r->disk = disk;
	disk->in_flight++;
	pthread_mutex_lock(&disk->lock);
	queue_push(&disk->waiting, r);
	pthread_mutex_unlock(&disk->lock);
	start(disk);
}

void disk_drain(struct disk *disk)
{
	while (disk->in_flight) {
		bool help;

		pthread_mutex_lock(&disk->lock);
		while (!disk->finished.first && !disk->waiting.first)
			pthread_cond_wait(&disk->progress, &disk->lock);
		help = !disk->finished.first;
		disk->runners += help;
		pthread_mutex_unlock(&disk->lock);
		if (help)
			work(disk);
		collect(disk);
	}
}

void disk_close(struct disk *disk)
{
	bool gone;

	if (!disk)
		return;
	disk_drain(disk);
	/* A job that found nothing to do may still be on its way out. */
	pthread_mutex_lock(&disk->lock);
	disk->closed = true;
	gone = !disk->refs;
	pthread_mutex_unlock(&disk->lock);
	disk->ops->close(disk);
	if (gone)
		destroy(disk);
}
