/* SPDX-License-Identifier: MIT */
/* The engines there are, in the order "auto" tries them. */
#include "engine/engine.h"
#include "engine/kvm/kvm.h"
#include <stddef.h>

extern const struct engine_class engine_soft;

const struct engine_class *const engine_classes[] = { &engine_kvm, &engine_soft, NULL };
