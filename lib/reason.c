/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 0: the sentences of enum pinlease_reason, for people who have to do something about it. */
#include <pinlease.h>

#include "api_export.h"

#define REASONS(X)                                                                                           \
	X(NONE, "no reason is known")                                                                        \
	X(ARGUMENT, "a pointer, flag, number or combination of them is not legal here")                      \
	X(OPTS_SIZE, "a structure's size is not its sizeof, or the library is older than the program")       \
	X(ALIGNMENT, "the offset or the address is not a multiple of the file's page size")                  \
	X(RANGE, "the range is empty or ends beyond the end of the file")                                    \
	X(OVERLAP, "the range overlaps another lease, and one of the two is staged for writing")             \
	X(BAD_FD, "the file descriptor is closed, O_PATH, or not open for this access")                      \
	X(NOT_REGULAR, "neither a regular file nor a device-dax")                                            \
	X(FILESYSTEM, "leases on this file system do not hold off every change: another one, or ask for a "  \
		      "guard by name")                                                                       \
	X(NO_LEASES, "the file system refuses leases, or the sysctl fs.leases-enable is 0")                  \
	X(NOT_OWNER, "only the owner of the file may lease it: change to its owner, or grant CAP_LEASE")     \
	X(OWN_FD, "this process has the file open a second time: close that, or attach to it")               \
	X(OWN_MAPPING, "this process still maps the file through a descriptor it has closed: unmap it")      \
	X(OPENER, "another process has the file open")                                                       \
	X(LEASED, "this open file description carries a lease already: open the file again")                 \
	X(IN_FLIGHT_FDS, "too many file descriptors are open or in flight: raise RLIMIT_NOFILE")             \
	X(FD_REPLACED, "the application closed or replaced a file descriptor of the library")                \
	X(BROKEN, "somebody opened or changed the file in the middle of it: try again")                      \
	X(STATE, "the lease is not in a state in which this can be done")                                    \
	X(MAPPING, "the address given is not a shared mapping of this range of this file with this access")  \
	X(NO_SPACE, "the file system, or the quota, has no space left for the whole range")                  \
	X(HOLE, "the range has a hole, of which a reader would keep zeros: allocate it, or ask for it to "   \
		"be filled")                                                                                 \
	X(IO, "the file could not be read or faulted in: look into the kernel's log")                        \
	X(MEMLOCK, "more memory than RLIMIT_MEMLOCK allows would be pinned")                                 \
	X(MEMORY, "out of memory or address space")                                                          \
	X(DIRTY_TRACKED, "a device must not write to pinned page cache that the file system writes back")    \
	X(PIN_REFUSED, "the kernel or the device's driver refused the registration")                         \
	X(DAX, "the kernel refuses long-term pins of fs-dax")                                                \
	X(NO_ODP, "the device does not do on-demand paging for this")                                        \
	X(DATA_CHECK, "the device failed the check of its on-demand paging, or could not be put to it")      \
	X(BACKEND, "the application's backend refused")                                                      \
	X(SEALED, "the file was sealed before: it can be written only through a mapping made earlier")       \
	X(NO_SEALS, "not a memfd, or one made without MFD_ALLOW_SEALING")                                    \
	X(STAGED_SEALED, "staged memory could not be written back to a sealed file")                         \
	X(DEREG, "the driver refuses to deregister: are memory windows bound to the region?")                \
	X(EXPIRED, "lease-break-time was over before the device was stopped or the data written")            \
	X(SHRUNK, "the file now ends before the range")                                                      \
	X(BEST, "the device reaches the file's own pages; nothing better exists")                            \
	X(ASKED, "it was asked for by name")                                                                 \
	X(OPEN, "the file could not be opened")                                                              \
	X(WOULD_BREAK, "a process holds a lease on the file, and opening it would break that: let it "       \
		       "finish, or force")                                                           \
	X(NO_WRITE, "staged memory could not be written back: no write(2) (hugetlbfs), or only at the end "  \
		    "(O_APPEND)")                                                                            \
	X(NOT_STATIC, "not a device-dax: the layout of this file can change")                                \
	X(BUDGET, "more than the disk can write back in lease-break-time: lease less, tell what is dirty, "  \
	  "or raise that sysctl")

static const char *const sentences[] = {
#define REASON_SENTENCE(name, sentence) [PINLEASE_WHY_##name] = (sentence),
	REASONS(REASON_SENTENCE)
};

static const char *const names[] = {
#define REASON_NAME(name, sentence) [PINLEASE_WHY_##name] = #name,
	REASONS(REASON_NAME)
};

_Static_assert(sizeof(sentences) / sizeof(sentences[0]) == PINLEASE_WHY_LAST, "a sentence for every reason");

PL_API const char *pinlease_reason_str(uint32_t reason)
{
	return reason < PINLEASE_WHY_LAST ? sentences[reason] : "unknown reason";
}

PL_API const char *pinlease_reason_name(uint32_t reason)
{
	return reason < PINLEASE_WHY_LAST ? names[reason] : "UNKNOWN";
}
