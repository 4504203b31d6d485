#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs spin's exhaustive search over break.pml, in a folder of its own.

check_model.py SPIN CC holds DEFINES [DEFINES of the long tier]
	Every state is visited, and no assertion fails.
check_model.py SPIN CC fails TEXT DEFINES
	The search ends with an error that has TEXT in it: the mistake in DEFINES is seen.
check_model.py SPIN CC arrows PROGRAM DEFINES [DEFINES of the long tier]
	And the arrows walked are those of the library's tables, all of them, by name:
	PROGRAM (tests/doc/state_arrows.c) prints these.

DEFINES is one word: OPS=1,LIFE.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

MODEL = pathlib.Path(__file__).parent / "break.pml"
DEPTH = 100000
LEAST_STATES = 1000
QUICK = "-O0"  # the compiler would take longer than the search
DEADLOCK = "invalid end state"


def fail(text):
    print(text)
    sys.exit(1)


def run(command, folder):
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")
    return done.stdout


def search(spin, cc, defines, level, *flags):
    """pan's words. -DREVERSE: the workers come first, so that what goes wrong after a restore is met early."""
    with tempfile.TemporaryDirectory() as folder:
        run([spin, "-a"] + [f"-D{d}" for d in defines.split(",")] + [str(MODEL)], folder)
        run([cc, level, "-DSAFETY", "-DREVERSE", "-DCOLLAPSE", "-o", "pan", "pan.c"], folder)
        return run(["./pan", f"-m{DEPTH}", "-n", *flags], folder)


def states(said):
    found = re.search(r"(\d+) states, stored", said)
    return int(found.group(1)) if found else 0


def errors(said):
    return [line for line in said.splitlines() if line.startswith("pan:1:")]


def holds(said):
    """An error, or a search that was cut short, is none."""
    if errors(said) or "errors: 0" not in said:
        fail(said)
    for trouble in ("too small", "out of memory", "not completed", "aborted"):
        if trouble in said:
            fail(said)
    if states(said) < LEAST_STATES:
        fail(f"{states(said)} states are no search\n{said}")


def compare(program, said):
    walked = {line[len("arrow|"):] for line in said.splitlines() if line.startswith("arrow|")}
    library = set(run([program], ".").split("\n")) - {""}
    for arrow in sorted(library ^ walked):
        print("never walked by the model:" if arrow in library else "no arrow of the library's:", arrow)
    if library ^ walked or not library:
        sys.exit(1)
    print(f"{len(library)} arrows")


def main():
    spin, cc, what, *rest = sys.argv[1:]
    if not pathlib.Path(spin).exists():
        print(f"skipped: no spin ({spin})")
        sys.exit(77)
    if what == "fails":
        text, defines = rest
        # The other kind of error is not looked for.
        said = search(spin, cc, defines, QUICK, "-A" if text == DEADLOCK else "-E")
        if not any(text in line for line in errors(said)):
            fail(f"no error says \"{text}\"\n{said}")
        print("\n".join(errors(said)))
    else:
        program = rest.pop(0) if what == "arrows" else None
        long = os.environ.get("PINLEASE_TIER") == "long"
        defines = rest[-1] if long else rest[0]
        said = search(spin, cc, defines, "-O2" if long else QUICK)
        holds(said)
        if program:
            compare(program, said)
    print(f"{defines}: {states(said)} states")


main()
