/* SPDX-License-Identifier: MIT */
/*
 * The machine's life cycle, with an engine that executes no instructions: its vCPUs do what the
 * test tells them. Linked in place of the library's list of engines.
 */
#include "tests/tap.h"

#include "base/error.h"
#include "base/le.h"
#include "engine/engine.h"
#include "platform/power.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>
#include <vizor/vizor.h>

#define COM1  0x3f8
#define ENTRY 0x1000000ull

/* --- the engine -------------------------------------------------------------------------- */

/* What vCPU 0 does next, once; all of them then wait to be kicked. */
enum act { ACT_NOTHING, ACT_OFF, ACT_RESET, ACT_SHUTDOWN, ACT_FAIL, ACT_PANIC, ACT_CONFIG };

struct vcpu {
	struct engine *engine;
	unsigned index;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool kicked;
	struct cpu_state state;
};

struct engine {
	struct engine_config config;
	struct vcpu cpus[ENGINE_CPUS_MAX];
};

static _Atomic enum act next_act;
static atomic_int runs, resets;    /* calls of run and reset */
static atomic_int guests_in;       /* vCPUs within run */
static struct engine *last_engine; /* of the machine under test */
static bool fail_open;

static int fake_probe(struct vz_error *e)
{
	return 0;
}

static int fake_open(struct engine **engine, const struct engine_config *config, struct vz_error *e)
{
	if (fail_open)
		return err_set(e, EIO, NULL, "no luck");
	last_engine = *engine = aligned_alloc(64, sizeof(struct engine));
	memset(*engine, 0, sizeof(struct engine));
	(*engine)->config = *config;
	for (unsigned i = 0; i < config->cpus; i++) {
		struct vcpu *cpu = &(*engine)->cpus[i];

		cpu->engine = *engine;
		cpu->index = i;
		pthread_mutex_init(&cpu->lock, NULL);
		pthread_cond_init(&cpu->changed, NULL);
	}
	return 0;
}

static void fake_close(struct engine *engine)
{
	free(engine);
	last_engine = NULL;
}

static struct vcpu *fake_vcpu(struct engine *engine, unsigned index)
{
	return &engine->cpus[index];
}

static void fake_reset(struct engine *engine)
{
	CHECK_EQ(guests_in, 0);
	resets++;
}

static void out(struct vcpu *cpu, uint64_t port, uint8_t value)
{
	cpu->engine->config.board.write(cpu->engine->config.board.arg, true, port, 1, value);
}

static void act(struct vcpu *cpu, enum act what)
{
	const struct engine_board *board = &cpu->engine->config.board;

	switch (what) {
	case ACT_OFF:
		out(cpu, POWER_PORT + POWER_SLEEP_CONTROL, POWER_SLEEP_TYPE_S5 << 2 | 1 << 5);
		break;
	case ACT_RESET:
		out(cpu, POWER_PORT + POWER_RESET, POWER_RESET_VALUE);
		break;
	case ACT_PANIC:
		for (const char *p = "Kernel panic\nno newline"; *p; p++)
			out(cpu, COM1, (uint8_t)*p);
		out(cpu, POWER_PORT + POWER_RESET, POWER_RESET_VALUE);
		break;
	case ACT_CONFIG:
		/* All of the 32-bit window: the first device's registers are somewhere in there. */
		for (unsigned i = 0; i < 64; i++)
			board->read(board->arg, false, 0xd0000000ull + i * 64, 4);
		break;
	default:
		break;
	}
}

static enum vcpu_exit fake_run(struct vcpu *cpu, struct vz_error *e)
{
	enum act what = cpu->index ? ACT_NOTHING : atomic_exchange(&next_act, ACT_NOTHING);

	runs++;
	guests_in++;
	act(cpu, what);
	if (what == ACT_SHUTDOWN || what == ACT_FAIL) {
		guests_in--;
		if (what == ACT_FAIL)
			err_set(e, EIO, NULL, "cannot go on");
		return what == ACT_FAIL ? VCPU_FAILED : VCPU_SHUTDOWN;
	}
	pthread_mutex_lock(&cpu->lock);
	while (!cpu->kicked)
		pthread_cond_wait(&cpu->changed, &cpu->lock);
	cpu->kicked = false;
	pthread_mutex_unlock(&cpu->lock);
	guests_in--;
	return VCPU_KICKED;
}

static void fake_kick(struct vcpu *cpu)
{
	pthread_mutex_lock(&cpu->lock);
	cpu->kicked = true;
	pthread_cond_signal(&cpu->changed);
	pthread_mutex_unlock(&cpu->lock);
}

static void fake_get_state(struct vcpu *cpu, struct cpu_state *state)
{
	*state = cpu->state;
}

static int fake_set_state(struct vcpu *cpu, const struct cpu_state *state)
{
	cpu->state = *state;
	return 0;
}

static void fake_msi(struct engine *engine, uint64_t address, uint32_t data)
{
}

static void fake_irq_line(struct engine *engine, unsigned pin, bool level)
{
}

static const struct engine_class fake = {
	.name = "fake",
	.summary = "no instructions",
	.probe = fake_probe,
	.open = fake_open,
	.close = fake_close,
	.vcpu = fake_vcpu,
	.reset = fake_reset,
	.run = fake_run,
	.kick = fake_kick,
	.get_state = fake_get_state,
	.set_state = fake_set_state,
	.msi = fake_msi,
	.irq_line = fake_irq_line,
};

const struct engine_class *const engine_classes[] = { &fake, NULL };

/* --- a machine --------------------------------------------------------------------------- */

static char kernel_path[] = "/tmp/vizor-machine-XXXXXX";

/* The smallest ELF file with a PVH note: one byte of code. */
static void write_kernel(void)
{
	uint8_t file[4097] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
	uint8_t *load = file + 64, *note = load + 56, *body = note + 56;
	int fd = mkstemp(kernel_path);

	le16_store(file + 16, 2);
	le16_store(file + 18, 62);
	le32_store(file + 20, 1);
	le64_store(file + 24, ENTRY);
	le64_store(file + 32, 64);
	le16_store(file + 52, 64);
	le16_store(file + 54, 56);
	le16_store(file + 56, 2);
	le32_store(load, 1);
	le32_store(load + 4, 7);
	le64_store(load + 8, 4096);
	le64_store(load + 16, ENTRY);
	le64_store(load + 24, ENTRY);
	le64_store(load + 32, 1);
	le64_store(load + 40, 1);
	le64_store(load + 48, 4096);
	le32_store(note, 4);
	le32_store(note + 4, 4);
	le64_store(note + 8, (uint64_t)(body - file));
	le64_store(note + 32, 20);
	le64_store(note + 40, 20);
	le64_store(note + 48, 4);
	le32_store(body, 4);
	le32_store(body + 4, 4);
	le32_store(body + 8, 18);
	memcpy(body + 12, "Xen", 4);
	le32_store(body + 16, ENTRY);
	file[4096] = 0xf4;
	if (write(fd, file, sizeof(file)) != sizeof(file))
		abort();
	close(fd);
}

/* What was heard of the machine. */
struct heard {
	unsigned done, failed; /* completions */
	unsigned stopped, reset, error;
	char states[256]; /* names, each followed by a blank */
	char serial[256];
	char detail[4096];
	vz_error last;
};

static struct heard heard;

static void on_event(void *arg, const vz_event *event)
{
	switch (event->kind) {
	case VZ_EVENT_STATE:
		strncat(heard.states, vz_state_name(event->state), 32);
		strcat(heard.states, " ");
		break;
	case VZ_EVENT_RESET:
		heard.reset++;
		break;
	case VZ_EVENT_STOPPED:
		heard.stopped++;
		break;
	case VZ_EVENT_ERROR:
		heard.error++;
		heard.last = event->error;
		snprintf(heard.detail, sizeof(heard.detail), "%s",
			event->detail ? event->detail : "");
		break;
	case VZ_EVENT_SERIAL:
		strncat(heard.serial, event->bytes, event->len);
		break;
	}
}

static void on_done(void *arg, const vz_error *error)
{
	heard.done++;
	if (error) {
		heard.failed++;
		heard.last = *error;
	}
}

static vz_config *config_new(unsigned cpus)
{
	vz_config *c = vz_config_new();

	vz_config_set_cpus(c, cpus, NULL);
	vz_config_set_memory(c, 64ull << 20, NULL);
	vz_config_set_linux(c, kernel_path, NULL, "x", NULL);
	vz_config_add_device(c, vz_device_new("virtio-rng", NULL), NULL);
	return c;
}

static vz_machine *machine_new(unsigned cpus)
{
	vz_config *c = config_new(cpus);
	vz_error e = { 0 };
	vz_machine *m = vz_machine_new(c, &e);

	if (!m) {
		printf("Bail out! %s: %s\n", e.where, e.text);
		exit(1);
	}
	vz_config_free(c);
	memset(&heard, 0, sizeof(heard));
	next_act = ACT_NOTHING;
	runs = resets = 0;
	vz_machine_on_event(m, on_event, NULL);
	return m;
}

/* Dispatch until the condition holds; two seconds are for ever. */
#define UNTIL(m, cond)                                                  \
	do {                                                            \
		for (int round_ = 0; round_ < 200 && !(cond); round_++) \
			vz_machine_dispatch(m, 10);                     \
		CHECK(cond);                                            \
	} while (0)

static vz_machine *machine_running(unsigned cpus)
{
	vz_machine *m = machine_new(cpus);

	CHECK_EQ(vz_machine_start(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 1);
	CHECK_EQ(vz_machine_state(m), VZ_RUNNING);
	UNTIL(m, runs >= (int)cpus);
	return m;
}

/* Make a running guest do something. */
static void guest_does(vz_machine *m, enum act what)
{
	next_act = what;
	fake_kick(&last_engine->cpus[0]);
}

/* And be sure that it has begun to. */
static void guest_begins(vz_machine *m, enum act what)
{
	guest_does(m, what);
	while (next_act != ACT_NOTHING)
		sched_yield();
}

/* --- the tests --------------------------------------------------------------------------- */

static void a_machine_starts_and_stops(void)
{
	vz_machine *m = machine_running(4);

	CHECK_EQ(vz_machine_stop(m, on_done, NULL), 0);
	CHECK_EQ(vz_machine_state(m), VZ_STOPPING);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(heard.failed, 0);
	CHECK_EQ(heard.stopped, 1);
	CHECK_EQ(guests_in, 0);
	CHECK_STR(heard.states, "starting running stopping stopped ");
	vz_machine_free(m);
}

static void it_can_be_started_again(void)
{
	vz_machine *m = machine_running(2);

	vz_machine_stop(m, on_done, NULL);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(vz_machine_start(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 3);
	CHECK_EQ(vz_machine_state(m), VZ_RUNNING);
	CHECK_EQ(resets, 1);
	vz_machine_free(m);
}

static void pause_takes_every_cpu_out_and_resume_brings_them_back(void)
{
	vz_machine *m = machine_running(3);
	int before;

	CHECK_EQ(vz_machine_pause(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(vz_machine_state(m), VZ_PAUSED);
	CHECK_EQ(guests_in, 0);
	before = runs;
	CHECK_EQ(vz_machine_resume(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 3 && runs >= before + 3);
	CHECK_EQ(vz_machine_state(m), VZ_RUNNING);
	vz_machine_free(m);
}

static void stop_overtakes_pause(void)
{
	vz_machine *m = machine_running(2);

	CHECK_EQ(vz_machine_pause(m, on_done, NULL), 0);
	CHECK_EQ(vz_machine_stop(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 3);
	CHECK_EQ(vz_machine_state(m), VZ_STOPPED);
	vz_machine_free(m);
}

static void stop_overtakes_start(void)
{
	vz_machine *m = machine_new(2);

	CHECK_EQ(vz_machine_start(m, on_done, NULL), 0);
	CHECK_EQ(vz_machine_stop(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(vz_machine_state(m), VZ_STOPPED);
	CHECK_EQ(heard.failed, 0);
	vz_machine_free(m);
}

static void a_paused_machine_stops(void)
{
	vz_machine *m = machine_running(2);

	vz_machine_pause(m, on_done, NULL);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(vz_machine_stop(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 3);
	CHECK_EQ(vz_machine_state(m), VZ_STOPPED);
	CHECK_EQ(heard.stopped, 1);
	vz_machine_free(m);
}

static void the_guest_powers_off(void)
{
	vz_machine *m = machine_running(3);

	guest_does(m, ACT_OFF);
	UNTIL(m, heard.stopped == 1);
	CHECK_EQ(vz_machine_state(m), VZ_STOPPED);
	CHECK_EQ(guests_in, 0);
	vz_machine_free(m);
}

static void the_guest_reboots(void)
{
	vz_machine *m = machine_running(3);
	int before = runs;

	guest_does(m, ACT_RESET);
	UNTIL(m, heard.reset == 1 && runs > before + 3);
	CHECK_EQ(vz_machine_state(m), VZ_RUNNING);
	CHECK_EQ(resets, 1);
	CHECK_EQ(last_engine->cpus[0].state.rip, ENTRY);
	vz_machine_free(m);
}

static void pause_meets_power_off(void)
{
	vz_machine *m = machine_running(2);

	guest_begins(m, ACT_OFF);
	vz_machine_pause(m, on_done, NULL);
	UNTIL(m, heard.done == 2 && heard.stopped == 1);
	CHECK_EQ(heard.failed, 1);
	CHECK_EQ(vz_machine_state(m), VZ_STOPPED);
	vz_machine_free(m);
}

static void pause_meets_reboot(void)
{
	vz_machine *m = machine_running(2);

	guest_begins(m, ACT_RESET);
	vz_machine_pause(m, on_done, NULL);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(heard.failed, 0);
	CHECK_EQ(vz_machine_state(m), VZ_PAUSED);
	vz_machine_free(m);
}

static void a_triple_fault_tells_the_cpu_state(void)
{
	vz_machine *m = machine_running(2);

	guest_does(m, ACT_SHUTDOWN);
	UNTIL(m, heard.error == 1);
	CHECK_EQ(vz_machine_state(m), VZ_ERROR);
	CHECK_STR(heard.last.text, "CPU 0: triple fault");
	CHECK(strstr(heard.detail, "rip    0000000001000000"));
	CHECK_EQ(guests_in, 0);
	CHECK_EQ(vz_machine_stop(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(vz_machine_state(m), VZ_STOPPED);
	vz_machine_free(m);
}

static void an_engine_that_fails_tells_why(void)
{
	vz_machine *m = machine_running(1);

	guest_does(m, ACT_FAIL);
	UNTIL(m, heard.error == 1);
	CHECK_STR(heard.last.text, "CPU 0: cannot go on");
	vz_machine_free(m);
}

static void a_dead_machine_can_be_started(void)
{
	vz_machine *m = machine_running(2);

	guest_does(m, ACT_SHUTDOWN);
	UNTIL(m, heard.error == 1);
	CHECK_EQ(vz_machine_start(m, on_done, NULL), 0);
	UNTIL(m, heard.done == 2);
	CHECK_EQ(vz_machine_state(m), VZ_RUNNING);
	vz_machine_free(m);
}

static void serial_bytes_come_before_what_became_of_the_guest(void)
{
	vz_machine *m = machine_running(1);

	guest_does(m, ACT_PANIC);
	UNTIL(m, heard.reset == 1);
	CHECK_STR(heard.serial, "Kernel panic\nno newline");
	vz_machine_free(m);
}

static void register_accesses_do_not_hold_up_a_pause(void)
{
	vz_machine *m = machine_running(2);

	for (unsigned i = 0; i < 20; i++) {
		unsigned done = heard.done;

		guest_does(m, ACT_CONFIG);
		vz_machine_pause(m, on_done, NULL);
		UNTIL(m, heard.done == done + 1);
		vz_machine_resume(m, on_done, NULL);
		UNTIL(m, heard.done == done + 2);
	}
	CHECK_EQ(heard.failed, 0);
	vz_machine_free(m);
}

static void states_allow_their_verbs_only(void)
{
	vz_machine *m = machine_new(1);

	CHECK_EQ(vz_machine_state(m), VZ_STOPPED);
	CHECK(vz_machine_can(m, VZ_VERB_START));
	CHECK(!vz_machine_can(m, VZ_VERB_STOP));
	CHECK_EQ(vz_machine_pause(m, on_done, NULL), -EINVAL);
	CHECK_EQ(vz_machine_request_stop(m, NULL), -EINVAL);
	vz_machine_start(m, on_done, NULL);
	CHECK_EQ(vz_machine_pause(m, on_done, NULL), -EBUSY);
	CHECK_EQ(vz_machine_start(m, on_done, NULL), -EBUSY);
	UNTIL(m, heard.done == 1);
	CHECK_EQ(vz_machine_start(m, on_done, NULL), -EINVAL);
	CHECK_EQ(vz_machine_resume(m, on_done, NULL), -EINVAL);
	CHECK_EQ(vz_machine_request_stop(m, NULL), 0);
	vz_machine_free(m);
}

static void it_can_be_freed_in_every_state(void)
{
	vz_machine *m;

	vz_machine_free(NULL);
	vz_machine_free(machine_new(2)); /* stopped */
	m = machine_new(2);
	vz_machine_start(m, on_done, NULL);
	vz_machine_free(m); /* starting */
	vz_machine_free(machine_running(2));
	m = machine_running(2);
	vz_machine_pause(m, on_done, NULL);
	vz_machine_free(m); /* pausing */
	m = machine_running(2);
	vz_machine_stop(m, on_done, NULL);
	vz_machine_free(m); /* stopping */
	m = machine_running(2);
	guest_does(m, ACT_RESET);
	vz_machine_free(m); /* perhaps in the middle of a reset */
	m = machine_running(2);
	guest_does(m, ACT_SHUTDOWN);
	UNTIL(m, heard.error == 1);
	vz_machine_free(m); /* error */
	CHECK_EQ(guests_in, 0);
}

static void posted(void *arg)
{
	*(pthread_t *)arg = pthread_self();
}

static void *post_from_another_thread(void *arg)
{
	static pthread_t ran_on;

	vz_machine_post(arg, posted, &ran_on);
	return &ran_on;
}

static void posts_run_on_the_owners_thread(void)
{
	vz_machine *m = machine_new(1);
	struct pollfd fd = { .fd = vz_machine_fd(m), .events = POLLIN };
	pthread_t thread;
	void *ran_on;

	pthread_create(&thread, NULL, post_from_another_thread, m);
	pthread_join(thread, &ran_on);
	CHECK_EQ(poll(&fd, 1, 1000), 1);
	vz_machine_dispatch(m, 0);
	CHECK(pthread_equal(*(pthread_t *)ran_on, pthread_self()));
	vz_machine_free(m);
}

static void the_configuration_is_copied(void)
{
	vz_config *c = config_new(1);
	vz_machine *one = vz_machine_new(c, NULL), *two = vz_machine_new(c, NULL);

	CHECK(one && two);
	vz_config_free(c);
	vz_machine_start(one, NULL, NULL);
	vz_machine_start(two, NULL, NULL);
	UNTIL(one, vz_machine_state(one) == VZ_RUNNING);
	UNTIL(two, vz_machine_state(two) == VZ_RUNNING);
	vz_machine_free(one);
	vz_machine_free(two);
}

static void a_fault_of_the_configuration_prevents_it(void)
{
	vz_config *c = config_new(1);
	vz_device *d = vz_device_new("virtio-blk", NULL);
	vz_error e = { 0 };

	vz_device_set(d, "path", "/nonexistent", NULL);
	vz_config_add_device(c, d, NULL);
	CHECK(!vz_machine_new(c, &e));
	CHECK_STR(e.where, "devices[1].path");
	vz_config_free(c);
}

static void a_fault_of_the_engine_prevents_it(void)
{
	vz_config *c = config_new(1);
	vz_error e = { 0 };

	fail_open = true;
	CHECK(!vz_machine_new(c, &e));
	CHECK_STR(e.where, "engine");
	CHECK_STR(e.text, "no luck");
	fail_open = false;
	vz_config_free(c);
}

static void the_first_cpu_enters_the_kernel(void)
{
	vz_machine *m = machine_running(2);
	const struct cpu_state *s = &last_engine->cpus[0].state;

	CHECK_EQ(s->rip, ENTRY);
	CHECK_EQ(s->cr0, 0x11);
	CHECK_EQ(s->rflags, 2);
	CHECK(s->gpr[CPU_RBX] != 0);
	CHECK(!(s->seg[SEG_CS].attr & SEG_L));
	CHECK(s->seg[SEG_CS].attr & SEG_DB);
	vz_machine_free(m);
}

/* Whatever order threads take, nothing hangs, and the events fit the state. */
static void random_verbs_and_guest_acts_never_hang(void)
{
	static const enum act acts[] = { ACT_NOTHING, ACT_OFF, ACT_RESET, ACT_CONFIG, ACT_PANIC };
	vz_machine *m = machine_new(3);
	unsigned asked = 0;

	srand(1);
	for (unsigned i = 0; i < 400; i++) {
		guest_does(m, acts[(unsigned)rand() % 5]);
		switch (rand() % 5) {
		case 0:
			asked += !vz_machine_start(m, on_done, NULL);
			break;
		case 1:
			asked += !vz_machine_pause(m, on_done, NULL);
			break;
		case 2:
			asked += !vz_machine_resume(m, on_done, NULL);
			break;
		case 3:
			asked += rand() % 4 == 0 && !vz_machine_stop(m, on_done, NULL);
			break;
		default:
			vz_machine_dispatch(m, 1);
		}
		heard.states[0] = heard.serial[0] = '\0';
	}
	UNTIL(m, heard.done == asked);
	vz_machine_free(m);
}

int main(void)
{
	write_kernel();
	RUN(a_machine_starts_and_stops);
	RUN(it_can_be_started_again);
	RUN(pause_takes_every_cpu_out_and_resume_brings_them_back);
	RUN(stop_overtakes_pause);
	RUN(stop_overtakes_start);
	RUN(a_paused_machine_stops);
	RUN(the_guest_powers_off);
	RUN(the_guest_reboots);
	RUN(pause_meets_power_off);
	RUN(pause_meets_reboot);
	RUN(a_triple_fault_tells_the_cpu_state);
	RUN(an_engine_that_fails_tells_why);
	RUN(a_dead_machine_can_be_started);
	RUN(serial_bytes_come_before_what_became_of_the_guest);
	RUN(register_accesses_do_not_hold_up_a_pause);
	RUN(states_allow_their_verbs_only);
	RUN(it_can_be_freed_in_every_state);
	RUN(posts_run_on_the_owners_thread);
	RUN(the_configuration_is_copied);
	RUN(a_fault_of_the_configuration_prevents_it);
	RUN(a_fault_of_the_engine_prevents_it);
	RUN(the_first_cpu_enters_the_kernel);
	RUN(random_verbs_and_guest_acts_never_hang);
	unlink(kernel_path);
	return tap_done();
}
