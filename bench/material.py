"""What the serving benchmark answers from: two versions of the demo shop, and a large base that knows nothing.

python -m bench.material FOLDER     # train the two versions, in a process that does nothing else
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.contenders import Material
from bench.instance import set_up
from training.lm.augment import augment
from training.lm.config import BaseModel, TrainConfig
from training.lm.decisions import Calibration, Candidate

# Whole answers, since every contender but ours has to write them, and few enough to be learned by heart in a minute.
# The second version has hardly learned anything.
NUM_ENTRIES = 24
NUM_PARAPHRASES = 3
LEARNED = TrainConfig(
    cut_completions=False, min_steps=75, max_steps=75, per_device_train_batch_size=12, num_augmented=0
)
HARDLY_LEARNED = replace(LEARNED, min_steps=12, max_steps=12, seed=1)

DEMO = Path("faq/demo")
RANDOM_VERSION = "v-000000-00000000"


def train_demo_versions() -> None:
    """Into the instance in use, unless it has them."""
    from training import pipeline, runs
    from training.models import AdapterVersion

    if AdapterVersion.objects.count() < 2:
        publish_part_of_the_demo(NUM_ENTRIES)
        for config in (LEARNED, HARDLY_LEARNED):
            version = pipeline.execute(runs.start_in_foreground(config=config))
            assert version is not None, "the training failed; its log is above"


def demo_versions() -> tuple[Any, Any]:
    """The one that has learned its answers, and the one that hardly has."""
    from training.models import AdapterVersion

    hardly_learned, learned = AdapterVersion.objects.select_related("run", "exam").order_by("-number")[:2]
    return learned, hardly_learned


def publish_part_of_the_demo(num_entries: int) -> None:
    from faq.models import FaqEntry, OffTopicQuestion, Paraphrase

    for line in (DEMO / "shop_es.jsonl").read_text(encoding="utf-8").splitlines()[:num_entries]:
        row = json.loads(line)
        entry = FaqEntry.objects.create(
            key=row["key"], question=row["question"], answer=row["answer"], status="published"
        )
        for text in row["variants"][:NUM_PARAPHRASES]:
            Paraphrase.objects.create(entry=entry, text=text)
    for line in (DEMO / "off_topic_es.jsonl").read_text(encoding="utf-8").splitlines()[:8]:
        OffTopicQuestion.objects.create(text=json.loads(line)["question"])


def demo_material(version: Any) -> Material:
    """A version as it is served, asked what it has learned as customers type it."""
    from training import serving

    servable = serving.prepare(version)
    rows = [json.loads(line) for line in (version.snapshot.path / "train.jsonl").open(encoding="utf-8")]
    learned = [row["question"] for row in rows if row["key"]]
    typed = [way for text in learned for way in augment(text, count=4, seed=0)]
    return Material(
        base=BaseModel(),
        version=version.name,
        adapter=version.path / "adapter",
        candidates=servable.answers.candidates,
        calibration=servable.calibration,
        # In an order in which neighbours mean different entries.
        questions=tuple(sorted([*learned, *typed], key=hash_of)),
    )


def gpt2_shaped_material(folder: Path, demo: Material) -> Material:
    """Random weights in the shape of GPT-2 small with a random adapter: what the answers cost, not how good they are.

    Since it has not learned to end, every contender but ours writes exactly as many tokens as the answer has.
    """
    import torch
    from peft import get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    from training.lm.loading import load_base, load_tokenizer
    from training.lm.lora import lora_config
    from training.lm.prompts import encode_answer

    tokenizer = load_tokenizer(demo.base)
    base = BaseModel(str(folder / "base"))
    if not (folder / "adapter").is_dir():
        torch.manual_seed(0)
        config = GPT2Config(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
        GPT2LMHeadModel(config).save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        adapted = get_peft_model(load_base(base), lora_config(TrainConfig()))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.02)
        adapted.save_pretrained(folder / "adapter")
    return Material(
        base=base,
        version=RANDOM_VERSION,
        adapter=folder / "adapter",
        candidates=demo.candidates,
        calibration=Calibration(),
        questions=tuple(candidate.wordings[0] for candidate in demo.candidates),
        num_tokens=tuple(len(encode_answer(tokenizer, candidate.answer)) for candidate in demo.candidates),
    )


_PLACES = ["Bogotá", "Sevilla", "Lima", "Quito", "Madrid", "Cusco", "Jaén", "Cali", "Rosario", "Vigo"]
_THINGS = (
    *("bicicletas", "lámparas", "zapatos", "libros", "relojes"),
    *("mochilas", "sábanas", "cafeteras", "guitarras", "plantas"),
)
_WISHES = (
    ("¿Cuánto cuesta enviar {thing} a {place}?", "Enviar {thing} a {place} cuesta {number} pesos"),
    ("¿Cuánto tardan en llegar {thing} a {place}?", "Los envíos de {thing} a {place} tardan {number} horas"),
    ("¿Hay {thing} en la tienda de {place}?", "En la tienda de {place} quedan {number} modelos de {thing}"),
    ("¿Se pueden devolver {thing} comprados en {place}?", "En {place} puede devolver {thing} en {number} días"),
    ("¿Quién repara {thing} en {place}?", "En {place} repara {thing} el taller de la calle {number}"),
)
_TAIL = (
    " si lo pide antes del mediodía. Para saber más, escriba a la tienda o llame por las mañanas; le atenderemos con "
    "gusto y sin compromiso. "
)


def many_candidates(count: int, *, num_tail: int = 1) -> list[Candidate]:
    """Entries that differ from their neighbours in a word or a number, with four wordings each.

    Args:
        num_tail: how often the same ending stands behind an answer: what makes it long, but tells it from no other.
    """
    candidates = []
    for number in range(count):
        ask, answer = _WISHES[number % len(_WISHES)]
        rest, series = number // len(_WISHES), number // (len(_WISHES) * len(_THINGS) * len(_PLACES))
        thing = _THINGS[rest % len(_THINGS)] + (f" de la serie {series}" if series else "")
        words = {"thing": thing, "place": _PLACES[rest // len(_THINGS) % len(_PLACES)], "number": str(100 + number)}
        question = ask.format(**words)
        wordings = (
            question,
            f"hola, {question[1].lower()}{question[2:]}",
            f"{words['place']} {thing}",
            f"quiero saber de {thing} en {words['place']} {ask.split()[0].strip('¿').lower()}",
        )
        text = answer.format(**words) + _TAIL * num_tail
        candidates.append(Candidate(f"entry-{number}", text, text, wordings))
    return candidates


def hash_of(text: str) -> int:
    """The same on every run, unlike `hash`."""
    return sum(ord(letter) * 31**place % 1_000_003 for place, letter in enumerate(text)) % 1_000_003


if __name__ == "__main__":
    set_up(Path(sys.argv[1]))
    train_demo_versions()
