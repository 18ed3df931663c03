/* SPDX-License-Identifier: MIT */
/*
 * The block device, driven by a fake driver over split and packed rings. The disk's system calls
 * are wrapped (--wrap) to be slow, to fail, and to be counted.
 */
#include "tests/device/fake_driver.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "device/device.h"
#include "tap.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTORS 2048
#define SIZE    (SECTORS * 512u)

/* Section 5.2.3, and the types and states of section 5.2.6. */
#define F_RO           VIRTIO_BIT(5)
#define F_FLUSH        VIRTIO_BIT(9)
#define F_CONFIG_WCE   VIRTIO_BIT(11)
#define F_MQ           VIRTIO_BIT(12)
#define F_DISCARD      VIRTIO_BIT(13)
#define F_WRITE_ZEROES VIRTIO_BIT(14)
#define F_LIFETIME     VIRTIO_BIT(15)
#define F_SECURE_ERASE VIRTIO_BIT(16)
#define F_ZONED        VIRTIO_BIT(17)
#define WRITEBACK      32 /* in the config space */

enum { T_IN, T_OUT, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP, S_NONE = 0xee };

static atomic_uint slow_us, fail, flushes, dsync_writes, plain_writes;

ssize_t __real_preadv64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
int __real_fdatasync(int fd);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
int __wrap_fdatasync(int fd);

static bool failed(void)
{
	if (slow_us)
		usleep(slow_us);
	errno = EIO;
	return fail;
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	return failed() ? -1 : __real_preadv64v2(fd, iov, n, offset, flags);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	if (flags & RWF_DSYNC)
		dsync_writes++;
	else
		plain_writes++;
	return failed() ? -1 : __real_pwritev64v2(fd, iov, n, offset, flags);
}

int __wrap_fdatasync(int fd)
{
	flushes++;
	return failed() ? -1 : __real_fdatasync(fd);
}

static char path[] = "/tmp/vizor-blk-XXXXXX";
static char path_option[64];
static uint64_t features; /* of the ring format that is tested */
static struct fake *f;

/* With up to two options more than the path, on a fresh image whose sectors hold their number. */
static void open_with(const char *a, const char *b)
{
	const char *const options[] = { path_option, a ? a : b, a ? b : NULL, NULL };
	int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
	static uint8_t image[SIZE];

	for (unsigned i = 0; i < SECTORS; i++)
		memset(image + i * 512, (int)(i % 251 + 1), 512);
	CHECK(write(fd, image, SIZE) == (ssize_t)SIZE);
	close(fd);
	slow_us = fail = flushes = dsync_writes = plain_writes = 0;
	f = fake_new(&virtio_blk, options, NULL);
	CHECK(f != NULL);
}

static void begin(void)
{
	open_with(NULL, NULL);
	CHECK(fake_start(f, features, 0));
}

static void end(void)
{
	CHECK(!fake_needs_reset(f));
	fake_free(f);
}

static bool file_is(unsigned sector, const void *want, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *got = malloc(len);
	bool same = pread(fd, got, len, sector * 512) == (ssize_t)len && !memcmp(got, want, len);

	free(got);
	close(fd);
	return same;
}

static bool file_is_untouched(void)
{
	static uint8_t image[SIZE];
	struct stat st;

	for (unsigned i = 0; i < SECTORS; i++)
		memset(image + i * 512, (int)(i % 251 + 1), 512);
	return file_is(0, image, SIZE) && !stat(path, &st) && st.st_size == SIZE;
}

struct header {
	uint8_t bytes[16];
};

static struct header header(uint32_t type, uint64_t sector)
{
	struct header h = { { 0 } };

	le32_store(h.bytes, type);
	le64_store(h.bytes + 8, sector);
	return h;
}

/* A request with its data in one piece; the status, and the used length in *len. */
static uint8_t request_on(unsigned queue, uint32_t type, uint64_t sector, struct fake_buf data,
	int64_t *len)
{
	struct header h = header(type, sector);
	uint8_t status = S_NONE;
	struct fake_buf bufs[3] = { FAKE_OUT(&h, 16), data, FAKE_IN(&status, 1) };
	int64_t used;

	if (!data.len)
		bufs[1] = bufs[2];
	used = fake_request(f, queue, bufs, data.len ? 3 : 2);
	CHECK(used >= 0);
	if (len)
		*len = used;
	return status;
}

static uint8_t request(uint32_t type, uint64_t sector, struct fake_buf data)
{
	return request_on(0, type, sector, data, NULL);
}

static uint8_t command(uint32_t type)
{
	return request(type, 0, FAKE_OUT(NULL, 0));
}

static bool still_works(void)
{
	uint8_t in[512];

	return request(T_IN, 7, FAKE_IN(in, 512)) == S_OK && in[0] == 8 && in[511] == 8;
}

/*
 * --- config space and features -----------------------------------------------------------------
 */

static void the_config_describes_the_disk(void)
{
	begin();
	CHECK_EQ(fake_config(f, 0, 8), SECTORS);
	CHECK_EQ(fake_config(f, 12, 4), 254);
	CHECK_EQ(fake_config(f, 20, 4), 512);
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 1);
	CHECK_EQ(fake_config(f, 34, 2), 1);
	CHECK(fake_config(f, 48, 4) > 0 && fake_config(f, 52, 4) > 0);
	/* Section 5.2.5.2: padding is 0. */
	CHECK_EQ(fake_config(f, 33, 1), 0);
	CHECK_EQ(fake_config(f, 57, 1) | fake_config(f, 58, 2), 0);
	end();
}

static void what_it_cannot_do_is_not_offered(void)
{
	begin();
	CHECK_EQ(f->dev->offered & (F_RO | F_MQ | F_LIFETIME | F_SECURE_ERASE | F_ZONED), 0);
	CHECK((f->dev->offered & F_FLUSH) && (f->dev->offered & F_CONFIG_WCE));
	end();
}

/* Section 5.2.6.2: who does not offer to flush may lose data, and who may lose data must not. */
static void without_sync_no_flush_is_offered(void)
{
	open_with("sync=none", NULL);
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(f->dev->offered & (F_FLUSH | F_CONFIG_WCE), 0);
	CHECK(still_works());
	end();
}

static void the_driver_can_change_nothing_but_the_cache_mode(void)
{
	begin();
	for (unsigned at = 0; at < 60; at++)
		vdev_config_write(f->dev, at, 1, 0xff);
	CHECK_EQ(fake_config(f, 0, 8), SECTORS);
	CHECK_EQ(fake_config(f, 12, 4), 254);
	CHECK_EQ(fake_config(f, 33, 1), 0);
	CHECK_EQ(fake_config(f, 34, 2), 1);
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 1);
	end();
}

/*
 * --- reading and writing ------------------------------------------------------------------------
 */

static void sectors_are_read(void)
{
	uint8_t in[1024];
	int64_t len;

	begin();
	CHECK_EQ(request_on(0, T_IN, 10, FAKE_IN(in, 1024), &len), S_OK);
	CHECK_EQ(len, 1025);
	CHECK(in[0] == 11 && in[511] == 11 && in[512] == 12 && in[1023] == 12);
	end();
}

static void sectors_are_written(void)
{
	uint8_t out[1024];
	int64_t len;

	begin();
	memset(out, 0xa5, sizeof(out));
	CHECK_EQ(request_on(0, T_OUT, 2046, FAKE_OUT(out, 1024), &len), S_OK);
	CHECK_EQ(len, 1);
	CHECK(file_is(2046, out, sizeof(out)));
	end();
}

static void requests_may_be_cut_up_anyhow(void)
{
	struct header h = header(T_IN, 3);
	uint8_t in[1025];
	struct fake_buf bufs[] = { FAKE_OUT(h.bytes, 1), FAKE_OUT(h.bytes + 1, 14),
		FAKE_OUT(h.bytes + 15, 1), FAKE_IN(in, 511), FAKE_IN(in + 511, 2),
		FAKE_IN(in + 513, 512) };
	struct fake_buf out[2];

	begin();
	in[1024] = S_NONE;
	CHECK_EQ(fake_request(f, 0, bufs, 6), 1025);
	CHECK(in[0] == 4 && in[512] == 5 && in[1023] == 5);
	CHECK_EQ(in[1024], S_OK);
	/* The header and the data in one buffer. */
	memcpy(in, header(T_OUT, 9).bytes, 16);
	memset(in + 16, 0x77, 512);
	in[1024] = S_NONE;
	out[0] = FAKE_OUT(in, 528);
	out[1] = FAKE_IN(in + 1024, 1);
	CHECK_EQ(fake_request(f, 0, out, 2), 1);
	CHECK_EQ(in[1024], S_OK);
	CHECK(file_is(9, in + 16, 512));
	end();
}

static void the_longest_chain_works(void)
{
	struct header h = header(T_IN, 0);
	static uint8_t in[254][512];
	struct fake_buf bufs[256];
	uint8_t status = S_NONE;

	begin();
	bufs[0] = FAKE_OUT(&h, 16);
	for (unsigned i = 0; i < 254; i++)
		bufs[i + 1] = FAKE_IN(in[i], 512);
	bufs[255] = FAKE_IN(&status, 1);
	CHECK_EQ(fake_request(f, 0, bufs, 256), 254 * 512 + 1);
	CHECK_EQ(status, S_OK);
	CHECK(in[0][0] == 1 && in[253][511] == 254 - 251);
	end();
}

static void indirect_chains_work(void)
{
	begin();
	f->q[0].indirect = true;
	CHECK(still_works());
	end();
}

static void nothing_is_read_into_no_room(void)
{
	begin();
	CHECK_EQ(command(T_IN), S_OK);
	CHECK_EQ(command(T_OUT), S_OK);
	end();
}

static void a_part_of_a_sector_is_refused(void)
{
	uint8_t data[700] = { 0 };

	begin();
	CHECK_EQ(request(T_IN, 0, FAKE_IN(data, 700)), S_IOERR);
	CHECK_EQ(request(T_OUT, 0, FAKE_OUT(data, 511)), S_IOERR);
	CHECK(file_is_untouched());
	end();
}

static void an_error_of_the_host_is_an_io_error(void)
{
	uint8_t in[512];
	int64_t len;

	begin();
	fail = 1;
	CHECK_EQ(request_on(0, T_IN, 0, FAKE_IN(in, 512), &len), S_IOERR);
	CHECK_EQ(len, 0);
	CHECK_EQ(request(T_OUT, 0, FAKE_OUT(in, 512)), S_IOERR);
	CHECK_EQ(command(T_FLUSH), S_IOERR);
	fail = 0;
	CHECK(still_works());
	end();
}

static void many_requests_share_interrupts(void)
{
	enum { N = 60 };
	static uint8_t in[N][512], status[N];
	struct header h[N];
	int tokens[N];

	begin();
	slow_us = 200;
	for (unsigned i = 0; i < N; i++) {
		struct fake_buf bufs[3] = { FAKE_OUT(&h[i], 16), FAKE_IN(in[i], 512),
			FAKE_IN(&status[i], 1) };

		h[i] = header(T_IN, i);
		tokens[i] = fake_post(f, 0, bufs, 3);
		CHECK(tokens[i] >= 0);
	}
	fake_kick(f, 0);
	for (unsigned i = 0; i < N; i++) {
		CHECK_EQ(fake_wait(f, 0, tokens[i]), 513);
		CHECK(status[i] == S_OK && in[i][0] == i + 1);
	}
	CHECK(f->q[0].interrupts < N);
	end();
}

static void all_queues_work(void)
{
	uint8_t in[512];

	open_with("queues=4", NULL);
	CHECK(f->dev->offered & F_MQ);
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(fake_config(f, 34, 2), 4);
	for (unsigned q = 0; q < 4; q++) {
		CHECK_EQ(request_on(q, T_IN, q, FAKE_IN(in, 512), NULL), S_OK);
		CHECK_EQ(in[0], q + 1);
		CHECK_EQ(f->q[q].completions, 1);
	}
	end();
}

/*
 * --- other requests -----------------------------------------------------------------------------
 */

static void the_device_id_is_the_serial_number(void)
{
	char id[20], some[4], room[64];

	open_with("deviceId=root-disk", NULL);
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(request(T_GET_ID, 0, FAKE_IN(id, 20)), S_OK);
	CHECK(!memcmp(id, "root-disk\0\0\0\0\0\0\0\0\0\0\0", 20));
	CHECK_EQ(request(T_GET_ID, 0, FAKE_IN(some, 4)), S_OK);
	CHECK(!memcmp(some, "root", 4));
	CHECK_EQ(request(T_GET_ID, 0, FAKE_IN(room, 64)), S_OK);
	CHECK_EQ(command(T_GET_ID), S_OK);
	end();
}

static void a_device_id_has_up_to_20_bytes(void)
{
	const char *const options[] = { path_option, "deviceId=123456789012345678901", NULL };
	struct vz_error e = { 0 };
	char id[20];

	open_with("deviceId=12345678901234567890", NULL);
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(request(T_GET_ID, 0, FAKE_IN(id, 20)), S_OK);
	CHECK(!memcmp(id, "12345678901234567890", 20));
	end();
	CHECK(!fake_new(&virtio_blk, options, &e));
	CHECK_STR(e.where, "deviceId");
}

/* Section 5.2.6.2: among them those of zones, of secure erase, and SCSI of old. */
static void unknown_types_are_unsupported(void)
{
	static const uint32_t types[] = { 2, 3, 5, 9, 10, 12, 14, 15, 16, 18, 20, 22, 24, 26, 99,
		0x80000000, UINT32_MAX };
	uint8_t in[512];

	begin();
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		CHECK_EQ(command(types[i]), S_UNSUPP);
		CHECK_EQ(request(types[i], 0, FAKE_IN(in, 512)), S_UNSUPP);
	}
	CHECK(file_is_untouched());
	end();
}

static void a_flush_commits(void)
{
	begin();
	CHECK_EQ(command(T_FLUSH), S_OK);
	CHECK_EQ(flushes, 1);
	end();
}

static unsigned dsync_of_one_write(void)
{
	uint8_t out[512] = { 1 };
	unsigned before = dsync_writes;

	CHECK_EQ(request(T_OUT, 0, FAKE_OUT(out, 512)), S_OK);
	return dsync_writes - before;
}

static void with_flush_writes_are_cached(void)
{
	open_with(NULL, NULL);
	CHECK(fake_start(f, features & ~F_CONFIG_WCE, 0));
	CHECK_EQ(dsync_of_one_write(), 0);
	end();
}

static void without_flush_every_write_is_committed(void)
{
	open_with(NULL, NULL);
	CHECK(fake_start(f, features & ~(F_CONFIG_WCE | F_FLUSH), 0));
	CHECK_EQ(dsync_of_one_write(), 1);
	end();
}

static void the_cache_mode_can_be_changed(void)
{
	begin();
	CHECK_EQ(dsync_of_one_write(), 0);
	vdev_config_write(f->dev, WRITEBACK, 1, 0);
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 0);
	CHECK_EQ(dsync_of_one_write(), 1);
	vdev_config_write(f->dev, WRITEBACK, 1, 1);
	CHECK_EQ(dsync_of_one_write(), 0);
	vdev_config_write(f->dev, WRITEBACK, 1, 0);
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 1);
	CHECK_EQ(dsync_of_one_write(), 0);
	end();
}

static void the_cache_mode_cannot_be_changed_without_the_feature(void)
{
	open_with(NULL, NULL);
	CHECK(fake_start(f, features & ~F_CONFIG_WCE, 0));
	vdev_config_write(f->dev, WRITEBACK, 1, 0);
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 1);
	CHECK_EQ(dsync_of_one_write(), 0);
	end();
}

/* Section 5.2.5.2. */
static void a_cache_mode_without_flush_starts_as_writethrough(void)
{
	open_with(NULL, NULL);
	CHECK(fake_negotiate(f, features & ~F_FLUSH));
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 0);
	CHECK(fake_start(f, features & ~F_FLUSH, 0));
	CHECK_EQ(dsync_of_one_write(), 1);
	CHECK(fake_start(f, features, 0));
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 1);
	end();
}

/*
 * --- discard and write zeroes -------------------------------------------------------------------
 */

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

static uint8_t ranges(uint32_t type, const struct range *r, unsigned n)
{
	uint8_t data[64 * 16];

	for (unsigned i = 0; i < n; i++) {
		le64_store(data + i * 16, r[i].sector);
		le32_store(data + i * 16 + 8, r[i].sectors);
		le32_store(data + i * 16 + 12, r[i].flags);
	}
	return request(type, 0, FAKE_OUT(data, n * 16));
}

static uint8_t one_range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct range r = { sector, sectors, flags };

	return ranges(type, &r, 1);
}

static void zeroes_are_written_to_all_ranges(void)
{
	static const struct range r[] = { { 8, 8, 1 }, { 100, 1, 0 }, { 0, 0, 0 }, { 2047, 1, 1 } };
	static const uint8_t zeroes[8 * 512];

	begin();
	CHECK_EQ(ranges(T_WRITE_ZEROES, r, 4), S_OK);
	CHECK(file_is(8, zeroes, 8 * 512) && file_is(100, zeroes, 512));
	CHECK(file_is(2047, zeroes, 512));
	CHECK(!file_is(101, zeroes, 512) && !file_is(16, zeroes, 512));
	end();
}

static void ranges_can_be_discarded(void)
{
	static const struct range r[] = { { 8, 8, 0 }, { 1024, 512, 0 } };
	struct stat before, after;

	begin();
	if (f->dev->offered & F_DISCARD) {
		CHECK(!stat(path, &before));
		CHECK_EQ(ranges(T_DISCARD, r, 2), S_OK);
		CHECK(!stat(path, &after) && after.st_size == SIZE);
		CHECK(after.st_blocks <= before.st_blocks);
	}
	end();
}

static void as_many_ranges_as_the_config_says(void)
{
	struct range r[64] = { { 0 } };
	unsigned most;

	begin();
	most = (unsigned)fake_config(f, 52, 4);
	CHECK(most && most < 63);
	CHECK_EQ(ranges(T_WRITE_ZEROES, r, most), S_OK);
	CHECK_EQ(ranges(T_WRITE_ZEROES, r, most + 1), S_IOERR);
	CHECK_EQ(command(T_WRITE_ZEROES), S_IOERR);
	CHECK_EQ(request(T_WRITE_ZEROES, 0, FAKE_OUT(r, 15)), S_IOERR);
	CHECK_EQ(request(T_WRITE_ZEROES, 0, FAKE_OUT(r, 17)), S_IOERR);
	end();
}

/* Section 5.2.6.2. */
static void unknown_flags_are_unsupported(void)
{
	begin();
	CHECK_EQ(one_range(T_WRITE_ZEROES, 0, 8, 2), S_UNSUPP);
	CHECK_EQ(one_range(T_WRITE_ZEROES, 0, 8, 0x80000001), S_UNSUPP);
	CHECK_EQ(one_range(T_DISCARD, 0, 8, 1), S_UNSUPP);
	CHECK_EQ(one_range(T_DISCARD, 0, 8, 4), S_UNSUPP);
	CHECK(file_is_untouched());
	end();
}

static void what_was_not_negotiated_is_unsupported(void)
{
	open_with(NULL, NULL);
	CHECK(fake_start(f, features & ~(F_DISCARD | F_WRITE_ZEROES), 0));
	CHECK_EQ(one_range(T_WRITE_ZEROES, 0, 8, 0), S_UNSUPP);
	CHECK_EQ(one_range(T_DISCARD, 0, 8, 0), S_UNSUPP);
	CHECK(file_is_untouched());
	end();
}

/*
 * --- hardening ----------------------------------------------------------------------------------
 */

static void row_15_the_guest_cannot_choose_the_format(void)
{
	uint8_t out[512] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 }, in[512];
	const char *const options[] = { path_option, NULL };

	begin();
	/* Where a qcow2 image names its backing file, and the name. */
	le64_store(out + 8, htobe64(256));
	le32_store(out + 16, htobe32(11));
	memcpy(out + 256, "/etc/passwd", 11);
	CHECK_EQ(request(T_OUT, 0, FAKE_OUT(out, 512)), S_OK);
	fake_free(f);
	f = fake_new(&virtio_blk, options, NULL);
	CHECK(f && fake_start(f, features, 0));
	CHECK_EQ(fake_config(f, 0, 8), SECTORS);
	CHECK_EQ(request(T_IN, 0, FAKE_IN(in, 512)), S_OK);
	CHECK(!memcmp(in, out, 512));
	end();
}

static void row_20_malformed_requests_are_given_back(void)
{
	uint8_t bytes[8] = { 0 };
	struct fake_buf out = FAKE_OUT(bytes, 8), in = FAKE_IN(bytes, 8);

	begin();
	for (unsigned i = 0; i < 300; i++)
		CHECK(fake_request(f, 0, i % 2 ? &out : &in, 1) >= 0);
	CHECK(still_works());
	end();
}

/* A reset while the host is slow: what comes late must not be written to the guest any more. */
static void row_21_nothing_is_written_after_a_reset(void)
{
	struct fake_desc descs[3];
	struct header h = header(T_IN, 5);
	uint8_t *data;

	begin();
	descs[0] = (struct fake_desc){ .addr = fake_alloc(f, 16, 16), .len = 16 };
	descs[1] = (struct fake_desc){ fake_alloc(f, 512, 512), 512, FAKE_F_WRITE, 0 };
	descs[2] = (struct fake_desc){ fake_alloc(f, 1, 1), 1, FAKE_F_WRITE, 0 };
	memcpy(fake_ptr(f, descs[0].addr), &h, 16);
	data = fake_ptr(f, descs[1].addr);
	slow_us = 30000;
	CHECK(fake_post_gpa(f, 0, descs, 3) >= 0);
	fake_kick(f, 0);
	fake_reset(f);
	memset(data, 0x5c, 512);
	*(uint8_t *)fake_ptr(f, descs[2].addr) = S_NONE;
	fake_spin(f, 60);
	for (unsigned i = 0; i < 512; i++)
		CHECK(data[i] == 0x5c);
	CHECK_EQ(*(uint8_t *)fake_ptr(f, descs[2].addr), S_NONE);
	slow_us = 0;
	CHECK(fake_start(f, features, 0));
	CHECK(still_works());
	end();
}

static void row_22_nothing_past_the_end(void)
{
	static const struct {
		uint64_t sector;
		uint32_t sectors;
	} evil[] = { { SECTORS, 1 }, { SECTORS - 1, 2 }, { 1ull << 55, 1 }, { 1ull << 63, 2 },
		{ UINT64_MAX, 1 }, { UINT64_MAX - 1, 2 }, { (1ull << 55) - 1, 2 } };
	uint8_t data[1024];

	begin();
	memset(data, 0xff, sizeof(data));
	for (size_t i = 0; i < ARRAY_SIZE(evil); i++) {
		uint64_t at = evil[i].sector;
		uint32_t n = evil[i].sectors;

		CHECK_EQ(request(T_IN, at, FAKE_IN(data, n * 512)), S_IOERR);
		CHECK_EQ(request(T_OUT, at, FAKE_OUT(data, n * 512)), S_IOERR);
		CHECK_EQ(one_range(T_WRITE_ZEROES, at, n, 0), S_IOERR);
		if (f->dev->offered & F_DISCARD)
			CHECK_EQ(one_range(T_DISCARD, at, n, 0), S_IOERR);
	}
	CHECK_EQ(one_range(T_WRITE_ZEROES, 0, UINT32_MAX, 1), S_IOERR);
	CHECK_EQ(one_range(T_WRITE_ZEROES, 1ull << 55, UINT32_MAX, 1), S_IOERR);
	CHECK(file_is_untouched());
	end();
}

/* An evil range behind a good one: neither is carried out. */
static void row_22_all_ranges_are_checked_first(void)
{
	static const struct range r[] = { { 0, 8, 0 }, { SECTORS, 8, 0 } };

	begin();
	CHECK_EQ(ranges(T_WRITE_ZEROES, r, 2), S_IOERR);
	CHECK(file_is_untouched());
	end();
}

static void row_28_read_only_needs_no_negotiation(void)
{
	uint8_t out[512] = { 1 };

	open_with("readonly", NULL);
	CHECK(f->dev->offered & F_RO);
	CHECK(fake_start(f, features & ~F_RO, 0));
	CHECK_EQ(request(T_OUT, 0, FAKE_OUT(out, 512)), S_IOERR);
	CHECK_EQ(one_range(T_WRITE_ZEROES, 0, 8, 1), S_IOERR);
	CHECK_EQ(one_range(T_DISCARD, 0, 8, 0), S_IOERR);
	CHECK_EQ(command(T_FLUSH), S_OK);
	CHECK(still_works());
	CHECK(file_is_untouched());
	end();
}

/* Headers and statuses of other lengths than theirs, the data where the rest should be. */
static void row_40_52_odd_headers_and_statuses(void)
{
	struct header h = header(T_OUT, 0);
	uint8_t head[17] = { 0 }, data[512] = { 0 }, status[3];

	begin();
	memcpy(head, &h, 16);
	for (uint32_t hlen = 1; hlen <= 17; hlen++) {
		struct fake_buf bufs[] = { FAKE_OUT(head, hlen), FAKE_OUT(data, 512),
			FAKE_IN(status, 1) };

		if (hlen == 16)
			continue;
		status[0] = S_NONE;
		CHECK_EQ(fake_request(f, 0, bufs, 3), 1);
		CHECK(status[0] == S_IOERR || status[0] == S_UNSUPP);
	}
	for (uint32_t slen = 0; slen <= 3; slen++) {
		struct fake_buf bufs[] = { FAKE_OUT(head, 16), FAKE_IN(status, slen) };

		memset(status, S_NONE, sizeof(status));
		head[0] = 77;
		CHECK_EQ(fake_request(f, 0, bufs, slen ? 2 : 1), slen == 1);
		CHECK(!slen || status[slen - 1] == S_UNSUPP);
	}
	CHECK(still_works());
	CHECK(file_is_untouched());
	end();
}

static void row_40_a_write_without_a_status_is_not_done(void)
{
	struct header h = header(T_OUT, 0);
	uint8_t data[512] = { 0 };
	struct fake_buf bufs[] = { FAKE_OUT(&h, 16), FAKE_OUT(data, 512) };

	begin();
	CHECK_EQ(fake_request(f, 0, bufs, 2), 0);
	CHECK(file_is_untouched());
	CHECK(still_works());
	end();
}

/*
 * --- life cycle ---------------------------------------------------------------------------------
 */

static void the_cache_mode_survives_save_and_restore(void)
{
	const char *const options[] = { path_option, NULL };

	begin();
	vdev_config_write(f->dev, WRITEBACK, 1, 0);
	CHECK_EQ(fake_save_restore(f, options, NULL), 0);
	CHECK_EQ(fake_config(f, WRITEBACK, 1), 0);
	CHECK_EQ(dsync_of_one_write(), 1);
	CHECK(still_works());
	end();
}

static void a_disk_of_another_size_is_not_restored(void)
{
	const char *const options[] = { path_option, NULL };

	begin();
	CHECK(!truncate(path, SIZE / 2));
	CHECK(fake_save_restore(f, options, NULL) < 0);
	fake_free(f);
}

static void a_pause_waits_for_requests(void)
{
	struct header h = header(T_IN, 1);
	uint8_t in[512] = { 0 }, status = S_NONE;
	struct fake_buf bufs[] = { FAKE_OUT(&h, 16), FAKE_IN(in, 512), FAKE_IN(&status, 1) };
	int token;

	begin();
	slow_us = 20000;
	token = fake_post(f, 0, bufs, 3);
	fake_kick(f, 0);
	vdev_pause(f->dev);
	CHECK(fake_done(f, 0, token));
	CHECK(status == S_OK && in[0] == 2);
	vdev_resume(f->dev);
	CHECK(still_works());
	end();
}

static void a_path_is_required(void)
{
	struct vz_error e = { 0 };

	CHECK(!fake_new(&virtio_blk, NULL, &e));
	CHECK(strstr(e.where, "path") || strstr(e.text, "path"));
}

static void bad_options_are_refused(void)
{
	static const char *const evil[] = { "type=qcow2", "cache=maybe", "sync=often", "queues=0",
		"queues=9", "readonly=yes", "color=red" };

	for (size_t i = 0; i < ARRAY_SIZE(evil); i++) {
		const char *const options[] = { path_option, evil[i], NULL };
		struct vz_error e = { 0 };

		CHECK(!fake_new(&virtio_blk, options, &e));
		CHECK(e.text[0]);
	}
}

static void a_file_is_no_device(void)
{
	const char *const options[] = { path_option, "type=dev", NULL };
	struct vz_error e = { 0 };

	CHECK(!fake_new(&virtio_blk, options, &e));
	CHECK_STR(e.where, "path");
	CHECK(strstr(e.text, "block device"));
}

#define BOTH(fn)                        \
	do {                            \
		features = FAKE_ALL;    \
		RUN(fn);                \
		features = FAKE_PACKED; \
		RUN(fn);                \
	} while (0)

int main(void)
{
	int fd = mkstemp(path);

	if (fd < 0)
		return 1;
	close(fd);
	snprintf(path_option, sizeof(path_option), "path=%s", path);
	BOTH(the_config_describes_the_disk);
	BOTH(what_it_cannot_do_is_not_offered);
	BOTH(without_sync_no_flush_is_offered);
	BOTH(the_driver_can_change_nothing_but_the_cache_mode);
	BOTH(sectors_are_read);
	BOTH(sectors_are_written);
	BOTH(requests_may_be_cut_up_anyhow);
	BOTH(the_longest_chain_works);
	BOTH(indirect_chains_work);
	BOTH(nothing_is_read_into_no_room);
	BOTH(a_part_of_a_sector_is_refused);
	BOTH(an_error_of_the_host_is_an_io_error);
	BOTH(many_requests_share_interrupts);
	BOTH(all_queues_work);
	BOTH(the_device_id_is_the_serial_number);
	BOTH(a_device_id_has_up_to_20_bytes);
	BOTH(unknown_types_are_unsupported);
	BOTH(a_flush_commits);
	BOTH(with_flush_writes_are_cached);
	BOTH(without_flush_every_write_is_committed);
	BOTH(the_cache_mode_can_be_changed);
	BOTH(the_cache_mode_cannot_be_changed_without_the_feature);
	BOTH(a_cache_mode_without_flush_starts_as_writethrough);
	BOTH(zeroes_are_written_to_all_ranges);
	BOTH(ranges_can_be_discarded);
	BOTH(as_many_ranges_as_the_config_says);
	BOTH(unknown_flags_are_unsupported);
	BOTH(what_was_not_negotiated_is_unsupported);
	BOTH(row_15_the_guest_cannot_choose_the_format);
	BOTH(row_20_malformed_requests_are_given_back);
	BOTH(row_21_nothing_is_written_after_a_reset);
	BOTH(row_22_nothing_past_the_end);
	BOTH(row_22_all_ranges_are_checked_first);
	BOTH(row_28_read_only_needs_no_negotiation);
	BOTH(row_40_52_odd_headers_and_statuses);
	BOTH(row_40_a_write_without_a_status_is_not_done);
	BOTH(the_cache_mode_survives_save_and_restore);
	BOTH(a_disk_of_another_size_is_not_restored);
	BOTH(a_pause_waits_for_requests);
	RUN(a_path_is_required);
	RUN(bad_options_are_refused);
	RUN(a_file_is_no_device);
	unlink(path);
	return tap_done();
}
