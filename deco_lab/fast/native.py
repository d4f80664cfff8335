"""A model's blocks and pixel decoder by the kernels of `deco_lab/fast/model.cpp`.

They compute what `run_blocks` and `decode_units` do, in whose place `switch_native` puts them, and
leave to those the calls that `deco_lab.fast.state` names.

Weights are laid out for the kernels, in a copy, at the first call, and again whenever one has been
changed or replaced. A change through `.data` is not seen, since PyTorch does not count it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deco_lab.fast.build import call, library
from deco_lab.fast.state import StandIn, State, state_of
from deco_lab.models.decoder import PixelDecoder, decode_units, folded, position_features
from deco_lab.models.dit import run_blocks
from deco_lab.models.layers import DiTBlock, rotary_table, swapped
from deco_lab.models.zoo import Model, decoder_of

LANES, TOGETHER = 16, 48
"""Tokens side by side, and columns that are finished together, as in the kernels' source."""

MAX_TOKENS = 4096
"""Of an image: a thread keeps the scores of sixteen with all others on its stack."""

MAX_WEIGHTS = 2**22
"""Of a block: the kernels read them again for every sixteen tokens, so they must fit a cache. Those
of DeCo-XL/16 do not, and PyTorch's products, which read them once, are faster."""


def switch_native(model: Model, on: bool) -> None:
    """Let the kernels compute a model's blocks, if they are small, and decoder, or undo that.

    Raises
    ------
    KernelError
        Where the kernels cannot be had on this machine.
    """
    if on:
        library("model")
    small = sum(p.numel() for p in model.backbone.blocks[0].parameters()) <= MAX_WEIGHTS
    model.backbone.run_blocks = NativeBlocks(run_blocks) if on and small else run_blocks
    if decoder := decoder_of(model):
        decoder.decode_units = NativeDecoder(decode_units) if on else decode_units


class Native(StandIn):
    """Keeps what is made of a module's weights, and makes it again when they have changed."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__(function)
        self._kept: dict[Callable[..., list[Tensor]], tuple[Any, list[Tensor], list[Tensor]]] = {}

    def laid(
        self, lay: Callable[..., list[Tensor]], state: State, module: nn.Module, *sizes: int
    ) -> list[Tensor]:
        """Return `lay(module, *sizes)`, of which the last sizes are kept; any thread may ask."""
        kept = self._kept.get(lay)
        if kept is None or kept[0] != (state, sizes):
            self._kept.pop(lay, None)
            kept = None  # not two of them at a time
            # The weights are held, so that no other can come to their addresses.
            weights = [weight.detach() for weight in module.parameters()]
            self._kept[lay] = kept = (state, sizes), lay(module, *sizes), weights
        return kept[1]


def in_lanes(rows: Tensor) -> Tensor:
    """Return rows (..., M, C) as float32 lanes, (..., ceil(M / 16), C, 16), filled with zeros."""
    whole = rows.float()
    if missing := -rows.shape[-2] % LANES:
        whole = F.pad(whole, (0, 0, 0, missing))
    return whole.unflatten(-2, (-1, LANES)).transpose(-1, -2).contiguous()


def from_lanes(lanes: Tensor, count: int) -> Tensor:
    """Return the first `count` rows, (..., count, C), of `in_lanes`."""
    return lanes.transpose(-1, -2).flatten(-3, -2)[..., :count, :]


def has_bfloat16() -> bool:
    """Return whether the kernels multiply in bfloat16 on this processor."""
    return hasattr(library("model"), "blocks_bfloat16")


def packed(weight: Tensor, narrow: bool) -> Tensor:
    """Return the weight of a linear layer, (J, K), as the kernels read it.

    That is (K, J) in float32, or where `narrow` (K / 2, J) in int32, each two of bfloat16.
    """
    columns = weight.detach().T
    if not narrow:
        return columns.float().contiguous()
    pairs = columns.to(torch.bfloat16).unflatten(0, (-1, 2)).transpose(1, 2).contiguous()
    return pairs.view(torch.int32)[..., 0]


def _run(kernel: str, narrow: bool, tensors: list[Tensor], sizes: list[int]) -> None:
    """Run the kernel "layer", "blocks" or "decoder", with products in bfloat16 where `narrow`."""
    if any(tensor.data_ptr() % 64 for tensor in tensors):
        raise ValueError("tensors must begin at a whole vector of lanes; copy them")
    call("model", f"{kernel}_{'bfloat16' if narrow else 'float32'}", tensors, sizes)


class NativeBlocks(Native):
    """Stands in for `run_blocks`."""

    def __call__(
        self, blocks: nn.ModuleList, tokens: Tensor, conditioning: Tensor, rows: int, columns: int
    ) -> Tensor:
        """Return the last block's tokens, for those of a grid (B, N, D) and conditioning."""
        B, N, D = tokens.shape
        fits = conditioning.shape == (B, 1, D) and rows * columns == N <= MAX_TOKENS
        state = state_of(blocks, "cpu", tokens, conditioning) if fits else None
        if state is None:
            return self.function(blocks, tokens, conditioning, rows, columns)
        steering, bias, *weights = self.laid(_lay_blocks, state, blocks)
        (rotation,) = self.laid(_lay_rotation, state, blocks, rows, columns)
        depth = len(blocks)
        narrow = steering.dtype == torch.int32
        c = in_lanes(conditioning[:, 0])
        modulation = c.new_empty(len(c), len(bias), c.shape[-1])
        _run("layer", narrow, [modulation, c, steering, bias], [len(c), D, len(bias)])
        modulation = from_lanes(modulation, B).unflatten(1, (depth, -1)).transpose(0, 1)
        x = in_lanes(tokens)
        queries, keys, values = (torch.empty_like(x) for _ in range(3))
        _run(
            "blocks",
            narrow,
            [x, queries, keys, values, modulation.contiguous(), rotation, *weights],
            [B, N, D, blocks[0].attention.num_heads, weights[3].shape[-1], depth],  # type: ignore[union-attr]
        )
        return from_lanes(x, N).to(tokens.dtype)


class NativeDecoder(Native):
    """Stands in for `decode_units`, of a decoder that the condition modulates."""

    def __call__(
        self, decoder: PixelDecoder, units: Tensor, tokens: Tensor, position: Tensor
    ) -> Tensor:
        """Return the velocities of units (M, G * G, values) of M tokens (M, D), shaped as units."""
        count, places, values = units.shape
        fits = (
            not decoder.adds
            and len(tokens) == count
            and position is position_features(decoder.grid_side, position.device)
        )
        state = state_of(decoder, "cpu", units, tokens) if fits else None
        if state is None:
            return self.function(decoder, units, tokens, position)
        weights = self.laid(_lay_decoder, state, decoder)
        x, s = in_lanes(units.flatten(1)), in_lanes(tokens)
        velocity = torch.empty_like(x)
        _run(
            "decoder",
            weights[2].dtype == torch.int32,
            [velocity, x, s, *weights],
            [len(x), places, values, tokens.shape[1], decoder.head.in_features,
             len(decoder.blocks)],
        )  # fmt: skip
        return from_lanes(velocity, count).view(units.shape).to(units.dtype)


def _lay_blocks(blocks: Any) -> list[Tensor]:
    """Return all blocks' AdaLN as one layer, and the weights that the kernel takes, in its order.

    A norm's weight joins the scale that follows it, w * (1 + scale). Zeros fill the MLP's inner
    channels up to a number that the kernel's columns divide.
    """
    first = blocks[0]
    narrow = first.attention.qkv.weight.dtype == torch.bfloat16 and has_bfloat16()
    steering, biases = [], []
    for block in blocks:
        weight = list(block.modulation.weight.float().chunk(6))
        bias = list(block.modulation.bias.float().chunk(6))
        for i, norm in ((1, block.attention_norm), (4, block.mlp_norm)):
            scale = norm.weight.float()
            weight[i], bias[i] = scale[:, None] * weight[i], scale * (1 + bias[i])
        steering += weight
        biases += bias
    missing = -first.mlp.gate.out_features % TOGETHER

    def stacked(weight_of: Callable[[DiTBlock], Tensor]) -> Tensor:
        return torch.stack([packed(weight_of(block), narrow) for block in blocks])

    return [
        packed(torch.cat(steering), narrow),
        torch.cat(biases),
        stacked(lambda block: block.attention.qkv.weight),
        stacked(lambda block: block.attention.output.weight),
        torch.stack([block.attention.output.bias.float() for block in blocks]),
        stacked(lambda block: F.pad(block.mlp.gate.weight, (0, 0, 0, missing))),
        stacked(lambda block: F.pad(block.mlp.value.weight, (0, 0, 0, missing))),
        stacked(lambda block: F.pad(block.mlp.output.weight, (0, missing))),
    ]


def _lay_rotation(blocks: Any, rows: int, columns: int) -> list[Tensor]:
    """Return the rotation of every block's q and k, their norms' weights and attention's scale in.

    (depth, 2, 2, groups, head_dim, 16): of q and k, what multiplies a channel and its partner.
    """
    attention = blocks[0].attention
    head_dim = attention.output.in_features // attention.num_heads
    cos, sin = rotary_table(rows, columns, head_dim, torch.device("cpu"))
    tables = []
    for block in blocks:
        query, key = block.attention.query_norm.weight, block.attention.key_norm.weight
        for weight in (query.float() * head_dim**-0.5, key.float()):
            tables += [in_lanes(cos * weight), in_lanes(sin * swapped(weight))]
    return [torch.stack(tables)]


def _lay_decoder(decoder: PixelDecoder) -> list[Tensor]:
    """Return the decoder's weights in the kernel's order."""
    projection, head = decoder.condition_projection, decoder.head
    places, d = decoder.grid_side**2, head.in_features
    narrow = head.weight.dtype == torch.bfloat16 and d % 2 == 0 and has_bfloat16()
    position = position_features(decoder.grid_side, torch.device("cpu"))
    embed, table, modulation, modulation_bias = folded(decoder, position)
    layers: list[nn.Linear] = [block.mlp[i] for block in decoder.blocks for i in (0, 2)]  # type: ignore[index]
    return [
        packed(embed, False),
        table.contiguous(),
        torch.stack([packed(w, narrow) for w in projection.weight.unflatten(0, (places, d))]),
        projection.bias.float(),
        torch.stack([packed(w, narrow) for w in modulation.chunk(len(decoder.blocks))]),
        modulation_bias,
        torch.stack([packed(layer.weight, narrow) for layer in layers]),
        torch.stack([layer.bias.float() for layer in layers]),
        packed(head.weight, False),
        head.bias.float(),
    ]
