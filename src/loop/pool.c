/* SPDX-License-Identifier: MIT */
/* Worker threads for calls that block. A finished job returns to the loop's thread as a post. */
#include "loop/internal.h"

#include "base/error.h"
#include "base/thread.h"

#include <stdlib.h>

struct job {
	struct post post; /* carries done back to the loop; its link also queues the job */
	struct loop *loop;
	loop_fn *work;
};

static void job_ran(struct post *post)
{
	free(container_of(post, struct job, post));
}

static void job_run(struct job *job)
{
	job->work(job->post.arg);
	loop_enqueue(job->loop, &job->post);
}

static void *worker(void *arg)
{
	struct pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct list *first = pool->jobs.next;

		if (first != &pool->jobs) {
			list_remove(first);
			pthread_mutex_unlock(&pool->lock);
			job_run(list_entry(first, struct job, post.link));
			pthread_mutex_lock(&pool->lock);
			continue;
		}
		if (pool->stopping)
			break;
		pool->idle++;
		pthread_cond_wait(&pool->wake, &pool->lock);
		pool->idle--;
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

void pool_init(struct pool *pool)
{
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	list_init(&pool->jobs);
}

void pool_stop(struct pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	for (; pool->nthreads; pool->nthreads--)
		pthread_join(pool->threads[pool->nthreads - 1], NULL);
}

void pool_fini(struct pool *pool)
{
	pthread_cond_destroy(&pool->wake);
	pthread_mutex_destroy(&pool->lock);
}

/* Called with the lock held. */
static unsigned waiting_jobs(const struct pool *pool)
{
	unsigned n = 0;

	for (const struct list *l = pool->jobs.next; l != &pool->jobs && n <= POOL_THREADS;
		l = l->next)
		n++;
	return n;
}

int pool_run(struct loop *loop, loop_fn *work, loop_fn *done, void *arg)
{
	struct pool *pool = &loop->pool;
	struct job *job = calloc(1, sizeof(*job));
	int r = 0;

	if (!job)
		return -ENOMEM;
	job->loop = loop;
	job->work = work;
	job->post.fn = done;
	job->post.arg = arg;
	job->post.ran = job_ran;

	pthread_mutex_lock(&pool->lock);
	if (pool->stopping) {
		pthread_mutex_unlock(&pool->lock);
		job_run(job);
		return 0;
	}
	list_append(&pool->jobs, &job->post.link);
	if (waiting_jobs(pool) > pool->idle && pool->nthreads < POOL_THREADS) {
		r = thread_start(&pool->threads[pool->nthreads], "vz-pool", worker, pool);
		if (!r)
			pool->nthreads++;
		else if (pool->nthreads)
			r = 0; /* the others will come to it */
		else
			list_remove(&job->post.link);
	}
	pthread_cond_signal(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	if (r)
		free(job);
	return r;
}
