/* SPDX-License-Identifier: MIT */
/*
 * The decoder's gate: the whole opcode space and random bytes against Zydis, an independent
 * decoder. What we accept, Zydis must accept with the same length, operands, registers and flags;
 * what Zydis accepts of the instruction sets that we expose, we must not refuse. The differences
 * that are right are in one table, each with its reason.
 */
#include "engine/soft/decode.h"
#include "tap.h"

#ifndef HAVE_ZYDIS
int main(void)
{
	SKIP_ALL("built without Zydis");
}
#else

#include <stdarg.h>
#include <Zydis/Zydis.h>

#define ALL_FEATURES (~0ull)

enum kind {
	ZYDIS_REFUSES,
	WE_REFUSE,
	LENGTH,
	MEM_PRESENT,
	MEM_ADDRESS,
	MEM_SEGMENT,
	MEM_SIZE,
	MEM_ACCESS,
	GPR_READ,
	GPR_WRITE,
	FLAGS_READ,
	FLAGS_WRITE,
	FLAGS_UNDEFINED,
	IMMEDIATE,
	LIMIT,
	FIELDS,
	CLASS,
	UNIT,
	FAULTS,
	HIGH_BYTE,
	OPERAND_SIZE,
	MASKED,
	TRUNCATED,
	KIND_COUNT
};

static const char *const kind_name[KIND_COUNT] = {
	"Zydis refuses",
	"we refuse",
	"length",
	"memory operand",
	"address",
	"segment",
	"memory size",
	"memory access",
	"registers read",
	"registers written",
	"flags read",
	"flags written",
	"flags undefined",
	"immediate",
	"length limit",
	"fields",
	"class",
	"unit",
	"faults",
	"high byte",
	"operand size",
	"masked feature",
	"truncated",
};

/*
 * Differences that are right. Each holds for the instructions its test names, and was looked up
 * in the manuals; those marked (run) were also tried on a CPU.
 */
struct known {
	enum kind kind;
	bool (*test)(const struct insn *insn, int mnemonic);
	const char *why;
};

static bool is_string(const struct insn *i, int mnemonic)
{
	return i->class == INSN_STRING || i->system == SYS_INS || i->system == SYS_OUTS;
}

static bool is_rsm(const struct insn *i, int mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_RSM;
}

static bool is_sib_r13_32(const struct insn *i, int mnemonic)
{
	return i->addr_size == 4 && i->modrm < 0x40 && (i->modrm & 7) == 4 && (i->sib & 7) == 5 &&
	       i->rex & 1;
}

static bool is_flush(const struct insn *i, int mnemonic)
{
	return i->system == SYS_CLFLUSH || i->system == SYS_INVLPG;
}

static bool is_xsave(const struct insn *i, int mnemonic)
{
	return i->system >= SYS_XSAVE && i->system <= SYS_XRSTOR;
}

static bool is_interrupt(const struct insn *i, int mnemonic)
{
	return i->system == SYS_INT || i->system == SYS_INT3 || i->system == SYS_INT1;
}

static bool is_syscall(const struct insn *i, int mnemonic)
{
	return i->system == SYS_SYSCALL;
}

static bool is_ud(const struct insn *i, int mnemonic)
{
	return i->system == SYS_UD;
}

static bool is_movsxd(const struct insn *i, int mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_MOVSXD && i->op_size == 2;
}

static bool is_leave(const struct insn *i, int mnemonic)
{
	return i->class == INSN_LEAVE;
}

static bool is_bsf(const struct insn *i, int mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_BSF || mnemonic == ZYDIS_MNEMONIC_BSR;
}

static bool is_bextr(const struct insn *i, int mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_BEXTR;
}

static bool is_sbb(const struct insn *i, int mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_SBB;
}

static bool is_vtest(const struct insn *i, int mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_VPTEST || mnemonic == ZYDIS_MNEMONIC_VTESTPS ||
	       mnemonic == ZYDIS_MNEMONIC_VTESTPD;
}

static bool is_shift(const struct insn *i, int mnemonic)
{
	if (i->map == 1)
		return mnemonic == ZYDIS_MNEMONIC_SHLD || mnemonic == ZYDIS_MNEMONIC_SHRD;
	return i->map == 0 &&
	       (i->opcode == 0xc0 || i->opcode == 0xc1 || (i->opcode & 0xfc) == 0xd0);
}

/* A shift or rotate by an immediate that is 0 when masked touches no flag. */
static bool is_shift_by_0(const struct insn *i, int mnemonic)
{
	return is_shift(i, mnemonic) && i->imm_size == 1 &&
	       !(i->imm & (i->op_size == 8 ? 63 : 31)) && !i->flags_read && !i->flags_write &&
	       !i->flags_undefined;
}

/* What the manual leaves undefined depends on the count, which Zydis does not look at. */
static bool is_shift_count(const struct insn *i, int mnemonic)
{
	return is_shift(i, mnemonic) && !(i->flags_undefined & ~i->flags_write);
}

static const struct known known[] = {
	{ WE_REFUSE, is_rsm,
		"undefined outside system management mode, which the CPU does not have" },
	{ MEM_ADDRESS, is_sib_r13_32, "SIB base 5 with mod 0 is no base, whatever REX.B (run)" },
	{ GPR_READ, is_sib_r13_32, "as above" },
	{ MEM_SIZE, is_flush, "64 bytes are flushed, but any one byte is what is addressed" },
	{ MEM_SIZE, is_xsave, "the size depends on XCR0 and edx:eax" },
	{ GPR_WRITE, is_string, "Zydis does not count the pointers as written" },
	{ FLAGS_READ, is_string, "repe and repne look at ZF after a comparison, not before" },
	{ FLAGS_READ, is_interrupt, "the flags are saved" },
	{ FLAGS_READ, is_syscall, "the flags are saved in r11" },
	{ FLAGS_READ, is_shift_by_0, "no flag is touched" },
	{ FLAGS_WRITE, is_shift_by_0, "no flag is touched" },
	{ FLAGS_UNDEFINED, is_shift_by_0, "no flag is touched" },
	{ FLAGS_UNDEFINED, is_shift_count,
		"OF is defined for a count of 1; CF is not past the size" },
	{ GPR_READ, is_interrupt, "the stack is used" },
	{ GPR_WRITE, is_interrupt, "the stack is used" },
	{ MEM_SIZE, is_ud, "ud0 and ud1 access nothing" },
	{ MEM_ACCESS, is_ud, "as above" },
	{ MEM_ACCESS, is_flush, "invlpg reads nothing" },
	{ MEM_SIZE, is_movsxd, "16 bits are read with a 16-bit operand size (run)" },
	{ GPR_READ, is_ud, "as above" },
	{ GPR_READ, is_leave, "leave replaces rsp without reading it" },
	{ GPR_READ, is_bsf, "a source of 0 leaves the destination (run)" },
	{ FLAGS_UNDEFINED, is_bextr, "the manual: AF, SF, PF undefined, the others cleared" },
	{ FLAGS_UNDEFINED, is_sbb, "the manual defines AF" },
	{ FLAGS_WRITE, is_vtest, "the manual: OF, AF, PF, SF are cleared" },
};

#define KNOWN        (sizeof(known) / sizeof(known[0]))
#define SLOTS        4096
static struct slot {
	bool used;
	enum kind kind;
	int mnemonic;
	unsigned long count;
	uint8_t bytes[16];
	char text[120];
} slots[SLOTS];

static ZydisDecoder decoder;
static unsigned long compared, accepted;
static unsigned long unknown, known_seen[KNOWN];

static bool is_known(enum kind kind, int mnemonic, const struct insn *insn)
{
	for (size_t i = 0; i < KNOWN; i++)
		if (known[i].kind == kind && known[i].test(insn, mnemonic)) {
			known_seen[i]++;
			return true;
		}
	return false;
}

static void __attribute__((format(printf, 5, 6))) differ(enum kind kind, int mnemonic,
	const struct insn *insn, const uint8_t *bytes, const char *fmt, ...)
{
	unsigned h = (kind * 2053u + (unsigned)mnemonic) % SLOTS;
	va_list ap;

	if (is_known(kind, mnemonic, insn))
		return;
	unknown++;
	while (slots[h].used && (slots[h].kind != kind || slots[h].mnemonic != mnemonic))
		h = (h + 1) % SLOTS;
	if (!slots[h].used) {
		slots[h] = (struct slot){ .used = true, .kind = kind, .mnemonic = mnemonic };
		memcpy(slots[h].bytes, bytes, 16);
		va_start(ap, fmt);
		vsnprintf(slots[h].text, sizeof(slots[h].text), fmt, ap);
		va_end(ap);
	}
	slots[h].count++;
}

/* The instruction sets that the software CPU exposes. */
static bool exposed(const ZydisDecodedInstruction *z)
{
	switch (z->meta.isa_set) {
	case ZYDIS_ISA_SET_ADOX_ADCX:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_AVX_GFNI:
	case ZYDIS_ISA_SET_AVX_VNNI:
	case ZYDIS_ISA_SET_BMI1:
	case ZYDIS_ISA_SET_BMI2:
	case ZYDIS_ISA_SET_CLDEMOTE:
	case ZYDIS_ISA_SET_CLFLUSHOPT:
	case ZYDIS_ISA_SET_CLFSH:
	case ZYDIS_ISA_SET_CLWB:
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_CMPXCHG16B:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_FCMOV:
	case ZYDIS_ISA_SET_FMA:
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_GFNI:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I286PROTECTED:
	case ZYDIS_ISA_SET_I286REAL:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_LAHF:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_LZCNT:
	case ZYDIS_ISA_SET_MOVBE:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_PPRO:
	case ZYDIS_ISA_SET_PREFETCH_NOP:
	case ZYDIS_ISA_SET_RDPID:
	case ZYDIS_ISA_SET_RDPMC:
	case ZYDIS_ISA_SET_RDRAND:
	case ZYDIS_ISA_SET_RDSEED:
	case ZYDIS_ISA_SET_RDTSCP:
	case ZYDIS_ISA_SET_RDWRFSGS:
	case ZYDIS_ISA_SET_SERIALIZE:
	case ZYDIS_ISA_SET_SHA:
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_SSE4A:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE_PREFETCH:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX:
	case ZYDIS_ISA_SET_VAES:
	case ZYDIS_ISA_SET_VPCLMULQDQ:
	case ZYDIS_ISA_SET_X87:
	case ZYDIS_ISA_SET_XSAVE:
	case ZYDIS_ISA_SET_XSAVEC:
	case ZYDIS_ISA_SET_XSAVEOPT:
		return true;
	default:
		return false;
	}
}

static int reg_id(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return REG_NONE;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return REG_PC;
	return ZydisRegisterGetId(r);
}

static bool is_gpr(ZydisRegister r)
{
	ZydisRegisterClass c = ZydisRegisterGetClass(r);

	return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
	       c == ZYDIS_REGCLASS_GPR64;
}

/* The registers an instruction uses, as the decoder's masks define them. */
static void zydis_gprs(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
	unsigned *read, unsigned *write)
{
	*read = *write = 0;
	for (int i = 0; i < z->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value)) {
			ZydisRegister full =
				ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
					o->reg.value);
			unsigned bit = 1u << ZydisRegisterGetId(full);
			unsigned bits =
				ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);

			if (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
				*read |= bit;
			if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
				*write |= bit;
			if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE && bits < 32)
				*read |= bit;
			if (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)
				*read |= bit;
		} else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (is_gpr(o->mem.base))
				*read |= 1u << reg_id(o->mem.base);
			if (is_gpr(o->mem.index))
				*read |= 1u << reg_id(o->mem.index);
		}
	}
}

static void compare_memory(const uint8_t *b, const struct insn *insn,
	const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	const ZydisDecodedOperand *m = NULL;
	int mn = z->mnemonic, segment;
	bool rd, wr;

	for (int i = 0; i < z->operand_count; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			(ops[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
				ops[i].encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64))
			m = &ops[i];
	if (!m != !insn->has_mem)
		differ(MEM_PRESENT, mn, insn, b, "%d", insn->has_mem);
	if (!m || !insn->has_mem)
		return;
	if (reg_id(m->mem.base) != insn->base || reg_id(m->mem.index) != insn->index ||
		(m->mem.index != ZYDIS_REGISTER_NONE && m->mem.scale != insn->scale) ||
		((uint64_t)m->mem.disp.value ^ (uint64_t)insn->disp) &
			(insn->addr_size == 4 ? UINT32_MAX : UINT64_MAX) ||
		insn->vsib != (m->mem.type == ZYDIS_MEMOP_TYPE_VSIB))
		differ(MEM_ADDRESS, mn, insn, b, "base %d index %d scale %d disp %#llx", insn->base,
			insn->index, insn->scale, (long long)insn->disp);
	segment = m->mem.segment == ZYDIS_REGISTER_FS   ? 4
		  : m->mem.segment == ZYDIS_REGISTER_GS ? 5
							: 0;
	if (segment != insn->segment && m->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
		differ(MEM_SEGMENT, mn, insn, b, "%d, Zydis %d", insn->segment, segment);
	if (m->mem.type == ZYDIS_MEMOP_TYPE_AGEN) {
		if (insn->mem_read || insn->mem_write || insn->mem_size)
			differ(MEM_ACCESS, mn, insn, b, "AGEN");
		return;
	}
	if (insn->class == INSN_NOP)
		return;
	if (m->size / 8 != insn->mem_size)
		differ(MEM_SIZE, mn, insn, b, "%d, Zydis %d", insn->mem_size, m->size / 8);
	rd = m->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	wr = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	if (rd != insn->mem_read || wr != insn->mem_write)
		differ(MEM_ACCESS, mn, insn, b, "read %d write %d, Zydis %d %d", insn->mem_read,
			insn->mem_write, rd, wr);
}

static void compare_flags(const uint8_t *b, const struct insn *insn,
	const ZydisDecodedInstruction *z)
{
	static const ZydisAccessedFlags none;
	const ZydisAccessedFlags *f = z->cpu_flags ? z->cpu_flags : &none;
	unsigned mask = FLAGS_ARITH | FLAG_DF, mn = z->mnemonic;
	unsigned rd = f->tested & mask, und = f->undefined & mask;
	unsigned wr = (f->modified | f->set_0 | f->set_1 | f->undefined) & mask;

	if (rd != insn->flags_read)
		differ(FLAGS_READ, mn, insn, b, "%#x, Zydis %#x", insn->flags_read, rd);
	if (wr != insn->flags_write)
		differ(FLAGS_WRITE, mn, insn, b, "%#x, Zydis %#x", insn->flags_write, wr);
	if (und != insn->flags_undefined)
		differ(FLAGS_UNDEFINED, mn, insn, b, "%#x, Zydis %#x", insn->flags_undefined, und);
}

static void compare_immediate(const uint8_t *b, const struct insn *insn,
	const ZydisDecodedInstruction *z)
{
	const struct ZydisDecodedInstructionRawImm_ *i = z->raw.imm;
	int64_t value = i[0].is_signed || i[0].is_relative ? i[0].value.s : (int64_t)i[0].value.u;

	if (insn->imm_size != (i[0].size + i[1].size) / 8) {
		differ(IMMEDIATE, z->mnemonic, insn, b, "size %d", insn->imm_size);
		return;
	}
	if (!insn->imm_size)
		return;
	if (insn->imm_offset != i[0].offset || insn->imm_offset + insn->imm_size != insn->len)
		differ(IMMEDIATE, z->mnemonic, insn, b, "offset %d", insn->imm_offset);
	if (!i[1].size && value != insn->imm)
		differ(IMMEDIATE, z->mnemonic, insn, b, "%#llx", (long long)insn->imm);
}

/* Where Zydis finds the opcode, the ModRM byte and the prefixes. */
static void compare_fields(const uint8_t *b, const struct insn *insn,
	const ZydisDecodedInstruction *z)
{
	static const uint8_t map_of[] = {
		[ZYDIS_OPCODE_MAP_DEFAULT] = 0,
		[ZYDIS_OPCODE_MAP_0F] = 1,
		[ZYDIS_OPCODE_MAP_0F38] = 2,
		[ZYDIS_OPCODE_MAP_0F3A] = 3,
	};
	bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	bool rep = z->attributes &
		   (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);

	if (z->opcode != insn->opcode || b[insn->opcode_offset] != insn->opcode ||
		z->opcode_map > ZYDIS_OPCODE_MAP_0F3A || map_of[z->opcode_map] != insn->map ||
		vex != (insn->encoding != ENC_LEGACY))
		differ(FIELDS, z->mnemonic, insn, b, "opcode %#x", insn->opcode);
	if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM
			? !insn->has_modrm || z->raw.modrm.offset != insn->opcode_offset + 1 ||
				  b[z->raw.modrm.offset] != insn->modrm
			: insn->has_modrm)
		differ(FIELDS, z->mnemonic, insn, b, "modrm %#x", insn->modrm);
	if (vex && (insn->vex_l != z->raw.vex.L || (insn->rex >> 3) != z->raw.vex.W))
		differ(FIELDS, z->mnemonic, insn, b, "vex");
	if (!vex && z->attributes & ZYDIS_ATTRIB_HAS_REX &&
		(!insn->rex || (insn->rex >> 3 & 1) != z->raw.rex.W))
		differ(FIELDS, z->mnemonic, insn, b, "rex %#x", insn->rex);
	if (!vex && !(z->attributes & ZYDIS_ATTRIB_HAS_REX) && insn->rex)
		differ(FIELDS, z->mnemonic, insn, b, "rex %#x", insn->rex);
	if (!(z->attributes & ZYDIS_ATTRIB_HAS_LOCK) != !(insn->prefixes & PFX_LOCK) ||
		insn->addr_size != z->address_width / 8)
		differ(FIELDS, z->mnemonic, insn, b, "prefixes %#x", insn->prefixes);
	if (rep && insn->rep_ignored)
		differ(FIELDS, z->mnemonic, insn, b, "rep ignored");
}

/* What must never run on the host as it is. */
static bool is_dangerous(const ZydisDecodedInstruction *z)
{
	if (z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
		return true;
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_CET:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_ENQCMD:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_PKU:
	case ZYDIS_CATEGORY_POP:
	case ZYDIS_CATEGORY_PUSH:
	case ZYDIS_CATEGORY_RDPID:
	case ZYDIS_CATEGORY_RDWRFSGS:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_STRINGOP:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_UINTR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_WAITPKG:
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT:
		return true;
	default:
		return false;
	}
}

static bool names(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
	ZydisRegisterClass class)
{
	for (int i = 0; i < z->operand_count; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			ZydisRegisterGetClass(ops[i].reg.value) == class)
			return true;
	return false;
}

static enum insn_unit unit_of(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	bool convert = z->meta.category == ZYDIS_CATEGORY_CONVERT &&
		       z->meta.isa_ext != ZYDIS_ISA_EXT_BASE &&
		       z->meta.isa_ext != ZYDIS_ISA_EXT_LONGMODE;

	if (z->meta.isa_ext == ZYDIS_ISA_EXT_X87 || z->mnemonic == ZYDIS_MNEMONIC_FISTTP)
		return UNIT_X87;
	if (convert || z->meta.isa_set == ZYDIS_ISA_SET_SSEMXCSR ||
		names(z, ops, ZYDIS_REGCLASS_XMM) || names(z, ops, ZYDIS_REGCLASS_YMM))
		return vex ? UNIT_AVX : UNIT_SSE;
	if (names(z, ops, ZYDIS_REGCLASS_MMX) || z->meta.isa_ext == ZYDIS_ISA_EXT_MMX)
		return UNIT_MMX;
	return z->meta.isa_ext == ZYDIS_ISA_EXT_AVX ? UNIT_AVX : UNIT_NONE;
}

static void compare_kind(const uint8_t *b, const struct insn *insn,
	const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	bool high = false, fp, copied = insn->class == INSN_COPY || insn->class == INSN_LEA;
	int e = z->meta.exception_class;

	if (copied && is_dangerous(z))
		differ(CLASS, z->mnemonic, insn, b, "copied");
	if (insn->class == INSN_SYSTEM)
		return;
	if (insn->unit != unit_of(z, ops))
		differ(UNIT, z->mnemonic, insn, b, "unit %d", insn->unit);
	fp = e == ZYDIS_EXCEPTION_CLASS_SSE2 || e == ZYDIS_EXCEPTION_CLASS_SSE3 ||
	     e == ZYDIS_EXCEPTION_CLASS_AVX2 || e == ZYDIS_EXCEPTION_CLASS_AVX3 ||
	     e == ZYDIS_EXCEPTION_CLASS_AVX11 || insn->unit == UNIT_X87 || insn->unit == UNIT_MMX;
	if (fp && !insn->may_fault)
		differ(FAULTS, z->mnemonic, insn, b, "class %d", e);
	if (insn->has_mem && e == ZYDIS_EXCEPTION_CLASS_AVX1 && insn->mem_align != insn->mem_size)
		differ(FAULTS, z->mnemonic, insn, b, "align %d", insn->mem_align);
	for (int i = 0; i < z->operand_count; i++)
		high |= ops[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
			ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			ops[i].reg.value >= ZYDIS_REGISTER_AH &&
			ops[i].reg.value <= ZYDIS_REGISTER_BH;
	if (high != insn->high_byte)
		differ(HIGH_BYTE, z->mnemonic, insn, b, "%d", insn->high_byte);
	if (insn->unit == UNIT_NONE && insn->class != INSN_NOP &&
		insn->op_size != z->operand_width / 8)
		differ(OPERAND_SIZE, z->mnemonic, insn, b, "%d, Zydis %d", insn->op_size,
			z->operand_width / 8);
}

/* Without its feature an instruction is undefined; of fewer bytes it wants more. */
static void check_less(const uint8_t *b, const struct insn *insn, int mnemonic)
{
	struct insn less;
	uint64_t all = ALL_FEATURES & ~(1ull << insn->feature);
	uint8_t *copy;

	if (insn->feature != FEAT_BASE && insn_decode(b, 15, all, &less) != DECODE_UD &&
		!(less.class == INSN_COPY && less.rep_ignored))
		differ(MASKED, mnemonic, insn, b, "feature %d", insn->feature);
	if (insn_decode(b, insn->len, ALL_FEATURES, &less) != DECODE_OK || less.len != insn->len)
		differ(TRUNCATED, mnemonic, insn, b, "exact length");
	copy = malloc(insn->len - 1);
	memcpy(copy, b, insn->len - 1);
	if (insn_decode(copy, insn->len - 1, ALL_FEATURES, &less) != DECODE_SHORT)
		differ(TRUNCATED, mnemonic, insn, b, "one byte less");
	free(copy);
}

static void check(const uint8_t *b)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct insn insn;
	enum decode_result r = insn_decode(b, 16, ALL_FEATURES, &insn);
	bool ok = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, b, 15, &z, ops));
	unsigned rd, wr;

	compared++;
	if (r != DECODE_OK) {
		if (ok && exposed(&z))
			differ(WE_REFUSE, z.mnemonic, &insn, b, "class %d", r);
		return;
	}
	accepted++;
	if (!ok) {
		differ(ZYDIS_REFUSES, insn.map << 8 | insn.opcode | insn.encoding << 12, &insn, b,
			"class %d", insn.class);
		return;
	}
	if (z.length != insn.len) {
		differ(LENGTH, z.mnemonic, &insn, b, "%d, Zydis %d", insn.len, z.length);
		return;
	}
	compare_memory(b, &insn, &z, ops);
	compare_immediate(b, &insn, &z);
	compare_fields(b, &insn, &z);
	compare_kind(b, &insn, &z, ops);
	if (accepted % 8 == 0)
		check_less(b, &insn, z.mnemonic);
	if (insn.class == INSN_NOP)
		return;
	zydis_gprs(&z, ops, &rd, &wr);
	if (rd != insn.gpr_read)
		differ(GPR_READ, z.mnemonic, &insn, b, "%#x, Zydis %#x", insn.gpr_read, rd);
	if (wr != insn.gpr_write)
		differ(GPR_WRITE, z.mnemonic, &insn, b, "%#x, Zydis %#x", insn.gpr_write, wr);
	compare_flags(b, &insn, &z);
}

/* Bytes after the opcode: every ModRM, several SIB bytes, displacement and immediate fillings. */
static const uint8_t tails[][10] = {
	{ 0x24, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x08, 0x99 },
	{ 0x8d, 0xf0, 0xff, 0xff, 0x80, 0x01, 0x90, 0x80, 0xff, 0x10 },
	{ 0xe5, 0x80, 0x00, 0x41, 0x20, 0x0f, 0x81, 0x7f, 0x00, 0xc3 },
};

static void check_tails(const uint8_t *head, unsigned len, unsigned ntails)
{
	uint8_t b[40];

	memset(b, 0, sizeof(b));
	memcpy(b, head, len);
	for (unsigned modrm = 0; modrm < 256; modrm++) {
		/* the SIB byte matters only where there is one */
		unsigned n = (modrm & 7) == 4 && modrm < 0xc0 ? 3 : 1;

		b[len] = modrm;
		for (unsigned t = 0; t < n && t < ntails; t++) {
			memcpy(b + len + 1, tails[(t + modrm) % 3], 10);
			check(b);
		}
	}
}

static void legacy_space(void)
{
	static const struct {
		uint8_t len, bytes[4];
	} prefixes[] = {
		{ 0, { 0 } },
		{ 1, { 0x66 } },
		{ 1, { 0xf2 } },
		{ 1, { 0xf3 } },
		{ 1, { 0x48 } },
		{ 2, { 0x66, 0x48 } },
		{ 2, { 0xf3, 0x48 } },
		{ 2, { 0xf2, 0x48 } },
		{ 1, { 0xf0 } },
		{ 1, { 0x67 } },
		{ 1, { 0x40 } },
		{ 1, { 0x41 } },
		{ 1, { 0x42 } },
		{ 1, { 0x44 } },
		{ 1, { 0x45 } },
		{ 1, { 0x4f } },
		{ 2, { 0x66, 0xf3 } },
		{ 2, { 0xf2, 0x66 } },
		{ 2, { 0xf3, 0xf2 } },
		{ 2, { 0xf2, 0xf3 } },
		{ 2, { 0x65, 0x2e } },
		{ 2, { 0x36, 0x64 } },
		{ 2, { 0x48, 0x66 } },
		{ 2, { 0xf0, 0xf3 } },
		{ 2, { 0xf0, 0x66 } },
		{ 2, { 0xf3, 0x41 } },
		{ 3, { 0x66, 0x67, 0x47 } },
		{ 3, { 0x66, 0xf2, 0x48 } },
		{ 2, { 0x48, 0x41 } },
		{ 2, { 0xf0, 0x48 } },
	};
	static const uint8_t escape[4][2] = { { 0 }, { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a } };
	static const uint8_t escape_len[4] = { 0, 1, 2, 2 };
	uint8_t b[16];

	for (size_t p = 0; p < sizeof(prefixes) / sizeof(prefixes[0]); p++)
		for (unsigned map = 0; map < 4; map++)
			for (unsigned op = 0; op < 256; op++) {
				unsigned len = prefixes[p].len;

				memcpy(b, prefixes[p].bytes, len);
				memcpy(b + len, escape[map], escape_len[map]);
				len += escape_len[map];
				b[len++] = op;
				check_tails(b, len, 3);
			}
	CHECK_EQ(unknown, 0);
}

static void vex_space(void)
{
	static const uint8_t rxb[] = { 0xe0, 0x00, 0xa0 };
	static const uint8_t vvvv[] = { 0x78, 0x00, 0x50 };
	uint8_t b[16] = { 0 };

	for (unsigned i = 0; i < 3 * 3; i++)
		for (unsigned map = 1; map <= 3; map++)
			for (unsigned wlpp = 0; wlpp < 16; wlpp++)
				for (unsigned op = 0; op < 256; op++) {
					b[0] = 0xc4;
					b[1] = rxb[i % 3] | map;
					b[2] = (wlpp & 8) << 4 | vvvv[i / 3] | (wlpp & 7);
					b[3] = op;
					check_tails(b, 4, 2);
				}
	for (unsigned i = 0; i < 3 * 256 * 8; i++) {
		b[0] = 0xc5;
		b[1] = (i & 1) << 7 | vvvv[i / 2048] | (i & 7);
		b[2] = i >> 3;
		check_tails(b, 3, 2);
	}
	CHECK_EQ(unknown, 0);
}

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void random_bytes(void)
{
	static const uint8_t common[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x65, 0x41,
		0x48, 0x4c, 0x0f, 0x0f, 0xc4, 0xc5, 0x3e };

	for (unsigned n = 0; n < 20000000; n++) {
		union {
			uint64_t q[2];
			uint8_t b[16];
		} u = { .q = { rnd(), rnd() } };
		unsigned k = rnd() % 8;

		for (unsigned i = 0; k > 3 && i < k - 3; i++)
			u.b[i] = common[rnd() % sizeof(common)];
		check(u.b);
	}
	CHECK_EQ(unknown, 0);
}

static unsigned long form_count, form_bad;

static void check_form(void *arg, const struct insn_form *form)
{
	uint8_t b[16] = { 0 };
	struct insn insn;

	memcpy(b, form->bytes, form->len);
	form_count++;
	if (insn_decode(b, form->len, ALL_FEATURES, &insn) != DECODE_OK || insn.len != form->len ||
		(insn.has_mem && !form->takes_mem && !insn.has_moffs)) {
		printf("# form %s\n", form->name);
		form_bad++;
	}
	check(b);
}

static void forms(void)
{
	insn_forms(check_form, NULL);
	CHECK_EQ(form_bad, 0);
	CHECK_EQ(unknown, 0);
}

/* A difference that no longer occurs does not belong in the table. */
static void differences(void)
{
	for (size_t i = 0; i < KNOWN; i++) {
		printf("# known: %s: %s (%lu times)\n", kind_name[known[i].kind], known[i].why,
			known_seen[i]);
		CHECK(known_seen[i] > 0);
	}
}

static void report(void)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &slots[i];

		if (!s->used)
			continue;
		printf("# %s: %s (%lu times) e.g.", kind_name[s->kind],
			s->kind == ZYDIS_REFUSES ? "" : ZydisMnemonicGetString(s->mnemonic),
			s->count);
		for (unsigned k = 0; k < 15; k++)
			printf(" %02x", s->bytes[k]);
		printf(": %s\n", s->text);
	}
	printf("# %lu encodings compared, %lu accepted, %lu forms\n", compared, accepted,
		form_count);
}

int main(void)
{
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	RUN(legacy_space);
	RUN(vex_space);
	RUN(random_bytes);
	RUN(forms);
	RUN(differences);
	report();
	return tap_done();
}
#endif
