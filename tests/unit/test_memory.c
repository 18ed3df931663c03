/* SPDX-License-Identifier: MIT */
/* Guest RAM: what is a span and what is not, the write log, giving pages back. */
#include "base/arith.h"
#include "memory/memory.h"
#include "tests/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE ((uint64_t)MEM_PAGE_SIZE)

static void sizes_are_checked(void)
{
	struct vz_error e = { 0 };

	CHECK(!mem_new(0, &e));
	CHECK_EQ(e.code, -EINVAL);
	CHECK_STR(e.where, "memory");
	CHECK(!mem_new(MiB - 4096, NULL));
	CHECK(!mem_new(MiB + 1, NULL));
	CHECK(!mem_new(UINT64_MAX - 4095, &e));
	CHECK(e.code == -EFBIG || e.code == -ENOMEM);
	CHECK(!mem_new(1ull << 62, &e));
	CHECK(strstr(e.text, "4398046511104 MiB"));
	CHECK(strstr(e.text, "smaller 'memory'"));
	mem_free(NULL);
}

static void file_size_limit_is_an_error(void)
{
	struct rlimit limit = { 64 * KiB, 64 * KiB };
	struct vz_error e = { 0 };
	pid_t pid = fork();
	int status;

	if (!pid) {
		setrlimit(RLIMIT_FSIZE, &limit);
		_exit(!mem_new(2 * MiB, &e) && e.code == -EFBIG ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	CHECK_EQ(status, 0);
}

/* Is [gpa, gpa + len) refused? */
static bool refused(struct memory *mem, uint64_t gpa, uint64_t len)
{
	struct span s;
	char c;

	return !mem_span(mem, gpa, len, &s) && (len > 1 || mem_read(mem, gpa, &c, len) == -EFAULT);
}

static void small_layout(void)
{
	struct memory *mem = mem_new(2 * MiB, NULL);
	const struct mem_region *r;
	struct span s;

	CHECK_EQ(mem_regions(mem, &r), 1);
	CHECK_EQ(r[0].gpa, 0);
	CHECK_EQ(r[0].size, 2 * MiB);
	CHECK_EQ(mem_size(mem), 2 * MiB);
	CHECK(mem_span(mem, 0, 2 * MiB, &s));
	CHECK(s.p == r[0].host);
	CHECK_EQ(s.len, 2 * MiB);
	CHECK(mem_span(mem, 2 * MiB - 1, 1, &s));
	CHECK(s.p == r[0].host + 2 * MiB - 1);
	CHECK(refused(mem, 0, 0));
	CHECK(refused(mem, 2 * MiB, 0));
	CHECK(refused(mem, 2 * MiB, 1));
	CHECK(refused(mem, 2 * MiB - 1, 2));
	CHECK(refused(mem, 0, 2 * MiB + 1));
	CHECK(refused(mem, 1, UINT64_MAX));
	CHECK(refused(mem, UINT64_MAX, 1));
	CHECK(refused(mem, UINT64_MAX, 2));
	CHECK(refused(mem, MEM_HIGH_START, 1));
	mem_free(mem);
}

static void six_gib_layout(void)
{
	struct vz_error e = { 0 };
	struct memory *mem = mem_new(6 * GiB, &e);
	const struct mem_region *r;
	uint64_t end = MEM_HIGH_START + 3 * GiB, v = 0x1122334455667788;
	struct span s;

	CHECK(mem);
	if (!mem)
		return;
	CHECK_EQ(mem_regions(mem, &r), 2);
	CHECK_EQ(r[0].size, MEM_HOLE_START);
	CHECK_EQ(r[1].gpa, MEM_HIGH_START);
	CHECK_EQ(r[1].size, 3 * GiB);
	CHECK_EQ(r[1].offset, MEM_HOLE_START);
	CHECK(mem_span(mem, MEM_HOLE_START - 1, 1, &s));
	CHECK(refused(mem, MEM_HOLE_START - 1, 2));
	CHECK(refused(mem, MEM_HOLE_START, 1));
	CHECK(refused(mem, MEM_HIGH_START - 1, 1));
	CHECK(refused(mem, MEM_HIGH_START - 1, 2));
	CHECK(refused(mem, MEM_HOLE_START - 1, MEM_HIGH_START - MEM_HOLE_START + 2));
	CHECK(mem_span(mem, MEM_HIGH_START, 3 * GiB, &s));
	CHECK(mem_span(mem, end - 1, 1, &s));
	CHECK(refused(mem, end - 1, 2));
	CHECK(refused(mem, end, 1));
	CHECK_EQ(mem_write(mem, end - 8, &v, 8), 0);
	v = 0;
	CHECK_EQ(pread(mem_fd(mem), &v, 8, 6 * GiB - 8), 8);
	CHECK_EQ(v, 0x1122334455667788);
	mem_free(mem);
}

static void copies_are_all_or_nothing(void)
{
	struct memory *mem = mem_new(MiB, NULL);
	char in[4] = "abc", out[4] = "xxx";

	CHECK_EQ(mem_write(mem, MiB - 3, in, 4), -EFAULT);
	CHECK_EQ(mem_read(mem, MiB - 3, out, 3), 0);
	CHECK(!memcmp(out, "\0\0\0", 3));
	CHECK_EQ(mem_write(mem, MiB - 4, in, 4), 0);
	CHECK_EQ(mem_read(mem, MiB - 3, out, 4), -EFAULT);
	CHECK_EQ(mem_read(mem, MiB - 4, out, 4), 0);
	CHECK_STR(out, "abc");
	mem_free(mem);
}

static void dirty_log(void)
{
	uint64_t size = 70 * (64 * PAGE), bits[70];
	struct memory *mem = mem_new(size, NULL);

	memset(bits, 0xff, sizeof(bits));
	mem_dirty_fetch(mem, bits);
	CHECK_EQ(bits[0], 0);
	mem_written(mem, 0, 1);
	CHECK_EQ(mem_dirty_start(mem), 0);
	mem_dirty_fetch(mem, bits);
	CHECK_EQ(bits[0], 0);

	mem_written(mem, 4095, 2);
	mem_written(mem, 63 * PAGE, 2 * PAGE);
	mem_written(mem, 128 * PAGE, 192 * PAGE);
	mem_written(mem, size - 1, 1);
	mem_written(mem, size - 1, 2); /* not RAM: nothing happens */
	mem_written(mem, 0, 0);
	mem_dirty_fetch(mem, bits);
	CHECK(bits[0] == ((1ull << 63) | 3));
	CHECK_EQ(bits[1], 1);
	CHECK(bits[2] == UINT64_MAX && bits[3] == UINT64_MAX && bits[4] == UINT64_MAX);
	CHECK_EQ(bits[5], 0);
	CHECK(bits[69] == 1ull << 63);
	mem_dirty_fetch(mem, bits);
	CHECK_EQ(bits[0], 0);

	mem_dirty_stop(mem);
	mem_written(mem, 0, 1);
	mem_dirty_fetch(mem, bits);
	CHECK_EQ(bits[0], 0);
	mem_free(mem);
}

static void dirty_log_counts_pages_of_the_file(void)
{
	struct memory *mem = mem_new(3 * GiB + MiB, NULL);
	uint64_t *bits = calloc((3 * GiB + MiB) / 4096 / 64, 8);

	mem_dirty_start(mem);
	mem_written(mem, MEM_HIGH_START + 4096, 1);
	mem_dirty_fetch(mem, bits);
	CHECK_EQ(bits[3 * GiB / 4096 / 64], 2);
	free(bits);
	mem_free(mem);
}

struct seen {
	uint64_t gpa, len;
	int count;
};

static void see(void *arg, uint64_t gpa, uint64_t len)
{
	struct seen *seen = arg;

	seen->gpa = gpa;
	seen->len = len;
	seen->count++;
}

static void observer_sees_writes(void)
{
	struct memory *mem = mem_new(2 * MiB, NULL);
	struct seen seen = { 0 };

	mem_observe(mem, see, &seen);
	mem_write(mem, 100, "abc", 3);
	CHECK_EQ(seen.gpa, 100);
	CHECK_EQ(seen.len, 3);
	mem_write(mem, 2 * MiB, "abc", 3);
	mem_written(mem, 2 * MiB - 1, 2);
	CHECK_EQ(seen.count, 1);
	mem_discard(mem, 4096, 8192);
	CHECK_EQ(seen.len, 8192);
	mem_clear(mem);
	CHECK_EQ(seen.len, 2 * MiB);
	mem_dirty_start(mem);
	mem_dirty_stop(mem);
	mem_write(mem, 0, "a", 1);
	CHECK_EQ(seen.count, 4);
	mem_observe(mem, NULL, NULL);
	mem_write(mem, 0, "a", 1);
	CHECK_EQ(seen.count, 4);
	mem_free(mem);
}

static uint64_t used(struct memory *mem)
{
	struct stat st;

	fstat(mem_fd(mem), &st);
	return (uint64_t)st.st_blocks * 512;
}

static void discard_returns_memory(void)
{
	struct memory *mem = mem_new(8 * MiB, NULL);
	struct span s;
	uint64_t full;

	CHECK_EQ(used(mem), 0);
	mem_span(mem, 0, 8 * MiB, &s);
	memset(s.p, 0x5a, s.len);
	full = used(mem);
	CHECK_EQ(full, 8 * MiB);
	CHECK_EQ(mem_discard(mem, 2 * MiB, 2 * MiB), 0);
	CHECK_EQ(used(mem), 6 * MiB);
	CHECK_EQ(s.p[2 * MiB - 1], 0x5a);
	CHECK_EQ(s.p[2 * MiB], 0);
	CHECK_EQ(s.p[4 * MiB], 0x5a);
	CHECK_EQ(mem_discard(mem, 8 * MiB - 4096, 4096), 0);
	CHECK_EQ(s.p[8 * MiB - 1], 0);
	CHECK_EQ(mem_discard(mem, 1, 4096), -EINVAL);
	CHECK_EQ(mem_discard(mem, 0, 4095), -EINVAL);
	CHECK_EQ(mem_discard(mem, 0, 0), -EFAULT);
	CHECK_EQ(mem_discard(mem, 8 * MiB, 4096), -EFAULT);
	CHECK_EQ(mem_discard(mem, 8 * MiB - 4096, 8192), -EFAULT);
	mem_clear(mem);
	CHECK_EQ(used(mem), 0);
	CHECK_EQ(s.p[0], 0);
	mem_free(mem);
}

static void nobody_can_shrink_it(void)
{
	struct memory *mem = mem_new(MiB, NULL);

	CHECK(ftruncate(mem_fd(mem), 4096));
	CHECK_EQ(errno, EPERM);
	mem_free(mem);
}

/* How does touching one byte beyond a region end? */
static int touch(volatile uint8_t *p)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		*p = 1;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void guard_pages(void)
{
	struct memory *mem = mem_new(MiB, NULL);
	const struct mem_region *r;

	mem_regions(mem, &r);
	CHECK_EQ(touch(r[0].host - 1), SIGSEGV);
	CHECK_EQ(touch(r[0].host + r[0].size), SIGSEGV);
	CHECK_EQ(touch(r[0].host), 0);
	mem_free(mem);
}

int main(void)
{
	RUN(sizes_are_checked);
	RUN(file_size_limit_is_an_error);
	RUN(small_layout);
	RUN(six_gib_layout);
	RUN(copies_are_all_or_nothing);
	RUN(dirty_log);
	RUN(dirty_log_counts_pages_of_the_file);
	RUN(observer_sees_writes);
	RUN(discard_returns_memory);
	RUN(nobody_can_shrink_it);
	RUN(guard_pages);
	return tap_done();
}
