#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Programs that were never changed, under pinleasectl run: perftest, rping, fi_pingpong.

programs.py PINLEASECTL FILE_HEAP TABLE KIND [PROGRAM...]: the regions of the server are in a file of this kind. Each cell
that TABLE calls ok is run three times: bare, with the file cut under it, which must end in success, since that
is the hazard; leased and left alone, in success, too; leased and cut, in an error. What TABLE calls void must fail.
"""
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time

from terminal import check, main, skip

CTL, HEAP, TABLE, KIND = sys.argv[1:5]
LONG = os.environ.get("PINLEASE_TIER") == "long"
ADDRESS, SIZE = "10.77.0.1", 8 << 20
PATIENCE, AFTERWARDS = 90, 3  # seconds: for a run; for the other side, when one has ended with an error
CUT_PATIENCE = 45  # seconds: for what has lost its region
# rping waits for ever after a flushed completion, and that is all rxe gives on 7.2 to who is cut off in a write.
TRIES = {"rping": 6}
MUST_FLOW = 300  # packets, before the cut, and bare after it
MIB = {"ext4": 32, "xfs": 320, "btrfs": 256}
# The bare minimum of the ci tier; all of them in the long one.
CI = {("7.2", "tmpfs"): ("ib_write_bw", "ib_read_bw", "ib_send_bw", "rping", "fi_pingpong")}
DIRECTORY = tempfile.mkdtemp(prefix="programs-", dir="/tmp")


def wait_for(what, condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, f"{what}: not within {seconds} s")
        time.sleep(0.01)


def command(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def listens(port):
    """On TCP, either family."""
    for family in ("tcp", "tcp6"):
        with open(f"/proc/net/{family}") as table:
            for line in table:
                if f":{port:04X} " in line.split(None, 3)[1] + " " and " 0A " in line:
                    return True
    return False


def cm_listens():
    listed = subprocess.run(("rdma", "resource", "show", "cm_id"), capture_output=True, text=True)
    return "LISTEN" in listed.stdout


class Program:
    """device: whose packets are counted. cut: of a run that is long enough to be cut in the middle."""

    port = 18600

    def __init__(self, name):
        self.name = name
        self.perftest = name.startswith("ib_")
        self.device = "rxe1" if name in ("ib_read_bw", "rping", "fi_pingpong") else "rxe0"
        Program.port += 1
        self.port = Program.port

    def by_cm(self, cut):
        """rxe takes perftest's seven retries as no limit (rdma-facts), and only with rdma_cm it can have others."""
        return self.name == "rping" or (self.name == "ib_read_bw" and cut)

    def words(self, cut, path, server):
        if self.perftest:
            many = ["-D", "3", "-f", "1"] if cut else ["-n", "100"]
            if self.by_cm(cut):
                many = ["-R", "--retry_count=1", "-n", "1500"]
            where = [f"--mmap={path}"] if server else ["127.0.0.1" if self.device == "rxe0" else ADDRESS]
            return [self.name, "-d", self.device, "-x", "1", "-p", str(self.port), "-s", "65536", *many, *where]
        if self.name == "rping":
            return [self.name, "-s" if server else "-c", "-a", ADDRESS, "-S", "32768", "-C", "200" if cut else "10"]
        return [self.name, "-p", "verbs", "-e", "msg", "-d", "rxe1", "-S", "65536", "-I", "50" if cut else "10",
                *([] if server else [ADDRESS])]

    def environment(self, path):
        if self.perftest:
            return {}
        # What is as large as the buffers, and no more: the program's books are not to be cut.
        least, most = (32768, 32768) if self.name == "rping" else (131072, 139264)
        return {"LD_PRELOAD": HEAP, "FILE_HEAP": path, "FILE_HEAP_MIN": str(least), "FILE_HEAP_MAX": str(most)}

    def is_ready(self, cut):
        if self.by_cm(cut):
            return cm_listens()
        return listens(self.port if self.perftest else 47592)

    def packets(self):
        with open(f"/sys/class/infiniband/{self.device}/ports/1/hw_counters/sent_pkts") as counter:
            return int(counter.read())


class Run:
    """One server with the file and one client."""

    def __init__(self, program, path, leased, cut):
        self.program, self.path, self.leased, self.log = program, path, leased, f"{DIRECTORY}/log"
        if os.path.exists(self.log):
            os.unlink(self.log)
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
        prefix = [CTL, "run", "--verbose", "--log", self.log, "--"] if leased else []
        self.out = open(f"{DIRECTORY}/out", "w+")
        self.server = self.start([*prefix, *program.words(cut, path, True)], program.environment(path))
        self.client = None
        wait_for("the server", lambda: program.is_ready(cut) or self.server.poll() is not None)
        self.before = program.packets()
        self.client = self.start(program.words(cut, path, False), {})

    def start(self, words, more):
        return subprocess.Popen(words, env={**os.environ, **more}, stdin=subprocess.DEVNULL, stdout=self.out,
                                stderr=subprocess.STDOUT)

    def logged(self):
        if not os.path.exists(self.log):
            return ""
        with open(self.log) as log:
            return log.read()

    def flows(self, since):
        wait_for(f"{self.program.name}: traffic",
                 lambda: self.program.packets() > since + MUST_FLOW or self.server.poll() is not None)
        check(self.server.poll() is None, f"the server has ended before it was cut: {self.text()}")

    def cut(self):
        """Truncated, and given its size again: what the CPU reads there does not kill the program."""
        self.flows(self.before)
        if self.leased:
            check("leased from" in self.logged(), f"no lease: {self.logged()}")
        else:
            # It is the device that is to go on meanwhile.
            self.server.send_signal(signal.SIGSTOP)
        os.truncate(self.path, 0)
        if not self.program.perftest:
            os.truncate(self.path, SIZE)
        if not self.leased:
            since = self.program.packets()
            self.server.send_signal(signal.SIGCONT)
            self.flows(since)

    def text(self):
        self.out.seek(0)
        return self.out.read()[-600:]

    def end(self):
        """Exit statuses of both; None: did not end."""
        sides = [self.server, self.client]
        end = time.monotonic() + (CUT_PATIENCE if "is gone" in self.logged() else PATIENCE)
        while any(side.poll() is None for side in sides) and time.monotonic() < end:
            if any(side.poll() for side in sides):
                end = min(end, time.monotonic() + AFTERWARDS)
                while any(side.poll() is None for side in sides) and time.monotonic() < end:
                    time.sleep(0.01)
            time.sleep(0.01)
        statuses = [side.poll() for side in sides]
        for side in sides:
            if side.poll() is None:
                side.kill()
                side.wait()
        return statuses


def run(program, path, leased, cut):
    began = time.monotonic()
    one = Run(program, path, leased, cut)
    try:
        if cut:
            one.cut()
    finally:
        statuses = one.end()
    said = f"{program.name} on {KIND}, {'leased' if leased else 'bare'}{', cut' if cut else ''}: {statuses}"
    print(f"        {said}, {time.monotonic() - began:.1f} s", flush=True)
    return statuses, f"{said}\n{one.text()}\n{one.logged()}", one.logged()


def cell_ok(name, path):
    statuses, said, _ = run(Program(name), path, False, True)
    check(statuses == [0, 0], f"no hazard: {said}")
    statuses, said, log = run(Program(name), path, True, False)
    check(statuses == [0, 0] and "leased from" in log and "is gone" not in log, said)
    for _ in range(TRIES.get(name, 1)):
        statuses, said, log = run(Program(name), path, True, True)
        check("is gone" in log, f"not revoked: {said}")
        if statuses != [None, None]:
            break
    check(any(status for status in statuses), f"no error: {said}")


def cell_void(name, path):
    statuses, said, _ = run(Program(name), path, False, False)
    check(any(status != 0 for status in statuses), f"not void any more: {said}")
    statuses, said, log = run(Program(name), path, True, False)
    check(any(status != 0 for status in statuses) and "leased from" not in log and log, f"leased, void: {said}")


def mounted():
    """The folder of this kind of file system; what was mounted is looked at."""
    if KIND == "tmpfs":
        folder = "/dev/shm"
    else:
        image, folder = f"{DIRECTORY}/image", f"{DIRECTORY}/{KIND}"
        os.mkdir(folder)
        with open(image, "wb") as file:
            file.truncate(MIB[KIND] << 20)
        quiet = {"ext4": ("-q", "-F"), "xfs": ("-q", "-f"), "btrfs": ("-q", "-f")}[KIND]
        command(f"mkfs.{KIND}", *quiet, image)
        command("mount", "-o", "loop", image, folder)
    with open("/proc/mounts") as mounts:
        check(any(line.split()[1:3] == [folder, KIND] for line in mounts), f"{folder} is not on {KIND}")
    return folder


def network():
    """rdma_cm wants an interface with an address, and lo's has none that it takes."""
    if not os.path.exists("/sys/class/net/pinlease0"):
        command("ip", "link", "add", "pinlease0", "type", "dummy")
        command("ip", "address", "add", f"{ADDRESS}/24", "dev", "pinlease0")
        command("ip", "link", "set", "pinlease0", "up")
    if not os.path.exists("/sys/class/infiniband/rxe1"):
        command("rdma", "link", "add", "rxe1", "type", "rxe", "netdev", "pinlease0")
    gid = "/sys/class/infiniband/rxe1/ports/1/gids/1"
    wait_for("the address's GID", lambda: os.path.exists(gid) and "ffff" in open(gid).read())


def cells():
    """(program, outcome) of this kind on this kernel, as the table has them."""
    release = platform.release()
    column = next((k for k in ("6.1", "7.2") if release.startswith(k + ".")), None)
    if not column:
        skip(f"no column for Linux {release}")
    found = []
    with open(TABLE) as table:
        rows = [[part.strip() for part in line.split("|")] for line in table if "|" in line]
    index = rows[0].index(column)
    chosen = sys.argv[5:]
    if not chosen and not LONG:
        chosen = CI.get((column, KIND), ("ib_write_bw",))
    for row in rows[1:]:
        name, kind = row[0].split()
        if kind == KIND and (not chosen or name in chosen):
            found.append((name, row[index]))
    check(found, f"no cell for {KIND}")
    return found


def tests():
    for name, outcome in cells():
        def test(name=name, outcome=outcome):
            path = f"{FOLDER}/data"
            {"ok": cell_ok, "void": cell_void}[outcome](name, path)
        test.__name__ = f"{name}_{outcome}"
        yield test


if not os.path.exists("/sys/class/infiniband/rxe0") or os.geteuid():
    skip("no soft-RoCE device, or not root")
chosen = list(tests())
network()
FOLDER = mounted()
try:
    main(chosen)
finally:
    if KIND != "tmpfs":
        subprocess.run(("umount", FOLDER), check=False)
