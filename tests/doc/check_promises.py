#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What the pages of section 3 promise of each call is asked for in a test: that it is called, and each error.

An error counts as asked for where a source below tests/ names it beside one of the page's calls: as -ENOENT, or,
in a table, by its name.
"""
import re

from doctree import TOP, Verdict, pages, without_comments

ERRORS = re.compile(r"^\.It Bq Er (.*)$", re.M)


def sources():
    """Each source with those whose headers it includes, and the table that they read."""
    paths = sorted((TOP / "tests").rglob("*.c"))
    texts = {path.stem: without_comments(path.read_text()) for path in paths}
    for name, text in texts.items():
        parts = [text] + [texts.get(other, "") for other in re.findall(r'#include "(\w+)\.h"', text) if other != name]
        if '#include "matrix.h"' in text:
            parts.append((TOP / "tests/rdma/matrix.table").read_text())
        yield "\n".join(parts)


def errors(page):
    text = "\n".join(page.sections.get("ERRORS", []) + page.sections.get("RETURN VALUES", []))
    return {name for line in ERRORS.findall(text) for name in re.findall(r"\bE[A-Z0-9]+\b", line)}


def main():
    verdict = Verdict()
    texts = list(sources())
    for page in pages():
        if page.section != "3":
            continue
        calls = page.synopsis()[1]
        for call in calls:
            verdict.count("calls")
            if not any(re.search(rf"\b{call}\s*[(,;)}}]", text) for text in texts):
                verdict.bad(page.path, f"no test calls {call}")
        any_call = re.compile(r"\b(" + "|".join(calls) + r")\b")
        near = [text for text in texts if any_call.search(text)] if calls else []
        for name in sorted(errors(page)):
            verdict.count("errors")
            if not any(re.search(rf"-{name}\b|^[^#\n].*\b{name}\b.*\|", text, re.M) for text in near):
                verdict.bad(page.path, f"no test asks for {name}")
    verdict.close(("calls", 50), ("errors", 100))


main()
