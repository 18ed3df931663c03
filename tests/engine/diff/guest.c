/* SPDX-License-Identifier: MIT */
/*
 * The engine's side: a machine of one CPU with page tables that put the arena where the native side
 * has it. Cases run at CPL 3, or in a kernel guest at CPL 0; every exception, and int 0x80 in the
 * exit page, ends in a stub that writes its vector to a port, which stops the CPU.
 */
#include "diff.h"
#include "engine/engine.h"
#include "engine/soft/code.h"
#include "engine/soft/soft.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern const struct engine_class engine_soft;

#define RAM_BYTES (64ull << 20)
#define TABLES    0x100000ull
#define KERNEL    0x200000ull /* idt, gdt and tss, stubs, stack: a page each */
#define KERNEL_VA 0xffffffff80000000ull
#define ARENA     0x400000ull
#define DEVICE    0x80000000ull /* guest-physical; like the arena */
#define FINISH    0x80

struct guest {
	struct engine *engine;
	struct vcpu *vcpu;
	struct memory *mem;
	uint8_t *ram;
	uint64_t next_table;
	struct cpu_state state; /* template of every case's */
	int vector;             /* from the stub; OUTCOME_HANG: none came */
	bool kernel, device;
	pthread_t disturber;
	_Atomic bool stop;
};

/*
 * --- a stuck engine must not be a silent one
 * ------------------------------------------------------
 */

static _Atomic unsigned progress;
static _Atomic bool hung;
static struct vcpu *_Atomic running;
static const struct diff_case *running_case;

static void *watch(void *arg)
{
	unsigned last = 0, stuck = 0;

	(void)arg;
	for (;;) {
		sleep(1);
		struct vcpu *cpu = atomic_load(&running);
		unsigned at = atomic_load(&progress);

		stuck = cpu && at == last ? stuck + 1 : 0;
		last = at;
		if (stuck == 3) {
			atomic_store(&hung, true);
			engine_soft.kick(cpu);
		}
		if (stuck < 8)
			continue;
		printf("# the engine does not come back from this case:\n");
		case_print(running_case);
		printf("Bail out! engine stuck\n");
		fflush(stdout);
		_exit(1);
	}
	return NULL;
}

/* Interrupts whatever runs: the CPU must be able to leave and come back at any poll. */
static void *disturb(void *arg)
{
	struct guest *g = arg;
	static const struct timespec pause = { .tv_nsec = 20000 };

	while (!atomic_load(&g->stop)) {
		if (atomic_load(&running) == g->vcpu)
			engine_soft.kick(g->vcpu);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

/*
 * --- the machine
 * ----------------------------------------------------------------------------------
 */

/* The device is memory as well: the pages of the arena that are mapped to it. */
static uint64_t board_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	struct guest *g = arg;
	uint64_t v = 0;

	if (port || addr - DEVICE > ARENA_BYTES - size)
		return ~0ull;
	memcpy(&v, g->ram + ARENA + (addr - DEVICE), size);
	return v;
}

static void board_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	struct guest *g = arg;

	if (port) {
		g->vector = (int)addr;
		engine_soft.kick(g->vcpu);
	} else if (addr - DEVICE <= ARENA_BYTES - size) {
		memcpy(g->ram + ARENA + (addr - DEVICE), &value, size);
	}
}

static uint64_t *table_entry(struct guest *g, uint64_t table, uint64_t va, unsigned level)
{
	return (uint64_t *)(g->ram + table) + ((va >> (3 + 9 * level)) & 511);
}

static void map_page(struct guest *g, uint64_t va, uint64_t gpa, uint64_t flags)
{
	uint64_t table = TABLES;

	for (unsigned level = 4; level > 1; level--) {
		uint64_t *entry = table_entry(g, table, va, level);

		if (!*entry) {
			*entry = g->next_table | 7;
			g->next_table += PAGE;
		}
		table = *entry & ~0xfffull;
	}
	*table_entry(g, table, va, 1) = gpa | flags;
}

static void build_tables(struct guest *g)
{
	g->next_table = TABLES + PAGE;
	for (unsigned i = 0; i < AREAS; i++) {
		const struct area *a = &areas[i];
		uint64_t flags = 5 | (a->write ? 2 : 0) | (a->exec ? 0 : 1ull << 63);

		for (unsigned k = 0; k < a->pages; k++) {
			bool device = g->device && !k && (i == 0 || i == 2 || i == 5);

			map_page(g, a->va + k * PAGE, (device ? DEVICE : ARENA) + a->at + k * PAGE,
				flags);
		}
	}
	for (unsigned k = 0; k < 4; k++)
		map_page(g, KERNEL_VA + k * PAGE, KERNEL + k * PAGE, 3);
}

static void build_kernel(struct guest *g)
{
	static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff,
		0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff };
	uint8_t *base = g->ram + KERNEL;

	for (unsigned v = 0; v < 256; v++) {
		uint64_t handler = KERNEL_VA + 2 * PAGE + v * 16;
		uint64_t dpl = v == 1 || v == 3 || v == 4 || v == FINISH ? 3 : 0;
		uint64_t gate[2];
		uint8_t stub[] = { 0xe6, (uint8_t)v, 0xeb, 0xfe }; /* out v, al; jmp . */

		/* At CPL 0 the handlers need a stack that the case has not got at. */
		gate[0] = (handler & 0xffff) | 0x10 << 16 | (uint64_t)g->kernel << 32 |
			  (0x8e00ull | dpl << 13) << 32 | (handler & 0xffff0000) << 32;
		gate[1] = handler >> 32;
		memcpy(base + 16 * v, gate, 16);
		memcpy(base + 2 * PAGE + 16 * v, stub, sizeof(stub));
	}
	memcpy(base + PAGE, gdt, sizeof(gdt));
	uint64_t stack = KERNEL_VA + 4 * PAGE;

	memcpy(base + PAGE + 0x100 + 4, &stack, 8);    /* the TSS: RSP0 and no I/O map */
	memcpy(base + PAGE + 0x100 + 0x24, &stack, 8); /* IST1 */
	base[PAGE + 0x100 + 0x66] = 0x68;
	for (unsigned slot = 0; slot < PAGE / EXIT_SLOT; slot++)
		memcpy(g->ram + ARENA + EXIT_AT + slot * EXIT_SLOT, "\xcd\x80", 2);
}

static void build_state(struct guest *g)
{
	struct cpu_state *s = &g->state;
	struct cpu_segment data = { .limit = ~0u, .attr = 0xc0f3, .selector = 0x2b };

	engine_soft.get_state(g->vcpu, s);
	s->cr0 = 0x80050033;
	s->cr3 = TABLES;
	s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE;
	s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	s->xcr0 = 7;
	s->seg[SEG_CS] = (struct cpu_segment){ .limit = ~0u, .attr = 0xa0fb, .selector = 0x33 };
	s->seg[SEG_SS] = data;
	if (g->kernel) {
		s->seg[SEG_CS].attr = 0xa09b;
		s->seg[SEG_CS].selector = 0x10;
		s->seg[SEG_SS].attr = 0xc093;
		s->seg[SEG_SS].selector = 0x18;
	}
	data.selector = 0;
	s->seg[SEG_DS] = s->seg[SEG_ES] = s->seg[SEG_FS] = s->seg[SEG_GS] = data;
	s->seg[SEG_TR] = (struct cpu_segment){
		.base = KERNEL_VA + PAGE + 0x100, .limit = 0x67, .attr = 0x8b, .selector = 0x40
	};
	s->seg[SEG_LDT] = (struct cpu_segment){ .attr = SEG_UNUSABLE };
	s->gdt = (struct cpu_table){ KERNEL_VA + PAGE, 7 * 8 - 1 };
	s->idt = (struct cpu_table){ KERNEL_VA, 4095 };
	s->mp = CPU_MP_RUNNING;
	s->interrupt_shadow = s->nmi_pending = s->nmi_blocked = false;
}

struct guest *guest_new(enum side side)
{
	static bool watching;
	struct guest *g = calloc(1, sizeof(*g));
	struct engine_config config = { .cpus = 1, .options = side == SIDE_EXACT ? "exact" : NULL };
	struct vz_error e = { 0 };
	struct span span;
	pthread_t thread;

	if (!watching && pthread_create(&thread, NULL, watch, NULL) == 0)
		watching = pthread_detach(thread) == 0;
	config.mem = g->mem = mem_new(RAM_BYTES, &e);
	config.board.arg = g;
	config.board.read = board_read;
	config.board.write = board_write;
	if (!g->mem || !mem_span(g->mem, 0, RAM_BYTES, &span) ||
		engine_soft.open(&g->engine, &config, &e) < 0) {
		printf("Bail out! no engine: %s\n", e.text);
		exit(1);
	}
	g->ram = span.p;
	g->kernel = side == SIDE_KERNEL;
	g->device = side == SIDE_DEVICE;
	g->vcpu = engine_soft.vcpu(g->engine, 0);
	build_tables(g);
	build_kernel(g);
	build_state(g);
	if (g->kernel) {
		g->engine->code->bmi2 = false; /* the code for older CPUs must work too */
		if (pthread_create(&g->disturber, NULL, disturb, g))
			exit(1);
	}
	return g;
}

void guest_free(struct guest *g)
{
	if (g->kernel) {
		atomic_store(&g->stop, true);
		pthread_join(g->disturber, NULL);
	}
	engine_soft.close(g->engine);
	mem_free(g->mem);
	free(g);
}

uint64_t guest_features(const struct guest *g)
{
	return g->engine->features;
}

uint8_t *guest_arena(struct guest *g)
{
	return g->ram + ARENA;
}

void guest_print_counters(struct guest *g)
{
	const char *name;
	uint64_t value;

	printf("#");
	for (unsigned i = 0; engine_soft.counter(g->engine, i, &name, &value); i++)
		printf(" %s %llu", name, (unsigned long long)value);
	printf("\n");
}

/*
 * --- a case
 * ---------------------------------------------------------------------------------------
 */

void guest_load(struct guest *g, const struct batch *b)
{
	arena_load(guest_arena(g), b);
}

static bool has_error_code(int vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

/* What the user program had when it was interrupted. */
static void read_frame(struct guest *g, struct outcome *o)
{
	uint64_t frame[6] = { 0 }; /* error, rip, cs, rflags, rsp, ss */
	const uint8_t *top = g->ram + KERNEL + 4 * PAGE;

	memcpy(frame + 1, top - 40, 40);
	if (has_error_code(o->vector))
		memcpy(frame, top - 48, 8);
	o->error = (uint32_t)frame[0];
	o->rip = frame[1];
	o->flags = frame[3];
	o->gpr[CPU_RSP] = frame[4];
	if (o->vector == FINISH) {
		o->vector = OUTCOME_DONE;
		o->rip -= 2;
	}
}

bool guest_takes(const struct guest *g, const struct diff_case *c, const struct outcome *native)
{
	if (!g->kernel)
		return true;
	/* What the user may not touch, the kernel may: its own tables. */
	if (native->vector == 14 && native->cr2 >> 47)
		return false;
	return c->form < 0 ||
	       (forms[c->form].insn.class != INSN_SYSTEM && forms[c->form].insn.class != INSN_POPF);
}

void guest_run(struct guest *g, const struct batch *b, const struct diff_case *c, struct outcome *o)
{
	struct cpu_state *s = &g->state;
	struct vz_error e = { 0 };
	uint64_t code = ARENA + CODE_AT + (c->code_va - CODE);
	enum vcpu_exit exit;

	arena_prepare(guest_arena(g), c);
	mem_written(g->mem, code, c->code_len);
	if (c->scratch)
		mem_written(g->mem, ARENA + CODE_AT + c->scratch, SCRATCH);
	memcpy(s->gpr, c->gpr, sizeof(s->gpr));
	memcpy(s->xsave, c->xsave, XSAVE_BYTES);
	s->rip = c->rip;
	s->rflags = c->flags | 0x202;
	s->seg[SEG_FS].base = c->fs;
	s->seg[SEG_GS].base = c->gs;
	if (engine_soft.set_state(g->vcpu, s) < 0) {
		printf("# set_state refuses\n");
		o->vector = OUTCOME_DIED;
		return;
	}
	g->vector = OUTCOME_HANG;
	running_case = c;
	atomic_fetch_add(&progress, 1);
	atomic_store(&running, g->vcpu);
	do
		exit = engine_soft.run(g->vcpu, &e);
	while (exit == VCPU_KICKED && g->vector == OUTCOME_HANG && !atomic_load(&hung));
	atomic_store(&hung, false);
	atomic_store(&running, NULL);
	o->vector = g->vector;
	struct cpu_state end;

	engine_soft.get_state(g->vcpu, &end);
	memcpy(o->gpr, end.gpr, sizeof(o->gpr));
	memcpy(o->xsave, end.xsave, XSAVE_BYTES);
	o->fs = end.seg[SEG_FS].base;
	o->gs = end.seg[SEG_GS].base;
	o->cr2 = end.cr2;
	o->rip = end.rip;
	o->flags = end.rflags;
	o->error = 0;
	if (exit != VCPU_KICKED) {
		printf("# engine: %s\n", e.text);
		o->vector = OUTCOME_DIED;
	}
	if (o->vector >= 0)
		read_frame(g, o);
	xsave_normalise(o->xsave);
	arena_collect(guest_arena(g), b, c, o);
}
