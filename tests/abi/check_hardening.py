#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A built file is hardened as SECURITY.md says.

check_hardening.py FILE [--exports NODE] [--fortified] [--endbr]

--exports NODE: it exports pinlease_* in that node, and nothing else; --fortified: it calls the checking variants of
the C library's functions; --endbr: every exported function begins with endbr64, where the machine has it.
"""
import argparse
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "doc"))
from doctree import Verdict, need, run  # noqa: E402

ENDBR64 = bytes.fromhex("f30f1efa")


class Elf:
    """What readelf tells of a file."""
    def __init__(self, path):
        self.path = path
        self.readelf = need("readelf")
        self.machine = re.search(r"Machine:\s+(.*)", self.ask("-h"))[1]
        self.kind = re.search(r"Type:\s+(\w+)", self.ask("-h"))[1]
        # {type: [(offset, address, size in memory, flags)]}
        self.segments = {}
        for m in re.finditer(r"^  (\w+) +0x(\w+) 0x(\w+) 0x\w+ 0x\w+ 0x(\w+) ([RWE ]{3}) ", self.ask("-l"), re.M):
            self.segments.setdefault(m[1], []).append((int(m[2], 16), int(m[3], 16), int(m[4], 16), m[5]))
        self.dynamic = self.ask("-d")
        # (address, kind, section, name, node)
        self.symbols = [(int(m[1], 16), m[2], m[3], m[4], m[5]) for m in re.finditer(
            r"^ *\d+: (\w+) +\w+ (\w+) +(?:GLOBAL|WEAK) +\w+ +(\w+) (\w+)(?:@@?(\w+))?", self.ask("--dyn-syms"), re.M)]

    def ask(self, what):
        return run([self.readelf, "-W", what, self.path]).stdout

    def bytes_at(self, address, length):
        for offset, start, size, _ in self.segments["LOAD"]:
            if start <= address < start + size:
                return self.path.read_bytes()[address - start + offset:][:length]
        return b""


def memory(verdict, elf):
    """Nothing is both writable and executable, and what the loader has bound is read-only from then on."""
    stack = elf.segments.get("GNU_STACK")
    verdict.count("properties", 6)
    if not stack or "E" in stack[0][3]:
        verdict.bad(elf.path.name, "has an executable stack, or does not say")
    if any("W" in flags and "E" in flags for *_, flags in elf.segments["LOAD"]):
        verdict.bad(elf.path.name, "has a segment that is writable and executable")
    if "GNU_RELRO" not in elf.segments:
        verdict.bad(elf.path.name, "has no RELRO")
    if not re.search(r"\(FLAGS\).*\bBIND_NOW\b|\(BIND_NOW\)|\(FLAGS_1\).*\bNOW\b", elf.dynamic):
        verdict.bad(elf.path.name, "is bound lazily: RELRO does not cover its .got.plt")
    if "TEXTREL" in elf.dynamic:
        verdict.bad(elf.path.name, "has relocations of its code")
    if elf.kind != "DYN":
        verdict.bad(elf.path.name, "is bound to an address")


def calls(verdict, elf, fortified):
    called = {name for _, _, section, name, _ in elf.symbols if section == "UND"}
    verdict.count("symbols called", len(called))
    if "__stack_chk_fail" not in called:
        verdict.bad(elf.path.name, "has no stack protector")
    if fortified and not any(re.fullmatch(r"__\w+_chk", name) for name in called):
        verdict.bad(elf.path.name, "calls no checking variant of a function: _FORTIFY_SOURCE is off")


def exports(verdict, elf, node):
    for _, kind, section, name, found in elf.symbols:
        # The node is an absolute symbol itself.
        if section in ("UND", "ABS"):
            continue
        verdict.count("symbols exported")
        if not name.startswith("pinlease_") or found != node or kind != "FUNC":
            verdict.bad(elf.path.name, f"exports {name}, {kind}, in node {found}")


def landing_pads(verdict, elf):
    if "X86-64" not in elf.machine:
        print(f"{elf.machine}: no endbr64")
        return
    for address, kind, section, name, _ in elf.symbols:
        if section in ("UND", "ABS") or kind != "FUNC":
            continue
        verdict.count("functions begun with endbr64")
        if elf.bytes_at(address, 4) != ENDBR64:
            verdict.bad(elf.path.name, f"{name} does not begin with endbr64: -fcf-protection is off")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--exports")
    parser.add_argument("--fortified", action="store_true")
    parser.add_argument("--endbr", action="store_true")
    args = parser.parse_args()
    verdict, elf = Verdict(), Elf(args.file)
    memory(verdict, elf)
    calls(verdict, elf, args.fortified)
    least = [("properties", 6), ("symbols called", 3)]
    if args.exports:
        exports(verdict, elf, args.exports)
        least.append(("symbols exported", 1))
    if args.endbr:
        landing_pads(verdict, elf)
    verdict.close(*least)


main()
