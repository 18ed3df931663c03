/* SPDX-License-Identifier: MIT */
/*
 * The command line: what its files share. It uses libvizor's public interface and libc, nothing
 * else.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <vizor/vizor.h>

/* --- text.c ---------------------------------------------------------------------------------- */

/*
 * One line on standard error, "vizor: …", whatever mode the terminal is in. Returns 1, the exit
 * status.
 */
int fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int fail_error(const vz_error *error); /* "vizor: devices[1].path: …" */
/* The same without "vizor: " and without being an error. */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Of count words, size bytes apart and beginning with a char *, the nearest to text, or NULL. */
const char *nearest(const char *text, const void *words, size_t count, size_t size);
/*
 * Split at commas outside double quotes, which are removed. NULL: mismatched quote or out of
 * memory.
 */
char **split(const char *text, bool *mismatched);
void split_free(char **parts);
bool parse_number(const char *text, unsigned long long *value);

/* --- options.c ------------------------------------------------------------------------------- */

#define EXIT_SAID 1000 /* from set: all was said, end with status 0 */

struct options;
struct cli_option {
	const char *name;
	char letter;     /* 0: none */
	const char *arg; /* what its value is called; NULL: it takes none */
	const char *help;
	int (*set)(struct options *o, const char *value);
};
extern const struct cli_option cli_options[];
extern const size_t cli_options_count;

struct options {
	vz_config *config;
	char *kernel, *initrd, *cmdline;
	bool has_bootloader, has_legacy;
	const char *pidfile;
	vz_log_level log_level;
	unsigned consoles; /* virtio-serial devices */
	int stdio_console; /* index of the one on standard input and output; -1: none */
	unsigned faults;   /* wrong options met so far */
};

/*
 * Parse all arguments into a configuration. -1: go on; else the exit status (after --help, or an
 * error). every: say all that is wrong, count it in faults, and go on.
 */
int options_parse(struct options *o, int argc, char **argv, bool every);
void options_fini(struct options *o);

/* --- device.c -------------------------------------------------------------------------------- */

int device_option(struct options *o, const char *value);
int bootloader_option(struct options *o, const char *value);
void device_list(void); /* on standard output */
/* The command line with the words that make a panic visible and final, unless it has its own. */
char *cmdline_for_guest(const char *cmdline);

/* --- term.c ---------------------------------------------------------------------------------- */

/* Standard input becomes raw when it is a terminal of ours; every way out restores it. */
void term_raw(void);
void term_restore(void);
void term_resume(void); /* after SIGCONT */
bool term_is_raw(void);
/* The filter for a terminal's keys: Ctrl-A x makes quit_fd (an eventfd) readable. */
size_t term_filter(void *quit_fd, char *bytes, size_t len);

/* --- tail.c ---------------------------------------------------------------------------------- */

/* The last of what the guest said on its serial port, and whether that was a panic. */
struct tail {
	char bytes[8192];
	size_t len;
	char line[512];
	size_t line_len;
	char panic[256]; /* "" until a panic was seen */
};
void tail_add(struct tail *t, const char *bytes, size_t len);
void tail_print(const struct tail *t);

/* --- one verb each --------------------------------------------------------------------------- */

int cmd_run(int argc, char **argv);
int cmd_validate(int argc, char **argv);
int cmd_engines(int argc, char **argv);
int cmd_help(int argc, char **argv);
void help_print(void);

#endif
