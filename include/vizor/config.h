/* SPDX-License-Identifier: MIT */
/*
 * What the guest sees and what the host lends it. A configuration is plain data: nothing is opened
 * until a machine is made of it. Not thread-safe: one thread at a time per object.
 *
 * Setters never abort a chain of calls: a wrong value is remembered by the object, returned as a
 * negative errno, and reported again by vz_config_validate, unless the same field was given a good
 * one since.
 */
#ifndef VIZOR_CONFIG_H
#define VIZOR_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <vizor/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define VZ_CPUS_MIN   1
#define VZ_CPUS_MAX   64
#define VZ_MEMORY_MIN (32ull << 20) /* bytes */
#define VZ_MEMORY_MAX (1ull << 40)  /* bytes */

typedef struct vz_config vz_config;
typedef struct vz_device vz_device;

/* Defaults: 1 CPU, 512 MiB, engine "auto", no boot loader, no devices. NULL: out of memory. */
vz_config *vz_config_new(void);
void vz_config_free(vz_config *config); /* NULL is fine; frees the devices added to it */

int vz_config_set_cpus(vz_config *config, unsigned cpus, vz_error *error);
/* bytes: a multiple of 1 MiB. */
int vz_config_set_memory(vz_config *config, uint64_t bytes, vz_error *error);
/* "auto", "kvm" or "soft". */
int vz_config_set_engine(vz_config *config, const char *engine, vz_error *error);
/*
 * Boot a Linux kernel (bzImage or ELF vmlinux): paths are copied; initrd and cmdline may be NULL.
 * The files are opened when the machine is made.
 */
int vz_config_set_linux(vz_config *config, const char *kernel, const char *initrd,
	const char *cmdline, vz_error *error);
/* Words for tests and measurements of an engine, such as "exact"; NULL: none. */
int vz_config_set_engine_options(vz_config *config, const char *options, vz_error *error);

/*
 * class: "virtio-blk", "virtio-rng", …; see vz_device_class. NULL with *error set: no such class.
 */
vz_device *vz_device_new(const char *class_name, vz_error *error);
void vz_device_free(vz_device *device); /* only one that was not added; NULL is fine */
/* Set an option of the device's table; value NULL: the key was given without one (flags). */
int vz_device_set(vz_device *device, const char *key, const char *value, vz_error *error);
/* The device is taken, also when this fails. */
int vz_config_add_device(vz_config *config, vz_device *device, vz_error *error);

/*
 * What can be configured: for help texts. Returns false past the last one. Strings live for ever.
 */
typedef struct vz_class_info {
	const char *name, *summary;
} vz_class_info;
bool vz_device_class(unsigned index, vz_class_info *info);
typedef struct vz_option_info {
	const char *name, *type, *def, *help; /* def may be NULL */
	bool required;
} vz_option_info;
bool vz_device_class_option(const char *class_name, unsigned index, vz_option_info *info);

/*
 * Check everything that can be checked without starting: fields, files, combinations. fn is called
 * once for each fault with its field path ("devices[1].path") and text. Returns the number of
 * faults.
 */
typedef void vz_fault_fn(void *arg, const vz_error *fault);
unsigned vz_config_validate(const vz_config *config, vz_fault_fn *fn, void *arg);

/*
 * The engines, in the order "auto" tries them; false past the last one. reason: why it does not
 * work here.
 */
typedef struct vz_engine_info {
	const char *name, *summary;
	bool works;
	/* why it does not work; or, though it works, why "auto" does not take it; or "" */
	char reason[VZ_ERROR_TEXT_SIZE];
} vz_engine_info;
bool vz_engine_probe(unsigned index, vz_engine_info *info);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
