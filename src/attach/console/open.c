/* SPDX-License-Identifier: MIT */
/* The ways to open a console: descriptors of the application, or a log file. */
#include "attach/console/internal.h"

#include "base/error.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/*
 * O_NONBLOCK belongs to the open file description, which standard input and output share with the
 * shell that started us and with other programs: setting it there would break them. Terminals and
 * pipes can be opened a second time to get a description of our own.
 */
static int reopen(int fd, bool output)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, (output ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* Opening a pseudo-terminal's controlling side again would make a new pseudo-terminal. */
static bool is_pty_master(int fd)
{
	unsigned number;

	return !ioctl(fd, TIOCGPTN, &number);
}

static int attach_fd(struct console *con, struct console_end *end, int fd, struct vz_error *e)
{
	bool output = end == &con->out;
	enum console_kind kind = CONSOLE_POLLED;
	struct stat st;
	int own;

	if (fd < 0)
		return 0;
	if (fstat(fd, &st))
		return err_set(e, errno, NULL, "cannot use file descriptor %d: %s", fd,
			strerror(errno));
	own = -1;
	if (S_ISSOCK(st.st_mode))
		kind = CONSOLE_SOCKET;
	else if (S_ISREG(st.st_mode))
		kind = CONSOLE_ALWAYS;
	else if (S_ISFIFO(st.st_mode) || (isatty(fd) && !is_pty_master(fd)))
		own = reopen(fd, output);
	if (own >= 0)
		kind = CONSOLE_NONBLOCK;
	else
		own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0)
		return err_set(e, errno, NULL, "cannot duplicate file descriptor %d: %s", fd,
			strerror(errno));
	return console_attach(con, end, own, kind, e);
}

struct console *console_open_fds(struct loop *loop, int in, int out,
	const struct console_events *ev, struct vz_error *e)
{
	struct console *con = console_new(loop, ev, e);

	if (!con)
		return NULL;
	if (attach_fd(con, &con->in, in, e) || attach_fd(con, &con->out, out, e)) {
		console_close(con);
		return NULL;
	}
	console_size(con, &con->cols, &con->rows);
	return con;
}

struct console *console_open_log(struct loop *loop, const char *path, bool append,
	const struct console_events *ev, struct vz_error *e)
{
	/* O_NONBLOCK: a FIFO without a reader is an error and not a wait. */
	int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	struct console *con = console_new(loop, ev, e);
	int fd;

	if (!con)
		return NULL;
	fd = open(path, flags | (append ? O_APPEND : O_TRUNC), 0666);
	if (fd < 0)
		err_set(e, errno, NULL, "cannot open log file '%s': %s", path,
			errno == ENXIO ? "nobody reads from it" : strerror(errno));
	if (fd < 0 || console_attach(con, &con->out, fd, CONSOLE_NONBLOCK, e)) {
		console_close(con);
		return NULL;
	}
	return con;
}
