from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.lm import background as background_module
from training.lm import corpus
from training.lm.augment import plain
from training.lm.background import Background, bundled_background
from training.lm.encoder import bundled_reader
from training.lm.ngrams import count_ngrams
from training.lm.prior import Prior

ENTRIES = [
    ["¿Venden al por mayor?", "Sí, desde doce unidades."],
    ["¿Cuál es el horario?", "De nueve a siete, de lunes a sábado."],
    ["¿Dónde están?", "En la calle 10 con carrera 5."],
]
OWNERS = [owner for owner, texts in enumerate(ENTRIES) for _ in texts]


def prior_of_entries(background: Background | None) -> Prior:
    texts = [text for each in ENTRIES for text in each]
    return Prior(texts, OWNERS, len(ENTRIES), reader=bundled_reader(), background=background)


def meaning(text: str) -> np.ndarray:
    vector = bundled_reader().read([text], count_ngrams([text]))[0]
    return np.asarray(vector / np.linalg.norm(vector))


def test_something_else_is_meant_where_the_corpus_knows_what_no_entry_answers() -> None:
    background = bundled_background()
    owned = background.owned(np.stack([meaning(" ".join(each)) for each in ENTRIES]))

    answered = [background.elsewhere(meaning(text), owned)[1] for text in ("a qué hora abren", "hasta que hora están")]
    not_answered = [
        background.elsewhere(meaning(text), owned).min() for text in ("puedo pagar a plazos", "olvidé mi contraseña")
    ]

    assert max(answered) < min(not_answered)


def test_what_no_entry_answers_scores_less_with_it_and_what_one_answers_keeps_its_place() -> None:
    without, with_it = prior_of_entries(None), prior_of_entries(bundled_background())

    lost = {
        text: without.scores(text)[:-1].max() - with_it.scores(text)[:-1].max()
        for text in ("a que hora cierran", "por dónde quedan", "puedo pagar a plazos", "olvidé mi contraseña")
    }

    assert max(lost["a que hora cierran"], lost["por dónde quedan"]) < min(
        lost["puedo pagar a plazos"], lost["olvidé mi contraseña"]
    )
    assert with_it.scores("a que hora cierran")[:-1].argmax() == 1
    assert with_it.scores("por dónde quedan")[:-1].argmax() == 2


def test_owners_without_texts_and_questions_without_letters_stay_at_nothing() -> None:
    prior = Prior(ENTRIES[0], [0, 0], 2, reader=bundled_reader(), background=bundled_background())

    assert prior.scores("venden por mayor")[1] == 0
    assert np.isfinite(prior.scores("¿?")).all()


def test_the_bundled_one_is_of_this_corpus_and_of_nothing_that_is_held_out() -> None:
    background = bundled_background()
    learned = corpus.learned_intents()

    assert len(background.intents) == len(learned)
    for number in (0, 700, len(learned) - 1):
        texts = [learned[number].question, *learned[number].wordings]
        centre = bundled_reader().read(texts, count_ngrams(texts)).mean(axis=0)
        assert background.intents[number] @ centre / np.linalg.norm(centre) > 0.97
    assert np.linalg.norm(background.intents, axis=1) == pytest.approx(1, abs=1e-5)
    assert background.shares[0] >= background.shares[-1] > 0
    assert background.shares.sum() < 1


def test_it_is_made_of_the_corpus_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = corpus.learned_intents()[:3]
    monkeypatch.setattr(corpus, "learned_intents", lambda: few)
    monkeypatch.setattr(background_module, "NUM_WORDS", 20)

    made = Background.of_corpus(bundled_reader())
    made.save(tmp_path / "background.safetensors")
    read = Background.load(tmp_path / "background.safetensors")

    said = [set(plain(text).split()) for intent in few for text in intent.wordings]
    commonest = max(sum(word in each for each in said) for word in set().union(*said))
    assert made.shares[0] == pytest.approx(commonest / sum(len(each) for each in said))
    assert read.shares == pytest.approx(made.shares)
    assert read.intents == pytest.approx(made.intents, abs=0.05)
    assert read.words == pytest.approx(made.words, abs=float(np.abs(made.words).max()) / 7)
    # Fewer intents than a question is taken to mean.
    assert read.elsewhere(meaning(few[1].question), read.owned(made.intents[:1])).shape == (1,)
