"""The recipe: every number that decides how a model is trained, and what follows only from them.

The defaults, with Muon [2] on the matrices of the DiT blocks, train small models in minutes. The
recipe of [1], except for clipping and AdaLN layers that start at zero, is one command away:

    --batch-size 256 --optimizer adamw --adamw-lr 1e-4 --beta2 0.999 --ema-decay 0.9999
    --warmup-steps 0 --cooldown 0 --repa facebook/dinov2-base

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.3 and Table 4.
[2] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; the defaults, in "bf16", are those of the bundled models."""

    steps: int = 10000
    """Optimiser steps."""
    batch_size: int = 32
    """Crops of a step, of all processes together."""
    accumulate: int = 1
    """Parts that a step's crops are worked through in, one after the other: the more, the less
    memory; to rounding, the gradient is that of all together."""
    seed: int = 0
    """Of the initial weights and of everything a step draws."""
    optimizer: str = "muon"
    """"muon" (on the matrices of the DiT blocks, AdamW on the rest) or "adamw" (on everything)."""
    muon_lr: float = 0.02
    """Learning rate of the DiT blocks' matrices under Muon, "original" scaling."""
    adamw_lr: float = 1e-3
    """Learning rate of the parameters that AdamW updates; no decay."""
    beta2: float = 0.95
    """Of AdamW's mean square; the mean has 0.9."""
    warmup_steps: int = 100
    """Steps over which the learning rates rise from zero."""
    cooldown: float = 0.4
    """Last share of the steps, over which the learning rates fall to zero."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Of the averaged weights; min(decay, (1 + step) / (10 + step)) while they are young."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null class, for guidance."""
    time_shift: float = 1.0
    """Of the drawn times: t / (t + (1 - t) * shift); above 1 draws more of them near the noise."""
    uniform_times: float = 0.0
    """Share of the times drawn uniformly, not logit-normal as the paper's, which hardly trains the
    last steps of sampling (t above 0.95)."""
    frequency_weight: float = 1.0
    """Lambda, the weight of the frequency-aware loss; 0 leaves it out."""
    quality: int = 85
    """JPEG quality of the frequency-aware loss."""
    gamma: float = 1.0
    """Exponent of its weights."""
    repa: str = ""
    """DINOv2 to align tokens with: a name at Hugging Face such as facebook/dinov2-base, or a folder
    (./encoder); nothing when empty."""
    repa_weight: float = 0.5
    """Weight of the alignment loss."""
    repa_block: int = 8
    """Block whose tokens are aligned, counted from 1; the last one of models that have fewer."""
    precision: str = "auto"
    """"bf16" (autocast; parameters, optimisers and losses stay in float32), "float32", or "auto":
    bf16 on a GPU that has it and float32 elsewhere."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is in no range
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"optimizer must be muon or adamw, got {self.optimizer!r}")
        if self.precision not in ("auto", "bf16", "float32"):
            raise ValueError(f"precision must be auto, bf16 or float32, got {self.precision!r}")


RANGES = {
    "steps": (1, 10**9),
    "batch_size": (1, 10**6),
    "accumulate": (1, 10**6),
    "seed": (0, 2**31 - 1),
    "muon_lr": (0, 10),
    "adamw_lr": (0, 10),
    "beta2": (0, 1 - 1e-9),
    "warmup_steps": (0, 10**9),
    "cooldown": (0, 1),
    "clip": (1e-6, 1e6),
    "ema_decay": (0, 1),
    "label_dropout": (0, 1),
    "time_shift": (1e-3, 1e3),
    "uniform_times": (0, 1),
    "frequency_weight": (0, 1e6),
    "quality": (1, 100),
    "gamma": (0, 100),
    "repa_weight": (0, 1e6),
    "repa_block": (1, 10**6),
}
"""What the numbers of a `TrainingConfig` may be, bounds included."""


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Return what the learning rates are multiplied by at `step`, counted from 0.

    Without a cool-down the rates are constant from the end of the warm-up to the last step.
    """
    cooldown_steps = max(1.0, config.cooldown * config.steps)
    return min(
        1.0, (step + 1) / max(1, config.warmup_steps), (config.steps - step) / cooldown_steps
    )


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of everything that one step draws.

    PyTorch's CPU generator uses 32 bits of a seed; the multiple keeps the runs of different seeds
    apart for far more steps than a run has.
    """
    return torch.Generator(device).manual_seed((step + seed * 0x9E3779B1) % 2**32)
