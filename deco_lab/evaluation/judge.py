"""The judge: what real crops look like, learned once, and the figures of samples against it.

    judge = Judge(training_crops, fresh_crops)
    figures = judge(images, class_ids)         samples
    figures = judge.real(per_class)            other fresh crops in the samples' place: the floor

The classifier is trained on training crops and tested on fresh ones; spectra and features are
compared with fresh ones; only the nearest crop is looked for among the training crops. Samples are
rounded to 8 bits first, as the crops are. All that is drawn depends only on the seed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor

from deco_lab.data import CropSource
from deco_lab.evaluation.distances import (
    class_spectral_errors,
    covariance,
    frechet_to_gaussian,
    nearest_distances,
    radial_powers,
    spectral_error,
)
from deco_lab.evaluation.features import (
    GREY_LEVELS,
    as_stored,
    coefficient_energy,
    fit_classifier,
    gradient_features,
    image_features,
)
from deco_lab.spectra import Estimate, bootstrap
from deco_lab.spectra.bootstrap import Groups, count_groups, group_numbers

Labels = NDArray[np.int64]

_SEED_OF = {"classifier": 1, "reference": 2, "real": 3, "nearest": 4}
"""Offsets that keep the judge's draws apart."""
_FAR = 3_000_000_000
"""Start of the judge's seeds: training steps count up from seed * 0x9E3779B1 mod 2**32."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How near a set of images is to fresh crops.

    The 95% intervals are over the images or their groups within these classes, with the classifier
    and the fresh crops as they are: they know nothing of other classes, nor of other trainings.
    Wilson's for shares, with as many trials as there are groups; bootstraps for the others.
    """

    class_accuracy: Estimate
    """Share of images that the classifier puts into their class."""
    strict_class_accuracy: Estimate
    """The same with a classifier that sees energies down to one grey level squared."""
    gradient_class_accuracy: Estimate
    """The same with one that sees no spectrum: which way edges run, and colours."""
    spectral_error: Estimate
    """Mean over classes and rings of the difference of radial power, in dB."""
    frechet_distance: Estimate
    """Of the features; larger for fewer images, so compare sets of one size."""
    nearest_crop: Estimate
    """Mean over images of the distance to the nearest training crop, in grey levels."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """`Figures` over all, by class, and by frequency."""

    figures: Figures
    class_ids: tuple[int, ...]
    """The classes, in the order of the first axis of what follows."""
    confusion: NDArray[np.int64]
    """(classes, num_classes), images of a class by the class they were put into."""
    class_spectral_error: NDArray[np.float64]
    """(classes,), dB."""
    class_nearest_crop: NDArray[np.float64]
    """(classes,), grey levels."""
    frequency: NDArray[np.float64]
    """(rings,), cycles per pixel."""
    power_ratio: NDArray[np.float64]
    """(classes, rings), 10 log10 of class-mean radial power over that of fresh crops, dB."""
    coefficient_ratio: NDArray[np.float64]
    """(3, 8, 8), 10 log10 of the mean energy of each DCT coefficient of Y, Cb and Cr over that of
    fresh crops, dB."""

    def to_dict(self) -> dict[str, object]:
        """Return everything as JSON-ready values."""
        arrays = {name: value for name, value in vars(self).items() if name != "figures"}
        rounded = {name: np.asarray(value).round(6).tolist() for name, value in arrays.items()}
        return asdict(self.figures) | rounded


def _proportion(right: NDArray[np.bool_], trials: int) -> Estimate:
    """Return a share with Wilson's interval, which the bootstrap of 1 or 0 would leave empty."""
    share, z = float(right.mean()), 1.959964
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * (share * (1 - share) / trials + (z / (2 * trials)) ** 2) ** 0.5
    half /= 1 + z**2 / trials
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), count=len(right))


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed((_FAR + 8 * seed + _SEED_OF[purpose]) % 2**32)


class Judge:
    """Compares images with fresh crops, class by class.

    Parameters
    ----------
    training : CropSource
        What the classifier learns from, and where copies are looked for.
    fresh : CropSource
        What images are compared with: of held-out pictures, or of the same photographs where there
        are no others.
    class_ids : sequence of int, optional
        The classes to judge; all when not given.
    training_per_class, reference_per_class, nearest_per_class : int
        Crops of each class for the classifier, for spectra and features, and to look for copies in.
    resamples : int
        Of the bootstrap.
    seed : int
        Of all crops that are drawn.

    Raises
    ------
    ValueError
        Where training and fresh differ in size or classes, or class_ids are not known ones.
    """

    def __init__(
        self,
        training: CropSource,
        fresh: CropSource,
        *,
        class_ids: tuple[int, ...] | None = None,
        training_per_class: int = 250,
        reference_per_class: int = 200,
        nearest_per_class: int = 1000,
        resamples: int = 200,
        seed: int = 0,
    ) -> None:
        for name in ("image_size", "num_classes"):
            if getattr(training, name) != getattr(fresh, name):
                raise ValueError(
                    f"fresh must have the {name} of training, {getattr(training, name)}, got "
                    f"{getattr(fresh, name)}; cut both from pictures of the same classes"
                )
        known = range(fresh.num_classes)
        class_ids = tuple(known if class_ids is None else class_ids)
        different = set(class_ids) & set(known)
        if not class_ids or len(different) < len(class_ids):
            raise ValueError(
                f"class_ids must be different labels from 0 to {fresh.num_classes - 1}, at least "
                f"one, got {class_ids}"
            )
        self.class_ids = class_ids
        self.num_classes = fresh.num_classes
        self.resamples = resamples
        self.seed = seed
        self._fresh, self._training = fresh, training
        self._nearest_per_class = nearest_per_class
        images, labels, _ = self._draw(training, "classifier", training_per_class)
        self._classifier = fit_classifier(image_features(images), labels)
        self._strict_classifier = fit_classifier(image_features(images, floor=1.0), labels)
        self._gradient_classifier = fit_classifier(gradient_features(images), labels)
        images, self._labels, _ = self._draw(fresh, "reference", reference_per_class)
        reference = image_features(images)
        self._mean, self._covariance = reference.mean(0), covariance(reference)
        self._power = radial_powers(images)
        self._energy = coefficient_energy(images).mean(0).numpy()

    def _draw(
        self, crops: CropSource, purpose: str, per_class: int
    ) -> tuple[Tensor, Labels, Tensor | None]:
        """Return crops of each class in order, their labels and pictures."""
        labels = torch.tensor(self.class_ids).repeat_interleave(per_class)
        batch = crops.sample(len(labels), _generator(self.seed, purpose), labels)
        return as_stored(batch.images), labels.numpy(), batch.pictures

    def real(self, per_class: int) -> Findings:
        """Return what other fresh crops, `per_class` of each class, get: the floor.

        They are of the same pictures as those that are compared with: where a class has few, what
        differs from picture to picture is missing from this floor. Intervals are over pictures;
        where every class has one, such as the bundled photographs, over crops of these pictures.
        """
        images, labels, pictures = self._draw(self._fresh, "real", per_class)
        one_each = pictures is not None and len(pictures.unique()) == len(self.class_ids)
        return self(images, labels, groups=None if one_each else pictures)

    def __call__(
        self, images: Tensor, class_ids: Sequence[int] | Labels, *, groups: Groups | None = None
    ) -> Findings:
        """Return the figures of images.

        Parameters
        ----------
        images : Tensor
            (M, 3, H, W), in [-1, 1]; values outside are clipped, as when a picture is stored.
        class_ids : array-like of int
            (M,), what each should show; at least one image of each of the judge's classes.
        groups : sequence or array, optional
            (M,), as for `group_numbers`: of crops, the picture that each was cut from. None
            (default) takes every image by itself, as samples are, each from noise of its own.

        Raises
        ------
        ValueError
            Where images are not finite, the labels are not those of the judge, or groups are not
            one for each image.
        """
        labels = np.asarray(class_ids, dtype=np.int64)
        if not images.isfinite().all():
            raise ValueError("images must be finite, got NaN or infinite values; sample again")
        if len(labels) != len(images) or set(labels.tolist()) != set(self.class_ids):
            raise ValueError(
                f"class_ids must label each of {len(images)} images and hold all of the classes "
                f"{self.class_ids}, got {labels.tolist()}; sample every class"
            )
        numbers = group_numbers(groups, len(images))
        trials = count_groups(numbers)
        images = as_stored(images)
        seen = image_features(images)
        predicted = self._classifier.predict(seen)
        strictly = self._strict_classifier.predict(image_features(images, floor=1.0))
        by_gradients = self._gradient_classifier.predict(gradient_features(images))
        power = radial_powers(images)
        nearest = self._nearest(images, labels)

        drawn = {"groups": numbers, "resamples": self.resamples, "seed": self.seed}
        estimate = partial(bootstrap, labels=labels, **drawn)
        figures = Figures(
            class_accuracy=_proportion(predicted == labels, trials),
            strict_class_accuracy=_proportion(strictly == labels, trials),
            gradient_class_accuracy=_proportion(by_gradients == labels, trials),
            spectral_error=estimate(
                lambda i: spectral_error(power[i], labels[i], self._power, self._labels)
            ),
            frechet_distance=estimate(
                lambda i: frechet_to_gaussian(seen[i], self._mean, self._covariance)
            ),
            nearest_crop=estimate(lambda i: nearest[i].mean()),
        )
        classes = np.unique(labels)
        confusion = confusion_matrix(labels, predicted, labels=range(self.num_classes))
        ratio = class_spectral_errors(power, labels, self._power, self._labels)
        # Each class counts alike, whatever its number of images.
        energy = np.mean([coefficient_energy(images[labels == c]).mean(0) for c in classes], axis=0)
        return Findings(
            figures=figures,
            class_ids=tuple(classes.tolist()),
            confusion=confusion[classes],
            class_spectral_error=np.abs(ratio).mean(1),
            class_nearest_crop=np.array([nearest[labels == c].mean() for c in classes]),
            frequency=np.arange(power.shape[1]) / min(images.shape[-2:]),
            power_ratio=ratio,
            coefficient_ratio=10 * np.log10((energy + 1e-6) / (self._energy + 1e-6)),
        )

    def _nearest(self, images: Tensor, labels: Labels) -> NDArray[np.float64]:
        """Return each image's distance to the nearest training crop of its class, grey levels."""
        distance = np.empty(len(images))
        for label in np.unique(labels):
            generator = _generator(self.seed + int(label), "nearest")
            ids = torch.full((self._nearest_per_class,), int(label))
            crops = self._training.sample(len(ids), generator, ids).images
            chosen = labels == label
            distance[chosen] = nearest_distances(images[chosen], crops) * GREY_LEVELS
        return distance
