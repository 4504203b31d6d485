/* SPDX-License-Identifier: BSD-3-Clause */
/* The FUSE protocol, as far as one file that can be read and never changes needs it (linux/fuse.h). */
#include "slowdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK_BYTES (16u << 20)
#define DISK_INODE 2u
#define MAX_IO	   (128u << 10)
#define FOREVER	   1000000u /* seconds that the kernel may believe an answer */

struct serve_arg {
	char dir[KT_PATH_MAX + 4];
	struct slow_shared *shared;
	sem_t *ready;
};

static void fill_attr(struct fuse_attr *attr, uint64_t inode)
{
	attr->ino = inode;
	attr->nlink = 1;
	attr->mode = inode == DISK_INODE ? S_IFREG | 0600 : S_IFDIR | 0700;
	attr->size = inode == DISK_INODE ? DISK_BYTES : 0;
}

static size_t answer_init(void *body)
{
	struct fuse_init_out *out = body;

	out->major = FUSE_KERNEL_VERSION;
	out->minor = 31;
	out->max_write = 65536;
	out->max_background = 64;
	out->congestion_threshold = 64;
	return sizeof(*out);
}

static size_t answer_lookup(void *body)
{
	struct fuse_entry_out *out = body;

	out->nodeid = DISK_INODE;
	out->entry_valid = out->attr_valid = FOREVER;
	fill_attr(&out->attr, DISK_INODE);
	return sizeof(*out);
}

static size_t answer_read(struct slow_shared *shared, const struct fuse_read_in *in, void *body)
{
	uint32_t delay_ms = atomic_load(&shared->delay_ms);

	atomic_fetch_add(&shared->arrived, 1);
	kt_sleep_ms(delay_ms);
	while (atomic_load(&shared->hold))
		kt_sleep_ms(1);
	memset(body, SLOW_DISK_BYTE, in->size);
	atomic_fetch_add(&shared->answered, 1);
	return in->size;
}

/* The size of the answer's body, or -errno; 0 is an answer too. */
static ssize_t answer(struct slow_shared *shared, const struct fuse_in_header *head, const void *in,
		      void *body)
{
	struct fuse_attr_out *attr = body;

	switch (head->opcode) {
	case FUSE_INIT:
		return (ssize_t)answer_init(body);
	case FUSE_LOOKUP:
		return strcmp(in, "disk") ? -ENOENT : (ssize_t)answer_lookup(body);
	case FUSE_GETATTR:
		attr->attr_valid = FOREVER;
		fill_attr(&attr->attr, head->nodeid);
		return sizeof(*attr);
	case FUSE_OPEN:
		((struct fuse_open_out *)body)->open_flags = FOPEN_DIRECT_IO;
		return sizeof(struct fuse_open_out);
	case FUSE_READ:
		return (ssize_t)answer_read(shared, in, body);
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_FSYNC:
		return 0;
	default:
		return -ENOSYS;
	}
}

static bool wants_no_answer(uint32_t opcode)
{
	return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

static void serve_loop(int fd, struct slow_shared *shared)
{
	static _Alignas(8) char in[MAX_IO + 4096], out[MAX_IO + 4096];
	struct fuse_in_header *head = (struct fuse_in_header *)in;
	struct fuse_out_header *reply = (struct fuse_out_header *)out;

	for (;;) {
		ssize_t got = read(fd, in, sizeof(in)), body;

		if (got < 0 && errno == ENODEV)
			return;
		if (got < (ssize_t)sizeof(*head) || wants_no_answer(head->opcode))
			continue;
		memset(out, 0, 512);
		body = answer(shared, head, head + 1, reply + 1);
		reply->unique = head->unique;
		reply->error = body < 0 ? (int)body : 0;
		reply->len = (uint32_t)sizeof(*reply) + (body > 0 ? (uint32_t)body : 0);
		/* Fails when nobody waits for it any more. */
		if (write(fd, out, reply->len) < 0)
			continue;
	}
}

static int serve(const void *arg)
{
	const struct serve_arg *a = arg;
	char opts[64];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (mount("slowdisk", a->dir, "fuse", MS_NODEV | MS_NOSUID, opts))
		return -errno;
	sem_post(a->ready);
	serve_loop(fd, a->shared);
	return 0;
}

static int attach_loop(struct slow_disk *disk, int image)
{
	struct loop_config config = { .fd = (uint32_t)image,
				      .info = { .lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY } };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), ret = -EBUSY, number;

	if (control < 0)
		return -errno;
	/* Another test may be handed the same free number: LOOP_CONFIGURE decides. */
	for (int try = 0; try < 50 && ret == -EBUSY; try++) {
		number = ioctl(control, LOOP_CTL_GET_FREE);
		snprintf(disk->device, sizeof(disk->device), "/dev/loop%d", number);
		disk->loop = open(disk->device, O_RDONLY | O_CLOEXEC);
		if (disk->loop < 0)
			break;
		ret = ioctl(disk->loop, LOOP_CONFIGURE, &config) ? -errno : 0;
		if (ret)
			close(disk->loop);
	}
	close(control);
	return ret;
}

int slow_disk_make(struct slow_disk *disk)
{
	struct serve_arg arg = { .shared = kt_shared(sizeof(*disk->shared)),
				 .ready = kt_shared(sizeof(sem_t)) };
	char path[KT_PATH_MAX + 12];
	struct kt_fs fs;
	int ret = access("/dev/fuse", R_OK | W_OK) ? -errno : kt_fs_make(&fs, "tmpfs", 1), image;

	if (ret)
		return ret;
	snprintf(arg.dir, sizeof(arg.dir), "%s/d", fs.dir);
	if (mkdir(arg.dir, 0700) || sem_init(arg.ready, 1, 0))
		return -errno;
	disk->shared = arg.shared;
	disk->server = kt_call_start(serve, &arg, sizeof(arg));
	if (!disk->server)
		return -ECHILD;
	if (kt_call_done(disk->server, 0) || sem_wait(arg.ready))
		return disk->server->ret;
	snprintf(path, sizeof(path), "%s/disk", arg.dir);
	image = open(path, O_RDONLY | O_CLOEXEC);
	if (image < 0)
		return -errno;
	ret = attach_loop(disk, image);
	close(image);
	return ret;
}

/* Killed, the connection is aborted: whatever still waits for the disk gets an error. */
void slow_disk_drop(struct slow_disk *disk)
{
	close(disk->loop);
	kt_call_end(disk->server);
}
