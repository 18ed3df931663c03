/* SPDX-License-Identifier: MIT */
/* Validation: every fault of a configuration, each with its field path. */
#include "machine/validate.h"
#include "base/arith.h"
#include "base/error.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VIRTIO_ID_BLOCK   2
#define VIRTIO_ID_CONSOLE 3

struct report {
	vz_fault_fn *fn;
	void *arg;
	unsigned count;
};

static void report(struct report *r, const struct vz_error *fault)
{
	r->count++;
	if (r->fn)
		r->fn(r->arg, fault);
}

static void report_at(struct report *r, struct vz_error *fault, unsigned device)
{
	err_where(fault, "devices[%u]", device);
	report(r, fault);
}

static void report_refused(struct report *r, const struct faults *faults, int device)
{
	for (unsigned i = 0; i < faults->count; i++) {
		struct vz_error fault = faults->list[i];

		if (device >= 0)
			err_where(&fault, "devices[%d]", device);
		report(r, &fault);
	}
	if (faults->lost) {
		struct vz_error fault = { 0 };

		err_set(&fault, ENOMEM, NULL, "out of memory while recording a fault");
		report(r, &fault);
	}
}

static bool refused(const struct faults *faults, const char *where)
{
	for (unsigned i = 0; i < faults->count; i++)
		if (!strcmp(faults->list[i].where, where))
			return true;
	return false;
}

/* --- fields ------------------------------------------------------------------------------ */

static void check_engine(struct report *r, const struct vz_config *c)
{
	struct vz_error fault = { 0 };
	char why[VZ_ERROR_TEXT_SIZE];

	if (!refused(&c->faults, "engine") && !config_engine(c->engine, why, sizeof(why), &fault))
		report(r, &fault);
}

static void check_kernel_given(struct report *r, const struct vz_config *c)
{
	struct vz_error fault = { 0 };

	if (c->has_kernel)
		return;
	err_set(&fault, EINVAL, "bootloader.kernel",
		"no kernel was given: there is nothing to boot");
	report(r, &fault);
}

/* Options that must be there; one that was given and refused is not missing. */
static void check_required(struct report *r, const struct vz_device *d, unsigned index)
{
	struct vz_error fault = { 0 };

	if (d->class->options && option_check(d->class->options, d->sample, &fault) &&
		!refused(&d->faults, fault.where))
		report_at(r, &fault, index);
}

/* --- devices against each other ---------------------------------------------------------- */

static bool flag(const struct vz_device *d, const char *key)
{
	const bool *set = config_device_field(d, key, OPT_FLAG);

	return set && *set;
}

static const char *disk_path(const struct vz_device *d)
{
	char *const *path =
		d->class->id == VIRTIO_ID_BLOCK ? config_device_field(d, "path", OPT_STRING) : NULL;

	return path ? *path : NULL;
}

/*
 * Two writers, or a reader and a writer, of one image destroy it, under whatever name they know
 * it.
 */
static void check_same_image(struct report *r, const struct vz_config *c, unsigned index)
{
	const struct vz_device *d = c->devices[index];
	struct vz_error fault = { 0 };
	struct stat mine, other;

	if (!disk_path(d) || stat(disk_path(d), &mine))
		return;
	for (unsigned i = 0; i < index; i++) {
		const struct vz_device *o = c->devices[i];

		if (!disk_path(o) || stat(disk_path(o), &other))
			continue;
		if (mine.st_dev != other.st_dev || mine.st_ino != other.st_ino)
			continue;
		if (flag(d, "readonly") && flag(o, "readonly"))
			continue;
		err_set(&fault, EBUSY, "path",
			"'%s' is already the image of devices[%u]: make both readonly, or copy it",
			disk_path(d), i);
		report_at(r, &fault, index);
		return;
	}
}

static bool is_stdio(const struct vz_device *d)
{
	return d->class->id == VIRTIO_ID_CONSOLE && flag(d, "stdio");
}

static void check_one_stdio(struct report *r, const struct vz_config *c, unsigned index)
{
	struct vz_error fault = { 0 };

	if (!is_stdio(c->devices[index]))
		return;
	for (unsigned i = 0; i < index; i++) {
		if (!is_stdio(c->devices[i]))
			continue;
		err_set(&fault, EBUSY, "stdio",
			"standard input and output already belong to devices[%u]", i);
		report_at(r, &fault, index);
		return;
	}
}

static void check_fields(struct report *r, const struct vz_config *c)
{
	report_refused(r, &c->faults, -1);
	check_engine(r, c);
	check_kernel_given(r, c);
	for (unsigned i = 0; i < c->ndevices; i++) {
		report_refused(r, &c->devices[i]->faults, (int)i);
		check_required(r, c->devices[i], i);
		check_same_image(r, c, i);
		check_one_stdio(r, c, i);
	}
}

/* --- files ------------------------------------------------------------------------------- */

/*
 * When the kernel is at fault the loader does not come to the initial RAM disk: at least, can it
 * be read?
 */
static void check_initrd_file(struct report *r, const char *path)
{
	struct vz_error fault = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		err_set(&fault, errno, "bootloader.initrd", "cannot read '%s': %s", path,
			strerror(errno));
	else if (!S_ISREG(st.st_mode))
		err_set(&fault, S_ISDIR(st.st_mode) ? EISDIR : EINVAL, "bootloader.initrd",
			"'%s' is %s", path, S_ISDIR(st.st_mode) ? "a directory" : "not a file");
	else if (!st.st_size)
		err_set(&fault, EINVAL, "bootloader.initrd", "'%s' is empty", path);
	if (fd >= 0)
		close(fd);
	if (fault.code)
		report(r, &fault);
}

static void check_boot_files(struct report *r, const struct vz_config *c)
{
	struct boot_request request = config_boot_request(c);
	struct vz_error fault = { 0 };

	if (!c->has_kernel || !boot_check(&request, c->memory, &fault))
		return;
	report(r, &fault);
	if (c->initrd && strcmp(fault.where, "bootloader.initrd"))
		check_initrd_file(r, c->initrd);
}

/* Was a key that the device has given a value it cannot have? Then it is not as it was meant. */
static bool is_distorted(const struct vz_device *d)
{
	for (const struct option *o = d->class->options; o && o->name; o++)
		if (refused(&d->faults, o->name))
			return true;
	return false;
}

static void check_device(struct report *r, const struct vz_device *d, unsigned index,
	struct loop *loop)
{
	struct vz_error fault = { 0 };

	if (!d->class->check || is_distorted(d) ||
		(d->class->options && option_check(d->class->options, d->sample, NULL)))
		return;
	if (d->class->check(d->sample, loop, &fault))
		report_at(r, &fault, index);
}

static void check_files(struct report *r, const struct vz_config *c)
{
	struct vz_error fault = { 0 };
	struct loop *loop;

	check_boot_files(r, c);
	loop = loop_new(&fault);
	if (!loop) {
		report(r, &fault);
		return;
	}
	for (unsigned i = 0; i < c->ndevices; i++)
		check_device(r, c->devices[i], i, loop);
	loop_free(loop);
}

unsigned vz_config_validate(const vz_config *config, vz_fault_fn *fn, void *arg)
{
	struct report r = { fn, arg, 0 };

	check_fields(&r, config);
	check_files(&r, config);
	return r.count;
}

static void keep_first(void *arg, const struct vz_error *fault)
{
	struct vz_error *e = arg;

	if (!e->code)
		*e = *fault;
}

int validate_quick(const struct vz_config *config, struct vz_error *e)
{
	struct vz_error first = { 0 };
	struct report r = { keep_first, &first, 0 };

	check_fields(&r, config);
	if (r.count && e)
		*e = first;
	return first.code;
}
