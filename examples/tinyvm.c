/* SPDX-License-Identifier: MIT */
/*
 * tinyvm: the smallest useful program on libvizor. It boots a Linux kernel with its console on
 * this terminal:
 *
 *	tinyvm KERNEL [INITRD [CMDLINE [DISK]]]
 *
 * Ctrl-A x ends it. See <vizor/machine.h> for what each call promises.
 */
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>
#include <vizor/vizor.h>

#define MEMORY      (512ull << 20)
#define ESCAPE      0x01 /* Ctrl-A */
#define DEFAULT_CMD "console=hvc0 panic=-1"

struct tinyvm {
	vz_machine *machine;
	struct termios terminal;
	int raw, done, status;
};

static void print_fault(void *arg, const vz_error *fault)
{
	fprintf(stderr, "tinyvm: %s: %s\n", fault->where, fault->text);
}

/* A device is made, set key by key, and given to the configuration. */
static void add_device(vz_config *config, const char *class_name, const char *key,
	const char *value)
{
	vz_device *device = vz_device_new(class_name, NULL);

	if (device && key)
		vz_device_set(device, key, value, NULL);
	vz_config_add_device(config, device, NULL);
}

static vz_config *describe(int argc, char **argv)
{
	vz_config *config = vz_config_new();

	if (!config)
		return NULL;
	vz_config_set_cpus(config, 1, NULL);
	vz_config_set_memory(config, MEMORY, NULL);
	vz_config_set_linux(config, argv[1], argc > 2 && argv[2][0] ? argv[2] : NULL,
		argc > 3 ? argv[3] : DEFAULT_CMD, NULL);
	add_device(config, "virtio-serial", "stdio", NULL);
	add_device(config, "virtio-rng", NULL, NULL);
	if (argc > 4)
		add_device(config, "virtio-blk", "path", argv[4]);

	/* No return value was looked at above: whatever was wrong is told here, in full. */
	if (vz_config_validate(config, print_fault, NULL)) {
		vz_config_free(config);
		return NULL;
	}
	return config;
}

/* Runs on the owner's thread, whichever thread asked for it. */
static void stop(void *arg)
{
	struct tinyvm *vm = arg;

	if (vz_machine_can(vm->machine, VZ_VERB_STOP))
		vz_machine_stop(vm->machine, NULL, NULL);
}

/* What is typed, before the guest sees it. Runs on an internal thread. */
static size_t filter(void *arg, char *bytes, size_t len)
{
	static int escaped;
	struct tinyvm *vm = arg;
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		if (escaped && bytes[i] == 'x')
			vz_machine_post(vm->machine, stop, vm);
		else if (escaped || bytes[i] != ESCAPE)
			bytes[kept++] = bytes[i];
		escaped = !escaped && bytes[i] == ESCAPE;
	}
	return kept;
}

static void on_event(void *arg, const vz_event *event)
{
	struct tinyvm *vm = arg;

	switch (event->kind) {
	case VZ_EVENT_STOPPED:
		vm->done = 1;
		break;
	case VZ_EVENT_ERROR:
		fprintf(stderr, "\r\ntinyvm: the guest died: %s\r\n", event->error.text);
		vm->done = vm->status = 1;
		break;
	default: /* states, resets and early messages do not concern us */
		break;
	}
}

static void on_started(void *arg, const vz_error *error)
{
	struct tinyvm *vm = arg;

	if (!error)
		return;
	fprintf(stderr, "\r\ntinyvm: cannot start: %s\r\n", error->text);
	vm->done = vm->status = 1;
}

static void make_raw(struct tinyvm *vm)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &vm->terminal))
		return;
	raw = vm->terminal;
	cfmakeraw(&raw);
	vm->raw = !tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

int main(int argc, char **argv)
{
	struct tinyvm vm = { 0 };
	vz_error error = { 0 };
	vz_config *config;

	if (argc < 2) {
		fprintf(stderr, "Usage: tinyvm KERNEL [INITRD [CMDLINE [DISK]]]\n");
		return 1;
	}
	config = describe(argc, argv);
	if (!config)
		return 1;
	vm.machine = vz_machine_new(config, &error);
	vz_config_free(config);
	if (!vm.machine) {
		fprintf(stderr, "tinyvm: %s: %s\n", error.where, error.text);
		return 1;
	}
	vz_machine_on_event(vm.machine, on_event, &vm);
	make_raw(&vm);
	if (vm.raw)
		vz_machine_console_filter(vm.machine, 0, filter, &vm);

	vz_machine_start(vm.machine, on_started, &vm);
	while (!vm.done)
		vz_machine_dispatch(vm.machine, -1);

	vz_machine_free(vm.machine);
	if (vm.raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &vm.terminal);
	return vm.status;
}
