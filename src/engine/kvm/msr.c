/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers by KVM_GET_MSRS and KVM_SET_MSRS. Both stop at the first register that
 * KVM refuses and return how many they did.
 */
#include "base/arith.h"
#include "base/log.h"
#include "engine/kvm/internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define HYPERV_FIRST 0x40000000u /* interfaces that the guest is not offered */
#define HYPERV_LAST  0x40000fffu

struct batch {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[KVM_MSRS_AT_ONE];
};

/* How many of the first ones were done; the values are moved in the direction of the request. */
static unsigned transfer(const struct vcpu *cpu, unsigned long request, struct kvm_msr_entry *msrs,
	unsigned count)
{
	struct batch batch = { .head.nmsrs = MIN(count, KVM_MSRS_AT_ONE) };
	int done;

	memcpy(batch.entries, msrs, batch.head.nmsrs * sizeof(*msrs));
	done = ioctl(cpu->fd, request, &batch);
	if (done <= 0)
		return 0;
	memcpy(msrs, batch.entries, (unsigned)done * sizeof(*msrs));
	return (unsigned)done;
}

unsigned kvm_msrs_get(const struct vcpu *cpu, struct kvm_msr_entry *msrs, unsigned count)
{
	unsigned at = 0;

	while (at < count) {
		unsigned done = transfer(cpu, KVM_GET_MSRS, msrs + at, count - at);

		at += done;
		if (done || at == count)
			continue;
		memmove(msrs + at, msrs + at + 1, (count - at - 1) * sizeof(*msrs));
		count--;
	}
	return count;
}

static bool has_value(const struct vcpu *cpu, const struct kvm_msr_entry *wanted)
{
	struct kvm_msr_entry now = { .index = wanted->index };

	if (!kvm_msrs_get(cpu, &now, 1))
		return !wanted->data;
	return now.data == wanted->data;
}

int kvm_msrs_set(const struct vcpu *cpu, const struct kvm_msr_entry *msrs, unsigned count)
{
	unsigned at = 0;

	while (at < count) {
		struct kvm_msr_entry some[KVM_MSRS_AT_ONE];
		unsigned n = MIN(count - at, KVM_MSRS_AT_ONE);
		unsigned done;

		memcpy(some, msrs + at, n * sizeof(*some));
		done = transfer(cpu, KVM_SET_MSRS, some, n);
		at += done;
		if (done == n)
			continue;
		if (!has_value(cpu, &msrs[at])) {
			log_error("CPU %u: KVM refuses %#llx for MSR %#x", cpu->index,
				(unsigned long long)msrs[at].data, msrs[at].index);
			return -EINVAL;
		}
		at++;
	}
	return 0;
}

/* KVM's list, or NULL. */
static struct kvm_msr_list *index_list(const struct engine *engine)
{
	struct kvm_msr_list probe = { 0 }, *list;

	if (!ioctl(engine->kvm, KVM_GET_MSR_INDEX_LIST, &probe) || errno != E2BIG)
		return NULL;
	list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
	if (!list)
		return NULL;
	list->nmsrs = probe.nmsrs;
	if (!ioctl(engine->kvm, KVM_GET_MSR_INDEX_LIST, list))
		return list;
	free(list);
	return NULL;
}

struct kvm_power_on *kvm_msrs_all(const struct vcpu *cpu)
{
	struct kvm_msr_list *list = index_list(cpu->engine);
	struct kvm_power_on *all = NULL;
	size_t size;

	if (!list)
		return NULL;
	size = sizeof(*all) + list->nmsrs * sizeof(all->msrs[0]);
	all = aligned_alloc(_Alignof(struct kvm_power_on),
		align_up(size, _Alignof(struct kvm_power_on)));
	if (all) {
		memset(all, 0, size);
		for (unsigned i = 0; i < list->nmsrs; i++)
			if (list->indices[i] < HYPERV_FIRST || list->indices[i] > HYPERV_LAST)
				all->msrs[all->nmsrs++].index = list->indices[i];
		all->nmsrs = kvm_msrs_get(cpu, all->msrs, all->nmsrs);
	}
	free(list);
	return all;
}
