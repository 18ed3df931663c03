/* SPDX-License-Identifier: MIT */
/*
 * One vCPU's loop around KVM_RUN, and how it is kicked out of it.
 *
 * A kick sets immediate_exit for the next KVM_RUN and sends a signal to the thread for one under
 * way. No handler is installed: the thread blocks the signal, and only KVM_RUN itself opens it
 * (KVM_SET_SIGNAL_MASK). There it ends the call with EINTR, is blocked again before the thread is
 * back in user mode, and is then taken off the queue.
 */
#include "base/arith.h"
#include "base/error.h"
#include "engine/kvm/internal.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define KICK_SIGNAL         SIGRTMAX
#define KERNEL_SIGSET_BYTES 8

/* --- kicks -------------------------------------------------------------------------------- */

void kvm_vcpu_kick(struct vcpu *cpu)
{
	atomic_store(&cpu->kicked, true);
	__atomic_store_n(&cpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&cpu->lock);
	if (cpu->running && !cpu->signalled)
		cpu->signalled = !pthread_kill(cpu->thread, KICK_SIGNAL);
	pthread_mutex_unlock(&cpu->lock);
}

static void kick_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, KICK_SIGNAL);
}

/* Take our own signal off the queue, and nobody else's. The lock is held. */
static void drain(struct vcpu *cpu)
{
	static const struct timespec at_once = { 0, 0 };
	sigset_t kick;

	kick_set(&kick);
	if (cpu->signalled)
		sigtimedwait(&kick, NULL, &at_once);
	cpu->signalled = false;
}

static bool take_kick(struct vcpu *cpu)
{
	pthread_mutex_lock(&cpu->lock);
	drain(cpu);
	pthread_mutex_unlock(&cpu->lock);
	/* In this order: a kick in between makes the next run return once too often. */
	__atomic_store_n(&cpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return atomic_exchange(&cpu->kicked, false);
}

static int enter(struct vcpu *cpu, struct vz_error *e)
{
	struct {
		struct kvm_signal_mask head;
		uint8_t set[KERNEL_SIGSET_BYTES];
	} mask = { .head.len = KERNEL_SIGSET_BYTES };
	sigset_t kick, in_guest;

	kick_set(&kick);
	pthread_sigmask(SIG_BLOCK, &kick, &in_guest);
	sigdelset(&in_guest, KICK_SIGNAL);
	memcpy(mask.head.sigset, &in_guest, KERNEL_SIGSET_BYTES);
	if (ioctl(cpu->fd, KVM_SET_SIGNAL_MASK, &mask))
		return err_set(e, errno, "engine", "KVM_SET_SIGNAL_MASK: %s", strerror(errno));
	pthread_mutex_lock(&cpu->lock);
	cpu->thread = pthread_self();
	cpu->running = true;
	pthread_mutex_unlock(&cpu->lock);
	return 0;
}

static void leave(struct vcpu *cpu)
{
	pthread_mutex_lock(&cpu->lock);
	cpu->running = false;
	drain(cpu);
	pthread_mutex_unlock(&cpu->lock);
}

/* --- accesses ----------------------------------------------------------------------------- */

static uint64_t board_read(struct engine *engine, bool port, uint64_t addr, unsigned size)
{
	if (!port && addr - ENGINE_IOAPIC_BASE < MEM_PAGE_SIZE)
		return ioapic_read(&engine->ioapic, addr - ENGINE_IOAPIC_BASE, size);
	return engine->board.read(engine->board.arg, port, addr, size);
}

static void board_write(struct engine *engine, bool port, uint64_t addr, unsigned size,
	uint64_t value)
{
	if (!port && addr - ENGINE_IOAPIC_BASE < MEM_PAGE_SIZE)
		ioapic_write(&engine->ioapic, addr - ENGINE_IOAPIC_BASE, size, value);
	else
		engine->board.write(engine->board.arg, port, addr, size, value);
}

static void access_board(struct engine *engine, bool port, uint64_t addr, unsigned size, bool write,
	uint8_t *bytes)
{
	uint64_t value = 0;

	if (write) {
		memcpy(&value, bytes, size);
		board_write(engine, port, addr, size, value);
	} else {
		value = board_read(engine, port, addr, size);
		memcpy(bytes, &value, size);
	}
}

/* String instructions come with all their elements. */
static void exit_io(struct vcpu *cpu)
{
	struct kvm_run *run = cpu->run;
	uint8_t *bytes = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, bytes += run->io.size)
		access_board(cpu->engine, true, run->io.port, run->io.size,
			run->io.direction == KVM_EXIT_IO_OUT, bytes);
}

/* Part of an access that crosses a page has any length: the board gets powers of two. */
static void exit_mmio(struct vcpu *cpu)
{
	struct kvm_run *run = cpu->run;
	unsigned len = MIN(run->mmio.len, (uint32_t)sizeof(run->mmio.data));

	for (unsigned at = 0, size; at < len; at += size) {
		for (size = 8; size > len - at;)
			size /= 2;
		access_board(cpu->engine, false, run->mmio.phys_addr + at, size, run->mmio.is_write,
			run->mmio.data + at);
	}
}

/* --- exits -------------------------------------------------------------------------------- */

static enum vcpu_exit failed(struct vz_error *e, const char *what, unsigned long long value)
{
	err_set(e, EIO, "engine", "KVM cannot go on: %s %#llx", what, value);
	return VCPU_FAILED;
}

static enum vcpu_exit internal_error(const struct kvm_run *run, struct vz_error *e)
{
	static const char *const names[] = {
		[KVM_INTERNAL_ERROR_EMULATION] = "an instruction that KVM does not emulate",
		[KVM_INTERNAL_ERROR_SIMUL_EX] = "exceptions at the same time",
		[KVM_INTERNAL_ERROR_DELIVERY_EV] = "an exit while an event was delivered",
		[KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit for an unexpected reason",
	};
	unsigned count = MIN(run->internal.ndata, (uint32_t)ARRAY_SIZE(run->internal.data));
	uint32_t sub = run->internal.suberror;
	char data[16 * 20] = "";

	for (unsigned i = 0, at = 0; i < count && i < 6; i++)
		at += (unsigned)snprintf(data + at, sizeof(data) - at, " %#llx",
			(unsigned long long)run->internal.data[i]);
	err_set(e, EIO, "engine", "KVM internal error %u (%s)%s%s", sub,
		sub < ARRAY_SIZE(names) && names[sub] ? names[sub] : "of a kind unknown here",
		count ? ", data" : "", data);
	return VCPU_FAILED;
}

static enum vcpu_exit shutdown(const struct vcpu *cpu, struct vz_error *e)
{
	err_set(e, EIO, NULL, "triple fault%s",
		cpu->engine->amd ? " (AMD processors forget the state: it is that after an INIT)"
				 : "");
	return VCPU_SHUTDOWN;
}

/* True: done, and the guest goes on. */
static bool handled(struct vcpu *cpu)
{
	switch (cpu->run->exit_reason) {
	case KVM_EXIT_IO:
		cpu->count[COUNT_IO]++;
		exit_io(cpu);
		return true;
	case KVM_EXIT_MMIO:
		cpu->count[COUNT_MMIO]++;
		exit_mmio(cpu);
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		cpu->count[COUNT_EOI]++;
		ioapic_eoi(&cpu->engine->ioapic, cpu->run->eoi.vector);
		return true;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_HLT:
		return true;
	default:
		return false;
	}
}

static enum vcpu_exit not_handled(struct vcpu *cpu, struct vz_error *e)
{
	const struct kvm_run *run = cpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		return shutdown(cpu, e);
	case KVM_EXIT_INTERNAL_ERROR:
		return internal_error(run, e);
	case KVM_EXIT_FAIL_ENTRY:
		return failed(e, "the processor refuses to enter the guest, reason",
			run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_UNKNOWN:
		return failed(e, "unknown hardware exit", run->hw.hardware_exit_reason);
	case KVM_EXIT_SYSTEM_EVENT:
		return failed(e, "system event", run->system_event.type);
	default:
		return failed(e, "exit reason", run->exit_reason);
	}
}

static enum vcpu_exit run_failed(int code, struct vz_error *e)
{
	if (code == EFAULT)
		err_set(e, code, "engine",
			"KVM_RUN: the host has no memory for a page of the guest's (%s)",
			strerror(code));
	else
		err_set(e, code, "engine", "KVM_RUN: %s", strerror(code));
	return VCPU_FAILED;
}

static enum vcpu_exit run_loop(struct vcpu *cpu, struct vz_error *e)
{
	for (;;) {
		int r = ioctl(cpu->fd, KVM_RUN, 0);

		cpu->count[COUNT_EXITS]++;
		if (!r && handled(cpu))
			continue;
		if (!r)
			return not_handled(cpu, e);
		if (errno != EINTR && errno != EAGAIN)
			return run_failed(errno, e);
		/* Whatever access was under way has been completed by this call. */
		cpu->count[COUNT_INTERRUPTED]++;
		if (take_kick(cpu))
			return VCPU_KICKED;
	}
}

enum vcpu_exit kvm_vcpu_run(struct vcpu *cpu, struct vz_error *e)
{
	enum vcpu_exit why;

	if (enter(cpu, e))
		return VCPU_FAILED;
	why = run_loop(cpu, e);
	leave(cpu);
	return why;
}
