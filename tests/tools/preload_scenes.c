/* SPDX-License-Identifier: BSD-3-Clause */
/* Mappings that come, go and move; descriptors that programs take away; changes of their own. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "preload_program.h"

#define READ_WRITE (PROT_READ | PROT_WRITE)
#define ROUNDS	   100

unsigned int descriptors(const char *of)
{
	DIR *dir = opendir("/proc/self/fd");
	struct stat want, st;
	unsigned int n = 0;
	struct dirent *entry;

	must(dir && !stat(of, &want));
	while ((entry = readdir(dir)))
		if (!fstat(atoi(entry->d_name), &st) && st.st_ino == want.st_ino && st.st_dev == want.st_dev)
			n += entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* Registering there gives a lease, or none. */
static bool leases(void *addr, int fd, int type)
{
	struct ibv_mr *mr = registered(addr, PAGE);
	bool is = leased(fd, type);

	must(!ibv_dereg_mr(mr));
	return is;
}

void scene_unmap(void)
{
	int fd;
	char *p = mapped(&fd);

	must(descriptors(path) == 2);
	must(!munmap(p + 4 * PAGE, 4 * PAGE));
	must(leases(p, fd, F_WRLCK) && leases(p + 8 * PAGE, fd, F_WRLCK));
	/* A place that the kernel gives to somebody else. */
	must(mmap(p + 4 * PAGE, PAGE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
	     p + 4 * PAGE);
	must(leases(p + 4 * PAGE, fd, F_UNLCK));
	must(munmap(p + 1, PAGE) && errno == EINVAL && leases(p, fd, F_WRLCK));
	must(!munmap(p, 4 * PAGE) && descriptors(path) == 2);
	must(!munmap(p + 8 * PAGE, 8 * PAGE) && descriptors(path) == 1);
}

void scene_fixed(void)
{
	int fd;
	char *p = mapped(&fd);

	must(mmap(p + PAGE, PAGE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + PAGE);
	must(leases(p + PAGE, fd, F_UNLCK) && leases(p, fd, F_WRLCK) && leases(p + 2 * PAGE, fd, F_WRLCK));
	/* One region over file, anonymous memory and file again. */
	must(!ibv_dereg_mr(registered(p, SIZE)));
	must(mmap(p, SIZE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
	must(leases(p + 2 * PAGE, fd, F_UNLCK) && descriptors(path) == 1);
}

void scene_remap(void)
{
	int fd;
	char *p = mapped(&fd), *q = mmap(NULL, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *r;

	must(q != MAP_FAILED);
	must(mremap(p, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
	must(leases(q + PAGE, fd, F_WRLCK));
	/* What is there now is somebody else's. */
	must(mmap(p, SIZE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
	must(leases(p + PAGE, fd, F_UNLCK));
	must(mremap(q, SIZE, 2 * PAGE, 0) == q && leases(q + PAGE, fd, F_WRLCK));
	r = mremap(q, 2 * PAGE, SIZE, MREMAP_MAYMOVE);
	must(r != MAP_FAILED && leases(r + SIZE - PAGE, fd, F_WRLCK));
	/* A second mapping of the same. */
	q = mremap(r, 0, SIZE, MREMAP_MAYMOVE);
	must(q != MAP_FAILED && !munmap(r, SIZE) && leases(q, fd, F_WRLCK));
	must(!munmap(q, SIZE) && descriptors(path) == 1);
}

/* A thousand mappings of a description are one descriptor; of two descriptions there is no lease. */
void scene_many(void)
{
	char *p[1000];
	int fd, second, i;

	mapped(&fd);
	for (i = 0; i < 1000; i++)
		p[i] = file_map(fd, READ_WRITE);
	must(descriptors(path) == 2 && leases(p[567], fd, F_WRLCK));
	for (i = 0; i < 1000; i += 2)
		must(!munmap(p[i], SIZE));
	must(descriptors(path) == 2 && leases(p[567], fd, F_WRLCK));
	second = file_open(O_RDWR);
	file_map(second, READ_WRITE);
	must(descriptors(path) == 4 && leases(p[567], fd, F_UNLCK));
}

/* The library's duplicate: the highest descriptor of the file. */
static int duplicate(int above)
{
	struct stat want, st;
	int fd, found = -1;

	must(!fstat(above, &want));
	for (fd = above + 1; fd < 4096; fd++)
		if (!fstat(fd, &st) && st.st_ino == want.st_ino && st.st_dev == want.st_dev)
			found = fd;
	return found;
}

/* Another file's number by now: neither leased nor closed. */
void scene_descriptor_replaced(void)
{
	int fd, its;
	char *p = mapped(&fd);
	struct stat st;

	its = duplicate(fd);
	must(its >= 0 && dup2(STDERR_FILENO, its) == its);
	must(leases(p, fd, F_UNLCK));
	must(!munmap(p, SIZE) && !fstat(its, &st));
	/* Nor is one of the same file that the program has put there. */
	p = file_map(fd, READ_WRITE);
	must(leases(p, fd, F_WRLCK));
	its = duplicate(fd);
	must(its >= 0 && dup2(fd, its) == its);
	must(!munmap(p, SIZE) && !fstat(its, &st));
}

void scene_descriptors_closed(void)
{
	int fd;
	char *p = mapped(&fd);
	struct ibv_mr *mr;

	for (fd = 3; fd < 4096; fd++)
		close(fd);
	mr = registered(p, SIZE);
	must(fake_live() == 1 && fake_made(mr) && !ibv_dereg_mr(mr));
	/* And from here on as before. */
	p = mapped(&fd);
	munmap(p, SIZE);
	must(descriptors(path) == 1);
}

void scene_private(void)
{
	int fd = file_open(O_RDWR);
	char *p = mmap(NULL, SIZE, READ_WRITE, MAP_PRIVATE, fd, 0), *heap = malloc(SIZE);
	struct ibv_mr *mr;

	must(p != MAP_FAILED && heap && leases(p, fd, F_UNLCK) && descriptors(path) == 1);
	mr = registered(heap, SIZE);
	must(fake_made(mr) && !ibv_dereg_mr(mr));
	free(heap);
	must(fake_registered() == 2);
}

/* One shot, set again by its handler: a slow machine gets on between two of them. */
static const struct itimerval soon = { .it_value = { .tv_usec = 300 } };
static volatile sig_atomic_t handled;
static int handler_fd;

static void handler(int sig)
{
	char *p = mmap(NULL, PAGE, READ_WRITE, MAP_SHARED, handler_fd, 0);

	(void)sig;
	if (p != MAP_FAILED)
		munmap(p, PAGE);
	handled++;
	setitimer(ITIMER_REAL, &soon, NULL);
}

static void *churn(void *arg)
{
	struct ibv_mr *mr;
	char *p;
	unsigned int i;

	for (i = 0; i < ROUNDS; i++) {
		p = file_map(*(int *)arg, READ_WRITE);
		mr = registered(p + i % 8 * PAGE, PAGE);
		must(!munmap(p, SIZE) && !ibv_dereg_mr(mr));
		free(malloc(1u << 20));
	}
	return NULL;
}

/* Four threads map, register and unmap, and a handler does so in the middle of it. */
void scene_signals(void)
{
	pthread_t threads[4];
	int fd, i;

	mapped(&fd);
	handler_fd = fd;
	must(signal(SIGALRM, handler) != SIG_ERR && !setitimer(ITIMER_REAL, &soon, NULL));
	for (i = 0; i < 4; i++)
		must(!pthread_create(&threads[i], NULL, churn, &fd));
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	must(signal(SIGALRM, SIG_IGN) != SIG_ERR && handled > 10);
	must(!fake_live() && leased(fd, F_UNLCK) && descriptors(path) == 2);
}

static off_t size_of(int fd)
{
	struct stat st;

	must(!fstat(fd, &st));
	return st.st_size;
}

/* Exactly what a change touches is gone when it returns, with nobody waited for. */
void scene_own_changes(void)
{
	struct ibv_mr *low, *high;
	int fd;
	char *p = mapped(&fd);

	low = registered(p, 4 * PAGE);
	high = registered(p + 8 * PAGE, 4 * PAGE);
	must(!ftruncate(fd, 2 * SIZE) && size_of(fd) == 2 * SIZE && fake_live() == 2);
	must(!posix_fallocate(fd, 0, 2 * SIZE) && fake_live() == 2);
	must(posix_fallocate(fd, 0, -1) == EINVAL && fake_live() == 2);
	must(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 * PAGE, PAGE) && fake_live() == 1);
	must(leased(fd, F_WRLCK) && !ibv_dereg_mr(high));
	high = registered(p + 8 * PAGE, 4 * PAGE);
	must(!truncate(path, 9 * PAGE) && size_of(fd) == 9 * PAGE && fake_live() == 1);
	must(ftruncate(fd, -1) && errno == EINVAL && fake_live() == 1);
	must(!ftruncate(fd, PAGE) && size_of(fd) == PAGE && !fake_live());
	must(!ibv_dereg_mr(low) && !ibv_dereg_mr(high) && leased(fd, F_UNLCK));
	must(!ftruncate(fd, SIZE) && size_of(fd) == SIZE);
}

/* Not sealed, since the program may want to resize it; but if it has done so itself, that is enough. */
void scene_memfd(void)
{
	int fd = memfd_create("memfd", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct ibv_mr *mr;
	char *p;

	must(fd >= 0 && !ftruncate(fd, SIZE));
	p = file_map(fd, READ_WRITE);
	mr = registered(p, SIZE);
	must(fake_made(mr) && fcntl(fd, F_GET_SEALS) == 0 && !ibv_dereg_mr(mr));
	must(!ftruncate(fd, 0) && !ftruncate(fd, SIZE));
	must(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE));
	mr = registered(p, SIZE);
	must(!fake_made(mr) && ftruncate(fd, 0) && fake_live() == 1 && !ibv_dereg_mr(mr));
}
