#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A test that documents or comments call upon is a test that runs.

check_facts.py LIST: LIST is tests.list of the build, "LABEL KERNEL NAME" lines.
"""
import pathlib
import re
import sys

from doctree import TOP, Verdict

COMMENT = re.compile(r"/\*.*?\*/", re.S)
# What looks like a test's name in a comment; in documents it stands in backticks.
IN_COMMENT = re.compile(r"\b((?:kernel|sim|uring|rdma|hazard|matrix|kill|rounds|choice)_[a-z0-9_]+)\b")
IN_DOCUMENT = re.compile(r"`((?:unit|kernel|sim|uring|rdma|doc|hazard|matrix|kill|rounds|choice|lease|deadline"
                         r"|nonblock)_[a-z0-9_]+\*?)`")


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
    verdict.close(("tests", 20), ("names", 5))


main()
