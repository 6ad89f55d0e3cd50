"""What training, serving and free text may be told. Names are TRL's, PEFT's and transformers'; no Django here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

BUNDLED_BASE = Path(__file__).parent / "base"
_END_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model: a local folder or a hub id with the revision that pins it."""

    name: str = str(BUNDLED_BASE)
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def label(self) -> str:
        """A name that means the same on every machine, and another one when the weights are others."""
        if self.is_local:
            folder = Path(self.name).resolve()
            name = "bundled" if folder == BUNDLED_BASE.resolve() else folder.name
            return f"{name}@{_fingerprint(folder)}"
        return f"{self.name}@{self.revision}" if self.revision else self.name


def _fingerprint(folder: Path) -> str:
    """Eight hex digits from the configuration and, so that large models cost no time, both ends of the weights."""
    digest = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            digest.update(file.read(_END_BYTES))
            size = file.seek(0, 2)
            digest.update(str(size).encode())
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:8]


class Requirement(StrEnum):
    """What a training parameter's value must be."""

    POSITIVE = "must be greater than 0"
    NOT_NEGATIVE = "must be at least 0"
    SHARE = "must be at least 0 and less than 1"
    QUANT_TYPE = "must be nf4 or fp4"


_REQUIREMENTS: dict[Requirement, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    Requirement.POSITIVE: (
        lambda value: value > 0,
        (
            *("num_train_epochs", "min_steps", "max_steps", "per_device_train_batch_size"),
            *("gradient_accumulation_steps", "learning_rate", "lora_r", "lora_alpha", "max_length", "save_steps"),
            "min_rows_per_answer",
        ),
    ),
    Requirement.NOT_NEGATIVE: (
        lambda value: value >= 0,
        ("early_stopping_patience", "weight_decay", "seed", "num_augmented", "replay_ratio", "min_replayed"),
    ),
    Requirement.SHARE: (lambda value: 0 <= value < 1, ("warmup_ratio", "lora_dropout")),
    Requirement.QUANT_TYPE: (lambda value: value in ("nf4", "fp4"), ("bnb_4bit_quant_type",)),
}


def broken_requirement(name: str, value: Any) -> Requirement | None:
    """What a value of the training parameter `name` should be and is not; None if it is as it should."""
    for requirement, (is_met, names) in _REQUIREMENTS.items():
        if name in names and not is_met(value):
            return requirement
    return None


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Hyperparameters of one QLoRA fine-tuning.

    The number of optimizer steps follows the data, `num_train_epochs` passes, but never fewer than `min_steps`:
    eleven single wordings need many more passes than five hundred.
    """

    num_train_epochs: int = 6
    min_steps: int = 80
    max_steps: int = 2000
    per_device_train_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.06
    weight_decay: float = 0.01
    lora_r: int = 32
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    max_length: int = 512
    seed: int = 0
    load_in_4bit: bool = True
    bnb_4bit_quant_type: str = "nf4"
    bnb_4bit_use_double_quant: bool = True
    # Completions end after their last branch in the answer trie: nothing behind it is ever decided by the model.
    cut_completions: bool = True
    # Copies of each wording as customers type it (augment.py), beside the wording itself.
    num_augmented: int = 1
    # Answers with few wordings get more copies, up to as many rows as this.
    min_rows_per_answer: int = 3
    # A warm start repeats so many rows of what its adapter has learned before for each row that is new, and at least
    # `min_replayed`.
    replay_ratio: float = 4.0
    min_replayed: int = 64
    save_steps: int = 50
    # Measurements of the held-out wordings, one every `save_steps`, without a smaller loss after which the training
    # ends; the adapter of the smallest is kept. 0: train to the last step.
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            broken = broken_requirement(name, value)
            if broken is not None:
                raise ValueError(f"{name} {broken}, not {value}")

    def steps_for(self, num_rows: int) -> int:
        """Optimizer steps for `num_rows` training rows."""
        rows_per_step = self.per_device_train_batch_size * self.gradient_accumulation_steps
        wanted = math.ceil(self.num_train_epochs * num_rows / rows_per_step)
        return min(max(wanted, self.min_steps), self.max_steps)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Read what `to_dict` wrote. An unknown name is an error, not ignored."""
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown training parameters: {', '.join(unknown)}")
        return cls(**values)


_NORMAL = TrainConfig()

PRESETS: dict[str, TrainConfig] = {
    "quick": replace(_NORMAL, num_train_epochs=3, min_steps=40, learning_rate=2e-3),
    "normal": _NORMAL,
    "thorough": replace(_NORMAL, num_train_epochs=12, min_steps=160, cut_completions=False),
    # From an earlier adapter on (WarmStart).
    "update": replace(_NORMAL, num_train_epochs=8, min_steps=20),
}


@dataclass(frozen=True, slots=True)
class WarmStart:
    """An adapter to go on from, instead of from nothing.

    Attributes:
        adapter: its folder. Its LoRA shape is kept, whatever the configuration says.
        train_file: the rows that it has learned.
    """

    adapter: Path
    train_file: Path


class Precision(StrEnum):
    """How the base model's weights are held while serving.

    `nf4` takes least memory and unpacks the weights in every forward. `dequantized` unpacks the same weights once:
    the same answers, faster. `full` is the base as it was before quantisation, which the adapter was not trained on.
    """

    NF4 = "nf4"
    DEQUANTIZED = "dequantized"
    FULL = "full"

    @property
    def is_quantized(self) -> bool:
        """Whether these are the weights that adapters are trained on."""
        return self is not Precision.FULL


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """Limits of free text, under the names that transformers gives them. Greedy: customers get no dice."""

    max_new_tokens: int = 256
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be greater than 0, not {self.repetition_penalty}")
        if self.no_repeat_ngram_size < 0:
            raise ValueError(f"no_repeat_ngram_size must be at least 0, not {self.no_repeat_ngram_size}")


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """One line of a run's log: where it is and what it measured there.

    Attributes:
        batch_size: rows in one forward, where the memory holds fewer than were asked for.
        is_before_pause: it measures or saves now, so that the next step is not soon.
    """

    step: int
    max_steps: int
    train_loss: float | None = None
    eval_loss: float | None = None
    batch_size: int | None = None
    is_before_pause: bool = False


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `sft.train` leaves behind."""

    step: int
    max_steps: int
    train_loss: float
    eval_loss: float | None
    seconds: float
    was_stopped: bool = False
    log: tuple[TrainProgress, ...] = field(default=())
