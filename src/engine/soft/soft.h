/* SPDX-License-Identifier: MIT */
/*
 * The software CPU's own structures: one struct vcpu per virtual CPU, which translated code reaches
 * through the gs segment base, and one struct engine that they share.
 *
 * State: while C code runs, all guest registers are in struct vcpu (gpr, rip, flags), except that
 * the guest's x87/SSE/AVX state may still be in the host's registers (fpu_loaded). Files of this
 * folder are compiled with -mgeneral-regs-only and must not call libc before soft_fpu_park():
 * everything that can reach libc, the board, or another thread's lock parks first ("heavy"); page
 * walks, exceptions and most system instructions need not ("light").
 *
 * Errors of the guest: a function that may raise an exception returns false after soft_raise(); its
 * caller returns at once, and the run loop delivers the exception with rip still at the
 * instruction.
 */
#ifndef VIZOR_SOFT_SOFT_H
#define VIZOR_SOFT_SOFT_H

#include "base/arith.h"
#include "engine/engine.h"
#include "engine/ioapic.h"
#include "engine/soft/decode.h"
#include <pthread.h>
#include <stdatomic.h>

/* Exceptions. */
enum {
	EXC_DE = 0,
	EXC_DB = 1,
	EXC_NMI = 2,
	EXC_BP = 3,
	EXC_OF = 4,
	EXC_UD = 6,
	EXC_NM = 7,
	EXC_DF = 8,
	EXC_TS = 10,
	EXC_NP = 11,
	EXC_SS = 12,
	EXC_GP = 13,
	EXC_PF = 14,
	EXC_MF = 16,
	EXC_AC = 17,
	EXC_XM = 19
};

/* EFLAGS: arithmetic flags and DF live in vcpu.flags, all others in vcpu.sysflags. */
#define FL_TF          0x100u
#define FL_IF          0x200u
#define FL_IOPL        0x3000u
#define FL_NT          0x4000u
#define FL_RF          0x10000u
#define FL_VM          0x20000u
#define FL_AC          0x40000u
#define FL_ID          0x200000u
#define FL_ARITH_DF    (FLAGS_ARITH | FLAG_DF)

#define CR0_PE         0x1u
#define CR0_MP         0x2u
#define CR0_EM         0x4u
#define CR0_TS         0x8u
#define CR0_ET         0x10u
#define CR0_NE         0x20u
#define CR0_WP         0x10000u
#define CR0_AM         0x40000u
#define CR0_PG         0x80000000u
#define CR4_PSE        0x10u
#define CR4_PAE        0x20u
#define CR4_PGE        0x80u
#define CR4_OSFXSR     0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP       0x800u
#define CR4_FSGSBASE   0x10000u
#define CR4_OSXSAVE    0x40000u
#define CR4_SMEP       0x100000u
#define EFER_SCE       0x1u
#define EFER_LME       0x100u
#define EFER_LMA       0x400u
#define EFER_NXE       0x800u

/* Page walk and TLB. */
enum access { ACCESS_READ = 0, ACCESS_WRITE = 1, ACCESS_FETCH = 2 };
#define TLB_BITS 16 /* the index is the low 16 bits of the virtual page number: movzx r10d, r10w */
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_LOG  8192

/* Branch cache: guest rip -> translated code, indexed by the low 16 bits of rip. */
#define BRANCH_SIZE (1u << 16)

/* What a page of guest RAM is to the translator (engine->page_flags, atomic bytes). */
#define PAGE_CODE   1 /* translations exist: no write tag anywhere */
#define PAGE_TAGGED 2 /* some vCPU had a write tag for it since translations were last made */

/* Why translated code came back (vcpu.exit). */
enum soft_exit {
	EXIT_LOOKUP, /* rip is set: find its block */
	EXIT_MISS,   /* memory access of vcpu.site: no TLB hit */
	EXIT_INSN,   /* the instruction at rip (known to the run loop by vcpu.site) needs C */
	EXIT_LINK,   /* rip is set, and the jump at vcpu.site may be linked to its block */
	EXIT_THUNK,  /* a bounce thunk finished */
	EXIT_TRAP,   /* a host signal became vcpu.fault */
	EXIT_POLL,   /* vcpu.pending was seen; rip is set */
	EXIT_DEAD,   /* the block at rip was killed: forget its entry */
};

struct fault {
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint64_t address; /* cr2 for #PF */
	bool valid;
};

struct lapic {
	uint32_t id, svr, esr, esr_pending, lvt[7], dfr, ldr, icr_low, icr_high;
	uint32_t timer_initial, timer_divide;
	uint64_t timer_start; /* host ns, for the count-down modes */
	uint64_t tsc_deadline;
	uint64_t base; /* IA32_APIC_BASE */
	uint8_t tpr;
	_Atomic uint64_t irr[4], tmr[4];
	uint64_t isr[4];
	/* bit 0: INIT arrived; bit 1: SIPI arrived, vector in bits 8..15 */
	_Atomic uint32_t init_sipi;
	_Atomic bool nmi;
	int timer_fd;            /* watched by the engine's timer thread */
	_Atomic bool timer_busy; /* the timer thread is between expiry and interrupt */
	_Atomic bool timer_lock; /* for the two: the timer as the host has it, and timer_taken */
	bool timer_taken;        /* it is off, or the timer thread has read its expiry */
	bool timer_ended;        /* a one-shot count has come to 0 and its interrupt is sent */
};

/*
 * Offsets of the first fields are known to runtime.S and the emitter (soft_offsets.h checks them).
 */
struct vcpu {
	uint64_t gpr[16]; /* r10 and r11 live here also while translated code runs */
	uint64_t rip;
	uint64_t flags;           /* arithmetic flags and DF; bit 1 set */
	uint64_t seg_base[8];     /* by SEG_*: what translated code adds for fs and gs */
	_Atomic uint64_t pending; /* 0 or 1: leave translated code at the next poll */
	uint64_t host_rsp;
	uint64_t temp[6];
	uint32_t exit, site;
	uint64_t entry;       /* host address to enter at */
	uint64_t sysflags;    /* IF, TF, IOPL, NT, RF, AC, ID */
	uint64_t irq_waiting; /* an interrupt waits for IF: sti must go to C */

	/* Known to C only. */
	struct engine *engine;
	unsigned index;
	struct cpu_segment seg[SEG_COUNT]; /* base of fs, gs: authoritative copy is seg_base */
	struct cpu_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0, dr[8];
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, mtrr_def, misc_enable, tsc_aux, spec_ctrl, tsc_adjust;
	uint64_t tsc_offset; /* guest TSC = host TSC + offset */
	uint64_t kvmclock_system, kvmclock_wall;
	uint8_t cpl;
	uint8_t mp;     /* enum cpu_mp */
	bool long_mode; /* EFER.LMA and CS.L: 64-bit code */
	bool shadow;    /* interrupts are held off for one instruction (sti, mov ss) */
	bool nmi_blocked;
	bool fpu_loaded; /* the guest's vector state is in the host's registers */
	bool triple_fault;
	bool kicked_out; /* run loop: leave with VCPU_KICKED */
	_Atomic bool kick;
	_Atomic uint32_t running; /* 1: may touch the TLB or translated code; see exclusive.c */
	struct fault fault;
	struct lapic lapic;
	/* host XSAVE image while parked, standard format */
	uint8_t xsave[4096] __attribute__((aligned(64)));

	struct insn insn;  /* the instruction being handled in C */
	uint64_t next_rip; /* rip after it */

	/* TLB; see mmu.c. */
	uint64_t *tags[2][2]; /* [user][write]: page address ^ mismatch means absent */
	uint64_t *host[2];    /* [user]: host address of the page */
	uint64_t *branch_tag[2], *branch_host[2]; /* [user] */
	/* entries to clear on a CR3 write: index | user << 16 */
	uint32_t *tlb_log, tlb_logged;
	uint32_t *global_log, global_logged;       /* the same for global pages */
	uint32_t *branch_log[2], branch_logged[2]; /* [global] */
	uint64_t exec_pages[1024]; /* bloom filter of virtual pages in the branch cache */
	/* bloom filter of 2 MiB regions that were mapped by large pages */
	uint64_t large_pages[16];
	struct {
		uint64_t va, pa;
		uint8_t user, global, large;
	} itlb[64]; /* va 1: empty */

	uint8_t *thunk_rw, *thunk_rx; /* room for one bounce thunk */
	uint8_t units;                /* soft_units() that the branch cache was filled under */
	bool failed;                  /* run loop: leave with VCPU_FAILED; why is in these: */
	unsigned fail_trap;
	uint64_t fail_host, fail_address;
	_Atomic uint32_t sleeping; /* in soft_halt */
	unsigned pauses;           /* instructions of that name */
	struct insn_cache *insns;  /* decoded instructions by site: soft.c */
	void *alt_stack;
	uint8_t bounce[512] __attribute__((aligned(64)));
	uint64_t count_exits[8], count_blocks, count_bounce, count_fills, count_irqs, count_flush,
		count_halt;
	struct vz_error *run_error;
};

struct doorbell {
	uint64_t address;
	unsigned size;
	int fd;
};

struct engine {
	struct engine_config config;
	struct memory *mem;
	unsigned cpus;
	struct vcpu *vcpu[ENGINE_CPUS_MAX];
	uint64_t features; /* FEAT_* mask of what the guest may execute */
	uint64_t tsc_khz;
	bool exact;               /* options: every flag saved, no links */
	struct mem_region ram[2]; /* copies, for walks without a call */
	unsigned nram;
	_Atomic uint8_t *page_flags; /* per page of the memfd */
	struct code *code;           /* code cache, blocks, sites: translate.c */
	pthread_mutex_t lock;        /* translation and block lists */
	pthread_mutex_t exclusive_lock;
	pthread_cond_t exclusive_cond;
	_Atomic bool exclusive;
	struct ioapic ioapic;
	pthread_rwlock_t doorbell_lock;
	struct doorbell *doorbells;
	unsigned ndoorbells;
	pthread_t timer_thread;
	int timer_epoll, timer_stop;
	struct engine_board board;
};

/*
 * --- exceptions (exception.c, light)
 * -----------------------------------------------------------------
 */
/* Record a fault; always returns false, which callers' compilers and checkers are to know. */
static inline bool soft_raise(struct vcpu *cpu, unsigned vector) /* no error code */
{
	cpu->fault = (struct fault){ .vector = (uint8_t)vector, .valid = true };
	return false;
}

static inline bool soft_raise_error(struct vcpu *cpu, unsigned vector, uint32_t error)
{
	cpu->fault = (struct fault){
		.vector = (uint8_t)vector, .has_error = true, .error = error, .valid = true
	};
	return false;
}

static inline bool soft_raise_pf(struct vcpu *cpu, uint64_t address, uint32_t error)
{
	cpu->fault = (struct fault){ .vector = EXC_PF,
		.has_error = true,
		.error = error,
		.address = address,
		.valid = true };
	return false;
}

/*
 * Deliver cpu->fault (and clear it): through the IDT with IST, error code, privilege change; rip is
 * that of the instruction (faults) or already after it (int n, int3). Contributory faults make #DF,
 * then triple_fault.
 */
void soft_deliver_fault(struct vcpu *cpu);
/* Deliver an external interrupt, NMI, or software interrupt (int n: checks the gate's DPL). */
bool soft_interrupt(struct vcpu *cpu, unsigned vector, bool software);
uint64_t soft_rflags(const struct vcpu *cpu);                           /* both halves */
void soft_set_rflags(struct vcpu *cpu, uint64_t rflags, uint64_t mask); /* bits outside mask stay */

/*
 * --- memory (mmu.c, light)
 * ---------------------------------------------------------------------------
 */
/*
 * Guest-virtual accesses as the current CPL (user: cpl == 3) or as the system (gdt, idt, tss: user
 * false). They may cross pages; MMIO goes to the board; a write to a page with code drops its
 * blocks. size <= 512. Everything is checked before anything is written. False: fault raised.
 */
bool soft_read(struct vcpu *cpu, uint64_t va, void *to, unsigned size, bool user);
bool soft_write(struct vcpu *cpu, uint64_t va, const void *from, unsigned size, bool user);
/* Check only: would the access fault? (enter, xsave, …) */
bool soft_probe(struct vcpu *cpu, uint64_t va, unsigned size, enum access access, bool user);
bool soft_read_u64(struct vcpu *cpu, uint64_t va, uint64_t *v, bool user);
bool soft_write_u64(struct vcpu *cpu, uint64_t va, uint64_t v, bool user);
/*
 * Guest-virtual to guest-physical. Sets A (and D for writes). *host: pointer to the byte in RAM, or
 * NULL for MMIO. large, global may be NULL.
 */
bool soft_translate(struct vcpu *cpu, uint64_t va, enum access access, bool user, uint64_t *pa,
	uint8_t **host, bool *large, bool *global);
/* CR3 write: false; CR4/CR0/EFER change: true */
void soft_tlb_flush(struct vcpu *cpu, bool global);
void soft_tlb_invlpg(struct vcpu *cpu, uint64_t va);
/* Drop only write tags of one RAM page (offset in the memfd) - its vCPU must not be running. */
void soft_tlb_drop_write(struct vcpu *cpu, uint64_t page);
/* the branch cache holds code of this page */
void soft_tlb_exec_page(struct vcpu *cpu, uint64_t va);
bool soft_canonical(uint64_t va);
/* RAM was written through a host pointer: drop translations made of it. */
void mmu_wrote(struct vcpu *cpu, uint8_t *host, unsigned len);

/*
 * --- system instructions (system.c and friends; cpu->insn is decoded, next_rip set)
 * ------------------
 */
/*
 * Execute cpu->insn of class INSN_SYSTEM, INSN_PUSHF or INSN_POPF. True: done, rip is where
 * execution goes on (the function sets it: next_rip, or a target). False: fault raised, nothing
 * changed.
 */
bool soft_system(struct vcpu *cpu);
/* The effective address of cpu->insn's memory operand, segment base included. */
uint64_t soft_ea(const struct vcpu *cpu);
void soft_cpuid(const struct vcpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
uint64_t soft_cpuid_features(void); /* FEAT_* mask of what host and policy offer */
bool soft_rdmsr(struct vcpu *cpu, uint32_t msr, uint64_t *value); /* false: #GP raised */
bool soft_wrmsr(struct vcpu *cpu, uint32_t msr, uint64_t value);
bool soft_set_cr0(struct vcpu *cpu, uint64_t value);
bool soft_set_cr4(struct vcpu *cpu, uint64_t value);
bool soft_set_efer(struct vcpu *cpu, uint64_t value);
/* Recompute long_mode, cpl and what depends on them after CS, CR0, EFER changed. */
void soft_update_mode(struct vcpu *cpu);
void soft_cpu_reset(struct vcpu *cpu, bool init); /* power-on, or INIT */
/* Load a segment register from a selector as mov/pop/far instructions do. */
bool soft_load_segment(struct vcpu *cpu, unsigned seg, uint16_t selector);
uint64_t soft_tsc(const struct vcpu *cpu);
/* state.c; the vCPU is not running. set: -EINVAL for a state that a CPU cannot be in. */
void soft_get_state(struct vcpu *cpu, struct cpu_state *s);
int soft_set_state(struct vcpu *cpu, const struct cpu_state *s);

/* 16- and 32-bit code: a few instructions of the SMP trampoline, one at a time (legacy.c). */
bool soft_legacy_step(struct vcpu *cpu);

/*
 * --- interrupts (lapic.c, ioapic.c)
 * ------------------------------------------------------------------
 */
/* 0x1b, 0x6e0, 0x800..0x83f */
bool lapic_msr_read(struct vcpu *cpu, uint32_t msr, uint64_t *value);
bool lapic_msr_write(struct vcpu *cpu, uint32_t msr, uint64_t value);
uint64_t lapic_mmio_read(struct vcpu *cpu, uint32_t offset); /* xAPIC mode */
void lapic_mmio_write(struct vcpu *cpu, uint32_t offset, uint32_t value);
int lapic_pending(struct vcpu *cpu); /* highest vector that may interrupt now, or -1 */
int lapic_accept(struct vcpu *cpu);  /* acknowledge it: IRR to ISR; -1: none */
uint8_t lapic_get_cr8(const struct vcpu *cpu);
void lapic_set_cr8(struct vcpu *cpu, uint8_t value);
void lapic_reset(struct vcpu *cpu);
int lapic_init(struct vcpu *cpu, struct vz_error *e); /* timer fd */
void lapic_fini(struct vcpu *cpu);
void lapic_timer_expired(struct vcpu *cpu);  /* timer thread */
void lapic_take_init_sipi(struct vcpu *cpu); /* do what lapic.init_sipi asks for */
void lapic_timer_rearm(struct vcpu *cpu);    /* after the guest's TSC changed */
/*
 * The vCPU is not running. set: -EINVAL for what no local APIC can hold; lapic_timer_rearm is to
 * follow when the TSC is right.
 */
void lapic_get_state(struct vcpu *cpu, struct cpu_lapic *s);
int lapic_set_state(struct vcpu *cpu, const struct cpu_lapic *s);
/* Deliver a message to the local APICs it addresses; any thread. */
void lapic_deliver(struct engine *engine, uint64_t address, uint32_t data);
int timer_thread_start(struct engine *engine, struct vz_error *e);
void timer_thread_stop(struct engine *engine);
uint64_t soft_tsc_khz(void); /* of the host */

/*
 * --- run loop (soft.c, heavy)
 * ------------------------------------------------------------------------
 */
void soft_fpu_park(struct vcpu *cpu); /* host vector registers are free for C afterwards */
enum vcpu_exit soft_run(struct vcpu *cpu, struct vz_error *e);
void soft_kick(struct vcpu *cpu);
void run_unbind(struct vcpu *cpu); /* free what running needed */
void soft_wake(struct vcpu *cpu);  /* set pending and wake it from HLT; any thread */
void soft_halt(struct vcpu *cpu);  /* sleep until pending */
/* Host-physical side effects: MMIO and ports through the board, doorbells first. Heavy. */
uint64_t soft_board_read(struct vcpu *cpu, bool port, uint64_t addr, unsigned size);
void soft_board_write(struct vcpu *cpu, bool port, uint64_t addr, unsigned size, uint64_t value);

/*
 * --- translation (translate.c, bounce.c, string.c, heavy)
 * --------------------------------------------
 */
int code_init(struct engine *engine, struct vz_error *e);
void code_fini(struct engine *engine);
void code_flush(struct engine *engine); /* all; exclusive */
/* Host entry for cpu->rip, translating when needed; 0: fault raised. */
uint64_t code_lookup(struct vcpu *cpu);
/* Bytes [gpa, gpa + len) were written: kill the blocks made of them. Any thread, no lock held. */
void code_written(struct engine *engine, uint64_t offset, uint64_t len);
bool soft_string(struct vcpu *cpu); /* INSN_STRING */

/* Fetch and decode at rip into cpu->insn, bytes into code[INSN_MAX_LEN]. False: fault raised. */
bool soft_fetch(struct vcpu *cpu, uint8_t *code);
/* Execute cpu->insn, of any class, whose bytes are given; rip moves on. False: fault raised. */
bool soft_execute(struct vcpu *cpu, const uint8_t *bytes);
bool soft_step(struct vcpu *cpu); /* fetch and execute */

/*
 * --- threads (exclusive.c)
 * ---------------------------------------------------------------------------
 */
/* about to touch TLB or code: waits while exclusive is held */
void soft_running(struct vcpu *cpu);
void soft_not_running(struct vcpu *cpu);
/* all other vCPUs are out; lock held */
void exclusive_begin(struct engine *engine, struct vcpu *self);
void exclusive_end(struct engine *engine);

/* Plain copies without libc. */
static inline void soft_copy(void *to, const void *from, unsigned long n)
{
#ifdef __clang_analyzer__ /* it does not see what assembly writes */
	__builtin_memcpy(to, from, n);
#else
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#endif
}

#endif
