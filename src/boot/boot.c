/* SPDX-License-Identifier: MIT */
/* Kernel loaders: from paths to a guest memory that a CPU can be started in. See boot.h. */
#include "boot/boot.h"
#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "base/str.h"
#include "boot/image.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIELD_INITRD      "bootloader.initrd"
#define FIELD_CMDLINE     "bootloader.cmdline"

#define LINUX_CMDLINE_MAX 2047 /* COMMAND_LINE_SIZE of x86, for an ELF file, which does not tell */
#define LINUX_INITRD_MAX  0x7fffffffu

struct boot_file {
	char *path;
	int fd;
	uint64_t size;
};

struct boot_kernel {
	struct boot_file kernel, initrd; /* initrd.fd is -1 when there is none */
	char *cmdline;
	uint64_t rsdp;
	struct boot_reserved reserved[4];
	unsigned nreserved;

	enum boot_entry entry;
	uint64_t rip;
	bool compressed;
	struct bzimage bz; /* initrd_max, initrd_above_4g and cmdline_max hold for ELF files too */
	struct elf_image elf;
	uint64_t initrd_at;
};

static int open_file(struct boot_file *file, const char *path, const char *field,
	struct vz_error *e)
{
	struct stat st;

	if (str_replace(&file->path, path))
		return err_set(e, ENOMEM, NULL, "out of memory");
	/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
	file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->fd < 0)
		return err_set(e, errno, field, "cannot be opened: %s", strerror(errno));
	if (fstat(file->fd, &st))
		return err_set(e, errno, field, "cannot be read: %s", strerror(errno));
	if (S_ISDIR(st.st_mode))
		return err_set(e, EISDIR, field, "a directory, not a file");
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, field, "not a regular file");
	if (st.st_size == 0)
		return err_set(e, ENOEXEC, field, "the file is empty");
	file->size = (uint64_t)st.st_size;
	return 0;
}

static void close_file(struct boot_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	free(file->path);
}

static int inspect_elf(struct boot_kernel *k, const uint8_t *head, size_t len, struct vz_error *e)
{
	struct elf_notes notes;
	int rc = elf_parse(&k->elf, head, len, e);

	if (rc == 0 && k->elf.size > k->kernel.size)
		rc = err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"truncated: its headers tell %llu bytes, the file has %llu",
			(unsigned long long)k->elf.size, (unsigned long long)k->kernel.size);
	if (rc == 0)
		rc = elf_read_notes(&notes, &k->elf, k->kernel.fd, e);
	if (rc)
		return rc;
	k->bz.initrd_max = LINUX_INITRD_MAX;
	if (k->elf.entry && (notes.is_linux || (k->elf.linked_high && !notes.pvh))) {
		k->entry = BOOT_ENTRY_LINUX64;
		k->rip = k->elf.entry;
		k->bz.cmdline_max = LINUX_CMDLINE_MAX;
	} else if (notes.pvh) {
		k->entry = BOOT_ENTRY_PVH;
		k->rip = notes.pvh_entry;
		k->bz.cmdline_max = BOOT_CMDLINE_MAX;
	} else {
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"an ELF file, but neither a Linux kernel nor one with a PVH note");
	}
	return 0;
}

static int inspect_bzimage(struct boot_kernel *k, const uint8_t *head, size_t len,
	struct vz_error *e)
{
	uint8_t inner[BOOT_HEAD_SIZE];
	size_t got;
	int rc = bzimage_parse(&k->bz, k->kernel.fd, k->kernel.size, head, len, e);

	if (rc == 0)
		rc = payload_head(&k->bz.payload, inner, sizeof(inner), &got, e);
	if (rc == 0)
		rc = elf_parse(&k->elf, inner, got, e);
	if (rc == 0 && !k->elf.entry)
		rc = err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"its payload's entry point is outside its segments");
	k->compressed = true;
	k->entry = BOOT_ENTRY_LINUX64;
	k->rip = k->elf.entry;
	return rc;
}

static int inspect_kernel(struct boot_kernel *k, struct vz_error *e)
{
	uint8_t head[BOOT_HEAD_SIZE];
	ssize_t n = boot_pread(k->kernel.fd, head, sizeof(head), 0);
	size_t len = n < 0 ? 0 : (size_t)n;

	if (n < 0)
		return err_set(e, (int)n, BOOT_FIELD_KERNEL, "cannot be read: %s",
			strerror((int)-n));
	if (len >= 4 && memcmp(head, "\177ELF", 4) == 0)
		return inspect_elf(k, head, len, e);
	if (len >= 0x40 && le32_load(head + 0x38) == 0x644d5241)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"a kernel for arm64; this machine is x86-64");
	if (len >= 0x40 && le32_load(head + 0x38) == 0x05435352)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"a kernel for RISC-V; this machine is x86-64");
	if (bzimage_probe(head, len))
		return inspect_bzimage(k, head, len, e);
	if (payload_format(head, len))
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"a file compressed with %s; give a bzImage or an ELF vmlinux",
			payload_format(head, len));
	return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
		"not a kernel: neither a bzImage nor an ELF file, or cut short");
}

static int check_cmdline(const struct boot_kernel *k, const char *cmdline, struct vz_error *e)
{
	uint64_t max = MIN((uint64_t)k->bz.cmdline_max, (uint64_t)BOOT_CMDLINE_MAX);
	size_t len = strlen(cmdline);

	if (len > max)
		return err_set(e, EINVAL, FIELD_CMDLINE,
			"%zu bytes are too long; this kernel takes at most %llu", len,
			(unsigned long long)max);
	return 0;
}

/* Kernel and initrd need a place in memory; the initrd gets the highest that the kernel allows. */
static int place(struct boot_kernel *k, uint64_t memory_size, struct vz_error *e)
{
	uint64_t low = MIN(memory_size, MEM_HOLE_START),
		 kernel_end = align_up(k->elf.end, MEM_PAGE_SIZE);
	uint64_t size = k->initrd.fd < 0 ? 0 : align_up(k->initrd.size, MEM_PAGE_SIZE);
	uint64_t needed, unpacked, limit;

	if (k->elf.end > MEM_HOLE_START || size > (UINT64_C(1) << 62))
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"its segments are not all below 3 GiB");
	needed = kernel_end + size;
	unpacked = k->elf.base + MAX(k->elf.size, (uint64_t)k->bz.payload.size_hint);
	if (k->compressed && unpacked > needed)
		needed = unpacked;
	if (needed > memory_size)
		return err_set(e, ENOMEM, "memory",
			"%llu MiB are too little: kernel%s need at least %llu MiB",
			(unsigned long long)(memory_size / MiB),
			size ? " and initrd" : " and its decompression",
			(unsigned long long)(align_up(needed, MiB) / MiB));
	limit = align_down(MIN(low, k->bz.initrd_max + 1), MEM_PAGE_SIZE);
	if (limit >= size && limit - size >= kernel_end)
		k->initrd_at = limit - size;
	else if (k->bz.initrd_above_4g && memory_size - low >= size)
		k->initrd_at = MEM_HIGH_START + (memory_size - low) - size;
	else if (size)
		return err_set(e, EFBIG, FIELD_INITRD,
			"its %llu MiB do not fit above the kernel, below the kernel's limit",
			(unsigned long long)(size / MiB));
	return 0;
}

static int open_all(struct boot_kernel *k, const struct boot_request *request, uint64_t memory_size,
	struct vz_error *e)
{
	const char *cmdline = request->cmdline ? request->cmdline : "";
	int rc;

	if (!request->kernel || !*request->kernel)
		return err_set(e, EINVAL, BOOT_FIELD_KERNEL, "no kernel is given");
	rc = open_file(&k->kernel, request->kernel, BOOT_FIELD_KERNEL, e);
	if (rc == 0)
		rc = inspect_kernel(k, e);
	if (rc) {
		err_prefix(e, "kernel '%s'", request->kernel);
		return rc;
	}
	if (request->initrd) {
		rc = open_file(&k->initrd, request->initrd, FIELD_INITRD, e);
		if (rc) {
			err_prefix(e, "initrd '%s'", request->initrd);
			return rc;
		}
	}
	rc = check_cmdline(k, cmdline, e);
	if (rc == 0)
		rc = place(k, memory_size, e);
	if (rc == 0 && str_replace(&k->cmdline, cmdline))
		rc = err_set(e, ENOMEM, NULL, "out of memory");
	k->rsdp = request->rsdp;
	k->nreserved = MIN(request->nreserved, (unsigned)ARRAY_SIZE(k->reserved));
	memcpy(k->reserved, request->reserved, k->nreserved * sizeof(k->reserved[0]));
	return rc;
}

int boot_open(struct boot_kernel **kernel, const struct boot_request *request, uint64_t memory_size,
	struct vz_error *e)
{
	struct boot_kernel *k = calloc(1, sizeof(*k));
	int rc;

	*kernel = NULL;
	if (!k)
		return err_set(e, ENOMEM, NULL, "out of memory");
	k->kernel.fd = k->initrd.fd = -1;
	rc = open_all(k, request, memory_size, e);
	if (rc) {
		boot_close(k);
		return rc;
	}
	*kernel = k;
	return 0;
}

int boot_check(const struct boot_request *request, uint64_t memory_size, struct vz_error *e)
{
	struct boot_kernel *k;
	int rc = boot_open(&k, request, memory_size, e);

	boot_close(k);
	return rc;
}

static int load_initrd(struct boot_kernel *k, struct memory *mem, struct vz_error *e)
{
	struct span s;
	ssize_t n;

	if (!mem_span(mem, k->initrd_at, k->initrd.size, &s))
		return err_set(e, ENOMEM, "memory", "there is no place for the initrd");
	n = boot_pread(k->initrd.fd, s.p, s.len, 0);
	mem_written(mem, k->initrd_at, s.len);
	if (n < 0)
		return err_set(e, (int)n, FIELD_INITRD, "cannot be read: %s", strerror((int)-n));
	if ((size_t)n != s.len)
		return err_set(e, EIO, FIELD_INITRD, "has become shorter since it was opened");
	return 0;
}

int boot_load(struct boot_kernel *k, struct memory *mem, struct boot_result *result,
	struct vz_error *e)
{
	struct boot_params params = {
		.header = k->compressed ? k->bz.header : NULL,
		.cmdline = k->cmdline,
		.rsdp = k->rsdp,
		.reserved = k->reserved,
		.nreserved = k->nreserved,
	};
	int rc;

	*result = (struct boot_result){ .entry = k->entry, .rip = k->rip };
	if (k->compressed)
		rc = elf_load_payload(&k->elf, mem, &k->bz.payload, e);
	else
		rc = elf_load_file(&k->elf, mem, k->kernel.fd, e);
	if (rc) {
		err_prefix(e, "kernel '%s'", k->kernel.path);
		return rc;
	}
	if (k->initrd.fd >= 0) {
		rc = load_initrd(k, mem, e);
		if (rc) {
			err_prefix(e, "initrd '%s'", k->initrd.path);
			return rc;
		}
		params.initrd = k->initrd_at;
		params.initrd_size = k->initrd.size;
	}
	if (k->entry == BOOT_ENTRY_PVH)
		params_write_pvh(mem, &params, result);
	else
		params_write_linux(mem, &params, result);
	return 0;
}

void boot_close(struct boot_kernel *k)
{
	if (!k)
		return;
	close_file(&k->kernel);
	close_file(&k->initrd);
	free(k->cmdline);
	free(k);
}
