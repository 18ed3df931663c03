/* SPDX-License-Identifier: MIT */
/*
 * Exceptions and interrupts: Intel SDM volume 3, chapter 6, in 64-bit mode. Everything is read and
 * checked, and the frame written, before any register changes, so a fault on the way finds the
 * state untouched.
 */
#include "engine/soft/sysint.h"

uint64_t soft_rflags(const struct vcpu *cpu)
{
	return (cpu->flags & FL_ARITH_DF) | cpu->sysflags | 2;
}

void soft_set_rflags(struct vcpu *cpu, uint64_t rflags, uint64_t mask)
{
	uint64_t now = (soft_rflags(cpu) & ~mask) | (rflags & mask);

	cpu->flags = (now & FL_ARITH_DF) | 2;
	cpu->sysflags = now & (FL_TF | FL_IF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC | FL_ID);
}

struct gate {
	uint64_t offset;
	uint16_t selector;
	uint8_t ist, type;
};

static bool read_gate(struct vcpu *cpu, unsigned vector, bool software, struct gate *gate)
{
	uint32_t error = vector * 8 + 2 + !software;
	uint64_t word[2];
	uint8_t access;

	if (vector * 16 + 15 > cpu->idt.limit)
		return soft_raise_error(cpu, EXC_GP, error);
	if (!soft_read(cpu, cpu->idt.base + vector * 16ull, word, 16, false))
		return false;
	access = (uint8_t)(word[0] >> 40);
	gate->type = access & 0x1f;
	if ((gate->type != 0xe && gate->type != 0xf) || (software && (access >> 5 & 3) < cpu->cpl))
		return soft_raise_error(cpu, EXC_GP, error);
	if (!(access & 0x80))
		return soft_raise_error(cpu, EXC_NP, error);
	gate->selector = (uint16_t)(word[0] >> 16);
	gate->ist = (uint8_t)(word[0] >> 32) & 7;
	gate->offset = (word[0] & 0xffff) | (word[0] >> 32 & 0xffff0000) | word[1] << 32;
	return true;
}

/* The stack for a handler: an IST entry, the privilege level's, or the current one. */
static bool find_stack(struct vcpu *cpu, const struct gate *gate, unsigned cpl, uint64_t *rsp)
{
	unsigned at;

	if (gate->ist)
		at = 0x24 + 8 * (gate->ist - 1u);
	else if (cpl < cpu->cpl)
		at = 4 + 8 * cpl;
	else
		return *rsp = cpu->gpr[CPU_RSP], true;
	if (at + 7 > cpu->seg[SEG_TR].limit)
		return soft_raise_error(cpu, EXC_TS, cpu->seg[SEG_TR].selector & 0xfffcu);
	return soft_read_u64(cpu, cpu->seg[SEG_TR].base + at, rsp, false);
}

struct event {
	unsigned vector;
	bool software, has_error;
	uint32_t error;
	uint64_t rip, rflags; /* to push */
};

static bool enter_handler(struct vcpu *cpu, const struct event *event)
{
	uint64_t frame[6], rsp, n = event->has_error ? 6 : 5, skip = 6 - n;
	unsigned cpl;
	struct descriptor cs;
	struct gate gate;
	uint32_t ext = !event->software;

	if (!read_gate(cpu, event->vector, event->software, &gate))
		return false;
	if (!(gate.selector & 0xfffc))
		return soft_raise_error(cpu, EXC_GP, ext);
	if (!segment_descriptor(cpu, gate.selector, EXC_GP, ext, &cs))
		return false;
	if (!(cs.attr & SEG_S) || !(cs.attr & SEG_CODE) || SEG_DPL(cs.attr) > cpu->cpl ||
		!(cs.attr & SEG_L) || (cs.attr & SEG_DB))
		return soft_raise_error(cpu, EXC_GP, (gate.selector & 0xfffcu) | ext);
	if (!(cs.attr & SEG_P))
		return soft_raise_error(cpu, EXC_NP, (gate.selector & 0xfffcu) | ext);
	cpl = cs.attr & SEG_CONFORMING ? cpu->cpl : SEG_DPL(cs.attr);
	if (!soft_canonical(gate.offset))
		return soft_raise_error(cpu, EXC_GP, ext);
	if (!find_stack(cpu, &gate, cpl, &rsp))
		return false;
	rsp &= ~0xfull;
	frame[0] = event->error;
	frame[1] = event->rip;
	frame[2] = cpu->seg[SEG_CS].selector;
	frame[3] = event->rflags;
	frame[4] = cpu->gpr[CPU_RSP];
	frame[5] = cpu->seg[SEG_SS].selector;
	if (!soft_canonical(rsp - 8 * n))
		return soft_raise_error(cpu, EXC_SS, ext);
	if (!soft_write(cpu, rsp - 8 * n, frame + skip, 8 * n, cpl == 3))
		return false;

	segment_mark_accessed(cpu, &cs);
	if (cpl != cpu->cpl) {
		struct descriptor null = { .attr = SEG_UNUSABLE | cpl << 5 };

		segment_set(cpu, SEG_SS, (uint16_t)cpl, &null);
	}
	segment_set(cpu, SEG_CS, (uint16_t)((gate.selector & 0xfffcu) | cpl), &cs);
	cpu->cpl = (uint8_t)cpl;
	cpu->gpr[CPU_RSP] = rsp - 8 * n;
	cpu->rip = gate.offset;
	cpu->sysflags &= ~(uint64_t)(FL_TF | FL_NT | FL_RF | FL_VM);
	if (gate.type == 0xe)
		cpu->sysflags &= ~(uint64_t)FL_IF;
	cpu->shadow = false;
	soft_update_mode(cpu);
	return true;
}

static bool contributory(unsigned vector)
{
	return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

void soft_deliver_fault(struct vcpu *cpu)
{
	struct fault first = cpu->fault;

	cpu->fault.valid = false;
	for (;;) {
		bool trap = first.vector == EXC_DB || first.vector == EXC_DF;
		struct event event = { .vector = first.vector,
			.has_error = first.has_error,
			.error = first.error,
			.rip = cpu->rip,
			.rflags = soft_rflags(cpu) | (trap ? 0 : FL_RF) };

		if (!(cpu->efer & EFER_LMA)) {
			cpu->triple_fault = true;
			return;
		}
		if (first.vector == EXC_PF)
			cpu->cr2 = first.address;
		if (enter_handler(cpu, &event))
			return;
		struct fault second = cpu->fault;

		cpu->fault.valid = false;
		if (first.vector == EXC_DF) {
			cpu->triple_fault = true;
			return;
		}
		if ((contributory(first.vector) && contributory(second.vector)) ||
			(first.vector == EXC_PF &&
				(second.vector == EXC_PF || contributory(second.vector))))
			first = (struct fault){
				.vector = EXC_DF, .has_error = true, .valid = true
			};
		else
			first = second;
	}
}

bool soft_interrupt(struct vcpu *cpu, unsigned vector, bool software)
{
	struct event event = { .vector = vector,
		.software = software,
		.rip = software ? cpu->next_rip : cpu->rip,
		.rflags = soft_rflags(cpu) };

	if (!(cpu->efer & EFER_LMA)) {
		cpu->triple_fault = true;
		return true;
	}
	return enter_handler(cpu, &event);
}
