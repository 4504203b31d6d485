/* SPDX-License-Identifier: BSD-3-Clause */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "culprit.h"
#include "filemap.h"
#include "sys.h"

#include <pinlease.h>

struct search {
	const struct pl_fileid *id;
	int our_fd;
	bool writers;		/* a read lease stands beside readers: only who may write is in its way */
	pid_t self, pid;	/* pid: whose fds are looked at */
};

static bool flags_conflict(const struct search *s, int flags)
{
	return !(flags & O_PATH) && (!s->writers || (flags & O_ACCMODE) != O_RDONLY);
}

static int own_fd_each(void *arg, int fd)
{
	const struct search *s = arg;
	struct pl_sys_stat st;
	int flags;

	if (fd == s->our_fd)
		return 0;
	flags = pl_sys_get_flags(fd);
	if (flags < 0 || !flags_conflict(s, flags) || pl_sys_stat(fd, &st))
		return 0;
	/* An attached file has two fds, and one description that is in nobody's way. */
	return st.dev == s->id->dev && st.ino == s->id->ino &&
	       pl_sys_same_description(s->our_fd, s->self, fd) != 1;
}

/* "flags:" of /proc/PID/fdinfo/FD, in octal; -1: not to be had. */
static int fdinfo_flags(pid_t pid, int fd)
{
	char path[64], text[512];
	const char *flags;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, fd);
	if (pl_sys_read_text(path, text, sizeof(text)) < 0)
		return -1;
	flags = strstr(text, "flags:");
	return flags ? (int)strtol(flags + strlen("flags:"), NULL, 8) : -1;
}

static int opener_fd_each(void *arg, int fd)
{
	const struct search *s = arg;
	struct pl_sys_stat st;
	char path[64];
	int flags;

	/* stat(2) of the link opens nothing, so it breaks no lease. */
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)s->pid, fd);
	if (pl_sys_stat_path(path, &st) || st.dev != s->id->dev || st.ino != s->id->ino)
		return 0;
	flags = fdinfo_flags(s->pid, fd);
	return flags >= 0 && flags_conflict(s, flags) && pl_sys_same_description(s->our_fd, s->pid, fd) != 1;
}

static int opener_each(void *arg, int pid)
{
	struct search *s = arg;
	char path[32];

	if (pid == s->self)
		return 0;
	s->pid = pid;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	/* Gone meanwhile, or another user's: on to the next one. */
	return pl_sys_each_number(path, opener_fd_each, s) > 0;
}

static int own_mapping_each(void *arg, const struct pl_sys_mapping *m)
{
	const struct search *s = arg;

	return m->shared && (!s->writers || (m->prot & PROT_WRITE)) && pl_filemap_is(m, s->id);
}

/*
 * A mapping does not tell of which description it is, and leases that wait to be
 * restored map the file through ours: so it is blamed only when no opener is seen.
 */
void pl_culprit_find(const struct pl_fileid *id, int our_fd, uint32_t *reason, int32_t *pid)
{
	struct search s = { .id = id, .our_fd = our_fd, .self = pl_sys_pid() };
	int flags = pl_sys_get_flags(our_fd);

	s.writers = flags >= 0 && (flags & O_ACCMODE) == O_RDONLY;
	*pid = 0;
	*reason = PINLEASE_WHY_OPENER;
	if (pl_sys_each_number("/proc/self/fd", own_fd_each, &s) > 0)
		*reason = PINLEASE_WHY_OWN_FD;
	else if (pl_sys_each_number("/proc", opener_each, &s) > 0)
		*pid = s.pid;
	else if (pl_sys_each_mapping(own_mapping_each, &s) > 0)
		*reason = PINLEASE_WHY_OWN_MAPPING;
}
