#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""pl-copy's command line, and what it says where there is no RDMA: no device is needed.

copy_usage.py PL-COPY
"""
import json
import os
import re
import sys
import tempfile

from terminal import check, main, run

PROGRAM = sys.argv[1]


def test_wrong_input():
    for words in ((), ("file",), ("file", "to"), ("a", "h:b", "c"), ("file", ":path"), ("file", "[]:path"),
                  ("file", "[::1]"), ("file", "[::1]path"), ("file", "[::1:path"), ("file", "h" * 300 + ":path"),
                  ("file", "host:" + "p" * 1100), ("-p", "0", "file", "host:path"), ("-p", "65536", "file", "host:path"),
                  ("-p", "", "file", "host:path"), ("-p", "-1", "file", "host:path"), ("-r", "1.5", "file", "host:path"),
                  ("--nonsense", "file", "host:path"), ("--root", "/", "file", "host:path"),
                  ("-a", "::1", "file", "host:path"), ("--serve", "file"), ("--serve", "--json"),
                  ("--serve", "--preserve"), ("--serve", "-r", "1"), ("--serve", "-p", "x")):
        result = run([PROGRAM, *words])
        check(result.returncode == 2, f"{words}: exit status {result.returncode}")
        check(b"usage: pl-copy" in result.stderr and not result.stdout, f"{words}: {result}")


def test_asked():
    check(b"usage: pl-copy" in run([PROGRAM, "--help"]).stdout, "--help")
    check(re.fullmatch(rb"pl-copy \d+\.\d+\.\d+\n", run([PROGRAM, "--version"]).stdout), "--version")


def test_source():
    """Looked at before anybody is asked; the report parses whatever the names are."""
    with tempfile.TemporaryDirectory() as folder:
        odd = os.path.join(folder, 'quo"te\\ \xe4\n')
        for source, words in ((os.path.join(folder, "none"), b"No such file"), (folder, b"Is a directory"),
                              ("/dev/null", b"not a regular file"), (odd, b"No such file")):
            result = run([PROGRAM, "--json", source, "localhost:x"])
            check(result.returncode == 1 and words in result.stderr, f"{source}: {result}")
            report = json.loads(result.stdout)
            check(not report["ok"] and report["error"] and report["connections"] == 0, f"{report}")


def test_host():
    with tempfile.NamedTemporaryFile() as file:
        result = run([PROGRAM, file.name, "nowhere.invalid:x"])
        check(result.returncode == 1 and b"nowhere.invalid: " in result.stderr, f"{result}")


def test_serve():
    result = run([PROGRAM, "--serve", "--root", "/nonexistent", "-p", "0"])
    check(result.returncode == 1 and b"/nonexistent: No such file" in result.stderr, f"{result}")


main([test for name, test in list(globals().items()) if name.startswith("test_")])
