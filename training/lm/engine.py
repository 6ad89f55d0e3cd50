"""The engine: one thread that owns the base model, adapters resident on it, and a bounded queue of questions.

Knows tokens, adapters and answers. Does not know the database, websockets or which version is live: a request
names its version.

    engine = Engine(BaseModel())
    engine.load_version("v-000001-9f3c1a2b", Path("…/v-000001-9f3c1a2b/adapter"))
    answers = AnswerSet(engine.tokenizer, candidates)
    engine.submit(Request("¿A qué hora cierran?", "v-000001-9f3c1a2b", answers, calibration)).result()
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from training.lm.answers import AnswerSet
from training.lm.calibration import DEFAULT, Scored, leaf_log_probs
from training.lm.config import BaseModel
from training.lm.decisions import Calibration, Decision, EngineBusy
from training.lm.decoding import Prefill, guided_search
from training.lm.loading import load_base, load_tokenizer
from training.lm.prompts import encode_prompt

# The base is named by its label, which PEFT takes for a folder to look up.
warnings.filterwarnings("ignore", message="Could not find a config file", module="peft")

ADAPTER_NAME_LENGTH = len("v-000000-00000000")


class AdapterError(RuntimeError):
    """A version's adapter cannot be loaded. The text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question for one version. `stop` may be set at any time; the engine looks before every forward."""

    question: str
    version: str
    answers: AnswerSet
    calibration: Calibration = DEFAULT
    stop: threading.Event = field(default_factory=threading.Event)


class Engine:
    """Every forward runs on one thread, so a request never sees another's adapter.

    Args:
        max_resident: adapters kept loaded; the one unused for longest makes room.
        max_waiting: questions that may wait; more are refused.
    """

    def __init__(
        self, base: BaseModel, *, load_in_4bit: bool = True, max_resident: int = 4, max_waiting: int = 64
    ) -> None:
        self.base = base
        self._load_in_4bit = load_in_4bit
        self._max_resident = max_resident
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._places = threading.BoundedSemaphore(max_waiting)
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._model: Any = None

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.base)

    def load_version(self, version: str, adapter_dir: Path) -> None:
        """Make a version resident and wait until it is.

        Raises:
            AdapterError: missing or damaged files, or an adapter for another base.
            BaseModelError: the base model cannot be used.
        """
        self._thread.submit(self._load, version, adapter_dir).result()

    def is_resident(self, version: str) -> bool:
        return version in self._resident

    def submit(self, request: Request) -> Future[Decision]:
        """Queue a question.

        Raises:
            EngineBusy: too many wait already.
        """
        return self._enqueue(self._decide, request)

    def submit_scoring(self, request: Request) -> Future[Scored]:
        """Queue a question for full scoring: what calibration is fitted on."""
        return self._enqueue(self._score, request)

    def shutdown(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _enqueue(self, function: Any, request: Request) -> Future[Any]:
        if not self._places.acquire(blocking=False):
            raise EngineBusy
        try:
            future = self._thread.submit(function, request)
        except RuntimeError:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future

    # On the engine's thread from here on.

    def _load(self, version: str, adapter_dir: Path) -> None:
        if version in self._resident:
            return
        if len(version) != ADAPTER_NAME_LENGTH:
            # PEFT matches adapter names by prefix in places; names of one length cannot be prefixes of each other.
            raise AdapterError(f"a version's name has {ADAPTER_NAME_LENGTH} characters, not {version!r}")
        if not (adapter_dir / "adapter_model.safetensors").is_file():
            raise AdapterError(f"{adapter_dir.name} holds no adapter_model.safetensors")
        base = load_base(self.base, load_in_4bit=self._load_in_4bit) if self._model is None else None
        try:
            if base is not None:
                self._model = PeftModel.from_pretrained(base, adapter_dir, adapter_name=version)
            else:
                self._model.load_adapter(str(adapter_dir), adapter_name=version)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._forget_failed(version)
            raise AdapterError(f"the adapter of {version} cannot be loaded: {error}") from error
        self._model.eval()
        self._resident[version] = None
        while len(self._resident) > self._max_resident:
            oldest, _ = self._resident.popitem(last=False)
            self._model.delete_adapter(oldest)

    def _forget_failed(self, version: str) -> None:
        """Leave no half-loaded adapter behind: the base is reloaded with the next version when it was the first."""
        if not self._resident:
            self._model = None
        elif version in self._model.peft_config:
            self._model.set_adapter(next(reversed(self._resident)))
            self._model.delete_adapter(version)

    def _use(self, request: Request) -> list[int]:
        """Switch to the request's adapter; the prompt's tokens."""
        if request.version not in self._resident:
            raise AdapterError(f"{request.version} is not loaded")
        self._resident.move_to_end(request.version)
        self._model.set_adapter(request.version)
        return encode_prompt(self.tokenizer, request.question)

    def _decide(self, request: Request) -> Decision:
        prompt = self._use(request)

        def prefill(prefix: Sequence[int]) -> Prefill:
            return Prefill(self._model, [*prompt, *prefix])

        return request.answers.decide(prefill, request.question, request.calibration, should_stop=request.stop.is_set)

    def _score(self, request: Request) -> Scored:
        answers = request.answers
        prefill = Prefill(self._model, [*self._use(request), *answers.trie.root_prefix])
        guided = guided_search(prefill, answers.trie, tolerance=0, should_stop=request.stop.is_set)
        return Scored(
            expected=None,
            log_probs=leaf_log_probs(guided, len(answers.trie)),
            question=request.question,
        )
