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
FEW = 1 << 8 | 1 << cuda_plan.LONG_STRIDED
HYPER = Hyper(0.01, 0.999, 0.0, True, "unit", "skip", False, False)


def cases(capability: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each kind and each option for one of the two capabilities, the largest kind for both."""
    last, newer = cuda_plan.LAST_ROW, capability == 90
    for index, kind in enumerate(KINDS):
        if kind == last or index % 2 == newer:
            yield f"kind {kind}", {"kinds": 1 << kind}
    yield f"kind {last}, momentum", {"kinds": 1 << last, "momentum": 0.9}
    yield from [*options()][newer::2]


def options() -> Iterator[tuple[str, dict[str, Any]]]:
    # Those whose registers are the fullest.
    for kind in (cuda_plan.ENTRIES, cuda_plan.FIRST_ROW, 6, cuda_plan.LAST_ROW):
        yield f"kind {kind}, capped", {"kinds": 1 << kind, "max_turn": 1.0}
    yield "capped, momentum", {"max_turn": 1.0, "momentum": 0.9, "radius": "initial"}
    yield "bfloat16", {"w": torch.bfloat16, "g": torch.bfloat16}
    yield "float16", {"w": torch.float16, "g": torch.float16, "momentum": 0.9}
    yield "mixed", {"g": torch.bfloat16, "radius": "initial", "nonfinite": "propagate"}
    yield "free", {"radius": None, "center": False, "lr_tensor": True}
    yield "mean", {"radius": None, "momentum": 0.9}
    yield "norm", {"radius": 2.0, "center": False}


def compiled(
    capability: int,
    kinds: int = FEW,
    w: torch.dtype = torch.float32,
    g: torch.dtype = torch.float32,
    lr_tensor: bool = False,
    **hyper: Any,
) -> dict[str, Any]:
    constants = cuda.kernel_options(w, g, HYPER._replace(**hyper), lr_tensor, kinds)
    lr = "*fp32" if lr_tensor else "*i64"
    pointers = {"table": "*i64", "geometry": "*i64", "owner": "*i32", "finite": "*i1", "lr": lr}
    source = ASTSource(
        nero_kernel,
        {**pointers, **dict.fromkeys(constants, "constexpr")},
        constexprs={(len(pointers) + i,): x for i, x in enumerate(constants.values())},
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(pointers))},
    )
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=cuda.LAUNCH)
    ptx = kernel.asm["ptx"]
    return {
        "target": re.search(r"\.target sm_\w+", ptx)[0],
        "cubin": len(kernel.asm["cubin"]),
        "shared bytes": kernel.metadata.shared,
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
