"""Where the energy of images, tokens and velocities lies, and which input put it there.

Frequencies are in cycles per pixel throughout (Nyquist is 0.5). No function here draws, and none
knows a model's class: `decompose` takes any object with `condition` and `decode`.
"""

from deco_lab.spectra.analysis import Analysis, load_analysis, weights_hash
from deco_lab.spectra.bands import OCTAVES, band_names, band_shares, split_bands
from deco_lab.spectra.bootstrap import Estimate, bootstrap
from deco_lab.spectra.dct import block_dct, inverse_block_dct, zigzag_order
from deco_lab.spectra.decompose import Decomposition, decompose
from deco_lab.spectra.energy import dct_energy, log_energy, token_map
from deco_lab.spectra.jpeg import frequency_weights, jpeg_table, rgb_to_ycbcr
from deco_lab.spectra.radial import RadialPower, radial_power

__all__ = [
    "OCTAVES",
    "Analysis",
    "Decomposition",
    "Estimate",
    "RadialPower",
    "band_names",
    "band_shares",
    "block_dct",
    "bootstrap",
    "dct_energy",
    "decompose",
    "frequency_weights",
    "inverse_block_dct",
    "jpeg_table",
    "load_analysis",
    "log_energy",
    "radial_power",
    "rgb_to_ycbcr",
    "split_bands",
    "token_map",
    "weights_hash",
    "zigzag_order",
]
