/* SPDX-License-Identifier: MIT */
/* The page through which native.c and native.S pass state: absolute addresses. */
#ifndef TESTS_DIFF_NATIVE_H
#define TESTS_DIFF_NATIVE_H

#define CTX           0x40000000
#define CTX_GPR       (CTX + 0)
#define CTX_FLAGS     (CTX + 128)
#define CTX_RIP       (CTX + 136)
#define CTX_FS        (CTX + 144)
#define CTX_GS        (CTX + 152)
#define CTX_HOST_RSP  (CTX + 160)
#define CTX_HOST_FS   (CTX + 168)
#define CTX_XIN       (CTX + 176)
#define CTX_XMASK     (CTX + 184)
#define CTX_EXIT      (CTX + 188)
#define CTX_RESUME    (CTX + 192)
#define CTX_OUT       (CTX + 256)
#define CTX_OUT_FLAGS (CTX + 384)
#define CTX_OUT_FS    (CTX + 392)
#define CTX_OUT_GS    (CTX + 400)
#define CTX_XOUT      (CTX + 1024)

#endif
