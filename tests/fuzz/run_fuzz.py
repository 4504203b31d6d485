#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""run_fuzz.py PROGRAM CORPUS: fuzzes for as long as tests/rounds.h says, from the inputs of CORPUS.

CORPUS has an input a line, bytes written as Python writes them (\\x00, \\n); # begins a comment. What was found
once is there, too, so that it is looked at first. Fails with the input, written so that it can be added there.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROUNDS = pathlib.Path(__file__).parent.parent / "rounds.h"
# A machine with much else to do: an input takes microseconds otherwise.
INPUT_SECONDS = 120


LONG = os.environ.get("PINLEASE_TIER") == "long"


def seconds():
    found = re.search(r"PL_ROUNDS\(fuzz_seconds, (\d+), (\d+)\)", ROUNDS.read_text())
    return int(found.group(2 if LONG else 1))


def seeds(corpus):
    lines = [line for line in corpus.read_text().splitlines() if line and not line.startswith("#")]
    return [line.encode("latin-1").decode("unicode_escape").encode("latin-1") for line in lines]


def written(data):
    return "".join(chr(b) if 0x20 <= b < 0x7f and b != 0x5c and b != 0x23 else f"\\x{b:02x}" for b in data)


def main():
    program, corpus = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "seeds").mkdir()
        for i, data in enumerate(seeds(corpus)):
            (work / "seeds" / str(i)).write_bytes(data)
        done = subprocess.run([program, f"-max_total_time={seconds()}",
                               # From the same seed each time in the ci tier, from another one (0) in the long one.
                               f"-seed={0 if LONG else 1}", f"-timeout={INPUT_SECONDS}", "-max_len=512", "-len_control=0",
                               "-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={work}/found-", "seeds"],
                              cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", text=True)
        found = list(work.glob("found-*"))
        print("\n".join(done.stdout.splitlines()[-60:]))
        for name in found:
            print(f"{name.name}: add this line to {corpus.name} and mend what it found:\n{written(name.read_bytes())}")
        runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
        if done.returncode or found:
            sys.exit(1)
        if not runs or int(runs.group(1)) < 2 * len(seeds(corpus)):
            sys.exit("that was no fuzzing")


main()
