import torch

from nero_lab.data.digits import load_digits_split


def _rows(split) -> set[tuple[float, ...]]:
    return {tuple(row) for row in split.x.tolist()}


def test_parts_have_the_stated_sizes_and_types():
    digits = load_digits_split()
    assert [len(part.y) for part in digits] == [1250, 187, 360]
    for part in digits:
        assert part.x.shape == (len(part.y), 64)
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64


def test_no_image_is_in_two_parts():
    train, val, test = map(_rows, load_digits_split())
    assert not train & val
    assert not train & test
    assert not val & test


def test_every_class_has_its_share_of_every_part():
    digits = load_digits_split()
    counts = [torch.bincount(part.y, minlength=10).double() for part in digits]
    whole = sum(counts)
    for count in counts:
        torch.testing.assert_close(count, whole * count.sum() / whole.sum(), rtol=0, atol=1.0)


def test_split_is_fixed_and_follows_its_seed():
    first, again, other = load_digits_split(0), load_digits_split(0), load_digits_split(1)
    assert torch.equal(first.test.x, again.test.x)
    assert torch.equal(first.train.y, again.train.y)
    assert _rows(first.test) != _rows(other.test)


def test_scaling_uses_training_images_alone():
    digits = load_digits_split()
    assert abs(digits.train.x.mean().item()) < 1e-6
    assert abs(digits.train.x.std().item() - 1) < 1e-4
    assert abs(digits.test.x.mean().item()) > 1e-5
