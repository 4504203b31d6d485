#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Man pages against mandoc, the headers and the compiler.

check_man.py CHECK [CC]: CHECK is lint, coverage, synopsis, structs, constants, links
or examples; CC is the compiler that synopsis and examples use.
"""
import re
import sys
import tempfile

from doctree import INCLUDE_FLAGS, Verdict, headers, need, pages, public_headers, run, squeeze

WARNINGS = ["-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Wstrict-prototypes", "-Werror"]


def compile_text(verdict, cc, where, text):
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write(text)
        source.flush()
        result = run([cc, *WARNINGS, "-D_GNU_SOURCE", *INCLUDE_FLAGS, source.name])
    if result.returncode != 0:
        verdict.bad(where, result.stderr.strip())


def lint():
    """mandoc finds nothing to warn of; at style level only that it cannot see pages not installed yet."""
    mandoc = need("mandoc")
    verdict = Verdict()
    for page in pages():
        verdict.count("pages")
        result = run([mandoc, "-T", "lint", "-W", "style", page.path])
        # What it says of its own database and of pages not installed goes to stderr or is of no account.
        for line in result.stdout.splitlines():
            if "referenced manual not found" not in line:
                verdict.bad(page.path, line.removeprefix("mandoc: "))
    verdict.close(("pages", 10))


def coverage():
    """Every public function has a page, NAME, link and SYNOPSIS agree, and no page speaks of another one."""
    verdict = Verdict()
    found = {}
    public = {}
    # Pages that describe a structure rather than a call: pinlease_backend(3).
    described = {name for header in headers() for name in header.structs}
    for header in headers():
        public.update(header.functions)
    for page in pages():
        if page.section != "3":
            continue
        verdict.count("pages")
        documented = page.synopsis()[1]
        named = page.names()
        if page.name not in named:
            verdict.bad(page.path, "NAME does not have the page's own name")
        for name in sorted((set(named) ^ set(documented)) - described):
            verdict.bad(page.path, f"{name} is in only one of NAME and SYNOPSIS")
        for name in documented:
            verdict.count("functions")
            if name in found:
                verdict.bad(page.path, f"{name} is in {found[name].path.name} too")
            found[name] = page
        for section in ("RETURN VALUES", "ERRORS", "THREADS AND BLOCKING", "SEE ALSO"):
            if documented and section not in page.sections:
                verdict.bad(page.path, f"no section {section}")
    for name in sorted(set(public) - set(found)):
        verdict.bad("man", f"no page for {name}")
    for name in sorted(set(found) - set(public)):
        verdict.bad(found[name].path, f"{name} is in no public header")
    verdict.close(("pages", 8), ("functions", 20))


def synopsis():
    """The declarations of each SYNOPSIS compile beside the header, and read as the header's do."""
    cc = need(sys.argv[2] if len(sys.argv) > 2 else "cc")
    verdict = Verdict()
    declared = {}
    for header in headers():
        declared.update(header.functions)
    for page in pages():
        includes, functions = page.synopsis()
        if not functions:
            continue
        verdict.count("pages")
        verdict.count("functions", len(functions))
        for include in includes:
            if include.startswith("pinlease") and include not in public_headers():
                verdict.bad(page.path, f"there is no {include}")
        text = "".join(f"#include <{include}>\n" for include in includes)
        compile_text(verdict, cc, page.path, text + "\n".join(functions.values()) + "\n")
        for name, declaration in functions.items():
            if name in declared and squeeze(declaration) != declared[name]:
                verdict.bad(page.path, f"{squeeze(declaration)}\n\tin the header: {declared[name]}")
    verdict.close(("pages", 8), ("functions", 20))


def structs():
    """A structure shown in a page is the header's, member by member; each public one is shown once."""
    verdict = Verdict()
    declared = {}
    for header in headers():
        declared.update(header.structs)
    shown = set()
    for page in pages():
        for display in page.displays():
            for name, body in re.findall(r"^struct (\w+) \{(.*?)^\};", display, flags=re.M | re.S):
                verdict.count("structures")
                if name not in declared:
                    verdict.bad(page.path, f"struct {name} is in no public header")
                elif squeeze(body) != declared[name]:
                    verdict.bad(page.path, f"struct {name} has {squeeze(body)}\n\tin the header: {declared[name]}")
                elif name in shown:
                    verdict.bad(page.path, f"struct {name} is shown in another page, too")
                shown.add(name)
    for name in sorted(set(declared) - shown):
        verdict.bad("man", f"no page shows struct {name}")
    verdict.close(("structures", 8))


def constants():
    """Every public constant is explained in a page, and a page knows no others."""
    verdict = Verdict()
    public = set()
    for header in headers():
        public.update(header.macros)
        for names in header.enums.values():
            public.update(names)
    explained, mentioned = set(), {}
    for page in pages():
        for line in page.lines:
            if line.startswith((".Dt ", ".Ev ", ".It Ev ")):
                continue
            for name in re.findall(r"\bPINLEASE_\w+", line):
                mentioned.setdefault(name, page)
                if line.startswith(".It "):
                    explained.add(name)
    # A bound, not a value.
    public -= {"PINLEASE_WHY_LAST"}
    verdict.count("constants", len(public))
    for name in sorted(public - explained):
        verdict.bad("man", f"{name} is no item of a list in any page")
    for name in sorted(set(mentioned) - public):
        if name != "PINLEASE_WHY_LAST":
            verdict.bad(mentioned[name].path, f"{name} is no public constant")
    verdict.close(("constants", 60))


def links():
    """A cross reference to a page of ours names one that is there, in its section."""
    verdict = Verdict()
    known = {(name, page.section) for page in pages() for name in (*page.names(), page.name)}
    for page in pages():
        for line in page.lines:
            if not line.startswith("."):
                continue
            for name, section in re.findall(r"\bXr (pinlease\S*) (\d)", line):
                verdict.count("references")
                if (name, section) not in known:
                    verdict.bad(page.path, f"there is no {name}({section})")
        if "SEE ALSO" not in page.sections:
            verdict.bad(page.path, "no section SEE ALSO")
    verdict.close(("references", 40))


def examples():
    """The displays of each EXAMPLES section that hold C compile with no more than their own includes."""
    cc = need(sys.argv[2] if len(sys.argv) > 2 else "cc")
    verdict = Verdict()
    for page in pages():
        for display in page.displays("EXAMPLES"):
            if "#include" in display:
                verdict.count("examples")
                compile_text(verdict, cc, page.path, display)
    verdict.close(("examples", 5))


CHECKS = {check.__name__: check
          for check in (lint, coverage, synopsis, structs, constants, links, examples)}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    CHECKS[sys.argv[1]]()
