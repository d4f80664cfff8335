"""The least time a machine could take: the work that is counted over the rates that are measured.

    floor = max(FLOPs / matmul rate, bytes / copy rate)

FLOPs are those of matrix products and attention alone, two for each multiplication and addition.
Bytes are every weight read once, the images in and out, and for each DiT block its tokens read, its
queries, keys and values written and read, and its tokens written: all the rest could stay in
registers, since only attention mixes tokens and the decoder mixes nothing. A cache that keeps
weights from pass to pass can beat the second term, nothing the first at the rate that was measured.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.benchmark import Timer

from deco_lab.config import DeCoConfig

NUM_TIME_FEATURES, NUM_POSITION_FEATURES = 256, 64


class Work(NamedTuple):
    """What a computation has to do at the least."""

    flops: int
    """Of matrix products."""
    weights: int
    """Numbers of weights that are read."""
    moved: int
    """Numbers of activations that are read and written."""


def backbone_work(config: DeCoConfig, batch: int, tokens: int) -> Work:
    """Return the work of the DiT on `batch` images of `tokens` patches each."""
    D, I, P = config.hidden_size, config.mlp_width, config.patch_size  # noqa: E741
    rows = batch * tokens
    inputs = 3 * P**2
    flops = 2 * rows * inputs * D + 2 * batch * (NUM_TIME_FEATURES * D + D * D)
    weights = (inputs + 1) * D + (NUM_TIME_FEATURES + 1) * D + (D + 1) * D + batch * D
    head_dim = D // config.num_heads
    block_flops = 2 * batch * 6 * D * D + 2 * rows * (4 * D * D + 3 * D * I + 2 * tokens * D)
    block_weights = 6 * (D + 1) * D + 4 * D * D + D + 3 * D * I + 2 * D + 2 * head_dim
    moved = rows * inputs + config.depth * 8 * rows * D
    return Work(flops + config.depth * block_flops, weights + config.depth * block_weights, moved)


def decoder_work(config: DeCoConfig, batch: int, tokens: int) -> Work:
    """Return the work of the pixel decoder on images of `tokens` patches each.

    The two layers before the first block are one of 3 x d and a table of places.
    """
    D, d, depth = config.hidden_size, config.decoder_width, config.decoder_depth
    rows, places = batch * tokens, config.patch_size**2
    pixels = rows * places
    flops = 2 * rows * D * places * d + 2 * pixels * (3 * d + depth * 5 * d * d + 3 * d)
    weights = (3 + NUM_POSITION_FEATURES + 1) * d + (d + 1) * d + (D + 1) * places * d
    weights += depth * (2 * d + 5 * (d + 1) * d) + (d + 1) * 3
    return Work(flops, weights, rows * D + 2 * 3 * pixels)


def forward_work(config: DeCoConfig, batch: int, height: int, width: int) -> Work:
    """Return the work of one velocity of `batch` images, height x width pixels."""
    tokens = (height // config.patch_size) * (width // config.patch_size)
    parts = backbone_work(config, batch, tokens), decoder_work(config, batch, tokens)
    return Work(*map(sum, zip(*parts, strict=True)))


@dataclass(frozen=True)
class Rates:
    """What a machine does at its best."""

    float32: float
    """FLOPs a second, of large products in float32."""
    bfloat16: float
    """The same in bfloat16."""
    copy: float
    """Bytes a second, read and written ones together, of a large copy."""

    def seconds(self, work: Work, dtype: torch.dtype) -> float:
        """Return the least seconds that `work` takes in `dtype`, float32 or bfloat16."""
        rate = self.bfloat16 if dtype == torch.bfloat16 else self.float32
        return max(work.flops / rate, (work.weights + work.moved) * dtype.itemsize / self.copy)


def measure_rates(device: torch.device, *, side: int | None = None, seconds: float = 1.0) -> Rates:
    """Measure the rates of a machine, the best of what is done in some seconds each.

    Parameters
    ----------
    device : torch.device
        Where.
    side : int, optional
        Of the square matrices; 16 of them are copied. 2048 on a CPU and 8192 elsewhere.
    seconds : float
        Spent on each of the three.
    """
    side = side or (2048 if device.type == "cpu" else 8192)

    def best(statement: str, **tensors: torch.Tensor) -> float:
        threads = torch.get_num_threads()
        timer = Timer(statement, globals={"torch": torch, **tensors}, num_threads=threads)
        return min(timer.blocked_autorange(min_run_time=seconds).times)

    def products(dtype: torch.dtype) -> float:
        a, b, out = torch.randn(3, side, side, device=device).to(dtype)
        return 2 * side**3 / best("torch.mm(a, b, out=out)", a=a, b=b, out=out)

    source, target = torch.randn(2, 16, side, side, device=device)
    copied = 2 * source.numel() * source.itemsize / best("b.copy_(a)", a=source, b=target)
    return Rates(products(torch.float32), products(torch.bfloat16), copied)
