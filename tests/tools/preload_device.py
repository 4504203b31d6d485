#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""libpinlease-preload.so before the real libibverbs, which only a plugin has, loaded RTLD_LOCAL.

preload_device.py PINLEASECTL LOADER PLUGIN
"""
import os
import sys
import tempfile

from terminal import check, main, run, skip

CTL, LOADER, PLUGIN = sys.argv[1:4]
DIRECTORY = tempfile.mkdtemp(prefix="device-", dir="/dev/shm")
LONG, BELOW = os.environ.get("PINLEASE_TIER") == "long", 3
PATH, LOG = f"{DIRECTORY}/file", f"{DIRECTORY}/log"


def play(scene, leased):
    with open(PATH, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 16 * 4096)
    prefix = [CTL, "run", "--log", LOG, "--verbose"] if leased else []
    result = run([*prefix, LOADER, PLUGIN, scene, PATH])
    sys.stdout.write(result.stdout.decode())
    return result


def local():
    """A lease for one registration, though libibverbs' own calls come by a second time; and none without us."""
    result = play("lease", False)
    check(result.returncode == 1 and b"F_WRLCK" in result.stderr, f"leased without it: {result}")
    result = play("lease", True)
    said = open(LOG).read()
    check(result.returncode == 0, f"{result}\n{said}")
    check(said.count("leased from") == 1 and said.count("is gone") == 1, said)


def rate():
    """0.99 times the registrations per second of memory that is no file's. Beside other work it is only said."""
    result = play("rate", False)
    check(result.returncode == 1 and b"direct.reg != program.reg" in result.stderr, f"measures nothing: {result}")
    result = play("rate", True)
    check(b"turns" in result.stdout and result.returncode in ((0,) if LONG else (0, BELOW)), f"{result}")


if not os.path.exists("/sys/class/infiniband/rxe0"):
    skip("no soft-RoCE device")
main([local, rate])
