"""Guided decoding: the model chooses among approved answers and can say nothing else.

A search is a generator. It yields the numbers of the tokens in its tree after which it wants to know what the model
expects, and is sent that; whoever drives it may put many searches into one forward (engine.py). Knows token
ids; knows neither tokenizers nor entries: a leaf is a number.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.lm.decisions import MAX_SUGGESTIONS
from training.lm.packing import Expected, TokenTree, packed_forward
from training.lm.trie import AnswerTrie, Branch

FloatArray = NDArray[np.float64]

# Branches to ask about in one forward, and how many tokens the prior may have read beside them before the model has
# said anything: on a CPU eight such tokens cost about as much as a forward for one more round.
WIDTH = 16
MAX_DRAFTED_TOKENS = 40
# So few tokens are read at once: the smallest tries are decided in one forward, without any search.
MAX_TOKENS_READ_WHOLE = 32
# So many forwards are worth an exact confidence; after them it is enough to know what is to be done.
FORWARDS_FOR_CONFIDENCE = 2
# Where every leaf is wanted: branches in one forward, since each needs a row of logits as long as the vocabulary.
WIDTH_FOR_ALL = 128


@dataclass(frozen=True, slots=True)
class GuidedAnswer:
    """What guided decoding found.

    Attributes:
        leaves: leaves by falling probability; those that the search never needed to tell apart are left out.
        probabilities: one per leaf, of all the probability there is; never above the exact value, and no further below
            it than the search's tolerance unless it ended early.
        coverages: one per leaf: the mass that the model, left alone, put on the trie's children along its path.
        num_forwards: forwards of the model, the prompt's own included.
    """

    leaves: NDArray[np.int_]
    probabilities: FloatArray
    coverages: FloatArray
    num_forwards: int


Search = Generator[list[int], Expected, GuidedAnswer]


@dataclass(order=True, slots=True)
class _Open:
    """A branch that the search has reached and not yet looked below; ordered best first."""

    negative_bound: float
    start: int
    log_prob: float = field(compare=False)
    log_coverage: float = field(compare=False)
    branch: Branch = field(compare=False)


@dataclass(frozen=True, slots=True)
class Enough:
    """When a search may end early: once it is certain whether an answer is given and, if not, which are suggested."""

    threshold: float
    suggestion_threshold: float
    decline_leaf: int


def guided_search(
    tree: TokenTree,
    trie: AnswerTrie,
    bonus: FloatArray | None = None,
    *,
    model_weight: float = 1.0,
    tolerance: float = 0.01,
    enough: Enough | None = None,
) -> Search:
    """The answers found most probable, each scored model_weight · log p_model + bonus and normalised over the trie.

    Best-first search. A branch's bound, the score of its prefix + the best bonus below it, is at least the score of
    every leaf below it, so that the first place is exact as soon as no bound is above it. The search goes on until
    what the open branches might still hold is less than `tolerance` of all the probability. What the first forward
    reads beside the prompt is drafted by the bonus; that changes how many forwards follow, never what is found.

    Args:
        tree: the prompt, nothing of it read yet.
        bonus: one number per leaf, (leaves,), such as λ · prior; None for the model alone.
        model_weight: below 1 for a model that is surer than it is right.
        tolerance: 0 scores every leaf.
        enough: what there is to decide; a search that takes long ends when that is certain.
    """
    bonus = np.zeros(len(trie)) if bonus is None else bonus
    search = _BestFirst(tree, trie, bonus, model_weight, tolerance, enough)
    asking = search.draft()
    num_forwards = 0
    while asking:
        search.read(asking, (yield [search.ends[branch] for branch in asking]))
        num_forwards += 1
        asking = search.advance(is_long=num_forwards >= FORWARDS_FOR_CONFIDENCE)
    return search.result(num_forwards)


class _BestFirst:
    """The state of one guided search: scored leaves, open branches, and what the model said after which branch."""

    def __init__(
        self,
        tree: TokenTree,
        trie: AnswerTrie,
        bonus: FloatArray,
        model_weight: float,
        tolerance: float,
        enough: Enough | None,
    ) -> None:
        self._tree = tree
        self._trie = trie
        self._bonus = bonus
        self._model_weight = model_weight
        self._tolerance = tolerance
        self._enough = enough
        self._width = WIDTH if tolerance else WIDTH_FOR_ALL
        self._scores = np.full(len(trie), -np.inf)
        self._log_coverages = np.zeros(len(trie))
        self._frontier: list[_Open] = []
        self._said: dict[Branch, FloatArray] = {}
        # The number, in the tree of tokens, of the last token before each branch that was asked about.
        self.ends: dict[Branch, int] = {}
        self._root_end = tree.prompt_end
        if len(trie) > 1:
            self._root_end = tree.extend(tree.prompt_end, trie.root_prefix)
            self._frontier.append(_Open(-float(bonus.max()), 0, 0.0, 0.0, trie.root))
        else:
            self._scores[0] = bonus[0]

    def draft(self) -> list[Branch]:
        """What to read beside the prompt: all if it is little or all is wanted, else what the bonus favours."""
        if not self._frontier:
            return []
        if self._tolerance == 0 or self._trie.num_decided_tokens <= MAX_TOKENS_READ_WHOLE:
            return self._place(self._first_branches())
        branches = {self._trie.root: None}
        budget = MAX_DRAFTED_TOKENS
        shares = np.exp(self._bonus - np.logaddexp.reduce(self._bonus))
        for leaf in np.argsort(-self._bonus)[: WIDTH // 2]:
            way = self._trie.branches_to(int(leaf), self._trie.root)
            budget -= way[-1].depth - self._trie.root.depth if way else 0
            if shares[leaf] < self._tolerance or budget < 0:
                break
            branches.update(dict.fromkeys(way))
        return self._place(list(branches))

    def read(self, branches: Sequence[Branch], expected: Expected) -> None:
        """Take in what the model expects after each branch."""
        widest = max(len(branch.tokens) for branch in branches)
        tokens = torch.tensor([[*each.tokens, *[0] * (widest - len(each.tokens))] for each in branches])
        children = expected.logits.gather(1, tokens.to(expected.logits.device)) - expected.masses
        for branch, row in zip(branches, children.double().cpu().numpy(), strict=True):
            self._said[branch] = row[: len(branch.tokens)]

    def advance(self, *, is_long: bool) -> list[Branch]:
        """Look below every branch of which the model has spoken; the branches to ask about next, none at the end."""
        unread: list[_Open] = []
        while self._frontier:
            node = heapq.heappop(self._frontier)
            if node.branch in self._said:
                self._expand(node)
            else:
                unread.append(node)
        self._frontier = unread
        bounds = -np.array([node.negative_bound for node in unread])
        if not len(bounds) or self._is_settled(bounds) or (is_long and self._is_decided(bounds)):
            return []
        # Best first, and no more than it takes for the rest to be too little to matter.
        known = np.logaddexp.reduce([*self._scores[np.isfinite(self._scores)], *bounds])
        rest = np.append(np.logaddexp.accumulate(bounds[::-1])[::-1][1:], -np.inf)
        matter = int((rest - known >= np.log(max(self._tolerance / 2, 1e-12))).sum()) + 1
        branches: dict[Branch, None] = {}
        for node in unread[: min(matter, self._width)]:
            branches[node.branch] = None
            best = node.branch.start + int(self._bonus[node.branch.start : node.branch.stop].argmax())
            branches.update(dict.fromkeys(self._trie.branches_to(best, node.branch)))
        return self._place(list(branches))

    def result(self, num_forwards: int) -> GuidedAnswer:
        scored = np.flatnonzero(np.isfinite(self._scores))
        leaves = scored[np.argsort(-self._scores[scored], kind="stable")]
        total = np.logaddexp.reduce([*self._scores[leaves], *(-node.negative_bound for node in self._frontier)])
        return GuidedAnswer(
            leaves=leaves,
            probabilities=np.exp(self._scores[leaves] - total),
            coverages=np.exp(self._log_coverages[leaves]),
            num_forwards=num_forwards,
        )

    def _place(self, branches: list[Branch]) -> list[Branch]:
        """Put the tokens before these branches into the tree."""
        skip = self._trie.root.depth
        for branch in branches:
            self.ends[branch] = self._tree.extend(self._root_end, self._trie.prefix(branch)[skip:])
        return branches

    def _first_branches(self) -> list[Branch]:
        """Breadth first, as many as are read at once."""
        branches = [self._trie.root]
        for branch in branches:
            for start, stop in pairwise(branch.bounds):
                if stop - start > 1 and len(branches) < WIDTH_FOR_ALL:
                    branches.append(self._trie.branch(start, stop))
        return branches

    def _expand(self, node: _Open) -> None:
        children = self._said[node.branch]
        mass = float(np.logaddexp.reduce(children))
        log_probs = node.log_prob + self._model_weight * (children - mass)
        log_coverage = node.log_coverage + mass
        starts, stops = np.array(node.branch.bounds[:-1]), np.array(node.branch.bounds[1:])
        is_leaf = stops - starts == 1
        leaves = starts[is_leaf]
        self._scores[leaves] = log_probs[is_leaf] + self._bonus[leaves]
        self._log_coverages[leaves] = log_coverage
        best_below = np.maximum.reduceat(self._bonus[: node.branch.stop], starts)
        for place in np.flatnonzero(~is_leaf):
            start, stop = int(starts[place]), int(stops[place])
            bound = float(log_probs[place] + best_below[place])
            below = self._trie.branch(start, stop)
            heapq.heappush(self._frontier, _Open(-bound, start, float(log_probs[place]), log_coverage, below))

    def _is_settled(self, bounds: FloatArray) -> bool:
        scores = self._scores[np.isfinite(self._scores)]
        if self._tolerance == 0 or not len(scores) or scores.max() < bounds.max():
            return False
        unknown, known = np.logaddexp.reduce(bounds), np.logaddexp.reduce(scores)
        return bool(unknown - np.logaddexp(unknown, known) < np.log(self._tolerance))

    def _is_decided(self, bounds: FloatArray) -> bool:
        """Whether what is still open can change nothing about the answer being given, or none."""
        if self._enough is None:
            return False
        limit = np.log(max(self._enough.threshold, 1e-12))
        scores = self._scores[np.isfinite(self._scores)]
        answers = np.delete(self._scores, self._enough.decline_leaf)
        best = answers.max(initial=-np.inf)
        known, unknown = np.logaddexp.reduce(scores, initial=-np.inf), np.logaddexp.reduce(bounds)
        is_answered = best >= bounds.max() and best - np.logaddexp(known, unknown) >= limit
        # What no answer can exceed: with more to find, the whole only grows.
        most = max(best - known if len(scores) else 0.0, bounds.max() - np.logaddexp(known, bounds.max()))
        return bool(is_answered or (most < limit and self._are_suggestions_settled(answers, bounds, most)))

    def _are_suggestions_settled(self, answers: FloatArray, bounds: FloatArray, most: float) -> bool:
        """Whether it is known what to suggest, or that nothing is likely enough."""
        assert self._enough is not None
        likeliest = np.sort(answers)[-MAX_SUGGESTIONS:]
        is_known = len(likeliest) == MAX_SUGGESTIONS and likeliest[0] >= bounds.max()
        return bool(is_known or MAX_SUGGESTIONS * np.exp(most) < self._enough.suggestion_threshold)


def run(model: Any, tree: TokenTree, steps: Generator[list[int], Expected, Any]) -> Any:
    """Drive one search or generation by itself; its result. The engine drives many at once."""
    try:
        asked = next(steps)
        while True:
            output = packed_forward(model, [tree], [asked])
            asked = steps.send(output.expected[0])
            output.keep(0)
    except StopIteration as done:
        return done.value
