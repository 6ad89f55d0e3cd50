"""The answer trie and guided decoding: the model chooses among approved answers and can say nothing else.

Knows token ids and a model's forward. Knows neither tokenizers nor entries: a leaf is a number.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from training.lm.decisions import Stopped

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Branch:
    """A place in the trie where paths part.

    Leaves `start` to `stop` lie below it and share their first `depth` tokens; child i begins with `tokens[i]` and
    holds leaves `bounds[i]` to `bounds[i + 1]`.
    """

    start: int
    stop: int
    depth: int
    tokens: tuple[int, ...]
    bounds: tuple[int, ...]


class AnswerTrie:
    """A trie over token paths, kept as the sorted paths and the lengths of the prefixes that neighbours share.

    Every path ends with the same end token or is cut at the same length, so that none is a prefix of another. Equal
    paths share a leaf: `leaf_of[i]` is the leaf of the i-th path given. Memory is that of the paths and one number
    each; branches are worked out when first visited.
    """

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        if not paths:
            raise ValueError("a trie needs at least one path")
        given = [tuple(path) for path in paths]
        self.paths = sorted(set(given))
        leaves = {path: leaf for leaf, path in enumerate(self.paths)}
        self.leaf_of = [leaves[path] for path in given]
        self._shared = np.array([_shared(a, b) for a, b in zip(self.paths, self.paths[1:], strict=False)], dtype=int)
        self.branch = cache(self._branch)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def root_prefix(self) -> tuple[int, ...]:
        """What every path begins with: nothing there is for the model to decide."""
        return self.paths[0] if len(self) == 1 else self.paths[0][: self.branch(0, len(self)).depth]

    def prefix(self, branch: Branch) -> tuple[int, ...]:
        return self.paths[branch.start][: branch.depth]

    def decided_length(self, leaf: int) -> int:
        """How many tokens of a path tell it from every other: the last branch on it and the token chosen there."""
        neighbours = self._shared[max(leaf - 1, 0) : leaf + 1]
        return 1 + int(neighbours.max()) if len(neighbours) else 1

    def _branch(self, start: int, stop: int) -> Branch:
        shared = self._shared[start : stop - 1]
        depth = int(shared.min())
        cuts = start + 1 + np.flatnonzero(shared == depth)
        bounds = (start, *(int(cut) for cut in cuts), stop)
        return Branch(start, stop, depth, tuple(self.paths[i][depth] for i in bounds[:-1]), bounds)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two paths have in common."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


class Prefill:
    """A prompt that has gone through the model once: its KV cache and what the model expects next."""

    def __init__(self, model: Any, prompt: Sequence[int]) -> None:
        self.model = model
        self.num_forwards = 1
        ids = torch.tensor([list(prompt)], device=model.device)
        with torch.inference_mode():
            output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        self.length = ids.shape[1]
        self._cache = output.past_key_values
        self._log_probs = output.logits[:, -1].float().log_softmax(-1)  # (1, vocabulary)

    def log_probs_after(self, paths: Sequence[Sequence[int]]) -> torch.Tensor:
        """Next-token log-probabilities after the prompt and each path, (paths, vocabulary), in one forward."""
        if not any(paths):
            return self._log_probs.expand(len(paths), -1)
        self.num_forwards += 1
        lengths = torch.tensor([len(path) for path in paths], device=self.model.device)
        longest = max(len(path) for path in paths)
        ids = torch.tensor([[*path, *[0] * (longest - len(path))] for path in paths], device=self.model.device)
        mask = torch.ones(len(paths), self.length + longest, dtype=torch.long, device=self.model.device)
        mask[:, self.length :] = (torch.arange(longest, device=self.model.device) < lengths[:, None]).long()
        # Logits are wanted where paths end, not everywhere: a large vocabulary would fill the memory.
        ends, which_end = (lengths - 1).clamp(min=0).unique(return_inverse=True)
        with torch.inference_mode():
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=self._cache_for(len(paths)),
                use_cache=True,
                logits_to_keep=ends,
            ).logits
        last = logits[torch.arange(len(paths)), which_end].float().log_softmax(-1)
        return torch.where((lengths == 0)[:, None], self._log_probs, last)

    def _cache_for(self, num_paths: int) -> DynamicCache:
        """The prompt's keys and values seen by `num_paths` rows. Views: a forward appends to copies of them."""
        copies = DynamicCache()
        for index, layer in enumerate(self._cache.layers):
            shape = (num_paths, -1, -1, -1)
            copies.update(layer.keys.expand(*shape), layer.values.expand(*shape), index)
        return copies


@dataclass(frozen=True, slots=True)
class GuidedAnswer:
    """What guided decoding found.

    Attributes:
        leaves: leaves by falling probability; those that the search never needed to tell apart are left out.
        probabilities: one per leaf, of all the probability there is; exact to the search's tolerance.
        coverages: one per leaf: the mass that the model, left alone, put on the trie's children along its path.
        num_forwards: forwards of the model, the prompt's own included.
    """

    leaves: list[int]
    probabilities: list[float]
    coverages: list[float]
    num_forwards: int


@dataclass(order=True, slots=True)
class _Open:
    """A branch that the search has reached and not yet asked the model about; ordered best first."""

    negative_bound: float
    start: int
    log_prob: float = field(compare=False)
    log_coverage: float = field(compare=False)
    branch: Branch = field(compare=False)


def guided_search(
    prefill: Prefill,
    trie: AnswerTrie,
    bonus: FloatArray | None = None,
    *,
    width: int = 16,
    tolerance: float = 0.01,
    should_stop: Callable[[], bool] = lambda: False,
) -> GuidedAnswer:
    """The answers that the model finds most probable, each scored log p_model + bonus and normalised over the trie.

    Best-first search. A branch's bound, log p_model of its prefix + the best bonus below it, is at least the score of
    every leaf below it, so that the first place is exact as soon as no bound is above it. The search goes on until
    what the open branches might still hold is less than `tolerance` of all the probability.

    Args:
        prefill: the prompt followed by the trie's root prefix.
        bonus: one number per leaf, (leaves,), such as λ · prior; None for the model alone.
        width: branches asked in one forward.
        tolerance: 0 scores every leaf.
        should_stop: asked before every forward.

    Raises:
        Stopped: should_stop said so.
    """
    bonus = np.zeros(len(trie)) if bonus is None else bonus
    scores: dict[int, float] = {}
    log_coverages: dict[int, float] = {}
    frontier: list[_Open] = []
    if len(trie) == 1:
        scores[0], log_coverages[0] = float(bonus[0]), 0.0
    else:
        frontier.append(_Open(0.0, 0, 0.0, 0.0, trie.branch(0, len(trie))))
    skip = len(trie.root_prefix)
    while frontier and not _is_settled(scores, frontier, tolerance):
        if should_stop():
            raise Stopped
        opened = [heapq.heappop(frontier) for _ in range(min(width, len(frontier)))]
        log_probs = prefill.log_probs_after([trie.prefix(node.branch)[skip:] for node in opened])
        for node, row in zip(opened, log_probs, strict=True):
            children = row[list(node.branch.tokens)].double().cpu().numpy()
            mass = float(np.logaddexp.reduce(children))
            for log_prob, start, stop in zip(
                node.log_prob + children - mass, node.branch.bounds, node.branch.bounds[1:], strict=False
            ):
                if stop - start == 1:
                    scores[start] = float(log_prob + bonus[start])
                    log_coverages[start] = node.log_coverage + mass
                else:
                    bound = float(log_prob + bonus[start:stop].max())
                    below = trie.branch(start, stop)
                    heapq.heappush(frontier, _Open(-bound, start, float(log_prob), node.log_coverage + mass, below))
    total = np.logaddexp.reduce([*scores.values(), *(-node.negative_bound for node in frontier)])
    ranked = sorted(scores, key=lambda leaf: -scores[leaf])
    return GuidedAnswer(
        leaves=ranked,
        probabilities=[float(np.exp(scores[leaf] - total)) for leaf in ranked],
        coverages=[float(np.exp(log_coverages[leaf])) for leaf in ranked],
        num_forwards=prefill.num_forwards,
    )


def _is_settled(scores: dict[int, float], frontier: list[_Open], tolerance: float) -> bool:
    if not scores or max(scores.values()) < -frontier[0].negative_bound:
        return False
    if tolerance == 0:
        return False
    unknown = np.logaddexp.reduce([-node.negative_bound for node in frontier])
    known = np.logaddexp.reduce(list(scores.values()))
    return bool(unknown - np.logaddexp(unknown, known) < np.log(tolerance))
