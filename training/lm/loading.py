"""Base model and tokenizer, in NF4 or in full precision, on CPU or CUDA. The only place that calls from_pretrained."""

from __future__ import annotations

import warnings
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from training.lm.config import BaseModel, Precision

logging.disable_progress_bar()
# Tells at every start that weights are dequantised, which was asked for.
getLogger("transformers.quantizers.base").setLevel(ERROR)
getLogger("transformers.integrations.bitsandbytes").setLevel(ERROR)
# Names that transformers is about to change and its own models still use.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


class BaseModelError(RuntimeError):
    """The base model cannot be used. The text says why, in words for the person who configured it."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(base: BaseModel) -> Any:
    """The base model's tokenizer, with a padding token.

    Raises:
        BaseModelError: no tokenizer there, or one without an end token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.name, revision=base.revision, local_files_only=base.is_local)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"no tokenizer can be read from the base model {base.name}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise BaseModelError(f"the tokenizer of {base.name} has no end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def default_precision() -> Precision:
    """A GPU unpacks 4-bit weights as it goes, and its memory is dear; a CPU has memory and is slow to unpack."""
    return Precision.NF4 if torch.cuda.is_available() else Precision.DEQUANTIZED


def load_base(
    base: BaseModel,
    *,
    precision: Precision = Precision.NF4,
    quant_type: str = "nf4",
    double_quant: bool = True,
    is_sharded: bool = False,
) -> Any:
    """The base model, frozen, in evaluation mode, on this process's device.

    Quantisation follows QLoRA (Dettmers et al. 2023, arXiv:2305.14314): 4-bit NormalFloat with the scales quantised
    a second time. The same bytes are computed on CPU and CUDA.

    Args:
        is_sharded: several processes will share the weights out among them (FSDP), which can only be done with
            numbers of the type that is computed with; so the 4-bit weights are stored under that type.

    Raises:
        BaseModelError: the folder has no safetensors weights, or they do not fit the configuration.
    """
    if base.is_local and not list(Path(base.name).glob("*.safetensors")):
        raise BaseModelError(f"the base model folder {base.name} holds no safetensors weights")
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if is_sharded else torch.uint8,
    )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.name,
            revision=base.revision,
            local_files_only=base.is_local,
            use_safetensors=True,
            dtype=dtype,
            quantization_config=quantization if precision.is_quantized else None,
            # Requests share a forward by a mask of their own (packing.py), which this one takes everywhere.
            attn_implementation="sdpa",
            device_map={"": torch.cuda.current_device()} if torch.cuda.is_available() else "cpu",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BaseModelError(f"the base model {base.name} cannot be loaded: {error}") from error
    if precision is Precision.DEQUANTIZED:
        model = model.dequantize()
    _keep_weights_unpacked(model)
    return model.eval()


def load_skeleton(base: BaseModel) -> Any:
    """The base model's layers with their shapes and no weights.

    Raises:
        BaseModelError: its configuration cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(base.name, revision=base.revision, local_files_only=base.is_local)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"the base model {base.name} cannot be read: {error}") from error


def _keep_weights_unpacked(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for AVX512-BF16 on the first forward without gradients.

    Repacked weights are read wrongly by the next training forward (bitsandbytes 0.50: a crash with GPT-2, gradients
    up to 57 % off with Llama), so an evaluation in the middle of training would spoil the run in silence.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
