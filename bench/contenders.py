"""Ways to answer a question from the same weights and adapter: ours, and what a user would pick instead.

Every contender has a process of its own, in which one thread alone computes: OpenMP gives each computing thread workers
of its own, and where they are more than the cores, none of them waits for the next operation but falls asleep.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from transformers.generation.streamers import BaseStreamer

from bench import llama_cpp
from bench.continuous_batching import ContinuousBatching
from bench.llama_cpp import Completion, LlamaServer, export_gguf
from bench.load import Load, put_under_load
from training.lm.answers import AnswerSet
from training.lm.config import BaseModel, GenerationParams, Precision
from training.lm.decisions import Calibration, Candidate
from training.lm.engine import Engine, Request
from training.lm.loading import load_base, load_tokenizer
from training.lm.prompts import encode_prompt

MAX_CHATS = 32
MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Material:
    """What every contender answers from.

    Attributes:
        questions: cyclically, what is asked.
        num_tokens: of the answer to each, where the model has not learned to end by itself; None where it has.
    """

    base: BaseModel
    version: str
    adapter: Path
    candidates: tuple[Candidate, ...]
    calibration: Calibration
    questions: tuple[str, ...]
    num_tokens: tuple[int, ...] | None = None

    def question(self, number: int) -> str:
        return self.questions[number % len(self.questions)]

    def limits(self, number: int) -> dict[str, Any]:
        """Of the answer's length: at most so many tokens, or exactly so many."""
        if self.num_tokens is None:
            return {"max_new_tokens": MAX_NEW_TOKENS}
        return {"max_new_tokens": self.num_tokens[number % len(self.num_tokens)], "ignore_eos": True}

    def model(self) -> Any:
        """Base and adapter in the engine's default precision, on one thread's own account."""
        base = load_base(self.base, precision=Precision.DEQUANTIZED)
        return PeftModel.from_pretrained(base, self.adapter).eval()


class Contender(Protocol):
    def answer(self, number: int) -> Completion: ...


class Approved:
    """Ours: one of the approved answers, there and whole when it is chosen."""

    def __init__(self, material: Material, stack: ExitStack) -> None:
        self._material = material
        self.engine = Engine(material.base, precision=Precision.DEQUANTIZED)
        stack.callback(self.engine.shutdown)
        self.engine.load_version(material.version, material.adapter)
        self.answers = AnswerSet(self.engine.tokenizer, material.candidates)

    def request(self, number: int) -> Request:
        material = self._material
        return Request(material.question(number), material.version, self.answers, material.calibration)

    def answer(self, number: int) -> Completion:
        decision = self.engine.submit(self.request(number)).result()
        now = time.perf_counter()
        return Completion(now, now, 0, decision.key or "")


class Free(Approved):
    """Ours: the model's own words, token for token as `generate` writes them."""

    def answer(self, number: int) -> Completion:
        heard: list[float] = []
        params = GenerationParams(max_new_tokens=self._material.limits(number)["max_new_tokens"])
        generated = self.engine.submit_generation(
            self.request(number), params, on_delta=lambda delta: heard.append(time.perf_counter())
        ).result()
        now = time.perf_counter()
        return Completion(heard[0] if heard else now, now, generated.num_tokens, generated.text)


class _Clock(BaseStreamer):
    """When tokens came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class Generate:
    """What a tutorial does: `generate` with a streamer, a call a request.

    The calls stand in line for one thread; side by side they would only take the cores from each other.
    """

    def __init__(self, material: Material, stack: ExitStack) -> None:
        self._material = material
        self._tokenizer = load_tokenizer(material.base)
        self._thread = stack.enter_context(ThreadPoolExecutor(1))
        self._model = self._thread.submit(material.model).result()

    def answer(self, number: int) -> Completion:
        return self._thread.submit(self._generate, number).result()

    def _generate(self, number: int) -> Completion:
        prompt = torch.tensor([encode_prompt(self._tokenizer, self._material.question(number))])
        clock = _Clock()
        output = self._call([number], prompt, torch.ones_like(prompt), streamer=clock)
        written = output[0, prompt.shape[1] :].tolist()
        # The streamer is given the prompt first.
        return Completion(clock.times[1], clock.times[-1], len(written), self._tokenizer.decode(written, True))

    def _call(self, numbers: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> torch.Tensor:
        limits = [self._material.limits(number) for number in numbers]
        longest = max(limit["max_new_tokens"] for limit in limits)
        with torch.inference_mode():
            output: torch.Tensor = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=longest,
                min_new_tokens=longest if limits[0].get("ignore_eos") else 0,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=self._tokenizer.pad_token_id,
                **options,
            )
        return output


class StaticBatch(Generate):
    """`generate` for all at once, padded on the left, until the longest answer is whole."""

    def answer_all(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """The tokens of each answer, without the one that ended it."""
        return self._thread.submit(self._generate_all, numbers).result()

    def _generate_all(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        pad, end = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        prompts = [encode_prompt(self._tokenizer, self._material.question(number)) for number in numbers]
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        rows = [row[longest:].tolist() for row in self._call(numbers, ids, mask)]
        return [tuple(row[: row.index(end)] if end in row else row) for row in rows]


class TransformersBatching:
    """transformers' continuous batching."""

    def __init__(self, material: Material, stack: ExitStack) -> None:
        self._material = material
        self._tokenizer = load_tokenizer(material.base)
        with ThreadPoolExecutor(1) as thread:
            model = thread.submit(material.model).result().base_model.model
        self._manager = stack.enter_context(
            ContinuousBatching(model, self._tokenizer, max_requests=MAX_CHATS, context=512)
        )

    def answer(self, number: int) -> Completion:
        prompt = encode_prompt(self._tokenizer, self._material.question(number))
        return self._manager.complete(prompt, **self._material.limits(number))


class LlamaCpp:
    """llama.cpp's server on the merged weights in 16 bits; only where `llama_cpp.INSTALL` has been run."""

    def __init__(self, material: Material, stack: ExitStack) -> None:
        self._material = material
        self._tokenizer = load_tokenizer(material.base)
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "merged.gguf"
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._export, path).result()
        self._server = stack.enter_context(LlamaServer(path, slots=MAX_CHATS))

    def _export(self, path: Path) -> None:
        export_gguf(self._material.model().merge_and_unload().float(), self._tokenizer, path)

    def answer(self, number: int) -> Completion:
        prompt = encode_prompt(self._tokenizer, self._material.question(number))
        return self._server.complete(prompt, **self._material.limits(number))


CONTENDERS: dict[str, Callable[[Material, ExitStack], Contender]] = {
    "approved": Approved,
    "free": Free,
    "generate": Generate,
    "static batch": StaticBatch,
    "continuous batching": TransformersBatching,
    "llama.cpp": LlamaCpp,
}


def names(material: Material) -> list[str]:
    """Who takes part: free text needs a model that has learned something, llama.cpp must be installed."""
    left_out = {
        *(["free"] if material.num_tokens is not None else []),
        *([] if llama_cpp.is_installed() else ["llama.cpp"]),
    }
    return [name for name in CONTENDERS if name not in left_out]


class InItsProcess:
    """A contender in a process of its own, idle until it is asked for a round."""

    def __init__(self, name: str, material: Material) -> None:
        self.name = name
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._started = self._process.submit(_start, name, material)

    def wait_until_ready(self) -> None:
        self._started.result()

    def load(self, *, chats: int, num_questions: int, first: int) -> Load:
        return self._process.submit(_load, chats, num_questions, first).result()

    def batch(self, numbers: Sequence[int]) -> Future[list[tuple[int, ...]]]:
        """The static batch's answers, as tokens."""
        return self._process.submit(_batch, numbers)

    def close(self) -> None:
        self._process.submit(_stop).result()
        self._process.shutdown()


# In the contender's process from here on.

_stack = ExitStack()
_contender: Any = None


def _start(name: str, material: Material) -> None:
    global _contender
    _contender = CONTENDERS[name](material, _stack)
    for number in range(2):
        _contender.answer(number)


def _load(chats: int, num_questions: int, first: int) -> Load:
    if isinstance(_contender, StaticBatch):
        started = time.perf_counter()
        _contender.answer_all(range(first, first + chats))
        seconds = time.perf_counter() - started
        return Load(chats / seconds, seconds, seconds, seconds, seconds)
    return put_under_load(lambda number: _contender.answer(first + number), chats=chats, num_questions=num_questions)


def _batch(numbers: Sequence[int]) -> list[tuple[int, ...]]:
    answers: list[tuple[int, ...]] = _contender.answer_all(numbers)
    return answers


def _stop() -> None:
    _stack.close()
