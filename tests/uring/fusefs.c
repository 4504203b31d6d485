/* SPDX-License-Identifier: BSD-3-Clause */
/* The protocol is that of include/uapi/linux/fuse.h, of which this speaks what one regular file needs. */
#include "fusefs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NODE	2u		/* the file; FUSE_ROOT_ID is the folder */
#define REQUEST (128u << 10)	/* of a request with its data, at most */

static struct kt_call *server;

static struct fuse_attr attr_of(const struct fusefs *fs, uint64_t node)
{
	struct fuse_attr a = { .ino = node, .nlink = 1, .blksize = 4096 };

	a.mode = node == NODE ? S_IFREG | 0644 : S_IFDIR | 0755;
	a.size = node == NODE ? fs->size : 0;
	a.blocks = a.size / 512;
	return a;
}

static void reply(int dev, const struct fuse_in_header *in, int error, const void *data, size_t len)
{
	struct fuse_out_header out = { .len = (uint32_t)(sizeof(out) + len), .error = error,
				       .unique = in->unique };
	struct iovec iov[2] = { { .iov_base = &out, .iov_len = sizeof(out) },
				{ .iov_base = (void *)(uintptr_t)data, .iov_len = len } };

	if (writev(dev, iov, len ? 2 : 1) < 0 && errno != ENOENT)
		perror("fusefs: reply");
}

static void do_init(int dev, const struct fuse_in_header *in, const struct fuse_init_in *init)
{
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
				     .max_readahead = init->max_readahead, .max_write = 65536 };

	reply(dev, in, 0, &out, sizeof(out));
}

static void do_lookup(const struct fusefs *fs, int dev, const struct fuse_in_header *in, const char *name)
{
	struct fuse_entry_out out = { .nodeid = NODE, .attr_valid = 1, .entry_valid = 1 };

	if (strcmp(name, FUSEFS_NAME)) {
		reply(dev, in, -ENOENT, NULL, 0);
		return;
	}
	out.attr = attr_of(fs, NODE);
	reply(dev, in, 0, &out, sizeof(out));
}

static void do_getattr(const struct fusefs *fs, int dev, const struct fuse_in_header *in)
{
	struct fuse_attr_out out = { .attr_valid = 1, .attr = attr_of(fs, in->nodeid) };

	reply(dev, in, 0, &out, sizeof(out));
}

static void do_read(const struct fusefs *fs, int dev, const struct fuse_in_header *in,
		    const struct fuse_read_in *r)
{
	size_t len = r->offset < fs->size ? fs->size - r->offset : 0;

	reply(dev, in, 0, fs->data + r->offset, len < r->size ? len : r->size);
}

static void do_write(struct fusefs *fs, int dev, const struct fuse_in_header *in,
		     const struct fuse_write_in *w)
{
	struct fuse_write_out out = { .size = w->size };

	if (w->offset + w->size > fs->size) {
		reply(dev, in, -EFBIG, NULL, 0);
		return;
	}
	memcpy(fs->data + w->offset, w + 1, w->size);
	reply(dev, in, 0, &out, sizeof(out));
}

static void serve_one(struct fusefs *fs, int dev, const struct fuse_in_header *in)
{
	struct fuse_open_out open_out = { .fh = 1 };
	struct fuse_statfs_out statfs_out = { .st = { .bsize = 4096, .namelen = 255 } };
	const void *arg = in + 1;

	switch (in->opcode) {
	case FUSE_INIT:
		do_init(dev, in, arg);
		break;
	case FUSE_LOOKUP:
		do_lookup(fs, dev, in, arg);
		break;
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		do_getattr(fs, dev, in);
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		reply(dev, in, 0, &open_out, sizeof(open_out));
		break;
	case FUSE_READ:
		do_read(fs, dev, in, arg);
		break;
	case FUSE_WRITE:
		do_write(fs, dev, in, arg);
		break;
	case FUSE_STATFS:
		reply(dev, in, 0, &statfs_out, sizeof(statfs_out));
		break;
	case FUSE_FSYNC:
		atomic_fetch_add(&fs->fsyncs, 1);
		reply(dev, in, 0, NULL, 0);
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
		reply(dev, in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(dev, in, -ENOSYS, NULL, 0);
	}
}

static int serve(const void *arg)
{
	static char request[REQUEST] __attribute__((aligned(8)));
	struct fusefs *fs = *(struct fusefs *const *)arg;
	int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	char options[96];
	ssize_t n;

	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev);
	if (dev < 0 || mount("fusefs", fs->dir, "fuse.fusefs", MS_NOSUID | MS_NODEV, options))
		atomic_store(&fs->error, errno);
	sem_post(&fs->mounted);
	if (atomic_load(&fs->error))
		return -atomic_load(&fs->error);
	/* ENODEV: unmounted. */
	while ((n = read(dev, request, sizeof(request))) >= 0 || errno == EINTR || errno == EAGAIN)
		if (n > 0)
			serve_one(fs, dev, (const void *)request);
	return 0;
}

struct fusefs *fusefs_start(const char *dir, size_t size)
{
	struct fusefs *fs = kt_shared(sizeof(*fs));

	if (!fs || size > sizeof(fs->data) || sem_init(&fs->mounted, 1, 0))
		return NULL;
	snprintf(fs->dir, sizeof(fs->dir), "%s", dir);
	fs->size = size;
	memset(fs->data, 'k', size);
	server = kt_call_start(serve, &fs, sizeof(fs));
	if (!server || sem_wait(&fs->mounted))
		return NULL;
	if (!atomic_load(&fs->error))
		return fs;
	fprintf(stderr, "fusefs on %s: %s\n", dir, strerror(atomic_load(&fs->error)));
	kt_call_end(server);
	return NULL;
}

void fusefs_stop(struct fusefs *fs)
{
	umount2(fs->dir, MNT_DETACH);
	kt_call_end(server);
}
