/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What comes behind us, what the environment asks for, fork, and what is said.
 *
 * The next functions are found once, in the constructor: dlsym allocates, and mmap is called
 * by allocators. Until then the hooks make the system call. Those of libibverbs are asked for
 * by version: without one, dlsym may answer with an old interface, and this library is linked
 * with libibverbs, since a program that gets it by dlopen(RTLD_LOCAL) has none behind us.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

struct pre_next pre_next;
struct pre_config pre_config;
_Atomic bool pre_on;
_Thread_local unsigned int pre_inside;

void *pre_reserve(size_t size)
{
	long p = syscall(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);

	return p == -1 ? NULL : (void *)p;
}

/* No descriptor is kept for it: the program may close all that it does not know. */
static void say_line(const char *line, size_t len)
{
	int fd = STDERR_FILENO;
	ssize_t n;

	if (pre_config.log[0])
		fd = open(pre_config.log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd < 0)
		return;
	n = write(fd, line, len);
	(void)n;
	if (fd != STDERR_FILENO)
		close(fd);
}

__attribute__((format(printf, 1, 0))) static void say(const char *fmt, va_list ap)
{
	char line[1024];
	int saved = errno, head = snprintf(line, sizeof(line), "pinlease-preload[%d]: ", (int)getpid()), n;

	n = vsnprintf(line + head, sizeof(line) - 1 - (size_t)head, fmt, ap);
	if (n > (int)sizeof(line) - 2 - head)
		n = (int)sizeof(line) - 2 - head;
	line[head + n] = '\n';
	say_line(line, (size_t)(head + n) + 1);
	errno = saved;
}

void pre_say(const char *fmt, ...)
{
	va_list ap;

	if (pre_config.quiet)
		return;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

void pre_tell(const char *fmt, ...)
{
	va_list ap;

	if (!pre_config.verbose)
		return;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

static bool config_number(const char *text, unsigned long max, unsigned long *number)
{
	char *end;

	errno = 0;
	*number = strtoul(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *number <= max;
}

static bool config_word(char *word)
{
	char *value = strchr(word, '=');
	unsigned long n = 0;

	if (value)
		*value++ = '\0';
	if (!value && !strcmp(word, "verbose"))
		pre_config.verbose = true;
	else if (!value && !strcmp(word, "quiet"))
		pre_config.quiet = true;
	else if (value && !strcmp(word, "policy") && !strcmp(value, "hold"))
		pre_config.policy = PRE_HOLD;
	else if (value && !strcmp(word, "policy") && !strcmp(value, "revoke"))
		pre_config.policy = PRE_REVOKE;
	else if (value && !strcmp(word, "deadline") && config_number(value, 3600000, &n))
		pre_config.deadline_ms = (uint32_t)n;
	else if (value && !strcmp(word, "signal") && config_number(value, 64, &n))
		pre_config.signo = (int)n;
	else if (value && !strcmp(word, "log") && strlen(value) < sizeof(pre_config.log))
		memcpy(pre_config.log, value, strlen(value) + 1);
	else
		return false;
	return true;
}

/* PINLEASE_PRELOAD=policy=hold,deadline=2000,signal=40,log=/path,verbose,quiet */
static void config_read(void)
{
	const char *env = getenv("PINLEASE_PRELOAD");
	char text[1024], *word, *rest = text;

	snprintf(text, sizeof(text), "%s", env ? env : "");
	while ((word = strsep(&rest, ",")))
		if (*word && !config_word(word))
			pre_say("PINLEASE_PRELOAD: %s is not understood", word);
}

#define NEXT(name)	      (*(void **)&pre_next.name = dlsym(RTLD_NEXT, #name))
#define NEXT_IBV(name, since) \
	(*(void **)&pre_next.name = dlvsym(RTLD_NEXT, "ibv_" #name, "IBVERBS_" since))

static bool next_find(void)
{
	bool files = NEXT(ftruncate) && NEXT(truncate) && NEXT(fallocate) && NEXT(posix_fallocate);
	bool verbs = NEXT_IBV(reg_mr, "1.1") && NEXT_IBV(reg_mr_iova, "1.7") &&
		     NEXT_IBV(reg_mr_iova2, "1.8") && NEXT_IBV(dereg_mr, "1.1") && NEXT_IBV(rereg_mr, "1.1");

	return files && verbs && NEXT(mmap) && NEXT(munmap) && NEXT(mremap);
}

/*
 * Only the leaf is locked: a thread that waits for libpinlease's fork handler may hold the
 * other locks. The child begins anew with what they protect.
 */
static void fork_child(void)
{
	pre_maps_child();
	pre_files_child();
	pre_mr_child();
	pre_maps_unlock();
}

static void start(void)
{
	bool found = next_find();

	/* Also when ld.so has let us in: whoever starts it must not decide over its locks and files. */
	if (getauxval(AT_SECURE))
		return;
	config_read();
	if (!found || !pre_maps_init() || !pre_mr_init() ||
	    pthread_atfork(pre_maps_lock, pre_maps_unlock, fork_child)) {
		pre_say("cannot start: no leases");
		return;
	}
	pre_on = true;
}

__attribute__((constructor)) void pre_start(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, start);
}
