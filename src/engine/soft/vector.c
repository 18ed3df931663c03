/* SPDX-License-Identifier: MIT */
/*
 * Vector instructions that access memory element by element (Intel SDM volume 2: MASKMOVQ,
 * MASKMOVDQU, VMASKMOV, VPMASKMOV, VGATHER*, VPGATHER*): only the elements that the mask selects
 * may fault. They work on the parked register image.
 */
#include "engine/soft/emit.h"
#include "engine/soft/sys.h"

#define MMX_BYTES 8
#define XMM_BYTES 16
#define YMM_BYTES 32

static void read_vector(const struct xsave_image *image, unsigned reg, uint8_t v[YMM_BYTES])
{
	soft_copy(v, image->xmm[reg], XMM_BYTES);
	soft_copy(v + XMM_BYTES, image->ymm_high[reg], XMM_BYTES);
}

static void write_vector(struct xsave_image *image, unsigned reg, const uint8_t v[YMM_BYTES])
{
	soft_copy(image->xmm[reg], v, XMM_BYTES);
	soft_copy(image->ymm_high[reg], v + XMM_BYTES, XMM_BYTES);
}

/* Set bytes [from, to) to zero. */
static void zero(uint8_t *v, unsigned from, unsigned to)
{
	while (from < to)
		v[from++] = 0;
}

static unsigned image_components(const struct vcpu *cpu)
{
	return cpu->engine->features >> FEAT_AVX & 1 ? XSTATE_SSE | XSTATE_AVX : XSTATE_SSE;
}

/* --- masked moves ----------------------------------------------------------------------------- */

/* The next run of selected bytes at or after *from; its length, or 0. */
static unsigned next_run(uint32_t selected, unsigned *from)
{
	unsigned n = 0;

	while (*from < YMM_BYTES && !(selected >> *from & 1))
		(*from)++;
	while (*from + n < YMM_BYTES && (selected >> (*from + n) & 1))
		n++;
	return n;
}

static bool store_selected(struct vcpu *cpu, uint64_t ea, const uint8_t *v, uint32_t selected)
{
	bool user = cpu->cpl == 3;
	unsigned at, n;

	for (at = 0; (n = next_run(selected, &at)); at += n)
		if (!soft_probe(cpu, ea + at, n, ACCESS_WRITE, user))
			return false;
	for (at = 0; (n = next_run(selected, &at)); at += n)
		if (!soft_write(cpu, ea + at, v + at, n, user))
			return false;
	return true;
}

static bool load_selected(struct vcpu *cpu, uint64_t ea, uint8_t *v, uint32_t selected)
{
	unsigned n;

	for (unsigned at = 0; (n = next_run(selected, &at)); at += n)
		if (!soft_read(cpu, ea + at, v + at, n, cpu->cpl == 3))
			return false;
	return true;
}

/* Bit n: byte n belongs to an element of the given size whose top bit is set in mask. */
static uint32_t select_bytes(const uint8_t *mask, unsigned bytes, unsigned element)
{
	uint32_t selected = 0;

	for (unsigned i = 0; i < bytes; i += element)
		if (mask[i + element - 1] >> 7)
			selected |= ((1u << element) - 1) << i;
	return selected;
}

/* DS:rdi, or with the segment that is named. */
static uint64_t rdi_address(const struct vcpu *cpu)
{
	uint64_t ea = cpu->gpr[RDI];

	if (cpu->insn.addr_size == 4)
		ea = (uint32_t)ea;
	return cpu->insn.segment ? ea + cpu->seg_base[cpu->insn.segment] : ea;
}

/* maskmovq: as every MMX instruction it leaves the x87 stack at 0 and full. */
static bool maskmov_mmx(struct vcpu *cpu)
{
	struct xsave_image *image = sys_image(cpu, XSTATE_X87);
	unsigned top = image->fsw >> 11 & 7;
	const uint8_t *from = image->st[(cpu->insn.reg - top) & 7];
	const uint8_t *mask = image->st[(cpu->insn.rm - top) & 7];

	if (sys_x87_pending(image))
		return soft_raise(cpu, EXC_MF);
	if (!store_selected(cpu, rdi_address(cpu), from, select_bytes(mask, MMX_BYTES, 1)))
		return false;
	sys_x87_set_top(image, 0);
	image->ftw = 0xff;
	return true;
}

static bool maskmov_xmm(struct vcpu *cpu)
{
	struct xsave_image *image = sys_image(cpu, XSTATE_SSE);

	return store_selected(cpu, rdi_address(cpu), image->xmm[cpu->insn.reg],
		select_bytes(image->xmm[cpu->insn.rm], XMM_BYTES, 1));
}

bool sys_maskmov(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	unsigned bytes = in->vex_l ? YMM_BYTES : XMM_BYTES, element;
	struct xsave_image *image;
	uint8_t mask[YMM_BYTES], v[YMM_BYTES];
	uint32_t selected;

	if (!sys_unit_ready(cpu))
		return false;
	if (in->map == 1)
		return in->unit == UNIT_MMX ? maskmov_mmx(cpu) : maskmov_xmm(cpu);
	/* vmaskmovps, vmaskmovpd by opcode; vpmaskmovd, vpmaskmovq by VEX.W */
	element = in->opcode & 0x80 ? in->op_size : 4 + 4 * (in->opcode & 1);
	image = sys_image(cpu, image_components(cpu));
	read_vector(image, in->vvvv, mask);
	selected = select_bytes(mask, bytes, element);
	if (in->mem_write) {
		read_vector(image, in->reg, v);
		return store_selected(cpu, soft_ea(cpu), v, selected);
	}
	zero(v, 0, YMM_BYTES);
	if (!load_selected(cpu, soft_ea(cpu), v, selected))
		return false;
	write_vector(image, in->reg, v);
	return true;
}

/* --- gathers ---------------------------------------------------------------------------------- */

static uint64_t element_address(const struct vcpu *cpu, const uint8_t *indices, size_t i, bool quad)
{
	const struct insn *in = &cpu->insn;
	int64_t index;
	int32_t index32;
	uint64_t ea = (uint64_t)in->disp;

	if (quad) {
		__builtin_memcpy(&index, indices + 8 * i, sizeof(index));
	} else {
		__builtin_memcpy(&index32, indices + 4 * i, sizeof(index32));
		index = index32;
	}
	ea += (uint64_t)index * in->scale;
	if (in->base != REG_NONE)
		ea += cpu->gpr[in->base];
	if (in->addr_size == 4)
		ea = (uint32_t)ea;
	return in->segment ? ea + cpu->seg_base[in->segment] : ea;
}

/*
 * Elements are read in order. One that faults leaves those before it in the destination and out of
 * the mask, so that the instruction goes on from there when it is executed again.
 */
bool sys_gather(struct vcpu *cpu)
{
	const struct insn *in = &cpu->insn;
	bool quad_index = in->opcode & 1, done = true;
	unsigned bytes = in->vex_l ? YMM_BYTES : XMM_BYTES, element = in->op_size;
	unsigned count = bytes / (quad_index ? 8 : element), used = count * element;
	struct xsave_image *image;
	uint8_t v[YMM_BYTES], mask[YMM_BYTES], indices[YMM_BYTES];

	if (!sys_unit_ready(cpu))
		return false;
	image = sys_image(cpu, image_components(cpu));
	read_vector(image, in->reg, v);
	read_vector(image, in->vvvv, mask);
	read_vector(image, in->index, indices);
	for (unsigned i = 0; i < count; i++) {
		unsigned at = i * element;

		if (mask[at + element - 1] >> 7) {
			uint64_t ea = element_address(cpu, indices, i, quad_index);

			if (!soft_read(cpu, ea, v + at, element, cpu->cpl == 3)) {
				done = false;
				break;
			}
		}
		zero(mask, at, at + element);
	}
	if (done) {
		zero(v, used, YMM_BYTES);
		zero(mask, 0, YMM_BYTES);
	}
	write_vector(image, in->reg, v);
	write_vector(image, in->vvvv, mask);
	return done;
}
