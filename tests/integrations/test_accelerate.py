import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import nero
from nero.integrations import unwrap

RANKS = Path(__file__).with_name("ranks.py")
SAME = "the weights of one process, to 1e-6"


def case(name: str, library: str, ran: str, holds: str):
    return pytest.param(name, marks=pytest.mark.shows(library, ran, holds), id=name)


@pytest.mark.parametrize(
    "name",
    [
        case("accelerate_ddp", "accelerate", "`prepare` with DDP on two processes", SAME),
        case("accelerate_fsdp2", "accelerate", "`prepare` with FSDP2 on two processes", SAME),
        case("fsdp1", "torch", "`FullyShardedDataParallel`", "refused; names `fully_shard`"),
        case("zero_redundancy", "torch", "`ZeroRedundancyOptimizer` on two processes", SAME),
    ],
)
def test_two_processes(name: str, tmp_path: Path) -> None:
    # accelerate asks for an address, also where the process group is there already and no port is
    # opened. Without a number of threads it counts cores, which some machines do not report.
    asked = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **asked, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANKS), name, str(rank), str(tmp_path / "store")],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-4000:]


@pytest.mark.shows("accelerate", "`save_state` and `load_state`", "every bit of the whole run")
def test_a_resumed_run_ends_at_the_same_weights(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    start = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x, y = torch.randn(32, 8), torch.randn(32, 4)
    model, optimizer = accelerator.prepare(start, nero.for_model(start, batch=x, fresh=True))

    def train(steps: int) -> list[torch.Tensor]:
        for _ in range(steps):
            optimizer.zero_grad()
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    train(3)
    accelerator.save_state(str(tmp_path))
    whole = train(3)
    accelerator.load_state(str(tmp_path))
    torch.testing.assert_close(train(3), whole, rtol=0, atol=0)
    assert unwrap(optimizer).path
