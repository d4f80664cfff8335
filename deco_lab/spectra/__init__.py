"""Where the energy of images, tokens and velocities lies, and which input put it there.

Frequencies are in cycles per pixel throughout (Nyquist is 0.5). No function here draws, and none
knows a model's class: `decompose` takes any object with `condition` and `decode`.

Wherever a Tensor of images, states, tokens or coefficients is asked for, a NumPy array will do;
what is a Tensor in the answer is one then too.
"""

from deco_lab.gaussian import (
    meeting_frequency,
    posterior_power,
    velocity_gain,
    wiener_filter,
)
from deco_lab.result import Estimate, Result, load_result, weights_hash
from deco_lab.spectra.bands import MEAN_AND_OCTAVES, OCTAVES, band_names, band_shares, split_bands
from deco_lab.spectra.bootstrap import bootstrap, bootstrap_intervals
from deco_lab.spectra.budget import ConditionBudget, condition_budget
from deco_lab.spectra.clusters import TokenClusters, token_clusters
from deco_lab.spectra.controls import phase_shuffled, untrained, white_noise
from deco_lab.spectra.dct import block_dct, inverse_block_dct, zigzag_order
from deco_lab.spectra.decompose import Decomposition, decompose
from deco_lab.spectra.detail import DetailSpectra, detail_spectra
from deco_lab.spectra.effects import BandEffects, band_effects
from deco_lab.spectra.energy import dct_energy, log_energy, token_map
from deco_lab.spectra.excess import ExcessError, excess_error
from deco_lab.spectra.gains import PartGains
from deco_lab.spectra.guidance import GuidanceSpectrum, guidance_spectrum
from deco_lab.spectra.intervention_effects import (
    InterventionEffect,
    crossed_effects,
    intervention_effect,
)
from deco_lab.spectra.interventions import (
    BandLimit,
    Intervened,
    OtherRun,
    SpatialMean,
)
from deco_lab.spectra.jacobian import pixel_jacobian
from deco_lab.spectra.jpeg import frequency_weights, jpeg_table, rgb_to_ycbcr
from deco_lab.spectra.layers import block_tokens, layer_readout
from deco_lab.spectra.loss_bands import (
    LossBands,
    WeightTable,
    favoured_parts,
    loss_bands,
    weight_table,
)
from deco_lab.spectra.radial import RadialPower, radial_power
from deco_lab.spectra.readout import LinearReadout, linear_readout
from deco_lab.spectra.response import BandResponse, band_response
from deco_lab.spectra.seams import Seams, find_seams
from deco_lab.spectra.settling import Settling, settling_times
from deco_lab.spectra.solver_error import SolverError, solver_error
from deco_lab.spectra.states import Crops, Run
from deco_lab.spectra.taps import TapSpectrum, tap_spectrum

__all__ = [
    "MEAN_AND_OCTAVES",
    "OCTAVES",
    "BandEffects",
    "BandLimit",
    "BandResponse",
    "ConditionBudget",
    "Crops",
    "Decomposition",
    "DetailSpectra",
    "Estimate",
    "ExcessError",
    "GuidanceSpectrum",
    "Intervened",
    "InterventionEffect",
    "LinearReadout",
    "LossBands",
    "OtherRun",
    "PartGains",
    "RadialPower",
    "Result",
    "Run",
    "Seams",
    "Settling",
    "SolverError",
    "SpatialMean",
    "TapSpectrum",
    "TokenClusters",
    "WeightTable",
    "band_effects",
    "band_names",
    "band_response",
    "band_shares",
    "block_dct",
    "block_tokens",
    "bootstrap",
    "bootstrap_intervals",
    "condition_budget",
    "crossed_effects",
    "dct_energy",
    "decompose",
    "detail_spectra",
    "excess_error",
    "favoured_parts",
    "find_seams",
    "frequency_weights",
    "guidance_spectrum",
    "intervention_effect",
    "inverse_block_dct",
    "jpeg_table",
    "layer_readout",
    "linear_readout",
    "load_result",
    "log_energy",
    "loss_bands",
    "meeting_frequency",
    "phase_shuffled",
    "pixel_jacobian",
    "posterior_power",
    "radial_power",
    "rgb_to_ycbcr",
    "settling_times",
    "solver_error",
    "split_bands",
    "tap_spectrum",
    "token_clusters",
    "token_map",
    "untrained",
    "velocity_gain",
    "weight_table",
    "weights_hash",
    "white_noise",
    "wiener_filter",
    "zigzag_order",
]
