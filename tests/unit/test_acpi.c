/* SPDX-License-Identifier: MIT */
/* The ACPI tables as an operating system walks them; and iasl disassembles them, where it is. */
#include "base/le.h"
#include "platform/platform.h"
#include "tap.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define ADDRESS 0xe0000
#define LIMIT   0x100000

static struct memory *mem;
static uint64_t rsdp;

static const struct pci_windows windows = {
	.ecam = 0xe8000000,
	.mmio32 = 0xd0000000,
	.mmio32_size = 0x18000000,
	.mmio64 = 0x4000000000,
	.mmio64_size = 0x1000000000,
};

static int write_tables(unsigned cpus, uint64_t limit)
{
	struct acpi_board board = { cpus, windows, ADDRESS, limit };

	mem_free(mem);
	mem = mem_new(1 << 21, NULL);
	return acpi_write(mem, &board, &rsdp, NULL);
}

static bool sums_to_zero(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return !sum;
}

/* The table at an address, checked; NULL: it is not there. */
static const uint8_t *table(uint64_t address, const char *signature)
{
	struct span head, whole;

	if (!mem_span(mem, address, 36, &head) || memcmp(head.p, signature, 4) ||
		!mem_span(mem, address, le32_load(head.p + 4), &whole) ||
		!sums_to_zero(whole.p, whole.len))
		return NULL;
	return whole.p;
}

static const uint8_t *xsdt(void)
{
	struct span s;

	mem_span(mem, rsdp, 36, &s);
	return table(le64_load(s.p + 24), "XSDT");
}

static const uint8_t *find(const char *signature)
{
	const uint8_t *x = xsdt(), *found;

	for (unsigned i = 36; x && i < le32_load(x + 4); i += 8) {
		found = table(le64_load(x + i), signature);
		if (found)
			return found;
	}
	return NULL;
}

static const uint8_t *dsdt(void)
{
	const uint8_t *fadt = find("FACP");

	return fadt ? table(le64_load(fadt + 140), "DSDT") : NULL;
}

static void roots(void)
{
	struct span s;

	CHECK_EQ(write_tables(2, LIMIT), 0);
	CHECK_EQ(rsdp, ADDRESS);
	CHECK(mem_span(mem, rsdp, 36, &s));
	CHECK(!memcmp(s.p, "RSD PTR ", 8));
	CHECK_EQ(s.p[15], 2);
	CHECK(sums_to_zero(s.p, 20));
	CHECK(sums_to_zero(s.p, 36));
	CHECK(xsdt() != NULL);
	CHECK(find("FACP") != NULL);
	CHECK(find("APIC") != NULL);
	CHECK(find("MCFG") != NULL);
	CHECK(dsdt() != NULL);
}

static void fadt(void)
{
	const uint8_t *p;

	write_tables(1, LIMIT);
	p = find("FACP");
	CHECK_EQ(p[8], 6);
	CHECK_EQ(le32_load(p + 4), 276);
	CHECK_EQ(le32_load(p + 112) >> 20 & 1, 1); /* hardware-reduced */
	CHECK_EQ(le32_load(p + 112) >> 10 & 1, 1); /* with a reset register */
	CHECK_EQ(le16_load(p + 109), 0x34);        /* no VGA, no ASPM, no CMOS clock; no 8042 */
	CHECK_EQ(p[116], 1);
	CHECK_EQ(le64_load(p + 120), POWER_PORT + 2);
	CHECK_EQ(le64_load(p + 248), POWER_PORT);
	CHECK_EQ(le64_load(p + 260), POWER_PORT + 1);
}

static void madt(void)
{
	const uint8_t *p, *e;
	unsigned cpus = 0, ioapics = 0, wide = 0;

	write_tables(300, LIMIT);
	p = find("APIC");
	CHECK_EQ(le32_load(p + 36), 0xfee00000);
	CHECK_EQ(le32_load(p + 40), 0); /* no 8259 */
	for (e = p + 44; e < p + le32_load(p + 4); e += e[1]) {
		CHECK(e[1] >= 8);
		if (e[1] < 8)
			break;
		if (e[0] == 0)
			CHECK_EQ(e[3], cpus++);
		if (e[0] == 9) {
			CHECK_EQ(le32_load(e + 4), 255 + wide++);
			cpus++;
		}
		if (e[0] == 1) {
			ioapics++;
			CHECK_EQ(le32_load(e + 4), 0xfec00000);
			CHECK_EQ(le32_load(e + 8), 0);
		}
	}
	CHECK(e == p + le32_load(p + 4));
	CHECK_EQ(cpus, 300);
	CHECK_EQ(wide, 45);
	CHECK_EQ(ioapics, 1);
}

static void mcfg(void)
{
	const uint8_t *p;

	write_tables(1, LIMIT);
	p = find("MCFG");
	CHECK_EQ(le32_load(p + 4), 60);
	CHECK_EQ(le64_load(p + 44), windows.ecam);
	CHECK_EQ(p[54], 0);
	CHECK_EQ(p[55], 0);
}

static bool describes_range(const uint8_t *p, uint64_t base, uint64_t size)
{
	for (unsigned i = 0; i + 46 <= le32_load(p + 4); i++)
		if (p[i] == 0x8a && le16_load(p + i + 1) == 43 && le64_load(p + i + 14) == base &&
			le64_load(p + i + 22) == base + size - 1 && le64_load(p + i + 30) == 0 &&
			le64_load(p + i + 38) == size)
			return true;
	return false;
}

static void ranges(void)
{
	write_tables(1, LIMIT);
	CHECK(describes_range(dsdt(), windows.mmio32, windows.mmio32_size));
	CHECK(describes_range(dsdt(), windows.mmio64, windows.mmio64_size));
	CHECK(describes_range(dsdt(), windows.ecam, 1 << 20));
}

static void no_room(void)
{
	CHECK_EQ(write_tables(64, ADDRESS), -EINVAL);
	for (uint64_t room = 1; room < 0x400; room += 61)
		CHECK_EQ(write_tables(64, ADDRESS + room), -ENOSPC);
	CHECK_EQ(write_tables(100000, LIMIT), -ENOSPC);
	CHECK_EQ(write_tables(64, LIMIT), 0);
}

static bool dump(const char *folder, const char *name, const uint8_t *p)
{
	char path[128], command[600];
	struct stat st;
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s.dat", folder, name);
	f = fopen(path, "w");
	if (!f)
		return false;
	ok = fwrite(p, 1, le32_load(p + 4), f) == le32_load(p + 4);
	fclose(f);
	snprintf(command, sizeof(command),
		"cd %s && iasl -d %s.dat >%s.log 2>&1 && "
		"! grep -i 'error\\|warning\\|invalid' %s.log",
		folder, name, name, name);
	ok = ok && system(command) == 0;
	snprintf(path, sizeof(path), "%s/%s.dsl", folder, name);
	return ok && !stat(path, &st) && st.st_size;
}

static void iasl_reads_them(void)
{
	static const char *const names[] = { "FACP", "APIC", "MCFG" };
	char folder[] = "/tmp/test_acpi.XXXXXX", command[100];

	if (system("command -v iasl >/dev/null") != 0) {
		printf("# iasl is not installed\n");
		return;
	}
	write_tables(3, LIMIT);
	CHECK(mkdtemp(folder) != NULL);
	for (unsigned i = 0; i < 3; i++)
		CHECK(dump(folder, names[i], find(names[i])));
	CHECK(dump(folder, "DSDT", dsdt()));
	snprintf(command, sizeof(command), "grep -q 0x00000000D0000000 %s/DSDT.dsl && rm -r %s",
		folder, folder);
	CHECK_EQ(system(command), 0);
}

int main(void)
{
	RUN(roots);
	RUN(fadt);
	RUN(madt);
	RUN(mcfg);
	RUN(ranges);
	RUN(no_room);
	RUN(iasl_reads_them);
	mem_free(mem);
	return tap_done();
}
