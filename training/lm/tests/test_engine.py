from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.lm import sft
from training.lm.answers import AnswerSet
from training.lm.config import BaseModel, TrainConfig
from training.lm.decisions import Calibration, Candidate, EngineBusy, Stopped
from training.lm.engine import AdapterError, Engine, Request
from training.lm.tests.conftest import make_base

NAMES = [f"v-{number:06d}-abcdef01" for number in range(4)]
CANDIDATES = [
    Candidate("hours", "Cerramos a las ocho.", "Cerramos a las ocho.", ("¿A qué hora cierran?", "horario")),
    Candidate("pay", "Con tarjeta.", "Con tarjeta.", ("¿Cómo pago?", "formas de pago")),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseModel, Path]:
    folder = tmp_path_factory.mktemp("engine")
    base = BaseModel(str(make_base(folder / "base", "llama")))
    rows = [{"question": w, "answer": c.answer} for c in CANDIDATES for w in c.wordings]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    empty = folder / "eval.jsonl"
    empty.touch()
    sft.train(TrainConfig(min_steps=1, max_steps=1, lora_r=2, lora_alpha=2), path, empty, folder / "out", base=base)
    return base, folder / "out" / "adapter"


@pytest.fixture
def engine(adapter: tuple[BaseModel, Path]) -> Iterator[Engine]:
    engine = Engine(adapter[0], max_resident=2, max_waiting=3)
    yield engine
    engine.shutdown()


def request(engine: Engine, question: str = "horario", version: str = NAMES[0]) -> Request:
    return Request(question, version, AnswerSet(engine.tokenizer, CANDIDATES), Calibration(prior_weight=30))


def test_it_answers_from_the_version_that_is_named(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])

    assert engine.submit(request(engine)).result().key == "hours"
    with pytest.raises(AdapterError, match="is not loaded"):
        engine.submit(request(engine, version=NAMES[1])).result()


def test_it_makes_room_by_what_was_unused_for_longest(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    for name in NAMES[:2]:
        engine.load_version(name, adapter[1])
    engine.submit(request(engine, version=NAMES[0])).result()

    engine.load_version(NAMES[2], adapter[1])

    assert [engine.is_resident(name) for name in NAMES[:3]] == [True, False, True]
    assert engine.submit(request(engine, version=NAMES[0])).result().key == "hours"
    engine.load_version(NAMES[1], adapter[1])
    assert engine.submit(request(engine, version=NAMES[1])).result().key == "hours"


def test_it_says_busy_when_its_queue_is_full_and_recovers(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    gate = threading.Event()
    blocker = engine._thread.submit(gate.wait)
    waiting = [engine.submit(request(engine)) for _ in range(3)]

    with pytest.raises(EngineBusy):
        engine.submit(request(engine))

    gate.set()
    assert blocker.result()
    assert [future.result().key for future in waiting] == ["hours"] * 3
    assert engine.submit(request(engine)).result().key == "hours"


def test_it_drops_a_question_that_was_stopped_while_it_waited(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    stopped = request(engine)
    stopped.stop.set()

    with pytest.raises(Stopped):
        engine.submit(stopped).result()
    assert engine.submit(request(engine)).result().key == "hours"


def test_it_is_not_harmed_by_a_bad_request(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])

    with pytest.raises(ValueError, match="tokens"):
        engine.submit(request(engine, question="x y " * 3000)).result()
    assert engine.submit(request(engine, question="")).result() is not None
    assert engine.submit(request(engine)).result().key == "hours"


def test_it_recovers_from_a_first_adapter_that_cannot_be_loaded(
    engine: Engine, adapter: tuple[BaseModel, Path], tmp_path: Path
) -> None:
    for path in adapter[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(AdapterError):
        engine.load_version(NAMES[0], tmp_path)
    with pytest.raises(AdapterError, match="17 characters"):
        engine.load_version("v1", adapter[1])

    engine.load_version(NAMES[0], adapter[1])

    assert engine.submit(request(engine)).result().key == "hours"


def test_answers_that_are_equal_share_a_path_and_the_wordings_choose(
    engine: Engine, adapter: tuple[BaseModel, Path]
) -> None:
    engine.load_version(NAMES[0], adapter[1])
    twins = [
        Candidate("spain", "Sí, enviamos.", "Sí, enviamos.", ("¿Envían a España?",)),
        Candidate("peru", "Sí, enviamos.", "Sí, enviamos.", ("¿Envían a Perú?",)),
    ]
    answers = AnswerSet(engine.tokenizer, twins)

    for key, question in (("spain", "envian a españa"), ("peru", "envian a peru")):
        decision = engine.submit(Request(question, NAMES[0], answers, Calibration(prior_weight=30))).result()
        assert decision.key == key
