/* SPDX-License-Identifier: MIT */
/* Little-endian loads and stores at any alignment. */
#ifndef BASE_LE_H
#define BASE_LE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t le16_load(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static inline uint32_t le32_load(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static inline uint64_t le64_load(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static inline void le16_store(void *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void le32_store(void *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void le64_store(void *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}

/* size is 1, 2, 4 or 8. */
static inline uint64_t le_load(const void *p, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, p, size);
	return le64toh(v);
}

static inline void le_store(void *p, uint64_t v, unsigned size)
{
	v = htole64(v);
	memcpy(p, &v, size);
}

#endif
