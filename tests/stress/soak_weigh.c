/* SPDX-License-Identifier: BSD-3-Clause */
/* What an owner has between two sessions, when it leases nothing: it has to stay as it is. */
#include "soak.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

/* What a sanitizer has, and whoever is built without one has not: its heap keeps what was freed. */
extern size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

#define WARM 10u	/* sessions, until memory is what it will be */

bool is_sanitized(void)
{
	return __sanitizer_get_current_allocated_bytes != NULL;
}

static long count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	long n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

/* The ring's helpers in the kernel come and go as it likes. */
static bool is_helper(const char *tid)
{
	char path[300], comm[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%s/comm", tid);
	f = fopen(path, "re");
	if (f && !fgets(comm, sizeof(comm), f))
		comm[0] = '\0';
	if (f)
		fclose(f);
	return !strncmp(comm, "iou-", 4) || !comm[0];
}

static long count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	long n = 0;

	while (dir && (entry = readdir(dir)))
		n += entry->d_name[0] != '.' && !is_helper(entry->d_name);
	if (dir)
		closedir(dir);
	return n;
}

static long rss_kib(void)
{
	if (is_sanitized())
		return (long)(__sanitizer_get_current_allocated_bytes() / 1024);
	return kt_status_kib("RssAnon");
}

static void most(_Atomic long *max, long value)
{
	if (value > atomic_load(max))
		atomic_store(max, value);
}

/* The library's own threads open a file of /proc now and then: seen for a second, it is left behind. */
static long lasting(long (*count)(void), long most)
{
	long n = count();

	for (int i = 0; i < 100 && n > most; i++) {
		kt_sleep_ms(10);
		n = count();
	}
	return n;
}

/* The most in the first sessions, which all later ones are compared with. */
void weigh(struct soak_owner *m)
{
	bool warm = atomic_fetch_add(&m->sessions, 1) >= WARM;

	most(warm ? &m->fds_max : &m->fds, lasting(count_fds, atomic_load(&m->fds)));
	most(warm ? &m->threads_max : &m->threads, lasting(count_threads, atomic_load(&m->threads)));
	most(warm ? &m->rss_max : &m->rss_kib, rss_kib());
}

bool leaks(void)
{
	return __lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check();
}
