"""What can be read from the tokens after each block of the DiT: where what becomes known.

References
----------
[1] Alain, Bengio, "Understanding intermediate layers using linear classifier probes",
    arXiv 1610.01644.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deco_lab.arrays import takes_arrays
from deco_lab.labels import Labels, labels_of
from deco_lab.spectra.decompose import one_per_image
from deco_lab.spectra.frequencies import check_images
from deco_lab.spectra.readout import LinearReadout, linear_readout
from deco_lab.spectra.states import Crops


class _AsFarAs:
    """A model whose tokens are those after one of its blocks; its velocity is its own."""

    def __init__(self, model: Any, block: int) -> None:
        self._model = model
        self.config, self.parameters = model.config, model.parameters
        self.state_dict = model.state_dict
        self._shallow = _with_blocks(model.backbone, model.backbone.blocks[:block])

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self._model(x, t, class_ids)

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the tokens after the last of the blocks, (B, N, D)."""
        return self._shallow(x, t, class_ids).tokens


class _Noting(nn.Module):
    """A block that notes the tokens it is given and those that it returns.

    It is another kind of layer than a faster way knows (`deco_lab.fast.state`), which so leaves
    the blocks to the plain code.
    """

    def __init__(self, block: nn.Module, noted: list[Tensor]) -> None:
        super().__init__()
        self.block, self._noted = block, noted

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "block":
                raise
        return getattr(self.block, name)

    def forward(self, tokens: Tensor, *given: Any) -> Tensor:
        """Return the block's tokens."""
        if not self._noted:
            self._noted.append(tokens)
        self._noted.append(self.block(tokens, *given))
        return self._noted[-1]


def _with_blocks(backbone: Any, blocks: nn.ModuleList) -> Any:
    """Return the same backbone with other blocks; the one that is given stays as it is."""
    other = copy.copy(backbone)
    other._modules = dict(backbone._modules)
    other.blocks = blocks
    return other


def _backbone_of(model: Any) -> Any:
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        raise ValueError(
            f"model must have a backbone of blocks, which a {type(model).__name__} has not; pass a "
            "DeCo or DiT"
        )
    return backbone


@takes_arrays
@torch.no_grad()
def block_tokens(
    model: Any,
    x: Tensor,
    t: Tensor | float,
    class_ids: Tensor | Sequence[int] | Labels,
) -> tuple[Tensor, ...]:
    """Return the tokens of the patches, and those after each block of the DiT, in one pass of it.

    Parameters
    ----------
    model : DeCo or DiT
        With a `backbone` of `blocks`; it stays as it is, and may be in use elsewhere meanwhile.
    x : Tensor
        (B, 3, H, W), the noisy images; H and W are multiples of the patch size.
    t : Tensor or float
        (B,) or one for all, times in [0, 1]: 0 is noise.
    class_ids : Tensor or sequence of int
        (B,), labels.

    Returns
    -------
    tuple of Tensor
        (B, N, D) each, one more than there are blocks. The last are the model's `features`, to
        rounding where the model has been made fast, since here PyTorch computes them.

    Raises
    ------
    ValueError
        For a model without a backbone, images that are no batch, or t and class_ids that do not
        fit them.
    """
    backbone = _backbone_of(model)
    check_images(x, "x")
    at = one_per_image("t", torch.as_tensor(t, dtype=torch.float32), x).to(x.device)
    labels = labels_of(class_ids, len(x), model).to(x.device)
    noted: list[Tensor] = []
    blocks = nn.ModuleList(_Noting(block, noted) for block in backbone.blocks)
    _with_blocks(backbone, blocks)(x, at, labels.values)
    return tuple(noted)


@torch.no_grad()
def layer_readout(model: Any, states: Crops, **options: Any) -> list[LinearReadout]:
    """Return `linear_readout` of the tokens after each block of the DiT, the first block's first.

    Costs two passes of the model and a regression for each block, image and time.

    Parameters
    ----------
    model : DeCo or DiT
        With a `backbone` of `blocks`.
    states : Crops
        As for `linear_readout`.
    **options
        edges and folds of `linear_readout`.

    Returns
    -------
    list of LinearReadout
        One a block, of the only source "tokens"; the recipe holds the block, from 1.

    Raises
    ------
    ValueError
        For a model without a backbone, and as for `linear_readout`.
    """
    backbone = _backbone_of(model)
    found = []
    for block in range(1, len(backbone.blocks) + 1):
        read = linear_readout(_AsFarAs(model, block), states, sources=("tokens",), **options)
        found.append(replace(read, recipe={**read.recipe, "block": block}))
    return found
