#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""libpinlease-preload.so in a program over a fake libibverbs: each scene of preload_program is a process.

preload.py PINLEASECTL LIBRARY PROGRAM LINKED
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

from terminal import check, main, run, skip

CTL, LIBRARY, PROGRAM, LINKED = sys.argv[1:5]
DIRECTORY = tempfile.mkdtemp(prefix="preload-", dir="/tmp")
# Sanitizers want to be the first library of all: they are, of those that are linked.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"}
OUTCOMES = {
    "bare": None, "revoke": "is gone", "closed": "is gone", "left_alone": "leased from", "read": "is gone",
    "protection": "is gone",
    "in_the_way": "without a lease", "refused": "is refused", "fork": "is gone", "hold": "leased from",
    "deadline": "is gone", "unmap": "leased from", "fixed": "leased from", "remap": "leased from",
    "many": "without a lease", "descriptor_replaced": "without a lease", "descriptors_closed": "without a lease",
    "private": "", "signals": "leased from", "own_changes": "is gone", "memfd": "without a lease",
}
OPTIONS = {"hold": ("--policy", "hold"), "deadline": ("--policy", "hold", "--deadline", "1000")}


def play(scene, *options, leased=True):
    folder = tempfile.mkdtemp(dir=DIRECTORY)
    log = f"{folder}/log"
    prefix = [CTL, "run", "--log", log, "--verbose", *options] if leased else []
    result = run([*prefix, PROGRAM, folder, scene], env=ENVIRONMENT)
    said = open(log).read() if os.path.exists(log) else ""
    check(result.returncode == 0, f"exit status {result.returncode}\n{result.stderr.decode()}{said}")
    return said


def scenes():
    for scene, expected in OUTCOMES.items():
        def test(scene=scene, expected=expected):
            said = play(scene, *OPTIONS.get(scene, ()), leased=expected is not None)
            if expected:
                check(expected in said, f"said only {said!r}")
            else:
                check(not said, f"said {said!r}")
        test.__name__ = scene
        yield test


def bare_is_different():
    """What is shown with leases is not so without them."""
    for scene in ("revoke", "closed", "read", "hold", "own_changes"):
        result = run([PROGRAM, tempfile.mkdtemp(dir=DIRECTORY), scene], env=ENVIRONMENT)
        check(result.returncode == 1, f"{scene} passes without leases")


def own_changes_of_who_holds():
    """Nobody waits for himself."""
    play("own_changes", "--policy", "hold", "--deadline", "20000")


def said_where_and_how():
    folder = tempfile.mkdtemp(dir=DIRECTORY)
    for options, expected in (((), True), (("--quiet",), False)):
        result = run([CTL, "run", *options, "--", PROGRAM, tempfile.mkdtemp(dir=folder), "closed"], env=ENVIRONMENT)
        check(result.returncode == 0 and (b"is gone" in result.stderr) == expected, f"{options}: {result}")
        check(b"leased from" not in result.stderr, "not asked for")
    # A relative log is here, wherever the program goes.
    result = run([CTL, "run", "-v", "-l", "here", "--", "env", "-C", "/", PROGRAM, tempfile.mkdtemp(dir=folder),
                  "closed"], env=ENVIRONMENT, cwd=folder)
    check(result.returncode == 0 and "leased from" in open(f"{folder}/here").read(), f"{result}")


def command_line():
    for words, says in (((), "which program"), (("--policy", "x", "true"), "--policy x: is neither revoke nor hold"),
                        (("--deadline", "x", "true"), "--deadline x: is no number"), (("-t", "0", "true"), "from 1 to"),
                        (("-s", "65", "true"), "--signal 65: is no number"), (("-s", "9", "true"), "--signal 9: is no"),
                        (("--log", "a,b", "true"), "a comma"), (("--log", "/" + "a" * 300, "true"), "too long"),
                        (("--nonsense", "true"), "nonsense"), (("--verbose",), "which program"), (("-p",), "-- 'p'")):
        result = run([CTL, "run", *words])
        check(result.returncode == 2 and says.encode() in result.stderr, f"{words}: {result}")
        check(b"usage: pinleasectl run" in result.stderr and not result.stdout, f"{words}: {result}")
    check(run([CTL, "run", "/nonexistent"]).returncode == 127, "no such program")
    check(run([CTL, "run", "/etc/passwd"]).returncode == 126, "no program")
    check(run([CTL, "run", "sh", "-c", "exit 7"]).returncode == 7, "its exit status")
    shown = run([CTL, "run", "--policy", "hold", "-t", "2k", "-s", "40", "sh", "-c", "echo $PINLEASE_PRELOAD $LD_PRELOAD"],
                env={**ENVIRONMENT, "LD_PRELOAD": "libdl.so.2"}).stdout.decode()
    check(re.match(r"policy=hold,deadline=2048,signal=40 libdl.so.2:\S+/libpinlease-preload.so\n$", shown), shown)
    shown = run(["sh", "-c", "true"], env={**ENVIRONMENT, "LD_PRELOAD": LIBRARY, "PINLEASE_PRELOAD": "policy=no,x"})
    check(shown.stderr.count(b"is not understood") == 2, f"{shown.stderr}")


def symbols():
    """No name of ours but those that are taken over, and libibverbs' with its versions."""
    listed = run(["nm", "-D", "--defined-only", LIBRARY]).stdout.decode()
    names = {line.split()[2] for line in listed.splitlines() if line.split()[1] != "A"}
    twice = {f"{name}{suffix}" for name in ("mmap", "ftruncate", "truncate", "fallocate", "posix_fallocate")
             for suffix in ("", "64")}
    check(names == twice | {"munmap", "mremap", "ibv_reg_mr@@IBVERBS_1.1", "ibv_dereg_mr@@IBVERBS_1.1",
                            "ibv_rereg_mr@@IBVERBS_1.1", "ibv_reg_mr_iova@@IBVERBS_1.7",
                            "ibv_reg_mr_iova2@@IBVERBS_1.8"}, f"{sorted(names)}")


def set_uid():
    """Loaded by a set-user-ID program, it does nothing. Linked with it, since ld.so preloads nothing there."""
    mount = subprocess.run(["findmnt", "-no", "OPTIONS", "-T", DIRECTORY], capture_output=True, text=True).stdout
    if os.geteuid() or "nosuid" in mount.strip().split(","):
        print("        set_uid: not tried, not root or nosuid")
        return
    copy, environment = f"{DIRECTORY}/copy", {**ENVIRONMENT, "PINLEASE_PRELOAD": "verbose"}
    shutil.copy(LINKED, copy)
    os.chmod(DIRECTORY, 0o755)
    for mode, scene, says in ((0o755, "revoke", True), (0o4755, "bare", False)):
        folder = tempfile.mkdtemp(dir=DIRECTORY)
        for path in (copy, folder):
            os.chown(path, 65534, 65534)
        os.chmod(copy, mode)
        result = run([copy, folder, scene], env=environment)
        check(result.returncode == 0 and (b"pinlease-preload" in result.stderr) == says, f"{scene}: {result}")


if not os.path.exists("/proc/self/fd"):
    skip("no /proc")
try:
    main([*scenes(), bare_is_different, own_changes_of_who_holds, said_where_and_how, command_line, symbols, set_uid])
finally:
    shutil.rmtree(DIRECTORY, ignore_errors=True)
