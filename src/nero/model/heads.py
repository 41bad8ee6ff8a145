"""Which modules are a model's head or embeddings: as named by the caller, or found by one batch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from nero.model.registry.lookup import find_row
from nero.model.run import run, unwrap

Named = nn.Module | nn.Parameter | str


def find_named(
    model: nn.Module, given: Named | Iterable[Named] | None, argument: str
) -> list[nn.Module | nn.Parameter]:
    """The modules and parameters that the caller gave, by themselves or by dotted name.

    Raises:
        ValueError: one that the model does not have.
        TypeError: an entry that is no module, parameter or name.
    """
    if given is None:
        return []
    entries = [given] if isinstance(given, (nn.Module, Tensor, str)) else list(given)
    return [_find(model, entry, argument) for entry in entries]


def _find(model: nn.Module, entry: object, argument: str) -> nn.Module | nn.Parameter:
    if isinstance(entry, str):
        known: dict[str, nn.Module | nn.Parameter] = {}
        for root in (model, unwrap(model)):
            known |= dict(root.named_modules(remove_duplicate=False))
            known |= dict(root.named_parameters(remove_duplicate=False))
        if entry in known:
            return known[entry]
        close = difflib.get_close_matches(entry, [name for name in known if name])
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"{argument}={entry!r}: the model has no such module or parameter{hint}")
    if isinstance(entry, nn.Module):
        if any(entry is module for module in model.modules()):
            return entry
    elif isinstance(entry, nn.Parameter):
        if any(entry is p for p in model.parameters()):
            return entry
    else:
        raise TypeError(f"{argument} must be modules, parameters or their names, got {entry!r}")
    raise ValueError(f"{argument} holds a {type(entry).__name__} that is not part of the model")


def declared_head(model: nn.Module) -> list[nn.Module]:
    """What a Hugging Face model declares as its output embeddings; nothing for other models."""
    declare = getattr(unwrap(model), "get_output_embeddings", None)
    head = declare() if callable(declare) else None
    return [head] if isinstance(head, nn.Module) else []


def traced_heads(model: nn.Module, batch: Any) -> list[nn.Module]:
    """The modules with one weight whose output is an output of the model, found by one run.

    The run is in eval mode and without gradients; modes and random state are put back after it.
    An output counts as the module's where it is the same memory, as a view or as it is, unchanged
    since. Of outputs in a container, the tensors directly in it count (not caches or hidden
    states further in), or its `logits` alone.

    Raises:
        ValueError: no such module.
    """
    model = unwrap(model)
    made: list[tuple[nn.Module, Tensor, int]] = []

    def remember(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made.append((module, output, output._version))

    hooks = [m.register_forward_hook(remember) for m in model.modules() if _is_layer(m)]
    try:
        outputs = run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    heads: list[nn.Module] = []
    for output in _outputs(outputs):
        makers = [m for m, made_by, v in made if _same(made_by, output) and v == output._version]
        if makers and not any(makers[-1] is head for head in heads):
            heads.append(makers[-1])
    if not heads:
        raise ValueError(
            "batch: no output of the model is the output of one of its linear or convolutional "
            "layers (something follows the last one); name the head with head=..."
        )
    return heads


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is one layer of neurons: one weight of its own and no parts."""
    rows = [find_row(module, name) for name, _ in module.named_parameters(recurse=False)]
    weights = [row for row in rows if row is not None and row.role in ("weight", "head")]
    return len(weights) == 1 and next(module.children(), None) is None


def _outputs(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")
        outputs = list(outputs.values()) if logits is None else [logits]
    elif isinstance(getattr(outputs, "logits", None), Tensor):
        outputs = [outputs.logits]
    elif not isinstance(outputs, (tuple, list)):
        outputs = [outputs]
    return [output for output in outputs if isinstance(output, Tensor)]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share their memory; a storage is one object."""
    return a.untyped_storage() is b.untyped_storage()
