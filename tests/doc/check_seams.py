#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The core of the library reaches the kernel, the allocator and the device through its seams only.

check_seams.py "OBJECT;OBJECT...", as CMake writes a list: what they leave undefined is ours, or plain computation.
And sim_faults has each call through the seams that answers anything fail, or says why not.
"""
import re
import sys

from doctree import TOP, Verdict, need, run, without_comments

ALLOWED = re.compile("|".join((
    r"pl_\w+|pinlease_\w+",
    # Memory and text.
    r"mem(cpy|set|move|cmp)|str(str|cmp|ncmp|ncpy|len|nlen|chr|rchr|tol|toul|toull)|v?snprintf",
    # Locks: the simulation uses the real ones.
    r"pthread_(mutex|cond)_(init|destroy|lock|trylock|unlock|signal|broadcast)|pthread_setspecific",
    # Sets of signals, in memory.
    r"sig(empty|fill|add|del)set|__libc_current_sigrt(min|max)",
    # The default log.
    r"fprintf|stderr|secure_getenv",
    # What compilers add.
    r"__assert_fail|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|__tls_get_addr|__(asan|ubsan|tsan|sanitizer)_\w+",
)))


# All that answers something, by the name that the simulation has for it.
CALL = re.compile(r"^(?!void )[\w\s]+?[\s*]pl_(?:sys_|verbs_)?(\w+)\(", re.M)


def faults(verdict):
    tested = TOP / "tests/sim/test_faults.c"
    text = tested.read_text()
    known = set(re.findall(r'\.call = "(\w+)"', text)) | set(re.findall(r'^\t\{ "(\w+)", "', text, re.M))
    for header in ("sys.h", "verbs.h", "pmem.h"):
        for call in CALL.findall(without_comments((TOP / "lib" / header).read_text())):
            verdict.count("calls")
            if call not in known:
                verdict.bad(tested, f"no fault is put into {call} of {header}, and no reason is given")


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
    faults(verdict)
    verdict.close(("objects", 20), ("symbols", 100), ("calls", 60))


main()
