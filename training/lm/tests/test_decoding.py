from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.lm.config import BaseModel, Precision
from training.lm.decoding import MAX_TOKENS_READ_WHOLE, Enough, GuidedAnswer, guided_search, run
from training.lm.loading import load_base
from training.lm.packing import TokenTree
from training.lm.trie import AnswerTrie

END = 0


def random_paths(rng: random.Random, count: int, vocabulary: int) -> list[list[int]]:
    """Paths that share prefixes often, each with the end token."""
    alphabet = rng.sample(range(1, vocabulary), 4)
    return [[*(rng.choice(alphabet) for _ in range(rng.randint(1, 8))), END] for _ in range(count)]


def brute_force(model: Any, prompt: list[int], trie: AnswerTrie) -> tuple[list[float], list[float]]:
    """Log-probability and coverage of every leaf, one plain forward of the whole text each."""
    log_probs, coverages = [], []
    for path in trie.paths:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *path]])).logits[0].double().log_softmax(-1)
        log_prob = coverage = 0.0
        for depth in range(len(path)):
            here = {other[depth] for other in trie.paths if other[:depth] == path[:depth]}
            if len(here) > 1:
                row = logits[len(prompt) + depth - 1]
                mass = torch.logsumexp(row[sorted(here)], 0).item()
                log_prob += row[path[depth]].item() - mass
                coverage += mass
        log_probs.append(log_prob)
        coverages.append(float(np.exp(coverage)))
    return log_probs, coverages


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_base(BaseModel(str(tiny_base)), precision=Precision.FULL)


def search(model: Any, prompt: list[int], trie: AnswerTrie, **options: Any) -> GuidedAnswer:
    found = run(model, tree := TokenTree(prompt), guided_search(tree, trie, **options))
    assert isinstance(found, GuidedAnswer)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_it_scores_every_leaf_as_brute_force_does(model: Any, seed: int) -> None:
    rng = random.Random(seed)
    trie = AnswerTrie(random_paths(rng, rng.choice([2, 5, 30]), 300))
    prompt = [rng.randrange(1, 300) for _ in range(rng.randint(1, 20))]
    log_probs, coverages = brute_force(model, prompt, trie)

    found = search(model, prompt, trie, tolerance=0)

    assert sorted(found.leaves) == list(range(len(trie)))
    for leaf, probability, coverage in zip(found.leaves, found.probabilities, found.coverages, strict=True):
        assert probability == pytest.approx(np.exp(log_probs[leaf]), rel=1e-3)
        assert coverage == pytest.approx(coverages[leaf], rel=1e-3)
    assert sum(found.probabilities) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_the_best_leaf_without_scoring_all(model: Any, seed: int) -> None:
    rng = random.Random(100 + seed)
    trie = AnswerTrie(random_paths(rng, 40, 300))
    prompt = [rng.randrange(1, 300) for _ in range(8)]
    bonus = np.array([3 * rng.random() for _ in range(len(trie))])
    log_probs, _ = brute_force(model, prompt, trie)
    scores = np.array(log_probs) + bonus
    exact = np.exp(scores - np.logaddexp.reduce(scores))

    found = search(model, prompt, trie, bonus=bonus, tolerance=0.01)

    assert found.leaves[0] == int(scores.argmax())
    assert found.probabilities[0] == pytest.approx(exact.max(), rel=0.011)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_search_that_ends_early_decides_as_the_exact_one(model: Any, threshold: float) -> None:
    """Whether the best answer's probability reaches the threshold is never mistaken, and never overstated."""
    num_shorter = 0
    for seed in range(12):
        rng = random.Random(seed)
        trie = AnswerTrie(random_paths(rng, 400, 300))
        prompt = [rng.randrange(1, 300) for _ in range(6)]
        bonus = np.array([rng.choice([0.0, 0.0, 6.0]) * rng.random() for _ in range(len(trie))])
        decline_leaf = rng.randrange(len(trie))

        exact = search(model, prompt, trie, bonus=bonus, tolerance=1e-6)
        early = search(model, prompt, trie, bonus=bonus, enough=Enough(threshold, threshold / 2, decline_leaf))

        outcomes = []
        for found in (exact, early):
            places = np.flatnonzero(found.leaves != decline_leaf)
            best = places[0] if len(places) else None
            confidence = 0.0 if best is None else float(found.probabilities[best])
            outcomes.append((confidence, int(found.leaves[best]) if confidence >= threshold else None))
        assert outcomes[0][1] == outcomes[1][1]
        assert outcomes[1][0] <= outcomes[0][0] + 1e-4
        num_shorter += early.num_forwards < exact.num_forwards
    assert num_shorter > 6


def test_it_asks_nothing_where_there_is_one_answer(model: Any) -> None:
    found = search(model, [1, 2, 3], AnswerTrie([[5, 6, 7, END]]))

    assert (list(found.leaves), list(found.probabilities), list(found.coverages)) == ([0], [1.0], [1.0])
    assert found.num_forwards == 0


def test_it_needs_one_forward_when_answers_part_at_their_first_token(model: Any) -> None:
    trie = AnswerTrie([[token, 9, 9, 9, 9, END] for token in range(10, 30)])

    assert search(model, [1, 2, 3], trie).num_forwards == 1


def test_a_chain_with_no_branch_costs_no_forward_of_its_own(model: Any) -> None:
    """Two answers of many tokens that part late: what they share is read with the prompt."""
    shared = list(range(20, 60))
    trie = AnswerTrie([[*shared, 5, *shared, END], [*shared, 6, *shared, END]])

    assert search(model, [1, 2, 3], trie).num_forwards == 1


def test_the_prior_drafts_what_the_first_forward_reads(model: Any) -> None:
    """Too many paths to read them all: those that the bonus favours are read beside the prompt."""
    rng = random.Random(5)
    trie = AnswerTrie([[*(rng.choice([3, 4]) for _ in range(12)), END] for _ in range(60)])
    assert trie.num_decided_tokens > MAX_TOKENS_READ_WHOLE
    bonus = np.zeros(len(trie))
    bonus[17] = 60.0

    drafted = search(model, [1, 2, 3], trie, bonus=bonus)

    assert (drafted.leaves[0], drafted.num_forwards) == (17, 1)
    assert search(model, [1, 2, 3], trie).num_forwards > 1


@pytest.mark.parametrize("seed", range(20))
def test_it_knows_how_much_there_is_to_read(seed: int) -> None:
    trie = AnswerTrie(random_paths(random.Random(seed), 25, 40))
    branches = [trie.root]
    for branch in branches:
        spans = zip(branch.bounds, branch.bounds[1:], strict=False)
        branches += [trie.branch(start, stop) for start, stop in spans if stop - start > 1]
    prefixes = {trie.prefix(branch)[:length] for branch in branches for length in range(branch.depth + 1)}

    assert trie.num_decided_tokens == len({prefix for prefix in prefixes if len(prefix) > trie.root.depth})


def test_it_shares_a_leaf_between_equal_paths() -> None:
    trie = AnswerTrie([[3, END], [1, END], [3, END]])

    assert trie.leaf_of[0] == trie.leaf_of[2] != trie.leaf_of[1]
    assert len(trie) == 2


@pytest.mark.parametrize("seed", range(20))
def test_it_knows_how_much_of_a_path_is_decided(seed: int) -> None:
    paths = random_paths(random.Random(seed), 25, 40)
    trie = AnswerTrie(paths)
    for leaf, path in enumerate(trie.paths):
        length = trie.decided_length(leaf)
        others = [other for other in trie.paths if other != path]
        assert all(other[:length] != path[:length] for other in others)
        assert not others or any(other[: length - 1] == path[: length - 1] for other in others)


def test_it_refuses_an_empty_trie() -> None:
    with pytest.raises(ValueError, match="at least one path"):
        AnswerTrie([])
