#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The binary interface of a library is what its baseline says.

check_abi.py [--write] BASELINE CC LIBRARY FOLDER HEADER...

The baseline has a line for each symbol with its node, as the built library has them, and for each declaration,
structure, member with its place, and constant, as CC sees the headers of FOLDER. Of abidw the same would be 5,034
lines, most of them types of libibverbs and of the C library, other ones with each compiler and rdma-core.
--write makes the baseline anew (CONTRIBUTING.md).
"""
import difflib
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "doc"))
from doctree import INCLUDE_FLAGS, Header, Verdict, need, run  # noqa: E402


def symbols(library):
    listed = run([need("nm"), "-D", "--defined-only", "--with-symbol-versions", library]).stdout
    for _, kind, symbol in sorted((line.split() for line in listed.splitlines()), key=lambda words: words[-1]):
        if kind != "A":
            yield f"symbol {symbol.replace('@@', ' ')}"


def members(body):
    """(declaration, name) of each: what stands between two semicolons may declare several."""
    for declaration in filter(None, body.split(";")):
        pointer = re.search(r"\(\*(\w+)\)\(", declaration)
        if pointer:
            yield declaration, pointer[1]
            continue
        head, *others = declaration.split(",")
        kind = re.match(r"(.*?[\s*])(?=\w+(?:\[\w+\])*$)", head)[1]
        for one in (head[len(kind):], *others):
            one = one.strip()
            yield kind + one, re.match(r"\**(\w+)", one)[1]


def printed(header):
    """C statements that print the lines that only a compiler knows."""
    for name, body in header.structs.items():
        yield f'P("struct {name}: %zu bytes, aligned to %zu\\n", sizeof(struct {name}), _Alignof(struct {name}));'
        for declaration, member in members(body):
            size = f"sizeof(((struct {name} *)0)->{member})"
            yield f'P("  %3zu %3zu {declaration}\\n", offsetof(struct {name}, {member}), {size});'
    for name, constants in header.enums.items():
        yield f'P("enum {name}: %zu bytes\\n", sizeof(enum {name}));'
        yield from (f'P("  {one} %lld\\n", (long long){one});' for one in constants)
    for name in header.macros:
        yield f'P("#define {name} %lld\\n", (long long)({name}));'


def layout(cc, folder, names):
    parsed = [Header(folder / name) for name in names]
    for header in parsed:
        yield from (declaration for _, declaration in sorted(header.functions.items()))
    text = "#include <stddef.h>\n#include <stdio.h>\n#define P printf\n"
    text += "".join(f"#include <{name}>\n" for name in names)
    text += "int main(void)\n{\n" + "\n".join(line for header in parsed for line in printed(header)) + "\n}\n"
    with tempfile.TemporaryDirectory() as place:
        source, program = pathlib.Path(place, "layout.c"), pathlib.Path(place, "layout")
        source.write_text(text)
        built = run([cc, "-I", folder, *INCLUDE_FLAGS, "-o", program, source])
        if built.returncode:
            sys.exit(f"the headers do not compile:\n{built.stderr}")
        yield from subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()


def main():
    arguments = sys.argv[1:]
    write = arguments[0] == "--write"
    baseline, cc, library, folder, *names = arguments[write:]
    baseline = pathlib.Path(baseline)
    head = ["# SPDX-License-Identifier: BSD-3-Clause",
            "# The interface of x86-64. Written by tests/abi/check_abi.py: members have offset and size before them."]
    lines = head + list(symbols(library)) + list(layout(need(cc), pathlib.Path(folder), names))
    if write:
        baseline.write_text("\n".join(lines) + "\n")
        return
    verdict = Verdict()
    verdict.count("lines", len(lines))
    for line in difflib.unified_diff(baseline.read_text().splitlines(), lines, "baseline", "built", "", "", 2, ""):
        verdict.bad(baseline.name, line)
    if verdict.errors:
        print("If this is wanted (CONTRIBUTING.md, \"The binary interface\"): ninja -C BUILD abi-baseline")
    verdict.close(("lines", 30))


main()
