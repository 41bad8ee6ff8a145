"""Steps inside the backward pass: the ordinary numbers, less memory, and clear refusals."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import nero
from helpers import bits, build, every_constraint, every_momentum, every_path, snapshot
from nero import Nero, NeuronLayout, geometry, step_in_backward
from nero.backward import GradientUsedInBackward
from optimizer_table import PathRow
from test_memory import peak_bytes

STEPS = 12


class Tied(nn.Module):
    """A weight used twice, one used through a view, a bias, a gain and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.inner = nn.Linear(6, 6)
        self.conv = nn.ConvTranspose1d(6, 4, 3)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for _ in range(2):
            x = x + torch.tanh(self.inner(self.norm(x)))
        x = x * (1 + self.conv(x.mT)[:, :1, :5].mT)
        return self.head(x @ self.inner.weight.t())


def losses(model: nn.Module, steps: int = STEPS) -> Any:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        tokens = torch.randint(7, (4, 5), generator=generator)
        yield nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def train(
    model: nn.Module, optimizer: Nero, after: Callable[[], Any] = lambda: None, steps: int = STEPS
) -> None:
    for loss in losses(model, steps):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()


def pair(path: PathRow | None = None, **options: Any) -> tuple[nn.Module, Nero]:
    torch.manual_seed(1)
    model = Tied()
    groups = nero.param_groups(model, preset="paper")
    optimizer = build(groups, path, lr=0.05, **options) if path else Nero(groups, **options)
    return model, optimizer


@every_path
@every_constraint
@every_momentum
def test_the_numbers_are_those_of_the_ordinary_step(
    path: PathRow, constraint: dict[str, Any], momentum: float
):
    ends = []
    for in_backward in (False, True):
        model, optimizer = pair(path, momentum=momentum, **constraint)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        if in_backward:
            step_in_backward(model, optimizer)
        train(model, optimizer, schedule.step)
        ends.append((optimizer, list(model.parameters())))
    (ordinary, weights), (stepped, others) = ends
    if path.options.get("foreach"):  # a stack of tensors is summed in another order
        for w, other in zip(weights, others, strict=True):
            torch.testing.assert_close(other, w, rtol=1e-5, atol=1e-6)
    else:
        assert snapshot(stepped) == snapshot(ordinary)
    assert all(ordinary.state[w]["step"] == STEPS for w in weights)
    assert all(stepped.state[w]["step"] == STEPS for w in others)


@pytest.mark.parametrize("foreach", [None, False])
def test_the_noise_of_stochastic_rounding_is_that_of_the_ordinary_step(foreach: bool | None):
    ends = []
    for in_backward in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 3))
        model.to(torch.bfloat16)
        optimizer = Nero(model.parameters(), foreach=foreach, rounding="stochastic", momentum=0.9)
        if in_backward:
            step_in_backward(model, optimizer)
        for seed in range(STEPS):
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            model(x.bfloat16()).square().mean().backward()
            optimizer.step()
        ends.append(snapshot(optimizer))
    assert ends[0] == ends[1]


def deep(depth: int = 16, width: int = 128) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))


def test_the_gradients_are_never_held_together():
    held = {}
    for in_backward in (False, True):
        model = deep()
        optimizer = Nero(model.parameters())
        if in_backward:
            step_in_backward(model, optimizer)
        loss = model(torch.randn(2, 128)).square().mean()
        held[in_backward] = peak_bytes(loss.backward)
    one = 4 * 128 * 128
    assert held[False] >= 16 * one
    assert held[True] < 3 * one


def test_each_weight_has_moved_and_its_gradient_gone_before_the_next_ones_is_there():
    model = deep(4, 8)
    optimizer = Nero(model.parameters())
    before = bits(list(model.parameters()))
    seen = []

    def look(_: Tensor) -> None:
        now = bits(list(model.parameters()))
        moved = [old != new for old, new in zip(before, now, strict=True)]
        held = [type(p.grad) is Tensor for p in model.parameters()]
        seen.append((moved, held))

    step_in_backward(model, optimizer)
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(look)
    model(torch.randn(2, 8)).square().mean().backward()
    assert [sum(moved) for moved, _ in seen] == [1, 2, 3, 4]
    assert not any(any(held) for _, held in seen)
    optimizer.step()
    assert all(p.grad is None for p in model.parameters())


def unscale(optimizer: Nero) -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))
    scaler.unscale_(optimizer)


LOOKS = {
    "clip_grad_norm_": lambda p, o: nn.utils.clip_grad_norm_(p, 1.0),
    "clip_grad_norm_ foreach": lambda p, o: nn.utils.clip_grad_norm_(p, 1.0, foreach=True),
    "clip_grad_value_": lambda p, o: nn.utils.clip_grad_value_(p, 1.0),
    "get_total_norm": lambda p, o: nn.utils.get_total_norm([q.grad for q in p]),
    "a norm for a log": lambda p, o: [q.grad.norm() for q in p],
    "a GradScaler": lambda p, o: unscale(o),
    "another optimizer": lambda p, o: torch.optim.SGD(p).step(),
    "to(dtype)": lambda p, o: [q.grad.double() for q in p],
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_what_looks_at_all_gradients_before_the_step_is_refused(look: Callable[..., Any]):
    model, optimizer = pair()
    step_in_backward(model, optimizer)
    optimizer.zero_grad()
    next(losses(model)).backward()
    expected = r"gradient of parameter '\S+' of shape .* is gone: nero.step_in_backward used"
    with pytest.raises(RuntimeError, match=expected):
        look(list(model.parameters()), optimizer)
    optimizer.step()
    train(model, optimizer)  # and goes on


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_second_backward_before_the_step_is_refused(create_graph: bool):
    model, optimizer = pair()
    step_in_backward(model, optimizer)
    two = losses(model)
    next(two).backward()
    with pytest.raises(RuntimeError, match=r"a second backward\(\) .* in `with stepping.accumul"):
        next(two).backward(create_graph=create_graph)
    optimizer.step()
    next(two).backward()


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_backward_that_builds_a_graph_is_refused():
    model, optimizer = pair()
    step_in_backward(model, optimizer)
    with pytest.raises(RuntimeError, match=r"create_graph=True\) and a step .* parameter '"):
        next(losses(model)).backward(create_graph=True)


def test_a_graph_that_is_kept_cannot_be_gone_through_again():
    model, optimizer = pair()
    step_in_backward(model, optimizer)
    loss = next(losses(model))
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # autograd's words
        loss.backward()


@pytest.mark.parametrize("foreach", [None, True])
def test_zeroed_gradients_are_gone_whichever_way(foreach: bool | None):
    model, optimizer = pair(foreach=foreach)
    step_in_backward(model, optimizer)
    outside = nn.Parameter(torch.randn(3, 3))
    optimizer.add_param_group({"params": [("outside", outside)]})
    outside.grad = torch.ones(3, 3)
    for loss in losses(model, 3):
        loss.backward()
        optimizer.zero_grad(set_to_none=False)
        assert all(p.grad is None for p in model.parameters())
    assert bits(outside.grad) == bits(torch.zeros(3, 3))
    next(losses(model)).backward()
    model.zero_grad(set_to_none=False)
    assert all(p.grad is None for p in model.parameters())


def test_a_used_gradient_shows_itself():
    model, optimizer = pair()
    step_in_backward(model, optimizer)
    next(losses(model)).backward()
    gradient = model.inner.weight.grad
    assert type(gradient) is GradientUsedInBackward
    assert gradient.shape == (6, 6)
    assert repr(gradient) == ("GradientUsedInBackward(parameter 'inner.weight' of shape (6, 6))")


@pytest.mark.parametrize("rest", ["whole", "without new gradients"])
def test_accumulated_gradients_are_stepped_once(rest: str):
    ends = []
    for in_backward in (False, True):
        model, optimizer = pair()
        stepping = step_in_backward(model, optimizer) if in_backward else None
        for index, loss in enumerate(losses(model)):
            if in_backward and index % 3 < 2:
                with stepping.accumulate():
                    loss.backward()
                assert type(model.inner.weight.grad) is Tensor
                continue
            if rest == "whole":
                loss.backward()
            elif index % 3 == 2:  # a loss that most parameters have no part in
                model.norm.weight.square().sum().backward()
            else:
                loss.backward()
            if index % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
        ends.append(snapshot(optimizer))
        assert optimizer.state[model.inner.weight]["step"] == STEPS // 3
    assert ends[0] == ends[1]


def test_a_closure_steps_once():
    ends = []
    for in_backward in (False, True):
        model, optimizer = pair()
        if in_backward:
            step_in_backward(model, optimizer)
        for loss in losses(model):

            def closure(loss: Tensor = loss, optimizer: Nero = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss.backward()
                return loss

            returned = optimizer.step(closure) if in_backward else optimizer.step(closure=closure)
            assert returned is loss
        ends.append(snapshot(optimizer))
    assert ends[0] == ends[1]
    assert optimizer.state[model.inner.weight]["step"] == STEPS


def test_parameters_added_and_unfrozen_later_join_and_others_are_stepped_by_step():
    ends = []
    for in_backward in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        outside = nn.Parameter(torch.randn(4, 4))
        model[1].requires_grad_(False)
        first = [*model[0].parameters(), *model[1].parameters(), outside]
        optimizer = Nero(first, lr=0.05)
        if in_backward:
            step_in_backward(model, optimizer)
        for index in range(6):
            if index == 2:
                optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.1})
            if index == 4:
                model[1].requires_grad_(True)
                optimizer.project_()
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(index))
            optimizer.zero_grad()
            model(x @ outside).square().mean().backward()
            if in_backward:
                kinds = [type(p.grad) for p in (model[0].weight, outside)]
                assert kinds == [GradientUsedInBackward, Tensor]
                used = isinstance(model[2].weight.grad, GradientUsedInBackward)
                assert used == (index > 2), "a new group joins at the end of its first step"
            optimizer.step()
        ends.append(snapshot(optimizer))
    assert ends[0] == ends[1]


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise OverflowError("half-way")


def test_after_an_exception_half_way_training_goes_on():
    model = deep(4, 8)
    optimizer = Nero(model.parameters())
    step_in_backward(model, optimizer)
    with pytest.raises(OverflowError, match="half-way"):
        model[2:](Fails.apply(model[:2](torch.randn(2, 8)))).square().mean().backward()
    counts = [float(optimizer.state[p]["step"]) for p in model.parameters()]
    assert counts == [0, 0, 1, 1]
    optimizer.zero_grad()
    model(torch.randn(2, 8)).square().mean().backward()
    optimizer.step()
    counts = [float(optimizer.state[p]["step"]) for p in model.parameters()]
    assert counts == [1, 1, 2, 2]


def test_a_gradient_that_is_not_finite_is_refused_before_its_parameter_changes():
    model = deep(3, 8)
    optimizer = Nero(model.named_parameters(), nonfinite="raise")
    step_in_backward(model, optimizer)
    before = snapshot(optimizer)["weights"]
    model[1].weight.register_hook(lambda g: g * torch.inf)
    with pytest.raises(RuntimeError, match=r"'1.weight' .* holds NaN .* none of its weights"):
        model(torch.randn(2, 8)).square().mean().backward()
    after = snapshot(optimizer)["weights"]
    assert after[0][:2] == before[0][:2]
    assert after[0][2] != before[0][2]
    assert optimizer.state[model[1].weight]["step"] == 0
    assert model[1].weight.grad.isinf().any()  # there to be looked at


def test_neurons_that_sit_out_are_counted():
    model = deep(3, 8)
    optimizer = Nero(model.parameters())
    step_in_backward(model, optimizer)
    mask = torch.ones(8, 1)
    mask[:3] = torch.nan
    model[1].weight.register_hook(lambda g: g * mask)
    model(torch.randn(2, 8)).square().mean().backward()
    optimizer.step()
    assert optimizer.skipped_neurons() == 3


def test_a_sparse_gradient_is_refused():
    model = nn.Embedding(4, 3, sparse=True)
    optimizer = Nero(model.named_parameters())
    step_in_backward(model, optimizer)  # for as long as there is the optimizer
    with pytest.raises(RuntimeError, match=r"'weight' .* is sparse"):
        model(torch.tensor([1])).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_is_by_neuron(dtype: torch.dtype):
    limit, ends = 0.02, []
    for in_backward in (False, True):
        model, optimizer = pair()
        model.to(dtype)
        optimizer.project_()
        if in_backward:
            step_in_backward(model, optimizer, clip_neurons=limit)
        clipped = 0
        for loss in losses(model):
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups if not in_backward else ():
                for p in group["params"]:
                    layout = NeuronLayout(tuple(p.shape), group["neuron_axes"])
                    g = p.grad.view(layout.split_shape)
                    norm = g.float().square().sum(layout.fan_in_axes, keepdim=True).sqrt()
                    norm = norm if layout.fan_in_axes else g.float().abs()
                    clipped += int((norm > limit).sum())
                    g.mul_((limit / norm).clamp(max=1))
            optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
        assert in_backward or clipped > 100
    for plain, other in zip(*ends, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(other, plain, rtol=0, atol=tolerance)


def test_a_neuron_that_is_not_finite_stays_so_when_clipped():
    model = deep(1, 4)
    optimizer = Nero(model.parameters())
    step_in_backward(model, optimizer, clip_neurons=1.0)
    before = model[0].weight.detach().clone()
    (model[0].weight * torch.tensor([[torch.inf], [1e38], [0.0], [1.0]])).sum().backward()
    moved = (model[0].weight != before).any(1)
    assert moved.tolist() == [False, True, False, True]
    assert optimizer.skipped_neurons() == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_may_be_computed_again(reentrant: bool):
    ends = []
    for again in (False, True):
        model = deep(4, 8)
        optimizer = Nero(model.parameters())
        step_in_backward(model, optimizer)
        for seed in range(5):
            x = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
            x.requires_grad_(True)
            for block in (model[:2], model[2:]):
                x = checkpoint(block, x, use_reentrant=reentrant) if again else block(x)
            x.square().mean().backward()
            optimizer.step()
        ends.append(snapshot(optimizer))
    assert ends[0] == ends[1]


def test_a_weight_of_two_reentrant_segments_is_refused_as_its_gradient_comes_in_two_parts():
    model = deep(1, 8)
    step_in_backward(model, Nero(model.parameters()))
    x = torch.randn(3, 8, requires_grad=True)
    for _ in range(2):
        x = checkpoint(model, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match="a second backward"):
        x.square().mean().backward()


def test_a_compiled_model_steps_alike():
    ends = []
    for compiled in (False, True):
        model = deep(3, 8)
        optimizer = Nero(model.parameters())
        step_in_backward(model, optimizer)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        for seed in range(3):
            x = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
            run(x).square().mean().backward()
            assert isinstance(model[0].weight.grad, GradientUsedInBackward)
            optimizer.step()
        ends.append(snapshot(optimizer))
    assert ends[0] == ends[1]


def test_state_is_saved_and_loaded_in_the_middle_and_dtypes_change():
    ends = []
    for in_backward in (False, True):
        model, optimizer = pair()
        if in_backward:
            step_in_backward(model, optimizer)
        train(model, optimizer, steps=4)
        saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        train(model, optimizer, steps=4)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        train(model, optimizer, steps=4)
        model.to(torch.float64)
        train(model, optimizer, steps=4)
        ends.append(snapshot(optimizer))
    assert ends[0] == ends[1]


def test_when_it_ends_the_ordinary_step_is_back():
    model, optimizer = pair()
    with step_in_backward(model, optimizer) as stepping:
        next(losses(model)).backward()
    assert all(p.grad is None for p in model.parameters())
    next(losses(model)).backward()
    assert type(model.inner.weight.grad) is Tensor
    assert optimizer.state[model.inner.weight]["step"] == 1
    optimizer.step()
    assert optimizer.state[model.inner.weight]["step"] == 2
    stepping.remove()
    optimizer.zero_grad()
    step_in_backward(model, optimizer)
    train(model, optimizer)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))]
)
def test_copies_are_ordinary(duplicate: Callable[[Any], tuple[nn.Module, Nero]]):
    model, optimizer = pair()
    step_in_backward(model, optimizer)
    train(model, optimizer, steps=3)
    twin, other = duplicate((model, optimizer))
    before = snapshot(other)
    next(losses(twin)).backward()
    assert snapshot(other) == before
    assert type(twin.inner.weight.grad) is Tensor
    other.step()
    train(model, optimizer, steps=1)
    assert snapshot(other) == snapshot(optimizer)
    step_in_backward(twin, other)


def test_nothing_outlives_the_model():
    model, optimizer = pair()
    step_in_backward(model, optimizer)
    train(model, optimizer, steps=1)
    seen = weakref.ref(optimizer), weakref.ref(model.inner.weight)
    del model, optimizer
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


def test_what_cannot_work_is_refused_at_once():
    model, optimizer = pair()
    with pytest.raises(ValueError, match="clip_neurons must be None or positive"):
        step_in_backward(model, optimizer, clip_neurons=0.0)
    with pytest.raises(ValueError, match="no trainable parameter of the model"):
        step_in_backward(Tied(), optimizer)
    step_in_backward(model, optimizer)
    with pytest.raises(RuntimeError, match="steps in backward already"):
        step_in_backward(model, optimizer)


def test_a_step_of_nothing_is_nothing():
    model = nn.ParameterList([nn.Parameter(torch.randn(0, 3)), nn.Parameter(torch.randn(2, 3))])
    optimizer = Nero(model.parameters())
    step_in_backward(model, optimizer, clip_neurons=1.0)
    sum(p.sum() for p in model).backward()
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in model] == [1, 1]
    assert geometry.is_balanced(model[1], NeuronLayout((2, 3))).all()
