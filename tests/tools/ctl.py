#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""pinleasectl, as people and programs use it: on a terminal, in a pipe, with JSON, with nonsense.

ctl.py PINLEASECTL HEADER
"""
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from terminal import Terminal, check, main, run, skip

CTL = sys.argv[1]
REASONS = set(re.findall(r"PINLEASE_WHY_(\w+)", open(sys.argv[2]).read()))
GUARDS, MODES = ("lease", "seal", "static", "none"), ("pinned", "odp", "staged")
HEAD = {"file": str, "fs": str, "dax": bool, "kernel": str, "device": (str, type(None))}
DIRECTORY = tempfile.mkdtemp(prefix="pinleasectl-", dir=os.environ.get("TMPDIR", "/tmp"))


def new_file(name="data", size=65536):
    path = os.path.join(DIRECTORY, name) if isinstance(name, str) else os.path.join(DIRECTORY.encode(), name)
    with open(path, "wb") as file:
        file.write(b"k" * size)
    return path


def members(where, value, kinds):
    check(set(value) == set(kinds), f"{where}: has {sorted(value)}, not {sorted(kinds)}")
    for name, kind in kinds.items():
        check(isinstance(value[name], kind), f"{where}: {name} is {value[name]!r}")


def probe(path, *options):
    """Its JSON, which is checked to be what the manual page says; the exit status."""
    result = run([CTL, "probe", path, "--json", *options])
    table = json.loads(result.stdout.decode())
    if result.returncode:
        members("refused", table, {**HEAD, "error": dict})
        members("error", table["error"], {"reason": str, "text": str, "pid": int})
        return table, result.returncode
    check(not result.stderr, f"stderr: {result.stderr}")
    members("table", table, {**HEAD, "cells": list, "auto": dict})
    seen = set()
    for cell in table["cells"]:
        members("cell", cell, {"guard": str, "mode": str, "access": str, "ok": bool, "reason": str, "text": str})
        check(cell["reason"] in REASONS and cell["text"], f"{cell}")
        check(cell["ok"] == (cell["reason"] == "NONE"), f"{cell}")
        seen.add((cell["guard"], cell["mode"], cell["access"]))
    check(seen == {(g, m, a) for g in GUARDS for m in MODES for a in ("read", "write")}, f"cells: {seen}")
    check(len(table["cells"]) == 24, "a cell twice")
    members("auto", table["auto"], {"read": dict, "write": dict})
    for access, chosen in table["auto"].items():
        members(access, chosen, {"guard": (str, type(None)), "mode": (str, type(None)), "reason": str, "text": str})
        if chosen["mode"]:
            cell = cell_of(table, chosen["guard"], chosen["mode"], access)
            check(cell["ok"], f"auto takes what does not work: {cell}")
    return table, 0


def cell_of(table, guard, mode, access):
    return next(c for c in table["cells"] if (c["guard"], c["mode"], c["access"]) == (guard, mode, access))


def test_wrong_input():
    path = new_file()
    for words in ((), ("nonsense",), ("probe",), ("probe", path, path), ("probe", path, "--nonsense"),
                  ("probe", path, "-o"), ("probe", path, "-o", "x"), ("probe", path, "-l", "-1"),
                  ("probe", path, "-l", "1kk"), ("probe", path, "-l", ""), ("probe", path, "-l", " 1"),
                  ("probe", path, "-l", "99999999999999999999"), ("probe", path, "-l", "9999999999G"),
                  ("probe", path, "--json=1"), ("probe", path, "-d"),
                  ("hold",), ("hold", path, "-g", "nonsense"), ("hold", path, "-m", "LEASE"),
                  ("hold", path, "-s", "1.5"), ("hold", path, "-g", ""), ("hold", path, "--force"),
                  ("doctor", path), ("doctor", "-x"), ("--nonsense",), ("",)):
        result = run([CTL, *words])
        check(result.returncode == 2, f"{words}: exit status {result.returncode}")
        check(b"usage: pinleasectl" in result.stderr and not result.stdout, f"{words}: {result}")
    check(run([CTL, "--help"]).returncode == 0, "--help")
    check(re.fullmatch(rb"pinleasectl \d+\.\d+\.\d+\n", run([CTL, "--version"]).stdout), "--version")


def test_cannot_be_examined():
    fifo = os.path.join(DIRECTORY, "fifo")
    os.mkfifo(fifo)
    for path, reason in ((DIRECTORY, "NOT_REGULAR"), (fifo, "NOT_REGULAR"), ("/dev/null", "NOT_REGULAR"),
                         (os.path.join(DIRECTORY, "none"), "OPEN"), ("", "OPEN")):
        table, status = probe(path)
        check(status == 1 and table["error"]["reason"] == reason, f"{path}: {status} {table}")
    result = run([CTL, "probe", new_file(), "-d", "nonsense0"])
    check(result.returncode == 1 and b"no such RDMA device" in result.stderr, f"{result}")
    with open("/dev/full", "w", encoding="ascii") as full:
        status = subprocess.run([CTL, "probe", new_file()], stdout=full, stderr=subprocess.PIPE, check=False)
    check(status.returncode == 1 and b"No space left" in status.stderr, f"/dev/full: {status}")


def test_json():
    table, _ = probe(new_file())
    check(table["device"] is None and table["kernel"] == os.uname().release, f"{table['kernel']}")
    check(table["auto"]["read"]["guard"] == table["auto"]["write"]["guard"] == "lease", f"{table['auto']}")
    check(cell_of(table, "seal", "pinned", "read")["reason"] == "NO_SEALS", "seals")
    table, _ = probe(new_file("empty", 0))
    check(table["auto"]["write"]["mode"] is None and table["auto"]["write"]["reason"] == "RANGE", f"{table['auto']}")
    table, _ = probe(new_file(), "-o", "4k", "-l", "0x1000")
    check(cell_of(table, "lease", "staged", "write")["ok"], "a range")
    table, _ = probe(new_file(), "-o", "64k", "-l", "4k")
    check(cell_of(table, "lease", "staged", "write")["reason"] == "RANGE", "a range behind the end")


def test_odd_names():
    """Whatever a name is made of, the output parses, and says the name where JSON can."""
    for name in (b"a b", b'quo"te\\', b"new\nline\t\x01\x7f", "ünïcödé€𝄞".encode(), b"-d"):
        table, status = probe(new_file(name))
        check(status == 0 and os.path.basename(table["file"]).encode() == name, f"{name}: {table['file']}")
    for name in (b"latin1-\xe4", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xff"):
        table, status = probe(new_file(name))
        check(status == 0 and "\ufffd" in table["file"], f"{name}: {table['file']!r}")


ODD = (b"es\033[31mcape", b"new\nline\t\x01\x7f", "c1\u009b31m".encode(), b"\x9b31m latin1-\xe4", "ünïcödé€𝄞".encode())
SHOWN = (r"es\x1b[31mcape", r"new\x0aline\x09\x01\x7f", r"c1\xc2\x9b31m", r"\x9b31m latin1-\xe4", "ünïcödé€𝄞")


def obeyed(shown):
    """What a terminal would obey, beside colours and the ends of lines."""
    return re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", re.sub(r"\033\[\d*m", "", shown))


def test_odd_names_on_a_terminal():
    """No name, of a file or a process, is an order to the terminal."""
    for name, shown in zip(ODD, SHOWN):
        path = new_file(name)
        commands = [("probe", False)] + [("probe", True), ("hold", True)] * (name == ODD[0])
        for command, missing in commands:
            with Terminal([CTL.encode(), command.encode(), path + b"-missing" * missing],
                          env={"NO_COLOR": "1"}) as terminal:
                check(terminal.end() == missing, f"{command} {name}: {terminal.text!r}")
            check(shown in terminal.text and not obeyed(terminal.text), f"{command} {name}: {terminal.text!r}")
    path = new_file()
    holder = os.path.join(DIRECTORY.encode(), b"a\033]0;b")
    os.symlink(sys.executable, holder)
    with subprocess.Popen([holder, "-c", "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()", path],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with Terminal([CTL, "probe", path], env={"NO_COLOR": "1"}) as terminal:
            check(terminal.end() == 0, terminal.text)
        process.stdin.close()
    check(r"a\x1b]0;b" in terminal.text and not obeyed(terminal.text), f"{terminal.text!r}")


def test_sentence():
    """The refusal that the manual promises words for, by a device that every machine has."""
    path = os.path.join(os.path.dirname(CTL), f"data-{os.getpid()}")
    try:
        with open(path, "wb") as file:
            file.write(b"k" * 4096)
    except OSError:
        path = new_file()
    try:
        table, status = probe(path, "-d", "io_uring")
        if status or table["fs"] not in ("ext4", "xfs", "btrfs"):
            print(f"        (the page cache sentence is not seen on {table['fs']})")
            return
        cell = cell_of(table, "lease", "pinned", "write")
        check(cell["reason"] == "DIRTY_TRACKED" and not cell["ok"], f"{cell}")
        check(re.match(f"write pin refused: {table['fs']} page cache, .*long-term write pins of dirty-tracked files.*; "
                       "use staged, or odp on a device that has it$", cell["text"]), cell["text"])
        check(table["auto"]["write"]["mode"] == "staged", f"{table['auto']}")
        cell = cell_of(table, "lease", "pinned", "read")
        check(cell["reason"] == "PIN_REFUSED" and "io_uring pins for writing always" in cell["text"], f"{cell}")
    finally:
        os.unlink(path)


def test_terminal():
    """Coloured and as wide as the terminal; plain in a pipe, with NO_COLOR and on a dumb terminal."""
    command = [CTL, "probe", new_file()]
    with Terminal(command, columns=60) as terminal:
        check(terminal.end() == 0, "exit status")
        shown = terminal.text
    check("\033[32myes\033[0m" in shown and "\033[31mno\033[0m" in shown, f"colours: {shown!r}")
    # The first line has the path, which nobody can break.
    lines = re.sub(r"\033\[\d+m", "", shown).split("\n")[1:]
    check(len(lines) > 20 and max(map(len, lines)) <= 60, f"{max(map(len, lines))} columns")
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with Terminal(command, columns=200, env=env) as terminal:
            check(terminal.end() == 0 and "\033" not in terminal.text, f"{env}: {terminal.text!r}")
    piped = run(command).stdout.decode()
    check("\033" not in piped and max(map(len, piped.split("\n"))) > 60, "a pipe")
    check(re.search(r"^lease   staged  yes   yes$", piped, flags=re.M), piped)
    check(re.search(r"^auto, write  guard lease, mode", piped, flags=re.M), piped)


def truncate(path, size):
    """Another process, blocked as long as the lease is not let go."""
    return subprocess.Popen([sys.executable, "-c", f"import os; os.truncate({path!r}, {size})"])


def test_hold():
    """A break as it is shown; then Ctrl-C lets go."""
    path = new_file()
    with Terminal([CTL, "hold", path, "-m", "staged"]) as terminal:
        terminal.wait_for(r"ACQUIRED +guard lease, mode staged, generation 1, 65536 bytes at 0, pid \d+\n")
        refused, status = probe(path)
        check(status == 1 and refused["error"]["reason"] == "WOULD_BREAK", f"{refused}")
        check(refused["error"]["pid"] == terminal.pid, f"{refused['error']}, held by {terminal.pid}")
        check("--force" in refused["error"]["text"] and "pinleasectl" in refused["error"]["text"], f"{refused}")
        check("BREAK" not in terminal.text, "the probe has broken the lease")
        check(truncate(path, 8192).wait(30) == 0, "truncate")
        terminal.wait_for(r"BREAK +generation 1, by a writer.*\n.*REVOKED +generation 1.*\n.*RESTORED +generation 2, 8192")
        check(os.path.getsize(path) == 8192, "size")
        table, status = probe(path, "--force")
        check(status == 0, f"{table}")
        terminal.wait_for(r"generation 2, by a ")
        terminal.type(b"\003")
        check(terminal.end() == 0 and "RELEASED" in terminal.text, terminal.text)
    check(probe(path)[1] == 0, "the lease is still there")


def test_hold_json():
    """A line an event, through a pipe at once; it ends when its time is over, or when nobody reads."""
    path = new_file()
    with subprocess.Popen([CTL, "hold", path, "--json", "-r"], stdout=subprocess.PIPE) as holder:
        first = json.loads(holder.stdout.readline())
        check(first["event"] == "ACQUIRED" and first["pid"] == holder.pid and first["gen"] == 1, f"{first}")
        check(truncate(path, 65536).wait(30) == 0, "truncate")
        events = [json.loads(holder.stdout.readline()) for _ in range(3)]
        holder.send_signal(signal.SIGHUP)
        events += [json.loads(line) for line in holder.stdout]
    check([e["event"] for e in events] == ["BREAK", "REVOKED", "RESTORED", "RELEASED"], f"{events}")
    check([e["cause"] for e in events[:3]] == ["writer", "writer", "none"], f"{events}")
    check(holder.returncode == 0, f"exit status {holder.returncode}")
    check(all(a["seconds"] <= b["seconds"] for a, b in zip(events, events[1:])), f"{events}")
    timed = run([CTL, "hold", path, "--json", "-s", "1"])
    check(timed.returncode == 0 and json.loads(timed.stdout.splitlines()[-1])["seconds"] >= 1, f"{timed}")
    with subprocess.Popen([CTL, "hold", path], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.stdout.close()
        truncate(path, 65536).wait(30)
        check(holder.wait(30) == 1, f"nobody reads: exit status {holder.returncode}")


def refusal(result):
    """The one line that a program gets."""
    refused = json.loads(result.stdout.decode())
    members("refused", refused, {"seconds": float, "event": str, "error": int, "reason": str, "text": str, "pid": int})
    check(refused["event"] == "REFUSED" and refused["reason"] in REASONS, f"{refused}")
    check(refused["text"].encode() in result.stderr and result.returncode == 1, f"{result}")
    return refused


def test_hold_device_dax():
    """Its length is found, though stat says 0."""
    device = next((name for name in os.listdir("/dev") if re.match(r"dax\d+\.\d+$", name)), None)
    if not device and os.path.exists("/dev/pmem1"):
        namespace = os.path.basename(os.path.realpath("/sys/block/pmem1/device"))
        made = run(["ndctl", "create-namespace", "-f", "-m", "devdax", "-e", namespace])
        check(made.returncode == 0, f"{made}")
        device = json.loads(made.stdout)["daxregion"]["devices"][0]["chardev"]
    if not device:
        print("        (there is no device-dax)")
        return
    with open(f"/sys/bus/dax/devices/{device}/size", encoding="ascii") as file:
        size = int(file.read())
    held = run([CTL, "hold", f"/dev/{device}", "-m", "pinned", "--json", "-s", "1", "-o", "2M"])
    first = json.loads(held.stdout.splitlines()[0])
    check(first["event"] == "ACQUIRED" and first["length"] == size - (2 << 20), f"{held}")


def test_hold_refused():
    for path, options in ((os.path.join(DIRECTORY, "none"), ()), (new_file("empty", 0), ()),
                          (new_file(), ("-g", "seal")), (new_file(), ("-m", "odp")), (new_file(), ("-o", "1M"))):
        result = run([CTL, "hold", path, *options])
        check(result.returncode == 1 and result.stderr and not result.stdout, f"{options}: {result}")
        refusal(run([CTL, "hold", path, "--json", *options]))
    path = new_file()
    with open(path, "rb"):
        result = run([CTL, "hold", path, "--json"])
    check(result.returncode == 1 and f"process {os.getpid()}".encode() in result.stderr, f"{result}")
    refused = refusal(result)
    check(refused["reason"] == "OPENER" and refused["pid"] == os.getpid(), f"{refused}")
    check(refused["error"] == errno.EAGAIN, f"{refused}")
    with subprocess.Popen([CTL, "hold", path], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.send_signal(signal.SIGTERM)
        check(holder.wait(30) == 0, f"SIGTERM: exit status {holder.returncode}")


def for_everybody():
    """A copy of the program with its libraries that a user without rights can reach; the tree may be root's own."""
    folder = tempfile.mkdtemp(prefix="pinleasectl-", dir="/tmp")
    os.chmod(folder, 0o755)
    libraries = [line.split()[2] for line in run(["ldd", CTL]).stdout.decode().splitlines() if "libpinlease" in line]
    for path in (CTL, *libraries):
        shutil.copy(path, folder)
    return folder


def doctor(prefix=(), program=CTL):
    result = run([*prefix, program, "doctor", "--json"])
    found = json.loads(result.stdout.decode())
    members("doctor", found, {"kernel": str, "devices": int, "ok": bool, "checks": list})
    for one in found["checks"]:
        members("check", one, {"name": str, "value": str, "verdict": str, "text": str})
        check(one["verdict"] in ("ok", "note", "problem") and bool(one["text"]) == (one["verdict"] != "ok"), f"{one}")
    check(found["ok"] == (result.returncode == 0), f"exit status {result.returncode}: {found}")
    check(found["ok"] == all(c["verdict"] != "problem" for c in found["checks"]), f"{found}")
    return {one["name"]: one for one in found["checks"]}, found


def test_doctor():
    checks, found = doctor()
    check({"kernel", "fs.leases-enable", "fs.lease-break-time", "memlock", "sigpending", "nofile", "cap_lease",
           "library"} <= set(checks), f"{sorted(checks)}")
    check(found["ok"], f"{found}")
    limited, _ = doctor(("prlimit", "--nofile=64:64", "--sigpending=8:8"))
    check(limited["nofile"]["verdict"] == limited["sigpending"]["verdict"] == "note", f"{limited}")
    check("32 files" in limited["nofile"]["text"], f"{limited['nofile']}")
    with Terminal([CTL, "doctor"]) as terminal:
        check(terminal.end() == 0 and "\033[32mok" in terminal.text, terminal.text)


def test_doctor_rights():
    if os.geteuid():
        print("        (not seen: without root no rights can be taken away)")
        return
    folder = for_everybody()
    plain, _ = doctor(("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups",
                       "env", f"LD_LIBRARY_PATH={folder}"), os.path.join(folder, os.path.basename(CTL)))
    shutil.rmtree(folder)
    check(plain["cap_lease"]["verdict"] == "note" and plain["cap_lease"]["value"] == "no", f"{plain}")
    check(plain["cap_sys_resource"]["verdict"] == "note", f"{plain}")
    # CAP_SYS_ADMIN lets descriptors fly as well.
    admin, _ = doctor(("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"))
    check(admin["cap_sys_resource"]["value"] == "no" and admin["cap_sys_resource"]["verdict"] == "ok", f"{admin}")
    # All capabilities of a namespace, and none that the kernel asks for.
    if run(["unshare", "-U", "-r", "true"]).returncode:
        print("        (no user namespaces: in a chroot, or switched off)")
    else:
        inside, _ = doctor(("unshare", "-U", "-r"))
        check(inside["cap_lease"]["value"] == inside["cap_ipc_lock"]["value"] == "no", f"{inside}")
    # Its own mount namespace: the machine's sysctl stays.
    if run(["unshare", "-m", "true"]).returncode:
        print("        (the sysctl is not switched off: no mount namespace, as in a chroot)")
        return
    switched_off = os.path.join(DIRECTORY, "zero")
    with open(switched_off, "w", encoding="ascii") as file:
        file.write("0\n")
    off, found = doctor(("unshare", "-m", "sh", "-c",
                         f'mount --bind {switched_off} /proc/sys/fs/leases-enable && exec "$@"', "sh"))
    check(off["fs.leases-enable"]["verdict"] == "problem" and not found["ok"], f"{off}")


def test_device():
    checks, found = doctor()
    if not found["devices"]:
        print("        (there is no RDMA device)")
        return
    device = next(name.split()[0] for name in checks if name.endswith(" odp"))
    table, status = probe(new_file(), "-d", device)
    check(status == 0 and table["device"] == device, f"{table}")
    check(checks[device]["verdict"] == "ok" and "active" in checks[device]["value"], f"{checks[device]}")
    odp = cell_of(table, "lease", "odp", "write")
    check(odp["ok"] == (checks[f"{device} odp"]["value"] != "none"), f"{odp} {checks}")
    with Terminal([CTL, "hold", new_file(), "-d", device]) as terminal:
        terminal.wait_for("ACQUIRED +guard lease")
        terminal.type(b"\003")
        check(terminal.end() == 0, terminal.text)


if not os.path.exists("/dev/ptmx"):
    skip("there are no terminals here")
try:
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
finally:
    subprocess.run(["rm", "-rf", DIRECTORY], check=False)
