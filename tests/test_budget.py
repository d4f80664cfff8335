from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.models import DeCo
from deco_lab.spectra.budget import ConditionBudget, condition_budget
from deco_lab.spectra.dct import dct_matrix

P, D = 4, 6
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLASS_IDS = torch.tensor([0, 1, 2])


class Linear:
    """Tokens of known values, drawn by a linear map A, (3 P^2, D), and added to the pixels."""

    config = SimpleNamespace(patch_size=P)

    def __init__(self, tokens: Tensor, matrix: Tensor) -> None:
        self.tokens = tokens
        self.matrix = matrix

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.tokens[class_ids].to(x)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        drawn = (condition @ self.matrix.to(x).T).transpose(1, 2)
        return x + F.pixel_shuffle(drawn.unflatten(2, (x.shape[2] // P, x.shape[3] // P)), P)


class Leaking(Linear):
    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return super().decode(x, condition.mean(1, keepdim=True).expand_as(condition))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONFIG = DeCoConfig(
    image_size=16, patch_size=P, num_classes=3, hidden_size=16, num_heads=2, depth=2,
    decoder_depth=2, decoder_width=8,
)  # fmt: skip


def random_deco() -> DeCo:
    model = DeCo(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model


def coefficients(matrix: Tensor) -> np.ndarray:
    """Return the P x P DCT of each column's map, (3, P, P, D), by SciPy."""
    maps = matrix.numpy().reshape(3, P, P, -1)
    return np.asarray(scipy.fft.dctn(maps, axes=(1, 2), norm="ortho"))


def test_condition_budget_of_a_linear_decoder_is_its_closed_form():
    tokens = randn(3, 16, D, seed=1) @ randn(D, D, seed=2) + 5
    matrix = randn(3 * P * P, D, seed=3)
    # 3 images of 16 tokens, 6 directions: 16 * 3 probes are a multiple of 6, so each image is exact
    found = condition_budget(
        Linear(tokens, matrix), IMAGES.double(), CLASS_IDS, times=(0.5,), probes=3, directions=2
    )
    covariance = np.cov(tokens.flatten(0, 1).T.numpy(), bias=True)
    drawn = coefficients(matrix)
    written = np.einsum("cuvi,ij,cuvj->cuv", drawn, covariance, drawn)
    writable = np.square(drawn).sum(-1) * np.trace(covariance) / D
    for image in range(3):
        np.testing.assert_allclose(found.written[0, image], written, rtol=1e-9)
        np.testing.assert_allclose(found.writable[0, image], writable, rtol=1e-9)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(found.variance[0], eigenvalues[::-1], rtol=1e-9)
    leading = matrix.numpy() @ vectors[:, -1] * eigenvalues[-1] ** 0.5
    sign = np.sign((found.maps[0, 0].ravel() @ leading).item())
    np.testing.assert_allclose(found.maps[0, 0].ravel(), sign * leading, rtol=1e-9)
    assert found.missed[0] < 1e-20
    np.testing.assert_allclose(found.frequency, [0, 1 / 8, 2 / 8, 3 / 8])


def test_condition_budget_of_a_deco_agrees_with_its_full_jacobian():
    model, images = random_deco().double(), IMAGES[:2, :, :P, :P].double()
    # One token an image and as many probes as directions: each image's energies are exact.
    found = condition_budget(model, images, CLASS_IDS[:2], times=(0.5,), probes=16, directions=0)
    with torch.no_grad():
        x = interpolate(images[:1], seeded_noise(1, (3, P, P), 0).double(), 0.5)
        condition = model.condition(x, torch.tensor([0.5]), CLASS_IDS[:1])
    full = torch.func.jacrev(lambda s: model.decode(x, s))(condition)
    assert isinstance(full, Tensor)
    energy = np.square(coefficients(full.detach().reshape(48, 16))).sum(-1)
    expected = energy * found.variance.sum() / 16
    np.testing.assert_allclose(found.writable[0, 0], expected, rtol=1e-9)


def test_condition_budget_reads_a_low_writer_as_low():
    matrix = dct_matrix(P, torch.float64, torch.device("cpu"))
    low = torch.einsum("u,v,c->cuv", matrix[0], matrix[1], torch.ones(3).double()).reshape(-1, 1)
    tokens = randn(3, 16, D, seed=1)
    model = Linear(tokens, low * torch.ones(1, D).double())
    found = condition_budget(model, IMAGES, CLASS_IDS, times=(0.2, 0.8))
    for k in range(2):
        assert found.share_above(0.1)[k].value == pytest.approx(1)
        assert found.share_above(0.13)[k].value == pytest.approx(0, abs=1e-10)


def test_condition_budget_tells_can_from_does():
    """All detail hangs on a direction that never varies: the DiT can write it and does not."""
    tokens = randn(3, 16, 2, seed=1) * torch.tensor([1.0, 0.0])
    D4 = dct_matrix(P, torch.float64, torch.device("cpu"))
    flat, fine = torch.outer(D4[0], D4[0]), torch.outer(D4[3], D4[3])
    matrix = torch.stack([flat.expand(3, P, P).flatten(), fine.expand(3, P, P).flatten()], 1)
    found = condition_budget(Linear(tokens, matrix), IMAGES, CLASS_IDS, times=(0.5,), directions=1)
    assert found.share_above(0.25)[0].value == pytest.approx(0, abs=1e-10)
    assert found.share_above(0.25, "writable")[0].value == pytest.approx(0.5, abs=1e-6)


def test_condition_budget_with_white_conditions_writes_what_it_can():
    tokens = randn(3, 16, D, seed=1).flatten(0, 1)
    tokens = tokens - tokens.mean(0)
    values, vectors = torch.linalg.eigh(tokens.T @ tokens / 48)
    white = (tokens @ vectors / values.sqrt()).reshape(3, 16, D)
    found = condition_budget(
        Linear(white, randn(48, D, seed=3)), IMAGES.double(), CLASS_IDS, times=(0.5,), probes=3
    )
    np.testing.assert_allclose(found.written, found.writable, rtol=1e-8)


def test_condition_budget_of_random_weights_prefers_no_frequency():
    """The null: a random map's energy per coefficient is that of white maps, (P^2 - 1) / P^2."""
    matrix = randn(48, 64, seed=4)
    found = condition_budget(
        Linear(randn(3, 16, 64, seed=1), matrix), IMAGES, CLASS_IDS, times=(0.5,), probes=8
    )
    assert found.share_above(1e-6)[0].value == pytest.approx(15 / 16, abs=0.05)


def test_condition_budget_of_tiny_writes_low_and_could_write_high():
    from deco_lab.data import bundled_crops

    model = deco_lab.load("tiny", device="cpu")
    crops = bundled_crops(64).sample(4, torch.Generator().manual_seed(5))
    found = condition_budget(
        model, crops.images, crops.class_ids, times=(0.5,), probes=2, directions=0
    )
    (does,), (can,) = found.share_above(1 / 8), found.share_above(1 / 8, "writable")
    assert does.high < 0.3 < 0.4 < can.value
    assert does.high < can.low
    assert 0.02 < found.missed[0] < 0.6


def test_condition_budget_does_not_depend_on_the_batch():
    results = [
        condition_budget(random_deco(), IMAGES, CLASS_IDS, times=(0.4,), batch_size=n)
        for n in (3, 1)
    ]
    for name in ("written", "writable", "missed", "variance"):
        first, second = (getattr(r, name) for r in results)
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6 * abs(first).max())


def test_condition_budget_takes_narrow_types_and_is_saved(tmp_path: Path):
    wide, narrow = (
        condition_budget(random_deco(), images, CLASS_IDS, times=(0.4,), directions=0)
        for images in (IMAGES.half().float(), IMAGES.half())
    )
    np.testing.assert_array_equal(wide.written, narrow.written)
    wide.save(tmp_path / "budget.npz")
    again = ConditionBudget.load(tmp_path / "budget.npz")
    np.testing.assert_array_equal(again.writable, wide.writable)
    assert again.maps.shape == (1, 0, 3, P, P)
    assert len(again.recipe["weights"]) == 16


def test_condition_budget_of_a_fresh_decoder_writes_nothing():
    model = DeCo(CONFIG)
    found = condition_budget(model, IMAGES, CLASS_IDS, times=(0.5,))
    assert not found.written.any()
    assert np.isnan(found.share_above(0.1)[0].value)
    assert np.isnan(found.missed[0])


def test_condition_budget_says_what_is_wrong():
    model = random_deco()
    with pytest.raises(ValueError, match="the methods condition and decode, which a Linear has"):
        condition_budget(torch.nn.Linear(1, 1), IMAGES, CLASS_IDS)
    with pytest.raises(ValueError, match="images must be finite"):
        condition_budget(model, IMAGES * torch.nan, CLASS_IDS)
    with pytest.raises(ValueError, match="hold pixels"):
        condition_budget(model, IMAGES[:0], CLASS_IDS[:0])
    with pytest.raises(ValueError, match="probes must be at least 1 and directions from 0 to D=16"):
        condition_budget(model, IMAGES, CLASS_IDS, probes=0)
    leaking = Leaking(randn(3, 16, D, seed=1), randn(48, D, seed=3))
    with pytest.raises(ValueError, match="each patch from its own token alone"):
        condition_budget(leaking, IMAGES, CLASS_IDS, directions=0)
    found = condition_budget(model, IMAGES, CLASS_IDS, times=(0.5,), probes=1, directions=0)
    with pytest.raises(ValueError, match="kind must be one of written, writable, got 'white'"):
        found.share_above(0.1, "white")
