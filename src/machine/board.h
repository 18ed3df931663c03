/* SPDX-License-Identifier: MIT */
/*
 * The board: memory, engine, buses, chips and devices put together, and its address map, guest-
 * physical. RAM is memory/memory.h's business, what lies below 1 MiB the boot loader's
 * (boot/boot.h); the interrupt controllers are the engine's. The rest of the map is here and
 * nowhere else.
 */
#ifndef MACHINE_BOARD_H
#define MACHINE_BOARD_H

#include "base/arith.h"
#include "boot/boot.h"
#include "bus/virtio_pci.h"
#include "engine/engine.h"
#include "platform/platform.h"

#define BOARD_MMIO32       0xd0000000ull
#define BOARD_MMIO32_SIZE  0x18000000ull
#define BOARD_ECAM         0xe8000000ull /* 1 MiB: bus 0 */
#define BOARD_ECAM_SIZE    0x100000ull
#define BOARD_MMIO64_MIN   (512 * GiB)
#define BOARD_MMIO64_SIZE  (256 * GiB) /* with 1 TiB of RAM it still ends below 2^46 */
#define BOARD_ACPI         BOOT_ACPI_RSDP
#define BOARD_ACPI_END     BOARD_RESET_VECTOR
#define BOARD_RESET_VECTOR 0xffff0ull /* real mode f000:fff0, to 1 MiB */

struct vz_config;

/* What the board tells the machine; all on a vCPU thread. */
struct board_host {
	void *arg;
	void (*off)(void *arg);   /* the guest powered off */
	void (*reset)(void *arg); /* the guest asked for a reset */
	void (*serial)(void *arg, const void *bytes, unsigned len);
};

struct board_device {
	struct vdev *dev;
	struct virtio_pci *transport;
};

struct board {
	struct board_host host;
	struct loop *loop;
	unsigned cpus;
	struct memory *mem;
	const struct engine_class *class;
	struct engine *engine;
	struct bus *bus;
	struct pci_windows windows;
	struct pci_bus *pci;
	struct serial *serial;
	struct power *power;
	struct board_device *devices;
	unsigned ndevices;
	struct boot_kernel *kernel;
	char *kernel_path, *initrd_path, *cmdline; /* outlive the configuration */
	bool used;                                 /* a guest has run since memory was all zero */
	bool paused;                               /* the devices are */
};

/*
 * Build the board of a configuration with an engine that works. All these functions are called on
 * the loop, where the devices live, and, but for open, while no vCPU runs. close takes a half-
 * built board.
 */
int board_open(struct board *b, const struct vz_config *config, const struct engine_class *class,
	struct loop *loop, const struct board_host *host, struct vz_error *e);
void board_close(struct board *b);

/* Everything as at power-on, the kernel loaded and the first CPU about to enter it. */
int board_power_on(struct board *b, struct vz_error *e);
/* Nothing of the devices is in flight afterwards, and nothing starts. */
void board_pause(struct board *b);
void board_resume(struct board *b);
/* Hand over what the guest said last. */
void board_flush(struct board *b);
/* The devices are in reset. */
void board_power_off(struct board *b);

/* How the first CPU starts. state: as read after the engine's reset. */
void board_entry_state(struct cpu_state *state, const struct boot_result *boot);
/* The PCI windows of a board with that much RAM. */
struct pci_windows board_windows(uint64_t memory_size);

#endif
