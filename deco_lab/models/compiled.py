"""torch.compile by region: each DiT block and the pixel decoder by themselves.

Compiling a whole DeCo is not safe: with PyTorch 2.13 on a CPU the velocity of the compiled model is
off by most of its norm, without an error. By region the result is right to rounding; it is compared
with the plain model once, where it is switched on, and undone where the two differ.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from deco_lab.models.deco import DeCo, Model


def regions(model: Model) -> Iterator[nn.Module]:
    """Yield the parts of `model` that are compiled each by itself."""
    yield from model.trunk.blocks
    if isinstance(model, DeCo):
        yield model.decoder


def _velocity_and_gradient(
    model: Model, x: Tensor, t: Tensor, class_ids: Tensor, autocast: torch.dtype | None
) -> Tensor:
    """Return the velocity and, under autograd, one gradient through every region, in one vector."""
    with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
        velocity = model(x, t, class_ids)
    velocity = velocity.float()
    if not torch.is_grad_enabled():
        return velocity.flatten()
    weight = model.trunk.patch_embedding.weight
    (gradient,) = torch.autograd.grad(velocity.square().sum(), weight)
    parts = [velocity.detach().flatten(), gradient.flatten()]
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
    tolerance: float | None = None,
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
        Run the comparison under autocast to this dtype.
    tolerance : float, optional
        Largest relative difference to accept; 1e-4, or 2e-2 under autocast.

    Returns
    -------
    bool
        Whether the model is compiled now; where not, a warning has said why.
    """
    if tolerance is None:
        tolerance = 1e-4 if autocast is None else 2e-2
    with _without_zeros(model), warnings.catch_warnings():
        # Tracing a block with a hook looks at the gradient of its inputs, and warns of itself.
        warnings.filterwarnings("ignore", "The .grad attribute", UserWarning)
        plain = _velocity_and_gradient(model, x, t, class_ids, autocast)
        for region in regions(model):
            region.compile()
        try:
            compiled = _velocity_and_gradient(model, x, t, class_ids, autocast)
            difference = float((compiled - plain).norm() / plain.norm())
            reason = f"results differ by {difference:.1e}, more than {tolerance:.0e}"
            right = difference <= tolerance
        except (TorchDynamoException, RuntimeError) as error:
            reason, right = str(error).strip().splitlines()[0], False
    if not right:
        for region in regions(model):
            region._compiled_call_impl = None
        warnings.warn(f"torch.compile is left off: {reason}", stacklevel=2)
    return right
