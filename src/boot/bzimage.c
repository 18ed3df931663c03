/* SPDX-License-Identifier: MIT */
/*
 * The Linux/x86 setup header at the start of a bzImage (Documentation/arch/x86/boot.rst, "The
 * Real-Mode Kernel Header"), of which protocol 2.12 or later is needed for the 64-bit entry
 * point.
 */
#include "base/error.h"
#include "base/le.h"
#include "boot/image.h"

#define SETUP_SECTS                0x1f1
#define BOOT_FLAG                  0x1fe
#define JUMP_LENGTH                0x201
#define MAGIC                      0x202
#define VERSION                    0x206
#define LOADFLAGS                  0x211
#define INITRD_ADDR_MAX            0x22c
#define XLOADFLAGS                 0x236
#define CMDLINE_SIZE               0x238
#define PAYLOAD_OFFSET             0x248
#define PAYLOAD_LENGTH             0x24c

#define LOADED_HIGH                0x01
#define XLF_KERNEL_64              0x01
#define XLF_CAN_BE_LOADED_ABOVE_4G 0x02
#define VERSION_MIN                0x20c
#define SECTOR                     512u

bool bzimage_probe(const uint8_t *head, size_t len)
{
	return len >= MAGIC + 4 && le16_load(head + BOOT_FLAG) == 0xaa55 &&
	       memcmp(head + MAGIC, "HdrS", 4) == 0;
}

static int check_header(const uint8_t *head, size_t len, struct vz_error *e)
{
	unsigned version;

	if (len < SETUP_HEADER_END)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"truncated: it ends inside the setup header");
	version = le16_load(head + VERSION);
	if (!(head[LOADFLAGS] & LOADED_HIGH))
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"a zImage; only a bzImage can be started");
	if (version < VERSION_MIN)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"speaks boot protocol %u.%u; 2.12 or later (Linux 3.8) is needed",
			version >> 8, version & 0xff);
	if (!(le16_load(head + XLOADFLAGS) & XLF_KERNEL_64))
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"a 32-bit x86 kernel without 64-bit entry point; this machine is x86-64");
	return 0;
}

int bzimage_parse(struct bzimage *bz, int fd, uint64_t file_size, const uint8_t *head, size_t len,
	struct vz_error *e)
{
	uint64_t payload, length, total;
	size_t header_end;
	int rc = check_header(head, len, e);

	if (rc)
		return rc;
	*bz = (struct bzimage){ 0 };
	header_end = MAGIC + head[JUMP_LENGTH];
	if (header_end > SETUP_HEADER_END)
		header_end = SETUP_HEADER_END;
	memcpy(bz->header, head + SETUP_HEADER, header_end - SETUP_HEADER);
	bz->initrd_max = le32_load(head + INITRD_ADDR_MAX);
	bz->initrd_above_4g = le16_load(head + XLOADFLAGS) & XLF_CAN_BE_LOADED_ABOVE_4G;
	bz->cmdline_max = le32_load(head + CMDLINE_SIZE);

	payload = ((head[SETUP_SECTS] ? head[SETUP_SECTS] : 4) + 1ull) * SECTOR +
		  le32_load(head + PAYLOAD_OFFSET);
	length = le32_load(head + PAYLOAD_LENGTH);
	total = payload + length;
	if (total > file_size)
		return err_set(e, ENOEXEC, BOOT_FIELD_KERNEL,
			"truncated: its header tells %llu bytes, the file has %llu",
			(unsigned long long)total, (unsigned long long)file_size);
	return payload_open(&bz->payload, fd, payload, length, e);
}
