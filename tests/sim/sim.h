/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sim: a kernel and an RDMA device that do as they are told, behind sys.h, verbs.h
 * and pmem.h.
 *
 * Files, mappings and threads are real. Leases, signals, openers, the device and the
 * clock are not. Time stands still while any thread runs; when all of them wait, it jumps
 * to the next thing that is due, so that a lease-break-time of 45 s takes microseconds
 * and no test depends on how busy the machine is. Each clock reading costs a microsecond.
 *
 * The lease rules are those measured in docs/ (kernel_lease_breaks and its like hold the
 * real kernel to them; sim_kernel holds the simulation to them). The kernel also judges:
 * sim_judge.c has the list. A violation ends the test, unless it was expected.
 *
 * sim_begin and sim_end are around every test: sim_end asserts that all descriptors,
 * mappings, memory regions, leases, threads and allocations are as they were, and so many bytes.
 */
#ifndef PL_SIM_H
#define PL_SIM_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SIM_MS		 1000000ull
#define SIM_S		 1000000000ull
#define SIM_NEVER	 UINT64_MAX
#define SIM_PAGE	 4096u
#define SIM_EXT4	 0x0000ef53u
#define SIM_TMPFS	 0x01021994u
#define SIM_BREAK_TIME_S 45u /* what fs.lease-break-time is at first */

__attribute__((noreturn, format(printf, 1, 2))) void sim_die(const char *fmt, ...);

void sim_begin(void);
void sim_end(void);
void sim_check(void); /* all is as it was, or the test ends; devices are gone then */
void sim_check_bytes(void); /* so is what is mapped and allocated, to the byte */
/* What is alive now becomes what sim_end compares with: for what a process makes once and keeps. */
void sim_rebase(void);

/* The clock */
uint64_t sim_now(void);
void sim_sleep(uint64_t ns); /* the caller sleeps, everything else goes on */
void sim_settle(void);	     /* until all other threads wait; takes no time */
bool sim_until(bool (*fn)(void *arg), void *arg, uint64_t ns); /* polls; false: it did not become true */
void sim_stop(void); /* SIGSTOP: no thread but the caller runs; the kernel goes on */
void sim_continue(void);

/* Threads of a test that call the library beside main. */
struct sim_thread;
struct sim_thread *sim_thread_start(void *(*fn)(void *arg), void *arg);
void sim_thread_join(struct sim_thread *thread);

/*
 * Faults, by the name of the call in sys.h and verbs.h without its prefix ("pwrite",
 * "dereg_mr"), in pmem.h without "pl_" ("pmem_copy"), or by class. nth counts from 1 and
 * from now; times 0: for ever after.
 * err > 0 with pread and pwrite: so many bytes at most.
 */
enum sim_class {
	SIM_MEMORY = 1,	  /* may answer ENOMEM */
	SIM_BLOCKING = 2, /* may answer EINTR */
	SIM_STEP = 4,	  /* made with no lock held: a hook may sleep there */
	SIM_FAST = 8,	  /* made under the file's lock, or anywhere */
};
void sim_fail(const char *call, unsigned int nth, int err, unsigned int times);
void sim_fail_class(enum sim_class classes, unsigned int nth, int err, unsigned int times);
void sim_slow(const char *call, uint64_t ns); /* each such call takes so long, 0: no more */
void sim_hook(const char *call, unsigned int nth, void (*fn)(void *arg),
	      void *arg); /* once, before that call */
void sim_hook_class(enum sim_class classes, unsigned int nth, void (*fn)(void *arg), void *arg);
void sim_clear(void);			  /* no faults, delays, hooks */
unsigned int sim_faults(void);		  /* injected since sim_begin, and hooks run */
unsigned int sim_calls(const char *call); /* made since sim_begin, failed ones included */

/* Files: path is valid until sim_end, which removes them all. */
const char *sim_file(const char *name, size_t size); /* filled with sim_fill's pattern 1 */
/* Zeroes, no seals yet; the path leads to fd, which the caller closes. */
const char *sim_memfd(size_t size, int *fd);
void sim_fill(void *buf, size_t len, unsigned int seed);
bool sim_filled(const void *buf, size_t len, unsigned int seed);
bool sim_file_is(const char *path, uint64_t off, size_t len, unsigned int seed);
uint64_t sim_file_size(const char *path);
void sim_file_system(uint32_t magic); /* of all files; SIM_TMPFS at first */
void sim_break_time(unsigned int seconds);
void sim_memlock(uint64_t bytes);
void sim_hole(bool hole);
/*
 * A disk of so many bytes a second, 0: any. pwrite waits for it only when more than cache bytes
 * have been written since the last fdatasync, which waits for the rest.
 */
void sim_disk(uint64_t rate, uint64_t cache);
uint64_t sim_written(void); /* bytes by pwrite, since sim_begin */

/*
 * Persistent memory, instead of what sim_file_system says: all files on fs-dax, or on one that
 * the kernel does not map with MAP_SYNC, or each of them a device-dax, aligned to SIM_DAX_ALIGN.
 */
enum sim_dax { SIM_DAX_NONE, SIM_DAX_FILES, SIM_DAX_PAGES, SIM_DAX_DEVICE };
#define SIM_DAX_ALIGN (4 * SIM_PAGE)
void sim_dax(enum sim_dax dax);
bool sim_durable(const char *path, uint64_t off, size_t len); /* all that is in the file there */

/* Leases, seen from the kernel's side. */
int sim_lease(const char *path);    /* F_GETLEASE of whoever holds one on it */
int sim_lease_fd(const char *path); /* the number its F_SETLEASE was given; -1: none */
unsigned int sim_breaks(void);	    /* asked for since sim_begin */

/* Openers: other processes. Each has a pid, one descriptor, and goes on the moment the kernel lets it. */
struct sim_opener;
struct sim_opener *sim_open(const char *path, int flags);
struct sim_opener *sim_truncate(const char *path, uint64_t len);
bool sim_opener_done(struct sim_opener *o);
bool sim_opener_expired(struct sim_opener *o); /* let on by the kernel's own clock */
int sim_opener_ret(struct sim_opener *o);      /* 0 or -errno, once done */
uint64_t sim_opener_ns(struct sim_opener *o);  /* how long it was blocked; so far, if it is */
pid_t sim_opener_pid(struct sim_opener *o);
bool sim_opener_wait(struct sim_opener *o, uint64_t ns);
void sim_opener_end(struct sim_opener *o); /* closes; one that is blocked is killed */

/* Signals */
void sim_signal_room(unsigned int count);   /* RLIMIT_SIGPENDING */
unsigned int sim_signals_lost(void);	    /* overflowed to SIGIO since sim_begin */
void sim_signal_process(int signo, int fd); /* directed at the process: any thread's that waits for it */
bool sim_notify(void); /* inotify's, of the newest ctx */
void sim_signal_holder(const char *path, int fd); /* to whom the lease's signals go, naming another fd */

/* The device */
enum sim_odp { SIM_ODP_NONE, SIM_ODP_GOOD, SIM_ODP_UNALIGNED /* puts what is not page aligned elsewhere */ };
struct ibv_pd *sim_device(enum sim_odp odp); /* a new device with one PD, until sim_check or sim_end */
/* The path MTU of port 1 (1024 unless set) or 2 (0: down). */
void sim_device_mtu(struct ibv_pd *pd, unsigned int port, unsigned int mtu);
unsigned int sim_device_qps(struct ibv_pd *pd); /* ever made of it */
/* Makes its ports Ethernet ones with this table of GIDs; a dead one is the address of nobody. */
struct sim_gid {
	bool none, v2, local, dead;
};
void sim_device_gids(struct ibv_pd *pd, const struct sim_gid *gid, int count);
int sim_device_gid(struct ibv_pd *pd); /* the one over which data went last; -1: over none */
unsigned int sim_mrs(void);
void sim_dereg_lies(bool lies); /* answers 0 and leaves the region alive */

/* A write of the peer's, in flight. The caller's until it is not pending. */
enum sim_dma_state { SIM_DMA_IDLE, SIM_DMA_PENDING, SIM_DMA_LANDED, SIM_DMA_CUT };
struct sim_dma {
	struct sim_dma *next;
	enum sim_dma_state state;
	uint32_t rkey, len;
	unsigned int seed;	   /* of sim_fill */
	const void *data;	   /* or this */
	uint64_t iova, due, ended; /* ended: when */
};
void sim_dma_post(struct sim_dma *d, uint64_t after); /* rkey, iova, len, and seed or data are set */
void sim_dma_write(struct sim_dma *d, uint32_t rkey, uint64_t iova, uint32_t len, unsigned int seed,
		   uint64_t after);
enum sim_dma_state sim_dma_wait(struct sim_dma *d);
enum sim_dma_state sim_dma_state(struct sim_dma *d);
unsigned int sim_dma_late(void); /* landed in a file whose guard had expired */

/* The judge: rules are "I1", "I2", "seam", see sim_judge.c. */
void sim_expect(const char *rule); /* record violations of it instead of ending the test */
unsigned int sim_violations(void); /* recorded */

#endif
