#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of a row goes: profile.py FOLDER SYMBOLS, for scripts/bench-profile.

The folder has, of two runs, when each side was measured (clock.spans, calls.spans) and what perf script says
of the samples (clock) and of the system calls (calls).
"""
import bisect
import collections
import pathlib
import re
import subprocess
import sys

SIDES = ("ours", "floor")
# The outermost frame of a call chain that says why the kernel runs.
ENTRY = re.compile(r"(?:__(?:x64|do|se)_sys_|ksys_)(\w+)$")
FAULT = re.compile(r"asm_exc_|exc_page_fault")
INTERRUPT = re.compile(r"asm_(sysvec|common_interrupt)")
# The machine's headers may be older than the library.
NEWER = {451: "cachestat"}
SAMPLE = re.compile(r"(\d+\.\d+):")


class Spans:
    """When which side was measured."""

    def __init__(self, path):
        rows = [line.split() for line in path.read_text().splitlines()]
        self.spans = sorted((int(began), int(ended), side) for side, began, ended in rows)
        self.starts = [began for began, _, _ in self.spans]
        self.count = collections.Counter(side for _, _, side in self.spans)
        self.mean = {side: sum(e - b for b, e, s in self.spans if s == side) / 1e3 / max(1, self.count[side])
                     for side in SIDES}

    def side(self, seconds):
        """Whose a moment is, or None."""
        whole, part = seconds.split(".")
        at = int(whole) * 10**9 + int(part.ljust(9, "0"))
        i = bisect.bisect_right(self.starts, at) - 1
        return self.spans[i][2] if i >= 0 and at <= self.spans[i][1] else None


def samples(path):
    """(time, [(symbol, library)]), innermost frame first."""
    moment, frames = None, []
    for line in path.read_text(errors="replace").splitlines():
        found = SAMPLE.match(line.strip())
        if found:
            moment, frames = found.group(1), []
        elif line.strip():
            words = re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line)
            frames.append((words.group(1), words.group(2)) if words else ("?", "?"))
        elif moment:
            yield moment, frames
            moment = None
    if moment:
        yield moment, frames


def is_kernel(library):
    return library.startswith("[") and library not in ("[vdso]", "[unknown]")


def reason_of(frames):
    """What the time was spent for, as who wrote the program sees it."""
    symbol, library = frames[0]
    if not is_kernel(library):
        return "in " + pathlib.PurePath(library).name
    for symbol, library in reversed(frames):
        if FAULT.search(symbol):
            return "page fault"
        if INTERRUPT.match(symbol):
            return "interrupt"
        found = ENTRY.match(symbol)
        if found:
            return found.group(1) + "()"
    return "entering and leaving the kernel"


def tally(samples_of, spans, key):
    seen = {side: collections.Counter() for side in SIDES}
    for moment, frames in samples_of:
        side = spans.side(moment)
        if side and frames:
            seen[side][key(frames)] += 1
    return seen


def table(title, unit, seen, scale, most):
    """Dearest over the floor first, then what is cheaper than there."""
    names = set(seen["ours"]) | set(seen["floor"])
    value = {n: [seen[side][n] * scale[side] for side in SIDES] for n in names}
    total = [sum(v[i] for v in value.values()) for i in (0, 1)]
    print(f"\n| {title} | ours, {unit} | share | floor, {unit} | share | over it |\n|---|---|---|---|---|---|")
    rows = sorted(names, key=lambda n: -abs(value[n][0] - value[n][1]))[:most]
    for n in sorted(rows, key=lambda n: value[n][1] - value[n][0]):
        print(row(n, value[n], total))
    print(row("all", total, total))


def row(name, value, total):
    share = [100 * v / t if t else 0 for v, t in zip(value, total)]
    return (f"| {name} | {value[0]:.2f} | {share[0]:.1f} % | {value[1]:.2f} | {share[1]:.1f} % | "
            f"{value[0] - value[1]:+.2f} |")


def call_names():
    text = subprocess.run(["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"],
                          capture_output=True, text=True, check=True).stdout
    return NEWER | {int(n): name for name, n in re.findall(r"#define __NR_(\w+) (\d+)\n", text)}


def main():
    folder, most = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    spans = Spans(folder / "clock.spans")
    taken = [s for s in samples(folder / "clock") if s[1]]
    counted = collections.Counter(spans.side(moment) for moment, _ in taken)
    for side in SIDES:
        print(f"{side}: {spans.count[side]} times, {spans.mean[side]:.2f} us, {counted[side]} samples")
    period = [float(line) for line in (folder / "period").read_text().split()][0]
    scale = {side: period / max(1, spans.count[side]) for side in SIDES}
    table("time in", "us", tally(taken, spans, reason_of), scale, most)
    table("time by symbol", "us", tally(taken, spans, lambda frames: frames[0][0]), scale, most)

    spans = Spans(folder / "calls.spans")
    names = call_names()
    calls = [(m.group(1), [names.get(int(m.group(2)), m.group(2))])
             for m in re.finditer(r"(\d+\.\d+):.* NR (-?\d+) ", (folder / "calls").read_text())]
    scale = {side: 1 / max(1, spans.count[side]) for side in SIDES}
    table("system calls", "a time", tally(calls, spans, lambda frames: frames[0]), scale, most)


main()
