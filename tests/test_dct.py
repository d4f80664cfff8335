import gc
import weakref

import numpy as np
import pytest
import scipy.fft
import torch
from safetensors.torch import load_file

from deco_lab.fast.build import KernelError, call
from deco_lab.spectra.dct import (
    block_dct,
    dct_matrix,
    inverse_block_dct,
    pad_to_blocks,
    zigzag_order,
)
from deco_lab.spectra.jpeg import rgb_to_ycbcr


def random_images(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("block_size", "height", "width"), [(8, 32, 40), (4, 8, 20), (1, 3, 5)])
def test_block_dct_matches_scipy(block_size, height, width):
    images = random_images(2, 3, height, width)
    n = block_size
    blocks = images.numpy().reshape(2, 3, height // n, n, width // n, n).swapaxes(3, 4)
    expected = np.asarray(scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho"))
    np.testing.assert_allclose(block_dct(images, n), expected, atol=1e-13)
    single = block_dct(images.float(), n)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, atol=5e-6)


LARGE = (2, 3, 256, 200)


@pytest.fixture
def by_kernel(kernels, monkeypatch) -> list[str]:
    """The native kernels that were called, in order."""
    made = []

    def counted(source, kernel, *arguments):
        made.append(kernel)
        call(source, kernel, *arguments)

    monkeypatch.setattr("deco_lab.spectra.dct.call", counted)
    return made


def test_large_block_dct_matches_scipy_and_the_product(by_kernel, monkeypatch):
    images = random_images(*LARGE, dtype=torch.float32)
    blocks = images.numpy().reshape(2, 3, 32, 8, 25, 8).swapaxes(3, 4)
    expected = torch.from_numpy(np.asarray(scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho")))
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    unaligned = torch.cat([torch.zeros(1), images.flatten()])[1:].view(images.shape)
    for given in (images, strided, unaligned):
        torch.testing.assert_close(block_dct(given), expected, rtol=1e-5, atol=5e-6)
    torch.testing.assert_close(inverse_block_dct(expected), images, rtol=1e-5, atol=5e-6)
    coefficients = block_dct(images[..., :-3, :-5])
    assert coefficients.shape == expected.shape
    torch.testing.assert_close(
        inverse_block_dct(coefficients, 253, 195), images[..., :-3, :-5], rtol=1e-5, atol=5e-6
    )
    assert by_kernel == ["blocks"] * 6

    def fail(source):
        raise KernelError("none here")

    monkeypatch.setattr("deco_lab.spectra.dct.library", fail)
    torch.testing.assert_close(block_dct(images), expected, rtol=1e-5, atol=5e-6)
    torch.testing.assert_close(inverse_block_dct(expected), images, rtol=1e-5, atol=5e-6)
    assert len(by_kernel) == 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_large_block_dct_does_not_depend_on_what_new_tensors_are(by_kernel, dtype):
    images = random_images(*LARGE, dtype=torch.float32)
    expected = block_dct(images)
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(block_dct(images), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert torch.equal(block_dct(images), expected)
    assert len(by_kernel) == 3


def test_large_block_dct_without_kernels_keeps_no_images(monkeypatch):
    monkeypatch.setattr("deco_lab.fast.build._found", lambda source: "there are none")
    images = random_images(*LARGE, dtype=torch.float32)
    block_dct(images)
    kept = weakref.ref(images)
    del images
    gc.collect()
    assert kept() is None


def test_large_block_dct_keeps_derivatives(by_kernel):
    images = random_images(*LARGE, dtype=torch.float32)
    expected = block_dct(images.double()).float()
    whole = block_dct(images.clone().requires_grad_())
    assert whole.requires_grad
    tangent = torch.func.jvp(block_dct, (images,), (images,))[1]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(images, images)
        dual_tangent = torch.autograd.forward_ad.unpack_dual(block_dct(dual)).tangent
    for coefficients in (whole.detach(), tangent, dual_tangent):
        torch.testing.assert_close(coefficients, expected, rtol=1e-5, atol=5e-6)
    assert by_kernel == []


@pytest.mark.parametrize(("block_size", "dtype"), [(4, torch.float32), (8, torch.float64)])
def test_large_block_dct_of_other_kinds_matches_scipy(by_kernel, block_size, dtype):
    images = random_images(*LARGE, dtype=dtype)
    n = block_size
    blocks = images.numpy().reshape(2, 3, 256 // n, n, 200 // n, n).swapaxes(3, 4)
    expected = torch.from_numpy(np.asarray(scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho")))
    torch.testing.assert_close(block_dct(images, n), expected, rtol=1e-5, atol=5e-6)
    assert by_kernel == []


def test_block_dct_matches_recorded_outputs(golden):
    recorded = load_file(golden / "frequency_loss.safetensors")
    for images, expected in (
        (rgb_to_ycbcr(recorded["target"]), recorded["dct_target"]),
        (rgb_to_ycbcr(recorded["ragged"]), recorded["dct_ragged"]),
    ):
        torch.testing.assert_close(block_dct(images), expected, rtol=1e-5, atol=5e-6)


def test_block_dct_pads_by_reflection_at_right_and_bottom():
    images = random_images(1, 2, 13, 18)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (0, 3), (0, 6)), mode="reflect")
    torch.testing.assert_close(block_dct(images), block_dct(torch.from_numpy(padded)))
    assert pad_to_blocks(images[..., :8, :16]).shape == (1, 2, 8, 16)


def test_block_dct_keeps_energy():
    images = random_images(2, 3, 24, 16)
    energy = block_dct(images).square().sum()
    torch.testing.assert_close(energy, images.square().sum(), rtol=1e-13, atol=0)


def test_block_dct_gradient_is_its_inverse():
    images = random_images(1, 1, 16, 8).requires_grad_()
    (block_dct(images).square().sum() / 2).backward()
    torch.testing.assert_close(images.grad, images.detach())


def test_block_dct_of_white_noise_is_flat():
    energy = block_dct(random_images(16, 4, 256, 256)).square().mean((0, 1, 2, 3))
    # 65536 blocks: the standard error is sqrt(2 / 65536) = 0.0055.
    torch.testing.assert_close(energy, torch.ones_like(energy), rtol=0, atol=0.03)


@pytest.mark.parametrize(("u", "v"), [(0, 0), (0, 7), (3, 0), (5, 2)])
def test_block_dct_of_a_cosine_is_one_bin(u, v):
    r = torch.arange(8, dtype=torch.float64)
    rows = torch.cos(torch.pi * (2 * r + 1) * u / 16)
    columns = torch.cos(torch.pi * (2 * r + 1) * v / 16)
    coefficients = block_dct((rows[:, None] * columns)[None, None])[0, 0, 0, 0]
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[u, v] = (8 if u == 0 else 4) ** 0.5 * (8 if v == 0 else 4) ** 0.5
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_block_dct_computes_narrow_types_in_float32(dtype):
    images = (random_images(1, 3, 16, 16) * 20 + 100).to(dtype)
    assert block_dct(images).dtype == torch.float32
    torch.testing.assert_close(block_dct(images), block_dct(images.float()), rtol=0, atol=0)


def test_block_dct_ignores_autocast():
    images = random_images(1, 3, 16, 16, dtype=torch.float32)
    plain = block_dct(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(block_dct(images), plain, rtol=0, atol=0)
        restored = inverse_block_dct(plain)
    torch.testing.assert_close(restored, images, rtol=0, atol=2e-6)


def test_block_dct_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\).*got \(8, 8\)"):
        block_dct(torch.zeros(8, 8))
    with pytest.raises(ValueError, match="hold pixels"):
        block_dct(torch.zeros(0, 3, 8, 8))
    with pytest.raises(ValueError, match="reflected margin of 4 x 0 pixels, got 4 x 8"):
        block_dct(torch.zeros(1, 3, 4, 8))
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        block_dct(torch.zeros(1, 3, 8, 8), 0)


def test_inverse_block_dct_recovers_images():
    images = random_images(2, 3, 13, 18)
    restored = inverse_block_dct(block_dct(images), 13, 18)
    torch.testing.assert_close(restored, images, rtol=0, atol=1e-13)
    assert inverse_block_dct(block_dct(images)).shape == (2, 3, 16, 24)


def test_inverse_block_dct_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"coefficients must have shape .* got \(1, 1, 8, 4\)"):
        inverse_block_dct(torch.zeros(1, 1, 8, 4))


def test_dct_matrix_is_orthogonal():
    for size in (1, 2, 8, 16):
        D = dct_matrix(size, torch.float64, torch.device("cpu"))
        torch.testing.assert_close(D @ D.T, torch.eye(size, dtype=torch.float64))


def test_dct_matrix_made_in_inference_mode_can_be_trained_through():
    dct_matrix.cache_clear()
    with torch.inference_mode():
        block_dct(torch.zeros(1, 1, 8, 8))
    images = torch.ones(1, 1, 8, 8, requires_grad=True)
    inverse_block_dct(block_dct(images)).sum().backward()
    torch.testing.assert_close(images.grad, torch.ones(1, 1, 8, 8))


def test_zigzag_order_is_that_of_the_jpeg_standard():
    # ITU-T T.81, Figure A.6: the place of each coefficient in the sequence.
    sequence = np.array(
        [
            [0, 1, 5, 6, 14, 15, 27, 28],
            [2, 4, 7, 13, 16, 26, 29, 42],
            [3, 8, 12, 17, 25, 30, 41, 43],
            [9, 11, 18, 24, 31, 40, 44, 53],
            [10, 19, 23, 32, 39, 45, 52, 54],
            [20, 22, 33, 38, 46, 51, 55, 60],
            [21, 34, 37, 47, 50, 56, 59, 61],
            [35, 36, 48, 49, 57, 58, 62, 63],
        ]
    )
    assert sequence.ravel()[list(zigzag_order())].tolist() == list(range(64))
    assert zigzag_order(3) == (0, 1, 3, 6, 4, 2, 5, 7, 8)
