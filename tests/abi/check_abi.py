#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The binary interface is what its baseline says.

check_abi.py [--write] [--opaque NAMES] BASELINE LIBRARY
check_abi.py [--write] --constants CC BASELINE FOLDER...

A baseline is what abidw says of a built library; abidiff compares. What they do not see in a library are constants,
for no function takes or returns an enumeration: --constants has CC compile an object with all those of the headers
below FOLDER..., macros too, and they look at that one. --write makes the baseline anew (CONTRIBUTING.md).

--opaque A|B: structures that a C file of the library defines. libabigail 2.2 does not know where those of clang stand
(DWARF 5 numbers files from 0), and so not that they are private.
"""
import argparse
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "doc"))
from doctree import Header, Verdict, need, run  # noqa: E402

# Ids that are not numbered through, and nothing of the machine.
ABIDW = ("--type-id-style", "hash", "--exported-interfaces-only", "--no-show-locs", "--no-comp-dir-path",
         "--no-corpus-path", "--no-elf-needed", "--no-write-default-sizes")
LICENCE = "  <!-- SPDX-License-Identifier: BSD-3-Clause -->\n"


def abidw(built, *options):
    said = run([need("abidw"), *ABIDW, *options, built])
    if said.returncode or not ("<function-decl" in said.stdout or "<var-decl" in said.stdout):
        sys.exit(f"abidw sees no interface in {built}: no debug information?\n{said.stderr}")
    head, rest = said.stdout.split("\n", 1)
    return f"{head}\n{LICENCE}{rest}"


def constants(cc, headers, place):
    """An object with a variable of each enumeration, and for each header one of an enumeration of its macros."""
    text = ""
    for name, header in sorted(headers.items()):
        text += f"#include <{name}>\n"
        text += "".join(f"enum {enum} {enum};\n" for enum in header.enums)
        if header.macros:
            macros = ", ".join(f"value_of_{macro} = {macro}" for macro in header.macros)
            text += f"enum macros_of_{header.path.stem} {{ {macros} }} macros_of_{header.path.stem};\n"
    (place / "constants.c").write_text(text)
    folders = [flag for name, header in headers.items() for flag in ("-I", str(header.path)[:-len(name)])]
    done = run([cc, "-g", "-shared", "-fPIC", *folders, "-o", "constants.so", "constants.c"], cwd=place)
    if done.returncode:
        sys.exit(f"the headers do not compile:\n{done.stderr}")
    return place / "constants.so"


def unseen(headers):
    """Public structures that no baseline has: no function leads to them."""
    known = "".join(path.read_text() for path in HERE.glob("*.abi"))
    return [name for header in headers.values() for name in header.structs
            if f"<class-decl name='{name}' size-in-bits=" not in known]


def compare(verdict, baseline, built, options):
    abidiff = [need("abidiff"), *options, baseline, built]
    said = run([*abidiff, "--harmless"])
    verdict.count("interfaces")
    if said.returncode < 0 or said.returncode & 3:
        verdict.bad(baseline.name, f"abidiff failed, status {said.returncode}: {said.stderr}")
    elif said.returncode:
        if said.returncode & 8:
            kind = "INCOMPATIBLE: they break"
        elif run([*abidiff, "--no-added-syms"]).returncode:
            kind = "CHANGED: they may break"
        else:
            kind = "COMPATIBLE: they go on working"
        verdict.bad(baseline.name, f"programs that are built already: {kind}\n{said.stdout}")
        print("If this is wanted (CONTRIBUTING.md, \"The binary interface\"): ninja -C BUILD abi-baseline")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--opaque")
    parser.add_argument("--constants", metavar="CC")
    parser.add_argument("baseline", type=pathlib.Path)
    parser.add_argument("looked_at", type=pathlib.Path, nargs="+")
    return parser.parse_args()


def main():
    asked, verdict, options = arguments(), Verdict(), []
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        if asked.constants:
            headers = {str(path.relative_to(folder)): Header(path)
                       for folder in asked.looked_at for path in folder.rglob("*.h")}
            said = abidw(constants(need(asked.constants), headers, place))
            for struct in unseen(headers):
                verdict.bad("headers", f"no function of a library leads to struct {struct}, and abidw does not see it")
        else:
            said = abidw(asked.looked_at[0], "--suppressions", HERE / "private.suppr")
        if asked.write:
            asked.baseline.write_text(said)
            return
        if asked.opaque:
            (place / "opaque.suppr").write_text(f"[suppress_type]\n  name_regexp = ^({asked.opaque})$\n")
            options = ["--suppressions", place / "opaque.suppr"]
        (place / "built.abi").write_text(said)
        compare(verdict, asked.baseline, place / "built.abi", options)
    verdict.close(("interfaces", 1))


main()
