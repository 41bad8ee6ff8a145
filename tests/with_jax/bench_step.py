"""A compiled step on GPT-2's parameters against optax's adamw and muon, by time and memory.

    make bench-jax

Each step takes gradients and gives new parameters, with its inputs donated. The optimisers take
turns within a round, and a ratio is the median over rounds of the CPU time within one round, so
that a machine that is busy for a while slows both sides. Prints a page in Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nero.optax import NeuronDimensionNumbers, balance, nero

WIDTH = 768
KERNEL = NeuronDimensionNumbers((-1,))
TABLE = NeuronDimensionNumbers((0,), role="embedding")
DIMS = {"letters": TABLE, "places": TABLE, "blocks": KERNEL}
BASE = "optax.adamw"


def gpt2(key: jax.Array, layers: int) -> dict[str, Any]:
    """Parameters of GPT-2 small: kernels are (in, out), the head is the embedding."""
    norm = {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}

    def dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
        kernel = jax.random.normal(key, (inputs, outputs)) / inputs**0.5
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    keys = jax.random.split(key, 2 + 4 * layers)
    sizes = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
    blocks = [
        {
            "norms": [norm, norm],
            "layers": [dense(keys[2 + 4 * layer + k], *size) for k, size in enumerate(sizes)],
        }
        for layer in range(layers)
    ]
    return {
        "letters": jax.random.normal(keys[0], (50257, WIDTH)),
        "places": jax.random.normal(keys[1], (1024, WIDTH)),
        "blocks": [*blocks, norm],
    }


def muon_numbers(params: Any) -> Any:
    """Kernels, and not the tables, are for muon."""
    numbers = jax.tree.map(lambda p: None, params)
    for block in numbers["blocks"][:-1]:
        for layer in block["layers"]:
            layer["kernel"] = optax.contrib.MuonDimensionNumbers()
    return numbers


def contestants(params: Any) -> dict[str, optax.GradientTransformation]:
    """What is compared, by name."""
    options = {"neuron_dimension_numbers": DIMS}
    return {
        BASE: optax.adamw(1e-3),
        "nero": nero(**options),
        "nero, momentum 0.9": nero(momentum=0.9, **options),
        "nero, orthogonal": nero(orthogonal=True, **options),
        "optax.contrib.muon": optax.contrib.muon(
            1e-3, muon_weight_dimension_numbers=muon_numbers(params)
        ),
    }


class Runner(NamedTuple):
    """One contestant, compiled."""

    step: Any
    params: Any
    state: Any
    state_bytes: int
    temporary_bytes: int

    def once(self, gradient: Any) -> tuple[Runner, float]:
        """The runner after a step, and the CPU seconds that it took."""
        start = time.process_time()
        params, state = jax.block_until_ready(self.step(self.params, self.state, gradient))
        return self._replace(params=params, state=state), time.process_time() - start


def runner(tx: optax.GradientTransformation, params: Any, gradient: Any) -> Runner:
    """Compile a step on a copy of the parameters."""

    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.copy, params)
    state = jax.jit(tx.init)(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, gradient).compile()
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return Runner(compiled, params, state, size, temporary)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", help="contestants to run besides adamw")
    arguments = parser.parse_args()
    params = jax.jit(gpt2, static_argnums=1)(jax.random.key(0), arguments.layers)
    params = balance(params, DIMS)
    gradient = jax.jit(lambda p: jax.tree.map(lambda x: jnp.cos(1e3 * x) * 1e-3, p))(params)
    found = contestants(params)
    if arguments.only is not None:
        found = {name: tx for name, tx in found.items() if name in {BASE, *arguments.only}}
    base = runner(found.pop(BASE), params, gradient)
    measured: dict[str, tuple[Runner, list[tuple[float, float]]]] = {}
    for name, tx in found.items():
        each = runner(tx, params, gradient)
        base, each, seconds = side_by_side(base, each, gradient, arguments.rounds)
        measured[name] = (each._replace(params=None, state=None), seconds)
    size = sum(x.size for x in jax.tree.leaves(params))
    print("\n".join(page(size, arguments.rounds, base, measured)))


def side_by_side(
    base: Runner, each: Runner, gradient: Any, rounds: int
) -> tuple[Runner, Runner, list[tuple[float, float]]]:
    """Take steps in turns; returns both runners and the seconds of each round.

    The base takes one step that is not counted, as memory that was idle for seconds is slow.
    """
    seconds = []
    for _ in range(rounds + 2):
        base, _ = base.once(gradient)
        base, its = base.once(gradient)
        each, own = each.once(gradient)
        seconds.append((its, own))
    return base, each, seconds[2:]  # the first steps touch memory for the first time


def page(
    size: int,
    rounds: int,
    base: Runner,
    measured: dict[str, tuple[Runner, list[tuple[float, float]]]],
) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Benchmarks in JAX"
    yield ""
    yield (
        f"Written by `make bench-jax`: a compiled step on CPU, GPT-2, {size:,} float32 "
        "parameters, gradients in and new parameters out, inputs donated. Each takes turns with "
        f"adamw alone, and a ratio is the median of {rounds} rounds of the CPU time within one "
        "round. State is what `init` makes; temporaries are those that XLA says it needs."
    )
    yield ""
    yield (
        "| step | CPU ms, median | of adamw's time | state, MB | of adamw's state | temporary, MB |"
    )
    yield "|---|---|---|---|---|---|"
    of_base = [its for _, seconds in measured.values() for its, _ in seconds]
    rows = {BASE: (base, [(its, its) for its in of_base]), **measured}
    for name, (each, seconds) in rows.items():
        ratio = statistics.median(own / its for its, own in seconds)
        share = each.state_bytes / base.state_bytes
        yield (
            f"| {name} | {1e3 * statistics.median(own for _, own in seconds):.1f} | {ratio:.2f} | "
            f"{each.state_bytes / 1e6:.2f} | {share:.4%} | {each.temporary_bytes / 1e6:.0f} |"
        )
    yield ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "optax"))
    yield f"{date.today()}, {jax.devices()[0]}, {os.cpu_count()} cores, {versions}."


if __name__ == "__main__":
    main()
