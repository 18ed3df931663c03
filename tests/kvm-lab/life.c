/* SPDX-License-Identifier: MIT */
/*
 * The life of a Linux guest by the public functions alone: life ENGINE KERNEL INITRD [WORDS].
 * Pause, resume, the power button, a second start, pulling the plug, a reset. WORDS go to the
 * kernel command line. The initial RAM disk is that of scripts/guest-image. Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vizor/vizor.h>

#define PATIENCE 180.0 /* seconds; it may be an emulated machine */
#define SILENCE  1.5
#define MAX_TEXT 65536

static struct {
	vz_machine *machine;
	char text[MAX_TEXT]; /* of the serial port */
	size_t len;
	unsigned resets, stops, done;
	int error;
} life;

static unsigned tests;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void check(int good, const char *name)
{
	printf("%sok %u - %s\n", good ? "" : "not ", ++tests, name);
	fflush(stdout);
	if (good)
		return;
	printf("# state %s, error %d, the guest's last words:\n# %.300s\nBail out!\n",
		vz_state_name(vz_machine_state(life.machine)), life.error,
		life.text + (life.len > 300 ? life.len - 300 : 0));
	exit(1);
}

static void on_event(void *arg, const vz_event *event)
{
	size_t room = MAX_TEXT - 1 - life.len;

	switch (event->kind) {
	case VZ_EVENT_SERIAL:
		room = event->len < room ? event->len : room;
		memcpy(life.text + life.len, event->bytes, room);
		life.len += room;
		break;
	case VZ_EVENT_RESET:
		life.resets++;
		break;
	case VZ_EVENT_STOPPED:
		life.stops++;
		break;
	case VZ_EVENT_ERROR:
		fprintf(stderr, "%s\n%s\n", event->error.text, event->detail ? event->detail : "");
		life.error = event->error.code;
		break;
	default:
		break;
	}
}

static void on_done(void *arg, const vz_error *error)
{
	life.done++;
	if (error)
		life.error = error->code;
}

#define UNTIL(condition)                                            \
	({                                                          \
		double end_ = now() + PATIENCE;                     \
		while (!(condition) && !life.error && now() < end_) \
			vz_machine_dispatch(life.machine, 100);     \
		(condition) && !life.error;                         \
	})

static void wait_for(double seconds)
{
	double end = now() + seconds;

	while (now() < end)
		vz_machine_dispatch(life.machine, 50);
}

static void forget(void)
{
	memset(life.text, 0, sizeof(life.text));
	life.len = life.done = life.stops = life.resets = 0;
}

static vz_machine *machine(char **argv, unsigned cpus, const char *words, const char *command)
{
	vz_config *config = vz_config_new();
	vz_error error = { 0 };
	char cmdline[512];

	snprintf(cmdline, sizeof(cmdline), "console=ttyS0 quiet vizor.mode=exec %s -- %s", words,
		command);
	vz_config_set_engine(config, argv[1], NULL);
	vz_config_set_cpus(config, cpus, NULL);
	vz_config_set_memory(config, 256 << 20, NULL);
	vz_config_set_linux(config, argv[2], argv[3], cmdline, NULL);
	vz_config_add_device(config, vz_device_new("virtio-rng", NULL), NULL);
	life.machine = vz_machine_new(config, &error);
	vz_config_free(config);
	if (!life.machine) {
		printf("Bail out! %s: %s\n", error.where, error.text);
		exit(1);
	}
	vz_machine_on_event(life.machine, on_event, NULL);
	forget();
	return life.machine;
}

static void start(void)
{
	forget();
	check(!vz_machine_start(life.machine, on_done, NULL) && UNTIL(life.done), "start");
}

static void pause_and_stop(char **argv, const char *words)
{
	vz_machine *m = machine(argv, 2, words, "watch -n 1 cat /proc/uptime");
	size_t before;

	start();
	check(UNTIL(strstr(life.text, "vizor: init")), "the guest boots");
	before = life.len;
	check(UNTIL(life.len > before + 100), "the guest works");

	life.done = 0;
	check(!vz_machine_pause(m, on_done, NULL) && UNTIL(life.done), "pause");
	wait_for(SILENCE); /* what is on its way */
	before = life.len;
	wait_for(SILENCE);
	check(life.len == before && vz_machine_state(m) == VZ_PAUSED, "a paused guest is silent");
	life.done = 0;
	check(!vz_machine_resume(m, on_done, NULL) && UNTIL(life.done), "resume");
	check(UNTIL(life.len > before + 100), "a resumed guest works");

	check(!vz_machine_request_stop(m, NULL) && UNTIL(life.stops), "the power button");
	check(vz_machine_state(m) == VZ_STOPPED, "the guest powers off");

	start();
	check(UNTIL(strstr(life.text, "vizor: init")), "the guest boots again");
	life.done = 0;
	check(!vz_machine_stop(m, on_done, NULL) && UNTIL(life.done), "stop");
	check(vz_machine_state(m) == VZ_STOPPED, "a stopped machine is stopped");
	vz_machine_free(m);
}

static void reset(char **argv, const char *words)
{
	vz_machine *m = machine(argv, 1, words, "reboot -f");

	start();
	check(UNTIL(life.resets), "the guest resets");
	forget();
	check(UNTIL(strstr(life.text, "vizor: init")), "the guest boots after the reset");
	vz_machine_free(m);
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: life ENGINE KERNEL INITRD [WORDS]\n");
		return 2;
	}
	pause_and_stop(argv, argc > 4 ? argv[4] : "");
	reset(argv, argc > 4 ? argv[4] : "");
	printf("1..%u\n", tests);
	return 0;
}
