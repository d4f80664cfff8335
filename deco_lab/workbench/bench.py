"""The workbench: models, runs and what sessions keep, behind two questions that a page asks.

Each answer is an iterator of plain messages, so that a page and a script read the same. Whatever
needs the model takes its turn, one job at a time; a message with the status "waiting" says how many
are before it.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from deco_lab.files import printable
from deco_lab.sampling import Start
from deco_lab.setting import RuleError
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.spectra.frequencies import ring_frequencies
from deco_lab.workbench.frames import Update
from deco_lab.workbench.job_queue import JobQueue, Reader, Waiting
from deco_lab.workbench.keeping import Saved
from deco_lab.workbench.library import Library, out_of_memory_as_sentence
from deco_lab.workbench.pictures import plain, to_pictures
from deco_lab.workbench.record import Paused
from deco_lab.workbench.resuming import drawn_state, picture_start, said_of_start
from deco_lab.workbench.sessions import Sessions
from deco_lab.workbench.settings import Settings, to_query
from deco_lab.workbench.source import prepare
from deco_lab.workbench.sweeping import Cell, Grid, draw_cells, gather, word_of
from deco_lab.workbench.watching import Watch, run

Message = dict[str, Any]
"""Strings, numbers, and frozen dataclasses of them (`json.dumps(message, default=vars)`)."""

UPDATES_A_SECOND = 22
"""Frames of steps that are faster than this travel together."""

STOPPED_WAITING = "Stopped while it waited."


class Workbench:
    """Everything that a page or a script may ask of the models.

    Parameters
    ----------
    library : Library
        The models.
    time_limit : float
        Seconds after which no further step of a run begins.
    """

    def __init__(self, library: Library, time_limit: float = 600) -> None:
        self.library = library
        self.time_limit = time_limit
        self.queue = JobQueue()
        self.sessions = Sessions()

    def draw(
        self,
        session: str,
        runs: Sequence[Settings],
        *,
        unpin: bool = False,
        note: str = "",
        reader: Reader | None = None,
    ) -> Generator[Message, None, None]:
        """Draw runs one after the other; the newest call of a session ends those before it.

        Parameters
        ----------
        session : str
            Who asks.
        runs : sequence of Settings
            Usually one; of several, each is to be pinned before the next begins.
        unpin : bool
            Whether what was pinned before is to be unpinned.
        note : str
            A sentence on these runs, said after what each message says.
        reader : Reader, optional
            For who takes long to send on what he has read: a run that nobody reads ends.

        Yields
        ------
        dict
            "run" (a number that rises), "status" ("waiting", "running", "done", "stopped" or
            "refused", see `refusal`), "text" (a sentence), "frames" (those since the last message,
            see `deco_lab.workbench.frames.Frame`) and "begin" (what holds for the whole run; None
            while it waits). The last of a run is none of the first two. Where a run has come to
            its end it also has "settled", see `deco_lab.workbench.frames.Update`.
        """
        for settings in runs:
            of_start = said_of_start(settings)
            number = self.sessions.call(session, settings)
            pin = "before" if settings is not runs[0] else "none" if unpin else "as it is"
            last: Message = {}
            for last in self._draw(session, number, settings, pin, reader or Reader()):
                words = [last["text"], "" if last["status"] == "refused" else of_start, note]
                text = " ".join(filter(None, words))
                yield {"frames": [], "begin": None} | last | {"text": text, "run": number}
            if last["status"] != "done":
                return

    def _draw(
        self, session: str, number: int, settings: Settings, pin: str, reader: Reader
    ) -> Generator[Message, None, None]:
        def is_wanted() -> bool:
            return self.sessions.is_newest(session, number)

        begin: Message = {}

        def work() -> Generator[Update, None, None]:
            model, facts = self.library.entry(settings.model)
            start = self._start(session, settings, model.config.image_size, is_wanted)
            if start is None and settings.start_from != "noise":
                yield Update("stopped", "Stopped before the first step.", [])
                return
            watch = Watch(model, settings, start)
            others = watch.others.said if watch.others else ""
            begin.update(_begin(settings, model), pin=pin, others=others)
            begin["num_steps"] = watch.num_steps
            try:
                with out_of_memory_as_sentence():
                    yield from run(
                        watch,
                        is_wanted=is_wanted,
                        time_limit=self.time_limit,
                        pause=1 / UPDATES_A_SECOND,
                    )
            finally:
                if watch.has_begun:
                    self.sessions.keep(session, number, watch.record(asdict(facts)))

        status = "waiting"
        yield {"status": status, "text": "Waiting for the model."}
        try:
            for updates in self.queue.in_turn(work, is_wanted, reader):
                status = updates[-1].status
                frames = [f for u in updates if isinstance(u, Update) for f in u.frames]
                if frames:
                    self.sessions.show(session, number)
                said = {"status": status, "text": updates[-1].text, "frames": frames}
                if isinstance(updates[-1], Update) and updates[-1].settled:
                    said["settled"] = updates[-1].settled
                yield said | {"begin": begin or None}
        except ValueError as error:
            yield refusal(error)
        else:
            if status == "waiting":
                yield {"status": "stopped", "text": STOPPED_WAITING}
            elif status == "running":
                text = f"Stopped: for {reader.patience:g} s nobody read what was drawn."
                yield {"status": "stopped", "text": text, "begin": begin}

    def sweep(
        self, session: str, grid_of: Callable[[], Grid], labels: Mapping[str, str]
    ) -> Generator[Message, None, None]:
        """Draw a sweep; the session's next run, or its stop, ends it. What was drawn is kept.

        Parameters
        ----------
        session : str
            Who asks.
        grid_of : callable
            Returns what to draw, or raises ValueError, which is refused in a sentence.
        labels : mapping
            What to call settings, by name.

        Yields
        ------
        dict
            "run", "status" and "text" as `draw`; "grid" with "x" and "y", each the "label" and the
            "values", None before there is one; and "cells", those since the last message, of the
            last message all: "row", "column", "pictures", "bands" and "nfe".
        """
        number, drawn, shown = self.sessions.call(session), [], []
        about: Message = {"run": number, "cells": [], "grid": None}
        last: Message = {"status": "waiting", "text": "Waiting for the model."}
        yield about | last
        try:
            grid = grid_of()
            sides = zip("xy", (grid.x, grid.y), strict=True)
            about["grid"] = {
                axis: {"label": labels.get(name, name), "values": [word_of(v) for v in values]}
                for axis, (name, values) in sides
            }
            count = grid.shape[0] * grid.shape[1]

            facts = asdict(self.library.facts(grid.settings.model))

            def is_wanted() -> bool:
                return self.sessions.is_newest(session, number)

            def start_of(settings: Settings, model: Any) -> Start | Paused | None:
                return self._start(session, settings, model.config.image_size, is_wanted)

            def work() -> Generator[Cell, None, None]:
                cells = draw_cells(
                    grid,
                    self.library.get,
                    start_of,
                    is_wanted=is_wanted,
                    time_limit=self.time_limit,
                )
                try:
                    with out_of_memory_as_sentence():
                        for cell in cells:
                            drawn.append(cell)
                            yield cell
                finally:
                    if drawn:
                        self.sessions.keep_sweep(session, gather(grid, drawn, {"model": facts}))

            for answers in self.queue.in_turn(work, is_wanted):
                cells = [_shown(answer) for answer in answers if isinstance(answer, Cell)]
                shown += cells
                text = f"Drawing: {len(shown)} of {count} cells."
                last = {"status": "running", "text": text, "cells": cells}
                if isinstance(answers[-1], Waiting):
                    last = {"status": answers[-1].status, "text": answers[-1].text}
                yield about | last
        except ValueError as error:
            yield about | refusal(error)
            return
        if last["status"] == "waiting":
            yield about | {"status": "stopped", "text": STOPPED_WAITING}
        elif len(shown) == count:
            yield about | {"status": "done", "text": f"Done: {count} cells.", "cells": shown}
        else:
            text = f"Stopped: {len(shown)} of {count} cells are kept."
            yield about | {"status": "stopped", "text": text, "cells": shown}

    def _start(
        self, session: str, settings: Settings, size: int, is_wanted: Callable[[], bool]
    ) -> Start | Paused | None:
        """Return what a run starts from, for images of a size; None is noise, or no longer wanted.

        A run's step that is gone on from is kept, so that another knob goes on from it at once.
        """
        if settings.start_from == "own picture":
            return picture_start(settings, prepare(self.sessions.picture(session), size))
        if not settings.legs:
            return None
        state = self.sessions.state(session, settings.origin)
        if state is None:
            deadline = time.monotonic() + self.time_limit
            for leg in settings.legs:
                model = self.library.get(leg.settings.model)
                if state is None:
                    start = self._start(session, leg.settings, model.config.image_size, is_wanted)
                else:
                    start = self._on_from(session, leg.settings, state)
                state = drawn_state(leg, model, start, is_wanted, deadline)
                if state is None:
                    return None
            assert state is not None
        if state.x.shape[-1] != size:
            raise RuleError(
                "model",
                f"must draw images of {state.x.shape[-1]} pixels, as the run that it goes on from "
                f"has, got {settings.model}, which draws {size}; start from noise",
            )
        self.sessions.keep_state(session, settings.origin, state)
        return self._on_from(session, settings, state)

    def _on_from(self, session: str, settings: Settings, state: Paused) -> Start | Paused:
        """Return a state, with the picture of which some stays, if any does."""
        if not settings.mask:
            return state
        image = prepare(self.sessions.picture(session), state.x.shape[-1])
        return picture_start(settings, image, state)

    def ask(
        self, question: Callable[[], Any], name: str = "view"
    ) -> Generator[Message, None, None]:
        """Ask one question of a model, in turn, and yield its answer under a name.

        The last message has the answer, or the status "refused" or "stopped".
        """

        def work() -> Generator[Message, None, None]:
            with out_of_memory_as_sentence():
                yield {"status": "done", "text": "", name: question()}

        last: Message = {"status": "waiting", "text": "Computing."}
        yield last
        try:
            for *_, answer in self.queue.in_turn(work):
                last = answer
                if isinstance(answer, Waiting):
                    last = {"status": answer.status, "text": answer.text}
                yield last
        except ValueError as error:
            last = refusal(error)
            yield last
        if last["status"] == "waiting":
            yield {"status": "stopped", "text": STOPPED_WAITING}

    def change_since(self, saved: Saved) -> str:
        """Return in a sentence that a picture was drawn by other weights; "" if it was not.

        Raises ValueError where there is no model of that name.
        """
        name = saved.settings.model
        if saved.model.get("weights") == self.library.facts(name).weights:
            return ""
        return (
            f"The picture was drawn by other weights than those of {name} here: this run differs."
        )


def _shown(cell: Cell) -> Message:
    """Return a cell as a page shows it."""
    return {
        "row": cell.row,
        "column": cell.column,
        "pictures": to_pictures(cell.images),
        "bands": plain(cell.bands),
        "nfe": cell.nfe,
    }


def refusal(error: ValueError) -> Message:
    """Return the message that something is refused, in the words of arguments.

    Where one broke its rule, "wrong" has its "names", the "rule" that follows them in the sentence,
    and the "place" of several numbers or None: a form says its labels instead.
    """
    said: Message = {"status": "refused", "text": sentence(error)}
    if isinstance(error, RuleError):
        rule = sentence(error.rule)
        said["wrong"] = {"names": list(error.names), "rule": rule, "place": error.place}
    return said


def sentence(error: Exception | str) -> str:
    """Return an error's message as one sentence of bounded length: it may quote what was sent."""
    text = printable(" ".join(str(error).split()))
    return f"{text if len(text) <= 300 else text[:300] + ' ...'}."


def _begin(settings: Settings, model: Any) -> Message:
    config = model.config
    names = config.class_names
    drawn = dict.fromkeys(settings.labels)  # of more classes than images, some are not
    classes = [names[label] if names else f"class {label}" for label in drawn]
    size = config.image_size
    guidance = settings.guidance
    if guidance != "by band":
        guidance = f"guidance {settings.guidance_scale:g}"
    return {
        "title": f"{settings.model}, {', '.join(classes)}, seed {settings.seed}, {guidance}",
        "query": to_query(settings),
        "num_images": settings.num_images,
        "guided_from": settings.guided_from,
        "changed": list(settings.changed()),
        "patch_size": config.patch_size,
        "has_decoder": hasattr(model, "decode"),
        "decompose": settings.decompose,
        "bands": band_names(OCTAVES),
        "frequency": [round(f, 5) for f in ring_frequencies(size, size).tolist()],
    }
