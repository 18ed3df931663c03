/* SPDX-License-Identifier: MIT */
/* I/O APIC with 24 pins: see ioapic.h. */
#include "engine/ioapic.h"
#include "state/state.h"

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

#define DATA_ASSERT    0x4000u

/* The entry as a message; the bits of its low half are where a message has them. */
static uint64_t message_address(uint64_t entry)
{
	return ENGINE_LAPIC_BASE | entry >> 56 << 12 | (entry & ENTRY_LOGICAL ? 4 : 0);
}

static uint32_t message_data(uint64_t entry)
{
	return ((uint32_t)entry & (ENTRY_LEVEL | 0x7ff)) | DATA_ASSERT;
}

/* The lock is held in these three. */
static bool send(const struct ioapic *ioapic, uint64_t entry)
{
	return ioapic->host.send(ioapic->host.arg, message_address(entry), message_data(entry));
}

/* Interrupt for a level-triggered pin, when one is due. */
static void update_level(struct ioapic *ioapic, unsigned pin)
{
	uint64_t *entry = &ioapic->redirection[pin];

	if ((ioapic->level >> pin & 1) && (*entry & ENTRY_LEVEL) &&
		!(*entry & (ENTRY_MASKED | ENTRY_REMOTE)) && send(ioapic, *entry))
		*entry |= ENTRY_REMOTE;
}

static void update_route(const struct ioapic *ioapic, unsigned pin)
{
	uint64_t entry = ioapic->redirection[pin];
	/* Masked while one is in service, it still waits for the end. */
	bool used = (entry & ENTRY_LEVEL) && (!(entry & ENTRY_MASKED) || (entry & ENTRY_REMOTE));

	if (ioapic->host.route)
		ioapic->host.route(ioapic->host.arg, pin, used, message_address(entry),
			message_data(entry));
}

void ioapic_line(struct ioapic *ioapic, unsigned pin, bool level)
{
	uint32_t bit = 1u << (pin & 31);
	bool rising;

	if (pin >= ENGINE_IOAPIC_PINS)
		return;
	pthread_mutex_lock(&ioapic->lock);
	rising = level && !(ioapic->level & bit);
	ioapic->level = level ? ioapic->level | bit : ioapic->level & ~bit;
	if (ioapic->redirection[pin] & ENTRY_LEVEL)
		update_level(ioapic, pin);
	else if (rising && !(ioapic->redirection[pin] & ENTRY_MASKED))
		send(ioapic, ioapic->redirection[pin]); /* a masked edge is lost: 82093AA 3.2.4 */
	pthread_mutex_unlock(&ioapic->lock);
}

static bool awaits_eoi(uint64_t entry, unsigned vector)
{
	return (entry & 0xff) == vector && (entry & ENTRY_LEVEL) && (entry & ENTRY_REMOTE);
}

void ioapic_eoi(struct ioapic *ioapic, unsigned vector)
{
	uint32_t pins = 0;

	pthread_mutex_lock(&ioapic->lock);
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++)
		if (awaits_eoi(ioapic->redirection[pin], vector))
			pins |= 1u << pin;
	pthread_mutex_unlock(&ioapic->lock);

	/* The device may lower or raise its line meanwhile. */
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++)
		if (pins >> pin & 1)
			ioapic->host.ended(ioapic->host.arg, pin);

	pthread_mutex_lock(&ioapic->lock);
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++) {
		if (!(pins >> pin & 1) || !awaits_eoi(ioapic->redirection[pin], vector))
			continue;
		ioapic->redirection[pin] &= ~(uint64_t)ENTRY_REMOTE;
		update_level(ioapic, pin);
		update_route(ioapic, pin);
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

static void reg_write(struct ioapic *ioapic, uint32_t value)
{
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
	update_level(ioapic, n / 2);
	update_route(ioapic, n / 2);
}

uint64_t ioapic_read(struct ioapic *ioapic, uint64_t offset, unsigned size)
{
	uint32_t value = 0;

	pthread_mutex_lock(&ioapic->lock);
	if (offset == WINDOW_SELECT)
		value = ioapic->select;
	else if (offset == WINDOW_DATA)
		value = reg_read(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	return size < 4 ? value & ((1u << 8 * size) - 1) : value;
}

void ioapic_write(struct ioapic *ioapic, uint64_t offset, unsigned size, uint64_t value)
{
	pthread_mutex_lock(&ioapic->lock);
	if (offset == WINDOW_SELECT)
		ioapic->select = value & 0xff;
	else if (offset == WINDOW_DATA && size >= 4)
		reg_write(ioapic, (uint32_t)value);
	pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_reset(struct ioapic *ioapic)
{
	pthread_mutex_lock(&ioapic->lock);
	ioapic->id = ioapic->select = 0;
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++) {
		ioapic->redirection[pin] = ENTRY_MASKED;
		update_route(ioapic, pin);
	}
	pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_init(struct ioapic *ioapic, const struct ioapic_host *host)
{
	pthread_mutex_init(&ioapic->lock, NULL);
	ioapic->host = *host;
	ioapic->level = 0;
	ioapic_reset(ioapic);
}

void ioapic_fini(struct ioapic *ioapic)
{
	pthread_mutex_destroy(&ioapic->lock);
}

int ioapic_state(struct ioapic *ioapic, struct state *s)
{
	pthread_mutex_lock(&ioapic->lock);
	state_enter(s, "ioapic", 1, NULL);
	state_u32(s, "id", &ioapic->id);
	state_u32(s, "select", &ioapic->select);
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++) {
		state_u64(s, "redirection", &ioapic->redirection[pin]);
		ioapic->redirection[pin] &= ENTRY_BITS;
		update_route(ioapic, pin);
	}
	state_u32(s, "level", &ioapic->level);
	pthread_mutex_unlock(&ioapic->lock);
	return state_leave(s);
}
