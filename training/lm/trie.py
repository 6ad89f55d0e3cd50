"""The answer trie: every approved answer as a path of tokens, and the places where they part.

Knows numbers only: a token is a number, a leaf is a number. Needs no model.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A place in the trie where paths part. A trie has one object for each, so identity is equality.

    Leaves `start` to `stop` lie below it and share their first `depth` tokens; child i begins with `tokens[i]` and
    holds leaves `bounds[i]` to `bounds[i + 1]`.
    """

    start: int
    stop: int
    depth: int
    tokens: tuple[int, ...]
    bounds: tuple[int, ...]

    def child_of(self, leaf: int) -> tuple[int, int]:
        """The leaves that share a child with this one: from, to."""
        place = bisect_right(self.bounds, leaf)
        return self.bounds[place - 1], self.bounds[place]


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
        self._branches: dict[tuple[int, int], Branch] = {}

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def root_prefix(self) -> tuple[int, ...]:
        """What every path begins with: nothing there is for the model to decide."""
        return self.paths[0] if len(self) == 1 else self.paths[0][: self.root.depth]

    @property
    def root(self) -> Branch:
        return self.branch(0, len(self))

    @cached_property
    def num_decided_tokens(self) -> int:
        """Tokens that a model must read, beyond the root prefix, to have decided every branch."""
        if len(self) == 1:
            return 0
        deepest = np.maximum(np.append(self._shared, 0), np.append(0, self._shared))
        # In sorted order a path shares most with its predecessor, whose tokens have been read as far as that.
        return int((deepest - np.append(len(self.root_prefix), self._shared)).sum())

    def prefix(self, branch: Branch) -> tuple[int, ...]:
        return self.paths[branch.start][: branch.depth]

    def branches_to(self, leaf: int, below: Branch) -> list[Branch]:
        """The branches on the way from one branch, itself left out, down to a leaf."""
        branches: list[Branch] = []
        start, stop = below.child_of(leaf)
        while stop - start > 1:
            branches.append(self.branch(start, stop))
            start, stop = branches[-1].child_of(leaf)
        return branches

    def leaves_after(self, prefix: Sequence[int]) -> tuple[int, int]:
        """The leaves whose paths begin with these tokens: from, to; none if both are the same."""
        if not prefix:
            return 0, len(self)
        start = bisect_left(self.paths, tuple(prefix))
        return start, bisect_left(self.paths, (*prefix[:-1], prefix[-1] + 1), lo=start)

    def decided_length(self, leaf: int) -> int:
        """How many tokens of a path tell it from every other: the last branch on it and the token chosen there."""
        neighbours = self._shared[max(leaf - 1, 0) : leaf + 1]
        return 1 + int(neighbours.max()) if len(neighbours) else 1

    def branch(self, start: int, stop: int) -> Branch:
        """Where the paths of these leaves, all that begin alike, part."""
        known = self._branches.get((start, stop))
        return known or self._branches.setdefault((start, stop), self._new_branch(start, stop))

    def _new_branch(self, start: int, stop: int) -> Branch:
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
