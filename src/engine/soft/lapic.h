/* SPDX-License-Identifier: MIT */
/* The parts of the local APIC among themselves: lapic.c, lapic_regs.c, lapic_timer.c. */
#ifndef VIZOR_SOFT_LAPIC_H
#define VIZOR_SOFT_LAPIC_H

#include "engine/soft/soft.h"

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_CMCI, LVT_COUNT };
#define LVT_MASKED          0x10000u
#define LVT_VECTOR          0xffu

#define SVR_ENABLE          0x100u

#define APIC_BASE_BSP       0x100ull
#define APIC_BASE_X2APIC    0x400ull
#define APIC_BASE_ENABLE    0x800ull
#define APIC_BASE_ADDR      0x3ffffffff000ull /* as wide as CR3's addresses */

#define ESR_SEND_ILLEGAL    0x20u
#define ESR_RECEIVE_ILLEGAL 0x40u
#define ESR_REGISTER        0x80u

#define DELIVER_FIXED       0u
#define DELIVER_LOWEST      1u
#define DELIVER_NMI         4u
#define DELIVER_INIT        5u
#define DELIVER_STARTUP     6u
#define DEST_ALL            UINT32_MAX

/* In the low half of the ICR, in MSI data and in the I/O APIC's entries alike. */
#define MESSAGE_VECTOR(v)     ((v)&0xffu)
#define MESSAGE_MODE(v)       ((v) >> 8 & 7u)
#define MESSAGE_LEVEL_ASSERT  0x4000u
#define MESSAGE_LEVEL_TRIGGER 0x8000u

/* Fields that other threads read while the vCPU's own thread may write them. */
#define shared_read(field)     __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define shared_write(field, v) __atomic_store_n(&(field), (v), __ATOMIC_RELAXED)

struct message {
	uint32_t dest; /* DEST_ALL: everybody */
	uint8_t vector, mode;
	bool logical, level;
	bool deassert;           /* of INIT: means nothing to any processor since the Pentium 4 */
	const struct vcpu *skip; /* "all but self" */
};

static inline bool lapic_x2apic(const struct vcpu *cpu)
{
	return shared_read(cpu->lapic.base) & APIC_BASE_X2APIC;
}

/* lapic.c */
void lapic_post(struct vcpu *cpu, unsigned vector, bool level); /* any thread */
void lapic_error(struct vcpu *cpu, uint32_t bits);              /* any thread */
bool lapic_accept_message(struct vcpu *cpu, const struct message *m);
/* To all whom it addresses; false: there is nobody. Any thread. */
bool lapic_send(struct engine *engine, const struct message *m);
bool lapic_send_msi(struct engine *engine, uint64_t address, uint32_t data);
uint8_t lapic_ppr(const struct vcpu *cpu);
void lapic_eoi(struct vcpu *cpu);
uint32_t lapic_ldr(const struct vcpu *cpu);
void lapic_clear(struct vcpu *cpu); /* all registers as after INIT */

/* lapic_timer.c; lvt: the register already holds its new value */
void timer_lvt_written(struct vcpu *cpu, uint32_t old);
void timer_write_initial(struct vcpu *cpu, uint32_t count);
void timer_write_divide(struct vcpu *cpu, uint32_t divide);
uint32_t timer_current(const struct vcpu *cpu);
uint64_t timer_read_deadline(const struct vcpu *cpu);
void timer_write_deadline(struct vcpu *cpu, uint64_t deadline);
void timer_clear(struct vcpu *cpu);
/* The current count and the deadline; to be called before IRR is read. */
void timer_get_state(struct vcpu *cpu, uint32_t *current, uint64_t *deadline);
void timer_set_state(struct vcpu *cpu, const struct cpu_lapic *s);

#endif
