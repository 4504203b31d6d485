#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What a shared library exports is what its map lists, and the headers declare just that.

check_exports.py SHARED STATIC MAP HEADER...; STATIC may be -.
"""
import re
import sys

from doctree import Verdict, Header, need, run, without_comments

import pathlib


def mapped(path):
    """{symbol: node} of a linker version script."""
    symbols = {}
    for node, body in re.findall(r"(\w+)\s*\{(.*?)\}", without_comments(path.read_text()), flags=re.S):
        for symbol in re.findall(r"(\w+)\s*;", body.replace("global:", "").split("local:")[0]):
            symbols[symbol] = node
    return symbols


def exported(nm, path):
    """{symbol: node}; the node itself is an absolute symbol (A) and left out."""
    symbols = {}
    for line in run([nm, "-D", "--defined-only", "--with-symbol-versions", path]).stdout.splitlines():
        kind, symbol = line.split()[-2:]
        if kind != "A":
            name, _, node = symbol.partition("@@")
            symbols[name] = node
    return symbols


def global_names(nm, path):
    """Names of an archive that could collide with the application's."""
    for line in run([nm, "-g", "--defined-only", path]).stdout.splitlines():
        if len(line.split()) == 3:
            yield line.split()[2]


def main():
    nm = need("nm")
    shared, static, version_script, *header_paths = (pathlib.Path(path) for path in sys.argv[1:])
    verdict = Verdict()
    wanted, found = mapped(version_script), exported(nm, shared)
    verdict.count("symbols", len(found))
    for symbol in sorted(set(found) | set(wanted)):
        if found.get(symbol) != wanted.get(symbol):
            verdict.bad(shared.name, f"{symbol} is in node {found.get(symbol)}, the map says {wanted.get(symbol)}")
    declared = {name for path in header_paths for name in (*Header(path).functions, *Header(path).objects)}
    for symbol in sorted(declared ^ set(wanted)):
        verdict.bad(version_script, f"{symbol} is in only one of map and headers")
    if static.name == "-":
        verdict.close(("symbols", 3))
    for symbol in global_names(nm, static):
        verdict.count("names in the archive")
        # sys/sdt.h: one weak symbol for all libraries with tracepoints, meant to collide.
        if not symbol.startswith(("pl_", "pinlease_")) and symbol != "_.stapsdt.base":
            verdict.bad(static.name, f"{symbol} has neither prefix of ours")
    verdict.close(("symbols", 3), ("names in the archive", 3))


main()
