/* SPDX-License-Identifier: BSD-3-Clause */
#include "input.h"

#include "leak.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool row_holds(const struct input_row *row, int ret, const struct pinlease_why *why)
{
	bool ok = ret == row->err && why->stage == row->stage && why->reason == row->reason;

	if (!ok)
		printf("%s: %d (%s), stage %u, \"%s\"; expected %d, stage %u, \"%s\"\n", row->name, ret,
		       ret < 0 ? strerror(-ret) : "no error", why->stage, pinlease_reason_str(why->reason),
		       row->err, row->stage, pinlease_reason_str(row->reason));
	return ok;
}

void input_check(const struct input_row *rows, size_t count)
{
	static struct leak_mark before, after;
	size_t bad = 0;

	for (size_t i = 0; i < count; i++) {
		struct pinlease_why why = { 0 };
		bool same;
		int ret;

		rows[i].call(&why);
		assert_int_equal(leak_take(&before), 0);
		memset(&why, 0, sizeof(why));
		ret = rows[i].call(&why);
		assert_int_equal(leak_take(&after), 0);
		same = leak_none(&before, &after);
		if (!same)
			printf("%s: leaks, or changes something\n", rows[i].name);
		bad += !row_holds(&rows[i], ret, &why) || !same;
	}
	printf("%zu rows\n", count);
	assert_int_equal(bad, 0);
}

int input_unprivileged(int (*fn)(const void *arg), const void *arg, size_t len)
{
	struct kt_call *call = kt_call_start(fn, arg, len);
	int ret = -ETIMEDOUT;

	assert_non_null(call);
	if (kt_call_done(call, UT_LONG))
		ret = call->ret;
	kt_call_end(call);
	return ret;
}

/* Stays root, so that it can still reach the files. */
int input_drop_privilege(uint64_t memlock)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];
	struct rlimit limit = { memlock, memlock };

	if (setrlimit(RLIMIT_MEMLOCK, &limit) || syscall(SYS_capget, &head, caps))
		return -errno;
	caps[0].effective &= ~(1u << CAP_LEASE | 1u << CAP_IPC_LOCK);
	caps[0].permitted &= ~(1u << CAP_LEASE | 1u << CAP_IPC_LOCK);
	return syscall(SYS_capset, &head, caps) ? -errno : 0;
}
