/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The process dies, or has a child.
 *
 * Killed: what do_exit() does, in its order. The mappings first; then the descriptors, from the
 * highest number down, each lease at the last reference to its description, all regions at
 * the device's descriptor; what is in flight in a socket last of all. (kernel_death)
 *
 * A child is a real one: what the fork handlers have left it is what is looked at.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../sim_verbs.h"
#include "objects.h"
#include "outside.h"

static void drop_mappings(void)
{
	struct pl_list *pos;

	/* They stay in the list: the regions over them are alive, and the judge has to find them. */
	pl_list_for_each (pos, &sim.maps)
		if (pl_container(pos, struct sim_map, link)->ofd)
			pl_container(pos, struct sim_map, link)->ofd->refs--;
}

static void drop_reference(struct sim_ofd *ofd)
{
	bool last = ofd->refs == 1;
	struct pl_list *pos;

	sim_ofd_put(ofd);
	pl_list_for_each (pos, &sim.maps)
		if (last && pl_container(pos, struct sim_map, link)->ofd == ofd)
			pl_container(pos, struct sim_map, link)->ofd = NULL;
}

static void drop_device(void)
{
	sim.dma = NULL;
	pl_list_init(&sim.mrs);
}

static void drop_kind(enum sim_fd_kind kind, int device)
{
	int fd;

	for (fd = SIM_FDS - 1; fd >= 0; fd--) {
		if (fd == device)
			drop_device();
		else if (sim.fd_kind[fd] == kind && sim.fd_ofd[fd])
			drop_reference(sim.fd_ofd[fd]);
	}
}

void x_kill(void)
{
	uint32_t i;

	if (!x_world.pd)
		x_run_over();
	x_world.killed = true;
	x_alone();
	drop_mappings();
	drop_kind(SIM_FD_FILE, sim_device_of(x_world.pd->context)->context.cmd_fd);
	drop_kind(SIM_FD_ANCHOR, -1);
	for (i = 0; i < X_OPENERS; i++)
		if (x_comers[i].o && !sim_opener_done(x_comers[i].o))
			sim_violate("I6", "the owner is dead, and an opener of file %u waits",
				    x_comers[i].file);
	x_run_over();
}

enum child_fault { CHILD_GOOD, CHILD_FD, CHILD_ANCHOR, CHILD_MAPPED, CHILD_GRANTED };

/* The parent has all its own: nothing the child closes is the last. */
static void child_references(void)
{
	struct pl_list *pos, *of;

	pl_list_for_each (pos, &sim.inodes)
		pl_list_for_each (of, &pl_container(pos, struct sim_inode, link)->ofds)
			pl_container(of, struct sim_ofd, link)->refs++;
}

/* Its own copy of the simulation says what is open in it. */
static enum child_fault child_look(void)
{
	const struct pinlease *lease;
	uint32_t i, gen;
	int fd;

	for (fd = 0; fd < SIM_FDS; fd++) {
		if (sim.fd_kind[fd] == SIM_FD_ANCHOR)
			return CHILD_ANCHOR;
		if (sim.fd_kind[fd] == SIM_FD_FILE && sim.fd_ofd[fd]->armed_once)
			return CHILD_FD;
	}
	for (i = 0; i < x_plan.leases; i++) {
		lease = x_world.lease[i];
		if (!lease)
			continue;
		if (!msync(lease->map.addr, SIM_PAGE, MS_ASYNC))
			return CHILD_MAPPED;
		if (pinlease_dma_begin(x_world.lease[i], 1, &gen) != -ECHILD)
			return CHILD_GRANTED;
	}
	return CHILD_GOOD;
}

void x_fork(void)
{
	uint32_t gen;
	int status;
	pid_t pid;

	/* A thread with counters of its own is the one a child could go on with. */
	if (x_world.lease[0] && !pinlease_dma_begin(x_world.lease[0], 1, &gen))
		pinlease_dma_end(x_world.lease[0], 1, gen);
	x_fork_handlers(0)();
	pid = fork();
	if (pid < 0)
		sim_die("fork: %d", errno);
	if (!pid) {
		x_alone();
		child_references();
		sim.forked = true;
		x_fork_handlers(2)();
		_exit((int)child_look());
	}
	x_fork_handlers(1)();
	waitpid(pid, &status, 0);
	x_result->forks++;
	status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	if (status == CHILD_GRANTED)
		sim_violate("I3", "a begin is granted in a forked child");
	if (status)
		sim_violate("I6", "a forked child keeps the guard: fault %d", status);
}
