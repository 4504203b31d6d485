#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The bench works: check_bench.py PINLEASE-BENCH. No figure is judged here.

Names, what is refused, two quick rows with their JSON, the charts, and that what is shown of the run in docs/
was made of it.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parents[2]
BENCH = TOP / "scripts/bench"
CHARTS = TOP / "scripts/bench-charts"
# The design's, and what it asks for besides; a family stands for its variants: NAME_something.
ROWS = ["begin_end", "begin_end_2t", "begin_end_64t", "break_ext4", "break_tmpfs", "break_ext4_polled",
        "break_tmpfs_polled", "break_mr", "break_10k", "break_10k_at_once", "break_10k_allocations", "break_10k_opens",
        "break_10k_lock_waits", "acquire_2m_pinned", "acquire_2m_odp", "acquire_2m_staged", "restore_2m_pinned",
        "restore_2m_odp", "restore_2m_staged", "acquire_20k_files", "acquire_20k_one_file", "mem_lease_pinned",
        "mem_lease_staged", "write_bw_64", "write_bw_1m", "writeback_bw_64k", "writeback_bw_16m", "sync_told",
        "bystander_read_ext4", "memlock_2m_pinned"]
KEYS = ["name", "unit", "value", "floor", "ratio", "bar", "better", "verdict", "samples"]
SVG = "{http://www.w3.org/2000/svg}"


def fail(what):
    sys.exit(f"bench_works: {what}")


def check(true, what):
    if not true:
        fail(what)


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)


def names_of(program):
    listed = [line.split() for line in run(program, "--list").stdout.splitlines()]
    names = [words[0] for words in listed]
    check(len(set(names)) == len(names), "names are not unique")
    check(all(words[1] in ("native", "guest") and len(words) > 3 for words in listed), "a row does not say what it is")
    for name in ROWS:
        check(name in names, f"no row {name}")
    return names


def refusals(program):
    for command in ([program, "--nonsense"], [program, "--only"], [program, "--only", "no_such_row"],
                    [BENCH, "--nonsense"], [BENCH, "--only"], [BENCH, "--json"]):
        done = run(*command)
        check(done.returncode != 0 and done.stderr, f"{command} is not refused")
    done = run(BENCH, "--help")
    check(done.returncode == 0 and "--json" in done.stdout, "scripts/bench --help")


def measured(program, name, out, variants):
    """Its rows, as printed and as JSON."""
    done = run(program, "--only", name, "--json", out)
    check(done.returncode == 0, f"--only {name}: {done.stderr}")
    rows = json.loads(out.read_text())
    printed = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(f"| {name}")]
    check([row["name"] for row in rows] == variants, f"--only {name} measured {rows}")
    check([line[0] for line in printed] == [f"| {name}" for name in variants], f"the table of {name}: {done.stdout}")
    for row, line in zip(rows, printed):
        check(list(row) == KEYS, f"keys: {list(row)}")
        check(row["better"] in ("lower", "higher") and row["verdict"] in ("met", "missed", "undecided"), f"{row}")
        check(row["value"] > 0 and row["samples"] > 0 and row["verdict"] in line[-1], f"{row}: {line}")
    return rows


def judged(rows):
    """What has no floor is judged by its value, and what has one has a ratio."""
    for row in rows:
        by_value = row["name"].startswith("mem_lease")
        check((row["floor"] is None) == by_value and (row["ratio"] is None) == by_value, f"{row}")
        if by_value:
            check((row["verdict"] == "met") == (row["value"] <= row["bar"]), f"{row}")
        else:
            check(0 < row["ratio"] < 100 and row["floor"] > 0, f"{row}")


def charts(work):
    made_up = [dict(zip(KEYS, [name, "us", 20.0 + i, 19.0, 1.05, 1.2, "lower", "met", 10])) for i, name in
               enumerate(["break_1", "break_100", "break_1k", "break_10k", "begin_end_1t", "begin_end_2t", "break_ext4"])]
    source = work / "rows.json"
    source.write_text(json.dumps(made_up))
    done = run(CHARTS, "--out", work, source)
    check(done.returncode == 0, f"the charts: {done.stderr}")
    for name, points in ("bench-leases", 4), ("bench-threads", 2):
        tree = xml.etree.ElementTree.parse(work / f"docs/{name}.svg")
        check(len(tree.findall(f"{SVG}polyline")) == 2, f"{name}: two lines")
        check(len(tree.findall(f"{SVG}circle")) == 2 * points, f"{name}: {points} points each")
    check("break_100 Ta us Ta 21 Ta 19 Ta 1.05 Ta <= 1.2 Ta met" in (work / "man/pinlease.7").read_text(), "the table")
    check(run(CHARTS, "--check", source).returncode != 0, "--check takes another run for the one in docs/")
    source.write_text(json.dumps(made_up + made_up[:1]))
    check(run(CHARTS, "--out", work, source).returncode != 0, "a name twice is drawn")
    done = run(CHARTS, "--check")
    check(done.returncode == 0, f"{done.stderr}")


def main():
    program = pathlib.Path(sys.argv[1])
    names = names_of(program)
    refusals(program)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        rows = measured(program, "mem_lease", work / "json",
                        [name for name in names if name.startswith("mem_lease_")])
        rows += measured(program, "begin_end", work / "json", ["begin_end"])
        judged(rows)
        charts(work)
    shown = {row["name"] for row in json.loads((TOP / "docs/bench.json").read_text())}
    check(shown <= set(names) and len(shown) > 30, f"docs/bench.json has rows that there are not: {shown - set(names)}")
    print(f"{len(names)} rows, {len(rows)} measured")


if __name__ == "__main__":
    main()
