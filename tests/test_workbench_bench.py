"""The workbench: messages of runs, what is kept of them, and questions, one job at a time."""

import json
import threading
import time
from dataclasses import replace

import pytest
import torch

import deco_lab
from deco_lab.checkpoints import save
from deco_lab.config import DiTConfig
from deco_lab.models import build
from deco_lab.workbench import PRESETS, Library, Settings, Workbench, settings_from_png, to_png
from deco_lab.workbench.turns import Reader

SHORT = Settings(num_images=1, num_steps=3, decompose=False)


@pytest.fixture(scope="module")
def bench():
    return Workbench(Library("tiny", device="cpu"))


def statuses(messages):
    return [message["status"] for message in messages]


def test_draw_gives_every_frame_once_and_keeps_the_run(bench):
    messages = list(bench.draw("a", [SHORT]))
    assert statuses(messages)[0] == "waiting"
    assert statuses(messages)[-1] == "done"
    frames = [frame for message in messages for frame in message["frames"]]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    record = bench.kept("a")
    expected = deco_lab.sample(bench.library.get("tiny"), **SHORT.sampling_arguments())
    assert torch.equal(record.images, expected)
    assert record.model["name"] == "tiny"
    assert len(record.model["weights"]) == 16
    json.dumps(messages, default=vars, allow_nan=False)


def test_draw_pins_the_first_of_two_runs(bench):
    messages = list(bench.draw("a", [SHORT, replace(SHORT, seed=1)], alone=True))
    begins = {message["run"]: message["begin"] for message in messages if message["begin"]}
    assert [begin["pin"] for begin in begins.values()] == ["none", "before"]
    assert [begin["query"] for begin in begins.values()] == [
        "num_steps=3&num_images=1&decompose=false",
        "num_steps=3&seed=1&num_images=1&decompose=false",
    ]
    assert bench.kept("a").settings.seed == 1


def test_draw_says_a_note_beside_what_goes_on(bench):
    messages = list(bench.draw("a", [SHORT], note="Look at this."))
    assert all(message["text"].endswith(" Look at this.") for message in messages)
    assert messages[-1]["text"].startswith("Done: 3 steps, ")


def test_change_since_tells_other_weights_of_the_same_name(bench):
    list(bench.draw("a", [SHORT]))
    record = bench.kept("a")
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
    assert bench.kept("a").settings == SHORT


def test_draw_keeps_a_run_whose_model_has_left_library_and_folder(tmp_path):
    tiny = DiTConfig(
        image_size=16, patch_size=2, num_classes=3, hidden_size=16, num_heads=2, depth=1
    )
    for name in ("old", "new"):
        save(build(tiny), tmp_path / f"{name}.safetensors")
    bench = Workbench(Library("tiny", device="cpu", folder=tmp_path))
    running = bench.draw("a", [replace(SHORT, model="old.safetensors", num_steps=200)])
    while next(running)["status"] != "running":
        pass
    newcomer = bench.library.get("new.safetensors")  # takes the place of the other
    (tmp_path / "old.safetensors").unlink()
    assert statuses(running)[-1] == "done"
    assert bench.kept("a").model["name"] == "old.safetensors"
    assert "old.safetensors" not in bench.library.names()
    assert bench.library.get("new.safetensors") is newcomer


def test_draw_is_ended_by_the_sessions_next(bench):
    old = bench.draw("a", [replace(SHORT, num_steps=1000)])
    while next(old)["status"] != "running":
        pass
    assert statuses(bench.draw("a", [SHORT]))[-1] == "done"
    *_, last = old
    assert last["status"] == "stopped"
    assert last["text"].startswith("Stopped at step ")
    assert bench.kept("a").settings == SHORT


def test_draw_says_so_where_nobody_read(bench):
    running = bench.draw("a", [replace(SHORT, num_steps=1000)], reader=Reader(0.2))
    while next(running)["status"] != "running":
        pass
    time.sleep(1)
    *_, last = running
    said = "Stopped: for 0.2 s nobody read what was drawn."
    assert (last["status"], last["text"]) == ("stopped", said)
    assert 0 < bench.kept("a").num_steps < 1000


def test_draw_stopped_while_it_waits_says_so(bench):
    running = bench.draw("a", [replace(SHORT, num_steps=1000)])
    while next(running)["status"] != "running":
        pass
    waiting = bench.draw("b", [SHORT])
    assert next(waiting)["text"] == "Waiting for the model."
    assert next(waiting)["text"] == "Waiting for the model: one other job is before this."
    bench.stop("b")
    *_, last = waiting
    assert (last["status"], last["text"]) == ("stopped", "Stopped while it waited.")
    bench.stop("a")
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
    running = bench.draw("c", [replace(SHORT, num_steps=1000)])
    while next(running)["status"] != "running":
        pass
    bench.close("c")
    done = threading.Event()
    threading.Thread(target=lambda: (list(bench.draw("d", [SHORT])), done.set())).start()
    assert done.wait(10)
    with pytest.raises(ValueError, match="there is no run to keep yet; draw one first"):
        bench.kept("c")


def test_ask_gives_the_answer_under_its_name(bench):
    (*_, message) = bench.ask(lambda: Settings(seed=5), "settings")
    assert message == {"status": "done", "text": "", "settings": Settings(seed=5)}


def test_ask_refuses_in_a_sentence(bench):
    def question():
        raise ValueError("t must lie in [0, 1), got 2")

    (*_, message) = bench.ask(question)
    assert message == {"status": "refused", "text": "t must lie in [0, 1), got 2."}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_presets_draw_from_the_same_noise_what_is_compared(preset):
    assert 1 <= len(preset.runs) <= 2
    assert len({run.seed for run in preset.runs}) == 1
    assert len({run.class_ids for run in preset.runs}) == 1
    assert len(set(preset.runs)) == len(preset.runs)
