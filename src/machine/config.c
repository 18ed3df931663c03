/* SPDX-License-Identifier: MIT */
/*
 * vz_config and vz_device: setters and defaults. Validation is in validate.c, what there is to
 * choose from in choices.c.
 */
#include "machine/config.h"
#include "base/arith.h"
#include "base/error.h"
#include "base/str.h"
#include "device/device.h"
#include "machine/board.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vizor/vizor.h>

#define DEFAULT_CPUS   1
#define DEFAULT_MEMORY (512 * MiB)

static void faults_clear(struct faults *f, const char *where)
{
	for (unsigned i = 0; i < f->count; i++)
		if (!strcmp(f->list[i].where, where))
			f->list[i--] = f->list[--f->count];
}

/* Remember the fault for validation; gives its code back. */
static int faults_add(struct faults *f, const struct vz_error *fault)
{
	struct vz_error *list;

	faults_clear(f, fault->where);
	list = realloc(f->list, (f->count + 1) * sizeof(*list));
	if (!list) {
		f->lost = true;
		return fault->code;
	}
	f->list = list;
	list[f->count++] = *fault;
	return fault->code;
}

static int refuse(struct faults *f, struct vz_error *e, const struct vz_error *fault)
{
	if (e)
		*e = *fault;
	return faults_add(f, fault);
}

vz_config *vz_config_new(void)
{
	struct vz_config *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->cpus = DEFAULT_CPUS;
	c->memory = DEFAULT_MEMORY;
	c->engine = strdup("auto");
	if (!c->engine) {
		vz_config_free(c);
		return NULL;
	}
	return c;
}

void vz_config_free(vz_config *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < c->ndevices; i++)
		vz_device_free(c->devices[i]);
	free(c->devices);
	free(c->engine);
	free(c->engine_options);
	free(c->kernel);
	free(c->initrd);
	free(c->cmdline);
	free(c->faults.list);
	free(c);
}

int vz_config_set_cpus(vz_config *c, unsigned cpus, vz_error *e)
{
	struct vz_error fault = { 0 };

	if (cpus < VZ_CPUS_MIN || cpus > VZ_CPUS_MAX) {
		err_set(&fault, ERANGE, "cpus", "%u CPUs are not possible: choose %d to %d", cpus,
			VZ_CPUS_MIN, VZ_CPUS_MAX);
		return refuse(&c->faults, e, &fault);
	}
	faults_clear(&c->faults, "cpus");
	c->cpus = cpus;
	return 0;
}

int vz_config_set_memory(vz_config *c, uint64_t bytes, vz_error *e)
{
	struct vz_error fault = { 0 };

	if (bytes < VZ_MEMORY_MIN || bytes > VZ_MEMORY_MAX)
		err_set(&fault, ERANGE, "memory",
			"%llu MiB of memory are not possible: choose %llu to %llu MiB",
			(unsigned long long)(bytes / MiB), VZ_MEMORY_MIN / MiB,
			VZ_MEMORY_MAX / MiB);
	else if (bytes % MiB)
		err_set(&fault, EINVAL, "memory", "%llu bytes are not a multiple of 1 MiB",
			(unsigned long long)bytes);
	if (fault.code)
		return refuse(&c->faults, e, &fault);
	faults_clear(&c->faults, "memory");
	c->memory = bytes;
	return 0;
}

static int set_string(char **slot, const char *text, const char *where, struct vz_error *e)
{
	return str_replace(slot, text) ? err_set(e, ENOMEM, where, "out of memory") : 0;
}

static const char *nearest_engine(const char *name)
{
	const char *words[8] = { "auto" };

	for (unsigned i = 0; engine_classes[i] && i + 2 < ARRAY_SIZE(words); i++)
		words[i + 1] = engine_classes[i]->name;
	return nearest_word(name, words);
}

static bool is_engine(const char *name)
{
	for (unsigned i = 0; engine_classes[i]; i++)
		if (!strcmp(engine_classes[i]->name, name))
			return true;
	return !strcmp(name, "auto");
}

int vz_config_set_engine(vz_config *c, const char *engine, vz_error *e)
{
	struct vz_error fault = { 0 };

	if (!is_engine(engine)) {
		const char *near = nearest_engine(engine);

		err_set(&fault, EINVAL, "engine", "unknown engine: %s%s%s%s", engine,
			near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
		return refuse(&c->faults, e, &fault);
	}
	faults_clear(&c->faults, "engine");
	return set_string(&c->engine, engine, "engine", e);
}

int vz_config_set_engine_options(vz_config *c, const char *options, vz_error *e)
{
	return set_string(&c->engine_options, options, "engine", e);
}

int vz_config_set_linux(vz_config *c, const char *kernel, const char *initrd, const char *cmdline,
	vz_error *e)
{
	int r;

	r = set_string(&c->kernel, kernel, "bootloader.kernel", e);
	if (!r)
		r = set_string(&c->initrd, initrd, "bootloader.initrd", e);
	if (!r)
		r = set_string(&c->cmdline, cmdline, "bootloader.cmdline", e);
	c->has_kernel = !r && kernel;
	return r;
}

struct boot_request config_boot_request(const struct vz_config *c)
{
	return (struct boot_request){
		.kernel = c->kernel,
		.initrd = c->initrd,
		.cmdline = c->cmdline,
		.rsdp = BOARD_ACPI,
		.reserved = { { BOARD_ECAM, BOARD_ECAM_SIZE } },
		.nreserved = 1,
	};
}

static const char *nearest_class(const char *name)
{
	const char *words[65] = { 0 };

	for (unsigned i = 0; device_classes[i] && i + 1 < ARRAY_SIZE(words); i++)
		words[i] = device_classes[i]->name;
	return nearest_word(name, words);
}

vz_device *vz_device_new(const char *class_name, vz_error *e)
{
	const struct device_class *class = device_find(class_name);
	struct vz_device *d;

	if (!class) {
		const char *near = nearest_class(class_name);

		err_set(e, EINVAL, "devices", "unknown device type: %s%s%s%s", class_name,
			near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
		return NULL;
	}
	d = calloc(1, sizeof(*d));
	if (d)
		d->sample = vdev_new(class);
	if (!d || !d->sample) {
		vz_device_free(d);
		err_set(e, ENOMEM, "devices", "out of memory");
		return NULL;
	}
	d->class = class;
	return d;
}

void vz_device_free(vz_device *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < d->nsettings; i++) {
		if (d->settings[i].fd >= 0)
			close(d->settings[i].fd);
		free(d->settings[i].key);
		free(d->settings[i].value);
	}
	free(d->settings);
	free(d->faults.list);
	vdev_free(d->sample);
	free(d);
}

static const struct option *find_option(const struct device_class *class, const char *key)
{
	for (const struct option *o = class->options; o && o->name; o++)
		if (!strcmp(o->name, key))
			return o;
	return NULL;
}

/*
 * Keep what was set. A descriptor number is only good while the caller keeps it open, so the
 * setting names a duplicate of our own.
 */
static int keep_setting(struct vz_device *d, const char *key, const char *value)
{
	const struct option *o = find_option(d->class, key);
	struct setting *list = realloc(d->settings, (d->nsettings + 1) * sizeof(*list)), *s;
	uint64_t fd;

	if (!list)
		return -ENOMEM;
	d->settings = list;
	s = &list[d->nsettings];
	*s = (struct setting){ .key = strdup(key), .fd = -1 };
	if (value && o && o->type == OPT_FD && !parse_u64(value, &fd)) {
		s->fd = fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
		if (s->fd < 0 || asprintf(&s->value, "%d", s->fd) < 0)
			s->value = NULL;
	} else if (value) {
		s->value = strdup(value);
	}
	if (!s->key || (value && !s->value)) {
		free(s->key);
		free(s->value);
		if (s->fd >= 0)
			close(s->fd);
		return -ENOMEM;
	}
	d->nsettings++;
	return 0;
}

int vz_device_set(vz_device *d, const char *key, const char *value, vz_error *e)
{
	struct vz_error fault = { 0 };

	if (vdev_option(d->sample, key, value, &fault)) {
		if (!fault.where[0])
			snprintf(fault.where, sizeof(fault.where), "%s", key);
		return refuse(&d->faults, e, &fault);
	}
	faults_clear(&d->faults, key);
	if (keep_setting(d, key, value)) {
		err_set(&fault, ENOMEM, key, "out of memory");
		return refuse(&d->faults, e, &fault);
	}
	return 0;
}

int vz_config_add_device(vz_config *c, vz_device *d, vz_error *e)
{
	struct vz_device **list = NULL;

	if (!d)
		return err_set(e, EINVAL, "devices", "no device given");
	list = realloc(c->devices, (c->ndevices + 1) * sizeof(struct vz_device *));
	if (!list) {
		vz_device_free(d);
		return err_set(e, ENOMEM, "devices", "out of memory");
	}
	c->devices = list;
	list[c->ndevices++] = d;
	return 0;
}

struct vdev *config_device_make(const struct vz_device *d, struct vz_error *e)
{
	struct vdev *dev = vdev_new(d->class);

	if (!dev) {
		err_set(e, ENOMEM, NULL, "out of memory");
		return NULL;
	}
	for (unsigned i = 0; i < d->nsettings; i++) {
		if (vdev_option(dev, d->settings[i].key, d->settings[i].value, e)) {
			vdev_free(dev);
			return NULL;
		}
	}
	return dev;
}

const void *config_device_field(const struct vz_device *d, const char *key, enum option_type type)
{
	const struct option *o = find_option(d->class, key);

	return o && o->type == type ? (const char *)d->sample + o->offset : NULL;
}
