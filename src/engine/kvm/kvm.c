/* SPDX-License-Identifier: MIT */
/*
 * The engine on KVM: the virtual machine, its memory, its vCPUs and what they start from. See
 * docs/kvm.md.
 */
#include "engine/kvm/kvm.h"
#include "base/arith.h"
#include "base/error.h"
#include "engine/kvm/internal.h"
#include "state/state.h"
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Three pages and one that Intel processors want for themselves in real mode; not RAM. */
#define TSS_ADDRESS      0xfffbd000ull
#define IDENTITY_ADDRESS 0xfffbc000ull

/* --- vCPUs -------------------------------------------------------------------------------- */

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void vcpu_free(struct vcpu *cpu)
{
	if (!cpu)
		return;
	if (cpu->run)
		munmap(cpu->run, cpu->engine->run_size);
	close_fd(cpu->fd);
	free(cpu->power_on);
	pthread_mutex_destroy(&cpu->lock);
	free(cpu);
}

/* The state that reset goes back to. The first CPU runs, the others wait for their SIPI. */
static int remember(struct vcpu *cpu, struct vz_error *e)
{
	struct kvm_mp_state mp = { KVM_MP_STATE_INIT_RECEIVED };

	if (cpu->index && ioctl(cpu->fd, KVM_SET_MP_STATE, &mp))
		return err_set(e, errno, "engine", "KVM_SET_MP_STATE: %s", strerror(errno));
	cpu->power_on = kvm_msrs_all(cpu);
	if (!cpu->power_on)
		return err_set(e, ENOMEM, "engine", "cannot read the registers of CPU %u",
			cpu->index);
	kvm_get_state(cpu, &cpu->power_on->state);
	/* All counters start at the same value: KVM synchronises those that are set to 0. */
	cpu->power_on->state.tsc = 0;
	for (unsigned i = 0; i < cpu->power_on->nmsrs; i++)
		if (cpu->power_on->msrs[i].index == 0x10)
			cpu->power_on->msrs[i].data = 0;
	return 0;
}

static int vcpu_open(struct vcpu *cpu, struct vz_error *e)
{
	struct engine *engine = cpu->engine;
	void *run;
	int r;

	cpu->fd = ioctl(engine->vm, KVM_CREATE_VCPU, (unsigned long)cpu->index);
	if (cpu->fd < 0)
		return err_set(e, errno, "cpus", "KVM makes no CPU %u: %s", cpu->index,
			strerror(errno));
	run = mmap(NULL, engine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	if (run == MAP_FAILED)
		return err_set(e, errno, "cpus", "cannot map CPU %u: %s", cpu->index,
			strerror(errno));
	cpu->run = run;
	r = kvm_cpuid_set(cpu, e);
	return r ? r : remember(cpu, e);
}

static int vcpu_new(struct engine *engine, unsigned index, struct vz_error *e)
{
	struct vcpu *cpu = calloc(1, sizeof(*cpu));

	if (!cpu)
		return err_set(e, ENOMEM, "cpus", "out of memory for CPU %u", index);
	cpu->engine = engine;
	cpu->index = index;
	cpu->fd = -1;
	pthread_mutex_init(&cpu->lock, NULL);
	engine->vcpu[index] = cpu;
	return vcpu_open(cpu, e);
}

static struct vcpu *kvm_vcpu(struct engine *engine, unsigned index)
{
	return index < engine->cpus ? engine->vcpu[index] : NULL;
}

/* --- the virtual machine ------------------------------------------------------------------ */

static int set_slot(struct engine *engine, unsigned slot, const struct mem_region *region,
	bool dirty_log)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = dirty_log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = region->gpa,
		.memory_size = region->size,
		.userspace_addr = (uintptr_t)region->host,
	};

	return ioctl(engine->vm, KVM_SET_USER_MEMORY_REGION, &r) ? -errno : 0;
}

static int set_slots(struct engine *engine, bool dirty_log)
{
	const struct mem_region *regions;
	unsigned n = mem_regions(engine->mem, &regions);
	int r = 0;

	for (unsigned i = 0; i < n && !r; i++)
		r = set_slot(engine, i, &regions[i], dirty_log);
	return r;
}

static int enable(struct engine *engine, uint32_t cap, uint64_t arg, const char *name,
	struct vz_error *e)
{
	struct kvm_enable_cap enable_cap = { .cap = cap, .args = { arg } };

	if (ioctl(engine->vm, KVM_ENABLE_CAP, &enable_cap))
		return err_set(e, errno, "engine", "KVM does not give %s: %s", name,
			strerror(errno));
	return 0;
}

static int vm_open(struct engine *engine, struct vz_error *e)
{
	uint64_t identity = IDENTITY_ADDRESS;
	int r;

	engine->vm = ioctl(engine->kvm, KVM_CREATE_VM, 0);
	if (engine->vm < 0)
		return err_set(e, errno, "engine", "KVM makes no virtual machine: %s",
			strerror(errno));
	if (ioctl(engine->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
		ioctl(engine->vm, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDRESS))
		return err_set(e, errno, "engine", "KVM_SET_TSS_ADDR: %s", strerror(errno));
	r = enable(engine, KVM_CAP_SPLIT_IRQCHIP, ENGINE_IOAPIC_PINS, "the local APICs", e);
	if (!r)
		r = enable(engine, KVM_CAP_X2APIC_API,
			KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
			"x2APIC", e);
	if (r)
		return r;
	r = set_slots(engine, false);
	if (r)
		return err_set(e, r, "memory", "KVM does not take the guest's memory: %s",
			strerror(-r));
	return 0;
}

static void kvm_close(struct engine *engine)
{
	if (!engine)
		return;
	for (unsigned i = 0; i < ENGINE_CPUS_MAX; i++)
		vcpu_free(engine->vcpu[i]);
	close_fd(engine->vm);
	close_fd(engine->kvm);
	ioapic_fini(&engine->ioapic);
	pthread_mutex_destroy(&engine->routes_lock);
	free(engine->routes);
	free(engine->supported);
	free(engine);
}

static void interrupt_ended(void *arg, unsigned pin)
{
	struct engine *engine = arg;

	if (engine->board.eoi)
		engine->board.eoi(engine->board.arg, pin);
}

static void kvm_irq_line(struct engine *engine, unsigned pin, bool level)
{
	ioapic_line(&engine->ioapic, pin, level);
}

static int kvm_open(struct engine **out, const struct engine_config *config, struct vz_error *e)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	int r;

	if (!engine)
		return err_set(e, ENOMEM, "engine", "out of memory");
	engine->mem = config->mem;
	engine->board = config->board;
	engine->cpus = config->cpus;
	engine->vm = -1;
	pthread_mutex_init(&engine->routes_lock, NULL);
	ioapic_init(&engine->ioapic, &(struct ioapic_host){ .arg = engine,
					     .send = kvm_send_msi,
					     .route = kvm_route_pin,
					     .ended = interrupt_ended });
	engine->kvm = r = kvm_host_open(e);
	if (r < 0)
		goto fail;
	engine->run_size = (size_t)ioctl(engine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	engine->any_length =
		ioctl(engine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
	r = vm_open(engine, e);
	if (!r)
		r = kvm_cpuid_init(engine, e);
	for (unsigned i = 0; i < config->cpus && !r; i++)
		r = vcpu_new(engine, i, e);
	if (r)
		goto fail;
	*out = engine;
	return 0;
fail:
	kvm_close(engine);
	return r;
}

static void kvm_reset(struct engine *engine)
{
	for (unsigned i = 0; i < engine->cpus; i++) {
		const struct kvm_power_on *on = engine->vcpu[i]->power_on;

		kvm_msrs_set(engine->vcpu[i], on->msrs, on->nmsrs);
		kvm_set_state(engine->vcpu[i], &on->state);
	}
	ioapic_reset(&engine->ioapic);
}

/* --- dirty pages -------------------------------------------------------------------------- */

static int kvm_dirty_log(struct engine *engine, bool on)
{
	int r = set_slots(engine, on);

	engine->dirty_log = on && !r;
	return r;
}

static int kvm_dirty_fetch(struct engine *engine, uint64_t *bits)
{
	const struct mem_region *regions;
	unsigned n = mem_regions(engine->mem, &regions);

	if (!engine->dirty_log)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++) {
		/* Regions begin at whole words of the log: at 0 and at 3 GiB of the memfd. */
		struct kvm_dirty_log log = {
			.slot = i,
			.dirty_bitmap = bits + regions[i].offset / MEM_PAGE_SIZE / 64,
		};

		if (ioctl(engine->vm, KVM_GET_DIRTY_LOG, &log))
			return -errno;
	}
	return 0;
}

/* --- the rest ----------------------------------------------------------------------------- */

static bool kvm_counter(struct engine *engine, unsigned index, const char **name, uint64_t *value)
{
	static const char *const names[COUNT_KINDS] = {
		[COUNT_EXITS] = "exits",
		[COUNT_IO] = "exit_io",
		[COUNT_MMIO] = "exit_mmio",
		[COUNT_EOI] = "exit_eoi",
		[COUNT_INTERRUPTED] = "exit_interrupted",
	};
	uint64_t total = 0;

	if (index >= COUNT_KINDS)
		return false;
	for (unsigned i = 0; i < engine->cpus; i++)
		total += engine->vcpu[i]->count[index];
	*name = names[index];
	*value = total;
	return true;
}

static int kvm_state(struct engine *engine, struct state *s)
{
	struct kvm_clock_data now = { 0 };
	uint64_t ns;
	int r = ioapic_state(&engine->ioapic, s);

	if (r)
		return r;
	if (!state_loading(s))
		ioctl(engine->vm, KVM_GET_CLOCK, &now);
	ns = now.clock;
	state_enter(s, "kvmclock", 1, NULL);
	state_u64(s, "nanoseconds", &ns);
	r = state_leave(s);
	now = (struct kvm_clock_data){ .clock = ns };
	if (!r && state_loading(s) && ioctl(engine->vm, KVM_SET_CLOCK, &now))
		r = state_reject(s, "nanoseconds", "KVM does not take it");
	return r;
}

const struct engine_class engine_kvm = {
	.name = "kvm",
	.summary = "the host processor's virtualisation, through /dev/kvm",
	.probe = kvm_host_probe,
	.advise = kvm_host_advise,
	.open = kvm_open,
	.close = kvm_close,
	.vcpu = kvm_vcpu,
	.reset = kvm_reset,
	.run = kvm_vcpu_run,
	.kick = kvm_vcpu_kick,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.msi = kvm_msi,
	.irq_line = kvm_irq_line,
	.bind_doorbell = kvm_bind_doorbell,
	.unbind_doorbell = kvm_unbind_doorbell,
	.bind_irqfd = kvm_bind_irqfd,
	.unbind_irqfd = kvm_unbind_irqfd,
	.dirty_log = kvm_dirty_log,
	.dirty_fetch = kvm_dirty_fetch,
	.counter = kvm_counter,
	.state = kvm_state,
};
