/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 0: static tracepoints for bpftrace, perf, SystemTap and gdb. Each is one nop in the
 * code and a note in the ELF file that says where it is and where its arguments are: nothing
 * is tested, called or loaded while nobody traces. pinlease(7) has the list.
 */
#ifndef PL_TRACE_H
#define PL_TRACE_H

#if defined(__has_include)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define PL_HAVE_TRACE 1
#endif
#endif

#ifdef PL_HAVE_TRACE
/* lease, its file, enum pinlease_state from and to, generation, the arrow's name */
#define pl_trace_lease(lease, file, from, to, gen, arrow) \
	DTRACE_PROBE6(pinlease, lease_state, lease, file, from, to, gen, arrow)
/* file, its descriptor, enum pinlease_file_state from and to, the arrow's name */
#define pl_trace_file(file, fd, from, to, arrow) \
	DTRACE_PROBE5(pinlease, file_state, file, fd, from, to, arrow)
#else
#define pl_trace_lease(lease, file, from, to, gen, arrow) ((void)(arrow))
#define pl_trace_file(file, fd, from, to, arrow)	  ((void)(arrow))
#endif

#endif
