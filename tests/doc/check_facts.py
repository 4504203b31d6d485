#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A test that documents or comments call upon is a test that runs; facts and kernel tests match one to one.

check_facts.py LIST: LIST is tests.list of the build, "LABEL KERNEL NAME" lines.
"""
import pathlib
import re
import sys

from doctree import TOP, Verdict

COMMENT = re.compile(r"/\*.*?\*/", re.S)
# What looks like a test's name in a comment; in documents it stands in backticks.
IN_COMMENT = re.compile(r"\b((?:kernel|sim|uring|rdma|hazard|matrix|kill|rounds)_[a-z0-9_]+)\b")
IN_DOCUMENT = re.compile(r"`((?:unit|kernel|sim|uring|rdma|doc|hazard|matrix|kill|rounds|lease|deadline"
                         r"|nonblock|hosts)_[a-z0-9_]+\*?)`")


# A fact and its test in the documents: `executable`: `function`.
HELD_BY = re.compile(r"`(kernel_[a-z0-9_]+)`: `([a-z0-9_]+)`")


def check_functions(verdict, facts):
    """Every test function of tests/kernel holds a documented fact, and every such name is a function."""
    held = {match.groups(): path for path in facts for match in HELD_BY.finditer(path.read_text())}
    there = {(path.stem, name) for path in (TOP / "tests/kernel").glob("kernel_*.c")
             for name in re.findall(r"cmocka_unit_test\((\w+)\)", path.read_text())}
    verdict.count("facts", len(held))
    for program, name in sorted(held.keys() - there):
        verdict.bad(held[program, name], f"there is no {name} in {program}.c")
    for program, name in sorted(there - held.keys()):
        verdict.bad(TOP / f"tests/kernel/{program}.c", f"{name} holds no documented fact")


def check_hazards(verdict, names):
    """Every hazard has its line: who described it, what bare comes to, and what the library does."""
    path = TOP / "docs/hazards.md"
    lines = set(re.findall(r"\| `(hazard_[a-z0-9_]+)` \|$", path.read_text(), re.M))
    there = {name for name in names if name.startswith("hazard_")}
    verdict.count("hazards", len(there & lines))
    for name in sorted(there - lines):
        verdict.bad(path, f"has no line of {name}")


def known(names, name):
    """name may stand for a family: rounds_* or a prefix that further names continue."""
    return any(one == name or one.startswith(name.rstrip("*").rstrip("_") + "_") for one in names)


def main():
    verdict = Verdict()
    names = {line.split()[2] for line in pathlib.Path(sys.argv[1]).read_text().splitlines()}
    verdict.count("tests", len(names))
    documents = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]
    sources = [path for folder in ("lib", "uring") for path in sorted((TOP / folder).glob("**/*.[ch]"))]
    named = [(path, match[1]) for path in documents for match in IN_DOCUMENT.finditer(path.read_text())]
    for path in sources:
        for comment in COMMENT.findall(path.read_text()):
            named += [(path, match[1]) for match in IN_COMMENT.finditer(comment)]
    for path, name in named:
        verdict.count("names")
        if not known(names, name):
            verdict.bad(path, f"there is no test {name}")
    for name in ("kernel-facts.md", "rdma-facts.md"):
        facts = TOP / "docs" / name
        if not facts.exists():
            verdict.bad("docs", f"no {name}")
        elif not any(path == facts for path, _ in named):
            verdict.bad(facts, "names no test")
    check_hazards(verdict, names)
    check_functions(verdict, sorted((TOP / "docs").glob("*-facts.md")))
    verdict.close(("tests", 20), ("names", 5), ("facts", 50), ("hazards", 5))


main()
