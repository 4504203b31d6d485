#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The core of the library reaches the kernel, the allocator and the device through its seams only.

check_seams.py "OBJECT;OBJECT...", as CMake writes a list: what they leave undefined is ours, or plain computation.
"""
import re
import sys

from doctree import Verdict, need, run

ALLOWED = re.compile("|".join((
    r"pl_\w+|pinlease_\w+",
    # Memory and text.
    r"mem(cpy|set|move|cmp)|str(str|cmp|ncmp|ncpy|len|nlen|chr|rchr|tol|toul|toull)|v?snprintf",
    # Locks: the simulation uses the real ones.
    r"pthread_(mutex|cond)_(init|destroy|lock|unlock|signal|broadcast)|pthread_setspecific",
    # Sets of signals, in memory.
    r"sig(empty|fill|add|del)set|__libc_current_sigrt(min|max)",
    # The default log.
    r"fprintf|stderr|secure_getenv",
    # What compilers add.
    r"__assert_fail|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|__tls_get_addr|__(asan|ubsan|tsan|sanitizer)_\w+",
)))


def main():
    nm = need("nm")
    verdict = Verdict()
    objects = sys.argv[1].split(";")
    verdict.count("objects", len(objects))
    for line in run([nm, "-u", "-A", *objects]).stdout.splitlines():
        path, symbol = line.split(":")[0], line.split()[-1]
        # With _FORTIFY_SOURCE: __snprintf_chk.
        plain = re.sub(r"^__(\w+)_chk$", r"\1", symbol)
        verdict.count("symbols")
        if not ALLOWED.fullmatch(plain):
            verdict.bad(path.rsplit("/", 1)[-1], f"calls {symbol}, which belongs behind lib/sys.h, lib/verbs.h or lib/pmem.h")
    verdict.close(("objects", 20), ("symbols", 100))


main()
