from __future__ import annotations

import random
from collections import Counter

from training.lm import corpus
from training.lm.augment import fold


def test_it_holds_what_the_model_card_promises() -> None:
    intents = corpus.intents()

    assert len(intents) == 1837
    assert all(len(intent.wordings) >= 12 for intent in intents)
    assert sum(path.stat().st_size for path in corpus.FOLDER.iterdir()) <= 4_000_000
    assert len(corpus.off_topic()) == 1000
    assert all(len(group) >= 2 for group in corpus.same_meaning())


def test_every_intent_and_every_wording_of_a_domain_is_there_once() -> None:
    names = Counter((intent.domain, intent.name) for intent in corpus.intents())
    assert max(names.values()) == 1
    wordings = Counter((intent.domain, fold(wording)) for intent in corpus.intents() for wording in intent.wordings)
    assert not [wording for wording, count in wordings.items() if count > 1]


def test_whole_intents_are_held_out_and_nothing_of_them_is_learned() -> None:
    held_out = corpus.held_out_intents()
    learned = set(corpus.texts())

    assert len(corpus.intents()) / 12 < len(held_out) < len(corpus.intents()) / 6
    assert not [intent.question for intent in held_out if intent.question in learned]
    shared = [wording for intent in held_out for wording in intent.wordings if wording in learned]
    num_wordings = sum(len(intent.wordings) for intent in held_out)
    assert len(shared) < num_wordings / 100, "but names of things, which may stand alone in a chat"


def test_it_retells_a_wording_in_many_ways_the_same_for_the_same_seed() -> None:
    wording = "¿Cuánto cuesta enviar el celular a Bogotá?"

    ways = {corpus.retold(wording, random.Random(seed)) for seed in range(200)}

    assert len(ways) > 60
    assert any(way.startswith(corpus.STORIES) for way in ways)
    assert corpus.retold(wording, random.Random(5)) == corpus.retold(wording, random.Random(5))
