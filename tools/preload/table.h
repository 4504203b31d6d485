/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where files are mapped: address ranges in order, each with the open file description and
 * the offset that lie there. Memory of its own, reserved at once: nothing here allocates,
 * since mmap is what allocators call, with their locks held.
 *
 * Who writes holds a lock of its own (maps.c). Who reads takes none, and makes no system
 * call: every registration of a program begins with a look here. The sequence number is odd
 * while something changes, and a reader that has seen it change looks again.
 */
#ifndef PRE_TABLE_H
#define PRE_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pre_file;

/* One open file description that is mapped. Protected by who protects the table. */
struct pre_fd {
	struct pre_fd *next;	/* of the dead, or of the free */
	struct pre_fd *chain;	/* maps.c: those of one hash */
	uint64_t dev, ino;
	uint32_t refs;		/* ranges, and others */
	uint32_t page;		/* of the file: larger than memory's on hugetlbfs */
	int fd;			/* our duplicate */
	bool writable;
	_Atomic uint64_t told;	/* reasons that were logged already, a bit each */
	struct pre_file *file;	/* files.c: leased, under its lock */
};

struct pre_range {
	_Atomic uintptr_t start, end;
	_Atomic uint64_t off;	/* the file's, of start */
	_Atomic(struct pre_fd *) fd;
};

struct pre_table {
	struct pre_range *range;
	size_t room;
	_Atomic size_t count;
	_Atomic uint64_t seq;	     /* never comes round: a gap may be asked for after any time */
	_Atomic uintptr_t low, high;	/* no range lies outside; never shrinks */
	struct pre_fd *dead;		/* refs have become 0 */
};

/* No range meets this while the table is what it was: each thread's own. */
struct pre_gap {
	uint64_t seq;
	uintptr_t start, end;
};

/* Odd: no table at rest has it. */
#define PRE_NO_GAP { .seq = 1 }

/* A copy of a range, or of the part of it that was asked for. */
struct pre_part {
	uintptr_t start, end;
	uint64_t off;
	struct pre_fd *fd;
};

void pre_table_init(struct pre_table *t, struct pre_range *memory, size_t room);

/* Writers. A split or an insert that finds no room leaves the range out: it is not known then. */
void pre_table_insert(struct pre_table *t, uintptr_t start, uintptr_t end, uint64_t off, struct pre_fd *fd);
void pre_table_remove(struct pre_table *t, uintptr_t start, uintptr_t end);
/* mremap(2) did this; keep: MREMAP_DONTUNMAP. Lengths are whole pages; old_len 0 maps it a second time. */
void pre_table_move(struct pre_table *t, uintptr_t old, size_t old_len, uintptr_t new, size_t new_len,
		    bool keep);
/* fd has one user less; without any it is among the dead. */
void pre_table_drop(struct pre_table *t, struct pre_fd *fd);

/* Readers: the first part at or after start and before end. */
bool pre_table_next(struct pre_table *t, uintptr_t start, uintptr_t end, struct pre_part *part);
/* Does a range meet this? Yes, too, while the table changes; no, and the gap it lies in. Waits for nobody. */
bool pre_table_meets(const struct pre_table *t, uintptr_t start, uintptr_t end, struct pre_gap *gap);
/*
 * Nothing meets this, as one look in the table has shown before. Asked first for all that is registered: who
 * was given the memory by another thread has seen the table change, if it did.
 */
static inline bool pre_table_skips(const struct pre_table *t, uintptr_t start, uintptr_t end,
				   const struct pre_gap *gap)
{
	return gap->seq == atomic_load_explicit(&t->seq, memory_order_acquire) && start >= gap->start &&
	       end <= gap->end;
}
/* May there be one? Cheap, and errs to yes. */
static inline bool pre_table_near(struct pre_table *t, uintptr_t start, size_t len)
{
	return start < atomic_load_explicit(&t->high, memory_order_relaxed) &&
	       start + len > atomic_load_explicit(&t->low, memory_order_relaxed);
}

#endif
