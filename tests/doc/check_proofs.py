#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""tests/README.md and SECURITY.md name tests that there are, and leave out no invariant, hazard, page or threat.

check_proofs.py LIST: LIST is tests.list of the build, "LABEL KERNEL NAME" lines.
"""
import pathlib
import re
import sys

from doctree import TOP, Verdict, pages

# In these two documents, what stands in backticks and has the form of a test's name is one.
NAME = re.compile(r"`([a-z0-9]+_[a-z0-9_]+)`")
NO_TESTS = {"ibv_access"}
# Whom SECURITY.md has to speak of.
THREATS = ("malicious peer", "malicious message", "co-user", "Exhausted signals", "Exhausted descriptors",
           "killed or stopped owner", "hostile descriptor", "Readers of freed memory")
# What tests/README.md has to have in its table of faults.
FAULTS = ("call through the seams", "Limits", "full disk", "read-only", "disk fails", "killed peer", "killed owner")


def rows(text):
    """(first cell, names of tests in the others) of each row of a table."""
    for line in text.splitlines():
        if line.startswith("| "):
            first, *others = line.strip("| ").split(" | ")
            yield first, set(NAME.findall(" ".join(others))) - NO_TESTS


def main():
    verdict = Verdict()
    there = {line.split()[2] for line in pathlib.Path(sys.argv[1]).read_text().splitlines()}
    proofs, security = TOP / "tests/README.md", TOP / "SECURITY.md"
    texts = {path: path.read_text() for path in (proofs, security)}
    for path, text in texts.items():
        for name in sorted(set(NAME.findall(text)) - NO_TESTS):
            verdict.count("names")
            if name not in there:
                verdict.bad(path, f"there is no test {name}")
    proved = {}
    for first, names in rows(texts[proofs]):
        for what in re.findall(r"\bI\d\b|[\w-]+\(\d\)", first):
            proved.setdefault(what, set()).update(names)
    wanted = set(re.findall(r"^- \*\*(I\d)\*\*", (TOP / "docs/design.md").read_text(), re.M))
    verdict.count("invariants", len(wanted))
    wanted |= {f"{page.name}({page.section})" for page in pages()}
    for what in sorted(wanted):
        if not proved.get(what):
            verdict.bad(proofs, f"nothing proves {what}")
    for name in re.findall(r"\| `(hazard_\w+)` \|$", (TOP / "docs/hazards.md").read_text(), re.M):
        verdict.count("hazards")
        if f"`{name}`" not in texts[proofs]:
            verdict.bad(proofs, f"{name} is left out")
    for first, names in rows(texts[security]):
        if first.startswith("**"):
            verdict.count("threats")
            if not names:
                verdict.bad(security, f"no test shows: {first}")
    for path, wanted in ((security, THREATS), (proofs, FAULTS)):
        shown = [first for first, names in rows(texts[path]) if names]
        for what in wanted:
            verdict.count("of these named")
            if not any(what in first for first in shown):
                verdict.bad(path, f"has no test of: {what}")
    verdict.close(("names", 60), ("invariants", 6), ("hazards", 10), ("threats", 8), ("of these named", 14))


main()
