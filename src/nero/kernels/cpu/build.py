"""Compile the CPU kernel: `python -m nero.kernels.cpu.build`; also what installation runs.

Needs a C++17 compiler and nothing of torch: the kernel is a shared library with a C interface, so
one build serves every version of torch and of Python. Each instruction set is one object file of
the same source; the library picks among them when it runs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "_cpu.so"
SOURCES = (
    "kernel.h",
    "lanes.h",
    "turn.h",
    "rounding.h",
    "kernel.cpp",
    "rows.cpp",
)

# No contraction: a product and a sum fused into one rounding on one processor and not on another
# would make the results differ.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
)
INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "avx2": ("-mavx2",),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
}


class CannotBuild(RuntimeError):
    """There is no compiler, or it failed."""


def source_digest() -> str:
    """A digest of the sources, by which a library that was built from others is recognised."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def mark() -> bytes:
    """What the end of a whole library built from these sources is; loaders pass over it."""
    return f"nero-{source_digest()}".encode()


def find_compiler() -> list[str]:
    """The command of the C++ compiler: `$CXX`, or the first of c++, g++ and clang++.

    Raises:
        CannotBuild: there is none.
    """
    if command := shlex.split(os.environ.get("CXX", "")):
        return command
    if os.name == "nt":
        # What MinGW builds needs libraries of MinGW's, which other machines do not have.
        raise CannotBuild("there is no kernel for Windows yet ($CXX tries a compiler all the same)")
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise CannotBuild("no C++ compiler found (c++, g++, clang++ or $CXX)")


def build(
    target: Path = LIBRARY, extra_flags: Sequence[str] = (), program: Path | None = None
) -> Path:
    """Compile the kernel into `target`.

    Args:
        target: the file to write.
        extra_flags: further arguments for the compiler, such as sanitizers.
        program: a source file with a main function; the kernel becomes part of that program
            instead of a shared library.

    Returns:
        `target`.

    Raises:
        CannotBuild: no compiler, or its message.
    """
    compiler = [*find_compiler(), *FLAGS, *extra_flags]
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    with tempfile.TemporaryDirectory() as directory:
        objects, defines = [], []
        for name, flags in INSTRUCTION_SETS.items():
            if name != "baseline" and not x86:
                continue
            object_file = f"{directory}/{name}.o"
            command = [*compiler, *flags, f"-DNERO_ISA={name}", "-c", "rows.cpp"]
            try:
                _run([*command, "-o", object_file])
            except CannotBuild:
                if name == "baseline":
                    raise
                continue  # a compiler that is too old for it
            objects.append(object_file)
            defines.append(f"-DNERO_HAS_{name.upper()}")
        # Moved into its place, so that a process that has the old one loaded keeps it.
        made = f"{directory}/library"
        kind = ["-shared"] if program is None else ["-I.", str(program)]
        rest = ["-pthread", "kernel.cpp", *objects]
        _run([*compiler, *defines, *kind, *rest, "-o", made])
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copy(made, unfinished)
        with unfinished.open("ab") as file:
            file.write(mark())
        unfinished.replace(target)
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuild(f"{command[0]}: {error}") from error
    if done.returncode:
        raise CannotBuild(f"{shlex.join(command)} failed:\n{done.stderr.strip()}")


def main() -> int:
    """Build, and say what came of it; a failure is no error, since the library works without."""
    try:
        print(f"nero: built the CPU kernel {build()}")
    except (CannotBuild, OSError) as error:
        print(
            f"nero: the CPU kernel was not built, steps on CPU will be slower: {error}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
