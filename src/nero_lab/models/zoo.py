"""Models by name, without their weights: torchvision's, and Hugging Face's from a local config.

They are built on the meta device, where a model of any size takes no memory.
"""

import difflib
from pathlib import Path

import torch
import torchvision
from torch import nn


def load_model(name: str) -> nn.Module:
    """Return a model on the meta device.

    Args:
        name: a name in `torchvision.models.list_models()`, or the path of a Hugging Face
            `config.json` or of a directory that holds one.

    Raises:
        ValueError: neither; the message says what is close to it.
    """
    path = Path(name)
    config = path / "config.json" if path.is_dir() else path
    if config.is_file():
        return _from_config(config)
    known = torchvision.models.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise ValueError(
            f"{name!r} is neither a model of torchvision nor a config.json or a directory with "
            f"one{hint}"
        )
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **_no_backbone(name))


def _no_backbone(name: str) -> dict[str, None]:
    # Detection and segmentation models would download the weights of their backbones.
    builder = torchvision.models.get_model_builder(name)
    takes_backbone = "weights_backbone" in builder.__annotations__
    return {"weights_backbone": None} if takes_backbone else {}


def _from_config(path: Path) -> nn.Module:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(path.parent, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a config that transformers can read: {error}") from error
    # The class that the config names has the head; the bare model of its type has none.
    named = [getattr(transformers, called, None) for called in config.architectures or []]
    with torch.device("meta"):
        if named and named[0] is not None:
            return named[0](config)
        return transformers.AutoModel.from_config(config)
