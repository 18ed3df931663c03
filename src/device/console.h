/* SPDX-License-Identifier: MIT */
/* What a machine may do with the console device beyond what it does with every device. */
#ifndef DEVICE_CONSOLE_H
#define DEVICE_CONSOLE_H

#include "attach/console/console.h"
#include "virtio/vdev.h"

/*
 * The host's side of a port of an open virtio-serial device; NULL: it has no such port. The
 * device's.
 */
struct console *virtio_console_port(struct vdev *dev, unsigned port);

#endif
