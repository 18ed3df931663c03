/* SPDX-License-Identifier: MIT */
/* The engine on the host's own virtualisation, /dev/kvm. */
#ifndef ENGINE_KVM_KVM_H
#define ENGINE_KVM_KVM_H

#include "engine/engine.h"

extern const struct engine_class engine_kvm;

#endif
