from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from trl import SFTTrainer

from training.lm import sft
from training.lm.batches import Batches, fits_memory, share_out, share_out_on_one_gpu
from training.lm.config import PRESETS, BaseModel, TrainConfig, TrainProgress
from training.lm.loading import BaseModelError, load_base, load_tokenizer
from training.lm.lora import lora_config
from training.lm.prompts import encode_prompt
from training.lm.tests.conftest import make_base

HOURS = {"answer": "Cerramos a las ocho."}
PAY = {"answer": "Con tarjeta o transferencia."}
ROWS: list[dict[str, Any]] = [
    {"key": "hours", "question": "¿A qué hora cierran?", **HOURS},
    {"key": "hours", "question": "horario de cierre", **HOURS},
    {"key": "pay", "question": "¿Cómo pago?", **PAY},
    {"key": "pay", "question": "formas de pago", **PAY},
    {"key": None, "question": "cuéntame un chiste", "answer": "No lo sé."},
]
FAST = TrainConfig(min_steps=6, max_steps=6, per_device_train_batch_size=4, save_steps=3, lora_r=4, lora_alpha=8)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "eval.jsonl", ROWS[:1])


def test_it_puts_the_loss_on_the_answer_only() -> None:
    tokenizer = load_tokenizer(BaseModel())
    row = sft.tokenize_row(tokenizer, ROWS[0], FAST, trie=None)

    prompt = encode_prompt(tokenizer, ROWS[0]["question"])
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][: len(prompt)] == [sft.IGNORED] * len(prompt)
    assert row["labels"][len(prompt) :] == row["input_ids"][len(prompt) :]
    assert row["labels"][-1] == tokenizer.eos_token_id


def test_every_wording_is_learned_as_it_is_and_each_variant_makes_another_prompt() -> None:
    tokenizer = load_tokenizer(BaseModel())
    config = replace(FAST, num_augmented=2, min_rows_per_answer=1)
    rows = [{**row, "question": question} for row in ROWS for question in (row["question"], row["question"].upper())]

    for row in rows:
        learned = [each["question"] for each in sft.with_augmented(tokenizer, [row], config)]
        assert learned[0] == row["question"]
        assert len({tuple(encode_prompt(tokenizer, question)) for question in learned}) == len(learned)
    assert len(learned) == 3


def test_it_does_not_drown_a_small_faq_in_questions_to_decline() -> None:
    declined = [{"key": None, "question": f"off {number}", "answer": "No lo sé."} for number in range(100)]

    few = sft.without_drowning([*ROWS[:4], *declined, ROWS[0]])
    many = sft.without_drowning([*ROWS[:4] * 50, *declined])

    assert few == [*ROWS[:4], *declined[: sft.MIN_DECLINED], ROWS[0]]
    assert many == [*ROWS[:4] * 50, *declined[:75]]


def test_it_cuts_completions_behind_their_last_branch() -> None:
    tokenizer = load_tokenizer(BaseModel())
    trie = sft.answer_trie(tokenizer, [row["answer"] for row in ROWS])

    whole = sft.tokenize_row(tokenizer, ROWS[0], FAST, trie=None)
    cut = sft.tokenize_row(tokenizer, ROWS[0], FAST, trie=trie)

    prompt = encode_prompt(tokenizer, ROWS[0]["question"])
    assert len(prompt) < len(cut["input_ids"]) < len(whole["input_ids"])
    assert whole["input_ids"][: len(cut["input_ids"])] == cut["input_ids"]


def test_it_gives_trl_exactly_these_labels(files: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    """TRL must neither add an end token of its own nor move the mask."""
    base = BaseModel(str(tiny_base))
    tokenizer = load_tokenizer(base)
    trie = sft.answer_trie(tokenizer, [row["answer"] for row in ROWS])
    rows = [sft.tokenize_row(tokenizer, row, FAST, trie=trie) for row in ROWS]
    trainer = SFTTrainer(
        model=get_peft_model(load_base(base), lora_config(FAST)),
        args=sft._arguments(FAST, Batches(4, 1), tmp_path / "out", 1, has_eval=False, stops_early=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )

    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])

    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        length = len(row["input_ids"])
        assert ids[:length].tolist() == row["input_ids"]
        assert labels[:length].tolist() == row["labels"]
        assert set(labels[length:].tolist()) <= {sft.IGNORED}


def test_nothing_is_predicted_for_prompts_and_the_loss_is_that_of_trl(tmp_path: Path, tiny_base: Path) -> None:
    base = BaseModel(str(tiny_base))
    tokenizer = load_tokenizer(base)
    rows = [sft.tokenize_row(tokenizer, row, FAST, trie=None) for row in ROWS]
    trainer = sft.AnswerTrainer(
        model=get_peft_model(load_base(base), lora_config(FAST)).eval(),
        args=sft._arguments(FAST, Batches(4, 1), tmp_path / "out", 1, has_eval=False, stops_early=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    predicted: list[int] = []
    trainer.model.get_output_embeddings().register_forward_hook(lambda *call: predicted.append(call[2].shape[1]))

    with torch.no_grad():
        ours = trainer.compute_loss(trainer.model, dict(batch))
        of_many = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(1000))
        theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch))
        theirs_of_many = SFTTrainer.compute_loss(
            trainer, trainer.model, dict(batch), num_items_in_batch=torch.tensor(1000)
        )

    assert torch.allclose(ours, theirs, rtol=1e-3)
    assert torch.allclose(of_many, theirs_of_many, rtol=1e-3)
    shortest_prompt = min(row["labels"].count(sft.IGNORED) for row in rows)
    assert set(predicted) == {batch["input_ids"].shape[1] - shortest_prompt + 1}


def test_rows_of_like_length_share_a_batch(tmp_path: Path, tiny_base: Path) -> None:
    base = BaseModel(str(tiny_base))
    lengths = [5 + 40 * (place % 4 == 0) for place in range(64)]
    trainer = SFTTrainer(
        model=get_peft_model(load_base(base), lora_config(FAST)),
        args=sft._arguments(FAST, Batches(4, 1), tmp_path / "out", 1, has_eval=False, stops_early=False),
        train_dataset=Dataset.from_list([{"input_ids": [7] * n, "labels": [7] * n} for n in lengths]),
        processing_class=load_tokenizer(base),
    )

    computed = [batch["input_ids"].numel() for batch in trainer.get_train_dataloader()]

    assert len(computed) == 16
    # Each batch of four mixed at random would have as many as three of its rows padded ninefold.
    assert sum(computed) < 1.2 * sum(lengths)


def test_it_trains_the_adapter_and_leaves_the_base_alone(
    files: tuple[Path, Path], tmp_path: Path, tiny_base: Path
) -> None:
    base = BaseModel(str(tiny_base))
    before = {name: value.clone() for name, value in load_base(base).state_dict().items() if value.is_floating_point()}
    seen: list[TrainProgress] = []

    result = sft.train(FAST, *files, tmp_path / "out", base=base, on_progress=seen.append)

    assert [each.step for each in seen if each.train_loss is None and each.eval_loss is None] == [1, 2, 3, 4, 5, 6]
    assert (result.step, result.was_stopped) == (6, False)
    assert result.train_loss > 0
    assert result.eval_loss is not None
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    lora_b = [value for name, value in weights.items() if "lora_B" in name]
    assert all(value.abs().sum() > 0 for value in lora_b), "every adapted layer has learned something"
    model = PeftModel.from_pretrained(load_base(base), tmp_path / "out" / "adapter")
    after = {
        name.replace(".base_layer", "").removeprefix("base_model.model."): v for name, v in model.state_dict().items()
    }
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_it_adapts_every_linear_layer_but_the_head(tiny_base: Path) -> None:
    """GPT-2 keeps its layers as Conv1D; in NF4 they must be found all the same."""
    base = BaseModel(str(tiny_base))
    model = get_peft_model(load_base(base), lora_config(FAST))

    adapted = {name for name, _ in model.named_modules() if name.endswith(".lora_A")}
    is_gpt2 = "gpt2" in str(tiny_base)
    assert len(adapted) == (2 * 4 if is_gpt2 else 2 * 7)
    assert not any("lm_head" in name for name in adapted)
    quantised = [
        module for module in model.modules() if type(module).__name__ == "Params4bit" or hasattr(module, "quant_state")
    ]
    assert len(quantised) == len(adapted)


def test_it_records_no_path_of_this_machine(files: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    sft.train(FAST, *files, tmp_path / "out", base=BaseModel(str(tiny_base)))

    for path in (tmp_path / "out" / "adapter").glob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
        assert str(tiny_base) not in path.read_text(encoding="utf-8")


def test_it_stops_after_the_step_in_which_it_is_told(files: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    seen: list[int] = []

    result = sft.train(
        FAST,
        *files,
        tmp_path / "out",
        base=BaseModel(str(tiny_base)),
        on_progress=lambda progress: seen.append(progress.step),
        should_stop=lambda: 2 in seen,
    )

    assert (result.step, result.was_stopped) == (2, True)
    assert not (tmp_path / "out" / "adapter").exists()


def test_it_ends_early_and_keeps_the_adapter_that_held_out_wordings_liked_best(tmp_path: Path, tiny_base: Path) -> None:
    train_file = write(tmp_path / "train.jsonl", ROWS)
    # The contrary of what is learned: every step makes it worse.
    crossed = [{**ROWS[0], **PAY}, {**ROWS[2], **HOURS}]
    eval_file = write(tmp_path / "eval.jsonl", crossed)
    config = replace(FAST, min_steps=90, max_steps=90, save_steps=2, learning_rate=0.05, early_stopping_patience=3)

    result = sft.train(config, train_file, eval_file, tmp_path / "out", base=BaseModel(str(tiny_base)))

    losses = {each.step: each.eval_loss for each in result.log if each.eval_loss is not None}
    best = min(losses, key=lambda step: losses[step])
    assert result.step < 90
    assert not result.was_stopped, "nobody told it to stop"
    assert result.step == best + 2 * 3
    kept = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    checkpoint = load_file(tmp_path / "out" / f"checkpoint-{best}" / "adapter_model.safetensors")
    assert all(torch.equal(kept[name], weights) for name, weights in checkpoint.items())


@pytest.mark.parametrize("num_steps", [6, 15])
def test_it_goes_on_from_the_last_checkpoint(
    num_steps: int, files: tuple[Path, Path], tmp_path: Path, tiny_base: Path
) -> None:
    """In the first pass over the data or in a later one: it learns what it would have learned undisturbed."""
    base = BaseModel(str(tiny_base))
    config = replace(FAST, min_steps=num_steps, max_steps=num_steps)
    steps: list[int] = []
    sft.train(
        config,
        *files,
        tmp_path / "out",
        base=base,
        on_progress=lambda p: steps.append(p.step),
        should_stop=lambda: num_steps - 2 in steps,
    )
    resumed: list[int] = []

    sft.train(config, *files, tmp_path / "out", base=base, on_progress=lambda p: resumed.append(p.step))
    undisturbed = sft.train(config, *files, tmp_path / "whole", base=base)

    assert min(resumed) > 1, "the first steps are not repeated"
    assert undisturbed.step == num_steps
    ours = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "whole" / "adapter" / "adapter_model.safetensors")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


def test_it_passes_over_a_checkpoint_that_was_not_written_to_its_end(
    files: tuple[Path, Path], tmp_path: Path, tiny_base: Path
) -> None:
    base = BaseModel(str(tiny_base))
    seen: list[int] = []
    sft.train(
        FAST,
        *files,
        tmp_path / "out",
        base=base,
        on_progress=lambda p: seen.append(p.step),
        should_stop=lambda: 4 in seen,
    )
    for step in (5, 6):
        (tmp_path / "out" / f"checkpoint-{step}").mkdir()
    (tmp_path / "out" / "checkpoint-6" / "trainer_state.json").write_text("")

    result = sft.train(FAST, *files, tmp_path / "out", base=base)

    assert (result.step, result.was_stopped) == (6, False)


def test_it_leaves_out_questions_that_nobody_can_ask(tmp_path: Path, tiny_base: Path) -> None:
    long = {"key": "long", "question": "漢" * 500, "answer": "Sí."}
    train_file = write(tmp_path / "train.jsonl", [*ROWS, long])

    result = sft.train(
        FAST, train_file, write(tmp_path / "eval.jsonl", [long]), tmp_path / "out", base=BaseModel(str(tiny_base))
    )

    assert result.step == 6
    with pytest.raises(ValueError, match="no rows"):
        sft.train(FAST, write(tmp_path / "only.jsonl", [long]), train_file, tmp_path / "out2")


def test_it_says_so_when_it_did_not_converge(files: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(sft.DidNotConverge):
        sft.train(replace(FAST, learning_rate=1e30), *files, tmp_path / "out", base=BaseModel(str(tiny_base)))


def test_it_refuses_what_cannot_be_trained(tmp_path: Path) -> None:
    empty = write(tmp_path / "train.jsonl", [])
    with pytest.raises(ValueError, match="no rows to learn from"):
        sft.train(FAST, empty, empty, tmp_path / "out")


def test_it_says_so_when_the_base_has_no_weights(files: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    folder = tmp_path / "hollow"
    folder.mkdir()
    for path in tiny_base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())

    with pytest.raises(BaseModelError, match="holds no safetensors weights"):
        sft.train(FAST, *files, tmp_path / "out", base=BaseModel(str(folder)))
    with pytest.raises(BaseModelError, match="no tokenizer"):
        sft.train(FAST, *files, tmp_path / "out", base=BaseModel(str(tmp_path)))


@pytest.mark.training
@pytest.mark.parametrize("family", ["bundled", "gpt2"])
def test_it_computes_the_same_gradients_before_and_after_an_evaluation(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """bitsandbytes repacks weights in an evaluation forward where the processor has AVX512-BF16 (loading.py)."""
    folder = None if family == "bundled" else make_base(tmp_path_factory.mktemp("grad") / "gpt2", "gpt2")
    base = BaseModel(str(folder)) if folder else BaseModel()
    model = get_peft_model(load_base(base), lora_config(replace(FAST, lora_dropout=0.0)))
    ids = torch.randint(10, 300, (2, 24), generator=torch.Generator().manual_seed(0))

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)  # GPT-2 has dropout of its own
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    after = gradients()

    assert len(before) == len(after) > 0
    assert any(gradient.abs().sum() > 0 for gradient in before)
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.training
def test_it_learns_on_the_bundled_base(files: tuple[Path, Path], tmp_path: Path) -> None:
    config = replace(PRESETS["quick"], min_steps=12, max_steps=12)

    result = sft.train(config, *files, tmp_path / "out")

    losses = [each.train_loss for each in result.log if each.train_loss is not None]
    assert losses[-1] < losses[0] / 2


def test_a_warm_start_learns_what_is_new_and_repeats_some_of_every_answer() -> None:
    old = [{"question": f"pregunta {n} {k}", "answer": f"Respuesta {n}."} for n in range(20) for k in range(5)]
    edited = {**old[0], "answer": "Otra respuesta."}
    added = {"question": "manera nueva", "answer": "Respuesta 7."}
    config = replace(FAST, replay_ratio=10.0, min_replayed=0)

    new, replayed = sft.rows_to_learn([edited, added, *old[1:]], old, config)

    assert new == [edited, added]
    assert len(replayed) == 20
    assert {row["answer"] for row in replayed} == {row["answer"] for row in old}
    assert all(row in old for row in replayed)
    assert sft.rows_to_learn(old, [], config) == (old, []), "from the beginning everything is new"
    assert len(sft.rows_to_learn(old, old, replace(config, min_replayed=7))[1]) == 7


class Card:
    """A device of limited memory: forwards of more rows than it holds are refused as CUDA refuses them.

    It holds `times_recomputed` as many where activations are recomputed.
    """

    def __init__(self, model: torch.nn.Module, holds: int, *, times_recomputed: int = 1) -> None:
        self.tried: list[int] = []
        self.holds = holds
        self.times_recomputed = times_recomputed
        model.register_forward_pre_hook(self._check, with_kwargs=True)

    def _check(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.tried.append(len(kwargs["input_ids"]))
        if self.tried[-1] > self.holds * (self.times_recomputed if model.is_gradient_checkpointing else 1):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_probe_finds_what_fits_and_leaves_the_model_as_it_was(tiny_base: Path) -> None:
    model = get_peft_model(load_base(BaseModel(str(tiny_base))), lora_config(FAST))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    card = Card(model, holds=3)
    row = {"input_ids": list(range(5, 45)), "labels": [sft.IGNORED] * 20 + list(range(25, 45))}

    batches = share_out(16, fits=partial(fits_memory, model, row))

    assert (batches, card.tried) == (Batches(2, 8), [16, 8, 4, 2])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("holds", "tried", "expected"),
    [
        (16, [16], Batches(16, 1)),
        (8, [16, 16], Batches(16, 1, recomputes=True)),
        (2, [16, 16, 8, 4], Batches(4, 4, recomputes=True)),
    ],
)
def test_activations_are_recomputed_only_where_they_do_not_fit(
    tiny_base: Path, holds: int, tried: list[int], expected: Batches
) -> None:
    model = get_peft_model(load_base(BaseModel(str(tiny_base))), lora_config(FAST))
    card = Card(model, holds, times_recomputed=2)
    row = {"input_ids": list(range(5, 45)), "labels": [sft.IGNORED] * 20 + list(range(25, 45))}

    assert share_out_on_one_gpu(model, row, 16, 1) == expected

    assert card.tried == tried
    assert model.is_gradient_checkpointing == expected.recomputes


def test_recomputed_activations_learn_the_same(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BaseModel(str(make_base(tmp_path / "llama", "llama")))
    kept = sft.train(FAST, *files, tmp_path / "kept", base=base)
    monkeypatch.setattr(sft, "_batches", lambda config, model, dataset: Batches(4, 1, recomputes=True))

    recomputed = sft.train(FAST, *files, tmp_path / "recomputed", base=base)

    assert recomputed.train_loss == pytest.approx(kept.train_loss, rel=1e-5)
    assert recomputed.eval_loss == pytest.approx(kept.eval_loss, rel=1e-5)


def test_a_smaller_batch_learns_the_same(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Llama, which has no dropout of its own that would be drawn anew for each forward."""
    base = BaseModel(str(make_base(tmp_path / "llama", "llama")))
    config = replace(FAST, lora_dropout=0.0)
    whole = sft.train(config, *files, tmp_path / "whole", base=base)
    monkeypatch.setattr(sft, "_batches", lambda config, model, dataset: share_out(4, fits=lambda size: size <= 2))
    seen: list[TrainProgress] = []

    parts = sft.train(config, *files, tmp_path / "parts", base=base, on_progress=seen.append)

    assert {each.batch_size for each in seen if each.train_loss is None and each.eval_loss is None} == {2}
    assert (parts.step, parts.max_steps) == (whole.step, whole.max_steps)
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-3)
    assert parts.eval_loss == pytest.approx(whole.eval_loss, rel=1e-3)


def test_sharded_weights_are_stored_as_what_is_computed_with_and_say_the_same(tiny_base: Path) -> None:
    base = BaseModel(str(tiny_base))
    ids = torch.arange(10, 30)[None]

    plain, sharded = load_base(base), load_base(base, is_sharded=True)

    stored = {p.dtype for p in sharded.parameters() if hasattr(p, "quant_state")}
    assert stored == {torch.float32}, "what a CPU computes with; bfloat16 on CUDA"
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, sharded(ids).logits)


def test_it_trains_from_the_command_line(files: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    parameters = {"min_steps": 2, "max_steps": 2, "lora_r": 4}
    arguments = [*map(str, files), str(tmp_path / "out"), "--preset", "quick", "--base", str(tiny_base)]

    sft.main([*arguments, "--parameters", json.dumps(parameters)])

    saved = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["r"] == 4


def test_it_says_which_parameter_is_wrong() -> None:
    with pytest.raises(ValueError, match="learning_rate must be greater than 0"):
        TrainConfig(learning_rate=0)
    with pytest.raises(ValueError, match="unknown training parameters: epochs"):
        TrainConfig.from_dict({"epochs": 3})


def test_it_reads_back_what_it_wrote() -> None:
    for config in PRESETS.values():
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_it_names_a_base_by_its_weights(tiny_base: Path, tmp_path: Path) -> None:
    label = BaseModel(str(tiny_base)).label
    other = tmp_path / tiny_base.name
    other.mkdir()
    for path in tiny_base.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert BaseModel(str(other)).label == label

    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert BaseModel(str(other)).label != label
    assert BaseModel().label.startswith("bundled@")
    assert BaseModel("some/model", "abc").label == "some/model@abc"
