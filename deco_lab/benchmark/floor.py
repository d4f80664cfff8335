"""The least time a machine could take: the work that is counted over the rates that are measured.

    floor = max(FLOPs / matmul rate, bytes / copy rate)

FLOPs are those of matrix products and attention alone, two for each multiplication and addition.
Bytes are every weight read once, the images in and out, and for each DiT block its tokens read, its
queries, keys and values written and read, and its tokens written: all the rest could stay in
registers, since only attention mixes tokens and the decoder mixes nothing. A cache that keeps
weights from pass to pass can beat the second term, nothing the first at the rate that was measured.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

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

    def plus(self, other: "Work") -> "Work":
        """Return the work of both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


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


def decoder_work(config: DeCoConfig, batch: int, tokens: int, *, as_stated: bool = False) -> Work:
    """Return the work of the pixel decoder.

    The two layers before the first block are one of 3 x d and a table of places, unless
    `as_stated`: (3 + 64) x d and d x d.
    """
    D, d, depth = config.hidden_size, config.decoder_width, config.decoder_depth
    rows, places = batch * tokens, config.patch_size**2
    pixels = rows * places
    embed = 3 * d
    if as_stated:
        embed = (3 + NUM_POSITION_FEATURES) * d + d * d
    flops = 2 * rows * D * places * d + 2 * pixels * (embed + depth * 5 * d * d + 3 * d)
    weights = (3 + NUM_POSITION_FEATURES + 1) * d + (d + 1) * d + (D + 1) * places * d
    weights += depth * (2 * d + 5 * (d + 1) * d) + (d + 1) * 3
    return Work(flops, weights, rows * D + 2 * 3 * pixels)


def forward_work(
    config: DeCoConfig, batch: int, height: int, width: int, *, as_stated: bool = False
) -> Work:
    """Return the work of one velocity of `batch` images, height x width pixels."""
    tokens = (height // config.patch_size) * (width // config.patch_size)
    decoder = decoder_work(config, batch, tokens, as_stated=as_stated)
    return backbone_work(config, batch, tokens).plus(decoder)


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

    def best(self, others: "Rates") -> "Rates":
        """Return the better of each rate."""
        return Rates(
            max(self.float32, others.float32),
            max(self.bfloat16, others.bfloat16),
            max(self.copy, others.copy),
        )


def _best(run: Callable[[], Tensor], synchronize: Callable[[], None], repeats: int) -> float:
    """Return the least seconds of a call, the first left out."""
    seconds = []
    for _ in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def measure_rates(
    device: torch.device,
    synchronize: Callable[[], None],
    *,
    side: int | None = None,
    repeats: int = 8,
) -> Rates:
    """Measure the rates of a machine, the best of `repeats` each.

    Parameters
    ----------
    device : torch.device
        Where.
    synchronize : callable
        Waits until the device has done what it was asked.
    side : int, optional
        Of the square matrices; 16 of them are copied. 2048 on a CPU and 8192 elsewhere.
    repeats : int
        At least 1.
    """
    side = side or (2048 if device.type == "cpu" else 8192)
    flops = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        out = torch.empty_like(a)
        seconds = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), synchronize, repeats)
        flops[dtype] = 2 * side**3 / seconds
    source = torch.randn(16, side, side, device=device)
    target = torch.empty_like(source)
    seconds = _best(lambda: target.copy_(source), synchronize, repeats)
    copied = 2 * source.numel() * source.itemsize / seconds
    return Rates(flops[torch.float32], flops[torch.bfloat16], copied)
