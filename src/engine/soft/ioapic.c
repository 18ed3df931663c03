/* SPDX-License-Identifier: MIT */
/*
 * I/O APIC with 24 pins: Intel 82093AA. Pins are active high whatever the polarity bit says. Any
 * thread may call these functions.
 */
#include "engine/soft/lapic.h"

#define WINDOW_SELECT  0x00u
#define WINDOW_DATA    0x10u

#define REG_ID         0x00u
#define REG_VERSION    0x01u
#define REG_ARBITRATE  0x02u
#define REG_ENTRIES    0x10u

#define VERSION        (0x11u | (ENGINE_IOAPIC_PINS - 1u) << 16)

#define ENTRY_LOGICAL  0x800u
#define ENTRY_REMOTE   0x4000u /* a level interrupt was accepted and not yet ended */
#define ENTRY_LEVEL    0x8000u
#define ENTRY_MASKED   0x10000u
#define ENTRY_READONLY 0x5000u
#define ENTRY_BITS     0xff0000000001ffffull

/* The lock is held in these two. */
static bool send(struct engine *engine, uint64_t entry)
{
	uint32_t low = (uint32_t)entry;
	uint64_t address = ENGINE_LAPIC_BASE | entry >> 56 << 12;

	if (low & ENTRY_LOGICAL)
		address |= 4;
	return lapic_send_msi(engine, address,
		(low & (ENTRY_LEVEL | 0x7ff)) | MESSAGE_LEVEL_ASSERT);
}

/* Interrupt for a level-triggered pin, when one is due. */
static void update_level(struct engine *engine, unsigned pin)
{
	uint64_t *entry = &engine->ioapic.redirection[pin];

	if ((engine->ioapic.level >> pin & 1) && (*entry & ENTRY_LEVEL) &&
		!(*entry & (ENTRY_MASKED | ENTRY_REMOTE)) && send(engine, *entry))
		*entry |= ENTRY_REMOTE;
}

void ioapic_line(struct engine *engine, unsigned pin, bool level)
{
	struct ioapic *ioapic = &engine->ioapic;
	uint32_t bit = 1u << (pin & 31);
	bool rising;

	if (pin >= ENGINE_IOAPIC_PINS)
		return;
	pthread_mutex_lock(&ioapic->lock);
	rising = level && !(ioapic->level & bit);
	ioapic->level = level ? ioapic->level | bit : ioapic->level & ~bit;
	if (ioapic->redirection[pin] & ENTRY_LEVEL)
		update_level(engine, pin);
	else if (rising && !(ioapic->redirection[pin] & ENTRY_MASKED))
		send(engine, ioapic->redirection[pin]); /* a masked edge is lost: 82093AA 3.2.4 */
	pthread_mutex_unlock(&ioapic->lock);
}

static bool awaits_eoi(uint64_t entry, unsigned vector)
{
	return (entry & 0xff) == vector && (entry & ENTRY_LEVEL) && (entry & ENTRY_REMOTE);
}

void ioapic_eoi(struct engine *engine, unsigned vector)
{
	struct ioapic *ioapic = &engine->ioapic;
	uint32_t pins = 0;

	pthread_mutex_lock(&ioapic->lock);
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++)
		if (awaits_eoi(ioapic->redirection[pin], vector))
			pins |= 1u << pin;
	pthread_mutex_unlock(&ioapic->lock);

	/* The device may lower or raise its line meanwhile. */
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++)
		if ((pins >> pin & 1) && engine->board.eoi)
			engine->board.eoi(engine->board.arg, pin);

	pthread_mutex_lock(&ioapic->lock);
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++) {
		if (!(pins >> pin & 1) || !awaits_eoi(ioapic->redirection[pin], vector))
			continue;
		ioapic->redirection[pin] &= ~(uint64_t)ENTRY_REMOTE;
		update_level(engine, pin);
	}
	pthread_mutex_unlock(&ioapic->lock);
}

static uint32_t reg_read(const struct ioapic *ioapic)
{
	unsigned n = ioapic->select - REG_ENTRIES;

	switch (ioapic->select) {
	case REG_ID:
	case REG_ARBITRATE:
		return ioapic->id;
	case REG_VERSION:
		return VERSION;
	default:
		if (n >= 2 * ENGINE_IOAPIC_PINS)
			return 0;
		return (uint32_t)(ioapic->redirection[n / 2] >> 32 * (n & 1));
	}
}

static void reg_write(struct engine *engine, uint32_t value)
{
	struct ioapic *ioapic = &engine->ioapic;
	unsigned n = ioapic->select - REG_ENTRIES;
	uint64_t *entry = &ioapic->redirection[n / 2 % ENGINE_IOAPIC_PINS];

	if (ioapic->select == REG_ID)
		ioapic->id = value & 0x0f000000;
	if (n >= 2 * ENGINE_IOAPIC_PINS)
		return;
	if (n & 1)
		*entry = (uint32_t)*entry | (uint64_t)value << 32;
	else
		*entry = (*entry & ~(uint64_t)UINT32_MAX) | (*entry & ENTRY_READONLY) |
			 (value & ~ENTRY_READONLY);
	*entry &= ENTRY_BITS;
	/* Without an EOI register this is how a guest clears it by force. */
	if (!(*entry & ENTRY_LEVEL))
		*entry &= ~(uint64_t)ENTRY_REMOTE;
	update_level(engine, n / 2);
}

uint64_t ioapic_read(struct engine *engine, uint64_t offset, unsigned size)
{
	struct ioapic *ioapic = &engine->ioapic;
	uint32_t value = 0;

	pthread_mutex_lock(&ioapic->lock);
	if (offset == WINDOW_SELECT)
		value = ioapic->select;
	else if (offset == WINDOW_DATA)
		value = reg_read(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	return size < 4 ? value & ((1u << 8 * size) - 1) : value;
}

void ioapic_write(struct engine *engine, uint64_t offset, unsigned size, uint64_t value)
{
	pthread_mutex_lock(&engine->ioapic.lock);
	if (offset == WINDOW_SELECT)
		engine->ioapic.select = value & 0xff;
	else if (offset == WINDOW_DATA && size >= 4)
		reg_write(engine, (uint32_t)value);
	pthread_mutex_unlock(&engine->ioapic.lock);
}

void ioapic_reset(struct engine *engine)
{
	struct ioapic *ioapic = &engine->ioapic;

	pthread_mutex_lock(&ioapic->lock);
	ioapic->id = ioapic->select = 0;
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++)
		ioapic->redirection[pin] = ENTRY_MASKED;
	pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_init(struct engine *engine)
{
	pthread_mutex_init(&engine->ioapic.lock, NULL);
	engine->ioapic.level = 0;
	ioapic_reset(engine);
}
