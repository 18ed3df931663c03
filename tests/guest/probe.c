/* SPDX-License-Identifier: MIT */
/*
 * A program that is run on the host and in a guest: what it prints must be the same. Each line is
 * "NAME RESULT"; a result "absent" means that this CPU cannot do it. With an argument it runs the
 * one test of that name.
 */
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static uint64_t sum;
static const char *absent;

static void add(const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len--)
		sum = (sum ^ *p++) * 0x100000001b3;
}

static void add_double(double d)
{
	add(&d, sizeof(d));
}

static void require(bool good, const char *what)
{
	if (good)
		return;
	printf("failed: %s (errno %d)\n", what, errno);
	exit(1);
}

/* --- arithmetic -------------------------------------------------------------------------- */

static void scalar(void)
{
	volatile double x = 1.0;
	volatile float f = 1.0f;

	for (int i = 1; i < 20000; i++) {
		x = x * 1.0000001 + 1.0 / i;
		f = sqrtf(f * 3.0f + (float)i);
		add_double(sin(x) + exp(-x / 100) + log(x) + pow(x, 1.37));
		add_double(f);
	}
}

static void x87(void)
{
	volatile long double x = 0.5L;

	for (int i = 1; i < 5000; i++) {
		long double y = sinl(x) + sqrtl(x + i) + fmodl(x * 1e9L, 3.7L);

		x = x * 1.000001L + 1.0L / i;
		add(&y, 10);
	}
}

static void integers(void)
{
	volatile uint64_t a = 0x9e3779b97f4a7c15;

	for (uint64_t i = 1; i < 200000; i++) {
		unsigned __int128 wide = (unsigned __int128)a * (a ^ i);

		a = (uint64_t)(wide >> 64) + a / i + a % (i + 7) + (a << (i & 63)) +
		    (a >> (i % 61));
		a ^= (uint64_t)((int64_t)a / (int64_t)(i | 1)) + __builtin_bswap64(a);
		add((const void *)&a, sizeof(a));
	}
}

__attribute__((target("avx"))) static void avx(void)
{
	__m256d x = _mm256_set_pd(1, 2, 3, 4), y = _mm256_set1_pd(1.0001);
	double out[4];

	for (int i = 0; i < 50000; i++) {
		x = _mm256_add_pd(_mm256_mul_pd(x, y), _mm256_permute_pd(x, 5));
		x = _mm256_div_pd(x, _mm256_set1_pd(1.5 + i % 3));
		if (i % 100 == 0)
			sched_yield();
	}
	_mm256_storeu_pd(out, x);
	add(out, sizeof(out));
}

__attribute__((target("avx2,fma"))) static void avx2(void)
{
	__m256i x = _mm256_set_epi64x(1, -2, 3, -4);
	__m256 f = _mm256_set1_ps(0.7f);
	int table[64];
	float out[8];

	for (int i = 0; i < 64; i++)
		table[i] = i * i - 7;
	for (int i = 0; i < 50000; i++) {
		__m256i index = _mm256_and_si256(x, _mm256_set1_epi32(63));

		x = _mm256_add_epi32(_mm256_mullo_epi32(x, _mm256_set1_epi32(0x10001)),
			_mm256_i32gather_epi32(table, index, 4));
		x = _mm256_xor_si256(_mm256_shuffle_epi8(x, _mm256_set1_epi8(3)),
			_mm256_srli_epi64(x, 9));
		f = _mm256_fmadd_ps(f, _mm256_set1_ps(0.99f), _mm256_cvtepi32_ps(index));
	}
	add(&x, sizeof(x));
	_mm256_storeu_ps(out, f);
	add(out, sizeof(out));
}

__attribute__((target("sse4.2,aes,pclmul,bmi,bmi2,popcnt,lzcnt"))) static void extras(void)
{
	__m128i x = _mm_set_epi64x(0x123456789, -77);
	uint64_t a = 1;

	for (uint64_t i = 0; i < 50000; i++) {
		x = _mm_aesenc_si128(x, _mm_set1_epi64x((long long)i));
		x = _mm_xor_si128(x, _mm_clmulepi64_si128(x, x, 0x10));
		a = _mm_crc32_u64(a, (uint64_t)_mm_extract_epi64(x, 1)) +
		    _pdep_u64(a, 0xf0f0f0f0f0) + _pext_u64(i, 0x5555) + _andn_u64(a, i) +
		    (uint64_t)_mm_popcnt_u64(a) + _lzcnt_u64(a) + _tzcnt_u64(i);
	}
	add(&x, sizeof(x));
	add(&a, sizeof(a));
}

/* --- memory and signals ------------------------------------------------------------------ */

static sigjmp_buf escape;
static volatile sig_atomic_t caught;

static void jump_out(int number)
{
	caught = number;
	siglongjmp(escape, 1);
}

static int provoke(void (*fault)(void))
{
	caught = 0;
	if (!sigsetjmp(escape, 1))
		fault();
	return caught;
}

static void null_write(void)
{
	char *volatile p = (char *)8;

	*p = 1;
}

static void divide(void)
{
	volatile int zero = 0;

	zero = 1 / zero;
}

static void illegal(void)
{
	__asm__ volatile("ud2");
}

static void breakpoint(void)
{
	__asm__ volatile("int3");
}

static void faults(void)
{
	for (int i = 0; i < 200; i++) {
		int got[] = { provoke(null_write), provoke(divide), provoke(illegal),
			provoke(breakpoint) };

		add(got, sizeof(got));
	}
}

/* Floating-point registers survive a signal handler that uses them. */
static volatile double clobber;

static void use_floats(int number)
{
	clobber = sqrt(clobber + number);
	caught++;
}

static void alarms(void)
{
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } }, never = { 0 };
	double a = 1, b = 2, c = 3;
	int tick = caught = 0;

	signal(SIGALRM, use_floats);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; caught < 20; i++) {
		a += 0.5, b += 0.25, c += 0.125;
		require((a - 1) * 2 == i + 1 && (b - 2) * 4 == i + 1 && (c - 3) * 8 == i + 1,
			"registers over a signal");
		if (a > 1e6)
			a = 1, b = 2, c = 3, i = -1;
		tick += i & 1;
	}
	setitimer(ITIMER_REAL, &never, NULL);
	require(tick != 1, "no loop");
}

static char *guarded;

static void unprotect(int number, siginfo_t *info, void *context)
{
	(void)context;
	require(number == SIGSEGV && (char *)info->si_addr >= guarded, "address of a fault");
	require(!mprotect((void *)((uintptr_t)info->si_addr & ~4095ul), 4096,
			PROT_READ | PROT_WRITE),
		"mprotect");
	caught++;
}

static void protection(void)
{
	struct sigaction act = { .sa_sigaction = unprotect, .sa_flags = SA_SIGINFO };
	const int pages = 200;

	guarded = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	require(guarded != MAP_FAILED, "mmap");
	caught = 0;
	sigaction(SIGSEGV, &act, NULL);
	for (int i = 0; i < pages; i++)
		guarded[i * 4096 + i] = (char)i;
	signal(SIGSEGV, jump_out);
	require(caught == pages, "one fault for each page");
	for (int i = 0; i < pages; i++)
		add(guarded + i * 4096, 256);
	munmap(guarded, pages * 4096);
}

static void mappings(void)
{
	char name[] = "/tmp/probe-XXXXXX", text[8192];
	int fd = mkstemp(name);
	const size_t size = 8 << 20;
	char *map, *other;

	require(fd >= 0 && !ftruncate(fd, (off_t)size), "file");
	unlink(name);
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	other = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	require(map != MAP_FAILED && other != MAP_FAILED, "mmap");
	for (size_t i = 0; i < size; i += 4096)
		map[i + i / 4096 % 4096] = (char)(i / 4096);
	require(!msync(map, size, MS_SYNC), "msync");
	require(pread(fd, text, sizeof(text), 4096 * 100) == sizeof(text), "pread");
	add(text, sizeof(text));
	require(!memcmp(map, other, size), "two mappings");
	require(pwrite(fd, "written", 7, 12345) == 7 && !memcmp(other + 12345, "written", 7),
		"pwrite");
	map = mremap(map, size, size / 2, 0);
	require(map != MAP_FAILED && !memcmp(map, other, size / 2), "mremap");
	munmap(map, size / 2);
	munmap(other, size);
	close(fd);
}

/* Code that changes under the CPU: a function that returns i, written again and again. */
static void new_code(void)
{
	uint8_t *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	require(code != MAP_FAILED, "mmap");
	for (uint32_t i = 0; i < 3000; i++) {
		uint8_t *at = code + 4094 * (i % 2) + i % 7; /* also across pages */
		uint32_t got;

		at[0] = 0xb8;
		memcpy(at + 1, &i, 4);
		at[5] = 0xc3;
		got = ((uint32_t(*)(void))(void *)at)();
		require(got == i, "the new code runs");
	}
	munmap(code, 8192);
}

static void forks(void)
{
	int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	static char mine[1 << 20];

	require(shared != MAP_FAILED, "mmap");
	for (int i = 0; i < 100; i++) {
		pid_t pid = fork();
		int status;

		require(pid >= 0, "fork");
		if (!pid) {
			memset(mine, i, sizeof(mine));
			__atomic_add_fetch(shared, mine[i], __ATOMIC_SEQ_CST);
			_exit(i);
		}
		require(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == i, "wait");
		require(!mine[i], "copy on write");
	}
	add(shared, sizeof(*shared));
	munmap(shared, 4096);
}

/* --- threads ----------------------------------------------------------------------------- */

#define THREADS 6
#define TURNS   20000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static int counter, whose;
static atomic_int atomic_counter;
static _Alignas(16) unsigned __int128 pair;

static void *count(void *arg)
{
	uintptr_t me = (uintptr_t)arg;

	for (int i = 0; i < TURNS; i++) {
		pthread_mutex_lock(&lock);
		counter++;
		pthread_mutex_unlock(&lock);
		atomic_fetch_add(&atomic_counter, 1);
	}
	for (int i = 0; i < TURNS; i++) {
		uint64_t low, high;
		bool done;

		/* cmpxchg16b: both halves count together. */
		do {
			low = (uint64_t)__atomic_load_n((uint64_t *)&pair, __ATOMIC_RELAXED);
			high = (uint64_t)__atomic_load_n((uint64_t *)&pair + 1, __ATOMIC_RELAXED);
			__asm__ volatile("lock cmpxchg16b %1"
					 : "=@ccz"(done), "+m"(pair), "+a"(low), "+d"(high)
					 : "b"(low + 1), "c"(high + 2)
					 : "memory");
		} while (!done);
	}
	for (int i = 0; i < 100; i++) {
		pthread_mutex_lock(&lock);
		while (whose % THREADS != (int)me)
			pthread_cond_wait(&turn, &lock);
		whose++;
		pthread_cond_broadcast(&turn);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void threads(void)
{
	pthread_t ids[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		require(!pthread_create(&ids[i], NULL, count, (void *)i), "pthread_create");
	for (int i = 0; i < THREADS; i++)
		pthread_join(ids[i], NULL);
	require(counter == THREADS * TURNS && atomic_counter == THREADS * TURNS, "counters");
	require((uint64_t)pair == THREADS * TURNS && (uint64_t)(pair >> 64) == 2 * THREADS * TURNS,
		"16-byte counter");
	add(&whose, sizeof(whose));
}

/*
 * Dekker's way to exclude: a store and then a load of the other's flag, with a fence between them.
 * Both reading 0 would mean that stores and loads were reordered across it.
 */
static atomic_int flags[2], seen[2], start;

static void *dekker(void *arg)
{
	uintptr_t me = (uintptr_t)arg;

	for (int i = 1; i <= 1000; i++) {
		while (atomic_load(&start) < i)
			sched_yield();
		atomic_store_explicit(&flags[me], 1, memory_order_relaxed);
		__asm__ volatile("mfence" ::: "memory");
		atomic_store_explicit(&seen[me],
			atomic_load_explicit(&flags[!me], memory_order_relaxed) + 1,
			memory_order_release);
	}
	return NULL;
}

static void ordering(void)
{
	pthread_t ids[2];
	int both_missed = 0;

	for (uintptr_t i = 0; i < 2; i++)
		require(!pthread_create(&ids[i], NULL, dekker, (void *)i), "pthread_create");
	for (int i = 1; i <= 1000; i++) {
		atomic_store(&start, i);
		while (!atomic_load(&seen[0]) || !atomic_load(&seen[1]))
			sched_yield();
		both_missed += seen[0] == 1 && seen[1] == 1;
		for (int j = 0; j < 2; j++)
			flags[j] = seen[j] = 0;
	}
	pthread_join(ids[0], NULL);
	pthread_join(ids[1], NULL);
	require(!both_missed, "stores before loads");
}

/* The clock never goes back, on whichever CPU. */
static void clocks(void)
{
	struct timespec last = { 0 }, now;
	cpu_set_t set;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	for (int i = 0; i < 2000; i++) {
		CPU_ZERO(&set);
		CPU_SET(i % cpus, &set);
		sched_setaffinity(0, sizeof(set), &set);
		clock_gettime(CLOCK_MONOTONIC, &now);
		require(now.tv_sec > last.tv_sec ||
				(now.tv_sec == last.tv_sec && now.tv_nsec >= last.tv_nsec),
			"time goes on");
		last = now;
	}
	memset(&set, 0xff, sizeof(set));
	sched_setaffinity(0, sizeof(set), &set);
}

/* --- all of it --------------------------------------------------------------------------- */

static bool can_avx(void)
{
	return __builtin_cpu_supports("avx");
}

static bool can_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool can_extras(void)
{
	return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("aes") &&
	       __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("bmi2");
}

static const struct {
	const char *name;
	void (*run)(void);
	bool (*can)(void);
} tests[] = {
	{ "scalar", scalar },
	{ "x87", x87 },
	{ "integers", integers },
	{ "avx", avx, can_avx },
	{ "avx2", avx2, can_avx2 },
	{ "extras", extras, can_extras },
	{ "faults", faults },
	{ "alarms", alarms },
	{ "protection", protection },
	{ "mappings", mappings },
	{ "new_code", new_code },
	{ "forks", forks },
	{ "threads", threads },
	{ "ordering", ordering },
	{ "clocks", clocks },
};

int main(int argc, char **argv)
{
	static const int deadly[] = { SIGSEGV, SIGFPE, SIGILL, SIGTRAP };

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		signal(deadly[i], jump_out);
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		if (argc > 1 && strcmp(argv[1], tests[i].name))
			continue;
		sum = 0xcbf29ce484222325;
		absent = tests[i].can && !tests[i].can() ? "absent" : NULL;
		if (absent) {
			printf("%s %s\n", tests[i].name, absent);
			continue;
		}
		tests[i].run();
		printf("%s %016" PRIx64 "\n", tests[i].name, sum);
	}
	return 0;
}
