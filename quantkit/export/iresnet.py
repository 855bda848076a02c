"""Improved residual networks: Duta, Liu, Zhu, Shao, "Improved Residual Networks for Image and Video Recognition".

arXiv 2004.04989; the authors' code is https://github.com/iduta/iresnet. A stage is a start block, middle blocks and an
end block, which differ in where they normalize:

    start    conv bn relu ... conv bn, then the sum
    middle   bn relu conv bn relu ... conv, then the sum, which stays raw; the first of them has no bn before its relu
    end      as a middle block, then bn relu after the sum

The shortcut of a start block with a stride is a 3x3 max-pool with a 1x1 convolution, so that every activation is used;
there is no max-pool in the stem, and the first stage has a stride.

The paper's figures and the authors' code differ in the block after the start block. It has no leading batch norm, and
in the code its first ReLU works in place, so the shortcut is the rectified tensor as well. The published weights were
trained, and the published accuracies measured, with that code, so the networks here compute the same.
``rectified_shortcut=False`` (the names with ``-paper``) does not rectify that shortcut, as in the paper's figures. Both
forms have the same parameters, so a checkpoint of either can be loaded into both; the scores differ.

The names of modules are those of the authors' checkpoints (`conv1`, `bn1`, `layer1.0.conv1`, ..., `fc`), which
therefore load strictly.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv(NamedTuple):
    """A convolution of a block: padded to keep the size, without bias."""

    channels: int
    kernel: int
    stride: int = 1
    groups: int = 1

    def build(self, in_channels: int) -> nn.Conv2d:
        """Return the module for ``in_channels`` channels of input."""
        return nn.Conv2d(
            in_channels,
            self.channels,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            groups=self.groups,
            bias=False,
        )


def basic_convs(width: int, stride: int, groups: int) -> tuple[Conv, ...]:
    """Two 3x3 convolutions, as in ResNet-18 and 34."""
    return Conv(width, 3, stride, groups), Conv(width, 3)


def bottleneck_convs(width: int, stride: int, groups: int) -> tuple[Conv, ...]:
    """1x1, 3x3 with the stride, 1x1 to four times the width."""
    return Conv(width, 1), Conv(width, 3, stride, groups), Conv(4 * width, 1)


def grouped_convs(width: int, stride: int, groups: int) -> tuple[Conv, ...]:
    """1x1 to four times the width, a grouped 3x3 of the same width, 1x1 to half of that."""
    return Conv(4 * width, 1), Conv(4 * width, 3, stride, groups), Conv(2 * width, 1)


ConvsOf = Callable[[int, int, int], tuple[Conv, ...]]


class Block(nn.Module):
    """A residual block with normalization that depends on its position in the stage.

    Args:
        in_channels: channels of the input.
        convs: the residual branch, in order.
        index: position in the stage; 0 is the start block.
        depth: number of blocks in the stage, at least 2.
        rectified_shortcut: whether the shortcut of the block after the start block is rectified.
    """

    def __init__(
        self, in_channels: int, convs: Sequence[Conv], *, index: int, depth: int, rectified_shortcut: bool = True
    ) -> None:
        super().__init__()
        self.starts = index == 0
        self.rectifies_shortcut = rectified_shortcut and index == 1
        self.ends = index == depth - 1
        self.length = len(convs)
        # The block after the start block reads the normalized output of the start block.
        self.bn0 = nn.BatchNorm2d(in_channels) if index >= 2 else nn.Identity()
        channels = in_channels
        for number, conv in enumerate(convs, start=1):
            self.add_module(f"conv{number}", conv.build(channels))
            channels = conv.channels
            if number < self.length or self.starts or self.ends:
                self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
        stride = max(conv.stride for conv in convs)
        self.downsample = _shortcut(in_channels, channels, stride) if self.starts else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``[N, in_channels, H, W]``."""
        out = x if self.starts else functional.relu(self.bn0(x))
        shortcut = out if self.rectifies_shortcut else x
        for number in range(1, self.length):
            out = functional.relu(self._bn(number)(self._conv(number)(out)))
        out = self._conv(self.length)(out)
        if self.starts:
            out = self._bn(self.length)(out)
        out = out + self.downsample(shortcut)
        if self.ends:
            out = functional.relu(self._bn(self.length)(out))
        return out

    def _conv(self, number: int) -> nn.Module:
        return self.get_submodule(f"conv{number}")

    def _bn(self, number: int) -> nn.Module:
        return self.get_submodule(f"bn{number}")


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the projection of a start block; pooling suffices if only the size changes."""
    pool = nn.MaxPool2d(3, stride=stride, padding=1) if stride > 1 else None
    if in_channels == out_channels:
        return pool or nn.Identity()
    projection = [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*([pool] if pool else []), *projection)


class IResNet(nn.Module):
    """An improved residual network.

    Args:
        convs: function from (width, stride, groups) to the convolutions of a block.
        depths: number of blocks of each stage, at least 2.
        num_classes: number of classes.
        in_channels: channels of the input.
        stem: the convolution before the first stage.
        widths: width of each stage.
        strides: stride of each stage.
        groups: groups of the 3x3 convolutions of each stage.
        rectified_shortcut: True for the authors' code, False for the paper's figures; see the module docstring.
    """

    def __init__(
        self,
        convs: ConvsOf,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: Conv = Conv(64, 7, 2),  # noqa: B008 (immutable)
        widths: Sequence[int] = (64, 128, 256, 512),
        strides: Sequence[int] = (2, 2, 2, 2),
        groups: Sequence[int] = (1, 1, 1, 1),
        rectified_shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = stem.build(in_channels)
        self.bn1 = nn.BatchNorm2d(stem.channels)
        self.stages = [f"layer{number}" for number in range(1, len(depths) + 1)]
        channels = stem.channels
        for name, depth, width, stride, group in zip(self.stages, depths, widths, strides, groups, strict=True):
            blocks = []
            for index in range(depth):
                branch = convs(width, stride if index == 0 else 1, group)
                blocks.append(Block(channels, branch, index=index, depth=depth, rectified_shortcut=rectified_shortcut))
                channels = branch[-1].channels
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, num_classes]`` for images ``[N, in_channels, H, W]``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.fc(torch.flatten(x, 1))


_GROUPS_OF_32_CHANNELS = (8, 16, 32, 64)
_64_GROUPS = (64, 64, 64, 64)

iresnet18 = partial(IResNet, basic_convs, (2, 2, 2, 2))
iresnet34 = partial(IResNet, basic_convs, (3, 4, 6, 3))
iresnet50 = partial(IResNet, bottleneck_convs, (3, 4, 6, 3))
iresnet101 = partial(IResNet, bottleneck_convs, (3, 4, 23, 3))
iresnet152 = partial(IResNet, bottleneck_convs, (3, 8, 36, 3))
iresnet200 = partial(IResNet, bottleneck_convs, (3, 24, 36, 3))
iresnet302 = partial(IResNet, bottleneck_convs, (4, 34, 58, 4))
iresnet404 = partial(IResNet, bottleneck_convs, (4, 46, 80, 4))
iresgroup50 = partial(IResNet, grouped_convs, (3, 4, 6, 3), groups=_GROUPS_OF_32_CHANNELS)
iresgroup101 = partial(IResNet, grouped_convs, (3, 4, 23, 3), groups=_GROUPS_OF_32_CHANNELS)
iresgroup152 = partial(IResNet, grouped_convs, (3, 8, 36, 3), groups=_GROUPS_OF_32_CHANNELS)
iresgroupfix50 = partial(IResNet, grouped_convs, (3, 4, 6, 3), groups=_64_GROUPS)
iresgroupfix101 = partial(IResNet, grouped_convs, (3, 4, 23, 3), groups=_64_GROUPS)
iresgroupfix152 = partial(IResNet, grouped_convs, (3, 8, 36, 3), groups=_64_GROUPS)

# As in the authors' code.
IRESNETS: dict[str, Callable[..., IResNet]] = {
    "iresnet18": iresnet18,
    "iresnet34": iresnet34,
    "iresnet50": iresnet50,
    "iresnet101": iresnet101,
    "iresnet152": iresnet152,
    "iresnet200": iresnet200,
    "iresnet302": iresnet302,
    "iresnet404": iresnet404,
    "iresgroup50": iresgroup50,
    "iresgroup101": iresgroup101,
    "iresgroup152": iresgroup152,
    "iresgroupfix50": iresgroupfix50,
    "iresgroupfix101": iresgroupfix101,
    "iresgroupfix152": iresgroupfix152,
}

# As in the paper's figures; there are no published weights of these.
PAPER_IRESNETS: dict[str, Callable[..., IResNet]] = {
    f"{name}-paper": partial(factory, rectified_shortcut=False) for name, factory in IRESNETS.items()
}
