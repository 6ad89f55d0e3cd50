"""Several requests in one forward: their tokens stand in one row, and a mask lets each see only its own past.

    tree = TokenTree(prompt)
    end = tree.extend(tree.prompt_end, path)
    output = packed_forward(model, [tree], [[tree.prompt_end, end]])
    output.expected[0]  # what the model expects after the prompt and after the path
    output.keep(0)      # keys and values of what was read: the next forward does not read it again

No padding, and paths that share a beginning share its tokens: what a forward costs is what it reads. Knows a model's
forward; does not know what the tokens are for. Made for models whose layers all attend to everything before them; one
with a sliding window is read as if it had none, which is the same while prompt and answer fit the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache


class TokenTree:
    """What one request puts before the model: a prompt and, behind it, paths that may share beginnings.

    Tokens are numbered in the order in which they were added, the prompt first.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise ValueError("a prompt has at least one token")
        size = len(prompt)
        self.tokens = list(prompt)
        self.positions = list(range(size))
        self.prompt_end = size - 1
        self.num_read = 0
        self._children: dict[tuple[int, int], int] = {}
        # Row i: which tokens token i sees, itself included.
        self._visible = np.zeros((size + 32, size + 32), dtype=bool)
        self._visible[:size, :size] = np.tri(size, dtype=bool)
        # One pair of keys and values a layer, (1, heads, num_read, head size).
        self._cache: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_unread(self) -> int:
        return len(self.tokens) - self.num_read

    def extend(self, at: int, path: Sequence[int]) -> int:
        """Walk a path of tokens down from token `at`, adding those that are not there yet; the number of its last."""
        for token in path:
            known = self._children.get((at, token))
            at = self._add(at, token) if known is None else known
        return at

    def child(self, at: int, token: int) -> int | None:
        """The number of this token where it stands behind token `at`; None where it does not."""
        return self._children.get((at, token))

    def visible(self) -> NDArray[np.bool_]:
        """Which tokens each unread token sees, (unread, tokens)."""
        return self._visible[self.num_read : len(self), : len(self)]

    def _add(self, parent: int, token: int) -> int:
        number = len(self.tokens)
        if number == len(self._visible):
            grown = np.zeros((2 * number, 2 * number), dtype=bool)
            grown[:number, :number] = self._visible
            self._visible = grown
        self._visible[number] = self._visible[parent]
        self._visible[number, number] = True
        self.tokens.append(token)
        self.positions.append(self.positions[parent] + 1)
        self._children[parent, token] = number
        return number


class _Rows:
    """The logits of one forward, and what is worked out from them only if somebody wants it."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    @cached_property
    def masses(self) -> torch.Tensor:
        return self.logits.logsumexp(-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model expects after some tokens."""

    _rows: _Rows
    _part: slice

    @property
    def logits(self) -> torch.Tensor:
        """(tokens, vocabulary), float32."""
        return self._rows.logits[self._part]

    @property
    def masses(self) -> torch.Tensor:
        """Logarithms of the logits' sums of exponentials, (tokens, 1): logits - masses are log-probabilities."""
        return self._rows.masses[self._part]


@dataclass(frozen=True, slots=True)
class PackedOutput:
    """What a forward found.

    Attributes:
        expected: for each tree what comes after the tokens that were asked for, in their order.
    """

    expected: list[Expected]
    _trees: list[TokenTree]
    _cache: Any
    # Where the tokens of each tree stand among the keys and values.
    _parts: list[slice]

    def keep(self, index: int) -> None:
        """Keep what was read of a tree for its next forward; trees that are done need not."""
        tree, part = self._trees[index], self._parts[index]
        fresh = [(layer.keys[..., part, :], layer.values[..., part, :]) for layer in self._cache.layers]
        if not tree.num_read:
            # Copies: a slice would keep alive what was read for everyone else.
            tree._cache = [(keys.clone(), values.clone()) for keys, values in fresh]
        else:
            tree._cache = [
                (torch.cat((keys, new_keys), dim=-2), torch.cat((values, new_values), dim=-2))
                for (keys, values), (new_keys, new_values) in zip(tree._cache, fresh, strict=True)
            ]
        tree.num_read += part.stop - part.start


@torch.inference_mode()
def packed_forward(model: Any, trees: Sequence[TokenTree], asked: Sequence[Sequence[int]]) -> PackedOutput:
    """Read what each tree holds unread, all in one forward.

    Args:
        asked: for each tree the numbers of unread tokens, any order, after which logits are wanted.
    """
    read = np.cumsum([0, *(tree.num_read for tree in trees)])
    unread = np.cumsum([0, *(tree.num_unread for tree in trees)])
    num_read, num_unread = int(read[-1]), int(unread[-1])
    mask = np.zeros((num_unread, num_read + num_unread), dtype=bool)
    for index, tree in enumerate(trees):
        part = slice(unread[index], unread[index + 1])
        visible = tree.visible()
        mask[part, read[index] : read[index + 1]] = visible[:, : tree.num_read]
        mask[part, num_read + unread[index] : num_read + unread[index + 1]] = visible[:, tree.num_read :]
    wanted = [
        int(start) + number - tree.num_read
        for tree, numbers, start in zip(trees, asked, unread[:-1], strict=True)
        for number in numbers
    ]
    device = model.device
    cache = _joined([tree for tree in trees if tree.num_read])
    logits = model(
        input_ids=torch.tensor([[token for tree in trees for token in tree.tokens[tree.num_read :]]], device=device),
        position_ids=torch.tensor(
            [[position for tree in trees for position in tree.positions[tree.num_read :]]], device=device
        ),
        attention_mask=torch.from_numpy(mask)[None, None].to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(wanted, device=device),
    ).logits[0]
    rows = _Rows(logits.float())
    ends = np.cumsum([0, *(len(numbers) for numbers in asked)])
    return PackedOutput(
        expected=[Expected(rows, slice(start, stop)) for start, stop in pairwise(ends)],
        _trees=list(trees),
        _cache=cache,
        _parts=[slice(num_read + int(start), num_read + int(stop)) for start, stop in pairwise(unread)],
    )


def _joined(trees: Sequence[TokenTree]) -> DynamicCache:
    """One cache with the keys and values of all, one tree behind the other."""
    cache = DynamicCache()
    if trees:
        for layer, pairs in enumerate(zip(*(tree._cache for tree in trees), strict=True)):
            keys, values = (torch.cat(tensors, dim=-2) for tensors in zip(*pairs, strict=True))
            cache.update(keys, values, layer)
    return cache
