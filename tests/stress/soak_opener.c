/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The openers: each opens a file as anybody may, is held up by its lease, judges what is in the
 * file, changes it or not, watches it for a moment, and closes.
 */
#include "soak.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOLD_US	  4000u
#define PAUSE_US  15000u
#define LEAST	  8u	/* blocks that a cut leaves */

struct opener {
	unsigned int number, seed;
	struct look look;
};

/* Too long, and the file's owner ran all that time? */
static void was_blocked(struct soak_file *f, uint64_t from, uint64_t to)
{
	int owner = atomic_load(&f->owner);
	uint64_t ran = owner >= 0 ? atomic_load(&soak->owner[owner].ran_ns) : 0;

	if (owner >= 0 && (atomic_load(&soak->owner[owner].stopped) || ran > from))
		return;
	soak_max(&soak->n.blocked_max, to - from);
	if (to - from > SOAK_STUCK_NS)
		soak_report(f, "an opener was blocked for %" PRIu64 " ms, and owner %d ran",
			    (to - from) / SOAK_MS, owner);
}

static int open_timed(struct opener *o, struct soak_file *f, int flags)
{
	uint64_t from = kt_now();
	int fd;

	atomic_store(&soak->waits_since[o->number], from);
	fd = open(f->path, flags | O_CLOEXEC);
	atomic_store(&soak->waits_since[o->number], 0);
	if (fd < 0)
		soak_report(f, "open: %s", strerror(errno));
	was_blocked(f, from, kt_now());
	soak_count(&soak->n.opens, 1);
	return fd;
}

/* truncate(path): blocked without any descriptor, and gone again when it returns. */
static void cut_or_extend(struct opener *o, struct soak_file *f)
{
	uint64_t from, to, blocks = LEAST + soak_roll(&o->seed, soak->blocks - LEAST + 1);
	struct stat st;

	if (stat(f->path, &st)) {
		soak_report(f, "stat: %s", strerror(errno));
		return;
	}
	for (from = (uint64_t)st.st_size / SOAK_BLOCK; from < blocks; from++)
		judge_zeroed(f, (unsigned int)from);
	from = kt_now();
	atomic_store(&soak->waits_since[o->number], from);
	if (truncate(f->path, (off_t)(blocks * SOAK_BLOCK)))
		soak_report(f, "truncate: %s", strerror(errno));
	to = kt_now();
	atomic_store(&soak->waits_since[o->number], 0);
	was_blocked(f, from, to);
	soak_count(&soak->n.cuts, 1);
}

static void write_some(struct opener *o, struct soak_file *f, int fd)
{
	unsigned int n = 1 + soak_roll(&o->seed, 4);

	while (n--) {
		unsigned int block = soak_roll(&o->seed, (unsigned int)o->look.size);
		uint64_t seq = judge_draw(f, block);

		judge_stamp(f, block, seq, o->look.word[block]);
		if (pwrite(fd, o->look.word[block], SOAK_BLOCK, block * SOAK_BLOCK) != SOAK_BLOCK)
			soak_report(f, "write: %s", strerror(errno));
		judge_wrote(f, block, seq);
		soak_count(&soak->n.foreign, 1);
	}
}

static void punch(struct opener *o, struct soak_file *f, int fd)
{
	unsigned int block = soak_roll(&o->seed, (unsigned int)o->look.size);

	judge_zeroed(f, block);
	memset(o->look.word[block], 0, SOAK_BLOCK);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block * SOAK_BLOCK, SOAK_BLOCK))
		soak_report(f, "punch: %s", strerror(errno));
	soak_count(&soak->n.punches, 1);
}

static void look_and_change(struct opener *o, struct soak_file *f)
{
	unsigned int what = soak_roll(&o->seed, 10);
	/* O_DIRECT: the pages of a pin that was forgotten would not be those that are written. */
	int flags = what < 5 ? O_RDONLY : what == 5 && !f->tmpfs ? O_RDWR | O_DIRECT : O_RDWR;
	int fd = open_timed(o, f, flags);

	if (fd < 0)
		return;
	judge_look(f, fd, kt_now(), &o->look);
	if (flags != O_RDONLY && what < 8)
		write_some(o, f, fd);
	else if (flags != O_RDONLY)
		punch(o, f, fd);
	usleep(soak_roll(&o->seed, HOLD_US));
	judge_still(f, fd, &o->look);
	close(fd);
}

/* One that does not wait, and keeps no order with the others. */
static void peek(struct soak_file *f)
{
	int fd = open(f->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 && errno != EWOULDBLOCK)
		soak_report(f, "open with O_NONBLOCK: %s", strerror(errno));
	if (fd < 0)
		soak_count(&soak->n.busy, 1);
	else
		close(fd);
	soak_count(&soak->n.opens, 1);
}

int opener_main(const void *arg)
{
	const struct soak_arg *a = arg;
	static struct opener o;

	soak = a->soak;
	o.number = a->number;
	o.seed = soak->seed * 7919u + o.number;
	while (!atomic_load(&soak->halt)) {
		struct soak_file *f = &soak->file[soak_roll(&o.seed, SOAK_FILES)];

		if (!soak_roll(&o.seed, 4)) {
			peek(f);
		} else if (judge_try_lock(f)) {
			if (soak_roll(&o.seed, 8))
				look_and_change(&o, f);
			else
				cut_or_extend(&o, f);
			judge_unlock(f);
		}
		usleep(soak_roll(&o.seed, PAUSE_US * soak->slow));
	}
	return 0;
}
