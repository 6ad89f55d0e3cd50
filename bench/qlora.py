"""What a training costs on a GPU with a large base: ours against TRL's own defaults, and what bounds it.

    python -m bench.qlora [--quick] [--tiny] [--folder FOLDER]

A Llama of the shape of Llama 2 7B in NF4 with scales quantised twice and bfloat16 to compute with. Its weights are
random, drawn on the GPU: how long a step takes does not depend on them, and nothing is downloaded. Its tokens are the
bundled base's. Each part trains it in a process of its own and is one line of FOLDER/qlora.jsonl as soon as it is done;
what it printed is in FOLDER/PART.log. A part that fails says so there, and the others go on. `--tiny` is a Llama of two
small layers for a machine without a GPU: that the measurement works, not that it says anything.

Prints two tables in Markdown; the last line is one JSON object:

    vs_trl_defaults_step       seconds of a step of SFTTrainer with its defaults over ours, the same rows in a step
    vs_recomputed_step         the same, of ours with activations computed again in the backward
    peak_memory_gib            allocated at most in a step of ours
    model_flops_share          ours, of what this card reaches in a large bfloat16 product
    largest_model_flops_share  the same with as many rows in a step as `many rows` has

Model FLOPs are those of real tokens: 4 per weight of the frozen linear layers (forward, and backward to the
activations; a frozen weight has no gradient), 6 per weight of LoRA, the head for supervised tokens alone, as TRL
computes it, and causal attention. Hardware FLOPs are those of padded batches with whatever is computed twice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import SFTTrainer

from bench.training import write_rows
from training.lm import sft
from training.lm.batches import Batches
from training.lm.config import PRESETS, BaseModel, TrainConfig
from training.lm.loading import load_tokenizer

GIB = 2**30
NUM_ENTRIES = 100
NUM_WARM_UP = 5
MANY_ROWS = 128
NUM_ACCUMULATED = 4
NUM_PROFILED = 2
# --quick begins no part that would not end within this.
QUICK_SECONDS = 240

# The first that a kernel's name contains, in this order.
FAMILIES = {
    "products with 4-bit weights": ("gemm_4bit", "gemm4bit", "gemv_4bit"),
    "4-bit weights unpacked": ("dequant",),
    "attention": ("flash", "fmha", "sdpa", "attention"),
    "optimizer, clipping": ("multi_tensor", "adam", "lpnorm"),
    "loss": ("softmax", "logprob", "cross_entropy", "nll", "_forward_kernel", "_backward_kernel"),
    "matrix products": ("gemm", "gemv", "nvjet", "cutlass", "xmma", "splitk", "cublas"),
    "copies": ("memcpy", "memset"),
    "dropout": ("dropout", "distribution", "philox"),
    "elementwise, reductions": ("elementwise", "reduce", "norm", "cat", "index", "scatter", "gather", "triton"),
}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True, slots=True)
class Size:
    """The base's shape and how large a large matrix product is."""

    llama: dict[str, int]
    product: int


LLAMA_7B = Size(
    {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}, product=8192
)
TINY = Size(
    {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}, product=512
)


@dataclass(frozen=True, slots=True)
class Work:
    """What the measured steps computed.

    Attributes:
        tokens: without padding.
        supervised: tokens that the loss is on.
        squares: each row's number of tokens squared, added up.
    """

    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    squares: int = 0
    padded_tokens: int = 0
    padded_squares: int = 0


class Meter:
    """Looks at a trainer's steps from outside: the first ones warm up, then some are measured, the last are profiled.

    The GPU is waited for before the first and after the last measured step only.
    """

    def __init__(self, num_measured: int) -> None:
        self.num_steps = NUM_WARM_UP + num_measured + NUM_PROFILED
        self.num_measured = num_measured
        self.on_cuda = torch.cuda.is_available()
        self.result: dict[str, Any] = {}
        self.trainer: Any = None
        self._step = 0
        self._started = 0.0
        self._counted: list[torch.Tensor] = []
        self._shapes: list[tuple[int, int]] = []
        self._profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CUDA if self.on_cuda else torch.profiler.ProfilerActivity.CPU]
        )

    def watch(self, stack: ExitStack) -> None:
        """Count what every SFTTrainer is given, until the stack is left."""
        step = SFTTrainer.training_step

        def counted(trainer: Any, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            self.trainer = trainer
            if NUM_WARM_UP <= self._step < NUM_WARM_UP + self.num_measured:
                self._count(inputs)
            return step(trainer, model, inputs, *args, **kwargs)

        stack.enter_context(patch.object(SFTTrainer, "training_step", counted))

    def _count(self, inputs: dict[str, torch.Tensor]) -> None:
        # On the device: reading a number would wait for it.
        lengths = inputs["attention_mask"].sum(1)
        supervised = (inputs["labels"][:, 1:] != sft.IGNORED).sum()
        self._counted.append(torch.stack((lengths.sum(), supervised, lengths.square().sum())))
        self._shapes.append((inputs["input_ids"].shape[0], inputs["input_ids"].shape[1]))

    def step_ended(self) -> None:
        self._step += 1
        if self._step == NUM_WARM_UP:
            self._wait()
            if self.on_cuda:
                torch.cuda.reset_peak_memory_stats()
            self._started = time.perf_counter()
        elif self._step == NUM_WARM_UP + self.num_measured:
            self._wait()
            self.result |= self._measured(time.perf_counter() - self._started)
            self._profiler.start()
        elif self._step == self.num_steps:
            self._wait()
            self._profiler.stop()

    def _wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()

    def _measured(self, seconds: float) -> dict[str, Any]:
        tokens, supervised, squares = torch.stack(self._counted).sum(0).tolist()
        work = Work(
            rows=sum(rows for rows, _ in self._shapes),
            tokens=tokens,
            supervised=supervised,
            squares=squares,
            padded_tokens=sum(rows * length for rows, length in self._shapes),
            padded_squares=sum(rows * length**2 for rows, length in self._shapes),
        )
        args = self.trainer.args
        flops = _flops(self.trainer.model, work, recomputes=args.gradient_checkpointing)
        return {
            "num_steps": self.num_measured,
            "batch_size": args.per_device_train_batch_size,
            "num_accumulated": args.gradient_accumulation_steps,
            "recomputes": args.gradient_checkpointing,
            "seconds_per_step": seconds / self.num_measured,
            "rows_per_second": work.rows / seconds,
            "tokens_per_second": work.tokens / seconds,
            "supervised_tokens_per_second": work.supervised / seconds,
            **{f"{name}_per_step": number / self.num_measured for name, number in asdict(work).items()},
            "model_tflops": flops["model"] / seconds / 1e12,
            "hardware_tflops": flops["hardware"] / seconds / 1e12,
            "allocated_gib": torch.cuda.max_memory_allocated() / GIB if self.on_cuda else None,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB if self.on_cuda else None,
        }

    def profile(self) -> dict[str, Any]:
        """Where a step's time on the device goes, by kernels' names; read after the training, for it takes a while.

        What a step is idle is its unprofiled time less its kernels': the profiler itself slows what starts them.
        """
        device = torch.autograd.DeviceType.CUDA if self.on_cuda else torch.autograd.DeviceType.CPU
        milliseconds: defaultdict[str, float] = defaultdict(float)
        names: defaultdict[str, float] = defaultdict(float)
        num_kernels = num_waits = 0
        for event in self._profiler.events() or []:
            if event.device_type == device and not event.is_user_annotation:
                spent = (event.time_range.elapsed_us() if self.on_cuda else event.self_cpu_time_total) / 1000
                milliseconds[family(event.name)] += spent / NUM_PROFILED
                names[event.name] += spent / NUM_PROFILED
                num_kernels += 1
            num_waits += event.name in WAITS
        longest = sorted(names.items(), key=lambda pair: -pair[1])[:25]
        return {
            "kernels_per_step": num_kernels / NUM_PROFILED,
            "waits_per_step": num_waits / NUM_PROFILED,
            "busy_ms_per_step": sum(milliseconds.values()),
            "idle_share": max(0.0, 1 - sum(milliseconds.values()) / 1000 / self.result["seconds_per_step"]),
            "family_ms_per_step": dict(sorted(milliseconds.items(), key=lambda pair: -pair[1])),
            "longest_ms_per_step": {name[:160]: round(spent, 3) for name, spent in longest},
        }


def family(kernel: str) -> str:
    """The kind of work that a kernel does, by its name."""
    name = kernel.lower()
    return next((family for family, parts in FAMILIES.items() if any(part in name for part in parts)), "other")


def _flops(model: torch.nn.Module, work: Work, *, recomputes: bool) -> dict[str, float]:
    config = model.get_base_model().config
    linear = sum(
        module.in_features * module.out_features
        for name, module in model.named_modules()
        if name.endswith("_proj.base_layer")
    )
    lora = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    head = 4 * config.vocab_size * config.hidden_size * work.supervised
    # Two products in the forward and four in the backward, each 2 * hidden_size for every pair of tokens.
    attention = 12 * config.num_hidden_layers * config.hidden_size
    again = 1 if recomputes else 0
    return {
        "model": (4 * linear + 6 * lora) * work.tokens + head + attention * work.squares / 2,
        "hardware": (4 + 2 * again) * linear * work.padded_tokens
        + (6 + 2 * again) * lora * work.padded_tokens
        + head
        + attention * (1 + again / 3) * work.padded_squares,
    }


def peak_tflops(size: Size) -> float:
    """What this device reaches in a square product of random bfloat16 numbers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size.product, size.product, dtype=torch.bfloat16, device=device) for _ in range(2))
    times = []
    for _ in range(13):
        started = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    if device == "cuda":
        del left, right
        torch.cuda.empty_cache()
    measured = times[3:]
    return 2 * size.product**3 * len(measured) / sum(measured) / 1e12


def build(size: Size) -> Any:
    """A base of this shape with random weights, quantised as `load_base` does it."""
    on_cuda = torch.cuda.is_available()
    config = LlamaConfig(
        vocab_size=32_000,
        num_key_value_heads=size.llama["num_attention_heads"],
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=5,
        pad_token_id=1,
        **size.llama,
    )
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlamaForCausalLM(config).state_dict().items()}
    return LlamaForCausalLM.from_pretrained(
        None,
        config=config,
        state_dict={name: _weight(shape, "cuda" if on_cuda else "cpu") for name, shape in shapes.items()},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if on_cuda else torch.float32,
        ),
        dtype=torch.bfloat16 if on_cuda else torch.float32,
        attn_implementation="sdpa",
        device_map={"": torch.cuda.current_device() if on_cuda else "cpu"},
    ).eval()


def _weight(shape: torch.Size, device: str) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=0.02)


def train_ours(meter: Meter, model: Any, folder: Path, config: TrainConfig, *, recomputes: bool = False) -> None:
    """`sft.train` as it is, but for where its base comes from."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(sft, "load_base", lambda *args, **kwargs: model))
        if recomputes:
            batches = Batches(config.per_device_train_batch_size, config.gradient_accumulation_steps, recomputes=True)
            stack.enter_context(patch.object(sft, "_batches", lambda *args: batches))
        meter.watch(stack)
        sft.train(
            config,
            folder / "train.jsonl",
            folder / "nothing.jsonl",
            folder / "out",
            on_progress=lambda progress: meter.step_ended() if progress.train_loss is None else None,
        )


class _StepEnds(TrainerCallback):
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._meter.step_ended()


def train_with_trl_defaults(meter: Meter, model: Any, folder: Path, config: TrainConfig) -> None:
    """The same rows and as many in a step; whatever else SFTConfig says."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig

    tokenizer = load_tokenizer(BaseModel())
    rows = sft.with_augmented(tokenizer, sft.read_rows(folder / "train.jsonl"), config)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "out"),
            max_steps=config.max_steps,
            learning_rate=config.learning_rate,
            per_device_train_batch_size=config.per_device_train_batch_size,
            save_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": row["question"]}],
                    "completion": [{"role": "assistant", "content": row["answer"]}],
                }
                for row in rows
            ]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=config.lora_r, lora_alpha=config.lora_alpha, target_modules="all-linear"
        ),
        callbacks=[_StepEnds(meter)],
    )
    with ExitStack() as stack:
        meter.watch(stack)
        trainer.train()


def _ours(meter: Meter, model: Any, folder: Path, config: TrainConfig) -> None:
    train_ours(meter, model, folder, config)


def _recomputed(meter: Meter, model: Any, folder: Path, config: TrainConfig) -> None:
    train_ours(meter, model, folder, config, recomputes=True)


def _whole_answers(meter: Meter, model: Any, folder: Path, config: TrainConfig) -> None:
    train_ours(meter, model, folder, replace(config, cut_completions=False))


def _many_rows(meter: Meter, model: Any, folder: Path, config: TrainConfig) -> None:
    config = replace(config, cut_completions=False, per_device_train_batch_size=MANY_ROWS)
    train_ours(meter, model, folder, config)


def _accumulated(meter: Meter, model: Any, folder: Path, config: TrainConfig) -> None:
    size = MANY_ROWS // NUM_ACCUMULATED
    config = replace(
        config, cut_completions=False, per_device_train_batch_size=size, gradient_accumulation_steps=NUM_ACCUMULATED
    )
    train_ours(meter, model, folder, config)


# The most telling first.
PARTS: dict[str, tuple[str, Callable[[Meter, Any, Path, TrainConfig], None]]] = {
    "ours": ("ours", _ours),
    "trl": ("SFTTrainer with its defaults", train_with_trl_defaults),
    "many-rows": (f"ours, whole answers, {MANY_ROWS} rows in a step", _many_rows),
    "accumulated": (f"the same in {NUM_ACCUMULATED} forwards", _accumulated),
    "recomputed": ("ours, activations recomputed", _recomputed),
    "whole": ("ours, whole answers", _whole_answers),
}


def run_part(part: str, size: Size, num_measured: int, write: Callable[[dict[str, Any]], object]) -> None:
    """In a process of its own.

    Args:
        write: called with the result, and again once the profile has been read.
    """
    meter = Meter(num_measured)
    # A learning rate for a large base; as many steps as are looked at, and no checkpoint among them.
    config = replace(
        PRESETS["normal"],
        learning_rate=2e-4,
        min_steps=meter.num_steps,
        max_steps=meter.num_steps,
        save_steps=10 * meter.num_steps,
    )
    peak = peak_tflops(size)
    started = time.perf_counter()
    model = build(size)
    if meter.on_cuda:
        torch.cuda.empty_cache()
    built = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, NUM_ENTRIES)
        (folder / "nothing.jsonl").touch()
        PARTS[part][1](meter, model, folder, config)
    result = {
        "part": part,
        "device": torch.cuda.get_device_name() if meter.on_cuda else "cpu",
        "torch": torch.__version__,
        "peak_tflops": peak,
        "build_seconds": built,
        **meter.result,
        "model_flops_share": meter.result["model_tflops"] / peak,
        "hardware_flops_share": meter.result["hardware_tflops"] / peak,
    }
    write(result)
    write(result | meter.profile())


def run_all(folder: Path, arguments: Sequence[str], parts: Sequence[str], *, budget: float) -> dict[str, Any]:
    """Each part in its process, one after the other; those for which no time is left say so."""
    results: dict[str, Any] = {}
    started, slowest = time.monotonic(), 0.0
    for part in parts:
        begun = time.monotonic()
        left = budget - (begun - started)
        if left < slowest:
            results[part] = {"part": part, "error": "no time left"}
        else:
            results[part] = _run_process(folder, part, arguments, left)
        slowest = max(slowest, time.monotonic() - begun)
        results[part]["wall_seconds"] = round(time.monotonic() - begun, 1)
        with (folder / "qlora.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(results[part]) + "\n")
    return results


def _run_process(folder: Path, part: str, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    written = folder / f"{part}.json"
    written.unlink(missing_ok=True)
    with (folder / f"{part}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "bench.qlora", *arguments, "--folder", str(folder), "--part", part]
        try:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=seconds)  # noqa: S603 - this very module
        except subprocess.TimeoutExpired:
            return {"part": part, "error": f"not done after {seconds:.0f} seconds"}
    if not written.exists():
        said = (folder / f"{part}.log").read_text(encoding="utf-8").strip().splitlines()
        return {"part": part, "error": said[-1] if said else "ended without a word"}
    result: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    written.unlink()
    return result


def table(results: dict[str, Any]) -> str:
    done = {PARTS[part][0]: result for part, result in results.items() if "error" not in result}
    failed = [f"{PARTS[part][0]}: {result['error']}" for part, result in results.items() if "error" in result]
    return "\n".join(
        [
            "| | rows a step | tokens a step (padding) | supervised | s a step | rows/s | tokens/s | supervised/s "
            "| GiB allocated / reserved | model TFLOP/s (of peak) | hardware TFLOP/s (of peak) |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(_row(name, result) for name, result in done.items()),
            "",
            *_profiles({name: result for name, result in done.items() if "family_ms_per_step" in result}),
            *(["", *failed] if failed else []),
        ]
    )


def _profiles(done: dict[str, dict[str, Any]]) -> list[str]:
    profiles = [result["family_ms_per_step"] for result in done.values()]
    return [
        f"| ms of a step | {' | '.join(done)} |",
        "|---" * (len(done) + 1) + "|",
        *(
            _line(name, [profile.get(name, 0.0) for profile in profiles])
            for name in (*FAMILIES, "other")
            if any(name in profile for profile in profiles)
        ),
        _line("idle", [1000 * each["seconds_per_step"] * each["idle_share"] for each in done.values()]),
        _line("kernels started", [each["kernels_per_step"] for each in done.values()]),
        _line("times waited for the GPU", [each["waits_per_step"] for each in done.values()]),
    ]


def _row(name: str, result: dict[str, Any]) -> str:
    padding = 1 - result["tokens_per_step"] / result["padded_tokens_per_step"]
    memory = "–" if result["allocated_gib"] is None else f"{result['allocated_gib']:.1f} / {result['reserved_gib']:.1f}"
    return (
        f"| {name} | {result['rows_per_step']:.0f} | {result['padded_tokens_per_step']:.0f} ({padding:.0%}) "
        f"| {result['supervised_per_step']:.0f} | {result['seconds_per_step']:.3f} "
        f"| {result['rows_per_second']:.1f} | {result['tokens_per_second']:.0f} "
        f"| {result['supervised_tokens_per_second']:.0f} | {memory} "
        f"| {result['model_tflops']:.1f} ({result['model_flops_share']:.1%}) "
        f"| {result['hardware_tflops']:.1f} ({result['hardware_flops_share']:.1%}) |"
    )


def _line(name: str, numbers: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{number:.1f}' for number in numbers)} |"


def summary(results: dict[str, Any]) -> dict[str, float | None]:
    """None for what a part that failed would have told."""

    def of(part: str, name: str) -> float | None:
        return results.get(part, {}).get(name)

    def over_ours(part: str) -> float | None:
        theirs, ours = of(part, "seconds_per_step"), of("ours", "seconds_per_step")
        return theirs / ours if theirs and ours else None

    numbers = {
        "vs_trl_defaults_step": over_ours("trl"),
        "vs_recomputed_step": over_ours("recomputed"),
        "peak_memory_gib": of("ours", "allocated_gib"),
        "model_flops_share": of("ours", "model_flops_share"),
        "largest_model_flops_share": of("many-rows", "model_flops_share"),
    }
    return {name: None if number is None else round(number, 4) for name, number in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="20 measured steps, not 40, in less than four minutes")
    parser.add_argument("--tiny", action="store_true", help="two small layers, for a machine without a GPU")
    parser.add_argument("--folder", type=Path, default=Path("bench/out/qlora"), help="where results are written")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="these only")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.part:
        file = options.folder / f"{options.part}.json"
        run_part(
            options.part,
            TINY if options.tiny else LLAMA_7B,
            20 if options.quick else 40,
            lambda result: file.write_text(json.dumps(result), encoding="utf-8"),
        )
        return
    arguments = [f"--{name}" for name in ("quick", "tiny") if getattr(options, name)]
    budget = QUICK_SECONDS if options.quick else 3600.0
    results = run_all(options.folder, arguments, options.parts, budget=budget)
    print(table(results))
    print(json.dumps(summary(results)))


if __name__ == "__main__":
    main()
