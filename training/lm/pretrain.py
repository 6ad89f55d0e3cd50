"""How the bundled base is made: sentence vectors, then a tokenizer and a model that has read text and the corpus.

    python -m training.lm.pretrain vectors TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain model TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain export WORK_FOLDER BASE_FOLDER

TEXT_FOLDER holds UTF-8 text files, a paragraph a line, an empty line between documents; names that begin with `modern_`
are modern text, the others novels. The model's training goes on from its last checkpoint in WORK_FOLDER; `loss.csv`
there is the curve. Runs on a CPU or on one CUDA device.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.lm import corpus, pretrain_text, pretrain_vectors
from training.lm.augment import fold
from training.lm.ngrams import count_ngrams
from training.lm.pretrain_text import SPECIAL_TOKENS, Windows
from training.lm.pretrain_vectors import Pairs, VectorRecipe
from training.lm.prompts import DECLINE, encode_answer, encode_prompt
from training.lm.semantics import FILE_NAME, SentenceVectors

IGNORED = -100
# What customers type is folded, so that the model reads one form however carefully they type. The space makes their
# first word the same token as elsewhere.
_FOLDED = "".join(
    f" | replace('{a}', '{b}')" for a, b in zip("áéíóúüàèìòù¿?¡!", [*"aeiouuaeiou", "", "", "", ""], strict=True)
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- '<|user|> ' + (message['content'] | lower" + _FOLDED + ") -}}"
    "{%- else -%}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
# Wide and shallow, with many words: on a CPU the time goes into everything but the large matrix products, and what a
# model of this size knows of meaning stands in its embeddings.
ARCHITECTURE = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
CHECKPOINT = "model.pt"
CHECKPOINT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """How the model is trained. Every step reads a batch of each of three kinds.

    Attributes:
        learning_rate: at the start and at the end, linear in between after `warmup` steps.
        text_rows, text_length: windows of running text, in sequences and tokens.
        novels: their share of it at the start and at the end.
        text_weight: of the running text's loss.
        conversations, conversation_length: wordings followed by what they mean.
        meanings, meaning_length: wordings whose last state is to hold a sentence vector.
        own_meanings: as many of them are sentences of running text that are to hold their own vector.
    """

    steps: int = 2500
    learning_rate: tuple[float, float] = (2.5e-3, 5e-5)
    warmup: int = 60
    weight_decay: float = 0.05
    text_rows: int = 24
    text_length: int = 160
    novels: tuple[float, float] = (0.5, 0.2)
    text_weight: float = 0.5
    conversations: int = 48
    conversation_length: int = 64
    meanings: int = 256
    meaning_length: int = 24
    own_meanings: int = 80

    def rate(self, step: int) -> float:
        return min(1.0, (step + 1) / self.warmup) * self._between(self.learning_rate, step)

    def share_of_novels(self, step: int) -> float:
        return self._between(self.novels, step)

    def _between(self, ends: tuple[float, float], step: int) -> float:
        start, end = ends
        return start + (end - start) * step / self.steps


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **ARCHITECTURE,
        vocab_size=pretrain_text.VOCAB_SIZE,
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
    """Batches of wordings with the sentence vector of a text that means the same, or their own."""

    def __init__(self, recipe: ModelRecipe, tokenizer: Any, vectors: SentenceVectors, sentences: Sequence[str]) -> None:
        self._tokenizer, self._vectors, self._sentences = tokenizer, vectors, sentences
        self._length, self._num_own = recipe.meaning_length, recipe.own_meanings
        num_pairs = recipe.meanings - recipe.own_meanings
        self._rows = recipe.meanings
        self._pairs = Pairs(num_intents=num_pairs * 3 // 4, num_groups=num_pairs // 4)

    def batch(self, seed: str) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, (rows, length), each prompt's last place, (rows,), and vectors, (rows, dimensions)."""
        rng = random.Random(seed)
        pairs = self._pairs.draw(rng)
        # Half as they stand, half as others type them.
        pairs = [(corpus.retold(one, rng) if rng.random() < 0.5 else one, other) for one, other in pairs]
        own = rng.choices(self._sentences, k=self._rows - len(pairs))
        pairs += [(sentence, sentence) for sentence in own]
        ids, ends = self.prompts([one for one, _ in pairs])
        return ids, ends, torch.from_numpy(self._vectors.of(count_ngrams([other for _, other in pairs])))

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids, (texts, length), and each prompt's last place, (texts,)."""
        ids = torch.full((len(texts), self._length), self._tokenizer.pad_token_id)
        ends = torch.zeros(len(texts), dtype=torch.long)
        for row, text in enumerate(texts):
            prompt = encode_prompt(self._tokenizer, text)
            prompt = [*prompt[: self._length - 1], prompt[-1]] if len(prompt) > self._length else prompt
            ids[row, : len(prompt)] = torch.tensor(prompt)
            ends[row] = len(prompt) - 1
        return ids, ends


class Training:
    """A model, its optimizers and where they are; written to disk whole and taken up again.

    Muon for matrices (https://kellerjordan.github.io/posts/muon/), AdamW for embeddings and norms.

    Three things are asked at once: to go on with running text; to follow a wording with what it means; and that a
    wording's last state holds the sentence vector of another that means the same (InfoNCE through `reading`, a linear
    map that is thrown away). The embeddings begin with what the sentence vectors know of their letters, which a model
    of this size takes many times as long to find out by itself.
    """

    def __init__(self, folder: Path, work: Path, recipe: ModelRecipe) -> None:
        self.work, self.recipe = work, recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = base_tokenizer(work)
        self.vectors = SentenceVectors.load(work / FILE_NAME)
        self.model = new_model()
        self.reading = nn.Linear(self.model.config.hidden_size, self.vectors.dimensions, bias=False)
        self._begin_with_vectors(tokenizer)
        self.model.to(self.device).train()
        self.reading.to(self.device)
        self.windows = Windows(work, recipe.text_rows, recipe.text_length)
        self.conversations = Conversations(
            tokenizer, corpus.learned_intents(), recipe.conversations, recipe.conversation_length
        )
        self.unseen = Conversations(tokenizer, corpus.held_out_intents(), 256, recipe.conversation_length)
        sentences = [pair[0] for pair in pretrain_text.neighbouring_sentences(folder, longest=90)]
        self.meanings = Meanings(recipe, tokenizer, self.vectors, sentences)
        self.forward, self.states = compiled(self.model), compiled(self.model.model)
        self.optimizers = self._optimizers()
        self.step = 0
        if (work / CHECKPOINT).is_file():
            self._resume()

    def _begin_with_vectors(self, tokenizer: Any) -> None:
        """Add the tokens' vectors to the embeddings, in directions of their own, as large as what is there."""
        known = torch.from_numpy(pretrain_vectors.token_vectors(self.vectors, tokenizer))
        with torch.no_grad():
            nn.init.orthogonal_(self.reading.weight)
            embeddings = self.model.model.embed_tokens.weight
            size = embeddings.norm(dim=1).mean() / known.norm(dim=1).mean()
            embeddings[: len(known)] += size * known @ self.reading.weight

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        inner = list(self.model.model.layers.parameters())
        matrices = [parameter for parameter in inner if parameter.ndim == 2]
        others = [parameter for parameter in inner if parameter.ndim != 2]
        others += [self.model.model.norm.weight, self.model.model.embed_tokens.weight, *self.reading.parameters()]
        return [
            torch.optim.Muon(matrices, weight_decay=self.recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def _resume(self) -> None:
        state = torch.load(self.work / CHECKPOINT, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.reading.load_state_dict(state["reading"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.step = state["step"]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "reading": self.reading.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
        }
        unfinished = self.work / f"{CHECKPOINT}.unfinished"
        torch.save(state, unfinished)
        unfinished.replace(self.work / CHECKPOINT)

    def run(self) -> None:
        """Train to the recipe's last step."""
        saved_at = started = time.monotonic()
        first, losses = self.step, []
        while self.step < self.recipe.steps:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.recipe.rate(self.step)
            parts = self.losses(self.step)
            sum(parts.values(), start=torch.zeros((), device=self.device)).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            losses.append({name: loss.item() for name, loss in parts.items()})
            is_due = self.step % max(1, self.recipe.steps // 10) == 0 or self.step == self.recipe.steps
            if is_due or self.step % 50 == 0:
                figures = {name: float(np.mean([each[name] for each in losses])) for name in parts}
                self._log(figures | (self.evaluate() if is_due else {}))
                print(f"{(time.monotonic() - started) / (self.step - first):.2f} s/step", flush=True)
                losses = []
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS or self.step == self.recipe.steps:
                self.save()
                saved_at = time.monotonic()

    def losses(self, step: int) -> dict[str, Tensor]:
        """Those of a step, weighted; the same step draws the same batches."""
        text = self.windows.batch(step, self.recipe.share_of_novels(step)).to(self.device)
        ids, labels = (each.to(self.device) for each in self.conversations.batch(f"support:{step}"))
        prompts, ends, vectors = (each.to(self.device) for each in self.meanings.batch(f"meaning:{step}"))
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            text_loss = self.forward(input_ids=text, labels=text, use_cache=False).loss
            support_loss = self.forward(input_ids=ids, labels=labels, use_cache=False).loss
        likeness = self.read(prompts, ends) @ vectors.T / pretrain_vectors.TEMPERATURE
        meaning_loss = nn.functional.cross_entropy(likeness, torch.arange(len(likeness), device=self.device))
        return {"text": self.recipe.text_weight * text_loss, "support": support_loss, "meaning": meaning_loss}

    def read(self, ids: Tensor, ends: Tensor) -> Tensor:
        """Sentence vectors that the last states hold, (rows, dimensions), length 1."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            states = self.states(input_ids=ids, use_cache=False).last_hidden_state
        last = states[torch.arange(len(ids), device=self.device), ends].float()
        return nn.functional.normalize(self.reading(last), dim=-1)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """On what is never learned: loss of conversations, wordings found by question and answer, bits per byte."""
        self.model.eval()
        ids, labels = (each.to(self.device) for each in self.unseen.batch("held out"))
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self.model(input_ids=ids, labels=labels).loss.item()
        figures = {
            "unseen": loss,
            "cold_start": self.cold_start(),
            "bits_per_byte": bits_per_byte(self.model, self.work, self.recipe.text_length),
        }
        self.model.train()
        return figures

    def cold_start(self) -> float:
        """Share of wordings of held-out intents whose state lies nearest to the vectors of question and answer."""
        held_out = corpus.held_out_intents()
        questions, answers = (
            self.vectors.of(count_ngrams([getattr(intent, part) for intent in held_out]))
            for part in ("question", "answer")
        )
        entries = torch.from_numpy(questions + answers / 2).to(self.device)
        num_right, wordings = 0, [(text, number) for number, each in enumerate(held_out) for text in each.wordings]
        for start in range(0, len(wordings), self.recipe.meanings):
            batch = wordings[start : start + self.recipe.meanings]
            ids, ends = (each.to(self.device) for each in self.meanings.prompts([text for text, _ in batch]))
            nearest = (self.read(ids, ends) @ entries.T).argmax(dim=1).tolist()
            num_right += sum(found == number for found, (_, number) in zip(nearest, batch, strict=True))
        return num_right / len(wordings)

    def _log(self, figures: dict[str, float]) -> None:
        shown = " ".join(f"{name}={value:.4f}" for name, value in figures.items())
        with (self.work / "loss.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([self.step, shown])
        print(self.step, shown, end=" ", flush=True)


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


def compiled(model: nn.Module) -> Callable[..., Any]:
    """Twice as fast, where there is a compiler."""
    can_compile = torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")
    return torch.compile(model) if can_compile else model


def prepare_text(folder: Path, work: Path) -> None:
    """Tokenizer and tokens, unless they are there."""
    if not (work / "held_out_bytes.txt").is_file():
        work.mkdir(parents=True, exist_ok=True)
        tokenizer = pretrain_text.train_tokenizer(pretrain_text.tokenizer_texts(folder, corpus.texts()))
        tokenizer.save(str(work / "tokenizer.json"))
        pretrain_text.tokenize(tokenizer, folder, work)


def export(work: Path, base: Path) -> None:
    """Write the finished model as transformers reads it, bfloat16."""
    model = new_model()
    model.load_state_dict(torch.load(work / CHECKPOINT, weights_only=True, map_location="cpu")["model"])
    model.config.name_or_path = ""
    model.to(torch.bfloat16).save_pretrained(base)
    base_tokenizer(work).save_pretrained(base)
    shutil.copy(work / FILE_NAME, base / FILE_NAME)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled base model.")
    parser.add_argument("stage", choices=["vectors", "model", "export"])
    parser.add_argument("folders", type=Path, nargs=2)
    options = parser.parse_args()
    source, target = options.folders
    if options.stage == "vectors":
        pretrain_vectors.train_vectors(source, target, VectorRecipe())
        by_letters = pretrain_vectors.cold_start(None)
        with_vectors = pretrain_vectors.cold_start(SentenceVectors.load(target / FILE_NAME))
        print(f"cold start: {by_letters:.4f} by letters alone, {with_vectors:.4f} with sentence vectors")
    elif options.stage == "model":
        prepare_text(source, target)
        Training(source, target, ModelRecipe()).run()
    else:
        export(source, target)


if __name__ == "__main__":
    main()
