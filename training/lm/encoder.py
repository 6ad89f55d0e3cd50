"""What the bundled base's language model makes of a text, as a vector: texts that mean one thing point the same way.

The last state of the text as a customer's message, read by the linear map that was learned with the base (pretrain.py).
Contrastive sentence embeddings from a causal language model, as in SGPT (https://arxiv.org/abs/2202.08904). Word order
and context count, of which the sentence vectors (semantics.py) see neighbouring words; they know more words. Belongs to
the bundled base and serves beside any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from transformers import AutoModel

from training.lm.config import BUNDLED_BASE, BaseModel
from training.lm.loading import load_tokenizer
from training.lm.prompts import encode_any_prompt
from training.lm.semantics import FILE_NAME, READING, SentenceVectors, bundled_vectors

# Of a longer text, such as an answer, the beginning is read: that much is certainly enough for so many tokens.
MAX_TOKENS = 64
MAX_CHARACTERS = 1_000
BATCH_SIZE = 64
# Vectors that are kept, so that a switch between versions reads nothing anew.
MAX_KNOWN = 100_000
# How much it weighs beside the sentence vectors.
ENCODER_WEIGHT = 1.0


_loading = Lock()


class SentenceEncoder:
    """Immutable; may be asked from any thread.

    Args:
        base: a folder with the model, its tokenizer and the map.
    """

    def __init__(self, base: Path = BUNDLED_BASE) -> None:
        self._tokenizer = load_tokenizer(BaseModel(str(base)))
        # A copy of its own in full precision, on the CPU: the engine's may be on a GPU, and bears an adapter.
        self._model = AutoModel.from_pretrained(base, dtype=torch.float32, use_safetensors=True).eval()
        self._reading = load_file(base / FILE_NAME)[READING].float()
        self._none = np.zeros((0, len(self._reading)), dtype=np.float32)
        self._known: dict[str, NDArray[np.float32]] = {}
        # Several threads that read at once only take the interpreter from one another: all end late, instead of one by
        # one.
        self._turn = Lock()

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, (texts, dimensions), length 1."""
        found = {text: self._known[text] for text in texts if text in self._known}
        prompts = {text: self._prompt(text) for text in texts if text not in found}
        # Texts of one length together, so that little is computed on padding.
        new = sorted(prompts, key=lambda text: len(prompts[text]))
        for start in range(0, len(new), BATCH_SIZE):
            batch = new[start : start + BATCH_SIZE]
            with self._turn:
                found.update(zip(batch, self._read([prompts[text] for text in batch]).numpy(), strict=True))
        # What customers ask comes one at a time and seldom again.
        if len(texts) > 1 and len(self._known) < MAX_KNOWN:
            self._known.update((text, found[text]) for text in new)
        return np.stack([found[text] for text in texts]) if texts else self._none

    def _prompt(self, text: str) -> list[int]:
        ids = encode_any_prompt(self._tokenizer, text[:MAX_CHARACTERS])
        return ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]

    @torch.inference_mode()
    def _read(self, prompts: Sequence[list[int]]) -> Tensor:
        # Padding comes last, and a causal model does not look ahead, so that it needs no mask.
        ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
        states: Any = self._model(input_ids=ids, use_cache=False).last_hidden_state
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return nn.functional.normalize(states[torch.arange(len(prompts)), ends] @ self._reading.T, dim=-1)


class BundledReader:
    """Sentence vectors and encoder together: one vector whose products are the sums of both likenesses."""

    def __init__(self, vectors: SentenceVectors, encoder: SentenceEncoder) -> None:
        self.vectors, self.encoder = vectors, encoder

    def read(self, texts: Sequence[str], counts: csr_matrix) -> NDArray[np.float32]:
        """Vectors of texts, (texts, dimensions); see prior.Reader."""
        encoded = np.sqrt(np.float32(ENCODER_WEIGHT)) * self.encoder.of(texts)
        return np.concatenate([self.vectors.of(counts), encoded], axis=1)


def bundled_reader() -> BundledReader:
    # Two who come first together are not to load it twice.
    with _loading:
        return _bundled_reader()


@cache
def _bundled_reader() -> BundledReader:
    return BundledReader(bundled_vectors(), SentenceEncoder())
