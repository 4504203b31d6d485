/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The harness of the hazards: ways in which registered file memory goes wrong.
 *
 * A hazard is one program, run twice in every place, with the same events: bare, where
 * the memory that the device reaches is the mapping of the file and its registration a
 * plain ibv_reg_mr, and with the library. It consists of a table of places, which says
 * what the bare arm must come to on which kernel, and of a run: that makes files, has the
 * peer write and read them, lets other processes change them, and counts what is wrong
 * afterwards. With the library nothing may be, in any place; and where the table says so,
 * the bare arm must show the hazard, since a test of it proves nothing otherwise.
 *
 * What the peer writes says where it belongs: every 64-bit word of a page holds a tag
 * that no other write has, and the number of the page in its file.
 */
#ifndef PL_RDMA_HAZARD_H
#define PL_RDMA_HAZARD_H

#include <pinlease.h>

#include "kt.h"
#include "rt.h"

#define HAZARD_PAGE  4096u
#define HAZARD_PAGES 64u	/* of the peer's buffer */

/* Generations of kernels: what a device may reach changed twice. */
enum hazard_kernel {
	HAZARD_PINS,		/* before 6.5: page cache can be pinned for writing */
	HAZARD_REFUSES,		/* it cannot any more */
	HAZARD_ODP,		/* from 6.15: rxe does on-demand paging */
	HAZARD_KERNELS,
};

/* What the bare arm must come to. */
enum hazard_bare {
	HAZARD_TOLD,		/* whatever it does, it is printed only */
	HAZARD_SHOWS,		/* something is wrong */
	HAZARD_NOT_MADE,	/* the kernel refuses the registration: no hazard here */
};

struct hazard_place {
	const char *fs;		/* for kt_fs_make; places of the same one in a row share it */
	const char *what;	/* said in the summary, where a file system has several places, or NULL */
	int arg;		/* the run's own */
	enum hazard_bare bare[HAZARD_KERNELS];
};

struct hazard {
	const struct hazard_place *place;
	enum hazard_kernel kernel;
	bool with;		/* the library */
	struct kt_fs fs;
	struct kt_rdma dev;
	struct kt_pair pair;
	uint64_t *buf;		/* the peer's, HAZARD_PAGES of them */
	struct ibv_mr *mr;
	struct pinlease_ctx *ctx;
	uint32_t mode;		/* of the last lease */
	/* Set by the run: */
	unsigned int of, wrong;	/* so many things were looked at, so many of them were wrong */
	int refused;		/* bare: hazard_reach was answered with this -errno */
	char note[120];		/* appended to the summary */
};

/*
 * main() of a hazard: run in all places, both arms, a line each and one for all. unit is
 * what is counted. The exit status; leaves with 77 when there is no device, or no place.
 */
int hazard_main(const char *name, const char *unit, const struct hazard_place *places, size_t n,
		void (*run)(struct hazard *h));

#define HAZARD_PLACES(places) (places), sizeof(places) / sizeof(*(places))

/* A file that the device reaches. */
struct hazard_file {
	struct hazard *h;
	char path[KT_PATH_MAX];
	int fd;			/* the open file description that is mapped, and leased */
	size_t len;
	void *map;
	struct ibv_mr *mr;		/* bare */
	struct pinlease_file *file;	/* with the library, as what follows */
	struct pinlease *lease;
	struct pinlease_view view;	/* of the last begin */
	struct pinlease_why why;	/* of what was refused */
	struct pinlease *failed;	/* was not restored by itself */
	unsigned int lost;		/* events of that kind */
};

struct hazard_ask {
	uint32_t file, lease;	/* enum pinlease_access; lease 0: the file's; bare has the lease's only */
	uint32_t flags;		/* PINLEASE_L_* */
	uint32_t mode;		/* enum pinlease_mode */
	bool odp;		/* bare: with IBV_ACCESS_ON_DEMAND */
};

#define HAZARD_WRITE ((struct hazard_ask){ .file = PINLEASE_WRITE })
#define HAZARD_READ  ((struct hazard_ask){ .file = PINLEASE_READ })

/* A new file of so many pages, written and synced, whose path no other has. */
void hazard_file_new(const struct hazard *h, char path[KT_PATH_MAX], size_t pages);
/*
 * Open path, map all of it, and let the device reach it, with a lease or without. 0, or
 * -errno, with everything undone and h->refused or f->why set: the run ends or goes on.
 */
int hazard_reach(struct hazard *h, struct hazard_file *f, const char *path, struct hazard_ask ask);
void hazard_leave(struct hazard_file *f);

/*
 * The peer writes a page, or reads it into page 0 of its buffer. With the library the way
 * an application does: begin, keys, end, and a lease that is being broken is waited for.
 * 0; kt_do's answer, and the pair is connected anew; what pinlease_dma_begin said (-EAGAIN: too long).
 */
int hazard_write(struct hazard_file *f, size_t page, uint32_t tag);
int hazard_read(struct hazard_file *f, size_t page);
/* The same with any operation, from or to the start of the peer's buffer as it is. */
int hazard_do(struct hazard_file *f, enum ibv_wr_opcode opcode, uint64_t off, uint32_t len);
/* A peer that nobody told anything: with the keys it has had since f's last begin. */
int hazard_write_deaf(struct hazard_file *f, size_t page, uint32_t tag);
/* All of the pages from page on. Dies unless each is acknowledged. */
void hazard_write_all(struct hazard_file *f, size_t page, size_t n, uint32_t tag);

/* msync and fsync, or pinlease_sync, again while a break is in its way: 0 or -errno. */
int hazard_sync(struct hazard_file *f);

uint32_t hazard_tag(void);		/* one that was never used */
void hazard_fill(uint64_t *words, size_t page, size_t n, uint32_t tag);
bool hazard_page_is(const uint64_t *words, size_t page, uint32_t tag);

/* How many of n pages do not hold tag: in the file, by an open of its path with flags, or by pread of fd. */
unsigned int hazard_path_wrong(const char *path, int flags, size_t page, size_t n, uint32_t tag);
unsigned int hazard_fd_wrong(int fd, size_t page, size_t n, uint32_t tag);
/* How many of n pages, at most HAZARD_PAGES, are in no block of the disk. */
unsigned int hazard_disk_wrong(const struct hazard *h, size_t page, size_t n, uint32_t tag);

/* fn(arg) in another process, to its end: what it returned. Dies when that takes long. */
int hazard_other(int (*fn)(const void *arg), const void *arg, size_t len);

#endif
