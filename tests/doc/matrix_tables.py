#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The tables of what works where, made of tests/rdma/matrix.table, which the tests hold.

matrix_tables.py --write       puts them into README.md and man/pinlease_modes.7
matrix_tables.py --check LIST  fails if they are others; LIST is tests.list of the build,
                               in which each kind of file has its tests
"""
import pathlib
import sys
import textwrap

from doctree import TOP, Verdict

TABLE = TOP / "tests/rdma/matrix.table"
KERNELS = ("6.1", "6.12", "7.2")
URING = "uring"
PLACES = (*KERNELS, URING)
NAMES = {"xfs_noreflink": "xfs (reflink=0)", "ext4_dax": "ext4 -o dax", "xfs_dax": "xfs -o dax",
         "device_dax": "device-dax"}
GUARDS = {"lease": "file lease", "seal": "seals", "static": "static", "none": "none"}
BEGIN, END = "made of tests/rdma/matrix.table", "end of what is made of it"


def load():
    """{(kind, access, guard, mode): {place: outcome}}, in the order of the file."""
    cells = {}
    for line in TABLE.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        key, *outcomes = (field.strip() for field in line.split("|"))
        if len(outcomes) != len(PLACES) or len(key.split()) != 4 or tuple(key.split()) in cells:
            sys.exit(f"{TABLE.name}: {line}")
        for i, outcome in enumerate(outcomes):
            if outcome == "=":
                outcomes[i] = outcomes[i - 1]
        cells[tuple(key.split())] = dict(zip(PLACES, outcomes))
    return cells


def kinds_of(cells):
    return list(dict.fromkeys(key[0] for key in cells))


def works(outcome):
    """(mode, guard) of an outcome that works."""
    return tuple(outcome.split()[0].split("/")) if "/" in outcome else None


def chosen(cells, kind, access, place):
    """(mode, guard, by name): what auto takes, or the first guard by name under which it takes one."""
    for guard in ("auto", "lease", "none"):
        outcome = cells.get((kind, access, guard, "auto"), {}).get(place, ".")
        if works(outcome):
            return (*works(outcome), guard != "auto")
    return None


def listed(words):
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def mode_text(cells, kind, access, place):
    found = chosen(cells, kind, access, place)
    return found[0] if found else "-"


def guard_text(cells, kind):
    """"file lease", or "file lease; none, by name, on 7.2"."""
    places = {}
    for place in KERNELS:
        found = {chosen(cells, kind, access, place)[1:] for access in ("read", "write")}
        if len(found) != 1:
            sys.exit(f"{kind} on {place}: other guards for reading than for writing")
        guard, by_name = found.pop()
        places.setdefault(GUARDS[guard] + (", by name" if by_name else ""), []).append(place)
    first, *others = places
    return "; ".join([first, *(f"{guard}, on {listed(places[guard])}" for guard in others)])


def auto_table(cells):
    """Heading and rows; kernels that are alike share a column, kinds that are alike a row."""
    kinds = kinds_of(cells)
    columns = []
    for access in ("read", "write"):
        alike = {}
        for place in KERNELS:
            alike.setdefault(tuple(mode_text(cells, kind, access, place) for kind in kinds), []).append(place)
        for column, places in alike.items():
            on = "" if len(alike) == 1 else f", {listed(places)}"
            columns.append((f"RDMA {access}{on}", column))
    for access in ("read", "write"):
        columns.append((f"io_uring {access}", tuple(mode_text(cells, kind, access, URING) for kind in kinds)))
    rows = {}
    for i, kind in enumerate(kinds):
        row = (guard_text(cells, kind), *(column[i] for _, column in columns))
        rows.setdefault(row, []).append(NAMES.get(kind, kind))
    return ["file on", "guard", *(name for name, _ in columns)], [(", ".join(k), *r) for r, k in rows.items()]


def asked(guard, mode, access):
    """What was asked for, in words."""
    if mode == "*":
        return f"guard {guard}"
    return mode + {"read": " for reading", "write": " for writing", "both": ""}[access]


def refusals(cells):
    """{reason: ["pinned for writing: ext4, xfs", ...]}: what RDMA asks for by name and does not get."""
    refused = {}
    for (kind, access, guard, mode), outcomes in cells.items():
        for place in KERNELS:
            if outcomes[place] == "." or works(outcomes[place]):
                continue
            reason = outcomes[place].split()[2]
            wanted = refused.setdefault(reason, {}).setdefault((guard if mode == "*" else "", mode), {})
            wanted.setdefault((access, kind), {})[place] = True
    return {reason: [line for wanted, where in refused[reason].items()
                     for line in refusal_lines(wanted, where, len(kinds_of(cells)))]
            for reason in sorted(refused)}


def refusal_lines(wanted, where, all_kinds):
    """Reading and writing in one line where they are alike, and so kinds that are refused on the same kernels."""
    together = {}
    for (access, kind), places in where.items():
        other = where.get(("write" if access == "read" else "read", kind))
        together.setdefault(("both" if other == places else access, tuple(places)), {})[kind] = True
    for (access, places), kinds in together.items():
        text = "every file" if len(kinds) == all_kinds else ", ".join(NAMES.get(kind, kind) for kind in kinds)
        on = f"; Linux {listed(places)}" if len(places) < len(KERNELS) else ""
        yield f"{asked(*wanted, access)}: {text}{on}"


def markdown(cells):
    heading, rows = auto_table(cells)
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def inverted(cells, what, of):
    """["pinned: tmpfs, memfd", ...]"""
    found = {}
    for kind in kinds_of(cells):
        found.setdefault(of(kind), []).append(NAMES.get(kind, kind))
    return [f"{what}{answer}: {', '.join(kinds)}" for answer, kinds in found.items() if answer != "-"]


def mdoc_line(line):
    if not line.startswith(".Bl"):
        line = line.replace(" -o", " \\-o")
    lines = [line] if line.startswith(".") else textwrap.wrap(line, 78, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def mdoc(cells):
    heading, rows = auto_table(cells)
    rdma = [i for i, name in enumerate(heading) if name.startswith("RDMA")]
    names = ["file", *(heading[i].removeprefix("RDMA ") for i in rdma)]
    width = max(len(NAMES.get(kind, kind)) for kind in kinds_of(cells))
    text = [".Bl -column " + " ".join(f'"{name.ljust(width if i == 0 else 0)}xx"' for i, name in enumerate(names)),
            ".It " + " Ta ".join(f"Em {name}" for name in names)]
    for row in rows:
        text += [".It " + " Ta ".join([kind, *(row[i] for i in rdma)]) for kind in row[0].split(", ")]
    text += [".El", ".Pp", "The guards under which that is so:", ".Bl -item -offset indent -compact"]
    text += [line for guard in inverted(cells, "", lambda kind: guard_text(cells, kind)) for line in (".It", guard)]
    text += [".El", ".Pp", "What auto takes with the fixed buffers of io_uring:",
             ".Bl -item -offset indent -compact"]
    for access in ("read", "write"):
        text += [line for mode in inverted(cells, f"{access}, ", lambda kind, a=access: mode_text(cells, kind, a, URING))
                 for line in (".It", mode)]
    text += [".El", ".Pp", "With RDMA these are refused when they are asked for by name; all else works:",
             ".Bl -tag -width Ds -compact"]
    for reason, lines in refusals(cells).items():
        text.append(f".It Dv PINLEASE_WHY_{reason}")
        text += [line for part in lines for line in (part, ".br")][:-1]
    return "".join(mdoc_line(line) for line in [*text, ".El"])


DOCUMENTS = (
    (TOP / "README.md", f"<!-- {BEGIN} -->\n", f"<!-- {END} -->\n", markdown),
    (TOP / "man/pinlease_modes.7", f".\\\" {BEGIN}\n", f".\\\" {END}\n", mdoc),
)


def parts(path, begin, end):
    """The text before the generated block, the block, and the text after it."""
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"{path.name}: no {begin!r} and {end!r}")
    head, rest = text.split(begin)
    block, tail = rest.split(end)
    return head + begin, block, end + tail


def write():
    cells = load()
    for path, begin, end, make in DOCUMENTS:
        head, _, tail = parts(path, begin, end)
        path.write_text(head + make(cells) + tail)


def check(tests_list):
    verdict = Verdict()
    cells = load()
    verdict.count("cells", sum(outcome != "." for outcomes in cells.values() for outcome in outcomes.values()))
    for path, begin, end, make in DOCUMENTS:
        verdict.count("documents")
        if parts(path, begin, end)[1] != make(cells):
            verdict.bad(path, "not the table of tests/rdma/matrix.table: tests/doc/matrix_tables.py --write")
    tests = {tuple(line.split()) for line in pathlib.Path(tests_list).read_text().splitlines()}
    for kind in kinds_of(cells):
        for place in PLACES:
            test = ("uring", "native", f"uring_matrix_{kind}") if place == URING else ("rdma", place, f"matrix_{kind}")
            there = any(outcomes[place] != "." for key, outcomes in cells.items() if key[0] == kind)
            verdict.count("tests", there)
            if there != (test in tests):
                verdict.bad(TABLE, f"{kind}, {place}: {'no test' if there else 'no line for the test'} {test[2]}")
    verdict.close(("documents", 2), ("cells", 300), ("tests", 30))


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    elif len(sys.argv) == 3 and sys.argv[1] == "--check":
        check(sys.argv[2])
    else:
        sys.exit(__doc__)
