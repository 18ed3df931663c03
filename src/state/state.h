/* SPDX-License-Identifier: MIT */
/*
 * Versioned save/restore stream: one function per object walks both directions. Fields carry a name
 * and a size, sections carry a name and a version; a restore that meets anything it does not expect
 * fails with an error that names section and field, and leaves the rest unread. All functions
 * return 0 or -errno; after the first failure every further call returns the same error and touches
 * nothing.
 */
#ifndef STATE_STATE_H
#define STATE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vizor/error.h>

struct state;

struct state *state_save_new(void); /* grows in memory; NULL: out of memory */
struct state *state_load_new(const void *bytes, size_t len); /* bytes stay the caller's */
void state_free(struct state *s);
bool state_loading(const struct state *s);
const void *state_bytes(const struct state *s, size_t *len); /* saving: what was written so far */
int state_error(const struct state *s, struct vz_error *e);  /* 0, or the first failure */

/* A section: an object's fields. version: the newest the code knows; *found: what is being read. */
int state_enter(struct state *s, const char *name, uint32_t version, uint32_t *found);
int state_leave(struct state *s);

int state_u8(struct state *s, const char *name, uint8_t *v);
int state_u16(struct state *s, const char *name, uint16_t *v);
int state_u32(struct state *s, const char *name, uint32_t *v);
int state_u64(struct state *s, const char *name, uint64_t *v);
int state_bool(struct state *s, const char *name, bool *v);
int state_blob(struct state *s, const char *name, void *bytes, size_t len); /* fixed length */
/* Reject what was read: the caller found the value of this field unacceptable. Returns -EINVAL. */
int state_reject(struct state *s, const char *name, const char *why);

#endif
