/* SPDX-License-Identifier: MIT */
/*
 * A test program in TAP: list functions in main with RUN(); CHECK() inside them; end with `return
 * tap_done();`.
 */
#ifndef TESTS_TAP_H
#define TESTS_TAP_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tap_count, tap_failed, tap_current_bad;

#define CHECK(cond)                                                                \
	do {                                                                       \
		if (!(cond)) {                                                     \
			printf("# %s:%d: CHECK(%s)\n", __FILE__, __LINE__, #cond); \
			tap_current_bad = 1;                                       \
		}                                                                  \
	} while (0)

#define CHECK_EQ(a, b)                                                                          \
	do {                                                                                    \
		long long tap_a_ = (long long)(a), tap_b_ = (long long)(b);                     \
		if (tap_a_ != tap_b_) {                                                         \
			printf("# %s:%d: %s is %lld (%#llx), not %s: %lld (%#llx)\n", __FILE__, \
				__LINE__, #a, tap_a_, tap_a_, #b, tap_b_, tap_b_);              \
			tap_current_bad = 1;                                                    \
		}                                                                               \
	} while (0)

#define CHECK_STR(a, b)                                                                       \
	do {                                                                                  \
		const char *tap_a_ = (a), *tap_b_ = (b);                                      \
		if (!tap_a_ || strcmp(tap_a_, tap_b_)) {                                      \
			printf("# %s:%d: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__, #a, \
				tap_a_ ? tap_a_ : "(null)", tap_b_);                          \
			tap_current_bad = 1;                                                  \
		}                                                                             \
	} while (0)

/* Stop the whole program as skipped: the machine lacks what it needs. TAP says so in its plan. */
#define SKIP_ALL(why)                            \
	do {                                     \
		printf("1..0 # SKIP %s\n", why); \
		exit(0);                         \
	} while (0)

#define RUN(fn)                                                                            \
	do {                                                                               \
		tap_current_bad = 0;                                                       \
		fn();                                                                      \
		printf("%sok %d - %s\n", tap_current_bad ? "not " : "", ++tap_count, #fn); \
		tap_failed += tap_current_bad;                                             \
		fflush(stdout);                                                            \
	} while (0)

static inline int tap_done(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed ? 1 : 0;
}

#endif
