#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The checks of this folder fail where they have to: libraries and headers with one thing wrong each.

planted.py CC LIBRARY FOLDER: FOLDER has the public headers, LIBRARY is what is built of them.
"""
import pathlib
import re
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "doc"))
from doctree import Verdict, run  # noqa: E402

HEADERS = ("pinlease.h", "pinlease/backend.h")

SOURCE = r"""
#include <stdio.h>
#include <string.h>
int pinlease_one(char *to, const char *from)
{
	char text[64];
	snprintf(text, sizeof(text) - (size_t)from[0], "%s", from);
	strcpy(to, text);
	return puts(to);
}
int other(void) { return 0; }
"""

COMPILE = ["-O2", "-fPIC", "-fstack-protector-strong", "-fcf-protection", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
LINK = ["-shared", "-Wl,-z,relro,-z,now,-z,noexecstack"]
# What is wrong: flags of the compiler, of the linker, what goes into the source, the word of the complaint.
LIBRARIES = {
    "nothing": ([], [], "", None),
    "stack": ([], ["-Wl,-z,execstack"], "", "executable stack"),
    "lazy": ([], ["-Wl,-z,lazy"], "", "bound lazily"),
    "relro": ([], ["-Wl,-z,norelro"], "", "no RELRO"),
    "code": ([], ["-Wl,-z,notext"], '__asm__(".quad puts");', "relocations of its code"),
    "protector": (["-fno-stack-protector"], [], "", "no stack protector"),
    "fortify": (["-U_FORTIFY_SOURCE"], [], "", "_FORTIFY_SOURCE is off"),
    "landing": (["-fcf-protection=none"], [], "", "-fcf-protection is off"),
    "export": ([], [], "int foreign(void) { return 1; }", "exports foreign"),
}
NODE = "NODE { global: pinlease_*; foreign; local: *; };"

# What is changed in pinlease.h.
CHANGES = {
    "nothing": (r"\A", "", None),
    "a member wider": (r"uint32_t deadline_ms", "uint64_t deadline_ms", "deadline_ms"),
    "two members exchanged": (r"uint32_t mode, guard;", "uint32_t guard, mode;", "guard"),
    "a member more": (r"(struct pinlease_view \{[^}]*)\}", r"\1\tuint64_t more;\n}", "more"),
    "a constant moved": (r"PINLEASE_L_MANUAL\s+\(1u << 1\)", "PINLEASE_L_MANUAL (1u << 6)", "PINLEASE_L_MANUAL 64"),
    "a parameter of another type": (r"pinlease_ack\(struct pinlease \*lease, uint32_t gen\)",
                                    "pinlease_ack(struct pinlease *lease, uint64_t gen)", "pinlease_ack"),
}


def python(script, *args):
    result = run([sys.executable, "-B", HERE / script, *args])
    return result.returncode, result.stdout + result.stderr


def judge(verdict, what, answer, complaint):
    code, output = answer
    verdict.count("plants")
    if complaint is None and code:
        verdict.bad(what, f"nothing is wrong with it, and it fails: {output}")
    elif complaint and (not code or complaint not in output):
        verdict.bad(what, f"was not found: {output}")


def libraries(verdict, cc, folder):
    (folder / "map").write_text(NODE)
    for what, (compile_flags, link_flags, more, complaint) in LIBRARIES.items():
        source, library = folder / "plant.c", folder / f"{what}.so"
        source.write_text(SOURCE + more + "\n")
        built = run([cc, *COMPILE, *compile_flags, *LINK, *link_flags, f"-Wl,--version-script={folder}/map",
                     "-o", library, source])
        if built.returncode:
            verdict.bad(what, f"cannot be built: {built.stderr}")
            continue
        judge(verdict, what, python("check_hardening.py", library, "--exports", "NODE", "--fortified", "--endbr"),
              complaint)


def headers(verdict, cc, library, public, folder):
    baseline = folder / "baseline.abi"
    python("check_abi.py", "--write", baseline, cc, library, public, *HEADERS)
    for what, (pattern, change, complaint) in CHANGES.items():
        copy = folder / "include"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(public, copy)
        text, number = re.subn(pattern, change, (copy / "pinlease.h").read_text(), count=1)
        if not number:
            verdict.bad(what, "there is nothing to change")
        (copy / "pinlease.h").write_text(text)
        judge(verdict, what, python("check_abi.py", baseline, cc, library, copy, *HEADERS), complaint)
    judge(verdict, "another library",
          python("check_abi.py", baseline, cc, folder / "nothing.so", public, *HEADERS), "pinlease_one NODE")


def main():
    cc, library, public = sys.argv[1:]
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        libraries(verdict, cc, folder)
        headers(verdict, cc, pathlib.Path(library), pathlib.Path(public), folder)
    verdict.close(("plants", len(LIBRARIES) + len(CHANGES) + 1))


main()
