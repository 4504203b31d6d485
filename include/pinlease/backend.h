/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What reaches the memory of a lease, open to applications: verbs memory regions,
 * io_uring fixed buffers (libpinlease-uring), another user-space driver. The
 * library's own verbs registrations are two instances of this structure.
 *
 * A backend is passed in pinlease_opts.backend with an argument of its own, and must
 * live as long as the lease. Calls for one registration never overlap. They come
 * from the thread that acquires, restores or releases, or from a thread of the
 * library while a break is being answered; so no backend call may wait for a
 * pinlease_* call of the same lease, nor for the application's event loop.
 */
#ifndef PINLEASE_BACKEND_H
#define PINLEASE_BACKEND_H

#include <pinlease.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PINLEASE_BACKEND_VERSION 1

/*
 * The application registers with verbs by itself, whatever the library thinks of it, and
 * only leases what it registers. opts.mode is PINNED, opts.pd the PD that it does so in
 * (a forked child lets go of that device). A pin that the library would not make, of
 * dirty-tracked page cache for writing, or of fs-dax, is not refused.
 */
#define PINLEASE_BACKEND_OWN_MR (1u << 0)

struct pinlease_pin {			/* what is to be reached */
	size_t size;
	void *addr;			/* page aligned */
	uint64_t len;			/* bytes */
	uint64_t iova;
	uint64_t file_off;		/* of addr, for logs */
	uint32_t access;		/* enum pinlease_access */
	uint32_t mode;			/* PINNED, ODP: addr maps the file; STAGED: anonymous memory */
	uint32_t ibv_access;		/* verbs: as passed in opts */
	uint32_t gen;			/* the generation it will be */
	/*
	 * An fd that holds the guarded file, or -1 (F_NO_ANCHOR, a guard that never breaks);
	 * valid during the call. Where the kernel may still write into the memory when this
	 * process is dead and its fds are closed, whatever lives that long has to hold this
	 * too, till unpin; otherwise the guard of a killed owner goes first. A ring takes it as
	 * a registered file; a memory region needs nothing.
	 */
	int32_t anchor;
};

struct pinlease_handle {		/* filled by pin; handed back to unpin */
	size_t size;
	void *cookie;
	struct ibv_mr *mr;		/* verbs, else NULL */
	uint32_t lkey, rkey;		/* or whatever names the registration to the application */
};

struct pinlease_backend {
	uint32_t version;		/* PINLEASE_BACKEND_VERSION */
	uint32_t flags;			/* PINLEASE_BACKEND_OWN_MR */
	const char *name;
	/*
	 * Can memory of this kind be pinned at all? Asked before anything is allocated; addr,
	 * len and anchor are not set. 0, or -errno: AUTO goes on to the next mode, and *reason
	 * (enum pinlease_reason), if set, is reported. May be NULL: always.
	 */
	int (*capable)(void *arg, const struct pinlease_pin *pin, uint32_t *reason);
	/* Make the memory reachable. 0, or -errno and nothing is reachable. */
	int (*pin)(void *arg, const struct pinlease_pin *pin, struct pinlease_handle *handle);
	/*
	 * The fence: when it returns 0 nothing reaches the memory any more, whatever was in
	 * flight. Any other answer means it may still be reached: the library keeps the
	 * guard and calls again. Must not wait for a peer.
	 */
	int (*unpin)(void *arg, struct pinlease_handle *handle);
	/*
	 * The device wrote to mapped file pages behind the CPU's back: make the kernel see
	 * them as dirty. Called after unpin returned 0, and by sync. May be NULL: the
	 * device's writes dirty the pages themselves, or at unpin (GUP does).
	 */
	int (*dirty)(void *arg, const struct pinlease_pin *pin);
};

#ifdef __cplusplus
}
#endif
#endif
