/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pages that change behind the file system's back.
 *
 * While they are being written. A file system that computes a checksum write-protects its
 * pages for as long, which stops processors; a device writes on, and the disk holds data
 * that its checksum does not fit. btrfs answers EIO to who reads that. Its own scrub counts
 * it here, after syncs beside the peer's traffic, in a memory cgroup that reclaims.
 *
 * When they are unpinned, which marks them dirty. btrfs finds dirty pages that nobody
 * announced, leaves them to a worker, and fsync often answers 0 before it is done. ext4
 * used to lose such pages if reclaim had taken their buffers before; 6.1.192 leaves the
 * buffers of pinned pages alone, so that this does not show any more.
 *
 * While another file is read into them with O_DIRECT. This is a pin, too, a short one that
 * ends by marking them dirty. btrfs of 6.12.115 calls that "marked dirty without notifying
 * the fs", and fsync fails; elsewhere no harm was seen. With the library the read goes
 * into staged memory, from where a sync has to take it into the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hazard.h"
#include "rounds.h"

#define PAGES	 64u
#define LEN	 (PAGES * (size_t)HAZARD_PAGE)
#define SYNCS	 3u		/* beside traffic, before a scrub */
#define PATIENCE 4u		/* bare: so many times the rounds, till it shows */
#define CGROUP	 "/sys/fs/cgroup"
#define GROUP	 CGROUP "/pl-hazard"

enum scene { CHECKSUM, UNPIN, RECLAIM, READ_INTO };

#define WHEN_PIN { HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE }
/* Not for sure, or not at all. */
#define SELDOM	 { HAZARD_TOLD, HAZARD_TOLD, HAZARD_TOLD }

static const struct hazard_place places[] = {
	{ "btrfs", "synced beside traffic and reclaim", CHECKSUM, WHEN_PIN },
	{ "btrfs", "unpinned and synced", UNPIN, SELDOM },
	{ "btrfs", "O_DIRECT read into it", READ_INTO, { HAZARD_TOLD, HAZARD_SHOWS, HAZARD_TOLD } },
	{ "ext4", "reclaimed, unpinned and synced", RECLAIM, SELDOM },
	{ "ext4", "O_DIRECT read into it", READ_INTO, SELDOM },
};

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static void leave_group(void)
{
	put(CGROUP "/cgroup.procs", "0");
	rmdir(GROUP);
}

/* Before the pages of our files are there: they are charged to who brings them in. */
static void join_group(void)
{
	static bool joined;

	if (joined)
		return;
	joined = true;
	put(CGROUP "/cgroup.subtree_control", "+memory");
	rt_assert(!mkdir(GROUP, 0755) || errno == EEXIST, "no cgroup: %s", strerror(errno));
	atexit(leave_group);
	rt_assert(!put(GROUP "/cgroup.procs", "0"), "cannot join the cgroup");
}

static unsigned long long scanned(void)
{
	FILE *f = fopen(GROUP "/memory.stat", "re");
	unsigned long long n = 0;
	char line[128];

	rt_assert(f, "no memory.stat");
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "pgscan ", 7))
			n = strtoull(line + 7, NULL, 10);
	fclose(f);
	return n;
}

/* All there is: more than we have is asked for, and the answer is EAGAIN. */
static void reclaim(void)
{
	unsigned long long before = scanned();
	int r = put(GROUP "/memory.reclaim", "64M");

	rt_assert(!r || r == -EAGAIN, "memory.reclaim: %s", strerror(-r));
	rt_assert(scanned() >= before + PAGES, "nothing was looked at for reclaim");
}

/* Beside traffic: a thread that syncs, and then says so. */
struct syncer {
	struct hazard_file *f;
	bool reclaims;
	int err;
	_Atomic bool done;
};

/* Bare, the pages must be dirty for it: as if a processor stored to each. */
static void *syncer_main(void *arg)
{
	struct syncer *s = arg;
	unsigned int i;

	for (i = 0; i < SYNCS && !s->err; i++) {
		if (!s->f->lease && madvise(s->f->map, LEN, MADV_POPULATE_WRITE))
			s->err = -errno;
		if (!s->err)
			s->err = hazard_sync(s->f);
		if (!i && s->reclaims)
			reclaim();
	}
	atomic_store(&s->done, true);
	return NULL;
}

/* Until the thread is done: traffic, again and again, at least once. Answers how often. */
static unsigned int beside_syncs(struct syncer *s, void (*traffic)(struct hazard_file *f, void *arg),
				 void *arg)
{
	pthread_t thread;
	unsigned int n = 0;

	rt_assert(!pthread_create(&thread, NULL, syncer_main, s), "no thread");
	do {
		traffic(s->f, arg);
		n++;
	} while (!atomic_load(&s->done));
	pthread_join(thread, NULL);
	return n;
}

/* Blocks that do not fit their checksum. */
static unsigned int scrub(const struct hazard *h)
{
	struct btrfs_ioctl_scrub_args args = { .devid = 1, .end = UINT64_MAX, .flags = BTRFS_SCRUB_READONLY };
	int fd = open(h->fs.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	rt_assert(fd >= 0 && !syncfs(fd), "syncfs: %s", strerror(errno));
	rt_assert(!ioctl(fd, BTRFS_IOC_SCRUB, &args), "scrub: %s", strerror(errno));
	rt_assert(args.progress.data_bytes_scrubbed >= LEN, "the scrub saw nothing");
	close(fd);
	return (unsigned int)args.progress.csum_errors;
}

static void write_all(struct hazard_file *f, void *arg)
{
	uint32_t *tag = arg;

	*tag = hazard_tag();
	hazard_fill(f->h->buf, 0, PAGES, *tag);
	rt_assert(!hazard_do(f, IBV_WR_RDMA_WRITE, 0, (uint32_t)LEN), "an RDMA write failed");
}

static void scene_checksum(struct hazard_file *f)
{
	unsigned int rounds = pl_rounds(PL_R_hazard_scrubs), writes = 0, i;
	struct hazard *h = f->h;
	uint32_t tag;

	h->of = 0;
	for (i = 0; i < rounds || (!h->with && !h->wrong && i < PATIENCE * rounds); i++) {
		struct syncer s = { .f = f, .reclaims = true };

		writes += beside_syncs(&s, write_all, &tag);
		rt_assert(!s.err, "sync: %s", strerror(-s.err));
		h->wrong += scrub(h);
		h->of += PAGES;
	}
	snprintf(h->note, sizeof(h->note), "%u writes of all pages, %u scrubs", writes, i);
	rt_assert(!hazard_sync(f), "sync");
	h->wrong += h->with ? hazard_disk_wrong(h, 0, PAGES, tag) : 0;
}

/* Done as it should be, bare: nothing is synced before the registration is gone. */
static void scene_unpin(struct hazard_file *f, bool reclaimed)
{
	uint32_t first, tag;
	struct hazard *h = f->h;
	int r;

	write_all(f, &first);
	rt_assert(!hazard_sync(f), "the first sync failed");
	if (reclaimed)
		reclaim();
	write_all(f, &tag);
	if (!h->with) {
		rt_assert(!ibv_dereg_mr(f->mr), "dereg");
		f->mr = NULL;
	}
	r = hazard_sync(f);
	h->wrong = hazard_disk_wrong(h, 0, PAGES, tag);
	snprintf(h->note, sizeof(h->note), "sync: %s", r ? strerror(-r) : "0");
}

static void read_into(struct hazard_file *f, void *source)
{
	uint32_t gen = 0;
	ssize_t n;

	rt_assert(!f->lease || !pinlease_dma_begin(f->lease, 1, &gen), "begin");
	n = pread(*(int *)source, f->map, LEN, 0);
	rt_assert(n == (ssize_t)LEN, "O_DIRECT read: %s", strerror(errno));
	if (f->lease)
		pinlease_dma_end(f->lease, 1, gen);
}

static int make_source(const struct hazard *h, uint32_t tag)
{
	char path[KT_PATH_MAX];
	int fd;

	rt_assert(!kt_file(path, h->fs.dir, "source", 0), "no file");
	fd = open(path, O_WRONLY | O_CLOEXEC);
	hazard_fill(h->buf, 0, PAGES, tag);
	rt_assert(fd >= 0 && pwrite(fd, h->buf, LEN, 0) == (ssize_t)LEN && !fsync(fd), "no source");
	close(fd);
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	rt_assert(fd >= 0, "open: %s", strerror(errno));
	return fd;
}

/* Again and again beside syncs, and once more, synced: if no sync fails the file has to hold that. */
static void scene_read_into(struct hazard_file *f, const char *path)
{
	uint32_t tag = hazard_tag();
	struct hazard *h = f->h;
	int source = make_source(h, tag);
	struct syncer s = { .f = f };
	unsigned int n = beside_syncs(&s, read_into, &source);
	int r = s.err;

	memset(f->map, 0, LEN);
	r = r ? r : hazard_sync(f);
	read_into(f, &source);
	r = r ? r : hazard_sync(f);
	h->wrong = r ? PAGES : hazard_fd_wrong(f->fd, 0, PAGES, tag);
	snprintf(h->note, sizeof(h->note), "%u reads of all pages, sync: %s", n, r ? strerror(-r) : "0");
	close(source);
	hazard_leave(f);
	if (!r)
		h->wrong += hazard_path_wrong(path, O_DIRECT, 0, PAGES, tag);
}

static void run(struct hazard *h)
{
	struct hazard_ask ask = HAZARD_WRITE;
	char path[KT_PATH_MAX];
	struct hazard_file f;

	join_group();
	rt_assert(!kt_file(path, h->fs.dir, h->with ? "with" : "bare", LEN), "no file");
	/* Bare, it is the mapping that matters there. */
	if (!h->with && h->place->arg == READ_INTO)
		ask.lease = PINLEASE_READ;
	if (hazard_reach(h, &f, path, ask)) {
		rt_assert(!h->with, "acquire: %s", pinlease_reason_str(f.why.reason));
		return;
	}
	h->of = PAGES;
	if (h->place->arg == CHECKSUM)
		scene_checksum(&f);
	else if (h->place->arg == READ_INTO)
		scene_read_into(&f, path);
	else
		scene_unpin(&f, h->place->arg == RECLAIM);
	if (h->place->arg != READ_INTO)
		hazard_leave(&f);
	/* With it go the blocks that a scrub of the next arm would find. */
	rt_assert(!unlink(path), "unlink: %s", strerror(errno));
}

int main(void)
{
	return hazard_main("hazard_stable_pages", "pages", places, sizeof(places) / sizeof(*places), run);
}
