/* SPDX-License-Identifier: BSD-3-Clause */
/* What carriers refuse: arguments, too little memory, a file that became too short, a forked child. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "line.h"

static bool no_memory;		/* calloc answers NULL, while the test says so */

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
	return no_memory ? NULL : __real_calloc(n, size);
}

static void test_arguments(struct world *w)
{
	struct pinlease_carry_opts o = { .size = sizeof(o) };
	struct pinlease_carry *c = NULL;
	unsigned char buf[PINLEASE_CARRY_MAX + 1] = { 0 };
	struct line l;
	int fd;

	(void)w;
	line_new(&l);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(pinlease_carry_socket(fd, NULL, &c), -EPROTOTYPE);
	close(fd);
	assert_int_equal(pinlease_carry_socket(fd, NULL, &c), -EBADF);
	assert_int_equal(pinlease_carry_socket(l.fd[0], NULL, NULL), -EINVAL);
	o.flags = 1;
	assert_int_equal(pinlease_carry_socket(l.fd[0], &o, &c), -EINVAL);
	o.size = 1;
	assert_int_equal(pinlease_carry_socket(l.fd[0], &o, &c), -EINVAL);
	assert_int_equal(pinlease_carry_verbs(NULL, NULL, &c), -EINVAL);
	assert_null(c);
	assert_null(pinlease_carry_cq(l.owner));
	assert_int_equal(pinlease_carry_start(l.owner, (struct ibv_qp *)buf), -EINVAL);
	assert_int_equal(pinlease_carry_send(l.owner, buf, sizeof(buf)), -EMSGSIZE);
	assert_int_equal(pinlease_carry_send(l.owner, buf, 0), -EINVAL);
	assert_int_equal(pinlease_carry_recv(l.owner, buf, 1023, &l.kind), -EINVAL);
	assert_int_equal(pinlease_carry_fd(l.owner), l.fd[0]);
	assert_int_equal(pinlease_carry_add_peer(l.owner, NULL), -EINVAL);
	line_free(&l);
	world_open(w, PINLEASE_READ);
	world_close(w);
}

struct longer {
	struct pinlease_carry_opts opts;
	uint64_t more;
};

/* Nothing is changed by what fails. */
static void test_out_of_memory(struct world *w)
{
	struct longer o = { .opts.size = sizeof(o), .more = 1 };
	struct pinlease_carry *c = NULL;
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	assert_int_equal(pinlease_carry_socket(l.fd[0], &o.opts, &c), -E2BIG);
	no_memory = true;
	assert_int_equal(pinlease_carry_socket(l.fd[0], NULL, &c), -ENOMEM);
	no_memory = false;
	assert_null(c);
	assert_int_equal(pinlease_grant_new(lease, NULL, &l.grant), 0);
	no_memory = true;
	assert_int_equal(pinlease_carry_add_grant(l.owner, l.grant), -ENOMEM);
	no_memory = false;
	assert_int_equal(pinlease_carry_del_grant(l.owner, l.grant), -ENOENT);
	assert_int_equal(pinlease_grant_free(l.grant), 0);
	line_grant(&l, lease);
	/* Out of the carrier the peer hears nothing, and its own calls go on. */
	assert_int_equal(pinlease_carry_del_peer(l.remote, l.peer), 0);
	assert_int_equal(pinlease_carry_del_peer(l.remote, l.peer), -ENOENT);
	line_free(&l);
	world_close(w);
}

/* What the grant was of is behind the end of the file by now. */
static void test_too_short(struct world *w)
{
	const struct pinlease_grant_opts o = { .size = sizeof(o), .off = 8 * SIM_PAGE };
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	assert_int_equal(pinlease_grant_new(lease, &o, &l.grant), 0);
	world_opener_in(sim_truncate(w->path, 4 * SIM_PAGE), SIM_S);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pinlease_carry_add_grant(l.owner, l.grant), -ENODATA);
	assert_int_equal(pinlease_carry_del_grant(l.owner, l.grant), -ENOENT);
	line_free(&l);
	world_close(w);
}

/* In a child, which is no part of the simulation: 0, or the number of the call that was wrong. */
static int child_calls(struct line *l)
{
	if (pinlease_carry_add_grant(l->owner, l->grant) != -ECHILD)
		return 1;
	if (pinlease_carry_del_peer(l->remote, l->peer) != -ECHILD)
		return 2;
	if (pinlease_carry_tell(l->owner) != -ECHILD || pinlease_carry_send(l->owner, "x", 1) != -ECHILD)
		return 3;
	if (line_hear(l, l->remote) != -ECHILD || pinlease_carry_events(l->owner) != -ECHILD)
		return 4;
	return pinlease_carry_free(l->owner) ? 5 : 0;
}

static void test_forked_child(struct world *w)
{
	struct pinlease *lease;
	struct line l;
	int status = -1;
	pid_t pid;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_grant(&l, lease);
	pid = fork();
	if (!pid)
		_exit(child_calls(&l));
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	line_break(w, &l, lease);
	line_free(&l);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_arguments),
		world_test(test_out_of_memory),
		world_test(test_too_short),
		world_test(test_forked_child),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
