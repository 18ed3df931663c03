/* SPDX-License-Identifier: MIT */
/*
 * Messages to the local APICs, and the event descriptors that KVM itself listens and signals to.
 * Documentation/virt/kvm/api.rst: KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_IOEVENTFD.
 */
#include "base/arith.h"
#include "engine/kvm/internal.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

bool kvm_send_msi(void *arg, uint64_t address, uint32_t data)
{
	struct engine *engine = arg;
	struct kvm_msi msi = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data,
	};

	return ioctl(engine->vm, KVM_SIGNAL_MSI, &msi) > 0;
}

void kvm_msi(struct engine *engine, uint64_t address, uint32_t data)
{
	kvm_send_msi(engine, address, data);
}

/* --- routes ------------------------------------------------------------------------------- */

static void add_entry(struct kvm_irq_routing *table, unsigned gsi, const struct kvm_route *route)
{
	if (!route->used)
		return;
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = (uint32_t)route->address,
			.address_hi = (uint32_t)(route->address >> 32),
			.data = route->data },
	};
}

/* Hand KVM the whole table. The lock is held. */
static int set_routes(struct engine *engine)
{
	struct kvm_irq_routing *table;
	unsigned most = ENGINE_IOAPIC_PINS + engine->nroutes;
	int r;

	table = calloc(1, sizeof(*table) + most * sizeof(table->entries[0]));
	if (!table)
		return -ENOMEM;
	for (unsigned i = 0; i < ENGINE_IOAPIC_PINS; i++)
		add_entry(table, i, &engine->pins[i]);
	for (unsigned i = 0; i < engine->nroutes; i++)
		add_entry(table, ENGINE_IOAPIC_PINS + i, &engine->routes[i]);
	r = ioctl(engine->vm, KVM_SET_GSI_ROUTING, table) ? -errno : 0;
	free(table);
	return r;
}

void kvm_route_pin(void *arg, unsigned pin, bool used, uint64_t address, uint32_t data)
{
	struct engine *engine = arg;
	struct kvm_route *now = &engine->pins[pin];

	pthread_mutex_lock(&engine->routes_lock);
	/* KVM waits for its readers: do without where nothing changes. */
	if (now->used != used || (used && (now->address != address || now->data != data))) {
		*now = (struct kvm_route){ .used = used, .address = address, .data = data };
		set_routes(engine);
	}
	pthread_mutex_unlock(&engine->routes_lock);
}

/* --- irqfds ------------------------------------------------------------------------------- */

static struct kvm_route *free_route(struct engine *engine)
{
	struct kvm_route *more;

	for (unsigned i = 0; i < engine->nroutes; i++)
		if (!engine->routes[i].used)
			return &engine->routes[i];
	if (engine->nroutes == KVM_ROUTES_MAX)
		return NULL;
	more = realloc(engine->routes, (engine->nroutes + 1) * sizeof(*more));
	if (!more)
		return NULL;
	engine->routes = more;
	return &more[engine->nroutes++];
}

static int set_irqfd(struct engine *engine, const struct kvm_route *route, uint32_t flags)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)route->fd,
		.gsi = ENGINE_IOAPIC_PINS + (uint32_t)(route - engine->routes),
		.flags = flags,
	};

	return ioctl(engine->vm, KVM_IRQFD, &irqfd) ? -errno : 0;
}

int kvm_bind_irqfd(struct engine *engine, int fd, uint64_t address, uint32_t data)
{
	struct kvm_route *route;
	int r = -ENOSPC;

	pthread_mutex_lock(&engine->routes_lock);
	route = free_route(engine);
	if (route) {
		*route = (struct kvm_route){ true, fd, address, data };
		r = set_routes(engine);
		if (!r)
			r = set_irqfd(engine, route, 0);
		route->used = !r;
	}
	pthread_mutex_unlock(&engine->routes_lock);
	return r;
}

void kvm_unbind_irqfd(struct engine *engine, int fd)
{
	pthread_mutex_lock(&engine->routes_lock);
	for (unsigned i = 0; i < engine->nroutes; i++) {
		struct kvm_route *route = &engine->routes[i];

		if (!route->used || route->fd != fd)
			continue;
		set_irqfd(engine, route, KVM_IRQFD_FLAG_DEASSIGN);
		route->used = false;
		set_routes(engine);
		break;
	}
	pthread_mutex_unlock(&engine->routes_lock);
}

/* --- doorbells ---------------------------------------------------------------------------- */

static int set_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd,
	uint32_t flags)
{
	/*
	 * Without a length KVM need not decode the instruction that wrote, where the processor
	 * tells the address.
	 */
	struct kvm_ioeventfd bell = {
		.addr = address,
		.len = engine->any_length ? 0 : size,
		.fd = fd,
		.flags = flags,
	};

	return ioctl(engine->vm, KVM_IOEVENTFD, &bell) ? -errno : 0;
}

int kvm_bind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd)
{
	return set_doorbell(engine, address, size, fd, 0);
}

void kvm_unbind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd)
{
	set_doorbell(engine, address, size, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}
