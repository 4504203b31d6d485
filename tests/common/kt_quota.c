/* SPDX-License-Identifier: BSD-3-Clause */
/* Quotas: a user's on ext4 and xfs, a subvolume's on btrfs. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/dqblk_xfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/quota.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kt.h"

int kt_quota_obey(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data))
		return -errno;
	data[0].effective &= ~(1u << CAP_SYS_RESOURCE);
	return syscall(SYS_capset, &head, data) ? -errno : 0;
}

int kt_quota_make(const char *type, const char *device, const char **options)
{
	static const char *const ext4[] = { "tune2fs", "-O", "quota", NULL };

	*options = !strcmp(type, "btrfs") ? NULL : "usrquota";
	return !strcmp(type, "ext4") ? kt_run(ext4, device) : 0;
}

int kt_quota_on(const char *type, const char *dir)
{
	static const char *const enable[] = { "btrfs", "quota", "enable", NULL };
	static const char *const create[] = { "btrfs", "subvolume", "create", NULL };
	char sub[KT_PATH_MAX + 8];
	int r;

	if (strcmp(type, "btrfs"))
		return 0;
	snprintf(sub, sizeof(sub), "%s/" KT_QUOTA_SUB, dir);
	r = kt_run(enable, dir);
	return r ? r : kt_run(create, sub);
}

/* Asked of the file system's root, which has no limit: asked of the subvolume it would need room there. */
static int limit_subvolume(const char *dir, bool limit)
{
	const char *const args[] = { "btrfs", "qgroup", "limit", limit ? "4096" : "none", "0/256", NULL };

	return kt_run(args, dir);
}

static int limit_xfs(const char *device, bool limit)
{
	struct fs_disk_quota dq = { .d_version = FS_DQUOT_VERSION,
				    .d_flags = FS_USER_QUOTA,
				    .d_id = KT_QUOTA_USER,
				    .d_fieldmask = FS_DQ_BHARD };

	dq.d_blk_hardlimit = limit ? 8 : 0; /* of 512 bytes */
	return quotactl(QCMD(Q_XSETQLIM, USRQUOTA), device, KT_QUOTA_USER, (char *)&dq) ? -errno : 0;
}

static int limit_ext4(const char *device, bool limit)
{
	struct dqblk dq = { .dqb_valid = QIF_BLIMITS };

	dq.dqb_bhardlimit = limit ? 1 : 0; /* KiB */
	return quotactl(QCMD(Q_SETQUOTA, USRQUOTA), device, KT_QUOTA_USER, (char *)&dq) ? -errno : 0;
}

int kt_quota_limit(const char *type, const char *device, const char *dir, bool limit)
{
	if (!strcmp(type, "btrfs"))
		return limit_subvolume(dir, limit);
	return !strcmp(type, "xfs") ? limit_xfs(device, limit) : limit_ext4(device, limit);
}
