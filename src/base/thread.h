/* SPDX-License-Identifier: MIT */
/*
 * Starting threads. Signals belong to the application: every thread of the library blocks all of
 * them but those that report the thread's own faults (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP).
 */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

/* name: at most 15 characters are kept. Returns 0 or -errno. */
int thread_start(pthread_t *thread, const char *name, void *(*fn)(void *arg), void *arg);

#endif
