/* SPDX-License-Identifier: MIT */
/* vizor run: one machine from its start to its end. */
#include "cli.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GRACE_MS 5000 /* from the power button to pulling the plug */

struct run {
	struct options options;
	vz_machine *machine;
	struct tail tail;
	int signals, quit;    /* signalfd, eventfd */
	bool pidfile_written; /* and it is a file, not a device */
	bool stopping;
	long long deadline; /* ms on CLOCK_MONOTONIC; 0: none */
	bool done;
	int status;
};

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* --- ending ------------------------------------------------------------------------------ */

static void end(struct run *r, int status)
{
	r->done = true;
	if (status)
		r->status = status;
}

static void show_last_messages(struct run *r)
{
	/* At that level they have been on standard error all along. */
	if (r->options.log_level != VZ_LOG_DEBUG)
		tail_print(&r->tail);
}

static void end_by_panic(struct run *r)
{
	show_last_messages(r);
	end(r, fail("guest kernel panicked: %s", r->tail.panic));
}

static void end_by_error(struct run *r, const vz_error *error, const char *detail)
{
	char copy[4096], *line, *rest = copy;

	show_last_messages(r);
	snprintf(copy, sizeof(copy), "%s", detail ? detail : "");
	while ((line = strsep(&rest, "\n")))
		if (*line)
			note("%s", line);
	end(r, fail_error(error));
}

/* Pull the plug; what is over already just ends. */
static void stop_now(struct run *r)
{
	r->deadline = 0;
	if (vz_machine_can(r->machine, VZ_VERB_STOP))
		vz_machine_stop(r->machine, NULL, NULL);
	else if (vz_machine_state(r->machine) == VZ_STOPPED)
		end(r, 0);
}

/* Ask first; whoever asks twice means it. */
static void stop_politely(struct run *r)
{
	bool again = r->stopping;

	r->stopping = true;
	if (again || vz_machine_request_stop(r->machine, NULL))
		stop_now(r);
	else
		r->deadline = now_ms() + GRACE_MS;
}

/* --- what the machine tells -------------------------------------------------------------- */

static void on_event(void *arg, const vz_event *event)
{
	struct run *r = arg;

	switch (event->kind) {
	case VZ_EVENT_SERIAL:
		tail_add(&r->tail, event->bytes, event->len);
		if (r->options.log_level == VZ_LOG_DEBUG &&
			write(STDERR_FILENO, event->bytes, event->len) < 0)
			break;
		break;
	case VZ_EVENT_RESET:
		/* A guest that panics resets itself; booting it again would only repeat that. */
		if (r->tail.panic[0])
			end_by_panic(r);
		break;
	case VZ_EVENT_STOPPED:
		if (r->tail.panic[0])
			end_by_panic(r);
		else
			end(r, 0);
		break;
	case VZ_EVENT_ERROR:
		end_by_error(r, &event->error, event->detail);
		break;
	case VZ_EVENT_STATE:
		break;
	}
}

static void on_started(void *arg, const vz_error *error)
{
	struct run *r = arg;

	if (error && !r->stopping)
		end_by_error(r, error, NULL);
}

static void on_log(void *arg, vz_log_level level, const char *line)
{
	static const char *const names[] = { "error", "info", "debug" };

	note("%s: %s", names[level], line);
}

/* --- what the user tells ----------------------------------------------------------------- */

static void on_signal(struct run *r)
{
	struct signalfd_siginfo info;

	if (read(r->signals, &info, sizeof(info)) != sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGWINCH:
		if (r->options.stdio_console >= 0)
			vz_machine_console_resized(r->machine, (unsigned)r->options.stdio_console);
		break;
	case SIGCONT:
		term_resume();
		break;
	default:
		stop_politely(r);
	}
}

static void wait_for_end(struct run *r)
{
	struct pollfd fds[] = {
		{ .fd = vz_machine_fd(r->machine), .events = POLLIN },
		{ .fd = r->signals, .events = POLLIN },
		{ .fd = r->quit, .events = POLLIN },
	};

	while (!r->done) {
		long long left = r->deadline ? r->deadline - now_ms() : -1;

		if (r->deadline && left <= 0) {
			stop_now(r);
			continue;
		}
		if (poll(fds, 3, (int)left) < 0 && errno != EINTR) {
			end(r, fail("poll: %s", strerror(errno)));
			return;
		}
		if (fds[0].revents)
			vz_machine_dispatch(r->machine, 0);
		if (fds[1].revents && !r->done)
			on_signal(r);
		if (fds[2].revents && !r->done) {
			eventfd_t count;

			eventfd_read(r->quit, &count);
			stop_now(r);
		}
	}
}

/* --- beginning and cleaning up ----------------------------------------------------------- */

static int open_signals(struct run *r)
{
	static const int wanted[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		sigaddset(&set, wanted[i]);
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	r->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	r->quit = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return r->signals < 0 || r->quit < 0 ? fail("cannot wait for signals: %s", strerror(errno))
					     : 0;
}

static int write_pidfile(struct run *r)
{
	const char *path = r->options.pidfile;
	struct stat st;
	FILE *f;

	if (!path)
		return 0;
	f = fopen(path, "we");
	if (f) {
		r->pidfile_written = fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode);
		fprintf(f, "%d\n", (int)getpid());
	}
	if (!f || fclose(f))
		return fail("--pidfile: %s: %s", path, strerror(errno));
	return 0;
}

/* Only a file that still says what was written: it may be another process's by now. */
static void remove_pidfile(const struct run *r)
{
	const char *path = r->options.pidfile;
	char text[32] = "", ours[32];
	FILE *f = r->pidfile_written ? fopen(path, "re") : NULL;

	if (!f)
		return;
	snprintf(ours, sizeof(ours), "%d\n", (int)getpid());
	if (fgets(text, sizeof(text), f) && !strcmp(text, ours))
		unlink(path);
	fclose(f);
}

static void open_consoles(struct run *r)
{
	for (unsigned i = 0; i < r->options.consoles; i++) {
		const char *pty = vz_machine_console_pty(r->machine, i);

		if (pty)
			note("console %u is %s", i, pty);
	}
	if (r->options.stdio_console < 0)
		return;
	term_raw();
	if (term_is_raw())
		vz_machine_console_filter(r->machine, (unsigned)r->options.stdio_console,
			term_filter, &r->quit);
}

static int start(struct run *r)
{
	vz_error error = { 0 };
	int result;

	vz_log_set(r->options.log_level, on_log, NULL);
	if (open_signals(r))
		return 1;
	r->machine = vz_machine_new(r->options.config, &error);
	if (!r->machine)
		return fail_error(&error);
	if (write_pidfile(r))
		return 1;
	vz_machine_on_event(r->machine, on_event, r);
	open_consoles(r);
	result = vz_machine_start(r->machine, on_started, r);
	return result ? fail("cannot start: %s", strerror(-result)) : 0;
}

static void print_counters(struct run *r)
{
	const char *name;
	uint64_t value;

	for (unsigned i = 0; vz_machine_counter(r->machine, i, &name, &value); i++)
		note("counter %s %" PRIu64, name, value);
}

static void clean_up(struct run *r)
{
	if (r->machine && r->options.log_level == VZ_LOG_DEBUG)
		print_counters(r);
	vz_machine_free(r->machine);
	term_restore();
	remove_pidfile(r);
	vz_log_set(VZ_LOG_ERROR, NULL, NULL);
	if (r->signals > 0)
		close(r->signals);
	if (r->quit > 0)
		close(r->quit);
	options_fini(&r->options);
}

int cmd_run(int argc, char **argv)
{
	struct run *r = calloc(1, sizeof(*r));
	int status;

	if (!r)
		return fail("out of memory");
	status = options_parse(&r->options, argc, argv, false);
	if (status < 0) {
		status = start(r);
		if (!status) {
			wait_for_end(r);
			status = r->status;
		}
		clean_up(r);
	}
	free(r);
	return status;
}
