#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""pl-copy over soft-RoCE: sizes, holes, names, breaks, lost connections, and what must fail.

copy.py PL-COPY [REGEX]
"""
import os
import re
import shutil
import sys

import copy_scene as scene
from copy_scene import ADDRESS6, Copy, Server, new_file, nothing_left, same
from terminal import check, main, run

PROGRAM = sys.argv[1]
MIB = 1 << 20
disk = None


def copy(server, file, path, *options, **where):
    return Copy(PROGRAM, server, file, path, *options, **where).end()


def test_sizes():
    with Server(PROGRAM, disk) as server:
        for size in (0, 1, 4 * MIB, 9 * MIB + 17):
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
        out.truncate(300 * MIB + 5)
        for at in (0, 6 * MIB, 6 * MIB + 128 * 1024, 200 * MIB, 300 * MIB):
            os.pwrite(out.fileno(), b"data", at)
    with Server(PROGRAM, disk) as server:
        report = copy(server, file, "holes")
        same(file, disk / "holes")
        used = os.stat(disk / "holes").st_blocks * 512
        check(used <= 6 * 65536 + 65536, f"{used} bytes are used")
        check(report["written"] <= 6 * 65536 and report["holes"] > 280 * MIB, f"{report}")
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
        for path in ("folder/../../x", "out/x", "..", "none/x", "new/"):
            report = Copy(PROGRAM, server, file, path).end(1)
            check("folder" in report["error"] or "No such file" in report["error"] or "s a dir" in report["error"],
                  f"{path}: {report}")
        os.mkfifo(root / "fifo")
        check("not a regular file" in Copy(PROGRAM, server, file, "fifo").end(1)["error"], "fifo")
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
        Copy(PROGRAM, server, file, "trap").end(1)
        os.unlink(root / ".trap.pl-copy")
    nothing_left(root)


def test_breaks():
    """Others open the file in the middle: it is recalled and goes on, on the same connection."""
    file = new_file("breaks", 32 * MIB)
    (disk / "breaks").write_bytes(b"the old one")
    with Server(PROGRAM, disk) as server:
        under_way = Copy(PROGRAM, server, file, "breaks")
        for durable in (0, 12):
            under_way.until(durable * MIB)
            with open(under_way.partial, "rb") as opened:
                check(len(opened.read(4096)) == 4096, "nothing there")
                check((disk / "breaks").read_bytes() == b"the old one", "touched before its time")
        report = under_way.end()
        same(file, disk / "breaks")
        check(report["breaks"] >= 2 and report["connections"] == 1, f"{report}")
    nothing_left(disk)


def test_others_write():
    """The partial file is overwritten, and truncated, by somebody else: found by the sums, and sent again."""
    file = new_file("write", 32 * MIB)
    with Server(PROGRAM, disk) as server:
        under_way = Copy(PROGRAM, server, file, "write")
        under_way.until(4 * MIB)
        with open(under_way.partial, "r+b") as other:
            check(os.pread(other.fileno(), 10, 1000) == file.read_bytes()[1000:1010], "not durable yet")
            os.pwrite(other.fileno(), b"corruption", 1000)
        under_way.until(12 * MIB)
        os.truncate(under_way.partial, 5 * MIB)
        report = under_way.end()
        same(file, disk / "write")
        check(report["wrong"] >= 3 and report["breaks"] >= 2 and report["connections"] == 1, f"{report}")
        for offset in (0, 4 * MIB, 8 * MIB):
            check(f"checksum mismatch at offset {offset}:" in report["said"], report["said"])
    nothing_left(disk)


def test_server_killed():
    """It comes again, and the same sender goes on; it does not, and the next one does."""
    file = new_file("killed", 32 * MIB)
    with Server(PROGRAM, disk) as server:
        under_way = Copy(PROGRAM, server, file, "killed")
        under_way.until(8 * MIB)
        server.kill()
        check(under_way.process.poll() is None and under_way.partial.exists(), "over already")
        server.start()
        report = under_way.end()
        same(file, disk / "killed")
        check(report["connections"] >= 2 and report["there"] >= 8 * MIB, f"{report}")
        check("connection lost" in report["said"], report["said"])
        under_way = Copy(PROGRAM, server, file, "gone", "--retry", "0")
        under_way.until(4 * MIB)
        server.stop()
        check("goes on from here" in under_way.end(1)["error"], "no advice")
        with open(under_way.partial, "r+b") as partial:
            os.pwrite(partial.fileno(), b"planted", 5000)
        server.start()
        report = copy(server, file, "gone")
        same(file, disk / "gone")
        check(report["connections"] == 1 and report["sent"] >= 4 * MIB, f"{report}")
    nothing_left(disk)


def test_senders():
    """Two do not write the same file; a killed one, and a source that changes, leave no file."""
    file = new_file("sender", 32 * MIB)
    with Server(PROGRAM, disk) as server:
        under_way = Copy(PROGRAM, server, file, "sender")
        under_way.until(0)
        other = Copy(PROGRAM, server, file, "sender").end(1)
        check("another copy" in other["error"], f"{other}")
        under_way.until(4 * MIB)
        under_way.process.kill()
        under_way.process.communicate()
        server.wait_for("sender: connection lost")
        under_way = Copy(PROGRAM, server, file, "changes")
        under_way.until(4 * MIB)
        with open(file, "ab") as out:
            out.write(b"more")
        check("was changed" in under_way.end(1)["error"] and not (disk / "changes").exists(), "changed")
        check(under_way.partial.exists(), "nothing to go on with")
        os.unlink(under_way.partial)
        os.unlink(disk / ".sender.pl-copy")
    nothing_left(disk)


def test_disk_full():
    small = scene.ext4("small", 32)
    file = new_file("full", 24 * MIB)
    with Server(PROGRAM, small) as server:
        big = new_file("big", 40 * MIB)
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
        check("No space left" in report["error"], f"{report}")
    nothing_left(small)


def test_refused():
    """What cannot be: a clear sentence, and status 1."""
    file = new_file("refused", 10)
    with Server(PROGRAM, disk) as server:
        for source, words in (("/nonexistent", "No such file"), ("/tmp", "Is a directory"), ("/dev/null", "regular")):
            check(words in Copy(PROGRAM, server, scene.pathlib.Path(source), "x").end(1)["error"], source)
        check("invalid: " in Copy(PROGRAM, server, file, "x", host="nowhere.invalid").end(1)["error"], "host")
        port, server.port = server.port, 9
        check(Copy(PROGRAM, server, file, "x").end(1)["error"], "port")
        server.port = port
    os.chmod(scene.WORK, 0o755)
    with Server(PROGRAM, disk, user=65534) as server:
        report = Copy(PROGRAM, server, file, "x").end(1)
        check("Permission denied" in report["error"], f"{report}")
    # Its limit of locked memory is less than the window: then the window is smaller.
    mine = disk / "nobodys"
    mine.mkdir()
    os.chown(mine, 65534, 65534)
    large = new_file("large", 20 * MIB)
    with Server(PROGRAM, mine, user=65534) as server:
        copy(server, large, "large")
        same(large, mine / "large")
    nothing_left(disk)


if __name__ == "__main__":
    scene.network()
    try:
        disk = scene.ext4("disk", 256)
        main([test for name, test in list(globals().items())
              if name.startswith("test_") and (len(sys.argv) < 3 or re.search(sys.argv[2], name))])
    finally:
        scene.leave()
        shutil.rmtree(scene.WORK, ignore_errors=True)
