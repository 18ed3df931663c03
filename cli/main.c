/* SPDX-License-Identifier: MIT */
/* vizor: the verbs. Options without a verb mean run, as drop-in users expect. */
#include "cli.h"
#include <string.h>

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} verbs[] = {
	{ "run", cmd_run },
	{ "validate", cmd_validate },
	{ "engines", cmd_engines },
	{ "help", cmd_help },
};

int main(int argc, char **argv)
{
	const size_t count = sizeof(verbs) / sizeof(verbs[0]);
	const char *near;

	if (argc < 2) {
		help_print();
		return 1;
	}
	if (argv[1][0] == '-')
		return cmd_run(argc - 1, argv + 1);
	for (size_t i = 0; i < count; i++)
		if (!strcmp(argv[1], verbs[i].name))
			return verbs[i].run(argc - 2, argv + 2);
	near = nearest(argv[1], verbs, count, sizeof(verbs[0]));
	return fail("unknown command: %s%s%s%s", argv[1], near ? " (did you mean " : "",
		near ? near : "", near ? "?)" : "; 'vizor help' lists them");
}
