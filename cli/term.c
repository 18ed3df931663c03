/* SPDX-License-Identifier: MIT */
/* The terminal on standard input: raw while the guest has it, and the keys that are ours. */
#include "cli.h"
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE 0x01 /* Ctrl-A */

static struct termios before;
static volatile bool raw, known;

static void apply_raw(void)
{
	struct termios t = before;

	cfmakeraw(&t);
	/* A process in the background would be stopped by this: it has no terminal to prepare. */
	if (tcgetpgrp(STDIN_FILENO) == getpgrp() && !tcsetattr(STDIN_FILENO, TCSADRAIN, &t))
		raw = true;
}

void term_raw(void)
{
	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &before))
		return;
	known = true;
	atexit(term_restore);
	apply_raw();
}

void term_restore(void)
{
	if (raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
	raw = false;
}

void term_resume(void)
{
	if (known)
		apply_raw();
}

bool term_is_raw(void)
{
	return raw;
}

static void help(void)
{
	note("\r\nCtrl-A x  end the machine at once");
	note("Ctrl-A h  this help");
	note("Ctrl-A Ctrl-A  send Ctrl-A to the guest");
}

size_t term_filter(void *quit_fd, char *bytes, size_t len)
{
	static bool escaped;
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		char c = bytes[i];

		if (!escaped && c == ESCAPE) {
			escaped = true;
			continue;
		}
		if (!escaped || c == ESCAPE) {
			bytes[kept++] = c;
		} else if (c == 'x') {
			eventfd_write(*(int *)quit_fd, 1);
		} else if (c == 'h' || c == '?') {
			help();
		}
		escaped = false;
	}
	return kept;
}
