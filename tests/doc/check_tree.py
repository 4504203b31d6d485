#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The house style, as far as a program can see it.

check_tree.py CHECK: CHECK is licence, words, lengths or scripts.
"""
import pathlib
import re
import statistics
import sys

from doctree import TOP, Verdict, tree_files

# Files that have no comments, or whose first screen is for readers.
NO_SPDX = ("LICENSE", ".gitignore", ".clang-format", ".editorconfig")
NO_SPDX_SUFFIX = (".md", ".json", ".svg", ".png")
SPDX = "SPDX-License-Identifier: " + "BSD-3-Clause"

# Spelled in halves, since this file is looked at too.
FORBIDDEN = [re.compile(word) for word in (
    r"\bTO" r"DO\b", r"\bFIX" r"ME\b", r"\bXX" r"X\b", r"\.\./sha" r"red", r"/wo" r"rk/(main|sh|\.)",
    r"\.libr" r"ary/", r"^#if 0\b")]
FORBIDDEN.append(re.compile(r"^<<<<" r"<<< |^>>>>" r">>> "))  # of a merge

MAX_FILE, MAX_FUNCTION, MAX_MEDIAN, MAX_COLUMNS = 500, 80, 15, 110


def text_of(path):
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def licence():
    """The SPDX line stands among the first three lines."""
    verdict = Verdict()
    for path in tree_files():
        if path.name in NO_SPDX or path.suffix in NO_SPDX_SUFFIX:
            continue
        text = text_of(path)
        if text is None:
            continue
        verdict.count("files")
        if not any(SPDX in line for line in text.splitlines()[:3]):
            verdict.bad(path, "no SPDX line")
    verdict.close(("files", 30))


def package_hosts():
    """Host names of this machine's package sources and proxies: they belong into no file."""
    hosts = set()
    for pattern in ("etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/*", "etc/pip.conf"):
        for path in pathlib.Path("/").glob(pattern):
            if path.is_file():
                hosts.update(re.findall(r"https?://(?:[^/@\s\"]*@)?([A-Za-z0-9.-]+)", text_of(path) or ""))
    # Hosts that anybody's documentation may name, and names too short to mean anything.
    return {host for host in hosts if len(host) > 5 and host not in ("localhost", "127.0.0.1")
            and not host.endswith(("debian.org", "github.com"))}


def words_in_files():
    """Nothing unfinished, nothing of the machine it was written on."""
    verdict = Verdict()
    patterns = FORBIDDEN + [re.compile(re.escape(host)) for host in package_hosts()]
    for path in tree_files():
        text = text_of(path)
        if text is None:
            continue
        verdict.count("files")
        for number, line in enumerate(text.splitlines(), 1):
            for pattern in patterns:
                if pattern.search(line):
                    verdict.bad(path, f"line {number}: {line.strip()[:80]}")
    verdict.close(("files", 30))


def functions_of(lines):
    """(line, name, length) of functions: from a brace in the first column to the one that ends it."""
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start:
            head = number_of_head(lines, start)
            name = re.search(r"(\w+)\s*\(", lines[head - 1])
            yield head, name[1] if name else "?", number - head + 1
            start = None


def number_of_head(lines, brace):
    """The first line of the declaration above a brace."""
    head = brace - 1
    while head > 1 and lines[head - 1].startswith(("\t", " ")):
        head -= 1
    return head


def lengths():
    """Files, functions and lines fit their bounds; half of the library's functions are short."""
    verdict = Verdict()
    measured = []
    for path in tree_files():
        if path.suffix not in (".c", ".h"):
            continue
        lines = path.read_text().splitlines()
        verdict.count("files")
        if len(lines) > MAX_FILE:
            verdict.bad(path, f"{len(lines)} lines, {MAX_FILE} are allowed")
        for number, line in enumerate(lines, 1):
            if len(line.expandtabs(8)) > MAX_COLUMNS:
                verdict.bad(path, f"line {number} has {len(line.expandtabs(8))} columns, {MAX_COLUMNS} are allowed")
        for number, name, length in functions_of(lines):
            verdict.count("functions")
            if length > MAX_FUNCTION:
                verdict.bad(path, f"{name}() at line {number} has {length} lines, {MAX_FUNCTION} are allowed")
            if path.relative_to(TOP).parts[0] == "lib":
                measured.append(length)
    if measured and statistics.median(measured) >= MAX_MEDIAN:
        verdict.bad("lib", f"the median function has {statistics.median(measured)} lines, not under {MAX_MEDIAN}")
    verdict.close(("files", 10), ("functions", 30))


def scripts():
    """What may be executed begins with #!, and what people call in scripts/ may be executed."""
    verdict = Verdict()
    for path in tree_files():
        executable = bool(path.stat().st_mode & 0o111)
        shebang = path.read_bytes()[:2] == b"#!"
        verdict.count("scripts", executable)
        if executable and not shebang:
            verdict.bad(path, "may be executed, but has no #!")
        if shebang and not executable and path.parent == TOP / "scripts":
            verdict.bad(path, "has #!, but may not be executed")
    verdict.close(("scripts", 3))


CHECKS = {"licence": licence, "words": words_in_files, "lengths": lengths, "scripts": scripts}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    CHECKS[sys.argv[1]]()
