"""How many rows a forward holds: as many as asked for or as the memory allows, with the same rows in every step.

And whether activations are kept for the backward, which is faster, or computed anew there, which takes less memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

ADAM_BYTES = 8  # a trained parameter's two moments in float32
# Of the card: for metrics that the trainer computes beside the loss, and for what fragments.
HELD_BACK = 0.05


@dataclass(frozen=True, slots=True)
class Batches:
    """
    Attributes:
        size: rows in one forward of one process.
        num_accumulated: forwards of one process in one optimizer step.
        recomputes: activations are not kept but computed again by the backward (gradient checkpointing).
    """

    size: int
    num_accumulated: int
    recomputes: bool = False


def share_out(
    batch_size: int,
    num_accumulated: int = 1,
    *,
    num_processes: int = 1,
    fits: Callable[[int], bool] = lambda size: True,
) -> Batches:
    """Batches of at most `batch_size` rows that fit, of which a step takes `batch_size * num_accumulated` rows.

    A size that does not fit is halved, or as near below half of it as divides the rows of a step, down to one row,
    which is not tried. Where the processes do not divide a step's rows, it takes the few more that they do.
    """
    rows = math.ceil(batch_size * num_accumulated / num_processes)
    size = _largest_divisor(rows, at_most=batch_size)
    while size > 1 and not fits(size):
        size = _largest_divisor(rows, at_most=size // 2)
    return Batches(size, rows // size)


def _largest_divisor(number: int, *, at_most: int) -> int:
    return next(size for size in range(min(number, at_most), 0, -1) if number % size == 0)


def share_out_on_one_gpu(model: Any, row: Mapping[str, list[int]], batch_size: int, num_accumulated: int) -> Batches:
    """Batches that fit this GPU's memory: as many rows as asked for if they fit in any way, then fewer.

    Recomputing costs a third pass through the base beside a forward and a backward, so it is done only where whole
    batches do not fit without it. It is switched on in the model then.

    Args:
        row: `input_ids` and `labels` of the row that takes most memory (`longest`).
    """
    whole = share_out(batch_size, num_accumulated)
    if fits_memory(model, row, whole.size):
        return whole
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    batches = share_out(batch_size, num_accumulated, fits=partial(fits_memory, model, row))
    return replace(batches, recomputes=True)


def longest(rows: Sequence[Mapping[str, list[int]]]) -> Mapping[str, list[int]]:
    """The row that takes most memory."""
    return max(rows, key=lambda row: len(row["input_ids"]))


def fits_memory(model: Any, row: Mapping[str, list[int]], size: int) -> bool:
    """Whether a forward and a backward of `size` such rows fit beside what the optimizer will hold.

    Leaves no gradients behind, changes no weights, and leaves the model in training mode.

    Args:
        row: `input_ids` and `labels`.
    """
    device = next(model.parameters()).device
    fit = False
    with suppress(torch.OutOfMemoryError):
        reserve = torch.empty(_reserved_bytes(model, device), dtype=torch.uint8, device=device)
        batch = {name: torch.tensor([row[name]] * size, device=device) for name in ("input_ids", "labels")}
        model.train()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(**batch).loss
        loss.backward()
        fit = True
        del reserve, batch, loss
    model.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fit


def _reserved_bytes(model: Any, device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return ADAM_BYTES * num_trained + int(HELD_BACK * torch.cuda.get_device_properties(device).total_memory)
