"""An adapter added to the base's own weights: one plain model, for servers that know neither NF4 nor adapters."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers.pytorch_utils import Conv1D

from training.lm.adapters import AdapterError
from training.lm.config import BaseModel, Precision
from training.lm.loading import load_base, load_skeleton, load_tokenizer
from training.lm.prompts import FALLBACK_CHAT_TEMPLATE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def merge(
    base: BaseModel,
    adapter: Path,
    folder: Path,
    *,
    precision: Precision = Precision.DEQUANTIZED,
    dtype: str = "float32",
) -> None:
    """Write base and adapter as one model that transformers' `AutoModelForCausalLM.from_pretrained` loads.

    Never into 4-bit weights: what the adapter adds would be rounded away. They are unpacked, which is what the adapter
    was trained on, and stay unpacked.

    Args:
        folder: made if it is not there.
        precision: how the base's weights are held before the adapter is added; not NF4.
        dtype: of the weights that are written; the sum is worked out in float32 all the same.

    Raises:
        AdapterError: the adapter cannot be read.
        BaseModelError: the base model cannot be used.
    """
    if precision is Precision.NF4:
        raise ValueError("an adapter is not merged into packed weights")
    model = load_base(base, precision=precision).float()
    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"the adapter cannot be merged: {error}") from error
    _restore_layers(merged, load_skeleton(base))
    merged.to(DTYPES[dtype]).save_pretrained(folder)
    tokenizer = load_tokenizer(base)
    # Other servers build the prompt by this alone.
    tokenizer.chat_template = tokenizer.chat_template or FALLBACK_CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def _restore_layers(merged: torch.nn.Module, skeleton: torch.nn.Module) -> None:
    """Turn layers back that unpacking makes linear ones, with their weights the other way round: GPT-2's."""
    for name, module in skeleton.named_modules():
        linear = merged.get_submodule(name) if isinstance(module, Conv1D) else None
        if isinstance(linear, torch.nn.Linear):
            layer = Conv1D(linear.out_features, linear.in_features)
            layer.weight = torch.nn.Parameter(linear.weight.detach().T.contiguous())
            layer.bias = linear.bias
            merged.set_submodule(name, layer)
