/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads that map, register, unmap and deregister at once, over the hooks of
 * libpinlease-preload and a fake libibverbs, while another process opens the files and the
 * program itself changes their size. For the sanitizers: the hooks are linked in.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload.h"
#include "preload_program.h"
#include "rounds.h"

#define THREADS 32
#define FILES	4
#define ACCESS	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

/* Who has a file open is looked for among all descriptors, also those that come and go meanwhile. */
FAKE_EXPORT const char *__tsan_default_suppressions(void);
FAKE_EXPORT const char *__tsan_default_suppressions(void)
{
	return "race:pl_culprit_find";
}

static char paths[FILES][32];
static int fds[FILES];
static _Atomic unsigned int gone, kept;

/* Shared with the process that opens. */
static struct seen {
	_Atomic bool stop;
	_Atomic unsigned int opened;
} *seen;

static bool child_ended(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid && !status;
}

/* Opens one after the other, and waits each time for whoever has registered it. */
static pid_t opens(void)
{
	pid_t pid = fork();
	unsigned int i;
	int fd;

	if (pid)
		return pid;
	for (i = 0; !seen->stop; i++) {
		fd = open(paths[i % FILES], O_RDWR | O_CLOEXEC);
		if (fd < 0)
			_exit(1);
		close(fd);
		seen->opened++;
		usleep(500);
	}
	_exit(0);
}

static void once(unsigned int self, unsigned int i, const void *heap)
{
	char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[self % FILES], 0);
	struct ibv_mr *mr, *other;

	must(p != MAP_FAILED);
	mr = ibv_reg_mr(fake_pd(), p + self % 8 * PAGE, PAGE, ACCESS);
	other = ibv_reg_mr(fake_pd(), (void *)(uintptr_t)heap, PAGE, ACCESS);
	must(mr && other);
	/* Long enough once for who answers the break to have his turn: valgrind runs a thread at a time. */
	if (i % 4 == 0)
		usleep(gone ? 1000 : 100000);
	atomic_fetch_add(fake_has(mr->rkey) ? &kept : &gone, 1);
	must(fake_has(other->rkey));
	if (i % 2)
		must(!munmap(p, SIZE));
	must(!ibv_dereg_mr(mr));
	must(!ibv_dereg_mr(other));
	if (!(i % 2))
		must(!munmap(p, SIZE));
}

static void *registers(void *arg)
{
	unsigned int self = (unsigned int)(uintptr_t)arg, i;
	void *heap = malloc(PAGE);

	for (i = 0; i < pl_rounds(PL_R_preload_threads); i++)
		once(self, i, heap);
	free(heap);
	return NULL;
}

/* Beyond what is registered: nothing has to give way to it. */
static void *resizes(void *arg)
{
	unsigned int i;

	(void)arg;
	for (i = 0; i < pl_rounds(PL_R_preload_threads); i++) {
		must(!ftruncate(fds[i % FILES], SIZE + (i % 3) * PAGE));
		usleep(1000);
	}
	return NULL;
}

static void run(void)
{
	pthread_t threads[THREADS + 1];
	pid_t pid = opens();
	int i;

	for (i = 0; i < THREADS; i++)
		must(!pthread_create(&threads[i], NULL, registers, (void *)(uintptr_t)i));
	must(!pthread_create(&threads[THREADS], NULL, resizes, NULL));
	for (i = 0; i <= THREADS; i++)
		pthread_join(threads[i], NULL);
	seen->stop = true;
	must(child_ended(pid));
	printf("%u regions were kept, %u lost to %u openings\n", kept, gone, seen->opened);
	/* What is raced for has happened. */
	must(kept > THREADS && gone > 0 && seen->opened > FILES);
	must(!fake_live() && !pre_files_any());
	for (i = 0; i < FILES; i++)
		must(fcntl(fds[i], F_GETLEASE) == F_UNLCK);
}

/* unit_preload_threads: exits with 0 if it went as it must. */
int main(void)
{
	int i;

	must(pre_on);
	pre_config.quiet = true;
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(seen != MAP_FAILED);
	for (i = 0; i < FILES; i++) {
		strcpy(paths[i], "/tmp/preload-XXXXXX");
		fds[i] = mkostemp(paths[i], O_CLOEXEC);
		must(fds[i] >= 0 && !ftruncate(fds[i], SIZE));
	}
	if (fcntl(fds[0], F_SETLEASE, F_WRLCK) && errno == EINVAL) {
		puts("/tmp has no file leases");
		return 77;
	}
	must(!fcntl(fds[0], F_SETLEASE, F_UNLCK));
	run();
	for (i = 0; i < FILES; i++)
		unlink(paths[i]);
	return 0;
}
