/* SPDX-License-Identifier: BSD-3-Clause */
#include "trial.h"
#include "util.h"

static bool trial_in_memory(const struct pinlease *lease)
{
	const struct pinlease_file *file = lease->file;

	return file->trial && (file->id.fs == PL_FS_TMPFS || file->id.fs == PL_FS_HUGETLBFS);
}

bool pl_trial_scratch(const struct pinlease *lease)
{
	return trial_in_memory(lease) && lease->mode == PINLEASE_MODE_PINNED;
}

bool pl_trial_leaves_pages(const struct pinlease *lease)
{
	return lease->file->trial && (lease->access == PINLEASE_WRITE || trial_in_memory(lease));
}

/* In place of the file's, which could be mapped. The mapping keeps the scratch file alive, and no longer. */
int pl_trial_map(struct pinlease *lease)
{
	const struct pl_fileid *id = &lease->file->id;
	uint64_t huge = id->fs == PL_FS_HUGETLBFS ? id->page : 0;
	int fd = pl_sys_scratch(pl_round_up(lease->range.len, id->page), huge), r;

	if (fd < 0)
		return fd;
	if (lease->map.ours)
		pl_filemap_free(&lease->map);
	r = pl_filemap_new(fd, 0, lease->range.len, lease->access, id, &lease->map);
	pl_sys_close(fd);
	return r;
}
