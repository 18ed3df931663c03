/* SPDX-License-Identifier: MIT */
/*
 * The run loop of one vCPU: deliver what is due, run translated code, and do in C what it came
 * back for. Host signals that translated code raises (#DE, #XM, #MF, #GP, #UD) become the guest's
 * exceptions here.
 */
#include "base/error.h"
#include "base/log.h"
#include "engine/soft/code.h"
#include "engine/soft/layout.h"
#include "engine/soft/mmu.h"
#include <asm/prctl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ALT_STACK_BYTES (128u << 10)
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif
#define DR6_BS (1u << 14)

struct insn_cache {
	uint64_t generation;
	uint32_t site;
	struct insn insn;
	uint8_t bytes[INSN_MAX_LEN];
};
#define INSN_CACHE_SIZE 256

static __thread struct vcpu *current_vcpu;
static struct sigaction previous[NSIG];

/*
 * --- host signals
 * ------------------------------------------------------------------------------------
 */

static void trap(struct vcpu *cpu, unsigned number, const uint8_t *host, uint64_t address)
{
	const struct code *code = cpu->engine->code;
	bool in_thunk = host - code->rx < code->first;

	if (!in_thunk) {
		const struct site *site = code_find_site(code, host);

		if (site)
			cpu->rip = site->rip;
		else
			number = EXC_PF;
	}
	switch (number) {
	case EXC_DE:
	case EXC_UD:
	case EXC_MF:
		soft_raise(cpu, number);
		return;
	case EXC_XM:
		soft_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
		return;
	case EXC_GP:
	case EXC_SS:
		soft_raise_error(cpu, EXC_GP, 0);
		return;
	default:
		cpu->failed = true;
		cpu->fail_trap = number;
		cpu->fail_host = (uint64_t)(host - code->rx);
		cpu->fail_address = address;
	}
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct vcpu *cpu = current_vcpu;
	const struct sigaction *old = &previous[number];

	if (cpu) {
		const struct code *code = cpu->engine->code;
		const uint8_t *host = (const uint8_t *)regs[REG_RIP];

		if (host >= code->rx && host < code->rx + CODE_BYTES) {
			trap(cpu, (unsigned)regs[REG_TRAPNO], host, (uint64_t)info->si_addr);
			regs[REG_RIP] = (greg_t)(code->rx + RUNTIME(trap));
			return;
		}
	}
	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(number, info, context);
	else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
		old->sa_handler(number);
	else
		/* it happens again, and ends the process as it would have */
		sigaction(number, old, NULL);
}

static void install_handlers(void)
{
	static const int numbers[] = { SIGFPE, SIGSEGV, SIGBUS, SIGILL };
	struct sigaction action = { .sa_sigaction = on_signal,
		.sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigfillset(&action.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaction(numbers[i], &action, &previous[numbers[i]]);
}

/*
 * What the calling thread needs to run translated code: gs, and a signal stack that the guest's rsp
 * cannot hit.
 */
static int bind_thread(struct vcpu *cpu, struct vz_error *e)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	stack_t stack = { .ss_size = ALT_STACK_BYTES, .ss_flags = (int)SS_AUTODISARM };

	pthread_once(&once, install_handlers);
	if (current_vcpu == cpu)
		return 0;
	if (!cpu->alt_stack) {
		cpu->alt_stack = mmap(NULL, ALT_STACK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (cpu->alt_stack == MAP_FAILED) {
			cpu->alt_stack = NULL;
			return err_set(e, ENOMEM, "engine", "out of memory for a signal stack");
		}
	}
	stack.ss_sp = cpu->alt_stack;
	if (sigaltstack(&stack, NULL) < 0 || syscall(SYS_arch_prctl, ARCH_SET_GS, cpu) < 0)
		return err_set(e, errno, "engine", "cannot prepare a CPU thread: %s",
			strerror(errno));
	current_vcpu = cpu;
	return 0;
}

void run_unbind(struct vcpu *cpu)
{
	if (cpu->alt_stack)
		munmap(cpu->alt_stack, ALT_STACK_BYTES);
	free(cpu->insns);
}

/*
 * --- vector state
 * -------------------------------------------------------------------------------------
 */

static inline uint32_t xsave_mask(const struct vcpu *cpu)
{
	return cpu->engine->features >> FEAT_AVX & 1 ? 7 : 3;
}

void soft_fpu_park(struct vcpu *cpu)
{
	static const uint32_t mxcsr = 0x1f80;

	if (!cpu->fpu_loaded)
		return;
	__asm__ volatile("xsave64 %0" : "+m"(cpu->xsave) : "a"(xsave_mask(cpu)), "d"(0) : "memory");
	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
	cpu->fpu_loaded = false;
}

unsigned soft_enter(struct vcpu *cpu, uint64_t host)
{
	void (*enter)(void) = (void (*)(void))(cpu->engine->code->rx + RUNTIME(enter));

	if (!cpu->fpu_loaded) {
		__asm__ volatile("xrstor64 %0" : : "m"(cpu->xsave), "a"(xsave_mask(cpu)), "d"(0));
		cpu->fpu_loaded = true;
	}
	cpu->entry = host;
	cpu->flags = (cpu->flags & FL_ARITH_DF) | 2;
	enter();
	cpu->flags = (cpu->flags & FL_ARITH_DF) | 2;
	cpu->count_exits[cpu->exit & 7]++;
#ifdef __SANITIZE_ADDRESS__
	soft_fpu_park(cpu); /* the sanitizer's own code is not compiled without vector registers */
#endif
	return cpu->exit;
}

/*
 * --- sleeping and waking
 * ------------------------------------------------------------------------------
 */

static uint32_t *pending_word(struct vcpu *cpu)
{
	return (uint32_t *)&cpu->pending;
}

void soft_wake(struct vcpu *cpu)
{
	atomic_store(&cpu->pending, 1);
	if (atomic_load(&cpu->sleeping))
		syscall(SYS_futex, pending_word(cpu), FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void soft_halt(struct vcpu *cpu)
{
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	cpu->count_halt++;
	atomic_store(&cpu->sleeping, 1);
	while (!atomic_load(&cpu->pending))
		syscall(SYS_futex, pending_word(cpu), FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	atomic_store(&cpu->sleeping, 0);
	soft_running(cpu);
}

/*
 * --- what came back from translated code
 * --------------------------------------------------------------
 */

/* cpu->insn for the instruction of a site, from the cache where it can be. */
static bool insn_at_site(struct vcpu *cpu, uint32_t site, const uint8_t **bytes)
{
	struct insn_cache *cached = &cpu->insns[site % INSN_CACHE_SIZE];
	uint64_t generation = cpu->engine->code->generation + 1;

	*bytes = cached->bytes;
	if (cached->site == site && cached->generation == generation) {
		cpu->insn = cached->insn;
		cpu->next_rip = cpu->rip + cpu->insn.len;
		return true;
	}
	cached->generation = 0;
	if (!soft_fetch(cpu, cached->bytes))
		return false;
	cached->insn = cpu->insn;
	cached->site = site;
	cached->generation = generation;
	return true;
}

static void execute_site(struct vcpu *cpu, uint32_t site)
{
	const uint8_t *bytes;

	if (!insn_at_site(cpu, site, &bytes) || !soft_execute(cpu, bytes))
		return;
	if (cpu->insn.class == INSN_SYSTEM && cpu->units != soft_units(cpu)) {
		cpu->units = soft_units(cpu);
		soft_tlb_flush(cpu, true);
	}
}

/*
 * No TLB hit at a site. Returns the host address to go on at, or 0: the instruction was done in
 * C, or it faulted. Two accesses of one instruction may evict each other's entry for ever, hence
 * the count.
 */
static uint64_t miss(struct vcpu *cpu, unsigned *misses)
{
	const struct code *code = cpu->engine->code;
	const struct site *site = &code->sites[cpu->site];
	unsigned index = cpu->temp[2] & (TLB_SIZE - 1);
	bool user = cpu->cpl == 3;
	uint64_t va = cpu->temp[3] ^ cpu->tags[user][site->write][index];
	struct walk walk;

	cpu->rip = site->rip;
	if ((va & 0xfff) + site->size <= MEM_PAGE_SIZE && ++*misses < 8) {
		if (mmu_fill(cpu, va, site->write, user, &walk)) {
			if (walk.host)
				return (uint64_t)(code->rx + site->host);
		} else if (cpu->fault.vector == EXC_PF &&
			   !(site->size >= 16 && (va & (site->size - 1u)))) {
			return 0;
		} else {
			/*
			 * Alignment comes before the page, and beyond the canonical range #SS and
			 * #GP differ: the instruction itself must tell.
			 */
			cpu->fault.valid = false;
		}
	}
	execute_site(cpu, cpu->site);
	return 0;
}

static void run_translated(struct vcpu *cpu)
{
	unsigned user = cpu->cpl == 3, index = cpu->rip & (BRANCH_SIZE - 1), misses = 0;
	struct code *code = cpu->engine->code;
	uint64_t host =
		cpu->branch_tag[user][index] == cpu->rip ? cpu->branch_host[user][index] : 0;

	cpu->sysflags &= ~(uint64_t)FL_RF;
	if (!host)
		host = code_lookup(cpu);
	while (host) {
		unsigned exit = soft_enter(cpu, host);

		host = 0;
		switch (exit) {
		case EXIT_POLL:
			cpu->rip = code->sites[cpu->site].rip;
			break;
		case EXIT_LINK:
		case EXIT_DEAD:
			code_link(cpu);
			break;
		case EXIT_MISS:
			host = miss(cpu, &misses);
			break;
		case EXIT_INSN:
			cpu->rip = code->sites[cpu->site].rip;
			execute_site(cpu, cpu->site);
			break;
		default: /* EXIT_LOOKUP: rip is set; EXIT_TRAP: the fault is */
			break;
		}
	}
}

/*
 * Does the trap after an instruction that began with TF set come? Software interrupts and a
 * syscall that clears TF discard it, and a load of SS leaves it to the next instruction.
 */
static bool step_traps(const struct vcpu *cpu)
{
	if (!cpu->long_mode || cpu->insn.class != INSN_SYSTEM)
		return true;
	switch (cpu->insn.system) {
	case SYS_INT:
	case SYS_INT1:
	case SYS_INT3:
		return false;
	case SYS_SYSCALL:
		return cpu->sysflags & FL_TF;
	case SYS_MOV_TO_SREG:
		return !cpu->shadow;
	default:
		return true;
	}
}

/* One instruction alone: after sti or mov ss, with TF set, and outside 64-bit mode. */
static void run_single(struct vcpu *cpu)
{
	bool trace = cpu->sysflags & FL_TF, done;

	cpu->shadow = false;
	done = cpu->long_mode ? soft_step(cpu) : soft_legacy_step(cpu);
	if (done && cpu->units != soft_units(cpu)) {
		cpu->units = soft_units(cpu);
		soft_tlb_flush(cpu, true);
	}
	if (done && trace && step_traps(cpu)) {
		cpu->dr[6] |= DR6_BS;
		soft_raise(cpu, EXC_DB);
	}
}

/*
 * --- the loop
 * -----------------------------------------------------------------------------------------
 */

static void service(struct vcpu *cpu)
{
	atomic_exchange(&cpu->pending, 0);
	if (atomic_load(&cpu->engine->exclusive)) {
		soft_fpu_park(cpu);
		soft_not_running(cpu);
		soft_running(cpu);
	}
	if (atomic_load(&cpu->lapic.init_sipi))
		lapic_take_init_sipi(cpu);
}

/* Deliver one event, if one is due. */
static bool deliver(struct vcpu *cpu)
{
	int vector;

	if (cpu->fault.valid) {
		soft_deliver_fault(cpu);
		return true;
	}
	if (cpu->shadow || cpu->mp == CPU_MP_WAIT_SIPI)
		return false;
	if (atomic_load_explicit(&cpu->lapic.nmi, memory_order_relaxed) && !cpu->nmi_blocked) {
		atomic_store(&cpu->lapic.nmi, false);
		cpu->mp = CPU_MP_RUNNING;
		cpu->nmi_blocked = true;
		soft_interrupt(cpu, EXC_NMI, false);
		return true;
	}
	if (!(cpu->sysflags & FL_IF)) {
		cpu->irq_waiting = lapic_pending(cpu) >= 0;
		return false;
	}
	cpu->irq_waiting = 0;
	vector = lapic_accept(cpu);
	if (vector < 0)
		return false;
	cpu->mp = CPU_MP_RUNNING;
	cpu->count_irqs++;
	soft_interrupt(cpu, (unsigned)vector, false);
	return true;
}

static enum vcpu_exit leave(struct vcpu *cpu, enum vcpu_exit why)
{
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	return why;
}

enum vcpu_exit soft_run(struct vcpu *cpu, struct vz_error *e)
{
	if (bind_thread(cpu, e) < 0)
		return VCPU_FAILED;
	if (!cpu->insns)
		cpu->insns = calloc(INSN_CACHE_SIZE, sizeof(*cpu->insns));
	if (!cpu->insns)
		return err_set(e, ENOMEM, "engine", "out of memory"), VCPU_FAILED;
	cpu->units = soft_units(cpu);
	soft_running(cpu);
	for (;;) {
		if (atomic_load_explicit(&cpu->pending, memory_order_relaxed))
			service(cpu);
		/* A trap must be delivered before the state is looked at: rip is past its cause. */
		if (atomic_load_explicit(&cpu->kick, memory_order_relaxed) && !cpu->fault.valid) {
			atomic_store(&cpu->kick, false);
			return leave(cpu, VCPU_KICKED);
		}
		if (deliver(cpu)) {
			if (!cpu->triple_fault)
				continue;
			leave(cpu, VCPU_SHUTDOWN);
			err_set(e, EIO, "", "CPU %u: triple fault at %#llx", cpu->index,
				(unsigned long long)cpu->rip);
			return VCPU_SHUTDOWN;
		}
		if (cpu->mp != CPU_MP_RUNNING)
			soft_halt(cpu);
		else if (cpu->shadow || (cpu->sysflags & FL_TF) || !cpu->long_mode)
			run_single(cpu);
		else
			run_translated(cpu);
		if (cpu->failed) {
			leave(cpu, VCPU_FAILED);
			err_set(e, EFAULT, "engine",
				"CPU %u: host exception %u in translated code at +%#llx, "
				"address %#llx, guest rip %#llx",
				cpu->index, cpu->fail_trap, (unsigned long long)cpu->fail_host,
				(unsigned long long)cpu->fail_address,
				(unsigned long long)cpu->rip);
			return VCPU_FAILED;
		}
	}
}

void soft_kick(struct vcpu *cpu)
{
	atomic_store(&cpu->kick, true);
	soft_wake(cpu);
}
