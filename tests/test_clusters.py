import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import calinski_harabasz_score
from torch import Tensor

import deco_lab
from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import bundled_crops
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.models import build
from deco_lab.spectra.clusters import TokenClusters, token_clusters
from deco_lab.spectra.states import Crops, Run

P, ROWS, COLUMNS, D = 2, 4, 6, 5
TIMES = (0.2, 0.5, 0.8, 0.9)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@dataclass
class State:
    t: float
    x: Tensor


class Planted:
    """Tokens that are known vectors by region, other ones at each t.

    The label of an image is its index, so that the model knows its regions.
    """

    config = SimpleNamespace(patch_size=P)

    def __init__(
        self,
        regions: np.ndarray,
        offsets: Tensor | None = None,
    ) -> None:
        self.regions = regions
        self.offsets = torch.zeros(len(regions), D) if offsets is None else offsets

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        time = round(float(t[0]), 6)
        vectors = noise(self.regions.max() + 1, D, seed=int(1000 * time), dtype=torch.float64)
        regions = torch.from_numpy(self.regions)[class_ids]
        return vectors[regions.flatten(1)] + self.offsets[class_ids][:, None]


class PixelTokens:
    """Tokens that are the pixels of the noisy patches themselves."""

    config = SimpleNamespace(patch_size=P)

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, P).flatten(2).transpose(1, 2)


class FreshNoise(PixelTokens):
    """White noise tokens, drawn anew at every call: none is left at the next t."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return torch.randn(super().features(x, t, class_ids).shape, generator=self.generator)


def some_regions(count: int = 5, kinds: int = 6, seed: int = 0) -> np.ndarray:
    """Return (count, ROWS, COLUMNS) regions, all kinds as often in each image."""
    rng = np.random.default_rng(seed)
    tokens = np.arange(ROWS * COLUMNS) % kinds
    return np.stack([rng.permutation(tokens).reshape(ROWS, COLUMNS) for _ in range(count)])


def lit(regions: np.ndarray) -> Tensor:
    """Return images whose brightness rises with the region."""
    grey = torch.from_numpy(regions / 10 - 0.4).float()
    pixels = grey.repeat_interleave(P, 1).repeat_interleave(P, 2)
    return pixels[:, None].repeat(1, 3, 1, 1)


def clustered(model: Any, images: Tensor, **changes: Any) -> TokenClusters:
    given: dict[str, Any] = {"times": TIMES, "clusters": 6} | changes
    of_states = {name: given.pop(name) for name in ("times", "seed", "batch_size") if name in given}
    return token_clusters(model, Crops(images, range(len(images)), **of_states), **given)


@pytest.mark.parametrize("seed", range(4))
def test_token_clusters_finds_planted_regions_from_dark_to_bright_at_every_t(seed):
    regions = some_regions(seed=seed)
    found = clustered(Planted(regions), lit(regions), seed=seed)
    np.testing.assert_array_equal(found.maps, np.broadcast_to(regions, found.maps.shape))
    np.testing.assert_allclose(found.explained.value, 1)
    assert found.centres.shape == (len(TIMES), 6, D)


def test_token_clusters_centres_are_the_planted_vectors_at_each_t():
    regions = some_regions()
    model = Planted(regions)
    found = clustered(model, lit(regions))
    for k, t in enumerate(TIMES):
        tokens = model.condition(torch.zeros(1), torch.tensor([t]), torch.tensor([0]))[0]
        vectors = np.stack([tokens[regions[0].ravel() == r].numpy()[0] for r in range(6)])
        np.testing.assert_allclose(found.centres[k], vectors - vectors.mean(0), atol=1e-10)


def test_token_clusters_looks_past_what_differs_between_images():
    regions = some_regions()
    model = Planted(regions, offsets=100 * noise(5, D, dtype=torch.float64))
    found = clustered(model, lit(regions))
    np.testing.assert_array_equal(found.maps[1], regions)


def test_token_clusters_permutes_with_the_images():
    regions, order = some_regions(), np.array([3, 0, 4, 1, 2])
    found = clustered(Planted(regions), lit(regions))
    turned = clustered(Planted(regions[order]), lit(regions[order]))
    np.testing.assert_array_equal(turned.maps, found.maps[:, order])


def test_token_clusters_regions_equal_closed_form():
    halves = np.zeros((1, 4, 4), int)
    halves[:, :, 2:] = 1
    found = clustered(Planted(halves), lit(halves), clusters=2)
    same, chance = 20 / 24, 2 * 8 * 7 / (16 * 15)
    np.testing.assert_allclose(found.regions.value, (same - chance) / (1 - chance))
    board = np.indices((4, 4)).sum(0)[None] % 2
    worst = clustered(Planted(board), lit(board), clusters=2)
    np.testing.assert_allclose(worst.regions.value, -chance / (1 - chance))


def test_token_clusters_explained_share_matches_scikit_learn():
    images = noise(4, 3, 8, 12, dtype=torch.float64)
    found = clustered(PixelTokens(), images, tap="tokens", times=(1.0,))
    tokens = PixelTokens().features(images, torch.ones(4), torch.zeros(4)).numpy()
    flat = (tokens - tokens.mean(1, keepdims=True)).reshape(-1, 12)
    ratio = calinski_harabasz_score(flat, found.maps[0].ravel()) * 5 / (len(flat) - 6)
    share = found.explained[0]
    assert share.value == pytest.approx(ratio / (1 + ratio))
    assert share.low < share.value < share.high


def test_run_token_clusters_of_renoised_states_equals_token_clusters(golden_deco):
    images, class_ids = noise(3, 3, 32, 32, seed=4).clamp(-1, 1), [0, 4, 10]
    steps = [
        State(t, interpolate(images, seeded_noise(3, images.shape[1:], 7), t))
        for t in (0.0, 0.3, 0.7)
    ]
    run = token_clusters(
        golden_deco,
        Run(iter([*steps, State(1.0, images)]), class_ids, seed=7, batch_size=2),
        clusters=3,
    )
    crops = token_clusters(
        golden_deco, Crops(images, class_ids, (0.0, 0.3, 0.7), seed=7, batch_size=2), clusters=3
    )
    np.testing.assert_array_equal(run.times, crops.times)
    for of_states, of_images in zip(run.maps, crops.maps, strict=True):
        # The same clusters, numbered by the pixels of the states and of the images.
        assert len({*zip(of_states.flat, of_images.flat, strict=True)}) == 3
    np.testing.assert_allclose(np.sort(run.centres, 1), np.sort(crops.centres, 1), atol=1e-5)
    assert run.recipe["states"] == "sampling run"


def test_token_clusters_is_deterministic_and_does_not_depend_on_the_batch():
    images = noise(5, 3, 8, 12, dtype=torch.float64)
    whole, again, parts = (
        clustered(PixelTokens(), images, tap="tokens", batch_size=n) for n in (5, 5, 2)
    )
    np.testing.assert_array_equal(whole.maps, again.maps)
    np.testing.assert_array_equal(whole.maps, parts.maps)
    np.testing.assert_array_equal(whole.explained.low, parts.explained.low)


@pytest.mark.parametrize("tap", ["tokens", "condition"])
def test_token_clusters_reads_the_tap(golden_deco, tap):
    images = noise(2, 3, 32, 16).half()
    found = token_clusters(golden_deco, Crops(images, [1, 2], (0.4,)), tap=tap, clusters=8)
    x = interpolate(images.float(), seeded_noise(2, images.shape[1:], 0), 0.4)
    read = golden_deco.features if tap == "tokens" else golden_deco.condition
    tokens = read(x, torch.full((2,), 0.4), torch.tensor([1, 2])).double().numpy()
    flat = (tokens - tokens.mean(1, keepdims=True)).reshape(16, -1)
    assert found.maps.shape == (1, 2, 4, 2)
    for k in range(8):
        members = flat[found.maps.ravel() == k]
        np.testing.assert_allclose(found.centres[0, k], members.mean(0), atol=1e-5)


def test_token_clusters_of_a_single_dit_reads_tokens_only(golden_dit):
    images = noise(2, 3, 32, 32)
    found = token_clusters(golden_dit, Crops(images, [0, 1], (0.5,)), tap="tokens", clusters=3)
    assert found.maps.max() == 2
    with pytest.raises(ValueError, match="the method condition, which a DiT has not; a single DiT"):
        token_clusters(golden_dit, Crops(images, [0, 1], (0.5,)))


def test_token_clusters_of_fresh_noise_have_no_regions():
    found = clustered(FreshNoise(), noise(40, 3, 16, 16), tap="tokens", clusters=8)
    assert np.abs(found.regions.value).max() < 0.02
    assert (found.explained.value > 0.1).all()  # k-means finds clusters in anything


@pytest.mark.slow
def test_token_clusters_of_tiny_beat_random_weights_and_white_noise():
    tiny = deco_lab.load("tiny", device="cpu")
    class_ids = torch.arange(len(PHOTOGRAPHS)).repeat_interleave(2)
    images, _ = bundled_crops(64).sample(
        len(class_ids), torch.Generator().manual_seed(3), class_ids
    )
    torch.manual_seed(0)
    random, times = build(tiny.config), (0.3, 0.5)
    trained, untrained, white = (
        token_clusters(model, Crops(pixels, class_ids, times))
        for model, pixels in ((tiny, images), (random, images), (random, noise(*images.shape)))
    )
    assert trained.regions.low.min() > 0.15
    assert trained.explained.low[0] > 0.12
    for control in (untrained, white):
        assert control.regions.high[0] < 0.06
        assert control.explained.high[0] < 0.1
    assert abs(white.regions.value).max() < 0.03


def test_token_clusters_of_one_image_has_no_intervals():
    regions = some_regions(count=1)
    found = clustered(Planted(regions), lit(regions))
    assert np.isnan(found.explained.low).all()
    assert np.isnan(found.regions.high).all()


def test_token_clusters_saves_and_loads(tmp_path):
    regions = some_regions()
    found = clustered(Planted(regions), lit(regions))
    found.save(tmp_path / "clusters.npz")
    again = TokenClusters.load(tmp_path / "clusters.npz")
    np.testing.assert_array_equal(again.maps, found.maps)
    assert (again.tap, again.patch_size, again.count) == ("condition", P, 5)
    assert again.recipe == found.recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tap": "velocity"}, "tap must be one of condition, tokens, got 'velocity'"),
        ({"tap": "tokens"}, "needs a model with the method features, which a Planted has not"),
        ({"clusters": 1}, "clusters must be at least 2, got 1"),
        ({"clusters": 7}, r"number of distinct tokens, 6 at t=0.2, got 7; use fewer clusters"),
        ({"images": noise(2, 3, 8, 8)}, r"tokens must have shape \(B, N, D\)"),
    ],
)
def test_token_clusters_names_what_is_wrong(changes, message):
    regions = some_regions(count=2)
    images = changes.pop("images", lit(regions))
    with pytest.raises(ValueError, match=message):
        clustered(Planted(regions), images, **changes)


def test_token_clusters_refuses_tokens_that_are_not_finite():
    regions = some_regions()
    model = Planted(regions, offsets=torch.full((5, D), torch.inf))
    with pytest.raises(ValueError, match=r"finite numbers, got NaN or infinity at t=0.2"):
        clustered(model, lit(regions))


def test_importing_clusters_leaves_scikit_learn_alone():
    code = "import sys, deco_lab.spectra.clusters; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_token_clusters_need_two_patches(golden_deco):
    P = golden_deco.config.patch_size
    crops = Crops(torch.zeros(3, 3, P, P), [0, 1, 2], [0.5])
    with pytest.raises(ValueError, match="images must hold at least two patches"):
        token_clusters(golden_deco, crops, clusters=2)
