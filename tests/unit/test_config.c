/* SPDX-License-Identifier: MIT */
/* The configuration object: setters that refuse, faults that stick, what validation reports. */
#include "tests/tap.h"

#include <fcntl.h>
#include <unistd.h>
#include <vizor/vizor.h>

#define FAULTS_MAX 16

struct faults {
	vz_error list[FAULTS_MAX];
	unsigned count;
};

static void collect(void *arg, const vz_error *fault)
{
	struct faults *f = arg;

	if (f->count < FAULTS_MAX)
		f->list[f->count++] = *fault;
}

static const vz_error *fault_at(const struct faults *f, const char *where)
{
	for (unsigned i = 0; i < f->count; i++)
		if (!strcmp(f->list[i].where, where))
			return &f->list[i];
	return NULL;
}

/* A configuration with what validation reports about it; kernel faults come with every one here. */
static struct faults validate(vz_config *config)
{
	struct faults f = { 0 };
	unsigned count = vz_config_validate(config, collect, &f);

	CHECK_EQ(count, f.count);
	return f;
}

static vz_device *disk(const char *path, bool readonly)
{
	vz_device *d = vz_device_new("virtio-blk", NULL);

	CHECK_EQ(vz_device_set(d, "path", path, NULL), 0);
	if (readonly)
		CHECK_EQ(vz_device_set(d, "readonly", NULL, NULL), 0);
	return d;
}

static void a_refused_value_is_returned_and_reported(void)
{
	vz_config *c = vz_config_new();
	vz_error e = { 0 };
	struct faults f;

	CHECK(vz_config_set_cpus(c, 0, &e) < 0);
	CHECK_STR(e.where, "cpus");
	CHECK(strstr(e.text, "1 to 64"));
	f = validate(c);
	CHECK(fault_at(&f, "cpus"));
	vz_config_free(c);
}

static void a_good_value_takes_the_fault_away(void)
{
	vz_config *c = vz_config_new();
	struct faults f;

	CHECK(vz_config_set_memory(c, 1, NULL) < 0);
	CHECK_EQ(vz_config_set_memory(c, 64ull << 20, NULL), 0);
	f = validate(c);
	CHECK(!fault_at(&f, "memory"));
	vz_config_free(c);
}

static void memory_is_in_steps_of_a_mebibyte(void)
{
	vz_config *c = vz_config_new();

	CHECK(vz_config_set_memory(c, (64ull << 20) + 4096, NULL) < 0);
	CHECK(vz_config_set_memory(c, VZ_MEMORY_MAX + (1 << 20), NULL) < 0);
	CHECK_EQ(vz_config_set_memory(c, VZ_MEMORY_MIN, NULL), 0);
	CHECK_EQ(vz_config_set_memory(c, VZ_MEMORY_MAX, NULL), 0);
	vz_config_free(c);
}

static void an_unknown_engine_names_the_nearest(void)
{
	vz_config *c = vz_config_new();
	vz_error e = { 0 };

	CHECK(vz_config_set_engine(c, "sofd", &e) < 0);
	CHECK_STR(e.where, "engine");
	CHECK(strstr(e.text, "soft"));
	vz_config_free(c);
}

static void an_unknown_class_names_the_nearest(void)
{
	vz_error e = { 0 };

	CHECK(!vz_device_new("virtio-blq", &e));
	CHECK(strstr(e.text, "virtio-blk"));
}

static void a_device_fault_has_the_path_of_its_field(void)
{
	vz_config *c = vz_config_new();
	vz_device *d = vz_device_new("virtio-blk", NULL);
	struct faults f;

	vz_config_add_device(c, vz_device_new("virtio-rng", NULL), NULL);
	CHECK(vz_device_set(d, "pth", "x", NULL) < 0);
	vz_config_add_device(c, d, NULL);
	f = validate(c);
	CHECK(fault_at(&f, "devices[1].pth"));
	CHECK(fault_at(&f, "devices[1].path")); /* required, and missing */
	vz_config_free(c);
}

static void every_fault_is_reported_once(void)
{
	vz_config *c = vz_config_new();
	struct faults f;

	vz_config_set_cpus(c, 1000, NULL);
	vz_config_set_cpus(c, 2000, NULL);
	vz_config_set_memory(c, 0, NULL);
	f = validate(c);
	CHECK_EQ(f.count, 3); /* and no kernel */
	CHECK(fault_at(&f, "bootloader.kernel"));
	vz_config_free(c);
}

static void two_disks_cannot_share_an_image_that_one_writes(void)
{
	char path[] = "/tmp/vizor-config-XXXXXX", other[64];
	int fd = mkstemp(path);
	vz_config *c = vz_config_new();
	struct faults f;

	CHECK(!ftruncate(fd, 1 << 20));
	snprintf(other, sizeof(other), "/proc/self/fd/%d", fd);
	vz_config_add_device(c, disk(path, true), NULL);
	vz_config_add_device(c, disk(other, false), NULL);
	f = validate(c);
	CHECK(fault_at(&f, "devices[1].path"));
	CHECK(!fault_at(&f, "devices[0].path"));
	vz_config_free(c);
	close(fd);
	unlink(path);
}

static void readers_share_an_image(void)
{
	char path[] = "/tmp/vizor-config-XXXXXX";
	int fd = mkstemp(path);
	vz_config *c = vz_config_new();
	struct faults f;

	CHECK(!ftruncate(fd, 1 << 20));
	vz_config_add_device(c, disk(path, true), NULL);
	vz_config_add_device(c, disk(path, true), NULL);
	f = validate(c);
	CHECK_EQ(f.count, 1); /* no kernel */
	vz_config_free(c);
	close(fd);
	unlink(path);
}

static void validation_without_a_listener_counts(void)
{
	vz_config *c = vz_config_new();

	CHECK_EQ(vz_config_validate(c, NULL, NULL), 1);
	vz_config_free(c);
}

static void classes_and_options_can_be_listed(void)
{
	vz_option_info option;
	vz_class_info class;
	unsigned classes = 0;
	bool required = false;

	while (vz_device_class(classes, &class)) {
		CHECK(class.name && class.summary);
		classes++;
	}
	CHECK(classes >= 3);
	for (unsigned i = 0; vz_device_class_option("virtio-blk", i, &option); i++) {
		CHECK(option.name && option.type && option.help);
		required |= option.required && !strcmp(option.name, "path");
	}
	CHECK(required);
	CHECK(!vz_device_class_option("nothing", 0, &option));
}

static void engines_tell_whether_they_work(void)
{
	vz_engine_info info;
	unsigned n = 0;

	for (; vz_engine_probe(n, &info); n++)
		CHECK(info.works || info.reason[0]);
	CHECK_EQ(n, 2);
}

static void free_takes_null(void)
{
	vz_config_free(NULL);
	vz_device_free(NULL);
	CHECK(vz_config_add_device(NULL, NULL, NULL) < 0);
}

int main(void)
{
	RUN(a_refused_value_is_returned_and_reported);
	RUN(a_good_value_takes_the_fault_away);
	RUN(memory_is_in_steps_of_a_mebibyte);
	RUN(an_unknown_engine_names_the_nearest);
	RUN(an_unknown_class_names_the_nearest);
	RUN(a_device_fault_has_the_path_of_its_field);
	RUN(every_fault_is_reported_once);
	RUN(two_disks_cannot_share_an_image_that_one_writes);
	RUN(readers_share_an_image);
	RUN(validation_without_a_listener_counts);
	RUN(classes_and_options_can_be_listed);
	RUN(engines_tell_whether_they_work);
	RUN(free_takes_null);
	return tap_done();
}
