import os
from dataclasses import fields, replace
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from training_cases import TINY, save_encoder

from deco_lab.config import DiTConfig
from deco_lab.data import CropSource, ImageBatch
from deco_lab.fast.regions import compile_regions
from deco_lab.models import build
from deco_lab.training.alignment import Learner, VisionEncoder
from deco_lab.training.recipe import TrainingConfig
from deco_lab.training.trainer import Trainer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip(
    "transformers", reason="needs transformers; pip install transformers"
)

CONFIG = replace(TINY, image_size=32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random DINOv2 on disk."""
    return save_encoder(tmp_path_factory.mktemp("dinov2"))


class Stripes(CropSource):
    """Two classes of smooth images, without files."""

    def __init__(self) -> None:
        super().__init__(32, 2, ("rows", "columns"), CPU)

    def _draw(self, count: int, generator: torch.Generator):
        labels = torch.randint(2, (count,), generator=generator)
        return torch.rand(count, 3, 1, 1, generator=generator), labels

    def _cut(self, numbers: torch.Tensor, class_ids: torch.Tensor) -> ImageBatch:
        wave = torch.sin(6.28 * (torch.linspace(0, 2, 32) + numbers))
        upright = class_ids[:, None, None, None] == 0
        images = torch.where(upright, wave, wave.transpose(2, 3))
        return ImageBatch(images.expand(-1, 3, 32, 32).contiguous(), class_ids)


@pytest.mark.parametrize("registers", [0, 4])
def test_features_are_those_of_the_encoder_by_hand(registers: int, tmp_path: Path):
    folder = save_encoder(tmp_path, registers)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoder = VisionEncoder(folder, CPU, torch.float32)
    got, size = encoder.features(images, (4, 4)), (4 * encoder.patch_size,) * 2
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    resized = F.interpolate(images * 0.5 + 0.5, size, mode="bicubic", antialias=True)
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        hidden = model((resized - mean[:, None, None]) / std[:, None, None]).last_hidden_state
    assert hidden.shape[1] == 1 + registers + 16  # the class token, then 4 x 4 patches at the end
    torch.testing.assert_close(got, hidden[:, 1 + registers :])


def test_feature_i_belongs_to_patch_i(folder):
    """With attention off, a change within one patch of the image moves only its own feature."""
    encoder = VisionEncoder(folder, CPU, torch.float32)
    for layer in encoder.model.encoder.layer:
        layer.layer_scale1.lambda1.zero_()
    size = 4 * encoder.patch_size  # no resizing: patches of the image are those of the encoder
    images = torch.zeros(1, 3, size, size)
    plain = encoder.features(images, (4, 4))
    P = encoder.patch_size
    for row, column in ((0, 0), (1, 3), (3, 2)):
        changed = images.clone()
        changed[..., row * P : (row + 1) * P, column * P : (column + 1) * P] = 0.8
        moved = (encoder.features(changed, (4, 4)) - plain).abs().sum(-1)[0]
        assert moved.nonzero().flatten().tolist() == [row * 4 + column]


def test_learner_projects_the_tokens_of_its_block():
    torch.manual_seed(0)
    model = build(DiTConfig(**{f.name: getattr(CONFIG, f.name) for f in fields(DiTConfig)}))
    x, t, class_ids = torch.randn(2, 3, 32, 32), torch.rand(2), torch.tensor([0, 1])
    kept: list[torch.Tensor] = []
    model.backbone.blocks[0].register_forward_hook(lambda *a: kept.append(a[2]))
    first, last = (Learner(model, features=24, block=block) for block in (1, 8))
    _, projected = first(x, t, class_ids)
    assert first.projection is not None
    torch.testing.assert_close(projected, first.projection(kept[0]))
    velocity, projected = last(x, t, class_ids)
    assert last.projection is not None
    torch.testing.assert_close(projected, last.projection(model.features(x, t, class_ids)))
    assert torch.equal(velocity, model(x, t, class_ids))


@pytest.mark.slow
def test_learner_gives_the_same_tokens_compiled(monkeypatch: pytest.MonkeyPatch):
    traced = partialmethod(torch.nn.Module.compile, backend="aot_eager")  # not into C++
    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    torch.manual_seed(0)
    model = build(CONFIG)
    learner = Learner(model, features=24, block=1)
    inputs = torch.randn(2, 3, 32, 32), torch.rand(2), torch.tensor([0, 1])
    _, plain = learner(*inputs)
    assert compile_regions(model, *inputs)
    _, compiled = learner(*inputs)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)


def test_train_step_adds_the_alignment_loss(folder):
    recipe = TrainingConfig(batch_size=4, precision="float32", repa=folder, repa_weight=0.25)
    trainer = Trainer(CONFIG, recipe, Stripes())
    images, noise, t, class_ids = trainer.draw(0)
    x = t[:, None, None, None] * images + (1 - t[:, None, None, None]) * noise
    tokens = trainer.model.features(x, t, class_ids)  # depth 2: block 8 is the last
    assert trainer.learner.projection is not None
    assert trainer.encoder is not None
    projected = trainer.learner.projection(tokens)
    features = trainer.encoder.features(images, (4, 4))
    product = (projected * features).sum(-1)
    cosine = product / (projected.norm(dim=-1) * features.norm(dim=-1))
    expected = 1 - cosine.mean()
    last = trainer.learner.projection[4]
    assert isinstance(last, torch.nn.Linear)
    weight = last.weight
    (gradient,) = torch.autograd.grad(0.25 * expected, weight)
    got: list[torch.Tensor] = []
    weight.register_post_accumulate_grad_hook(lambda p: got.append(p.grad.clone()))  # type: ignore[union-attr]
    assert float(trainer.train_step().alignment) == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(got[0], gradient, rtol=1e-4, atol=1e-8)


def test_projection_is_resumed_and_no_part_of_the_model(folder, tmp_path: Path):
    recipe = TrainingConfig(steps=6, batch_size=2, precision="float32", repa=folder)

    def trainer(steps: int) -> Trainer:
        made = Trainer(CONFIG, recipe, Stripes())
        for _ in range(steps):
            made.train_step()
        return made

    straight, resumed = trainer(6), trainer(0)
    trainer(3).save(tmp_path / "state.pt")
    resumed.restore(tmp_path / "state.pt")
    for _ in range(3):
        resumed.train_step()
    for name, value in straight.learner.state_dict().items():
        assert torch.equal(value, resumed.learner.state_dict()[name]), name
    assert any(name.startswith("projection.") for name in resumed.learner.state_dict())
    assert straight.averaged_model().state_dict().keys() == build(CONFIG).state_dict().keys()


def test_alignment_leaves_draws_and_initial_weights_alone(folder):
    recipe = TrainingConfig(batch_size=2, precision="float32")
    plain = Trainer(CONFIG, recipe, Stripes())
    aligned = Trainer(CONFIG, replace(recipe, repa=folder), Stripes())
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, aligned.model.state_dict()[name]), name
    for one, other in zip(plain.draw(1), aligned.draw(1), strict=True):
        assert torch.equal(one, other)


def test_encoder_runs_in_bf16(folder):
    encoder = VisionEncoder(folder, CPU, torch.bfloat16)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    got = encoder.features(images, (4, 4))
    assert got.dtype == torch.bfloat16
    exact = VisionEncoder(folder, CPU, torch.float32).features(images, (4, 4))
    assert float((got.float() - exact).norm() / exact.norm()) < 0.03


def test_encoder_says_what_it_cannot_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"a DINOv2 that can be loaded, got '.*empty'"):
        VisionEncoder(str(tmp_path / "empty"), CPU, torch.float32)
    other = SimpleNamespace(config=SimpleNamespace(model_type="bert"))
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda *_, **__: other)
    with pytest.raises(ValueError, match="an encoder of image patches, got 'bert'; use facebook"):
        VisionEncoder("bert", CPU, torch.float32)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match="needs transformers, which is not installed; pip install"):
        VisionEncoder("x", CPU, torch.float32)
