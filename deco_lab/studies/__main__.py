"""`python -m deco_lab.studies STUDY MODEL`: ask a model one question, and keep figure and numbers.

    python -m deco_lab.studies response tiny --times 0.3 0.5 --out response.zip

The archive holds the figure as SVG, and each result for `deco_lab.spectra.load_result`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from deco_lab import cli
from deco_lab.evaluation.samples import ModelOrder
from deco_lab.files import check_writable
from deco_lab.setting import Setting
from deco_lab.studies import COUNT, STUDIES, TIMES, crops_for, study

PROGRAM = "python -m deco_lab.studies"


@dataclass(frozen=True, kw_only=True)
class Order(ModelOrder):
    """Ask a model one question about frequencies, and keep the figure and the numbers."""

    study: Annotated[Positional[str], Setting("The question.", choices=STUDIES)]
    model: Annotated[Positional[str], Setting("A bundled model, a file, or hf://...")] = "tiny"
    times: Annotated[tuple[float, ...], Setting(
        "Where it is asked, in [0, 1]: 0 is noise.", low=0, high=1, counts=(1, 100),
        what="at least one t",
    )] = TIMES  # fmt: skip
    count: Annotated[int, Setting("Images it is asked about.", low=1, high=10_000)] = COUNT
    seed: Annotated[int, Setting("Of images and noise.", low=0, high=2**31)] = 0
    out: Annotated[Path | None, Setting("A .zip file; named by study and model if not given.")] = (
        None
    )


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    cli.run(Order, PROGRAM, _ask, words)


def _ask(order: Order) -> None:
    out = order.out or Path(f"{order.study}-{Path(order.model).stem}.zip")
    if out.suffix != ".zip":
        raise ValueError(f"out must be a .zip file, got {out}; name it {out.name}.zip")
    check_writable(out.parent)
    model = order.load(order.model)
    crops = crops_for(model, order.count, order.times, seed=order.seed)
    print(STUDIES[order.study].question, file=sys.stderr, flush=True)
    study(order.study, model, crops).save(out)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
