"""Every figure of results: each number where it is drawn, each interval, each unit, each word."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from deco_lab import plots
from deco_lab.plots.style import PATCH_LINE
from deco_lab.result import Estimate
from deco_lab.spectra import (
    BandEffects,
    BandResponse,
    ConditionBudget,
    DetailSpectra,
    GuidanceSpectrum,
    InterventionEffect,
    LinearReadout,
    Seams,
    Settling,
    SolverError,
    TapSpectrum,
    band_names,
    favoured_parts,
    frequency_weights,
    log_energy,
    loss_bands,
    split_bands,
    weight_table,
    zigzag_order,
)

RNG = np.random.default_rng(0)
TIMES = np.array([0.2, 0.5, 0.8])
EDGES = np.array([1 / 8, 1 / 4])
FREQUENCY = np.arange(9) / 16
P, T, K, R = 4, 3, 3, len(FREQUENCY)


def some(*shape: int) -> Estimate:
    value = RNG.uniform(0.3, 0.8, shape)
    return Estimate(value, value - RNG.uniform(0.05, 0.2), value + RNG.uniform(0.05, 0.2), count=5)


def effects(**changes: Any) -> BandEffects:
    ones = {f"{w}_{n}": np.ones((T, K)) for w in ("predicted", "velocity")
            for n in ("energy", "cancellation")}  # fmt: skip
    given: Any = {"predicted": some(T, 4, K), "velocity": some(T, 4, K), **ones, **changes}
    return BandEffects(times=TIMES, edges=EDGES, count=5, **given)


def cancelling() -> BandEffects:
    return effects(velocity_cancellation=np.array([3.0, 1, 1])[:, None] + np.zeros(K))


def response(*paths: str) -> BandResponse:
    Q = len(paths)
    return BandResponse(
        times=TIMES, edges=EDGES, paths=paths, of="predicted", gain=some(T, Q, K),
        leaving=some(T, Q, K), linear=some(T, Q, K), count=5,
    )  # fmt: skip


def readout(tokens: str = "condition") -> LinearReadout:
    sources = (tokens, "pixels", "both", "shuffled")
    return LinearReadout(times=TIMES, edges=EDGES, sources=sources, r2=some(T, 4, 4, K), count=5)


def guidance() -> GuidanceSpectrum:
    return GuidanceSpectrum(
        times=TIMES, edges=EDGES, power=some(T, K), uncond_power=RNG.uniform(1, 2, (T, K)),
        image_cosine=some(T, K), cosine=some(T, K), fraction=np.array([0.1, 0.2, 0.7]),
        chance=np.array([0.04, 0.01, 0.0025]), count=5,
    )  # fmt: skip


def detail() -> DetailSpectra:
    return DetailSpectra(
        times=TIMES, frequency=FREQUENCY, power=some(R), predicted=some(T, R), error=some(T, R),
        velocity=some(T, R), gaussian_velocity=RNG.uniform(0.3, 1, (T, R)),
        gaussian_predicted=RNG.uniform(0.3, 1, (T, R)), gaussian_error=RNG.uniform(0.3, 1, (T, R)),
        meeting=np.array([0.1, 0.3, np.nan]), count=5,
    )  # fmt: skip


def spectrum(patch_size: int, times: Any = TIMES, n: int = 8) -> TapSpectrum:
    rows = len(times) + 1
    return TapSpectrum(
        tap="tokens", times=np.array(times), patch_size=patch_size, block_size=n,
        frequency=np.arange(n + 1) / (2 * n * patch_size), each=np.ones((2, len(times), n, n)),
        noise_share=some(len(times)), energy=some(rows, n, n), curve=some(rows, n * n),
        radial=some(rows, n + 1), radial_curve=some(rows, n + 1), count=2,
    )  # fmt: skip


def settling(times: Any = (0.0, 0.25, 0.5, 0.75)) -> Settling:
    settled = np.sort(RNG.uniform(0, 0.9, (5, K, 2)), axis=2)
    settled[0, -1, -1] = np.nan
    return Settling(
        times=np.array(times), edges=EDGES, levels=np.array([0.5, 0.9]), settled=settled,
        correlation=np.sort(RNG.uniform(0, 1, (5, len(times), K)), axis=1), median=some(K, 2),
        count=5,
    )  # fmt: skip


def errors() -> SolverError:
    steps = np.array([5, 10, 20, 5, 10])
    return SolverError(
        solvers=("euler", "euler", "euler", "heun", "heun"), num_steps=steps, edges=EDGES,
        nfe=np.array([5, 10, 20, 9, 19]), error=some(5, K), reference_energy=np.ones(K),
        reference_solver="heun", reference_num_steps=100, count=4,
    )  # fmt: skip


def crossed() -> InterventionEffect:
    return InterventionEffect(
        edges=EDGES, energy=some(3, 2, K), correlation=some(3, 2, K), count=5,
        conditions=("fresh", "other", "mean"), pixels=("all", "below 1/8"),
    )  # fmt: skip


def seams() -> Seams:
    return Seams(
        patch_size=P, excess=RNG.normal(size=(3, 8)), p=np.ones(3), group=np.arange(8),
        steps=RNG.uniform(0.9, 1.1, (8, P)), lines=RNG.normal(size=(8, 1)),
    )  # fmt: skip


def budget() -> ConditionBudget:
    return ConditionBudget(
        times=TIMES, frequency=np.arange(P) / (2 * P), written=RNG.uniform(0.1, 1, (3, 5, 3, P, P)),
        variance=np.ones((3, 6)), maps=RNG.normal(size=(3, 2, 3, P, P)), groups=np.arange(5),
        count=5,
    )  # fmt: skip


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def words(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


def numbers(figure: Figure) -> np.ndarray:
    """Return every coordinate of lines, areas and bars, and every value of pictures, in order."""
    found: list[Any] = []
    for axes in figure.axes:
        found += [part for line in axes.lines for part in line.get_data()]
        for each in axes.collections:
            found += [path.vertices for path in each.get_paths()]
            found.append([] if each.get_array() is None else each.get_array())
        found += [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
        found += [image.get_array() for image in axes.images]
    return np.sort(np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in found]))


def assert_drawn(figure: Figure, *values: Any) -> None:
    """Assert that figures, and the ends of their intervals, are among what is drawn."""
    there = numbers(figure)
    for value in values:
        for array in value.ends if isinstance(value, Estimate) else [value]:
            wanted = np.ravel(np.asarray(array, np.float64))
            wanted = wanted[np.isfinite(wanted)]
            place = np.searchsorted(there, wanted).clip(1, len(there) - 1)
            off = np.minimum(np.abs(there[place] - wanted), np.abs(there[place - 1] - wanted))
            assert off.max() < 1e-9 * max(1, np.abs(wanted).max()), array


PATHS = ("direct", "through the DiT", "total")
E, G, D, F = effects(), guidance(), detail(), settling()
RESPONSE, READ, ERRORS, CROSSED, SEAMS, BUDGET = (
    response(*PATHS), readout(), errors(), crossed(), seams(), budget(),
)  # fmt: skip
TAPS = {"tokens": spectrum(8), "image": spectrum(1)}
CHANGES = {name: some(R) for name in ("plain", "low", "APG")}
POINTS = {"none": some(), "plain": some()}
EXCESS = {"deco": some(2, 4), "dit": some(2, 4)}
LOSS = loss_bands(noise(5, 3, 16, 16), noise(5, 3, 16, 16, seed=1))
TABLE = weight_table((10, 50, 85), (0.5, 2.0))
WEIGHTS = frequency_weights()
ENERGY = noise(8, 8).square()
SHIFTED = settling([0.0, 0.1, 0.3, 0.6])
IMAGES = np.clip(RNG.normal(size=(2, 3, 16, 16)), -0.9, 0.9)
CHOICES = {(c, p): effects() for c in ("mean", "null") for p in ("zero", "noise")}
LOSSES = RNG.uniform(0.5, 1, 20)
POWER = RNG.uniform(-5, 5, (2, R))

Case = tuple[Callable[..., Figure], tuple[Any, ...], dict[str, Any], list[Any], list[str]]
FIGURES: dict[str, Case] = {
    "effects": (
        plots.effect_curves, (E,), {}, [E.predicted, E.velocity],
        ["main effect of the condition", "share of the velocity", "1/8 to 1/4 cycles per pixel",
         "t (0 noise, 1 image)"],
    ),
    "split": (
        plots.split_curves, ({"mine": E},), {"whole": "velocity"}, [E.velocity[:, 1:3, -1]],
        ["mine", "share of the velocity\nabove 1/4 cycles per pixel"],
    ),
    "control": (
        plots.control_figure, ({"model": E, "noise": effects()}, 0.5), {},
        [E.predicted[1, 1:3], E.velocity[1, 1:3]],
        ["main effect of the pixels, share of the predicted image, t = 0.5", "noise"],
    ),
    "references": (
        plots.reference_ranges, (CHOICES, 0.5), {},
        [each.predicted.value[1] for each in CHOICES.values()],
        ['condition against "null"', "share of the velocity"],
    ),
    "measures": (
        plots.measures_figure, (RESPONSE, READ, E), {},
        [RESPONSE.gain, E.predicted, READ.r2[:, :2, [0, 2, 3]]],
        ["below 1/8 cycles per pixel", "noise, from pixels", "gain of the predicted image"],
    ),
    "response": (
        plots.response_curves, (RESPONSE, READ.r2.value[:, 0, 0]), {},
        [RESPONSE.gain, READ.r2.value[:, 0, 0]],
        ["t = 0.8", "Wiener's filter", "through the DiT", "response of the predicted image"],
    ),
    "guidance": (
        plots.guidance_curves, (G, [3.0, 2.0, 1.0]), {},
        [G.power, G.uncond_power, G.cosine, G.image_cosine, np.sqrt(G.chance), [1, 2, 3]],
        ["cond - uncond", "real images", "power (white noise is 1)"],
    ),
    "growth": (plots.guidance_growth, ({"crops": G, "run": guidance()},), {}, [G.power], ["run"]),
    "changes": (
        plots.change_curves, (FREQUENCY, CHANGES, {"one": ["plain", "low"], "two": ["APG"]}), {},
        [each[1:] for each in CHANGES.values()],
        ["one", "APG", "frequency (cycles per pixel)", "power over that of crops (dB)"],
    ),
    "burn": (
        plots.burn_figure, (POINTS, POINTS), {}, [*POINTS.values()],
        ["plain", "rms contrast over that of crops", "values outside ±1"],
    ),
    "guided": (
        plots.guided_figure, (3 * IMAGES, FREQUENCY, CHANGES["plain"], CHANGES["low"], "APG"), {},
        [CHANGES["plain"][1:], CHANGES["low"].value[1:]],
        ["of the values of these 2 images outside ±1", "burnt", "no guidance"],
    ),
    "detail": (
        plots.detail_curves, (D, 0.5), {},
        [D.power[1:], D.predicted[1, 1:], D.error[1, 1:], D.velocity[1, 1:],
         D.gaussian_error[1, 1:], D.meeting[1]],
        ["signal meets noise", "power (white noise of variance 1 is 1)", "velocity, t = 0.5"],
    ),
    "taps": (
        plots.tap_curves, (TAPS, 0.5), {},
        [part for f in TAPS.values() for part in (f.curve[1], f.radial_curve[1, 1:])],
        ["tokens (P = 8)", "DCT coefficient (zigzag index)", "log(1 + E) / max", "Nyquist of"],
    ),
    "taps raw": (
        plots.tap_curves, (TAPS,), {"raw": True},
        [part for f in TAPS.values() for part in (f.energy[-1], f.radial[-1, 1:])],
        ["mean squared coefficient", "mean over t"],
    ),
    "tap maps": (
        plots.tap_maps, (TAPS,), {},
        [10 * np.log10(found.radial.value[:-1, 1:]) for found in TAPS.values()],
        ["beyond the token grid\n(above 1/16)", "frequency (cycles per pixel)", "dB"],
    ),
    "dct": (
        plots.dct_curves, ({"image": ENERGY, "tiny": ENERGY},), {"patch_sizes": {"tiny": 8}},
        [log_energy(ENERGY), 1 / 16, 1 / 128], ["tiny (tokens of 8 x 8 pixels)"],
    ),
    "dct raw": (
        plots.dct_curves, ({"image": ENERGY},), {"raw": True},
        [ENERGY.flatten()[list(zigzag_order())]], ["mean squared coefficient"],
    ),
    "settling": (
        plots.settling_figure, (F, [0.1, 0.2, 0.3]), {},
        [F.correlation.mean(0), F.median, F.settled, [0.1, 0.2, 0.3]],
        ["correlation with the final image", "another seed's image", "t from which it has settled"],
    ),
    "shift": (
        plots.shift_figure, ({"even": F, "shifted": SHIFTED}, 0.9), {},
        [SHIFTED.median[:, 1],
         np.interp(SHIFTED.median.value[:, 1], [*SHIFTED.times, 1], range(5))],
        ["shifted", "steps taken", "correlation 0.9, in t"],
    ),
    "solvers": (
        plots.solver_error_curves, (ERRORS,), {}, [ERRORS.error],
        ["euler", "order 2", "network passes per image", "error (rms, of the band's own)"],
    ),
    "interventions": (
        plots.intervention_figure, (CROSSED,), {}, [CROSSED.energy, CROSSED.correlation],
        ["pixels: below 1/8", "other", "energy, left alone is 1"],
    ),
    "seams": (
        plots.seam_curves, ({"tiny": SEAMS, "crops": seams()},), {},
        [SEAMS.step_by_offset, *SEAMS.estimates().values()], ["block dct", "step over its mean"],
    ),
    "grid": (
        plots.grid_figure, ({"tiny": SEAMS}, {"tiny": D.gaussian_error}, {"tiny": IMAGES[0]}), {},
        [SEAMS.ratios(), D.gaussian_error], ["tiny, P = 4", "around each patch"],
    ),
    "budget": (
        plots.budget_figure, (BUDGET, 0.5), {},
        [BUDGET.written[1].mean((0, 1)) / BUDGET.written[1].mean((0, 1)).sum()],
        ["what tokens write", "share of the energy", "horizontal index (1/8 cycles per pixel)"],
    ),
    "weights": (
        plots.weights_figure, (WEIGHTS,), {}, [WEIGHTS],
        ["Cb", *(f"{weight:.2f}" for weight in WEIGHTS.flatten().tolist())],
    ),
    "weight table": (
        plots.weight_curves, (TABLE,), {}, [TABLE.share_above, TABLE.mean, TABLE.largest],
        ["JPEG quality", "gamma 0.5, chrominance"],
    ),
    "loss shares": (
        plots.loss_share_bars, ({"one": LOSS},), {},
        [*LOSS.band_shares().values(), *LOSS.band_shares("gradient").values(),
         np.array([1, 3, 11, 49]) / 64],
        ["squared gradient, one", "FM, were the error white", "band (cycles per pixel)"],
    ),
    "error change": (
        plots.error_change_figure,
        (WEIGHTS, some(3, 8, 8), {"Y": CHANGES["low"][:K]}, band_names(EDGES.tolist())), {},
        [CHANGES["low"][:K], 1.03 * WEIGHTS[2]], ["weight in FreqFM", "change (dB)", "1/8 to 1/4"],
    ),
    "favoured": (
        plots.favoured_figure, (IMAGES, WEIGHTS, ["a", "b"]), {"scale": 9.0},
        [(part / 18 + 0.5).numpy() for part in favoured_parts(torch.tensor(IMAGES), WEIGHTS)],
        ["weight < 1", "grey is 0, full colour ±9"],
    ),
    "excess": (
        plots.excess_figure, ((0.3, 0.8), EXCESS), {}, [*EXCESS.values()],
        ["t = 0.8", "dit", "excess / least error"],
    ),
    "losses": (
        plots.loss_curve, (np.arange(20), {"flow": LOSSES}), {"smoothing": 1}, [LOSSES],
        ["training step", "flow"],
    ),
    "evaluation": (
        plots.evaluation_figure, (FREQUENCY, {"tiny": POWER}, ENERGY.expand(3, -1, -1)),
        {"title": "mine"}, [POWER.mean(0)[1:], ENERGY],
        ["power over fresh crops (dB)", "mine: radial power", "Cb, by DCT coefficient"],
    ),
    "few steps": (
        plots.few_steps_figure, ({"5 steps": IMAGES + 0.05}, IMAGES), {},
        [IMAGES / 2 + 0.5, IMAGES / 2 + 0.525, 1.0],
        ["rms 6.4 of 255", "full colour ±6 of 255", "reference"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_every_number_with_its_interval(name: str):
    draw, arguments, options, values, said = FIGURES[name]
    figure: Any = draw(*arguments, **options)
    assert_drawn(figure, *values)
    written = words(figure)
    for each in said:
        assert each in written, each
    assert figure._repr_png_().startswith(b"\x89PNG")  # a warning of its layout is an error


@pytest.mark.parametrize(
    "name", ["changes", "guided", "detail", "taps", "tap maps", "dct", "evaluation"]
)
def test_spectra_mark_the_lines_of_a_patch_grid_on_request(name: str):
    draw, arguments, options, *_ = FIGURES[name]

    def marks(**more: Any) -> set[float]:
        figure = draw(*arguments, **options, **more)
        lines = [line for axes in figure.axes for line in axes.lines]
        dashed = [line for line in lines if line.get_color() == PATCH_LINE]
        ends = [np.asarray(end) for line in dashed for end in line.get_data()]
        return {round(float(np.ptp(end) or end[0]), 9) for end in ends}

    assert not marks()
    assert marks(patch_size=8) >= {1 / 4, 3 / 8}
    with pytest.raises(ValueError, match="patch_size must be at least 2, got 1"):
        marks(patch_size=1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda found: plots.effect_curves(found),
        lambda found: plots.control_figure({"mine": found, "other": E}, 0.2),
        lambda found: plots.split_curves({"mine": found}, whole="velocity"),
    ],
)
def test_figures_of_shares_say_where_parts_cancel(draw: Callable[[BandEffects], Figure]):
    said = " ".join(draw(cancelling()).get_supxlabel().split())
    assert said.removeprefix("mine: ") == cancelling().unshared("velocity")
    assert draw(E).get_supxlabel() == ""


def test_measures_figure_of_a_model_without_a_decoder_has_no_parts():
    figure = plots.measures_figure(response("total"), readout("tokens"))
    assert len(figure.axes) == 2 * K
    assert "predicted image, from tokens" in words(figure)


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda: plots.detail_curves(D, 0.4), r"t must be one of .* 0\.2, 0\.5, 0\.8, got 0\.4"),
        (lambda: plots.control_figure({"one": E}, 0.3), r'times of "one" that were measured, 0\.2'),
        (lambda: plots.shift_figure({"even": F}, 0.8), r"level must be one of \[0.5, 0.9\], got"),
        (
            lambda: plots.tap_maps({"tokens": spectrum(8, (0.5,))}),
            "needs two times at least, got 1",
        ),
        (
            lambda: plots.measures_figure(replace(RESPONSE, edges=np.array([0.1, 0.2])), READ),
            "every band of the readout",
        ),
        (
            lambda: plots.split_curves({"a": E, "b": replace(E, edges=np.array([0.1, 0.2]))}),
            "same highest band, got",
        ),
        (lambda: plots.split_curves({}), "got none"),
        (lambda: plots.split_curves({"mine": E}, whole="image"), "got 'image'"),
        (
            lambda: plots.intervention_figure(replace(CROSSED, conditions=())),
            "effect must name the conditions and pixels",
        ),
    ],
)
def test_figures_name_what_is_wrong(draw: Callable[[], Figure], match: str):
    with pytest.raises(ValueError, match=match):
        draw()


def test_figures_keep_what_has_no_place_on_a_logarithmic_axis():
    nothing = Estimate(np.zeros((3, 2, K)), np.zeros((3, 2, K)), np.ones((3, 2, K)))
    assert_drawn(plots.intervention_figure(replace(CROSSED, energy=nothing)), [1e-3])
    low = replace(TAPS["tokens"].radial, low=np.full((T + 1, 9), -2.0))
    figure = plots.tap_curves({"tokens": replace(TAPS["tokens"], radial=low)}, raw=True)
    assert all(
        np.asarray(path.vertices)[:, 1].min() > 0
        for axes in figure.axes for shade in axes.collections for path in shade.get_paths()
    )  # fmt: skip


def test_tap_curves_leave_a_gap_where_a_mean_is_not_above_0():
    radial = TAPS["tokens"].radial
    value = np.array(radial.value)
    value[:, 3] = -1
    some = replace(TAPS["tokens"], radial=replace(radial, value=value))
    figure = plots.tap_curves({"tokens": some}, raw=True)
    drawn = np.asarray(figure.axes[1].lines[0].get_ydata())
    assert np.flatnonzero(np.isnan(drawn)).tolist() == [2]


def test_band_pictures_share_the_final_bands_scale():
    final = noise(3, 16, 16)
    figure = plots.band_pictures(final / 2, final, EDGES.tolist(), title="t = 0.2")
    for band in split_bands(final[None], EDGES.tolist())[:, 0].numpy():
        scale = np.quantile(np.abs(band), 0.995)
        assert_drawn(figure, np.clip(band / scale / 4 + 0.5, 0, 1))
        assert f"±{scale:.2f}" in words(figure)
    assert "t = 0.2" in words(figure)
    assert words(figure).count("correlation 1.00") == K
