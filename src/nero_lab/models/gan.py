"""A residual, class-conditional generative adversarial network with spectral normalisation.

The parts are those of the papers: residual blocks and hinge loss of Miyato et al. (2018), the
projection of the class in the discriminator of Miyato and Koyama (2018), non-local blocks of Zhang
et al. (2019), and latent chunks that condition batch normalisation of Brock et al. (2019).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d
from torch.nn.utils.parametrizations import spectral_norm

CHUNKS = 4
"""Into how many parts z is split: one makes the first feature map, one goes to each block."""
Part = Literal["generate", "judge", "judge generated"]
_BLOCKS = CHUNKS - 1
_WIDTH = 4
"""Channels of every block, in units of the base features."""


def _conv(in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> nn.Module:
    return spectral_norm(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
    )


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose gain and bias are linear in a condition.

    Args:
        channels: of the images.
        condition: size of the condition's vector.

    Shapes: images (batch, channels, height, width), condition (batch, condition).
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = spectral_norm(nn.Linear(condition, channels, bias=False))
        self.bias = spectral_norm(nn.Linear(condition, channels, bias=False))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the normalised images, scaled by 1 + gain and shifted by bias."""
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        return self.norm(x) * gain[:, :, None, None] + bias[:, :, None, None]


class NonLocal(nn.Module):
    """Every place attends to every other; the result, times a gain from 0, is added.

    Args:
        channels: of the images; at least 8.

    Shapes: images (batch, channels, height, width), of even height and width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = _conv(channels, channels // 8, 1, bias=False)
        self.key = _conv(channels, channels // 8, 1, bias=False)
        self.value = _conv(channels, channels // 2, 1, bias=False)
        self.out = _conv(channels // 2, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the images with what was gathered from all places added."""
        query = self.query(x).flatten(2)  # (batch, channels / 8, places)
        key = max_pool2d(self.key(x), 2).flatten(2)  # (batch, channels / 8, places / 4)
        value = max_pool2d(self.value(x), 2).flatten(2)  # (batch, channels / 2, places / 4)
        attention = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        gathered = (value @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gain * self.out(gathered)


class UpBlock(nn.Module):
    """Two convolutions on twice the size, and the input, doubled, added to them."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.first_norm = ConditionalBatchNorm(channels, condition)
        self.first = _conv(channels, channels, 3)
        self.second_norm = ConditionalBatchNorm(channels, condition)
        self.second = _conv(channels, channels, 3)
        self.skip = _conv(channels, channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (batch, channels, 2 height, 2 width)."""
        h = interpolate(torch.relu(self.first_norm(x, condition)), scale_factor=2)
        h = torch.relu(self.second_norm(self.first(h), condition))
        # A 1 x 1 convolution and doubling commute, and before doubling it costs a quarter.
        return self.second(h) + interpolate(self.skip(x), scale_factor=2)


class DownBlock(nn.Module):
    """Two convolutions, and the input added to them; the first block sees the image itself."""

    def __init__(self, in_channels: int, channels: int, *, first: bool, halve: bool) -> None:
        super().__init__()
        self.on_image, self.halve = first, halve
        self.first = _conv(in_channels, channels, 3)
        self.second = _conv(channels, channels, 3)
        self.skip = _conv(in_channels, channels, 1) if in_channels != channels or halve else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, channels, height, width), height and width halved where asked for."""
        # A rectifier on pixels would throw half of them away.
        h = self.first(x if self.on_image else torch.relu(x))
        h = self.second(torch.relu(h))
        skip = x if self.skip is None else self.skip(x)
        return avg_pool2d(h + skip, 2) if self.halve else h + skip


class Generator(nn.Module):
    """Images of a class from noise: three blocks that double, a non-local block before the last.

    Args:
        base: base features; every block has four times as many channels.
        classes: number of classes.
        chunk: size of each of the four parts of z.
        class_features: size of a class's vector.
        size: height and width of an image, divisible by 8.
        channels: of an image.

    Shapes: noise (batch, 4 chunk), classes (batch,) of int64, output (batch, channels, size, size)
    from -1 to 1.
    """

    def __init__(
        self,
        base: int,
        classes: int,
        chunk: int = 20,
        class_features: int = 128,
        size: int = 32,
        channels: int = 3,
    ) -> None:
        super().__init__()
        width, condition = _WIDTH * base, class_features + chunk
        self.noise_features = CHUNKS * chunk
        self.start = (width, size // 2**_BLOCKS, size // 2**_BLOCKS)
        self.embedding = nn.Embedding(classes, class_features)
        self.linear = spectral_norm(nn.Linear(chunk, width * self.start[1] * self.start[2]))
        self.blocks = nn.ModuleList(UpBlock(width, condition) for _ in range(_BLOCKS))
        self.non_local = NonLocal(width)
        self.norm = nn.BatchNorm2d(width)
        self.out = _conv(width, channels, 3)

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        """Return images of the classes."""
        first, *chunks = noise.chunk(CHUNKS, dim=1)
        x = self.linear(first).unflatten(1, self.start)
        of_class = self.embedding(classes)
        for index, (block, chunk) in enumerate(zip(self.blocks, chunks, strict=True)):
            if index == _BLOCKS - 1:
                x = self.non_local(x)
            x = block(x, torch.cat([of_class, chunk], dim=1))
        return torch.tanh(self.out(torch.relu(self.norm(x))))


class Discriminator(nn.Module):
    """How real an image of a class looks: four blocks, of which the first two halve.

    A non-local block stands after the first. The class enters as the product of its vector with
    the features, which are summed over all places.

    Args:
        base: base features; every block has four times as many channels.
        classes: number of classes.
        channels: of an image.

    Shapes: images (batch, channels, size, size) with size divisible by 4, classes (batch,) of
    int64, output (batch,).
    """

    def __init__(self, base: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        width = _WIDTH * base
        self.first = DownBlock(channels, width, first=True, halve=True)
        self.non_local = NonLocal(width)
        self.blocks = nn.Sequential(
            *(DownBlock(width, width, first=False, halve=halve) for halve in (True, False, False))
        )
        self.linear = spectral_norm(nn.Linear(width, 1))
        self.embedding = spectral_norm(nn.Embedding(classes, width))

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return a number for each image: positive for real, negative for generated."""
        x = self.blocks(self.non_local(self.first(images)))
        features = torch.relu(x).sum(dim=(2, 3))
        return self.linear(features).squeeze(1) + (self.embedding(classes) * features).sum(dim=1)


class GAN(nn.Module):
    """A generator and its discriminator.

    Args:
        base: base features of both.
        classes: number of classes.
        chunk: size of each of the four parts of z.
        class_features: size of a class's vector in the generator.
        size: height and width of an image, divisible by 8.
        channels: of an image.
    """

    def __init__(
        self,
        base: int = 64,
        classes: int = 10,
        chunk: int = 20,
        class_features: int = 128,
        size: int = 32,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if base < 2:
            raise ValueError(f"base must be at least 2, got {base}")
        if size < 16 or size % 8:
            raise ValueError(f"size must be divisible by 8 and at least 16, got {size}")
        self.generator = Generator(base, classes, chunk, class_features, size, channels)
        self.discriminator = Discriminator(base, classes, channels)

    def forward(self, part: Part, inputs: Tensor, classes: Tensor) -> Tensor:
        """Return what a part of the two makes of its inputs.

        All goes through here rather than to the parts themselves, so that what wraps a model, for
        precision or several devices, sees it.

        Args:
            part: "generate": images, (batch, channels, size, size) from -1 to 1, from noise,
                (batch, 4 chunk). "judge": how real images look, (batch,). "judge generated": the
                same of images generated from noise.
            inputs: noise or images.
            classes: (batch,) of int64.
        """
        if part == "judge":
            return self.discriminator(inputs, classes)
        images = self.generator(inputs, classes)
        return images if part == "generate" else self.discriminator(images, classes)
