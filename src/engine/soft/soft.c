/* SPDX-License-Identifier: MIT */
/*
 * The software CPU as an engine (engine.h): an x86-64 CPU in this process that rewrites guest
 * code for the same instruction set. See docs/software-cpu.md.
 */
#include "base/error.h"
#include "engine/soft/code.h"
#include "engine/soft/lapic.h"
#include "engine/soft/layout.h"
#include "engine/soft/mmu.h"
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OFFSET(field, at) _Static_assert(offsetof(struct vcpu, field) == (at), #field)
OFFSET(gpr, VCPU_GPR);
OFFSET(rip, VCPU_RIP);
OFFSET(flags, VCPU_FLAGS);
OFFSET(seg_base, VCPU_SEG_BASE);
OFFSET(pending, VCPU_PENDING);
OFFSET(host_rsp, VCPU_HOST_RSP);
OFFSET(temp, VCPU_TEMP);
OFFSET(exit, VCPU_EXIT);
OFFSET(site, VCPU_SITE);
OFFSET(entry, VCPU_ENTRY);
OFFSET(sysflags, VCPU_SYSFLAGS);
OFFSET(irq_waiting, VCPU_IRQ_WAITING);
_Static_assert(sizeof(struct vcpu) <= VCPU_ARRAYS, "the arrays follow the struct");

/* The logs follow the arrays. */
#define LOG_BYTES  ((2 * TLB_LOG + 2 * BRANCH_SIZE) * sizeof(uint32_t))
#define VCPU_BYTES (VCPU_MAPPING + LOG_BYTES)

static void vcpu_free(struct vcpu *cpu)
{
	if (!cpu)
		return;
	lapic_fini(cpu);
	run_unbind(cpu);
	munmap(cpu, VCPU_BYTES);
}

static struct vcpu *vcpu_new(struct engine *engine, unsigned index, struct vz_error *e)
{
	uint8_t *base = mmap(NULL, VCPU_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct vcpu *cpu = (struct vcpu *)base;

	if (base == MAP_FAILED) {
		err_set(e, ENOMEM, "cpus", "out of memory for CPU %u", index);
		return NULL;
	}
	cpu->engine = engine;
	cpu->index = index;
	for (unsigned user = 0; user < 2; user++) {
		for (unsigned write = 0; write < 2; write++) {
			cpu->tags[user][write] = (uint64_t *)(base + VCPU_TAG(user, write));
			cpu->tags[user][write][0] = 0x1000;
		}
		cpu->host[user] = (uint64_t *)(base + VCPU_HOST(user));
		cpu->branch_tag[user] = (uint64_t *)(base + VCPU_BRANCH_TAG(user));
		cpu->branch_host[user] = (uint64_t *)(base + VCPU_BRANCH_HOST(user));
		/* A tag of zero means "none" everywhere but here: see branch_flush. */
		cpu->branch_tag[user][0] = 1;
		cpu->branch_tag[user][1] = 2;
	}
	cpu->tlb_log = (uint32_t *)(base + VCPU_MAPPING);
	cpu->global_log = cpu->tlb_log + TLB_LOG;
	cpu->branch_log[0] = cpu->global_log + TLB_LOG;
	cpu->branch_log[1] = cpu->branch_log[0] + BRANCH_SIZE;
	for (unsigned i = 0; i < ARRAY_SIZE(cpu->itlb); i++)
		cpu->itlb[i].va = 1;
	if (lapic_init(cpu, e) < 0) {
		munmap(base, VCPU_BYTES);
		return NULL;
	}
	soft_cpu_reset(cpu, false);
	return cpu;
}

static int soft_probe_host(struct vz_error *e)
{
	unsigned a, b, c = 0, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_SSE4_2) ||
		!__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c & bit_LAHF_LM))
		return err_set(e, ENOTSUP, "engine",
			"the software CPU needs a host CPU of level x86-64-v2, with XSAVE");
	return 0;
}

static void on_ram_written(void *arg, uint64_t gpa, uint64_t len)
{
	struct engine *engine = arg;
	const uint8_t *host = mmu_ram(engine, gpa);

	/*
	 * The bytes are written before the flags are looked at; the translator does it the other
	 * way round.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	if (host)
		code_written(engine, mmu_offset(engine, host), len);
}

static void soft_close(struct engine *engine)
{
	if (!engine)
		return;
	mem_observe(engine->mem, NULL, NULL);
	timer_thread_stop(engine);
	code_fini(engine);
	for (unsigned i = 0; i < engine->cpus; i++)
		vcpu_free(engine->vcpu[i]);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->exclusive_lock);
	pthread_cond_destroy(&engine->exclusive_cond);
	pthread_rwlock_destroy(&engine->doorbell_lock);
	ioapic_fini(&engine->ioapic);
	free(engine->doorbells);
	free(engine);
}

static bool send_message(void *arg, uint64_t address, uint32_t data)
{
	return lapic_send_msi(arg, address, data);
}

static void interrupt_ended(void *arg, unsigned pin)
{
	struct engine *engine = arg;

	if (engine->board.eoi)
		engine->board.eoi(engine->board.arg, pin);
}

static int soft_open(struct engine **out, const struct engine_config *config, struct vz_error *e)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	const struct mem_region *regions;
	int r = -ENOMEM;

	if (!engine)
		return err_set(e, ENOMEM, "engine", "out of memory");
	engine->config = *config;
	engine->mem = config->mem;
	engine->board = config->board;
	engine->exact = config->options && strstr(config->options, "exact");
	engine->features = soft_cpuid_features();
	engine->tsc_khz = soft_tsc_khz();
	engine->timer_epoll = engine->timer_stop = -1;
	pthread_mutex_init(&engine->lock, NULL);
	pthread_mutex_init(&engine->exclusive_lock, NULL);
	pthread_cond_init(&engine->exclusive_cond, NULL);
	pthread_rwlock_init(&engine->doorbell_lock, NULL);
	engine->nram = mem_regions(config->mem, &regions);
	memcpy(engine->ram, regions, engine->nram * sizeof(*regions));
	ioapic_init(&engine->ioapic,
		&(struct ioapic_host){
			.arg = engine, .send = send_message, .ended = interrupt_ended });
	for (; engine->cpus < config->cpus; engine->cpus++) {
		engine->vcpu[engine->cpus] = vcpu_new(engine, engine->cpus, e);
		if (!engine->vcpu[engine->cpus])
			goto fail;
	}
	r = code_init(engine, e);
	if (r < 0)
		goto fail;
	r = timer_thread_start(engine, e);
	if (r < 0)
		goto fail;
	mem_observe(engine->mem, on_ram_written, engine);
	*out = engine;
	return 0;
fail:
	soft_close(engine);
	return r;
}

static struct vcpu *soft_vcpu(struct engine *engine, unsigned index)
{
	return index < engine->cpus ? engine->vcpu[index] : NULL;
}

static void soft_reset(struct engine *engine)
{
	for (unsigned i = 0; i < engine->cpus; i++) {
		soft_cpu_reset(engine->vcpu[i], false);
		lapic_reset(engine->vcpu[i]);
	}
	ioapic_reset(&engine->ioapic);
	pthread_mutex_lock(&engine->lock);
	code_flush(engine);
	pthread_mutex_unlock(&engine->lock);
}

/*
 * --- the board
 * -----------------------------------------------------------------------------------------
 */

#define APIC_ENABLED (1u << 11)
#define APIC_X2APIC  (1u << 10)

/* Is this this CPU's local APIC in its memory-mapped form? */
static bool is_lapic(const struct vcpu *cpu, uint64_t addr)
{
	return (addr ^ cpu->lapic.base) >> 12 == 0 &&
	       (cpu->lapic.base & (APIC_ENABLED | APIC_X2APIC)) == APIC_ENABLED;
}

static bool is_ioapic(uint64_t addr)
{
	return addr - ENGINE_IOAPIC_BASE < MEM_PAGE_SIZE;
}

uint64_t soft_board_read(struct vcpu *cpu, bool port, uint64_t addr, unsigned size)
{
	struct engine *engine = cpu->engine;
	uint64_t v;

	if (!port && is_lapic(cpu, addr))
		return lapic_mmio_read(cpu, addr & 0xfff);
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	if (!port && is_ioapic(addr))
		v = ioapic_read(&engine->ioapic, addr & 0xfff, size);
	else
		v = engine->board.read(engine->board.arg, port, addr, size);
	soft_running(cpu);
	return v;
}

static bool ring_doorbell(struct engine *engine, uint64_t addr, unsigned size)
{
	static const uint64_t one = 1;
	bool found = false;

	pthread_rwlock_rdlock(&engine->doorbell_lock);
	for (unsigned i = 0; i < engine->ndoorbells && !found; i++) {
		const struct doorbell *bell = &engine->doorbells[i];

		if (addr != bell->address || size > bell->size)
			continue;
		found = true;
		/* A full counter means the other side has been told already. */
		if (write(bell->fd, &one, sizeof(one)) < 0)
			continue;
	}
	pthread_rwlock_unlock(&engine->doorbell_lock);
	return found;
}

void soft_board_write(struct vcpu *cpu, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	struct engine *engine = cpu->engine;

	if (!port && is_lapic(cpu, addr)) {
		lapic_mmio_write(cpu, addr & 0xfff, (uint32_t)value);
		return;
	}
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	if (!port && is_ioapic(addr))
		ioapic_write(&engine->ioapic, addr & 0xfff, size, value);
	else if (port || !ring_doorbell(engine, addr, size))
		engine->board.write(engine->board.arg, port, addr, size, value);
	soft_running(cpu);
}

static int soft_bind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd)
{
	struct doorbell *more;
	int r = 0;

	pthread_rwlock_wrlock(&engine->doorbell_lock);
	more = realloc(engine->doorbells, (engine->ndoorbells + 1) * sizeof(*more));
	if (more) {
		engine->doorbells = more;
		more[engine->ndoorbells++] = (struct doorbell){ address, size, fd };
	} else {
		r = -ENOMEM;
	}
	pthread_rwlock_unlock(&engine->doorbell_lock);
	return r;
}

static void soft_unbind_doorbell(struct engine *engine, uint64_t address, unsigned size, int fd)
{
	pthread_rwlock_wrlock(&engine->doorbell_lock);
	for (unsigned i = 0; i < engine->ndoorbells; i++) {
		const struct doorbell *bell = &engine->doorbells[i];

		if (bell->address == address && bell->size == size && bell->fd == fd) {
			engine->doorbells[i] = engine->doorbells[--engine->ndoorbells];
			break;
		}
	}
	pthread_rwlock_unlock(&engine->doorbell_lock);
}

static bool soft_counter(struct engine *engine, unsigned index, const char **name, uint64_t *value)
{
	static const char *const exits[8] = { "exit_lookup", "exit_miss", "exit_insn", "exit_link",
		"exit_thunk", "exit_trap", "exit_poll", "exit_dead" };
	uint64_t total = 0;

	if (index < 8) {
		*name = exits[index];
		for (unsigned i = 0; i < engine->cpus; i++)
			total += engine->vcpu[i]->count_exits[index];
		*value = total;
		return true;
	}
#define COUNT(n, label, field)                              \
	if (index == (n)) {                                 \
		*name = label;                              \
		for (unsigned i = 0; i < engine->cpus; i++) \
			total += engine->vcpu[i]->field;    \
		*value = total;                             \
		return true;                                \
	}
	COUNT(8, "tlb_fills", count_fills)
	COUNT(9, "tlb_flushes", count_flush)
	COUNT(10, "stepped", count_bounce)
	COUNT(11, "interrupts", count_irqs)
	COUNT(12, "halts", count_halt)
#undef COUNT
	if (index == 13) {
		*name = "blocks";
		*value = engine->code->count_translated;
		return true;
	}
	if (index == 14) {
		*name = "blocks_killed";
		*value = engine->code->count_killed;
		return true;
	}
	if (index == 15) {
		*name = "code_bytes";
		*value =
			engine->code->hot - engine->code->first + engine->code->cold - CODE_HOT_END;
		return true;
	}
	return false;
}

static void soft_irq_line(struct engine *engine, unsigned pin, bool level)
{
	ioapic_line(&engine->ioapic, pin, level);
}

static int soft_state(struct engine *engine, struct state *s)
{
	return ioapic_state(&engine->ioapic, s);
}

const struct engine_class engine_soft = {
	.name = "soft",
	.summary = "software CPU: rewrites guest code in this process; works everywhere",
	.probe = soft_probe_host,
	.open = soft_open,
	.close = soft_close,
	.vcpu = soft_vcpu,
	.reset = soft_reset,
	.run = soft_run,
	.kick = soft_kick,
	.get_state = soft_get_state,
	.set_state = soft_set_state,
	.msi = lapic_deliver,
	.irq_line = soft_irq_line,
	.bind_doorbell = soft_bind_doorbell,
	.unbind_doorbell = soft_unbind_doorbell,
	.counter = soft_counter,
	.state = soft_state,
};
