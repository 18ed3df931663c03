/* SPDX-License-Identifier: MIT */
/* The power registers, as power.c answers them, acpi.c describes them and dsdt.asl reads them. */
#ifndef PLATFORM_POWER_H
#define PLATFORM_POWER_H

#include "platform/platform.h"

/* Bytes from POWER_PORT. */
#define POWER_SLEEP_CONTROL 0
#define POWER_SLEEP_STATUS  1
#define POWER_RESET         2
#define POWER_EVENTS        3
#define POWER_PORTS         4

#define POWER_SLEEP_TYPE_S5 5
#define POWER_RESET_VALUE   1
#define POWER_EVENT_BUTTON  0x01

#endif
