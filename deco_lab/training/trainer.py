"""The training step of DeCo and its baseline, and the state that a run carries on with.

    t ~ sigmoid(N(0, 1)),  noise ~ N(0, 1),  x_t = t image + (1 - t) noise
    minimise  FM(v(x_t, t, label), image - noise) + lambda FreqFM(...) (+ 0.5 REPA)

The matrices of the DiT blocks are updated by Muon [2], everything else by AdamW; the weights to
sample with are an exponential moving average. What a step draws depends only on the seed and the
step's number, so a run that was stopped and resumed ends, on a CPU, with the same bits, and every
model trained with one seed sees the same crops, noise and times. For the same reason the next
step's batch may be cut while this one is computed, and processes that share a batch each draw all
of it and keep their own rows.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.3. Differs from [1]: the optimiser, learning rate, warm-up and
    cool-down, clipping, and AdaLN layers of the DiT blocks that start at zero.
[2] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

import pickle
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deco_lab.checkpoints.files import DAMAGED
from deco_lab.config import ModelConfig, config_from_dict, config_to_dict
from deco_lab.data import CropSource
from deco_lab.fast.build import first_line
from deco_lab.fast.regions import compile_regions, fast_dtype
from deco_lab.files import replacing
from deco_lab.flow import interpolate, sample_times, velocity_target, velocity_towards
from deco_lab.losses import alignment_loss, flow_matching_loss, frequency_loss
from deco_lab.models import Model, build
from deco_lab.models.dit import zero_block_modulation
from deco_lab.training.alignment import Learner, VisionEncoder
from deco_lab.training.parallel import TrainingProcesses
from deco_lab.training.recipe import TrainingConfig, learning_rate_factor, step_generator


class ResumeError(ValueError):
    """A saved run that is not the one to go on with; the message says what differs."""


class Draw(NamedTuple):
    """All that chance decides of a step, this process's rows of it."""

    images: Tensor
    """(B, 3, H, W), in [-1, 1]."""
    noise: Tensor
    """(B, 3, H, W), standard normal."""
    t: Tensor
    """(B,), times in (0, 1)."""
    class_ids: Tensor
    """(B,), labels; some are the null class."""


class Losses(NamedTuple):
    """Of one step, detached scalars, averaged over processes."""

    flow_matching: Tensor
    frequency: Tensor
    alignment: Tensor
    """Zero without REPA."""
    gradient_norm: Tensor
    """Before clipping."""


class Trainer:
    """A model, its average, its optimisers and the step they are at.

    Parameters
    ----------
    model_config : ModelConfig
        What to train.
    config : TrainingConfig
        How.
    crops : CropSource
        What on; its device is where the training runs.
    data : mapping, optional
        What the crops are cut from, JSON-ready; a run is only resumed on the same, by any "name".
    processes : TrainingProcesses, optional
        Those that share each step; only this one when not given.
    prefetch : bool
        Cut the next step's crops in a thread meanwhile, on a GPU in a stream of its own.

    Raises
    ------
    ValueError
        Where model and crops differ in size or classes, the processes cannot share a batch evenly,
        or the encoder of REPA cannot be had.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainingConfig,
        crops: CropSource,
        *,
        data: Mapping[str, object] | None = None,
        processes: TrainingProcesses | None = None,
        prefetch: bool = False,
    ) -> None:
        self.processes = processes or TrainingProcesses(crops.device)
        for name in ("image_size", "num_classes"):
            if getattr(model_config, name) != getattr(crops, name):
                raise ValueError(
                    f"the model's {name} must be that of the crops, {getattr(crops, name)}, "
                    f"got {getattr(model_config, name)}; choose a preset that fits them, or make "
                    "a configuration with it"
                )
        if config.batch_size % (self.processes.count * config.accumulate):
            raise ValueError(
                f"batch_size must be divisible by the number of processes={self.processes.count} "
                f"times accumulate={config.accumulate}, got {config.batch_size}; it counts the "
                "crops of all of them together"
            )
        self.crops = crops
        self.data = dict(data or {})
        self.device = crops.device
        if config.precision == "auto":
            narrow = fast_dtype(self.device) == torch.bfloat16
            config = replace(config, precision="bf16" if narrow else "float32")
        self.config = config
        self.step = 0
        self.seconds = 0.0
        """What the steps took."""
        self.unlogged: list[Tensor] = []
        """Losses, (4,) each, of the steps that are in no row of the run's log yet."""
        self.encoder = None
        if config.repa:
            dtype = self.autocast_dtype or torch.float32
            self.encoder = VisionEncoder(config.repa, self.device, dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model: Model = build(model_config)
            zero_block_modulation(self.model.backbone)
            features = self.encoder.width if self.encoder else 0
            self.learner = Learner(self.model, features=features, block=config.repa_block)
        self.learner.to(self.device)
        self._forward: nn.Module = self.learner
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.optimizers = self._new_optimizers()
        self._cutter = ThreadPoolExecutor(1, "next batch") if prefetch else None
        self._stream: torch.cuda.Stream | None = None
        if prefetch and self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # for the pictures
        self._next: Future[Draw] | None = None

    def _new_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Return Muon for the matrices of the DiT blocks, if asked for, and AdamW for the rest."""
        config, by_muon = self.config, {}  # in order, as the optimiser's state is
        if config.optimizer == "muon":
            matrices = (p for p in self.model.backbone.blocks.parameters() if p.ndim == 2)
            by_muon = dict.fromkeys(matrices)
        rest = [p for p in self.learner.parameters() if p not in by_muon]
        adamw = torch.optim.AdamW(
            rest, lr=config.adamw_lr, betas=(0.9, config.beta2), weight_decay=0.0
        )
        if not by_muon:
            return (adamw,)
        muon = torch.optim.Muon(
            [*by_muon], lr=config.muon_lr, weight_decay=0.0, adjust_lr_fn="original"
        )
        return muon, adamw

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype that products run in, or None."""
        return torch.bfloat16 if self.config.precision == "bf16" else None

    def draw(self, step: int) -> Draw:
        """Return what a step draws: the whole batch's, of which this process keeps its rows."""
        config, device = self.config, self.device
        B, share = config.batch_size, config.batch_size // self.processes.count
        rows = slice(self.processes.index * share, (self.processes.index + 1) * share)
        on_cpu = on_device = step_generator(config.seed, step)
        if device.type != "cpu":
            on_device = step_generator(config.seed, step, device)
        images, class_ids = self.crops.sample(B, on_cpu, rows=rows)
        t = sample_times(
            B, time_shift=config.time_shift, uniform=config.uniform_times, generator=on_cpu
        )
        dropped = torch.rand(B, generator=on_cpu) < config.label_dropout
        class_ids = class_ids.masked_fill(dropped[rows].to(device), self.model.config.null_class)
        noise = torch.randn(B, *images.shape[1:], generator=on_device, device=device)
        return Draw(images, noise[rows], t[rows].to(device), class_ids)

    def _drawn(self) -> Draw:
        """Return this step's draw, and have the next one's prepared where that is asked for."""
        draw = self._next.result() if self._next else self.draw(self.step)
        self._next = None
        if self._stream:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self._stream)
            for tensor in draw:
                tensor.record_stream(here)  # or its memory is given to the next draw meanwhile
        if self._cutter and self.step + 1 < self.config.steps:
            self._next = self._cutter.submit(self._draw_ahead, self.step + 1)
        return draw

    def _draw_ahead(self, step: int) -> Draw:
        """Return what a step draws; on a GPU beside what is computed there meanwhile."""
        with torch.cuda.stream(self._stream):  # which does nothing for None
            return self.draw(step)

    def compile(self) -> bool:
        """Compile the model by region, where that is right; return whether it is compiled."""
        images, noise, t, class_ids = self._parts(self.draw(0))[0]
        x = interpolate(images, noise, t[:, None, None, None])
        return compile_regions(self.model, x, t, class_ids, autocast=self.autocast_dtype)

    def distribute(self) -> None:
        """Wrap what is trained for the processes; call it once, after `compile` if at all."""
        self._forward = self.processes.wrap(self.learner)

    def train_step(self) -> Losses:
        """Take one step; return its losses."""
        config = self.config
        *parts, last = self._parts(self._drawn())
        with self.processes.unshared(self._forward):
            found = [self._add_gradient(part) for part in parts]
        found.append(self._add_gradient(last))
        norm = nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip)
        factor = learning_rate_factor(self.step, config)
        rates = (config.muon_lr, config.adamw_lr)[-len(self.optimizers) :]
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        parameters = [parameter.detach() for parameter in self.model.parameters()]
        average = list(self.average.values())
        torch._foreach_lerp_(average, parameters, 1 - decay)  # type: ignore[attr-defined]
        self.step += 1
        flow, frequency, alignment = self.processes.mean(torch.stack(found).mean(0))
        return Losses(flow, frequency, alignment, norm.detach())

    def _parts(self, draw: Draw) -> list[Draw]:
        """Cut what a step draws into the parts that it is worked through in."""
        chunks = (rows.chunk(self.config.accumulate) for rows in draw)
        return [Draw(*rows) for rows in zip(*chunks, strict=True)]

    def _add_gradient(self, part: Draw) -> Tensor:
        """Add a part's share of the gradient; return its three losses, (3,), detached."""
        config = self.config
        images, noise, t, class_ids = part
        x = interpolate(images, noise, t)
        target = velocity_target(images, noise)
        if self.model.config.predicts == "image":
            target = velocity_towards(images, x, t)
        dtype = self.autocast_dtype
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            velocity, projected = self._forward(x, t, class_ids)
        flow = flow_matching_loss(velocity, target)
        frequency = frequency_loss(velocity, target, config.quality, config.gamma)
        loss = flow + config.frequency_weight * frequency
        alignment = torch.zeros_like(flow)
        if self.encoder:
            P = self.model.config.patch_size
            grid = images.shape[2] // P, images.shape[3] // P
            alignment = alignment_loss(projected, self.encoder.features(images, grid))
            loss = loss + config.repa_weight * alignment
        (loss / config.accumulate).backward()
        return torch.stack([flow.detach(), frequency.detach(), alignment.detach()])

    def averaged_model(self) -> Model:
        """Return a copy of the model with the averaged weights, in eval mode."""
        with torch.device("meta"):
            model = build(self.model.config)
        average = {name: value.clone() for name, value in self.average.items()}
        model.load_state_dict(average, assign=True)
        return model.eval().requires_grad_(False)

    def _state(self) -> dict[str, Any]:
        """Return everything that resuming needs."""
        unlogged, none = self.unlogged, torch.empty(0, len(Losses._fields))
        return {
            "model_config": config_to_dict(self.model.config),
            "training_config": asdict(self.config),
            "data": self.data,
            "step": self.step,
            "seconds": self.seconds,
            "losses": torch.stack(unlogged) if unlogged else none,
            "learner": dict(self.learner.state_dict()),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def save(self, path: Path) -> None:
        """Write everything that resuming needs to `path`, atomically; one process does.

        Any number of processes can go on from it.
        """
        with replacing(path) as beside, beside.open("wb") as file:
            try:
                torch.save(self._state(), file)
            except RuntimeError as error:  # that the archive is cut; why is in its context
                raise error.__context__ or error from None

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote to `path`, if it belongs to this run.

        The number of steps may differ from the saved run's, since to train longer or to begin the
        cool-down earlier is how a run is shortened or prolonged, and so may `accumulate`, which
        changes no more than rounding; nothing else may. A run that has taken no step may begin
        again as any other, so nothing is taken from it.

        Raises
        ------
        ResumeError
            Where the file is damaged, belongs to another model, another recipe or other data, or
            has taken more steps than are asked for.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, *DAMAGED) as error:
            reason = first_line(error).split(". ")[0]
            raise ResumeError(
                f"{path} is damaged ({reason}); put a copy of it back, or give a new --out to "
                "start again"
            ) from error
        foreign = f"{path} is not what this version of the package writes; give a new --out"
        if not isinstance(state, dict) or state.keys() != self._state().keys():
            raise ResumeError(foreign)
        try:
            self._take(state, path)
        except (TypeError, KeyError, AttributeError, ValueError, RuntimeError) as error:
            if isinstance(error, ResumeError):
                raise
            raise ResumeError(foreign) from error

    def _take(self, state: dict[str, Any], path: Path) -> None:
        """Go on from a state with the right names; whatever else it holds may be anything."""
        if type(state["step"]) is not int:
            raise TypeError("step")
        if not state["step"]:
            return
        model = config_to_dict(config_from_dict(state["model_config"]))
        recipe = asdict(TrainingConfig()) | state["training_config"]  # which may lack newer fields
        for what, saved, own, may_differ in (
            ("another model", model, config_to_dict(self.model.config), set()),
            ("another recipe", recipe, asdict(self.config), {"steps", "accumulate"}),
            ("other data", state["data"], self.data, {"name"}),
        ):
            names = sorted((saved.keys() | own.keys()) - may_differ)
            differ = [name for name in names if saved.get(name) != own.get(name)]
            if differ:
                raise ResumeError(
                    f"{path} is of {what}, which differs in {', '.join(differ)}; give the same "
                    "again, or a new --out"
                )
        if state["step"] > self.config.steps:
            raise ResumeError(
                f"steps must be at least {state['step']}, which {path} has reached, got "
                f"{self.config.steps}; give more, or a new --out"
            )
        self.step, self.seconds, self._next = state["step"], state["seconds"], None
        self.unlogged = [*state["losses"].to(self.device)]
        self.learner.load_state_dict(state["learner"])
        for name, tensor in self.average.items():
            tensor.copy_(state["average"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
