/* SPDX-License-Identifier: BSD-3-Clause */
#include "line.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

const struct pinlease_opts line_manual = { .flags = PINLEASE_L_MANUAL };
const struct pinlease_carry_opts line_brief = { .size = sizeof(line_brief), .timeout_ms = LINE_PATIENCE_MS };

void line_new(struct line *l)
{
	memset(l, 0, sizeof(*l));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, l->fd), 0);
	assert_int_equal(pinlease_carry_socket(l->fd[0], &line_brief, &l->owner), 0);
	assert_int_equal(pinlease_carry_socket(l->fd[1], NULL, &l->remote), 0);
}

void line_free(struct line *l)
{
	assert_int_equal(pinlease_carry_free(l->owner), 0);
	assert_int_equal(pinlease_carry_free(l->remote), 0);
	assert_int_equal(pinlease_grant_free(l->grant), 0);
	assert_int_equal(pinlease_peer_detach(l->peer), 0);
	close(l->fd[0]);
	close(l->fd[1]);
}

int line_hear(struct line *l, struct pinlease_carry *c)
{
	return pinlease_carry_recv(c, l->buf, sizeof(l->buf), &l->kind);
}

void line_grant(struct line *l, struct pinlease *lease)
{
	int n;

	assert_int_equal(pinlease_grant_new(lease, NULL, &l->grant), 0);
	assert_int_equal(pinlease_carry_add_grant(l->owner, l->grant), 0);
	assert_int_equal(pinlease_carry_add_grant(l->owner, l->grant), -EEXIST);
	n = line_hear(l, l->remote);
	assert_int_equal(n, 64);
	assert_int_equal(l->kind, PINLEASE_CARRY_DESCRIPTOR);
	assert_int_equal(pinlease_peer_attach(l->buf, (size_t)n, &l->peer), 0);
	assert_int_equal(pinlease_carry_add_peer(l->remote, l->peer), 0);
	assert_int_equal(line_hear(l, l->remote), 0);
}

int line_begin(struct line *l, struct pinlease_peer_key *key)
{
	*key = (struct pinlease_peer_key){ .size = sizeof(*key) };
	return pinlease_peer_begin(l->peer, PINLEASE_WRITE, 0, SIM_PAGE, key);
}

void line_break(struct world *w, struct line *l, struct pinlease *lease)
{
	struct pinlease_peer_key key, none;
	struct sim_opener *o;

	assert_int_equal(line_begin(l, &key), 0);
	o = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_carry_tell(l->owner), 0);
	assert_int_equal(line_hear(l, l->remote), 0);
	assert_int_equal(line_begin(l, &none), -EAGAIN);
	assert_int_equal(line_hear(l, l->owner), 0);
	assert_false(sim_opener_done(o));
	assert_int_equal(pinlease_peer_end(l->peer, key.gen, 1), 1);
	assert_int_equal(pinlease_carry_tell(l->remote), 0);
	assert_int_equal(line_hear(l, l->owner), 0);
	world_opener_in(o, 10 * SIM_MS);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 0);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	world_event(w, PINLEASE_EV_RESTORED);
	assert_int_equal(pinlease_carry_tell(l->owner), 0);
	assert_int_equal(line_hear(l, l->remote), 0);
	assert_int_equal(line_begin(l, &key), 0);
	assert_int_equal(key.rkey, world_view(lease).rkey);
	assert_int_equal(pinlease_peer_end(l->peer, key.gen, 1), 0);
}
