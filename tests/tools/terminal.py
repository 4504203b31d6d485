# SPDX-License-Identifier: BSD-3-Clause
"""A command on a terminal of its own: a pty, its size, what is typed, what is shown."""
import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

PATIENCE = 90  # seconds: only a hang takes so long


class Failure(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failure(what)


def skip(reason):
    print(f"skip: {reason}")
    sys.exit(77)


class Terminal:
    """with Terminal(command) as t: the session leader of a pty that is columns wide."""

    def __init__(self, command, columns=80, env=None):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update({"TERM": "xterm", "NO_COLOR": "", **(env or {})})
            # Not before the parent has set the size.
            sys.stdin.readline()
            os.execv(command[0], command)
        attributes = termios.tcgetattr(self.fd)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(self.fd, termios.TCSANOW, attributes)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.write(self.fd, b"\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def read(self, seconds):
        """More of what is shown; False: the other side is closed."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                more = os.read(self.fd, 4096)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                more = b""
            if not more:
                return False
            self.text += more.decode().replace("\r\n", "\n")
        return True

    def wait_for(self, pattern):
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text):
            check(time.monotonic() < end and self.read(0.2), f"no {pattern!r} in:\n{self.text}")

    def type(self, keys):
        os.write(self.fd, keys)

    def end(self):
        """The exit status, after all has been read."""
        end = time.monotonic() + PATIENCE
        while self.read(0.2):
            check(time.monotonic() < end, f"still running:\n{self.text}")
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


def run(command, **options):
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, **options)


def main(tests):
    """Run them all, also behind one that failed."""
    failed = 0
    for test in tests:
        try:
            test()
            print(f"ok      {test.__name__}")
        except (Failure, subprocess.TimeoutExpired) as failure:
            failed += 1
            print(f"FAILED  {test.__name__}: {failure}")
    print(f"{len(tests)} run, {failed} failed")
    sys.exit(1 if failed or not tests else 0)
