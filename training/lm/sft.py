"""QLoRA fine-tuning with TRL: question in, the beginning of its answer out, as far as it tells answers apart.

    python -m training.lm.sft TRAIN.jsonl EVAL.jsonl OUTPUT_DIR [--preset …] [--parameters JSON] [--base … --revision …]
    accelerate launch --config_file training/lm/accelerate/fsdp_qlora.yaml -m training.lm.sft …    # several GPUs

Knows files of `{"question", "answer"}` rows. Does not know the database, versions or who asked for the run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from peft import PeftModel, get_peft_model
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.integrations.fsdp import is_fsdp_enabled
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from training.lm.augment import augment
from training.lm.batches import Batches, longest, share_out, share_out_on_one_gpu
from training.lm.config import PRESETS, BaseModel, Precision, TrainConfig, TrainProgress, TrainResult, WarmStart
from training.lm.loading import load_base, load_tokenizer
from training.lm.lora import lora_config
from training.lm.prompts import DECLINE, encode_answer, encode_prompt, fits
from training.lm.trie import AnswerTrie

Row = dict[str, Any]
IGNORED = -100
# Of questions to decline, the model learns so many, or so large a share of those to answer if that is more.
MIN_DECLINED = 30
MAX_DECLINED_SHARE = 0.375


class DidNotConverge(ArithmeticError):
    """The training ended without having learned anything."""


disable_progress_bars()
# Names that transformers is about to change and TRL still uses; nothing that a run's log should hold.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def train(
    config: TrainConfig,
    train_file: Path,
    eval_file: Path,
    output_dir: Path,
    *,
    base: BaseModel | None = None,
    warm_start: WarmStart | None = None,
    on_progress: Callable[[TrainProgress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Fine-tune an adapter and save it to `output_dir/adapter`.

    A run that was killed goes on from its last checkpoint in `output_dir`.

    Args:
        train_file: rows of `{"question", "answer"}`, UTF-8 JSON lines.
        eval_file: rows that are only measured, never learned; may be empty. In both, questions of more tokens than a
            prompt holds are left out: customers cannot ask them either.
        warm_start: learn only what its adapter has not learned yet, and repeat some of the rest (`rows_to_learn`).
        on_progress: called after every optimizer step.
        should_stop: asked after every optimizer step; true ends the run there, without an adapter.

    Raises:
        BaseModelError: the base model cannot be used.
        ValueError: there is nothing to learn.
        DidNotConverge: the loss became infinite or no number.
    """
    started = time.monotonic()
    set_seed(config.seed)
    base = base or BaseModel()
    tokenizer = load_tokenizer(base)
    train_rows, eval_rows = (
        [row for row in read_rows(file) if fits(tokenizer, row["question"])] for file in (train_file, eval_file)
    )
    if not train_rows:
        raise ValueError(f"{train_file.name} holds no rows to learn from")
    trie = answer_trie(tokenizer, [row["answer"] for row in train_rows])
    new_rows, replayed = rows_to_learn(train_rows, read_rows(warm_start.train_file) if warm_start else [], config)
    train_dataset = _dataset(tokenizer, [*with_augmented(tokenizer, new_rows, config), *replayed], trie, config)
    # Rows of like length together here too.
    eval_rows.sort(key=lambda row: len(row["question"]))
    eval_dataset = _dataset(tokenizer, eval_rows, trie, config) if eval_rows else None
    max_steps = config.steps_for(len(train_dataset))

    model = load_base(
        base,
        precision=Precision.NF4 if config.load_in_4bit else Precision.FULL,
        quant_type=config.bnb_4bit_quant_type,
        double_quant=config.bnb_4bit_use_double_quant,
        is_sharded=is_fsdp_enabled(),
    )
    model = _with_adapter(model, base, config, warm_start)
    as_loaded = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    batches = _batches(config, model, train_dataset)
    stops_early = eval_dataset is not None and config.early_stopping_patience > 0
    is_smaller = batches.size < config.per_device_train_batch_size
    progress = _Progress(on_progress, should_stop, batch_size=batches.size if is_smaller else None)
    trainer = AnswerTrainer(
        model=model,
        args=_arguments(
            config, batches, output_dir, max_steps, has_eval=eval_dataset is not None, stops_early=stops_early
        ),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        callbacks=[progress, *([EarlyStoppingCallback(config.early_stopping_patience)] if stops_early else [])],
    )
    trainer.remove_callback(PrinterCallback)
    _keep_adapter_precise(trainer.model, as_loaded)
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(output_dir))
    log = _log(trainer.state.log_history, max_steps)
    if any(each.train_loss is not None and not math.isfinite(each.train_loss) for each in log):
        raise DidNotConverge("the loss is no number any more; a smaller learning_rate helps")
    if not progress.was_stopped:
        _save(trainer, tokenizer, output_dir / "adapter", base)
    return TrainResult(
        step=trainer.state.global_step,
        max_steps=max_steps,
        train_loss=next((each.train_loss for each in reversed(log) if each.train_loss is not None), float("nan")),
        eval_loss=next((each.eval_loss for each in reversed(log) if each.eval_loss is not None), None),
        seconds=time.monotonic() - started,
        was_stopped=progress.was_stopped,
        log=log,
    )


class AnswerTrainer(SFTTrainer):
    """SFTTrainer that predicts nothing for the prompts on a CPU either.

    Without Triton, TRL 1.16 compares every position with the whole vocabulary, for the loss and for metrics that nobody
    reads. With short answers that is half of a training, and most of it for prompts, on which there is no loss.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        first = int((labels != IGNORED).any(dim=0).nonzero()[0])
        # The state before a token predicts it.
        num_kept = labels.shape[1] - first + 1
        inputs = {**inputs, "labels": labels[:, -num_kept:], "logits_to_keep": num_kept, "use_cache": False}
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


def _batches(config: TrainConfig, model: Any, dataset: Dataset) -> Batches:
    """What memory allows is only tried on one GPU: a CPU swaps, and a base that is not sharded yet tells nothing."""
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    size, num_accumulated = config.per_device_train_batch_size, config.gradient_accumulation_steps
    on_cuda = torch.cuda.is_available()
    if on_cuda and num_processes == 1:
        return share_out_on_one_gpu(model, longest(dataset), size, num_accumulated)
    return replace(share_out(size, num_accumulated, num_processes=num_processes), recomputes=on_cuda)


def _save(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, folder: Path, base: BaseModel) -> None:
    # Every process takes part in gathering what is sharded.
    state_dict = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    # The base's label, not where this machine keeps it.
    model.peft_config["default"].base_model_name_or_path = base.label
    # Only LoRA's own weights: to see whether embeddings have grown, PEFT would look the base up by its label.
    model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)


def _last_whole_checkpoint(output_dir: Path) -> str | None:
    """The newest checkpoint that was written to its end; a process may have been killed while writing one."""
    for checkpoint in output_dir.glob("checkpoint-*"):
        if not _is_whole(checkpoint):
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        # Written last, and perhaps not to its end either.
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def without_drowning(rows: Sequence[Row]) -> list[Row]:
    """The rows with the first of the questions to decline: so few that the model does not learn to decline anything."""
    declined = [place for place, row in enumerate(rows) if row["answer"] == DECLINE]
    limit = max(MIN_DECLINED, round(MAX_DECLINED_SHARE * (len(rows) - len(declined))))
    left_out = set(declined[limit:])
    return [row for place, row in enumerate(rows) if place not in left_out]


def rows_to_learn(rows: Sequence[Row], learned: Sequence[Row], config: TrainConfig) -> tuple[list[Row], list[Row]]:
    """The rows that are new, and a sample of those that were learned before.

    Without the sample an adapter forgets what it is not shown any more; rehearsing a little of it is known to be enough
    (experience replay, arXiv:1811.11682). The sample goes round the answers, so that each has its turn.
    """
    rows, learned = without_drowning(rows), without_drowning(learned)
    known = {(row["question"], row["answer"]) for row in learned}
    new = [row for row in rows if (row["question"], row["answer"]) not in known]
    old = [row for row in rows if (row["question"], row["answer"]) in known]
    random.Random(config.seed).shuffle(old)
    seen: Counter[str] = Counter()
    turns = []
    for row in old:
        turns.append(seen[row["answer"]])
        seen[row["answer"]] += 1
    by_turn = [row for _turn, row in sorted(zip(turns, old, strict=True), key=lambda pair: pair[0])]
    return new, by_turn[: max(math.ceil(config.replay_ratio * len(new)), config.min_replayed)]


def _with_adapter(
    model: torch.nn.Module, base: BaseModel, config: TrainConfig, warm_start: WarmStart | None
) -> torch.nn.Module:
    if warm_start is None:
        return get_peft_model(model, lora_config(config))
    adapted = PeftModel.from_pretrained(model, warm_start.adapter, is_trainable=True)
    # Saved under the base's label, where nothing can be found.
    adapted.peft_config["default"].base_model_name_or_path = base.name
    return adapted


def answer_trie(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> AnswerTrie:
    return AnswerTrie([encode_answer(tokenizer, answer) for answer in answers])


def tokenize_row(
    tokenizer: PreTrainedTokenizerBase, row: Row, config: TrainConfig, *, trie: AnswerTrie | None
) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a row; the loss is on the answer only, up to its last branch if a trie is given."""
    prompt = encode_prompt(tokenizer, row["question"])
    answer = encode_answer(tokenizer, row["answer"])
    if trie is not None:
        answer = answer[: trie.decided_length(trie.paths.index(tuple(answer)))]
    input_ids = [*prompt, *answer][: config.max_length]
    return {"input_ids": input_ids, "labels": [IGNORED] * len(prompt) + input_ids[len(prompt) :]}


def _dataset(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], trie: AnswerTrie, config: TrainConfig) -> Dataset:
    cut_at = trie if config.cut_completions else None
    return Dataset.from_list([tokenize_row(tokenizer, row, config, trie=cut_at) for row in rows])


def with_augmented(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], config: TrainConfig) -> list[Row]:
    """Every row and typed variants of it: more of them where an answer has few wordings, so that none is drowned.

    A variant that the tokenizer's template makes the same prompt of, such as one in lower case, teaches nothing.
    """
    num_wordings = Counter(row["answer"] for row in rows)
    augmented: list[Row] = []
    for row in rows:
        missing = math.ceil(config.min_rows_per_answer / num_wordings[row["answer"]]) - 1
        count = max(config.num_augmented, missing)
        ways = [row["question"], *augment(row["question"], count=4 * count, seed=config.seed)]
        different: dict[tuple[int, ...], str] = {}
        for way in ways:
            if fits(tokenizer, way):
                different.setdefault(tuple(encode_prompt(tokenizer, way)), way)
        augmented += [{**row, "question": way} for way in list(different.values())[: count + 1]]
    return augmented


def _arguments(
    config: TrainConfig, batches: Batches, output_dir: Path, max_steps: int, *, has_eval: bool, stops_early: bool
) -> SFTConfig:
    on_cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(output_dir),
        max_steps=max_steps,
        per_device_train_batch_size=batches.size,
        per_device_eval_batch_size=batches.size,
        gradient_accumulation_steps=batches.num_accumulated,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup_ratio * max_steps),
        weight_decay=config.weight_decay,
        max_length=config.max_length,
        seed=config.seed,
        # Rows of like length together: of random ones, more than half of what is computed would be padding.
        train_sampling_strategy="group_by_length",
        logging_steps=5,
        # A loss that is no number must be seen, not averaged away.
        logging_nan_inf_filter=False,
        eval_strategy="steps" if has_eval else "no",
        eval_steps=config.save_steps if stops_early else max(max_steps // 4, 1),
        save_strategy="steps",
        save_steps=config.save_steps,
        # One that is the best so far is kept beside the last.
        save_total_limit=1,
        load_best_model_at_end=stops_early,
        metric_for_best_model="eval_loss" if stops_early else None,
        gradient_checkpointing=batches.recomputes,
        bf16=on_cuda,
        use_cpu=not on_cuda,
        dataloader_pin_memory=on_cuda,
        optim="adamw_torch",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def _keep_adapter_precise(model: torch.nn.Module, as_loaded: dict[str, torch.Tensor]) -> None:
    """Keep adapter weights in float32: TRL casts them to bfloat16 on a quantised base, too coarse for small steps.

    The cast has rounded them, so they are given back as they were loaded.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = as_loaded[name].float()


def _log(history: Sequence[dict[str, Any]], max_steps: int) -> tuple[TrainProgress, ...]:
    return tuple(
        TrainProgress(line["step"], max_steps, line.get("loss"), line.get("eval_loss"))
        for line in history
        if "loss" in line or "eval_loss" in line
    )


class _Progress(TrainerCallback):
    """Tells the caller about every step and lets it stop the run after one."""

    def __init__(
        self,
        on_progress: Callable[[TrainProgress], None],
        should_stop: Callable[[], bool],
        *,
        batch_size: int | None,
    ) -> None:
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._batch_size = batch_size
        self.was_stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._on_progress(
                TrainProgress(
                    state.global_step,
                    state.max_steps,
                    batch_size=self._batch_size,
                    is_before_pause=control.should_evaluate or control.should_save,
                )
            )
        if self._should_stop():
            self.was_stopped = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if state.is_world_process_zero and ("loss" in logs or "eval_loss" in logs):
            progress = TrainProgress(state.global_step, state.max_steps, logs.get("loss"), logs.get("eval_loss"))
            self._on_progress(progress)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune an adapter on files, without database or worker.")
    parser.add_argument("train_file", type=Path, metavar="TRAIN.jsonl")
    parser.add_argument("eval_file", type=Path, metavar="EVAL.jsonl")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="normal")
    parser.add_argument("--parameters", type=json.loads, default={}, help="what differs from the preset, as JSON")
    parser.add_argument("--base", default=BaseModel().name, help="a folder or a hub id")
    parser.add_argument("--revision")
    given = parser.parse_args(arguments)
    # Under `accelerate launch`: the processes find each other before any of them loads the base.
    PartialState()
    result = train(
        replace(PRESETS[given.preset], **given.parameters),
        given.train_file,
        given.eval_file,
        given.output_dir,
        base=BaseModel(given.base, given.revision),
        on_progress=print,
    )
    print(result)


if __name__ == "__main__":
    main()
