/* SPDX-License-Identifier: MIT */
/* Messages, suggestions and the splitting of option lists. */
#include "cli.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * One write, so that lines of several threads do not mix; raw terminals want the carriage return.
 */
static void say(const char *prefix, const char *fmt, va_list ap)
{
	char line[2048];
	size_t size = sizeof(line) - 2, len;

	snprintf(line, size, "%s", prefix);
	len = strlen(line);
	vsnprintf(line + len, size - len, fmt, ap);
	len = strlen(line);
	if (term_is_raw())
		line[len++] = '\r';
	line[len++] = '\n';
	while (write(STDERR_FILENO, line, len) < 0 && errno == EINTR)
		;
}

int fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say("vizor: ", fmt, ap);
	va_end(ap);
	return 1;
}

void note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say("", fmt, ap);
	va_end(ap);
}

int fail_error(const vz_error *error)
{
	return fail("%s%s%s", error->where, error->where[0] ? ": " : "",
		error->text[0] ? error->text : strerror(-error->code));
}

/* Edit distance, up to 31 characters of each. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[32], na = (unsigned)strnlen(a, 31), nb = (unsigned)strnlen(b, 31);

	for (unsigned j = 0; j <= nb; j++)
		row[j] = j;
	for (unsigned i = 1; i <= na; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= nb; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diagonal = row[j];
			row[j] = best;
		}
	}
	return row[nb];
}

const char *nearest(const char *text, const void *words, size_t count, size_t size)
{
	const char *best = NULL;
	unsigned limit = 1 + (unsigned)strnlen(text, 31) / 3;

	for (size_t i = 0; i < count; i++) {
		const char *word = *(const char *const *)((const char *)words + i * size);
		unsigned d = distance(text, word);

		if (d <= limit) {
			best = word;
			limit = d - (d > 0);
		}
	}
	return best;
}

void split_free(char **parts)
{
	if (parts)
		free(parts[0]);
	free(parts);
}

/* All parts lie in one string, which the first one begins. */
char **split(const char *text, bool *mismatched)
{
	size_t count = 2;
	char **parts, *to;
	bool quoted = false;

	for (const char *p = text; *p; p++)
		count += *p == ',';
	parts = calloc(count, sizeof(*parts));
	to = malloc(strlen(text) + 1);
	if (!parts || !to) {
		free(parts);
		free(to);
		return NULL;
	}
	count = 0;
	parts[count++] = to;
	for (const char *p = text; *p; p++) {
		if (*p == '"') {
			quoted = !quoted;
		} else if (*p == ',' && !quoted) {
			*to++ = '\0';
			parts[count++] = to;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
	*mismatched = quoted;
	if (quoted) {
		split_free(parts);
		return NULL;
	}
	return parts;
}

bool parse_number(const char *text, unsigned long long *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return !*end && !errno;
}
