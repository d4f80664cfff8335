"""One description of a run's settings: whatever is asked or written of them says the same."""

import inspect
from dataclasses import dataclass, fields
from urllib.parse import parse_qs

import pytest
import tyro

from deco_lab.sampling import GUIDANCE, GuidanceRule, NamedRule, Plan, sample, sample_steps
from deco_lab.sampling.many import SamplingConfig
from deco_lab.setting import settings_of
from deco_lab.workbench import Settings, from_query, to_query, to_snippet


@pytest.mark.parametrize("function", [sample, sample_steps])
def test_sample_takes_the_plans_settings_and_defaults(function):
    parameters = inspect.signature(function).parameters
    known = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert known == {**Plan().arguments(), "noise": None, "start": None}


@pytest.mark.parametrize("kind", [Plan, Settings, SamplingConfig])
def test_every_setting_says_what_it_is(kind):
    undocumented = {field.name for field in fields(kind)} - {"weights"}
    assert settings_of(kind).keys() == undocumented
    assert all(about.help.endswith(".") for about in settings_of(kind).values())


def test_limits_bind_only_where_anyone_may_ask():
    assert Plan(num_steps=5000, guidance_scale=200).num_steps == 5000
    with pytest.raises(ValueError, match="num_steps must be a whole number from 1 to 1000"):
        Settings(num_steps=5000)


def test_a_rule_from_outside_reaches_command_line_link_and_script(monkeypatch):
    @dataclass(frozen=True)
    class Halved(GuidanceRule):
        by: float = 2.0

        def __call__(self, pair):
            return pair.uncond + pair.guidance_scale / self.by * (pair.cond - pair.uncond)

    monkeypatch.setitem(GUIDANCE, "halved", NamedRule("Halved: half as strong", Halved))
    assert tyro.cli(Plan, args=["--guidance", "halved"]).rule() == Halved()
    settings = Settings(guidance="halved")
    query = {name: values[0] for name, values in parse_qs(to_query(settings)).items()}
    assert from_query(query) == settings
    assert "guidance=Halved()," in to_snippet(settings)
