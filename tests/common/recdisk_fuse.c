/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The FUSE protocol as far as a file system that is one file needs it (linux/fuse.h): its root
 * is the file. One process answers one request after the other, so the order of the log is
 * the order in which requests were answered.
 */
#include "baddisk.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_IO	(128u << 10)
#define DIR_MIB 4096u /* of the tmpfs that disk and log are on: a limit, not a size */

struct rec_shared { /* the log's end, which marks and writes share */
	_Atomic uint32_t lock;
	_Atomic uint64_t sector, entries;
	_Atomic int error;
	_Atomic uint32_t slow_ms; /* before each write */
	_Atomic uint32_t ranges; /* how many of these are bad now */
	struct bad_range range[BAD_RANGES];
	uint64_t size;
	sem_t ready;
	char dir[KT_PATH_MAX];
};

struct serve {
	struct rec_shared *shared;
	int fuse, image, log;
};

static void rec_path(char path[KT_PATH_MAX + 8], const char *dir, const char *name)
{
	snprintf(path, KT_PATH_MAX + 8, "%s/%s", dir, name);
}

static int rec_open(const char *dir, const char *name, int flags)
{
	char path[KT_PATH_MAX + 8];
	int fd;

	rec_path(path, dir, name);
	fd = open(path, flags | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* One entry, len bytes of data behind its head; text goes into the head's own sector. */
static int rec_append(struct rec_shared *shared, int log, struct dl_head head, const void *data, size_t len,
		      const char *text)
{
	char sector[DL_SECTOR] = { 0 };
	uint32_t free = 0;
	off_t at;
	int r = 0;

	memcpy(sector, &head, sizeof(head));
	if (text)
		memcpy(sector + sizeof(head), text, strlen(text));
	while (!atomic_compare_exchange_weak(&shared->lock, &free, 1)) {
		free = 0;
		sched_yield();
	}
	at = (off_t)(atomic_load(&shared->sector) * DL_SECTOR);
	if (pwrite(log, sector, sizeof(sector), at) != (ssize_t)sizeof(sector) ||
	    (len && pwrite(log, data, len, at + (off_t)sizeof(sector)) != (ssize_t)len))
		r = -EIO;
	atomic_fetch_add(&shared->sector, 1 + len / DL_SECTOR);
	atomic_fetch_add(&shared->entries, 1);
	atomic_store(&shared->lock, 0);
	if (r)
		atomic_store(&shared->error, r);
	return r;
}

static size_t answer_init(void *body)
{
	struct fuse_init_out *out = body;

	out->major = FUSE_KERNEL_VERSION;
	out->minor = 31;
	out->max_write = MAX_IO;
	out->max_background = 64;
	out->congestion_threshold = 64;
	out->flags = FUSE_BIG_WRITES;
	return sizeof(*out);
}

static bool write_refused(const struct rec_shared *shared, uint64_t off, uint32_t len)
{
	uint32_t i, n = atomic_load(&shared->ranges);

	for (i = 0; i < n; i++)
		if (off < shared->range[i].from + shared->range[i].len && shared->range[i].from < off + len)
			return true;
	return false;
}

static ssize_t answer_write(struct serve *s, const struct fuse_write_in *in, void *body)
{
	struct dl_head head = { .sector = htole64(in->offset / DL_SECTOR),
				.sectors = htole64(in->size / DL_SECTOR) };

	kt_sleep_ms(atomic_load(&s->shared->slow_ms));
	if (write_refused(s->shared, in->offset, in->size))
		return -EIO;
	if (in->offset % DL_SECTOR || in->size % DL_SECTOR ||
	    pwrite(s->image, in + 1, in->size, (off_t)in->offset) != (ssize_t)in->size ||
	    rec_append(s->shared, s->log, head, in + 1, in->size, NULL))
		return -EIO;
	((struct fuse_write_out *)body)->size = in->size;
	return sizeof(struct fuse_write_out);
}

/* The size of the answer's body, or -errno; 0 is an answer too. */
static ssize_t answer(struct serve *s, uint32_t opcode, const void *in, void *body)
{
	const struct fuse_read_in *read_in = in;
	struct fuse_attr_out *attr = body;

	switch (opcode) {
	case FUSE_INIT:
		return (ssize_t)answer_init(body);
	case FUSE_GETATTR:
		attr->attr = (struct fuse_attr){ .ino = FUSE_ROOT_ID, .nlink = 1, .mode = S_IFREG | 0600 };
		attr->attr.size = s->shared->size;
		attr->attr_valid = 1000000;
		return sizeof(*attr);
	case FUSE_OPEN:
		((struct fuse_open_out *)body)->open_flags = FOPEN_DIRECT_IO;
		return sizeof(struct fuse_open_out);
	case FUSE_READ:
		return pread(s->image, body, read_in->size, (off_t)read_in->offset);
	case FUSE_WRITE:
		return answer_write(s, in, body);
	case FUSE_FSYNC:
		return rec_append(s->shared, s->log, (struct dl_head){ .flags = htole64(DL_FLUSH) }, NULL, 0,
				  NULL);
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		return 0;
	default:
		return -ENOSYS;
	}
}

static void serve_loop(struct serve *s)
{
	static _Alignas(8) char in[MAX_IO + 4096], out[MAX_IO + 4096];
	struct fuse_in_header *head = (struct fuse_in_header *)in;
	struct fuse_out_header *reply = (struct fuse_out_header *)out;

	for (;;) {
		ssize_t got = read(s->fuse, in, sizeof(in)), body;

		if (got < 0 && errno == ENODEV)
			return;
		if (got < (ssize_t)sizeof(*head) || head->opcode == FUSE_FORGET ||
		    head->opcode == FUSE_BATCH_FORGET || head->opcode == FUSE_INTERRUPT)
			continue;
		memset(out, 0, 512);
		body = answer(s, head->opcode, head + 1, reply + 1);
		reply->unique = head->unique;
		reply->error = body < 0 ? (int)body : 0;
		reply->len = (uint32_t)sizeof(*reply) + (body > 0 ? (uint32_t)body : 0);
		/* Fails when nobody waits for it any more. */
		if (write(s->fuse, out, reply->len) < 0)
			continue;
	}
}

static int serve(const void *arg)
{
	struct serve s = { .shared = *(struct rec_shared *const *)arg };
	char options[64], path[KT_PATH_MAX + 8];

	s.image = rec_open(s.shared->dir, "image", O_RDWR | O_CREAT);
	s.log = rec_open(s.shared->dir, "log", O_RDWR);
	s.fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s.image < 0 || s.log < 0 || s.fuse < 0 || ftruncate(s.image, (off_t)s.shared->size))
		return -ENODEV;
	rec_path(path, s.shared->dir, "disk");
	snprintf(options, sizeof(options), "fd=%d,rootmode=100600,user_id=0,group_id=0", s.fuse);
	if (mount("recorded", path, "fuse", MS_NODEV | MS_NOSUID, options))
		return -errno;
	sem_post(&s.shared->ready);
	serve_loop(&s);
	return 0;
}

/* The log's mount is empty till here: what is mounted over disk is what the loop device gets. */
static int fuse_start(struct rec_disk *disk)
{
	struct rec_shared *shared = disk->shared;
	uint64_t until = kt_now() + 10000000000ull;
	int image = rec_open(disk->dir.dir, "disk", O_RDWR | O_CREAT);

	if (image < 0)
		return image;
	close(image);
	disk->server = kt_call_start(serve, &shared, sizeof(shared));
	if (!disk->server)
		return -ECHILD;
	while (sem_trywait(&shared->ready)) {
		if (kt_call_done(disk->server, 1) || kt_now() > until)
			return disk->server->ret ? disk->server->ret : -ENODEV;
	}
	image = rec_open(disk->dir.dir, "disk", O_RDWR);
	if (image < 0)
		return image;
	disk->loop = kt_loop(image, disk->device);
	close(image);
	return disk->loop < 0 ? disk->loop : 0;
}

int rec_fuse_make(struct rec_disk *disk)
{
	int r = access("/dev/fuse", R_OK | W_OK) ? -ENOENT : kt_fs_make(&disk->dir, "tmpfs", DIR_MIB);

	if (r)
		return r;
	disk->shared = kt_shared(sizeof(*disk->shared));
	if (!disk->shared || sem_init(&disk->shared->ready, 1, 0))
		return -ENOMEM;
	snprintf(disk->shared->dir, sizeof(disk->shared->dir), "%s", disk->dir.dir);
	disk->shared->size = disk->size;
	atomic_store(&disk->shared->sector, 1);
	disk->log = rec_open(disk->dir.dir, "log", O_RDWR | O_CREAT);
	return disk->log < 0 ? disk->log : fuse_start(disk);
}

int rec_fuse_mark(struct rec_disk *disk, uint32_t number)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", number);
	return rec_append(disk->shared, disk->log,
			  (struct dl_head){ .flags = htole64(DL_MARK), .data_len = htole64(strlen(text)) },
			  NULL, 0, text);
}

int rec_fuse_image(struct rec_disk *disk)
{
	return rec_open(disk->dir.dir, "image", O_RDONLY);
}

int rec_fuse_refuse(struct rec_disk *disk, const struct bad_range *range, unsigned int ranges)
{
	memcpy(disk->shared->range, range, sizeof(disk->shared->range));
	atomic_store(&disk->shared->ranges, ranges);
	return 0;
}

void rec_fuse_slow(struct rec_disk *disk, unsigned int ms)
{
	atomic_store(&disk->shared->slow_ms, ms);
}

/* Killed, the connection is aborted. The log is complete: it was written before each answer. */
int rec_fuse_end(struct rec_disk *disk)
{
	struct dl_super super = { .magic = htole64(DL_MAGIC),
				  .version = htole64(DL_VERSION),
				  .sector_size = htole32(DL_SECTOR) };
	char path[KT_PATH_MAX + 8];
	int r = 0;

	if (disk->server)
		kt_call_end(disk->server);
	disk->server = NULL;
	if (disk->log >= 0) {
		super.entries = htole64(atomic_load(&disk->shared->entries));
		r = pwrite(disk->log, &super, sizeof(super), 0) == (ssize_t)sizeof(super)
			    ? atomic_load(&disk->shared->error)
			    : -EIO;
	}
	if (disk->dir.dir[0]) {
		rec_path(path, disk->dir.dir, "disk");
		umount2(path, MNT_DETACH);
		kt_fs_drop(&disk->dir);
	}
	return r;
}
