"""transformers' own continuous batching as a contender in the serving benchmark, on a model that is already loaded.

The manager computes in a thread of its own, and on a CPU each thread that computes keeps its own OpenMP workers until
it ends. With more workers than cores they no longer wait awake, and on a small model everything takes up to three
times as long. So whatever else computes in the same process, loading, quantising and merging included, belongs in a
thread that has ended before the manager starts.
"""

from __future__ import annotations

import itertools
import math
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self

from transformers import ContinuousBatchingConfig, GenerationConfig

from bench.llama_cpp import Completion

# Keys and values are kept in pages of so many tokens; the last page of each answer is partly empty.
_PAGE_SIZE = 32


class ContinuousBatchingError(RuntimeError):
    """An answer could not be written. The text is what transformers says."""


class ContinuousBatching:
    """A manager that writes answers for as long as the `with` block lasts, new ones joining those under way.

    The model may hold PEFT adapters: pass `peft_model.base_model.model`. It must not be used by anyone else meanwhile,
    and pages are not shared between prompts that begin alike: other contenders do not do so either.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        max_requests: answers written at once; more callers wait.
        context: prompt and answer tokens that each of them can have. With `max_requests` it bounds the memory, of
            which transformers would otherwise take 60 % on a CPU.
        max_batch_tokens: tokens of one forward pass, prompts and answers together.
        attention: `sdpa` or `paged|eager`; flash attention needs a GPU.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_requests: int = 32,
        context: int = 1024,
        max_batch_tokens: int = 512,
        attention: Literal["sdpa", "paged|eager"] = "sdpa",
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._attention = attention
        self._config = ContinuousBatchingConfig(
            page_size=_PAGE_SIZE,
            num_blocks=max_requests * math.ceil(context / _PAGE_SIZE),
            max_batch_tokens=max_batch_tokens,
            max_requests_per_batch=max_requests,
            allow_block_sharing=False,
            # It would look for kernels to download.
            auto_switch_to_flash=False,
        )
        self._previous_attention: str | None = None
        self._manager: Any = None
        self._names = itertools.count()
        self._waiting: dict[str, Future[Any]] = {}
        self._reader = threading.Thread(target=self._hand_out, name="continuous-batching-reader")
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._previous_attention = self._model.config._attn_implementation
        if self._previous_attention != self._attention:
            self._model.set_attn_implementation(self._attention)
        self._manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False,
                eos_token_id=self._model.generation_config.eos_token_id,
                pad_token_id=self._tokenizer.pad_token_id,
            ),
            continuous_batching_config=self._config,
        )
        self._manager.start()
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._manager.stop(block=True, hard_stop=True)
        self._stopping.set()
        self._reader.join()
        self._manager.destroy()
        if self._previous_attention != self._attention:
            self._model.set_attn_implementation(self._previous_attention)

    def complete(self, prompt_ids: list[int], *, max_new_tokens: int, ignore_eos: bool = False) -> Completion:
        """Answer a prompt. May be called from several threads at once.

        The times are those at which the manager had each token, as it records them itself: handing each token to its
        caller would only slow it down.

        Args:
            prompt_ids: token ids of the whole prompt.
            max_new_tokens: where the answer is cut.
            ignore_eos: write on after an end token, so that every answer has `max_new_tokens`.

        Raises:
            ContinuousBatchingError: the manager has stopped or failed.
        """
        name = f"answer-{next(self._names)}"
        future: Future[Any] = Future()
        self._waiting[name] = future
        accepted = self._manager.add_request(
            prompt_ids,
            request_id=name,
            max_new_tokens=max_new_tokens,
            record_timestamps=True,
            eos_token_id=-1 if ignore_eos else None,
        )
        if accepted is None:
            del self._waiting[name]
            raise ContinuousBatchingError("the manager takes no more requests")
        output = future.result()
        if output.error is not None:
            raise ContinuousBatchingError(output.error)
        ids = output.generated_tokens
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(output.timestamps[0], output.timestamps[-1], len(ids), text)

    def _hand_out(self) -> None:
        """Give each finished answer to the thread that waits for it."""
        while not (self._stopping.is_set() and not self._waiting):
            output = self._manager.get_result(timeout=0.1)
            if output is not None:
                self._waiting.pop(output.request_id).set_result(output)
