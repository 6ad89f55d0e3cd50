"""Tiny random models of both families that matter: Llama, as the bundled base, and GPT-2 with its Conv1D layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = [
    "¿A qué hora cierran? Cerramos a las ocho de la tarde, de lunes a viernes.",
    "¿Hacen envíos a México? Enviamos a México en diez días laborables.",
    "¿Puedo devolver un producto? Tiene treinta días para devolverlo.",
    "¿Cómo pago? Aceptamos tarjeta y transferencia.",
]


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without a chat template, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def make_base(folder: Path, family: str) -> Path:
    """Save a random model and tokenizer to a folder that BASE_MODEL could name."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    model: Any
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=512, n_inner=128)
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=512,
            )
        )
    model.config.eos_token_id = model.config.bos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def tiny_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / request.param, request.param)
