"""The page of settings says what the daemons read."""

from __future__ import annotations

from tools import settings_reference
from unkai_agent.settings import Settings as AgentSettings
from unkai_scheduler.settings import Settings as SchedulerSettings


def test_the_page_is_current() -> None:
    assert settings_reference.TARGET.read_text() == settings_reference.page(), (
        "run 'python tools/settings_reference.py' and commit what it changes"
    )


def test_every_setting_is_explained() -> None:
    for model in (SchedulerSettings, AgentSettings):
        keys = [key for key, _, meaning in settings_reference.rows(model) if meaning.endswith(".")]
        assert len(keys) == len(list(settings_reference.rows(model))) > 20
