/* SPDX-License-Identifier: BSD-3-Clause */
/* Frames over a stream socket: used without waiting, whatever its flags say, and none of them is changed. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "carry.h"

/* Dead, or no more for now: 0. */
static int socket_error(void)
{
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return 0;
	return errno == EPIPE ? -ECONNRESET : -errno;
}

static int socket_send(struct pinlease_carry *c)
{
	const struct plc_frame *f;
	ssize_t n;

	while (c->tail != c->head) {
		f = &c->out[c->tail % PLC_OUT];
		n = send(c->sock, f->data + c->out_done, f->len - c->out_done, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return socket_error();
		c->out_done += (uint32_t)n;
		if (c->out_done == f->len) {
			c->out_done = 0;
			plc_completed(c);
		}
	}
	return 0;
}

/* Up to want bytes of the frame. 1: there; 0: not yet. */
static int socket_read(struct pinlease_carry *c, uint32_t want)
{
	ssize_t n;

	while (c->in_len < want) {
		n = recv(c->sock, c->in.data + c->in_len, want - c->in_len, MSG_DONTWAIT);
		if (!n)
			return -ECONNRESET;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return socket_error();
		if (!c->in_len)
			c->in_since = plc_now();
		c->in_len += (uint32_t)n;
	}
	return 1;
}

static int socket_recv(struct pinlease_carry *c, const unsigned char **frame, uint32_t *len)
{
	int r = socket_read(c, PLC_HEAD), whole;

	if (r <= 0)
		return r;
	whole = plc_frame_len(c->in.data);
	if (whole < 0)
		return whole;
	r = socket_read(c, (uint32_t)whole);
	if (r <= 0)
		return r;
	c->in_len = 0;
	c->in_since = 0;
	*frame = c->in.data;
	*len = (uint32_t)whole;
	return 1;
}

static int socket_fd(const struct pinlease_carry *c)
{
	return c->sock;
}

static int socket_free(struct pinlease_carry *c)
{
	(void)c;
	return 0;
}

static const struct plc_transport socket_transport = {
	.send = socket_send, .recv = socket_recv, .fd = socket_fd, .free = socket_free
};

PLC_API int pinlease_carry_socket(int fd, const struct pinlease_carry_opts *opts,
				  struct pinlease_carry **carry)
{
	struct pinlease_carry *c;
	socklen_t len;
	int r, type;

	if (!carry)
		return -EINVAL;
	len = sizeof(type);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
		return errno == ENOTSOCK ? -EPROTOTYPE : -errno;
	if (type != SOCK_STREAM)
		return -EPROTOTYPE;
	r = plc_new(opts, &socket_transport, &c);
	if (r)
		return r;
	c->sock = fd;
	*carry = c;
	return 0;
}
