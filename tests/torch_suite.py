"""The part of torch's own suite that is in the wheel, without what importing it changes."""

import importlib
import sys
import types
import unittest
from types import ModuleType
from unittest import mock

import torch
from hypothesis import settings


def load(name: str) -> ModuleType:
    """A module of `torch.testing._internal`.

    They need the package expecttest for a base class alone, freeze torch's global flags, and choose
    a profile of Hypothesis.
    """
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    profile = settings.get_current_profile_name()
    flags = {"__allow_nonbracketed_mutation_flag": not torch.backends.flags_frozen()}
    with mock.patch.dict(sys.modules, {"expecttest": stand_in}):
        module = importlib.import_module(f"torch.testing._internal.{name}")
        loaded = dict(sys.modules)
    sys.modules.update({key: x for key, x in loaded.items() if key != "expecttest"})
    vars(torch.backends).update(flags)
    settings.load_profile(profile)
    return module
