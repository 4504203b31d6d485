# SPDX-License-Identifier: BSD-3-Clause
"""What the checks of tests/doc share: the tree, the man pages, the headers, a verdict.

A check calls Verdict.bad() for what is wrong and Verdict.count() for what it looked
at, and ends with Verdict.close(): a check that found nothing to look at fails.
"""
import pathlib
import re
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
INCLUDE_FOLDERS = (TOP / "include", TOP / "uring/include", TOP / "carry/include")
INCLUDE_FLAGS = [flag for folder in INCLUDE_FOLDERS for flag in ("-I", folder)]
SKIP = 77


class Verdict:
    def __init__(self):
        self.errors = []
        self.counted = {}

    def bad(self, where, what):
        if isinstance(where, pathlib.Path) and where.is_relative_to(TOP):
            where = where.relative_to(TOP)
        self.errors.append(f"{where}: {what}")

    def count(self, what, number=1):
        self.counted[what] = self.counted.get(what, 0) + number

    def close(self, *least):
        """least: ("what", number) pairs that must have been looked at."""
        for what, number in least:
            if self.counted.get(what, 0) < number:
                self.errors.append(f"only {self.counted.get(what, 0)} {what} looked at, {number} expected")
        for error in self.errors:
            print(error)
        print(", ".join(f"{number} {what}" for what, number in self.counted.items()) or "nothing",
              "looked at,", len(self.errors), "wrong")
        sys.exit(1 if self.errors else 0)


def need(program):
    """The program's path; the test is skipped without it."""
    path = shutil.which(program)
    if not path:
        print(f"skipped: no {program} here")
        sys.exit(SKIP)
    return path


def run(args, **keywords):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, check=False, **keywords)


def tree_files():
    """Every file of the project: what git tracks or would, or all but build folders without git."""
    if shutil.which("git") and (TOP / ".git").exists():
        listed = run(["git", "-c", f"safe.directory={TOP}", "-C", TOP, "ls-files", "-z", "--cached",
                      "--others", "--exclude-standard"])
        if listed.returncode == 0:
            found = (TOP / name for name in sorted(set(listed.stdout.split("\0"))) if name)
            return [path for path in found if path.is_file()]
    skipped = (".git", ".cache", "build")
    return sorted(path for path in TOP.rglob("*")
                  if path.is_file() and path.relative_to(TOP).parts[0] not in skipped)


# Headers ---------------------------------------------------------------------------------

def public_headers():
    """{"pinlease/backend.h": path, ...}: as they are included."""
    return {str(path.relative_to(folder)): path
            for folder in INCLUDE_FOLDERS for path in sorted(folder.rglob("*.h"))}


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def squeeze(text):
    """One spelling for a piece of C: single blanks, none beside * ( ) , ; { }."""
    text = re.sub(r"\s+", " ", without_comments(text)).strip()
    return re.sub(r"\s*([*(),;{}])\s*", r"\1", text)


class Header:
    FUNCTION = re.compile(r"^((?:const\s+)?(?:struct\s+)?\w+[\s*]+)(pinlease_\w+)\s*\(([^;{}()]*)\)\s*;", re.M)
    OBJECT = re.compile(r"^extern\s+([\w\s*]+?[\s*])(pinlease_\w+)\s*;", re.M)
    STRUCT = re.compile(r"^struct\s+(\w+)\s*\{(.*?)^\};", re.M | re.S)
    ENUM = re.compile(r"^enum\s+(\w+)\s*\{(.*?)\};", re.M | re.S)
    MACRO = re.compile(r"^#define\s+(PINLEASE_\w+)[ \t]+(\S.*)$", re.M)

    def __init__(self, path):
        self.path = path
        text = without_comments(path.read_text())
        self.functions = {m[2]: squeeze(m[0]) for m in self.FUNCTION.finditer(text)}
        self.objects = {m[2] for m in self.OBJECT.finditer(text)}
        self.structs = {m[1]: squeeze(m[2]) for m in self.STRUCT.finditer(text)}
        self.enums = {m[1]: re.findall(r"\b(PINLEASE_\w+)", m[2]) for m in self.ENUM.finditer(text)}
        self.macros = [m[1] for m in self.MACRO.finditer(text)]


def headers():
    return [Header(path) for path in public_headers().values()]


# Man pages -------------------------------------------------------------------------------

def words(line):
    """The arguments of a macro line, quotes taken off."""
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)]


class Page:
    def __init__(self, path):
        self.path = path
        self.name, self.section = path.name.rsplit(".", 1)
        self.lines = path.read_text().splitlines()
        self.sections = {}
        current = self.sections.setdefault("", [])
        for line in self.lines:
            if line.startswith(".Sh "):
                current = self.sections.setdefault(" ".join(words(line)[1:]), [])
            else:
                current.append(line)
        self.text = "\n".join(self.lines)
        # mdoc writes \- and - alike, and \& for nothing.
        self.plain = self.text.replace("\\-", "-").replace("\\&", "")

    def names(self):
        return [words(line)[1] for line in self.sections.get("NAME", []) if line.startswith(".Nm ")]

    def synopsis(self):
        """(list of includes, {function: declaration}) of the SYNOPSIS section."""
        includes, functions = [], {}
        kind = name = arguments = None
        for line in self.sections.get("SYNOPSIS", []):
            macro, *rest = words(line) or [""]
            if macro == ".In":
                includes.append(rest[0])
            elif macro == ".Ft":
                kind = " ".join(rest)
            elif macro == ".Fn":
                functions[rest[0]] = f"{kind} {rest[0]}({', '.join(rest[1:])});"
            elif macro == ".Fo":
                name, arguments = rest[0], []
            elif macro == ".Fa":
                arguments += rest
            elif macro == ".Fc":
                functions[name] = f"{kind} {name}({', '.join(arguments)});"
        return includes, functions

    def displays(self, section=None):
        """The literal displays, of one section or of all."""
        found, inside = [], None
        for line in self.sections.get(section, []) if section else self.lines:
            if line.startswith(".Bd ") and "-literal" in line:
                inside = []
            elif line.startswith(".Ed") and inside is not None:
                found.append("\n".join(inside) + "\n")
                inside = None
            elif inside is not None:
                inside.append(line.replace("\\e", "\\").replace("\\&", "").replace("\\-", "-"))
        return found


def pages():
    return [Page(path) for path in sorted((TOP / "man").glob("*.[1-9]"))]
