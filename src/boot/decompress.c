/* SPDX-License-Identifier: MIT */
/*
 * Decompression of kernel payloads on the host, straight into guest RAM: the formats of the
 * kernel's lib/decompress_*.c but LZO. The kernel build appends the decompressed size, four
 * bytes, to all of them but gzip, whose own last four bytes say the same.
 */
#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "boot/image.h"
#include <stdlib.h>
#include <unistd.h>
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_LZMA
#include <lzma.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif
#ifdef HAVE_BZIP2
#include <bzlib.h>
#endif

#define INPUT_SIZE   (128u << 10)
#define OUTPUT_STEP  (1u << 30) /* the libraries count in 32 bits */
#define LZMA_MEM_MAX (256u << 20)

struct stream {
	const uint8_t *in;
	uint8_t *out;
	size_t in_len, out_len;
	void *state;
};

ssize_t boot_pread(int fd, void *to, size_t len, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)to + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int payload_corrupt(const struct payload *p, struct vz_error *e, const char *what)
{
	return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL, "the %s payload is corrupt: %s",
		p->codec->name, what);
}

int payload_read(const struct payload *p, void *to, size_t len, uint64_t at, struct vz_error *e)
{
	ssize_t n = boot_pread(p->fd, to, len, p->offset + at);

	if (n < 0)
		return err_set(e, (int)n, BOOT_FIELD_KERNEL, "cannot be read: %s",
			strerror((int)-n));
	if ((size_t)n != len)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL, "truncated: its end is missing");
	return 0;
}

int payload_too_large(struct vz_error *e, size_t len)
{
	return err_set(e, ENOSPC, "memory",
		"the decompressed kernel needs more than the %zu MiB that memory has for it",
		len >> 20);
}

#ifdef HAVE_ZLIB
static void *gzip_open(void)
{
	z_stream *z = calloc(1, sizeof(*z));

	if (z && inflateInit2(z, 15 + 16) != Z_OK) {
		free(z);
		return NULL;
	}
	return z;
}

static enum payload_step gzip_step(struct stream *s)
{
	z_stream *z = s->state;
	int rc;

	z->next_in = (uint8_t *)s->in;
	z->avail_in = (uInt)s->in_len;
	z->next_out = s->out;
	z->avail_out = (uInt)s->out_len;
	rc = inflate(z, Z_NO_FLUSH);
	s->in = z->next_in;
	s->in_len = z->avail_in;
	s->out = z->next_out;
	s->out_len = z->avail_out;
	return rc == Z_STREAM_END                ? STEP_END
	       : rc == Z_OK || rc == Z_BUF_ERROR ? STEP_MORE
						 : STEP_BAD;
}

static void gzip_close(void *state)
{
	inflateEnd(state);
	free(state);
}
#define GZIP .open = gzip_open, .step = gzip_step, .close = gzip_close
#else
#define GZIP .open = NULL
#endif

#ifdef HAVE_LZMA
static void *xz_open(void)
{
	lzma_stream *z = calloc(1, sizeof(*z));

	if (z && lzma_auto_decoder(z, LZMA_MEM_MAX, 0) != LZMA_OK) {
		free(z);
		return NULL;
	}
	return z;
}

static enum payload_step xz_step(struct stream *s)
{
	lzma_stream *z = s->state;
	lzma_ret rc;

	z->next_in = s->in;
	z->avail_in = s->in_len;
	z->next_out = s->out;
	z->avail_out = s->out_len;
	rc = lzma_code(z, LZMA_RUN);
	s->in = z->next_in;
	s->in_len = z->avail_in;
	s->out = z->next_out;
	s->out_len = z->avail_out;
	return rc == LZMA_STREAM_END                   ? STEP_END
	       : rc == LZMA_OK || rc == LZMA_BUF_ERROR ? STEP_MORE
						       : STEP_BAD;
}

static void xz_close(void *state)
{
	lzma_end(state);
	free(state);
}
#define LZMA .open = xz_open, .step = xz_step, .close = xz_close
#else
#define LZMA .open = NULL
#endif

#ifdef HAVE_ZSTD
static void *zstd_open(void)
{
	return ZSTD_createDStream();
}

static enum payload_step zstd_step(struct stream *s)
{
	ZSTD_inBuffer in = { s->in, s->in_len, 0 };
	ZSTD_outBuffer out = { s->out, s->out_len, 0 };
	size_t rc = ZSTD_decompressStream(s->state, &out, &in);

	s->in += in.pos;
	s->in_len -= in.pos;
	s->out += out.pos;
	s->out_len -= out.pos;
	return ZSTD_isError(rc) ? STEP_BAD : rc == 0 ? STEP_END : STEP_MORE;
}

static void zstd_close(void *state)
{
	ZSTD_freeDStream(state);
}
#define ZSTD .open = zstd_open, .step = zstd_step, .close = zstd_close
#else
#define ZSTD .open = NULL
#endif

#ifdef HAVE_BZIP2
static void *bzip2_open(void)
{
	bz_stream *z = calloc(1, sizeof(*z));

	if (z && BZ2_bzDecompressInit(z, 0, 0) != BZ_OK) {
		free(z);
		return NULL;
	}
	return z;
}

static enum payload_step bzip2_step(struct stream *s)
{
	bz_stream *z = s->state;
	int rc;

	z->next_in = (char *)s->in;
	z->avail_in = (unsigned)s->in_len;
	z->next_out = (char *)s->out;
	z->avail_out = (unsigned)s->out_len;
	rc = BZ2_bzDecompress(z);
	s->in = (uint8_t *)z->next_in;
	s->in_len = z->avail_in;
	s->out = (uint8_t *)z->next_out;
	s->out_len = z->avail_out;
	return rc == BZ_STREAM_END ? STEP_END : rc == BZ_OK ? STEP_MORE : STEP_BAD;
}

static void bzip2_close(void *state)
{
	BZ2_bzDecompressEnd(state);
	free(state);
}
#define BZIP2 .open = bzip2_open, .step = bzip2_step, .close = bzip2_close
#else
#define BZIP2 .open = NULL
#endif

#ifdef HAVE_LZ4
#define LZ4 .all = payload_lz4
#else
#define LZ4 .all = NULL
#endif

static const struct codec codecs[] = {
	{ "gzip", "zlib", { 0x1f, 0x8b }, 2, GZIP },
	{ "xz", "liblzma", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, LZMA },
	{ "lzma", "liblzma", { 0x5d, 0x00, 0x00 }, 3, LZMA },
	{ "lz4", "liblz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, LZ4 },
	{ "zstd", "libzstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, ZSTD },
	{ "bzip2", "libbz2", { 'B', 'Z', 'h' }, 3, BZIP2 },
	{ "lzo", "", { 0x89, 'L', 'Z', 'O', 0x00, 0x0d }, 6, .open = NULL },
};

static const struct codec *find_codec(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(codecs); i++) {
		if (len >= codecs[i].magic_len &&
			memcmp(bytes, codecs[i].magic, codecs[i].magic_len) == 0)
			return &codecs[i];
	}
	return NULL;
}

const char *payload_format(const uint8_t *bytes, size_t len)
{
	const struct codec *c = find_codec(bytes, len);

	return c ? c->name : NULL;
}

int payload_open(struct payload *p, int fd, uint64_t offset, uint64_t length, struct vz_error *e)
{
	uint8_t magic[8], tail[PAYLOAD_TRAILER];
	int rc;

	*p = (struct payload){ .fd = fd, .offset = offset, .length = length };
	if (length < 32)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"its header tells a payload of only %u bytes", (unsigned)length);
	rc = payload_read(p, magic, sizeof(magic), 0, e);
	if (rc == 0)
		rc = payload_read(p, tail, sizeof(tail), length - sizeof(tail), e);
	if (rc)
		return rc;
	p->size_hint = le32_load(tail);
	p->codec = find_codec(magic, sizeof(magic));
	if (!p->codec)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"its payload starts with %02x %02x %02x %02x: no compression known here",
			magic[0], magic[1], magic[2], magic[3]);
	if (!p->codec->open && !p->codec->all)
		return err_set(e, ENOTSUP, BOOT_FIELD_KERNEL,
			"its payload is compressed with %s, which this build cannot read%s%s",
			p->codec->name, *p->codec->library ? ": build it with " : "",
			p->codec->library);
	return 0;
}

/* The decompressor is done: only the size that the kernel build appends may follow. */
static int check_trailer(const struct payload *p, uint64_t left, size_t size, struct vz_error *e)
{
	if (left != 0 && left != PAYLOAD_TRAILER)
		return payload_corrupt(p, e, "it ends before the place that the file tells");
	if (left == PAYLOAD_TRAILER && p->size_hint != (uint32_t)size)
		return payload_corrupt(p, e, "its size is not the one that the file tells");
	return 0;
}

static int run_stream(const struct payload *p, bool head, uint8_t *to, size_t len, size_t *size,
	struct vz_error *e)
{
	struct stream s = { .out = to };
	uint8_t *input = malloc(INPUT_SIZE), spare;
	uint64_t at = 0;
	enum payload_step step = STEP_MORE;
	int rc = 0;

	s.state = input ? p->codec->open() : NULL;
	if (!s.state) {
		free(input);
		return err_set(e, ENOMEM, NULL, "out of memory");
	}
	while (rc == 0 && step == STEP_MORE) {
		size_t room = len - (size_t)(s.out - to), in_before, out_before;
		bool full = room == 0;

		if (full && head)
			break;
		if (s.in_len == 0 && at < p->length) {
			s.in_len = (size_t)MIN(p->length - at, INPUT_SIZE);
			s.in = input;
			rc = payload_read(p, input, s.in_len, at, e);
			at += s.in_len;
			if (rc)
				break;
		}
		/* A full output may still end properly; a byte more tells that it does not. */
		if (full)
			s.out = &spare;
		s.out_len = full ? 1 : MIN(room, OUTPUT_STEP);
		in_before = s.in_len;
		out_before = s.out_len;
		step = p->codec->step(&s);
		if (full && s.out_len == 0)
			rc = payload_too_large(e, len);
		else if (step == STEP_BAD)
			rc = payload_corrupt(p, e, "it does not decompress");
		else if (step == STEP_MORE && s.in_len == in_before && s.out_len == out_before)
			rc = payload_corrupt(p, e, "it ends too early");
		if (full)
			s.out = to + len;
	}
	*size = (size_t)(s.out - to);
	if (rc == 0 && !head)
		rc = check_trailer(p, s.in_len + (p->length - at), *size, e);
	p->codec->close(s.state);
	free(input);
	return rc;
}

static int run(const struct payload *p, bool head, void *to, size_t len, size_t *size,
	struct vz_error *e)
{
	return p->codec->all ? p->codec->all(p, head, to, len, size, e)
			     : run_stream(p, head, to, len, size, e);
}

int payload_head(const struct payload *p, void *to, size_t len, size_t *got, struct vz_error *e)
{
	*got = 0;
	return run(p, true, to, len, got, e);
}

int payload_decompress(const struct payload *p, void *to, size_t len, size_t *size,
	struct vz_error *e)
{
	*size = 0;
	return run(p, false, to, len, size, e);
}
