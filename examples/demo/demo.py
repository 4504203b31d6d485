#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The main job, told as a story: RDMA writes into a file while somebody changes it.

demo.py --bin DIR [--json FILE]

Runs as root on a machine with an RDMA device; scripts/demo boots one and calls this in
it. Nothing is decided here but the order of things: every moment is stamped by the
program that lives through it, and demo-check counts.
"""
import argparse
import json
import os
import pathlib
import platform
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

SIZE = 2 << 20
SLOT = 512  # as in tell.h
SWEEP = SIZE // SLOT  # writes that fill the file once
DEADLINE_MS = 5000  # a peer that answers needs a few milliseconds of it
DEAF_DEADLINE_MS = 500
DEAF_SLACK_MS = 4500  # fence and writeback, on an emulated machine; the kernel alone waits for 45 s
PATIENCE_S = 60
MIN_WITHOUT = 2000  # thousands are missing without the library, or nothing was shown
FOREVER = (1 << 64) - 1

# What the opener does, in turn: name in the JSON, sentence, demo-opener's arguments.
OPS = (
    ("truncate", "truncate(file), to half of it", ("truncate", str(SIZE // 2))),
    ("grow", "truncate(file), to its old size", ("truncate", str(SIZE))),
    ("open_write", "open(file, O_RDWR)", ("write",)),
    ("read", "open(file, O_RDONLY), and reads it", ("read",)),
)
DEAF_OP = OPS[2]

START_NS = time.monotonic_ns()


class Failed(Exception):
    """The demo cannot go on."""


def headline(text):
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


class Story:
    """What the programs tell: lines with a time, from one queue."""

    def __init__(self):
        self.heard = queue.Queue()
        self.untold = []

    def listen(self, who, stream):
        for line in stream:
            ns, _, words = line.strip().partition(" ")
            self.heard.put((int(ns), who, words))
        self.heard.put((time.monotonic_ns(), who, "exit"))

    def add(self, ns, who, text):
        self.untold.append((ns, who, text))

    def tell(self):
        """In the order of time; pipes do not keep it."""
        for ns, who, text in sorted(self.untold):
            print(f"{(ns - START_NS) / 1e9:8.3f} s  {who:<7} {text}", flush=True)
        self.untold.clear()


class Pass:
    """One owner, one peer, one file, and an opener."""

    def __init__(self, stage, name, folder, owner, deaf=False):
        self.stage, self.name, self.deaf = stage, name, deaf
        self.file = folder / f"{name}.data"
        self.work = stage.work
        self.library = owner == "owner"
        self.programs = {}
        self.acked = self.restored = 0
        self.ending = False
        self.facts = {"mode": "pinned", "guard": "none", "why": "", "openers": [], "changed": []}
        self.timeline = []
        self.looks = []  # (copy of the file, when it may be relied on)
        self.cut = (SIZE, 0)
        self.owner_program = owner

    # Programs

    def start(self, who, *args):
        program = subprocess.Popen([self.stage.bin / args[0], *map(str, args[1:])], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.programs[who] = program
        threading.Thread(target=self.stage.story.listen, args=(who, program.stdout), daemon=True).start()

    def wait_for(self, what, done):
        until = time.monotonic() + PATIENCE_S
        while not done():
            try:
                self.on_line(*self.stage.story.heard.get(timeout=max(0, until - time.monotonic())))
            except queue.Empty:
                self.stage.story.tell()
                raise Failed(f"{self.name}: waited {PATIENCE_S} s for {what}") from None
        self.stage.story.tell()

    def gone(self, who):
        return who not in self.programs

    def stop(self):
        for program in self.programs.values():
            program.kill()
            program.wait()

    # What they tell

    def on_line(self, ns, who, words):
        kind, _, rest = words.partition(" ")
        getattr(self, f"on_{kind}")(ns, who, rest)

    def say(self, ns, who, text, *whats):
        self.stage.story.add(ns, who, text)
        if not self.ending:  # a release fences too, but nobody waits for it
            self.timeline += [(ns, who, what) for what in whats]

    def on_exit(self, _ns, who, _rest):
        status = self.programs.pop(who).wait()
        if status:
            raise Failed(f"{self.name}: the {who} failed with status {status}")

    def on_failed(self, _ns, who, rest):
        raise Failed(f"{self.name}: {who}: {rest}")

    def on_warning(self, ns, who, rest):
        self.say(ns, who, f"warning: {rest}")

    def on_leased(self, ns, who, rest):
        mode, guard, why = rest.split(" ", 2)
        self.facts.update(mode=mode, guard=guard, why=why)
        self.say(ns, who, f"leases the file: guard {guard}, mode {mode} ({why})")

    def on_ready(self, ns, who, _rest):
        if not self.library:
            self.say(ns, who, "maps the file and registers the mapping with ibv_reg_mr")
        self.facts["ready"] = True

    def on_acked(self, _ns, _who, rest):
        self.acked = int(rest)

    def on_break(self, ns, who, rest):
        self.say(ns, who, f"is told of a {rest}, and tells the peer to stop", "break")

    def on_drained(self, ns, who, _rest):
        self.say(ns, who, "has nothing in flight any more, and says so", "drained")

    def on_deaf(self, ns, who, _rest):
        self.say(ns, who, "is deaf and writes on")

    def on_lost(self, ns, who, rest):
        self.say(ns, who, f"lost its connection: {rest}")

    def on_fenced(self, ns, who, _rest):
        self.say(ns, who, "has deregistered: the device is fenced off, the memory unpinned", "fenced", "unpinned")

    def on_let_go(self, ns, who, _rest):
        self.say(ns, who, "lets the file go", "let_go")

    def on_revoked(self, _ns, _who, _rest):
        pass

    def on_restored(self, ns, who, rest):
        self.restored += 1
        self.say(ns, who, f"has the file again, {int(rest) >> 10} KiB" +
                 ("" if self.deaf else "; the peer goes on"), "restored")

    def on_returned(self, ns, who, rest):
        self.facts["returned"] = (ns, int(rest) / 1e6)
        self.say(ns - int(rest), who, f"calls {self.facts['call']}")
        self.say(ns, who, f"is let in after {int(rest) / 1e6:.1f} ms", "returned")

    def on_changed(self, ns, who, rest):
        self.facts["changed"].append(int(rest))
        self.say(ns, who, f"had it open for writing, and saw {int(rest):,} bytes change meanwhile")

    def on_peer_gone(self, ns, who, _rest):
        if self.deaf:
            self.say(ns, who, "sees that the peer is gone")

    def on_breaks(self, _ns, _who, rest):
        self.facts["breaks"] = int(rest)

    def on_end(self, _ns, _who, rest):
        self.facts["connection"] = rest.split()[0]

    def on_checked(self, ns, who, rest):
        acked, missing, looked = map(int, rest.split())
        self.facts.update(acked=acked, missing=missing)
        self.say(ns, who, f"{acked:,} writes were acknowledged; of {looked:,} that the file must hold, "
                          f"{missing:,} are missing")

    # What happens

    def more_writes(self, count):
        goal = self.acked + count
        self.wait_for("RDMA writes", lambda: self.acked >= goal or self.gone("peer"))
        if self.gone("peer"):
            raise Failed(f"{self.name}: the connection was lost")

    def begin(self):
        with open(self.file, "wb") as file:
            file.write(bytes(SIZE))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        args = (DEAF_DEADLINE_MS if self.deaf else DEADLINE_MS,) if self.library else ()
        self.start("owner", f"demo-{self.owner_program}", self.file, port, *args)
        self.wait_for("the owner", lambda: self.facts.get("ready"))
        self.log = self.work / "log"
        self.start("peer", "demo-peer", port, self.log, *(("deaf",) if self.deaf else ()))
        self.more_writes(SWEEP)

    def open(self, op):
        name, self.facts["call"], (verb, *args) = op
        copy = self.work / f"copy-{name}"
        before = self.restored
        self.say(time.monotonic_ns(), "peer", f"has had {self.acked:,} writes acknowledged")
        self.start("opener", "demo-opener", verb, self.file, *(args or (copy,)))
        self.wait_for("the opener", lambda: self.gone("opener"))
        ns, ms = self.facts["returned"]
        self.facts["openers"].append({"op": name, "blocked_ms": round(ms, 3)})
        if name == "truncate":
            self.cut = (SIZE // 2, ns)
        if not args:
            self.looks.append((copy, ns))
        if self.library:
            self.wait_for("the restore", lambda: self.restored > before)

    def end(self):
        self.say(time.monotonic_ns(), "owner", "is asked to finish: stops the peer, and releases the file")
        self.ending = True
        self.programs["owner"].stdin.close()
        self.wait_for("the end", lambda: self.gone("owner") and self.gone("peer"))
        self.looks.append((self.file, FOREVER))
        looks = [str(word) for look in self.looks for word in look]
        self.start("checker", "demo-check", self.log, *self.cut, *looks)
        self.wait_for("the checker", lambda: self.gone("checker"))

    def play(self):
        try:
            self.begin()
            if self.deaf:
                self.open(DEAF_OP)
                self.wait_for("the connection's end", lambda: self.gone("peer"))
            else:
                for op in OPS:
                    self.open(op)
                    self.more_writes(SWEEP + SWEEP // 4)
            self.end()
        finally:
            self.stop()
        return self.facts


class Stage:
    """The machine: a place for files, mounts, and the programs."""

    def __init__(self, folder):
        self.bin = pathlib.Path(folder)
        self.story = Story()
        self.work = None
        self.mounts = []

    def run(self, *command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise Failed(f"{' '.join(map(str, command))}: {done.stdout.strip()}")

    def mount(self, kind, *args):
        """A folder with a file system of its own, which is really the one asked for."""
        folder = self.work / kind
        folder.mkdir()
        self.run("mount", "-t", kind, *args, folder)
        self.mounts.append(folder)
        entries = [line.split() for line in open("/proc/self/mounts", encoding="utf-8")]
        if [entry[2] for entry in entries if entry[1] == str(folder)] != [kind]:
            raise Failed(f"{folder} is not {kind}")
        return folder

    def __enter__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="pinlease-demo."))
        return self

    def set_up(self):
        tmpfs = self.mount("tmpfs", "-o", "size=256M", "tmpfs")
        image = tmpfs / "ext4.image"
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        self.run("mkfs.ext4", "-q", "-F", image)
        return {"ext4": self.mount("ext4", "-o", "loop", image), "tmpfs": tmpfs}

    def __exit__(self, *_):
        for folder in reversed(self.mounts):
            subprocess.run(["umount", folder], check=False)
        shutil.rmtree(self.work, ignore_errors=True)


def without_result(facts):
    return {key: facts[key] for key in ("acked", "missing", "breaks")}


def with_result(first, deaf):
    return {
        "mode": first["mode"], "guard": first["guard"], "acked": first["acked"],
        "missing": first["missing"] + deaf["missing"], "breaks": first["breaks"],
        "connection_kept": first["connection"] == "kept", "openers": first["openers"],
        "deaf": {"connection_kept": deaf["connection"] == "kept", "opener_ms": deaf["openers"][0]["blocked_ms"]},
    }


def play_all(stage, result, rows):
    """Fills both, also when it cannot be completed."""
    folders = stage.set_up()
    headline("Without the library: tmpfs, a plain registration of the mapped file")
    facts = Pass(stage, "without", folders["tmpfs"], "bare").play()
    rows.append(("without", "tmpfs", facts))
    result["without"]["tmpfs"] = without_result(facts)
    print("No call failed, no connection broke, nobody was told.")
    for name, folder in folders.items():
        headline(f"With the library: {name}")
        first = Pass(stage, name, folder, "owner")
        facts = first.play()
        rows.append(("with", name, facts))
        result["timeline"] += [{"t_ms": round((ns - START_NS) / 1e6, 3), "who": who, "what": what}
                               for ns, who, what in first.timeline]
        if facts["mode"] == "staged":
            print(f"On {name} the device writes into staged memory, not into the file's pages:\n{facts['why']}.")
        headline(f"With the library: {name}, and a peer that does not stop")
        deaf = Pass(stage, f"{name}-deaf", folder, "owner", deaf=True).play()
        rows.append(("with", f"{name}, deaf", deaf))
        result["with"][name] = with_result(facts, deaf)
    result["timeline"].sort(key=lambda entry: entry["t_ms"])


def verdict(result, rows):
    """What is not as promised, in sentences."""
    bare = result["without"]["tmpfs"]
    if bare["missing"] < MIN_WITHOUT:
        yield f"without the library only {bare['missing']} writes are missing: the demo shows nothing"
    for name, row in result["with"].items():
        if row["missing"]:
            yield f"{name}: {row['missing']} writes are missing with the library"
        if row["breaks"] != len(OPS):
            yield f"{name}: {row['breaks']} breaks, not {len(OPS)}"
        if not row["connection_kept"]:
            yield f"{name}: the connection of a peer that answers was lost"
        if row["deaf"]["connection_kept"]:
            yield f"{name}: a deaf peer kept its connection"
        if row["deaf"]["opener_ms"] > DEAF_DEADLINE_MS + DEAF_SLACK_MS:
            yield f"{name}: the opener waited {row['deaf']['opener_ms']} ms for a deaf peer"
    for library, name, facts in rows:
        if library == "with" and any(facts["changed"]):
            yield f"{name}: the file changed while somebody else had it open for writing"
        if library == "without" and not any(facts["changed"]):
            yield "without the library nothing changed while somebody else had it open: the demo shows nothing"


def table(rows):
    """A row an arm."""
    form = "{:<8} {:<12} {:<6} {:<7} {:>12} {:>8} {:>7}  {:<11} {}"
    headline("What is missing")
    print(form.format("library", "file", "guard", "mode", "acknowledged", "missing", "breaks", "connection",
                      "openers waited, ms"))
    for library, name, facts in rows:
        print(form.format(library, name, facts["guard"], facts["mode"], f"{facts['acked']:,}",
                          f"{facts['missing']:,}", facts["breaks"], facts["connection"],
                          ", ".join(f"{o['op']} {o['blocked_ms']:.1f}" for o in facts["openers"])))
    print(f"A deaf peer is given {DEAF_DEADLINE_MS} ms.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="folder of the demo's programs")
    parser.add_argument("--json", help="file for the result")
    args = parser.parse_args()
    if not any(pathlib.Path("/sys/class/infiniband").glob("*")):
        sys.exit("this machine has no RDMA device")
    result = {"kernel": platform.release(), "without": {}, "with": {}, "timeline": []}
    rows = []
    try:
        with Stage(args.bin) as stage:
            play_all(stage, result, rows)
        table(rows)
        wrong = list(verdict(result, rows))
    except Failed as failed:
        wrong = [str(failed)]
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for sentence in wrong:
        print(f"FAILED: {sentence}")
    if not wrong:
        print(f"\nNothing is missing with the library ({(time.monotonic_ns() - START_NS) / 1e9:.0f} s).")
    return 1 if wrong else 0


if __name__ == "__main__":
    if os.environ.get("DEMO_MOUNTS") != "private":
        os.environ["DEMO_MOUNTS"] = "private"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    sys.exit(main())
