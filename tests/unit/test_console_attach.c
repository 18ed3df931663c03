/* SPDX-License-Identifier: MIT */
/*
 * Consoles on pipes, sockets, files and pseudo-terminals: nothing blocks, nothing is changed for
 * others.
 */
#include "attach/console/console.h"

#include "base/error.h"
#include "tap.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

static struct loop *loop;
static struct console *con;
static struct vz_error error;
static int nreadable, nwritable, nresized;
static int fds[2] = { -1, -1 };

static void on_readable(void *arg)
{
	nreadable++;
}

static void on_writable(void *arg)
{
	nwritable++;
}

static void on_resized(void *arg)
{
	nresized++;
}

static const struct console_events events = { NULL, on_readable, on_writable, on_resized };

static void begin(void)
{
	nreadable = nwritable = nresized = 0;
	memset(&error, 0, sizeof(error));
	loop = loop_new(NULL);
	con = NULL;
	fds[0] = fds[1] = -1;
}

static void end(void)
{
	console_close(con);
	loop_free(loop);
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void spin(int rounds)
{
	while (rounds--)
		loop_dispatch(loop, 1);
}

static void begin_pipe_out(void)
{
	begin();
	CHECK(!pipe2(fds, O_CLOEXEC));
	con = console_open_fds(loop, -1, fds[1], &events, &error);
	CHECK(con != NULL);
}

static void begin_pipe_in(void)
{
	begin();
	CHECK(!pipe2(fds, O_CLOEXEC));
	con = console_open_fds(loop, fds[0], -1, &events, &error);
	CHECK(con != NULL);
}

/* Write until nothing more is taken, or 8 MiB; how much was. */
static size_t stuff(void)
{
	static const char junk[1000];
	size_t total = 0;
	ssize_t n;

	while ((n = console_write(con, junk, sizeof(junk))) > 0 && total < (8u << 20))
		total += (size_t)n;
	return total;
}

static void a_full_pipe_does_not_block(void)
{
	size_t total;

	begin_pipe_out();
	total = stuff();
	CHECK(total > 0 && total <= (1u << 20));
	CHECK_EQ(stuff(), 0);
	end();
}

static void a_pipe_that_is_emptied_is_writable(void)
{
	char buffer[8192];

	begin_pipe_out();
	stuff();
	console_want(con, false, true);
	spin(3);
	CHECK_EQ(nwritable, 0);
	CHECK(read(fds[0], buffer, sizeof(buffer)) > 0);
	spin(3);
	CHECK(nwritable > 0);
	CHECK(console_write(con, "x", 1) == 1);
	end();
}

static void the_flags_of_shared_descriptors_stay(void)
{
	begin_pipe_out();
	CHECK(!(fcntl(fds[1], F_GETFL) & O_NONBLOCK));
	end();
	begin_pipe_in();
	CHECK(!(fcntl(fds[0], F_GETFL) & O_NONBLOCK));
	end();
}

static void a_closed_pipe_is_an_error_and_no_signal(void)
{
	begin_pipe_out();
	signal(SIGPIPE, SIG_DFL);
	close(fds[0]);
	fds[0] = -1;
	CHECK_EQ(console_write(con, "x", 1), -EPIPE);
	CHECK_EQ(console_write(con, "x", 1), -EPIPE);
	end();
}

static void input_is_read_when_it_is_wanted(void)
{
	char buffer[16];

	begin_pipe_in();
	CHECK(write(fds[1], "hello", 5) == 5);
	spin(3);
	CHECK_EQ(nreadable, 0);
	console_want(con, true, false);
	spin(1);
	CHECK_EQ(nreadable, 1);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 5);
	CHECK(!memcmp(buffer, "hello", 5));
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 0);
	end();
}

/* Hardening row 13, as it would be for consoles: no spinning while nobody wants the input. */
static void unwanted_events_do_not_wake_the_loop(void)
{
	begin_pipe_in();
	console_want(con, true, false);
	console_want(con, false, false);
	CHECK(write(fds[1], "hello", 5) == 5);
	close(fds[1]);
	fds[1] = -1;
	spin(20);
	CHECK_EQ(nreadable, 0);
	end();
}

static void end_of_file_is_told_and_then_quiet(void)
{
	char buffer[16];

	begin_pipe_in();
	console_want(con, true, false);
	close(fds[1]);
	fds[1] = -1;
	spin(1);
	CHECK_EQ(nreadable, 1);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), -EPIPE);
	console_want(con, true, false);
	spin(20);
	CHECK_EQ(nreadable, 1);
	end();
}

static size_t drop_x(void *arg, char *bytes, size_t len)
{
	size_t left = 0;

	for (size_t i = 0; i < len; i++)
		if (bytes[i] != 'x')
			bytes[left++] = bytes[i];
	return left;
}

static void the_filter_sees_input_first(void)
{
	char buffer[16];

	begin_pipe_in();
	console_set_filter(con, drop_x, NULL);
	CHECK(write(fds[1], "axxb", 4) == 4);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 2);
	CHECK(!memcmp(buffer, "ab", 2));
	CHECK(write(fds[1], "xx", 2) == 2);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 0);
	end();
}

static int filtered;

static size_t count_bytes(void *arg, char *bytes, size_t len)
{
	filtered += (int)len;
	return len;
}

static void the_filter_sees_input_that_nobody_reads(void)
{
	char text[8] = "";

	begin_pipe_in();
	filtered = 0;
	console_set_filter(con, count_bytes, NULL);
	CHECK_EQ(write(fds[1], "abc", 3), 3);
	spin(2);
	CHECK_EQ(filtered, 3);
	CHECK_EQ(nreadable, 0);
	console_want(con, true, false);
	spin(2);
	CHECK(nreadable > 0);
	CHECK_EQ(console_read(con, text, 2), 2);
	CHECK_EQ(console_read(con, text + 2, 5), 1);
	CHECK_STR(text, "abc");
	CHECK_EQ(console_read(con, text, 8), 0);
	end();
}

static void input_read_ahead_comes_before_its_end(void)
{
	char text[8] = "";

	begin_pipe_in();
	console_set_filter(con, count_bytes, NULL);
	CHECK_EQ(write(fds[1], "abc", 3), 3);
	close(fds[1]);
	fds[1] = -1;
	spin(3);
	CHECK_EQ(console_read(con, text, 8), 3);
	CHECK_STR(text, "abc");
	CHECK_EQ(console_read(con, text, 8), -EPIPE);
	end();
}

static void what_is_read_ahead_is_bounded(void)
{
	char text[4096] = "";

	begin_pipe_in();
	filtered = 0;
	console_set_filter(con, count_bytes, NULL);
	for (int i = 0; i < 4; i++)
		CHECK_EQ(write(fds[1], text, sizeof(text)), (int)sizeof(text));
	spin(8);
	CHECK_EQ(filtered, (int)sizeof(text));
	CHECK_EQ(console_read(con, text, 1), 1);
	end();
}

static void sockets_work_both_ways(void)
{
	char buffer[16];

	begin();
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	con = console_open_fds(loop, fds[0], fds[0], &events, &error);
	CHECK(con != NULL);
	CHECK(write(fds[1], "in", 2) == 2);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 2);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 0);
	CHECK_EQ(console_write(con, "out", 3), 3);
	CHECK_EQ(read(fds[1], buffer, sizeof(buffer)), 3);
	CHECK(stuff() > 0);
	CHECK(!(fcntl(fds[0], F_GETFL) & O_NONBLOCK));
	end();
}

static void a_file_is_read_to_its_end_when_wanted(void)
{
	char name[] = "/tmp/vizor-console-XXXXXX", buffer[16];

	begin();
	fds[0] = mkstemp(name);
	CHECK(write(fds[0], "abc", 3) == 3 && !lseek(fds[0], 0, SEEK_SET));
	con = console_open_fds(loop, fds[0], -1, &events, &error);
	CHECK(con != NULL);
	spin(3);
	CHECK_EQ(nreadable, 0);
	console_want(con, true, false);
	spin(3);
	CHECK(nreadable > 0);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 3);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), -EPIPE);
	nreadable = 0;
	spin(3);
	CHECK_EQ(nreadable, 0);
	end();
	unlink(name);
}

static void the_null_device_takes_everything(void)
{
	char buffer[16];

	begin();
	fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	con = console_open_fds(loop, fds[0], fds[0], &events, &error);
	CHECK(con != NULL);
	CHECK_EQ(console_write(con, "abc", 3), 3);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), -EPIPE);
	end();
}

static int open_viewer(void)
{
	int fd = open(console_pty_name(con), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	CHECK(fd >= 0);
	spin(2);
	return fd;
}

static bool wait_readable(void)
{
	nreadable = 0;
	console_want(con, true, false);
	for (int i = 0; i < 100 && !nreadable; i++)
		loop_dispatch(loop, 10);
	return nreadable;
}

static void begin_pty(void)
{
	begin();
	con = console_open_pty(loop, &events, &error);
	CHECK(con && console_pty_name(con));
}

static void a_pty_passes_bytes_unchanged(void)
{
	char buffer[16];

	begin_pty();
	fds[0] = open_viewer();
	CHECK_EQ(console_write(con, "a\nb", 3), 3);
	spin(3);
	CHECK_EQ(read(fds[0], buffer, sizeof(buffer)), 3);
	CHECK(!memcmp(buffer, "a\nb", 3));
	CHECK_EQ(write(fds[0], "x\r\x03", 3), 3);
	CHECK(wait_readable());
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 3);
	CHECK(!memcmp(buffer, "x\r\x03", 3));
	end();
}

static void a_pty_outlives_its_viewers(void)
{
	char buffer[16];

	begin_pty();
	for (int i = 0; i < 3; i++) {
		fds[0] = open_viewer();
		CHECK_EQ(write(fds[0], "1", 1), 1);
		CHECK(wait_readable());
		CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 1);
		close(fds[0]);
		fds[0] = -1;
		spin(2);
		CHECK_EQ(console_read(con, buffer, sizeof(buffer)), 0);
		console_want(con, true, false);
		nreadable = 0;
		spin(20);
		CHECK_EQ(nreadable, 0);
	}
	fds[0] = open_viewer();
	CHECK_EQ(console_write(con, "\n", 1), 1);
	spin(3);
	CHECK(read(fds[0], buffer, sizeof(buffer)) == 1 && buffer[0] == '\n');
	end();
}

static void without_a_viewer_a_pty_takes_everything(void)
{
	begin_pty();
	CHECK(stuff() >= (8u << 20));
	end();
}

static void a_viewer_that_does_not_read_holds_output_up(void)
{
	begin_pty();
	fds[0] = open_viewer();
	CHECK(stuff() < (1u << 20));
	console_want(con, false, true);
	spin(5);
	nwritable = 0;
	spin(5);
	CHECK_EQ(nwritable, 0);
	close(fds[0]);
	fds[0] = -1;
	spin(3);
	CHECK(nwritable > 0);
	CHECK(stuff() >= (8u << 20));
	end();
}

static void one_of_two_viewers_is_a_viewer(void)
{
	begin_pty();
	fds[0] = open_viewer();
	fds[1] = open_viewer();
	close(fds[0]);
	fds[0] = -1;
	spin(3);
	CHECK(stuff() < (1u << 20));
	end();
}

static void a_pty_has_the_size_its_viewer_sets(void)
{
	struct winsize size = { .ws_col = 132, .ws_row = 43 };
	uint16_t cols = 1, rows = 1;

	begin_pty();
	CHECK(console_size(con, &cols, &rows));
	CHECK_EQ(cols, 0);
	fds[0] = open_viewer();
	CHECK(!ioctl(fds[0], TIOCSWINSZ, &size));
	console_check_size(con);
	CHECK_EQ(nresized, 1);
	CHECK(console_size(con, &cols, &rows));
	CHECK(cols == 132 && rows == 43);
	console_check_size(con);
	CHECK_EQ(nresized, 1);
	end();
}

static void a_terminal_of_the_application_does_not_block(void)
{
	char name[64];

	begin();
	fds[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(!grantpt(fds[0]) && !unlockpt(fds[0]) && !ptsname_r(fds[0], name, sizeof(name)));
	fds[1] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	con = console_open_fds(loop, fds[1], fds[1], &events, &error);
	CHECK(con != NULL);
	CHECK(stuff() < (1u << 20));
	CHECK(!(fcntl(fds[1], F_GETFL) & O_NONBLOCK));
	end();
}

/* Its controlling side cannot be opened a second time: that would be another terminal. */
static void a_pty_master_is_used_as_it_is(void)
{
	char name[64], buffer[16];

	begin();
	fds[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(!grantpt(fds[0]) && !unlockpt(fds[0]) && !ptsname_r(fds[0], name, sizeof(name)));
	fds[1] = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	con = console_open_fds(loop, fds[0], fds[0], &events, &error);
	CHECK(con != NULL);
	CHECK_EQ(console_write(con, "hi\n", 3), 3);
	usleep(20000);
	CHECK_EQ(read(fds[1], buffer, sizeof(buffer)), 3);
	CHECK_EQ(console_read(con, buffer, sizeof(buffer)) >= 0, 1);
	end();
}

static void a_log_file_is_emptied_first(void)
{
	char name[] = "/tmp/vizor-console-XXXXXX";
	struct stat st;

	begin();
	fds[0] = mkstemp(name);
	CHECK(write(fds[0], "old text", 8) == 8);
	con = console_open_log(loop, name, false, &events, &error);
	CHECK(con != NULL);
	CHECK_EQ(console_write(con, "new", 3), 3);
	CHECK(!fstat(fds[0], &st) && st.st_size == 3);
	CHECK_EQ(console_read(con, name, 0), -EPIPE);
	end();
	unlink(name);
}

static void a_log_file_can_be_continued(void)
{
	char name[] = "/tmp/vizor-console-XXXXXX";
	struct stat st;

	begin();
	fds[0] = mkstemp(name);
	CHECK(write(fds[0], "old text", 8) == 8);
	con = console_open_log(loop, name, true, &events, &error);
	CHECK(con != NULL);
	CHECK_EQ(console_write(con, "new", 3), 3);
	CHECK(!fstat(fds[0], &st) && st.st_size == 11);
	end();
	unlink(name);
}

static void a_log_that_cannot_be_opened_says_why(void)
{
	begin();
	CHECK(!console_open_log(loop, "/nonexistent/log", false, &events, &error));
	CHECK(strstr(error.text, "/nonexistent/log") && strstr(error.text, "No such file"));
	end();
}

static void a_full_disk_is_an_error_and_not_the_end(void)
{
	begin();
	fds[0] = open("/dev/full", O_WRONLY | O_CLOEXEC);
	if (fds[0] >= 0) {
		con = console_open_fds(loop, -1, fds[0], &events, &error);
		CHECK(con != NULL);
		CHECK_EQ(console_write(con, "x", 1), -ENOSPC);
		CHECK_EQ(console_write(con, "x", 1), -ENOSPC);
	}
	end();
}

static void a_bad_descriptor_is_refused(void)
{
	begin();
	CHECK(!console_open_fds(loop, 9999, -1, &events, &error));
	CHECK(strstr(error.text, "9999"));
	end();
}

int main(void)
{
	RUN(a_full_pipe_does_not_block);
	RUN(a_pipe_that_is_emptied_is_writable);
	RUN(the_flags_of_shared_descriptors_stay);
	RUN(a_closed_pipe_is_an_error_and_no_signal);
	RUN(input_is_read_when_it_is_wanted);
	RUN(unwanted_events_do_not_wake_the_loop);
	RUN(end_of_file_is_told_and_then_quiet);
	RUN(the_filter_sees_input_first);
	RUN(the_filter_sees_input_that_nobody_reads);
	RUN(input_read_ahead_comes_before_its_end);
	RUN(what_is_read_ahead_is_bounded);
	RUN(sockets_work_both_ways);
	RUN(a_file_is_read_to_its_end_when_wanted);
	RUN(the_null_device_takes_everything);
	RUN(a_pty_passes_bytes_unchanged);
	RUN(a_pty_outlives_its_viewers);
	RUN(without_a_viewer_a_pty_takes_everything);
	RUN(a_viewer_that_does_not_read_holds_output_up);
	RUN(one_of_two_viewers_is_a_viewer);
	RUN(a_pty_has_the_size_its_viewer_sets);
	RUN(a_terminal_of_the_application_does_not_block);
	RUN(a_pty_master_is_used_as_it_is);
	RUN(a_log_file_is_emptied_first);
	RUN(a_log_file_can_be_continued);
	RUN(a_log_that_cannot_be_opened_says_why);
	RUN(a_full_disk_is_an_error_and_not_the_end);
	RUN(a_bad_descriptor_is_refused);
	return tap_done();
}
