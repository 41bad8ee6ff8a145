"""Where no thread can be made, the kernel does with the one that there is."""

import hashlib
import os
import resource
import subprocess
import sys

import pytest
import torch
from torch import nn

from nero import Nero
from nero.kernels.cpu import library

# Prints the digest of a step by the kernel's own threads, and by OpenMP's if torch runs on those.
CHILD = """
import os, resource, sys, threading
import torch
from kernels.test_threads import digest_of_two_steps
from nero.kernels.cpu import library

openmp = library.openmp_parallel()
torch.set_num_threads(1)
digest_of_two_steps()  # so that what is imported late has been, and no thread been started
torch.set_num_threads(4)
pages = int(open("/proc/self/statm").read().split()[0])
stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
room = pages * os.sysconf("SC_PAGE_SIZE") + stack // 2
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    sys.exit("a thread could be made")
for address in [None] + [openmp] * bool(openmp):
    library.openmp_parallel = lambda: address
    print(digest_of_two_steps())
"""
STACK = 64 << 20  # of a thread, in bytes, unless the system allows less


def digest_of_two_steps() -> str:
    """Of tensors too small for torch's own operators to start threads, but not for the kernel."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(32, 64)) for _ in range(64)]
    optimizer = Nero(params, fused=True)
    for p in params:
        p.grad = torch.randn(32, 64)
    optimizer.step()
    optimizer.step()
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in params)).hexdigest()


def large_stacks() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    soft = STACK if most == resource.RLIM_INFINITY else min(STACK, most)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, most))


@pytest.mark.skipif(sys.platform != "linux", reason="memory for threads is limited as on Linux")
@pytest.mark.skipif(os.environ.get("NERO_CPU") == "none", reason="there is no kernel")
def test_a_step_without_threads_is_the_same_step():
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        preexec_fn=large_stacks,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, (child.returncode, child.stderr[-2000:])
    ways = 2 if library.openmp_parallel() else 1
    assert child.stdout.split() == [digest_of_two_steps()] * ways
