"""The recipe of the bundled base on a thimbleful of text; how good the real one is stands in its model card."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.lm import corpus, pretrain
from training.lm.augment import fold
from training.lm.config import BUNDLED_BASE, BaseModel
from training.lm.loading import load_tokenizer
from training.lm.ngrams import count_ngrams
from training.lm.prompts import encode_prompt
from training.lm.semantics import FILE_NAME, SentenceVectors

TEXT = replace(pretrain.TEXT, steps=4, rows=2, length=16, warmup=1)
VECTORS = pretrain.VectorRecipe(buckets=1 << 14, dimensions=32, steps=30, num_intents=60, num_groups=20)
SUPPORT = replace(pretrain.SUPPORT, steps=2, rows=4, length=32, warmup=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    monkeypatch.setattr(pretrain, "ARCHITECTURE", architecture | heads)
    monkeypatch.setattr(pretrain, "VOCAB_SIZE", 400)
    monkeypatch.setattr(pretrain, "HELD_OUT_EVERY", 3)
    monkeypatch.setattr(pretrain, "TEXT_ROWS_BESIDE", 2)
    monkeypatch.setattr(pretrain, "TEXT", TEXT)
    # Compiling takes longer than all of this.
    monkeypatch.setattr(pretrain, "compiled", lambda model: model)
    some, groups, others = corpus.intents()[:60], corpus.same_meaning()[:60], corpus.off_topic()[:20]
    monkeypatch.setattr(corpus, "intents", lambda: some)
    monkeypatch.setattr(corpus, "same_meaning", lambda: groups)
    monkeypatch.setattr(corpus, "off_topic", lambda: others)
    monkeypatch.setattr(pretrain, "MEANING_ROWS", 8)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = random.Random(0)
    words = ["tienda", "envío", "cuenta", "¿Dónde", "factura", "está", "mañana", "compra"]
    for name, num_documents in (("modern_help.txt", 9), ("novel.txt", 2)):
        documents = ["\n".join(" ".join(rng.choices(words, k=12)) for _ in range(30)) for _ in range(num_documents)]
        (folder / name).write_text("\n\n".join(documents), encoding="utf-8")
    return folder


@pytest.mark.usefixtures("small")
def test_it_makes_a_base_that_transformers_reads(texts: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"

    pretrain.train_vectors(work, VECTORS)
    pretrain.train_on_text(texts, work, TEXT)
    pretrain.train_on_support(work, SUPPORT)
    pretrain.export(work, tmp_path / "base")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert model.dtype == torch.bfloat16
    assert SentenceVectors.load(tmp_path / "base" / FILE_NAME).dimensions == VECTORS.dimensions
    assert (tokenizer.eos_token, tokenizer.convert_tokens_to_ids("<|user|>")) == ("<|end|>", 3)
    assert encode_prompt(tokenizer, "¿Está ABIERTO?") == encode_prompt(tokenizer, "esta abierto")
    stages = {line.split(",")[0] for line in (work / "loss.csv").read_text(encoding="utf-8").splitlines()}
    assert stages == {"text", "support"}


@pytest.mark.usefixtures("small")
def test_it_goes_on_from_its_checkpoint_as_if_nothing_had_happened(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain.train_on_text(texts, tmp_path / "whole", TEXT)
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", -1)
    with monkeypatch.context() as patch:
        batch = pretrain.Windows.batch

        def interrupted(self: pretrain.Windows, step: int) -> torch.Tensor:
            if step == 2:
                raise KeyboardInterrupt
            return batch(self, step)

        patch.setattr(pretrain.Windows, "batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.train_on_text(texts, tmp_path / "parts", TEXT)
    pretrain.train_on_text(texts, tmp_path / "parts", TEXT)

    whole, parts = (torch.load(tmp_path / name / "text.pt", weights_only=True) for name in ("whole", "parts"))
    assert parts["step"] == TEXT.steps
    for name, value in whole["model"].items():
        torch.testing.assert_close(parts["model"][name], value)


@pytest.mark.usefixtures("small")
def test_vectors_learn_what_means_one_thing(tmp_path: Path) -> None:
    found = {}
    for steps in (1, 150):
        pretrain.train_vectors(tmp_path, replace(VECTORS, steps=steps))
        vectors = SentenceVectors.load(tmp_path / FILE_NAME)
        wordings = [intent.wordings[:2] for intent in corpus.learned_intents()]
        one, other = (vectors.of(count_ngrams([pair[side] for pair in wordings])) for side in (0, 1))
        found[steps] = float(((one @ other.T).argmax(axis=1) == np.arange(len(wordings))).mean())

    assert vectors.table.shape == (VECTORS.buckets, VECTORS.dimensions)
    assert found[150] > found[1] + 0.3


def test_the_bundled_tokenizer_folds_as_the_corpus_is_folded() -> None:
    tokenizer = load_tokenizer(BaseModel())

    for intent in corpus.intents()[::50]:
        for wording in intent.wordings[:4]:
            assert encode_prompt(tokenizer, wording) == encode_prompt(tokenizer, fold(wording)), wording


def test_the_bundled_weights_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in BUNDLED_BASE.glob("*.safetensors")) <= 32_000_000
