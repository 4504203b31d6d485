/* SPDX-License-Identifier: BSD-3-Clause */
/* Who has the file open compares it with the journal: soak.h has the rule. */
#include "soak.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEQ_BITS  40
#define SEQ_MASK  ((1ull << SEQ_BITS) - 1)
#define WORDS	  (SOAK_BLOCK / sizeof(uint64_t))
#define NOBODY	  UINT64_MAX

static bool locked(struct soak_file *f, int r)
{
	if (r == EOWNERDEAD)
		pthread_mutex_consistent(&f->openers);
	return r != EBUSY;
}

void judge_lock(struct soak_file *f)
{
	locked(f, pthread_mutex_lock(&f->openers));
}

bool judge_try_lock(struct soak_file *f)
{
	return locked(f, pthread_mutex_trylock(&f->openers));
}

void judge_unlock(struct soak_file *f)
{
	pthread_mutex_unlock(&f->openers);
}

static uint64_t tag_of(const struct soak_file *f, unsigned int block)
{
	return (uint64_t)(f->number + 1) << 56 | (uint64_t)block << SEQ_BITS;
}

void judge_stamp(const struct soak_file *f, unsigned int block, uint64_t seq, void *to)
{
	uint64_t *word = to, value = tag_of(f, block) | seq;

	for (size_t i = 0; i < WORDS; i++)
		word[i] = value;
}

uint64_t judge_draw(struct soak_file *f, unsigned int block)
{
	return atomic_fetch_add(&f->block[block].posted, 1) + 1;
}

void judge_posting(struct soak_file *f, unsigned int block, uint64_t seq)
{
	atomic_store(&f->block[block].posting, seq | SOAK_PENDING);
}

void judge_posted(struct soak_file *f, unsigned int block, uint64_t seq, bool outrun)
{
	atomic_store(&f->block[block].posting, outrun ? seq : 0);
	soak_count(&soak->n.outrun, outrun);
}

void judge_killed(struct soak_file *f)
{
	for (unsigned int i = 0; i < soak->blocks; i++)
		atomic_fetch_and(&f->block[i].posting, ~SOAK_PENDING);
}

void judge_wrote(struct soak_file *f, unsigned int block, uint64_t seq)
{
	soak_max(&f->block[block].acked, seq);
	soak_max(&f->block[block].settled, seq);
}

void judge_zeroed(struct soak_file *f, unsigned int block)
{
	uint64_t seq = judge_draw(f, block);

	atomic_store(&f->block[block].zero, seq);
	judge_wrote(f, block, seq);
}

/* The number that a word carries; NOBODY: it is none of this block's. */
static uint64_t seq_of(struct soak_file *f, unsigned int block, uint64_t word)
{
	uint64_t zero = atomic_load(&f->block[block].zero);

	if (!word)
		return zero ? zero : NOBODY;
	return (word & ~SEQ_MASK) == tag_of(f, block) ? word & SEQ_MASK : NOBODY;
}

struct range {
	uint64_t low, high;	/* the numbers that are in the block */
};

static struct range range_of(struct soak_file *f, unsigned int block, const uint64_t *word)
{
	struct range r = { .low = NOBODY, .high = 0 };

	for (size_t i = 0; i < WORDS; i++) {
		uint64_t seq = i && word[i] == word[i - 1] ? r.high : seq_of(f, block, word[i]);

		if (i && word[i] == word[i - 1])
			continue;
		r.low = seq < r.low ? seq : r.low;
		r.high = seq > r.high ? seq : r.high;
	}
	return r;
}

static struct slot *slot_of(struct soak_file *f, unsigned int block)
{
	for (unsigned int i = 0; i < SOAK_SLOTS; i++) {
		struct slot *s = &f->slot[i];
		uint32_t first = atomic_load(&s->first);

		if (atomic_load(&s->state) != SLOT_NONE && block >= first &&
		    block < first + atomic_load(&s->count))
			return s;
	}
	return NULL;
}

/* Did anybody say that it is gone? -1: the owner has not said yet how the break ended. */
static int excuse(struct soak_file *f, unsigned int block, uint64_t in_ns)
{
	struct slot *s = slot_of(f, block);
	/* Loaded before the state, which the owner stores first. */
	uint64_t since = s ? atomic_load(&s->since) : 0;

	switch (s ? atomic_load(&s->state) : (uint32_t)SLOT_NONE) {
	case SLOT_LOST:
		return atomic_load(&s->missing) >> block & 1;
	case SLOT_DEAD:
		return atomic_load(&s->mode) == PINLEASE_MODE_STAGED;
	case SLOT_HELD:
		return -1;
	case SLOT_REVOKED:
		return since > in_ns ? 0 : -1;
	default:
		return 0;
	}
}

static bool excused(struct soak_file *f, unsigned int block, uint64_t in_ns)
{
	uint64_t until = in_ns + (f->planted ? SOAK_STUCK_NS / 8 : SOAK_WAIT_NS);
	struct slot *s;
	int r;

	while ((r = excuse(f, block, in_ns)) < 0) {
		if (kt_now() > until)
			return false;
		kt_sleep_ms(1);
	}
	s = r ? slot_of(f, block) : NULL;
	if (s)
		soak_count(atomic_load(&s->state) == SLOT_DEAD ? &soak->n.excused_dead
							       : &soak->n.excused_lost, 1);
	return r;
}

/* Once only, so that what is written late after that is found. */
static bool outrun(struct block *b, uint64_t low, uint64_t in_ns)
{
	while (atomic_load(&b->posting) == (low | SOAK_PENDING) && kt_now() < in_ns + SOAK_WAIT_NS)
		kt_sleep_ms(1);
	if (!atomic_compare_exchange_strong(&b->posting, &low, 0))
		return false;
	soak_count(&soak->n.excused_outrun, 1);
	return true;
}

static void wrong(struct soak_file *f, unsigned int block, struct range is, uint64_t acked, uint64_t posted)
{
	struct slot *s = slot_of(f, block);

	soak_report(f, "block %u has %" PRId64 "..%" PRIu64 ", settled %" PRIu64 ", acked %" PRIu64
		       ", posted %" PRIu64 "; owner %d, lease state %u, mode %u, missing %" PRIx64,
		    block, (int64_t)is.low, is.high, atomic_load(&f->block[block].settled), acked, posted,
		    atomic_load(&f->owner), s ? atomic_load(&s->state) : 0, s ? atomic_load(&s->mode) : 0,
		    s ? atomic_load(&s->missing) : 0);
}

static void look_at(struct soak_file *f, unsigned int block, const uint64_t *word, uint64_t acked,
		    uint64_t in_ns)
{
	struct range is = range_of(f, block, word);
	struct block *b = &f->block[block];
	uint64_t posted = atomic_load(&b->posted);

	if (is.low < acked || is.high > posted) {
		/* Not NOBODY's, whatever was lost. */
		if (is.high > posted || (!outrun(b, is.low, in_ns) && (is.low < atomic_load(&b->settled) ||
								       !excused(f, block, in_ns))))
			wrong(f, block, is, acked, posted);
		atomic_store(&b->acked, is.low < posted ? is.low : posted);
	}
	atomic_store(&b->settled, is.low < posted ? is.low : posted);
}

void judge_look(struct soak_file *f, int fd, uint64_t in_ns, struct look *look)
{
	uint64_t acked[SOAK_BLOCKS];
	struct stat st;

	/* Before the bytes: what is acknowledged from now on may be in them, or not. */
	for (unsigned int i = 0; i < soak->blocks; i++)
		acked[i] = atomic_load(&f->block[i].acked);
	if (fstat(fd, &st) || st.st_size % SOAK_BLOCK || st.st_size > soak->blocks * SOAK_BLOCK)
		soak_report(f, "size %lld", (long long)st.st_size);
	look->size = (uint64_t)st.st_size / SOAK_BLOCK;
	if (pread(fd, look->word, (size_t)st.st_size, 0) != st.st_size)
		soak_report(f, "read: %s", strerror(errno));
	for (unsigned int i = 0; i < look->size; i++)
		look_at(f, i, look->word[i], acked[i], in_ns);
	soak_count(&soak->n.looked, look->size);
}

void judge_still(struct soak_file *f, int fd, const struct look *look)
{
	static _Thread_local struct look now;
	unsigned int i, late = 0;

	if (pread(fd, now.word, look->size * SOAK_BLOCK, 0) != (ssize_t)(look->size * SOAK_BLOCK))
		soak_report(f, "changed under an opener: its size");
	for (i = 0; i < look->size; i++)
		late += memcmp(now.word[i], look->word[i], SOAK_BLOCK) != 0;
	if (late)
		soak_report(f, "%u blocks changed under an opener", late);
	soak_count(&soak->n.late, late);
}
