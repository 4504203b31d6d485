#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The C in README.md and the other documents compiles, and every path that they name is there.

check_readme.py CC
"""
import re
import sys

from doctree import INCLUDE_FLAGS, TOP, Verdict, need, run

FLAGS = ["-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", *INCLUDE_FLAGS]


def main():
    cc = need(sys.argv[1])
    verdict = Verdict()
    documents = [TOP / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for folder in sorted((TOP / "examples").glob("[0-9]*/")):
        if not (folder / "README.md").exists():
            verdict.bad(folder, "no README.md")
    for path in [*documents, *sorted(TOP.glob("docs/*.md")), *sorted(TOP.glob("examples/**/README.md"))]:
        text = path.read_text()
        verdict.count("documents")
        for code in re.findall(r"^```c\n(.*?)^```", text, flags=re.M | re.S):
            verdict.count("examples")
            result = run([cc, *FLAGS, "-x", "c", "-"], input=code)
            if result.returncode != 0:
                verdict.bad(path, result.stderr.strip())
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            verdict.count("links")
            if not (path.parent / target).exists():
                verdict.bad(path, f"links to {target}, which is not there")
        for target in re.findall(r"`((?:lib|man|tests|scripts|docs|examples|uring|carry|include|cmake)/[\w./-]+)`", text):
            verdict.count("paths")
            if not (TOP / target).exists():
                verdict.bad(path, f"names {target}, which is not there")
    verdict.close(("documents", 4), ("examples", 1), ("links", 3))


main()
