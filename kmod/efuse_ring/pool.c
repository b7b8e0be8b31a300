// SPDX-License-Identifier: GPL-2.0-only
/*
 * Slots and payload of a ring. The bitmaps are the kernel's alone; the daemon
 * learns of a slot from its pending entry and cannot give one back twice.
 */
#include <linux/bitmap.h>

#include "ring.h"

/* First fit from where the last search ended, so that neighbours are reused late. */
static int efuse_find_payload(struct efuse_ring *ring, u32 nr)
{
	unsigned long size = ring->ec->payload_size / EFUSE_GRANULE;
	unsigned long first;

	lockdep_assert_held(&ring->lock);
	first = bitmap_find_next_zero_area(ring->pay_map, size, ring->pay_hint, nr, 0);
	if (first >= size && ring->pay_hint)
		first = bitmap_find_next_zero_area(ring->pay_map, size, 0, nr, 0);
	return first >= size ? -ENOSPC : (int)first;
}

static int efuse_claim_payload(struct efuse_ring *ring, struct efuse_slot *s, u32 bytes)
{
	u32 nr = DIV_ROUND_UP(bytes, (u32)EFUSE_GRANULE);
	int first = efuse_find_payload(ring, nr);

	if (first < 0)
		return first;
	bitmap_set(ring->pay_map, first, nr);
	ring->pay_hint = first + nr;
	ring->pay_used += nr;
	s->pay_first = first;
	s->pay_nr = nr;
	return 0;
}

/* The last quarter of the slots is for requests that somebody waits for. */
static bool efuse_background_full(struct efuse_ring *ring)
{
	lockdep_assert_held(&ring->lock);
	return ring->background >= ring->ec->depth - ring->ec->depth / 4;
}

/*
 * A free slot, with pay_bytes of payload where that is not 0.
 * -EBUSY: no slot, -ENOSPC: no payload (now, or ever: the caller checks the size).
 */
int efuse_take(struct efuse_ring *ring, u32 pay_bytes, bool background)
{
	u32 depth = ring->ec->depth;
	struct efuse_slot *s;
	u32 slot;
	int err;

	spin_lock(&ring->lock);
	slot = find_next_zero_bit(ring->slot_map, depth, ring->slot_hint);
	if (slot >= depth)
		slot = find_first_zero_bit(ring->slot_map, depth);
	err = -EBUSY;
	if (slot >= depth || (background && efuse_background_full(ring)))
		goto out;
	s = &ring->slots[slot];
	s->pay_nr = 0;
	if (pay_bytes) {
		err = efuse_claim_payload(ring, s, pay_bytes);
		if (err)
			goto out;
	}
	__set_bit(slot, ring->slot_map);
	ring->slot_hint = slot;
	ring->in_flight++;
	s->background = background;
	ring->background += background;
	err = slot;
out:
	spin_unlock(&ring->lock);
	return err;
}

/* Payload for a slot that was taken without. */
int efuse_take_payload(struct efuse_ring *ring, u32 slot, u32 pay_bytes)
{
	int err;

	spin_lock(&ring->lock);
	err = efuse_claim_payload(ring, &ring->slots[slot], pay_bytes);
	spin_unlock(&ring->lock);
	return err;
}

void efuse_put(struct efuse_ring *ring, u32 slot)
{
	struct efuse_slot *s = &ring->slots[slot];
	bool room = s->pay_nr;

	spin_lock(&ring->lock);
	if (room) {
		bitmap_clear(ring->pay_map, s->pay_first, s->pay_nr);
		ring->pay_used -= s->pay_nr;
		ring->pay_hint = s->pay_first;
		s->pay_nr = 0;
	}
	atomic_set(&s->state, efuse_slot_word(s->gen, EFUSE_SLOT_FREE));
	__clear_bit(slot, ring->slot_map);
	ring->slot_hint = slot;		/* it is warm */
	ring->in_flight--;
	ring->background -= s->background;
	spin_unlock(&ring->lock);
	/* kh->deferred was raised before a worker failed to find room under the lock. */
	if (room && READ_ONCE(ring->kh->deferred)) {
		atomic_inc(&ring->defer_events);
		efuse_wake_worker(ring);
	}
}
