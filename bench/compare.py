"""Every way to answer from a FAQ side by side, on sets of other businesses: what each part is worth.

    python -m bench.compare FOLDER … [--seeds 3] [--preset normal] [--wordings all one] [--no-free]

Each FOLDER holds `faq.jsonl` and `questions.jsonl` (README, "From the command line"). All ways learn the same wordings,
are given their threshold by the same rule on the same held-out wordings, and are asked the same questions. Prints a
table a set in Markdown; the last line is one JSON object.

    free                the model writes greedily, as in the notebook that the project began with
    nearest, svm        character n-grams: the nearest wording, a linear support vector machine
    prior               n-grams, sentence vectors, encoder, words and what is asked elsewhere, without any training
    base                the language model as it is, before any training
    adapter             the trained model alone
    adapter + prior     what customers get
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from bench.instance import set_up
from training.lm.config import PRESETS, GenerationParams, TrainConfig

if TYPE_CHECKING:
    from training.lm.engine import Engine
    from training.lm.evaluate import Asked

Row = dict[str, Any]
WAYS = ("free", "nearest", "svm", "prior", "base", "adapter", "adapter + prior")
FIGURES = ("accuracy", "auroc", "answered_right", "answered_wrong", "declined", "off_topic_declined")
UNTRAINED, TRAINED = "v-000000-00000000", "v-000001-00000000"
# A linear machine and a nearest wording know nothing of declining but how far away a question is.
N_GRAMS: dict[str, Any] = {
    "analyzer": "char_wb",
    "ngram_range": (2, 5),
    "strip_accents": "unicode",
    "sublinear_tf": True,
}


@dataclass(frozen=True, slots=True)
class Material:
    """A set as one way after another sees it.

    Attributes:
        off_topic: all that is published, of which the model learns a part.
    """

    train: list[Row]
    held_out: list[Row]
    off_topic: tuple[str, ...]
    questions: list[tuple[str, str | None]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="normal", choices=PRESETS)
    parser.add_argument("--wordings", nargs="+", default=["all", "one"], choices=["all", "one"])
    parser.add_argument("--no-free", action="store_true", help="leave the free generation out, which takes longest")
    options = parser.parse_args()
    results = {}
    for folder in options.folders:
        if not (folder / "faq.jsonl").is_file():
            sys.exit(f"{folder} holds no faq.jsonl")
        for wordings in options.wordings:
            # A process each, since an instance is set up once in a process.
            with multiprocessing.get_context("spawn").Pool(1) as process:
                figures = process.apply(compare, (folder, wordings, options.seeds, options.preset, options.no_free))
            results[f"{folder.name}, {wordings}"] = figures
            print(as_table(f"{folder.name}, {wordings} wordings", figures), flush=True)
    print(json.dumps(results))


def compare(folder: Path, wordings: str, num_seeds: int, preset: str, without_free: bool) -> dict[str, Any]:
    """Every figure of every way: mean over the seeds and the distance between the highest and the lowest."""
    by_way: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as instance:
        set_up(Path(instance))
        from training.lm.evaluate import measure

        material = read(folder, only_first=wordings == "one", work=Path(instance))
        for seed in range(num_seeds):
            config = replace(PRESETS[preset], seed=seed)
            for way, asked in ask_every_way(material, config, Path(instance) / str(seed), without_free):
                by_way[way].append(measure(asked).to_dict())
    return {way: summary(runs) for way, runs in by_way.items() if runs}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = {name: [run[name] for run in runs if run[name] is not None] for name in FIGURES}
    return {name: [float(np.mean(each)), float(np.ptp(each))] if each else None for name, each in values.items()}


def read(folder: Path, *, only_first: bool, work: Path) -> Material:
    """The set through the importer and the split that staff's own entries go through."""
    from django.core.management import call_command

    from faq.publication import current_publication
    from training.management.commands.evaluate import read_questions
    from training.snapshots import split

    rows = [json.loads(line) for line in (folder / "faq.jsonl").read_text(encoding="utf-8").splitlines() if line]
    if only_first:
        rows = [{**row, "variants": []} for row in rows]
    chosen = work / "faq.jsonl"
    chosen.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    call_command("import_faq", str(chosen), verbosity=0)
    publication = current_publication()
    train, held_out = split(publication)
    return Material(train, held_out, publication.off_topic, read_questions(folder / "questions.jsonl"))


def ask_every_way(
    material: Material, config: TrainConfig, work: Path, without_free: bool
) -> Iterator[tuple[str, list[Asked]]]:
    from training.lm.calibration import MODEL_WEIGHTS, PRIOR_WEIGHTS

    yield "nearest", ask_nearest(material)
    yield "svm", ask_svm(material)
    engine = engine_with(material, config, work / "guided")
    try:
        ways = {
            "prior": (TRAINED, (0.0,), PRIOR_WEIGHTS),
            "base": (UNTRAINED, MODEL_WEIGHTS, (0.0,)),
            "adapter": (TRAINED, MODEL_WEIGHTS, (0.0,)),
            "adapter + prior": (TRAINED, MODEL_WEIGHTS, PRIOR_WEIGHTS),
        }
        for way, (version, model_weights, prior_weights) in ways.items():
            yield way, ask_guided(engine, version, material, model_weights, prior_weights)
    finally:
        engine.shutdown()
    if not without_free:
        whole = replace(config, cut_completions=False)
        engine = engine_with(material, whole, work / "free")
        try:
            yield "free", ask_freely(engine, material)
        finally:
            engine.shutdown()


def engine_with(material: Material, config: TrainConfig, work: Path) -> Engine:
    """An engine with the base as it is and a version trained on the material."""
    from peft import get_peft_model

    from training.lm import sft
    from training.lm.config import BaseModel
    from training.lm.engine import Engine
    from training.lm.loading import load_base
    from training.lm.lora import lora_config

    work.mkdir(parents=True)
    for name, rows in (("train", material.train), ("eval", material.held_out)):
        lines = (json.dumps(row) + "\n" for row in rows)
        (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    sft.train(config, work / "train.jsonl", work / "eval.jsonl", work / "run")
    # A new adapter changes nothing: half of every product in it is zero.
    get_peft_model(load_base(BaseModel()), lora_config(config)).save_pretrained(work / "untrained")
    engine = Engine(BaseModel(), max_waiting=10_000)
    engine.load_version(UNTRAINED, work / "untrained")
    engine.load_version(TRAINED, work / "run" / "adapter")
    return engine


def ask_guided(
    engine: Engine,
    version: str,
    material: Material,
    model_weights: Sequence[float],
    prior_weights: Sequence[float],
) -> list[Asked]:
    """Calibrated on the held-out wordings, then asked with all that is published, as in the chat."""
    from training import exams
    from training.lm.answers import AnswerSet
    from training.lm.calibration import fit
    from training.lm.engine import Request
    from training.lm.evaluate import Asked

    sitting = exams.sit(engine, version, material.train, material.held_out)
    scored = sitting.scored if sitting.is_held_out else ()
    calibration = fit(sitting.answers, scored, model_weights=model_weights, prior_weights=prior_weights)
    wordings = {entry.key: list(entry.wordings) for entry in sitting.answers.candidates}
    for row in material.held_out:
        if row["key"] is not None:
            wordings[row["key"]].append(row["question"])
    answers = AnswerSet(
        engine.tokenizer,
        [replace(entry, wordings=tuple(wordings[entry.key])) for entry in sitting.answers.candidates],
        material.off_topic,
    )
    requests = [Request(text, version, answers, calibration, is_exact=True) for text, _ in material.questions]
    decisions = exams.asked_at_once(engine.submit, requests)
    return [Asked(text, key, each) for (text, key), each in zip(material.questions, decisions, strict=True)]


def ask_freely(engine: Engine, material: Material) -> list[Asked]:
    """What the model writes is right if it is the approved answer word for word, and else it is wrong."""
    from training import exams
    from training.lm.answers import AnswerSet
    from training.lm.decisions import Candidate, Decision
    from training.lm.engine import Request
    from training.lm.evaluate import Asked
    from training.snapshots import learned_entries

    entries = learned_entries(material.train)
    answers = AnswerSet(
        engine.tokenizer, [Candidate(each["key"], each["answer"], each["answer"], ()) for each in entries]
    )
    key_of = {" ".join(each["answer"].split()): each["key"] for each in entries}
    requests = [Request(text, TRAINED, answers) for text, _ in material.questions]
    params = GenerationParams(max_new_tokens=256)
    written = exams.asked_at_once(lambda request: engine.submit_generation(request, params), requests)
    asked = []
    for (text, key), each in zip(material.questions, written, strict=True):
        found = key_of.get(" ".join(each.text.split()), "invented")
        sure = 0.0 if each.is_declined else 1.0
        decision = Decision(found, each.is_declined, sure, 1.0, each.num_forwards, on_topic=sure)
        asked.append(Asked(text, key, decision))
    return asked


def ask_nearest(material: Material) -> list[Asked]:
    def learn(rows: Sequence[Row]) -> Callable[[Sequence[str]], tuple[list[str], NDArray[np.float64]]]:
        vectorizer = TfidfVectorizer(**N_GRAMS)
        known = vectorizer.fit_transform([row["question"] for row in rows])

        def nearest(texts: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
            likeness = (vectorizer.transform(texts) @ known.T).toarray()
            return [rows[place]["key"] for place in likeness.argmax(axis=1)], likeness.max(axis=1)

        return nearest

    return ask_baseline(material, learn)


def ask_svm(material: Material) -> list[Asked]:
    def learn(rows: Sequence[Row]) -> Callable[[Sequence[str]], tuple[list[str], NDArray[np.float64]]]:
        vectorizer = TfidfVectorizer(**N_GRAMS)
        machine = LinearSVC().fit(vectorizer.fit_transform([row["question"] for row in rows]), [r["key"] for r in rows])

        def classify(texts: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
            margins = machine.decision_function(vectorizer.transform(texts))
            margins = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins
            # Margins reach from -1 to 1 and thresholds from 0 to 1.
            return [str(key) for key in machine.classes_[margins.argmax(axis=1)]], (margins.max(axis=1) + 1) / 2

        return classify

    return ask_baseline(material, learn)


def ask_baseline(
    material: Material,
    learn: Callable[[Sequence[Row]], Callable[[Sequence[str]], tuple[list[str], NDArray[np.float64]]]],
) -> list[Asked]:
    """Threshold on the held-out wordings, then all wordings learned and the questions asked."""
    from training.lm.calibration import fit_threshold
    from training.lm.decisions import Decision
    from training.lm.evaluate import Asked

    in_scope = [row for row in material.train if row["key"] is not None]
    held_out = [row for row in material.held_out if row["key"] is not None]
    threshold = 0.5
    if held_out:
        keys, confidences = learn(in_scope)([row["question"] for row in material.held_out])
        is_right = np.array([row["key"] == key for row, key in zip(material.held_out, keys, strict=True)])
        threshold = fit_threshold(confidences, is_right, admitted_weight=0.0)
    keys, confidences = learn([*in_scope, *held_out])([text for text, _ in material.questions])
    return [
        Asked(text, expected, Decision(key, not confidence >= threshold, confidence, 1.0, 0, on_topic=confidence))
        for (text, expected), key, confidence in zip(material.questions, keys, map(float, confidences), strict=True)
    ]


def as_table(title: str, figures: dict[str, Any]) -> str:
    lines = [
        f"\n### {title}\n",
        "| | right first | AUROC | right / wrong / declined | off-topic declined |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        if way not in figures:
            continue
        shown = {
            name: "–" if value is None else f"{value[0]:.3f} ± {value[1] / 2:.3f}"
            for name, value in figures[way].items()
        }
        parts = " / ".join("–" if figures[way][n] is None else f"{figures[way][n][0]:.3f}" for n in FIGURES[2:5])
        lines.append(f"| {way} | {shown['accuracy']} | {shown['auroc']} | {parts} | {shown['off_topic_declined']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
