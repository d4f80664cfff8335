"""Moved to `states`."""

from deco_lab.spectra.states import check_batch_size, device_of, check_labels  # noqa
from deco_lab.spectra import states as _s


def check_crops(images, class_ids, times, seed, model, batch_size=16):  # noqa
    return _s.check_crops(images, class_ids, times, seed, model, batch_size)
