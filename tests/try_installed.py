"""Train with the nero that is installed, away from any checkout: a wheel's trial.

`python tests/try_installed.py` in an environment that has the wheel and torch; `--kernel` fails
where the compiled CPU kernel is not the path that the step takes.
"""

import importlib.metadata
import sys
from pathlib import Path

# A script's own folder is first on the path: leave it, so that nothing of a checkout is found.
sys.path.pop(0)

import torch

import nero


def train(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> tuple[float, float]:
    """Return the loss before and after 200 steps, on products of two inputs."""
    losses = []
    for _ in range(200):
        x = torch.randn(64, 20)
        loss = torch.nn.functional.mse_loss(model(x), x[:, :1] * x[:, 1:2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[:20]) / 20, sum(losses[-20:]) / 20


def main() -> None:
    """Train by the paper's algorithm and by the recommended one; exit with 1 where that fails."""
    version = importlib.metadata.version("nero-optim")
    place = Path(nero.__file__).parents[1]
    if (place.parent / "pyproject.toml").exists() or nero.__version__ != version:
        sys.exit(f"this is not an installed nero: {place}, {nero.__version__}, {version}")
    torch.set_num_threads(1)  # so small a network gains nothing by more, and waits on busy machines
    for name in ("Nero", "for_model"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
        )
        if name == "Nero":
            optimizer = nero.Nero(model.parameters())
        else:
            optimizer = nero.for_model(model, batch=torch.randn(64, 20), fresh=True)
        before, after = train(optimizer, model)
        print(
            f"nero-optim {version}, torch {torch.__version__}, Python {sys.version.split()[0]}: "
            f"{name}, loss {before:.3f} to {after:.3f}, path {optimizer.path!r}"
        )
        if not after < 0.7 * before:
            sys.exit(f"{name} did not train")
        if name == "Nero" and "--kernel" in sys.argv and not optimizer.path.startswith("fused"):
            sys.exit(f"the kernel is not in use: {optimizer.path}")


if __name__ == "__main__":
    main()
