from __future__ import annotations

from training.lm.ngrams import NUM_NGRAMS, count_ngrams, count_spelling_and_pairs


def num_shared(one: str, other: str) -> int:
    counts = count_ngrams([one, other])
    return len(set(counts[0].indices) & set(counts[1].indices))


def test_the_order_of_two_words_counts() -> None:
    whole = count_ngrams(["cambiar la clave"]).nnz

    assert num_shared("cambiar la clave", "la clave cambiar") == whole - 1, "«cambiar la»"
    assert num_shared("cambiar la clave", "clave la cambiar") == whole - 2


def test_a_whole_word_counts_beside_its_letters() -> None:
    # Of the letters up to five, and the word: nothing else is in "clave".
    assert count_ngrams(["clave"]).nnz == sum(7 - letters + 1 for letters in (2, 3, 4, 5)) + 1
    assert count_ngrams(["mil"]).nnz == sum(5 - letters + 1 for letters in (2, 3, 4, 5)), '" mil " is five letters'


def test_case_accents_and_marks_do_not_count() -> None:
    counts = count_ngrams(["¿Cuánto CUESTA, el envío?", "cuanto cuesta el envio"])

    assert (counts[0] != counts[1]).nnz == 0


def test_the_parts_are_the_whole() -> None:
    texts = ["¿A qué hora cierran los sábados?", "hola", "", "¿?"]

    spelling, pairs = count_spelling_and_pairs(texts)
    whole = count_ngrams(texts)
    assert whole.shape == (4, NUM_NGRAMS)
    assert (spelling + pairs != whole).nnz == 0
    assert [pairs[row].sum() for row in range(4)] == [5, 0, 0, 0]
    assert whole[2:].nnz == 0
