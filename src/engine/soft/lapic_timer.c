/* SPDX-License-Identifier: MIT */
/*
 * The timer of the local APIC: one-shot and periodic counts at 1 GHz before the divider, and TSC
 * deadlines. Intel SDM volume 3, section 11.5.4. Each timer is a timerfd that the vCPU's thread
 * arms and the engine's timer thread watches.
 */
#include "base/error.h"
#include "engine/soft/lapic.h"
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MODE(lvt)     ((lvt) >> 17 & 3u)
#define MODE_ONE_SHOT 0u
#define MODE_PERIODIC 1u
#define MODE_DEADLINE 2u

#define NSEC          1000000000ull
#define KHZ_PER_NS    1000000u /* ticks * this / kHz = ns */
#define SLEEP_MAX     (365 * (86400 * NSEC))
/* What a guest may ask of the host: a shorter period would keep a host CPU busy for nothing. */
#define PERIOD_MIN 100000u

enum { INDEX_INITIAL = 0x38, INDEX_CURRENT = 0x39, INDEX_DIVIDE = 0x3e };

/* a * b / c, or the most there is; a libgcc division might use vector registers. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c)
{
	unsigned __int128 product = (unsigned __int128)a * b;
	uint64_t low = (uint64_t)product, high = (uint64_t)(product >> 64);

	if (high >= c)
		return UINT64_MAX;
	__asm__("divq %[c]" : "+a"(low), "+d"(high) : [c] "r"(c) : "cc");
	return low;
}

static uint64_t now_ns(const struct vcpu *cpu)
{
	return scale(__builtin_ia32_rdtsc(), KHZ_PER_NS, cpu->engine->tsc_khz);
}

/* Held for one system call; raw calls, for they leave vector registers alone. */
static void lock(struct lapic *lapic)
{
	while (atomic_exchange(&lapic->timer_lock, true))
		syscall(SYS_sched_yield);
}

static void unlock(struct lapic *lapic)
{
	atomic_store(&lapic->timer_lock, false);
}

/* ns 0: off. */
static void arm(struct vcpu *cpu, uint64_t ns, uint64_t interval)
{
	struct lapic *lapic = &cpu->lapic;
	struct itimerspec spec;

	ns = MIN(ns, SLEEP_MAX);
	spec.it_value.tv_sec = (time_t)(ns / NSEC);
	spec.it_value.tv_nsec = (long)(ns % NSEC);
	spec.it_interval.tv_sec = (time_t)(interval / NSEC);
	spec.it_interval.tv_nsec = (long)(interval % NSEC);
	lock(lapic);
	syscall(SYS_timerfd_settime, lapic->timer_fd, 0, &spec, NULL);
	lapic->timer_taken = !ns;
	unlock(lapic);
}

static void interrupt(struct vcpu *cpu)
{
	uint32_t lvt = shared_read(cpu->lapic.lvt[LVT_TIMER]);

	if (lvt & LVT_MASKED)
		return;
	if ((lvt & LVT_VECTOR) < 16)
		lapic_error(cpu, ESR_RECEIVE_ILLEGAL);
	else
		lapic_post(cpu, lvt & LVT_VECTOR, false);
}

/*
 * --- TSC deadline
 * ------------------------------------------------------------------------------------
 */

/*
 * Arm for the deadline, from the vCPU's or the timer's thread: whoever comes last finds the
 * deadline that the other has left. False: it has passed.
 */
static bool arm_deadline(struct vcpu *cpu)
{
	uint64_t deadline, now;

	do {
		deadline = __atomic_load_n(&cpu->lapic.tsc_deadline, __ATOMIC_SEQ_CST);
		now = soft_tsc(cpu);
		if (deadline && deadline <= now)
			return false;
		/* One more: rounding down would wake us early. */
		arm(cpu, deadline ? scale(deadline - now, KHZ_PER_NS, cpu->engine->tsc_khz) + 1 : 0,
			0);
	} while (deadline != __atomic_load_n(&cpu->lapic.tsc_deadline, __ATOMIC_SEQ_CST));
	return true;
}

/* Interrupt first: between the two, saved state would know of neither. */
static void end_deadline(struct vcpu *cpu)
{
	uint64_t deadline = shared_read(cpu->lapic.tsc_deadline);

	interrupt(cpu);
	__atomic_compare_exchange_n(&cpu->lapic.tsc_deadline, &deadline, 0, false, __ATOMIC_SEQ_CST,
		__ATOMIC_SEQ_CST);
}

static void start_deadline(struct vcpu *cpu)
{
	if (!arm_deadline(cpu)) {
		arm(cpu, 0, 0);
		end_deadline(cpu);
	}
}

uint64_t timer_read_deadline(const struct vcpu *cpu)
{
	uint64_t deadline = shared_read(cpu->lapic.tsc_deadline);

	return deadline && soft_tsc(cpu) < deadline ? deadline : 0;
}

void timer_write_deadline(struct vcpu *cpu, uint64_t deadline)
{
	if (MODE(cpu->lapic.lvt[LVT_TIMER]) != MODE_DEADLINE)
		return;
	__atomic_store_n(&cpu->lapic.tsc_deadline, deadline, __ATOMIC_SEQ_CST);
	start_deadline(cpu);
}

/*
 * --- counts
 * ------------------------------------------------------------------------------------------
 */

static unsigned divisor(const struct lapic *lapic)
{
	unsigned n = (lapic->timer_divide & 3) | (lapic->timer_divide >> 1 & 4);

	return n == 7 ? 1 : 2u << n;
}

static uint64_t period(const struct lapic *lapic)
{
	return (uint64_t)lapic->timer_initial * divisor(lapic);
}

/* The clocks of two host CPUs may differ by a little. */
static uint64_t elapsed_ns(const struct vcpu *cpu)
{
	uint64_t elapsed = now_ns(cpu) - cpu->lapic.timer_start;

	return (int64_t)elapsed < 0 ? 0 : elapsed;
}

/* For the timer thread: false when the vCPU has armed it anew, or claimed what was due. */
static bool take(struct lapic *lapic)
{
	uint64_t count;
	bool taken;

	lock(lapic);
	taken = syscall(SYS_read, lapic->timer_fd, &count, sizeof(count)) == sizeof(count);
	lapic->timer_taken |= taken;
	unlock(lapic);
	return taken;
}

/*
 * A count is over: true when the timer thread has not taken its expiry and now will not. What is
 * left of the timer does not tell: the host may be late.
 */
static bool claim(struct lapic *lapic)
{
	static const struct itimerspec off;
	bool taken;

	lock(lapic);
	syscall(SYS_timerfd_settime, lapic->timer_fd, 0, &off, NULL);
	taken = lapic->timer_taken;
	lapic->timer_taken = true;
	unlock(lapic);
	return !taken;
}

static void end_one_shot(struct vcpu *cpu)
{
	if (claim(&cpu->lapic))
		interrupt(cpu);
	cpu->lapic.timer_ended = true;
}

uint32_t timer_current(const struct vcpu *cpu)
{
	const struct lapic *lapic = &cpu->lapic;
	uint64_t elapsed, length = period(lapic);

	if (!length || lapic->timer_ended || MODE(lapic->lvt[LVT_TIMER]) == MODE_DEADLINE)
		return 0;
	elapsed = elapsed_ns(cpu);
	if (MODE(lapic->lvt[LVT_TIMER]) == MODE_PERIODIC)
		elapsed %= length;
	else if (elapsed >= length)
		return 0;
	return (uint32_t)((length - elapsed + divisor(lapic) - 1) / divisor(lapic));
}

/* Arm for what the registers say; a masked timer counts without any help. */
static void start_count(struct vcpu *cpu)
{
	struct lapic *lapic = &cpu->lapic;
	uint32_t lvt = lapic->lvt[LVT_TIMER];
	uint64_t length = period(lapic), elapsed = elapsed_ns(cpu);

	if (!length || lapic->timer_ended || (lvt & LVT_MASKED)) {
		arm(cpu, 0, 0);
	} else if (MODE(lvt) == MODE_PERIODIC) {
		arm(cpu, MAX(length - elapsed % length, 1u), MAX(length, (uint64_t)PERIOD_MIN));
	} else if (elapsed < length) {
		arm(cpu, length - elapsed, 0);
	} else {
		arm(cpu, 0, 0);
		lapic->timer_ended = true;
		interrupt(cpu);
	}
}

void timer_write_initial(struct vcpu *cpu, uint32_t count)
{
	if (MODE(cpu->lapic.lvt[LVT_TIMER]) == MODE_DEADLINE)
		return;
	cpu->lapic.timer_initial = count;
	cpu->lapic.timer_start = now_ns(cpu);
	cpu->lapic.timer_ended = false;
	start_count(cpu);
}

void timer_write_divide(struct vcpu *cpu, uint32_t divide)
{
	struct lapic *lapic = &cpu->lapic;
	uint32_t current = timer_current(cpu);

	lapic->timer_divide = divide;
	if (!current)
		return;
	lapic->timer_start =
		now_ns(cpu) - (uint64_t)(lapic->timer_initial - current) * divisor(lapic);
	start_count(cpu);
}

void timer_lvt_written(struct vcpu *cpu, uint32_t old)
{
	struct lapic *lapic = &cpu->lapic;
	uint32_t lvt = lapic->lvt[LVT_TIMER];
	uint64_t elapsed = elapsed_ns(cpu), length = period(lapic);

	if ((MODE(lvt) == MODE_DEADLINE) != (MODE(old) == MODE_DEADLINE)) {
		lapic->timer_initial = 0;
		__atomic_store_n(&lapic->tsc_deadline, 0, __ATOMIC_SEQ_CST);
		arm(cpu, 0, 0);
		return;
	}
	if (MODE(lvt) == MODE_DEADLINE || !length)
		return;
	/* The count goes on from where it is; what has ended stays so, in any mode. */
	if (MODE(old) == MODE_PERIODIC)
		lapic->timer_start += elapsed - elapsed % length;
	else if (elapsed >= length && !lapic->timer_ended)
		end_one_shot(cpu);
	start_count(cpu);
}

/*
 * --- both
 * --------------------------------------------------------------------------------------------
 */

void timer_clear(struct vcpu *cpu)
{
	cpu->lapic.timer_initial = cpu->lapic.timer_divide = 0;
	cpu->lapic.timer_ended = false;
	__atomic_store_n(&cpu->lapic.tsc_deadline, 0, __ATOMIC_SEQ_CST);
	arm(cpu, 0, 0);
}

void lapic_timer_rearm(struct vcpu *cpu)
{
	if (MODE(cpu->lapic.lvt[LVT_TIMER]) == MODE_DEADLINE && cpu->lapic.tsc_deadline)
		start_deadline(cpu);
}

static void expired(struct vcpu *cpu)
{
	if (MODE(shared_read(cpu->lapic.lvt[LVT_TIMER])) != MODE_DEADLINE)
		interrupt(cpu);
	else if (!arm_deadline(cpu)) /* the host's clock is steered and may run ahead of the TSC */
		end_deadline(cpu);
}

void lapic_timer_expired(struct vcpu *cpu)
{
	atomic_store(&cpu->lapic.timer_busy, true);
	if (take(&cpu->lapic))
		expired(cpu);
	atomic_store(&cpu->lapic.timer_busy, false);
}

void timer_get_state(struct vcpu *cpu, uint32_t *current, uint64_t *deadline)
{
	struct lapic *lapic = &cpu->lapic;

	/* Not what the guest would read: a deadline that has passed may be yet to interrupt. */
	*deadline = shared_read(lapic->tsc_deadline);
	*current = timer_current(cpu);
	if (*current == 0 && lapic->timer_initial && !lapic->timer_ended)
		end_one_shot(cpu);
	while (atomic_load(&lapic->timer_busy))
		__builtin_ia32_pause();
}

void timer_set_state(struct vcpu *cpu, const struct cpu_lapic *s)
{
	struct lapic *lapic = &cpu->lapic;
	uint32_t current = MIN(s->regs[INDEX_CURRENT], s->regs[INDEX_INITIAL]);

	lapic->timer_divide = s->regs[INDEX_DIVIDE];
	if (MODE(lapic->lvt[LVT_TIMER]) == MODE_DEADLINE) {
		/* The TSC that it refers to is set later: lapic_timer_rearm looks at it then. */
		__atomic_store_n(&lapic->tsc_deadline, s->tsc_deadline, __ATOMIC_SEQ_CST);
		return;
	}
	lapic->timer_initial = s->regs[INDEX_INITIAL];
	lapic->timer_start =
		now_ns(cpu) - (uint64_t)(lapic->timer_initial - current) * divisor(lapic);
	lapic->timer_ended = current == 0;
	start_count(cpu);
}

int lapic_init(struct vcpu *cpu, struct vz_error *e)
{
	cpu->lapic.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (cpu->lapic.timer_fd < 0)
		return err_set(e, errno, "engine", "timerfd for CPU %u: %m", cpu->index);
	lapic_reset(cpu);
	return 0;
}

void lapic_fini(struct vcpu *cpu)
{
	close(cpu->lapic.timer_fd);
}
