/* SPDX-License-Identifier: MIT */
/*
 * The native side: a child process that may do nothing but wait and return from signals runs the
 * cases of a batch in shared memory. A fault in test code arrives as a signal on a stack of its
 * own.
 */
#include "native.h"
#include "diff.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

void native_run(void);
void native_resume(void);
void native_signal(int number, siginfo_t *info, void *context);
void native_caught(int number, siginfo_t *info, void *context);
extern const uint8_t native_exit_start[], native_exit_end[];

struct context {
	uint64_t gpr[16], flags, rip, fs, gs, host_rsp, host_fs, xin;
	uint32_t xmask, exit;
	uint64_t resume;
	uint64_t pad[7];
	uint64_t out[16], out_flags, out_fs, out_gs;
};
_Static_assert(offsetof(struct context, out) == CTX_OUT - CTX, "native.h");
_Static_assert(offsetof(struct context, exit) == CTX_EXIT - CTX, "native.h");
_Static_assert(CTX == NATIVE_CONTEXT, "native.h");
#define ctx ((struct context *)CTX)

struct shared {
	_Atomic uint32_t submitted, done; /* counts of batches */
	uint32_t index;                   /* which batch */
	_Atomic uint32_t current;         /* case being run */
	struct batch batch[2];
};

static struct shared *shared;
static pid_t child;
static uint32_t xmask;

/*
 * --- the child
 * -----------------------------------------------------------------------------------------
 */

static uint8_t *arena;
static struct outcome *now; /* where the outcome of the running case goes */

__attribute__((used)) void native_caught(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	static const uint8_t order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
		REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14,
		REG_R15 };

	(void)info;
	if (!now)
		_exit(100 + number);
	now->vector = (int)regs[REG_TRAPNO];
	now->error = (uint32_t)regs[REG_ERR];
	now->cr2 = (uint64_t)regs[REG_CR2];
	for (unsigned i = 0; i < 16; i++)
		now->gpr[i] = (uint64_t)regs[order[i]];
	now->rip = (uint64_t)regs[REG_RIP];
	now->flags = (uint64_t)regs[REG_EFL];
	memcpy(now->xsave, uc->uc_mcontext.fpregs, XSAVE_BYTES);
	regs[REG_RIP] = (greg_t)native_resume;
	regs[REG_RSP] = (greg_t)ctx->host_rsp;
	regs[REG_EFL] = 0x202;
}

static void run_case(const struct batch *b, const struct diff_case *c, struct outcome *o)
{
	arena_prepare(arena, c);
	memcpy(ctx->gpr, c->gpr, sizeof(ctx->gpr));
	ctx->flags = c->flags | 0x202;
	ctx->rip = c->rip;
	ctx->fs = c->fs;
	ctx->gs = c->gs;
	ctx->xin = (uint64_t)c->xsave;
	o->vector = OUTCOME_DONE;
	o->error = 0;
	o->cr2 = 0;
	now = o;
	native_run();
	now = NULL;
	o->fs = ctx->out_fs;
	o->gs = ctx->out_gs;
	if (o->vector == OUTCOME_DONE) {
		memcpy(o->gpr, ctx->out, sizeof(o->gpr));
		o->flags = ctx->out_flags;
		o->rip = EXIT_PAGE + EXIT_SLOT * ctx->exit;
		memcpy(o->xsave, (void *)CTX_XOUT, XSAVE_BYTES);
	}
	if (!(xmask & 4))
		o->xsave[512] &= (uint8_t)~4u;
	xsave_normalise(o->xsave);
	arena_collect(arena, b, c, o);
}

static void *map_at(uint64_t va, uint64_t bytes, int prot, int flags, int fd, uint64_t offset)
{
	void *p = mmap((void *)va, bytes, prot, flags | MAP_POPULATE, fd, (off_t)offset);

	if (p == MAP_FAILED)
		_exit(90);
	return p;
}

static void write_exits(void)
{
	uint8_t *page = arena + EXIT_AT;
	uint32_t common = 0x800;

	memset(page, 0xcc, PAGE);
	memcpy(page + common, native_exit_start, (size_t)(native_exit_end - native_exit_start));
	for (uint32_t slot = 0; slot < common / EXIT_SLOT; slot++) {
		uint8_t *p = page + EXIT_SLOT * slot;
		uint32_t address = CTX_EXIT, rel = common - (slot + 1) * EXIT_SLOT;

		memcpy(p, "\xc7\x04\x25", 3); /* movl $slot, CTX_EXIT */
		memcpy(p + 3, &address, 4);
		memcpy(p + 7, &slot, 4);
		p[11] = 0xe9;
		memcpy(p + 12, &rel, 4);
	}
}

static void map_memory(void)
{
	int fd = memfd_create("diff", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, ARENA_BYTES) < 0)
		_exit(91);
	arena = map_at(0, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (unsigned i = 0; i < AREAS; i++) {
		const struct area *a = &areas[i];

		map_at(a->va, a->pages * PAGE,
			PROT_READ | (a->write ? PROT_WRITE : 0) | (a->exec ? PROT_EXEC : 0),
			MAP_SHARED | MAP_FIXED_NOREPLACE, fd, a->at);
	}
	close(fd);
	map_at(CTX, 2 * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ctx->xmask = xmask;
	ctx->resume = (uint64_t)native_resume;
	write_exits();
}

static void catch_signals(void)
{
	static const int numbers[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	stack_t stack = { .ss_size = 256 << 10 };
	struct sigaction action = { .sa_sigaction = native_signal,
		.sa_flags = SA_SIGINFO | SA_ONSTACK };

	stack.ss_sp = map_at(0, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	sigaltstack(&stack, NULL);
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		sigaction(numbers[i], &action, NULL);
}

#define ALLOW(nr)                                        \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void lock_up(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_futex),
		ALLOW(SYS_rt_sigreturn),
		ALLOW(SYS_exit_group),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		_exit(92);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *timeout)
{
	syscall(SYS_futex, word, FUTEX_WAIT, value, timeout, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void child_main(void)
{
	uint32_t done = atomic_load(&shared->done);

	map_memory();
	catch_signals();
	lock_up();
	for (;;) {
		struct batch *b;

		while (atomic_load(&shared->submitted) == done)
			futex_wait(&shared->submitted, done, NULL);
		b = &shared->batch[shared->index];
		arena_load(arena, b);
		for (uint32_t i = atomic_load(&shared->current); i < b->n; i++) {
			atomic_store(&shared->current, i);
			run_case(b, &b->cases[i], &b->native[i]);
		}
		atomic_store(&shared->done, ++done);
		futex_wake(&shared->done);
	}
}

/*
 * --- the parent
 * ----------------------------------------------------------------------------------------
 */

static bool spawn(void)
{
	fflush(stdout);
	child = fork();
	if (child == 0) {
		child_main();
		_exit(0);
	}
	return child > 0;
}

#define HWCAP2_HAS_FSGSBASE 2

bool native_start(void)
{
	uint32_t low, high;

	if (!(getauxval(AT_HWCAP2) & HWCAP2_HAS_FSGSBASE))
		return false;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	xmask = low & 7;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		0);
	return shared != MAP_FAILED && spawn();
}

void native_stop(void)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	munmap(shared, sizeof(*shared));
}

struct batch *native_batch(unsigned index)
{
	return &shared->batch[index];
}

void native_submit(unsigned index)
{
	shared->index = index;
	atomic_store(&shared->current, 0);
	atomic_fetch_add(&shared->submitted, 1);
	futex_wake(&shared->submitted);
}

/* The child is dead or stuck: note it, and go on after the case at fault. */
static bool revive(const char *why, int status)
{
	struct batch *b = &shared->batch[shared->index];
	uint32_t at = atomic_load(&shared->current);

	printf("# native child %s (status %#x) at case %u\n", why, status, at);
	if (at >= b->n)
		return false;
	case_print(&b->cases[at]);
	b->native[at].vector = OUTCOME_DIED;
	atomic_store(&shared->current, at + 1);
	return spawn();
}

bool native_wait(void)
{
	static const struct timespec second = { .tv_sec = 1 };
	unsigned stuck = 0;
	uint32_t last = 0;

	while (atomic_load(&shared->done) != atomic_load(&shared->submitted)) {
		uint32_t done = atomic_load(&shared->done), at = atomic_load(&shared->current);
		int status;

		if (done == atomic_load(&shared->submitted))
			break;
		futex_wait(&shared->done, done, &second);
		if (waitpid(child, &status, WNOHANG) == child) {
			if (!revive("died", status))
				return false;
			continue;
		}
		stuck = at == last ? stuck + 1 : 0;
		last = at;
		if (stuck < 5)
			continue;
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		stuck = 0;
		if (!revive("is stuck", status))
			return false;
	}
	return true;
}
