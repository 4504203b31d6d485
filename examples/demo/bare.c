/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * demo-bare PATH PORT: the owner of the file, without the library: it maps the file,
 * registers the mapping and lets one peer write into it, the way programs do it today.
 * Nothing tells it what becomes of the file. End of file on stdin ends it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/rc.h"
#include "tell.h"

static void serve(const struct rc_conn *peer, const struct ibv_mr *mr)
{
	struct rc_msg msg = { .type = RC_VIEW, .gen = 1, .addr = (uintptr_t)mr->addr, .len = mr->length,
			      .rkey = mr->rkey };
	char byte;
	int r = rc_send(peer, &msg);

	if (r)
		give_up("the peer", r);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	msg = (struct rc_msg){ .type = RC_DONE };
	r = rc_send(peer, &msg);
	if (r)
		give_up("the peer", r);
	do {
		if (rc_recv(peer, &msg) <= 0)
			give_up("the peer", EPIPE);
	} while (msg.type != RC_DONE);
}

int main(int argc, char **argv)
{
	struct rc_dev dev;
	struct rc_conn peer;
	struct ibv_mr *mr;
	struct stat st;
	void *map;
	int fd, r, listener;

	if (argc != 3)
		give_up("usage: demo-bare PATH PORT", EINVAL);
	r = rc_dev_open(&dev);
	if (r)
		give_up("RDMA device", r);
	listener = rc_listen(argv[2]);
	if (listener < 0)
		give_up("listening", listener);
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		give_up(argv[1], errno);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		give_up("mmap", errno);
	mr = ibv_reg_mr(dev.pd, map, (size_t)st.st_size, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	if (!mr)
		give_up("ibv_reg_mr", errno);
	tell("ready");
	r = rc_accept(&dev, listener, &peer);
	if (r)
		give_up("the peer's connection", r);
	serve(&peer, mr);
	tell("breaks 0");
	rc_close(&peer);
	if (ibv_dereg_mr(mr))
		give_up("ibv_dereg_mr", errno);
	munmap(map, (size_t)st.st_size);
	rc_dev_close(&dev);
	return 0;
}
