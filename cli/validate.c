/* SPDX-License-Identifier: MIT */
/* vizor validate: everything that is wrong with a configuration, one line each. */
#include "cli.h"
#include <stdio.h>

static void report(void *arg, const vz_error *fault)
{
	fail_error(fault);
}

int cmd_validate(int argc, char **argv)
{
	struct options o;
	unsigned faults;
	int r = options_parse(&o, argc, argv, true);

	if (r >= 0)
		return r;
	faults = o.faults + vz_config_validate(o.config, report, NULL);
	options_fini(&o);
	if (!faults)
		printf("the configuration is valid\n");
	return faults ? 1 : 0;
}
