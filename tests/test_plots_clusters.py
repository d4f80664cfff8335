from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from deco_lab.plots.clusters import CLUSTER_COLOURS, cluster_maps
from deco_lab.spectra.clusters import TokenClusters

TIMES = (0.3, 0.5, 0.7, 0.9)
P, K = 4, 8
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (2, 3, 3 * P, 5 * P))


def some_clusters(clusters: int = K, **recipe: bool) -> TokenClusters:
    names = ("explained", "between", "regions", "kept", "agreement")
    nothing = {name + end: np.zeros(4) for name in names for end in ("", "_low", "_high")}
    return TokenClusters(
        times=np.array(TIMES),
        maps=RNG.integers(0, clusters, (4, 2, 3, 5)),
        centres=np.zeros((4, clusters, 6)),
        tap="condition",
        patch_size=P,
        count=2,
        recipe=recipe,
        **nothing,
    )


def test_cluster_maps_draw_each_token_over_its_patch():
    found = some_clusters()
    figure = cluster_maps(found, IMAGES, image=1)
    picture, *panels = figure.axes[:5]
    shown = picture.images[0]
    np.testing.assert_allclose(
        np.asarray(shown.get_array()), IMAGES[1].transpose(1, 2, 0) / 2 + 0.5
    )
    for axes, t, labels in zip(panels, TIMES, found.maps[:, 1], strict=True):
        drawn = axes.images[0]
        assert axes.get_title() == f"t = {t:g}"
        assert tuple(drawn.get_extent()) == tuple(shown.get_extent())
        assert drawn.get_interpolation() == "nearest"
        colours = drawn.to_rgba(np.asarray(drawn.get_array()))[..., :3]
        expected = np.array([to_rgb(colour) for colour in CLUSTER_COLOURS])[labels]
        np.testing.assert_allclose(colours, expected, atol=1 / 255)


def test_cluster_maps_say_tap_clusters_and_patch():
    figure = cluster_maps(some_clusters(), IMAGES)
    title = figure.get_suptitle()
    assert title.startswith("8 clusters of the condition, silu(time + tokens)\na square")
    assert title.endswith("is a patch of 4 x 4 pixels")
    centred = cluster_maps(some_clusters(remove_image_mean=True), IMAGES).get_suptitle()
    assert "less the image's mean" in centred
    tokens = cluster_maps(replace(some_clusters(), tap="tokens"), IMAGES).get_suptitle()
    assert tokens.startswith("8 clusters of the DiT's last tokens")


def test_cluster_maps_draw_without_a_warning():
    assert cluster_maps(some_clusters(remove_image_mean=True), IMAGES)._repr_png_()  # type: ignore[attr-defined]


def test_cluster_colours_grow_lighter():
    linear = np.array([to_rgb(colour) for colour in CLUSTER_COLOURS]) ** 2.2
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()


def test_cluster_maps_of_few_clusters_reach_from_dark_to_light():
    figure = cluster_maps(some_clusters(clusters=2), IMAGES)
    colours = figure.axes[1].images[0].to_rgba(np.array([[0, 1]]))[0, :, :3]
    np.testing.assert_allclose(colours, [to_rgb(CLUSTER_COLOURS[k]) for k in (0, -1)], atol=1 / 255)


def test_cluster_maps_name_what_is_wrong():
    found = some_clusters()
    with pytest.raises(ValueError, match="images must be the 2 of the maps, 12 x 20 pixels each"):
        cluster_maps(found, IMAGES[:1])
    with pytest.raises(ValueError, match="image must be from 0 to 1, got 2"):
        cluster_maps(found, IMAGES, image=2)
    with pytest.raises(ValueError, match=r"at most 8 clusters.* got 9"):
        cluster_maps(some_clusters(clusters=9), IMAGES)
