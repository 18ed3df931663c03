/* SPDX-License-Identifier: MIT */
/* A raw image or block device, shared by opening it (raw.c) and its input and output (raw_io.c). */
#ifndef ATTACH_DISK_RAW_H
#define ATTACH_DISK_RAW_H

#include "attach/disk/internal.h"

#include <stdatomic.h>

struct raw {
	struct disk disk;
	int fd;
	bool block_device, direct, commit; /* commit: stable means stable */
	uint32_t mem_align, block; /* what O_DIRECT asks of addresses; of offsets and lengths */
	/* O_DIRECT: a write of parts of blocks reads them first and tolerates no other writer. */
	pthread_rwlock_t write_lock;
	atomic_bool no_punch, no_zero_range; /* the host said that it cannot */
};

int raw_perform(struct disk *disk, struct disk_request *r);

#endif
