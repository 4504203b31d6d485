#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Break one source of the library on purpose.

usage: plant.py PLANT LIB OUT

PLANT says what and how:

    # comments
    file: lease.c		of LIB
    rule: I1			the invariant that has to be violated
    profile: all		of the explorer
    first: 1			seed, of those that show it: for speed, others are tried after it
    with: api.c			sources that include file, if that is a header
    <<<
    lines as they are there, once
    ===
    lines in their place
    >>>

OUT gets the file, changed, and what is named by with, which includes the changed header
beside it. Lines that are not there exactly once are an error: a mutation that changes
nothing proves nothing.
"""
import pathlib
import re
import sys


def main():
    plant, lib, out = map(pathlib.Path, sys.argv[1:])
    text = plant.read_text()
    file = re.search(r"^file: (\S+)$", text, re.M)[1]
    changes = re.findall(r"^<<<\n(.*?)^===\n(.*?)^>>>$", text, re.M | re.S)
    source = (lib / file).read_text()
    if not changes:
        sys.exit(f"{plant}: changes nothing")
    for old, new in changes:
        if source.count(old) != 1:
            sys.exit(f"{plant}: {source.count(old)} times in {file}, not once:\n{old}")
        source = source.replace(old, new)
    out.mkdir(parents=True, exist_ok=True)
    (out / file).write_text(source)
    for other in re.findall(r"^with: (\S+)$", text, re.M):
        # First of all: from other headers the one of LIB would be found, which is beside them.
        (out / other).write_text(f'#include "{file}"\n' + (lib / other).read_text())


if __name__ == "__main__":
    main()
