/* SPDX-License-Identifier: MIT */
/*
 * The place of the KVM engine. It is not part of this version: it is listed so that everybody
 * learns why it is not taken, and whether it could work on this host.
 */
#include "engine/kvm/kvm.h"
#include "base/error.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int kvm_probe(struct vz_error *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_set(e, ENOTSUP, "engine",
			"not built into this version of vizor (and /dev/kvm: %s)", strerror(errno));
	close(fd);
	return err_set(e, ENOTSUP, "engine", "not built into this version of vizor");
}

static int kvm_open(struct engine **engine, const struct engine_config *config, struct vz_error *e)
{
	return kvm_probe(e);
}

const struct engine_class engine_kvm = {
	.name = "kvm",
	.summary = "the host processor's virtualisation, through /dev/kvm",
	.probe = kvm_probe,
	.open = kvm_open,
};
