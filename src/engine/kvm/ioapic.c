/* SPDX-License-Identifier: MIT */
/*
 * I/O APIC with 24 pins (Intel 82093AA), beside KVM's local APICs. Pins are active high whatever
 * the polarity bit says. Interrupts leave as messages; a level-triggered entry also has a route, by
 * which KVM knows the vectors whose end it must report. Any thread may call these functions.
 */
#include "engine/kvm/internal.h"
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
static struct kvm_route message(uint64_t entry)
{
	uint32_t low = (uint32_t)entry;

	return (struct kvm_route){
		.used = true,
		.address = ENGINE_LAPIC_BASE | entry >> 56 << 12 | (low & ENTRY_LOGICAL ? 4 : 0),
		.data = (low & (ENTRY_LEVEL | 0x7ff)) | DATA_ASSERT,
	};
}

static bool send(struct engine *engine, uint64_t entry)
{
	struct kvm_route m = message(entry);

	return kvm_send_msi(engine, m.address, m.data);
}

/* Interrupt for a level-triggered pin, when one is due. The lock is held. */
static void update_level(struct engine *engine, unsigned pin)
{
	uint64_t *entry = &engine->ioapic.redirection[pin];

	if ((engine->ioapic.level >> pin & 1) && (*entry & ENTRY_LEVEL) &&
		!(*entry & (ENTRY_MASKED | ENTRY_REMOTE)) && send(engine, *entry))
		*entry |= ENTRY_REMOTE;
}

/* The lock is held. */
static void update_route(struct engine *engine, unsigned pin)
{
	uint64_t entry = engine->ioapic.redirection[pin];
	struct kvm_route route = { 0 };

	/* Masked while one is in service, it still waits for the end. */
	if ((entry & ENTRY_LEVEL) && (!(entry & ENTRY_MASKED) || (entry & ENTRY_REMOTE)))
		route = message(entry);
	kvm_route_pin(engine, pin, &route);
}

void kvm_ioapic_line(struct engine *engine, unsigned pin, bool level)
{
	struct kvm_ioapic *ioapic = &engine->ioapic;
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

void kvm_ioapic_eoi(struct engine *engine, unsigned vector)
{
	struct kvm_ioapic *ioapic = &engine->ioapic;
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

static uint32_t reg_read(const struct kvm_ioapic *ioapic)
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
	struct kvm_ioapic *ioapic = &engine->ioapic;
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
	update_route(engine, n / 2);
	update_level(engine, n / 2);
}

uint64_t kvm_ioapic_read(struct engine *engine, uint64_t offset, unsigned size)
{
	struct kvm_ioapic *ioapic = &engine->ioapic;
	uint32_t value = 0;

	pthread_mutex_lock(&ioapic->lock);
	if (offset == WINDOW_SELECT)
		value = ioapic->select;
	else if (offset == WINDOW_DATA)
		value = reg_read(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	return size < 4 ? value & ((1u << 8 * size) - 1) : value;
}

void kvm_ioapic_write(struct engine *engine, uint64_t offset, unsigned size, uint64_t value)
{
	pthread_mutex_lock(&engine->ioapic.lock);
	if (offset == WINDOW_SELECT)
		engine->ioapic.select = value & 0xff;
	else if (offset == WINDOW_DATA && size >= 4)
		reg_write(engine, (uint32_t)value);
	pthread_mutex_unlock(&engine->ioapic.lock);
}

/* The lines are the devices', who lower them when they are reset themselves. */
void kvm_ioapic_reset(struct engine *engine)
{
	struct kvm_ioapic *ioapic = &engine->ioapic;

	pthread_mutex_lock(&ioapic->lock);
	ioapic->id = ioapic->select = 0;
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++) {
		ioapic->redirection[pin] = ENTRY_MASKED;
		update_route(engine, pin);
	}
	pthread_mutex_unlock(&ioapic->lock);
}

int kvm_ioapic_state(struct engine *engine, struct state *s)
{
	struct kvm_ioapic *ioapic = &engine->ioapic;
	uint32_t pending = 0; /* the software engine's section has it */

	pthread_mutex_lock(&ioapic->lock);
	state_enter(s, "ioapic", 1, NULL);
	state_u32(s, "id", &ioapic->id);
	state_u32(s, "select", &ioapic->select);
	for (unsigned pin = 0; pin < ENGINE_IOAPIC_PINS; pin++) {
		state_u64(s, "redirection", &ioapic->redirection[pin]);
		ioapic->redirection[pin] &= ENTRY_BITS;
		update_route(engine, pin);
	}
	state_u32(s, "level", &ioapic->level);
	state_u32(s, "pending", &pending);
	pthread_mutex_unlock(&ioapic->lock);
	return state_leave(s);
}
