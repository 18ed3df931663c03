/* SPDX-License-Identifier: MIT */
/* The device classes by name. Adding one: its file, a line in list.h, its test, its man section. */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include "virtio/vdev.h"

#define DEVICE_CLASS(name) extern const struct device_class name;
#include "device/list.h"
#undef DEVICE_CLASS

/* NULL when there is none of that name. */
const struct device_class *device_find(const char *name);
/* All classes, NULL-terminated. */
extern const struct device_class *const device_classes[];

#endif
