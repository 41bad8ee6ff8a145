"""What is known of tensors from earlier steps is noticed to hold no more."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import nero


def stepped_twice() -> tuple[nn.Parameter, nero.Nero]:
    p = nn.Parameter(torch.randn(4, 6))
    optimizer = nero.Nero([p], lr=0.1)
    p.grad = torch.randn(4, 6)
    for _ in range(2):
        optimizer.step()
    return p, optimizer


def other_view(p: Tensor, rms: Tensor) -> None:
    rms.data = rms.data[:1]


def shared_entries(p: Tensor, rms: Tensor) -> None:
    p.data = p.data[:1].expand(4, 6)


def smaller_storage(p: Tensor, rms: Tensor) -> None:
    p.untyped_storage().resize_(48)


@pytest.mark.parametrize("change", [other_view, shared_entries, smaller_storage])
def test_the_same_object_that_cannot_be_stepped_any_more(change: Callable[..., None]) -> None:
    p, optimizer = stepped_twice()
    change(p, optimizer.state[p]["rms"])
    with pytest.raises(RuntimeError):
        optimizer.step()


def negated(x: Tensor) -> Tensor:
    return torch._neg_view(-x)


@pytest.mark.parametrize("make", [torch.clone, negated, lambda x: x.t().contiguous().t()])
@pytest.mark.parametrize("key", ["weights", "rms"])
def test_the_same_object_in_another_memory(key: str, make: Callable[[Tensor], Tensor]) -> None:
    (p, optimizer), (expected, as_before) = (
        (torch.manual_seed(0), stepped_twice())[1] for _ in "ab"
    )
    x = p if key == "weights" else optimizer.state[p]["rms"]
    x.data = make(x.data)
    if key == "weights" and x.is_neg():
        with pytest.raises(RuntimeError, match="negated"):
            optimizer.step()
        return
    optimizer.step()
    as_before.step()
    torch.testing.assert_close(p, expected)
    rms = optimizer.state[p]["rms"], as_before.state[expected]["rms"]
    torch.testing.assert_close(rms[0].resolve_neg(), rms[1])


def test_nothing_is_known_of_a_copy_or_of_state_that_was_loaded() -> None:
    p, optimizer = stepped_twice()
    optimizer.load_state_dict(optimizer.state_dict())
    before = optimizer.state[p]["rms"].clone()
    optimizer.step()
    assert not torch.equal(optimizer.state[p]["rms"], before)
