/* SPDX-License-Identifier: MIT */
/*
 * The options of run and validate: one table for the parser, the help text and the manual's test.
 */
#include "cli.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Wrong values stay in the configuration, and making or validating the machine reports them. */

static int set_cpus(struct options *o, const char *value)
{
	unsigned long long n;

	if (!parse_number(value, &n) || n > UINT_MAX)
		return fail("--cpus: '%s' is not a number of CPUs: choose %d to %d", value,
			VZ_CPUS_MIN, VZ_CPUS_MAX);
	vz_config_set_cpus(o->config, (unsigned)n, NULL);
	return 0;
}

static int set_memory(struct options *o, const char *value)
{
	unsigned long long n;

	if (!parse_number(value, &n) || n > ULLONG_MAX >> 20)
		return fail("--memory: '%s' is not a number of MiB: choose %llu to %llu", value,
			VZ_MEMORY_MIN >> 20, VZ_MEMORY_MAX >> 20);
	vz_config_set_memory(o->config, n << 20, NULL);
	return 0;
}

static int keep(char **slot, const char *value)
{
	free(*slot);
	*slot = strdup(value);
	return *slot ? 0 : fail("out of memory");
}

static int set_kernel(struct options *o, const char *value)
{
	o->has_legacy = true;
	return keep(&o->kernel, value);
}

static int set_initrd(struct options *o, const char *value)
{
	o->has_legacy = true;
	return keep(&o->initrd, value);
}

static int set_cmdline(struct options *o, const char *value)
{
	o->has_legacy = true;
	return keep(&o->cmdline, value);
}

static int set_engine(struct options *o, const char *value)
{
	vz_config_set_engine(o->config, value, NULL);
	return 0;
}

static int set_engine_options(struct options *o, const char *value)
{
	vz_config_set_engine_options(o->config, value, NULL);
	return 0;
}

static int set_pidfile(struct options *o, const char *value)
{
	o->pidfile = value;
	return 0;
}

static int set_log_level(struct options *o, const char *value)
{
	static const char *const names[] = { "error", "info", "debug" };
	static const vz_log_level levels[] = { VZ_LOG_ERROR, VZ_LOG_INFO, VZ_LOG_DEBUG };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(value, names[i])) {
			o->log_level = levels[i];
			return 0;
		}
	}
	return fail("unknown log level: %s", value);
}

static int show_version(struct options *o, const char *value)
{
	printf("vizor version: %s\n", vz_version());
	return EXIT_SAID;
}

static int show_help(struct options *o, const char *value)
{
	help_print();
	return EXIT_SAID;
}

const struct cli_option cli_options[] = {
	{ "cpus", 'c', "N", "number of virtual CPUs (1)", set_cpus },
	{ "memory", 'm', "MIB", "memory in MiB (512)", set_memory },
	{ "bootloader", 'b', "LIST", "linux,kernel=PATH,initrd=PATH,cmdline=\"WORDS\"",
		bootloader_option },
	{ "kernel", 'k', "PATH", "Linux kernel: bzImage or ELF vmlinux", set_kernel },
	{ "initrd", 'i', "PATH", "initial RAM disk", set_initrd },
	{ "kernel-cmdline", 'C', "WORDS", "kernel command line", set_cmdline },
	{ "device", 'd', "NAME,KEY=VALUE...",
		"add a device; 'help' lists them, 'NAME,help' a device's keys", device_option },
	{ "engine", 0, "NAME", "auto, kvm or soft (auto)", set_engine },
	{ "engine-options", 0, "WORDS", "settings of the engine, for tests and measurements",
		set_engine_options },
	{ "pidfile", 0, "PATH", "write the process id there while the machine exists",
		set_pidfile },
	{ "log-level", 0, "LEVEL", "error, info or debug (error)", set_log_level },
	{ "version", 'v', NULL, "print the version and exit", show_version },
	{ "help", 'h', NULL, "print this help and exit", show_help },
};
const size_t cli_options_count = sizeof(cli_options) / sizeof(cli_options[0]);

static const struct cli_option *find_long(const char *name, size_t len)
{
	for (size_t i = 0; i < cli_options_count; i++)
		if (strlen(cli_options[i].name) == len && !memcmp(cli_options[i].name, name, len))
			return &cli_options[i];
	return NULL;
}

static const struct cli_option *find_letter(char letter)
{
	for (size_t i = 0; i < cli_options_count; i++)
		if (cli_options[i].letter == letter)
			return &cli_options[i];
	return NULL;
}

static int unknown(const char *arg, size_t len)
{
	char name[64];
	const char *near;

	snprintf(name, sizeof(name), "%.*s", (int)(len < 60 ? len : 60), arg + 2);
	near = arg[1] == '-' ? nearest(name, cli_options, cli_options_count, sizeof(cli_options[0]))
			     : NULL;
	if (near)
		return fail("unknown option: --%s (did you mean --%s?)", name, near);
	return fail("unknown option: %s; 'vizor --help' lists them all", arg);
}

/* The option that arg names, and its value if it is in the same word ("--a=b", "-ab", "-a=b"). */
static const struct cli_option *recognise(const char *arg, const char **value)
{
	const struct cli_option *option;
	size_t len;

	*value = NULL;
	if (arg[1] != '-') {
		option = find_letter(arg[1]);
		if (option && arg[2])
			*value = arg + 2 + (arg[2] == '=');
		return option;
	}
	len = strcspn(arg + 2, "=");
	if (arg[2 + len])
		*value = arg + 2 + len + 1;
	return find_long(arg + 2, len);
}

/* The option at *i, which moves to its value if that is a word of its own. */
static int parse_one(struct options *o, int argc, char **argv, int *i)
{
	const char *arg = argv[*i], *value;
	const struct cli_option *option;

	if (arg[0] != '-' || !arg[1])
		return fail("unexpected argument: %s", arg);
	option = recognise(arg, &value);
	if (!option)
		return unknown(arg, strcspn(arg + 2, "="));
	if (!option->arg && value)
		return fail("--%s takes no value", option->name);
	if (option->arg && !value && *i + 1 == argc)
		return fail("--%s needs a value: %s", option->name, option->arg);
	if (option->arg && !value)
		value = argv[++*i];
	return option->set(o, value);
}

static int parse_all(struct options *o, int argc, char **argv, bool every)
{
	for (int i = 0; i < argc; i++) {
		int r = parse_one(o, argc, argv, &i);

		if (r == EXIT_SAID || (r && !every))
			return r;
		o->faults += r != 0;
	}
	return 0;
}

static int apply_bootloader(struct options *o)
{
	vz_error e = { 0 };
	char *cmdline;
	int r;

	if (o->has_bootloader && o->has_legacy)
		return fail("--bootloader cannot be combined with --kernel, --initrd and "
			    "--kernel-cmdline");
	if (o->has_legacy && !o->kernel)
		return fail("--initrd and --kernel-cmdline need --kernel");
	if (!o->kernel)
		return 0;
	cmdline = cmdline_for_guest(o->cmdline ? o->cmdline : "");
	if (!cmdline)
		return fail("out of memory");
	r = vz_config_set_linux(o->config, o->kernel, o->initrd, cmdline, &e);
	free(cmdline);
	return r ? fail_error(&e) : 0;
}

int options_parse(struct options *o, int argc, char **argv, bool every)
{
	int r;

	*o = (struct options){ .log_level = VZ_LOG_ERROR, .stdio_console = -1 };
	o->config = vz_config_new();
	if (!o->config)
		return fail("out of memory");
	r = parse_all(o, argc, argv, every);
	if (!r) {
		r = apply_bootloader(o);
		o->faults += r != 0;
	}
	if (!r || (every && r != EXIT_SAID))
		return -1;
	options_fini(o);
	return r == EXIT_SAID ? 0 : 1;
}

void options_fini(struct options *o)
{
	vz_config_free(o->config);
	free(o->kernel);
	free(o->initrd);
	free(o->cmdline);
	memset(o, 0, sizeof(*o));
}
