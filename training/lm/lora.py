"""What an adapter of ours is: LoRA on every linear layer but the head. And whether one from elsewhere is such a one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from training.lm.adapters import AdapterError
from training.lm.config import BaseModel, TrainConfig
from training.lm.loading import load_skeleton

WEIGHT_TYPES = ("F32", "BF16", "F16")
# What says nothing about what an adapter does, or is compared in another way.
_TOLD_APART = {"base_model_name_or_path", "fan_in_fan_out", "inference_mode", "peft_version", "target_modules"}


def lora_config(config: TrainConfig) -> LoraConfig:
    """LoRA on every linear layer but the output head, as QLoRA found necessary (arXiv:2305.14314, section 4)."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="all-linear",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )


def inspect_adapter(folder: Path, base: BaseModel, config: TrainConfig) -> None:
    """Whether the files of an adapter that came from elsewhere are what training with `config` on `base` leaves.

    Everything that PEFT would act upon is compared, not only what is known to be harmful. Loads no weights of the base.

    Raises:
        AdapterError: they are not; the text says what.
        BaseModelError: the base model cannot be used.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out", module="peft")
        expected = get_peft_model(load_skeleton(base), lora_config(config))
    _compare_configs(_read(folder / "adapter_config.json"), expected.peft_config["default"], base)
    shapes = {
        name: list(weight.shape)
        for name, weight in get_peft_model_state_dict(expected, save_embedding_layers=False).items()
    }
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            _compare_weights(weights, shapes)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"its weights are no safetensors: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"its configuration cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise AdapterError("its configuration is no JSON object")
    return values


def _compare_configs(found: dict[str, Any], expected: LoraConfig, base: BaseModel) -> None:
    ours: dict[str, Any] = json.loads(json.dumps(expected.to_dict(), default=sorted))
    if found.get("base_model_name_or_path") != base.label:
        raise AdapterError(f"it names the base model {found.get('base_model_name_or_path')!r}, not {base.label!r}")
    for name in sorted((set(found) | set(ours)) - _TOLD_APART):
        # A name that only another release of PEFT knows must ask for nothing; one that is left out is a default.
        if found.get(name, ours.get(name)) != ours.get(name) and (name in ours or found[name]):
            raise AdapterError(f"{name} is {found[name]!r}, not {ours.get(name)!r}")
    # GPT-2's layers have their weights the other way round unless they are packed; PEFT sets it right as it loads.
    if not isinstance(found.get("fan_in_fan_out", False), bool):
        raise AdapterError(f"fan_in_fan_out is {found['fan_in_fan_out']!r}")
    modules = found.get("target_modules")
    if not isinstance(modules, list) or sorted(map(str, modules)) != sorted(ours["target_modules"]):
        raise AdapterError("it changes other layers of the base model than an adapter of ours")


def _compare_weights(weights: Any, shapes: dict[str, list[int]]) -> None:
    for name in weights.keys():  # noqa: SIM118 - no mapping
        if name not in shapes:
            raise AdapterError(f"its weights hold {name!r}, which has no place in the base model")
    for name, shape in shapes.items():
        if name not in weights.keys():  # noqa: SIM118
            raise AdapterError(f"its weights lack {name!r}")
        found = weights.get_slice(name)
        if found.get_shape() != shape:
            raise AdapterError(f"{name} has the shape {found.get_shape()}, not {shape}")
        if found.get_dtype() not in WEIGHT_TYPES:
            raise AdapterError(f"{name} is of the type {found.get_dtype()}")
        if not torch.isfinite(weights.get_tensor(name)).all():
            raise AdapterError(f"{name} holds what is no number")
