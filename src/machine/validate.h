/* SPDX-License-Identifier: MIT */
/* What can be said about a configuration before a machine is made of it. */
#ifndef MACHINE_VALIDATE_H
#define MACHINE_VALIDATE_H

#include "machine/config.h"

/*
 * The part that opens nothing, for making a machine: whatever is wrong with the files comes to
 * light when they are opened. 0, or the first fault's code with *e set.
 */
int validate_quick(const struct vz_config *config, struct vz_error *e);

#endif
