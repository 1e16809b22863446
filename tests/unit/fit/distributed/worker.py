"""What every process of the distributed tests runs: python worker.py MODES FOLDER, under torchrun or accelerate launch.

Trains a tiny Llama with SORSA and a full head, and writes history and delta of the first process to FOLDER/MODE.*.

    plain            one process, or DDP where there are several
    resumed          the same, killed on the way and resumed
    fsdp             blocks and adapter sharded here
    fsdp-resumed     the same, killed on the way and resumed
    fsdp-accelerate  sharded by fit as Accelerate's environment says
    own              no evaluation data, a metric that brings its own, on the first process alone
    own-resumed      the same, killed on the way and resumed
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dtheta.adapt.attach import attach
from dtheta.adapt.sorsa import SORSA
from dtheta.fit.loop import fit
from dtheta.fit.run import Step
from dtheta.fit.sharded import gathered

torch.set_num_threads(1)


def new_adapter(sharded: bool) -> Any:
    """A Llama of 2 layers of width 16, with SORSA and a head that trains in full."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    adapter = attach(LlamaForCausalLM(config).eval(), SORSA(rank=4, gamma=0.01), also="lm_head.weight")
    if sharded:
        shard(adapter)
    return adapter


def batches() -> list[dict[str, torch.Tensor]]:
    """Batches of 4, 4, 3, 1 rows, some labels of which do not count."""
    drawn = torch.Generator().manual_seed(0)
    found = []
    for rows in (4, 4, 3, 1):
        ids = torch.randint(0, 64, (rows, 9), generator=drawn)
        labels = ids.clone()
        labels[0, 4:] = -100
        found.append({"input_ids": ids, "labels": labels})
    return found


class Killed(Exception):
    """Stands for the end of a process."""


def own(adapter: Any) -> float:
    """What the first process finds; the others see it fall, and alone would stop at once."""
    from accelerate.state import PartialState

    loss = float(adapter(**batches()[0]).loss)
    return -loss if PartialState().is_main_process else loss


def kill(step: Step) -> None:
    """End the run in the middle."""
    if step.step == 4:
        raise Killed


def train(folder: Path, mode: str) -> dict[str, Any]:
    """Train in one of the modes and return what came out."""
    sharded = mode in ("fsdp", "fsdp-resumed")
    adapter = new_adapter(sharded)
    settings: dict[str, Any] = {
        "steps": 6, "lr": 1e-2, "full_lr": 1e-3, "accumulation": 3, "clip": 0.5, "eval": batches(), "eval_every": 2,
    }  # fmt: skip
    if mode.startswith("own"):
        settings |= {"eval": None, "metric": own, "patience": 1, "eval_every": 1}
    if mode.endswith("resumed"):
        settings |= {"checkpoint": folder / f"{mode}-checkpoint", "checkpoint_every": 3}
        try:
            fit(adapter, batches(), callbacks=[kill], **settings)
        except Killed:
            adapter = new_adapter(sharded)
        settings["resume"] = True
    record = fit(adapter, batches(), **settings)
    with gathered(adapter, base=True):
        delta = adapter.delta()
    dense = {name: delta[name].dense().contiguous() for name in delta}
    return {"record": record.to_dict() | {"base": delta.base.digest}, "delta": dense}


def shard(adapter: Any) -> None:
    """Shard the blocks of the base, then the adapter as root."""
    from accelerate.state import PartialState
    from torch.distributed.fsdp import fully_shard

    PartialState(cpu=True)
    for layer in adapter.model.model.layers:
        fully_shard(layer)
    fully_shard(adapter)


def shard_on_cpus() -> None:
    """Let Accelerate take CPUs for accelerators, for which alone it shards."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plain = AcceleratorState.__init__

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        self.distributed_type = DistributedType.FSDP
        if "fsdp_plugin" not in self.__dict__:
            self.fsdp_plugin = FullyShardedDataParallelPlugin()  # from the environment, as Accelerate does

    AcceleratorState.__init__ = patched


def main(modes: list[str], folder: Path) -> None:
    """Run the modes one after the other and write the first process's results."""
    from accelerate.state import PartialState

    for mode in modes:
        if mode == "fsdp-accelerate":
            shard_on_cpus()
        found = train(folder, mode)
        state = PartialState()
        if state.is_main_process:
            save_file(found["delta"], folder / f"{mode}.safetensors")
            (folder / f"{mode}.json").write_text(json.dumps(found["record"] | {"processes": state.num_processes}))
    # a process that goes while another still reads from it resets their connection, and gloo's threads must end first
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]))
