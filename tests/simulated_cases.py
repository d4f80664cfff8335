"""On a simulated device: that planted faults are found, and how often hot paths wait for it.

`test_simulated.py` runs these; pytest alone does not collect them.
"""

import copy
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from simulated import Device
from test_analyses_input import ANALYSES, IMAGES, Asked, model_of
from test_gpu import CONFIG

from deco_lab.data import bundled_crops
from deco_lab.losses import frequency_loss
from deco_lab.models import build
from deco_lab.plots.settling import band_pictures
from deco_lab.sampling import BandGuidance, sample
from deco_lab.spectra import OCTAVES, PartGains, log_energy
from deco_lab.training import Trainer, TrainingConfig
from deco_lab.workbench import Settings
from deco_lab.workbench.gain import input_gain
from deco_lab.workbench.loss import split
from deco_lab.workbench.watching import Watch


@pytest.fixture
def model(device: Device) -> Any:
    return copy.deepcopy(model_of("deco")).cuda()


crops = functools.cache(bundled_crops)


@pytest.fixture
def trainer(device: Device) -> Trainer:
    num_classes = crops(64, "cuda").num_classes
    config = replace(CONFIG, depth=1, decoder_depth=1, num_classes=num_classes)
    return Trainer(config, TrainingConfig(steps=20, batch_size=2), crops(64, "cuda"))


def waits_a_step(device: Device, run: Callable[[int], object]) -> Counter[str]:
    """Return where two more steps wait once more each, of a run that has run before."""
    found = []
    for steps in (3, 3, 5):
        device.waits.clear()
        run(steps)
        found.append(Counter(device.waits))
    return found[2] - found[1]


def test_a_weight_left_behind_is_refused(model):
    model.decoder.head.bias = torch.nn.Parameter(torch.zeros(3), False)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        sample(model, [0], num_steps=1)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_misplaced_generator_is_refused(trainer, monkeypatch, place):
    def misplaced(seed: int, step: int, _: object = None) -> torch.Generator:
        return torch.Generator(place)

    monkeypatch.setattr("deco_lab.training.trainer.step_generator", misplaced)
    with pytest.raises(RuntimeError, match=f"generator.* {place}"):
        trainer.draw(0)


def test_numpy_sees_no_tensor_of_a_device(device):
    with pytest.raises(TypeError, match="cuda:0 device type tensor to numpy"):
        torch.zeros(2, device="cuda").numpy()


@pytest.mark.parametrize(
    ("look", "why"),
    [
        (lambda tokens: tokens.sum().item(), "_local_scalar_dense"),
        (lambda tokens: bool(tokens.isnan().any()), "_local_scalar_dense"),
        (lambda tokens: tokens.cpu(), "down"),
        (lambda tokens: torch.tensor([1.0], device=tokens.device), "up"),
        (lambda tokens: tokens[tokens > 0], "index"),
        (lambda tokens: torch.equal(tokens, tokens + 1), "equal"),
    ],
    ids=["item", "bool", "cpu", "tensor", "mask", "equal"],
)
def test_a_planted_wait_is_found(device, model, look, why):
    def planted(block: object, given: object, tokens: torch.Tensor) -> None:
        look(tokens)

    model.backbone.blocks[0].register_forward_hook(planted)
    ((where, count),) = waits_a_step(device, lambda n: sample(model, [0], num_steps=n)).items()
    assert where.startswith("models/dit.py")
    assert where.endswith(why)
    assert count == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "heun"},
        {"solver": "adams3"},
        {"condition_reuse": 2},
        {"guidance": BandGuidance((1, 2, 3, 2))},
    ],
    ids=["euler", "heun", "adams3", "reuse", "bands"],
)
def test_sample_waits_in_no_step(device, model, options):
    def run(steps: int) -> None:
        sample(model, [0, 1], num_steps=steps, **options)

    assert not waits_a_step(device, run)


def test_gains_wait_for_the_checks_of_times_and_labels_alone(device, model):
    louder = PartGains(model, dit=(1, 2, 1, 1))
    waits = waits_a_step(device, lambda n: sample(louder, [0], num_steps=n, guidance_scale=1))
    assert sum(waits.values()) == 2 * 2
    assert all(where.startswith(("spectra/decompose.py", "labels.py")) for where in waits)


def test_frequency_loss_waits_for_nothing(device):
    predicted, target = torch.randn(2, 2, 3, 16, 16).cuda()
    frequency_loss(predicted, target)
    device.waits.clear()
    frequency_loss(predicted, target)
    assert not device.waits


def test_train_step_reads_nothing_back(device, trainer):
    def run(steps: int) -> None:
        for _ in range(steps):
            trainer.train_step()

    waits = waits_a_step(device, run)
    assert not [where for where in waits if not where.endswith(" up")]
    assert not [where for where in waits if where.startswith(("losses", "models", "spectra"))]


def test_a_frame_waits_at_most_20_times(device):
    watch = Watch(build(CONFIG).cuda(), Settings(num_steps=6))
    next(watch)
    next(watch)
    device.waits.clear()
    next(watch)
    assert device.waits.total() <= 20, device.waits
    for _ in range(3):
        watch.take()
    device.waits.clear()
    assert len(watch.frames()) == 3
    copies = {where: n for where, n in device.waits.items() if where.endswith(" down")}
    assert sum(copies.values()) == 1, copies


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_need_no_float64_on_the_device(name):
    with Device("mps"):
        there = copy.deepcopy(model_of("deco")).to("mps")
        ANALYSES[name](Asked(images=IMAGES.to("mps"), model=there))


def condition_of(model: Any) -> torch.Tensor:
    return torch.ones(1, 16, model.config.hidden_size, device="mps")


@pytest.mark.parametrize(
    "use",
    [
        lambda model, images: list(Watch(model, Settings(num_steps=1))),
        lambda model, images: log_energy(images[0, 0, :8, :8].square()),
        lambda model, images: split(images[0]),
        lambda model, images: band_pictures(images[0], images[1], OCTAVES),
        lambda model, images: input_gain(model, images[:1], condition_of(model), images[:1], 0.5),
    ],
    ids=["frames", "log_energy", "split", "band_pictures", "input_gain"],
)
def test_the_library_needs_no_float64_on_the_device(use):
    with Device("mps"):
        use(copy.deepcopy(model_of("deco")).to("mps"), IMAGES[..., :32].to("mps"))
