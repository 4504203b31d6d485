# SPDX-License-Identifier: BSD-3-Clause
"""Where pl-copy is tested: a network with RDMA that rdma_cm finds its way in, file systems, a server."""
import hashlib
import json
import os
import pathlib
import pty
import re
import subprocess
import tempfile
import time

from terminal import PATIENCE, check, run, skip

NETDEV, DEVICE, ADDRESS, ADDRESS6 = "plcopy0", "rxeplcopy0", "10.32.0.1", "fd32::1"
WORK = pathlib.Path(tempfile.mkdtemp(prefix="pl-copy-", dir=os.environ.get("TMPDIR", "/tmp")))
mounts = []


def must(*command):
    result = run(list(command))
    check(result.returncode == 0, f"{command}: {result.stderr.decode()}")


def network():
    """rdma_cm does not find the device on lo (rdma_resolve_route: ENODEV): one with an Ethernet's kind of address."""
    if os.geteuid() or not os.path.isdir("/sys/class/infiniband"):
        skip("no root, or no RDMA")
    leave()
    run(["modprobe", "dummy", "numdummies=0"])
    if run(["ip", "link", "add", NETDEV, "type", "dummy"]).returncode:
        skip("no network device can be made")
    must("ip", "link", "set", NETDEV, "mtu", "9000", "up")
    must("ip", "addr", "add", f"{ADDRESS}/24", "dev", NETDEV)
    must("ip", "addr", "add", f"{ADDRESS6}/64", "dev", NETDEV, "nodad")
    if run(["rdma", "link", "add", DEVICE, "type", "rxe", "netdev", NETDEV]).returncode:
        run(["ip", "link", "del", NETDEV])
        skip("no soft-RoCE device can be made")


def leave():
    for folder in reversed(mounts):
        run(["umount", "-l", str(folder)])
    run(["rdma", "link", "del", DEVICE])
    run(["ip", "link", "del", NETDEV])


def ext4(name, mib):
    """A folder that is really ext4."""
    image, folder = WORK / f"{name}.image", WORK / name
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(mib << 20)
    must("mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(image))
    must("mount", "-o", "loop", str(image), str(folder))
    mounts.append(folder)
    kind = run(["stat", "-f", "-c", "%T", str(folder)]).stdout.strip()
    check(kind == b"ext2/ext3", f"{folder} is {kind}")
    return folder


def new_file(name, size):
    """Every page of it is another one."""
    path = WORK / name
    pages = (hashlib.blake2b(b"%d %d" % (size, i)).digest() * 64 for i in range(size // 4096 + 1))
    path.write_bytes(b"".join(pages)[:size])
    return path


class Server:
    """with Server(pl_copy, root) as server: it listens."""

    def __init__(self, program, root, port=0, user=None):
        self.command = [program, "--serve", "--root", str(root)]
        self.root, self.user, self.port = pathlib.Path(root), user, port
        self.start()

    def start(self):
        prefix = ["setpriv", f"--reuid={self.user}", "--clear-groups"] if self.user else []
        self.log = tempfile.TemporaryFile("w+", dir=WORK)
        self.process = subprocess.Popen([*prefix, *self.command, *self.where()], stdout=self.log,
                                        stderr=subprocess.STDOUT)
        self.port = int(self.wait_for(r"listening on port (\d+)")[1])

    def where(self):
        return ["-p", str(self.port)]

    def said(self):
        # Its place in the log is ours, too: nobody moves it.
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def wait_for(self, pattern):
        end = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.said())):
            check(time.monotonic() < end and self.process.poll() is None, f"server: no {pattern!r} in {self.said()!r}")
            time.sleep(0.02)
        return found

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        check(self.process.wait(PATIENCE) == 0, f"server: {self.process.returncode}: {self.said()}")

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        if self.process.poll() is None:
            self.process.kill() if failed else self.stop()
        if failed:
            print(self.said())


class Stranger(Server):
    """In its place: each connection is another scene, after the last it ends by itself."""

    def __init__(self, program, root):
        self.command = [program, "server", ADDRESS]
        self.root, self.user, self.port = pathlib.Path(root), None, 0
        self.start()

    def where(self):
        return [str(self.port)]

    def stop(self):
        check(self.process.wait(PATIENCE) == 0, f"stranger: {self.process.returncode}: {self.said()}")


class Copy:
    """One that is under way."""

    def __init__(self, program, server, file, path, *options, host=ADDRESS, terminal=False):
        self.server, self.partial = server, None
        name = os.path.basename(path) or file.name
        self.partial = server.root / os.path.dirname(path) / f".{name}.pl-copy"
        self.fd, outputs = None, {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if terminal:
            self.fd, slave = pty.openpty()
            outputs = {"stdout": slave, "stderr": slave}
        else:
            options = ("--json", *options)
        self.process = subprocess.Popen([program, "-p", str(server.port), *options, str(file), f"{host}:{path}"],
                                        **outputs)
        if terminal:
            os.close(slave)

    def until(self, durable):
        """So many bytes, a multiple of 4 MiB, are durable, and it is not finished.

        Blocks are allocated when a chunk is leased, and of a window of four no fifth is before the first is durable;
        what the file system needs for itself is less than 64 KiB.
        """
        blocks = durable + (12 << 20) + 65536 if durable else 0
        end = time.monotonic() + PATIENCE
        while True:
            check(time.monotonic() < end and self.process.poll() is None, f"not seen to be at {durable} bytes")
            try:
                if os.stat(self.partial).st_blocks * 512 > blocks:
                    return
            except FileNotFoundError:
                pass
            time.sleep(0.01)

    def shown(self):
        """What was on the terminal in the end; it fits into the buffer that a terminal has."""
        self.process.wait(PATIENCE * 2)
        check(self.process.returncode == 0, f"pl-copy: {self.process.returncode}")
        text = b""
        try:
            while more := os.read(self.fd, 4096):
                text += more
        except OSError:
            pass
        os.close(self.fd)
        return text.decode().replace("\r\n", "\n")

    def end(self, status=0):
        """Its report; stderr in "said"."""
        out, said = self.process.communicate(timeout=PATIENCE * 2)
        check(self.process.returncode == status, f"pl-copy: {self.process.returncode}: {said.decode()} {out.decode()}")
        report = json.loads(out)
        check(report["ok"] == (status == 0) and bool(report["error"]) == (status != 0), f"{report}")
        report["said"] = said.decode()
        if os.environ.get("COPY_VERBOSE"):
            print(report)
        return report


def same(file, copy):
    check(file.stat().st_size == copy.stat().st_size, f"{copy} is not as long as {file}")
    with open(file, "rb") as one, open(copy, "rb") as other:
        while part := one.read(1 << 20):
            check(part == other.read(1 << 20), f"{copy} is not what {file} is")


def nothing_left(folder):
    left = [path.name for path in pathlib.Path(folder).rglob(".*.pl-copy")]
    check(not left, f"left behind: {left}")
    # The next one wants the room.
    for path in pathlib.Path(folder).iterdir():
        if path.is_file() and not path.is_symlink():
            path.unlink()
