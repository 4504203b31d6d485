#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The arrows that pinlease_states(7) lists are those of the library's tables.

check_states.py PROGRAM: PROGRAM (state_arrows.c) prints the library's, "lease|FROM|TO|name".
"""
import sys

from doctree import TOP, Page, Verdict, run, words

SECTIONS = {"lease": "STATES OF A LEASE", "file": "STATES OF A FILE"}


def listed(page, section):
    """Items like: .It Dv ACTIVE No \\(-> Dv BREAKING : break"""
    for line in page.sections[section]:
        item = words(line)
        if item[:2] == [".It", "Dv"] and "\\(->" in item:
            arrow = item.index("\\(->")
            yield item[2], item[arrow + 2], " ".join(item[item.index(":") + 1:])


def main():
    verdict = Verdict()
    page = Page(TOP / "man/pinlease_states.7")
    printed = run([sys.argv[1]])
    if printed.returncode != 0:
        verdict.bad(sys.argv[1], printed.stderr)
    for kind, section in SECTIONS.items():
        library = {tuple(line.split("|")[1:]) for line in printed.stdout.splitlines() if line.startswith(kind)}
        documented = list(listed(page, section))
        verdict.count(f"{kind} arrows", len(documented))
        if len(documented) != len(set(documented)):
            verdict.bad(page.path, f"an arrow of a {kind} is listed twice")
        for start, end, name in sorted(library - set(documented)):
            verdict.bad(page.path, f"{kind}: {start} -> {end} ({name}) is missing")
        for start, end, name in sorted(set(documented) - library):
            verdict.bad(page.path, f"{kind}: {start} -> {end} ({name}) is no arrow of the library's")
    verdict.close(("lease arrows", 8), ("file arrows", 5))


main()
