from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from deco_lab.config import DeCoConfig
from deco_lab.models import DeCo
from deco_lab.spectra.bands import OCTAVES
from deco_lab.spectra.effects import band_effects
from deco_lab.spectra.references import ReferenceSensitivity, reference_sensitivity

TIMES = (0.2, 0.7)
IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = [0, 1, 2, 0, 1]


@pytest.fixture(scope="module")
def model() -> DeCo:
    config = DeCoConfig(
        image_size=16, patch_size=4, num_classes=3, hidden_size=16, num_heads=2, depth=1,
        decoder_depth=1, decoder_width=8,
    )  # fmt: skip
    model = DeCo(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.requires_grad_(False)


def test_reference_sensitivity_holds_the_shares_of_every_choice(model, tmp_path):
    found = reference_sensitivity(
        model, IMAGES, LABELS, times=TIMES, batch_size=2, edges=OCTAVES[1:]
    )
    assert found.velocity.shape == (4, 4, 2, 4, 3)
    for i, condition in enumerate(found.condition_references):
        for j, pixels in enumerate(found.pixel_references):
            one = band_effects(
                model, IMAGES, LABELS, times=TIMES, condition_reference=condition,
                pixel_reference=pixels, edges=OCTAVES[1:],
            )  # fmt: skip
            np.testing.assert_allclose(found.velocity[i, j], one.velocity, atol=1e-4)
            np.testing.assert_allclose(found.predicted[i, j], one.predicted, atol=1e-4)
    for name in ("velocity", "predicted"):
        shares = getattr(found, name)
        low, high = (getattr(found, f"{name}_{end}") for end in ("low", "high"))
        assert np.array_equal(low, np.fmin.reduce(shares, (0, 1)), equal_nan=True)
        assert np.array_equal(high, np.fmax.reduce(shares, (0, 1)), equal_nan=True)
        assert np.nanmax(high - low) > 0.05
    assert np.isnan(found.velocity).any()  # parts of some choices cancel
    assert np.isfinite(found.predicted_low).all()
    found.save(tmp_path / "references.npz")
    again = ReferenceSensitivity.load(tmp_path / "references.npz")
    assert again.pixel_references == ("others", "zero", "patch_mean", "noise")


class Pointwise:
    """velocity = x + s with a condition that is 0 on average: references cannot matter but one."""

    config = SimpleNamespace(patch_size=2, num_classes=3)

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        sign = torch.tensor([1.0, -1.0]).repeat(x[0, 0].numel() // 8)
        return sign[None, :, None].expand(len(x), -1, 4)

    def time_condition(self, t: Tensor) -> Tensor:
        return torch.zeros(len(t), 1, 4)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + torch.nn.functional.fold(condition.transpose(1, 2), x.shape[-2:], 2, stride=2)


def test_reference_sensitivity_is_none_where_the_references_agree():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = reference_sensitivity(
        Pointwise(), images, [0] * 4, times=[0.5], condition_references=("mean", "time"),
        pixel_references=("zero",),
    )  # fmt: skip
    assert found.velocity.shape[:2] == (2, 1)
    np.testing.assert_allclose(found.velocity_low, found.velocity_high, atol=1e-6)


def test_reference_sensitivity_names_what_is_wrong(model):
    with pytest.raises(ValueError, match="must name one each at least"):
        reference_sensitivity(model, IMAGES, LABELS, times=TIMES, pixel_references=())
    with pytest.raises(ValueError, match="pixel_reference must be one of others, zero"):
        reference_sensitivity(model, IMAGES, LABELS, times=TIMES, pixel_references=("black",))
    with pytest.raises(ValueError, match="methods condition and decode"):
        reference_sensitivity(object(), IMAGES, LABELS, times=TIMES)  # type: ignore[arg-type]
