/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The real libibverbs behind verbs.h. Its calls report errors in three ways: NULL
 * and errno, a positive errno as the return value, and -1 and errno. Here all three
 * become -errno, and nothing else happens.
 */
#include <errno.h>

#include "verbs.h"

static int verbs_failed(void)
{
	return errno ? -errno : -EIO;
}

static int verbs_error(int ret)
{
	if (ret < 0)
		return verbs_failed();
	return -ret;
}

/*
 * ibv_reg_mr is a macro that takes the iova2 path only when the compiler cannot
 * prove that the flags are a constant without optional ones; take it always.
 */
int pl_verbs_reg_mr(struct ibv_pd *pd, void *addr, uint64_t len, uint64_t iova, uint32_t access,
		    struct ibv_mr **mr)
{
	struct ibv_mr *new;

	errno = 0;
	new = ibv_reg_mr_iova2(pd, addr, len, iova, access);
	if (!new)
		return verbs_failed();
	*mr = new;
	return 0;
}

int pl_verbs_dereg_mr(struct ibv_mr *mr)
{
	return verbs_error(ibv_dereg_mr(mr));
}

int pl_verbs_odp_caps(struct ibv_context *context)
{
	const uint32_t need = IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
	struct ibv_device_attr_ex attr;
	int err;

	err = verbs_error(ibv_query_device_ex(context, NULL, &attr));
	if (err)
		return err;
	if (!(attr.odp_caps.general_caps & IBV_ODP_SUPPORT))
		return -EOPNOTSUPP;
	return (attr.odp_caps.per_transport_caps.rc_odp_caps & need) == need ? 0 : -EOPNOTSUPP;
}

void pl_verbs_fds(struct ibv_context *context, int *cmd_fd, int *async_fd)
{
	*cmd_fd = context->cmd_fd;
	*async_fd = context->async_fd;
}

const char *pl_verbs_device_name(struct ibv_context *context)
{
	return ibv_get_device_name(context->device);
}

uint64_t pl_verbs_device_guid(struct ibv_context *context)
{
	return ibv_get_device_guid(context->device);
}

int pl_verbs_port_count(struct ibv_context *context)
{
	struct ibv_device_attr attr;
	int err;

	err = verbs_error(ibv_query_device(context, &attr));
	return err ? err : attr.phys_port_cnt;
}

int pl_verbs_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
	return verbs_error(ibv_query_port(context, port, attr));
}

int pl_verbs_query_gid(struct ibv_context *context, uint8_t port, uint32_t index, struct ibv_gid_entry *gid)
{
	return verbs_error(ibv_query_gid_ex(context, port, index, gid, 0));
}

int pl_verbs_create_cq(struct ibv_context *context, int entries, struct ibv_cq **cq)
{
	struct ibv_cq *new;

	errno = 0;
	new = ibv_create_cq(context, entries, NULL, NULL, 0);
	if (!new)
		return verbs_failed();
	*cq = new;
	return 0;
}

int pl_verbs_destroy_cq(struct ibv_cq *cq)
{
	return verbs_error(ibv_destroy_cq(cq));
}

int pl_verbs_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct ibv_qp **qp)
{
	struct ibv_qp *new;

	errno = 0;
	new = ibv_create_qp(pd, attr);
	if (!new)
		return verbs_failed();
	*qp = new;
	return 0;
}

int pl_verbs_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	return verbs_error(ibv_modify_qp(qp, attr, mask));
}

int pl_verbs_destroy_qp(struct ibv_qp *qp)
{
	return verbs_error(ibv_destroy_qp(qp));
}

int pl_verbs_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;

	return verbs_error(ibv_post_send(qp, wr, &bad));
}

int pl_verbs_poll_cq(struct ibv_cq *cq, struct ibv_wc *wc)
{
	int n = ibv_poll_cq(cq, 1, wc);

	return n < 0 ? -EIO : n;
}
