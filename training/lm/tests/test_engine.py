from __future__ import annotations

import gc
import json
import random
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.lm import engine as engine_module
from training.lm import sft
from training.lm.adapters import AdapterError
from training.lm.answers import AnswerSet
from training.lm.calibration import Scored
from training.lm.config import BaseModel, GenerationParams, Precision, TrainConfig
from training.lm.decisions import Calibration, Candidate, EngineBusy, EngineDied, Heeded, Stopped
from training.lm.engine import Engine, Request
from training.lm.packing import PackedOutput, packed_forward
from training.lm.prompts import QuestionTooLong
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


@pytest.fixture(scope="module")
def other_adapter(adapter: tuple[BaseModel, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that says something else."""
    folder = tmp_path_factory.mktemp("other") / "adapter"
    shutil.copytree(adapter[1], folder)
    weights = load_file(folder / "adapter_model.safetensors")
    torch.manual_seed(7)
    save_file(
        {name: torch.randn_like(weight) for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )
    return folder


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


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Keep the engine's thread from doing anything, as a long forward does."""
    gate, is_held = threading.Event(), threading.Event()

    def wait() -> None:
        is_held.set()
        gate.wait()

    engine._schedule.add_errand(wait)
    assert is_held.wait(10)
    try:
        yield
    finally:
        gate.set()


def test_it_says_busy_when_its_queue_is_full_and_recovers(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    with held(engine):
        waiting = [engine.submit(request(engine)) for _ in range(3)]

        with pytest.raises(EngineBusy):
            engine.submit(request(engine))
        assert [engine.place_of(future) for future in waiting] == [0, 1, 2]
        assert engine.health().num_waiting == 3

    assert [future.result().key for future in waiting] == ["hours"] * 3
    assert engine.submit(request(engine)).result().key == "hours"
    assert engine.health().num_waiting == engine.health().num_under_way == 0


def test_questions_that_wait_share_a_forward(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    sizes = count_forwards(engine)
    with held(engine):
        waiting = [engine.submit(request(engine)) for _ in range(3)]

    assert [future.result().key for future in waiting] == ["hours"] * 3
    assert sizes == [3]


def count_forwards(engine: Engine) -> list[int]:
    """How many requests each forward from now on holds."""
    sizes: list[int] = []
    forward = engine._forward

    def counted(jobs: list[Any]) -> None:
        sizes.append(len(jobs))
        forward(jobs)

    engine._forward = counted  # type: ignore[method-assign]
    return sizes


def test_a_forward_holds_only_so_many_tokens(adapter: tuple[BaseModel, Path]) -> None:
    engine = Engine(adapter[0], max_forward_tokens=1)
    engine.load_version(NAMES[0], adapter[1])
    sizes = count_forwards(engine)
    with held(engine):
        waiting = [engine.submit(request(engine)) for _ in range(3)]

    assert [future.result().key for future in waiting] == ["hours"] * 3
    assert sizes == [1, 1, 1]
    engine.shutdown()


def test_versions_do_not_mix(engine: Engine, adapter: tuple[BaseModel, Path], other_adapter: Path) -> None:
    """Questions for two versions, waiting together, are scored as each version scores them alone."""
    engine.load_version(NAMES[0], adapter[1])
    engine.load_version(NAMES[1], other_adapter)
    questions = ["horario", "¿Cómo pago?", "x"]

    def ask(version: str, question: str) -> Scored:
        return engine.submit_scoring(request(engine, question, version)).result()

    alone = {(version, question): ask(version, question).log_probs for version in NAMES[:2] for question in questions}
    assert all(not np.allclose(alone[NAMES[0], each], alone[NAMES[1], each], atol=0.1) for each in questions)
    engine._schedule._max_waiting = 100
    order = list(alone) * 5
    random.Random(0).shuffle(order)
    with held(engine):
        futures = [engine.submit_scoring(request(engine, question, version)) for version, question in order]

    for key, future in zip(order, futures, strict=True):
        assert np.allclose(future.result().log_probs, alone[key], atol=1e-3)


def test_a_version_that_made_room_comes_back_when_it_is_asked(
    engine: Engine, adapter: tuple[BaseModel, Path], other_adapter: Path
) -> None:
    for name in NAMES[:2]:
        engine.load_version(name, adapter[1])
    with held(engine):
        waiting = engine.submit(request(engine, version=NAMES[0]))
        loading = threading.Thread(target=engine.load_version, args=(NAMES[2], other_adapter))
        loading.start()

    assert waiting.result().key == "hours"
    loading.join()
    assert engine.submit(request(engine, version=NAMES[0])).result().key == "hours"
    assert len(engine.health().resident) == 2


def test_it_drops_a_question_that_was_stopped_while_it_waited(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    stopped = request(engine)
    stopped.stop.set()

    with pytest.raises(Stopped):
        engine.submit(stopped).result()
    assert engine.submit(request(engine)).result().key == "hours"


def test_it_is_not_harmed_by_a_bad_request(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])

    with pytest.raises(QuestionTooLong, match="tokens"):
        engine.submit(request(engine, question="x y " * 3000))
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


def test_only_what_was_learned_must_be_what_the_model_would_say(
    engine: Engine, adapter: tuple[BaseModel, Path]
) -> None:
    engine.load_version(NAMES[0], adapter[1])
    calibration = Calibration(prior_weight=30, threshold=0.5, min_coverage=1.1)
    new = [replace(candidate, is_learned=False) for candidate in CANDIDATES]

    learned, added = (
        engine.submit(Request("formas de pagar", NAMES[0], AnswerSet(engine.tokenizer, each), calibration)).result()
        for each in (CANDIDATES, new)
    )

    assert (learned.key, learned.confidence, learned.is_declined) == ("pay", 0.0, True)
    assert (added.key, added.is_declined) == ("pay", False)
    assert added.confidence > 0.5


@pytest.mark.parametrize("context", ["", "¿A qué hora cierran?"])
@pytest.mark.parametrize(("question", "key"), [("¿Cómo pago?", "pay"), ("COMO pago!!", "pay")])
def test_a_question_that_staff_wrote_has_its_answer_whatever_else_is_likely(
    engine: Engine, adapter: tuple[BaseModel, Path], question: str, key: str, context: str
) -> None:
    engine.load_version(NAMES[0], adapter[1])
    # The model, which knows nothing, decides alone, and hardly anything is sure enough.
    calibration = Calibration(model_weight=1.0, prior_weight=0.0, threshold=1.0, min_coverage=1.1)
    answers = AnswerSet(engine.tokenizer, CANDIDATES)

    decision = engine.submit(Request(question, NAMES[0], answers, calibration, context=context)).result()

    assert (decision.key, decision.is_declined, decision.context) == (key, False, "")
    assert decision.confidence == pytest.approx(1.0)


def test_only_the_very_question_is_taken_for_it(engine: Engine) -> None:
    candidates = [Candidate("bows", "Sí.", "Sí.", ("¿Venden moños?", "Plan Pro+", "¿Quién ganó el mundial?"))]
    answers = AnswerSet(engine.tokenizer, candidates, ["quien gano el mundial"])

    assert [answers.verbatim(text) for text in ("VENDEN MOÑOS", "plan pro+")] == ["bows"] * 2
    assert [answers.verbatim(text) for text in ("¿venden monos?", "plan pro", "", "?")] == [None] * 4
    assert answers.verbatim("¿Quién ganó el mundial?") is None, "staff listed it to be declined"


def test_where_it_is_to_be_seen_what_was_learned_no_wording_decides(
    engine: Engine, adapter: tuple[BaseModel, Path]
) -> None:
    engine.load_version(NAMES[0], adapter[1])
    calibration = Calibration(model_weight=1.0, prior_weight=0.0, threshold=1.0)
    answers = AnswerSet(engine.tokenizer, CANDIDATES)

    heeded = {
        each: engine.submit(Request("formas de pago", NAMES[0], answers, calibration, heeded=each)).result().is_declined
        for each in Heeded
    }

    assert heeded == {Heeded.ALL: False, Heeded.OFFERED: True, Heeded.NONE: True}


def test_of_answers_on_one_path_that_with_the_question_is_given(
    engine: Engine, adapter: tuple[BaseModel, Path]
) -> None:
    engine.load_version(NAMES[0], adapter[1])
    twins = [
        Candidate("long", "Sí, enviamos.", "Sí, enviamos.", ("¿Envían a Perú?", "envian a peru y a chile", "peru")),
        Candidate("short", "Sí, enviamos.", "Sí, enviamos.", ("a chile",)),
    ]
    both = replace(twins[1], wordings=("a chile", "Perú"))

    offered = replace(twins[1], wordings=("Perú", "a chile"))
    assert AnswerSet(engine.tokenizer, twins).verbatim("peru", as_offered=True) is None, "it is not offered so"
    for candidates, question, key in (
        (twins, "A Chile", "short"),
        ([twins[0], both], "peru", None),
        ([twins[0], offered], "peru", "short"),
        ([replace(offered, key="long"), offered], "peru", None),
    ):
        answers = AnswerSet(engine.tokenizer, candidates)
        assert answers.verbatim(question) == key
        if key:
            assert engine.submit(Request(question, NAMES[0], answers, Calibration(prior_weight=0))).result().key == key


def test_a_request_that_breaks_a_forward_harms_only_itself(
    engine: Engine, adapter: tuple[BaseModel, Path], caplog: pytest.LogCaptureFixture
) -> None:
    engine.load_version(NAMES[0], adapter[1])
    broken = request(engine)
    with held(engine):
        waiting = [engine.submit(request(engine)), engine.submit(broken), engine.submit(request(engine))]
        engine._schedule._waiting[1].tree.tokens[0] = 10**6  # no such token

    assert [waiting[0].result().key, waiting[2].result().key] == ["hours", "hours"]
    with pytest.raises(IndexError):
        waiting[1].result()
    assert engine.submit(request(engine)).result().key == "hours"
    assert "a forward for 3 questions failed" in caplog.text


def test_a_request_that_breaks_while_it_is_read_harms_only_itself(
    engine: Engine, adapter: tuple[BaseModel, Path]
) -> None:
    engine.load_version(NAMES[0], adapter[1])

    def break_off(delta: str) -> None:
        raise ZeroDivisionError

    with held(engine):
        broken = engine.submit_generation(request(engine), GenerationParams(max_new_tokens=5), on_delta=break_off)
        whole = engine.submit(request(engine))

    assert whole.result().key == "hours"
    with pytest.raises(ZeroDivisionError):
        broken.result()


def test_what_cannot_be_kept_harms_only_itself(
    engine: Engine, adapter: tuple[BaseModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out while the keys and values of one request are put aside."""
    engine.load_version(NAMES[0], adapter[1])

    def fail(output: PackedOutput, index: int) -> None:
        raise MemoryError

    monkeypatch.setattr(PackedOutput, "keep", fail)
    with held(engine):
        long = engine.submit_generation(request(engine), GenerationParams(max_new_tokens=9))
        short = engine.submit(request(engine))

    assert short.result().key == "hours"
    with pytest.raises(MemoryError):
        long.result()
    assert engine.is_alive


def test_a_dead_engine_gives_its_memory_back(adapter: tuple[BaseModel, Path]) -> None:
    engine = Engine(adapter[0])
    engine.load_version(NAMES[0], adapter[1])
    model = weakref.ref(engine._adapters.model)
    engine.shutdown()
    gc.collect()

    assert model() is None


def test_it_generates_and_streams_whole_text(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    deltas: list[str] = []

    generated = engine.submit_generation(
        request(engine), GenerationParams(max_new_tokens=20), on_delta=deltas.append
    ).result()

    assert "".join(deltas) == generated.text
    assert generated.finish_reason == "length"
    assert generated.num_tokens == 20
    assert not generated.is_declined


def test_a_text_under_way_stops_within_one_forward(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    stopped = request(engine)
    deltas: list[str] = []

    def stop_at_the_third(delta: str) -> None:
        deltas.append(delta)
        if len(deltas) == 3:
            stopped.stop.set()

    future = engine.submit_generation(stopped, GenerationParams(max_new_tokens=400), on_delta=stop_at_the_third)

    with pytest.raises(Stopped):
        future.result()
    assert len(deltas) == 3


def test_a_short_question_does_not_wait_for_a_long_text(
    engine: Engine, adapter: tuple[BaseModel, Path], other_adapter: Path
) -> None:
    """Also when it is for another version."""
    engine.load_version(NAMES[0], adapter[1])
    engine.load_version(NAMES[1], other_adapter)
    under_way = threading.Event()
    long = engine.submit_generation(
        request(engine), GenerationParams(max_new_tokens=400), on_delta=lambda delta: under_way.set()
    )
    assert under_way.wait(10)

    for version in NAMES[:2]:
        engine.submit(request(engine, version=version)).result()

    assert not long.done()
    assert long.result().num_tokens > 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_errand_that_ends_the_thread_keeps_nobody_waiting_either(engine: Engine) -> None:
    def exit_thread() -> None:
        raise SystemExit

    with pytest.raises(EngineDied):
        engine._schedule.add_errand(exit_thread).result(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_keeps_nobody_waiting(
    engine: Engine, adapter: tuple[BaseModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load_version(NAMES[0], adapter[1])

    def exit_thread(*args: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(engine_module, "packed_forward", exit_thread)
    with held(engine):
        waiting = [engine.submit(request(engine)) for _ in range(3)]

    for future in waiting:
        with pytest.raises(EngineDied):
            future.result(10)
    with pytest.raises(EngineDied):
        engine.submit(request(engine))
    with pytest.raises(EngineDied):
        engine.load_version(NAMES[1], adapter[1])
    assert not engine.health().is_alive


def test_it_says_when_it_is_stuck(
    engine: Engine, adapter: tuple[BaseModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load_version(NAMES[0], adapter[1])
    assert not engine.health().is_stuck
    gate = threading.Event()

    def slowly(*args: Any) -> Any:
        gate.wait()
        return packed_forward(*args)

    monkeypatch.setattr(engine_module, "packed_forward", slowly)
    monkeypatch.setattr(engine_module, "STUCK_AFTER_SECONDS", 0.05)
    future = engine.submit(request(engine))
    time.sleep(0.2)

    assert engine.health().is_stuck
    gate.set()
    assert future.result().key == "hours"
    assert not engine.health().is_stuck


def test_what_waits_is_cancelled_when_it_is_shut_down(engine: Engine, adapter: tuple[BaseModel, Path]) -> None:
    engine.load_version(NAMES[0], adapter[1])
    with held(engine):
        waiting = engine.submit(request(engine))
        engine._schedule.close()

    engine.shutdown()

    with pytest.raises(CancelledError):
        waiting.result()


@pytest.mark.parametrize("precision", Precision)
def test_it_serves_in_every_precision(adapter: tuple[BaseModel, Path], precision: Precision) -> None:
    engine = Engine(adapter[0], precision=precision)
    engine.load_version(NAMES[0], adapter[1])

    assert engine.submit(request(engine)).result().key == "hours"
    engine.shutdown()


def test_unpacking_the_weights_once_changes_no_answer(adapter: tuple[BaseModel, Path]) -> None:
    log_probs = {}
    for precision in Precision:
        engine = Engine(adapter[0], precision=precision)
        engine.load_version(NAMES[0], adapter[1])
        log_probs[precision] = engine.submit_scoring(request(engine)).result().log_probs
        engine.shutdown()

    assert np.allclose(log_probs[Precision.NF4], log_probs[Precision.DEQUANTIZED], atol=1e-4)
    assert not np.allclose(log_probs[Precision.NF4], log_probs[Precision.FULL], atol=1e-4)


def test_it_outlives_anything_that_is_thrown_at_it(
    engine: Engine, adapter: tuple[BaseModel, Path], other_adapter: Path
) -> None:
    """Random lengths, versions, stops and nonsense from several threads; whoever asks properly is answered."""
    engine._schedule._max_waiting = 8
    versions = dict(zip(NAMES, [adapter[1], other_adapter] * 2, strict=True))
    for name, path in versions.items():
        engine.load_version(name, path)
    answers = AnswerSet(engine.tokenizer, CANDIDATES)
    outcomes: list[str] = []

    def pester(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            text = "".join(
                chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x2FF)])) for _ in range(rng.randrange(90))
            )
            asked = Request(text, rng.choice([*versions, "v-999999-00000000"]), answers)
            try:
                if rng.random() < 0.3:
                    future: Any = engine.submit_generation(asked, GenerationParams(max_new_tokens=rng.randint(1, 30)))
                else:
                    future = engine.submit(asked)
                if rng.random() < 0.2:
                    asked.stop.set()
                if rng.random() < 0.2:
                    future.cancel()
                future.result(30)
                outcomes.append("answered")
            except (EngineBusy, Stopped, CancelledError, AdapterError, QuestionTooLong) as error:
                outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=pester, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(outcomes) == 6 * 40
    assert {"answered", "Stopped", "AdapterError"} <= set(outcomes)
    assert engine.submit(request(engine)).result().key == "hours"
    assert engine.health().num_waiting == engine.health().num_under_way == 0
