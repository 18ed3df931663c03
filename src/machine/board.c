/* SPDX-License-Identifier: MIT */
/* The board: how its parts are opened, connected, reset and closed. */
#include "machine/board.h"
#include "base/error.h"
#include "base/log.h"
#include "base/str.h"
#include "machine/config.h"
#include "platform/power.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pci_windows board_windows(uint64_t memory_size)
{
	uint64_t ram_end = MEM_HIGH_START + memory_size;

	return (struct pci_windows){
		.ecam = BOARD_ECAM,
		.mmio32 = BOARD_MMIO32,
		.mmio32_size = BOARD_MMIO32_SIZE,
		.mmio64 = MAX(BOARD_MMIO64_MIN, align_up(ram_end, BOARD_MMIO64_SIZE)),
		.mmio64_size = BOARD_MMIO64_SIZE,
	};
}

/* --- between the engine and the buses ---------------------------------------------------- */

static uint64_t engine_read(void *arg, bool port, uint64_t addr, unsigned size)
{
	struct board *b = arg;

	return bus_read(b->bus, port ? BUS_PORT : BUS_MMIO, addr, size);
}

static void engine_write(void *arg, bool port, uint64_t addr, unsigned size, uint64_t value)
{
	struct board *b = arg;

	bus_write(b->bus, port ? BUS_PORT : BUS_MMIO, addr, size, value);
}

static void send_msi(void *arg, uint64_t address, uint32_t data)
{
	struct board *b = arg;

	b->class->msi(b->engine, address, data);
}

static int bind_doorbell(void *arg, uint64_t address, unsigned size, int fd)
{
	struct board *b = arg;

	return b->class->bind_doorbell ? b->class->bind_doorbell(b->engine, address, size, fd)
				       : -ENOSYS;
}

static void unbind_doorbell(void *arg, uint64_t address, unsigned size, int fd)
{
	struct board *b = arg;

	if (b->class->unbind_doorbell)
		b->class->unbind_doorbell(b->engine, address, size, fd);
}

static void serial_write(void *arg, const void *bytes, unsigned len)
{
	struct board *b = arg;

	b->host.serial(b->host.arg, bytes, len);
}

static void serial_irq(void *arg, bool level)
{
	struct board *b = arg;

	b->class->irq_line(b->engine, SERIAL_IRQ, level);
}

static void power_off(void *arg)
{
	struct board *b = arg;

	b->host.off(b->host.arg);
}

static void power_reset_asked(void *arg)
{
	struct board *b = arg;

	b->host.reset(b->host.arg);
}

static void power_sci(void *arg, bool level)
{
	struct board *b = arg;

	b->class->irq_line(b->engine, POWER_SCI_PIN, level);
}

/* --- opening ----------------------------------------------------------------------------- */

static int no_memory(struct vz_error *e)
{
	return err_set(e, ENOMEM, NULL, "out of memory");
}

static int open_engine(struct board *b, const struct vz_config *c, struct vz_error *e)
{
	struct engine_config ec = {
		.cpus = c->cpus,
		.board = { .arg = b, .read = engine_read, .write = engine_write },
		.options = c->engine_options,
	};
	int r;

	b->mem = mem_new(c->memory, e);
	if (!b->mem) {
		if (e && !e->where[0])
			err_where(e, "memory");
		return e ? e->code : -ENOMEM;
	}
	b->bus = bus_new();
	if (!b->bus)
		return no_memory(e);
	ec.mem = b->mem;
	r = b->class->open(&b->engine, &ec, e);
	if (r && e && !e->where[0])
		err_where(e, "engine");
	return r;
}

static int open_chips(struct board *b, struct vz_error *e)
{
	struct serial_host serial = { b, serial_write, serial_irq };
	struct power_host power = { b, power_off, power_reset_asked, power_sci };

	b->pci = pci_bus_new(b->bus, &b->windows, e);
	if (!b->pci)
		return e ? e->code : -ENOMEM;
	b->serial = serial_new(b->bus, &serial);
	b->power = power_new(b->bus, &power);
	return b->serial && b->power ? 0 : no_memory(e);
}

/* Devices of one class are told apart by their place among all devices, as in error messages. */
static int open_device(struct board *b, const struct vz_device *source, struct vz_error *e)
{
	struct virtio_pci_host host = { b, send_msi, bind_doorbell, unbind_doorbell };
	struct board_device *d = &b->devices[b->ndevices];
	char name[64];
	int r;

	d->dev = config_device_make(source, e);
	if (!d->dev)
		return e ? e->code : -EINVAL;
	snprintf(name, sizeof(name), "%s %u", source->class->name, b->ndevices);
	b->ndevices++;
	r = vdev_open(d->dev, b->loop, b->mem, name, e);
	if (r)
		return r;
	d->transport = virtio_pci_new(b->pci, d->dev, &host, -1, e);
	return d->transport ? 0 : e ? e->code : -ENOMEM;
}

static int open_devices(struct board *b, const struct vz_config *c, struct vz_error *e)
{
	b->devices = calloc(c->ndevices ? c->ndevices : 1, sizeof(*b->devices));
	if (!b->devices)
		return no_memory(e);
	for (unsigned i = 0; i < c->ndevices; i++) {
		int r = open_device(b, c->devices[i], e);

		if (r) {
			err_where(e, "devices[%u]", i);
			return r;
		}
	}
	return 0;
}

static int open_kernel(struct board *b, const struct vz_config *c, struct vz_error *e)
{
	struct boot_request request = config_boot_request(c);

	if (str_replace(&b->kernel_path, c->kernel) || str_replace(&b->initrd_path, c->initrd) ||
		str_replace(&b->cmdline, c->cmdline))
		return no_memory(e);
	request.kernel = b->kernel_path;
	request.initrd = b->initrd_path;
	request.cmdline = b->cmdline;
	return boot_open(&b->kernel, &request, c->memory, e);
}

int board_open(struct board *b, const struct vz_config *c, const struct engine_class *class,
	struct loop *loop, const struct board_host *host, struct vz_error *e)
{
	int r;

	b->host = *host;
	b->loop = loop;
	b->class = class;
	b->cpus = c->cpus;
	b->windows = board_windows(c->memory);
	r = open_engine(b, c, e);
	if (!r)
		r = open_chips(b, e);
	if (!r)
		r = open_devices(b, c, e);
	if (!r)
		r = open_kernel(b, c, e);
	return r;
}

void board_close(struct board *b)
{
	/* Transports before devices, devices before what they stand on. */
	for (unsigned i = b->ndevices; i-- > 0;) {
		virtio_pci_free(b->devices[i].transport);
		vdev_free(b->devices[i].dev);
	}
	free(b->devices);
	boot_close(b->kernel);
	power_free(b->power);
	serial_free(b->serial);
	pci_bus_free(b->pci);
	if (b->engine)
		b->class->close(b->engine);
	bus_free(b->bus);
	mem_free(b->mem);
	free(b->kernel_path);
	free(b->initrd_path);
	free(b->cmdline);
	memset(b, 0, sizeof(*b));
}

/* --- running ----------------------------------------------------------------------------- */

void board_flush(struct board *b)
{
	serial_flush(b->serial);
}

void board_power_off(struct board *b)
{
	for (unsigned i = 0; i < b->ndevices; i++)
		vdev_reset(b->devices[i].dev);
}

/*
 * A reset lets go of what the guest had in memory: the host gets the pages back, the next guest
 * zeroes.
 */
static void reset_all(struct board *b)
{
	board_power_off(b);
	for (unsigned i = 0; i < b->ndevices; i++)
		virtio_pci_reset(b->devices[i].transport);
	pci_bus_reset(b->pci);
	serial_reset(b->serial);
	power_reset(b->power);
	mem_clear(b->mem);
	b->class->reset(b->engine);
}

/*
 * Without EFI, Linux resets a board of hardware-reduced ACPI by jumping to where the BIOS was:
 * mov dx, reset register; mov al, value; out dx, al; 1: hlt; jmp 1b.
 */
static int write_reset_vector(struct board *b)
{
	static const uint8_t code[] = { 0xba, (POWER_PORT + POWER_RESET) & 0xff,
		(POWER_PORT + POWER_RESET) >> 8, 0xb0, POWER_RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd };

	return mem_write(b->mem, BOARD_RESET_VECTOR, code, sizeof(code));
}

int board_power_on(struct board *b, struct vz_error *e)
{
	struct acpi_board acpi = {
		.cpus = b->cpus,
		.windows = b->windows,
		.address = BOARD_ACPI,
		.limit = BOARD_ACPI_END,
	};
	struct vcpu *first = b->class->vcpu(b->engine, 0);
	struct boot_result boot = { 0 };
	struct cpu_state *state;
	uint64_t rsdp;
	int r;

	if (b->used)
		reset_all(b);
	b->used = true;
	r = acpi_write(b->mem, &acpi, &rsdp, e);
	if (!r)
		r = write_reset_vector(b);
	if (!r)
		r = boot_load(b->kernel, b->mem, &boot, e);
	if (r)
		return r;
	state = aligned_alloc(_Alignof(struct cpu_state), sizeof(*state));
	if (!state)
		return no_memory(e);
	b->class->get_state(first, state);
	board_entry_state(state, &boot);
	if (b->class->set_state(first, state))
		r = err_set(e, EINVAL, "bootloader.kernel",
			"the engine does not take the kernel's entry state");
	free(state);
	if (!r)
		board_resume(b);
	return r;
}

void board_pause(struct board *b)
{
	if (b->paused)
		return;
	for (unsigned i = 0; i < b->ndevices; i++)
		vdev_pause(b->devices[i].dev);
	b->paused = true;
}

void board_resume(struct board *b)
{
	if (!b->paused)
		return;
	for (unsigned i = 0; i < b->ndevices; i++)
		vdev_resume(b->devices[i].dev);
	b->paused = false;
}
