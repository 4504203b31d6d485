#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The checks of this folder fail where they have to: libraries and headers with one thing wrong each.

planted.py CC. What is built of changed headers is held against the baselines of the tree: functions that do nothing, but
of the same names and types, are the same interface.
"""
import pathlib
import re
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "doc"))
from doctree import INCLUDE_FOLDERS, Header, Verdict, need, run  # noqa: E402

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
    "writable": ([], ["-Wl,--omagic,-Bdynamic"], "", "writable and executable"),
    "address": ([], ["-no-pie"], "int main(void) { return 0; }", "bound to an address"),
    "lazy": ([], ["-Wl,-z,lazy"], "", "bound lazily"),
    "relro": ([], ["-Wl,-z,norelro"], "", "no RELRO"),
    "code": ([], ["-Wl,-z,notext"], '__asm__(".quad puts");', "relocations of its code"),
    "protector": (["-fno-stack-protector"], [], "", "no stack protector"),
    "fortify": (["-U_FORTIFY_SOURCE"], [], "", "_FORTIFY_SOURCE is off"),
    "landing": (["-fcf-protection=none"], [], "", "-fcf-protection is off"),
    "export": ([], [], "int foreign(void) { return 1; }", "exports foreign"),
}
NODE = "NODE { global: pinlease_*; foreign; local: *; };"

# What is changed in pinlease.h, how, the baseline that sees it, and what is said of it.
LIBRARY, CONSTANTS = "libpinlease.abi", "constants.abi"
CHANGES = {
    "nothing": (r"\A", "", LIBRARY, None),
    "nothing, of constants": (r"\A", "", CONSTANTS, None),
    "a function gone": (r"int pinlease_ack\([^;]*;", "", LIBRARY, ": INCOMPATIBLE", "pinlease_ack(pinlease*, uint32_t)"),
    "a function more": (r"int pinlease_ack\(", r"int pinlease_more(void);\n\g<0>", LIBRARY, ": COMPATIBLE", "pinlease_more()"),
    "a parameter of another type": (r"(pinlease_ack\(struct pinlease \*lease, )uint32_t", r"\1uint64_t", LIBRARY,
                                    ": CHANGED", "name changed from uint32_t to uint64_t"),
    "an answer of another type": (r"int (pinlease_ack\()", r"long \1", LIBRARY, ": CHANGED", "from 'int' to 'long int'"),
    "a parameter that is another object": (r"(pinlease_ack\(struct pinlease)", r"\1_file", LIBRARY, ": CHANGED",
                                           "pinlease_file"),
    "a member wider": (r"uint32_t deadline_ms", "uint64_t deadline_ms", LIBRARY, ": CHANGED", "restore_ms' offset"),
    "two members exchanged": (r"uint32_t mode, guard;", "uint32_t guard, mode;", LIBRARY, ": CHANGED", "guard' offset"),
    "a member gone": (r"\tuint64_t deadline_ns;[^\n]*", "", LIBRARY, ": CHANGED", "deadline_ns"),
    "a member more in the middle": (r"(struct pinlease_file_opts \{\s*size_t size;)", r"\1 uint64_t more;", LIBRARY,
                                    ": CHANGED", "more", "access' offset"),
    "a member more at the end": (r"(struct pinlease_opts \{[^}]*)\}", r"\1\tuint64_t more;\n}", LIBRARY, ": CHANGED",
                                 "uint64_t more", "from 640 to 704"),
    "a member's pointer to another function": (r"(\*log\)\(void \*arg, )int", r"\1long", LIBRARY, ": CHANGED", "log"),
    "an enumeration's constant moved": (r"PINLEASE_FILE_FREE,", "PINLEASE_FILE_FREE = 7,", CONSTANTS, ": CHANGED",
                                        "PINLEASE_FILE_FREE' from value '2' to '7'"),
    "an enumeration's constant gone": (r"PINLEASE_EV_NOTICE,", "", CONSTANTS, ": CHANGED", "PINLEASE_EV_NOTICE"),
    "an enumeration's constant more": (r"PINLEASE_EV_NOTICE,", r"\g<0> PINLEASE_EV_MORE,", CONSTANTS, ": COMPATIBLE",
                                       "PINLEASE_EV_MORE"),
    "a macro moved": (r"PINLEASE_L_MANUAL\s+\(1u << 1\)", "PINLEASE_L_MANUAL (1u << 6)", CONSTANTS, ": CHANGED",
                      "PINLEASE_L_MANUAL' from value '2' to '64'"),
    "a macro gone": (r"#define PINLEASE_L_MANUAL[^\n]*", "", CONSTANTS, ": CHANGED", "PINLEASE_L_MANUAL"),
    "a structure nobody gets": (r"(struct pinlease_why \{)", r"struct pinlease_more {\n\tint a;\n};\n\1", CONSTANTS,
                                "struct pinlease_more"),
}


def python(script, *args):
    result = run([sys.executable, "-B", HERE / script, *args])
    return result.returncode, result.stdout + result.stderr


def judge(verdict, what, answer, *complaints):
    code, output = answer
    verdict.count("plants")
    if complaints == (None,):
        if code:
            verdict.bad(what, f"nothing is wrong with it, and it fails: {output}")
    elif code != 1 or not all(complaint in output for complaint in complaints):
        verdict.bad(what, f"was not found: status {code}\n{output}")


def libraries(verdict, cc, folder):
    (folder / "map").write_text(NODE)
    for what, (compile_flags, link_flags, more, complaint) in LIBRARIES.items():
        source, library = folder / "plant.c", folder / f"{what}.so"
        source.write_text(SOURCE + more + "\n")
        link = LINK[1:] if "-no-pie" in link_flags else LINK
        built = run([cc, *COMPILE, *compile_flags, *link, *link_flags, f"-Wl,--version-script={folder}/map",
                     "-o", library, source])
        if built.returncode:
            verdict.bad(what, f"cannot be built: {built.stderr}")
            continue
        judge(verdict, what, python("check_hardening.py", library, "--exports", "NODE", "--fortified", "--endbr"),
              complaint)


def stub(cc, include, folder):
    """A library with the functions of the headers below include, all of which do nothing."""
    paths = sorted(include.rglob("*.h"))
    text = "".join(f"#include <{path.relative_to(include)}>\n" for path in paths)
    for path in paths:
        text += "".join(declared[:-1] + "{ __builtin_trap(); }\n" for declared in Header(path).functions.values())
    (folder / "stub.c").write_text(text)
    (folder / "map").write_text("LIBPINLEASE_0 { global: pinlease_*; local: *; };")
    built = run([cc, "-g", "-shared", "-fPIC", "-I", include, "-Wl,-soname,libpinlease.so.0", "-Wl,--version-script=map",
                 "-o", "stub.so", "stub.c"], cwd=folder)
    if built.returncode:
        sys.exit(f"the headers do not compile:\n{built.stderr}")
    return folder / "stub.so"


def interfaces(verdict, cc, folder):
    public, *others = INCLUDE_FOLDERS
    for what, (pattern, change, baseline, *complaints) in CHANGES.items():
        copy = folder / "include"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(public, copy)
        text, number = re.subn(pattern, change, (copy / "pinlease.h").read_text(), count=1)
        if not number:
            verdict.bad(what, "there is nothing to change")
        (copy / "pinlease.h").write_text(text)
        looked_at = [stub(cc, copy, folder)] if baseline == LIBRARY else [copy, *others]
        asked = [] if baseline == LIBRARY else ["--constants", cc]
        judge(verdict, what, python("check_abi.py", *asked, HERE / baseline, *looked_at), *complaints)


def main():
    cc, verdict = sys.argv[1], Verdict()
    need("abidiff")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        libraries(verdict, cc, folder)
        interfaces(verdict, cc, folder)
    verdict.close(("plants", len(LIBRARIES) + len(CHANGES)))


main()
