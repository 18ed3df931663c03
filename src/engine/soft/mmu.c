/* SPDX-License-Identifier: MIT */
/*
 * Memory of the software CPU: four-level page walks (Intel SDM volume 3, chapter 4), the software
 * TLB that translated code looks into, and checked accesses for C helpers.
 *
 * A tag holds the page address; address ^ tag is the offset in the page when it matches and at
 * least 4096 when it does not. A write tag exists only for a RAM page that is writable, dirty,
 * and holds no translated code, so every other write comes here.
 */
#include "engine/soft/mmu.h"

#define PTE_P           0x1ull
#define PTE_W           0x2ull
#define PTE_U           0x4ull
#define PTE_A           0x20ull
#define PTE_D           0x40ull
#define PTE_PS          0x80ull
#define PTE_G           0x100ull
#define PTE_NX          (1ull << 63)
#define PTE_ADDR        0x000ffffffffff000ull
#define PHYS_BITS       46
#define PTE_BEYOND      (PTE_ADDR & ~((1ull << PHYS_BITS) - 1))

#define PF_P            1u
#define PF_W            2u
#define PF_U            4u
#define PF_RSVD         8u
#define PF_I            16u

#define EXEC_BITS       (64u * 1024)

#define TAG_NONE(index) ((index) ? 0 : 0x1000ull) /* matches no address of that index */

bool soft_canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

uint8_t *mmu_ram(const struct engine *engine, uint64_t pa)
{
	for (unsigned i = 0; i < engine->nram; i++)
		if (pa - engine->ram[i].gpa < engine->ram[i].size)
			return engine->ram[i].host + (pa - engine->ram[i].gpa);
	return NULL;
}

uint64_t mmu_offset(const struct engine *engine, const uint8_t *host)
{
	for (unsigned i = 0; i < engine->nram; i++)
		if ((uint64_t)(host - engine->ram[i].host) < engine->ram[i].size)
			return engine->ram[i].offset + (uint64_t)(host - engine->ram[i].host);
	return 0;
}

static bool page_fault(struct vcpu *cpu, uint64_t va, enum access access, bool user, uint32_t bits)
{
	if (access == ACCESS_WRITE)
		bits |= PF_W;
	if (user)
		bits |= PF_U;
	if (access == ACCESS_FETCH && ((cpu->efer & EFER_NXE) || (cpu->cr4 & CR4_SMEP)))
		bits |= PF_I;
	return soft_raise_pf(cpu, va, bits);
}

/* Bits that must be zero in an entry of a level (4 = PML4 … 1 = page table). */
static uint64_t reserved_bits(const struct vcpu *cpu, unsigned level, bool large)
{
	uint64_t bits = PTE_BEYOND;

	if (!(cpu->efer & EFER_NXE))
		bits |= PTE_NX;
	if (level == 4)
		bits |= PTE_PS;
	if (large)
		bits |= level == 3 ? 0x3fffe000ull : 0x1fe000ull;
	return bits;
}

/*
 * The entries of one walk, so that accessed and dirty bits are set only when the access is allowed.
 */
struct path {
	_Atomic uint64_t *entry[4];
	uint64_t seen[4];
	unsigned n;
};

/* False: an entry changed under us, walk again. */
static bool set_accessed(struct path *path, bool dirty)
{
	for (unsigned i = 0; i < path->n; i++) {
		uint64_t want = path->seen[i] | PTE_A;

		if (dirty && i == path->n - 1)
			want |= PTE_D;
		if (want == path->seen[i])
			continue;
		if (!atomic_compare_exchange_strong(path->entry[i], &path->seen[i], want))
			return false;
		path->seen[i] = want;
	}
	return true;
}

bool mmu_walk(struct vcpu *cpu, uint64_t va, enum access access, bool user, struct walk *walk)
{
	struct path path;
	uint64_t table, rights, nx, entry = 0;
	unsigned level;
	bool wp_ok;

	if (!(cpu->cr0 & CR0_PG)) {
		walk->pa = va;
		walk->host = mmu_ram(cpu->engine, va);
		walk->large = walk->global = false;
		walk->dirty = true;
		return true;
	}
	if (!soft_canonical(va)) {
		soft_raise_error(cpu, EXC_GP, 0);
		cpu->fault.address = va; /* tells it from other reasons for #GP(0) */
		return false;
	}
again:
	path.n = 0;
	table = cpu->cr3 & PTE_ADDR;
	rights = PTE_W | PTE_U;
	nx = 0;
	for (level = 4;; level--) {
		uint8_t *host = mmu_ram(cpu->engine, table);
		bool large;

		if (!host)
			return page_fault(cpu, va, access, user, 0);
		path.entry[path.n] = (_Atomic uint64_t *)host + ((va >> (3 + 9 * level)) & 511);
		entry = atomic_load_explicit(path.entry[path.n], memory_order_relaxed);
		path.seen[path.n++] = entry;
		if (!(entry & PTE_P))
			return page_fault(cpu, va, access, user, 0);
		large = (level == 2 || level == 3) && (entry & PTE_PS);
		if (entry & reserved_bits(cpu, level, large))
			return page_fault(cpu, va, access, user, PF_P | PF_RSVD);
		rights &= entry;
		nx |= entry & PTE_NX;
		if (large || level == 1)
			break;
		table = entry & PTE_ADDR;
	}

	wp_ok = (rights & PTE_W) || (!user && !(cpu->cr0 & CR0_WP));
	if ((user && !(rights & PTE_U)) || (access == ACCESS_WRITE && !wp_ok) ||
		(access == ACCESS_FETCH &&
			(nx || (!user && (rights & PTE_U) && (cpu->cr4 & CR4_SMEP)))))
		return page_fault(cpu, va, access, user, PF_P);
	if (!set_accessed(&path, access == ACCESS_WRITE))
		goto again;

	walk->large = level > 1;
	walk->global = (entry & PTE_G) && (cpu->cr4 & CR4_PGE);
	walk->dirty = wp_ok && (path.seen[path.n - 1] & PTE_D);
	uint64_t mask = (1ull << (3 + 9 * level)) - 1;
	walk->pa = (entry & PTE_ADDR & ~mask) | (va & mask);
	walk->host = mmu_ram(cpu->engine, walk->pa);
	return true;
}

bool soft_translate(struct vcpu *cpu, uint64_t va, enum access access, bool user, uint64_t *pa,
	uint8_t **host, bool *large, bool *global)
{
	struct walk walk;

	if (!mmu_walk(cpu, va, access, user, &walk))
		return false;
	*pa = walk.pa;
	*host = walk.host;
	if (large)
		*large = walk.large;
	if (global)
		*global = walk.global;
	return true;
}

/*
 * --- TLB
 * -------------------------------------------------------------------------------------------
 */

static void tlb_clear(struct vcpu *cpu, bool user, unsigned index)
{
	cpu->tags[user][0][index] = TAG_NONE(index);
	cpu->tags[user][1][index] = TAG_NONE(index);
}

static void tlb_drain(struct vcpu *cpu, uint32_t *log, uint32_t *count)
{
	for (uint32_t i = 0; i < *count; i++)
		tlb_clear(cpu, log[i] >> 16, log[i] & (TLB_SIZE - 1));
	*count = 0;
}

static void branch_drain(struct vcpu *cpu, bool global)
{
	const uint32_t *log = cpu->branch_log[global];

	for (uint32_t i = 0; i < cpu->branch_logged[global]; i++) {
		unsigned index = log[i] & (BRANCH_SIZE - 1);

		cpu->branch_tag[log[i] >> 16][index] = index + 1;
	}
	cpu->branch_logged[global] = 0;
}

static void branch_flush(struct vcpu *cpu)
{
	branch_drain(cpu, false);
	branch_drain(cpu, true);
	for (unsigned i = 0; i < EXEC_BITS / 64; i++)
		cpu->exec_pages[i] = 0;
}

void soft_tlb_flush(struct vcpu *cpu, bool global)
{
	cpu->count_flush++;
	tlb_drain(cpu, cpu->tlb_log, &cpu->tlb_logged);
	if (global) {
		tlb_drain(cpu, cpu->global_log, &cpu->global_logged);
		for (unsigned i = 0; i < 16; i++)
			cpu->large_pages[i] = 0;
		branch_flush(cpu);
	}
	branch_drain(cpu, false);
	for (unsigned i = 0; i < 64; i++)
		if (global || !cpu->itlb[i].global)
			cpu->itlb[i].va = 1;
}

static bool bloom_test(const uint64_t *words, unsigned bits, uint64_t key)
{
	unsigned bit = (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 40) & (bits - 1);

	return words[bit / 64] >> (bit % 64) & 1;
}

static void bloom_set(uint64_t *words, unsigned bits, uint64_t key)
{
	unsigned bit = (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 40) & (bits - 1);

	words[bit / 64] |= 1ull << (bit % 64);
}

void soft_tlb_exec_page(struct vcpu *cpu, uint64_t va)
{
	bloom_set(cpu->exec_pages, EXEC_BITS, va >> 12);
}

void soft_tlb_invlpg(struct vcpu *cpu, uint64_t va)
{
	unsigned first = (va >> 12) & (TLB_SIZE - 1), count = 1;
	bool large = bloom_test(cpu->large_pages, 16 * 64, va >> 21);

	if (large) {
		first &= ~511u;
		count = 512;
	}
	for (unsigned i = first; i < first + count; i++) {
		tlb_clear(cpu, false, i);
		tlb_clear(cpu, true, i);
	}
	/* An instruction at the end of the page before may reach into this one. */
	if (large || bloom_test(cpu->exec_pages, EXEC_BITS, va >> 12) ||
		bloom_test(cpu->exec_pages, EXEC_BITS, (va >> 12) - 1))
		branch_flush(cpu);
	for (unsigned i = 0; i < 64; i++)
		if (large ? cpu->itlb[i].va >> 21 == va >> 21 : cpu->itlb[i].va >> 12 == va >> 12)
			cpu->itlb[i].va = 1;
}

void soft_tlb_drop_write(struct vcpu *cpu, uint64_t page)
{
	const uint32_t *logs[2] = { cpu->tlb_log, cpu->global_log };
	const uint32_t counts[2] = { cpu->tlb_logged, cpu->global_logged };

	for (unsigned l = 0; l < 2; l++)
		for (uint32_t i = 0; i < counts[l]; i++) {
			unsigned user = logs[l][i] >> 16, index = logs[l][i] & (TLB_SIZE - 1);
			const uint8_t *host = (const uint8_t *)cpu->host[user][index];

			if (host && cpu->tags[user][1][index] != TAG_NONE(index) &&
				mmu_offset(cpu->engine, host) == page)
				cpu->tags[user][1][index] = TAG_NONE(index);
		}
}

static void tlb_remember(struct vcpu *cpu, uint32_t entry, bool global)
{
	if (cpu->tlb_logged == TLB_LOG || cpu->global_logged == TLB_LOG)
		soft_tlb_flush(cpu, true);
	if (global)
		cpu->global_log[cpu->global_logged++] = entry;
	else
		cpu->tlb_log[cpu->tlb_logged++] = entry;
}

/*
 * May this RAM page have a write tag? The bit that says "tagged" is set before the bit that says
 * "code" is looked at; the translator does the two in the other order, so one of them sees the
 * other.
 */
static bool page_taggable(struct engine *engine, const uint8_t *host)
{
	_Atomic uint8_t *flags = &engine->page_flags[mmu_offset(engine, host) >> 12];
	uint8_t now = atomic_load(flags);

	if (now & PAGE_CODE)
		return false;
	if (now & PAGE_TAGGED)
		return true;
	return !(atomic_fetch_or(flags, PAGE_TAGGED) & PAGE_CODE);
}

bool mmu_fill(struct vcpu *cpu, uint64_t va, bool write, bool user, struct walk *walk)
{
	unsigned index = (va >> 12) & (TLB_SIZE - 1);
	uint64_t page = va & ~0xfffull;
	uint8_t *host;
	bool taggable;

	if (!mmu_walk(cpu, va, write ? ACCESS_WRITE : ACCESS_READ, user, walk))
		return false;
	if (!walk->host)
		return true;
	host = walk->host - (va & 0xfff);
	taggable = walk->dirty && page_taggable(cpu->engine, host);
	cpu->count_fills++;
	tlb_remember(cpu, index | (uint32_t)user << 16, walk->global);
	if (walk->large)
		bloom_set(cpu->large_pages, 16 * 64, va >> 21);
	cpu->host[user][index] = (uint64_t)host;
	cpu->tags[user][0][index] = page;
	cpu->tags[user][1][index] = taggable ? page : TAG_NONE(index);
	if (write && !taggable)
		walk->host = NULL;
	return true;
}

/*
 * --- checked accesses
 * -------------------------------------------------------------------------------
 */

/* One page's part of an access. */
struct piece {
	uint8_t *host;
	uint64_t pa;
	unsigned len;
};

/*
 * Split [va, va + size) at the page border and translate both parts: 1 or 2, or 0 with a fault
 * raised.
 */
static unsigned pieces(struct vcpu *cpu, uint64_t va, unsigned size, enum access access, bool user,
	struct piece piece[2])
{
	unsigned n = 0;

	while (size) {
		unsigned len = MEM_PAGE_SIZE - (va & 0xfff);
		struct walk walk;

		if (len > size)
			len = size;
		if (!mmu_walk(cpu, va, access, user, &walk))
			return 0;
		piece[n++] = (struct piece){ walk.host, walk.pa, len };
		va += len;
		size -= len;
	}
	return n;
}

static unsigned device_width(uint64_t pa, unsigned len)
{
	unsigned width = 8;

	while (width > len || (pa & (width - 1)))
		width /= 2;
	return width;
}

static void device_read(struct vcpu *cpu, uint64_t pa, uint8_t *to, unsigned len)
{
	while (len) {
		unsigned width = device_width(pa, len);
		uint64_t v = soft_board_read(cpu, false, pa, width);

		soft_copy(to, &v, width);
		to += width;
		pa += width;
		len -= width;
	}
}

static void device_write(struct vcpu *cpu, uint64_t pa, const uint8_t *from, unsigned len)
{
	while (len) {
		unsigned width = device_width(pa, len);
		uint64_t v = 0;

		soft_copy(&v, from, width);
		soft_board_write(cpu, false, pa, width, v);
		from += width;
		pa += width;
		len -= width;
	}
}

/*
 * Loads and stores as wide as the guest's, so that other CPUs never see half of one; at any
 * alignment.
 */
#define UNALIGNED(bits)           \
	struct unaligned##bits {  \
		uint##bits##_t v; \
	} __attribute__((packed, may_alias))
UNALIGNED(16);
UNALIGNED(32);
UNALIGNED(64);

static void move(void *to, const void *from, unsigned len)
{
	switch (len) {
	case 8:
		((volatile struct unaligned64 *)to)->v =
			((const volatile struct unaligned64 *)from)->v;
		break;
	case 4:
		((volatile struct unaligned32 *)to)->v =
			((const volatile struct unaligned32 *)from)->v;
		break;
	case 2:
		((volatile struct unaligned16 *)to)->v =
			((const volatile struct unaligned16 *)from)->v;
		break;
	case 1:
		*(volatile uint8_t *)to = *(const volatile uint8_t *)from;
		break;
	default:
		soft_copy(to, from, len);
	}
}

void mmu_wrote(struct vcpu *cpu, uint8_t *host, unsigned len)
{
	struct engine *engine = cpu->engine;
	uint64_t offset = mmu_offset(engine, host);

	/* Looked at after the store: see page_taggable. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!(atomic_load(&engine->page_flags[offset >> 12]) & PAGE_CODE))
		return;
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	code_written(engine, offset, len);
	soft_running(cpu);
}

bool soft_read(struct vcpu *cpu, uint64_t va, void *to, unsigned size, bool user)
{
	const uint8_t *hit = tlb_hit(cpu, va, size, false, user);
	struct piece piece[2];
	uint8_t *out = to;
	unsigned n;

	if (hit) {
		move(to, hit, size);
		return true;
	}
	n = pieces(cpu, va, size, ACCESS_READ, user, piece);
	for (unsigned i = 0; i < n; i++) {
		if (piece[i].host)
			move(out, piece[i].host, piece[i].len);
		else
			device_read(cpu, piece[i].pa, out, piece[i].len);
		out += piece[i].len;
	}
	return n;
}

bool soft_write(struct vcpu *cpu, uint64_t va, const void *from, unsigned size, bool user)
{
	uint8_t *hit = tlb_hit(cpu, va, size, true, user);
	struct piece piece[2];
	const uint8_t *in = from;
	unsigned n;

	if (hit) {
		move(hit, from, size);
		return true;
	}
	n = pieces(cpu, va, size, ACCESS_WRITE, user, piece);
	for (unsigned i = 0; i < n; i++) {
		if (piece[i].host) {
			move(piece[i].host, in, piece[i].len);
			mmu_wrote(cpu, piece[i].host, piece[i].len);
		} else {
			device_write(cpu, piece[i].pa, in, piece[i].len);
		}
		in += piece[i].len;
	}
	return n;
}

bool soft_probe(struct vcpu *cpu, uint64_t va, unsigned size, enum access access, bool user)
{
	for (;;) {
		unsigned len = MEM_PAGE_SIZE - (va & 0xfff);
		struct walk walk;

		if (!mmu_walk(cpu, va, access, user, &walk))
			return false;
		if (len >= size)
			return true;
		va += len;
		size -= len;
	}
}

bool soft_read_u64(struct vcpu *cpu, uint64_t va, uint64_t *v, bool user)
{
	return soft_read(cpu, va, v, sizeof(*v), user);
}

bool soft_write_u64(struct vcpu *cpu, uint64_t va, uint64_t v, bool user)
{
	return soft_write(cpu, va, &v, sizeof(v), user);
}
