"""Running text for the bundled base (pretrain.py): documents, a tokenizer, windows of tokens and sentences."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from training.lm.augment import fold

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
END_OF_TEXT = 0
VOCAB_SIZE = 16_384
HELD_OUT_EVERY = 100  # documents of modern text, for the loss curve
NOVEL_PARAGRAPHS = 40  # a novel is read in pieces of as many, so that a part of it is not its beginning
# Of what is read of each kind: for the vocabulary's choice, as single sentences.
_VOCABULARY_SHARE = {"modern": 0.5, "novels": 0.06}
_SENTENCE_SHARE = {"modern": 1.0, "novels": 0.2}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob("*.txt")):
        yield "modern" if path.name.startswith("modern_") else "novels", path


def documents(path: Path) -> Iterator[str]:
    """Documents of a text file, in order."""
    with path.open(encoding="utf-8") as lines:
        document: list[str] = []
        for line in lines:
            if line.strip():
                document.append(line.strip())
            elif document:
                yield "\n".join(document)
                document = []
        if document:
            yield "\n".join(document)


def _pieces_of(document: str) -> Iterator[str]:
    paragraphs = document.split("\n")
    for start in range(0, len(paragraphs), NOVEL_PARAGRAPHS):
        yield "\n".join(paragraphs[start : start + NOVEL_PARAGRAPHS])


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE whose digits stand alone, with the tokens that mark roles."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_texts(folder: Path, support: Iterable[str]) -> Iterator[str]:
    """What the vocabulary is chosen for: as customers type, modern text, and some of the novels' words."""
    for text in support:
        for _ in range(3):
            yield fold(text)
        yield text
    rng = random.Random(0)
    for kind, path in _files(folder):
        for document in documents(path):
            for paragraph in document.split("\n"):
                if rng.random() < _VOCABULARY_SHARE[kind]:
                    yield fold(paragraph) if rng.random() < 0.5 else paragraph


def tokenize(tokenizer: Tokenizer, folder: Path, work: Path) -> None:
    """Write `modern.bin`, `novels.bin` and `held_out.bin`, uint16, documents ended by END_OF_TEXT.

    Every document of modern text appears as written and folded, as customers type; novels in one of the two ways.
    """
    rng = random.Random(1)
    parts: dict[str, list[NDArray[np.uint16]]] = {"modern": [], "novels": [], "held_out": []}
    held_out_bytes = 0

    def add(part: str, text: str) -> None:
        parts[part].append(np.array([*tokenizer.encode(text).ids, END_OF_TEXT], dtype=np.uint16))

    for kind, path in _files(folder):
        for number, document in enumerate(documents(path), 1):
            if kind == "modern" and number % HELD_OUT_EVERY == 0:
                add("held_out", document)
                held_out_bytes += len(document.encode()) + 1
            elif kind == "modern":
                add("modern", document)
                add("modern", fold(document))
            else:
                for piece in _pieces_of(document):
                    add("novels", fold(piece) if rng.random() < 0.5 else piece)
    for part, pieces in parts.items():
        random.Random(2).shuffle(pieces)
        np.concatenate(pieces).tofile(work / f"{part}.bin")
    (work / "held_out_bytes.txt").write_text(str(held_out_bytes))


class Windows:
    """Batches of text: random windows of what `tokenize` wrote, a share of them from novels."""

    def __init__(self, work: Path, length: int) -> None:
        self._length = length
        self._modern, self._novels = (
            np.memmap(work / f"{part}.bin", dtype=np.uint16, mode="r") for part in ("modern", "novels")
        )

    def batch(self, step: int, num_rows: int, share_of_novels: float) -> Tensor:
        """Token ids, (rows, length); the same step gives the same batch."""
        rng = np.random.default_rng(step)
        num_novels = round(rng.uniform(-0.5, 0.5) + num_rows * share_of_novels)
        rows = [self._window(self._novels if row < num_novels else self._modern, rng) for row in range(num_rows)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _window(self, text: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
        start = int(rng.integers(0, len(text) - self._length))
        return np.asarray(text[start : start + self._length])


def neighbouring_sentences(folder: Path, shortest: int = 20, longest: int = 220) -> list[tuple[str, str]]:
    """Sentences of 20 to 220 letters that follow one another in a paragraph: they often speak of one thing."""
    rng = random.Random(4)
    found: list[tuple[str, str]] = []
    for kind, path in _files(folder):
        for document in documents(path):
            for paragraph in document.split("\n"):
                if rng.random() < _SENTENCE_SHARE[kind]:
                    sentences = re.split(r"(?<=[.?!;])\s+", paragraph)
                    kept = [sentence for sentence in sentences if shortest < len(sentence) < longest]
                    found += itertools.pairwise(kept)
    return found
