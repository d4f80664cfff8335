"""The workbench: messages of runs, what is kept of them, and questions, one job at a time."""

import json
import threading
import time
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
import torch
from PIL import Image
from test_workbench_watching import DIT, random_model

import deco_lab
from deco_lab.checkpoints import save
from deco_lab.sampling import Start
from deco_lab.workbench import Library, Settings, Workbench, from_query
from deco_lab.workbench.examples import EXAMPLES
from deco_lab.workbench.job_queue import Reader
from deco_lab.workbench.keeping import settings_from_png, to_png
from deco_lab.workbench.source import prepare

SHORT = Settings(num_images=1, num_steps=3, decompose=False)


@pytest.fixture(scope="module")
def bench():
    return Workbench(Library("tiny", device="cpu"))


def begun(bench, session, reader=None, num_steps=1000, **changes):
    """A run whose first step has been drawn."""
    running = bench.draw(session, [replace(SHORT, num_steps=num_steps, **changes)], reader=reader)
    while next(running)["status"] != "running":
        pass
    return running


def statuses(messages):
    return [message["status"] for message in messages]


def test_draw_gives_every_frame_once_and_keeps_the_run(bench):
    messages = list(bench.draw("a", [SHORT], note="Look at this."))
    assert statuses(messages)[0] == "waiting"
    assert statuses(messages)[-1] == "done"
    assert all(message["text"].endswith(" Look at this.") for message in messages)
    assert messages[-1]["text"].startswith("Done: 3 steps, ")
    frames = [frame for message in messages for frame in message["frames"]]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    record = bench.sessions.kept("a")
    expected = deco_lab.sample(bench.library.get("tiny"), **SHORT.sampling_arguments())
    assert torch.equal(record.images, expected)
    assert record.model["name"] == "tiny"
    assert len(record.model["weights"]) == 16
    json.dumps(messages, default=vars, allow_nan=False)


def test_draw_names_the_classes_that_it_draws():
    bench = Workbench(Library("tiny", device="cpu"))
    asked = replace(SHORT, model="fields", class_ids=(2, 12))  # of which the model knows five
    *_, last = bench.draw("a", [asked])
    assert last["status"] == "done"
    named = bench.library.facts("fields").class_names[2]
    assert last["begin"]["title"] == f"fields, {named}, seed 0, guidance 3"


def test_draw_pins_the_first_of_two_runs(bench):
    messages = list(bench.draw("a", [SHORT, replace(SHORT, seed=1)], unpin=True))
    begins = {message["run"]: message["begin"] for message in messages if message["begin"]}
    assert [begin["pin"] for begin in begins.values()] == ["none", "before"]
    queries = [dict(parse_qsl(begin["query"])) for begin in begins.values()]
    assert [from_query(query) for query in queries] == [SHORT, replace(SHORT, seed=1)]
    assert bench.sessions.kept("a").settings.seed == 1


def test_change_since_tells_other_weights_of_the_same_name(bench):
    list(bench.draw("a", [SHORT]))
    record = bench.sessions.kept("a")
    assert bench.change_since(settings_from_png(to_png(record))) == ""
    other = replace(record, model=record.model | {"weights": "0123456789abcdef"})
    assert bench.change_since(settings_from_png(to_png(other))) == (
        "The picture was drawn by other weights than those of tiny here: this run differs."
    )


def test_draw_refuses_in_a_sentence_and_keeps_what_was(bench):
    list(bench.draw("a", [SHORT]))
    messages = list(bench.draw("a", [replace(SHORT, model="no such")]))
    assert messages[-1]["status"] == "refused"
    assert messages[-1]["text"].startswith("model must be one of tiny, tiny-fm, tiny-dit, fields")
    assert bench.sessions.kept("a").settings == SHORT


def test_draw_keeps_a_run_whose_model_has_left_library_and_folder(tmp_path):
    for name in ("old", "new"):
        save(random_model(DIT), tmp_path / f"{name}.safetensors")
    bench = Workbench(Library("tiny", device="cpu", folder=tmp_path))
    running = begun(bench, "a", model="old.safetensors", num_steps=200)
    newcomer = bench.library.get("new.safetensors")  # takes the place of the other
    (tmp_path / "old.safetensors").unlink()
    assert statuses(running)[-1] == "done"
    assert bench.sessions.kept("a").model["name"] == "old.safetensors"
    assert "old.safetensors" not in bench.library.names()
    assert bench.library.get("new.safetensors") is newcomer


def test_draw_is_ended_by_the_sessions_next(bench):
    old = begun(bench, "a")
    assert statuses(bench.draw("a", [SHORT]))[-1] == "done"
    *_, last = old
    assert last["status"] == "stopped"
    assert last["text"].startswith("Stopped at step ")
    assert bench.sessions.kept("a").settings == SHORT


def test_draw_says_so_where_nobody_read(bench):
    running = begun(bench, "a", reader=Reader(0.2))
    time.sleep(1)
    *_, last = running
    said = "Stopped: for 0.2 s nobody read what was drawn."
    assert (last["status"], last["text"]) == ("stopped", said)
    assert 0 < bench.sessions.kept("a").num_steps < 1000


def test_draw_stopped_while_it_waits_says_so(bench):
    running = begun(bench, "a")
    waiting = bench.draw("b", [SHORT])
    assert next(waiting)["text"] == "Waiting for the model."
    assert next(waiting)["text"] == "Waiting for the model: one other job is before this."
    bench.sessions.stop("b")
    *_, last = waiting
    assert (last["status"], last["text"]) == ("stopped", "Stopped while it waited.")
    bench.sessions.stop("a")
    list(running)


def test_draw_ends_where_memory_ends_and_the_next_draws(bench, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(bench.library.get("tiny"), "decode", no_memory)
        messages = list(bench.draw("a", [SHORT]))
    assert messages[-1]["status"] == "refused"
    assert "memory" in messages[-1]["text"]
    assert statuses(bench.draw("a", [SHORT]))[-1] == "done"


def test_closed_session_frees_the_model_and_is_forgotten(bench):
    running = begun(bench, "c")
    bench.sessions.close("c")
    done = threading.Event()
    threading.Thread(target=lambda: (list(bench.draw("d", [SHORT])), done.set())).start()
    assert done.wait(10)
    with pytest.raises(ValueError, match="there is no run yet; draw one first"):
        bench.sessions.kept("c")
    assert statuses(running)[-1] == "stopped"


def test_ask_gives_the_answer_under_its_name_or_refuses_in_a_sentence(bench):
    (*_, message) = bench.ask(lambda: Settings(seed=5), "settings")
    assert message == {"status": "done", "text": "", "settings": Settings(seed=5)}
    (*_, message) = bench.ask(lambda: Settings(seed=-5))
    assert message == {
        "status": "refused",
        "text": "seed must be a whole number of at least 0, got -5.",
        "wrong": {
            "names": ["seed"],
            "rule": "must be a whole number of at least 0, got -5.",
            "place": None,
        },
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_draw_from_the_same_noise_what_is_compared(example):
    assert 1 <= len(example.runs) <= 2
    assert len({run.seed for run in example.runs}) == 1
    assert len({run.class_ids for run in example.runs}) == 1
    assert len(set(example.runs)) == len(example.runs)


def test_draw_starts_from_the_sessions_own_picture(bench):
    settings = replace(SHORT, num_steps=10, start_from="own picture", start_t=0.7)
    (*_, message) = bench.draw("nobody", [settings])
    assert message["status"] == "refused"
    assert message["text"].startswith("there is no picture of your own yet; choose a file")
    picture = Image.linear_gradient("L").convert("RGB")
    bench.sessions.keep_picture("a", picture)
    messages = list(bench.draw("a", [settings]))
    assert messages[-1]["status"] == "done"
    assert messages[-1]["begin"]["num_steps"] == 3
    start = Start(prepare(picture, 64)[None], 0.7)
    model = bench.library.get("tiny")
    expected = deco_lab.sample(model, **settings.sampling_arguments(), start=start)
    assert torch.equal(bench.sessions.kept("a").images, expected)
