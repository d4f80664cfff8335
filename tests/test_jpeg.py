from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deco_lab.spectra.jpeg import frequency_weights, jpeg_table, rgb_to_ycbcr


def pillow_tables(quality: int) -> dict[int, list[int]]:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return image.quantization  # type: ignore[attr-defined]


@pytest.mark.parametrize("quality", range(1, 101))
def test_jpeg_table_is_that_of_pillow(quality):
    tables = pillow_tables(quality)
    # Below 50 libjpeg truncates 5000 / quality; 41 is where 121.95 becomes 121.
    allowed = 0 if quality >= 50 else 2 if quality == 41 else 1
    for chrominance in (False, True):
        expected = torch.tensor(tables[int(chrominance)]).reshape(8, 8)
        difference = (jpeg_table(quality, chrominance) - expected).abs().max()
        assert difference <= allowed


@pytest.mark.parametrize("quality", [0, 101, 85.5, float("nan"), -3])
def test_jpeg_table_refuses_a_quality_out_of_range(quality):
    with pytest.raises(ValueError, match="quality must be a whole number from 1 to 100, got"):
        jpeg_table(quality)


@pytest.mark.parametrize("quality", [1, 30, 50, 75, 85, 95, 100])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_frequency_weights_match_recorded_outputs(golden, quality, gamma):
    recorded = load_file(golden / "frequency_loss.safetensors")
    expected = recorded[f"weights_q{quality}_g{gamma}"].double()
    torch.testing.assert_close(frequency_weights(quality, gamma), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("quality", "gamma"), [(85, 1.0), (10, 2.0), (50, 0.3)])
def test_frequency_weights_have_mean_1_each(quality, gamma):
    weights = frequency_weights(quality, gamma)
    torch.testing.assert_close(weights.mean((1, 2)), torch.ones(3, dtype=torch.float64))


def test_frequency_weights_at_85_are_the_published_facts():
    luminance = frequency_weights(85)[0]
    assert round(luminance.min().item(), 2) == 0.28
    assert round(luminance.max().item(), 2) == 3.36
    assert round(luminance[0, 0].item(), 1) == 2.0


@pytest.mark.parametrize(("quality", "gamma"), [(100, 1.0), (85, 0.0)])
def test_frequency_weights_are_one_without_quantisation_or_exponent(quality, gamma):
    ones = torch.ones(3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(frequency_weights(quality, gamma), ones)


@pytest.mark.parametrize("gamma", [-1, float("inf"), float("nan")])
def test_frequency_weights_refuse_a_gamma_out_of_range(gamma):
    with pytest.raises(ValueError, match="gamma must be a finite number of at least 0, got"):
        frequency_weights(85, gamma)


def test_rgb_to_ycbcr_is_that_of_pillow():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("YCbCr"), dtype=float)
    expected[..., 1:] -= 128
    ours = rgb_to_ycbcr(torch.from_numpy(pixels).double().permute(2, 0, 1)[None])[0]
    # Pillow rounds to whole numbers.
    np.testing.assert_allclose(ours.permute(1, 2, 0), expected, atol=1)


def test_rgb_to_ycbcr_of_grey_has_no_colour():
    grey = torch.full((1, 3, 2, 2), 0.7, dtype=torch.float64)
    Y, Cb, Cr = rgb_to_ycbcr(grey)[0]
    torch.testing.assert_close(Y, grey[0, 0])
    assert max(Cb.abs().max(), Cr.abs().max()) < 1e-15


def test_rgb_to_ycbcr_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"RGB of shape \(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        rgb_to_ycbcr(torch.zeros(1, 1, 8, 8))
