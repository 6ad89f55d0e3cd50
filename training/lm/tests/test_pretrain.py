"""The recipe of the bundled base on a thimbleful of text; how good the real one is stands in its model card."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.lm import corpus, pretrain, pretrain_text, pretrain_vectors
from training.lm.augment import fold
from training.lm.background import FILE_NAME as BACKGROUND_FILE
from training.lm.background import Background
from training.lm.config import BUNDLED_BASE, BaseModel
from training.lm.encoder import SentenceEncoder
from training.lm.loading import load_tokenizer
from training.lm.ngrams import count_ngrams
from training.lm.pretrain_batches import ModelRecipe, Stage
from training.lm.prompts import encode_prompt
from training.lm.semantics import FILE_NAME, SentenceVectors

VECTORS = pretrain_vectors.VectorRecipe(
    buckets=1 << 14, dimensions=32, steps=30, num_intents=60, num_groups=20, num_sentences=8
)
MODEL = ModelRecipe(
    reading=Stage(2, (1e-3, 1e-3), warmup=1, text_rows=2, novels=(0.5, 0.5)),
    meaning=Stage(4, (1e-3, 1e-4), warmup=1, text_rows=2, novels=(0.2, 0.2)),
    text_length=16,
    conversations=4,
    conversation_length=32,
    num_intents=12,
    num_groups=4,
    own_meanings=4,
    num_workers=0,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    monkeypatch.setattr(pretrain, "ARCHITECTURE", architecture | heads)
    monkeypatch.setattr(pretrain_text, "VOCAB_SIZE", 400)
    monkeypatch.setattr(pretrain_text, "HELD_OUT_EVERY", 3)
    # Compiling takes longer than all of this.
    monkeypatch.setattr(pretrain, "compiled", lambda model: model)
    some, groups, others = corpus.intents()[:60], corpus.same_meaning()[:60], corpus.off_topic()[:20]
    monkeypatch.setattr(corpus, "intents", lambda: some)
    monkeypatch.setattr(corpus, "same_meaning", lambda: groups)
    monkeypatch.setattr(corpus, "off_topic", lambda: others)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = random.Random(0)
    words = ["tienda", "envío", "cuenta", "¿Dónde", "factura", "está", "mañana", "compra."]
    for name, num_documents in (("modern_help.txt", 9), ("novel.txt", 2)):
        documents = ["\n".join(" ".join(rng.choices(words, k=24)) for _ in range(30)) for _ in range(num_documents)]
        (folder / name).write_text("\n\n".join(documents), encoding="utf-8")
    return folder


@pytest.fixture
def work(texts: Path, tmp_path: Path, small: None) -> Path:
    """A folder in which the model's training can begin."""
    folder = tmp_path / "work"
    pretrain_vectors.train_vectors(texts, folder, VECTORS)
    pretrain.prepare_text(texts, folder)
    return folder


def test_it_makes_a_base_that_transformers_reads(texts: Path, work: Path, tmp_path: Path) -> None:
    pretrain.Training(texts, work, MODEL).run()
    pretrain.export(work, tmp_path / "base")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert model.dtype == torch.bfloat16
    # Written in half of that.
    for name, value in load_file(tmp_path / "base" / "model.safetensors").items():
        assert value.dtype == (torch.float8_e4m3fn if value.ndim == 2 else torch.bfloat16), name
    assert SentenceVectors.load(tmp_path / "base" / FILE_NAME).dimensions == VECTORS.dimensions
    assert (tokenizer.eos_token, tokenizer.convert_tokens_to_ids("<|user|>")) == ("<|end|>", 3)
    assert encode_prompt(tokenizer, "¿Está ABIERTO?") == encode_prompt(tokenizer, "esta abierto")
    with (work / "loss.csv").open(encoding="utf-8", newline="") as file:
        steps = {int(step): figures for step, figures in csv.reader(file)}
    assert list(steps) == [1, 2, 3, 4, 5, 6]
    assert "support=" not in steps[2]
    assert all(name in steps[6] for name in ("text=", "support=", "meaning=", "unseen=", "cold_start="))
    # What the encoder reads meanings with goes along.
    read = SentenceEncoder(tmp_path / "base").of(["¿Está ABIERTO?", "esta abierto", "compra"])
    assert read.shape == (3, VECTORS.dimensions)
    np.testing.assert_allclose(read[0], read[1], atol=1e-6)
    # And what is asked of any business, in the vectors of both.
    background = Background.load(tmp_path / "base" / BACKGROUND_FILE)
    assert background.intents.shape == (len(corpus.learned_intents()), 2 * VECTORS.dimensions)
    assert background.words.shape == (len(background.shares), VECTORS.dimensions)


@pytest.mark.parametrize("interrupted_at", [2, 4])
def test_it_goes_on_from_its_checkpoint_as_if_nothing_had_happened(
    texts: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    parted = tmp_path / "parted"
    shutil.copytree(work, parted)
    pretrain.Training(texts, work, MODEL).run()
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", -1)
    with monkeypatch.context() as patch:
        losses = pretrain.Training.losses

        def interrupted(self: pretrain.Training, batch: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
            if self.step == interrupted_at:
                raise KeyboardInterrupt
            return losses(self, batch)

        patch.setattr(pretrain.Training, "losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.Training(texts, parted, MODEL).run()
    resumed = pretrain.Training(texts, parted, MODEL)
    assert resumed.step == interrupted_at
    resumed.run()

    whole, parts = (torch.load(folder / pretrain.CHECKPOINT, weights_only=True) for folder in (work, parted))
    assert parts["step"] == MODEL.steps
    for name, value in whole["model"].items():
        torch.testing.assert_close(parts["model"][name], value)


def test_a_finished_base_goes_on_with_other_vectors(texts: Path, work: Path, tmp_path: Path) -> None:
    base, again = tmp_path / "base", tmp_path / "again"
    pretrain.Training(texts, work, MODEL).run()
    pretrain.export(work, base)
    pretrain_vectors.train_vectors(texts, again, replace(VECTORS, steps=5))
    pretrain.take_over(base, again)
    pretrain.prepare_text(texts, again)
    recipe = replace(MODEL, reading=replace(MODEL.reading, steps=0))

    training = pretrain.Training(texts, again, recipe, base=base)

    assert (again / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    known = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    torch.testing.assert_close(dict(training.model.state_dict()), known)
    # What it reads is turned towards the new vectors, and otherwise what it was.
    asked = [intent.question for intent in corpus.learned_intents()]
    before = SentenceEncoder(base).of(asked)
    with torch.no_grad():
        now = training.read(*training.meanings.prompts(asked)).numpy()
    meant = training.vectors.of(count_ngrams(asked))
    np.testing.assert_allclose(now @ now.T, before @ before.T, atol=0.05)
    assert (now * meant).sum() > (before * meant).sum() + 1.0

    training.run()
    assert training.step == recipe.steps
    pretrain.export(again, tmp_path / "next")
    between = AutoModelForCausalLM.from_pretrained(tmp_path / "next", dtype=torch.float32).state_dict()
    learned = training.model.state_dict()
    assert not torch.equal(learned["model.norm.weight"], known["model.norm.weight"])
    for name, value in between.items():
        mean = ((known[name] + learned[name]) / 2).bfloat16()
        torch.testing.assert_close(value, (mean.to(torch.float8_e4m3fn) if mean.ndim == 2 else mean).float())


def test_the_embeddings_begin_with_what_the_vectors_know(texts: Path, work: Path) -> None:
    training = pretrain.Training(texts, work, MODEL)

    known = pretrain_vectors.token_vectors(training.vectors, pretrain.base_tokenizer(work))
    is_word = np.linalg.norm(known, axis=1) > 0
    embeddings = training.model.model.embed_tokens.weight.detach()[: len(known)]
    read = (embeddings @ training.reading.weight.detach().T).numpy()[is_word]
    lengths = np.linalg.norm(read, axis=1) * np.linalg.norm(known[is_word], axis=1)
    assert np.median((read * known[is_word]).sum(axis=1) / lengths) > 0.6


@pytest.mark.usefixtures("small")
def test_vectors_learn_what_means_one_thing(texts: Path, tmp_path: Path) -> None:
    found = {}
    for steps in (1, 150):
        pretrain_vectors.train_vectors(texts, tmp_path, replace(VECTORS, steps=steps))
        vectors = SentenceVectors.load(tmp_path / FILE_NAME)
        wordings = [intent.wordings[:2] for intent in corpus.learned_intents()]
        one, other = (vectors.of(count_ngrams([pair[side] for pair in wordings])) for side in (0, 1))
        found[steps] = float(((one @ other.T).argmax(axis=1) == np.arange(len(wordings))).mean())

    assert (vectors.num_buckets, vectors.dimensions) == (VECTORS.buckets, VECTORS.dimensions)
    assert found[150] > found[1] + 0.3


def test_the_bundled_tokenizer_folds_as_the_corpus_is_folded() -> None:
    tokenizer = load_tokenizer(BaseModel())

    for intent in corpus.intents()[::50]:
        for wording in intent.wordings[:4]:
            assert encode_prompt(tokenizer, wording) == encode_prompt(tokenizer, fold(wording)), wording


def test_the_bundled_weights_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in BUNDLED_BASE.glob("*.safetensors")) <= 32_000_000
