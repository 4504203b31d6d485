/* SPDX-License-Identifier: BSD-3-Clause */
#include "leak.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kt.h"

static void add(char *text, const char *line)
{
	size_t have = strlen(text), more = strlen(line);

	if (have + more < LEAK_TEXT)
		memcpy(text + have, line, more + 1);
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* "number -> target", sorted; the folder's own fd is not among them. */
static int take_fds(char *text)
{
	DIR *dir = opendir("/proc/self/fd");
	int numbers[8192], count = 0;
	struct dirent *entry;

	if (!dir)
		return -errno;
	while ((entry = readdir(dir)) && count < 8192)
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir))
			numbers[count++] = atoi(entry->d_name);
	closedir(dir);
	qsort(numbers, (size_t)count, sizeof(numbers[0]), by_number);
	for (int i = 0; i < count; i++) {
		char path[64], target[256], line[384];
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", numbers[i]);
		len = readlink(path, target, sizeof(target) - 1);
		target[len < 0 ? 0 : len] = 0;
		snprintf(line, sizeof(line), "%d -> %s\n", numbers[i], target);
		add(text, line);
	}
	return 0;
}

/* Of the lines of path what keep() wants of them, if anything. */
static int take_lines(char *text, const char *path, const char *(*keep)(const char *line))
{
	FILE *f = fopen(path, "re");
	const char *kept;
	char line[512];

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f))
		if ((kept = keep(line)))
			add(text, kept);
	fclose(f);
	return 0;
}

/* A sanitizer's allocator maps anonymous memory as it likes; files are compared also then. */
static const char *keep_map(const char *line)
{
	if ((KT_ASAN || KT_TSAN) && !strchr(line, '/'))
		return NULL;
	return !strstr(line, "[heap]") && !strstr(line, "[stack]") ? line : NULL;
}

/* "1: LEASE ACTIVE WRITE 1234 00:2a:5 0 EOF", without the number: it counts everybody's locks. */
static const char *keep_own(const char *line)
{
	char kind[16], state[16], type[16];
	int number, pid;

	if (sscanf(line, "%d: %15s %15s %15s %d", &number, kind, state, type, &pid) != 5 || pid != getpid())
		return NULL;
	return strchr(line, ':');
}

int leak_take(struct leak_mark *mark)
{
	int ret;

	memset(mark, 0, sizeof(*mark));
	ret = take_fds(mark->fds);
	if (!ret)
		ret = take_lines(mark->locks, "/proc/locks", keep_own);
	if (!ret)
		ret = take_lines(mark->maps, "/proc/self/maps", keep_map);
	mark->pinned_kib = kt_pinned_kib();
	return ret;
}

void leak_files_only(struct leak_mark *mark)
{
	char *line = mark->maps, *end, *to = mark->maps;
	size_t len;

	for (; *line; line = end) {
		end = strchr(line, '\n') + 1;
		len = (size_t)(end - line);
		if (!memchr(line, '/', len))
			continue;
		memmove(to, line, len);
		to += len;
	}
	*to = 0;
}

static bool same(const char *what, const char *before, const char *after)
{
	if (!strcmp(before, after))
		return true;
	printf("%s before:\n%s%s after:\n%s", what, before, what, after);
	return false;
}

bool leak_none(const struct leak_mark *before, const struct leak_mark *after)
{
	bool fds = same("fds", before->fds, after->fds), maps = same("maps", before->maps, after->maps),
	     locks = same("locks", before->locks, after->locks);

	if (before->pinned_kib != after->pinned_kib)
		printf("pinned: %ld KiB before, %ld after\n", before->pinned_kib, after->pinned_kib);
	return fds && maps && locks && before->pinned_kib == after->pinned_kib;
}
