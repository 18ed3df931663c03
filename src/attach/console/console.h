/* SPDX-License-Identifier: MIT */
/*
 * What the host lends a console port: a byte stream both ways, and for terminals a size. Everything
 * runs on the loop given at open. Output that the host does not take is refused (short count),
 * never buffered without bound.
 */
#ifndef ATTACH_CONSOLE_CONSOLE_H
#define ATTACH_CONSOLE_CONSOLE_H

#include "loop/loop.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <vizor/error.h>

struct console;

struct console_events {
	void *arg;
	void (*readable)(void *arg); /* console_read may give bytes */
	void (*writable)(void *arg); /* console_write may take bytes again */
	void (*resized)(void *arg);  /* console_size changed */
};

/*
 * Standard input and output of the process, or the given pair of descriptors (duplicated; in or out
 * may be -1). The file descriptors' flags are not changed; terminal modes are the application's
 * business.
 */
struct console *console_open_fds(struct loop *loop, int in, int out,
	const struct console_events *ev, struct vz_error *e);
/* A new pseudo-terminal; its name is in console_pty_name. */
struct console *console_open_pty(struct loop *loop, const struct console_events *ev,
	struct vz_error *e);
/* Output goes to a file, truncated (or appended); there is no input. */
struct console *console_open_log(struct loop *loop, const char *path, bool append,
	const struct console_events *ev, struct vz_error *e);
void console_close(struct console *con); /* NULL is fine; not from within its events */

/*
 * fn sees every run of bytes read from the host before console_read gives it away; it may change
 * them in place and returns how many are left. NULL: none. For the application's escape key: with a
 * filter some input is read ahead, so that the key works while nobody wants input.
 */
void console_set_filter(struct console *con, size_t (*fn)(void *arg, char *bytes, size_t len),
	void *arg);

const char *console_pty_name(const struct console *con); /* NULL when it is no pty */
/* false: not a terminal */
bool console_size(const struct console *con, uint16_t *cols, uint16_t *rows);
/* The application saw SIGWINCH: asks the terminal again and reports resized if it changed. */
void console_check_size(struct console *con);

/*
 * Bytes moved, 0 when it would block; -EPIPE at end of file / when the other side is gone. While
 * nobody has a pseudo-terminal open, new output replaces the old, so that a guest does not stop for
 * want of a viewer.
 */
ssize_t console_read(struct console *con, void *to, size_t len);
ssize_t console_write(struct console *con, const void *from, size_t len);
/* Ask for readable/writable events; off when the guest has no buffers / nothing to say. */
void console_want(struct console *con, bool readable, bool writable);

#endif
