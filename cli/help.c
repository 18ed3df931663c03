/* SPDX-License-Identifier: MIT */
/* vizor help: the text is made of the option table and the device classes. */
#include "cli.h"
#include <stdio.h>

void help_print(void)
{
	printf("Usage: vizor [run|validate] [options]\n"
	       "       vizor engines\n"
	       "       vizor help\n\n"
	       "run (the default) boots a virtual machine and ends with it; validate only reports\n"
	       "what is wrong with the options; engines tells what can run guests here.\n\n"
	       "Options:\n");
	for (size_t i = 0; i < cli_options_count; i++) {
		const struct cli_option *o = &cli_options[i];
		char name[48];

		snprintf(name, sizeof(name), "--%s%s%s", o->name, o->arg ? " " : "",
			o->arg ? o->arg : "");
		if (o->letter)
			printf("  -%c, %-28s %s\n", o->letter, name, o->help);
		else
			printf("      %-28s %s\n", name, o->help);
	}
	printf("\nDevices:\n");
	device_list();
	printf("\nCtrl-A x on the terminal of the console ends the machine.\n");
}

int cmd_help(int argc, char **argv)
{
	help_print();
	return 0;
}
