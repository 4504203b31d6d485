/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "target.h"

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static struct target *open_targets; /* under open_lock */

int trouble_say(struct trouble *trouble, int err, const char *fmt, ...)
{
	va_list ap;

	trouble->err = err;
	va_start(ap, fmt);
	vsnprintf(trouble->text, sizeof(trouble->text), fmt, ap);
	va_end(ap);
	/* Names are the sender's. */
	frame_text(trouble->text, strlen(trouble->text), trouble->text, sizeof(trouble->text));
	return err;
}

static int fail(struct target *t, struct trouble *trouble, int err)
{
	return trouble_say(trouble, err, "%.100s: %s", t->dest, strerror(-err));
}

/* No "..", no absolute name and no link leads out of root (EXDEV). */
static int open_below(int root, const char *path, uint64_t flags)
{
	struct open_how how = { .flags = flags | O_CLOEXEC,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* For people: in a directory it has the name that it had. */
static void tell_place(struct target *t)
{
	char place[sizeof(t->hello.path) + sizeof(t->hello.name) + 1];
	size_t len = strlen(t->hello.path);

	len = (size_t)snprintf(place, sizeof(place), "%s%s%s", t->hello.path,
			       t->hello.path[len - 1] == '/' ? "" : "/", t->hello.name);
	frame_text(place, len, t->dest, sizeof(t->dest));
}

/* Splits hello.path into a directory, which is opened, and a name in it. */
static int find_place(struct target *t, int root)
{
	char dir[sizeof(t->hello.path)], *slash;
	const char *path = t->hello.path, *name = t->hello.name;

	/* A try before this one had to wait. */
	if (t->dir >= 0)
		close(t->dir);
	path += strspn(path, "/");
	t->dir = open_below(root, *path ? path : ".", O_RDONLY | O_DIRECTORY);
	if (t->dir == -ENOENT || t->dir == -ENOTDIR) {
		snprintf(dir, sizeof(dir), "%s", path);
		slash = strrchr(dir, '/');
		/* "new/" is to be a directory, and there is none. */
		if (slash && !slash[1])
			return t->dir;
		name = slash ? path + (slash - dir) + 1 : path;
		if (slash)
			*slash = '\0';
		t->dir = open_below(root, slash ? dir : ".", O_RDONLY | O_DIRECTORY);
	}
	if (t->dir < 0)
		return t->dir;
	if (name == t->hello.name && *t->hello.path)
		tell_place(t);
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return -EISDIR;
	if (snprintf(t->name, sizeof(t->name), "%s", name) >= (int)sizeof(t->name) ||
	    snprintf(t->temp, sizeof(t->temp), ".%s.pl-copy", name) >= (int)sizeof(t->temp))
		return -ENAMETOOLONG;
	return 0;
}

/* What has the name already keeps its mode, and must be something a copy may take the place of. */
static int look_at_old(struct target *t, struct trouble *trouble)
{
	struct stat st;

	t->mode = t->hello.mode & 0777 & ~t->mask;
	if (t->hello.flags & HELLO_PRESERVE)
		t->mode = t->hello.mode & 0777;
	if (fstatat(t->dir, t->name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail(t, trouble, -errno);
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return trouble_say(trouble, -EINVAL, "%.100s: not a regular file", t->dest);
	if (S_ISREG(st.st_mode) && !(t->hello.flags & HELLO_PRESERVE))
		t->mode = st.st_mode & 0777;
	return 0;
}

/* Under the same name in the same directory there is one at a time. */
static int claim(struct target *t, struct trouble *trouble)
{
	struct stat a, b;
	struct target *other;
	int r = 0;

	if (fstat(t->dir, &a))
		return fail(t, trouble, -errno);
	pthread_mutex_lock(&open_lock);
	for (other = open_targets; other && !r; other = other->next) {
		if (strcmp(other->name, t->name) || fstat(other->dir, &b) || a.st_ino != b.st_ino ||
		    a.st_dev != b.st_dev)
			continue;
		trouble->again = other->leaving;
		if (trouble->again)
			r = -EAGAIN;
		else
			r = memcmp(other->hello.id, t->hello.id, sizeof(t->hello.id)) ? -EBUSY : -EALREADY;
	}
	if (!r) {
		t->next = open_targets;
		open_targets = t;
		t->claimed = true;
	}
	pthread_mutex_unlock(&open_lock);
	return r ? trouble_say(trouble, r, "%.100s: another copy to it is under way", t->dest) : 0;
}

/*
 * Ours and nobody else's: a link, or a file of another user's that lay in wait under that name, is
 * not written to. NONBLOCK: another server that leases it is not waited for.
 */
static int open_partial(struct target *t, struct trouble *trouble)
{
	const int flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
	struct stat st;

	t->fd = openat(t->dir, t->temp, flags | O_CREAT | O_EXCL, 0600);
	if (t->fd < 0 && errno == EEXIST)
		t->fd = openat(t->dir, t->temp, flags);
	if (t->fd < 0 && errno == EWOULDBLOCK)
		return trouble_say(trouble, -EBUSY, "%.100s: another process has a lease of %.80s", t->dest,
				   t->temp);
	if (t->fd < 0 && errno == ELOOP)
		return trouble_say(trouble, -EEXIST, "%.100s: %.80s is in the way", t->dest, t->temp);
	if (t->fd < 0 || fstat(t->fd, &st))
		return fail(t, trouble, -errno);
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_nlink != 1)
		return trouble_say(trouble, -EEXIST, "%.100s: %.80s is in the way", t->dest, t->temp);
	if (flock(t->fd, LOCK_EX | LOCK_NB))
		return trouble_say(trouble, -EBUSY, "%.100s: another copy to it is under way", t->dest);
	t->there = (uint64_t)st.st_blocks * 512;
	return 0;
}

/* Better now than after an hour. Quotas and others who write are found later, by ENOSPC. */
static int check_space(struct target *t, struct trouble *trouble)
{
	struct statvfs fs;
	uint64_t room;

	if (fstatvfs(t->fd, &fs))
		return fail(t, trouble, -errno);
	room = (uint64_t)(geteuid() ? fs.f_bavail : fs.f_bfree) * fs.f_frsize + t->there;
	return room < t->hello.data ? fail(t, trouble, -ENOSPC) : 0;
}

static int take_guard(struct target *t, struct pinlease_ctx *ctx, struct trouble *trouble)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	int r = pinlease_file_attach(ctx, t->fd, NULL, &why, &t->file);

	if (!r)
		return 0;
	trouble->again = r == -EAGAIN;
	if (r == -EAGAIN && why.pid)
		return trouble_say(trouble, r, "%.100s: process %d has %.60s open", t->dest, why.pid,
				   t->temp);
	return trouble_say(trouble, r, "%.60s: %s", t->dest, pinlease_reason_str(why.reason));
}

static int place(struct target *t, int root, struct trouble *trouble)
{
	int r = find_place(t, root);

	if (r == -EXDEV)
		return trouble_say(trouble, r, "%.100s: leads out of the folder that is served", t->dest);
	if (r)
		return fail(t, trouble, r);
	r = look_at_old(t, trouble);
	if (!r)
		r = claim(t, trouble);
	if (!r)
		r = open_partial(t, trouble);
	if (!r)
		r = check_space(t, trouble);
	if (!r && ftruncate(t->fd, (off_t)t->size))
		r = fail(t, trouble, -errno);
	if (r == -ENOSPC || r == -EFBIG)
		target_discard(t);
	return r;
}

/*
 * After a failed writeback the page cache says what the disk has not, and the kernel told of it once, perhaps
 * to a server that is no more.
 */
static int settle(struct target *t)
{
	if (fdatasync(t->fd))
		return -1;
	posix_fadvise(t->fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

int target_open(struct target *t, int root, struct pinlease_ctx *ctx, struct trouble *trouble)
{
	const char *to;
	int r = 0;

	if (!t->claimed) {
		to = *t->hello.path ? t->hello.path : t->hello.name;
		frame_text(to, strlen(to), t->dest, sizeof(t->dest));
		r = place(t, root, trouble);
	}
	if (!r && t->size && !t->file)
		r = take_guard(t, ctx, trouble);
	if (!r && t->there && settle(t))
		r = fail(t, trouble, -errno);
	return r;
}

int target_read(const struct target *t, uint64_t off, uint32_t len, void *buf)
{
	uint32_t done = 0;
	ssize_t n;

	while (done < len) {
		n = pread(t->fd, (char *)buf + done, len - done, (off_t)(off + done));
		if (n < 0 && errno != EINTR)
			return -errno;
		/* Somebody has truncated it: as if there were zeros, but its length is looked at, too. */
		if (!n) {
			memset((char *)buf + done, 0, len - done);
			break;
		}
		done += n > 0 ? (uint32_t)n : 0;
	}
	return 0;
}

uint64_t target_length(const struct target *t)
{
	struct stat st;

	return fstat(t->fd, &st) ? 0 : (uint64_t)st.st_size;
}

bool target_is_hole(const struct target *t, uint64_t off, uint64_t len)
{
	off_t at = lseek(t->fd, (off_t)off, SEEK_DATA);

	return at < 0 ? errno == ENXIO : (uint64_t)at >= off + len;
}

int target_punch(struct target *t, uint64_t off, uint64_t len)
{
	int r;

	if (target_is_hole(t, off, len))
		return 0;
	r = pinlease_file_allocate(t->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
	/* Then it is allocated, and zeros; if it is not, its sum tells. */
	return r == -EOPNOTSUPP ? 0 : r;
}

int target_seal(struct target *t, struct trouble *trouble)
{
	const struct timespec times[2] = {
		{ .tv_nsec = UTIME_OMIT },
		{ .tv_sec = t->hello.mtime_s, .tv_nsec = (long)t->hello.mtime_ns },
	};

	if (fchmod(t->fd, t->mode) || (t->hello.flags & HELLO_PRESERVE && futimens(t->fd, times)) ||
	    fsync(t->fd))
		return fail(t, trouble, -errno);
	return 0;
}

int target_name(struct target *t, struct trouble *trouble)
{
	if (renameat(t->dir, t->temp, t->dir, t->name) || fsync(t->dir))
		return fail(t, trouble, -errno);
	return 0;
}

void target_discard(struct target *t)
{
	if (t->fd >= 0)
		unlinkat(t->dir, t->temp, 0);
}

void target_close(struct target *t)
{
	struct target **at;

	pinlease_file_close(t->file);
	t->file = NULL;
	/* The claim ends last: the next one may open the partial file at once. */
	if (t->fd >= 0)
		close(t->fd);
	pthread_mutex_lock(&open_lock);
	for (at = &open_targets; *at && *at != t; at = &(*at)->next)
		;
	if (*at)
		*at = t->next;
	pthread_mutex_unlock(&open_lock);
	t->claimed = false;
	if (t->dir >= 0)
		close(t->dir);
	t->fd = t->dir = -1;
}
