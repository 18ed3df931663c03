/* SPDX-License-Identifier: MIT */
/*
 * What this host's KVM can do, and what to say when it is not enough: Linux
 * Documentation/virt/kvm/api.rst.
 */
#include "base/arith.h"
#include "base/error.h"
#include "engine/kvm/internal.h"
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICE     "/dev/kvm"
#define MIN_KERNEL "4.11"

static const struct {
	int cap;
	const char *name, *kernel;
} needed[] = {
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "2.6.25" },
	{ KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR", "2.6.25" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "2.6.26" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "2.6.26" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "2.6.32" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "2.6.32" },
	{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS", "2.6.33" },
	{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS", "2.6.35" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE", "2.6.36" },
	{ KVM_CAP_XCRS, "KVM_CAP_XCRS", "2.6.36" },
	{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK", "2.6.38" },
	{ KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ", "2.6.39" },
	{ KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER", "3.3" },
	{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI", "3.5" },
	{ KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP", "4.4" },
	{ KVM_CAP_X2APIC_API, "KVM_CAP_X2APIC_API", "4.8" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", MIN_KERNEL },
};

/*
 * Does the processor show hardware virtualisation? The kernel hides what the firmware turned off.
 */
static bool cpu_has_virtualisation(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[8192];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "flags", 5))
			continue;
		for (char *save, *word = strtok_r(line, " \t\n", &save); word && !found;
			word = strtok_r(NULL, " \t\n", &save))
			found = !strcmp(word, "vmx") || !strcmp(word, "svm");
		break;
	}
	if (f)
		fclose(f);
	return found;
}

static int no_permission(struct vz_error *e)
{
	struct group group, *found = NULL;
	char names[4096];
	struct stat st;

	if (!stat(DEVICE, &st) && st.st_gid && (st.st_mode & 0060) == 0060)
		getgrgid_r(st.st_gid, &group, names, sizeof(names), &found);
	if (found)
		return err_set(e, EACCES, "engine",
			"no permission to open " DEVICE
			": join the group '%s' (usermod -aG %s USER) and log in again",
			found->gr_name, found->gr_name);
	return err_set(e, EACCES, "engine",
		"no permission to open " DEVICE ", and no group has it: ask the administrator");
}

static int not_openable(int code, struct vz_error *e)
{
	if (code == EACCES || code == EPERM)
		return no_permission(e);
	if (!cpu_has_virtualisation())
		return err_set(e, ENOTSUP, "engine",
			"the processor shows neither VMX nor SVM: turn it on in the firmware's "
			"setup, or in a virtual machine let its host offer nested virtualisation");
	if (code == ENOENT || code == ENODEV || code == ENXIO)
		return err_set(e, ENOTSUP, "engine",
			"there is no " DEVICE ": load the kernel module kvm_intel or kvm_amd");
	return err_set(e, code, "engine", "cannot open " DEVICE ": %s", strerror(code));
}

static int check(int fd, struct vz_error *e)
{
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return err_set(e, ENOTSUP, "engine", DEVICE " speaks version %d of its API, not %d",
			version, KVM_API_VERSION);
	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return err_set(e, ENOTSUP, "engine",
				"this kernel's KVM lacks %s, which Linux has since %s; vizor needs "
				"Linux " MIN_KERNEL " or newer",
				needed[i].name, needed[i].kernel);
	return 0;
}

int kvm_host_open(struct vz_error *e)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), r;

	if (fd < 0)
		return not_openable(errno, e);
	r = check(fd, e);
	if (!r)
		return fd;
	close(fd);
	return r;
}

int kvm_host_probe(struct vz_error *e)
{
	int fd = kvm_host_open(e), vm, err;

	if (fd < 0)
		return fd;
	vm = ioctl(fd, KVM_CREATE_VM, 0);
	err = errno;
	close(fd);
	if (vm < 0)
		return err_set(e, err, "engine", "KVM makes no virtual machine: %s%s",
			strerror(err), err == EBUSY ? " (another hypervisor has the CPU)" : "");
	close(vm);
	return 0;
}

/*
 * There is a KVM that does without VMX and SVM: it runs guests in user mode on shadow page tables.
 * A kernel that does not know of it is emulated, instruction by instruction.
 */
int kvm_host_advise(struct vz_error *e)
{
	bool pagetable = !access("/sys/module/kvm_pvm", F_OK);

	if (cpu_has_virtualisation())
		return 0;
	return err_set(e, ENOTSUP, "engine",
		"the processor shows neither VMX nor SVM, so this KVM%s must emulate ordinary "
		"kernels at a tiny fraction of their speed; '--engine kvm' takes it all the same",
		pagetable ? " (kvm_pvm)" : "");
}
