/* SPDX-License-Identifier: MIT */
/* Strings: a growing buffer, strict number parsing, nearest-word suggestions. */
#include "base/str.h"

#include "base/arith.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(struct strbuf *b, size_t more)
{
	size_t need, cap = b->cap ? b->cap : 64;
	char *text;

	if (b->failed)
		return false;
	if (ckd_add(&need, b->len, more) || ckd_add(&need, need, 1))
		goto fail;
	if (need <= b->cap)
		return true;
	while (cap < need)
		if (ckd_mul(&cap, cap, 2))
			goto fail;
	text = realloc(b->text, cap);
	if (!text)
		goto fail;
	b->text = text;
	b->cap = cap;
	return true;
fail:
	b->failed = true;
	return false;
}

void strbuf_addn(struct strbuf *b, const char *bytes, size_t n)
{
	if (!reserve(b, n))
		return;
	if (n)
		memcpy(b->text + b->len, bytes, n);
	b->len += n;
	b->text[b->len] = '\0';
}

void strbuf_add(struct strbuf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->failed = true;
		return;
	}
	if (!reserve(b, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf(b->text + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

void strbuf_fini(struct strbuf *b)
{
	free(b->text);
	*b = (struct strbuf){ 0 };
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return 16;
}

/* Parse digits from the start of text; *end points behind them. */
static int parse_digits(const char *text, uint64_t *value, const char **end)
{
	const char *p = text;
	uint64_t v = 0, base = 10;
	const char *first;

	if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
		base = 16;
		p += 2;
	}
	for (first = p; (uint64_t)digit_value(*p) < base; p++)
		if (ckd_mul(&v, v, base) || ckd_add(&v, v, (uint64_t)digit_value(*p)))
			return -ERANGE;
	if (p == first)
		return -EINVAL;
	*value = v;
	*end = p;
	return 0;
}

int parse_u64(const char *text, uint64_t *value)
{
	const char *end;
	uint64_t v;
	int r = parse_digits(text, &v, &end);

	if (r)
		return r;
	if (*end)
		return -EINVAL;
	*value = v;
	return 0;
}

int parse_size(const char *text, uint64_t *value)
{
	static const char suffixes[] = "KMGT";
	const char *end, *s;
	uint64_t v;
	int r = parse_digits(text, &v, &end);

	if (r)
		return r;
	if (*end) {
		s = strchr(suffixes, toupper((unsigned char)*end));
		if (!s || end[1])
			return -EINVAL;
		if (ckd_mul(&v, v, 1ull << (10 * (s - suffixes + 1))))
			return -ERANGE;
	}
	*value = v;
	return 0;
}

int parse_bool(const char *text, bool *value)
{
	static const char *const yes[] = { "on", "true", "yes", "1" };
	static const char *const no[] = { "off", "false", "no", "0" };

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (!strcmp(text, yes[i])) {
			*value = true;
			return 0;
		}
		if (!strcmp(text, no[i])) {
			*value = false;
			return 0;
		}
	}
	return -EINVAL;
}

#define WORD_MAX 63

/*
 * Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.
 */
static unsigned distance(const char *a, size_t alen, const char *b, size_t blen)
{
	unsigned rows[3][WORD_MAX + 1];
	unsigned *before = rows[0], *prev = rows[1], *row = rows[2], *spare;

	for (size_t j = 0; j <= blen; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= alen; i++) {
		spare = before;
		before = prev;
		prev = row;
		row = spare;
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= blen; j++) {
			int ca = tolower((unsigned char)a[i - 1]);
			int cb = tolower((unsigned char)b[j - 1]);
			unsigned d = prev[j - 1] + (ca != cb);

			d = MIN(d, prev[j] + 1);
			d = MIN(d, row[j - 1] + 1);
			if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
				tolower((unsigned char)a[i - 2]) == cb)
				d = MIN(d, before[j - 2] + 1);
			row[j] = d;
		}
	}
	return row[blen];
}

const char *nearest_word(const char *text, const char *const *words)
{
	size_t len = strlen(text);
	unsigned best = len <= 2 ? 2 : len <= 5 ? 3 : 4; /* nearer than this is near */
	const char *found = NULL;

	if (!len || len > WORD_MAX)
		return NULL;
	for (; *words; words++) {
		size_t wlen = strlen(*words);
		unsigned d;

		if (!wlen || wlen > WORD_MAX)
			continue;
		d = distance(text, len, *words, wlen);
		/* Replacing most of a short word is no resemblance. */
		if (d < best && d < MAX(len, wlen)) {
			best = d;
			found = *words;
		}
	}
	return found;
}

int str_replace(char **slot, const char *text)
{
	char *copy = NULL;

	if (text) {
		copy = strdup(text);
		if (!copy)
			return -ENOMEM;
	}
	free(*slot);
	*slot = copy;
	return 0;
}
