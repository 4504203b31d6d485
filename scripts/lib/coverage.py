# SPDX-License-Identifier: BSD-3-Clause
"""What of lib/ was run, by file, and whether that is enough.

usage: coverage.py BUILD [TABLE]

BUILD was configured with PINLEASE_COVERAGE and has run its tests. Prints lines and branches of each file and,
below, each function that has lines which were not run, with those lines. A line or branch that is compiled into
several objects (headers) was run if it was in one of them.

Exits 1 below the bars, and, with TABLE (docs/coverage.md), for a function with lines that were not run and that
TABLE does not explain, or one that TABLE names and that is not there. What TABLE explains and was run is only said:
a race may be won this time. The two branches of an assert() are one: the other ends the program.
"""
import collections
import gzip
import json
import pathlib
import re
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
MIN_LINES, MIN_BRANCHES = 95.0, 85.0


class File:
    def __init__(self):
        self.lines = collections.Counter()		# line: how often
        self.function = {}				# line: its name
        self.branches = collections.Counter()		# (line, nth of it): how often

    def covered_lines(self):
        return sum(1 for count in self.lines.values() if count)

    def covered_branches(self):
        return sum(1 for count in self.branches.values() if count)


def gcov_files(build):
    """What gcov says of each object, whether it was run or not."""
    notes = sorted(build.glob("lib/CMakeFiles/pinlease_*.dir/*.gcno"))
    if not notes:
        sys.exit(f"{build} has no counting objects")
    with tempfile.TemporaryDirectory() as folder:
        for note in notes:
            subprocess.run(["gcov", "--json-format", "--branch-probabilities", "--hash-filenames", str(note)],
                           cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for path in pathlib.Path(folder).glob("*.gcov.json.gz"):
            yield from json.loads(gzip.decompress(path.read_bytes()))["files"]


def merged(build):
    files = collections.defaultdict(File)
    for one in gcov_files(build):
        path = pathlib.Path(one["file"]).resolve()
        if not path.is_relative_to(TOP / "lib"):
            continue
        text = path.read_text().splitlines()
        file = files[str(path.relative_to(TOP))]
        for line in one["lines"]:
            number = line["line_number"]
            file.lines[number] += line["count"]
            file.function.setdefault(number, line.get("function_name", "?"))
            if re.match(r"\s*assert\(", text[number - 1]):
                continue
            for nth, branch in enumerate(line["branches"]):
                file.branches[number, nth] += branch["count"]
    return files


def explained(table):
    """(file, function) of the rows of the table."""
    rows = re.findall(r"^\| `(lib/[\w.]+)` \| (\w+(?:, \w+)*) \|", table.read_text(), re.MULTILINE)
    return {(file, name) for file, names in rows for name in names.split(", ")}


def percent(part, whole):
    return 100.0 * part / whole if whole else 100.0


def print_row(name, files):
    lines = sum(len(f.lines) for f in files)
    run = sum(f.covered_lines() for f in files)
    branches = sum(len(f.branches) for f in files)
    taken = sum(f.covered_branches() for f in files)
    print(f"{name:28} {run:6} /{lines:6} {percent(run, lines):6.1f} % {taken:7} /{branches:6} "
          f"{percent(taken, branches):6.1f} %")
    return percent(run, lines), percent(taken, branches)


def missing_lines(file):
    """{function: [line that was not run, ...]}"""
    missing = collections.defaultdict(list)
    for number in sorted(number for number, count in file.lines.items() if not count):
        missing[file.function[number]].append(number)
    return missing


def rows_hold(files, known):
    """Whether all that the table names is there."""
    there = {(name, function) for name, file in files.items() for function in file.function.values()}
    not_run = {(name, function) for name, file in files.items() for function in missing_lines(file)}
    for name, function in sorted(known - there):
        print(f"  {name} {function}: is explained, and there is no such function")
    if run := sorted(known & there - not_run):
        print("\nExplained, and run this time:", ", ".join(f"{name} {function}" for name, function in run))
    return known <= there


def main(build, table=None):
    files = merged(pathlib.Path(build).resolve())
    print(f"{'':28} {'lines':>22} {'branches':>26}")
    for name in sorted(files):
        print_row(name, [files[name]])
    lines, branches = print_row("lib/", files.values())
    failed = lines < MIN_LINES or branches < MIN_BRANCHES
    known = explained(pathlib.Path(table)) if table else None
    print("\nNot run:")
    for name, file in sorted(files.items()):
        for function, numbers in missing_lines(file).items():
            mark = ""
            if known is not None and (name, function) not in known:
                failed, mark = True, f"  not explained in {table}"
            print(f"  {name} {function}: {' '.join(map(str, numbers))}{mark}")
    if known is not None and not rows_hold(files, known):
        failed = True
    print(f"\nlines {lines:.1f} % (at least {MIN_LINES}), branches {branches:.1f} % (at least {MIN_BRANCHES}): "
          f"{'NOT ENOUGH, or not explained' if failed else 'enough'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
