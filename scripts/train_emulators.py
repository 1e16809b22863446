"""Train ``qg-sfno-0`` ... ``qg-sfno-7``: emulators of two-layer quasi-geostrophic flow, alike but for their seed.

    OMP_NUM_THREADS=1 python -m scripts.train_emulators RUN                  # all seeds, one after the other; resumes
    python -m scripts.train_emulators RUN --seeds 0 3 --compile              # some; inductor saves a part of the time
    python -m scripts.train_emulators RUN --export FOLDER                    # float16 weights and logs, finished seeds

Truth is ``QuasiGeostrophic()``: 96 members x 80 days for training (in the cache; about 3 minutes of one core the first
time). A seed decides first weights and windows, not the truth. The budget is a number of updates, so that seeds are
equal whatever else the machine does; see ``Recipe`` and the model card.

    loss   mean over the steps of a rollout of (z, u, v errors of both layers / variance of their 6 h differences)

Interrupted and resumed, a run computes what an uninterrupted one computes, bit for bit (one thread).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from dtheta.core.output import write_file
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.data.flows.trajectories import trajectories
from dtheta.data.flows.windows import Windows
from dtheta.fit.loop import fit
from dtheta.fit.record import Record
from dtheta.fit.whole import Whole
from dtheta.models.emulator import TwoLayerEmulator, rollout_loss
from dtheta.models.emulator_file import write_emulator

SEEDS = 8


@dataclass(frozen=True)
class Recipe:
    """All that decides the result, besides the flow and the seed."""

    members: int = 96
    steps: int = 320  # of 6 hours, after a spin-up of 90 days
    embed: int = 24
    layers: int = 4
    batch_size: int = 8
    one_step: int = 1900  # updates on one step, then on two, then on four
    two_steps: int = 450
    four_steps: int = 150
    rate: float = 1e-2
    warm_up: int = 100

    @property
    def stages(self) -> list[tuple[int, int]]:
        """Updates and steps of each stage."""
        found = ((self.one_step, 1), (self.two_steps, 2), (self.four_steps, 4))
        return [(updates, steps) for updates, steps in found if updates]


def truth(flow: QuasiGeostrophic, recipe: Recipe) -> Tensor:
    """Return the training trajectories (members, steps + 1, 2, H, W), from the cache."""
    return trajectories(flow, recipe.members, recipe.steps, seed=0)


def untrained(flow: QuasiGeostrophic, states: Tensor, recipe: Recipe, seed: int) -> TwoLayerEmulator:
    """Return an emulator before its first update: weights of the seed, statistics of the truth."""
    network = TwoLayerEmulator(flow, embed=recipe.embed, layers=recipe.layers, seed=seed)
    every = max(1, states.shape[1] // 10)
    network.set_statistics(torch.stack((states[:, :-1:every], states[:, 1::every]), 2).flatten(0, 1))
    return network


def train(
    flow: QuasiGeostrophic, states: Tensor, recipe: Recipe, seed: int, folder: Path, compiled: bool
) -> tuple[TwoLayerEmulator, Record]:
    """Train one seed in ``folder``, from its checkpoint if there is one; a finished run only loads it."""
    network = untrained(flow, states, recipe, seed)
    windows = Windows(states, recipe.stages, recipe.batch_size, seed)
    if compiled:
        network.sfno.apply_last = torch.compile(network.sfno.apply_last)
    record = fit(
        Whole(network), windows, steps=len(windows), loss=rollout_loss, lr=recipe.rate, warmup=recipe.warm_up,
        checkpoint=folder, checkpoint_every=100, resume=True, quiet=True, seed=seed,
    )  # fmt: skip
    if compiled:
        del network.sfno.apply_last
    return network.eval(), record


def log_of(record: Record, every: int = 50) -> str:
    """Return the mean loss of every 50 updates as JSON lines, and the time."""
    losses = [loss for _, loss in record.losses]
    lines = [
        {"updates": start + len(part), "loss": round(sum(part) / len(part), 5)}
        for start in range(0, len(losses), every)
        if (part := losses[start : start + every])
    ]
    return "".join(json.dumps(line) + "\n" for line in [*lines, {"seconds": round(record.seconds)}])


def main() -> None:
    """Train, or export what is trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of checkpoints, one a seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(SEEDS)))
    parser.add_argument("--export", type=Path, help="write weights and logs of finished seeds to this folder")
    parser.add_argument("--compile", action="store_true", help="compile the network; other rounding, same statistics")
    for field in fields(Recipe):
        if field.type in ("int", "float"):
            kind = int if field.type == "int" else float
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    arguments = vars(parser.parse_args())
    recipe = Recipe(**{f.name: arguments[f.name] for f in fields(Recipe) if f.name in arguments})
    flow = QuasiGeostrophic()
    states = truth(flow, recipe)
    arguments["run"].mkdir(parents=True, exist_ok=True)
    (arguments["run"] / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    for seed in arguments["seeds"]:
        network, record = train(flow, states, recipe, seed, arguments["run"] / str(seed), arguments["compile"])
        print(f"seed {seed}: {record.steps} updates, {record.seconds:.0f} s, last losses "
              f"{sum(loss for _, loss in record.losses[-50:]) / 50:.4f}", flush=True)  # fmt: skip
        if arguments["export"] is not None:
            arguments["export"].mkdir(parents=True, exist_ok=True)
            write_emulator(network, arguments["export"] / f"{seed}.safetensors")
            with write_file(arguments["export"] / f"{seed}.jsonl") as handle:
                handle.write(log_of(record).encode())


if __name__ == "__main__":
    main()
