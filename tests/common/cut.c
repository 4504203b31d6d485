/* SPDX-License-Identifier: BSD-3-Clause */
#include "cut.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

_Thread_local bool cut_pretend;

/* Found before the C library's, by libpinlease too. */
__attribute__((visibility("default"))) int fdatasync(int fd)
{
	return cut_pretend ? 0 : (int)syscall(SYS_fdatasync, fd);
}

#define MORE_ACKED  20u /* writes of an arm between two of its syncs */
#define PATIENCE_NS 20000000000ull
#define STOP	    UINT32_MAX /* the mark behind which the test puts the file system away */

void cut_begin(struct cut *cut, const char *type, enum rec_kind kind, unsigned int rounds)
{
	unsigned int mib = kt_fs_least_mib(type);
	int r;

	*cut = (struct cut){ .type = type, .rounds = rounds };
	rt_assert(mib && rounds <= CUT_ROUNDS, "%s, %u rounds", type, rounds);
	cut->promise = calloc(CUT_ARMS * CUT_ROUNDS, sizeof(*cut->promise));
	rt_assert(cut->promise, "out of memory");
	r = rec_disk_make(&cut->disk, kind, mib < 32 ? 32 : mib);
	if (r == -ENOENT || r == -ENODEV)
		kt_skip("no recorder for a disk here: %s", strerror(-r));
	rt_assert(!r, "no recorded disk: %s", strerror(-r));
	rt_assert(!kt_mkfs(type, cut->disk.device), "mkfs.%s", type);
	/* Nothing is to hang on discards, which only some recorders see. */
	r = kt_fs_mount(&cut->fs, type, cut->disk.device, strcmp(type, "btrfs") ? NULL : "nodiscard");
	rt_assert(!r, "mount: %s", strerror(-r));
}

/* What the file holds at first is no matter of these tests: it is made durable. */
static void arm_file(struct cut_arm *arm, const char *dir)
{
	uint32_t i;
	int fd, r;

	r = kt_file(arm->path, dir, arm->name, arm->unwritten ? 0 : CUT_BYTES);
	rt_assert(!r, "no file: %s", strerror(-r));
	fd = open(arm->path, O_RDWR | O_CLOEXEC);
	rt_assert(fd >= 0, "open: %s", strerror(errno));
	if (arm->unwritten)
		rt_assert(!fallocate(fd, 0, 0, (off_t)CUT_BYTES), "fallocate: %s", strerror(errno));
	rt_assert(!fsync(fd), "fsync: %s", strerror(errno));
	close(fd);
	/* To the judge a slot of zeros is one whose first write was removed. */
	for (i = 0; i < CUT_SLOTS && arm->unwritten; i++) {
		atomic_store(&arm->books->slot[i].posted, 1);
		atomic_store(&arm->books->slot[i].base, 1);
	}
}

struct cut_arm *cut_arm_add(struct cut *cut, const struct cut_arm *like)
{
	struct cut_arm *arm = &cut->arm[cut->arms];

	rt_assert(cut->arms < CUT_ARMS, "too many arms");
	*arm = *like;
	arm->cut = cut;
	arm->number = cut->arms++;
	arm->books->quiet = arm->control;
	arm_file(arm, cut->fs.dir);
	return arm;
}

void cut_writer_make(struct cut_writer *w)
{
	w->books = calloc(1, sizeof(*w->books));
	w->words = aligned_alloc(RT_SLOT, RT_SLOT);
	rt_assert(w->books && w->words, "out of memory");
}

void cut_writer_step(struct cut_writer *w, uint32_t slot)
{
	uint32_t seq = atomic_load(&w->books->slot[slot].posted) + 1;
	size_t i;
	int r;

	for (i = 0; i < RT_SLOT / sizeof(*w->words); i++)
		w->words[i] = rt_word(slot, seq);
	atomic_store(&w->books->slot[slot].posted, seq);
	r = w->write(w->arg, slot, w->words);
	rt_assert(!r, "a write failed: %s", strerror(-r));
	atomic_store(&w->books->slot[slot].acked, seq);
	atomic_fetch_add(&w->books->acked, 1);
}

static void *writer_main(void *arg)
{
	struct cut_writer *w = arg;
	uint32_t k;

	for (k = 0; !atomic_load(&w->stop); k++)
		cut_writer_step(w, k % CUT_SLOTS);
	return NULL;
}

void cut_writer_start(struct cut_writer *w)
{
	rt_assert(!pthread_create(&w->thread, NULL, writer_main, w), "pthread_create");
}

void cut_writer_stop(struct cut_writer *w)
{
	atomic_store(&w->stop, true);
	pthread_join(w->thread, NULL);
}

static uint32_t promise(struct cut_arm *arm)
{
	uint32_t number = atomic_fetch_add(&arm->cut->promises, 1), i;
	struct cut_promise *p = &arm->cut->promise[number];

	p->arm = arm->number;
	for (i = 0; i < CUT_SLOTS; i++)
		p->acked[i] = atomic_load(&arm->books->slot[i].acked);
	return number;
}

static void *arm_main(void *arg)
{
	struct cut_arm *arm = arg;
	uint64_t want = 0, until;
	uint32_t number;
	unsigned int i;
	int r;

	for (i = 0; i < arm->cut->rounds; i++) {
		want = atomic_load(&arm->books->acked) + MORE_ACKED;
		until = kt_now() + PATIENCE_NS;
		while (atomic_load(&arm->books->acked) < want) {
			rt_assert(kt_now() < until, "%s: nothing is written", arm->name);
			usleep(100);
		}
		number = promise(arm);
		r = arm->sync(arm->arg);
		rt_assert(!r, "%s: sync: %s", arm->name, strerror(-r));
		r = rec_disk_mark(&arm->cut->disk, number);
		rt_assert(!r, "mark: %s", strerror(-r));
	}
	return NULL;
}

void cut_run(struct cut *cut)
{
	uint32_t i;

	for (i = 0; i < cut->arms; i++)
		rt_assert(!pthread_create(&cut->arm[i].thread, NULL, arm_main, &cut->arm[i]), "thread");
	for (i = 0; i < cut->arms; i++)
		pthread_join(cut->arm[i].thread, NULL);
	rt_assert(!rec_disk_mark(&cut->disk, STOP), "the last mark");
}

/* What the file must hold is put into the books, as if nothing had been acknowledged since. */
static void judge_file(struct cut_arm *arm, const char *dir, const struct cut_promise *p, size_t point)
{
	static unsigned char image[CUT_BYTES];
	unsigned int missing, held = 0;
	char path[KT_PATH_MAX + 32];
	ssize_t n;
	uint32_t i;
	int fd;

	for (i = 0; i < CUT_SLOTS; i++)
		atomic_store(&arm->books->slot[i].acked, p ? p->acked[i] : 0);
	snprintf(path, sizeof(path), "%s/%s", dir, arm->name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, image, sizeof(image));
	/* An unreadable file has lost it all; btrfs says so where a checksum is wrong. */
	missing = rt_missing(arm->books, image, n < 0 ? 0 : (size_t)n, RT_ALL, 0, &held);
	if (fd >= 0)
		close(fd);
	arm->held += held;
	arm->missing += missing;
	arm->lost_points += missing > 0;
	if (missing && !arm->control)
		printf("%s: %u slots of %s are lost by a power cut before entry %zu\n", arm->cut->type,
		       missing, arm->name, point);
}

static void judge_image(struct cut *cut, int image, size_t point, const struct cut_promise *const *due)
{
	char device[KT_DEVICE_MAX];
	struct kt_fs fs;
	int loop = kt_loop(image, device), r;
	uint32_t i;

	rt_assert(loop >= 0, "no loop device: %s", strerror(-loop));
	r = kt_fs_mount_copy(&fs, cut->type, device);
	rt_assert(!r, "%s cannot be mounted after a power cut before entry %zu: %s", cut->type, point,
		  strerror(-r));
	for (i = 0; i < cut->arms; i++)
		judge_file(&cut->arm[i], fs.dir, due[i], point);
	kt_fs_drop(&fs);
	kt_fs_forget(cut->type, device);
	close(loop);
}

static int by_size(const void *a, const void *b)
{
	const size_t x = *(const size_t *)a, y = *(const size_t *)b;

	return (x > y) - (x < y);
}

/* Half of them right behind a mark, where all hangs on the last flush; the others anywhere. */
static void choose_points(const struct dl_log *log, struct dl_disk *disk, size_t *point, unsigned int n)
{
	size_t first = 0, stop = 0, at;
	unsigned int i;

	while (first < log->count && !(log->entry[first].flags & DL_MARK))
		first++;
	for (stop = first; stop < log->count && log->entry[stop].mark != STOP; stop++)
		;
	rt_assert(stop < log->count, "the log has no last mark");
	for (i = 0; i < n; i++) {
		at = first + dl_random(disk, stop - first);
		while (i % 2 && !(log->entry[at].flags & DL_MARK))
			at--;
		point[i] = at + 1;
	}
	qsort(point, n, sizeof(*point), by_size);
}

static void judge_log(struct cut *cut, const struct dl_log *log)
{
	const struct cut_promise *due[CUT_ARMS] = { NULL };
	size_t point[CUT_ROUNDS], at = 0;
	struct dl_disk disk;
	uint64_t seed = kt_now();
	unsigned int i;
	int image;

	rt_assert(!dl_disk_make(&disk, log, cut->disk.size, seed), "no memory for a disk");
	choose_points(log, &disk, point, cut->rounds);
	for (i = 0; i < cut->rounds; i++) {
		for (; at < point[i]; at++)
			if (log->entry[at].flags & DL_MARK && log->entry[at].mark < cut->promises)
				due[cut->promise[log->entry[at].mark].arm] =
					&cut->promise[log->entry[at].mark];
		image = dl_cut(&disk, point[i]);
		rt_assert(image >= 0, "no image: %s", strerror(-image));
		judge_image(cut, image, point[i], due);
		close(image);
		cut->points++;
	}
	printf("%s: %u power cuts in a log of %zu entries with %zu flushes, seed %llu\n", cut->type,
	       cut->points, log->count, log->flushes, (unsigned long long)seed);
	dl_disk_drop(&disk);
}

void cut_judge(struct cut *cut)
{
	struct dl_log log;
	uint32_t i;
	int r;

	kt_fs_drop(&cut->fs);
	kt_fs_forget(cut->type, cut->disk.device);
	r = rec_disk_end(&cut->disk, &log);
	rt_assert(!r, "no log: %s", strerror(-r));
	rt_assert(log.marks > cut->promises && log.flushes > cut->rounds, "%zu marks, %zu flushes", log.marks,
		  log.flushes);
	judge_log(cut, &log);
	dl_free(&log);
	for (i = 0; i < cut->arms; i++)
		printf("%s, %s: %u syncs, lost at %u of %u points; %u promised slots held, %u missing\n",
		       cut->type, cut->arm[i].name, cut->rounds, cut->arm[i].lost_points, cut->points,
		       cut->arm[i].held, cut->arm[i].missing);
	for (i = 0; i < cut->arms; i++) {
		const struct cut_arm *arm = &cut->arm[i];

		rt_assert(arm->control || (!arm->missing && arm->held), "%s lost data, or promised none",
			  arm->name);
		rt_assert(!arm->control || arm->lost_points > cut->points / 2,
			  "the control lost next to nothing: this test proves nothing");
	}
	free(cut->promise);
}
