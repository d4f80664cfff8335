"""The workbench: models, runs and what sessions keep, behind four questions that a page asks.

Each answer is an iterator of plain messages, so that a page and a script read the same. Whatever
needs the model takes its turn, one job at a time; a message with the status "waiting" says how many
are before it.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from deco_lab.files import printable
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.spectra.frequencies import ring_frequencies
from deco_lab.workbench.keeping import Saved
from deco_lab.workbench.library import Library, ModelFacts, out_of_memory_as_sentence
from deco_lab.workbench.record import Record
from deco_lab.workbench.sessions import Sessions
from deco_lab.workbench.settings import Settings, to_query
from deco_lab.workbench.turns import Reader, Turns, Waiting
from deco_lab.workbench.watching import Frame, Update, Watch, run

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
        self.turns = Turns()
        self.sessions = Sessions()

    def draw(
        self,
        session: str,
        runs: Sequence[Settings],
        *,
        alone: bool = False,
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
        alone : bool
            Whether what was pinned before is to be unpinned.
        note : str
            A sentence on these runs, said after what each message says.
        reader : Reader, optional
            For who takes long to send on what he has read: a run that nobody reads ends.

        Yields
        ------
        dict
            "run" (a number that rises), "status" ("waiting", "running", "done", "stopped" or
            "refused"), "text" (a sentence), "frames" (those since the last message, see
            `deco_lab.workbench.watching.Frame`) and "begin" (what holds for the whole run; None
            while it waits). The last of a run is none of the first two.
        """
        for settings in runs:
            number = self.sessions.call(session, settings)
            pin = "before" if settings is not runs[0] else "none" if alone else "as it is"
            status = None
            for message in self._draw(session, number, settings, pin, reader):
                status = message["status"]
                text = f"{message['text']} {note}".strip()
                yield message | {"text": text, "run": number}
            if status != "done":
                return

    def _draw(
        self, session: str, number: int, settings: Settings, pin: str, reader: Reader | None
    ) -> Iterator[Message]:
        def is_wanted() -> bool:
            return self.sessions.is_newest(session, number)

        begin: Message = {}

        def work() -> Iterator[Update]:
            nonlocal begin
            model, facts = self.library.entry(settings.model)
            watch = Watch(model, settings)
            others = watch.others.said if watch.others else ""
            begin = _begin(settings, model) | {"pin": pin, "others": others}
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
        try:
            yield _message(status, "Waiting for the model.")
            reader = reader or Reader()
            for updates in self.turns.in_turn(work, is_wanted, reader):
                last = updates[-1]
                if isinstance(last, Waiting):
                    yield _message("waiting", _place(last.place))
                    continue
                status = last.status
                frames = [f for u in updates if isinstance(u, Update) for f in u.frames]
                if frames:
                    self.sessions.show(session, number)
                yield _message(status, last.text, frames, begin)
            if status == "waiting":
                yield _message("stopped", STOPPED_WAITING)
            elif status == "running":
                text = f"Stopped: for {reader.patience:g} s nobody read what was drawn."
                yield _message("stopped", text, begin=begin)
        except ValueError as error:
            yield _message("refused", sentence(error))

    def ask(self, question: Callable[[], Any], name: str = "view") -> Iterator[Message]:
        """Ask one question of a model, in turn, and yield its answer under a name.

        The last message has the answer, or the status "refused" or "stopped".
        """

        def work() -> Iterator[Any]:
            with out_of_memory_as_sentence():
                yield question()

        try:
            yield _message("waiting", "Computing.")
            for answers in self.turns.in_turn(work):
                if isinstance(answers[-1], Waiting):
                    yield _message("waiting", _place(answers[-1].place))
                else:
                    yield {"status": "done", "text": "", name: answers[-1]}
                    return
            yield {"status": "stopped", "text": STOPPED_WAITING}
        except ValueError as error:
            yield {"status": "refused", "text": sentence(error)}

    def loading(self, name: str) -> str:
        """Return in a sentence where `load` will find a model; raises as `Library.size`."""
        size = self.library.size(name)
        where = "from this machine" if size is None else f"{size / 2**20:,.0f} MiB"
        if name.startswith("hf://"):
            where = "downloaded, if it has not been before"
        return f"Loading {name} ({where})."

    def load(self, name: str, image_size: int | None = None) -> ModelFacts:
        """Load a model and return what is known of it, as `Library.load`.

        Not in turn: a download takes minutes, in which others may draw.
        """
        return self.library.load(name, image_size)[1]

    def stop(self, session: str) -> None:
        """End the session's run, within a step; what it kept stays."""
        self.sessions.stop(session)

    def close(self, session: str) -> None:
        """End the session's run and forget what it kept."""
        self.sessions.close(session)

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

    def kept(self, session: str) -> Record:
        """Return the session's last run; ValueError where there is none, or it has not ended."""
        record = self.sessions.kept(session)
        if record is None:
            raise ValueError("there is no run to keep yet; draw one first")
        return record


def sentence(error: Exception) -> str:
    """Return an error's message as one sentence of bounded length: it may quote what was sent."""
    text = printable(" ".join(str(error).split()))
    return f"{text if len(text) <= 300 else text[:300] + ' ...'}."


def _message(
    status: str, text: str, frames: Sequence[Frame] = (), begin: Message | None = None
) -> Message:
    return {"status": status, "text": text, "frames": list(frames), "begin": begin or None}


def _place(place: int) -> str:
    others = "one other job is" if place == 1 else f"{place} other jobs are"
    return f"Waiting for the model: {others} before this."


def _begin(settings: Settings, model: Any) -> Message:
    config = model.config
    names = config.class_names
    classes = [names[label] if names else f"class {label}" for label in settings.class_ids]
    size = config.image_size
    guidance = settings.guidance
    if guidance != "by band":
        guidance = f"guidance {settings.guidance_scale:g}"
    return {
        "title": f"{settings.model}, {', '.join(classes)}, seed {settings.seed}, {guidance}",
        "query": to_query(settings),
        "num_steps": settings.num_steps,
        "num_images": settings.num_images,
        "image_size": size,
        "patch_size": config.patch_size,
        "has_decoder": hasattr(model, "decode"),
        "decompose": settings.decompose,
        "bands": band_names(OCTAVES),
        "frequency": [round(f, 5) for f in ring_frequencies(size, size).tolist()],
    }
