/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_eio FS: eio.h under RDMA writes, with a disk of the device mapper. */
#include "eio_side.h"

int main(int argc, char **argv)
{
	rt_assert(argc == 2, "usage: sync_eio FILESYSTEM");
	kt_init();
	rt_require();
	eio_run(argv[1], REC_DM, eio_rdma_open());
	eio_rdma_close();
	return 0;
}
