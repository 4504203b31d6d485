#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the demo and holds its JSON against what scripts/demo --help says of it.

test.py DIR: DIR has the demo's programs.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

NUMBER = (int, float)
WITH = {"mode": str, "guard": str, "acked": int, "missing": int, "breaks": int, "connection_kept": bool,
        "openers": list, "deaf": dict}
WHO_WHAT = {"owner": {"break", "fenced", "unpinned", "let_go", "restored"}, "peer": {"drained"},
            "opener": {"returned"}}
# Of one break. A restore comes when it comes, but never before the file was let go.
ORDER = ("break", "drained", "fenced", "unpinned", "let_go", "returned")


def check(condition, what):
    if not condition:
        sys.exit(f"wrong JSON: {what}")


def fields(thing, types, what):
    check(set(thing) == set(types), f"{what} has {sorted(thing)}")
    for key, kind in types.items():
        check(isinstance(thing[key], kind) and (kind is bool or not isinstance(thing[key], bool)),
              f"{what}.{key} is {thing[key]!r}")


def check_timeline(timeline, breaks):
    for entry in timeline:
        fields(entry, {"t_ms": NUMBER, "who": str, "what": str}, "timeline entry")
        check(entry["what"] in WHO_WHAT.get(entry["who"], ()), f"{entry}")
    times = [entry["t_ms"] for entry in timeline]
    check(times == sorted(times) and times[0] >= 0, "the timeline is not in order")
    at = {what: [e["t_ms"] for e in timeline if e["what"] == what] for what in (*ORDER, "restored")}
    for what, moments in at.items():
        check(len(moments) == breaks, f"{len(moments)} times {what}, and {breaks} breaks")
    for i in range(breaks):
        moments = [at[what][i] for what in ORDER]
        check(moments == sorted(moments), f"break {i}: {dict(zip(ORDER, moments))}")
        check(at["let_go"][i] <= at["restored"][i], f"break {i} was restored before it was let go")


def main():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "demo.json"
        demo = pathlib.Path(__file__).with_name("demo.py")
        if not any(pathlib.Path("/sys/class/infiniband").glob("*")):
            print("skip: no RDMA device")
            sys.exit(77)
        status = subprocess.run([sys.executable, demo, "--bin", sys.argv[1], "--json", file], check=False).returncode
        result = json.loads(file.read_text())
    fields(result, {"kernel": str, "without": dict, "with": dict, "timeline": list}, "result")
    fields(result["without"], {"tmpfs": dict}, "without")
    fields(result["without"]["tmpfs"], {"acked": int, "missing": int, "breaks": int}, "without.tmpfs")
    check(result["without"]["tmpfs"]["breaks"] == 0, "breaks without the library")
    fields(result["with"], {"ext4": dict, "tmpfs": dict}, "with")
    for name, row in result["with"].items():
        fields(row, WITH, name)
        fields(row["deaf"], {"connection_kept": bool, "opener_ms": NUMBER}, f"{name}.deaf")
        for opener in row["openers"]:
            fields(opener, {"op": str, "blocked_ms": NUMBER}, f"{name} opener")
        check(len(row["openers"]) == row["breaks"] == 4, f"{name}: {row['breaks']} breaks")
    check_timeline(result["timeline"], sum(row["breaks"] for row in result["with"].values()))
    sys.exit(status)


main()
