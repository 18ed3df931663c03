/* SPDX-License-Identifier: MIT */
/*
 * MSI-X (PCI 3.0 section 6.8.2): the capability, the table and the pending bits. The messages are
 * sent under the lock, so that once a write that masks a vector has returned, no message of it
 * follows.
 */
#include "bus/pci_internal.h"

#include "base/arith.h"
#include "base/le.h"
#include "state/state.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define CAPABILITY_SIZE  12
#define VECTORS_MAX      2048
#define CONTROL_ENABLE   0x8000
#define CONTROL_MASK     0x4000
#define ENTRY_SIZE       16
#define ENTRY_ADDRESS    0
#define ENTRY_ADDRESS_HI 4
#define ENTRY_DATA       8
#define ENTRY_CONTROL    12

int msix_init(struct pci_dev *dev, unsigned bar, uint32_t table_offset, uint32_t pba_offset,
	unsigned vectors)
{
	struct msix *m = &dev->msix;
	uint8_t *p;

	assert(vectors && vectors <= VECTORS_MAX && !(table_offset & 7) && !(pba_offset & 7));
	m->table = calloc(vectors, sizeof(*m->table));
	if (!m->table)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	m->vectors = vectors;
	m->capability = pci_add_capability(dev, PCI_CAPABILITY_MSIX, CAPABILITY_SIZE);
	p = dev->config + m->capability;
	le16_store(p + 2, vectors - 1);
	le32_store(p + 4, table_offset | bar);
	le32_store(p + 8, pba_offset | bar);
	le16_store(dev->writable + m->capability + 2, CONTROL_ENABLE | CONTROL_MASK);
	msix_reset(dev);
	return 0;
}

void msix_fini(struct pci_dev *dev)
{
	struct msix *m = &dev->msix;

	if (!m->table)
		return;
	free(m->table);
	m->table = NULL;
	m->vectors = 0;
	pthread_mutex_destroy(&m->lock);
}

void msix_reset(struct pci_dev *dev)
{
	struct msix *m = &dev->msix;

	if (!m->table)
		return;
	pthread_mutex_lock(&m->lock);
	m->enabled = m->masked = false;
	memset(m->table, 0, m->vectors * sizeof(*m->table));
	for (unsigned i = 0; i < m->vectors; i++)
		m->table[i].masked = true;
	pthread_mutex_unlock(&m->lock);
}

/* Send what waited, if it may go now. */
static void deliver(struct msix *m, unsigned vector)
{
	if (!m->table[vector].pending || !m->enabled || m->masked || m->table[vector].masked)
		return;
	m->table[vector].pending = false;
	if (m->send)
		m->send(m->send_arg, m->table[vector].address, m->table[vector].data);
}

void msix_control_wrote(struct pci_dev *dev)
{
	struct msix *m = &dev->msix;
	uint16_t control;

	if (!m->table)
		return;
	control = le16_load(dev->config + m->capability + 2);
	pthread_mutex_lock(&m->lock);
	m->enabled = control & CONTROL_ENABLE;
	m->masked = control & CONTROL_MASK;
	for (unsigned i = 0; i < m->vectors; i++)
		deliver(m, i);
	pthread_mutex_unlock(&m->lock);
}

void msix_raise(struct pci_dev *dev, unsigned vector)
{
	struct msix *m = &dev->msix;

	if (vector >= m->vectors)
		return;
	pthread_mutex_lock(&m->lock);
	if (m->enabled) {
		m->table[vector].pending = true;
		deliver(m, vector);
	}
	pthread_mutex_unlock(&m->lock);
}

bool msix_enabled(struct pci_dev *dev)
{
	struct msix *m = &dev->msix;
	bool enabled;

	if (!m->table)
		return false;
	pthread_mutex_lock(&m->lock);
	enabled = m->enabled;
	pthread_mutex_unlock(&m->lock);
	return enabled;
}

/* Reads of any width and alignment work as long as they stay inside one entry. */
uint64_t msix_table_read(struct pci_dev *dev, uint64_t offset, unsigned size)
{
	struct msix *m = &dev->msix;
	uint64_t vector = offset / ENTRY_SIZE, at = offset % ENTRY_SIZE;
	uint8_t entry[ENTRY_SIZE];

	if (vector >= m->vectors || at + size > ENTRY_SIZE)
		return 0;
	pthread_mutex_lock(&m->lock);
	le64_store(entry + ENTRY_ADDRESS, m->table[vector].address);
	le32_store(entry + ENTRY_DATA, m->table[vector].data);
	le32_store(entry + ENTRY_CONTROL, m->table[vector].masked);
	pthread_mutex_unlock(&m->lock);
	return le_load(entry + at, size);
}

static void entry_write(struct msix *m, unsigned vector, unsigned at, uint32_t value)
{
	uint64_t *address = &m->table[vector].address;

	switch (at) {
	case ENTRY_ADDRESS:
		*address = (*address & ~0xffffffffull) | (value & ~3u);
		break;
	case ENTRY_ADDRESS_HI:
		*address = (*address & 0xffffffffull) | (uint64_t)value << 32;
		break;
	case ENTRY_DATA:
		m->table[vector].data = value;
		break;
	case ENTRY_CONTROL:
		m->table[vector].masked = value & 1;
		break;
	}
}

void msix_table_write(struct pci_dev *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct msix *m = &dev->msix;
	uint64_t vector = offset / ENTRY_SIZE;
	unsigned at = offset % ENTRY_SIZE;

	/* The specification allows aligned doublewords and quadwords only. */
	if (vector >= m->vectors || size < 4 || offset % size)
		return;
	pthread_mutex_lock(&m->lock);
	entry_write(m, vector, at, value);
	if (size == 8)
		entry_write(m, vector, at + 4, value >> 32);
	deliver(m, vector);
	pthread_mutex_unlock(&m->lock);
}

uint64_t msix_pba_read(struct pci_dev *dev, uint64_t offset, unsigned size)
{
	struct msix *m = &dev->msix;
	uint64_t bits = 0;

	if (offset >= VECTORS_MAX / 8)
		return 0;
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < 8 * size; i++) {
		unsigned vector = 8 * offset + i;

		if (vector < m->vectors && m->table[vector].pending)
			bits |= 1ull << i;
	}
	pthread_mutex_unlock(&m->lock);
	return bits;
}

int msix_state(struct pci_dev *dev, struct state *s)
{
	struct msix *m = &dev->msix;
	uint16_t vectors = m->vectors;
	uint32_t version;
	int r = state_enter(s, "msix", 1, &version);

	if (!r)
		r = state_u16(s, "vectors", &vectors);
	if (!r && vectors != m->vectors)
		r = state_reject(s, "vectors", "another number of vectors");
	if (r)
		return r;
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < m->vectors && !r; i++) {
		r = state_u64(s, "address", &m->table[i].address);
		r = r ? r : state_u32(s, "data", &m->table[i].data);
		r = r ? r : state_bool(s, "masked", &m->table[i].masked);
		r = r ? r : state_bool(s, "pending", &m->table[i].pending);
		m->table[i].address &= ~3ull;
	}
	pthread_mutex_unlock(&m->lock);
	return r ? r : state_leave(s);
}
