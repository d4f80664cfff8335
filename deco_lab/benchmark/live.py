"""What the app's live panels are sent of a run, without the browser that draws them.

As in the app, models are loaded fast and one core is left to server and browser: PyTorch takes the
others, drawing alone or not.
"""

import json
import os
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from deco_lab.benchmark.measure import Timed, synchronizer
from deco_lab.fast import share_one_heap
from deco_lab.sampling import sample
from deco_lab.workbench import Library, Settings, Workbench

WAYS = ("drawn alone", "with all spectra", "with spectra and parts")
"""By itself, and beside what the Sample tab shows without and with its split into parts."""


class LiveRunner:
    """The workbench behind the app, and one run, drawn in one of WAYS.

    Parameters
    ----------
    device : torch.device
        Where it draws.
    settings : Settings
        What it draws.
    """

    def __init__(self, device: torch.device, settings: Settings) -> None:
        share_one_heap()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
        self._settings = settings
        self._bench = Workbench(Library(settings.model, device=str(device), fast=True))
        wait = synchronizer(device)
        runs = (self._alone, partial(self._watched, False), partial(self._watched, True))
        self._timed = {way: Timed(run, wait) for way, run in zip(WAYS, runs, strict=True)}

    def run(self, way: str) -> float:
        """Draw once and return the seconds that it took."""
        return self._timed[way]()

    def result(self, way: str) -> Tensor:
        """Return the images of the last run of that way, (B, 3, H, W), on the CPU."""
        return self._timed[way].result.cpu()

    def _alone(self) -> Tensor:
        model = self._bench.library.get(self._settings.model)
        return sample(model, **self._settings.sampling_arguments())

    def _watched(self, decompose: bool) -> Tensor:
        settings = replace(self._settings, decompose=decompose)
        for message in self._bench.draw("benchmark", [settings]):
            json.dumps(message, default=vars)  # what the page is sent
        return self._bench.kept("benchmark").images
