"""Runs of a workbench, and settings of a run that goes on from a step of another."""

from dataclasses import replace
from typing import Any

from deco_lab.workbench.settings import Settings, origin_of


def drawn(bench, session, settings):
    *_, last = bench.draw(session, [settings])
    assert last["status"] == "done", last
    return bench.sessions.kept(session)


def on_from(settings: Settings, step: int, **changes) -> Settings:
    said: Any = {"start_from": "earlier run", "origin": origin_of(settings, step)}
    return replace(settings, **said, **changes)
