import math
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from nero_lab.data.parts import MissingData
from nero_lab.tasks.frechet import (
    INCEPTION_WEIGHTS,
    classifier_distance,
    frechet_distance,
    inception_distance,
    train_classifier,
)


class TwoNumbers(nn.Module):
    """The first two pixels of an image as its features."""

    num_features = 2

    def forward(self, images):
        return images.flatten(1)[:, :2]


class Seen(nn.Module):
    """Keeps the images that it is given, and says nothing of them."""

    def forward(self, images):
        self.images = images
        return torch.zeros(len(images), 2048)


def images(first, second):
    """Images of 1 x 2 x 1 whose two pixels are drawn from two normals (mean, deviation)."""
    generator = torch.Generator().manual_seed(0)
    columns = [
        mean + deviation * torch.randn(5000, generator=generator, dtype=torch.float64)
        for mean, deviation in (first, second)
    ]
    return torch.stack(columns, dim=1)[:, None, :, None]


def batches(x):
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(1000)]


def test_distance_of_two_normals():
    real, generated = images((0, 1), (0, 1)), images((3, 2), (0, 1))
    parts = iter(generated.split(1000))
    metric = FrechetInceptionDistance(feature=TwoNumbers())
    distance = frechet_distance(metric, batches(real), lambda classes: next(parts))
    # |m1 - m2|^2 + (s1 - s2)^2 = 9 + 1; 5000 draws leave a few hundredths of it open.
    assert distance == pytest.approx(10, rel=0.03)


def test_distance_to_itself_is_zero_and_nothing_stays_in_the_metric():
    real = images((0, 1), (1, 2))
    metric = FrechetInceptionDistance(feature=TwoNumbers())
    for _ in range(2):
        parts = iter(real.split(1000))
        distance = frechet_distance(metric, batches(real), lambda classes, parts=parts: next(parts))
        assert distance == pytest.approx(0, abs=1e-6)


def test_images_that_are_not_finite_have_no_distance():
    real = images((0, 1), (0, 1))
    metric = FrechetInceptionDistance(feature=TwoNumbers())
    broken = torch.full((1000, 1, 2, 1), math.nan)
    assert math.isnan(frechet_distance(metric, batches(real), lambda classes: broken))


@pytest.fixture(scope="module")
def two_kinds():
    """Return images of 8 x 8, dark on the left or on the right, and which of the two they are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 1, 8, 8, generator=generator)
    y = torch.arange(200) % 2
    x[y == 0, :, :, :4] -= 1
    x[y == 1, :, :, 4:] -= 1
    return x, y


def test_the_classifier_learns_and_is_the_same_every_time(two_kinds):
    x, y = two_kinds
    state = torch.get_rng_state()
    torch.manual_seed(1)
    first = train_classifier(x, y, 100)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = train_classifier(x, y, 100)
    assert torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(state)
    assert torch.equal(first(x), second(x))
    assert (first.head(first(x)).argmax(dim=1) == y).float().mean() > 0.95


def test_own_features_tell_images_from_noise(two_kinds):
    x, y = two_kinds
    metric = classifier_distance(x, y, 30)
    generator = torch.Generator().manual_seed(1)

    def noise(classes):
        return torch.randn(len(classes), 1, 8, 8, generator=generator)

    def similar(classes):
        return x[:: len(x) // len(classes)] + 0.01 * noise(classes)

    far = frechet_distance(metric, [(x, y)], noise)
    near = frechet_distance(metric, [(x, y)], similar)
    assert 0 <= near < 0.1 * far


def test_missing_weights_of_inception_say_how_to_get_them(tmp_path, monkeypatch):
    import torch_fidelity.feature_extractor_inceptionv3 as inception

    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(inception, "load_state_dict_from_url", no_network)
    with pytest.raises(MissingData, match="no network") as caught:
        inception_distance(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert INCEPTION_WEIGHTS in lines[1]
    assert "preset cpu" in lines[1]


def test_weights_of_inception_are_taken_from_the_folder(tmp_path, monkeypatch):
    import torch_fidelity.feature_extractor_inceptionv3 as inception

    torch.manual_seed(0)
    taken = []

    def stop_here(self, state):
        taken.append(state)
        return ([], [])

    torch.save({"weights": torch.ones(1)}, tmp_path / INCEPTION_WEIGHTS)
    monkeypatch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", stop_here)
    metric = inception_distance(tmp_path)
    assert torch.equal(taken[0]["weights"], torch.ones(1))
    assert metric.real_features_sum.shape == (2048,)
    # From -1 to 1 in, bytes out to the network.
    metric.inception = Seen()
    metric.update(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1), real=True)
    assert metric.inception.images.flatten().tolist() == [0, 127, 255]
