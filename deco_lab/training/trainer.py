"""The training step of DeCo and its baseline, and the state that a run carries on with.

    t ~ sigmoid(N(0, 1)),  noise ~ N(0, 1),  x_t = t image + (1 - t) noise
    minimise  FM(v(x_t, t, label), image - noise) + lambda FreqFM(...)

The matrices of the DiT blocks are updated by Muon [2], everything else by AdamW; the weights to
sample with are an exponential moving average. What a step draws depends on the seed and the step's
number alone, so a run that was stopped and resumed ends, on a CPU, with the same bits, and every
model trained with one seed sees the same crops, noise and times.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.3. Differs from [1]: the optimiser, learning rate, warm-up and
    cool-down, clipping, and AdaLN layers of the DiT blocks that start at zero.
[2] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deco_lab.config import ModelConfig, config_from_dict, config_to_dict
from deco_lab.data import CropSampler
from deco_lab.flow import interpolate, sample_times, velocity_target
from deco_lab.losses import flow_matching_loss, frequency_loss
from deco_lab.models import Model, build
from deco_lab.models.compiled import compile_regions
from deco_lab.models.dit import zero_block_modulation


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; the defaults, in "bf16", are those of the bundled models."""

    steps: int = 10000
    """Optimiser steps."""
    batch_size: int = 32
    """Crops of a step."""
    seed: int = 0
    """Of the initial weights and of everything a step draws."""
    muon_lr: float = 0.02
    """Learning rate of the DiT blocks' matrices, "original" scaling."""
    adamw_lr: float = 1e-3
    """Learning rate of all other parameters; betas 0.9 and 0.95, no decay."""
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
    frequency_weight: float = 1.0
    """Lambda, the weight of the frequency-aware loss; 0 leaves it out."""
    quality: int = 85
    """JPEG quality of the frequency-aware loss."""
    gamma: float = 1.0
    """Exponent of its weights."""
    precision: str = "auto"
    """"bf16" (autocast; parameters, optimisers and losses stay in float32), "float32", or "auto":
    bf16 on a GPU that has it and float32 elsewhere."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is in no range
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")
        if self.precision not in ("auto", "bf16", "float32"):
            raise ValueError(f"precision must be auto, bf16 or float32, got {self.precision!r}")


_RANGES = {
    "steps": (1, 10**9),
    "batch_size": (1, 10**6),
    "seed": (0, 2**31 - 1),
    "muon_lr": (0, 10),
    "adamw_lr": (0, 10),
    "warmup_steps": (0, 10**9),
    "cooldown": (0, 1),
    "clip": (1e-6, 1e6),
    "ema_decay": (0, 1),
    "label_dropout": (0, 1),
    "frequency_weight": (0, 1e6),
    "quality": (1, 100),
    "gamma": (0, 100),
}
"""What the numbers of a `TrainingConfig` may be, bounds included."""


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Return what the learning rates are multiplied by at `step`, counted from 0."""
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


class Trainer:
    """A model, its average, its optimisers and the step they are at.

    Parameters
    ----------
    model_config : ModelConfig
        What to train.
    config : TrainingConfig
        How.
    crops : CropSampler
        What on; its device is where the training runs.

    Raises
    ------
    ValueError
        Where model and crops differ in size or classes.
    """

    def __init__(
        self, model_config: ModelConfig, config: TrainingConfig, crops: CropSampler
    ) -> None:
        for name in ("image_size", "num_classes"):
            if getattr(model_config, name) != getattr(crops, name):
                raise ValueError(
                    f"the model's {name} must be that of the crops, {getattr(crops, name)}, "
                    f"got {getattr(model_config, name)}; choose a preset that fits them, or make "
                    "a configuration with it"
                )
        self.crops = crops
        self.device = crops.device
        if config.precision == "auto":
            fast = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            config = replace(config, precision="bf16" if fast else "float32")
        self.config = config
        self.step = 0
        self.seconds = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model: Model = build(model_config)
        zero_block_modulation(self.model.trunk)
        self.model.to(self.device)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        matrices = [p for p in self.model.trunk.blocks.parameters() if p.ndim == 2]
        chosen = set(matrices)
        others = [p for p in self.model.parameters() if p not in chosen]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                matrices,
                lr=config.muon_lr,
                weight_decay=0.0,
                adjust_lr_fn="original",
            ),
            torch.optim.AdamW(others, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self._base_rates = (config.muon_lr, config.adamw_lr)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype that products run in, or None."""
        return torch.bfloat16 if self.config.precision == "bf16" else None

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the images, noise, times and labels of a step; some labels are the null class."""
        on_cpu = step_generator(self.config.seed, step)
        B = self.config.batch_size
        images, class_ids = self.crops.sample(B, on_cpu)
        t = sample_times(B, generator=on_cpu).to(self.device)
        dropped = torch.rand(B, generator=on_cpu) < self.config.label_dropout
        class_ids = class_ids.masked_fill(dropped.to(self.device), self.model.config.null_class)
        on_device = (
            on_cpu
            if self.device.type == "cpu"
            else step_generator(self.config.seed, step, self.device)
        )
        noise = torch.randn(images.shape, generator=on_device, device=self.device)
        return images, noise, t, class_ids

    def compile(self) -> bool:
        """Compile the model by region, where that is right; return whether it is compiled."""
        images, noise, t, class_ids = self.draw(0)
        x = interpolate(images, noise, t[:, None, None, None])
        return compile_regions(self.model, x, t, class_ids, autocast=self.autocast_dtype)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Take one step; return its flow-matching and frequency-aware loss, detached scalars."""
        config = self.config
        images, noise, t, class_ids = self.draw(self.step)
        x = interpolate(images, noise, t)
        target = velocity_target(images, noise)
        dtype = self.autocast_dtype
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            velocity = self.model(x, t, class_ids)
        flow = flow_matching_loss(velocity, target)
        frequency = frequency_loss(velocity, target, config.quality, config.gamma)
        (flow + config.frequency_weight * frequency).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        factor = learning_rate_factor(self.step, config)
        for optimizer, rate in zip(self.optimizers, self._base_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        for average, parameter in zip(self.average.values(), self.model.parameters(), strict=True):
            average.lerp_(parameter.detach(), 1 - decay)
        self.step += 1
        return flow.detach(), frequency.detach()

    def averaged_model(self) -> Model:
        """Return a copy of the model with the averaged weights, in eval mode."""
        model = build(self.model.config)
        model.load_state_dict(self.average)
        return model.to(self.device).eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """Write everything that resuming needs to `path`: to the side first, then renamed."""
        state = {
            "model_config": config_to_dict(self.model.config),
            "training_config": asdict(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        beside = path.with_name(path.name + ".part")
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote.

        The number of steps may differ from the saved run's, and only it: to train longer or to
        begin the cool-down earlier is how a run is shortened or prolonged.

        Raises
        ------
        ValueError
            Where the file belongs to another model or another recipe.
        """
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if config_from_dict(state["model_config"]) != self.model.config:
            raise ValueError(f"{path} holds another model; give a new --out to train this one")
        saved = {**asdict(self.config), **state["training_config"], "steps": self.config.steps}
        if (differing := TrainingConfig(**saved)) != self.config:
            names = [
                field.name
                for field in fields(TrainingConfig)
                if getattr(differing, field.name) != getattr(self.config, field.name)
            ]
            raise ValueError(
                f"{path} was trained with another {', '.join(names)}; repeat those or give a new "
                "--out"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for name, value in state["average"].items():
                self.average[name].copy_(value)
        for optimizer, saved_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_state)
