"""How the bundled base is made: sentence vectors, a tokenizer, running text, then the customer-service corpus.

    python -m training.lm.pretrain vectors TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain text TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain support TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain export WORK_FOLDER BASE_FOLDER

TEXT_FOLDER holds UTF-8 text files, a paragraph a line, an empty line between documents; names that begin with `modern_`
are modern text, the others novels. Every stage goes on from its last checkpoint in WORK_FOLDER; `loss.csv` there is the
curve. Runs on a CPU or on one CUDA device.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.lm import corpus
from training.lm.augment import fold
from training.lm.ngrams import count_ngrams
from training.lm.prior import Prior
from training.lm.prompts import DECLINE, encode_answer, encode_prompt
from training.lm.semantics import FILE_NAME, SentenceVectors

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
END_OF_TEXT = 0
IGNORED = -100
# What customers type is folded, so that the model reads one form however carefully they type.
_FOLDED = "".join(
    f" | replace('{a}', '{b}')" for a, b in zip("áéíóúüàèìòù¿?¡!", [*"aeiouuaeiou", "", "", "", ""], strict=True)
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- '<|user|>' + (message['content'] | lower" + _FOLDED + ") -}}"
    "{%- else -%}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
VOCAB_SIZE = 8192
# Wide and shallow: on a CPU the time goes into everything but the large matrix products.
ARCHITECTURE = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
HELD_OUT_EVERY = 100  # documents of modern text, for the loss curve
CHECKPOINT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training.

    Attributes:
        steps: optimizer steps.
        learning_rate: at the start and at the end, linear in between after `warmup` steps.
        rows, length: of a batch, in sequences and tokens.
        novels: share of novels in running text at the start and at the end.
    """

    name: str
    steps: int
    learning_rate: tuple[float, float]
    rows: int = 51
    length: int = 160
    warmup: int = 60
    novels: tuple[float, float] = (0.0, 0.0)
    weight_decay: float = 0.05

    def rate(self, step: int) -> float:
        start, end = self.learning_rate
        return min(1.0, (step + 1) / self.warmup) * (start + (end - start) * step / self.steps)

    def share_of_novels(self, step: int) -> float:
        start, end = self.novels
        return start + (end - start) * step / self.steps


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


def pieces_of(document: str, num_paragraphs: int = 40) -> Iterator[str]:
    """A novel in pieces, so that a part of it is not its beginning."""
    paragraphs = document.split("\n")
    for start in range(0, len(paragraphs), num_paragraphs):
        yield "\n".join(paragraphs[start : start + num_paragraphs])


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
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


def tokenizer_texts(folder: Path, support: list[str]) -> Iterator[str]:
    """What the vocabulary is chosen for: as customers type, modern text, and some of the novels' words."""
    for text in support:
        for _ in range(3):
            yield fold(text)
        yield text
    rng = random.Random(0)
    for path in sorted(folder.glob("*.txt")):
        keep = 0.5 if path.name.startswith("modern_") else 0.06
        for document in documents(path):
            for paragraph in document.split("\n"):
                if rng.random() < keep:
                    yield fold(paragraph) if rng.random() < 0.5 else paragraph


def tokenize(tokenizer: Tokenizer, folder: Path, work: Path, share_of_novels: float) -> None:
    """Write `modern.bin`, `novels.bin` and `held_out.bin`, uint16, documents ended by END_OF_TEXT.

    Every document of modern text appears as written and folded, as customers type; novels in one of the two ways.
    """
    rng = random.Random(1)
    parts: dict[str, list[NDArray[np.uint16]]] = {"modern": [], "novels": [], "held_out": []}
    held_out_bytes = 0

    def add(part: str, text: str) -> None:
        parts[part].append(np.array([*tokenizer.encode(text).ids, END_OF_TEXT], dtype=np.uint16))

    for path in sorted(folder.glob("*.txt")):
        is_modern = path.name.startswith("modern_")
        for number, document in enumerate(documents(path), 1):
            if is_modern and number % HELD_OUT_EVERY == 0:
                add("held_out", document)
                held_out_bytes += len(document.encode()) + 1
            elif is_modern:
                add("modern", document)
                add("modern", fold(document))
            else:
                for piece in pieces_of(document):
                    if rng.random() < share_of_novels:
                        add("novels", fold(piece) if rng.random() < 0.5 else piece)
    for part, pieces in parts.items():
        random.Random(2).shuffle(pieces)
        np.concatenate(pieces).tofile(work / f"{part}.bin")
    (work / "held_out_bytes.txt").write_text(str(held_out_bytes))


class Windows:
    """Batches of text: random windows, a share of them from novels."""

    def __init__(self, work: Path, stage: Stage) -> None:
        self._stage = stage
        self._modern, self._novels = (
            np.memmap(work / f"{part}.bin", dtype=np.uint16, mode="r") for part in ("modern", "novels")
        )

    def batch(self, step: int) -> Tensor:
        """Token ids, (rows, length); the same step gives the same batch."""
        rng = np.random.default_rng(step)
        stage = self._stage
        num_novels = round(rng.uniform(-0.5, 0.5) + stage.rows * stage.share_of_novels(step))
        rows = [self._window(self._novels if row < num_novels else self._modern, rng) for row in range(stage.rows)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _window(self, text: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
        start = int(rng.integers(0, len(text) - self._stage.length))
        return np.asarray(text[start : start + self._stage.length])


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **ARCHITECTURE,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=5,
        rms_norm_eps=1e-6,
        # Plain products compile into faster code than the fused kernel has on a CPU.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


class Training:
    """A model, its optimizers and where they are; written to disk whole and taken up again.

    Muon for matrices (https://kellerjordan.github.io/posts/muon/), AdamW for embeddings and norms.
    """

    def __init__(self, work: Path, stage: Stage, model: LlamaForCausalLM, reading: nn.Linear | None = None) -> None:
        self.work, self.stage, self.model, self.reading = work, stage, model, reading
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(self.device).train()
        inner = list(model.model.layers.parameters())
        matrices = [parameter for parameter in inner if parameter.ndim == 2]
        others = [parameter for parameter in inner if parameter.ndim != 2]
        others += [model.model.norm.weight, model.model.embed_tokens.weight]
        if reading is not None:
            others += list(reading.to(self.device).parameters())
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, weight_decay=stage.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.step = 0
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            model.load_state_dict(state["model"])
            if reading is not None:
                reading.load_state_dict(state["reading"])
            for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            self.step = state["step"]

    @property
    def checkpoint(self) -> Path:
        return self.work / f"{self.stage.name}.pt"

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "reading": self.reading.state_dict() if self.reading is not None else {},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
        }
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def run(self, loss_of: Callable[[int], Tensor], evaluate: Callable[[], dict[str, float]]) -> None:
        """Train to the stage's last step.

        Args:
            loss_of: the loss of a step.
            evaluate: figures for the curve, asked ten times.
        """
        saved_at = started = time.monotonic()
        first, losses = self.step, []
        while self.step < self.stage.steps:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.stage.rate(self.step)
            loss = loss_of(self.step)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            losses.append(loss.item())
            is_due = self.step % max(1, self.stage.steps // 10) == 0 or self.step == self.stage.steps
            if is_due or self.step % 50 == 0:
                figures = self._measured(evaluate) if is_due else {}
                seconds = (time.monotonic() - started) / (self.step - first)
                self._log(float(np.mean(losses)), figures, seconds)
                losses = []
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS or self.step == self.stage.steps:
                self.save()
                saved_at = time.monotonic()

    def _measured(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            figures = evaluate()
        self.model.train()
        return figures

    def _log(self, loss: float, figures: dict[str, float], seconds: float) -> None:
        shown = " ".join(f"{name}={value:.4f}" for name, value in figures.items())
        line = [self.stage.name, str(self.step), f"{loss:.4f}", shown]
        with (self.work / "loss.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(line)
        print(*line, f"{seconds:.2f} s/step", flush=True)


def bits_per_byte(model: LlamaForCausalLM, work: Path, length: int, max_rows: int = 400) -> float:
    """On held-out modern text, every window read without what stands before it."""
    tokens = np.fromfile(work / "held_out.bin", dtype=np.uint16).astype(np.int64)
    bytes_per_token = int((work / "held_out_bytes.txt").read_text()) / len(tokens)
    windows = torch.from_numpy(tokens[: len(tokens) // length * length]).view(-1, length)
    windows = windows[:: max(1, len(windows) // max_rows)]
    device = model.device
    losses = []
    for batch in windows.split(32):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses += [model(input_ids=batch.to(device), labels=batch.to(device)).loss.item()] * len(batch)
    return float(np.mean(losses)) / math.log(2) / bytes_per_token


def compiled(model: LlamaForCausalLM) -> Callable[..., Any]:
    """Twice as fast, where there is a compiler."""
    can_compile = torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")
    return torch.compile(model) if can_compile else model


def train_on_text(folder: Path, work: Path, stage: Stage) -> None:
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "held_out_bytes.txt").is_file():
        tokenizer = train_tokenizer(tokenizer_texts(folder, list(corpus.texts())))
        tokenizer.save(str(work / "tokenizer.json"))
        tokenize(tokenizer, folder, work, share_of_novels=0.6)
    training = Training(work, stage, new_model())
    windows = Windows(work, stage)
    forward = compiled(training.model)

    def loss_of(step: int) -> Tensor:
        ids = windows.batch(step).to(training.device)
        with torch.autocast(training.device.type, dtype=torch.bfloat16):
            loss: Tensor = forward(input_ids=ids, labels=ids, use_cache=False).loss
        return loss

    training.run(loss_of, lambda: {"bits_per_byte": bits_per_byte(training.model, work, stage.length)})


def base_tokenizer(work: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(work / "tokenizer.json")),
        bos_token=SPECIAL_TOKENS[0],
        pad_token=SPECIAL_TOKENS[1],
        eos_token=SPECIAL_TOKENS[5],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


class Conversations:
    """Batches of customers' wordings and what they mean: the canonical question, the answer or another wording."""

    def __init__(self, tokenizer: Any, intents: Sequence[corpus.Intent], rows: int, length: int) -> None:
        self._tokenizer, self._intents = tokenizer, intents
        self._rows, self._length = rows, length

    def batch(self, seed: str) -> tuple[Tensor, Tensor]:
        """Token ids and labels, (rows, length); the loss is on what follows the wording."""
        rng = random.Random(seed)
        ids = torch.full((self._rows, self._length), self._tokenizer.pad_token_id)
        labels = torch.full((self._rows, self._length), IGNORED)
        for row in range(self._rows):
            asked, meant = self._pair(rng)
            prompt = encode_prompt(self._tokenizer, asked)[-self._length // 2 :]
            target = encode_answer(self._tokenizer, meant)[: self._length - len(prompt)]
            end = len(prompt) + len(target)
            ids[row, :end] = torch.tensor([*prompt, *target])
            labels[row, len(prompt) : end] = torch.tensor(target)
        return ids, labels

    def _pair(self, rng: random.Random) -> tuple[str, str]:
        kind = rng.random()
        if kind < 0.05:
            return corpus.retold(rng.choice(corpus.off_topic()), rng), DECLINE
        if kind < 0.17:
            one, other = rng.sample(rng.choice(corpus.same_meaning()), 2)
            return one, other
        intent = rng.choice(self._intents)
        asked = rng.choice(intent.wordings)
        if kind < 0.3:
            return corpus.retold(asked, rng), rng.choice(intent.wordings)
        return corpus.retold(asked, rng), fold(intent.question) if kind < 0.5 else intent.answer


class Meanings:
    """Batches of wordings with the sentence vector of another wording of the same intent."""

    def __init__(self, tokenizer: Any, vectors: SentenceVectors, rows: int, length: int) -> None:
        self._tokenizer, self._vectors = tokenizer, vectors
        self._rows, self._length = rows, length
        self._pairs = Pairs(VectorRecipe(num_intents=rows * 3 // 4, num_groups=rows // 4))

    def batch(self, seed: str) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, (rows, length), each prompt's last place, (rows,), and vectors, (rows, dimensions)."""
        pairs = self._pairs.draw(random.Random(seed))
        ids = torch.full((self._rows, self._length), self._tokenizer.pad_token_id)
        ends = torch.zeros(self._rows, dtype=torch.long)
        for row in range(self._rows):
            prompt = encode_prompt(self._tokenizer, pairs[row % len(pairs)][0])
            prompt = [*prompt[: self._length - 1], prompt[-1]] if len(prompt) > self._length else prompt
            ids[row, : len(prompt)] = torch.tensor(prompt)
            ends[row] = len(prompt) - 1
        others = [pairs[row % len(pairs)][1] for row in range(self._rows)]
        return ids, ends, torch.from_numpy(self._vectors.of(count_ngrams(others)))


def train_on_support(work: Path, stage: Stage) -> None:
    """The customer-service corpus, beside running text so that nothing is forgotten.

    Two things are asked of a wording: to be followed by what it means, and that its last token's state holds the
    sentence vector of other wordings of the same intent (InfoNCE through a linear map that is thrown away).
    """
    tokenizer = base_tokenizer(work)
    model = new_model()
    model.load_state_dict(torch.load(work / f"{TEXT.name}.pt", weights_only=True, map_location="cpu")["model"])
    vectors = SentenceVectors.load(work / FILE_NAME)
    reading = nn.Linear(model.config.hidden_size, vectors.dimensions, bias=False)
    training = Training(work, stage, model, reading)
    windows = Windows(work, replace(stage, rows=TEXT_ROWS_BESIDE))
    conversations = Conversations(tokenizer, corpus.learned_intents(), stage.rows, stage.length)
    meanings = Meanings(tokenizer, vectors, MEANING_ROWS, MEANING_LENGTH)
    forward, states = compiled(model), compiled(model.model)

    def loss_of(step: int) -> Tensor:
        text = windows.batch(step).to(training.device)
        ids, labels = (each.to(training.device) for each in conversations.batch(f"{stage.name}:{step}"))
        with torch.autocast(training.device.type, dtype=torch.bfloat16):
            loss: Tensor = forward(input_ids=ids, labels=labels, use_cache=False).loss
            loss = loss + 0.5 * forward(input_ids=text, labels=text, use_cache=False).loss
        return loss + meaning_loss(step)

    def meaning_loss(step: int) -> Tensor:
        ids, ends, others = (each.to(training.device) for each in meanings.batch(f"meaning:{step}"))
        with torch.autocast(training.device.type, dtype=torch.bfloat16):
            states_of = states(input_ids=ids, use_cache=False).last_hidden_state
        read = nn.functional.normalize(reading(states_of[torch.arange(len(ids)), ends].float()), dim=-1)
        likeness = read @ others.T / VectorRecipe().temperature
        return nn.functional.cross_entropy(likeness, torch.arange(len(ids), device=likeness.device))

    unseen = Conversations(tokenizer, corpus.held_out_intents(), 256, stage.length)

    def evaluate() -> dict[str, float]:
        ids, labels = unseen.batch("held out")
        with torch.autocast(training.device.type, dtype=torch.bfloat16):
            loss = model(input_ids=ids.to(training.device), labels=labels.to(training.device)).loss.item()
        return {
            "held_out_intents": loss,
            "meaning": meaning_loss(-1).item(),
            "bits_per_byte": bits_per_byte(model, work, TEXT.length),
        }

    training.run(loss_of, evaluate)


TEXT = Stage("text", steps=1650, learning_rate=(4e-3, 1.36e-3), novels=(0.6, 0.22875))
SUPPORT = Stage("support", steps=800, learning_rate=(1.36e-3, 5e-5), rows=64, length=64, novels=(0.2, 0.1))
TEXT_ROWS_BESIDE = 12
MEANING_ROWS, MEANING_LENGTH = 256, 24


def export(work: Path, base: Path) -> None:
    """Write the finished model as transformers reads it, bfloat16."""
    model = new_model()
    model.load_state_dict(torch.load(work / f"{SUPPORT.name}.pt", weights_only=True, map_location="cpu")["model"])
    model.config.name_or_path = ""
    model.to(torch.bfloat16).save_pretrained(base)
    base_tokenizer(work).save_pretrained(base)
    shutil.copy(work / FILE_NAME, base / FILE_NAME)


@dataclass(frozen=True, slots=True)
class VectorRecipe:
    """How the sentence vectors are learned (semantics.py)."""

    buckets: int = 1 << 16
    dimensions: int = 128
    steps: int = 1200
    num_intents: int = 256
    num_groups: int = 160
    domains: int = 6
    learning_rate: float = 4e-3
    weight_learning_rate: float = 2e-2
    temperature: float = 0.1
    retellings: int = 2


class Pairs:
    """Pairs of texts that mean one thing, most of them of a few domains, so that neighbours are told apart."""

    def __init__(self, recipe: VectorRecipe) -> None:
        self._recipe = recipe
        self._groups = corpus.same_meaning()
        self._by_domain: dict[str, list[corpus.Intent]] = {}
        for intent in corpus.learned_intents():
            self._by_domain.setdefault(intent.domain, []).append(intent)

    def draw(self, rng: random.Random) -> list[tuple[str, str]]:
        recipe = self._recipe
        pairs: list[tuple[str, str]] = []
        for domain in rng.sample(sorted(self._by_domain), min(len(self._by_domain), recipe.domains)):
            of_domain = self._by_domain[domain]
            for intent in rng.sample(of_domain, min(len(of_domain), recipe.num_intents // recipe.domains)):
                wordings = [*intent.wordings, *[intent.question] * 4, *[intent.answer] * 2]
                one, other = rng.sample(wordings, 2)
                pairs.append((one, other))
        for group in rng.sample(self._groups, recipe.num_groups):
            one, other = rng.sample(group, 2)
            pairs.append((one, other))
        return pairs


class VectorTable(nn.Module):
    """A vector and a weight for each bucket of n-grams."""

    def __init__(self, recipe: VectorRecipe) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vectors = nn.EmbeddingBag(recipe.buckets, recipe.dimensions, mode="sum", sparse=True)
        # Small random vectors, so that n-grams that are never learned still tell one word from another.
        nn.init.normal_(self.vectors.weight, std=0.03)
        self.weights = nn.Embedding(recipe.buckets, 1, sparse=True)
        nn.init.zeros_(self.weights.weight)

    def forward(self, buckets: Sequence[NDArray[np.int64]]) -> Tensor:
        flat = torch.from_numpy(np.concatenate(buckets))
        starts = torch.tensor(np.cumsum([0, *(len(each) for each in buckets[:-1])]))
        weights = nn.functional.softplus(self.weights(flat)[:, 0])
        return nn.functional.normalize(self.vectors(flat, starts, per_sample_weights=weights), dim=-1)

    def table(self) -> NDArray[np.float32]:
        with torch.no_grad():
            return (self.vectors.weight * nn.functional.softplus(self.weights.weight)).numpy()


def train_vectors(target: Path, recipe: VectorRecipe) -> None:
    """Pull wordings of one intent together, push those of others, most of them of the same domains, apart."""
    rng = random.Random(0)
    texts = list(dict.fromkeys(corpus.texts()))
    ways = {text: [text, *(corpus.retold(text, rng) for _ in range(recipe.retellings))] for text in texts}
    everything = list(dict.fromkeys(way for each in ways.values() for way in each))
    counts = count_ngrams(everything)
    buckets = {
        text: counts.indices[counts.indptr[row] : counts.indptr[row + 1]].astype(np.int64) % recipe.buckets
        for row, text in enumerate(everything)
    }
    pairs = Pairs(recipe)
    table = VectorTable(recipe)
    optimizers = [
        torch.optim.SparseAdam(list(table.vectors.parameters()), lr=recipe.learning_rate),
        torch.optim.SparseAdam(list(table.weights.parameters()), lr=recipe.weight_learning_rate),
    ]
    schedules = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=recipe.steps) for optimizer in optimizers
    ]
    for step in range(1, recipe.steps + 1):
        drawn = [(rng.choice(ways[one]), rng.choice(ways[other])) for one, other in pairs.draw(rng)]
        one, other = (table([buckets[pair[side]] for pair in drawn]) for side in (0, 1))
        likeness = one @ other.T / recipe.temperature
        target_rows = torch.arange(len(drawn))
        loss = sum(nn.functional.cross_entropy(each, target_rows) for each in (likeness, likeness.T)) / 2
        loss.backward()
        for each in (*optimizers, *schedules):
            each.step()
        table.zero_grad()
        if step % 100 == 0 or step == recipe.steps:
            print("vectors", step, f"{loss.item():.4f}", flush=True)
    target.mkdir(parents=True, exist_ok=True)
    SentenceVectors(table.table()).save(target / FILE_NAME)


def cold_start(vectors: SentenceVectors | None) -> float:
    """Share of wordings of held-out intents that lie nearest to their own question or answer."""
    held_out = corpus.held_out_intents()
    known = [text for intent in held_out for text in (intent.question, intent.answer)]
    owners = [number for number in range(len(held_out)) for _ in range(2)]
    prior = Prior(known, owners, len(held_out), vectors=vectors)
    asked = [(wording, number) for number, intent in enumerate(held_out) for wording in intent.wordings]
    return float(np.mean([prior.scores(wording)[:-1].argmax() == number for wording, number in asked]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled base model.")
    parser.add_argument("stage", choices=["vectors", "text", "support", "export"])
    parser.add_argument("folders", type=Path, nargs=2)
    options = parser.parse_args()
    source, target = options.folders
    if options.stage == "vectors":
        train_vectors(target, VectorRecipe())
        vectors = SentenceVectors.load(target / FILE_NAME)
        print(f"cold start: {cold_start(None):.4f} by letters alone, {cold_start(vectors):.4f} with sentence vectors")
    elif options.stage == "text":
        train_on_text(source, target, TEXT)
    elif options.stage == "support":
        train_on_support(target, SUPPORT)
    else:
        export(source, target)


if __name__ == "__main__":
    main()
