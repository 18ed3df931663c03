/* SPDX-License-Identifier: MIT */
/*
 * One vCPU alone: the translator needs moments in which no other vCPU runs translated code or
 * fills its TLB. A vCPU is "running" except while it sleeps, waits for a lock, or is with the
 * board; it sees the request at its next poll. Only the holder of the engine's lock may begin,
 * and nobody waits for that lock while running, so two requests never wait for each other.
 */
#include "engine/soft/soft.h"

static void announce(struct engine *engine)
{
	pthread_mutex_lock(&engine->exclusive_lock);
	pthread_cond_broadcast(&engine->exclusive_cond);
	pthread_mutex_unlock(&engine->exclusive_lock);
}

void soft_not_running(struct vcpu *cpu)
{
	atomic_store(&cpu->running, 0);
	if (atomic_load(&cpu->engine->exclusive))
		announce(cpu->engine);
}

void soft_running(struct vcpu *cpu)
{
	struct engine *engine = cpu->engine;

	for (;;) {
		atomic_store(&cpu->running, 1);
		if (!atomic_load(&engine->exclusive))
			return;
		atomic_store(&cpu->running, 0);
		pthread_mutex_lock(&engine->exclusive_lock);
		pthread_cond_broadcast(&engine->exclusive_cond);
		while (atomic_load(&engine->exclusive))
			pthread_cond_wait(&engine->exclusive_cond, &engine->exclusive_lock);
		pthread_mutex_unlock(&engine->exclusive_lock);
	}
}

static bool others_running(const struct engine *engine, const struct vcpu *self)
{
	for (unsigned i = 0; i < engine->cpus; i++)
		if (engine->vcpu[i] != self && atomic_load(&engine->vcpu[i]->running))
			return true;
	return false;
}

void exclusive_begin(struct engine *engine, struct vcpu *self)
{
	if (engine->cpus == 1)
		return;
	atomic_store(&engine->exclusive, true);
	for (unsigned i = 0; i < engine->cpus; i++)
		if (engine->vcpu[i] != self)
			atomic_store(&engine->vcpu[i]->pending, 1);
	pthread_mutex_lock(&engine->exclusive_lock);
	while (others_running(engine, self))
		pthread_cond_wait(&engine->exclusive_cond, &engine->exclusive_lock);
	pthread_mutex_unlock(&engine->exclusive_lock);
}

void exclusive_end(struct engine *engine)
{
	if (engine->cpus == 1)
		return;
	pthread_mutex_lock(&engine->exclusive_lock);
	atomic_store(&engine->exclusive, false);
	pthread_cond_broadcast(&engine->exclusive_cond);
	pthread_mutex_unlock(&engine->exclusive_lock);
}
