from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from training.lm import corpus
from training.lm.ngrams import count_ngrams
from training.lm.prior import Prior
from training.lm.semantics import SentenceVectors, bundled_vectors


def likeness(one: str, other: str) -> float:
    vectors = bundled_vectors().of(count_ngrams([one, other]))
    return float(vectors[0] @ vectors[1])


@pytest.mark.parametrize(
    ("asked", "meant", "other"),
    [
        ("me llegó roto", "producto dañado", "cambiar la contraseña"),
        ("no me acuerdo de mi clave", "olvidé la contraseña", "producto dañado"),
        ("qué precio tiene", "cuánto cuesta", "dónde queda"),
        ("quiero plata de vuelta", "reembolso del dinero", "horario de atención"),
    ],
)
def test_what_means_one_thing_is_alike_whatever_its_letters(asked: str, meant: str, other: str) -> None:
    assert likeness(asked, meant) > likeness(asked, other) + 0.2


def test_it_finds_entries_of_businesses_that_it_has_never_seen() -> None:
    """Of intents that nothing was learned of, found among forty by their own question and answer only."""
    intents = corpus.held_out_intents()[:40]
    texts = [text for intent in intents for text in (intent.question, intent.answer)]
    owners = [owner for owner in range(40) for _ in range(2)]
    asked = [(wording, owner) for owner, intent in enumerate(intents) for wording in intent.wordings]
    found = {}
    for name, vectors in (("ngrams", None), ("meaning", bundled_vectors())):
        prior = Prior(texts, owners, 40, reader=vectors)
        found[name] = np.mean([prior.scores(wording)[:-1].argmax() == owner for wording, owner in asked])

    assert found["meaning"] > found["ngrams"] + 0.1


def test_vectors_have_length_one_and_nothing_is_nothing() -> None:
    vectors = bundled_vectors().of(count_ngrams(["hola", "", "¿?"]))

    assert vectors.shape == (3, bundled_vectors().dimensions)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1)
    assert not vectors[1:].any()
    assert not bundled_vectors().of(count_ngrams([""])).any()


def test_case_accents_and_marks_do_not_count() -> None:
    assert likeness("¿Cuánto CUESTA el envío?", "cuanto cuesta el envio") > 0.97


def test_it_is_written_in_four_bits_and_read_again(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    table[3] = 0

    SentenceVectors.from_table(table).save(tmp_path / "vectors.safetensors")
    vectors = SentenceVectors.load(tmp_path / "vectors.safetensors")

    assert (vectors.num_buckets, vectors.dimensions) == table.shape
    # Texts of one n-gram each, and one of two that share a bucket and one beside them.
    one_each = csr_matrix((np.ones(64, dtype=np.float32), np.arange(64), np.arange(65)))
    read = vectors.sums(one_each)
    assert np.abs(read - table).max() <= np.abs(table).max() / 7
    assert not read[3].any()
    three = csr_matrix((np.ones(3, dtype=np.float32), np.array([5, 64 + 5, 9]), np.array([0, 3])), shape=(1, 128))
    np.testing.assert_allclose(vectors.sums(three)[0], 2 * read[5] + read[9], rtol=1e-5)
    assert (tmp_path / "vectors.safetensors").stat().st_size < table.nbytes / 4 + 600
