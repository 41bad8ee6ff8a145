"""Compile the CUDA kernel for one compute capability and print what came out, as JSON.

A script of its own, `python cuda_compile.py 80`, beside `cuda_cases.py`: here Triton must not
interpret. Needs no GPU; the assembler comes with Triton.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nero.kernels.triton import launch as cuda
from nero.kernels.triton import plan as cuda_plan
from nero.kernels.triton.rows import nero_kernel
from nero.state import Hyper

KINDS = [cuda_plan.ENTRIES, *range(cuda_plan.FIRST_ROW, cuda_plan.LONG_STRIDED + 1)]
# One that reads once and one that reads twice.
ONCE, TWICE = 8, cuda_plan.LONG_STRIDED
HYPER = Hyper(0.01, 0.999, 0.0, True, "unit", "skip", False, False)


def cases(capability: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each kind and each option for one of the two capabilities, the largest kind for both."""
    last, newer = cuda_plan.LAST_ROW, capability == 90
    for index, kind in enumerate(KINDS):
        if kind == last or index % 2 == newer:
            yield f"kind {kind}", {"kind": kind}
            if kind in cuda_plan.ROW_KINDS:
                yield f"kind {kind}, aligned", {"kind": kind, "aligned": True}
    yield f"kind {last}, momentum", {"kind": last, "momentum": 0.9, "aligned": True}
    yield from [*options()][newer::2]


def options() -> Iterator[tuple[str, dict[str, Any]]]:
    # Those whose registers are the fullest.
    for kind in (cuda_plan.ENTRIES, cuda_plan.FIRST_ROW, 6, cuda_plan.LAST_ROW):
        yield f"kind {kind}, capped", {"kind": kind, "max_turn": 1.0}
    for kind in (ONCE, TWICE):
        ours = {"kind": kind}
        capped = {**ours, "max_turn": 1.0, "momentum": 0.9, "radius": "initial"}
        yield f"kind {kind}, capped, momentum", capped
        yield f"kind {kind}, bfloat16", {**ours, "w": torch.bfloat16, "g": torch.bfloat16}
        half = {"w": torch.float16, "g": torch.float16, "momentum": 0.9}
        yield f"kind {kind}, float16", {**ours, **half}
        mixed = {"g": torch.bfloat16, "radius": "initial", "nonfinite": "propagate"}
        yield f"kind {kind}, mixed", {**ours, **mixed}
        yield f"kind {kind}, free", {**ours, "radius": None, "center": False, "lr_tensor": True}
        yield f"kind {kind}, mean", {**ours, "radius": None, "momentum": 0.9}
        yield f"kind {kind}, norm", {**ours, "radius": 2.0, "counted_there": True}


def compiled(
    capability: int,
    kind: int,
    w: torch.dtype = torch.float32,
    g: torch.dtype = torch.float32,
    lr_tensor: bool = False,
    counted_there: bool = False,
    aligned: bool = False,
    **hyper: Any,
) -> dict[str, Any]:
    constants = cuda.kernel_options(
        *(w, g, HYPER._replace(**hyper), 1 << kind),
        lr_tensor=lr_tensor,
        counted_there=counted_there,
        aligned=aligned,
    )
    lr = "*fp32" if lr_tensor else "*i64"
    pointers = {"table": "*i64", "geometry": "*i64", "owner": "*i32", "skipped": "*i64", "lr": lr}
    source = ASTSource(
        nero_kernel,
        {**pointers, **dict.fromkeys(constants, "constexpr")},
        constexprs={(len(pointers) + i,): x for i, x in enumerate(constants.values())},
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(pointers))},
    )
    launch = {"num_warps": cuda_plan.warps(kind), "maxnreg": cuda.REGISTERS}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)
    ptx = kernel.asm["ptx"]
    return {
        "kind": kind,
        "target": re.search(r"\.target sm_\w+", ptx)[0],
        "cubin": len(kernel.asm["cubin"]),
        "shared bytes": kernel.metadata.shared,
        "wide loads": len(re.findall(r"ld\.global\S*\.v4", ptx)),
        **resources(ptx),
    }


def resources(ptx: str) -> dict[str, int]:
    """What the assembler says of the kernel."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "kernel.ptx")
        source.write_text(ptx)
        architecture = re.search(r"\.target (sm_\w+)", ptx)[1]
        done = subprocess.run(
            [
                knobs.nvidia.ptxas.path,
                "-v",
                f"--gpu-name={architecture}",
                source,
                "-o",
                "/dev/null",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"(\d+) bytes spill stores.*?Used (\d+) registers", done.stderr, re.DOTALL)
    return {"spilled bytes": int(found[1]), "registers": int(found[2])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    capability = int(sys.argv[1])
    seen = {name: compiled(capability, **case) for name, case in cases(capability)}
    json.dump(seen, sys.stdout)
