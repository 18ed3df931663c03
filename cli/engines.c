/* SPDX-License-Identifier: MIT */
/* vizor engines: what there is, and what works here. */
#include "cli.h"
#include <stdio.h>

int cmd_engines(int argc, char **argv)
{
	vz_engine_info info;

	if (argc)
		return fail("unexpected argument: %s", argv[0]);
	for (unsigned i = 0; vz_engine_probe(i, &info); i++) {
		printf("%-8s %s\n", info.name, info.summary);
		if (info.works && info.reason[0])
			printf("         works here, but is only taken when asked for: %s\n",
				info.reason);
		else if (info.works)
			printf("         works here\n");
		else
			printf("         does not work here: %s\n", info.reason);
	}
	return 0;
}
