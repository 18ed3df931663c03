/* SPDX-License-Identifier: MIT */
/* Every device class, one line each. Included with DEVICE_CLASS defined. */
DEVICE_CLASS(virtio_blk)
DEVICE_CLASS(virtio_console)
DEVICE_CLASS(virtio_rng)
