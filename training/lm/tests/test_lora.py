"""Adapters from elsewhere: ours pass, whatever is not exactly as ours does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from training.lm.adapters import AdapterError
from training.lm.config import BaseModel, TrainConfig
from training.lm.loading import load_base
from training.lm.lora import inspect_adapter, lora_config

CONFIG = TrainConfig(lora_r=4, lora_alpha=8)


@pytest.fixture
def base(tiny_base: Path) -> BaseModel:
    return BaseModel(str(tiny_base))


@pytest.fixture
def adapter(base: BaseModel, tmp_path: Path) -> Path:
    model = get_peft_model(load_base(base), lora_config(CONFIG))
    model.peft_config["default"].base_model_name_or_path = base.label
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change_config(adapter: Path, **values: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


Weights = dict[str, torch.Tensor]


def change_weights(adapter: Path, change: Callable[[Weights, str], object]) -> None:
    """Let `change` loose on the weights and the name of the first of them."""
    weights = load_file(adapter / "adapter_model.safetensors")
    change(weights, sorted(weights)[0])
    save_file(weights, adapter / "adapter_model.safetensors")


def test_what_training_leaves_passes(base: BaseModel, adapter: Path) -> None:
    inspect_adapter(adapter, base, CONFIG)


@pytest.mark.parametrize(
    "values",
    [
        {"auto_mapping": {"base_model_class": "Popen", "parent_library": "subprocess"}},
        {"megatron_config": {"a": 1}},
        {"megatron_core": "os"},
        {"peft_type": "IA3"},
        {"task_type": "SEQ_CLS"},
        {"r": 8},
        {"lora_alpha": 9000},
        {"init_lora_weights": "pissa"},
        {"modules_to_save": ["lm_head"]},
        {"layer_replication": [[0, 2], [1, 2]]},
        {"rank_pattern": {"(a+)+$": 3}},
        {"use_dora": True},
        {"fan_in_fan_out": "yes"},
        {"of_another_release": {"run": "this"}},
        {"base_model_name_or_path": "https://example.org/model"},
        {"target_modules": "(a+)+$"},
        {"target_modules": ["lm_head"]},
        {"target_modules": [["q_proj"]]},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_setting_that_is_not_ours_is_refused(base: BaseModel, adapter: Path, values: dict[str, Any]) -> None:
    change_config(adapter, **values)

    with pytest.raises(AdapterError):
        inspect_adapter(adapter, base, CONFIG)


def test_a_setting_that_asks_for_nothing_is_no_matter(base: BaseModel, adapter: Path) -> None:
    change_config(adapter, of_another_release=None, peft_version="99.0")

    inspect_adapter(adapter, base, CONFIG)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights, first: weights.update({first: torch.zeros(3, 3)}), "shape"),
        (lambda weights, first: weights.pop(first), "lack"),
        (lambda weights, first: weights.update({first: weights[first].int()}), "type"),
        (lambda weights, first: weights[first].fill_(float("nan")), "no number"),
        (lambda weights, first: weights.update({"lm_head.weight": torch.zeros(1)}), "no place"),
    ],
    ids=["shape", "missing", "type", "nan", "extra"],
)
def test_weights_that_do_not_fit_are_refused(
    base: BaseModel, adapter: Path, change: Callable[[Weights, str], object], reason: str
) -> None:
    change_weights(adapter, change)

    with pytest.raises(AdapterError, match=reason):
        inspect_adapter(adapter, base, CONFIG)


@pytest.mark.parametrize("damage", ["cut", "header", "pickle", "huge header", "folder"])
def test_what_is_no_safetensors_is_refused(base: BaseModel, adapter: Path, damage: str) -> None:
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        damaged = {
            "cut": whole[:200],
            "header": whole[:8] + b"x" * 100 + whole[108:],
            "pickle": b"\x80\x04\x95" + whole,
            "huge header": (2**62).to_bytes(8, "little") + whole[8:],
        }
        path.write_bytes(damaged[damage])

    with pytest.raises(AdapterError, match="no safetensors"):
        inspect_adapter(adapter, base, CONFIG)


def test_an_adapter_of_another_base_is_refused(base: BaseModel, adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base.name, other)
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 999}), encoding="utf-8")

    with pytest.raises(AdapterError, match="names the base model"):
        inspect_adapter(adapter, BaseModel(str(other)), CONFIG)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b'{"r": "\xff"}'])
def test_a_configuration_that_is_none_is_refused(base: BaseModel, adapter: Path, content: bytes) -> None:
    (adapter / "adapter_config.json").write_bytes(content)

    with pytest.raises(AdapterError, match="configuration"):
        inspect_adapter(adapter, base, CONFIG)
