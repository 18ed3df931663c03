/* SPDX-License-Identifier: MIT */
/*
 * Kernel loaders: small kernels made here, in every compression, go through boot_open and
 * boot_load; damaged ones are refused with an error that names the damage.
 */
#include "base/arith.h"
#include "base/le.h"
#include "boot/boot.h"
#include "tap.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_LZMA
#include <lzma.h>
#endif
#ifdef HAVE_LZ4
#include <lz4.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif
#ifdef HAVE_BZIP2
#include <bzlib.h>
#endif

#define SETUP_SIZE 0x400
#define TEXT       0x1000000ull
#define DATA       0x1010000ull
#define RAM        (64 * MiB)

struct bytes {
	uint8_t *p;
	size_t len;
};

static uint32_t seed = 1;

static uint32_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed;
}

/* Pattern of the segments: compressible, but no two places alike. */
static uint8_t pattern(size_t i)
{
	return (uint8_t)(i % 251 ^ i >> 12);
}

/* text at 16 MiB, and data that is further away in the file than in memory: it has to move. */
static struct bytes make_elf(size_t text_size)
{
	size_t data_at = align_up(0x1000 + text_size, 0x1000) + 0x9000, len = data_at + 0x1800;
	uint64_t data = align_up(TEXT + text_size, 0x10000);
	struct bytes b = { calloc(1, len), len };
	Elf64_Ehdr h = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = 1,
		.e_entry = TEXT + 0x10,
		.e_phoff = 64,
		.e_ehsize = 64,
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
	};
	Elf64_Phdr ph[3] = {
		{ PT_LOAD, 5, 0x1000, 0xffffffff81000000, TEXT, text_size, text_size, 0x1000 },
		{ PT_LOAD, 6, data_at, 0, data, 0x1800, 0x5000, 0x1000 },
		{ PT_NOTE, 4, 0x200, 0, 0, 0, 0, 4 },
	};

	memcpy(b.p, &h, sizeof(h));
	memcpy(b.p + 64, ph, sizeof(ph));
	for (size_t i = 0x1000; i < len; i++)
		b.p[i] = pattern(i);
	return b;
}

static void add_note(struct bytes elf, const char *name, uint32_t type, uint64_t value)
{
	uint8_t *n = elf.p + 0x200;
	uint32_t name_len = (uint32_t)strlen(name) + 1;
	Elf64_Phdr *ph = (Elf64_Phdr *)(elf.p + 64) + 2;

	le32_store(n, name_len);
	le32_store(n + 4, 8);
	le32_store(n + 8, type);
	memcpy(n + 12, name, name_len);
	le64_store(n + 12 + align_up(name_len, 4), value);
	ph->p_filesz = 12 + align_up(name_len, 4) + 8;
}

typedef size_t pack_fn(uint8_t *to, size_t room, struct bytes from);

#ifdef HAVE_ZLIB
static size_t pack_gzip(uint8_t *to, size_t room, struct bytes from)
{
	z_stream z = { .next_in = from.p,
		.avail_in = (uInt)from.len,
		.next_out = to,
		.avail_out = (uInt)room };

	deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
	deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return z.total_out;
}
#endif

#ifdef HAVE_LZMA
static size_t pack_xz(uint8_t *to, size_t room, struct bytes from)
{
	lzma_options_lzma opt;
	lzma_filter filters[] = { { LZMA_FILTER_X86, NULL }, { LZMA_FILTER_LZMA2, &opt },
		{ LZMA_VLI_UNKNOWN, NULL } };
	size_t at = 0;

	lzma_lzma_preset(&opt, 1);
	if (lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, from.p, from.len, to, &at,
		    room) != LZMA_OK)
		abort();
	return at;
}

static size_t pack_lzma(uint8_t *to, size_t room, struct bytes from)
{
	lzma_stream z = LZMA_STREAM_INIT;
	lzma_options_lzma opt;

	lzma_lzma_preset(&opt, 1);
	if (lzma_alone_encoder(&z, &opt) != LZMA_OK)
		abort();
	z.next_in = from.p;
	z.avail_in = from.len;
	z.next_out = to;
	z.avail_out = room;
	if (lzma_code(&z, LZMA_FINISH) != LZMA_STREAM_END)
		abort();
	lzma_end(&z);
	return z.total_out;
}
#endif

#ifdef HAVE_LZ4
static size_t pack_lz4(uint8_t *to, size_t room, struct bytes from)
{
	size_t at = 4;

	le32_store(to, 0x184c2102);
	for (size_t done = 0; done < from.len; done += 8 << 20) {
		int n = LZ4_compress_default((char *)from.p + done, (char *)to + at + 4,
			(int)MIN(from.len - done, (size_t)8 << 20), (int)(room - at - 4));

		le32_store(to + at, (uint32_t)n);
		at += 4 + (size_t)n;
	}
	return at;
}
#endif

#ifdef HAVE_ZSTD
static size_t pack_zstd(uint8_t *to, size_t room, struct bytes from)
{
	return ZSTD_compress(to, room, from.p, from.len, 3);
}
#endif

#ifdef HAVE_BZIP2
static size_t pack_bzip2(uint8_t *to, size_t room, struct bytes from)
{
	unsigned n = (unsigned)room;

	BZ2_bzBuffToBuffCompress((char *)to, &n, (char *)from.p, (unsigned)from.len, 1, 0, 0);
	return n;
}
#endif

static const struct packer {
	const char *name;
	pack_fn *pack;
	bool own_size; /* ends in the size by itself */
} packers[] = {
#ifdef HAVE_LZ4
	{ "lz4", pack_lz4, false },
#endif
#ifdef HAVE_ZLIB
	{ "gzip", pack_gzip, true },
#endif
#ifdef HAVE_LZMA
	{ "xz", pack_xz, false }, { "lzma", pack_lzma, false },
#endif
#ifdef HAVE_ZSTD
	{ "zstd", pack_zstd, false },
#endif
#ifdef HAVE_BZIP2
	{ "bzip2", pack_bzip2, false },
#endif
	{ NULL, NULL, false }, /* a build without any library still has the other tests */
};
#define NPACKERS (ARRAY_SIZE(packers) - 1)

static struct bytes make_bzimage(const struct packer *packer, struct bytes elf)
{
	size_t room = SETUP_SIZE + elf.len * 2 + 65536, n;
	struct bytes b = { calloc(1, room), 0 };

	b.p[0x1f1] = SETUP_SIZE / 512 - 1;
	le16_store(b.p + 0x1fe, 0xaa55);
	b.p[0x200] = 0xeb;
	b.p[0x201] = 0x6a;
	le32_store(b.p + 0x202, 0x53726448); /* HdrS */
	le16_store(b.p + 0x206, 0x20f);
	b.p[0x211] = 0x01;
	le32_store(b.p + 0x22c, 0x7fffffff);
	le16_store(b.p + 0x236, 0x7f);
	le32_store(b.p + 0x238, 2047);
	le32_store(b.p + 0x248, 0x10);
	n = packer->pack(b.p + SETUP_SIZE + 0x10, room - SETUP_SIZE - 0x14, elf);
	if (!packer->own_size) {
		le32_store(b.p + SETUP_SIZE + 0x10 + n, (uint32_t)elf.len);
		n += 4;
	}
	le32_store(b.p + 0x24c, (uint32_t)n);
	b.len = SETUP_SIZE + 0x10 + n;
	return b;
}

/* A file with these bytes; its path is good until the next call for the same slot. */
static const char *file_of(unsigned slot, const void *bytes, size_t len)
{
	static int fds[2] = { -1, -1 };
	static char paths[2][32];

	if (fds[slot] < 0)
		fds[slot] = memfd_create("test", MFD_CLOEXEC);
	if (ftruncate(fds[slot], 0) || pwrite(fds[slot], bytes, len, 0) != (ssize_t)len)
		abort();
	snprintf(paths[slot], sizeof(paths[slot]), "/proc/self/fd/%d", fds[slot]);
	return paths[slot];
}

struct run {
	struct memory *mem;
	struct boot_result result;
	struct vz_error e;
	int rc;
};

static struct run boot(struct bytes kernel, const struct boot_request *more, uint64_t ram)
{
	struct boot_request rq = more ? *more : (struct boot_request){ 0 };
	struct boot_kernel *k;
	struct run r = { 0 };

	rq.kernel = file_of(0, kernel.p, kernel.len);
	r.rc = boot_open(&k, &rq, ram, &r.e);
	if (r.rc == 0) {
		r.mem = mem_new(ram, NULL);
		r.rc = boot_load(k, r.mem, &r.result, &r.e);
	}
	boot_close(k);
	return r;
}

static const uint8_t *at(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	static const uint8_t none[0x10000];
	struct span s;

	return mem && mem_span(mem, gpa, len, &s) ? s.p : none;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i])
			return false;
	}
	return true;
}

static bool segments_right(const struct memory *mem, size_t text_size)
{
	size_t data_at = align_up(0x1000 + text_size, 0x1000) + 0x9000;
	uint64_t data = align_up(TEXT + text_size, 0x10000);
	const uint8_t *text = at(mem, TEXT, text_size), *d = at(mem, data, 0x5000);

	for (size_t i = 0; i < text_size; i++) {
		if (text[i] != pattern(0x1000 + i))
			return false;
	}
	for (size_t i = 0; i < 0x1800; i++) {
		if (d[i] != pattern(data_at + i))
			return false;
	}
	return is_zero(d + 0x1800, 0x3800) && is_zero(at(mem, TEXT - 0x1000, 0x1000), 0x1000) &&
	       is_zero(at(mem, data + 0x5000, 0x10000), 0x10000);
}

static void every_compressor(void)
{
	struct bytes elf = make_elf(0x3000);

	for (size_t i = 0; i < NPACKERS; i++) {
		struct bytes bz = make_bzimage(&packers[i], elf);
		struct run r = boot(bz, NULL, RAM);

		if (r.rc)
			printf("# %s: %s\n", packers[i].name, r.e.text);
		CHECK_EQ(r.rc, 0);
		CHECK(segments_right(r.mem, 0x3000));
		CHECK_EQ(r.result.rip, TEXT + 0x10);
		mem_free(r.mem);
		free(bz.p);
	}
	free(elf.p);
}

/* More than one LZ4 block, and an image larger than what remains in memory after it. */
static void large_image(void)
{
	size_t text = 20 * MiB + 0x123;
	struct bytes elf = make_elf(text);

	for (size_t i = 0; i < MIN(NPACKERS, (size_t)2); i++) {
		struct bytes bz = make_bzimage(&packers[i], elf);
		struct run r = boot(bz, NULL, RAM);

		CHECK_EQ(r.rc, 0);
		CHECK(segments_right(r.mem, text));
		mem_free(r.mem);
		free(bz.p);
	}
	free(elf.p);
}

static void load_again_over_a_used_memory(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	struct boot_request rq = { .kernel = file_of(0, bz.p, bz.len) };
	struct memory *mem = mem_new(RAM, NULL);
	struct boot_kernel *k = NULL;
	struct boot_result first, second;
	struct span s;

	CHECK_EQ(boot_open(&k, &rq, RAM, NULL), 0);
	CHECK_EQ(boot_load(k, mem, &first, NULL), 0);
	mem_span(mem, TEXT, 0x20000, &s);
	memset(s.p, 0xee, s.len);
	CHECK_EQ(boot_load(k, mem, &second, NULL), 0);
	CHECK_EQ(second.rip, first.rip);
	CHECK_EQ(second.rsi, first.rsi);
	CHECK(is_zero(at(mem, DATA + 0x1800, 0x3800), 0x3800));
	boot_close(k);
	mem_free(mem);
	free(bz.p);
	free(elf.p);
}

static void zero_page(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	struct boot_request rq = { .cmdline = "console=hvc0 quiet", .rsdp = 0xe0000 };
	struct run r = boot(bz, &rq, RAM);
	const uint8_t *z = at(r.mem, BOOT_ZERO_PAGE, 4096);

	CHECK_EQ(r.result.entry, BOOT_ENTRY_LINUX64);
	CHECK_EQ(r.result.rsi, BOOT_ZERO_PAGE);
	CHECK(memcmp(z + 0x202, "HdrS", 4) == 0);
	CHECK_EQ(le16_load(z + 0x206), 0x20f);
	CHECK_EQ(z[0x210], 0xff);
	CHECK_EQ(z[0x211] & 1, 1);
	CHECK_EQ(le32_load(z + 0x238), 2047);
	CHECK_EQ(le64_load(z + 0x70), 0xe0000);
	CHECK_EQ(le32_load(z + 0x21c), 0);
	CHECK_STR((const char *)at(r.mem, le32_load(z + 0x228), 32), "console=hvc0 quiet");
	CHECK(is_zero(z, 0x70) && z[0x1ef] == 0);
	mem_free(r.mem);
	free(bz.p);
	free(elf.p);
}

static void random_seed_in_setup_data(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	struct run r = boot(bz, NULL, RAM);
	uint64_t where = le64_load(at(r.mem, BOOT_ZERO_PAGE, 4096) + 0x250);
	const uint8_t *data = at(r.mem, where, 48);

	CHECK(where != 0);
	CHECK_EQ(le64_load(data), 0);
	CHECK_EQ(le32_load(data + 8), 9);
	CHECK_EQ(le32_load(data + 12), 32);
	CHECK(!is_zero(data + 16, 32));
	mem_free(r.mem);
	free(bz.p);
	free(elf.p);
}

struct e820 {
	uint64_t base, size;
	uint32_t type;
};

static void check_map(uint64_t ram, const struct boot_request *rq, const struct e820 *want,
	unsigned n)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	struct run r = boot(bz, rq, ram);
	const uint8_t *z = at(r.mem, BOOT_ZERO_PAGE, 4096);

	CHECK_EQ(r.rc, 0);
	CHECK_EQ(z[0x1e8], n);
	for (size_t i = 0; i < n; i++) {
		CHECK_EQ(le64_load(z + 0x2d0 + 20 * i), want[i].base);
		CHECK_EQ(le64_load(z + 0x2d8 + 20 * i), want[i].size);
		CHECK_EQ(le32_load(z + 0x2e0 + 20 * i), want[i].type);
	}
	mem_free(r.mem);
	free(bz.p);
	free(elf.p);
}

static void memory_map_small(void)
{
	static const struct e820 want[] = { { 0, 0xa0000, 1 }, { 0xa0000, 0x60000, 2 },
		{ 0x100000, RAM - 0x100000, 1 } };

	check_map(RAM, NULL, want, ARRAY_SIZE(want));
}

static void memory_map_6g(void)
{
	static const struct boot_request rq = { .reserved = { { 0xe0000000, 0x10000000 } },
		.nreserved = 1 };
	static const struct e820 want[] = { { 0, 0xa0000, 1 }, { 0xa0000, 0x60000, 2 },
		{ 0x100000, 3 * GiB - 0x100000, 1 }, { 0xe0000000, 0x10000000, 2 },
		{ 4 * GiB, 3 * GiB, 1 } };

	check_map(6 * GiB, &rq, want, ARRAY_SIZE(want));
}

static void memory_map_reserved_inside_ram(void)
{
	static const struct boot_request rq = {
		.reserved = { { 0x3000000, 0x1000 }, { 0x2000000, 0x1000 } }, .nreserved = 2
	};
	static const struct e820 want[] = { { 0, 0xa0000, 1 }, { 0xa0000, 0x60000, 2 },
		{ 0x100000, 0x1f00000, 1 }, { 0x2001000, 0xfff000, 1 }, { 0x3001000, 0xfff000, 1 },
		{ 0x3000000, 0x1000, 2 }, { 0x2000000, 0x1000, 2 } };

	check_map(RAM, &rq, want, ARRAY_SIZE(want));
}

static void cpu_tables(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	struct run r = boot(bz, NULL, RAM);
	const uint8_t *gdt = at(r.mem, r.result.gdt, 32);
	uint64_t pml4 = le64_load(at(r.mem, r.result.cr3, 8));
	const uint64_t probe[] = { 0, TEXT, 0xbfffffff, 0xfee00000 };

	CHECK_EQ(r.result.gdt_limit, 31);
	CHECK_EQ(gdt[0x10 + 5] & 0x9a, 0x9a); /* present code */
	CHECK_EQ(gdt[0x10 + 6] & 0x20, 0x20); /* 64-bit */
	CHECK_EQ(gdt[0x18 + 5] & 0x92, 0x92); /* present, writable data */
	for (unsigned i = 0; i < ARRAY_SIZE(probe); i++) {
		uint64_t pdpte = le64_load(at(r.mem, (pml4 & ~0xfffull) + 8 * (probe[i] >> 30), 8));
		uint64_t pde =
			le64_load(at(r.mem, (pdpte & ~0xfffull) + 8 * (probe[i] >> 21 & 511), 8));

		CHECK_EQ(pde & 0x83, 0x83);
		CHECK_EQ(pde & ~0x1fffffull, probe[i] & ~0x1fffffull);
	}
	mem_free(r.mem);
	free(bz.p);
	free(elf.p);
}

static void initrd_goes_high(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	char text[5000];
	struct boot_request rq = { 0 };
	const uint64_t ram[] = { RAM, 6 * GiB };

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)pattern(i);
	rq.initrd = file_of(1, text, sizeof(text));
	for (unsigned i = 0; i < ARRAY_SIZE(ram); i++) {
		struct run r = boot(bz, &rq, ram[i]);
		const uint8_t *z = at(r.mem, BOOT_ZERO_PAGE, 4096);
		uint32_t where = le32_load(z + 0x218);

		CHECK_EQ(where, MIN(ram[i], 2 * GiB) - 8192);
		CHECK_EQ(le32_load(z + 0x21c), sizeof(text));
		CHECK(memcmp(at(r.mem, where, sizeof(text)), text, sizeof(text)) == 0);
		mem_free(r.mem);
	}
	free(bz.p);
	free(elf.p);
}

static void plain_linux_elf(void)
{
	struct bytes elf = make_elf(0x3000);
	struct run r = boot(elf, NULL, RAM);

	CHECK_EQ(r.rc, 0);
	CHECK(segments_right(r.mem, 0x3000));
	CHECK_EQ(r.result.entry, BOOT_ENTRY_LINUX64);
	CHECK(memcmp(at(r.mem, BOOT_ZERO_PAGE, 4096) + 0x202, "HdrS", 4) == 0);
	mem_free(r.mem);

	/* Linux has a PVH note too; its own protocol is preferred. */
	add_note(elf, "Linux", 0x101, 0);
	r = boot(elf, NULL, RAM);
	CHECK_EQ(r.result.entry, BOOT_ENTRY_LINUX64);
	mem_free(r.mem);
	free(elf.p);
}

static void pvh_elf(void)
{
	struct bytes elf = make_elf(0x3000);
	struct boot_request rq = {
		.cmdline = "a=b", .rsdp = 0xe1000, .initrd = file_of(1, "initrd", 6)
	};
	struct run r;
	const uint8_t *info, *map;

	add_note(elf, "Xen", 18, TEXT + 0x40);
	r = boot(elf, &rq, RAM);
	CHECK_EQ(r.rc, 0);
	CHECK_EQ(r.result.entry, BOOT_ENTRY_PVH);
	CHECK_EQ(r.result.rip, TEXT + 0x40);
	info = at(r.mem, r.result.rbx, 56);
	CHECK_EQ(le32_load(info), 0x336ec578);
	CHECK_EQ(le32_load(info + 4), 1);
	CHECK_EQ(le32_load(info + 12), 1);
	CHECK(memcmp(at(r.mem, le64_load(at(r.mem, le64_load(info + 16), 16)), 6), "initrd", 6) ==
		0);
	CHECK_STR((const char *)at(r.mem, le64_load(info + 24), 8), "a=b");
	CHECK_EQ(le64_load(info + 32), 0xe1000);
	CHECK_EQ(le32_load(info + 48), 3);
	map = at(r.mem, le64_load(info + 40), 72);
	CHECK_EQ(le64_load(map + 48), 0x100000);
	CHECK_EQ(le32_load(map + 64), 1);
	mem_free(r.mem);
	free(elf.p);
}

/* The bytes are refused, with this field and with these words in the text. */
static void refused(struct bytes kernel, uint64_t ram, const char *where, const char *words)
{
	struct run r = boot(kernel, NULL, ram);

	CHECK(r.rc < 0);
	CHECK_EQ(r.e.code, r.rc);
	CHECK_STR(r.e.where, where);
	if (!strstr(r.e.text, words)) {
		printf("# \"%s\" does not say \"%s\"\n", r.e.text, words);
		CHECK(!"words");
	}
	mem_free(r.mem);
}

static void wrong_kernels(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	uint8_t arm[64] = { 'M', 'Z', [0x38] = 'A', 'R', 'M', 'd' };

	refused((struct bytes){ arm, 0 }, RAM, "bootloader.kernel", "empty");
	refused((struct bytes){ arm, 64 }, RAM, "bootloader.kernel", "arm64");
	refused((struct bytes){ (uint8_t *)"#!/bin/sh\n", 10 }, RAM, "bootloader.kernel",
		"not a kernel");
	refused((struct bytes){ bz.p + SETUP_SIZE + 0x10, 512 }, RAM, "bootloader.kernel",
		packers[0].name);
	bz.p[0x206] = 0x0b;
	refused(bz, RAM, "bootloader.kernel", "2.11");
	bz.p[0x206] = 0x0f;
	bz.p[0x236] = 0x7e;
	refused(bz, RAM, "bootloader.kernel", "32-bit");
	bz.p[0x236] = 0x7f;
	memset(bz.p + SETUP_SIZE + 0x10, 0xaa, 4);
	refused(bz, RAM, "bootloader.kernel", "aa aa aa aa");
	elf.p[18] = EM_AARCH64;
	refused(elf, RAM, "bootloader.kernel", "arm64");
	elf.p[18] = EM_386;
	elf.p[4] = ELFCLASS32;
	refused(elf, RAM, "bootloader.kernel", "32-bit");
	free(bz.p);
	free(elf.p);
}

static void wrong_segments(void)
{
	struct bytes elf = make_elf(0x3000);
	Elf64_Phdr *ph = (Elf64_Phdr *)(elf.p + 64);
	Elf64_Phdr good = *ph;

	ph->p_filesz = ph->p_memsz + 1;
	refused(elf, RAM, "bootloader.kernel", "more bytes in the file");
	*ph = good;
	ph->p_paddr = 0x9000;
	refused(elf, RAM, "bootloader.kernel", "below 1 MiB");
	ph->p_paddr = UINT64_MAX - 0x1000;
	refused(elf, RAM, "bootloader.kernel", "overflow");
	ph->p_paddr = DATA + 0x1000;
	refused(elf, RAM, "bootloader.kernel", "overlap");
	ph->p_paddr = 2 * GiB;
	le64_store(elf.p + 24, ph->p_paddr);
	refused(elf, RAM, "memory", "2049 MiB");
	ph->p_paddr = 3 * GiB;
	le64_store(elf.p + 24, ph->p_paddr);
	refused(elf, 8 * GiB, "bootloader.kernel", "3 GiB");
	*ph = good;
	le64_store(elf.p + 24, TEXT);
	ph->p_offset = elf.len;
	refused(elf, RAM, "bootloader.kernel", "truncated");
	*ph = good;
	le16_store(elf.p + 56, 65);
	refused(elf, RAM, "bootloader.kernel", "program headers");
	le16_store(elf.p + 56, 0);
	refused(elf, RAM, "bootloader.kernel", "program headers");
	free(elf.p);
}

static void too_little_memory(void)
{
	struct bytes elf = make_elf(20 * MiB), bz = make_bzimage(&packers[0], elf);
	struct boot_request rq = { .initrd = file_of(1, "initrd", 6) };
	struct run r;

	refused(bz, 32 * MiB, "memory", "at least 37 MiB");
	r = boot(bz, &rq, 37 * MiB);
	CHECK_EQ(r.rc, 0);
	mem_free(r.mem);
	/* The size that the file tells is a lie. */
	le32_store(bz.p + bz.len - 4, 1);
	refused(bz, RAM, "bootloader.kernel", "its size is not the one");
	free(bz.p);
	free(elf.p);
}

static void corrupt_payload(void)
{
	struct bytes elf = make_elf(0x3000);

	for (size_t i = 0; i < NPACKERS; i++) {
		struct bytes bz = make_bzimage(&packers[i], elf);

		memset(bz.p + bz.len - 40, 0x55, 30);
		refused(bz, RAM, "bootloader.kernel", "corrupt");
		free(bz.p);
	}
	free(elf.p);
}

static void wrong_files(void)
{
	struct bytes elf = make_elf(0x3000);
	char dir[] = "/tmp/vizor-test-XXXXXX", fifo[64];
	struct boot_request rq = { .kernel = "/nonexistent/vmlinuz" };
	struct vz_error e;

	CHECK_EQ(boot_check(&rq, RAM, &e), -ENOENT);
	CHECK_STR(e.where, "bootloader.kernel");
	CHECK(strstr(e.text, "/nonexistent/vmlinuz"));
	rq.kernel = "/";
	CHECK_EQ(boot_check(&rq, RAM, &e), -EISDIR);
	CHECK(mkdtemp(dir) != NULL);
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	CHECK_EQ(mkfifo(fifo, 0600), 0);
	rq.kernel = fifo;
	CHECK_EQ(boot_check(&rq, RAM, &e), -EINVAL);
	unlink(fifo);
	rmdir(dir);
	rq.kernel = NULL;
	CHECK_EQ(boot_check(&rq, RAM, &e), -EINVAL);
	rq.kernel = file_of(0, elf.p, elf.len);
	CHECK_EQ(boot_check(&rq, RAM, &e), 0);
	rq.initrd = "/nonexistent/initrd";
	CHECK_EQ(boot_check(&rq, RAM, &e), -ENOENT);
	CHECK_STR(e.where, "bootloader.initrd");
	rq.initrd = file_of(1, "", 0);
	CHECK_EQ(boot_check(&rq, RAM, &e), -ENOEXEC);
	CHECK_STR(e.where, "bootloader.initrd");
	free(elf.p);
}

static void cmdline_limit(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	static char line[2049];
	struct boot_request rq = { .kernel = file_of(0, bz.p, bz.len), .cmdline = line };
	struct vz_error e;

	memset(line, 'x', 2047);
	CHECK_EQ(boot_check(&rq, RAM, &e), 0);
	line[2047] = 'x';
	CHECK_EQ(boot_check(&rq, RAM, &e), -EINVAL);
	CHECK_STR(e.where, "bootloader.cmdline");
	free(bz.p);
	free(elf.p);
}

static void initrd_shrinks_after_open(void)
{
	struct bytes elf = make_elf(0x3000), bz = make_bzimage(&packers[0], elf);
	struct boot_request rq = { .kernel = file_of(0, bz.p, bz.len),
		.initrd = file_of(1, "initrd", 6) };
	struct memory *mem = mem_new(RAM, NULL);
	struct boot_kernel *k = NULL;
	struct boot_result result;
	struct vz_error e = { 0 };

	CHECK_EQ(boot_open(&k, &rq, RAM, &e), 0);
	file_of(1, "x", 1);
	CHECK_EQ(boot_load(k, mem, &result, &e), -EIO);
	CHECK_STR(e.where, "bootloader.initrd");
	boot_close(k);
	mem_free(mem);
	free(bz.p);
	free(elf.p);
}

/* One that is cut off anywhere is refused; nothing else happens. */
static void truncation(void)
{
	struct bytes elf = make_elf(0x1000);

	for (size_t i = 0; i < NPACKERS; i++) {
		struct bytes bz = make_bzimage(&packers[i], elf);
		unsigned accepted = 0;

		for (size_t len = 0; len < bz.len; len += len < 0x300 ? 1 : 37) {
			struct run r = boot((struct bytes){ bz.p, len }, NULL, 32 * MiB);

			accepted += r.rc == 0;
			mem_free(r.mem);
		}
		CHECK_EQ(accepted, 0);
		free(bz.p);
	}
	free(elf.p);
}

static void mutate(struct bytes b, size_t from)
{
	static const uint8_t edges[] = { 0, 1, 0x7f, 0x80, 0xff };

	for (unsigned n = 1 + rnd() % 4; n; n--) {
		/* Half of them in the headers. */
		size_t where = from + rnd() % ((rnd() & 1) ? MIN(b.len - from, (size_t)0x140)
							   : b.len - from);

		b.p[where] = (rnd() & 1) ? edges[rnd() % sizeof(edges)] : (uint8_t)rnd();
	}
}

static void try_mutant(struct bytes b, struct memory *mem)
{
	struct boot_request rq = { .kernel = file_of(0, b.p, b.len) };
	struct boot_kernel *k;
	struct boot_result result;
	struct vz_error e = { 0 };
	int rc = boot_open(&k, &rq, mem_size(mem), &e);

	if (rc == 0)
		rc = boot_load(k, mem, &result, &e);
	if (rc && (e.code != rc || !e.text[0]))
		CHECK(!"an error without a text");
	boot_close(k);
}

/* Damage in the file, in the image within it, and in a plain ELF: errors or a load, never more. */
static void mutations(void)
{
	struct bytes elf = make_elf(0x1000), copy = { malloc(1 << 20), 0 };
	struct memory *mem = mem_new(32 * MiB, NULL);

	add_note(elf, "Xen", 18, TEXT);
	for (size_t i = 0; i < NPACKERS; i++) {
		struct bytes bz = make_bzimage(&packers[i], elf);

		copy.len = bz.len;
		for (unsigned n = 0; n < 600; n++) {
			memcpy(copy.p, bz.p, bz.len);
			mutate(copy, n % 2 ? 0x1f0 : SETUP_SIZE);
			try_mutant(copy, mem);
		}
		free(bz.p);
	}
	copy.len = elf.len;
	for (unsigned n = 0; n < 4000; n++) {
		struct bytes bz;

		memcpy(copy.p, elf.p, elf.len);
		mutate(copy, 0);
		try_mutant(copy, mem);
		if (n % 4)
			continue;
		bz = make_bzimage(&packers[0], copy);
		try_mutant(bz, mem);
		free(bz.p);
	}
	free(copy.p);
	free(elf.p);
	mem_free(mem);
}

int main(void)
{
	if (!NPACKERS)
		SKIP_ALL("built without any decompressor");
	RUN(every_compressor);
	RUN(large_image);
	RUN(load_again_over_a_used_memory);
	RUN(zero_page);
	RUN(random_seed_in_setup_data);
	RUN(memory_map_small);
	RUN(memory_map_6g);
	RUN(memory_map_reserved_inside_ram);
	RUN(cpu_tables);
	RUN(initrd_goes_high);
	RUN(plain_linux_elf);
	RUN(pvh_elf);
	RUN(wrong_kernels);
	RUN(wrong_segments);
	RUN(too_little_memory);
	RUN(corrupt_payload);
	RUN(wrong_files);
	RUN(cmdline_limit);
	RUN(initrd_shrinks_after_open);
	RUN(truncation);
	RUN(mutations);
	return tap_done();
}
