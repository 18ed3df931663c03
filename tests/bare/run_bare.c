/* SPDX-License-Identifier: MIT */
/*
 * Run a bare-metal program: run_bare ENGINE PROGRAM.bin [CPUS [ENGINE-OPTIONS [disturb]]].
 *
 * 64 MiB of RAM, the flat image at 1 MiB, CPU 0 in 64-bit mode with the first 4 GiB mapped to
 * themselves. Exits with the program's code, 77 when the engine does not work here, 99 otherwise.
 * With "disturb", all CPUs are stopped every few milliseconds, and their state is read and set.
 *
 * The board: output to port 0xe9, exit through port 0xf4, and a test device.
 * Ports 0xe0 and 0xe4 take an address and data, port 0xe8 a command and a pin, which another
 * thread carries out: lower, raise, pulse, MSI, raise until its end of interrupt, write data to
 * RAM. Reads: 0xe0 ends of interrupt seen, 0xe4 commands not yet done, 0xe8 DEVICE_MAGIC, 0xec
 * CPUs. MMIO at 0xd0000000: 2 KiB that read back what was written, then counters of the accesses.
 */
#include "engine/engine.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAM_BYTES    (64u << 20)
#define IMAGE        0x100000u
#define MAGIC        0x45524142u
#define MMIO         0xd0000000u
#define MMIO_BYTES   2048u
#define QUEUE        64u
#define TIMEOUT      100
#define EXIT_SKIP    77
#define EXIT_TROUBLE 99

enum command { LOWER, RAISE, PULSE, MSI, LEVEL, WRITE };

struct request {
	enum command command;
	unsigned pin;
	uint32_t address, data;
};

struct access {
	uint64_t count, offset, size, value;
};

static struct board {
	const struct engine_class *class;
	struct engine *engine;
	struct memory *mem;
	unsigned cpus;
	pthread_mutex_t device; /* held while a command is carried out; taken before lock */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct request queue[QUEUE], next;
	unsigned head, pending;
	uint32_t level_pins, eois;
	uint8_t mmio[MMIO_BYTES];
	struct access reads, writes;
	atomic_bool stopping, ended, pausing;
	unsigned parked, running;
	int code;
} board = { .device = PTHREAD_MUTEX_INITIALIZER,
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.cond = PTHREAD_COND_INITIALIZER,
	.code = -1 };

static void kick_all(void)
{
	for (unsigned i = 0; i < board.cpus; i++)
		board.class->kick(board.class->vcpu(board.engine, i));
}

static void stop(int code)
{
	if (atomic_exchange(&board.stopping, true))
		return;
	board.code = code;
	kick_all();
}

/*
 * --- the test device
 */

static void carry_out(const struct request *r)
{
	const struct engine_class *c = board.class;

	switch (r->command) {
	case LEVEL:
		pthread_mutex_lock(&board.lock);
		board.level_pins |= 1u << r->pin;
		pthread_mutex_unlock(&board.lock);
		c->irq_line(board.engine, r->pin, true);
		break;
	case RAISE:
	case LOWER:
		c->irq_line(board.engine, r->pin, r->command == RAISE);
		break;
	case PULSE:
		c->irq_line(board.engine, r->pin, true);
		c->irq_line(board.engine, r->pin, false);
		break;
	case MSI:
		c->msi(board.engine, r->address, r->data);
		break;
	case WRITE:
		mem_write(board.mem, r->address, &r->data, sizeof(r->data));
		break;
	}
}

static void *device_main(void *arg)
{
	pthread_mutex_lock(&board.lock);
	for (;;) {
		while (!board.pending)
			pthread_cond_wait(&board.cond, &board.lock);
		struct request r = board.queue[board.head % QUEUE];

		pthread_mutex_unlock(&board.lock);
		pthread_mutex_lock(&board.device);
		carry_out(&r);
		pthread_mutex_unlock(&board.device);
		pthread_mutex_lock(&board.lock);
		board.head++;
		board.pending--;
	}
	return NULL;
}

/* A level-triggered pin was served: what the device wants stops when it is asked once. */
static void board_eoi(void *arg, unsigned pin)
{
	bool lower;

	pthread_mutex_lock(&board.lock);
	board.eois++;
	lower = board.level_pins >> pin & 1;
	board.level_pins &= ~(1u << pin);
	pthread_mutex_unlock(&board.lock);
	if (lower)
		board.class->irq_line(board.engine, pin, false);
}

static void post(uint32_t value)
{
	if (board.pending == QUEUE)
		return;
	board.next.command = (enum command)(value >> 8);
	board.next.pin = value & 31;
	board.queue[(board.head + board.pending) % QUEUE] = board.next;
	board.pending++;
	pthread_cond_broadcast(&board.cond);
}

static uint64_t port_read(uint64_t addr)
{
	switch (addr) {
	case 0xe0:
		return board.eois;
	case 0xe4:
		return board.pending;
	case 0xe8:
		return MAGIC;
	case 0xec:
		return board.cpus;
	default:
		return ~0ull;
	}
}

static uint64_t mmio_read(uint64_t offset, unsigned size)
{
	const uint64_t log[] = { board.reads.count, board.reads.offset, board.reads.size,
		board.writes.count, board.writes.offset, board.writes.size, board.writes.value };
	uint64_t v = 0;

	if (offset >= MMIO_BYTES) {
		unsigned n = (unsigned)(offset - MMIO_BYTES) / 8;

		return n < sizeof(log) / sizeof(log[0]) ? log[n] : ~0ull;
	}
	board.reads.count++;
	board.reads.offset = offset;
	board.reads.size = size;
	if (offset + size <= MMIO_BYTES)
		memcpy(&v, board.mmio + offset, size);
	return v;
}

static void mmio_write(uint64_t offset, unsigned size, uint64_t value)
{
	board.writes = (struct access){ board.writes.count + 1, offset, size, value };
	if (offset + size <= MMIO_BYTES)
		memcpy(board.mmio + offset, &value, size);
}

static uint64_t board_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	uint64_t v = ~0ull;

	pthread_mutex_lock(&board.lock);
	if (port)
		v = port_read(addr);
	else if (addr - MMIO < 2 * MMIO_BYTES)
		v = mmio_read(addr - MMIO, size);
	pthread_mutex_unlock(&board.lock);
	return v;
}

static void board_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	pthread_mutex_lock(&board.lock);
	if (!port && addr - MMIO < MMIO_BYTES)
		mmio_write(addr - MMIO, size, value);
	else if (port && addr == 0xe9)
		putchar((int)(value & 0xff));
	else if (port && addr == 0xe0)
		board.next.address = (uint32_t)value;
	else if (port && addr == 0xe4)
		board.next.data = (uint32_t)value;
	else if (port && addr == 0xe8)
		post((uint32_t)value);
	pthread_mutex_unlock(&board.lock);
	if (port && addr == 0xf4)
		stop((int)(value & 0x7f));
}

/*
 * --- the machine
 */

static void put(uint64_t gpa, uint64_t value)
{
	mem_write(board.mem, gpa, &value, sizeof(value));
}

static void make_tables(void)
{
	static const uint64_t gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };

	put(0x1000, 0x2003);
	for (unsigned g = 0; g < 4; g++) {
		put(0x2000 + 8 * g, 0x3003 + g * 0x1000);
		for (unsigned i = 0; i < 512; i++)
			put(0x3000 + g * 0x1000 + 8 * i, (g * 512ull + i) << 21 | 0x83);
	}
	mem_write(board.mem, 0x7000, gdt, sizeof(gdt));
}

static int set_entry(void)
{
	static const unsigned data[] = { SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS };
	struct vcpu *cpu = board.class->vcpu(board.engine, 0);
	struct cpu_state s;

	board.class->get_state(cpu, &s);
	s.rip = IMAGE;
	s.rflags = 2;
	s.cr0 = 0x80010033;
	s.cr3 = 0x1000;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.gdt = (struct cpu_table){ 0x7000, 23 };
	s.seg[SEG_CS] = (struct cpu_segment){
		.limit = UINT32_MAX, .attr = 0xb | SEG_S | SEG_P | SEG_G | SEG_L, .selector = 8
	};
	for (unsigned i = 0; i < sizeof(data) / sizeof(data[0]); i++)
		s.seg[data[i]] = (struct cpu_segment){ .limit = UINT32_MAX,
			.attr = 0x3 | SEG_S | SEG_P | SEG_G | SEG_DB,
			.selector = 16 };
	s.seg[SEG_TR] = (struct cpu_segment){ .limit = 0x67, .attr = 0xb | SEG_P };
	s.seg[SEG_LDT] = (struct cpu_segment){ .attr = 2 | SEG_UNUSABLE };
	return board.class->set_state(cpu, &s);
}

static bool load(const char *path)
{
	FILE *f = fopen(path, "rb");
	struct span span;
	size_t n;

	if (!f || !mem_span(board.mem, IMAGE, RAM_BYTES - IMAGE, &span))
		return false;
	n = fread(span.p, 1, span.len, f);
	fclose(f);
	mem_written(board.mem, IMAGE, n);
	return n > 0;
}

/* The CPU's thread was kicked: for the end, or to wait until its state has been looked at. */
static void park(void)
{
	pthread_mutex_lock(&board.lock);
	board.parked++;
	pthread_cond_broadcast(&board.cond);
	while (atomic_load(&board.pausing))
		pthread_cond_wait(&board.cond, &board.lock);
	board.parked--;
	pthread_mutex_unlock(&board.lock);
}

static void set_states_again(void)
{
	static struct cpu_state s;

	for (unsigned i = 0; i < board.cpus; i++) {
		struct vcpu *cpu = board.class->vcpu(board.engine, i);

		board.class->get_state(cpu, &s);
		if (board.class->set_state(cpu, &s) < 0) {
			printf("Bail out! CPU %u: its own state is refused\n", i);
			_exit(EXIT_TROUBLE);
		}
	}
}

/* The device stands still meanwhile, as devices do when a machine is saved. */
static void *disturb(void *arg)
{
	while (!atomic_load(&board.stopping)) {
		usleep(1000);
		pthread_mutex_lock(&board.device);
		pthread_mutex_lock(&board.lock);
		atomic_store(&board.pausing, true);
		kick_all();
		while (board.parked < board.running)
			pthread_cond_wait(&board.cond, &board.lock);
		if (!atomic_load(&board.stopping))
			set_states_again();
		atomic_store(&board.pausing, false);
		pthread_cond_broadcast(&board.cond);
		pthread_mutex_unlock(&board.lock);
		pthread_mutex_unlock(&board.device);
	}
	return NULL;
}

static void *cpu_main(void *arg)
{
	struct vz_error e = { 0 };
	enum vcpu_exit why = VCPU_KICKED;

	while (!atomic_load(&board.stopping) && why == VCPU_KICKED) {
		if (atomic_load(&board.pausing))
			park();
		why = board.class->run(arg, &e);
	}
	pthread_mutex_lock(&board.lock);
	board.running--;
	pthread_cond_broadcast(&board.cond);
	pthread_mutex_unlock(&board.lock);
	if (why != VCPU_KICKED && !atomic_load(&board.stopping)) {
		printf("Bail out! %s\n", e.text);
		stop(EXIT_TROUBLE);
	}
	return NULL;
}

/* For a program that hangs: where is everybody? */
static void *watch(void *arg)
{
	for (unsigned i = 0; i < TIMEOUT * 10 && !atomic_load(&board.ended); i++)
		usleep(100000);
	if (!atomic_load(&board.ended)) {
		printf("Bail out! the program did not end\n");
		stop(EXIT_TROUBLE);
	}
	return NULL;
}

static void print_states(void)
{
	struct cpu_state s;
	char text[8192];

	for (unsigned i = 0; i < board.cpus; i++) {
		board.class->get_state(board.class->vcpu(board.engine, i), &s);
		cpu_state_print(text, sizeof(text), &s);
		fprintf(stderr, "CPU %u\n%s\n", i, text);
	}
}

static void run(bool disturbed)
{
	pthread_t threads[ENGINE_CPUS_MAX], device, watcher, disturber;

	board.running = board.cpus;
	pthread_create(&device, NULL, device_main, NULL);
	pthread_create(&watcher, NULL, watch, NULL);
	for (unsigned i = 0; i < board.cpus; i++)
		pthread_create(&threads[i], NULL, cpu_main, board.class->vcpu(board.engine, i));
	if (disturbed)
		pthread_create(&disturber, NULL, disturb, NULL);
	for (unsigned i = 0; i < board.cpus; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&board.ended, true);
	pthread_join(watcher, NULL);
	if (disturbed)
		pthread_join(disturber, NULL);
	if (board.code == EXIT_TROUBLE)
		print_states();
	/* The device waits for commands until the end. */
	pthread_mutex_lock(&board.lock);
	_exit(board.code);
}

int main(int argc, char **argv)
{
	struct engine_config config = { .board = { NULL, board_read, board_write, board_eoi } };
	struct vz_error e = { 0 };

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3) {
		fprintf(stderr,
			"usage: run_bare ENGINE PROGRAM.bin [CPUS [ENGINE-OPTIONS [disturb]]]\n");
		return EXIT_TROUBLE;
	}
	for (unsigned i = 0; engine_classes[i]; i++)
		if (!strcmp(engine_classes[i]->name, argv[1]))
			board.class = engine_classes[i];
	if (!board.class || board.class->probe(&e) < 0) {
		printf("1..0 # SKIP engine %s: %s\n", argv[1], board.class ? e.text : "unknown");
		return EXIT_SKIP;
	}
	board.cpus = argc > 3 ? (unsigned)atoi(argv[3]) : 1;
	board.mem = mem_new(RAM_BYTES, &e);
	config.mem = board.mem;
	config.cpus = board.cpus;
	config.options = argc > 4 ? argv[4] : NULL;
	if (!board.mem || board.class->open(&board.engine, &config, &e) < 0) {
		fprintf(stderr, "run_bare: %s\n", e.text);
		return EXIT_TROUBLE;
	}
	make_tables();
	if (!load(argv[2]) || set_entry() < 0) {
		fprintf(stderr, "run_bare: cannot load %s\n", argv[2]);
		return EXIT_TROUBLE;
	}
	run(argc > 5);
}
