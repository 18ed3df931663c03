/* SPDX-License-Identifier: MIT */
/*
 * A configuration inside the library: plain values, and what was wrong with the values that
 * setters refused. A device keeps the settings it was given as text; each machine builds its own
 * device by setting them again.
 */
#ifndef MACHINE_CONFIG_H
#define MACHINE_CONFIG_H

#include "boot/boot.h"
#include "engine/engine.h"
#include "virtio/vdev.h"
#include <vizor/config.h>

/* Refused values, one per field: a later good value for the field takes the fault away. */
struct faults {
	struct vz_error *list;
	unsigned count;
	bool lost; /* out of memory while recording one */
};

struct setting {
	char *key, *value; /* value may be NULL */
	int fd;            /* OPT_FD: the duplicate that value names; else -1 */
};

struct vz_device {
	const struct device_class *class;
	struct vdev *sample; /* never opened; what the settings mean */
	struct setting *settings;
	unsigned nsettings;
	struct faults faults; /* where: the key */
};

struct vz_config {
	unsigned cpus;
	uint64_t memory;
	char *engine, *engine_options;
	bool has_kernel;
	char *kernel, *initrd, *cmdline;
	struct vz_device **devices;
	unsigned ndevices;
	struct faults faults;
};

/* A new device with the same settings; NULL with *e set. */
struct vdev *config_device_make(const struct vz_device *device, struct vz_error *e);

/* The field of a device's option by key, or NULL when it has no such key of that type. */
const void *config_device_field(const struct vz_device *device, const char *key,
	enum option_type type);

/* What the boot loader is asked for; strings are the configuration's. */
struct boot_request config_boot_request(const struct vz_config *config);

/*
 * Find the engine: by name, or for "auto" the first that works. why gets a sentence that tells
 * the choice. NULL with *e set (where "engine").
 */
const struct engine_class *config_engine(const char *name, char *why, size_t why_size,
	struct vz_error *e);

#endif
