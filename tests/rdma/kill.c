/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kill owner|child: SIGKILL of the owner under load, with a truncate blocked.
 *
 * The owner holds a pinned lease on tmpfs, is told of the break, and answers nothing;
 * then it is killed. Its memory regions must be gone before the truncate returns: no
 * write that the peer posted after that may succeed. Both orders in which file and
 * device can be opened are tried, since the kernel runs a dying process's last fputs in
 * reverse fd order; "child" adds a child that lives on, and with it whatever was left in its
 * hands: by fork, with and without exec, by vfork or posix_spawn, which run no fork handlers.
 *
 * The controls show that the promise is the library's and not luck: without the anchor
 * (device first), or without MADV_DONTFORK and the fork handler, taken out at the seam
 * by the linker's --wrap, late writes must be seen.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <pinlease.h>

#include "kt.h"
#include "rounds.h"
#include "rt.h"

#define SLOTS	     64u
#define FULL	     (SLOTS * (uint64_t)RT_SLOT)
#define ACKED_WRITES 200u
#define BALLAST	     128u
#define WAIT_MS	     KT_LONG
#define AFTER_MS	     60u		/* how long the peer goes on writing after the truncate */
#define DEADLINE_MS  30000u		/* far away: the death lets the opener on, not the deadline */

#define SLEEP	     "/bin/sleep"

extern char **environ;

enum child { NO_CHILD, BY_FORK, BY_FORK_EXEC, BY_VFORK, BY_SPAWN };

struct arm {
	const char *name;
	enum child child;
	bool device_first, no_anchor, bare, control;
};

struct owner {			/* in kt_shared memory */
	struct arm arm;
	char path[KT_PATH_MAX];
	struct rt_peer *peer;
	_Atomic uint32_t ready, broken;
	_Atomic int child;
};

static bool seam_bare;	/* in this process fork is not guarded against */

int __real_pl_sys_advise(void *addr, size_t len, int advice);
int __wrap_pl_sys_advise(void *addr, size_t len, int advice);
int __real_pl_sys_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pl_sys_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

int __wrap_pl_sys_advise(void *addr, size_t len, int advice)
{
	if (seam_bare && advice == MADV_DONTFORK)
		return 0;
	return __real_pl_sys_advise(addr, len, advice);
}

int __wrap_pl_sys_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	return seam_bare ? 0 : __real_pl_sys_at_fork(prepare, parent, child);
}

/* Keep the device and drop what the library's handler would have dropped, by closing all else. */
static void child_keep_device(void)
{
	char name[64], link[128];
	struct dirent *entry;
	ssize_t n;
	DIR *dir;
	int fd;

	dir = opendir("/proc/self/fd");
	rt_assert(dir, "/proc/self/fd: %s", strerror(errno));
	while ((entry = readdir(dir))) {
		fd = atoi(entry->d_name);
		if (fd <= STDERR_FILENO || fd == dirfd(dir))
			continue;
		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		n = readlink(name, link, sizeof(link) - 1);
		link[n < 0 ? 0 : n] = 0;
		if (!strstr(link, "infiniband"))
			close(fd);
	}
	closedir(dir);
}

static void child_unmap(const char *path)
{
	unsigned long from, to;
	char line[512];
	FILE *maps;

	maps = fopen("/proc/self/maps", "re");
	rt_assert(maps, "/proc/self/maps: %s", strerror(errno));
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, path) && sscanf(line, "%lx-%lx", &from, &to) == 2)
			munmap((void *)(uintptr_t)from, to - from);
	fclose(maps);
}

static void owner_fork(struct owner *o)
{
	pid_t pid = fork();

	rt_assert(pid >= 0, "fork: %s", strerror(errno));
	if (pid) {
		atomic_store(&o->child, pid);
		return;
	}
	if (o->arm.bare) {
		child_keep_device();
		child_unmap(o->path);
	}
	if (o->arm.child == BY_FORK_EXEC)
		_exit(execl(SLEEP, SLEEP, "600", (char *)NULL));
	for (;;)
		pause();
}

static void owner_vfork(struct owner *o)
{
	pid_t pid = vfork();

	if (!pid)
		_exit(execl(SLEEP, SLEEP, "600", (char *)NULL));
	rt_assert(pid > 0, "vfork: %s", strerror(errno));
	atomic_store(&o->child, pid);
}

static void owner_spawn(struct owner *o)
{
	char name[] = SLEEP, how_long[] = "600", *argv[] = { name, how_long, NULL };
	pid_t pid;
	int r = posix_spawn(&pid, SLEEP, NULL, NULL, argv, environ);

	rt_assert(!r, "posix_spawn: %s", strerror(r));
	atomic_store(&o->child, pid);
}

static void owner_child(struct owner *o)
{
	if (o->arm.child == BY_VFORK)
		owner_vfork(o);
	else if (o->arm.child == BY_SPAWN)
		owner_spawn(o);
	else if (o->arm.child)
		owner_fork(o);
}

/* It is there when the writes are counted. Is it the program that it should be? */
static bool child_is_right(const struct owner *o, pid_t child)
{
	char path[32], comm[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", child);
	f = fopen(path, "re");
	rt_assert(f && fgets(comm, sizeof(comm), f), "the child is gone");
	fclose(f);
	return !strcmp(comm, "sleep\n") == (o->arm.child != BY_FORK);
}

static void owner_file(struct owner *o, struct pinlease_ctx *ctx, struct pinlease_file **file)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .access = PINLEASE_WRITE,
					 .flags = o->arm.no_anchor ? PINLEASE_F_NO_ANCHOR : 0 };
	struct pinlease_why why = { 0 };
	int r = pinlease_file_open(ctx, o->path, &fo, &why, file);

	rt_assert(!r, "file_open: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
}

static void owner_lease(struct owner *o, struct pinlease_file *file, struct kt_rdma *dev)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = dev->pd, .deadline_ms = DEADLINE_MS,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE, .flags = PINLEASE_L_ACK };
	struct pinlease_view view = { .size = sizeof(view) };
	struct pinlease_why why = { 0 };
	struct pinlease *lease;
	int r;

	r = pinlease_acquire(file, 0, FULL, &lo, &why, &lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_view_get(lease, 0, &view);
	rt_assert(!r, "view: %s", strerror(-r));
	rt_assert(view.mode == PINLEASE_MODE_PINNED && view.guard == PINLEASE_GUARD_LEASE,
		  "mode %u, guard %u", view.mode, view.guard);
	o->peer->addr = view.iova;
	o->peer->rkey = view.rkey;
	o->peer->slots = SLOTS;
}

/*
 * A server has more than one registration. The kernel takes a dead process's objects down one by
 * one, the newest first: with these, the lease's own region lives on for a while.
 */
static void owner_ballast(struct kt_rdma *dev)
{
	static uint8_t memory[BALLAST][RT_SLOT];
	unsigned int i;

	for (i = 0; i < BALLAST; i++)
		rt_assert(ibv_reg_mr(dev->pd, memory[i], RT_SLOT, IBV_ACCESS_LOCAL_WRITE), "ibv_reg_mr: %s",
			  strerror(errno));
}

/* Never answers the break: it waits for its own death. */
static int owner_main(const void *arg)
{
	struct owner *o = *(struct owner *const *)arg;
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct pollfd pfd = { .events = POLLIN };
	struct pinlease_file *file;
	struct pinlease_ctx *ctx;
	struct kt_qp qp = { 0 };
	struct kt_rdma dev;
	int r;

	seam_bare = o->arm.bare;
	r = pinlease_ctx_new(NULL, &ctx);
	rt_assert(!r, "ctx_new: %s", strerror(-r));
	if (o->arm.device_first)
		rt_open(&dev);
	owner_file(o, ctx, &file);
	if (!o->arm.device_first)
		rt_open(&dev);
	owner_lease(o, file, &dev);
	rt_peer_connect(o->peer, &dev, &qp);
	owner_ballast(&dev);
	owner_child(o);
	rt_peer_order(o->peer, RT_STREAM);
	atomic_store(&o->ready, 1);
	pfd.fd = pinlease_ctx_fd(ctx);
	for (;;) {
		poll(&pfd, 1, -1);
		while (pinlease_ctx_next_event(ctx, &ev) == 1) {
			rt_assert(ev.type == PINLEASE_EV_BREAK, "event %u", ev.type);
			atomic_store(&o->broken, 1);
		}
	}
}

/* Runs as soon as it is woken, so that its return is seen when it happens and not when a CPU is free. */
static int opener_main(const void *arg)
{
	struct sched_param param = { .sched_priority = 1 };

	rt_assert(!sched_setscheduler(0, SCHED_FIFO, &param), "SCHED_FIFO: %s", strerror(errno));
	return truncate(arg, 0) ? -errno : 0;
}

#define wait_for(cond, what)                                                                                 \
	do {                                                                                                 \
		uint64_t until_ns = kt_now() + WAIT_MS * 1000000ull;                                         \
		while (!(cond)) {                                                                            \
			rt_assert(kt_now() < until_ns, "waited in vain for: %s", what);                      \
			usleep(100);                                                                         \
		}                                                                                            \
	} while (0)

static void round_rest(struct owner *o, pid_t child)
{
	rt_peer_order(o->peer, RT_REST);
	wait_for(atomic_load(&o->peer->state) != RT_STREAMING, "the peer at rest");
	if (!o->arm.child)
		return;
	wait_for(child_is_right(o, child), "the child's program");
	kill(child, SIGKILL);
}

/* Writes that were posted after the truncate had returned, and succeeded. */
static uint64_t round_run(struct owner *o, const struct arm *arm, const char *dir, unsigned int round)
{
	uint64_t before = atomic_load(&o->peer->acked), killed_ns, returned_ns, late;
	struct kt_call *owner, *opener;

	o->arm = *arm;
	atomic_store(&o->ready, 0);
	atomic_store(&o->broken, 0);
	atomic_store(&o->child, 0);
	rt_assert(!kt_file(o->path, dir, "leased", FULL), "no file");
	owner = kt_call_start(owner_main, &o, sizeof(o));
	rt_assert(owner, "no process for the owner");
	wait_for(atomic_load(&o->ready) && atomic_load(&o->peer->acked) >= before + ACKED_WRITES,
		 "acknowledged writes");
	opener = kt_call_start(opener_main, o->path, sizeof(o->path));
	rt_assert(opener, "no process for the opener");
	wait_for(atomic_load(&o->broken), "BREAK");
	usleep(round * 7919 % 3000);
	rt_assert(!kt_call_done(opener, 0), "the truncate was not blocked");
	rt_assert(atomic_load(&o->peer->state) == RT_STREAMING, "no load at the kill");
	killed_ns = kt_now();
	kt_call_kill(owner);
	rt_assert(kt_call_done(opener, WAIT_MS) && !opener->ret, "truncate: %d", opener->ret);
	returned_ns = opener->end_ns;
	rt_assert(returned_ns > killed_ns && returned_ns - killed_ns < DEADLINE_MS / 2 * 1000000ull,
		  "the truncate did not return by the owner's death");
	kt_sleep_ms(AFTER_MS);
	round_rest(o, atomic_load(&o->child));
	late = rt_peer_late(o->peer, returned_ns);
	kt_call_end(opener);
	kt_call_end(owner);
	unlink(o->path);
	return late;
}

static void arm_run(struct owner *o, const struct arm *arm, const char *dir)
{
	unsigned int rounds = pl_rounds(arm->control		   ? PL_R_kill_control_rounds
					: arm->child > BY_FORK ? PL_R_rdma_kill_spawned
							       : PL_R_rdma_kill_rounds);
	unsigned int needed = pl_rounds(PL_R_kill_control_late), late_rounds = 0, i;
	uint64_t late = 0, n;

	/* A control has done its part as soon as it has failed often enough. */
	for (i = 0; i < rounds && !(arm->control && late_rounds >= needed); i++) {
		n = round_run(o, arm, dir, i);
		late += n;
		late_rounds += n != 0;
	}
	printf("%s: %u rounds, %u with late writes, %llu late writes\n", arm->name, i, late_rounds,
	       (unsigned long long)late);
	if (arm->control)
		rt_assert(late_rounds >= needed,
			  "the control was late in %u of %u rounds: this test proves nothing",
			  late_rounds, i);
	else
		rt_assert(!late, "writes landed after the truncate had returned");
}

static const struct arm owner_arms[] = {
	{ .name = "file opened first" },
	{ .name = "device opened first", .device_first = true },
	{ .name = "control: device first, F_NO_ANCHOR", .device_first = true, .no_anchor = true,
	  .control = true },
	{ 0 },
};

static const struct arm child_arms[] = {
	{ .name = "file opened first, a child lives on", .child = BY_FORK },
	{ .name = "device opened first, a child lives on", .child = BY_FORK, .device_first = true },
	{ .name = "fork and exec", .child = BY_FORK_EXEC, .device_first = true },
	{ .name = "vfork", .child = BY_VFORK, .device_first = true },
	{ .name = "posix_spawn", .child = BY_SPAWN, .device_first = true },
	{ .name = "control: fork unguarded, a child keeps the device", .child = BY_FORK, .bare = true,
	  .control = true },
	{ 0 },
};

int main(int argc, char **argv)
{
	const struct arm *arm;
	struct kt_call *peer;
	struct owner *o;
	struct kt_fs fs;

	rt_assert(argc == 2, "usage: kill owner|child");
	kt_init();
	rt_require();
	rt_assert(!kt_fs_make(&fs, "tmpfs", 16), "no tmpfs");
	o = kt_shared(sizeof(*o));
	rt_assert(o, "out of shared memory");
	o->peer = kt_shared(sizeof(*o->peer));
	rt_assert(o->peer, "out of shared memory");
	peer = rt_peer_start(o->peer);
	for (arm = strcmp(argv[1], "child") ? owner_arms : child_arms; arm->name; arm++)
		arm_run(o, arm, fs.dir);
	rt_peer_order(o->peer, RT_LEAVE);
	kt_call_end(peer);
	return 0;
}
