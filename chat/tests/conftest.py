from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from chat import replies
from chat.tests.host import Host, running_host
from chatbot_site.tests.server import Server
from training import pipeline, runs, serving
from training.lm.config import TrainConfig
from training.models import AdapterVersion
from training.tests.conftest import make_version, olga, shop, tiny_llama

__all__ = ["make_version", "olga", "shop", "tiny_llama"]

# With a random base the lexical prior does the understanding: enough to be answered, quickly.
FAST = TrainConfig(min_steps=1, max_steps=1, num_augmented=0, min_rows_per_answer=1, lora_r=4, lora_alpha=8)


@pytest.fixture(autouse=True)
def _fresh_engine() -> Iterator[None]:
    yield
    serving.close()


@pytest.fixture(autouse=True)
def _no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers nothing is said at once by this process, but where a test is about that."""
    monkeypatch.setattr(replies, "HOLD_SECONDS", 0.0)


@pytest.fixture
def live(shop: Any, settings: Settings, tiny_llama: Path) -> AdapterVersion:
    """A small shop whose version is live."""
    settings.BASE_MODEL = str(tiny_llama)
    version = pipeline.execute(runs.start_in_foreground(config=FAST, activates_on_success=True))
    assert version is not None
    path = version.path / "calibration.json"
    path.write_text('{"prior_weight": 40.0, "decline_credit": 0.3, "threshold": 0.5}', encoding="utf-8")
    return version


@pytest.fixture(scope="module")
def website(server: Server) -> Iterator[Host]:
    with running_host(server.url) as host:
        server.run(
            "from chat.models import Site; "
            f"Site.objects.create(name='Shop', key='shop-key', origins={host.origin!r}, title='Zapatos')"
        )
        yield host


@pytest.fixture
def host(website: Host) -> Host:
    """Another website, which may carry the chat."""
    website.key, website.attributes, website.style, website.has_policy = "shop-key", "", "", True
    return website
