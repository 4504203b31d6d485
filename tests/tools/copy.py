#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""pl-copy over soft-RoCE: sizes, holes, names, breaks, lost connections, and what must fail.

copy.py PL-COPY COPY-STRANGER [REGEX]
"""
import fcntl
import os
import re
import shutil
import signal
import sys

import copy_scene as scene
from copy_scene import ADDRESS6, Copy, Server, new_file, nothing_left, same
from terminal import check, main, run

PROGRAM, STRANGER = sys.argv[1:3]
MIB = 1 << 20
disk = None


def copy(server, file, path, *options, **where):
    return Copy(PROGRAM, server, file, path, *options, **where).end()


def test_sizes():
    with Server(PROGRAM, disk) as server:
        for size in (0, 1, 4 * MIB, 5 * MIB + 17):
            file = new_file(f"size{size}", size)
            report = copy(server, file, file.name)
            same(file, disk / file.name)
            check(report["sent"] == report["durable"] == size, f"{size}: {report}")
            check(report["breaks"] == 0 and report["connections"] == 1 and report["wrong"] == 0, f"{report}")
    nothing_left(disk)


def test_holes():
    """Blocks that are holes stay holes, in a new file and in one that is gone on with; and no byte of them is sent."""
    file = scene.WORK / "holes"
    with open(file, "wb") as out:
        out.truncate(60 * MIB + 5)
        for at in (0, 6 * MIB, 6 * MIB + 128 * 1024, 40 * MIB, 60 * MIB):
            os.pwrite(out.fileno(), b"data", at)
    with Server(PROGRAM, disk) as server:
        report = copy(server, file, "holes")
        same(file, disk / "holes")
        used = os.stat(disk / "holes").st_blocks * 512
        check(used <= 6 * 65536 + 65536, f"{used} bytes are used")
        check(report["written"] <= 6 * 65536 and report["holes"] > 59 * MIB, f"{report}")
        # What an older try left where there is a hole now goes away.
        partial = disk / ".old.pl-copy"
        partial.write_bytes(b"x" * 9 * MIB)
        copy(server, file, "old")
        same(file, disk / "old")
        check(os.stat(disk / "old").st_blocks * 512 <= used, "the hole is not one")
    nothing_left(disk)


def test_places():
    """Folders, what is replaced, links, IPv6; and no way out of the root."""
    file = new_file("place", 70000)
    root = disk / "root"
    (root / "folder").mkdir(parents=True)
    (root / "out").symlink_to("/tmp")
    (root / "in").symlink_to("folder")
    with Server(PROGRAM, root) as server:
        for path, there in (("", "place"), ("folder/", "folder/place"), ("/in/linked", "folder/linked")):
            copy(server, file, path)
            same(file, root / there)
            os.unlink(root / there)
        copy(server, file, "six", host=f"[{ADDRESS6}]")
        same(file, root / "six")
        os.mkfifo(root / "fifo")
        (root / "folder" / "place").mkdir()
        for path, words in (("folder/../../x", "leads out"), ("out/x", "leads out"), ("..", "leads out"),
                            ("none/x", "No such file"), ("fifo", "not a regular file"),
                            ("folder", "folder/place: not a regular file")):
            report = Copy(PROGRAM, server, file, path).end(1)
            check(words in report["error"], f"{path}: {report}")
        # Modes: a new file has the source's, an old one keeps its own; a link is replaced and not followed.
        os.chmod(file, 0o640)
        copy(server, file, "new")
        check(os.stat(root / "new").st_mode & 0o7777 == 0o640, f"{os.stat(root / 'new')}")
        os.chmod(root / "new", 0o604)
        copy(server, file, "new")
        check(os.stat(root / "new").st_mode & 0o7777 == 0o604, f"{os.stat(root / 'new')}")
        (root / "link").symlink_to("new")
        copy(server, file, "link", "--preserve")
        was, now = os.stat(file), os.lstat(root / "link")
        check((was.st_mode, was.st_mtime_ns) == (now.st_mode, now.st_mtime_ns), f"{was} {now}")
        # A link in wait where the partial file is to be.
        (root / ".trap.pl-copy").symlink_to(root / "new")
        check(".trap.pl-copy is in the way" in Copy(PROGRAM, server, file, "trap").end(1)["error"], "trap")
        os.unlink(root / ".trap.pl-copy")
    nothing_left(root)


def test_breaks():
    """Others open the file in the middle: it is recalled and goes on, on the same connection, as a terminal shows."""
    file = new_file("breaks", 24 * MIB)
    (disk / "breaks").write_bytes(b"the old one")
    with Server(PROGRAM, disk) as server, open(disk / "breaks", "rb") as old:
        under_way = Copy(PROGRAM, server, file, "breaks", terminal=True)
        for durable in (0, 4):
            under_way.until(durable * MIB)
            with open(under_way.partial, "rb") as opened:
                check(len(opened.read(4096)) == 4096, "nothing there")
                check((disk / "breaks").read_bytes() == b"the old one", "touched before its time")
        text = under_way.shown()
        same(file, disk / "breaks")
        check(old.read() == b"the old one", "changed under somebody who had it open")
        check(re.search(r"\rbreaks  +\d+%  [48]\.0 MiB of 24\.0 MiB  \S+ .iB/s  \d+:\d\d left  \d breaks?", text), text)
        check(re.search(r"breaks: 24\.0 MiB in \d+\.\d\d s, \S+ .iB/s, [2-9] breaks, sum [0-9a-f]{32}\n$", text), text)
    nothing_left(disk)


def test_others_write():
    """The partial file is overwritten, and truncated, by somebody else: found by the sums, and sent again."""
    file = new_file("write", 24 * MIB)
    with Server(PROGRAM, disk) as server:
        under_way = Copy(PROGRAM, server, file, "write")
        under_way.until(8 * MIB)
        with open(under_way.partial, "r+b") as other:
            check(os.pread(other.fileno(), 10, 1000) == file.read_bytes()[1000:1010], "not durable yet")
            os.pwrite(other.fileno(), b"corruption", 1000)
            other.truncate(5 * MIB)
        report = under_way.end()
        same(file, disk / "write")
        check(report["wrong"] >= 2 and report["breaks"] >= 1 and report["connections"] == 1, f"{report}")
        for offset in (0, 4 * MIB):
            check(f"checksum mismatch at offset {offset}:" in report["said"], report["said"])
    nothing_left(disk)


def test_server_killed():
    """It comes again, and the same sender goes on; or it does not."""
    file = new_file("killed", 20 * MIB)
    with Server(PROGRAM, disk) as server:
        under_way = Copy(PROGRAM, server, file, "killed")
        under_way.until(4 * MIB)
        server.kill()
        check(under_way.process.poll() is None and under_way.partial.exists(), "over already")
        server.start()
        report = under_way.end()
        same(file, disk / "killed")
        check(report["connections"] >= 2 and report["there"] >= 4 * MIB, f"{report}")
        check("connection lost, trying again" in report["said"], report["said"])
        under_way = Copy(PROGRAM, server, file, "gone", "--retry", "0")
        under_way.until(0)
        server.stop()
        check("goes on from here" in under_way.end(1)["error"], "no advice")
        os.unlink(under_way.partial)
        server.start()
    nothing_left(disk)


def test_senders():
    """Two do not write the same file; after a killed one the next goes on; a source may not change."""
    file = new_file("sender", 24 * MIB)
    with Server(PROGRAM, disk) as server:
        under_way = Copy(PROGRAM, server, file, "sender")
        under_way.until(0)
        other = Copy(PROGRAM, server, file, "sender").end(1)
        check("another copy" in other["error"], f"{other}")
        under_way.until(8 * MIB)
        under_way.process.kill()
        under_way.process.communicate()
        server.wait_for("sender: connection lost")
        check(not (disk / "sender").exists(), "half a file")
        with open(under_way.partial, "r+b") as partial:
            os.pwrite(partial.fileno(), b"planted", 5000)
        report = copy(server, file, "sender")
        same(file, disk / "sender")
        check(report["connections"] == 1 and report["there"] >= 4 * MIB and report["sent"] >= 4 * MIB, f"{report}")
        under_way = Copy(PROGRAM, server, file, "stopped")
        under_way.until(0)
        under_way.process.send_signal(signal.SIGINT)
        check("interrupted" in under_way.end(-signal.SIGINT)["error"], "interrupted")
        check(not (disk / "stopped").exists(), "half a file")
        os.unlink(under_way.partial)
        under_way = Copy(PROGRAM, server, file, "changes")
        under_way.until(0)
        with open(file, "ab") as out:
            out.write(b"more")
        check("was changed" in under_way.end(1)["error"] and not (disk / "changes").exists(), "changed")
        os.unlink(under_way.partial)
    nothing_left(disk)


def test_held():
    """Somebody else's lease of the partial file is not waited for; that somebody has it open is, and is told."""
    file = new_file("held", 70000)
    partial = disk / ".held.pl-copy"
    partial.touch()
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with Server(PROGRAM, disk) as server:
        with open(partial, "rb") as other:
            fcntl.fcntl(other, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            report = Copy(PROGRAM, server, file, "held").end(1)
            check("another process has a lease of .held.pl-copy" in report["error"], f"{report}")
            fcntl.fcntl(other, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            under_way = Copy(PROGRAM, server, file, "held")
            check(b"open; waiting" in under_way.process.stderr.readline(), "not told of")
            check(not (disk / "held").exists(), "it has its name")
        under_way.end()
        same(file, disk / "held")
    nothing_left(disk)


def test_disk_full():
    small = scene.ext4("small", 32)
    file = new_file("full", 24 * MIB)
    with Server(PROGRAM, small) as server:
        big = new_file("big", 36 * MIB)
        check("No space left" in Copy(PROGRAM, server, big, "big").end(1)["error"], "not before")
        under_way = Copy(PROGRAM, server, file, "full")
        under_way.until(0)
        with open(small / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(MIB)):
                    pass
            except OSError:
                pass
        report = under_way.end(1)
        check("No space left" in report["error"] and not (small / "full").exists(), f"{report}")
    nothing_left(small)


def test_refused():
    """What cannot be: a clear sentence, and status 1."""
    file = new_file("refused", 10)
    with Server(PROGRAM, disk) as server:
        for source, words in (("/nonexistent", "No such file"), ("/tmp", "Is a directory"), ("/dev/null", "regular")):
            check(words in Copy(PROGRAM, server, scene.pathlib.Path(source), "x").end(1)["error"], source)
        check("invalid: " in Copy(PROGRAM, server, file, "x", host="nowhere.invalid").end(1)["error"], "host")
        check("no way there by RDMA" in Copy(PROGRAM, server, file, "x", host="192.0.2.1").end(1)["error"], "way")
        port, server.port = server.port, 9
        check("port 9: Connection refused" in Copy(PROGRAM, server, file, "x").end(1)["error"], "port")
        server.port = port
    os.chmod(scene.WORK, 0o755)
    with Server(PROGRAM, disk, user=65534) as server:
        report = Copy(PROGRAM, server, file, "x").end(1)
        check("Permission denied" in report["error"], f"{report}")
    # Its limit of locked memory is less than the window: then the window is smaller.
    mine = disk / "nobodys"
    mine.mkdir()
    os.chown(mine, 65534, 65534)
    large = new_file("large", 12 * MIB)
    with Server(PROGRAM, mine, user=65534) as server:
        check("RLIMIT" not in copy(server, large, "large")["said"], "it is nothing to tell of")
        same(large, mine / "large")
    nothing_left(disk)


def test_strangers():
    """Neither end is taken in by what is no pl-copy, another version of it, or says what makes no sense."""
    file = new_file("strange", 5 * MIB)
    with Server(PROGRAM, disk) as server:
        result = run([STRANGER, "client", scene.ADDRESS, str(server.port)])
        check(result.returncode == 0, f"{result.returncode}: {result.stdout.decode()} {server.said()}")
        os.unlink(disk / ".stranger.pl-copy")
        copy(server, file, "strange")
        same(file, disk / "strange")
    with scene.Stranger(STRANGER, disk) as server:
        for words in ("is not pl-copy", "protocol error", "protocol error", "protocol error", "protocol error",
                      "checksum mismatch", "clear?[2J"):
            report = Copy(PROGRAM, server, file, "x", "--retry", "0").end(1)
            check(words in report["error"], f"{words}: {report}")
            check(report["said"].count("\n") == 1, f"not one line: {report}")
    nothing_left(disk)


if __name__ == "__main__":
    scene.network()
    try:
        disk = scene.ext4("disk", 256)
        main([test for name, test in list(globals().items())
              if name.startswith("test_") and (len(sys.argv) < 4 or re.search(sys.argv[3], name))])
    finally:
        scene.leave()
        shutil.rmtree(scene.WORK, ignore_errors=True)
