import copy
import doctest
import inspect
import math
from importlib import import_module

import pytest
import torch
from torch import nn

import nero
from nero_lab.models.mlp import PlainMLP
from nero_lab.models.vgg import SmallVGG
from nero_lab.optimizers import OPTIMIZERS, find_optimizer
from nero_lab.plugins.load import load_object


def train_mode(optimizer):
    # Schedule-Free has two sets of weights and must be switched between them.
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def take_a_step(model, optimizer, x):
    nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 10).backward()
    optimizer.step()


OF_PARAMETERS = [name for name, spec in OPTIMIZERS.items() if not spec.by_model]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_builds_and_takes_a_step(name):
    model = PlainMLP(3, 8)
    spec = OPTIMIZERS[name]
    optimizer = train_mode(
        spec.build_for(model) if spec.by_model else spec.build(model.parameters())
    )
    before = [p.detach().clone() for p in model.parameters()]
    take_a_step(model, optimizer, torch.randn(32, 64))
    assert all(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_builds_for_a_convolutional_network_and_takes_up_its_state(name):
    torch.manual_seed(0)
    x = torch.randn(10, 1, 28, 28)

    def start():
        torch.manual_seed(1)
        model = SmallVGG(batch_norm=True)
        return model, train_mode(OPTIMIZERS[name].build_for(model, groups={"head": "head"}))

    model, optimizer = start()
    for _ in range(2):
        optimizer.zero_grad()
        take_a_step(model, optimizer, x)
    resumed_model, resumed = start()
    resumed_model.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((model, optimizer), (resumed_model, resumed)):
        its.zero_grad()
        take_a_step(each, its, x)
    for p, q in zip(model.parameters(), resumed_model.parameters(), strict=True):
        assert torch.isfinite(p).all()
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_default_lr_is_the_librarys_own(name):
    spec = OPTIMIZERS[name]
    signature = inspect.signature(load_object(spec.factory))
    assert signature.parameters["lr"].default == spec.default_lr


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_grid_holds_the_default_and_is_as_long_as_the_others(name):
    spec = OPTIMIZERS[name]
    assert spec.default_lr in spec.lr_grid
    assert len(spec.lr_grid) == len(OPTIMIZERS["nero"].lr_grid)


@pytest.mark.parametrize("name", OF_PARAMETERS)
def test_options_reach_the_optimizer(name):
    spec = OPTIMIZERS[name]
    group = spec.build(PlainMLP(2, 8).parameters(), lr=0.5).param_groups[0]
    assert group["lr"] == 0.5
    assert {key: group[key] for key in spec.options} == dict(spec.options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_group_has_the_learning_rate_that_is_asked_for(name):
    optimizer = OPTIMIZERS[name].build_for(PlainMLP(2, 8), lr=0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_options_given_replace_those_of_the_row():
    optimizer = OPTIMIZERS["sgd"].build_for(nn.Linear(3, 2), options={"momentum": 0.0})
    assert optimizer.param_groups[0]["momentum"] == 0.0
    assert optimizer.param_groups[0]["fused"]


def test_a_row_of_a_model_gets_a_batch_and_its_options():
    spec, x = OPTIMIZERS["nero-for-model"], torch.randn(4, 64)
    deep = spec.build_for(
        PlainMLP(40, 8), lr=0.1, options={"momentum": 0.0}, groups={"preset": "paper"}, batch=(x,)
    )
    rates = {group["role"]: group["lr"] for group in deep.param_groups}
    assert rates["weight"] < 0.05
    assert {group["momentum"] for group in deep.param_groups} == {0.0}
    model = PlainMLP(3, 8)
    before = copy.deepcopy(model.state_dict())
    spec.build_for(model, batch=(x,), fresh=False, groups={"head": "layers.0"})
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    with pytest.raises(ValueError, match="built from a model"):
        spec.build(model.parameters())


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    for name in ("adam", "nero"):
        groups = OPTIMIZERS[name].build_for(model).param_groups
        assert [p.shape for group in groups for p in group["params"]] == [model.weight.shape]


@pytest.mark.parametrize(
    ("name", "mean_zero", "norm_one"),
    [
        ("nero", True, True),
        ("nero-none", False, False),
        ("nero-mean", True, False),
        ("nero-norm", False, True),
        ("lamb", False, False),
        ("lamb-balanced", True, True),
        ("madam", False, False),
        ("madam-balanced", True, True),
    ],
)
@pytest.mark.parametrize("by_model", [True, False])
def test_constraints_hold_before_and_after_a_step(name, mean_zero, norm_one, by_model):
    torch.manual_seed(0)
    model = PlainMLP(3, 8)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)  # so that no mean is near zero by chance
    spec = OPTIMIZERS[name]
    optimizer = spec.build_for(model) if by_model else spec.build(model.parameters())
    for _ in range(2):
        for layer in model.layers:
            w = layer.weight.detach()
            centred = w.mean(1).abs() < 1e-6
            unit = (w.norm(dim=1) - 1).abs() < 1e-5
            assert centred.all() if mean_zero else not centred.any()
            assert unit.all() if norm_one else not unit.any()
        take_a_step(model, optimizer, torch.randn(32, 64))


def test_balance_follows_the_neurons_of_a_transposed_convolution():
    layer = nn.ConvTranspose2d(3, 4, 2)
    optimizer = OPTIMIZERS["lamb-balanced"].build_for(layer)
    layer(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    layout = nero.NeuronLayout((3, 4, 2, 2), (1,))
    assert nero.geometry.is_balanced(layer.weight, layout).all()


def test_madams_bound_is_taken_from_balanced_weights():
    layer = nn.Linear(64, 8)
    with torch.no_grad():
        layer.weight.mul_(100)
    optimizer = OPTIMIZERS["madam-balanced"].build_for(layer)
    layer(torch.randn(4, 64)).square().sum().backward()
    optimizer.step()
    assert optimizer.state[layer.weight]["bound"].item() == pytest.approx(3 / math.sqrt(64))


def test_muon_orthogonalises_hidden_matrices_alone():
    model = SmallVGG(batch_norm=True)
    muon, adamw = OPTIMIZERS["muon"].build_for(model, groups={"head": "head"}).param_groups
    assert (muon["use_muon"], adamw["use_muon"]) == (True, False)
    names = {p: name for name, p in model.named_parameters()}
    assert all(p.ndim > 1 for p in muon["params"])
    assert {names[p] for p in adamw["params"] if p.ndim > 1} == {"head.weight"}


def test_muon_turns_a_matrix_by_an_orthogonal_one():
    torch.manual_seed(0)
    w = nn.Parameter(torch.zeros(16, 48))
    optimizer = OPTIMIZERS["muon"].build([w], lr=0.1)
    w.grad = torch.randn(16, 48)
    optimizer.step()
    # Newton-Schulz in five steps brings singular values to between 0.68 and 1.13 of the whole.
    values = torch.linalg.svdvals(w.detach()) / (0.1 * 0.2 * math.sqrt(48))
    assert 0.6 < values.min() <= values.max() < 1.2


def test_schedule_free_shows_its_average_in_eval_mode():
    torch.manual_seed(0)
    spec = OPTIMIZERS["schedule-free"]
    assert not spec.follows_schedule
    model = nn.Linear(64, 10)
    optimizer = train_mode(spec.build_for(model))
    for _ in range(3):
        take_a_step(model, optimizer, torch.randn(16, 64))
    training = model.weight.detach().clone()
    optimizer.eval()
    assert not torch.equal(training, model.weight)
    optimizer.train()
    assert torch.allclose(training, model.weight, atol=1e-6)


def test_settings_in_words():
    assert OPTIMIZERS["sgd"].settings() == "momentum 0.9"
    assert OPTIMIZERS["adam"].settings() == "linear warm-up over the first 5% of the epochs"
    assert OPTIMIZERS["nero"].settings() == "none"
    assert OPTIMIZERS["nero-for-model"].settings().startswith("by role and depth")
    assert OPTIMIZERS["madam-balanced"].settings() == "neurons balanced after each step"
    assert OPTIMIZERS["schedule-free"].settings().endswith("no decay of the learning rate")


MY_OPT = """
import torch
from nero_lab.optimizers import OptimizerSpec

class MyOpt(torch.optim.SGD):
    def __init__(self, params, lr=0.03):
        super().__init__(params, lr=lr)

def without_default(params, lr):
    return torch.optim.SGD(params, lr=lr)

ROW = OptimizerSpec(
    name="mine", label="Mine", factory="torch.optim:SGD", default_lr=0.5,
    default_lr_source="me", lr_grid=(0.5,),
)
NUMBER = 3
"""


def test_a_users_own_optimizer_by_file(tmp_path):
    path = tmp_path / "my_opt.py"
    path.write_text(MY_OPT)
    spec = find_optimizer(f"{path}:MyOpt")
    assert (spec.name, spec.label, spec.default_lr) == (f"{path}:MyOpt", "MyOpt", 0.03)
    assert spec.lr_grid == (0.003, 0.03, 0.3)
    assert type(spec.build_for(nn.Linear(2, 2), lr=0.1)).__name__ == "MyOpt"
    assert find_optimizer(f"{path}:ROW").label == "Mine"


def test_a_users_own_optimizer_by_module_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "module_of_a_user.py").write_text(MY_OPT)
    monkeypatch.chdir(tmp_path)
    assert find_optimizer("module_of_a_user:MyOpt").default_lr == 0.03


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamm", "did you mean 'adam'"),
        ("no-such", "There are nero"),
        ("{path}:Missing", "no 'Missing' in"),
        ("{path}:without_default", "has no default for lr"),
        ("{path}:NUMBER", "is a int"),
        ("missing.py:MyOpt", "no file"),
        ("no_such_module:MyOpt", "no_such_module"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path, name, message):
    path = tmp_path / "my_opt.py"
    path.write_text(MY_OPT)
    with pytest.raises(ValueError, match=message):
        find_optimizer(name.format(path=path))


@pytest.mark.parametrize("module", ["spec", "find", "balanced", "muon", "madam"])
def test_docstring_examples(module):
    found = doctest.testmod(import_module(f"nero_lab.optimizers.{module}"))
    assert found.attempted
    assert not found.failed
