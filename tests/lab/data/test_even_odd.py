from pathlib import Path

import pytest
import torch

from lab.tiny_data import write_fashion_mnist
from nero_lab.data.even_odd import load_even_odd
from nero_lab.data.idx import idx_files
from nero_lab.data.parts import digest_files


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = write_fashion_mnist(tmp_path_factory.mktemp("fashion"))
    files = idx_files(folder)
    assert files is not None
    return folder, digest_files(files)


def bright_rows(x: torch.Tensor) -> torch.Tensor:
    """The class that the made-up images show."""
    return (x.view(-1, 28, 28).mean(2).argmax(1) - 4) // 2


def test_labels_are_the_parity_and_inputs_lie_on_one_sphere(found: tuple[Path, str]) -> None:
    train, test = load_even_odd(*found, train_size=200)
    assert torch.bincount(bright_rows(train.x)).tolist() == [20] * 10
    for part in (train, test):
        assert torch.equal(part.y, 1 - 2 * (bright_rows(part.x) % 2))
        assert part.x.mean(1).abs().max() < 1e-5
        torch.testing.assert_close(part.x.norm(dim=1), torch.full((len(part.y),), 28.0))


def test_noise_replaces_that_fraction_by_coins_and_spares_the_test_part(
    found: tuple[Path, str],
) -> None:
    clean, test = load_even_odd(*found, train_size=1000)
    for noise in (0.2, 1.0):
        noisy, same_test = load_even_odd(*found, train_size=1000, label_noise=noise)
        assert torch.equal(noisy.x, clean.x)
        wrong = (noisy.y != clean.y).double().mean().item()
        assert wrong == pytest.approx(noise / 2, abs=0.05)
        assert torch.equal(same_test.y, test.y)
    with pytest.raises(ValueError, match="label_noise must be in"):
        load_even_odd(*found, train_size=1000, label_noise=1.5)


def test_the_seed_draws_other_images(found: tuple[Path, str]) -> None:
    first, again, other = (load_even_odd(*found, train_size=100, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
