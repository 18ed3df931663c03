/* SPDX-License-Identifier: MIT */
/* The inside of a console: the stream itself (console.c) and the ways to open one. */
#ifndef ATTACH_CONSOLE_INTERNAL_H
#define ATTACH_CONSOLE_INTERNAL_H

#include "attach/console/console.h"

enum console_kind {
	CONSOLE_NONE,
	CONSOLE_NONBLOCK, /* the file description is our own and non-blocking */
	CONSOLE_SOCKET,
	CONSOLE_POLLED, /* others share it and count on blocking: poll first, move little */
	CONSOLE_ALWAYS, /* a file or the like: epoll does not take it, and it does not block */
};

struct console_end {
	int fd; /* -1: there is none */
	enum console_kind kind;
	struct watch *watch; /* NULL where the kind is always ready */
	bool wanted, gone;
};

#define CONSOLE_AHEAD 4096u

struct console {
	struct loop *loop;
	struct console_events ev;
	struct console_end in, out;
	struct timer *ready; /* stands in for epoll */
	bool pty, viewed;    /* viewed: somebody has the pty open */
	int pty_slave;       /* -1: no pty */
	int inotify;         /* tells who opens and closes it */
	struct watch *viewers_watch;
	char pty_name[64];
	uint16_t cols, rows;
	/*
	 * With a filter input is read ahead: an escape key must work also when the guest does not
	 * read, which may be the very reason for it.
	 */
	size_t (*filter)(void *arg, char *bytes, size_t len);
	void *filter_arg;
	char ahead[CONSOLE_AHEAD]; /* filtered, not yet given away */
	size_t ahead_len;
};

/* NULL with *e set when out of memory. */
struct console *console_new(struct loop *loop, const struct console_events *ev, struct vz_error *e);
/* Give an end its descriptor (taken, also on failure) and how to use it. */
int console_attach(struct console *con, struct console_end *end, int fd, enum console_kind kind,
	struct vz_error *e);

/* No viewer and no room: forget old output for new. Returns len; some of it may be lost. */
ssize_t pty_write_unviewed(struct console *con, const void *from, size_t len);

#endif
