/* SPDX-License-Identifier: MIT */
/*
 * The code cache. One cache serves all vCPUs; one lock guards translation and the block lists;
 * execution takes no lock. Blocks are keyed by physical address, so that aliases and patches
 * through another mapping are seen; a block that dies keeps its memory until the whole cache is
 * flushed, and only its entry is patched, so a CPU that is inside it leaves in its own time.
 */
#include "engine/soft/code.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/soft/layout.h"
#include "engine/soft/mmu.h"
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THUNK_BYTES 128u

static void *reserve(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, uint64_t bytes)
{
	if (p)
		munmap(p, bytes);
}

static int map_code(struct code *code, struct vz_error *e)
{
	code->fd = memfd_create("vizor-code", MFD_CLOEXEC);
	if (code->fd < 0 || ftruncate(code->fd, CODE_BYTES) < 0)
		return err_set(e, errno, "engine", "no memory for translated code: %s",
			strerror(errno));
	code->rw = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, code->fd, 0);
	code->rx = mmap(NULL, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, code->fd, 0);
	if (code->rw == MAP_FAILED)
		code->rw = NULL;
	if (code->rx == MAP_FAILED)
		code->rx = NULL;
	if ((!code->rw || !code->rx) && errno == ENOMEM)
		return err_set(e, errno, "engine", "no memory for translated code: %s",
			strerror(errno));
	if (!code->rw || !code->rx)
		return err_set(e, errno, "engine",
			"this system refuses executable memory, which the software CPU needs: %s "
			"(see vm.memfd_noexec and any seccomp or SELinux policy)",
			strerror(errno));
	return 0;
}

int code_init(struct engine *engine, struct vz_error *e)
{
	struct code *code = calloc(1, sizeof(*code));
	uint32_t runtime = (uint32_t)(soft_runtime_end - soft_runtime_start);
	unsigned a, b, c, d;
	int r;

	if (!code)
		return err_set(e, ENOMEM, "engine", "out of memory");
	engine->code = code;
	code->fd = -1;
	r = map_code(code, e);
	if (r < 0)
		return r;
	code->npages = mem_size(engine->mem) / MEM_PAGE_SIZE;
	code->blocks = reserve(BLOCKS_MAX * sizeof(struct block));
	code->sites = reserve(SITES_MAX * sizeof(struct site));
	code->buckets = reserve(BUCKETS * sizeof(uint32_t));
	code->page_first = reserve(code->npages * sizeof(uint32_t));
	engine->page_flags = reserve(code->npages);
	if (!code->blocks || !code->sites || !code->buckets || !code->page_first ||
		!engine->page_flags)
		return err_set(e, ENOMEM, "engine", "out of memory");
	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): map_code() has set it */
	memcpy(code->rw, soft_runtime_start, runtime);
	code->first = (runtime + 63) & ~63u;
	for (unsigned i = 0; i < engine->cpus; i++) {
		engine->vcpu[i]->thunk_rw = code->rw + code->first;
		engine->vcpu[i]->thunk_rx = code->rx + code->first;
		code->first += THUNK_BYTES;
	}
	code->hot = code->first;
	code->cold = CODE_HOT_END;
	code->bmi2 = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_BMI2);
	return 0;
}

void code_fini(struct engine *engine)
{
	struct code *code = engine->code;

	if (!code)
		return;
	if (code->rw)
		munmap(code->rw, CODE_BYTES);
	if (code->rx)
		munmap(code->rx, CODE_BYTES);
	if (code->fd >= 0)
		close(code->fd);
	release(code->blocks, BLOCKS_MAX * sizeof(struct block));
	release(code->sites, SITES_MAX * sizeof(struct site));
	release(code->buckets, BUCKETS * sizeof(uint32_t));
	release(code->page_first, code->npages * sizeof(uint32_t));
	release(engine->page_flags, code->npages);
	free(code);
	engine->code = NULL;
}

uint32_t code_site(struct code *code, uint64_t rip, uint32_t host, uint32_t block, unsigned size,
	bool write)
{
	code->sites[code->nsites] = (struct site){ rip, host, block, (uint8_t)size, write };
	return code->nsites++;
}

const struct site *code_find_site(const struct code *code, const void *host)
{
	uint64_t offset = (uint64_t)((const uint8_t *)host - code->rx);
	uint32_t low = 0, high = code->nsites;

	if (offset >= code->hot)
		return NULL;
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (code->sites[mid].host <= offset)
			low = mid + 1;
		else
			high = mid;
	}
	return low ? &code->sites[low - 1] : NULL;
}

/* The block whose entry is at an offset of the cache; blocks are in the order of their code. */
static const struct block *block_at(const struct code *code, uint32_t host)
{
	uint32_t low = 0, high = code->nblocks;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (code->blocks[mid].host < host)
			low = mid + 1;
		else
			high = mid;
	}
	return low < code->nblocks && code->blocks[low].host == host ? &code->blocks[low] : NULL;
}

static unsigned bucket_of(uint64_t phys, uint64_t rip)
{
	return (unsigned)(((phys ^ (rip >> 12) * 0x9e3779b1u) * 0x9e3779b97f4a7c15ull) >> 48) &
	       (BUCKETS - 1);
}

/*
 * --- death
 * ------------------------------------------------------------------------------------------
 */

/* Make the aligned entry of a block a jump. Nobody can be inside the five-byte nop that it was. */
static void patch_entry(struct code *code, const struct block *block, uint32_t target)
{
	uint64_t *entry = (uint64_t *)(code->rw + block->host), word = *entry;
	uint32_t rel = target - (block->host + 5);

	((uint8_t *)&word)[0] = 0xe9;
	memcpy((uint8_t *)&word + 1, &rel, 4);
	__atomic_store_n(entry, word, __ATOMIC_SEQ_CST);
}

static void kill_block(struct code *code, struct block *block)
{
	_Atomic uint32_t *link = &code->buckets[bucket_of(block->phys, block->rip)];
	uint32_t number = (uint32_t)(block - code->blocks) + 1;

	if (atomic_load(&block->dead))
		return;
	code->count_killed++;
	atomic_store(&block->dead, true);
	patch_entry(code, block, block->dead_stub);
	while (*link != number)
		link = (_Atomic uint32_t *)&code->blocks[*link - 1].hash_next;
	*link = block->hash_next;
}

/* Which of its two pages' lists is this? */
static unsigned side(const struct block *block, uint64_t page)
{
	return block->phys >> 12 == page ? 0 : 1;
}

static bool overlaps(const struct block *block, uint64_t offset, uint64_t end)
{
	uint64_t room = MEM_PAGE_SIZE - (block->phys & 0xfff);
	uint64_t first = MIN((uint64_t)block->len, room);

	if (block->phys < end && offset < block->phys + first)
		return true;
	return block->crosses && block->phys2 < end && offset < block->phys2 + block->len - first;
}

static void written_page(struct engine *engine, uint64_t page, uint64_t offset, uint64_t end)
{
	struct code *code = engine->code;
	uint32_t *link = &code->page_first[page];

	while (*link) {
		struct block *block = &code->blocks[*link - 1];

		if (overlaps(block, offset, end))
			kill_block(code, block);
		if (atomic_load(&block->dead))
			*link = block->page_next[side(block, page)];
		else
			link = &block->page_next[side(block, page)];
	}
	if (!code->page_first[page])
		atomic_fetch_and(&engine->page_flags[page], (uint8_t)~PAGE_CODE);
}

void code_written(struct engine *engine, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len;
	bool locked = false;

	for (uint64_t page = offset >> 12; page << 12 < end && page < engine->code->npages;
		page++) {
		if (!(atomic_load(&engine->page_flags[page]) & PAGE_CODE))
			continue;
		if (!locked)
			pthread_mutex_lock(&engine->lock);
		locked = true;
		written_page(engine, page, offset, end);
	}
	if (locked)
		pthread_mutex_unlock(&engine->lock);
}

void code_flush(struct engine *engine)
{
	struct code *code = engine->code;

	for (uint32_t i = 0; i < code->nblocks; i++) {
		const struct block *block = &code->blocks[i];

		for (unsigned s = 0; s <= block->crosses; s++) {
			uint64_t page = (s ? block->phys2 : block->phys) >> 12;

			code->page_first[page] = 0;
			atomic_fetch_and(&engine->page_flags[page], (uint8_t)~PAGE_CODE);
		}
	}
	madvise((void *)code->buckets, BUCKETS * sizeof(uint32_t), MADV_DONTNEED);
	code->nblocks = code->nsites = 0;
	code->hot = code->first;
	code->cold = CODE_HOT_END;
	code->generation++;
	for (unsigned i = 0; i < engine->cpus; i++)
		soft_tlb_flush(engine->vcpu[i], true);
}

/*
 * --- lookup
 * -----------------------------------------------------------------------------------------
 */

struct key {
	uint64_t rip, phys;
	uint8_t mode;
};

/* Physical address and mode of the code at cpu->rip. *host: its bytes. */
static bool find_key(struct vcpu *cpu, struct key *key, const uint8_t **host)
{
	bool user = cpu->cpl == 3;
	uint64_t va = cpu->rip;
	typeof(&cpu->itlb[0]) entry = &cpu->itlb[(va >> 12) & 63];
	struct walk walk;

	if (entry->va != (va & ~0xfffull) || entry->user != user) {
		if (!mmu_walk(cpu, va, ACCESS_FETCH, user, &walk))
			return false;
		if (!walk.host)
			/* code in a device: no such thing here */
			return soft_raise_error(cpu, EXC_GP, 0);
		entry->va = va & ~0xfffull;
		entry->pa = (uint64_t)(walk.host - (va & 0xfff));
		entry->user = user;
		entry->global = walk.global;
		entry->large = walk.large;
	}
	*host = (const uint8_t *)entry->pa + (va & 0xfff);
	key->rip = va;
	key->phys = mmu_offset(cpu->engine, *host);
	key->mode = soft_units(cpu) | (user ? MODE_USER : 0) | (entry->large ? MODE_LARGE : 0);
	return true;
}

/* A block that crosses is good only while its second page is where it was. */
static bool second_page(struct vcpu *cpu, uint64_t *phys2, const uint8_t **host)
{
	struct walk walk;

	if (!mmu_walk(cpu, (cpu->rip & ~0xfffull) + MEM_PAGE_SIZE, ACCESS_FETCH, cpu->cpl == 3,
		    &walk))
		return false;
	if (!walk.host)
		return soft_raise_error(cpu, EXC_GP, 0);
	*host = walk.host;
	*phys2 = mmu_offset(cpu->engine, walk.host);
	return true;
}

/* 1: found; 0: there is none; -1: fault raised. */
static int find_block(struct vcpu *cpu, const struct key *key, struct block **found)
{
	struct code *code = cpu->engine->code;
	uint32_t number = atomic_load_explicit(&code->buckets[bucket_of(key->phys, key->rip)],
		memory_order_acquire);

	for (; number; number = code->blocks[number - 1].hash_next) {
		struct block *block = &code->blocks[number - 1];
		const uint8_t *host;
		uint64_t phys2 = 0;

		if (block->phys != key->phys || block->rip != key->rip ||
			block->mode != key->mode || atomic_load(&block->dead))
			continue;
		if (block->crosses) {
			if (!second_page(cpu, &phys2, &host))
				return -1;
			if (phys2 != block->phys2)
				continue;
		}
		*found = block;
		return 1;
	}
	return 0;
}

/*
 * Say that a page holds code before its bytes are read. If a vCPU may have a write tag for it,
 * all of them stop and lose it.
 */
static void mark_code(struct engine *engine, struct vcpu *cpu, uint64_t phys)
{
	_Atomic uint8_t *flags = &engine->page_flags[phys >> 12];

	if (!(atomic_fetch_or(flags, PAGE_CODE) & PAGE_TAGGED))
		return;
	exclusive_begin(engine, cpu);
	for (unsigned i = 0; i < engine->cpus; i++)
		soft_tlb_drop_write(engine->vcpu[i], phys & ~0xfffull);
	atomic_fetch_and(flags, (uint8_t)~PAGE_TAGGED);
	exclusive_end(engine);
}

static void insert_block(struct code *code, struct block *block)
{
	uint32_t number = (uint32_t)(block - code->blocks) + 1;
	_Atomic uint32_t *bucket = &code->buckets[bucket_of(block->phys, block->rip)];

	for (unsigned s = 0; s <= block->crosses; s++) {
		uint64_t page = (s ? block->phys2 : block->phys) >> 12;

		block->page_next[s] = code->page_first[page];
		code->page_first[page] = number;
	}
	block->hash_next = *bucket;
	atomic_store_explicit(bucket, number, memory_order_release);
}

/* With the lock held. NULL: fault raised. */
static struct block *make_block(struct vcpu *cpu, const struct key *key, const uint8_t *host)
{
	struct engine *engine = cpu->engine;
	struct code *code = engine->code;
	uint8_t bytes[BLOCK_INSNS * INSN_MAX_LEN + INSN_MAX_LEN];
	unsigned avail = MEM_PAGE_SIZE - (key->phys & 0xfff);
	struct block *block;
	struct insn first;

	if (code->hot + TRANSLATE_ROOM > CODE_HOT_END || code->cold + TRANSLATE_ROOM > CODE_BYTES ||
		code->nblocks == BLOCKS_MAX || code->nsites + 16 * BLOCK_INSNS > SITES_MAX) {
		exclusive_begin(engine, cpu);
		code_flush(engine);
		exclusive_end(engine);
	}
	avail = MIN(avail, (unsigned)(BLOCK_INSNS * INSN_MAX_LEN));
	mark_code(engine, cpu, key->phys);
	memcpy(bytes, host, avail);
	block = &code->blocks[code->nblocks];
	*block = (struct block){ .rip = key->rip, .phys = key->phys, .mode = key->mode };
	if (insn_decode(bytes, avail, engine->features, &first) == DECODE_SHORT) {
		if (!second_page(cpu, &block->phys2, &host))
			return NULL;
		mark_code(engine, cpu, block->phys2);
		memcpy(bytes + avail, host, INSN_MAX_LEN);
		avail += INSN_MAX_LEN;
		block->crosses = true;
	}
	translate_block(engine, block, bytes, avail);
	code->nblocks++;
	code->count_translated++;
	insert_block(code, block);
	return block;
}

/* global: the entry outlives a change of address space. */
static void remember_branch(struct vcpu *cpu, uint64_t entry, bool global)
{
	bool user = cpu->cpl == 3;
	unsigned index = cpu->rip & (BRANCH_SIZE - 1);

	if (cpu->branch_logged[global] == BRANCH_SIZE)
		soft_tlb_flush(cpu, true);
	cpu->branch_log[global][cpu->branch_logged[global]++] = index | (uint32_t)user << 16;
	cpu->branch_tag[user][index] = cpu->rip;
	cpu->branch_host[user][index] = entry;
	soft_tlb_exec_page(cpu, cpu->rip);
}

uint64_t code_lookup(struct vcpu *cpu)
{
	struct engine *engine = cpu->engine;
	struct block *block = NULL;
	const uint8_t *host = NULL;
	struct key key;
	int found;

	if (!find_key(cpu, &key, &host))
		return 0;
	found = find_block(cpu, &key, &block);
	if (found < 0)
		return 0;
	if (!found) {
		soft_fpu_park(cpu);
		soft_not_running(cpu);
		pthread_mutex_lock(&engine->lock);
		/*
		 * Only the holder of the lock makes the others stop, so nobody waits for this CPU
		 * now.
		 */
		atomic_store(&cpu->running, 1);
		found = find_block(cpu, &key, &block);
		if (!found)
			block = make_block(cpu, &key, host);
		pthread_mutex_unlock(&engine->lock);
		if (found < 0 || !block)
			return 0;
	}
	uint64_t entry = (uint64_t)(engine->code->rx + block->host);

	remember_branch(cpu, entry, cpu->itlb[(cpu->rip >> 12) & 63].global && !block->crosses);
	return entry;
}

void code_link(struct vcpu *cpu)
{
	struct engine *engine = cpu->engine;
	struct code *code = engine->code;
	uint64_t generation = code->generation;
	const struct site from = code->sites[cpu->site];
	const struct block *source, *target;
	uint64_t entry;

	cpu->rip = from.rip;
	entry = code_lookup(cpu);
	if (!entry)
		return;
	soft_fpu_park(cpu);
	soft_not_running(cpu);
	pthread_mutex_lock(&engine->lock);
	atomic_store(&cpu->running, 1);
	if (generation == code->generation) {
		source = &code->blocks[from.block];
		target = block_at(code, (uint32_t)((const uint8_t *)entry - code->rx));
		if (!target || target->mode != source->mode || target->crosses ||
			atomic_load(&target->dead) ||
			target->phys - source->phys != target->rip - source->rip)
			target = NULL;
		if (target && cpu->exit == EXIT_DEAD && target->rip == source->rip)
			patch_entry(code, source, target->host);
		else if (target && cpu->exit == EXIT_LINK && !atomic_load(&source->dead))
			__atomic_store_n((uint32_t *)(code->rw + from.host + 1),
				target->host - (from.host + 5), __ATOMIC_SEQ_CST);
	}
	pthread_mutex_unlock(&engine->lock);
}
