/* SPDX-License-Identifier: MIT */
/*
 * A console on a new pseudo-terminal. Our side holds both ends, so that viewers may come and go;
 * inotify tells whether there is one. A slow viewer holds the guest's output up, an absent one does
 * not.
 */
#include "attach/console/internal.h"

#include "base/error.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>

static int open_slave(const struct console *con)
{
	return open(con->pty_name, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

/*
 * Is there a viewer? inotify merges events, so they cannot be counted; but with our own slave
 * closed for a moment the master reports a hang-up if there is no other. The masks are such that
 * closing and opening it here is no event, and that a viewer who leaves after the question is one.
 */
static void probe_viewers(struct console *con)
{
	struct pollfd master = { .fd = con->out.fd };

	close(con->pty_slave);
	inotify_add_watch(con->inotify, con->pty_name, IN_CLOSE);
	con->viewed = poll(&master, 1, 0) == 0;
	con->pty_slave = open_slave(con);
	if (!con->viewed)
		inotify_add_watch(con->inotify, con->pty_name, IN_OPEN);
}

static void viewers_event(void *arg, uint32_t events)
{
	struct console *con = arg;
	char buffer[1024] __attribute__((aligned(__alignof__(struct inotify_event))));

	while (read(con->inotify, buffer, sizeof(buffer)) > 0)
		;
	probe_viewers(con);
	if (!con->viewed && con->out.wanted)
		con->ev.writable(con->ev.arg);
}

/*
 * Where the host has no inotify to spare there is never a viewer: output is lost sooner, no guest
 * stops.
 */
static void watch_viewers(struct console *con)
{
	con->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (con->inotify >= 0 && inotify_add_watch(con->inotify, con->pty_name, IN_OPEN) >= 0)
		con->viewers_watch =
			watch_new(con->loop, con->inotify, EPOLLIN, viewers_event, con, NULL);
}

ssize_t pty_write_unviewed(struct console *con, const void *from, size_t len)
{
	ssize_t n;

	tcflush(con->pty_slave, TCIFLUSH);
	n = write(con->out.fd, from, len);
	return n > 0 ? n : (ssize_t)len;
}

static int open_pty(struct console *con, struct vz_error *e)
{
	struct termios raw;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), second;

	if (master < 0)
		return err_set(e, errno, NULL, "cannot make a pseudo-terminal: %s",
			strerror(errno));
	con->out.fd = master; /* closed with con from here on */
	fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
	if (grantpt(master) || unlockpt(master) ||
		ptsname_r(master, con->pty_name, sizeof(con->pty_name)))
		return err_set(e, errno, NULL, "cannot set up a pseudo-terminal: %s",
			strerror(errno));
	con->pty_slave = open_slave(con);
	con->pty = true;
	second = fcntl(master, F_DUPFD_CLOEXEC, 3);
	con->in.fd = second;
	if (con->pty_slave < 0 || second < 0 || tcgetattr(con->pty_slave, &raw))
		return err_set(e, errno, NULL, "cannot open pseudo-terminal '%s': %s",
			con->pty_name, strerror(errno));
	/* The guest has a line discipline of its own; two would echo twice. */
	cfmakeraw(&raw);
	tcsetattr(con->pty_slave, TCSANOW, &raw);
	watch_viewers(con);
	if (console_attach(con, &con->in, second, CONSOLE_NONBLOCK, e))
		return -EIO;
	return console_attach(con, &con->out, master, CONSOLE_NONBLOCK, e);
}

struct console *console_open_pty(struct loop *loop, const struct console_events *ev,
	struct vz_error *e)
{
	struct console *con = console_new(loop, ev, e);

	if (con && open_pty(con, e)) {
		console_close(con);
		return NULL;
	}
	return con;
}
