"""What can be read from the tokens after each block of the DiT: where what becomes known.

References
----------
[1] Alain, Bengio, "Understanding intermediate layers using linear classifier probes",
    arXiv 1610.01644.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deco_lab.spectra.readout import LinearReadout, linear_readout
from deco_lab.spectra.states import Crops


class _AsFarAs:
    """A model whose tokens are those after one of its blocks; its velocity is its own."""

    def __init__(self, model: Any, block: int) -> None:
        self._model = model
        self.config, self.parameters = model.config, model.parameters
        self.state_dict = model.state_dict
        backbone = model.backbone
        self._shallow = copy.copy(backbone)  # the same blocks, of which it has fewer
        self._shallow._modules = dict(backbone._modules)
        self._shallow.blocks = backbone.blocks[:block]

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self._model(x, t, class_ids)

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the tokens after the last of the blocks, (B, N, D)."""
        return self._shallow(x, t, class_ids).tokens


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
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        raise ValueError(
            f"model must have a backbone of blocks, which a {type(model).__name__} has not; pass a "
            "DeCo or DiT"
        )
    found = []
    for block in range(1, len(backbone.blocks) + 1):
        read = linear_readout(_AsFarAs(model, block), states, sources=("tokens",), **options)
        found.append(replace(read, recipe={**read.recipe, "block": block}))
    return found
