/* SPDX-License-Identifier: MIT */
/* The list of device classes, from list.h. */
#include "device/device.h"

#include <string.h>

const struct device_class *const device_classes[] = {
#define DEVICE_CLASS(name) &name,
#include "device/list.h"
#undef DEVICE_CLASS
	NULL,
};

const struct device_class *device_find(const char *name)
{
	/* The command line of other programs calls a console by what it was once for. */
	if (!strcmp(name, "virtio-console"))
		name = "virtio-serial";
	for (const struct device_class *const *class = device_classes; *class; class ++)
		if (!strcmp((*class)->name, name))
			return *class;
	return NULL;
}
