"""A small TorchScript network with the interface of Inception of 2015-12-05."""

from pathlib import Path

import metric_weights
import torch


class _Layers(torch.nn.Module):
    """Take [n, 3, 299, 299]; return 2048 features [n, 2048, 1, 1]."""

    def __init__(self, seed: int, features: int = 2048):
        super().__init__()
        shape = (features // 64, 3, 37, 37)  # in strides of 37, 8 × 8 places
        self.conv = torch.nn.Conv2d(3, shape[0], 37, stride=37)
        weight = metric_weights.tensor(seed, "inception", shape)
        self.conv.weight = torch.nn.Parameter(torch.from_numpy(weight))
        bias = metric_weights.tensor(seed, "inception.bias", (shape[0],))
        self.conv.bias = torch.nn.Parameter(torch.from_numpy(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.relu(self.conv(x) + 0.5)
        return made.flatten(1)[:, :, None, None]


class _Inception(torch.nn.Module):
    """Keep the network without its resize as `layers`, as the released file does."""

    def __init__(self, layers: torch.nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers((x - 128) / 128)


def write(path: Path, seed: int = metric_weights.SEEDS["fid"], features: int = 2048) -> None:
    """Write it as TorchScript."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = _Inception(_Layers(seed, features)).eval()
    torch.jit.script(network).save(str(path))
