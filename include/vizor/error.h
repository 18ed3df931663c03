/* SPDX-License-Identifier: MIT */
/*
 * Errors. Every function that can fail returns 0 or a negative errno value and fills a vz_error
 * that the caller owns (usually on its stack). The pointer may be NULL when only the code matters.
 */
#ifndef VIZOR_ERROR_H
#define VIZOR_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#define VZ_ERROR_WHERE_SIZE 128
#define VZ_ERROR_TEXT_SIZE  512

typedef struct vz_error {
	int code;                        /* negative errno; 0: no error was recorded */
	char where[VZ_ERROR_WHERE_SIZE]; /* path of the configuration field at fault, or "" */
	char text[VZ_ERROR_TEXT_SIZE];   /* one sentence: what is wrong and what to do about it */
} vz_error;

#ifdef __cplusplus
}
#endif
#endif
