"""How the bundled base is made: sentence vectors, then a tokenizer and a model that has read text and the corpus.

    python -m training.lm.pretrain vectors TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain model TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain refresh TEXT_FOLDER WORK_FOLDER
    python -m training.lm.pretrain export WORK_FOLDER BASE_FOLDER
    python -m training.lm.pretrain background BASE_FOLDER

TEXT_FOLDER holds UTF-8 text files, a paragraph a line, an empty line between documents; names that begin with `modern_`
are modern text, the others novels. The model's training goes on from its last checkpoint in WORK_FOLDER; `loss.csv`
there is the curve. Runs on a CPU or on one CUDA device.

`refresh` teaches the bundled base what has come to the corpus since: half an hour on two CPU cores, where `model` takes
days. Its tokenizer is that base's, and so are its vectors unless WORK_FOLDER has others. `background` makes anew, of a
finished base and the corpus as it stands, what `export` makes too: a minute or two.
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import orthogonal_procrustes
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.lm import corpus, pretrain_text, pretrain_vectors
from training.lm.background import FILE_NAME as BACKGROUND_FILE
from training.lm.background import Background
from training.lm.config import BUNDLED_BASE
from training.lm.encoder import BundledReader, SentenceEncoder
from training.lm.ngrams import count_ngrams
from training.lm.pretrain_batches import REFRESH, Batches, Conversations, Meanings, ModelRecipe
from training.lm.pretrain_text import SPECIAL_TOKENS, Windows
from training.lm.pretrain_vectors import VectorRecipe
from training.lm.semantics import FILE_NAME, READING, SentenceVectors

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
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
WEIGHT_DECAY = 0.05
# Four bits of exponent and three of fraction (https://arxiv.org/abs/2209.05433); no scale is needed for these weights.
STORED = torch.float8_e4m3fn
CHECKPOINT = "model.pt"
CHECKPOINT_SECONDS = 300
# Conversations of held-out intents for the loss curve, and texts read at a time.
NUM_UNSEEN = 256
# Of a sentence that is to hold its own vector, so that it fits.
MAX_LETTERS = 110


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
        # On a CPU plain products compile into faster code than the fused kernel has.
        attn_implementation="sdpa" if torch.cuda.is_available() else "eager",
    )
    return LlamaForCausalLM(config)


def base_tokenizer(work: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(work / TOKENIZER_FILE)),
        bos_token=SPECIAL_TOKENS[0],
        pad_token=SPECIAL_TOKENS[1],
        eos_token=SPECIAL_TOKENS[5],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


class Training:
    """A model, its optimizers and where they are; written to disk whole and taken up again.

    Muon for matrices (https://kellerjordan.github.io/posts/muon/), AdamW for embeddings and norms.

    First it reads. Then three things are asked at once: to go on with running text; to follow a wording with what it
    means; and that a wording's last state holds the sentence vector of another that means the same (InfoNCE through
    `reading`, a linear map). The embeddings begin with what the sentence vectors know of their letters, which a model
    of this size takes many times as long to find out by itself.

    Args:
        base: a finished base to go on from; None for a model that knows nothing.
    """

    def __init__(self, folder: Path, work: Path, recipe: ModelRecipe, *, base: Path | None = None) -> None:
        self.work, self.recipe = work, recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = base_tokenizer(work)
        self.vectors = SentenceVectors.load(work / FILE_NAME)
        self.model = new_model()
        self.reading = nn.Linear(self.model.config.hidden_size, self.vectors.dimensions, bias=False)
        if base is None:
            self._begin_with_vectors(tokenizer)
        else:
            self._begin_with(base)
        self.model.to(self.device).train()
        self.reading.to(self.device)
        learned, unseen = (
            Conversations(tokenizer, intents, rows, recipe.conversation_length)
            for intents, rows in (
                (corpus.learned_intents(), recipe.conversations),
                (corpus.held_out_intents(), NUM_UNSEEN),
            )
        )
        self.unseen = unseen
        sentences = [pair[0] for pair in pretrain_text.neighbouring_sentences(folder, longest=MAX_LETTERS)]
        self.meanings = Meanings(recipe, tokenizer, self.vectors, sentences)
        self.batches = Batches(recipe, Windows(work, recipe.text_length), learned, self.meanings)
        self.forward, self.states = compiled(self.model), compiled(self.model.model)
        self.step = 0
        self.begun = self._weights() if base is not None else {}
        self.optimizers = self._optimizers()
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

    def _begin_with(self, base: Path) -> None:
        """Take over a finished model, and turn what it reads towards the vectors, which may be others now."""
        # The head is the embeddings.
        self.model.load_state_dict(load_file(base / WEIGHTS_FILE), strict=False)
        texts = [text for intent in corpus.learned_intents() for text in (intent.question, intent.wordings[0])]
        read, meant = SentenceEncoder(base).of(texts), self.vectors.of(count_ngrams(texts))
        turn, _scale = orthogonal_procrustes(read, meant)
        with torch.no_grad():
            self.reading.weight.copy_(torch.from_numpy(turn.T).float() @ load_file(base / FILE_NAME)[READING].float())

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        inner = list(self.model.model.layers.parameters())
        matrices = [parameter for parameter in inner if parameter.ndim == 2]
        others = [parameter for parameter in inner if parameter.ndim != 2]
        others += [self.model.model.norm.weight, self.model.model.embed_tokens.weight, *self.reading.parameters()]
        return [
            torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        parts = {"model": self.model, "reading": self.reading}
        return {
            part: {name: value.clone() for name, value in each.state_dict().items()} for part, each in parts.items()
        }

    def _resume(self) -> None:
        state = torch.load(self.work / CHECKPOINT, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.reading.load_state_dict(state["reading"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.step = state["step"]

    def save(self) -> None:
        state = {
            **self._weights(),
            "begun": self.begun,
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
        for batch in self._loader():
            stage, place = self.recipe.at(self.step)
            if place == 0:
                self.optimizers = self._optimizers()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = stage.rate(place)
            parts = self.losses([each.to(self.device, non_blocking=True) for each in batch])
            sum(parts.values(), start=torch.zeros((), device=self.device)).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            losses.append({name: loss.detach() for name, loss in parts.items()})
            is_due = self.step % max(1, self.recipe.steps // 10) == 0 or self.step == self.recipe.steps
            if is_due or self.step % 50 == 0:
                figures = {name: float(torch.stack([each[name] for each in losses]).mean()) for name in parts}
                self._log(figures | (self.evaluate() if is_due else {}))
                print(f"{(time.monotonic() - started) / (self.step - first):.2f} s/step", flush=True)
            if is_due or self.step % 50 == 0 or self.step == self.recipe.reading.steps:
                losses = []
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS or self.step == self.recipe.steps:
                self.save()
                saved_at = time.monotonic()

    def _loader(self) -> Iterable[Sequence[Tensor]]:
        """The batches of the steps that are left, prepared ahead."""
        ahead = {"num_workers": self.recipe.num_workers, "prefetch_factor": 4} if self.recipe.num_workers else {}
        steps = range(self.step, self.recipe.steps)
        return DataLoader(self.batches, batch_size=None, sampler=steps, **ahead)

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Those of a step, weighted."""
        text, *others = batch
        text_loss = self._language_loss(text, text)
        if not others:
            return {"text": text_loss}
        ids, labels, prompts, ends, vectors = others
        likeness = self.read(prompts, ends) @ vectors.T / pretrain_vectors.TEMPERATURE
        return {
            "text": self.recipe.text_weight * text_loss,
            "support": self.recipe.support_weight * self._language_loss(ids, labels),
            "meaning": nn.functional.cross_entropy(likeness, torch.arange(len(likeness), device=self.device)),
        }

    def _language_loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss: Tensor = self.forward(input_ids=ids, labels=labels, use_cache=False).loss
        return loss

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
        """Share of wordings of held-out intents that lie nearest to their question and answer, read by the model."""
        held_out = corpus.held_out_intents()
        questions, answers = (
            self._read_all([getattr(each, part) for each in held_out]) for part in ("question", "answer")
        )
        wordings = [(text, number) for number, each in enumerate(held_out) for text in each.wordings]
        likeness = self._read_all([text for text, _ in wordings]) @ (questions + answers / 2).T
        right = torch.tensor([number for _, number in wordings], device=self.device)
        return float((likeness.argmax(dim=1) == right).float().mean())

    def _read_all(self, texts: Sequence[str]) -> Tensor:
        prompts = zip(*(each.split(NUM_UNSEEN) for each in self.meanings.prompts(texts)), strict=True)
        return torch.cat([self.read(ids.to(self.device), ends.to(self.device)) for ids, ends in prompts])

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
    work.mkdir(parents=True, exist_ok=True)
    path = work / TOKENIZER_FILE
    if not path.is_file():
        pretrain_text.train_tokenizer(pretrain_text.tokenizer_texts(folder, corpus.texts())).save(str(path))
    if not (work / "held_out_bytes.txt").is_file():
        pretrain_text.tokenize(Tokenizer.from_file(str(path)), folder, work)


def take_over(base: Path, work: Path) -> None:
    """Put a base's tokenizer and vectors where a training looks for its own, unless there are some."""
    work.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER_FILE, FILE_NAME):
        if not (work / name).is_file():
            shutil.copy(base / name, work)


def export(work: Path, base: Path) -> None:
    """Write the finished model as transformers reads it: its matrices in 8 bits, which it unpacks, norms in bfloat16.

    The rounding leaves room for the vectors. The linear layers go on to 4 bits; embeddings and encoder have it alone.

    One that began with a finished base is averaged with what it began with, which keeps more of what that knew, and
    here was better at both (WiSE-FT, https://arxiv.org/abs/2109.01903).
    """
    model, state = new_model(), torch.load(work / CHECKPOINT, weights_only=True, map_location="cpu")
    for part, begun in state["begun"].items():
        state[part] = {name: (begun[name] + value) / 2 for name, value in state[part].items()}
    model.load_state_dict(state["model"])
    model.config.name_or_path = ""
    model.to(torch.bfloat16)
    weights = {name: value.to(STORED) if value.ndim == 2 else value for name, value in model.named_parameters()}
    model.save_pretrained(base, state_dict=weights)
    base_tokenizer(work).save_pretrained(base)
    reading = {READING: state["reading"]["weight"].half()}
    save_file(load_file(work / FILE_NAME) | reading, base / FILE_NAME)
    write_background(base)


def write_background(base: Path) -> None:
    """What the base knows of any business, by its own vectors."""
    reader = BundledReader(SentenceVectors.load(base / FILE_NAME), SentenceEncoder(base))
    Background.of_corpus(reader).save(base / BACKGROUND_FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled base model.")
    parser.add_argument("stage", choices=["vectors", "model", "refresh", "export", "background"])
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    num_folders = 1 if options.stage == "background" else 2
    if len(options.folders) != num_folders:
        parser.error(f"{options.stage} takes {num_folders} folder(s)")
    source, target = options.folders[0], options.folders[-1]
    if options.stage == "vectors":
        pretrain_vectors.train_vectors(source, target, VectorRecipe())
        by_ngrams = pretrain_vectors.cold_start(None)
        with_vectors = pretrain_vectors.cold_start(SentenceVectors.load(target / FILE_NAME))
        print(f"cold start: {by_ngrams:.4f} by n-grams alone, {with_vectors:.4f} with sentence vectors")
    elif options.stage == "model":
        prepare_text(source, target)
        Training(source, target, ModelRecipe()).run()
    elif options.stage == "refresh":
        take_over(BUNDLED_BASE, target)
        prepare_text(source, target)
        Training(source, target, REFRESH, base=BUNDLED_BASE).run()
    elif options.stage == "export":
        export(source, target)
    else:
        write_background(target)


if __name__ == "__main__":
    main()
