/* SPDX-License-Identifier: MIT */
/* What the guest said last on its serial port. */
#include "cli.h"
#include <stdio.h>
#include <string.h>

#define PANIC "Kernel panic - not syncing"

/* "[    1.2] Kernel panic - not syncing: VFS: …" */
static void look_at_line(struct tail *t)
{
	const char *p;

	t->line[t->line_len] = '\0';
	t->line_len = 0;
	p = strstr(t->line, PANIC);
	if (!p || t->panic[0])
		return;
	p += strlen(PANIC);
	p += strspn(p, ": ");
	snprintf(t->panic, sizeof(t->panic), "%s", *p ? p : "no reason given");
}

static void add_byte(struct tail *t, char c)
{
	if (c == '\n') {
		look_at_line(t);
	} else if (t->line_len + 1 < sizeof(t->line)) {
		/* It will be shown on a terminal: the guest must not steer that. */
		t->line[t->line_len] = c;
		if (c >= ' ' && c < 0x7f)
			t->line_len++;
	}
}

void tail_add(struct tail *t, const char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		add_byte(t, bytes[i]);
	if (len > sizeof(t->bytes)) {
		bytes += len - sizeof(t->bytes);
		len = sizeof(t->bytes);
	}
	if (len > sizeof(t->bytes) - t->len) {
		size_t drop = len - (sizeof(t->bytes) - t->len);

		t->len -= drop;
		memmove(t->bytes, t->bytes + drop, t->len);
	}
	memcpy(t->bytes + t->len, bytes, len);
	t->len += len;
}

void tail_print(const struct tail *t)
{
	char line[512];
	size_t n = 0;

	if (!t->len)
		return;
	note("--- the guest's last messages ---");
	for (size_t i = 0; i < t->len; i++) {
		char c = t->bytes[i];

		if (c != '\n' && c != '\t' && (c < ' ' || c == 0x7f))
			continue;
		if (c != '\n')
			line[n++] = c;
		if (c == '\n' || n == sizeof(line)) {
			note("%.*s", (int)n, line);
			n = 0;
		}
	}
	if (n)
		note("%.*s", (int)n, line);
	note("--- end ---");
}
