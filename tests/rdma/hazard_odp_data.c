/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device that claims on-demand paging and puts data into the wrong place. rxe on 7.2
 * takes the page and forgets the offset within it, without an error: a message, or a
 * later packet of one, that does not begin on a page boundary goes to the start of its
 * page, or comes from there. At path MTU 1024, that of an ordinary Ethernet, this is so
 * for three packets of four of a page-aligned message, too.
 *
 * The same random writes and reads, bare through an ODP registration, and with the
 * library, whose auto mode checks the device's data path before it trusts it. After each
 * operation all of the range, or all that was read, is compared with what it should be,
 * and in the end the file.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hazard.h"
#include "rounds.h"

#define PAGES	 32u
#define LEN	 (PAGES * (size_t)HAZARD_PAGE)
#define LONGEST	 60000u

enum how { ANYWHERE, WHOLE_PAGES };

static const struct hazard_place places[] = {
	{ "tmpfs", "anywhere, MTU 4096", ANYWHERE, { HAZARD_NOT_MADE, HAZARD_NOT_MADE, HAZARD_SHOWS } },
	{ "tmpfs", "whole pages, MTU 1024", WHOLE_PAGES, { HAZARD_NOT_MADE, HAZARD_NOT_MADE, HAZARD_SHOWS } },
	{ "ext4", "anywhere, MTU 4096", ANYWHERE, { HAZARD_NOT_MADE, HAZARD_NOT_MADE, HAZARD_SHOWS } },
	{ "ext4", "whole pages, MTU 1024", WHOLE_PAGES, { HAZARD_NOT_MADE, HAZARD_NOT_MADE, HAZARD_SHOWS } },
};

static char should_be[LEN];	/* what the range should hold */
static unsigned int seed;

static void random_bytes(void *at, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		((char *)at)[i] = (char)rand_r(&seed);
}

/* One of four begins on a page boundary, whatever else is asked for. */
static uint32_t pick(enum how how, size_t *off)
{
	uint32_t n = 1 + (uint32_t)rand_r(&seed) % LONGEST;

	if (how == WHOLE_PAGES)
		n = (n + HAZARD_PAGE - 1) / HAZARD_PAGE * HAZARD_PAGE;
	*off = (uint32_t)rand_r(&seed) % (LEN - n + 1);
	if (how == WHOLE_PAGES || rand_r(&seed) % 4 == 0)
		*off -= *off % HAZARD_PAGE;
	return n;
}

/* It is where it was sent, and nothing else has changed. What is not so is taken over: counted once. */
static bool write_is_right(struct hazard_file *f, enum how how)
{
	size_t off;
	uint32_t n = pick(how, &off);
	bool right;

	random_bytes(f->h->buf, n);
	rt_assert(!hazard_do(f, IBV_WR_RDMA_WRITE, off, n), "an RDMA write failed");
	memcpy(should_be + off, f->h->buf, n);
	right = !memcmp(should_be, f->map, LEN);
	if (!right)
		memcpy(should_be, f->map, LEN);
	return right;
}

static bool read_is_right(struct hazard_file *f, enum how how)
{
	size_t off;
	uint32_t n = pick(how, &off);

	memset(f->h->buf, 0, n);
	rt_assert(!hazard_do(f, IBV_WR_RDMA_READ, off, n), "an RDMA read failed");
	return !memcmp(should_be + off, f->h->buf, n);
}

static void path_mtu(struct hazard *h, enum ibv_mtu mtu)
{
	kt_pair_drop(&h->pair);
	h->dev.mtu = mtu;
	rt_assert(!kt_pair_make(&h->dev, &h->pair, 16), "no queue pairs");
}

/* Of random bytes, so that what comes from the wrong place shows. */
static void make_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	random_bytes(should_be, LEN);
	rt_assert(fd >= 0 && pwrite(fd, should_be, LEN, 0) == (ssize_t)LEN && !fsync(fd), "no file");
	close(fd);
}

static bool file_is_right(const char *path)
{
	static char have[LEN];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = pread(fd, have, LEN, 0);

	close(fd);
	return n == (ssize_t)LEN && !memcmp(have, should_be, LEN);
}

static void run(struct hazard *h)
{
	enum how how = (enum how)h->place->arg;
	enum ibv_mtu active = h->dev.mtu;
	char path[KT_PATH_MAX];
	struct hazard_file f;
	unsigned int i;

	seed = 1;
	rt_assert(!kt_file(path, h->fs.dir, "odp", LEN), "no file");
	make_file(path);
	if (hazard_reach(h, &f, path, (struct hazard_ask){ .file = PINLEASE_WRITE, .odp = true })) {
		rt_assert(!h->with, "acquire: %s", pinlease_reason_str(f.why.reason));
		return;
	}
	path_mtu(h, how == WHOLE_PAGES ? IBV_MTU_1024 : IBV_MTU_4096);
	h->of = pl_rounds(PL_R_hazard_odp_ops);
	for (i = 0; i < h->of; i++)
		h->wrong += !(i % 2 ? read_is_right(&f, how) : write_is_right(&f, how));
	hazard_leave(&f);
	rt_assert(file_is_right(path), "the file does not hold what the memory did");
	path_mtu(h, active);
}

int main(void)
{
	return hazard_main("hazard_odp_data", "operations", places, sizeof(places) / sizeof(*places), run);
}
