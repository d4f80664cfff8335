"""What can be read linearly from tokens and pixels, against closed forms."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import deco_lab
from deco_lab.data import bundled_crops
from deco_lab.spectra.bands import OCTAVES
from deco_lab.spectra.readout import TARGETS, LinearReadout, linear_readout
from deco_lab.spectra.states import Crops

P, T, SPREAD = 4, 0.4, 0.5
PREDICTED, VELOCITY, IMAGE, NOISE = range(4)
EDGES = (1 / 8, 1 / 4)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cut(x: Tensor) -> Tensor:
    """Return patches as tokens, (B, N, C P P)."""
    return x.unfold(2, P, P).unfold(3, P, P).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


class Call:
    """velocity = -0.5 x, of no tokens."""

    config = SimpleNamespace(patch_size=P, num_classes=3)

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return -0.5 * x


class Knows(Call):
    """Tokens that hold the clean patch in other coordinates; the decoder draws of the pixels."""

    def __init__(self, images: Tensor) -> None:
        values = images.shape[1] * P * P
        self.tokens = cut(images) @ noise(values, values, seed=1)

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.tokens

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return -0.5 * x


IMAGES = SPREAD * noise(24, 1, 24, 32)
CONDITION, PIXELS, BOTH, SHUFFLED = range(4)


@pytest.fixture(scope="module")
def known() -> LinearReadout:
    model = Knows(IMAGES)
    return linear_readout(model, Crops(IMAGES, [0] * 24, [T], batch_size=24), edges=EDGES)


def test_linear_readout_finds_what_the_tokens_hold(known):
    assert known.sources == ("condition", "pixels", "both", "shuffled")
    r2 = known.r2.value[0]
    np.testing.assert_allclose(r2[CONDITION, IMAGE], 1, atol=1e-4)
    np.testing.assert_allclose(r2[CONDITION, NOISE], 0, atol=0.01)
    np.testing.assert_allclose(r2[BOTH, NOISE], 1, atol=1e-3)  # (x - t image) / (1 - t)
    signal = (T * SPREAD) ** 2
    np.testing.assert_allclose(r2[CONDITION, VELOCITY], signal / (signal + (1 - T) ** 2), atol=0.02)


def test_linear_readout_from_white_pixels_is_their_signal_to_noise(known):
    signal, grain = (T * SPREAD) ** 2, (1 - T) ** 2
    r2 = known.r2.value[0, PIXELS]
    np.testing.assert_allclose(r2[IMAGE], signal / (signal + grain), atol=0.02)
    np.testing.assert_allclose(r2[NOISE], grain / (signal + grain), atol=0.02)
    np.testing.assert_allclose(r2[VELOCITY], 1, atol=1e-4)
    np.testing.assert_allclose(r2[PREDICTED], 1, atol=1e-4)
    low, high = known.r2.low[0, PIXELS, IMAGE], known.r2.high[0, PIXELS, IMAGE]
    assert (low < signal / (signal + grain)).all()
    assert (signal / (signal + grain) < high).all()


def test_linear_readout_from_shuffled_tokens_is_nothing(known):
    assert known.r2.value[0, SHUFFLED].max() < 0.003
    assert known.r2.value[0, SHUFFLED].min() > -0.02


def test_linear_readout_does_not_remember_a_photograph():
    """The tokens are a code of the photograph, whose crops are all alike."""
    photographs = noise(8, 1, 8, 8).repeat_interleave(4, 0)
    groups = np.repeat(np.arange(8), 4)
    model = Knows(photographs)
    model.tokens = noise(8, 1, 48, seed=3).repeat_interleave(4, 0).expand(-1, 4, -1)
    apart, together = (
        linear_readout(
            model, Crops(photographs, [0] * 32, [T], groups=given, batch_size=32), edges=()
        )
        for given in (groups, None)
    )
    assert apart.r2.value[0, CONDITION, IMAGE, 0] < 0.05
    assert together.r2.value[0, CONDITION, IMAGE, 0] > apart.r2.value[0, CONDITION, IMAGE, 0] + 0.05


def test_linear_readout_reads_from_the_sources_it_is_asked_for(known):
    crops = Crops(IMAGES, [0] * 24, [T], batch_size=24)
    found = linear_readout(Knows(IMAGES), crops, edges=EDGES, sources=("shuffled", "pixels"))
    assert found.sources == ("shuffled", "pixels")
    np.testing.assert_allclose(found.r2.value[0], known.r2.value[0, [SHUFFLED, PIXELS]], atol=1e-12)
    for sources in ((), ("tokens",)):
        with pytest.raises(ValueError, match="sources must be some of condition, pixels, both, sh"):
            linear_readout(Knows(IMAGES), crops, edges=EDGES, sources=sources)


@pytest.mark.slow
def test_linear_readout_of_any_model_reads_what_it_has():
    alone = linear_readout(Call(), Crops(IMAGES, [0] * 24, [T]), edges=EDGES)
    assert alone.sources == ("pixels",)
    assert alone.r2.value.shape == (1, 1, len(TARGETS), 3)
    single = linear_readout(
        deco_lab.load("tiny-dit", device="cpu"), Crops(noise(6, 3, 16, 24), [0] * 6, [T]), edges=()
    )
    assert single.sources == ("tokens", "pixels", "both", "shuffled")


@pytest.mark.slow
def test_linear_readout_of_tiny_holds_detail_of_the_image_and_hardly_any_of_the_noise():
    crops = bundled_crops(64).sample(28, torch.Generator().manual_seed(0), torch.arange(28) % 14)
    found = linear_readout(
        deco_lab.load("tiny", device="cpu"),
        Crops(crops.images, crops.class_ids, [0.5], groups=crops.class_ids),
    )
    assert found.edges.tolist() == list(OCTAVES)
    low, high = found.r2.low[0, ..., -1], found.r2.high[0, ..., -1]
    assert low[CONDITION, PREDICTED] > 0.15
    assert high[PIXELS, PREDICTED] < low[CONDITION, PREDICTED]
    assert found.r2.value[0, CONDITION, IMAGE, -1] > 2 * found.r2.value[0, PIXELS, IMAGE, -1]
    np.testing.assert_allclose(found.r2.value[0, CONDITION, NOISE], 0, atol=0.08)
    np.testing.assert_allclose(found.r2.value[0, CONDITION, NOISE, -1], 0, atol=0.01)
    assert found.r2.value[0, PIXELS, NOISE, -1] > 0.95
    assert found.r2.value[0, SHUFFLED].max() < 0.01


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"edges": (0.3, 0.2)}, "edges must rise"),
        ({"groups": [0, 1] * 2}, "groups must be at least 3"),
        ({"folds": 2}, "folds must be at least 3"),
        ({"model": lambda x, t, class_ids: x}, "model must have config.patch_size"),
    ],
)
def test_linear_readout_names_what_is_wrong(change: dict[str, Any], match: str):
    crops = Crops(noise(4, 1, 8, 8), [0] * 4, [0.5], groups=change.pop("groups", None))
    with pytest.raises(ValueError, match=match):
        linear_readout(change.pop("model", Call()), crops, **change)
