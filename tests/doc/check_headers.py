#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Each public header compiles alone, as C11 and as C++17, without a warning.

check_headers.py CC CXX
"""
import sys

from doctree import INCLUDE_FLAGS, Verdict, need, public_headers, run

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only", *INCLUDE_FLAGS]


def main():
    compilers = ((need(sys.argv[1]), ["-std=c11", "-x", "c"]), (need(sys.argv[2]), ["-std=c++17", "-x", "c++"]))
    verdict = Verdict()
    for name, path in public_headers().items():
        verdict.count("headers")
        include = f"#include <{name}>\n"
        for compiler, language in compilers:
            # Twice: a header without a guard fails.
            result = run([compiler, *language, *STRICT, "-"], input=include * 2)
            if result.returncode != 0:
                verdict.bad(path, f"{' '.join(language)}: {result.stderr.strip()}")
    verdict.close(("headers", 2))


main()
