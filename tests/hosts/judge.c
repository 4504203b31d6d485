/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hosts_judge open FILE COPY FIFO: anybody's open of FILE, how long it took, a copy of what it finds; stays
 * open until FIFO was opened for writing and closed.
 * hosts_judge HALF BOOKS COPY WHAT: is in the copy what the books say, WHAT being acked, returned or durable?
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts.h"
#include "kt.h"

static char image[HOSTS_FULL];

static void copy_file(const char *path, int fd, const char *to)
{
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	rt_assert(pread(fd, image, sizeof(image), 0) == sizeof(image), "%s: %s", path, strerror(errno));
	rt_assert(out >= 0 && write(out, image, sizeof(image)) == sizeof(image) && !close(out), "%s: %s", to,
		  strerror(errno));
}

static int open_it(const char *path, const char *to, const char *fifo)
{
	uint64_t began = kt_now();
	int fd = open(path, O_RDWR | O_CLOEXEC);
	char byte;

	rt_assert(fd >= 0, "%s: %s", path, strerror(errno));
	printf("opened after %llu\n", (unsigned long long)((kt_now() - began) / 1000000));
	copy_file(path, fd, to);
	printf("copied\n");
	rt_assert(read(open(fifo, O_RDONLY | O_CLOEXEC), &byte, 1) == 0, "%s: %s", fifo, strerror(errno));
	close(fd);
	printf("closed\n");
	return 0;
}

/* rt_missing knows acked alone: what was promised takes its place. */
static void promise(struct hosts_books *b, const char *what)
{
	bool durable = !strcmp(what, "durable"), returned = !strcmp(what, "returned");
	uint32_t i;

	rt_assert(durable || returned || !strcmp(what, "acked"), "what is %s?", what);
	for (i = 0; i < RT_SLOTS; i++) {
		if (durable)
			atomic_store(&b->rt.slot[i].acked, atomic_load(&b->durable[i]));
		if (returned)
			atomic_store(&b->rt.slot[i].acked, atomic_load(&b->returned[i]));
	}
}

static int judge(unsigned int half, const char *books, const char *path, const char *what)
{
	struct hosts_books *b = hosts_books(books, false);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned int missing, held;

	rt_assert(half < HOSTS_LINKS && fd >= 0 && read(fd, image, sizeof(image)) == sizeof(image), "%s: %s",
		  path, strerror(errno));
	promise(b, what);
	missing = rt_missing(&b->rt, image + half * HOSTS_HALF, HOSTS_HALF, RT_ALL, 0, &held);
	printf("%s: %u missing, %u of %u slots have what was promised, %llu writes acknowledged\n", what,
	       missing, held, HOSTS_SLOTS, (unsigned long long)atomic_load(&b->rt.acked));
	/* It has been round at least once, or nothing is proved. */
	rt_assert(held == HOSTS_SLOTS || missing, "only %u slots have been written", held);
	return missing ? 1 : 0;
}

int main(int argc, char **argv)
{
	setlinebuf(stdout);
	rt_assert(argc == 5, "usage: see judge.c");
	if (!strcmp(argv[1], "open"))
		return open_it(argv[2], argv[3], argv[4]);
	return judge((unsigned int)atoi(argv[1]), argv[2], argv[3], argv[4]);
}
