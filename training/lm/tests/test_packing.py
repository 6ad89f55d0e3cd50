from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from training.lm.config import BaseModel, Precision
from training.lm.loading import load_base
from training.lm.packing import TokenTree, packed_forward


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_base(BaseModel(str(tiny_base)), precision=Precision.FULL)


def plain_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """What the model expects after these tokens, by a forward of its own."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([tokens])).logits[0, -1].float()
    return logits


def random_tokens(rng: random.Random, most: int) -> list[int]:
    return [rng.randrange(1, 300) for _ in range(rng.randint(1, most))]


@pytest.mark.parametrize("seed", range(6))
def test_no_request_sees_another_in_the_same_forward(model: Any, seed: int) -> None:
    """Some have been read in part, some are new, some branch: each gets what it would get alone."""
    rng = random.Random(seed)
    prompts = [random_tokens(rng, 30) for _ in range(5)]
    trees = [TokenTree(prompt) for prompt in prompts]
    first = packed_forward(model, trees[:3], [[tree.prompt_end] for tree in trees[:3]])
    for index in range(3):
        first.keep(index)
    asked: list[list[int]] = []
    expected: list[list[int]] = []
    for prompt, tree in zip(prompts, trees, strict=True):
        paths = [random_tokens(rng, 6) for _ in range(3)]
        ends = [tree.extend(tree.prompt_end, path) for path in paths]
        fresh = [(end, [*prompt, *path]) for end, path in zip(ends, paths, strict=True) if end >= tree.num_read]
        asked.append([end for end, _ in fresh])
        expected += [text for _, text in fresh]

    output = packed_forward(model, trees, asked)

    for row, text in zip(torch.cat([each.logits for each in output.expected]), expected, strict=True):
        assert torch.allclose(row, plain_logits(model, text), atol=1e-4)


def test_paths_that_begin_alike_share_their_tokens() -> None:
    tree = TokenTree([1, 2, 3])

    first = tree.extend(tree.prompt_end, [7, 8, 9])
    second = tree.extend(tree.prompt_end, [7, 8, 5])

    assert (first, second) == (5, 6)
    assert len(tree) == 7
    assert tree.extend(tree.prompt_end, [7, 8, 9]) == first
    assert tree.positions[first] == tree.positions[second] == 5


def test_what_was_read_is_not_read_again(model: Any) -> None:
    tree = TokenTree([1, 2, 3])
    output = packed_forward(model, [tree], [[2]])
    output.keep(0)
    assert tree.num_unread == 0

    end = tree.extend(tree.prompt_end, [4, 5])

    assert tree.num_unread == 2
    row = packed_forward(model, [tree], [[end]]).expected[0].logits[0]
    assert torch.allclose(row, plain_logits(model, [1, 2, 3, 4, 5]), atol=1e-4)


def test_a_draft_that_was_not_accepted_is_seen_by_nobody(model: Any) -> None:
    tree = TokenTree([1, 2, 3])
    tree.extend(tree.prompt_end, [9, 9, 9, 9])
    packed_forward(model, [tree], [[2]]).keep(0)

    end = tree.extend(3, [4, 5])

    assert tree.child(3, 4) == end - 1
    assert tree.child(3, 5) is None
    row = packed_forward(model, [tree], [[end]]).expected[0].logits[0]
    assert torch.allclose(row, plain_logits(model, [1, 2, 3, 9, 4, 5]), atol=1e-4)


def test_a_tree_grows_beyond_the_room_it_began_with(model: Any) -> None:
    tree = TokenTree([1])
    text = [random.Random(1).randrange(1, 300) for _ in range(150)]

    end = tree.extend(0, text)

    row = packed_forward(model, [tree], [[end]]).expected[0].logits[0]
    assert torch.allclose(row, plain_logits(model, [1, *text]), atol=1e-3)


def test_it_refuses_an_empty_prompt() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        TokenTree([])
