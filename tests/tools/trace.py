#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The tracepoints of the library, and the script that makes a timeline of them.

trace.py notes LIBRARY: they are there, as they are documented, and each is one nop.
trace.py timeline LIBRARY PINLEASECTL SCRIPT: bpftrace shows a break from beginning to end.
"""
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from terminal import Failure, check, run, skip

ARGUMENTS = {"file_state": 5, "lease_state": 6}
NOP = 0x90
# What one break of a file with one lease looks like, from its acquire to its end.
ARROWS = ["INIT to ACTIVE: acquired", "file: break", "ACTIVE to BREAKING: break", "BREAKING to FENCING: drained",
          "file: let go", "FENCING to REVOKED: let go", "file: rearm", "file: taken", "REVOKED to ACTIVE: restored",
          "ACTIVE to BREAKING: break", "BREAKING to FENCING: drained", "FENCING to CLOSED: released", "file: closed"]


def sections(path):
    """{name: (address, offset, size)} of a 64-bit ELF file."""
    listed = run(["readelf", "-SW", path]).stdout.decode()
    found = re.findall(r"\] (\.\S+)\s+\w+\s+([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)", listed)
    return {name: tuple(int(n, 16) for n in numbers) for name, *numbers in found}


def notes(path):
    """(name, location, semaphore, arguments) of each probe; its address corrected for where .stapsdt.base is."""
    listed = run(["readelf", "-n", path]).stdout.decode()
    base = sections(path).get(".stapsdt.base", (0,))[0]
    for part in listed.split("Provider: pinlease\n")[1:]:
        name = re.search(r"Name: (\w+)", part)[1]
        location, was, semaphore = (int(n, 16) for n in re.search(
            r"Location: (\w+), Base: (\w+), Semaphore: (\w+)", part).groups())
        # Operands may have commas and brackets of their own, but no blanks.
        yield name, location + base - was, semaphore, re.search(r"Arguments: (.*)", part)[1].split()


def test_notes(library):
    found = list(notes(library))
    if not found:
        skip("this library was built without sys/sdt.h")
    check({name for name, *_ in found} == set(ARGUMENTS), f"probes: {found}")
    text_address, text_offset, _ = sections(library)[".text"]
    with open(library, "rb") as file:
        for name, location, semaphore, arguments in found:
            check(len(arguments) == ARGUMENTS[name], f"{name}: {arguments}")
            check(not semaphore, f"{name} is guarded by a semaphore, which somebody would have to test")
            file.seek(location - text_address + text_offset)
            there, = struct.unpack("B", file.read(1))
            check(there == NOP or os.uname().machine != "x86_64", f"{name}: {there:#x} at {location:#x}, not a nop")
    print(f"{len(found)} probes, each a nop")


class Tracer:
    """bpftrace, attached."""

    def __init__(self, library, script):
        self.text = ""
        self.process = subprocess.Popen(["bpftrace", "-B", "none", script, library], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        # It takes its time: 16 seconds in an emulated guest.
        self.wait_for("COMM", 150)

    def wait_for(self, pattern, seconds):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            check(time.monotonic() < end, f"no {pattern!r} from bpftrace:\n{self.text}")
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                more = os.read(self.process.stdout.fileno(), 4096).decode()
                check(more, f"bpftrace has ended:\n{self.text}")
                self.text += more

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.text += self.process.communicate(timeout=60)[0].decode()
        return self.text


def break_once(ctl, path, tracer):
    """A lease that is broken once; its holder's pid, and the truncating process's."""
    with subprocess.Popen([ctl, "hold", path, "--json"], stdout=subprocess.PIPE) as holder:
        try:
            check(json.loads(holder.stdout.readline())["event"] == "ACQUIRED", "no lease")
            with subprocess.Popen([sys.executable, "-c", f"import os; os.truncate({path!r}, 4096)"]) as opener:
                check(opener.wait(60) == 0, "truncate")
            events = [json.loads(holder.stdout.readline())["event"] for _ in range(3)]
            check(events == ["BREAK", "REVOKED", "RESTORED"], f"{events}")
            holder.send_signal(signal.SIGTERM)
            check(holder.wait(60) == 0, "release")
            tracer.wait_for(f" {holder.pid} .*closed", 60)
        finally:
            holder.kill()
    return holder.pid, opener.pid


def test_timeline(library, ctl, script):
    if os.geteuid() or not shutil.which("bpftrace"):
        skip("bpftrace is not installed, or this is not root")
    if not os.path.exists("/sys/kernel/tracing/events"):
        mounted = run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"])
        if mounted.returncode:
            skip(f"no tracefs here: {mounted.stderr.decode().strip()}")
    if not os.path.exists("/sys/bus/event_source/devices/uprobe"):
        skip("this kernel has no uprobes")
    tracer = Tracer(library, script)
    try:
        with tempfile.NamedTemporaryFile(prefix="traced-", dir="/tmp") as file:
            file.write(b"k" * 65536)
            file.flush()
            path = file.name + ".leased"
            # Nobody else may have it open.
            shutil.copy(file.name, path)
            try:
                holder, opener = break_once(ctl, path, tracer)
            finally:
                os.unlink(path)
    finally:
        text = tracer.end()
    print(text)
    lines = re.findall(r"^(\d+) +(\d*) +(\d+) +(\S+) +(file|inode) (\S+)(.*): ([a-z ]+)$", text, flags=re.M)
    ours = [(" ".join(rest.split()[-3:]) if " lease " in rest else "file", arrow, int(ns), int(us))
            for ns, us, pid, _, _, _, rest, arrow in lines if int(pid) == holder]
    check([f"{kind}: {arrow}" for kind, arrow, *_ in ours] == ARROWS, f"{[o[:2] for o in ours]}")
    check([o[2] for o in ours] == sorted(o[2] for o in ours), "out of order")
    began, let_go = ours[1], ours[4]
    check(began[3] == 0 and 0 <= let_go[3] <= (let_go[2] - began[2]) / 1000 + 1, f"{began} {let_go}")
    check(re.search(r"@break_us:\s", text), "no histogram")
    waits = {arrow: int(ns) for ns, _, pid, _, _, _, _, arrow in lines if int(pid) == opener}
    check(set(waits) == {"waits", "goes on"}, f"the opener: {waits}")
    check(waits["waits"] < waits["goes on"] and began[2] < waits["goes on"], f"{waits} {began}")


try:
    {"notes": test_notes, "timeline": test_timeline}[sys.argv[1]](*sys.argv[2:])
except Failure as failure:
    print(f"FAILED: {failure}")
    sys.exit(1)
