/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Registering on a real device, in a library that programs load at run time. The scenes:
 *
 *	lease	a shared mapping of the file, whose descriptor a program would have closed
 *	rate	anonymous memory between two mappings of it: what a registration costs by the
 *		way of every program, against a call of libibverbs itself, in turns
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "must.h"

#undef ibv_reg_mr

#define PAGE   4096u
#define SIZE   (16 * PAGE)
#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)
#define TURNS  2000
#define BATCH  8
#define WARM   2
#define BAR    0.99
#define BELOW  3 /* exit status */

struct calls {
	struct ibv_mr *(*reg)(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova, unsigned int access);
	int (*dereg)(struct ibv_mr *mr);
};

static struct ibv_pd *pd_open(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *context;
	struct ibv_pd *pd;

	must(list && list[0]);
	context = ibv_open_device(list[0]);
	must(context);
	pd = ibv_alloc_pd(context);
	must(pd);
	return pd;
}

static char *map_file(const char *path, void *where, size_t len, int *fd)
{
	char *p;

	*fd = open(path, O_RDWR | O_CLOEXEC);
	must(*fd >= 0);
	p = mmap(where, len, PROT_READ | PROT_WRITE, MAP_SHARED | (where ? MAP_FIXED : 0), *fd, 0);
	must(p != MAP_FAILED);
	return p;
}

static int scene_lease(const char *path)
{
	struct ibv_pd *pd = pd_open();
	struct ibv_mr *mr;
	char command[300];
	struct stat st;
	int fd;
	char *p = map_file(path, NULL, SIZE, &fd);

	mr = ibv_reg_mr(pd, p, SIZE, ACCESS);
	must(mr && mr->pd == pd && mr->addr == p && mr->length == SIZE);
	must(fcntl(fd, F_GETLEASE) == F_WRLCK);
	snprintf(command, sizeof(command), ": > %s", path);
	must(system(command) == 0);
	must(!fstat(fd, &st) && st.st_size == 0 && fcntl(fd, F_GETLEASE) == F_UNLCK);
	must(!ibv_dereg_mr(mr));
	must(!ibv_dealloc_pd(pd));
	return 0;
}

/* us for each of a batch. The first ones are not counted: after the other way, ours is in no cache. */
static double batch(const struct calls *calls, struct ibv_pd *pd, char *p)
{
	struct timespec began, now;
	struct ibv_mr *mr;
	int i;

	for (i = -WARM; i < BATCH; i++) {
		if (!i)
			clock_gettime(CLOCK_MONOTONIC, &began);
		mr = calls->reg(pd, p, PAGE, (uintptr_t)p, ACCESS);
		must(mr && !calls->dereg(mr));
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	return ((double)(now.tv_sec - began.tv_sec) * 1e6 + (double)(now.tv_nsec - began.tv_nsec) / 1e3) /
	       BATCH;
}

static int ascending(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return a < b ? -1 : a > b;
}

static double median(double *of)
{
	qsort(of, TURNS, sizeof(*of), ascending);
	return of[TURNS / 2];
}

/* Turn by turn, since all that a busy machine does to one it does to both, mostly. */
static double by(const double *one, const double *other)
{
	static double ratio[TURNS];
	int i;

	for (i = 0; i < TURNS; i++)
		ratio[i] = one[i] / other[i];
	return median(ratio);
}

static int scene_rate(const char *path)
{
	const struct calls program = { ibv_reg_mr_iova2, ibv_dereg_mr };
	void *libibverbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_NOLOAD);
	enum { WITH, BARE, AGAIN, WAYS, ORDERS = 6 };
	/* Each as often in each place, and behind each other. */
	static const unsigned char order[ORDERS][WAYS] = {
		{ WITH, BARE, AGAIN }, { WITH, AGAIN, BARE }, { BARE, WITH, AGAIN },
		{ BARE, AGAIN, WITH }, { AGAIN, WITH, BARE }, { AGAIN, BARE, WITH },
	};
	static double took[WAYS][TURNS];
	double rate, floor;
	struct ibv_pd *pd = pd_open();
	struct calls direct;
	char *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int i, j, way, fds[2];

	must(libibverbs && p != MAP_FAILED);
	map_file(path, p, PAGE, &fds[0]);
	map_file(path, p + 2 * PAGE, PAGE, &fds[1]);
	*(void **)&direct.reg = dlvsym(libibverbs, "ibv_reg_mr_iova2", "IBVERBS_1.8");
	*(void **)&direct.dereg = dlvsym(libibverbs, "ibv_dereg_mr", "IBVERBS_1.1");
	/* Two ways, and not one twice. */
	must(direct.reg && direct.dereg && direct.reg != program.reg && direct.dereg != program.dereg);
	for (i = 0; i < TURNS; i++) {
		for (j = 0; j < WAYS; j++) {
			way = order[i % ORDERS][j];
			took[way][i] = batch(way == WITH ? &program : &direct, pd, p + PAGE);
		}
	}
	rate = by(took[BARE], took[WITH]);
	floor = by(took[BARE], took[AGAIN]);
	printf("%.4f times the registrations per second, %.2f us each without (in %d turns; the same twice: "
	       "%.4f)\n",
	       rate, median(took[BARE]), TURNS, floor);
	return rate >= BAR ? 0 : BELOW;
}

__attribute__((visibility("default"))) int play(const char *scene, const char *path);

int play(const char *scene, const char *path)
{
	return strcmp(scene, "rate") ? scene_lease(path) : scene_rate(path);
}
