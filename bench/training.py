"""What a training costs: against TRL's own defaults on the same data, and after one change against the whole again.

    python -m bench.training [--quick]

An unseen business: intents of the corpus that the base has not learned, six wordings each. Every training has a process
to itself, one after the other, so that all of a comparison have the same machine. Prints two tables in Markdown; the
last line is one JSON object:

    vs_trl_defaults_time       seconds of SFTTrainer with its defaults over ours; loading and saving included
    vs_trl_defaults_accuracy   right first on wordings that neither has seen, the adapters alone: ours minus theirs
    warm_vs_full_time          an update's seconds after one changed entry of a hundred over a whole training's, through
                               the commands that staff use, in an instance of its own, exams included
    warm_vs_full_accuracy      right first: update minus whole. Of their exam's questions, as many as there are entries,
                               and of five more wordings of each, asked in the same way, since a hundred questions do
                               not show a difference of one point

"TRL's defaults" is the recipe of the notebook that the project began with (4 bits, LoRA, SFTTrainer with question and
answer) on today's versions: whole answers, batches of 8, gradient checkpointing, and whatever else SFTConfig says. It
gets our rows, passes, learning rate and LoRA shape: with its own learning rate for large models (2e-5) the bundled base
learns nothing, and there would be nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.instance import command, set_up
from training.lm.config import PRESETS, BaseModel, TrainConfig
from training.lm.corpus import Intent, held_out_intents, off_topic

NUM_ENTRIES = 100
NUM_WORDINGS = 5
NUM_ASKED = 10  # further wordings of each entry
NUM_ASKED_OF_VERSIONS = 5
NUM_OFF_TOPIC = 50


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--quick", action="store_true", help="preset quick, and 12 entries against TRL: less than ten minutes"
    )
    options = parser.parse_args()
    preset, num_entries = ("quick", 12) if options.quick else ("normal", NUM_ENTRIES)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), num_entries)
        for part in (train_ours, train_with_trl_defaults, ask_both, publish, update, train_whole):
            # A process each: none finds what another has loaded or left in memory.
            with multiprocessing.get_context("spawn").Pool(1) as process:
                results[part.__name__] = process.apply(part, (Path(folder), preset))
    print(table(results))
    print(json.dumps(summary(results)))


def write_rows(folder: Path, num_entries: int) -> None:
    """What both learn, and the wordings that both are asked."""
    intents = held_out_intents()[:num_entries]
    learned = [(intent, text) for intent in intents for text in (intent.question, *intent.wordings[:NUM_WORDINGS])]
    asked = [(intent, text) for intent in intents for text in intent.wordings[NUM_WORDINGS:][:NUM_ASKED]]
    for name, wordings in (("train", learned), ("eval", asked)):
        rows = [
            {"key": f"{intent.domain}/{intent.name}", "question": text, "answer": intent.answer}
            for intent, text in wordings
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def train_ours(folder: Path, preset: str) -> dict[str, Any]:
    from training.lm import sft

    started = time.monotonic()
    # Nothing is measured on the way, as by the others.
    (folder / "nothing.jsonl").touch()
    sft.train(PRESETS[preset], folder / "train.jsonl", folder / "nothing.jsonl", folder / "ours")
    return {"seconds": time.monotonic() - started}


def train_with_trl_defaults(folder: Path, preset: str) -> dict[str, Any]:
    """The same rows and passes."""
    from training.lm import sft  # noqa: F401 - both have their libraries loaded before the clock starts

    started = time.monotonic()
    _train_with_trl_defaults(folder / "train.jsonl", folder / "trl", PRESETS[preset])
    return {"seconds": time.monotonic() - started}


def ask_both(folder: Path, preset: str) -> dict[str, Any]:
    """Which entry each adapter finds likeliest, without any prior."""
    set_up(folder / "asked")
    from training import exams
    from training.lm.calibration import MODEL_WEIGHTS, fit
    from training.lm.engine import Engine, Request
    from training.lm.evaluate import Asked, measure
    from training.lm.sft import read_rows

    train, asked = (read_rows(folder / f"{name}.jsonl") for name in ("train", "eval"))
    engine = Engine(BaseModel(), max_waiting=1_000)
    results: dict[str, Any] = {"num": len(asked)}
    try:
        for number, whose in enumerate(("ours", "trl")):
            name = f"v-{number:06d}-00000000"
            engine.load_version(name, folder / whose / "adapter")
            sitting = exams.sit(engine, name, train, asked)
            calibration = fit(sitting.answers, [], model_weights=MODEL_WEIGHTS, prior_weights=(0.0,))
            calibration = replace(calibration, prior_weight=0.0)
            requests = [Request(row["question"], name, sitting.answers, calibration, is_exact=True) for row in asked]
            decisions = exams.asked_at_once(engine.submit, requests)
            answered = [Asked(row["question"], row["key"], each) for row, each in zip(asked, decisions, strict=True)]
            results[whose] = measure(answered).accuracy
    finally:
        engine.shutdown()
    return results


def publish(folder: Path, preset: str) -> dict[str, Any]:
    set_up(folder / "instance")
    from faq.models import OffTopicQuestion

    for number, intent in enumerate(held_out_intents()[:NUM_ENTRIES]):
        write_entry(number, intent)
    OffTopicQuestion.objects.bulk_create(OffTopicQuestion(text=text) for text in off_topic()[:NUM_OFF_TOPIC])
    return command("train", "--preset", preset, "--wait", "--activate")


def update(folder: Path, preset: str) -> dict[str, Any]:
    """After one entry has become another one."""
    set_up(folder / "instance")
    from faq.models import FaqEntry

    FaqEntry.objects.get(key="entry-000").delete()
    write_entry(0, held_out_intents()[NUM_ENTRIES])
    return _train_and_ask(folder, "update")


def train_whole(folder: Path, preset: str) -> dict[str, Any]:
    set_up(folder / "instance")
    return _train_and_ask(folder, preset)


def _train_and_ask(folder: Path, preset: str) -> dict[str, Any]:
    """Beside what the command says, the share that is right first of exam and further wordings together."""
    trained = command("train", "--preset", preset, "--wait")
    intents = held_out_intents()
    entries = [intents[NUM_ENTRIES], *intents[1:NUM_ENTRIES]]
    further = [
        {"question": text, "expected": f"entry-{number:03d}"}
        for number, intent in enumerate(entries)
        for text in intent.wordings[NUM_WORDINGS:][:NUM_ASKED_OF_VERSIONS]
    ]
    file = folder / "further.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in further), encoding="utf-8")
    asked = command("evaluate", str(file), "--version", trained["version"])
    num_exam = trained["exam"]["in_scope"]
    num_right = trained["exam"]["accuracy"] * num_exam + asked["accuracy"] * len(further)
    return trained | {"accuracy": num_right / (num_exam + len(further)), "num_asked": num_exam + len(further)}


def _train_with_trl_defaults(train_file: Path, output_dir: Path, config: TrainConfig) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from training.lm.sft import read_rows, with_augmented

    base = BaseModel().name
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = with_augmented(tokenizer, read_rows(train_file), config)
    model = AutoModelForCausalLM.from_pretrained(
        base,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
        device_map="cuda" if torch.cuda.is_available() else "cpu",
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(output_dir),
            num_train_epochs=config.num_train_epochs,
            learning_rate=config.learning_rate,
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
    )
    trainer.train()
    trainer.save_model(str(output_dir / "adapter"))


def write_entry(number: int, intent: Intent) -> None:
    from faq.models import FaqEntry, Paraphrase

    entry = FaqEntry.objects.create(
        key=f"entry-{number:03d}", question=intent.question, answer=intent.answer, status="published"
    )
    for text in intent.wordings[:NUM_WORDINGS]:
        Paraphrase.objects.create(entry=entry, text=text)


def summary(results: dict[str, Any]) -> dict[str, float]:
    asked, updated, whole = results["ask_both"], results["update"], results["train_whole"]
    return {
        "vs_trl_defaults_time": round(
            results["train_with_trl_defaults"]["seconds"] / results["train_ours"]["seconds"], 2
        ),
        "vs_trl_defaults_accuracy": round(asked["ours"] - asked["trl"], 4),
        "warm_vs_full_time": round(updated["seconds"] / whole["seconds"], 3),
        "warm_vs_full_accuracy": round(updated["accuracy"] - whole["accuracy"], 4),
    }


def table(results: dict[str, Any]) -> str:
    asked, updated, whole = results["ask_both"], results["update"], results["train_whole"]
    seconds = {part: results[part]["seconds"] for part in ("train_ours", "train_with_trl_defaults")}
    return "\n".join(
        [
            f"| training alone | seconds | right first, {asked['num']} unseen wordings, adapter alone |",
            "|---|---|---|",
            f"| ours | {seconds['train_ours']:.0f} | {asked['ours']:.3f} |",
            f"| SFTTrainer with its defaults | {seconds['train_with_trl_defaults']:.0f} | {asked['trl']:.3f} |",
            "",
            "| after one changed entry, exam included | seconds | right first in the exam | "
            f"right first of {whole['num_asked']} |",
            "|---|---|---|---|",
            *(
                f"| {name} | {each['seconds']:.0f} | {each['exam']['accuracy']:.3f} | {each['accuracy']:.3f} |"
                for name, each in (("whole training", whole), ("update", updated))
            ),
        ]
    )


if __name__ == "__main__":
    main()
