/* SPDX-License-Identifier: MIT */
/*
 * The legacy LZ4 frame of kernel payloads (lz4_Frame_format.md, "Legacy frame"): a magic, then
 * blocks of a 32-bit length and data, each of them 8 MiB when decompressed, the last at most
 * that. No block needs another one, so the host's CPUs share them: most of the time goes into the
 * page faults of fresh guest RAM.
 */
#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "boot/image.h"
#include <stdlib.h>
#include <unistd.h>
#ifdef HAVE_LZ4
#include <lz4.h>
#include <pthread.h>

#define LZ4_BLOCK       (8u << 20)
#define LZ4_BLOCKS_MAX  256
#define LZ4_HEAD_INPUT  (64u << 10)
#define LZ4_THREADS_MAX 4

struct lz4_job {
	const struct payload *p;
	struct {
		uint64_t at;
		uint32_t len;
	} block[LZ4_BLOCKS_MAX];
	unsigned nblocks, next; /* next: the first block that nobody has taken yet */
	uint32_t longest;
	uint8_t *to;
	size_t len;
	size_t last_size;
	bool overflow;
	int failed; /* -errno of any worker */
};

static int lz4_list(struct lz4_job *job, struct vz_error *e)
{
	const struct payload *p = job->p;
	uint64_t at = 4, end = p->length;
	uint8_t word[4];
	int rc;

	while (end - at > PAYLOAD_TRAILER) {
		uint32_t len;

		rc = payload_read(p, word, sizeof(word), at, e);
		if (rc)
			return rc;
		len = le32_load(word);
		at += sizeof(word);
		if (len == 0 || len > end - at || len > (uint32_t)LZ4_COMPRESSBOUND(LZ4_BLOCK))
			return payload_corrupt(p, e, "a block has an impossible length");
		if (job->nblocks == LZ4_BLOCKS_MAX)
			return payload_corrupt(p, e, "too many blocks");
		job->block[job->nblocks].at = at;
		job->block[job->nblocks++].len = len;
		job->longest = MAX(job->longest, len);
		at += len;
	}
	if (!job->nblocks || (at != end && end - at != PAYLOAD_TRAILER))
		return payload_corrupt(p, e, "its block list does not end where the file says");
	return 0;
}

static void *lz4_work(void *arg)
{
	struct lz4_job *job = arg;
	char *in = malloc(MAX(job->longest, 1u));
	unsigned i;

	if (!in)
		__atomic_store_n(&job->failed, -ENOMEM, __ATOMIC_RELAXED);
	while (in && (i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->nblocks) {
		size_t at = (size_t)i * LZ4_BLOCK, len = job->block[i].len, room;
		int n = -1;

		if (at >= job->len) {
			__atomic_store_n(&job->overflow, true, __ATOMIC_RELAXED);
			break;
		}
		room = MIN(job->len - at, LZ4_BLOCK);
		if (payload_read(job->p, in, len, job->block[i].at, NULL) == 0)
			n = LZ4_decompress_safe(in, (char *)job->to + at, (int)len, (int)room);
		if (n < 0 && room < LZ4_BLOCK)
			__atomic_store_n(&job->overflow, true, __ATOMIC_RELAXED);
		if (n < 0 || (i + 1 < job->nblocks && (unsigned)n != LZ4_BLOCK)) {
			__atomic_store_n(&job->failed, -ENOEXEC, __ATOMIC_RELAXED);
			break;
		}
		if (i + 1 == job->nblocks)
			job->last_size = (size_t)n;
	}
	free(in);
	return NULL;
}

static int lz4_head(const struct lz4_job *job, uint8_t *to, size_t len, size_t *size,
	struct vz_error *e)
{
	/* No input shrinks so much when decompressed that this is not enough for a header. */
	uint32_t in_len = MIN(job->block[0].len, LZ4_HEAD_INPUT);
	char *in = malloc(MAX(in_len, 1u));
	int n, rc;

	if (!in)
		return err_set(e, ENOMEM, NULL, "out of memory");
	rc = payload_read(job->p, in, in_len, job->block[0].at, e);
	if (rc == 0) {
		n = LZ4_decompress_safe_partial(in, (char *)to, (int)in_len, (int)len, (int)len);
		rc = n < 0 ? payload_corrupt(job->p, e, "its first block does not decompress") : 0;
		*size = n < 0 ? 0 : (size_t)n;
	}
	free(in);
	return rc;
}

int payload_lz4(const struct payload *p, bool head, uint8_t *to, size_t len, size_t *size,
	struct vz_error *e)
{
	struct lz4_job job = { .p = p, .to = to, .len = len };
	pthread_t thread[LZ4_THREADS_MAX - 1];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = 0;
	int rc = lz4_list(&job, e);

	if (rc)
		return rc;
	if (head)
		return lz4_head(&job, to, len, size, e);
	while (n < ARRAY_SIZE(thread) && n + 1 < job.nblocks && (long)n + 1 < cpus) {
		if (pthread_create(&thread[n], NULL, lz4_work, &job))
			break; /* this thread does the rest */
		n++;
	}
	lz4_work(&job);
	while (n > 0)
		pthread_join(thread[--n], NULL);
	if (job.overflow)
		return payload_too_large(e, len);
	if (job.failed == -ENOMEM)
		return err_set(e, ENOMEM, NULL, "out of memory");
	if (job.failed)
		return payload_corrupt(p, e, "a block does not decompress");
	*size = (size_t)(job.nblocks - 1) * LZ4_BLOCK + job.last_size;
	if (p->length - (job.block[job.nblocks - 1].at + job.block[job.nblocks - 1].len) ==
			PAYLOAD_TRAILER &&
		p->size_hint != (uint32_t)*size)
		return payload_corrupt(p, e, "its size is not the one that the file tells");
	return 0;
}
#endif
