/* SPDX-License-Identifier: MIT */
/* What boot.c and its parts share: kernel images as they are in files, and the boot parameters. */
#ifndef BOOT_IMAGE_H
#define BOOT_IMAGE_H

#include "boot/boot.h"
#include "boot/payload.h"
#include <stdbool.h>
#include <sys/types.h>

#define BOOT_FIELD_KERNEL "bootloader.kernel"
#define BOOT_HEAD_SIZE    4096 /* headers of a file or an image are looked for in this many bytes */

/* All of len, or fewer at the end of the file; -errno. Survives signals and short reads. */
ssize_t boot_pread(int fd, void *to, size_t len, uint64_t offset);

/* --- ELF: bytes in a file or a decompressed image, and where they go in memory. ----------- */

#define ELF_SEGMENTS_MAX 16
#define ELF_NOTES_MAX    4

struct elf_segment {
	uint64_t offset, filesz; /* in the image */
	uint64_t paddr, memsz;   /* guest-physical */
};

struct elf_image {
	uint64_t entry;     /* physical; 0: e_entry is not in a segment */
	unsigned nsegments; /* at least one; ascending and disjoint in memory */
	struct elf_segment segment[ELF_SEGMENTS_MAX];
	uint64_t base;    /* where to put the whole image: every segment moves down into place */
	uint64_t size;    /* bytes of the image that the segments need */
	uint64_t end;     /* end of the last segment in memory */
	bool linked_high; /* virtual addresses are those of a Linux kernel */
	unsigned nnotes;
	struct elf_segment note[ELF_NOTES_MAX];
};

/* head: the first bytes of the image. Everything is checked but that it fits a file or a memory. */
int elf_parse(struct elf_image *elf, const uint8_t *head, size_t len, struct vz_error *e);

/* What the ELF notes of an uncompressed image say. */
struct elf_notes {
	bool is_linux;
	bool pvh;
	uint32_t pvh_entry;
};
int elf_read_notes(struct elf_notes *notes, const struct elf_image *elf, int fd,
	struct vz_error *e);

/* Put the segments into memory, from a file or from a decompressed image. */
int elf_load_file(const struct elf_image *elf, struct memory *mem, int fd, struct vz_error *e);
int elf_load_payload(const struct elf_image *elf, struct memory *mem, const struct payload *payload,
	struct vz_error *e);

/* --- bzImage ------------------------------------------------------------------------------ */

#define SETUP_HEADER     0x1f1 /* of struct boot_params and of the file alike */
#define SETUP_HEADER_END 0x290

struct bzimage {
	uint8_t header[SETUP_HEADER_END - SETUP_HEADER]; /* zero after the length it has */
	struct payload payload;
	uint64_t initrd_max; /* highest address that the initrd may contain */
	bool initrd_above_4g;
	uint32_t cmdline_max;
};

bool bzimage_probe(const uint8_t *head, size_t len);
int bzimage_parse(struct bzimage *bz, int fd, uint64_t file_size, const uint8_t *head, size_t len,
	struct vz_error *e);

/* --- what the kernel is told -------------------------------------------------------------- */

struct boot_params {
	const uint8_t *header; /* setup header of SETUP_HEADER_END - SETUP_HEADER bytes, or NULL */
	const char *cmdline;
	uint64_t initrd, initrd_size;
	uint64_t rsdp;
	const struct boot_reserved *reserved;
	unsigned nreserved;
};

void params_write_linux(struct memory *mem, const struct boot_params *params,
	struct boot_result *result);
void params_write_pvh(struct memory *mem, const struct boot_params *params,
	struct boot_result *result);

#endif
