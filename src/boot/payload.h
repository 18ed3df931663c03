/* SPDX-License-Identifier: MIT */
/* Compressed kernel payloads: which compressor made one, and its bytes. */
#ifndef BOOT_PAYLOAD_H
#define BOOT_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vizor/error.h>

struct codec;
struct stream;

struct payload {
	int fd; /* of the file that holds it; not owned */
	uint64_t offset, length;
	const struct codec *codec;
	/* The last four bytes: the size when decompressed, if the file tells the truth. */
	uint32_t size_hint;
};

/* Recognise the compressor. -ENOEXEC when unknown, -ENOTSUP when this build lacks its library. */
int payload_open(struct payload *p, int fd, uint64_t offset, uint64_t length, struct vz_error *e);

/* Decompress the first len bytes only; *got may be less. For looking at headers. */
int payload_head(const struct payload *p, void *to, size_t len, size_t *got, struct vz_error *e);

/* Decompress all of it; *size: how many bytes it was. -ENOSPC when that is more than len. */
int payload_decompress(const struct payload *p, void *to, size_t len, size_t *size,
	struct vz_error *e);

/* The name of the compressor that made a file starting with these bytes, or NULL. */
const char *payload_format(const uint8_t *bytes, size_t len);

/* --- for the codecs ----------------------------------------------------------------------- */

/* Bytes that may follow the compressed ones: the size when decompressed. */
#define PAYLOAD_TRAILER 4

enum payload_step { STEP_MORE, STEP_END, STEP_BAD };

struct codec {
	const char *name, *library;
	uint8_t magic[6];
	uint8_t magic_len;
	/* A library that works in steps: state is what open returns, NULL when out of memory. */
	void *(*open)(void);
	enum payload_step (*step)(struct stream *s);
	void (*close)(void *state);
	/* Or one call for all. */
	int (*all)(const struct payload *p, bool head, uint8_t *to, size_t len, size_t *size,
		struct vz_error *e);
};

int payload_lz4(const struct payload *p, bool head, uint8_t *to, size_t len, size_t *size,
	struct vz_error *e);

int payload_read(const struct payload *p, void *to, size_t len, uint64_t at, struct vz_error *e);
int payload_corrupt(const struct payload *p, struct vz_error *e, const char *what);
int payload_too_large(struct vz_error *e, size_t len);

#endif
