/* SPDX-License-Identifier: MIT */
/* Starting threads with signals blocked. */
#include "base/thread.h"

#include "base/arith.h"

#include <signal.h>
#include <string.h>

int thread_start(pthread_t *thread, const char *name, void *(*fn)(void *arg), void *arg)
{
	static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	char shortened[16] = "";
	sigset_t block, old;
	int r;

	sigfillset(&block);
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		sigdelset(&block, own[i]);
	/* A thread inherits the mask of its creator, so it never runs with signals open. */
	pthread_sigmask(SIG_SETMASK, &block, &old);
	r = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	memcpy(shortened, name, strnlen(name, sizeof(shortened) - 1));
	pthread_setname_np(*thread, shortened);
	return 0;
}
