"""Free text is what transformers' own greedy `generate` writes, whatever is drafted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from training.lm.config import BaseModel, GenerationParams, Precision
from training.lm.decoding import run
from training.lm.generation import Draft, GeneratedTokens, WholeCharacters, generate_greedily
from training.lm.loading import load_base, load_tokenizer
from training.lm.packing import TokenTree
from training.lm.trie import AnswerTrie

END = 0


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    model = load_base(BaseModel(str(tiny_base)), precision=Precision.FULL)
    # A random model repeats one token for ever; a little more noise makes it write something.
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.15 * torch.randn_like(weights))
    return model


def by_transformers(model: Any, prompt: list[int], params: GenerationParams) -> list[int]:
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=params.max_new_tokens,
            repetition_penalty=params.repetition_penalty,
            no_repeat_ngram_size=params.no_repeat_ngram_size,
            eos_token_id=END,
            pad_token_id=END,
        )
    written = output[0, len(prompt) :].tolist()
    return written[: written.index(END)] if END in written else written


def by_us(model: Any, prompt: list[int], params: GenerationParams, draft: Draft | None = None) -> GeneratedTokens:
    tree = TokenTree(prompt)
    generated = run(model, tree, generate_greedily(tree, params, eos_token_id=END, draft=draft))
    assert isinstance(generated, GeneratedTokens)
    return generated


PARAMETERS = [
    GenerationParams(max_new_tokens=40),
    GenerationParams(max_new_tokens=40, repetition_penalty=1.3),
    GenerationParams(max_new_tokens=40, no_repeat_ngram_size=2),
    GenerationParams(max_new_tokens=1),
]


@pytest.mark.parametrize("params", PARAMETERS)
@pytest.mark.parametrize("seed", range(5))
def test_it_writes_what_generate_writes(model: Any, seed: int, params: GenerationParams) -> None:
    """With no draft, with one that is right for a while, with one that is wrong, and with the whole text."""
    rng = random.Random(seed)
    prompt = [rng.randrange(1, 300) for _ in range(10)]
    expected = by_transformers(model, prompt, params)
    wrong = [rng.randrange(1, 300) for _ in range(12)]
    drafts = [[*expected, END], [*expected[:7], *wrong, END], [*wrong, END]]

    plain = by_us(model, prompt, params)
    drafted = [by_us(model, prompt, params, Draft(AnswerTrie([each]), np.zeros(1))) for each in drafts]

    assert [list(each.tokens) for each in (plain, *drafted)] == [expected] * 4
    assert drafted[0].num_forwards == 1
    assert all(each.num_forwards <= plain.num_forwards for each in drafted)
    assert len({each.finish_reason for each in (plain, *drafted)}) == 1


def test_it_says_why_it_ended(model: Any) -> None:
    prompt = [5, 6, 7]
    first = by_transformers(model, prompt, GenerationParams(max_new_tokens=1))[0]
    tree = TokenTree(prompt)

    cut = by_us(model, prompt, GenerationParams(max_new_tokens=1))
    ended = run(model, tree, generate_greedily(tree, GenerationParams(), eos_token_id=first))

    assert (cut.finish_reason, cut.tokens) == ("length", (first,))
    assert (ended.finish_reason, ended.tokens) == ("stop", ())


def test_it_drafts_a_likely_answer_to_its_end_and_others_to_where_they_part() -> None:
    trie = AnswerTrie([[1, 2, 3, 3, END], [1, 2, 4, 4, END], [9, END]])
    bonus = np.zeros(3)
    bonus[trie.leaf_of[1]] = 5.0
    draft = Draft(trie, bonus)

    assert draft.after([]) == [(1, 2, 4, 4), (1, 2), ()]
    assert draft.after([1, 2, 3]) == [(3,)]
    assert draft.after([1, 7]) == []


def test_it_reads_no_answer_to_its_end_while_none_is_likely() -> None:
    trie = AnswerTrie([[1, 2, token, *[7] * 50, END] for token in range(10, 20)])

    assert set(Draft(trie, np.zeros(10)).after([])) == {(1, 2)}
    assert Draft(trie, np.zeros(10)).after([1, 2, 15]) == [(7,) * 50]


def test_what_the_prior_takes_for_another_answer_costs_one_forward_more(model: Any) -> None:
    """The model's own text is among the answers, but the bonus favours one that parts from it at the third token."""
    prompt = [5, 6, 7]
    params = GenerationParams(max_new_tokens=30)
    expected = by_transformers(model, prompt, params)
    trie = AnswerTrie([[*expected, 1], [*expected[:3], expected[3] + 1, *expected[4:], 1]])
    bonus = np.zeros(2)
    bonus[trie.leaf_of[1]] = 5.0

    generated = by_us(model, prompt, params, Draft(trie, bonus))

    assert list(generated.tokens) == expected
    assert generated.num_forwards == 2


def test_it_tells_what_it_has_written_as_it_goes(model: Any) -> None:
    told: list[int] = []
    tree = TokenTree([5, 6, 7])

    steps = generate_greedily(tree, GenerationParams(max_new_tokens=20), eos_token_id=END, on_tokens=told.extend)

    assert list(run(model, tree, steps).tokens) == told
    assert told


def test_a_piece_of_text_is_whole_characters() -> None:
    """One byte a token: the accents of Spanish, the eñe and an emoji are spread over several."""
    tokenizer = load_tokenizer(BaseModel())
    text = "¿Cuánto cuesta el envío a España? 5 € 🙂 ¡ya!"
    letters = [tokenizer.convert_tokens_to_ids(token) for token in byte_tokens(tokenizer, text)]
    written = WholeCharacters(tokenizer)

    pieces = [written.push([token]) for token in letters]

    assert "".join(pieces) == text
    assert "�" not in "".join(pieces)
    assert len(letters) > len(text)
    assert max(map(len, pieces)) == 1


def test_a_byte_that_no_database_holds_is_left_out() -> None:
    tokenizer = load_tokenizer(BaseModel())
    tokens = [tokenizer.convert_tokens_to_ids(token) for token in byte_tokens(tokenizer, "sí\0, claro")]

    assert WholeCharacters(tokenizer).push(tokens) == "sí, claro"


def byte_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The text as tokens of one byte each, under the names that byte-level BPE gives to bytes."""
    names = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    return list("".join(names))


@pytest.mark.parametrize("values", [{"max_new_tokens": 0}, {"repetition_penalty": 0.0}, {"no_repeat_ngram_size": -1}])
def test_it_refuses_limits_that_make_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        GenerationParams(**values)
