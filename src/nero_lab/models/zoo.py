"""Models by name, without their weights: torchvision's, and Hugging Face's from a local config.

They are built on the meta device, where a model of any size takes no memory. Nothing that lies
beside a config is read or run.
"""

import difflib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_model(name: str) -> nn.Module:
    """Return a model on the meta device.

    Args:
        name: a name in `torchvision.models.list_models()`, or the path of a Hugging Face
            `config.json`, under whatever name, or of a directory that holds one.

    Raises:
        ValueError: neither; the message says what is close to it. Or a config of a model that is
            not transformers' own: its code is not run.
    """
    path = Path(name)
    config = path / "config.json" if path.is_dir() else path
    if config.is_file():
        return _from_config(config)
    import torchvision

    known = torchvision.models.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise ValueError(
            f"{name!r} is neither a model of torchvision nor a config.json or a directory with "
            f"one{hint}"
        )
    # Detection and segmentation models would download the weights of their backbones.
    builder = torchvision.models.get_model_builder(name)
    takes_backbone = "weights_backbone" in builder.__annotations__
    options: dict[str, Any] = {"weights_backbone": None} if takes_backbone else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options)


def _from_config(path: Path) -> nn.Module:
    import transformers

    # Not AutoConfig.from_pretrained, which reads other files of the folder, guesses a type from the
    # path, and asks whether to run the code that a config names.
    try:
        fields = json.loads(path.read_text("utf-8"))
        kind = fields["model_type"]
        known = kind in transformers.CONFIG_MAPPING
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is not a config of a model: {_line(error)}") from None
    if not known:
        raise ValueError(
            f"{path} is of the type {kind!r}, which transformers does not have; code beside a "
            "config is not run: build the model yourself and give it to nero.describe"
        )
    try:
        config = transformers.CONFIG_MAPPING[kind].from_dict(fields)
        with torch.device("meta"):
            return _architecture(config)
    except Exception as error:  # whatever the values of a file of others bring about
        raise ValueError(f"transformers makes no model of {path}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _architecture(config: Any) -> nn.Module:
    """Return the class that the config names, which has the head; else the model of its type."""
    import transformers

    for name in config.architectures or []:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found(config)
    return transformers.AutoModel.from_config(config, trust_remote_code=False)
