"""How a step's rows are shared out, and the configuration for several GPUs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

from training.lm.batches import Batches, share_out

FSDP = Path(__file__).parents[1] / "accelerate" / "fsdp_qlora.yaml"


def test_without_limits_it_is_what_was_asked_for() -> None:
    assert share_out(16) == Batches(16, 1)
    assert share_out(6, 4) == Batches(6, 4)


@pytest.mark.parametrize(
    ("asked", "holds", "expected"),
    [
        ((16, 1), 16, Batches(16, 1)),
        ((16, 1), 15, Batches(8, 2)),
        ((16, 2), 3, Batches(2, 16)),
        ((12, 1), 5, Batches(3, 4)),
        ((7, 1), 6, Batches(1, 7)),
        ((10, 3), 4, Batches(2, 15)),
        ((16, 1), 0, Batches(1, 16)),
    ],
)
def test_what_does_not_fit_is_halved(asked: tuple[int, int], holds: int, expected: Batches) -> None:
    assert share_out(*asked, fits=lambda size: size <= holds) == expected


def test_a_step_takes_the_same_rows_whatever_fits() -> None:
    for size, num, holds in product(range(1, 25), range(1, 5), range(1, 25)):
        batches = share_out(size, num, fits=holds.__ge__)
        assert batches.size * batches.num_accumulated == size * num
        assert batches.size <= max(holds, 1)


@pytest.mark.parametrize(
    ("num_processes", "expected"), [(2, Batches(8, 1)), (4, Batches(4, 1)), (3, Batches(6, 1)), (32, Batches(1, 1))]
)
def test_several_processes_share_a_steps_rows(num_processes: int, expected: Batches) -> None:
    assert share_out(16, num_processes=num_processes) == expected
    assert share_out(16, 4, num_processes=4) == Batches(16, 1)


def test_accelerate_reads_the_configuration_for_several_gpus() -> None:
    config = load_config_from_file(str(FSDP))

    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == DistributedType.FSDP
    assert not config.use_cpu


def test_the_launcher_makes_a_plugin_of_it_that_can_shard_4_bit_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    given = launch_command_parser().parse_args(["--config_file", str(FSDP), "-m", "training.lm.sft"])
    args: Any = _validate_launch_command(given)[0]
    environment = prepare_multi_gpu_env(args)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    on_gpus_only = ("FSDP_SYNC_MODULE_STATES", "FSDP_CPU_RAM_EFFICIENT_LOADING")
    assert [environment[name] for name in on_gpus_only] == ["true", "true"]
    for name, value in {**environment, **dict.fromkeys(on_gpus_only, "false")}.items():
        monkeypatch.setenv(name, value)

    plugin = FullyShardedDataParallelPlugin()

    assert plugin.fsdp_version == 1
    assert plugin.use_orig_params is False, "frozen 4-bit weights and trained ones do not mix"
    assert plugin.sharding_strategy.name == "FULL_SHARD"
