/* SPDX-License-Identifier: MIT */
/* The vCPU threads. */
#include "machine/cpus.h"
#include "base/error.h"
#include "base/thread.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cpus_init(struct cpus *c, const struct engine_class *class, struct engine *engine,
	unsigned count, const struct cpus_events *events, struct vz_error *e)
{
	c->threads = calloc(count, sizeof(*c->threads));
	if (!c->threads)
		return err_set(e, ENOMEM, "cpus", "out of memory");
	c->class = class;
	c->events = *events;
	c->count = count;
	c->want = CPUS_PARK;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->changed, NULL);
	for (unsigned i = 0; i < count; i++)
		c->threads[i] = (struct cpu_thread){
			.cpus = c,
			.vcpu = class->vcpu(engine, i),
			.index = i,
		};
	return 0;
}

/* Called with the lock held. */
static void kick_all(struct cpus *c)
{
	for (unsigned i = 0; i < c->count; i++)
		if (c->threads[i].running)
			c->class->kick(c->threads[i].vcpu);
}

void cpus_fini(struct cpus *c)
{
	if (!c->threads)
		return;
	pthread_mutex_lock(&c->lock);
	c->want = CPUS_EXIT;
	kick_all(c);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < c->started; i++)
		pthread_join(c->threads[i].thread, NULL);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c->threads);
	memset(c, 0, sizeof(*c));
}

/* Wait until it may run; false: the thread ends. Called with the lock held. */
static bool wait_to_run(struct cpu_thread *t)
{
	struct cpus *c = t->cpus;

	for (;;) {
		if (c->want == CPUS_EXIT)
			return false;
		if (t->running && c->want == CPUS_RUN)
			return true;
		if (t->running) {
			t->running = false;
			if (--c->running == 0) {
				pthread_mutex_unlock(&c->lock);
				c->events.parked(c->events.arg);
				pthread_mutex_lock(&c->lock);
				continue;
			}
		}
		pthread_cond_wait(&c->changed, &c->lock);
	}
}

static void *cpu_main(void *arg)
{
	struct cpu_thread *t = arg;
	struct cpus *c = t->cpus;

	pthread_mutex_lock(&c->lock);
	while (wait_to_run(t)) {
		struct vz_error error = { 0 };
		enum vcpu_exit exit;

		pthread_mutex_unlock(&c->lock);
		exit = c->class->run(t->vcpu, &error);
		if (exit != VCPU_KICKED) {
			c->events.failed(c->events.arg, t->index, exit, &error);
			cpus_park(c);
		}
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

static int start_threads(struct cpus *c, struct vz_error *e)
{
	while (c->started < c->count) {
		struct cpu_thread *t = &c->threads[c->started];
		char name[16];
		int r;

		snprintf(name, sizeof(name), "vz-cpu%u", t->index);
		r = thread_start(&t->thread, name, cpu_main, t);
		if (r)
			return err_set(e, r, "cpus", "cannot start the thread of CPU %u: %s",
				t->index, strerror(-r));
		c->started++;
	}
	return 0;
}

int cpus_run(struct cpus *c, struct vz_error *e)
{
	int r = start_threads(c, e);

	if (r)
		return r;
	pthread_mutex_lock(&c->lock);
	if (c->want != CPUS_EXIT) {
		c->want = CPUS_RUN;
		c->running = c->count;
		for (unsigned i = 0; i < c->count; i++)
			c->threads[i].running = true;
		pthread_cond_broadcast(&c->changed);
	}
	pthread_mutex_unlock(&c->lock);
	return 0;
}

void cpus_park(struct cpus *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->want == CPUS_RUN) {
		c->want = CPUS_PARK;
		kick_all(c);
		/* One that has not begun to run waits for no kick. */
		pthread_cond_broadcast(&c->changed);
	}
	pthread_mutex_unlock(&c->lock);
}
