"""The engine: one thread that owns the base model, adapters resident on it, and a bounded queue of questions.

Knows tokens, adapters and answers. Does not know the database, websockets or which version is live: a request
names its version.

    engine = Engine(BaseModel())
    engine.load_version("v-000001-9f3c1a2b", Path("…/v-000001-9f3c1a2b/adapter"))
    answers = AnswerSet(engine.tokenizer, candidates)
    engine.submit(Request("¿A qué hora cierran?", "v-000001-9f3c1a2b", answers, calibration)).result()

Every request is a generator that asks what the model expects after some tokens (decoding.py, generation.py). A turn of
the thread takes the version that has waited longest, puts everything that its requests want to know into one forward,
new questions beside those under way, and gives each its part. So, while there is room, a question waits for no other to
be answered; it is stopped within one forward, and never sees another version's adapter.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from training.lm.adapters import AdapterError, Adapters
from training.lm.answers import AnswerSet
from training.lm.calibration import DEFAULT, Scored, score
from training.lm.config import BaseModel, GenerationParams, Precision
from training.lm.decisions import Calibration, Decision, EngineHealth, Generated, Heeded
from training.lm.decoding import FloatArray
from training.lm.followups import together
from training.lm.generation import Draft, GeneratedTokens, WholeCharacters, generate_greedily
from training.lm.loading import default_precision, load_tokenizer
from training.lm.packing import Expected, PackedOutput, TokenTree, packed_forward
from training.lm.prompts import DECLINE, QuestionTooLong, encode_prompt
from training.lm.schedule import Job, Schedule, Steps, is_over

logger = logging.getLogger(__name__)

# Attention is computed over the whole row of a forward: beyond this a CPU gains nothing by more of it.
MAX_FORWARD_TOKENS = {"cpu": 512, "cuda": 4096}
# A forward that takes longer than this will not come back.
STUCK_AFTER_SECONDS = 120.0
SHUTDOWN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """One question for one version. `stop` may be set at any time; the engine looks before every forward.

    With `context`, what was spoken of before, the question goes on from there (followups.py).
    With `is_exact` a decision's confidence is worked out however long that takes; else, where there are very many
    answers, only as far as the decision needs it.
    A question that staff wrote has its answer, whatever the version makes of it, as far as `heeded` says.
    """

    question: str
    version: str
    answers: AnswerSet
    calibration: Calibration = DEFAULT
    stop: threading.Event = field(default_factory=threading.Event)
    is_exact: bool = False
    context: str = ""
    heeded: Heeded = Heeded.ALL


@dataclass(frozen=True, slots=True)
class Understood:
    """A request as it is put to model and prior.

    Attributes:
        scores: what the prior says, (candidates + 1,).
        context: the request's, if the question goes on from there.
        verbatim: the key of the answer that has the question word for word.
    """

    tree: TokenTree
    scores: FloatArray
    context: str
    verbatim: str | None = None


class Engine:
    """Answers questions for any number of versions of one base model.

    Args:
        precision: how the base's weights are held; None for what suits the device.
        max_resident: adapters kept loaded; the one unused for longest makes room, and comes back when it is asked.
        max_waiting: questions that may wait to be let in; more are refused.
        max_under_way: questions let in at once.
        max_forward_tokens: tokens in one forward; a request that alone has more goes alone.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        precision: Precision | None = None,
        max_resident: int = 4,
        max_waiting: int = 256,
        max_under_way: int = 64,
        max_forward_tokens: int | None = None,
    ) -> None:
        self.base = base
        self.precision = precision or default_precision()
        self._adapters = Adapters(base, self.precision, max_resident)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._schedule = Schedule(
            max_waiting=max_waiting,
            max_under_way=max_under_way,
            max_forward_tokens=max_forward_tokens or MAX_FORWARD_TOKENS[device],
        )
        self._forward_began: float | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        # A thread that is in torch when the interpreter goes away takes the process down with it.
        atexit.register(self.shutdown)
        self._thread.start()

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
        self._schedule.add_errand(partial(self._adapters.load, version, adapter_dir)).result()

    def is_resident(self, version: str) -> bool:
        return version in self._adapters.resident

    def submit(self, request: Request) -> Future[Decision]:
        """Queue a question to be answered with one of the approved answers.

        Raises:
            QuestionTooLong: it does not fit the prompt.
            EngineBusy: too many wait already.
            EngineDied: the engine has ended.
        """
        understood = self._understood(request)
        return self._enqueue(request, understood.tree, self._decide(request, understood))

    def submit_scoring(self, request: Request) -> Future[Scored]:
        """Queue a question for full scoring: what calibration is fitted on. Raises as `submit` does."""
        tree = TokenTree(encode_prompt(self.tokenizer, request.question))
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
        understood = self._understood(request)
        bonus = request.answers.bonus(understood.scores, request.calibration)
        draft = Draft(request.answers.trie, bonus)
        return self._enqueue(request, understood.tree, self._generate(understood, params, draft, on_delta))

    def place_of(self, future: Future[Any]) -> int:
        """How many questions are let in before this one; 0 for one that has been let in."""
        return self._schedule.place_of(future)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._schedule.is_closed

    def health(self) -> EngineHealth:
        """Whether the thread lives and gets on, and what it has to do. Never waits."""
        began = self._forward_began
        return EngineHealth(
            is_alive=self.is_alive,
            is_stuck=began is not None and time.monotonic() - began > STUCK_AFTER_SECONDS,
            num_waiting=self._schedule.num_waiting,
            num_under_way=self._schedule.num_under_way,
            resident=self._adapters.resident,
        )

    def shutdown(self) -> None:
        """End the thread after the forward under way. What waits is cancelled, what was let in gets EngineDied."""
        self._schedule.close()
        # One that is stuck must not keep the process from ending.
        self._thread.join(SHUTDOWN_SECONDS)

    def _understood(self, request: Request) -> Understood:
        # The prior reads the question with a model of its own, which is not to be done for one that is refused.
        self._schedule.check_room()
        answers, text, context = request.answers, request.question, request.context
        prior = answers.prior
        verbatim = None
        if request.heeded is not Heeded.NONE:
            # Whoever takes up a suggestion goes on from nothing, however few words it has.
            verbatim = answers.verbatim(text, as_offered=bool(context) or request.heeded is Heeded.OFFERED)
        goes_on = bool(context) and verbatim is None
        scores = prior.scores_after(text, context) if goes_on else None
        if scores is None:
            tree = TokenTree(encode_prompt(self.tokenizer, text))
            return Understood(tree, prior.scores(text), "", verbatim)
        return Understood(TokenTree(encode_prompt(self.tokenizer, together(text, context))), scores, context)

    def _enqueue(self, request: Request, tree: TokenTree, steps: Steps) -> Future[Any]:
        return self._schedule.add(request.version, tree, steps, request.stop)

    # On the engine's thread from here on.

    def _work(self) -> None:
        try:
            while self._schedule.wait():
                self._schedule.run_errands()
                self._schedule.drop_stopped()
                version = self._schedule.next_version()
                if version is not None and self._use(version):
                    jobs = self._schedule.next_jobs(version)
                    if jobs:
                        self._forward(jobs)
        finally:
            # Another engine may take this one's place, and its memory.
            self._adapters.model = None
            atexit.unregister(self.shutdown)
            num_abandoned = self._schedule.abandon()
            if num_abandoned:
                logger.error("the engine's thread has ended; %s questions were with it", num_abandoned)

    def _use(self, version: str) -> bool:
        """Switch to a version. False if that cannot be; whoever asked for it has then been told."""
        try:
            self._adapters.use(version)
        except AdapterError as error:
            self._schedule.fail_version(version, error)
            return False
        return True

    def _forward(self, jobs: list[Job]) -> None:
        """One forward for all; where that fails, one for each, so that only the one at fault pays for it."""
        outputs: list[PackedOutput] = []

        def read() -> None:
            trees, asked = [job.tree for job in jobs], [job.asked or [] for job in jobs]
            outputs.append(packed_forward(self._adapters.model, trees, asked))

        attempt: Future[None] = Future()
        self._forward_began = time.monotonic()
        is_failed = is_over(attempt, read)
        self._forward_began = None
        if not is_failed:
            for place, job in enumerate(jobs):
                if is_over(job.future, partial(self._advance, job, outputs[0], place)):
                    self._schedule.leave([job])
            return
        error = attempt.exception()
        logger.warning("a forward for %s questions failed: %s", len(jobs), error)
        if isinstance(error, torch.AcceleratorError):
            # The device has failed, not the question: nothing more comes of it in this process.
            raise error
        if len(jobs) == 1:
            jobs[0].future.set_exception(error)
            self._schedule.leave(jobs)
        else:
            for job in jobs:
                self._forward([job])

    def _advance(self, job: Job, output: PackedOutput, place: int) -> None:
        job.advance(output.expected[place])
        output.keep(place)

    def _decide(self, request: Request, understood: Understood) -> Generator[list[int], Expected, Decision]:
        decision = yield from request.answers.decide(
            understood.tree,
            understood.scores,
            request.calibration,
            is_exact=request.is_exact,
            verbatim=understood.verbatim,
        )
        return replace(decision, context=understood.context)

    def _generate(
        self, understood: Understood, params: GenerationParams, draft: Draft, on_delta: Callable[[str], None]
    ) -> Generator[list[int], Expected, Generated]:
        written = WholeCharacters(self.tokenizer)
        text = ""

        def tell(tokens: Sequence[int]) -> None:
            nonlocal text
            delta = written.push(tokens)
            text += delta
            if delta:
                on_delta(delta)

        context = self._adapters.model.config.max_position_embeddings
        room = context - len(understood.tree)
        if room < 1:
            raise QuestionTooLong(len(understood.tree), context - 1)
        result: GeneratedTokens = yield from generate_greedily(
            understood.tree,
            replace(params, max_new_tokens=min(params.max_new_tokens, room)),
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
            context=understood.context,
        )
