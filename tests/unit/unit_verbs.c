/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The seam to libibverbs, over a libibverbs that answers what it is told to, in each of its three ways:
 * NULL and errno, a positive errno, -1 and errno. What is tested is that each becomes -errno, that
 * outputs stay as they are, and that what is passed on is what was given.
 */
#include <infiniband/verbs.h>

#include "unit.h"
#include "verbs.h"

/* What the next call answers: as a pointer or a number; err: what it leaves in errno. */
static struct {
	void *pointer;
	int number, err;
} next;

static struct {
	unsigned int access, port, index, mask;
	uint64_t addr, len, iova;
	int entries;
} given;

static struct ibv_device_attr_ex caps;

static int answer(void)
{
	errno = next.err;
	return next.number;
}

struct ibv_mr *__wrap_ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
				       unsigned int access);
struct ibv_mr *__wrap_ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
				       unsigned int access)
{
	(void)pd;
	given.addr = (uintptr_t)addr;
	given.len = len;
	given.iova = iova;
	given.access = access;
	answer();
	return next.pointer;
}

int __wrap_ibv_dereg_mr(struct ibv_mr *mr);
int __wrap_ibv_dereg_mr(struct ibv_mr *mr)
{
	(void)mr;
	return answer();
}

int __wrap_ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr);
int __wrap_ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	(void)context;
	*attr = (struct ibv_device_attr){ .phys_port_cnt = 3 };
	return answer();
}

int __wrap_ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr);
int __wrap_ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr)
{
	(void)context;
	(void)attr;
	given.port = port;
	return answer();
}

int __wrap__ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index,
			     struct ibv_gid_entry *entry, uint32_t flags, size_t size);
int __wrap__ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index,
			     struct ibv_gid_entry *entry, uint32_t flags, size_t size)
{
	(void)context;
	(void)entry;
	assert_int_equal(flags, 0);
	assert_int_equal(size, sizeof(*entry));
	given.port = port;
	given.index = index;
	return answer();
}

struct ibv_cq *__wrap_ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
				    struct ibv_comp_channel *channel, int vector);
struct ibv_cq *__wrap_ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
				    struct ibv_comp_channel *channel, int vector)
{
	(void)context;
	assert_true(!cq_context && !channel && !vector);
	given.entries = cqe;
	answer();
	return next.pointer;
}

int __wrap_ibv_destroy_cq(struct ibv_cq *cq);
int __wrap_ibv_destroy_cq(struct ibv_cq *cq)
{
	(void)cq;
	return answer();
}

struct ibv_qp *__wrap_ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr);
struct ibv_qp *__wrap_ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	(void)pd;
	(void)attr;
	answer();
	return next.pointer;
}

int __wrap_ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask);
int __wrap_ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	(void)qp;
	(void)attr;
	given.mask = (unsigned int)mask;
	return answer();
}

int __wrap_ibv_destroy_qp(struct ibv_qp *qp);
int __wrap_ibv_destroy_qp(struct ibv_qp *qp)
{
	(void)qp;
	return answer();
}

const char *__wrap_ibv_get_device_name(struct ibv_device *device);
const char *__wrap_ibv_get_device_name(struct ibv_device *device)
{
	return (const char *)device;
}

__be64 __wrap_ibv_get_device_guid(struct ibv_device *device);
__be64 __wrap_ibv_get_device_guid(struct ibv_device *device)
{
	return device ? 42 : 0;
}

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	(void)qp;
	*bad = wr;
	return answer();
}

static int poll_cq(struct ibv_cq *cq, int entries, struct ibv_wc *wc)
{
	(void)cq;
	assert_int_equal(entries, 1);
	wc->status = IBV_WC_SUCCESS;
	return answer();
}

static int query_device_ex(struct ibv_context *context, const struct ibv_query_device_ex_input *input,
			   struct ibv_device_attr_ex *attr, size_t size)
{
	(void)context;
	(void)input;
	memcpy(attr, &caps, size);
	return answer();
}

/* As libibverbs lays it out: the context is the end of a struct that has the newer calls. */
static struct verbs_context verbs = {
	.query_device_ex = query_device_ex,
	.sz = sizeof(verbs),
	.context = { .device = (struct ibv_device *)"name",
		     .ops = { .post_send = post_send, .poll_cq = poll_cq },
		     .cmd_fd = 11,
		     .async_fd = 12,
		     .abi_compat = __VERBS_ABI_IS_EXTENDED },
};
static struct ibv_context *const context = &verbs.context;
static struct ibv_pd pd;
static struct ibv_cq cq = { .context = &verbs.context };
static struct ibv_qp qp = { .context = &verbs.context };

/* Calls that make something: every way to fail, and then one that does not. */
static void makes(int (*make)(void **out))
{
	void *out = &pd;

	next.pointer = NULL;
	next.err = ENOMEM;
	assert_int_equal(make(&out), -ENOMEM);
	/* A provider that forgets to say why. */
	next.err = 0;
	assert_int_equal(make(&out), -EIO);
	assert_ptr_equal(out, &pd);
	next.pointer = &cq;
	assert_int_equal(make(&out), 0);
	assert_ptr_equal(out, &cq);
}

static int make_mr(void **out)
{
	struct ibv_mr *mr = *out;
	int r = pl_verbs_reg_mr(&pd, (void *)4096, 77, 8192,
				IBV_ACCESS_REMOTE_READ | IBV_ACCESS_RELAXED_ORDERING, &mr);

	*out = mr;
	return r;
}

static int make_cq(void **out)
{
	struct ibv_cq *new = *out;
	int r = pl_verbs_create_cq(context, 5, &new);

	*out = new;
	return r;
}

static int make_qp(void **out)
{
	struct ibv_qp_init_attr attr = { .qp_type = IBV_QPT_RC };
	struct ibv_qp *new = *out;
	int r = pl_verbs_create_qp(&pd, &attr, &new);

	*out = new;
	return r;
}

static void what_is_made(void **state)
{
	(void)state;
	makes(make_mr);
	assert_int_equal(given.addr, 4096);
	assert_int_equal(given.len, 77);
	assert_int_equal(given.iova, 8192);
	/* Optional flags, too: the macro ibv_reg_mr() would have dropped to the old call. */
	assert_int_equal(given.access, IBV_ACCESS_REMOTE_READ | IBV_ACCESS_RELAXED_ORDERING);
	makes(make_cq);
	assert_int_equal(given.entries, 5);
	makes(make_qp);
}

static int dereg_mr(void)
{
	return pl_verbs_dereg_mr((struct ibv_mr *)&pd);
}

static int destroy_cq(void)
{
	return pl_verbs_destroy_cq(&cq);
}

static int destroy_qp(void)
{
	return pl_verbs_destroy_qp(&qp);
}

static int modify_qp(void)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT };

	return pl_verbs_modify_qp(&qp, &attr, IBV_QP_STATE | IBV_QP_PORT);
}

static int query_port(void)
{
	struct ibv_port_attr attr;

	return pl_verbs_query_port(context, 2, &attr);
}

static int query_gid(void)
{
	struct ibv_gid_entry gid;

	return pl_verbs_query_gid(context, 1, 9, &gid);
}

static int send_one(void)
{
	struct ibv_send_wr wr = { .opcode = IBV_WR_RDMA_WRITE };

	return pl_verbs_post_send(&qp, &wr);
}

static void what_answers_a_number(void **state)
{
	static int (*const calls[])(void) = { dereg_mr,	  destroy_cq, destroy_qp, modify_qp,
					      query_port, query_gid,  send_one };
	size_t i;

	(void)state;
	for (i = 0; i < UNIT_COUNT(calls); i++) {
		next.number = EBUSY;
		next.err = EPERM;
		assert_int_equal(calls[i](), -EBUSY);
		next.number = -1;
		assert_int_equal(calls[i](), -EPERM);
		next.number = 0;
		assert_int_equal(calls[i](), 0);
	}
	assert_int_equal(given.mask, IBV_QP_STATE | IBV_QP_PORT);
	assert_int_equal(given.port, 1);
	assert_int_equal(given.index, 9);
}

static void polling(void **state)
{
	struct ibv_wc wc = { .status = IBV_WC_GENERAL_ERR };

	(void)state;
	next.number = -5;
	assert_int_equal(pl_verbs_poll_cq(&cq, &wc), -EIO);
	next.number = 0;
	assert_int_equal(pl_verbs_poll_cq(&cq, &wc), 0);
	next.number = 1;
	assert_int_equal(pl_verbs_poll_cq(&cq, &wc), 1);
	assert_int_equal(wc.status, IBV_WC_SUCCESS);
	next.number = 0;
}

static void odp_takes_all_three(void **state)
{
	const uint32_t all = IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;

	(void)state;
	caps.odp_caps.general_caps = IBV_ODP_SUPPORT;
	caps.odp_caps.per_transport_caps.rc_odp_caps = all | IBV_ODP_SUPPORT_ATOMIC;
	assert_int_equal(pl_verbs_odp_caps(context), 0);
	caps.odp_caps.per_transport_caps.rc_odp_caps = all & ~(uint32_t)IBV_ODP_SUPPORT_READ;
	assert_int_equal(pl_verbs_odp_caps(context), -EOPNOTSUPP);
	caps.odp_caps.per_transport_caps.rc_odp_caps = all;
	caps.odp_caps.general_caps = 0;
	assert_int_equal(pl_verbs_odp_caps(context), -EOPNOTSUPP);
	next.number = ENOSYS;
	assert_int_equal(pl_verbs_odp_caps(context), -ENOSYS);
	next.number = 0;
}

static void the_device(void **state)
{
	int cmd_fd = 0, async_fd = 0;

	(void)state;
	pl_verbs_fds(context, &cmd_fd, &async_fd);
	assert_int_equal(cmd_fd, 11);
	assert_int_equal(async_fd, 12);
	assert_string_equal(pl_verbs_device_name(context), "name");
	assert_int_equal(pl_verbs_device_guid(context), 42);
	assert_int_equal(pl_verbs_port_count(context), 3);
	next.number = ENODEV;
	assert_int_equal(pl_verbs_port_count(context), -ENODEV);
	next.number = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_made),		cmocka_unit_test(what_answers_a_number),
		cmocka_unit_test(polling),		cmocka_unit_test(odp_takes_all_three),
		cmocka_unit_test(the_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
