/* SPDX-License-Identifier: MIT */
/*
 * The instructions that save and restore x87, SSE and AVX state (Intel SDM volume 1, chapter 13 and
 * section 10.5), between guest memory and the parked image of the host's XSAVE. With three
 * components the compacted format differs from the standard one only in its header.
 *
 * The x87 instruction and data pointers in the image are addresses of the host: a guest always
 * reads zeroes.
 */
#include "engine/soft/emit.h"
#include "engine/soft/sys.h"

#define COMPACTED     (1ull << 63)
#define MXCSR_INIT    0x1f80u
#define MXCSR_NO_MASK 0xffbfu /* what a mask of zero stands for */

_Static_assert(sizeof(struct xsave_image) == CPU_XSAVE_SIZE, "standard format");

/* Parts of the area that are written, in order. */
enum { PART_X87 = 1, PART_MXCSR = 2, PART_ST = 4, PART_XMM = 8, PART_YMM = 16 };
static const struct {
	uint16_t from, to;
} parts[] = { { 0, 24 }, { 24, 32 }, { 32, 160 }, { 160, 416 }, { 576, 832 } };
#define LEGACY_END 416
#define HEADER     512
#define HEADER_END 576

static void clear(void *p, unsigned long n)
{
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0) : "memory");
}

static struct xsave_image *image_of(struct vcpu *cpu)
{
	return (struct xsave_image *)cpu->xsave;
}

/* Give the components' bytes their initial values. */
static void initialize(struct xsave_image *image, unsigned components)
{
	if (components & XSTATE_X87) {
		image->fcw = XSTATE_FCW_INIT;
		image->fsw = 0;
		image->ftw = image->reserved = 0;
		clear(image->st, sizeof(image->st));
	}
	if (components & XSTATE_SSE)
		clear(image->xmm, sizeof(image->xmm));
	if (components & XSTATE_AVX)
		clear(image->ymm_high, sizeof(image->ymm_high));
}

struct xsave_image *sys_image(struct vcpu *cpu, unsigned components)
{
	struct xsave_image *image = image_of(cpu);

	soft_fpu_park(cpu);
	initialize(image, components & ~(unsigned)image->xstate_bv);
	image->xstate_bv |= components;
	return image;
}

static uint32_t mxcsr_mask(void)
{
	static _Atomic uint32_t known;
	uint32_t mask = atomic_load_explicit(&known, memory_order_relaxed);

	if (!mask) {
		struct xsave_image now;

		__asm__ volatile("fxsave64 %0" : "=m"(now));
		mask = now.mxcsr_mask ? now.mxcsr_mask : MXCSR_NO_MASK;
		atomic_store_explicit(&known, mask, memory_order_relaxed);
	}
	return mask;
}

/* Write parts of the image, neighbours at once. */
static bool write_parts(struct vcpu *cpu, uint64_t ea, unsigned which)
{
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		unsigned from = parts[i].from, to = parts[i].to;

		if (!(which >> i & 1))
			continue;
		while (i + 1 < ARRAY_SIZE(parts) && (which >> (i + 1) & 1) &&
			parts[i + 1].from == to)
			to = parts[++i].to;
		if (!soft_write(cpu, ea + from, cpu->xsave + from, to - from, cpu->cpl == 3))
			return false;
	}
	return true;
}

static unsigned parts_of(unsigned components)
{
	unsigned which = 0;

	if (components & XSTATE_X87)
		which |= PART_X87 | PART_ST;
	if (components & XSTATE_SSE)
		which |= PART_XMM;
	if (components & XSTATE_AVX)
		which |= PART_YMM;
	return which;
}

/* Components that edx:eax asks for and XCR0 enables. */
static unsigned requested(const struct vcpu *cpu)
{
	return (uint32_t)cpu->gpr[RAX] & (uint32_t)cpu->xcr0 &
	       (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX);
}

static bool xsave(struct vcpu *cpu, uint64_t ea)
{
	struct xsave_image *image = image_of(cpu);
	bool user = cpu->cpl == 3, compact = cpu->insn.system == SYS_XSAVEC;
	unsigned rfbm = requested(cpu), inuse = (unsigned)image->xstate_bv & rfbm, save, which;
	uint64_t header[2] = { 0, 0 };

	if (!soft_probe(cpu, ea, rfbm & XSTATE_AVX ? CPU_XSAVE_SIZE : HEADER_END, ACCESS_WRITE,
		    user))
		return false;
	if (!compact && !soft_read_u64(cpu, ea + HEADER, &header[0], user))
		return false;
	if (compact && (rfbm & XSTATE_SSE) && image->mxcsr != MXCSR_INIT)
		inuse |= XSTATE_SSE;
	save = cpu->insn.system == SYS_XSAVE ? rfbm : inuse;
	initialize(image, save & ~(unsigned)image->xstate_bv);
	sys_x87_hide_pointers(image);
	image->mxcsr_mask = mxcsr_mask();
	which = parts_of(save);
	if (compact ? save & XSTATE_SSE : rfbm & (XSTATE_SSE | XSTATE_AVX))
		which |= PART_MXCSR;
	header[0] = (header[0] & ~(uint64_t)rfbm) | inuse;
	header[1] = COMPACTED | rfbm;
	return write_parts(cpu, ea, which) &&
	       soft_write(cpu, ea + HEADER, header, compact ? 16 : 8, user);
}

static bool header_valid(const struct vcpu *cpu, const struct xsave_image *in)
{
	uint64_t others = 0;

	for (unsigned i = 1; i < ARRAY_SIZE(in->zero); i++)
		others |= in->zero[i];
	if (!(in->xcomp_bv & COMPACTED))
		return !in->xcomp_bv && !in->zero[0] && !(in->xstate_bv & ~cpu->xcr0);
	return (cpu->engine->features >> FEAT_XSAVEC & 1) && !others && !in->zero[0] &&
	       !(in->xcomp_bv & ~(cpu->xcr0 | COMPACTED)) && !(in->xstate_bv & ~in->xcomp_bv);
}

/* Take x87 registers from an area that was read. */
static void load_x87(struct xsave_image *image, const struct xsave_image *in)
{
	soft_copy(image, in, 24);
	soft_copy(image->st, in->st, sizeof(image->st));
	sys_x87_hide_pointers(image);
	sys_x87_summarize(image);
}

static bool xrstor(struct vcpu *cpu, uint64_t ea)
{
	struct xsave_image *image = image_of(cpu), in;
	bool user = cpu->cpl == 3, compact;
	unsigned rfbm = requested(cpu), load, take_mxcsr, set_mxcsr;

	if (!soft_read(cpu, ea + HEADER, &in.xstate_bv, HEADER_END - HEADER, user))
		return false;
	if (!header_valid(cpu, &in))
		return soft_raise_error(cpu, EXC_GP, 0);
	load = rfbm & (unsigned)in.xstate_bv;
	/* In the compacted format MXCSR is part of the SSE component. */
	compact = in.xcomp_bv & COMPACTED;
	set_mxcsr = rfbm & (compact ? XSTATE_SSE : XSTATE_SSE | XSTATE_AVX);
	take_mxcsr = compact ? load & XSTATE_SSE : set_mxcsr;
	if (((load & (XSTATE_X87 | XSTATE_SSE)) || take_mxcsr) &&
		!soft_read(cpu, ea, &in, LEGACY_END, user))
		return false;
	if ((load & XSTATE_AVX) &&
		!soft_read(cpu, ea + HEADER_END, in.ymm_high, sizeof(in.ymm_high), user))
		return false;
	if (take_mxcsr && (in.mxcsr & ~mxcsr_mask()))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (set_mxcsr)
		image->mxcsr = take_mxcsr ? in.mxcsr : MXCSR_INIT;
	if (load & XSTATE_X87)
		load_x87(image, &in);
	if (load & XSTATE_SSE)
		soft_copy(image->xmm, in.xmm, sizeof(in.xmm));
	if (load & XSTATE_AVX)
		soft_copy(image->ymm_high, in.ymm_high, sizeof(in.ymm_high));
	image->xstate_bv = (image->xstate_bv & ~(uint64_t)rfbm) | load;
	return true;
}

static bool fxsave(struct vcpu *cpu, uint64_t ea)
{
	struct xsave_image *image = image_of(cpu);

	/* All 512 bytes must be there, though the last are not written. */
	if (!soft_probe(cpu, ea, HEADER, ACCESS_WRITE, cpu->cpl == 3))
		return false;
	initialize(image, (XSTATE_X87 | XSTATE_SSE) & ~(unsigned)image->xstate_bv);
	sys_x87_hide_pointers(image);
	image->mxcsr_mask = mxcsr_mask();
	return write_parts(cpu, ea, PART_X87 | PART_MXCSR | PART_ST | PART_XMM);
}

static bool fxrstor(struct vcpu *cpu, uint64_t ea)
{
	struct xsave_image *image = image_of(cpu), in;

	if (!soft_read(cpu, ea, &in, HEADER, cpu->cpl == 3))
		return false;
	if (in.mxcsr & ~mxcsr_mask())
		return soft_raise_error(cpu, EXC_GP, 0);
	load_x87(image, &in);
	image->mxcsr = in.mxcsr;
	soft_copy(image->xmm, in.xmm, sizeof(in.xmm));
	image->xstate_bv |= XSTATE_X87 | XSTATE_SSE;
	return true;
}

/* --- entry points ----------------------------------------------------------------------------- */

bool sys_unit_ready(struct vcpu *cpu)
{
	unsigned unit = cpu->insn.unit;
	bool emulated = cpu->cr0 & CR0_EM;

	if (unit == UNIT_AVX && (!(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6))
		return soft_raise(cpu, EXC_UD);
	if (unit == UNIT_SSE && !(cpu->cr4 & CR4_OSFXSR))
		return soft_raise(cpu, EXC_UD);
	if (emulated && (unit == UNIT_SSE || unit == UNIT_MMX))
		return soft_raise(cpu, EXC_UD);
	/* fwait alone asks whether it is monitored, and is never emulated. */
	if (unit == UNIT_X87 && cpu->insn.map == 0 && cpu->insn.opcode == 0x9b)
		return (cpu->cr0 & (CR0_MP | CR0_TS)) != (CR0_MP | CR0_TS) ||
		       soft_raise(cpu, EXC_NM);
	if ((cpu->cr0 & CR0_TS) || (emulated && unit == UNIT_X87))
		return soft_raise(cpu, EXC_NM);
	return true;
}

bool sys_xstate(struct vcpu *cpu)
{
	unsigned system = cpu->insn.system, align = 63;
	uint64_t ea;

	if (system == SYS_FXSAVE || system == SYS_FXRSTOR) {
		align = 15;
		if (cpu->cr0 & CR0_EM)
			return soft_raise(cpu, EXC_UD);
	} else if (cpu->insn.unit == UNIT_X87) {
		align = 0;
	} else if (!(cpu->cr4 & CR4_OSXSAVE)) {
		return soft_raise(cpu, EXC_UD);
	}
	if (!sys_unit_ready(cpu))
		return false;
	ea = soft_ea(cpu);
	if (ea & align)
		return soft_raise_error(cpu, EXC_GP, 0);
	soft_fpu_park(cpu);
	switch (system) {
	case SYS_XSAVE:
	case SYS_XSAVEOPT:
	case SYS_XSAVEC:
		return xsave(cpu, ea);
	case SYS_XRSTOR:
		return xrstor(cpu, ea);
	case SYS_FXSAVE:
		return fxsave(cpu, ea);
	case SYS_FXRSTOR:
		return fxrstor(cpu, ea);
	default:
		return sys_x87_state(cpu, ea);
	}
}

bool sys_xgetbv(struct vcpu *cpu)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		return soft_raise(cpu, EXC_UD);
	if ((uint32_t)cpu->gpr[RCX])
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->gpr[RAX] = (uint32_t)cpu->xcr0;
	cpu->gpr[RDX] = cpu->xcr0 >> 32;
	return true;
}

bool sys_xsetbv(struct vcpu *cpu)
{
	uint64_t value = cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX];
	uint64_t valid = XSTATE_X87 | XSTATE_SSE;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		return soft_raise(cpu, EXC_UD);
	if (cpu->engine->features >> FEAT_AVX & 1)
		valid |= XSTATE_AVX;
	if (cpu->cpl || (uint32_t)cpu->gpr[RCX] || !(value & XSTATE_X87) || (value & ~valid) ||
		((value & XSTATE_AVX) && !(value & XSTATE_SSE)))
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->xcr0 = value;
	return true;
}
