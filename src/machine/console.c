/* SPDX-License-Identifier: MIT */
/* vz_machine_console: what an application may do with the consoles of its machine. */
#include "device/console.h"

#include "machine/machine.h"

#define VIRTIO_ID_CONSOLE 3

static struct console *find_console(const struct vz_machine *m, unsigned index)
{
	for (unsigned i = 0; i < m->board.ndevices; i++) {
		struct vdev *dev = m->board.devices[i].dev;

		if (dev->class->id == VIRTIO_ID_CONSOLE && index-- == 0)
			return virtio_console_port(dev, 0);
	}
	return NULL;
}

const char *vz_machine_console_pty(const vz_machine *m, unsigned index)
{
	struct console *con = find_console(m, index);

	return con ? console_pty_name(con) : NULL;
}

static void resized_on_loop(void *arg)
{
	console_check_size(arg);
}

void vz_machine_console_resized(vz_machine *m, unsigned index)
{
	struct console *con = find_console(m, index);

	if (con)
		loop_call(m->loop, resized_on_loop, con);
}

struct filter {
	struct console *con;
	vz_console_filter_fn *fn;
	void *arg;
};

static void filter_on_loop(void *arg)
{
	struct filter *f = arg;

	console_set_filter(f->con, f->fn, f->arg);
}

void vz_machine_console_filter(vz_machine *m, unsigned index, vz_console_filter_fn *fn, void *arg)
{
	struct filter filter = { find_console(m, index), fn, arg };

	if (filter.con)
		loop_call(m->loop, filter_on_loop, &filter);
}
