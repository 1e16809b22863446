"""World: the processes that train together, as Accelerate started them.

    one process        the objective as it is
    DDP                the objective wrapped; gradients are averaged over processes during backward
    FSDP2              the adapter sharded: blocks of the base by Accelerate's wrapping policy, the terms with the root

Of the base only the forward pass is distributed: it is frozen, so nothing of it is sent, averaged or stored. Mixed
precision is ours and not Accelerate's, because Accelerate fixes one precision for the whole life of a process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.errors import ConfigError
from dtheta.fit.objective import Objective
from dtheta.fit.sharded import is_sharded, make_contiguous, reshard
from dtheta.fit.trainable import Batch


class World:
    """The processes of a run.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: where this process computes.
    """

    def __init__(self, accelerator: Any) -> None:
        """Take over what Accelerate found out about the environment."""
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.size: int = accelerator.num_processes
        self.device: torch.device = accelerator.device
        self.main = self.rank == 0

    def prepare(self, objective: Objective) -> nn.Module:
        """Move, wrap or shard the objective for this world and return the module to call.

        Raises:
            ConfigError: a kind of parallel training that cannot be done right here.
        """
        adapter: Any = objective.adapter
        if is_sharded(adapter):
            return objective  # the caller sharded it already
        kind = str(self.accelerator.distributed_type).rpartition(".")[2]
        if kind == "FSDP":
            return self._shard(objective)
        if kind != "NO" and not kind.startswith("MULTI_"):
            raise ConfigError(f"fit trains on one process, under DDP or under FSDP2; Accelerate was told {kind}")
        if self.size > 1:
            _ignore_base(objective)
        return self.accelerator.prepare_model(objective)

    def _shard(self, objective: Objective) -> nn.Module:
        if not self.accelerator.is_fsdp2:
            raise ConfigError("fit trains under FSDP2, not FSDP1, which flattens parameters: use --fsdp_version 2")
        # loading on one process only would have left the others to factor weights that are not there
        self.accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
        adapter: Any = objective.adapter
        make_contiguous(adapter)
        # Accelerate shards only together with an optimizer; ours is made from the sharded parameters afterwards
        stand_in = torch.optim.SGD(list(adapter.trainable().values()), lr=0.0)
        objective.adapter, _ = self.accelerator.prepare(adapter, stand_in)
        return objective

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward does not average gradients, for all micro-batches but the last."""
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return module.no_sync()
        return nullcontext()

    def settle(self, adapter: nn.Module) -> None:
        """Let the adapter's parameters be the ones that the optimizer holds, also after a forward without backward."""
        reshard(adapter)

    def to_device(self, batch: Batch) -> Batch:
        """Return a batch with its tensors on this process's device."""
        from accelerate.utils import send_to_device

        return send_to_device(batch, self.device, non_blocking=True)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return self.accelerator.reduce(value, "sum") if self.size > 1 else value

    def total(self, number: float) -> float:
        """Return the sum of a number over all processes."""
        return number if self.size == 1 else float(self.sum(torch.tensor(float(number), device=self.device)))

    def gather(self, value: Any) -> list[Any]:
        """Return everyone's value, by rank."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is up on any process."""
        return self.total(flag) > 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self.accelerator.wait_for_everyone()


def _ignore_base(objective: Objective) -> None:
    """Let DDP neither broadcast the frozen base nor any buffer: large, and the same everywhere already."""
    frozen = [name for name, p in objective.named_parameters() if not p.requires_grad]
    names = [*frozen, *(name for name, _ in objective.named_buffers())]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, names)


@contextmanager
def world(allow_unused: bool) -> Iterator[World]:
    """Enter the world that ``accelerate launch`` or ``torchrun`` made, or that of a single process.

    Accelerate keeps one state for a process. What was in it, another loop's choices say, is put back at the end.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError("fit does not train under DeepSpeed, which steps on its own; launch with DDP or FSDP2")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

    launched = int(os.environ.get("WORLD_SIZE", "1"))
    shared = [state._shared_state for state in (AcceleratorState, GradientState)]
    before = [dict(found) for found in shared]
    for found in shared:
        found.clear()
    try:
        accelerator = Accelerator(
            mixed_precision="no",
            # without this, Accelerate takes processes that torchrun started on CPUs for unrelated ones
            cpu=launched > 1 and not torch.accelerator.is_available(),
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=allow_unused)],
        )
        if launched != accelerator.num_processes:
            raise ConfigError(
                f"{launched} processes were launched, but Accelerate was set up for {accelerator.num_processes} before "
                "fit began; start with 'accelerate launch', and build no Accelerator of another kind first"
            )
        yield World(accelerator)
    finally:
        for found, kept in zip(shared, before, strict=True):
            found.clear()
            found.update(kept)
