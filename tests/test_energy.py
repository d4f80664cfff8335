import pytest
import torch

from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.energy import dct_energy, log_energy, token_map


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_dct_energy_sums_to_the_mean_square():
    images = noise(3, 2, 16, 24)
    energy = dct_energy(images)
    torch.testing.assert_close(energy.sum() / 64, images.square().mean(), rtol=1e-13, atol=0)


def test_dct_energy_of_a_basis_image_is_one_coefficient():
    coefficients = torch.zeros(1, 1, 8, 8)
    coefficients[..., 2, 5] = 1
    image = torch.einsum("...uv,uvrc->...rc", coefficients, basis_images())
    expected = coefficients[0, 0].double()
    torch.testing.assert_close(dct_energy(image), expected, rtol=0, atol=1e-6)


def basis_images() -> torch.Tensor:
    """Return the 64 images, (8, 8, 8, 8), of which each has one coefficient."""
    impulses = torch.eye(64).reshape(64, 1, 8, 8)
    return block_dct(impulses).reshape(8, 8, 8, 8).permute(2, 3, 0, 1)


def test_dct_energy_accumulates_in_float64():
    images = torch.full((1, 1, 8, 8), 1e25)  # whose squares float32 does not hold
    energy = dct_energy(images)
    assert energy.dtype == torch.float64
    torch.testing.assert_close(energy[0, 0].item(), 64e50, rtol=1e-5, atol=0)


def test_log_energy_is_the_curve_of_the_paper():
    energy = torch.tensor([[3.0, 1.0, 0.0], [0.0, 7.0, 0.0], [1.0, 0.0, 3.0]])
    # In the order (0,0), (0,1), (1,0), (2,0), (1,1), (0,2), (1,2), (2,1), (2,2), over log 8.
    expected = torch.tensor([2, 1, 0, 1, 3, 0, 0, 0, 2], dtype=torch.float64) / 3
    torch.testing.assert_close(log_energy(energy), expected)


def test_log_energy_normalises_each_curve_by_itself():
    energy = noise(5, 8, 8).square()
    curves = log_energy(energy)
    assert curves.shape == (5, 64)
    assert curves.amax(-1).tolist() == [1] * 5
    torch.testing.assert_close(curves[3], log_energy(energy[3]))


def test_log_energy_of_nothing_is_zero():
    assert log_energy(torch.zeros(8, 8)).tolist() == [0] * 64


def test_log_energy_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"energy must have shape \(\.\.\., n, n\), got \(64,\)"):
        log_energy(torch.zeros(64))


def test_token_map_keeps_row_major_order():
    tokens = torch.arange(12.0).reshape(1, 6, 2)
    grid = token_map(tokens, rows=2, columns=3)
    assert grid[0, 0].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert grid[0, 1].tolist() == [[1, 3, 5], [7, 9, 11]]


def test_token_map_gives_the_energy_of_a_wave_over_tokens():
    # One half-wave across the eight columns of tokens, the same in every channel.
    column = torch.arange(8)
    wave = torch.cos(torch.pi * (2 * column + 1) / 16)
    tokens = wave.repeat(8)[None, :, None].expand(1, 64, 5)
    energy = dct_energy(token_map(tokens, 8, 8))
    assert energy.argmax() == 1
    torch.testing.assert_close(energy.sum(), energy[0, 1], rtol=1e-10, atol=0)


def test_token_map_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"N = rows \* columns = 12, got \(1, 6, 2\)"):
        token_map(torch.zeros(1, 6, 2), 3, 4)


def test_dct_energy_refuses_a_token_grid_too_small_for_its_blocks():
    with pytest.raises(ValueError, match="got 4 x 4; use larger images or a smaller block_size"):
        dct_energy(token_map(torch.zeros(1, 16, 8), 4, 4))
    assert dct_energy(token_map(torch.ones(1, 16, 8), 4, 4), block_size=4)[0, 0] == 16


def test_dct_energy_of_logs_is_the_geometric_mean_over_images():
    images = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    images *= torch.tensor([0.01, 1, 100]).reshape(-1, 1, 1, 1)
    each = torch.stack([dct_energy(image[None]) for image in images])
    torch.testing.assert_close(dct_energy(images, average="log"), each.log().mean(0).exp())


def test_dct_energy_sees_a_grid_that_its_offset_meets():
    blocks = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    images = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)  # flat 8 x 8 blocks
    assert dct_energy(images)[0, 0] == pytest.approx(dct_energy(images).sum())
    off = dct_energy(images, offset=4)
    assert off[0, 0] < 0.8 * off.sum()


@pytest.mark.parametrize("offset", [-1, 16])
def test_dct_energy_names_an_offset_outside_the_image(offset):
    with pytest.raises(ValueError, match=f"offset must be from 0 to 15, .* got {offset}"):
        dct_energy(torch.zeros(1, 1, 16, 24), offset=offset)


def test_dct_energy_names_an_unknown_average():
    with pytest.raises(ValueError, match='average must be "power" or "log"'):
        dct_energy(torch.zeros(1, 1, 16, 24), average="median")
