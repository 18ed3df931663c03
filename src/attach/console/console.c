/* SPDX-License-Identifier: MIT */
/*
 * The stream of a console. No call here blocks on whoever is at the other side: descriptors of our
 * own are non-blocking, shared ones are asked first and given no more than they certainly take.
 */
#include "attach/console/internal.h"

#include "base/arith.h"
#include "base/error.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define POLLED_MOST 256 /* a terminal that is ready takes this much; a pipe takes PIPE_BUF */

static void read_ahead(struct console *con);

/* Is there something to do that epoll does not tell? */
static bool input_waits(const struct console *con)
{
	return con->in.wanted && (con->in.kind == CONSOLE_ALWAYS || con->ahead_len);
}

static bool output_waits(const struct console *con)
{
	return con->out.wanted && con->out.kind == CONSOLE_ALWAYS;
}

static void in_event(void *arg, uint32_t events)
{
	struct console *con = arg;

	/*
	 * A program that resizes a pty sends nobody a signal on our side: ask when there is news
	 * anyway.
	 */
	if (con->pty)
		console_check_size(con);
	if (con->filter)
		read_ahead(con);
	if (con->in.wanted)
		con->ev.readable(con->ev.arg);
	if (input_waits(con))
		timer_arm(con->ready, 0);
}

static void out_event(void *arg, uint32_t events)
{
	struct console *con = arg;

	con->ev.writable(con->ev.arg);
}

static void ready_event(void *arg)
{
	struct console *con = arg;

	if (input_waits(con))
		con->ev.readable(con->ev.arg);
	if (output_waits(con))
		con->ev.writable(con->ev.arg);
	/* Still wanted: come again, but let others have their turn. */
	if (input_waits(con) || output_waits(con))
		timer_arm(con->ready, 0);
}

struct console *console_new(struct loop *loop, const struct console_events *ev, struct vz_error *e)
{
	struct console *con = calloc(1, sizeof(*con));

	if (!con) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	con->loop = loop;
	con->ev = *ev;
	con->in.fd = con->out.fd = con->pty_slave = con->inotify = -1;
	con->ready = timer_new(loop, ready_event, con, e);
	if (!con->ready) {
		console_close(con);
		return NULL;
	}
	return con;
}

int console_attach(struct console *con, struct console_end *end, int fd, enum console_kind kind,
	struct vz_error *e)
{
	struct vz_error why = { 0 };

	end->fd = fd;
	end->kind = kind;
	if (kind == CONSOLE_ALWAYS)
		return 0;
	end->watch = watch_new(con->loop, fd, 0, end == &con->in ? in_event : out_event, con, &why);
	if (end->watch)
		return 0;
	/* What epoll does not know of (files, /dev/null) never blocks. */
	if (why.code != -EPERM)
		return err_set(e, why.code, NULL, "%s", why.text);
	end->kind = CONSOLE_ALWAYS;
	return 0;
}

static void end_close(struct console_end *end)
{
	watch_free(end->watch);
	if (end->fd >= 0)
		close(end->fd);
}

void console_close(struct console *con)
{
	if (!con)
		return;
	end_close(&con->in);
	end_close(&con->out);
	watch_free(con->viewers_watch);
	if (con->inotify >= 0)
		close(con->inotify);
	if (con->pty_slave >= 0)
		close(con->pty_slave);
	timer_free(con->ready);
	free(con);
}

static void watch_input(struct console *con)
{
	bool wanted = con->in.wanted;

	if (con->filter)
		wanted = !con->in.gone && con->ahead_len < CONSOLE_AHEAD;
	if (con->in.watch)
		watch_set(con->in.watch, wanted ? EPOLLIN : 0);
}

void console_set_filter(struct console *con, size_t (*fn)(void *arg, char *bytes, size_t len),
	void *arg)
{
	con->filter = fn;
	con->filter_arg = arg;
	watch_input(con);
}

const char *console_pty_name(const struct console *con)
{
	return con->pty ? con->pty_name : NULL;
}

bool console_size(const struct console *con, uint16_t *cols, uint16_t *rows)
{
	struct winsize size;

	if ((con->out.fd < 0 || ioctl(con->out.fd, TIOCGWINSZ, &size)) &&
		(con->in.fd < 0 || ioctl(con->in.fd, TIOCGWINSZ, &size)))
		return false;
	*cols = size.ws_col;
	*rows = size.ws_row;
	return true;
}

void console_check_size(struct console *con)
{
	uint16_t cols, rows;

	if (!console_size(con, &cols, &rows) || (cols == con->cols && rows == con->rows))
		return;
	con->cols = cols;
	con->rows = rows;
	con->ev.resized(con->ev.arg);
}

static bool ready_now(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, 0) > 0;
}

/*
 * Write without dying of SIGPIPE. The disposition of signals is the application's, so the one that
 * this write may raise is blocked in this thread and eaten.
 */
static ssize_t write_quietly(int fd, const void *from, size_t len)
{
	static const struct timespec now = { 0 };
	sigset_t pipe, old, pending;
	bool was_pending;
	ssize_t n;
	int err;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, &old);
	was_pending = !sigpending(&pending) && sigismember(&pending, SIGPIPE) == 1;
	n = write(fd, from, len);
	err = errno;
	if (n < 0 && err == EPIPE && !was_pending)
		while (sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = err;
	return n;
}

static ssize_t end_write(const struct console_end *end, const void *from, size_t len)
{
	switch (end->kind) {
	case CONSOLE_SOCKET:
		return send(end->fd, from, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	case CONSOLE_POLLED:
		if (!ready_now(end->fd, POLLOUT)) {
			errno = EAGAIN;
			return -1;
		}
		len = MIN(len, (size_t)(isatty(end->fd) ? POLLED_MOST : PIPE_BUF));
		break;
	case CONSOLE_ALWAYS:
		return write(end->fd, from, len);
	default:
		break;
	}
	return write_quietly(end->fd, from, len);
}

static ssize_t end_read(const struct console_end *end, void *to, size_t len)
{
	if (end->kind == CONSOLE_SOCKET)
		return recv(end->fd, to, len, MSG_DONTWAIT);
	if (end->kind == CONSOLE_POLLED && !ready_now(end->fd, POLLIN)) {
		errno = EAGAIN;
		return -1;
	}
	return read(end->fd, to, len);
}

static bool would_block(int err)
{
	return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

static ssize_t read_input(struct console *con, void *to, size_t len)
{
	ssize_t n = end_read(&con->in, to, len);

	if (n > 0)
		return n;
	if (n < 0 && would_block(errno))
		return 0;
	con->in.gone = true;
	return -EPIPE;
}

static void read_ahead(struct console *con)
{
	char *to = con->ahead + con->ahead_len;
	ssize_t n = 0;

	if (!con->in.gone && con->ahead_len < CONSOLE_AHEAD)
		n = read_input(con, to, CONSOLE_AHEAD - con->ahead_len);
	if (n > 0)
		con->ahead_len += MIN(con->filter(con->filter_arg, to, (size_t)n), (size_t)n);
	watch_input(con);
}

static ssize_t take_ahead(struct console *con, void *to, size_t len)
{
	if (!con->ahead_len && con->filter)
		read_ahead(con);
	if (!con->ahead_len && con->in.gone)
		return -EPIPE;
	len = MIN(len, con->ahead_len);
	memcpy(to, con->ahead, len);
	con->ahead_len -= len;
	memmove(con->ahead, con->ahead + len, con->ahead_len);
	watch_input(con);
	return (ssize_t)len;
}

ssize_t console_read(struct console *con, void *to, size_t len)
{
	ssize_t n;

	if (con->in.fd < 0 || (con->in.gone && !con->ahead_len))
		return -EPIPE;
	if (!len)
		return 0;
	if (con->filter || con->ahead_len)
		n = take_ahead(con, to, len);
	else
		n = read_input(con, to, len);
	if (n < 0)
		console_want(con, false, con->out.wanted);
	return n;
}

ssize_t console_write(struct console *con, const void *from, size_t len)
{
	ssize_t n;

	if (con->out.fd < 0 || con->out.gone)
		return -EPIPE;
	if (!len)
		return 0;
	n = end_write(&con->out, from, len);
	if (n >= 0)
		return n;
	if (would_block(errno))
		return con->pty && !con->viewed ? pty_write_unviewed(con, from, len) : 0;
	/* A full file system may have room again; a closed pipe does not come back. */
	if (errno != EPIPE && errno != ECONNRESET && errno != EIO)
		return -errno;
	con->out.gone = true;
	console_want(con, con->in.wanted, false);
	return -EPIPE;
}

void console_want(struct console *con, bool readable, bool writable)
{
	bool input_waited = input_waits(con), output_waited = output_waits(con);

	con->in.wanted = readable && con->in.fd >= 0 && (!con->in.gone || con->ahead_len);
	con->out.wanted = writable && con->out.fd >= 0 && !con->out.gone;
	watch_input(con);
	if (con->out.watch)
		watch_set(con->out.watch, con->out.wanted ? EPOLLOUT : 0);
	if ((input_waits(con) && !input_waited) || (output_waits(con) && !output_waited))
		timer_arm(con->ready, 0);
}
