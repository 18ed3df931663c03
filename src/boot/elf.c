/* SPDX-License-Identifier: MIT */
/*
 * ELF64 kernel images for x86-64 (System V ABI, "Object Files"; PVH notes: Xen's
 * docs/misc/pvh.pandoc). Only the file header, the program headers and the notes are looked at.
 */
#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "boot/image.h"
#include <elf.h>
#include <stdlib.h>

#define PHDRS_MAX        64
#define NOTES_MAX        (64u << 10)
#define KERNEL_MAP       0xffffffff80000000ull /* __START_KERNEL_map */
#define XEN_NOTE_PVH     18                    /* XEN_ELFNOTE_PHYS32_ENTRY */
#define XEN_NOTE_OS      6                     /* XEN_ELFNOTE_GUEST_OS */
#define DISCARD_WORTH_IT (64u << 10)

static int bad(struct vz_error *e, const char *what)
{
	return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL, "its ELF header is wrong: %s", what);
}

static const char *machine_name(unsigned machine)
{
	switch (machine) {
	case EM_386:
		return "32-bit x86";
	case EM_ARM:
		return "32-bit ARM";
	case EM_AARCH64:
		return "arm64";
	case EM_RISCV:
		return "RISC-V";
	case EM_PPC64:
		return "POWER";
	case EM_S390:
		return "s390";
	default:
		return "another machine";
	}
}

static int check_header(const Elf64_Ehdr *h, size_t len, struct vz_error *e)
{
	if (len < EI_NIDENT || memcmp(h->e_ident, ELFMAG, SELFMAG) != 0)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL, "not an ELF image");
	if (len < sizeof(*h))
		return bad(e, "the file ends in it");
	if (h->e_ident[EI_DATA] == ELFDATA2MSB ||
		(h->e_machine != EM_X86_64 && h->e_machine != EM_386))
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"an ELF kernel for %s; this machine is x86-64",
			h->e_ident[EI_DATA] == ELFDATA2MSB ? "a big-endian machine"
							   : machine_name(h->e_machine));
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_machine != EM_X86_64)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"a 32-bit ELF image; only 64-bit kernels can be started");
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return bad(e, "it is an object file, not a linked kernel");
	if (h->e_phentsize != sizeof(Elf64_Phdr) || h->e_phnum == 0 || h->e_phnum > PHDRS_MAX)
		return bad(e, "impossible number or size of program headers");
	if (h->e_phoff > len || h->e_phnum * sizeof(Elf64_Phdr) > len - h->e_phoff)
		return bad(e, "the program headers are not at the start of the file");
	return 0;
}

/* Keeps segment[] sorted by address. */
static int add_segment(struct elf_image *elf, const Elf64_Phdr *ph, struct vz_error *e)
{
	uint64_t memory_end, file_end;
	unsigned i;

	if (ph->p_memsz == 0)
		return 0;
	if (ph->p_filesz > ph->p_memsz)
		return bad(e, "a segment has more bytes in the file than in memory");
	if (ckd_add(&memory_end, ph->p_paddr, ph->p_memsz) ||
		ckd_add(&file_end, ph->p_offset, ph->p_filesz) || file_end > INT64_MAX)
		return bad(e, "a segment's end overflows");
	if (ph->p_paddr < BOOT_RESERVED_END)
		return bad(e, "a segment lies below 1 MiB");
	if (elf->nsegments == ELF_SEGMENTS_MAX)
		return bad(e, "too many segments");
	for (i = elf->nsegments; i > 0 && elf->segment[i - 1].paddr > ph->p_paddr; i--)
		elf->segment[i] = elf->segment[i - 1];
	elf->segment[i] =
		(struct elf_segment){ ph->p_offset, ph->p_filesz, ph->p_paddr, ph->p_memsz };
	elf->nsegments++;
	elf->size = MAX(elf->size, file_end);
	elf->end = MAX(elf->end, memory_end);
	if (ph->p_vaddr >= KERNEL_MAP)
		elf->linked_high = true;
	return 0;
}

static int check_segments(struct elf_image *elf, struct vz_error *e)
{
	bool entry_inside = false;

	if (!elf->nsegments)
		return bad(e, "there is nothing to load");
	elf->base = BOOT_RESERVED_END;
	for (unsigned i = 0; i < elf->nsegments; i++) {
		const struct elf_segment *s = &elf->segment[i];

		if (i > 0 && s[-1].paddr + s[-1].memsz > s->paddr)
			return bad(e, "segments overlap in memory");
		if (s->paddr > s->offset)
			elf->base = MAX(elf->base, s->paddr - s->offset);
		entry_inside |= elf->entry >= s->paddr && elf->entry - s->paddr < s->memsz;
	}
	/* Xen's and FreeBSD's e_entry is virtual; they are entered by their PVH note. */
	if (!entry_inside)
		elf->entry = 0;
	return 0;
}

int elf_parse(struct elf_image *elf, const uint8_t *head, size_t len, struct vz_error *e)
{
	Elf64_Ehdr h = { 0 };
	int rc;

	*elf = (struct elf_image){ 0 };
	memcpy(&h, head, MIN(len, sizeof(h)));
	rc = check_header(&h, len, e);
	elf->entry = h.e_entry;
	for (unsigned i = 0; rc == 0 && i < h.e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, head + h.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_LOAD) {
			rc = add_segment(elf, &ph, e);
		} else if (ph.p_type == PT_NOTE && ph.p_filesz <= NOTES_MAX &&
			   ph.p_offset <= INT64_MAX) {
			if (elf->nnotes < ELF_NOTES_MAX)
				elf->note[elf->nnotes++] =
					(struct elf_segment){ ph.p_offset, ph.p_filesz, 0, 0 };
		}
	}
	return rc ? rc : check_segments(elf, e);
}

static void read_note(struct elf_notes *notes, uint32_t type, const uint8_t *name,
	uint32_t name_len, const uint8_t *desc, uint32_t desc_len)
{
	if (name_len == 6 && memcmp(name, "Linux", 6) == 0)
		notes->is_linux = true;
	if (name_len != 4 || memcmp(name, "Xen", 4) != 0)
		return;
	if (type == XEN_NOTE_OS && desc_len >= 5 && memcmp(desc, "linux", 5) == 0)
		notes->is_linux = true;
	if (type == XEN_NOTE_PVH && (desc_len == 4 || desc_len == 8)) {
		uint64_t entry = desc_len == 4 ? le32_load(desc) : le64_load(desc);

		notes->pvh = entry <= UINT32_MAX;
		notes->pvh_entry = (uint32_t)entry;
	}
}

static int scan_notes(struct elf_notes *notes, const struct elf_segment *where, int fd,
	struct vz_error *e)
{
	uint8_t *bytes = malloc(where->filesz + 1);
	uint64_t at = 0;
	ssize_t n;

	if (!bytes)
		return err_set(e, ENOMEM, NULL, "out of memory");
	n = boot_pread(fd, bytes, where->filesz, where->offset);
	/* Each round moves on by 12 bytes or more; the sums, of 32-bit numbers, cannot overflow. */
	while (n > 0 && at + 12 <= (uint64_t)n) {
		uint32_t name_len = le32_load(bytes + at), desc_len = le32_load(bytes + at + 4);
		uint64_t name = at + 12, desc = name + align_up(name_len, 4), end = desc + desc_len;

		if (end > (uint64_t)n)
			break;
		read_note(notes, le32_load(bytes + at + 8), bytes + name, name_len, bytes + desc,
			desc_len);
		at = align_up(end, 4);
	}
	free(bytes);
	return n < 0 ? err_set(e, (int)n, BOOT_FIELD_KERNEL, "cannot be read: %s",
			       strerror((int)-n))
		     : 0;
}

int elf_read_notes(struct elf_notes *notes, const struct elf_image *elf, int fd, struct vz_error *e)
{
	int rc = 0;

	*notes = (struct elf_notes){ 0 };
	for (unsigned i = 0; rc == 0 && i < elf->nnotes; i++)
		rc = scan_notes(notes, &elf->note[i], fd, e);
	return rc;
}

/* Whole pages go back to the host: a kernel's zeroed data costs nothing until it is used. */
static void zero(struct memory *mem, uint64_t from, uint64_t to)
{
	uint64_t first = align_up(from, MEM_PAGE_SIZE), last = align_down(to, MEM_PAGE_SIZE);
	struct span s;

	if (from >= to || !mem_span(mem, from, to - from, &s))
		return;
	if (to - from >= DISCARD_WORTH_IT && mem_discard(mem, first, last - first) == 0) {
		memset(s.p, 0, first - from);
		memset(s.p + (last - from), 0, to - last);
	} else {
		memset(s.p, 0, s.len);
	}
	mem_written(mem, from, to - from);
}

static int no_room(const struct elf_image *elf, struct vz_error *e)
{
	return err_set(e, ENOMEM, "memory", "the kernel's segments end at %llu MiB, outside memory",
		(unsigned long long)(elf->end >> 20));
}

int elf_load_file(const struct elf_image *elf, struct memory *mem, int fd, struct vz_error *e)
{
	for (unsigned i = 0; i < elf->nsegments; i++) {
		const struct elf_segment *s = &elf->segment[i];
		struct span span;
		ssize_t n;

		if (!mem_span(mem, s->paddr, s->memsz, &span))
			return no_room(elf, e);
		n = boot_pread(fd, span.p, s->filesz, s->offset);
		if (n < 0)
			return err_set(e, (int)n, BOOT_FIELD_KERNEL, "cannot be read: %s",
				strerror((int)-n));
		if ((uint64_t)n != s->filesz)
			return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
				"truncated: a segment is missing");
		mem_written(mem, s->paddr, s->filesz);
		zero(mem, s->paddr + s->filesz, s->paddr + s->memsz);
	}
	return 0;
}

/*
 * The image is decompressed to a place in guest RAM from where every segment moves down (mostly:
 * not at all), so that in ascending order none overwrites one that is still to be moved.
 */
int elf_load_payload(const struct elf_image *elf, struct memory *mem, const struct payload *payload,
	struct vz_error *e)
{
	const struct mem_region *region;
	uint64_t done = MIN(elf->base, elf->segment[0].paddr), file_end = 0;
	struct span all;
	size_t size;
	int rc;

	mem_regions(mem, &region);
	for (unsigned i = 0; i < elf->nsegments; i++) {
		if (elf->segment[i].filesz && elf->segment[i].offset < file_end)
			return bad(e, "segments are in the file in another order than in memory");
		if (elf->segment[i].filesz)
			file_end = elf->segment[i].offset + elf->segment[i].filesz;
	}
	if (elf->end > region[0].size || elf->base >= region[0].size ||
		!mem_span(mem, elf->base, region[0].size - elf->base, &all))
		return no_room(elf, e);
	rc = payload_decompress(payload, all.p, all.len, &size, e);
	if (rc == 0 && size < elf->size)
		rc = err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"truncated: its payload ends before its last segment");
	for (unsigned i = 0; rc == 0 && i < elf->nsegments; i++) {
		const struct elf_segment *s = &elf->segment[i];
		uint8_t *from = all.p + s->offset;
		struct span to;

		if (s->filesz && mem_span(mem, s->paddr, s->filesz, &to) && to.p != from)
			memmove(to.p, from, s->filesz);
	}
	for (unsigned i = 0; rc == 0 && i < elf->nsegments; i++) {
		zero(mem, done, elf->segment[i].paddr);
		done = elf->segment[i].paddr + elf->segment[i].filesz;
	}
	if (rc == 0) {
		zero(mem, done, MAX(elf->base + size, elf->end));
		mem_written(mem, elf->segment[0].paddr, elf->end - elf->segment[0].paddr);
	}
	return rc;
}
