#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Install into a scratch folder and build consumers against it, by pkg-config and by find_package.

check_install.py CMAKE BUILD CC VERSION [FLAGS]: FLAGS are what the build needs to link (sanitizers).
"""
import os
import pathlib
import sys
import tempfile

from doctree import Verdict, need, pages, public_headers, run

PROGRAM = """
#include <pinlease.h>
#include <pinlease/backend.h>
#include <stdio.h>

int main(void)
{
	struct pinlease_ctx *ctx;
	int err = pinlease_ctx_new(NULL, &ctx);

	printf("%s %s\\n", pinlease_version(), err ? "no ctx" : "ctx");
	return err || pinlease_ctx_free(ctx);
}
"""

CARRY = """
#include <pinlease/carry.h>
#include <stdio.h>

int main(void)
{
	printf("%s %s\\n", pinlease_version(), pinlease_carry_free(NULL) ? "nothing" : "ctx");
	return 0;
}
"""

URING = """
#include <pinlease/uring.h>
#include <stdio.h>

int main(void)
{
	printf("%s %s\\n", pinlease_version(), pinlease_uring_backend()->pin ? "ctx" : "nothing");
	return 0;
}
"""

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C)
find_package(pinlease {version} REQUIRED)
add_executable(shared main.c)
target_link_libraries(shared PRIVATE pinlease::pinlease {flags})
add_executable(static main.c)
target_link_libraries(static PRIVATE pinlease::pinlease_static {flags})
add_executable(carry carry.c)
target_link_libraries(carry PRIVATE pinlease::pinlease_carry {flags})
if(TARGET pinlease::pinlease_uring)
  add_executable(uring uring.c)
  target_link_libraries(uring PRIVATE pinlease::pinlease_uring {flags})
endif()
"""


class Scratch:
    def __init__(self, verdict, folder, cc, flags):
        self.verdict, self.folder, self.cc, self.flags = verdict, folder, cc, flags
        self.prefix = folder / "prefix"
        self.source = folder / "source"
        self.source.mkdir()
        (self.source / "main.c").write_text(PROGRAM)
        (self.source / "carry.c").write_text(CARRY)
        (self.source / "uring.c").write_text(URING)

    def step(self, what, args, **keywords):
        result = run(args, **keywords)
        if result.returncode != 0:
            self.verdict.bad(what, (result.stdout + result.stderr).strip())
        return result

    def libdir(self):
        return next(iter(self.prefix.rglob("libpinlease.so"))).parent

    def execute(self, what, program, version):
        self.verdict.count("consumers")
        result = self.step(what, [program], env={**os.environ, "LD_LIBRARY_PATH": str(self.libdir())})
        if result.stdout.strip() != f"{version} ctx":
            self.verdict.bad(what, f"prints {result.stdout.strip()!r}")

    def with_uring(self):
        return any(self.prefix.rglob("libpinlease-uring.so"))

    def pkg_config(self, *arguments, package="libpinlease"):
        environment = {**os.environ, "PKG_CONFIG_PATH": str(self.libdir() / "pkgconfig")}
        answer = self.step("pkg-config", [need("pkg-config"), *arguments, package], env=environment)
        return answer.stdout.split()


def by_pkg_config(scratch, version):
    if scratch.pkg_config("--modversion") != [version]:
        scratch.verdict.bad("libpinlease.pc", f"is not of version {version}")
    shared, static = scratch.folder / "pc-shared", scratch.folder / "pc-static"
    main = scratch.source / "main.c"
    scratch.step("pkg-config, shared", [scratch.cc, main, "-o", shared, *scratch.flags,
                                        *scratch.pkg_config("--cflags", "--libs")])
    scratch.execute("pkg-config, shared", shared, version)
    libraries = [str(scratch.libdir() / "libpinlease.a") if word == "-lpinlease" else word
                 for word in scratch.pkg_config("--cflags", "--static", "--libs")]
    scratch.step("pkg-config, static", [scratch.cc, main, "-o", static, *scratch.flags, *libraries])
    scratch.execute("pkg-config, static", static, version)
    for name in ("carry", "uring") if scratch.with_uring() else ("carry",):
        program = scratch.folder / f"pc-{name}"
        package = f"libpinlease-{name}"
        scratch.step(f"pkg-config, {name}", [scratch.cc, scratch.source / f"{name}.c", "-o", program, *scratch.flags,
                                             *scratch.pkg_config("--cflags", "--libs", package=package)])
        scratch.execute(f"pkg-config, {name}", program, version)


def by_find_package(scratch, cmake, version):
    (scratch.source / "CMakeLists.txt").write_text(PROJECT.format(version=version, flags=" ".join(scratch.flags)))
    build = scratch.folder / "build"
    scratch.step("find_package", [cmake, "-S", scratch.source, "-B", build, f"-DCMAKE_C_COMPILER={scratch.cc}",
                                  f"-DCMAKE_PREFIX_PATH={scratch.prefix}"])
    scratch.step("find_package", [cmake, "--build", build])
    for kind in ("shared", "static", "carry", *(["uring"] if scratch.with_uring() else [])):
        scratch.execute(f"find_package, {kind}", build / kind, version)


def by_preload(scratch):
    """The installed pinleasectl finds the installed library to preload, and no other."""
    scratch.verdict.count("consumers")
    library = scratch.libdir() / "pinlease/libpinlease-preload.so"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(scratch.libdir()), "LD_PRELOAD": ""}
    result = scratch.step("run", [scratch.prefix / "bin/pinleasectl", "run", "--quiet", "sh", "-c", "echo $LD_PRELOAD"],
                          env=environment)
    found = pathlib.Path(result.stdout.strip() or "nothing")
    if not library.exists() or not found.exists() or not found.samefile(library) or result.stderr:
        scratch.verdict.bad("run", f"preloads {found}, {library} was to be: {result.stderr.strip()}")


def installed_tools(scratch, version):
    """Each runs where it is installed, and has a page."""
    for tool in (scratch.prefix / "bin").iterdir():
        scratch.verdict.count("tools")
        result = scratch.step(tool.name, [tool, "--version"],
                              env={**os.environ, "LD_LIBRARY_PATH": str(scratch.libdir())})
        if result.stdout.strip() != f"{tool.name} {version}":
            scratch.verdict.bad(tool.name, f"prints {result.stdout.strip()!r}")
        if not (scratch.prefix / "share/man/man1" / f"{tool.name}.1").exists():
            scratch.verdict.bad(tool.name, "has no page")


def installed_pages(scratch):
    """man finds a page under each name, and what a link says is there."""
    root = scratch.prefix / "share/man"
    for page in pages():
        for name in page.names():
            scratch.verdict.count("pages")
            installed = root / f"man{page.section}/{name}.{page.section}"
            if not installed.exists():
                scratch.verdict.bad("man", f"{name}({page.section}) is not installed")
            elif installed.name != page.path.name and installed.read_text() != f".so man{page.section}/{page.path.name}\n":
                scratch.verdict.bad("man", f"{installed.name} is no link to {page.path.name}")


def main():
    cmake, build, cc, version, *flags = sys.argv[1:]
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(verdict, pathlib.Path(folder), cc, flags)
        if scratch.step("install", [cmake, "--install", build, "--prefix", scratch.prefix]).returncode == 0:
            by_pkg_config(scratch, version)
            by_find_package(scratch, cmake, version)
            by_preload(scratch)
            installed_tools(scratch, version)
            installed_pages(scratch)
            for name, path in public_headers().items():
                if not (scratch.prefix / "include" / name).exists():
                    verdict.bad(path, "is not installed")
    verdict.close(("consumers", 5), ("pages", 10), ("tools", 1))


main()
