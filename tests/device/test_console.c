/* SPDX-License-Identifier: MIT */
/*
 * The console device, driven by a fake driver over split and packed rings. For the stdio console,
 * pipes take the place of standard input and output.
 */
#include "device/console.h"
#include "tests/device/fake_driver.h"

#include "base/error.h"
#include "device/device.h"
#include "tap.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define IN       0 /* queues */
#define OUT      1

#define F_SIZE   VIRTIO_BIT(0)
#define EMERG_WR 8

static uint64_t features;
static struct fake *f;
static int to_guest = -1, from_guest = -1; /* our ends of the pipes */

static void replace(int fd, int by)
{
	dup2(by, fd);
	close(by);
}

static void begin_stdio(void)
{
	static const char *const options[] = { "stdio", NULL };
	int in[2], out[2];

	CHECK(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC | O_NONBLOCK));
	replace(STDIN_FILENO, in[0]);
	replace(STDOUT_FILENO, out[1]);
	to_guest = in[1];
	from_guest = out[0];
	f = fake_new(&virtio_console, options, NULL);
	CHECK(f && fake_start(f, features, 0));
}

static void begin_pty(void)
{
	static const char *const options[] = { "pty", NULL };

	f = fake_new(&virtio_console, options, NULL);
	CHECK(f && fake_start(f, features, 0));
}

static void close_ours(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void end(void)
{
	CHECK(!fake_needs_reset(f));
	fake_free(f);
	close_ours(&to_guest);
	close_ours(&from_guest);
}

static int64_t print(const void *text, uint32_t len)
{
	struct fake_buf buf = FAKE_OUT(text, len);

	return fake_request(f, OUT, &buf, 1);
}

/* What the guest has put out, without waiting for more. */
static size_t printed(char *to, size_t len)
{
	ssize_t n = read(from_guest, to, len);

	return n > 0 ? (size_t)n : 0;
}

static void output_reaches_the_host(void)
{
	struct fake_buf bufs[] = { FAKE_OUT("Hel", 3), FAKE_OUT("l", 1), FAKE_OUT("o\n", 2) };
	char got[16];

	begin_stdio();
	CHECK_EQ(fake_request(f, OUT, bufs, 3), 0);
	CHECK_EQ(printed(got, sizeof(got)), 6);
	CHECK(!memcmp(got, "Hello\n", 6));
	end();
}

static void input_reaches_the_guest(void)
{
	char got[64];
	struct fake_buf bufs[] = { FAKE_IN(got, 2), FAKE_IN(got + 2, 62) };
	int token;

	begin_stdio();
	token = fake_post(f, IN, bufs, 2);
	fake_kick(f, IN);
	fake_spin(f, 5);
	CHECK(!fake_done(f, IN, token));
	CHECK(write(to_guest, "login", 5) == 5);
	CHECK_EQ(fake_wait(f, IN, token), 5);
	CHECK(!memcmp(got, "login", 5));
	end();
}

static void input_is_spread_over_the_buffers(void)
{
	char got[3][2];
	int tokens[3];

	begin_stdio();
	CHECK(write(to_guest, "abcde", 5) == 5);
	for (int i = 0; i < 3; i++) {
		struct fake_buf buf = FAKE_IN(got[i], 2);

		tokens[i] = fake_post(f, IN, &buf, 1);
	}
	fake_kick(f, IN);
	CHECK_EQ(fake_wait(f, IN, tokens[0]), 2);
	CHECK_EQ(fake_wait(f, IN, tokens[1]), 2);
	CHECK_EQ(fake_wait(f, IN, tokens[2]), 1);
	CHECK(!memcmp(got, "abcde", 5));
	end();
}

/* Does the device let the loop sleep? */
static bool idle(void)
{
	struct timespec before, after;
	int64_t ns;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
	fake_spin(f, 100);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
	ns = (after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec;
	return ns < 50000000;
}

static void input_nobody_asked_for_stays_where_it_is(void)
{
	char got[16];
	struct fake_buf buf = FAKE_IN(got, 16);
	int waiting = 0;

	begin_stdio();
	CHECK_EQ(fake_post(f, IN, &buf, 1) >= 0, 1);
	fake_kick(f, IN);
	CHECK(write(to_guest, "1", 1) == 1);
	fake_spin(f, 5);
	CHECK(write(to_guest, "23", 2) == 2);
	CHECK(idle());
	CHECK(!ioctl(STDIN_FILENO, FIONREAD, &waiting) && waiting == 2);
	CHECK_EQ(fake_request(f, IN, &buf, 1), 2);
	end();
}

static void the_end_of_input_is_quiet(void)
{
	char got[16];
	struct fake_buf buf = FAKE_IN(got, 16);
	int token;

	begin_stdio();
	token = fake_post(f, IN, &buf, 1);
	fake_kick(f, IN);
	close_ours(&to_guest);
	CHECK(idle());
	CHECK(!fake_done(f, IN, token));
	CHECK_EQ(print("x", 1), 0);
	end();
}

static size_t upper(void *arg, char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (char)(bytes[i] - 32);
	return len;
}

static void the_application_can_filter_input(void)
{
	char got[16];
	struct fake_buf buf = FAKE_IN(got, 16);

	begin_stdio();
	console_set_filter(virtio_console_port(f->dev, 0), upper, NULL);
	CHECK(!virtio_console_port(f->dev, 1));
	CHECK(write(to_guest, "abc", 3) == 3);
	CHECK_EQ(fake_request(f, IN, &buf, 1), 3);
	CHECK(!memcmp(got, "ABC", 3));
	end();
}

static size_t eat(void *arg, char *bytes, size_t len)
{
	return 0;
}

static void input_that_the_filter_eats_uses_no_buffer(void)
{
	char got[16];
	struct fake_buf buf = FAKE_IN(got, 16);
	int token;

	begin_stdio();
	console_set_filter(virtio_console_port(f->dev, 0), eat, NULL);
	token = fake_post(f, IN, &buf, 1);
	fake_kick(f, IN);
	CHECK(write(to_guest, "abc", 3) == 3);
	fake_spin(f, 5);
	console_set_filter(virtio_console_port(f->dev, 0), NULL, NULL);
	CHECK(write(to_guest, "d", 1) == 1);
	CHECK_EQ(fake_wait(f, IN, token), 1);
	CHECK_EQ(got[0], 'd');
	end();
}

/* A broken device wants nothing from the host any more. */
static void a_broken_device_is_quiet(void)
{
	char got[16];
	struct fake_buf buf = FAKE_IN(got, 16);

	begin_stdio();
	CHECK(fake_post(f, IN, &buf, 1) >= 0);
	fake_kick(f, IN);
	vdev_broken(f->dev, "for the test");
	CHECK(write(to_guest, "abc", 3) == 3);
	CHECK(idle());
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(fake_request(f, IN, &buf, 1), 3);
	end();
}

/* Post buffers of counted bytes until the host takes no more; the tokens of those that wait. */
#define PIECE 12000 /* no multiple or part of what a pipe holds */

static void make_piece(uint8_t *piece, uint32_t number)
{
	for (uint32_t i = 0; i < PIECE / 4; i++)
		memcpy(piece + 4 * i, &(uint32_t){ number * (PIECE / 4) + i }, 4);
}

static unsigned stuff(void)
{
	static uint8_t piece[PIECE];
	unsigned n;

	for (n = 0; n < 64; n++) {
		struct fake_buf buf = FAKE_OUT(piece, PIECE);

		make_piece(piece, n);
		CHECK(fake_post(f, OUT, &buf, 1) >= 0);
	}
	fake_kick(f, OUT);
	fake_spin(f, 5);
	return n;
}

/* Read all of it; is it every counted word once and in order? */
static bool read_counted(unsigned pieces)
{
	uint32_t words = pieces * (PIECE / 4), next = 0;

	for (int idle = 0; next < words && idle < 200;) {
		uint32_t got[1024];
		size_t n = printed((char *)got, sizeof(got));

		for (size_t i = 0; i < n / 4; i++, next++)
			if (got[i] != next)
				return false;
		idle = n ? 0 : idle + 1;
		fake_spin(f, 0);
	}
	return next == words;
}

/* Hardening row 5: output waits in the guest, not in a buffer that grows. */
static void row_5_a_blocked_reader_costs_no_memory(void)
{
	struct mallinfo2 before, after;
	unsigned pieces, done;

	begin_stdio();
	pieces = stuff();
	done = fake_reap(f, OUT) + f->q[OUT].completions;
	CHECK(done < pieces);
	before = mallinfo2();
	for (int i = 0; i < 2000; i++)
		fake_kick_always(f, OUT);
	after = mallinfo2();
	CHECK(after.uordblks <= before.uordblks + 65536);
	CHECK(read_counted(pieces));
	fake_reap(f, OUT);
	CHECK_EQ(f->q[OUT].completions, pieces);
	end();
}

static void a_blocked_reader_does_not_stop_input(void)
{
	char got[16];
	struct fake_buf buf = FAKE_IN(got, 16);

	begin_stdio();
	stuff();
	CHECK(write(to_guest, "x", 1) == 1);
	CHECK_EQ(fake_request(f, IN, &buf, 1), 1);
	end();
}

static void a_reset_forgets_output_that_waits(void)
{
	static char got[PIECE];

	begin_stdio();
	stuff();
	fake_reset(f);
	while (printed(got, sizeof(got)))
		;
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(print("fresh", 5), 0);
	CHECK_EQ(printed(got, sizeof(got)), 5);
	CHECK(!memcmp(got, "fresh", 5));
	end();
}

/* The fresh chain has the same head as the one that was partly written. */
static void a_reset_forgets_how_far_output_was(void)
{
	static char junk[1u << 20];
	struct fake_buf buf = FAKE_OUT(junk, sizeof(junk));

	begin_stdio();
	CHECK(fake_post(f, OUT, &buf, 1) >= 0);
	fake_kick(f, OUT);
	fake_reset(f);
	while (printed(junk, sizeof(junk)))
		;
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(print("fresh", 5), 0);
	CHECK_EQ(printed(junk, sizeof(junk)), 5);
	end();
}

static void output_goes_on_after_save_and_restore(void)
{
	static const char *const options[] = { "stdio", NULL };
	unsigned pieces;

	begin_stdio();
	pieces = stuff();
	CHECK_EQ(fake_save_restore(f, options, NULL), 0);
	CHECK(read_counted(pieces));
	end();
}

static void a_reader_that_is_gone_does_not_stop_the_guest(void)
{
	begin_stdio();
	close_ours(&from_guest);
	CHECK_EQ(print("a", 1), 0);
	CHECK_EQ(print("b", 1), 0);
	end();
}

static void buffers_of_the_wrong_kind_are_returned(void)
{
	char bytes[16] = "";
	struct fake_buf in = FAKE_IN(bytes, 16), out = FAKE_OUT(bytes, 16);

	begin_stdio();
	CHECK_EQ(fake_request(f, OUT, &in, 1), 0);
	CHECK(write(to_guest, "x", 1) == 1);
	CHECK_EQ(fake_request(f, IN, &out, 1), 0);
	CHECK_EQ(fake_request(f, IN, &in, 1), 1);
	CHECK_EQ(printed(bytes, sizeof(bytes)), 0);
	end();
}

/* Hardening row 52: a chain may have as many segments as the queue has entries. */
static void row_52_chains_of_any_shape(void)
{
	struct fake_buf bufs[128];
	char got[256];

	begin_stdio();
	for (unsigned i = 0; i < 128; i++)
		bufs[i] = i % 2 ? FAKE_OUT("b", 1) : FAKE_OUT("a", 1);
	CHECK_EQ(fake_request(f, OUT, bufs, 128), 0);
	CHECK_EQ(printed(got, sizeof(got)), 128);
	CHECK(got[0] == 'a' && got[127] == 'b');
	end();
}

static void emergency_write_needs_no_driver(void)
{
	char got[16];

	begin_stdio();
	fake_reset(f);
	vdev_config_write(f->dev, EMERG_WR, 4, 'A' | 0x4200);
	vdev_config_write(f->dev, EMERG_WR, 1, 'B');
	vdev_config_write(f->dev, EMERG_WR + 1, 1, 'C');
	CHECK_EQ(printed(got, sizeof(got)), 2);
	CHECK(!memcmp(got, "AB", 2));
	end();
}

static void the_driver_cannot_change_the_config(void)
{
	begin_stdio();
	CHECK_EQ(fake_config(f, 4, 4), 1);
	for (unsigned at = 0; at < EMERG_WR; at++)
		vdev_config_write(f->dev, at, 1, 0xff);
	CHECK_EQ(fake_config(f, 0, 4), 0);
	CHECK_EQ(fake_config(f, 4, 4), 1);
	end();
}

static void a_pipe_has_no_size(void)
{
	begin_stdio();
	CHECK(!(f->dev->offered & F_SIZE));
	end();
}

static void a_pty_tells_its_size(void)
{
	struct winsize size = { .ws_col = 100, .ws_row = 30 };
	unsigned before;
	int viewer;

	begin_pty();
	viewer = open(console_pty_name(virtio_console_port(f->dev, 0)), O_RDWR | O_NOCTTY);
	CHECK(viewer >= 0 && (f->dev->offered & F_SIZE));
	before = f->config_changes;
	CHECK(!ioctl(viewer, TIOCSWINSZ, &size));
	console_check_size(virtio_console_port(f->dev, 0));
	CHECK_EQ(f->config_changes, before + 1);
	CHECK_EQ(fake_config(f, 0, 2), 100);
	CHECK_EQ(fake_config(f, 2, 2), 30);
	close(viewer);
	end();
}

static void the_size_is_told_at_the_first_output(void)
{
	unsigned before;

	begin_pty();
	before = f->config_changes;
	CHECK_EQ(print("hi", 2), 0);
	CHECK_EQ(f->config_changes, before + 1);
	CHECK_EQ(print("hi", 2), 0);
	CHECK_EQ(f->config_changes, before + 1);
	end();
}

static void a_pty_works_both_ways(void)
{
	char got[16];
	struct fake_buf buf = FAKE_IN(got, 16);
	int viewer;

	begin_pty();
	viewer = open(console_pty_name(virtio_console_port(f->dev, 0)), O_RDWR | O_NOCTTY);
	CHECK_EQ(print("hi", 2), 0);
	CHECK_EQ(read(viewer, got, sizeof(got)), 2);
	CHECK_EQ(write(viewer, "yes", 3), 3);
	CHECK_EQ(fake_request(f, IN, &buf, 1), 3);
	close(viewer);
	end();
}

static void a_pty_without_a_viewer_does_not_stop_the_guest(void)
{
	static char text[4096];

	begin_pty();
	for (int i = 0; i < 200; i++)
		CHECK_EQ(print(text, sizeof(text)), 0);
	end();
}

static void a_log_file_gets_the_output(void)
{
	char name[] = "/tmp/vizor-log-XXXXXX", option[64];
	const char *const options[] = { option, NULL };
	char got[16], in[16];
	struct fake_buf buf = FAKE_IN(in, 16);
	int fd = mkstemp(name), token;

	snprintf(option, sizeof(option), "logFilePath=%s", name);
	f = fake_new(&virtio_console, options, NULL);
	CHECK(f && fake_start(f, features, 0));
	token = fake_post(f, IN, &buf, 1);
	fake_kick(f, IN);
	CHECK_EQ(print("logged", 6), 0);
	CHECK_EQ(read(fd, got, sizeof(got)), 6);
	fake_spin(f, 5);
	CHECK(!fake_done(f, IN, token));
	close(fd);
	unlink(name);
	end();
}

static void check_refused(const char *a, const char *b, const char *text)
{
	const char *const options[] = { a, b, NULL };
	struct vz_error e = { 0 };

	CHECK(!fake_new(&virtio_console, options, &e));
	CHECK_STR(e.text, text);
}

static void exactly_one_backend_is_needed(void)
{
	check_refused(NULL, NULL, "one of 'logFilePath', 'stdio' or 'pty' must be set");
	check_refused("stdio", "pty", "'stdio' and 'pty' cannot be set at the same time");
	check_refused("stdio", "logFilePath=/dev/null",
		"'logFilePath' and 'stdio' cannot be set at the same time");
	check_refused("logFilePath=/dev/null", "pty",
		"'logFilePath' and 'pty' cannot be set at the same time");
}

static void a_log_that_cannot_be_opened_names_the_option(void)
{
	static const char *const options[] = { "logFilePath=/nonexistent/x", NULL };
	struct vz_error e = { 0 };

	CHECK(!fake_new(&virtio_console, options, &e));
	CHECK_STR(e.where, "logFilePath");
	CHECK(strstr(e.text, "/nonexistent/x"));
}

static void both_names_find_the_class(void)
{
	CHECK(device_find("virtio-serial") == &virtio_console);
	CHECK(device_find("virtio-console") == &virtio_console);
	CHECK(!device_find("virtio-nothing"));
}

#define BOTH(fn)                        \
	do {                            \
		features = FAKE_ALL;    \
		RUN(fn);                \
		features = FAKE_PACKED; \
		RUN(fn);                \
	} while (0)

int main(void)
{
	stdout = fdopen(dup(STDOUT_FILENO), "w");
	BOTH(output_reaches_the_host);
	BOTH(input_reaches_the_guest);
	BOTH(input_is_spread_over_the_buffers);
	BOTH(input_nobody_asked_for_stays_where_it_is);
	BOTH(the_end_of_input_is_quiet);
	BOTH(the_application_can_filter_input);
	BOTH(input_that_the_filter_eats_uses_no_buffer);
	BOTH(a_broken_device_is_quiet);
	BOTH(row_5_a_blocked_reader_costs_no_memory);
	BOTH(a_blocked_reader_does_not_stop_input);
	BOTH(a_reset_forgets_output_that_waits);
	BOTH(a_reset_forgets_how_far_output_was);
	BOTH(output_goes_on_after_save_and_restore);
	BOTH(a_reader_that_is_gone_does_not_stop_the_guest);
	BOTH(buffers_of_the_wrong_kind_are_returned);
	BOTH(row_52_chains_of_any_shape);
	BOTH(emergency_write_needs_no_driver);
	BOTH(the_driver_cannot_change_the_config);
	BOTH(a_pipe_has_no_size);
	BOTH(a_pty_tells_its_size);
	BOTH(the_size_is_told_at_the_first_output);
	BOTH(a_pty_works_both_ways);
	BOTH(a_pty_without_a_viewer_does_not_stop_the_guest);
	BOTH(a_log_file_gets_the_output);
	RUN(exactly_one_backend_is_needed);
	RUN(a_log_that_cannot_be_opened_names_the_option);
	RUN(both_names_find_the_class);
	return tap_done();
}
