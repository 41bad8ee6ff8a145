"""Which machine a record says that it comes from."""

import pytest
import torch

from nero_lab.records.environment import environment, named_processor


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (
            "cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\n"
            "cpu family\t: 6\nmodel\t\t: 1\nmodel name\t: another\n",
            "AMD EPYC (family 26, model 2)",
        ),
        ("processor\t: 0\nmodel name\t: POWER9\n", "POWER9"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", ""),
        ("", ""),
    ],
)
def test_a_processor_is_named_with_its_generation(cpuinfo: str, name: str):
    assert named_processor(cpuinfo) == name


def test_the_gpu_is_named_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert environment.__wrapped__()["GPU"] == "NVIDIA H100"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "GPU" not in environment.__wrapped__()
