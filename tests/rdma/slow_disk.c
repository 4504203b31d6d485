/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One lease on a slow disk delays nobody else. A staged lease lies on an ext4 with
 * synchronous writes over dm-delay, so that writing it back in a break takes seconds; a
 * hundred idle pinned leases are broken while it does. Their openers wait no longer than
 * they do when the slow one is left alone: the emulator's noise comes and goes, a wait for
 * the disk would be in every measurement, so the best of those beside it is compared.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <pinlease.h>

#include "kt.h"
#include "kt_rdma.h"
#include "rounds.h"
#include "rt.h"

#define PAGE	  4096u
#define IDLE	  100u
#define ALONE	  3u	/* measurements */
#define SLOW_LEN  (64 * (uint64_t)PAGE)
#define DELAY_MS  1200u	/* of one write: as long as it takes to break all the others in an emulator */
#define LONG_MS	  60000u
#define SLACK_NS  5000000u	/* of the median, against the emulator's own noise */
#define BASE	  "/tmp/slow-disk"
#define DMSETUP	  "DM_DISABLE_UDEV=1 dmsetup"	/* makes the device node itself */

struct openers {			/* in kt_shared memory */
	char dir[KT_PATH_MAX];
	uint64_t waited_ns[IDLE];
};

struct waits {				/* of all openers of one break */
	uint64_t median_ns, longest_ns;
};

struct holder {
	struct pinlease_file *file;
	struct pinlease *lease;
};

static struct kt_rdma dev;
static struct pinlease_ctx *ctx;
static struct holder idle[IDLE], slow;
static char slow_path[KT_PATH_MAX];

static int sh(const char *command)
{
	int status = system(command);

	return status == -1 || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

/* From now on every write takes that long. */
static void slow_disk_delay(unsigned int ms)
{
	char command[512];

	snprintf(command, sizeof(command),
		 "set -e; L=$(losetup -j " BASE "/image -O NAME -n); N=$(blockdev --getsz $L);"
		 DMSETUP " suspend pl-slow;" DMSETUP " reload pl-slow --table \"0 $N delay $L 0 0 $L 0 %u\";"
		 DMSETUP " resume pl-slow", ms);
	rt_assert(!sh(command), "cannot set the delay");
}

static void slow_disk_undo(void)
{
	umount2(BASE "/mnt", MNT_DETACH);
	sh(DMSETUP " remove --retry pl-slow 2>/dev/null; losetup -j " BASE "/image -O NAME -n 2>/dev/null |"
	   " xargs -r losetup -d; rm -rf " BASE);
}

/* Not slow yet. */
static void slow_disk_make(void)
{
	struct statfs sfs;

	slow_disk_undo();
	atexit(slow_disk_undo);
	rt_assert(!sh("set -e; mkdir -p " BASE "/mnt; truncate -s 64M " BASE "/image;"
		      "L=$(losetup -f --show " BASE "/image); N=$(blockdev --getsz $L);"
		      "mkfs.ext4 -q -F -b 4096 $L;"
		      DMSETUP " create pl-slow --table \"0 $N delay $L 0 0 $L 0 0\""),
		  "no dm-delay device");
	rt_assert(!mount("/dev/mapper/pl-slow", BASE "/mnt", "ext4", MS_SYNCHRONOUS, NULL), "mount: %s",
		  strerror(errno));
	rt_assert(!statfs(BASE "/mnt", &sfs) && sfs.f_type == 0xef53, "that is no ext4");
}

static void hold(struct holder *h, const char *path, uint64_t len, uint32_t mode)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = dev.pd, .ibv_access = IBV_ACCESS_REMOTE_WRITE,
				    .flags = PINLEASE_L_MANUAL, .mode = mode };
	struct pinlease_why why = { 0 };
	int r = pinlease_file_open(ctx, path, NULL, &why, &h->file);

	rt_assert(!r, "file_open: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_acquire(h->file, 0, len, &lo, &why, &h->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
}

static uint32_t state_of(const struct holder *h)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	rt_assert(!pinlease_lease_info(h->lease, &info), "lease_info");
	return info.state;
}

static void restore(struct holder *h)
{
	int r = pinlease_restore(h->lease, NULL);

	rt_assert(!r, "restore: %s", strerror(-r));
}

struct opener {
	const struct openers *all;
	pthread_barrier_t *barrier;
	unsigned int i;
	uint64_t waited_ns;
	int err;
};

static void idle_path(char *path, size_t size, const char *dir, unsigned int i)
{
	snprintf(path, size, "%s/idle%u", dir, i);
}

static void *opener_main(void *arg)
{
	struct opener *o = arg;
	char path[KT_PATH_MAX + 16];
	uint64_t start;

	idle_path(path, sizeof(path), o->all->dir, o->i);
	pthread_barrier_wait(o->barrier);
	start = kt_now();
	o->err = truncate(path, PAGE) ? errno : 0;
	o->waited_ns = kt_now() - start;
	return NULL;
}

/* One process, a thread for each opener: all let loose at once. */
static int open_all(const void *arg)
{
	struct openers *all = *(struct openers *const *)arg;
	static struct opener openers[IDLE];
	static pthread_t thread[IDLE];
	pthread_barrier_t barrier;
	unsigned int i;

	pthread_barrier_init(&barrier, NULL, IDLE);
	for (i = 0; i < IDLE; i++) {
		openers[i] = (struct opener){ .all = all, .barrier = &barrier, .i = i };
		rt_assert(!pthread_create(&thread[i], NULL, opener_main, &openers[i]), "pthread_create");
	}
	for (i = 0; i < IDLE; i++) {
		pthread_join(thread[i], NULL);
		rt_assert(!openers[i].err, "truncate: %s", strerror(openers[i].err));
		all->waited_ns[i] = openers[i].waited_ns;
	}
	return 0;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Break all the idle ones. */
static struct waits break_idle(struct openers *all, const char *how)
{
	struct kt_call *call = kt_call_start(open_all, &all, sizeof(all));
	struct waits w;

	rt_assert(call && kt_call_done(call, LONG_MS) && !call->ret, "the openers");
	kt_call_end(call);
	qsort(all->waited_ns, IDLE, sizeof(all->waited_ns[0]), by_value);
	w.median_ns = all->waited_ns[IDLE / 2];
	w.longest_ns = all->waited_ns[IDLE - 1];
	printf("%s: median %llu us, longest %llu us\n", how, (unsigned long long)w.median_ns / 1000,
	       (unsigned long long)w.longest_ns / 1000);
	return w;
}

/* Its opener is let on a little before that. */
static void expect_revoked(const struct holder *h)
{
	uint64_t until = kt_now() + LONG_MS * 1000000ull;

	while (state_of(h) == PINLEASE_FENCING && kt_now() < until)
		usleep(500);
	rt_assert(state_of(h) == PINLEASE_REVOKED, "%s lease is in state %u",
		  h == &slow ? "the slow" : "an idle", state_of(h));
}

/* See that each was answered, and restore it. */
static void restore_idle(void)
{
	unsigned int i;

	for (i = 0; i < IDLE; i++)
		expect_revoked(&idle[i]);
	for (i = 0; i < IDLE; i++)
		restore(&idle[i]);
}

/* Something to write back, as a peer would leave it. */
static void dirty_slow(int value)
{
	struct pinlease_view view = { .size = sizeof(view) };
	uint32_t gen;

	rt_assert(!pinlease_dma_begin(slow.lease, 1, &gen), "dma_begin");
	rt_assert(!pinlease_view_get(slow.lease, 0, &view), "view_get");
	memset(view.addr, value, view.len);
	pinlease_dma_end(slow.lease, 1, gen);
}

/* Answers how long the slow one's opener waited; the idle ones were broken meanwhile, again and again. */
static uint64_t break_both(struct openers *all, struct waits *best)
{
	struct kt_call *opener = kt_truncate(slow_path, SLOW_LEN);
	uint64_t until = kt_now() + LONG_MS * 1000000ull, ns;
	struct waits w;

	rt_assert(opener, "no opener");
	while (state_of(&slow) != PINLEASE_FENCING) {
		rt_assert(kt_now() < until, "the slow lease is not being written back");
		usleep(500);
	}
	*best = (struct waits){ UINT64_MAX, UINT64_MAX };
	for (;;) {
		w = break_idle(all, "beside");
		if (kt_call_done(opener, 0) || state_of(&slow) != PINLEASE_FENCING)
			break;
		best->median_ns = w.median_ns < best->median_ns ? w.median_ns : best->median_ns;
		best->longest_ns = w.longest_ns < best->longest_ns ? w.longest_ns : best->longest_ns;
		restore_idle();
	}
	rt_assert(best->median_ns != UINT64_MAX, "the slow disk was done before the idle leases");
	rt_assert(kt_call_done(opener, LONG_MS) && !opener->ret, "the slow opener");
	ns = kt_call_ns(opener);
	kt_call_end(opener);
	expect_revoked(&slow);
	restore_idle();
	return ns;
}

static void make_files(const char *dir)
{
	char path[KT_PATH_MAX], name[16];
	unsigned int i;

	for (i = 0; i < IDLE; i++) {
		snprintf(name, sizeof(name), "idle%u", i);
		rt_assert(!kt_file(path, dir, name, PAGE), "no file");
		hold(&idle[i], path, PAGE, PINLEASE_MODE_PINNED);
	}
	rt_assert(!kt_file(slow_path, BASE "/mnt", "slow", SLOW_LEN), "no slow file: %s", strerror(errno));
	hold(&slow, slow_path, SLOW_LEN, PINLEASE_MODE_STAGED);
}

static void release(struct holder *h)
{
	rt_assert(!pinlease_release(h->lease) && !pinlease_file_close(h->file), "release");
}

static void round_run(struct openers *all, unsigned int round)
{
	uint64_t alone_ns = 0, slow_ns;
	struct waits w, beside;
	unsigned int i;

	dirty_slow((int)round + 1);
	for (i = 0; i < ALONE; i++) {
		w = break_idle(all, "alone");
		alone_ns = w.median_ns > alone_ns ? w.median_ns : alone_ns;
		restore_idle();
	}
	slow_ns = break_both(all, &beside);
	printf("the slow opener waited for %llu ms\n", (unsigned long long)slow_ns / 1000000);
	rt_assert(beside.median_ns <= alone_ns + alone_ns / 2 + SLACK_NS, "longer beside the slow one");
	rt_assert(beside.longest_ns < slow_ns / 4, "an idle one waited for the slow disk");
	restore(&slow);
}

int main(void)
{
	unsigned int rounds = pl_rounds(PL_R_slow_disk_rounds), i;
	struct openers *all;
	struct kt_fs fs;

	kt_init();
	rt_require();
	rt_assert(!kt_fs_make(&fs, "tmpfs", 16), "no tmpfs");
	slow_disk_make();
	all = kt_shared(sizeof(*all));
	rt_assert(all, "out of shared memory");
	snprintf(all->dir, sizeof(all->dir), "%s", fs.dir);
	rt_assert(!kt_rdma_open(&dev), "no device");
	rt_assert(!pinlease_ctx_new(NULL, &ctx), "ctx_new");
	make_files(fs.dir);
	slow_disk_delay(DELAY_MS);
	for (i = 0; i < rounds; i++)
		round_run(all, i);
	slow_disk_delay(0);
	for (i = 0; i < IDLE; i++)
		release(&idle[i]);
	release(&slow);
	rt_assert(!pinlease_ctx_free(ctx), "ctx_free");
	return 0;
}
