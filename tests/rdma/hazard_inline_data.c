/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 2023: inline data. A small file of ext4 -O inline_data lies in its inode, and gets a
 * block when its page is dirtied for the first time, as late as that; the pages that it is
 * grown by are holes.
 *
 * When the disk is full by then, who touches the mapping is killed (SIGBUS), a
 * registration is answered with EFAULT, and under on-demand paging it is the peer's
 * write that fails, and ends the connection: nobody is told that it is about room. With
 * the library acquire says ENOSPC, with that reason, and leaves the file as it was; as
 * soon as there is room the same file is leased, and what the peer writes is in it.
 *
 * ext4 keeps a file in its inode while ftruncate makes it no longer than 60 bytes, and
 * gives it a block at once when it becomes longer: so both are asked.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hazard.h"

#define SMALL 48u	/* bytes: in the inode */
#define GROWN 60u	/* still there */
#define PAGES 16u
#define LARGE ((off_t)PAGES * HAZARD_PAGE)

enum how { FULL = 1, LONG = 2 };

#define ON_ALL { HAZARD_SHOWS, HAZARD_SHOWS, HAZARD_SHOWS }
#define ROOM   { HAZARD_TOLD, HAZARD_NOT_MADE, HAZARD_NOT_MADE }

static const struct hazard_place places[] = {
	{ "ext4_inline", "in its inode, full disk", FULL, ON_ALL },
	{ "ext4_inline", "grown to pages, full disk", FULL | LONG, ON_ALL },
	{ "ext4_inline", "in its inode, room", 0, ROOM },
	{ "ext4_inline", "grown to pages, room", LONG, ROOM },
};

static bool is_inline(int fd)
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + sizeof(struct fiemap_extent)];
	} u = { .map = { .fm_length = SMALL, .fm_extent_count = 1 } };

	rt_assert(!ioctl(fd, FS_IOC_FIEMAP, &u.map), "FIEMAP: %s", strerror(errno));
	return u.map.fm_mapped_extents && u.map.fm_extents[0].fe_flags & FIEMAP_EXTENT_DATA_INLINE;
}

/* As small_file has left it: its size, what is in it, and where that lies. */
static bool untouched(const char *path, bool large)
{
	char have[SMALL], want[SMALL];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	bool same;

	memset(want, 'k', SMALL);
	rt_assert(fd >= 0 && !fstat(fd, &st), "%s: %s", path, strerror(errno));
	same = st.st_size == (large ? LARGE : (off_t)GROWN) && pread(fd, have, SMALL, 0) == SMALL &&
	       !memcmp(have, want, SMALL) && is_inline(fd) != large;
	close(fd);
	return same;
}

/* Small, in its inode, and grown. */
static void small_file(const struct hazard *h, char path[KT_PATH_MAX], bool large)
{
	int fd;

	rt_assert(!kt_file(path, h->fs.dir, h->with ? "with" : "bare", SMALL), "no file");
	fd = open(path, O_RDWR | O_CLOEXEC);
	rt_assert(fd >= 0 && is_inline(fd), "the file has a block of its own");
	rt_assert(!ftruncate(fd, large ? LARGE : (off_t)GROWN), "ftruncate: %s", strerror(errno));
	close(fd);
	rt_assert(untouched(path, large), "the file is not what it should be");
}

static int store(const void *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	volatile char *map;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (off_t at = 0; at < st.st_size; at += HAZARD_PAGE)
		map[at] = 'k';
	return 0;
}

static bool store_is_sigbus(const char path[KT_PATH_MAX])
{
	struct kt_call *call = kt_call_start(store, path, KT_PATH_MAX);
	bool killed;

	rt_assert(call, "no other process");
	for (unsigned int ms = 0; ms < KT_LONG && !kt_call_exited(call, 1) && !kt_call_done(call, 0); ms++)
		;
	rt_assert(kt_call_exited(call, 0) || kt_call_done(call, 0), "the stores do not come to an end");
	killed = WIFSIGNALED(call->status) && WTERMSIG(call->status) == SIGBUS;
	kt_call_end(call);
	return killed;
}

/* Whoever asks a full disk for room, and gets an answer that says nothing of it. */
static void full_bare(struct hazard *h, const char path[KT_PATH_MAX])
{
	struct hazard_ask ask = HAZARD_WRITE;
	unsigned int sigbus, efault = 0, cut = 0;
	struct hazard_file f;

	sigbus = store_is_sigbus(path);
	h->of = 1;
	ask.odp = h->kernel == HAZARD_ODP;
	/* From 6.5 to 6.14 the registration is refused in any case. */
	if (h->kernel != HAZARD_REFUSES) {
		h->of++;
		if (hazard_reach(h, &f, path, ask)) {
			efault = h->refused == -EFAULT;
		} else {
			cut = hazard_do(&f, IBV_WR_RDMA_WRITE, f.len / 2, 8) != 0;
			hazard_leave(&f);
		}
	}
	h->refused = 0;
	h->wrong = sigbus + efault + cut;
	snprintf(h->note, sizeof(h->note), "SIGBUS %u, EFAULT %u, peers cut off %u", sigbus, efault, cut);
}

/* The peer writes to the end of the file: what of it is not in the file, and on the disk. */
static void write_and_judge(struct hazard_file *f)
{
	char bytes[GROWN], have[GROWN];
	uint32_t tag = hazard_tag();
	struct hazard *h = f->h;

	memset(bytes, 'p', GROWN);
	memcpy(h->buf, bytes, GROWN);
	rt_assert(!hazard_do(f, IBV_WR_RDMA_WRITE, 0, GROWN), "the first bytes were not written");
	if (f->len > GROWN)
		hazard_write_all(f, 1, PAGES - 1, tag);
	rt_assert(!hazard_sync(f), "sync failed");
	h->of++;
	h->wrong += pread(f->fd, have, GROWN, 0) != GROWN || memcmp(have, bytes, GROWN) || is_inline(f->fd);
	if (f->len == GROWN)
		return;
	h->of += 2 * (PAGES - 1);
	h->wrong += hazard_fd_wrong(f->fd, 1, PAGES - 1, tag) + hazard_disk_wrong(h, 1, PAGES - 1, tag);
}

static void full_with(struct hazard *h, const char path[KT_PATH_MAX], const char *filler)
{
	struct hazard_file f;
	int r = hazard_reach(h, &f, path, HAZARD_WRITE);

	rt_assert(r, "there was room");
	h->of = 2;
	h->wrong = r != -ENOSPC || f.why.reason != PINLEASE_WHY_NO_SPACE;
	h->wrong += !untouched(path, h->place->arg & LONG);
	snprintf(h->note, sizeof(h->note), "acquire: %s", strerror(-r));
	unlink(filler);
	r = hazard_reach(h, &f, path, HAZARD_WRITE);
	rt_assert(!r, "acquire with room: %s", pinlease_reason_str(f.why.reason));
	write_and_judge(&f);
	hazard_leave(&f);
}

/* What the kernel has complained of since log was opened: ext4 does when a dirty page has no block. */
static unsigned int complaints(int log)
{
	char record[8192];
	unsigned int n = 0;
	ssize_t len;

	while ((len = read(log, record, sizeof(record) - 1)) > 0) {
		record[len] = 0;
		n += strstr(record, "WARNING:") || strstr(record, "EXT4-fs error") ||
		     strstr(record, "EXT4-fs warning");
	}
	return n;
}

static void run(struct hazard *h)
{
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char path[KT_PATH_MAX], filler[KT_PATH_MAX + 8];
	struct hazard_file f;

	rt_assert(log >= 0 && lseek(log, 0, SEEK_END) >= 0, "/dev/kmsg: %s", strerror(errno));
	small_file(h, path, h->place->arg & LONG);
	snprintf(filler, sizeof(filler), "%s/filler", h->fs.dir);
	if (h->place->arg & FULL)
		rt_assert(!kt_fill_up(h->fs.dir), "the file system cannot be filled up");
	if (h->place->arg & FULL && h->with) {
		full_with(h, path, filler);
	} else if (h->place->arg & FULL) {
		full_bare(h, path);
	} else if (!hazard_reach(h, &f, path, HAZARD_WRITE)) {
		write_and_judge(&f);
		hazard_leave(&f);
	}
	h->of++;
	h->wrong += complaints(log);
	close(log);
	unlink(filler);
	unlink(path);
}

int main(void)
{
	return hazard_main("hazard_inline_data", "answers and pages", HAZARD_PLACES(places), run);
}
