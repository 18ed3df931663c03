/* SPDX-License-Identifier: MIT */
/* Strings: a growing buffer, strict number parsing, nearest-word suggestions. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A growing, always NUL-terminated string. Zero-initialise; release with strbuf_fini. Out of memory
 * sets failed.
 */
struct strbuf {
	char *text;
	size_t len, cap;
	bool failed;
};
void strbuf_add(struct strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strbuf_addn(struct strbuf *b, const char *bytes, size_t n);
void strbuf_fini(struct strbuf *b);

/* Whole string, decimal or 0x hex, no sign, no blanks; 0 or -EINVAL / -ERANGE. */
int parse_u64(const char *text, uint64_t *value);
/* As parse_u64 with an optional suffix K M G T (powers of 1024). */
int parse_size(const char *text, uint64_t *value);
/* on off true false yes no 1 0; 0 or -EINVAL. */
int parse_bool(const char *text, bool *value);

/*
 * The word of a NULL-terminated list nearest to text by edit distance, or NULL when none is near.
 */
const char *nearest_word(const char *text, const char *const *words);

/* strdup that frees what *slot held; returns 0 or -ENOMEM. text may be NULL. */
int str_replace(char **slot, const char *text);

#endif
