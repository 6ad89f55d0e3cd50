"""A merged model says what base and adapter say together, in plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.lm.adapters import AdapterError
from training.lm.config import BaseModel, Precision, TrainConfig
from training.lm.loading import load_base, load_tokenizer
from training.lm.lora import lora_config
from training.lm.merging import merge
from training.lm.prompts import encode_prompt

QUESTION = "¿A qué hora cierran?"


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    """One that changes much."""
    model = get_peft_model(load_base(BaseModel(str(tiny_base))), lora_config(TrainConfig(lora_r=4, lora_alpha=16)))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=torch.tensor([ids])).logits[0].float()
    return result


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_it_says_what_base_and_adapter_say(
    tiny_base: Path, adapter: Path, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    base = BaseModel(str(tiny_base))
    ids = encode_prompt(load_tokenizer(base), QUESTION)
    alone = logits(load_base(base, precision=Precision.DEQUANTIZED), ids)
    together = logits(PeftModel.from_pretrained(load_base(base, precision=Precision.DEQUANTIZED), adapter), ids)
    assert (together - alone).abs().max() > 0.3, "the adapter says something"

    merge(base, adapter, tmp_path / "merged", dtype=dtype)

    merged, report = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values()), "every weight has its place"
    assert merged.dtype == getattr(torch, dtype)
    torch.testing.assert_close(logits(merged, ids), together, atol=tolerance, rtol=tolerance)


def test_it_leaves_a_plain_model_with_its_prompt(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    base = BaseModel(str(tiny_base))

    merge(base, adapter, tmp_path / "merged")

    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".py"))}
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == encode_prompt(load_tokenizer(base), QUESTION)


def test_it_is_never_merged_into_packed_weights(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="packed"):
        merge(BaseModel(str(tiny_base)), adapter, tmp_path / "merged", precision=Precision.NF4)
    with pytest.raises(AdapterError, match="cannot be merged"):
        merge(BaseModel(str(tiny_base)), tmp_path / "nothing", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
