"""The engine: one thread that owns the base model, adapters resident on it, and a bounded queue of questions.

Knows tokens, adapters and answers. Does not know the database, websockets or which version is live: a request
names its version.

    engine = Engine(BaseModel())
    engine.load_version("v-000001-9f3c1a2b", Path("…/v-000001-9f3c1a2b/adapter"))
    answers = AnswerSet(engine.tokenizer, candidates)
    engine.submit(Request("¿A qué hora cierran?", "v-000001-9f3c1a2b", answers, calibration)).result()

Every request is a generator that asks what the model expects after some tokens (decoding.py, generation.py). A turn of
the thread takes the version that has waited longest, puts everything that its requests want to know into one forward,
new questions beside those under way, and gives each its part. So a request waits for one forward at most before it is
let in, is stopped within one, and never sees another version's adapter.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError

from training.lm.answers import AnswerSet
from training.lm.calibration import DEFAULT, Scored, score
from training.lm.config import BaseModel, GenerationParams, Precision
from training.lm.decisions import Calibration, Decision, EngineBusy, EngineDied, EngineHealth, Generated, Stopped
from training.lm.generation import Draft, GeneratedTokens, WholeCharacters, generate_greedily
from training.lm.loading import default_precision, load_base, load_tokenizer
from training.lm.packing import Expected, TokenTree, packed_forward
from training.lm.prompts import DECLINE, encode_prompt

# The base is named by its label, which PEFT takes for a folder to look up.
warnings.filterwarnings("ignore", message="Could not find a config file", module="peft")

logger = logging.getLogger(__name__)

ADAPTER_NAME_LENGTH = len("v-000000-00000000")
# Attention is computed over the whole row of a forward: beyond this a CPU gains nothing by more of it.
MAX_FORWARD_TOKENS = {"cpu": 512, "cuda": 4096}
# What a question adds to its prompt in its first forward, more or less.
TYPICAL_BRANCH_TOKENS = 16
# A forward that takes longer than this will not come back.
STUCK_AFTER_SECONDS = 120.0

Steps = Generator[list[int], Expected, Any]


class AdapterError(RuntimeError):
    """A version's adapter cannot be loaded. The text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question for one version. `stop` may be set at any time; the engine looks before every forward.

    With `is_exact` a decision's confidence is worked out however long that takes; else, where there are very many
    answers, only as far as the decision needs it.
    """

    question: str
    version: str
    answers: AnswerSet
    calibration: Calibration = DEFAULT
    stop: threading.Event = field(default_factory=threading.Event)
    is_exact: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way through the engine."""

    request: Request
    tree: TokenTree
    steps: Steps
    turn: int
    future: Future[Any] = field(default_factory=Future)
    # Tokens of its tree after which it wants to know more; None before it has begun.
    asked: list[int] | None = None

    @property
    def version(self) -> str:
        return self.request.version

    def begin(self) -> None:
        self.asked = next(self.steps)

    def advance(self, expected: Expected) -> None:
        self.asked = self.steps.send(expected)


def _is_over(future: Future[Any], step: Callable[[], None]) -> bool:
    """Do one step of what somebody waits for, and tell them if that was the last one.

    The boundary of the engine's thread: whatever is wrong with one request must not end the others.
    """
    try:
        step()
    except StopIteration as done:
        future.set_result(done.value)
    except Exception as error:  # noqa: BLE001
        future.set_exception(error)
    else:
        return False
    return True


class Engine:
    """Answers questions for any number of versions of one base model.

    Args:
        precision: how the base's weights are held; None for what suits the device.
        max_resident: adapters kept loaded; the one unused for longest makes room, and comes back when it is asked.
        max_waiting: questions that may wait to be let in; more are refused.
        max_forward_tokens: tokens in one forward; a request that alone has more is let in alone.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        precision: Precision | None = None,
        max_resident: int = 4,
        max_waiting: int = 256,
        max_forward_tokens: int | None = None,
    ) -> None:
        self.base = base
        self.precision = precision or default_precision()
        self._max_resident = max_resident
        self._max_waiting = max_waiting
        self._max_forward_tokens = max_forward_tokens
        self._turns = count()
        self._adapter_dirs: dict[str, Path] = {}
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._model: Any = None
        # Guards what other threads touch: the queue, what the thread has been asked to do, and whether it is to end.
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._errands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._is_closing = False
        self._under_way: list[_Job] = []
        self._forward_began: float | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()
        # A thread that is in torch when the interpreter goes away takes the process down with it.
        atexit.register(self.shutdown)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.base)

    def load_version(self, version: str, adapter_dir: Path) -> None:
        """Make a version resident and wait until it is.

        Raises:
            AdapterError: missing or damaged files, or an adapter for another base.
            BaseModelError: the base model cannot be used.
            EngineDied: the engine has ended.
        """
        done: Future[None] = Future()
        with self._changed:
            self._check_alive()
            self._errands.append((lambda: self._load(version, adapter_dir), done))
            self._changed.notify()
        done.result()

    def is_resident(self, version: str) -> bool:
        return version in self._resident

    def submit(self, request: Request) -> Future[Decision]:
        """Queue a question to be answered with one of the approved answers.

        Raises:
            QuestionTooLong: it does not fit the prompt.
            EngineBusy: too many wait already.
            EngineDied: the engine has ended.
        """
        tree = self._prompt(request)
        scores = request.answers.prior.scores(request.question)
        steps = request.answers.decide(tree, scores, request.calibration, is_exact=request.is_exact)
        return self._enqueue(request, tree, steps)

    def submit_scoring(self, request: Request) -> Future[Scored]:
        """Queue a question for full scoring: what calibration is fitted on. Raises as `submit` does."""
        tree = self._prompt(request)
        return self._enqueue(request, tree, score(request.answers, tree, request.question))

    def submit_generation(
        self,
        request: Request,
        params: GenerationParams,
        *,
        on_delta: Callable[[str], None] = lambda delta: None,
    ) -> Future[Generated]:
        """Queue a question to be answered in the model's own words. Raises as `submit` does.

        Args:
            on_delta: told each piece of text as it is written, whole characters only, on the engine's thread.
        """
        tree = self._prompt(request)
        bonus = request.answers.bonus(request.answers.prior.scores(request.question), request.calibration)
        draft = Draft(request.answers.trie, bonus)
        return self._enqueue(request, tree, self._generate(tree, params, draft, on_delta))

    def place_of(self, future: Future[Any]) -> int:
        """How many questions are let in before this one; 0 for one that has been let in."""
        with self._changed:
            return next((place for place, job in enumerate(self._waiting) if job.future is future), 0)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing

    def health(self) -> EngineHealth:
        """Whether the thread lives and gets on, and what it has to do. Never waits."""
        began = self._forward_began
        return EngineHealth(
            is_alive=self.is_alive,
            is_stuck=began is not None and time.monotonic() - began > STUCK_AFTER_SECONDS,
            num_waiting=len(self._waiting),
            num_under_way=len(self._under_way),
            resident=tuple(self._resident),
        )

    def shutdown(self) -> None:
        """End the thread after the forward under way; what is not answered by then is cancelled."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.shutdown)

    def _prompt(self, request: Request) -> TokenTree:
        return TokenTree(encode_prompt(self.tokenizer, request.question))

    def _enqueue(self, request: Request, tree: TokenTree, steps: Steps) -> Future[Any]:
        with self._changed:
            self._check_alive()
            if len(self._waiting) >= self._max_waiting:
                raise EngineBusy
            job = _Job(request, tree, steps, next(self._turns))
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def _check_alive(self) -> None:
        if not self.is_alive:
            raise EngineDied("the engine has ended")

    # On the engine's thread from here on.

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                self._run_errands()
                self._drop_stopped()
                version = self._next_version()
                if version is not None and self._use(version):
                    self._admit(version)
                    jobs = self._next_jobs(version)
                    if jobs:
                        self._forward(jobs)
        finally:
            self._abandon()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self._errands or self._waiting or self._under_way)
            return not self._is_closing

    def _run_errands(self) -> None:
        with self._changed:
            errands = list(self._errands)
            self._errands.clear()
        for errand, done in errands:
            if not _is_over(done, errand):
                done.set_result(None)

    def _drop_stopped(self) -> None:
        with self._changed:
            stopped = [job for job in (*self._under_way, *self._waiting) if job.request.stop.is_set()]
            self._waiting = deque(job for job in self._waiting if not job.request.stop.is_set())
        self._under_way = [job for job in self._under_way if not job.request.stop.is_set()]
        for job in stopped:
            job.steps.close()
            if job.asked is not None or job.future.set_running_or_notify_cancel():
                job.future.set_exception(Stopped())

    def _next_version(self) -> str | None:
        """The version whose requests have waited longest since their last turn, or for their first."""
        with self._changed:
            everyone = [] if self._is_closing else [*self._under_way, *self._waiting]
        return min(everyone, key=lambda job: job.turn).version if everyone else None

    def _admit(self, version: str) -> None:
        """Let in as many new questions for this version as there is room for beside those under way."""
        room = self._forward_tokens - sum(job.tree.num_unread for job in self._under_way if job.version == version)
        admitted: list[_Job] = []
        left: deque[_Job] = deque()
        with self._changed:
            for job in self._waiting:
                is_next = job.version == version and (room > 0 or not (admitted or self._under_way))
                (admitted if is_next else left).append(job)
                room -= job.tree.num_unread + TYPICAL_BRANCH_TOKENS if is_next else 0
            self._waiting = left
        for job in admitted:
            if job.future.set_running_or_notify_cancel() and not _is_over(job.future, job.begin):
                self._under_way.append(job)

    def _next_jobs(self, version: str) -> list[_Job]:
        """Those under way that go into the next forward: the ones that have waited longest, as many as it holds."""
        jobs: list[_Job] = []
        room = self._forward_tokens
        turn = next(self._turns)
        for job in sorted(self._under_way, key=lambda job: job.turn):
            if job.version != version or (jobs and job.tree.num_unread > room):
                continue
            room -= job.tree.num_unread
            jobs.append(job)
            job.turn = turn
        return jobs

    @property
    def _forward_tokens(self) -> int:
        if self._max_forward_tokens is None:
            self._max_forward_tokens = MAX_FORWARD_TOKENS["cuda" if torch.cuda.is_available() else "cpu"]
        return self._max_forward_tokens

    def _use(self, version: str) -> bool:
        """Switch to a version. False if that cannot be; whoever asked for it has then been told."""
        try:
            if version not in self._resident:
                if version not in self._adapter_dirs:
                    raise AdapterError(f"{version} is not loaded")
                self._load(version, self._adapter_dirs[version])
            self._resident.move_to_end(version)
            if self._model.active_adapter != version:
                self._model.set_adapter(version)
        except AdapterError as error:
            with self._changed:
                waiting = [job for job in self._waiting if job.version == version]
                self._waiting = deque(job for job in self._waiting if job.version != version)
            under_way = [job for job in self._under_way if job.version == version]
            self._leave(under_way)
            for job in (*under_way, *(job for job in waiting if job.future.set_running_or_notify_cancel())):
                job.future.set_exception(error)
            return False
        return True

    def _forward(self, jobs: list[_Job]) -> None:
        """One forward for all; where that fails, one for each, so that only the one at fault pays for it."""
        self._forward_began = time.monotonic()
        try:
            output = packed_forward(self._model, [job.tree for job in jobs], [job.asked or [] for job in jobs])
        except (RuntimeError, IndexError, ValueError, MemoryError) as error:
            logger.warning("a forward for %s questions failed: %s", len(jobs), error)
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                self._leave(jobs)
            else:
                for job in jobs:
                    self._forward([job])
            return
        finally:
            self._forward_began = None
        over = []
        for place, job in enumerate(jobs):
            if _is_over(job.future, partial(job.advance, output.expected[place])):
                over.append(job)
            else:
                output.keep(place)
        self._leave(over)

    def _leave(self, jobs: Sequence[_Job]) -> None:
        gone = set(map(id, jobs))
        self._under_way = [job for job in self._under_way if id(job) not in gone]

    def _generate(
        self, tree: TokenTree, params: GenerationParams, draft: Draft, on_delta: Callable[[str], None]
    ) -> Generator[list[int], Expected, Generated]:
        written = WholeCharacters(self.tokenizer)
        text = ""

        def tell(tokens: Sequence[int]) -> None:
            nonlocal text
            delta = written.push(tokens)
            text += delta
            if delta:
                on_delta(delta)

        context = self._model.config.max_position_embeddings - len(tree)
        result: GeneratedTokens = yield from generate_greedily(
            tree,
            replace(params, max_new_tokens=min(params.max_new_tokens, context)),
            eos_token_id=self.tokenizer.eos_token_id,
            draft=draft,
            on_tokens=tell,
        )
        return Generated(
            text=text,
            is_declined=text.strip() == DECLINE,
            finish_reason=result.finish_reason,
            num_tokens=len(result.tokens),
            num_forwards=result.num_forwards,
        )

    def _load(self, version: str, adapter_dir: Path) -> None:
        if version in self._resident:
            return
        if len(version) != ADAPTER_NAME_LENGTH:
            # PEFT matches adapter names by prefix in places; names of one length cannot be prefixes of each other.
            raise AdapterError(f"a version's name has {ADAPTER_NAME_LENGTH} characters, not {version!r}")
        if not (adapter_dir / "adapter_model.safetensors").is_file():
            raise AdapterError(f"{adapter_dir.name} holds no adapter_model.safetensors")
        base = load_base(self.base, precision=self.precision) if self._model is None else None
        try:
            if base is not None:
                self._model = PeftModel.from_pretrained(base, adapter_dir, adapter_name=version)
            else:
                self._model.load_adapter(str(adapter_dir), adapter_name=version)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._forget_failed(version)
            raise AdapterError(f"the adapter of {version} cannot be loaded: {error}") from error
        self._model.eval()
        # The one that makes room must not be the one in use.
        self._model.set_adapter(version)
        self._adapter_dirs[version] = adapter_dir
        self._resident[version] = None
        while len(self._resident) > self._max_resident:
            oldest = next(iter(self._resident))
            del self._resident[oldest]
            self._model.delete_adapter(oldest)

    def _forget_failed(self, version: str) -> None:
        """Leave no half-loaded adapter behind: the base is reloaded with the next version when it was the first."""
        if not self._resident:
            self._model = None
        elif version in self._model.peft_config:
            self._model.set_adapter(next(reversed(self._resident)))
            self._model.delete_adapter(version)

    def _abandon(self) -> None:
        """Nobody must wait for a thread that has ended."""
        with self._changed:
            is_meant = self._is_closing
            self._is_closing = True
            jobs, self._waiting = list(self._waiting), deque()
            errands = list(self._errands)
            self._errands.clear()
        error = EngineDied("the engine has ended")
        if not is_meant:
            logger.error("the engine's thread has ended; %s questions were with it", len(jobs) + len(self._under_way))
        for job in jobs:
            if is_meant:
                job.future.cancel()
            elif job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        for job in self._under_way:
            if not job.future.done():
                job.future.set_exception(error)
        self._under_way = []
        for _, done in errands:
            done.set_exception(error)
