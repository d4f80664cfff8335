import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score
from torch import Tensor

import deco_lab
from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import bundled_crops
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.models import build
from deco_lab.spectra.clusters import TokenClusters, run_token_clusters, token_clusters
from deco_lab.spectra.partitions import adjusted_rand

P, ROWS, COLUMNS, D = 2, 4, 6, 5
TIMES = (0.2, 0.5, 0.8, 0.9)
ENDS = ("explained", "between", "regions", "kept", "agreement")


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
        moved: Callable[[float], np.ndarray] | None = None,
    ) -> None:
        self.regions = regions
        self.moved = moved or (lambda t: regions)
        self.offsets = torch.zeros(len(regions), D) if offsets is None else offsets

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        time = round(float(t[0]), 6)
        vectors = noise(self.regions.max() + 1, D, seed=int(1000 * time), dtype=torch.float64)
        regions = torch.from_numpy(self.moved(time))[class_ids]
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
    arguments: dict[str, Any] = {"times": TIMES, "clusters": 6} | changes
    return token_clusters(model, images, range(len(images)), **arguments)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("remove_image_mean", [True, False])
def test_token_clusters_finds_planted_regions_with_the_same_labels_at_every_t(
    seed, remove_image_mean
):
    regions = some_regions(seed=seed)
    found = clustered(
        Planted(regions), lit(regions), seed=seed, remove_image_mean=remove_image_mean
    )
    np.testing.assert_array_equal(found.maps, np.broadcast_to(regions, found.maps.shape))
    np.testing.assert_allclose(found.explained, 1)
    np.testing.assert_allclose(found.between, 0, atol=1e-12)
    np.testing.assert_allclose(found.kept, 1)
    np.testing.assert_allclose(found.agreement, 1)
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
    assert found.between.min() > 0.99
    plain = clustered(model, lit(regions), remove_image_mean=False, clusters=5)
    assert all(len(np.unique(one)) == 1 for one in plain.maps.reshape(-1, ROWS * COLUMNS))
    assert np.isnan(plain.regions).all()


def test_token_clusters_permutes_with_the_images():
    regions, order = some_regions(), np.array([3, 0, 4, 1, 2])
    found = clustered(Planted(regions), lit(regions))
    turned = clustered(Planted(regions[order]), lit(regions[order]))
    np.testing.assert_array_equal(turned.maps, found.maps[:, order])


def test_token_clusters_counts_the_tokens_that_change_their_label():
    regions = some_regions(count=2)
    later = regions.copy()
    later[0, 0, :3] = (later[0, 0, :3] + 1) % 6  # 3 of 48 tokens
    model = Planted(regions, moved=lambda t: later if t > 0.6 else regions)
    found = clustered(model, lit(regions), times=(0.2, 0.5, 0.8), remove_image_mean=False)
    np.testing.assert_allclose(found.kept, [1, 45 / 48])
    assert found.agreement[1] == pytest.approx(adjusted_rand_score(regions.ravel(), later.ravel()))


def test_token_clusters_regions_equal_closed_form():
    halves = np.zeros((1, 4, 4), int)
    halves[:, :, 2:] = 1
    found = clustered(Planted(halves), lit(halves), clusters=2)
    same, chance = 20 / 24, 2 * 8 * 7 / (16 * 15)
    np.testing.assert_allclose(found.regions, (same - chance) / (1 - chance))
    board = np.indices((4, 4)).sum(0)[None] % 2
    worst = clustered(Planted(board), lit(board), clusters=2)
    np.testing.assert_allclose(worst.regions, -chance / (1 - chance))


@pytest.mark.parametrize("remove_image_mean", [True, False])
def test_token_clusters_explained_share_matches_scikit_learn(remove_image_mean):
    images = noise(4, 3, 8, 12, dtype=torch.float64)
    found = clustered(
        PixelTokens(), images, tap="tokens", times=(1.0,), remove_image_mean=remove_image_mean
    )
    tokens = PixelTokens().features(images, torch.ones(4), torch.zeros(4)).numpy()
    if remove_image_mean:
        tokens = tokens - tokens.mean(1, keepdims=True)
    flat, labels = tokens.reshape(-1, 12), found.maps[0].ravel()
    ratio = calinski_harabasz_score(flat, labels) * 5 / (len(flat) - 6)
    assert found.explained[0] == pytest.approx(ratio / (1 + ratio))
    assert found.explained_low[0] < found.explained[0] < found.explained_high[0]


def test_adjusted_rand_matches_scikit_learn():
    rng = np.random.default_rng(0)
    for labels in [rng.integers(0, 4, (2, 50)), np.tile(rng.integers(0, 4, 50), (2, 1))]:
        table = np.zeros((4, 4))
        np.add.at(table, tuple(labels), 1)
        assert adjusted_rand(table) == pytest.approx(adjusted_rand_score(*labels))
    assert adjusted_rand(np.diag([9.0, 0])) == adjusted_rand_score([0] * 9, [0] * 9) == 1


def test_run_token_clusters_of_renoised_states_equals_token_clusters(golden_deco):
    images, class_ids = noise(3, 3, 32, 32, seed=4).clamp(-1, 1), [0, 4, 10]
    steps = [
        State(t, interpolate(images, seeded_noise(3, images.shape[1:], 7), t))
        for t in (0.0, 0.3, 0.7)
    ]
    run = run_token_clusters(
        golden_deco,
        iter([*steps, State(1.0, images)]),
        class_ids,
        clusters=3,
        seed=7,
        batch_size=2,
    )
    crops = token_clusters(
        golden_deco, images, class_ids, times=(0.0, 0.3, 0.7), clusters=3, seed=7, batch_size=2
    )
    np.testing.assert_array_equal(run.times, crops.times)
    np.testing.assert_array_equal(run.maps, crops.maps)
    np.testing.assert_allclose(run.centres, crops.centres, atol=1e-5)
    assert run.recipe["states"] == "sampling run"


def test_token_clusters_is_deterministic_and_does_not_depend_on_the_batch():
    images = noise(5, 3, 8, 12, dtype=torch.float64)
    whole, again, parts = (
        clustered(PixelTokens(), images, tap="tokens", batch_size=n) for n in (5, 5, 2)
    )
    np.testing.assert_array_equal(whole.maps, again.maps)
    np.testing.assert_array_equal(whole.maps, parts.maps)
    np.testing.assert_array_equal(whole.explained_low, parts.explained_low)


@pytest.mark.parametrize("tap", ["tokens", "condition"])
def test_token_clusters_reads_the_tap(golden_deco, tap):
    images = noise(2, 3, 32, 16).half()
    found = token_clusters(
        golden_deco, images, [1, 2], times=(0.4,), tap=tap, clusters=8, remove_image_mean=False
    )
    x = interpolate(images.float(), seeded_noise(2, images.shape[1:], 0), 0.4)
    read = golden_deco.features if tap == "tokens" else golden_deco.condition
    tokens = read(x, torch.full((2,), 0.4), torch.tensor([1, 2])).double().numpy()
    flat, labels = tokens.reshape(16, -1) - tokens.mean((0, 1)), found.maps.ravel()
    assert found.maps.shape == (1, 2, 4, 2)
    for k in range(8):
        np.testing.assert_allclose(found.centres[0, k], flat[labels == k].mean(0), atol=1e-5)


def test_token_clusters_of_a_single_dit_reads_tokens_only(golden_dit):
    images = noise(2, 3, 32, 32)
    found = token_clusters(golden_dit, images, [0, 1], times=(0.5,), tap="tokens", clusters=3)
    assert found.maps.max() == 2
    with pytest.raises(ValueError, match="the method condition, which a DiT has not; a single DiT"):
        token_clusters(golden_dit, images, [0, 1], times=(0.5,))


def test_token_clusters_of_fresh_noise_have_neither_regions_nor_agreement():
    found = clustered(FreshNoise(), noise(40, 3, 16, 16), tap="tokens", clusters=8)
    assert np.abs(found.regions).max() < 0.02
    assert np.abs(found.agreement).max() < 0.01
    assert found.kept.max() < 0.2  # above 1/8, for labels are matched to agree
    assert (found.explained > 0.1).all()  # k-means finds clusters in anything


def test_token_clusters_of_tiny_beat_random_weights_and_white_noise():
    tiny = deco_lab.load("tiny", device="cpu")
    class_ids = torch.arange(len(PHOTOGRAPHS)).repeat_interleave(2)
    images, _ = bundled_crops(64).sample(
        len(class_ids), torch.Generator().manual_seed(3), class_ids
    )
    torch.manual_seed(0)
    random, times = build(tiny.config), (0.3, 0.5)
    trained, untrained, white = (
        token_clusters(model, pixels, class_ids, times=times)
        for model, pixels in ((tiny, images), (random, images), (random, noise(*images.shape)))
    )
    assert trained.regions_low.min() > 0.15
    assert trained.agreement_low[0] > 0.55
    assert trained.explained_low[0] > 0.12
    for control in (untrained, white):
        assert control.agreement_high[0] < 0.3
        assert control.regions_high[0] < 0.06
        assert control.explained_high[0] < 0.1
    assert abs(white.regions).max() < 0.03


def test_token_clusters_of_one_image_has_no_intervals():
    regions = some_regions(count=1)
    found = clustered(Planted(regions), lit(regions))
    for name in ENDS:
        assert np.isnan(getattr(found, f"{name}_low")).all()
        assert len(getattr(found, f"{name}_high")) == len(getattr(found, name))


def test_token_clusters_at_one_time_compares_nothing():
    regions = some_regions()
    found = clustered(Planted(regions), lit(regions), times=(0.5,))
    assert found.kept.shape == found.agreement_low.shape == (0,)


def test_token_clusters_saves_and_loads(tmp_path):
    regions = some_regions()
    found = clustered(Planted(regions), lit(regions))
    found.save(tmp_path / "clusters.npz")
    again = TokenClusters.load(tmp_path / "clusters.npz")
    np.testing.assert_array_equal(again.maps, found.maps)
    assert (again.tap, again.patch_size, again.count) == ("condition", P, 5)
    assert again.recipe == found.recipe


NAN = torch.full((2, 3, 8, 8), torch.nan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tap": "velocity"}, "tap must be one of condition, tokens, got 'velocity'"),
        ({"tap": "tokens"}, "needs a model with the method features, which a Planted has not"),
        ({"clusters": 1}, "clusters must be at least 2, got 1"),
        ({"clusters": 7}, r"number of distinct tokens, 6 at t=0.2, got 7; use fewer clusters"),
        ({"images": NAN}, "images must be finite"),
        ({"images": NAN[:0]}, "hold pixels"),
        ({"images": NAN[0]}, r"\(B, C, H, W\)"),
        ({"images": noise(2, 3, 8, 9)}, r"patch_size=2.* 8 x 9"),
        ({"images": noise(2, 3, 8, 8)}, r"tokens must have shape \(B, N, D\)"),
        ({"times": ()}, "times must be at least one"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
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
    with pytest.raises(ValueError, match=r"tokens must be finite, got NaN or infinity at t=0.2"):
        clustered(model, lit(regions))


def test_run_token_clusters_names_what_is_wrong():
    regions = some_regions(count=2)
    model, x = Planted(regions), lit(regions)
    with pytest.raises(ValueError, match="a state with t below 1, got none"):
        run_token_clusters(model, [State(1.0, x)], [0, 1])
    with pytest.raises(ValueError, match="must have the same shape"):
        run_token_clusters(model, [State(0.1, x), State(0.2, x[:1])], [0, 1], clusters=6)
    with pytest.raises(ValueError, match="must be finite"):
        run_token_clusters(model, [State(0.1, x * torch.nan)], [0, 1])


def test_importing_clusters_leaves_scikit_learn_alone():
    code = "import sys, deco_lab.spectra.clusters; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_token_clusters_need_two_patches(golden_deco):
    P = golden_deco.config.patch_size
    with pytest.raises(ValueError, match="images must hold at least two patches"):
        token_clusters(golden_deco, torch.zeros(3, 3, P, P), [0, 1, 2], times=[0.5], clusters=2)
