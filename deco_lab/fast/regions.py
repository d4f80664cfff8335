"""Faster ways to compute a model, each compared with the plain one once, where it is switched on.

On a CPU, without gradients, the native kernels (`deco_lab.fast.native`). Elsewhere and for
training torch.compile by region: each DiT block and the pixel decoder by themselves. For sampling
the blocks are compiled for all batch sizes at once, and on a CUDA device, compiled or not, replayed
as CUDA graphs (`deco_lab.fast.graphs`).

Compiling a whole DeCo is not safe: with PyTorch 2.13 on a CPU the velocity of the compiled model is
off by most of its norm, without an error. By region the result is right to rounding. Where it is
further from the result in float32 than rounding explains, or fails, it is undone and a warning says
why.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deco_lab.fast.graphs import Graphed, first_line, switch_graphs
from deco_lab.fast.native import switch_native
from deco_lab.models.deco import DeCo
from deco_lab.models.decoder import decode_piece
from deco_lab.models.zoo import Model

MAX_GRAPHS = 64
"""Graphs of a block, and of a decoder, that all models of the process may have together: beyond
its limit, 8 by default, PyTorch computes without a graph and only logs that."""

ROUNDING = 1e-4
"""Largest relative distance from the result in float32, beside twice that of the plain model."""


def regions(model: Model) -> Iterator[nn.Module]:
    """Yield the parts of `model` that are compiled each by itself."""
    yield from model.backbone.blocks
    if isinstance(model, DeCo):
        yield model.decoder


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a GPU that multiplies in it, otherwise float32."""
    narrow = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if narrow else torch.float32


def ready_for_sampling(model: Model) -> bool:
    """Let `model`, in place, sample as fast as its device can, if its results stay as they are.

    Returns
    -------
    bool
        Whether it is faster in any way; of each that is not taken, a warning says why. The first
        time takes some seconds on a CPU, with torch.compile a minute; later ones find on disk what
        was built.
    """
    config, weight = model.config, model.backbone.patch_embedding.weight
    # Three images: torch.compile would take a batch of two for the two channels of a rotation.
    shape = (3, 3, config.image_size, config.image_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.device)
    t = torch.full((3,), 0.5, device=weight.device)
    class_ids = torch.tensor([0, 0, config.null_class], device=weight.device)
    with torch.no_grad():
        reference = _reference(model, (x, t, class_ids), None)
        adopted = [
            _adopt(model, switch, (x, t, class_ids), None, reference, otherwise)
            for otherwise, switch in _ways(weight.device.type).items()
        ]
    return any(adopted)


def _ways(device_type: str) -> dict[str, Callable[[Model, bool], None]]:
    """Return what is to be tried in turn, by what a warning says where it is not taken."""
    if device_type == "cuda":
        return {
            "torch.compile is not used": switch_compiled,
            "CUDA graphs are not used": switch_graphs,
        }
    return {"the plain model is used": switch_native if device_type == "cpu" else switch_compiled}


def switch_compiled(model: Model, on: bool) -> None:
    """Compile the regions, those for sampling where autograd is off, or undo both."""
    if isinstance(model.backbone.run_blocks, Graphed):
        switch_graphs(model, True)  # those there are hold the regions as they were
    if not on:
        for region in regions(model):
            region._compiled_call_impl = None
        if isinstance(model, DeCo):
            model.decoder.decode_piece = decode_piece
    elif torch.is_grad_enabled():
        for region in regions(model):
            region.compile(**_limit())
    else:
        for block in model.backbone.blocks:
            block.compile(dynamic=True, **_limit())
        if isinstance(model, DeCo):
            model.decoder.decode_piece = torch.compile(decode_piece, dynamic=True, **_limit())


def _limit() -> dict[str, Any]:
    """Return what lets torch.compile make `MAX_GRAPHS`; where it takes no such thing, set it."""
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        return {"recompile_limit": MAX_GRAPHS}
    torch._dynamo.config.recompile_limit = MAX_GRAPHS  # an older PyTorch: for all models
    return {}


def _velocity_and_gradient(
    model: Model,
    x: Tensor,
    t: Tensor,
    class_ids: Tensor,
    autocast: torch.dtype | None,
    pieces: int = 1,
) -> Tensor:
    """Return in one vector the velocity and one gradient through every region.

    Without autograd instead of the gradient the velocity of only one image. In several pieces of
    the batch one after another it takes less memory.
    """
    rows = list(zip(*(each.chunk(pieces) for each in (x, t, class_ids)), strict=True))
    if not torch.is_grad_enabled():
        rows.append((x[:1], t[:1], class_ids[:1]))  # which torch.compile treats by itself
    weight = model.backbone.patch_embedding.weight
    velocities, gradient = [], torch.zeros_like(weight)
    for each in rows:
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            velocity = model(*each).float()
        if torch.is_grad_enabled():
            gradient += torch.autograd.grad(velocity.square().sum(), weight)[0]
        velocities.append(velocity.detach().flatten())
    if not torch.is_grad_enabled():
        return torch.cat(velocities)
    parts = [torch.cat(velocities), gradient.flatten()]
    return torch.cat([part / part.norm() for part in parts])


@contextmanager
def _without_zeros(model: Model) -> Iterator[None]:
    """Give parameters that are all zero random values for a while.

    An untrained model's last layer is zero, and so is then every velocity: any two would agree.
    """
    zeros = [p for p in model.parameters() if not p.any()]
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.no_grad():
        for p in zeros:
            p.copy_(0.1 * torch.randn(p.shape, generator=generator, device="cpu"))
    try:
        yield
    finally:
        with torch.no_grad():
            for p in zeros:
                p.zero_()


def compile_regions(
    model: Model,
    x: Tensor,
    t: Tensor,
    class_ids: Tensor,
    *,
    autocast: torch.dtype | None = None,
) -> bool:
    """Compile `model` in place, by region, if that leaves its results as they are.

    Parameters
    ----------
    model : DeCo or DiT
        Its state-dict names stay as they are.
    x, t, class_ids : Tensor
        Inputs, as for the velocity, of the size that will be used; both ways are run on them once,
        the gradient too unless autograd is off.
    autocast : torch.dtype, optional
        Run under autocast to this dtype what is compared with the plain model without.

    Returns
    -------
    bool
        Whether the model is compiled now; where not, a warning has said why.
    """
    inputs = (x, t, class_ids)
    reference = _reference(model, inputs, autocast)
    return _adopt(model, switch_compiled, inputs, autocast, reference)


class _Reference(NamedTuple):
    """What a faster way is compared with."""

    exact: Tensor
    """`_velocity_and_gradient` of the plain model in float32."""
    plain: float
    """Relative distance of the plain model's own from it: 0, if that is float32 itself."""


def _distance(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).norm() / exact.norm())


def _reference(
    model: Model, inputs: tuple[Tensor, Tensor, Tensor], autocast: torch.dtype | None
) -> _Reference:
    dtype = model.backbone.patch_embedding.weight.dtype
    narrow = dtype not in (torch.float32, torch.float64)
    with _without_zeros(model):
        try:  # in its place, which takes less memory than a copy beside it, and is exact
            wide = model.float() if narrow else model
            # In pieces, since a batch that fits in bfloat16 may not in float32.
            exact = _velocity_and_gradient(wide, *inputs, None, pieces=4)
        finally:
            model.to(dtype)
        if not narrow and autocast is None:
            return _Reference(exact, 0.0)
        return _Reference(exact, _distance(_velocity_and_gradient(model, *inputs, autocast), exact))


def _adopt(
    model: Model,
    switch: Callable[[Model, bool], None],
    inputs: tuple[Tensor, Tensor, Tensor],
    autocast: torch.dtype | None,
    reference: _Reference,
    otherwise: str = "the plain model is used",
) -> bool:
    """Switch a faster way on if its results are as good as those without; return if it is on."""
    with _without_zeros(model), warnings.catch_warnings():
        # Tracing a block with a hook looks at the gradient of its inputs, and warns of itself.
        warnings.filterwarnings("ignore", "The .grad attribute", UserWarning)
        # Which a person may want for products in float32, and these models do not.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        try:
            switch(model, True)
            fast = _distance(_velocity_and_gradient(model, *inputs, autocast), reference.exact)
            right = fast <= 2 * reference.plain + ROUNDING
            reason = (
                f"results differ by {fast:.1e} from those in float32, and the plain ones by "
                f"{reference.plain:.1e}"
            )
        except RuntimeError as error:
            reason, right = first_line(error), False
    if not right:
        switch(model, False)
        warnings.warn(f"{otherwise}: {reason}", stacklevel=3)
    return right
