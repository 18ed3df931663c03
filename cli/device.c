/* SPDX-License-Identifier: MIT */
/* The values of --device and --bootloader: lists of key=value. */
#include "cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_serial(const char *name)
{
	return !strcmp(name, "virtio-serial") || !strcmp(name, "virtio-console");
}

void device_list(void)
{
	vz_class_info info;

	for (unsigned i = 0; vz_device_class(i, &info); i++)
		printf("%-16s %s\n", info.name, info.summary);
}

static void device_help(const char *name)
{
	vz_option_info info;

	printf("%s\n", name);
	for (unsigned i = 0; vz_device_class_option(name, i, &info); i++) {
		printf("  %-14s %-14s %s", info.name, info.type, info.help ? info.help : "");
		if (info.required)
			printf(" (required)");
		else if (info.def)
			printf(" (%s)", info.def);
		printf("\n");
	}
}

/* Cut "key=value" in two; value NULL: the key alone. */
static char *cut(char *part)
{
	char *equals = strchr(part, '=');

	if (!equals)
		return NULL;
	*equals = '\0';
	return equals + 1;
}

static int add_device(struct options *o, char **parts)
{
	bool serial = is_serial(parts[0]);
	vz_error e = { 0 };
	vz_device *device = vz_device_new(parts[0], &e);

	if (!device)
		return fail("%s", e.text);
	if (parts[1] && !strcmp(parts[1], "help")) {
		device_help(parts[0]);
		vz_device_free(device);
		return EXIT_SAID;
	}
	for (unsigned i = 1; parts[i]; i++) {
		char *value = cut(parts[i]);

		/* A wrong one stays with the device: it is reported with all that is wrong. */
		vz_device_set(device, parts[i], value, NULL);
		if (serial && !strcmp(parts[i], "stdio") && o->stdio_console < 0)
			o->stdio_console = (int)o->consoles;
	}
	o->consoles += serial;
	return vz_config_add_device(o->config, device, &e) ? fail_error(&e) : 0;
}

int device_option(struct options *o, const char *value)
{
	bool mismatched = false;
	char **parts;
	int r;

	if (!*value)
		return fail("empty option list in command line argument");
	if (!strcmp(value, "help")) {
		device_list();
		return EXIT_SAID;
	}
	parts = split(value, &mismatched);
	if (!parts)
		return fail("%s", mismatched ? "mismatched \"" : "out of memory");
	r = add_device(o, parts);
	split_free(parts);
	return r;
}

static int linux_key(struct options *o, char *key, const char *value)
{
	static const char *const keys[] = { "kernel", "initrd", "cmdline" };
	char **slots[] = { &o->kernel, &o->initrd, &o->cmdline };
	const char *near;

	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(key, keys[i]))
			continue;
		if (!value)
			return fail("bootloader.%s needs a value: %s=...", key, key);
		free(*slots[i]);
		*slots[i] = strdup(value);
		return *slots[i] ? 0 : fail("out of memory");
	}
	near = nearest(key, keys, 3, sizeof(keys[0]));
	return fail("unknown option for linux bootloaders: %s%s%s%s", key,
		near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static int add_bootloader(struct options *o, char **parts)
{
	int r = 0;

	if (!strcmp(parts[0], "efi") || !strcmp(parts[0], "macos"))
		return fail("bootloader type %s is not supported by this version: use linux",
			parts[0]);
	if (strcmp(parts[0], "linux"))
		return fail("unknown bootloader type: %s", parts[0]);
	for (unsigned i = 1; parts[i] && !r; i++) {
		char *value = cut(parts[i]);

		r = linux_key(o, parts[i], value);
	}
	return r;
}

int bootloader_option(struct options *o, const char *value)
{
	bool mismatched = false;
	char **parts;
	int r;

	if (!*value)
		return fail("empty option list in --bootloader command line argument");
	parts = split(value, &mismatched);
	if (!parts)
		return fail("%s", mismatched ? "mismatched \"" : "out of memory");
	o->has_bootloader = true;
	r = add_bootloader(o, parts);
	split_free(parts);
	return r;
}

/* Does a word of the command line begin like this? */
static bool has_word(const char *cmdline, const char *begin)
{
	size_t len = strlen(begin);

	for (const char *p = strstr(cmdline, begin); p; p = strstr(p + len, begin))
		if (p == cmdline || p[-1] == ' ')
			return true;
	return false;
}

/*
 * A panic ends the guest instead of leaving it hanging, and its text goes to the serial port,
 * where the command line sees it. In front, so that the user's own words have the last say.
 */
char *cmdline_for_guest(const char *cmdline)
{
	bool panic = has_word(cmdline, "panic=");
	bool serial = has_word(cmdline, "earlyprintk") || has_word(cmdline, "earlycon") ||
		      has_word(cmdline, "console=ttyS") || has_word(cmdline, "console=uart");
	char *text;

	if (asprintf(&text, "%s%s%s", panic ? "" : "panic=-1 ",
		    serial ? "" : "earlyprintk=ttyS0,keep ", cmdline) < 0)
		return NULL;
	return text;
}
