/* SPDX-License-Identifier: MIT */
/* A case of one instruction under construction: between form.c and operands.c. */
#ifndef TESTS_DIFF_FORM_H
#define TESTS_DIFF_FORM_H

#include "diff.h"

struct maker {
	struct rng *r;
	struct diff_case *c;
	struct enc e;
	struct insn in;
	uint64_t features, at, target; /* of the instruction; of its memory operand */
	uint8_t bytes[INSN_MAX_LEN + 24];
};

/* Registers and memory for the instruction, whose memory operand is at m->target. */
void form_setup(struct maker *m);

#endif
