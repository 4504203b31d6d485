# SPDX-License-Identifier: BSD-3-Clause
"""A seed that fails does so again, step by step, and what is printed of it is the shortest way there.

usage: replay.py PROGRAM PROFILE FIRST

PROGRAM is an explorer whose library was broken on purpose; from FIRST on a seed fails.
"""
import re
import subprocess
import sys


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)


def operations(text):
    return len(re.findall(r"^  op \d+:", text, re.M))


def last_step(text):
    return int(re.findall(r"^ *(\d+) +\d+ us ", text, re.M)[-1])


def check(good, what):
    print(("ok: " if good else "FAILED: ") + what)
    if not good:
        sys.exit(1)


def main():
    program, profile, first = sys.argv[1:]
    found = run(program, "--profile", profile, "--first", first)
    check(found.returncode == 1, "a seed fails")
    seed, rule = re.search(r"^seed (\d+) violates (\w+): ", found.stdout, re.M).groups()
    again = re.search(r"^again: (.*)$", found.stdout, re.M)[1].split()

    whole = [run(program, "--profile", profile, "--seed", seed) for _ in range(2)]
    check(f"VIOLATION of {rule}: " in whole[0].stdout, f"seed {seed} violates {rule} when it is run alone")
    check(whole[0].stdout == whole[1].stdout, f"each of its {last_step(whole[0].stdout)} steps is the same again")

    shrunk = run(*again)
    check(shrunk.returncode == 1 and f"VIOLATION of {rule}: " in shrunk.stdout, "so does what was printed of it")
    before, after = operations(whole[0].stdout), operations(shrunk.stdout)
    check(0 < after < before, f"{after} operations are left of {before}")
    check(last_step(shrunk.stdout) <= last_step(whole[0].stdout), f"in {last_step(shrunk.stdout)} steps")
    check(shrunk.stdout.splitlines()[-2:][0] in found.stdout, "and its trace was printed")


if __name__ == "__main__":
    main()
