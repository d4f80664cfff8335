"""Faster ways to compute a model, each compared with the plain one once, where it is switched on.

On a CPU, without gradients, the native kernels (`deco_lab.fast.native`). Elsewhere and for training
torch.compile by region: each DiT block and the pixel decoder by themselves. For sampling the blocks
are compiled for all batch sizes at once, and on a CUDA device, compiled or not, replayed as CUDA
graphs (`deco_lab.fast.graphs`).

Compiling a whole DeCo is not safe: with PyTorch 2.13 on a CPU the velocity of the compiled model is
off by most of its norm, without an error. By region the result is right to rounding. Where it is
further from the result in float32 than rounding explains, or fails, it is undone and a warning says
why.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deco_lab.fast.build import first_line
from deco_lab.fast.graphs import Graphed, switch_graphs
from deco_lab.fast.native import switch_native
from deco_lab.models.decoder import decode_piece
from deco_lab.models.zoo import Model, decoder_of

MAX_GRAPHS = 64
"""Graphs of a block, and of a decoder, that all models of the process may have together: beyond
its limit, 8 by default, PyTorch computes without a graph and only logs that."""

ROUNDING = 1e-4
"""Largest relative distance from the result in float32, beside twice that of the plain model."""

_MEANT_TO_BE_SO = ("The .grad attribute", "TensorFloat32 tensor cores")
"""What PyTorch warns of: that tracing a block with a hook looks at the gradient of its inputs, and
that products in float32 could be less exact."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""x, t and class_ids, as for the velocity."""
Switch = Callable[[Model, bool], None]
"""Lets a model compute in a faster way, or undoes that."""


def regions(model: Model) -> list[nn.Module]:
    """Return the parts of `model` that are compiled each by itself."""
    decoder = decoder_of(model)
    return [*model.backbone.blocks, *([decoder] if decoder else [])]


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
        return _adopt(model, _ways(weight.device.type), (x, t, class_ids))


def compile_regions(
    model: Model, x: Tensor, t: Tensor, class_ids: Tensor, *, autocast: torch.dtype | None = None
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
    ways = {"the plain model is used": switch_compiled}
    return _adopt(model, ways, (x, t, class_ids), autocast)


def _ways(device_type: str) -> dict[str, Switch]:
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
        if decoder := decoder_of(model):
            decoder.decode_piece = decode_piece
        return
    # Of the whole process: an older PyTorch knows no limit of one function.
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MAX_GRAPHS)
    if torch.is_grad_enabled():
        for region in regions(model):
            region.compile()
    else:
        for block in model.backbone.blocks:
            block.compile(dynamic=True)
        if decoder := decoder_of(model):
            decoder.decode_piece = torch.compile(decode_piece, dynamic=True)


def _adopt(
    model: Model, ways: Mapping[str, Switch], inputs: Inputs, autocast: torch.dtype | None = None
) -> bool:
    """Switch on each faster way whose results are as good as those without; return if one is on."""
    adopted = False
    with _without_zeros(model):
        exact, plain = _exact_result(model, inputs, autocast)
        for otherwise, switch in ways.items():
            reason = ""
            try:
                with warnings.catch_warnings():
                    for said in _MEANT_TO_BE_SO:
                        warnings.filterwarnings("ignore", said, UserWarning)
                    switch(model, True)
                    off = _distance(_velocity_and_gradient(model, inputs, autocast), exact)
                if not off <= 2 * plain + ROUNDING:
                    reason = (
                        f"results differ by {off:.1e} from those in float32, "
                        f"and the plain ones by {plain:.1e}"
                    )
            except RuntimeError as error:
                reason = first_line(error)
            if reason:
                switch(model, False)
                warnings.warn(f"{otherwise}: {reason}", stacklevel=3)
            adopted = adopted or not reason
    return adopted


def _exact_result(
    model: Model, inputs: Inputs, autocast: torch.dtype | None
) -> tuple[Tensor, float]:
    """Return the plain model's result in float32, and the distance of its own result from that."""
    dtype = model.backbone.patch_embedding.weight.dtype
    narrow = dtype not in (torch.float32, torch.float64)
    try:  # in its place, which takes less memory than a copy beside it, and is exact
        wide = model.float() if narrow else model
        # In pieces, since a batch that fits in bfloat16 may not in float32.
        exact = _velocity_and_gradient(wide, inputs, None, pieces=4)
    finally:
        model.to(dtype)
    if not narrow and autocast is None:
        return exact, 0.0
    return exact, _distance(_velocity_and_gradient(model, inputs, autocast), exact)


def _velocity_and_gradient(
    model: Model, inputs: Inputs, autocast: torch.dtype | None, pieces: int = 1
) -> Tensor:
    """Return in one vector the velocity and one gradient through every region.

    Without autograd instead of the gradient the velocity of only one image. In several pieces of
    the batch one after another it takes less memory.
    """
    rows = list(zip(*(each.chunk(pieces) for each in inputs), strict=True))
    if not torch.is_grad_enabled():
        rows.append(tuple(each[:1] for each in inputs))  # which torch.compile treats by itself
    weight = model.backbone.patch_embedding.weight
    velocities, gradient = [], torch.zeros_like(weight)
    for each in rows:
        with torch.autocast(weight.device.type, dtype=autocast, enabled=autocast is not None):
            velocity = model(*each).float()
        if torch.is_grad_enabled():
            gradient += torch.autograd.grad(velocity.square().sum(), weight)[0]
        velocities.append(velocity.detach().flatten())
    if not torch.is_grad_enabled():
        return torch.cat(velocities)
    parts = [torch.cat(velocities), gradient.flatten()]
    return torch.cat([part / part.norm() for part in parts])


def _distance(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).norm() / exact.norm())


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
