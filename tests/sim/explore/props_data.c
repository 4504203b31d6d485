/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What must be in the files, and on the disk. Each page begins with a value, larger the
 * later it was written, by whomever. What lands through a lease, and what was in the
 * file when its generation began, is to be in the file when the guard is let go (I4).
 *
 * The disk has the value of a page that an fdatasync found, when that has answered 0. One that
 * fails leaves the page clean all the same: what is not written again never gets there (I5).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "explore.h"

static struct file_data {
	int fd;
	uint64_t values; /* given away so far */
	uint64_t syncing[X_PAGES], durable[X_PAGES];
	uint64_t reached[X_PAGES]; /* the newest that came into the file through a lease */
	uint64_t newest[X_PAGES];  /* that came into it at all */
	bool dirty[X_PAGES], taken[X_PAGES];
	uint32_t from, end; /* pages that a change of our own is emptying */
	uint32_t emptied[X_PAGES]; /* how often one has */
} files[X_FILES];

static uint64_t truth[X_LEASES][X_PAGES], landed[X_LEASES][X_PAGES];
static bool fresh[X_LEASES][X_PAGES]; /* landed in this generation */

/* Of the page cache: 0 behind the end of the file. */
static uint64_t file_value(uint32_t file, uint32_t page)
{
	uint64_t value = 0;

	if (pread(files[file].fd, &value, sizeof(value), page * SIM_PAGE) < 0)
		sim_die("pread: %d", errno);
	return value;
}

uint64_t x_data_value(uint32_t file, uint32_t page)
{
	(void)page;
	return ++files[file].values;
}

void x_data_file(uint32_t i)
{
	struct file_data *f = &files[i];
	uint64_t value;
	uint32_t page;

	f->fd = open(x_world.path[i], O_RDWR | O_CLOEXEC);
	for (page = 0; page < X_PAGES; page++) {
		value = x_data_value(i, page);
		if (pwrite(f->fd, &value, sizeof(value), page * SIM_PAGE) != sizeof(value))
			sim_die("%s: %d", x_world.path[i], errno);
		f->durable[page] = value;
	}
}

void x_data_new(uint32_t i)
{
	memset(landed[i], 0, sizeof(landed[i]));
}

void x_data_active(uint32_t i)
{
	const struct x_lease_plan *l = &x_plan.lease[i];
	uint32_t page;

	for (page = 0; page < l->pages; page++) {
		truth[i][page] = file_value(l->file, l->page + page);
		fresh[i][page] = false;
	}
}

/* Breaks by others, of leases that are fenced already, go on beside it, and syncs. */
static bool changing(uint32_t file, uint32_t page)
{
	return page >= files[file].from && page < files[file].end;
}

static bool changing_empty(uint32_t file, uint32_t page)
{
	return changing(file, page) && !file_value(file, page);
}

void x_data_change(uint32_t file, uint32_t from, uint32_t end)
{
	files[file].from = from;
	files[file].end = end;
}

void x_data_changed(uint32_t file, bool done)
{
	const struct x_lease_plan *l;
	uint32_t i, page;

	for (page = files[file].from; done && page < files[file].end; page++)
		files[file].emptied[page]++;
	for (i = 0; done && i < x_plan.leases; i++) {
		l = &x_plan.lease[i];
		for (page = 0; l->file == file && page < l->pages; page++)
			if (changing_empty(file, l->page + page))
				truth[i][page] = 0;
	}
	files[file].from = files[file].end = 0;
}

int x_data_missing(uint32_t i, bool fresh_only)
{
	const struct x_lease_plan *l = &x_plan.lease[i];
	uint32_t page;

	x_result->checked++;
	for (page = 0; page < l->pages; page++)
		if (fresh_only ? fresh[i][page] && files[l->file].reached[l->page + page] < truth[i][page]
			       : file_value(l->file, l->page + page) != truth[i][page] &&
					 !changing_empty(l->file, l->page + page))
			return (int)page;
	return -1;
}

void x_data_landed(const struct x_write *w)
{
	const struct x_lease_plan *l = &x_plan.lease[w->lease];

	fresh[w->lease][w->page] = true;
	truth[w->lease][w->page] = landed[w->lease][w->page] = w->value;
	/* In the file at once, unless it is staged. */
	if (file_value(l->file, l->page + w->page) != w->value)
		return;
	files[l->file].dirty[l->page + w->page] = true;
	files[l->file].reached[l->page + w->page] = files[l->file].newest[l->page + w->page] = w->value;
}

/* Told: whether what is in the page cache of it gets onto the disk, no later sync says. */
void x_data_lost(uint32_t i, uint64_t off, uint64_t len)
{
	uint32_t page;

	for (page = 0; page < x_plan.lease[i].pages; page++)
		if (page * SIM_PAGE < off + len && (page + 1) * SIM_PAGE > off)
			landed[i][page] = 0;
}

static struct file_data *data_of(const struct sim_inode *inode)
{
	uint32_t i;

	for (i = 0; i < x_plan.files; i++)
		if (x_world.path[i] == inode->path)
			return &files[i];
	return NULL;
}

void x_data_wrote(const struct sim_inode *inode, uint64_t off, uint64_t len)
{
	struct file_data *f = data_of(inode);
	uint64_t page;

	for (page = off / SIM_PAGE; f && page < X_PAGES && page * SIM_PAGE < off + len; page++) {
		f->dirty[page] = true;
		f->newest[page] = file_value((uint32_t)(f - files), (uint32_t)page);
	}
}

int x_data_older(const struct sim_inode *inode, uint64_t off, uint64_t len)
{
	const struct file_data *f = data_of(inode);
	uint64_t page, value;

	for (page = off / SIM_PAGE; f && page < X_PAGES && page * SIM_PAGE < off + len; page++) {
		value = file_value((uint32_t)(f - files), (uint32_t)page);
		if (value && value < f->newest[page])
			return (int)page;
	}
	return -1;
}

void x_data_reached(const struct sim_inode *inode, uint64_t off, uint64_t len)
{
	struct file_data *f = data_of(inode);
	uint64_t page;

	for (page = off / SIM_PAGE; f && page < X_PAGES && page * SIM_PAGE < off + len; page++)
		f->reached[page] = file_value((uint32_t)(f - files), (uint32_t)page);
}

void x_data_synced(const struct sim_inode *inode, bool done, int r)
{
	struct file_data *f = data_of(inode);
	uint32_t page;

	for (page = 0; f && page < X_PAGES; page++) {
		if (!done) {
			f->taken[page] = f->dirty[page];
			f->syncing[page] = file_value((uint32_t)(f - files), page);
			f->dirty[page] = false;
		} else if (!r && f->taken[page]) {
			f->durable[page] = f->syncing[page];
		}
	}
}

void x_data_sync_begin(uint32_t i, struct x_need need[X_PAGES])
{
	const struct x_lease_plan *l = &x_plan.lease[i];
	uint32_t page;

	for (page = 0; page < l->pages; page++) {
		need[page].value = truth[i][page] == landed[i][page] ? landed[i][page] : 0;
		need[page].emptied = files[l->file].emptied[l->page + page];
	}
}

int x_data_not_durable(uint32_t i, const struct x_need need[X_PAGES])
{
	const struct x_lease_plan *l = &x_plan.lease[i];
	const struct file_data *f = &files[l->file];
	uint32_t page;

	/* A restore since may have found another value: that of an opener who was in between. */
	for (page = 0; page < l->pages; page++)
		if (f->durable[l->page + page] < need[page].value && truth[i][page] >= need[page].value &&
		    f->emptied[l->page + page] == need[page].emptied && !changing(l->file, l->page + page))
			return (int)page;
	return -1;
}
