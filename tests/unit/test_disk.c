/* SPDX-License-Identifier: MIT */
/*
 * Disks: what is refused at opening and why, the lock, and input and output through the pool, with
 * the system calls wrapped (--wrap) so that they can be slow, short, interrupted or missing.
 */
#include "attach/disk/disk.h"

#include "base/arith.h"
#include "base/error.h"
#include "tap.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1u << 20)

/* What the wrapped calls do and saw. */
static atomic_uint short_by, slow_us, interrupts, no_fallocate;
static atomic_uint flushes, dsync_writes, transfers;
static atomic_ullong bytes_written;

ssize_t __real_preadv64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
int __real_fallocate64(int fd, int mode, off_t offset, off_t len);
int __real_fdatasync(int fd);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len);
int __wrap_fdatasync(int fd);

static bool interrupted(void)
{
	if (slow_us)
		usleep(slow_us);
	if (!interrupts || transfers++ % interrupts)
		return false;
	errno = EINTR;
	return true;
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	struct iovec first = iov[0];

	if (interrupted())
		return -1;
	if (!short_by)
		return __real_preadv64v2(fd, iov, n, offset, flags);
	first.iov_len = MIN(first.iov_len, (size_t)short_by);
	return __real_preadv64v2(fd, &first, 1, offset, flags);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	struct iovec first = iov[0];
	ssize_t r;

	if (interrupted())
		return -1;
	first.iov_len = MIN(first.iov_len, (size_t)short_by);
	if (short_by)
		r = __real_pwritev64v2(fd, &first, 1, offset, flags);
	else
		r = __real_pwritev64v2(fd, iov, n, offset, flags);
	bytes_written += r > 0 ? (unsigned long long)r : 0;
	dsync_writes += (flags & RWF_DSYNC) != 0;
	return r;
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len)
{
	if (!no_fallocate)
		return __real_fallocate64(fd, mode, offset, len);
	errno = EOPNOTSUPP;
	return -1;
}

int __wrap_fdatasync(int fd)
{
	flushes++;
	return __real_fdatasync(fd);
}

static char dir[] = "/tmp/vizor-disk-XXXXXX";
static char path[64];
static struct loop *loop;
static struct disk *disk;
static struct vz_error error;

static void make_image(off_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && !ftruncate(fd, size));
	close(fd);
}

static struct disk *try_open(struct disk_options o)
{
	memset(&error, 0, sizeof(error));
	if (!o.path)
		o.path = path;
	return disk_open_raw(loop, &o, &error);
}

static void begin_with(struct disk_options o)
{
	short_by = slow_us = interrupts = no_fallocate = 0;
	flushes = dsync_writes = transfers = 0;
	bytes_written = 0;
	loop = loop_new(NULL);
	make_image(SIZE);
	disk = try_open(o);
	CHECK(disk != NULL);
}

static void begin(void)
{
	begin_with((struct disk_options){ 0 });
}

static void end(void)
{
	disk_close(disk);
	loop_free(loop);
	unlink(path);
}

/* Nothing is opened, and the error says what is wrong with the option named where. */
static void check_refused(struct disk_options o, const char *where, const char *word)
{
	struct disk *refused;

	loop = loop_new(NULL);
	refused = try_open(o);
	CHECK(!refused);
	disk_close(refused);
	loop_free(loop);
	CHECK_STR(error.where, where);
	CHECK(strstr(error.text, word));
	if (!strstr(error.text, word))
		printf("# no '%s' in: %s\n", word, error.text);
}

static unsigned ndone;
static bool done_on_loop;

static void on_done(struct disk_request *r)
{
	ndone++;
	done_on_loop = loop_is_current(loop);
}

static int wait_for(struct disk_request *r)
{
	unsigned before = ndone;

	r->done = on_done;
	r->result = 1;
	disk_submit(disk, r);
	for (int i = 0; ndone == before && i < 1000; i++)
		loop_dispatch(loop, 10);
	CHECK_EQ(ndone, before + 1);
	return r->result;
}

static int transfer(enum disk_op op, uint64_t offset, void *p, size_t len)
{
	struct iovec iov = { p, len };
	struct disk_request r = { .op = op, .offset = offset, .iov = &iov, .iovcnt = 1 };

	return wait_for(&r);
}

static int range(enum disk_op op, uint64_t offset, uint64_t len, bool unmap)
{
	struct disk_request r = { .op = op, .offset = offset, .len = len, .unmap = unmap };

	return wait_for(&r);
}

static void fill(uint8_t *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)((i * 7 + seed + (i >> 8)) | 1);
}

static bool file_has(uint64_t offset, const uint8_t *want, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *got = malloc(len);
	bool same = pread(fd, got, len, (off_t)offset) == (ssize_t)len && !memcmp(got, want, len);

	free(got);
	close(fd);
	return same;
}

static void limits_are_those_of_the_file(void)
{
	begin();
	CHECK_EQ(disk_limits(disk)->size, SIZE);
	CHECK_EQ(disk_limits(disk)->block_size, 512);
	CHECK(disk_limits(disk)->physical_size >= 512);
	CHECK(!disk_limits(disk)->read_only && disk_limits(disk)->zeroes);
	end();
}

static void a_missing_file_is_refused(void)
{
	check_refused((struct disk_options){ .path = "/nonexistent/x" }, "path", "does not exist");
}

static void a_directory_is_refused(void)
{
	check_refused((struct disk_options){ .path = dir }, "path", "directory");
	check_refused((struct disk_options){ .path = dir, .read_only = true }, "path", "directory");
}

static void a_fifo_is_refused_without_waiting(void)
{
	CHECK(!mkfifo(path, 0600));
	check_refused((struct disk_options){ .read_only = true }, "path", "neither");
	check_refused((struct disk_options){ 0 }, "path", "neither");
	unlink(path);
}

static void an_empty_file_is_refused_with_the_remedy(void)
{
	make_image(0);
	check_refused((struct disk_options){ 0 }, "path", "truncate -s 10G");
}

static void an_odd_size_is_refused_with_the_remedy(void)
{
	make_image(SIZE + 100);
	check_refused((struct disk_options){ 0 }, "path", "truncate -s %512");
	CHECK(strstr(error.text, "1048676"));
}

static void a_file_is_no_block_device(void)
{
	make_image(SIZE);
	check_refused((struct disk_options){ .block_device = true }, "path", "block device");
}

static void a_second_writer_is_refused(void)
{
	begin();
	CHECK(!try_open((struct disk_options){ 0 }));
	CHECK_EQ(error.code, -EBUSY);
	CHECK(strstr(error.text, path) && strstr(error.text, "another"));
	CHECK(!try_open((struct disk_options){ .read_only = true }));
	CHECK_EQ(error.code, -EBUSY);
	end();
}

static void a_writer_in_another_process_is_refused(void)
{
	int status = -1;
	pid_t child;

	begin();
	fflush(stdout);
	child = fork();
	if (!child) {
		struct disk_options o = { .path = path };

		_exit(!disk_open_raw(loop, &o, &error) && error.code == -EBUSY ? 0 : 1);
	}
	waitpid(child, &status, 0);
	CHECK_EQ(status, 0);
	end();
}

static void readers_share(void)
{
	struct disk *second;

	begin_with((struct disk_options){ .read_only = true });
	second = try_open((struct disk_options){ .read_only = true });
	CHECK(second != NULL);
	CHECK(!try_open((struct disk_options){ 0 }));
	disk_close(second);
	end();
}

static void closing_unlocks(void)
{
	begin();
	disk_close(disk);
	disk = try_open((struct disk_options){ 0 });
	CHECK(disk != NULL);
	end();
}

static void what_is_written_is_read(void)
{
	uint8_t out[3000], in[3000];
	struct iovec iov[4] = { { in, 1 }, { in + 1, 0 }, { in + 1, 2047 }, { in + 2048, 952 } };
	struct disk_request r = { .op = DISK_READ, .offset = 4608, .iov = iov, .iovcnt = 4 };

	begin();
	fill(out, sizeof(out), 3);
	CHECK_EQ(transfer(DISK_WRITE, 4608, out, sizeof(out)), 0);
	CHECK(file_has(4608, out, sizeof(out)));
	CHECK_EQ(wait_for(&r), 0);
	CHECK(!memcmp(in, out, sizeof(in)));
	CHECK(done_on_loop);
	end();
}

/* Hardening row 10: what a short write has moved is not sent again. */
static void row_10_short_and_interrupted_transfers_are_continued(void)
{
	uint8_t out[5000], in[5000];
	struct iovec iov[3] = { { out, 1000 }, { out + 1000, 1 }, { out + 1001, 3999 } };
	struct disk_request r = { .op = DISK_WRITE, .offset = 512, .iov = iov, .iovcnt = 3 };

	begin();
	fill(out, sizeof(out), 9);
	short_by = 333;
	interrupts = 3;
	CHECK_EQ(wait_for(&r), 0);
	CHECK_EQ(bytes_written, sizeof(out));
	CHECK(file_has(512, out, sizeof(out)));
	CHECK_EQ(transfer(DISK_READ, 512, in, sizeof(in)), 0);
	CHECK(!memcmp(in, out, sizeof(in)));
	CHECK(transfers > 30);
	end();
}

static void a_file_cut_short_is_an_error(void)
{
	uint8_t in[1024];

	begin();
	CHECK(!truncate(path, 512));
	CHECK_EQ(transfer(DISK_READ, 0, in, sizeof(in)), -EIO);
	end();
}

static void a_read_only_disk_is_not_written(void)
{
	uint8_t byte[512] = { 1 };

	begin_with((struct disk_options){ .read_only = true });
	CHECK_EQ(transfer(DISK_WRITE, 0, byte, sizeof(byte)), -EROFS);
	CHECK_EQ(range(DISK_WRITE_ZEROES, 0, 512, true), -EROFS);
	CHECK_EQ(range(DISK_DISCARD, 0, 512, false), -EROFS);
	CHECK_EQ(disk_limits(disk)->discard_align, 0);
	end();
}

static void check_zeroes(bool unmap)
{
	uint8_t *out = malloc(SIZE), *want = malloc(SIZE);

	begin();
	fill(out, SIZE, 1);
	memcpy(want, out, SIZE);
	memset(want + 4096 + 512, 0, 200 * 1024);
	CHECK_EQ(transfer(DISK_WRITE, 0, out, SIZE), 0);
	CHECK_EQ(range(DISK_WRITE_ZEROES, 4096 + 512, 200 * 1024, unmap), 0);
	CHECK(file_has(0, want, SIZE));
	end();
	free(out);
	free(want);
}

static void write_zeroes_gives_zeroes(void)
{
	check_zeroes(false);
}

static void write_zeroes_with_unmap_gives_zeroes(void)
{
	check_zeroes(true);
}

static void write_zeroes_works_where_the_host_cannot(void)
{
	uint8_t *out = malloc(SIZE), *want = malloc(SIZE);

	begin();
	no_fallocate = 1;
	fill(out, SIZE, 1);
	memcpy(want, out, SIZE);
	memset(want + 512, 0, SIZE - 1024);
	CHECK_EQ(transfer(DISK_WRITE, 0, out, SIZE), 0);
	CHECK_EQ(range(DISK_WRITE_ZEROES, 512, SIZE - 1024, true), 0);
	CHECK(file_has(0, want, SIZE));
	end();
	free(out);
	free(want);
}

static void discard_gives_the_space_back(void)
{
	uint8_t *out = malloc(SIZE);
	struct stat before, after;

	begin();
	fill(out, SIZE, 1);
	CHECK_EQ(transfer(DISK_WRITE, 0, out, SIZE), 0);
	CHECK_EQ(range(DISK_FLUSH, 0, 0, false), 0);
	stat(path, &before);
	CHECK_EQ(range(DISK_DISCARD, 0, SIZE / 2, false), 0);
	stat(path, &after);
	CHECK(!disk_limits(disk)->discard_align || after.st_blocks < before.st_blocks);
	CHECK_EQ(after.st_size, SIZE);
	CHECK(file_has(SIZE / 2, out + SIZE / 2, SIZE / 2));
	end();
	free(out);
}

static void discard_is_only_a_hint(void)
{
	begin();
	no_fallocate = 1;
	CHECK_EQ(range(DISK_DISCARD, 0, 4096, false), 0);
	end();
}

static void flush_commits(void)
{
	begin();
	CHECK_EQ(range(DISK_FLUSH, 0, 0, false), 0);
	CHECK_EQ(flushes, 1);
	end();
}

static void a_stable_write_is_committed_at_once(void)
{
	uint8_t out[512] = { 7 };
	struct iovec iov = { out, sizeof(out) };
	struct disk_request r = { .op = DISK_WRITE, .stable = true, .iov = &iov, .iovcnt = 1 };
	struct disk_request z = { .op = DISK_WRITE_ZEROES, .stable = true, .len = 512 };

	begin();
	CHECK_EQ(wait_for(&r), 0);
	CHECK_EQ(dsync_writes, 1);
	CHECK_EQ(wait_for(&z), 0);
	CHECK_EQ(flushes, 1);
	end();
}

static void without_sync_nothing_is_committed(void)
{
	uint8_t out[512] = { 7 };
	struct iovec iov = { out, sizeof(out) };
	struct disk_request r = { .op = DISK_WRITE, .stable = true, .iov = &iov, .iovcnt = 1 };

	begin_with((struct disk_options){ .sync = DISK_SYNC_NONE });
	CHECK_EQ(wait_for(&r), 0);
	CHECK_EQ(range(DISK_FLUSH, 0, 0, false), 0);
	CHECK_EQ(dsync_writes + flushes, 0);
	end();
}

/* Sectors anywhere in memory and on the disk, against a copy in memory. */
static void direct_io_takes_any_alignment(void)
{
	uint8_t *model = calloc(1, SIZE), *buffer = malloc(SIZE + 4096);
	unsigned seed = 12345;
	bool same = true;

	loop = loop_new(NULL);
	make_image(SIZE);
	disk = try_open((struct disk_options){ .direct = true });
	if (!disk) {
		CHECK_STR(error.where, "cache");
		printf("# no direct I/O here\n");
	}
	for (unsigned i = 0; disk && i < 200; i++) {
		size_t sector = (size_t)rand_r(&seed) % (SIZE / 512 - 1);
		size_t most = MIN((size_t)SIZE / 512 - sector, (size_t)(i % 10 ? 20 : 1200));
		size_t len = (1 + (size_t)rand_r(&seed) % most) * 512;
		uint8_t *p = buffer + (i % 3 ? (size_t)rand_r(&seed) % 4096 : 0);

		if (i % 2) {
			fill(p, len, i);
			memcpy(model + sector * 512, p, len);
			CHECK_EQ(transfer(DISK_WRITE, sector * 512, p, len), 0);
		} else {
			CHECK_EQ(transfer(DISK_READ, sector * 512, p, len), 0);
			same = same && !memcmp(p, model + sector * 512, len);
		}
	}
	CHECK(same);
	CHECK(!disk || file_has(0, model, SIZE));
	end();
	free(model);
	free(buffer);
}

static unsigned nbatch;

static void on_batch(void *arg)
{
	nbatch++;
}

static void drain_waits_for_all(void)
{
	enum { N = 60 };
	struct disk_request r[N];
	struct iovec iov[N];
	uint8_t in[N][512];
	unsigned bad = 0;

	begin();
	disk_on_batch(disk, on_batch, NULL);
	slow_us = 1000;
	ndone = nbatch = 0;
	for (unsigned i = 0; i < N; i++) {
		iov[i] = (struct iovec){ in[i], 512 };
		r[i] = (struct disk_request){ .op = DISK_READ,
			.offset = i * 512,
			.iov = &iov[i],
			.iovcnt = 1,
			.result = 1,
			.done = on_done };
		disk_submit(disk, &r[i]);
	}
	disk_drain(disk);
	CHECK_EQ(ndone, N);
	for (unsigned i = 0; i < N; i++)
		bad += r[i].result != 0;
	CHECK_EQ(bad, 0);
	CHECK(nbatch >= 1 && nbatch <= N);
	end();
}

static void requests_of_a_burst_finish_without_draining(void)
{
	enum { N = 200 };
	struct disk_request r[N];
	struct iovec iov[N];
	static uint8_t in[N][512];

	begin();
	ndone = 0;
	for (unsigned i = 0; i < N; i++) {
		iov[i] = (struct iovec){ in[i], 512 };
		r[i] = (struct disk_request){ .op = DISK_READ,
			.offset = i * 512,
			.iov = &iov[i],
			.iovcnt = 1,
			.done = on_done };
		disk_submit(disk, &r[i]);
	}
	for (int i = 0; ndone < N && i < 1000; i++)
		loop_dispatch(loop, 10);
	CHECK_EQ(ndone, N);
	end();
}

/* The pool may still be about to tell of jobs when the disk is gone. */
static void closing_right_after_submitting_is_safe(void)
{
	uint8_t in[512];
	struct iovec iov = { in, sizeof(in) };
	struct disk_request r = { .op = DISK_READ, .iov = &iov, .iovcnt = 1, .done = on_done };

	for (int i = 0; i < 50; i++) {
		begin();
		slow_us = (unsigned)i * 10;
		ndone = 0;
		iov = (struct iovec){ in, sizeof(in) };
		disk_submit(disk, &r);
		disk_close(disk);
		disk = NULL;
		CHECK_EQ(ndone, 1);
		end();
	}
}

/* Hardening row 15: another format's header is the guest's data and nothing else. */
static void row_15_content_is_never_probed(void)
{
	static const uint8_t qcow2[512] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 };
	uint8_t in[512];

	begin();
	CHECK_EQ(transfer(DISK_WRITE, 0, (void *)qcow2, sizeof(qcow2)), 0);
	disk_close(disk);
	disk = try_open((struct disk_options){ 0 });
	CHECK(disk != NULL);
	CHECK_EQ(disk_limits(disk)->size, SIZE);
	CHECK_EQ(transfer(DISK_READ, 0, in, sizeof(in)), 0);
	CHECK(!memcmp(in, qcow2, sizeof(in)));
	end();
}

int main(void)
{
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/image", dir);
	RUN(limits_are_those_of_the_file);
	RUN(a_missing_file_is_refused);
	RUN(a_directory_is_refused);
	RUN(a_fifo_is_refused_without_waiting);
	RUN(an_empty_file_is_refused_with_the_remedy);
	RUN(an_odd_size_is_refused_with_the_remedy);
	RUN(a_file_is_no_block_device);
	RUN(a_second_writer_is_refused);
	RUN(a_writer_in_another_process_is_refused);
	RUN(readers_share);
	RUN(closing_unlocks);
	RUN(what_is_written_is_read);
	RUN(row_10_short_and_interrupted_transfers_are_continued);
	RUN(a_file_cut_short_is_an_error);
	RUN(a_read_only_disk_is_not_written);
	RUN(write_zeroes_gives_zeroes);
	RUN(write_zeroes_with_unmap_gives_zeroes);
	RUN(write_zeroes_works_where_the_host_cannot);
	RUN(discard_gives_the_space_back);
	RUN(discard_is_only_a_hint);
	RUN(flush_commits);
	RUN(a_stable_write_is_committed_at_once);
	RUN(without_sync_nothing_is_committed);
	RUN(direct_io_takes_any_alignment);
	RUN(drain_waits_for_all);
	RUN(requests_of_a_burst_finish_without_draining);
	RUN(closing_right_after_submitting_is_safe);
	RUN(row_15_content_is_never_probed);
	unlink(path);
	rmdir(dir);
	return tap_done();
}
