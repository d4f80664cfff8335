"""What only a CUDA device can show; needs nothing but the library and PyTorch.

On a machine with one: `pytest tests/test_gpu.py`.
"""

import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_analyses_input import ANALYSES, IMAGES, Asked, model_of

from deco_lab.config import DeCoConfig
from deco_lab.data import SourceConfig, bundled_crops, open_source
from deco_lab.fast.graphs import Graphed, switch_graphs
from deco_lab.fast.regions import ready_for_sampling, switch_compiled
from deco_lab.losses import frequency_loss
from deco_lab.models import DeCo, build
from deco_lab.sampling import sample
from deco_lab.spectra import block_dct, decompose, inverse_block_dct
from deco_lab.training import Trainer, TrainingConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; run it on one"),
]

CONFIG = DeCoConfig(
    image_size=64, patch_size=8, num_classes=14, hidden_size=64, num_heads=4, depth=2,
    decoder_depth=2, decoder_width=16,
)  # fmt: skip


@pytest.fixture
def model() -> DeCo:
    torch.manual_seed(0)
    model = DeCo(CONFIG)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double()
    return float((got.cpu().double() - expected).norm() / expected.norm())


def test_block_dct_is_float32_not_tf32():
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    here = images.float().cuda().requires_grad_()
    there = images.requires_grad_()
    got, expected = block_dct(here), block_dct(there)
    assert relative(got.detach(), expected.detach()) < 1e-6
    assert relative(inverse_block_dct(got).detach(), images.detach()) < 1e-6
    weights = torch.randn(expected.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((got * weights.float().cuda()).sum(), here)
    (reference,) = torch.autograd.grad((expected * weights).sum(), there)
    assert relative(gradient, reference) < 1e-6


def test_frequency_loss_equals_the_cpu():
    predicted, target = torch.randn(2, 4, 3, 64, 64)
    got = frequency_loss(predicted.cuda(), target.cuda())
    assert float(got) == pytest.approx(float(frequency_loss(predicted, target)), rel=1e-5)


def test_sample_and_decompose_equal_the_cpu(model):
    there = copy.deepcopy(model).cuda()
    images = sample(model, [0, 3], num_steps=4)
    assert relative(sample(there, [0, 3], num_steps=4), images) < 1e-4
    here_parts = decompose(model, images, 0.5, [0, 3], pixel_reference="noise")
    there_parts = decompose(there, images.cuda(), 0.5, [0, 3], pixel_reference="noise")
    assert relative(there_parts.dit, here_parts.dit) < 1e-4
    assert relative(there_parts.decoder, here_parts.decoder) < 1e-4


@torch.no_grad()
def test_graphs_equal_the_plain_model_and_follow_its_weights(model):
    model = model.cuda().requires_grad_(False)
    fast = copy.deepcopy(model)
    switch_graphs(fast, True)
    generator = torch.Generator("cuda").manual_seed(0)
    for rows in (1, 2, 5, 2):
        x = torch.randn(rows, 3, 64, 64, generator=generator, device="cuda")
        given = x, torch.rand(rows, device="cuda"), torch.arange(rows, device="cuda")
        assert relative(fast(*given), model(*given).cpu()) < 1e-6
    assert isinstance(fast.backbone.run_blocks, Graphed)
    assert len(fast.backbone.run_blocks._graphs) == 3
    for each in (model, fast):
        each.backbone.blocks[0].attention.qkv.weight.mul_(2)
    assert relative(fast(*given), model(*given).cpu()) < 1e-6


@torch.no_grad()
def test_graphs_stay_out_of_a_recording_and_have_one_for_each_stream(model):
    model = model.cuda().requires_grad_(False)
    fast = copy.deepcopy(model)
    switch_graphs(fast, True)
    x = torch.randn(2, 3, 64, 64, device="cuda")
    given = x, torch.rand(2, device="cuda"), torch.arange(2, device="cuda")
    expected = model(*given).cpu()
    with torch.cuda.stream(torch.cuda.Stream()):
        fast(*given)
        fast(*given)
    torch.cuda.synchronize()
    outer = torch.cuda.CUDAGraph()
    with torch.cuda.graph(outer):
        velocity = fast(*given)
    outer.replay()
    assert relative(velocity, expected) < 1e-6
    assert relative(fast(*given), expected) < 1e-6
    assert isinstance(fast.backbone.run_blocks, Graphed)
    assert len(fast.backbone.run_blocks._graphs) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ready_for_sampling_draws_the_same_images(model, dtype):
    model = model.cuda().to(dtype).requires_grad_(False)
    expected = sample(model, [0, 3, 5], num_steps=8, guidance_scale=2.0).cpu()
    assert ready_for_sampling(model)
    assert isinstance(model.backbone.run_blocks, Graphed)
    images = sample(model, [0, 3, 5], num_steps=8, guidance_scale=2.0)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    assert relative(images, expected) < tolerance
    switch_graphs(model, False)
    switch_compiled(model, False)
    assert relative(sample(model, [0, 3, 5], num_steps=8, guidance_scale=2.0), expected) < 1e-6


def test_crops_equal_the_cpu():
    here, there = (
        bundled_crops(64, device).sample(8, torch.Generator().manual_seed(1))
        for device in ("cpu", "cuda")
    )
    assert torch.equal(there.images.cpu(), here.images)
    assert torch.equal(there.class_ids.cpu(), here.class_ids)


def test_training_compiles_learns_and_resumes(tmp_path: Path):
    crops = bundled_crops(64, "cuda")
    recipe = TrainingConfig(steps=200, batch_size=64)
    trainer = Trainer(CONFIG, recipe, crops)
    assert trainer.config.precision == "bf16"
    assert trainer.compile()
    losses = [float(trainer.train_step()[0]) for _ in range(60)]
    assert losses[-1] < 0.95 * losses[0]  # on a CPU 0.87
    trainer.save(tmp_path / "state.pt")
    resumed = Trainer(CONFIG, recipe, crops)
    resumed.restore(tmp_path / "state.pt")
    assert float(resumed.train_step()[0]) == pytest.approx(float(trainer.train_step()[0]), rel=2e-2)
    assert build(CONFIG).state_dict().keys() == resumed.averaged_model().state_dict().keys()


def test_prefetched_and_accumulated_steps_are_those_of_whole_batches(tmp_path: Path):
    generator = np.random.default_rng(0)
    for index in range(40):
        (tmp_path / f"{index % 14:02}").mkdir(exist_ok=True)
        pixels = generator.integers(0, 255, (80, 90, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index % 14:02}" / f"{index}.png")
    crops = open_source(SourceConfig(data=str(tmp_path)), 64, torch.device("cuda")).crops
    recipe = TrainingConfig(steps=20, batch_size=32, precision="float32", optimizer="adamw")
    whole = Trainer(CONFIG, recipe, crops)
    ahead = Trainer(CONFIG, recipe, crops, prefetch=True)
    parts = Trainer(CONFIG, replace(recipe, accumulate=4), crops, prefetch=True)
    for _ in range(recipe.steps):
        expected = [float(loss) for loss in whole.train_step()]
        assert [float(loss) for loss in ahead.train_step()] == pytest.approx(expected, rel=1e-3)
        assert [float(loss) for loss in parts.train_step()] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_equal_the_cpus(name: str):
    if "clusters" in name:
        pytest.importorskip("sklearn", reason="needs scikit-learn: pip install scikit-learn")
    here = ANALYSES[name](Asked())
    there = ANALYSES[name](
        Asked(images=IMAGES.cuda(), model=copy.deepcopy(model_of("deco")).cuda())
    )
    for field in fields(here):
        expected, got = getattr(here, field.name), getattr(there, field.name)
        if isinstance(expected, np.ndarray) and expected.dtype == np.float64:
            scale = np.nanmax(np.abs(expected), initial=0) or 1.0
            np.testing.assert_allclose(got / scale, expected / scale, atol=2e-3, err_msg=field.name)
