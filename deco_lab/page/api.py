"""Endpoints for programs: the same answers as the page's, through `gradio_client`.

/sample             stream a run, a message at a time
/stop               end this client's run
/decompose          take one predicted image apart
/look_inside        what each block of the DiT adds, and what is drawn of it
/frequency_weights  the loss's tables and weights
/models             what can draw, and what is known of it
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from inspect import Parameter, Signature
from typing import Any, NoReturn

import gradio as gr
from gradio.events import api
from torch import Tensor

from deco_lab.page.assets import session_of
from deco_lab.setting import check_number, check_whole
from deco_lab.workbench import Settings, Workbench, layers
from deco_lab.workbench.bench import Message, sentence
from deco_lab.workbench.inlet import from_data_uri, read_picture
from deco_lab.workbench.loss import weights
from deco_lab.workbench.parts import explain, noised
from deco_lab.workbench.source import photograph, prepare


def endpoints(bench: Workbench) -> None:
    """Add the endpoints to the app that is being built."""

    def sample(request: gr.Request, *values: Any) -> Iterator[dict]:
        """Draw images, a message for each step or few (`deco_lab.workbench.bench.Workbench.draw`).

        The arguments are those of `deco_lab.workbench.Settings`.
        """
        names = [field.name for field in fields(Settings)]
        try:
            settings = Settings(**dict(zip(names, values, strict=True)))
        except ValueError as error:
            _refuse(sentence(error))
        for message in bench.draw(session_of(request), [settings]):
            if message["status"] == "refused":
                _refuse(message["text"])
            yield message | {"frames": [asdict(frame) for frame in message["frames"]]}

    _take_settings(sample)

    def decompose(
        model: str = Settings.model,
        class_id: int = 0,
        t: float = 0.5,
        seed: int = 0,
        picture: str = "",
        whole: str = "predicted",
        condition_reference: str = "others",
        pixel_reference: str = "others",
        effects: str = "main",
        clusters: int = 8,
    ) -> dict:
        """Take apart what a model predicts of a noisy picture (`deco_lab.workbench.PartsView`).

        The picture is a file in base64, or, left empty, a crop of the class's photograph. `whole`
        may be "velocity"; what stands for none of an input is that of other pictures.
        """

        def question() -> Any:
            network = bench.library.get(model)
            return explain(
                network,
                _image(network.config.image_size, class_id, seed, picture),
                class_id,
                t=t,
                seed=seed,
                whole=whole,
                condition_reference=condition_reference,
                pixel_reference=pixel_reference,
                effects=effects,
                num_clusters=clusters,
                name=model,
            )

        return _answer(bench.ask(question))

    def look_inside(
        model: str = Settings.model,
        class_id: int = 0,
        t: float = 0.5,
        seed: int = 0,
        picture: str = "",
    ) -> dict:
        """Look into a model block by block (`deco_lab.workbench.layers.LayersView`).

        It draws a noisy picture, a file in base64 or, left empty, a crop of the class's photograph.
        """

        def question() -> Any:
            network = bench.library.get(model)
            check_number("t", t, 0, 1)
            image = _image(network.config.image_size, class_id, seed, picture)
            return layers.look_inside(network, noised(image, t, seed), t, class_id, name=model)

        return _answer(bench.ask(question))

    def stop(request: gr.Request) -> None:
        """End this client's run, within a step."""
        bench.sessions.stop(session_of(request))

    def models() -> list[dict]:
        """Return the models that can draw at once: name, kind, sizes, what they were trained on."""
        return [asdict(facts) for facts in bench.library.all_facts()]

    def frequency_weights(quality: int = 85, gamma: float = 1.0) -> dict:
        """Return the loss's JPEG tables and weights for a quality and gamma, by channel."""
        try:
            return asdict(weights(quality, gamma))
        except ValueError as error:
            _refuse(sentence(error))

    for function in (sample, decompose, look_inside, models, frequency_weights):
        api(function, api_name=function.__name__, concurrency_limit=None)
    api(stop, api_name="stop", queue=False)


def _image(size: int, class_id: int, seed: int, picture: str) -> Tensor:
    """Return a picture that came in base64, or the seed's crop of a photograph, (3, size, size)."""
    check_whole("seed", seed, 0, 2**31)
    if picture:
        return prepare(read_picture(from_data_uri(picture)), size)
    return photograph(size, class_id, seed)


def _answer(messages: Iterable[Message]) -> dict:
    """Return the view of the last message, or refuse in its words."""
    (*_, message) = messages
    if "view" not in message:
        _refuse(message["text"])
    return asdict(message["view"])


def _refuse(text: str) -> NoReturn:
    raise gr.Error(text, print_exception=False)


def _take_settings(function: Callable[..., Any]) -> None:
    """Say of a function of a request and values that these are the fields of `Settings`."""
    taken = {"request": Parameter("request", Parameter.POSITIONAL_OR_KEYWORD)}
    for field in fields(Settings):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        taken[field.name] = taken["request"].replace(name=field.name, default=default)
        function.__annotations__[field.name] = type(default)
    said = Signature(list(taken.values()), return_annotation=function.__annotations__["return"])
    vars(function)["__signature__"] = said
