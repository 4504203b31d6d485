# SPDX-License-Identifier: BSD-3-Clause
"""What several ctest runs come to: time by label, and every skip with its reason.

usage: report.py SELECTED JUNIT...

SELECTED has a line "LABEL KERNEL NAME" for each test that was to be run; a JUNIT
file is named junit-KERNEL. Exits 1 if no test ran, or one that was selected did not
appear anywhere.
"""
import collections
import pathlib
import re
import sys
import xml.etree.ElementTree as ET


def reason_of(case):
    """What a skipped test said: its line about skipping, else its last one."""
    lines = [line.strip() for line in (case.findtext("system-out") or "").splitlines() if line.strip()]
    said = [line for line in lines if re.search(r"\bskip", line, re.IGNORECASE)]
    return (said or lines or ["no reason given"])[-1]


def main(selected_file, junit_files):
    wanted = {}
    for line in pathlib.Path(selected_file).read_text().splitlines():
        label, place, name = line.split()
        wanted[place, name] = label
    seconds = collections.defaultdict(float)
    tests = collections.Counter()
    skips = []
    ran = 0
    for file in junit_files:
        if not pathlib.Path(file).exists():
            continue
        place = pathlib.Path(file).name.removeprefix("junit-")
        for case in ET.parse(file).iter("testcase"):
            label = wanted.pop((place, case.get("name")), "?")
            seconds[label, place] += float(case.get("time", 0))
            tests[label, place] += 1
            if case.find("skipped") is not None:
                skips.append((label, place, case.get("name"), reason_of(case)))
            else:
                ran += 1
    print("\nTime by label and place:")
    for label, place in sorted(tests):
        print(f"  {label:10} {place:8} {tests[label, place]:5} tests {seconds[label, place]:9.1f} s")
    for label, place, name, reason in skips:
        print(f"skipped: {label} {place} {name}: {reason}")
    for (place, name), label in sorted(wanted.items()):
        print(f"did not run: {label} {place} {name}")
    return 0 if ran and not wanted else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
