"""DeCo and guided Euler sampling the straightforward way: what the library is measured against.

This is the reference of tests and benchmark, never a second product. It computes the class-to-image
model of [1] as the published code does, eagerly and one operation after the other: patches are
unfolded, channels rotated as complex numbers in float32, every RMSNorm goes through float32, the
64 features of a pixel's place are joined to each pixel, and each of the decoder's blocks takes the
SiLU of the condition again. Its sampler computes a pair of velocities at every step,

    velocity = uncond + w (cond - uncond),        w = 1 outside the guidance interval,

though a pair of scale 1 is only the conditional velocity. Tables of positions are kept by size, as
they are in the published code.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.config import DeCoConfig


class PlainDeCo:
    """The class-conditional model over the library's weights, in their dtype and on their device.

    Parameters
    ----------
    config : DeCoConfig
        With the published decoder: `decoder_patch` 1 and `decoder_conditioning` "adaln".
    state : mapping
        The state dict of `deco_lab.models.DeCo`; its tensors are not copied.
    """

    def __init__(self, config: DeCoConfig, state: Mapping[str, Tensor]) -> None:
        self.config = config
        self.state = dict(state)
        head = self.state["decoder.head.weight"]
        self.dtype, self.device = head.dtype, head.device
        self._rotations: dict[tuple[int, int], Tensor] = {}
        self._features: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W), for x (B, 3, H, W), t and class_ids (B,)."""
        return self.decode(x, self.condition(x, t, class_ids))

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return silu(time + tokens), (B, N, D), which the decoder receives."""
        P = self.config.patch_size
        patches = F.unfold(x.to(self.dtype), P, stride=P).transpose(1, 2)
        tokens = self._linear(patches, "trunk.patch_embedding")
        time = self._time(t)[:, None]
        label = self.state["trunk.label_embedding.weight"][class_ids][:, None]
        conditioning = F.silu(time + label)
        rotation = self._rotation(x.shape[2] // P, x.shape[3] // P, x.device)
        for i in range(self.config.depth):
            tokens = self._block(tokens, conditioning, rotation, f"trunk.blocks.{i}")
        return F.silu(time + tokens)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W), of pixels (B, 3, H, W) and a condition (B, N, D)."""
        P, d = self.config.patch_size, self.config.decoder_width
        B, N, D = condition.shape
        patches = F.unfold(x.to(self.dtype), P, stride=P).transpose(1, 2)
        pixels = patches.reshape(B * N, 3, P * P).transpose(1, 2)
        place = self._place(x.device).repeat(B * N, 1, 1)
        h = self._linear(torch.cat([pixels, place], dim=-1), "decoder.pixel_embedding")
        h = self._linear(h, "decoder.input_projection")
        y = self._linear(condition.reshape(B * N, D), "decoder.condition_projection")
        y = y.reshape(B * N, P * P, d)
        for i in range(self.config.decoder_depth):
            h = self._pixel_block(h, y, f"decoder.blocks.{i}")
        h = self._linear(F.layer_norm(h, (d,), eps=1e-6), "decoder.head")
        folded = h.transpose(1, 2).reshape(B, N, 3 * P * P).transpose(1, 2)
        return F.fold(folded.to(x.dtype), x.shape[2:], P, stride=P)

    def _linear(self, x: Tensor, layer: str) -> Tensor:
        return F.linear(x, self.state[f"{layer}.weight"], self.state.get(f"{layer}.bias"))

    def _rms_norm(self, x: Tensor, layer: str) -> Tensor:
        exact = x.float()
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.state[f"{layer}.weight"] * exact.to(x.dtype)

    def _time(self, t: Tensor) -> Tensor:
        frequencies = 10 ** (-torch.arange(128, dtype=torch.float32, device=t.device) / 128)
        angles = t.float()[:, None] * frequencies
        features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1).to(self.dtype)
        hidden = F.silu(self._linear(features, "trunk.time_embedding.mlp.0"))
        return self._linear(hidden, "trunk.time_embedding.mlp.2")

    def _rotation(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return the unit complex numbers that turn a head's pairs, (N, 1, head_dim / 2)."""
        if (rows, columns) not in self._rotations:
            head_dim = self.config.hidden_size // self.config.num_heads
            along_x, along_y = (torch.linspace(0, 16, n, device=device) for n in (columns, rows))
            y, x = torch.meshgrid(along_y, along_x, indexing="ij")
            steps = torch.arange(0, head_dim, 4, device=device) / head_dim
            frequencies = 1.0 / 10000**steps
            angles = [torch.outer(place.flatten(), frequencies) for place in (x, y)]
            turns = [torch.polar(torch.ones_like(angle), angle) for angle in angles]
            self._rotations[rows, columns] = torch.stack(turns, dim=-1).flatten(1)[:, None]
        return self._rotations[rows, columns]

    def _block(self, x: Tensor, conditioning: Tensor, rotation: Tensor, block: str) -> Tensor:
        modulation = self._linear(conditioning, f"{block}.modulation").chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        inner = self._rms_norm(x, f"{block}.attention_norm") * (1 + scale_a) + shift_a
        x = x + gate_a * self._attention(inner, rotation, f"{block}.attention")
        inner = self._rms_norm(x, f"{block}.mlp_norm") * (1 + scale_m) + shift_m
        gate, value = (self._linear(inner, f"{block}.mlp.{name}") for name in ("gate", "value"))
        return x + gate_m * self._linear(F.silu(gate) * value, f"{block}.mlp.output")

    def _attention(self, x: Tensor, rotation: Tensor, layer: str) -> Tensor:
        B, N, D = x.shape
        heads = self.config.num_heads
        qkv = self._linear(x, f"{layer}.qkv").reshape(B, N, 3, heads, D // heads)
        q, k, v = qkv.permute(2, 0, 1, 3, 4)
        q = self._turned(self._rms_norm(q, f"{layer}.query_norm"), rotation)
        k = self._turned(self._rms_norm(k, f"{layer}.key_norm"), rotation)
        q, k, v = (part.transpose(1, 2).contiguous() for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self._linear(mixed.transpose(1, 2).reshape(B, N, D), f"{layer}.output")

    @staticmethod
    def _turned(x: Tensor, rotation: Tensor) -> Tensor:
        """Turn the channel pairs of x, (B, N, heads, head_dim), as complex numbers."""
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * rotation).flatten(3).to(x.dtype)

    def _place(self, device: torch.device) -> Tensor:
        """Return the 64 features of each place of a patch, (1, P * P, 64)."""
        if self._features is None:
            P = self.config.patch_size
            place = torch.linspace(0, 1, P, device=device)
            row, column = torch.meshgrid(place, place, indexing="ij")
            frequencies = torch.linspace(0, 8, 8, device=device)
            f_x, f_y = frequencies[:, None], frequencies[None, :]
            waves = torch.cos(torch.pi * column[..., None, None] * f_x) * torch.cos(
                torch.pi * row[..., None, None] * f_y
            )
            self._features = (waves / (1 + f_x * f_y)).reshape(1, P * P, 64).to(self.dtype)
        return self._features

    def _pixel_block(self, h: Tensor, y: Tensor, block: str) -> Tensor:
        modulation = self._linear(F.silu(y), f"{block}.modulation")
        shift, scale, gate = modulation.chunk(3, dim=-1)
        weight, bias = self.state[f"{block}.norm.weight"], self.state[f"{block}.norm.bias"]
        normal = F.layer_norm(h, h.shape[-1:], weight, bias, eps=1e-6)
        inner = self._linear(normal * (1 + scale) + shift, f"{block}.mlp.0")
        return h + gate * self._linear(F.silu(inner), f"{block}.mlp.2")


@torch.no_grad()
def plain_sample(
    model: PlainDeCo,
    class_ids: Sequence[int],
    noise: Tensor,
    *,
    num_steps: int = 50,
    guidance_scale: float = 3.0,
    guidance_interval: tuple[float, float] = (0.1, 1.0),
) -> Tensor:
    """Return images, (B, 3, H, W), float32, by Euler steps, each of a guided pair.

    Parameters
    ----------
    model : PlainDeCo
        The velocity.
    class_ids : sequence of int
        B labels.
    noise : Tensor
        (B, 3, H, W), the start, on the model's device.
    num_steps : int
        At least 1.
    guidance_scale : float
        w in uncond + w * (cond - uncond).
    guidance_interval : tuple of float
        (low, high] in t; w is 1 for steps that start outside.
    """
    x = noise.float()
    labels = torch.tensor(class_ids, device=x.device)
    pair_labels = torch.cat([torch.full_like(labels, model.config.null_class), labels])
    low, high = guidance_interval
    times = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64).tolist()
    for t, t_next in pairwise(times):
        pair_t = torch.full((2 * len(x),), t, device=x.device)
        uncond, cond = model(torch.cat([x, x]), pair_t, pair_labels).chunk(2)
        # 0.1 on a grid of fifty steps counts as equal to 0.1, whichever way it was rounded.
        w = guidance_scale if low + 1e-9 < t <= high + 1e-9 else 1.0
        x = x + (t_next - t) * (uncond + w * (cond - uncond))
    return x
