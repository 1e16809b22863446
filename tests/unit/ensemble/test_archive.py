"""Archives: what xarray sees, resuming after a kill at any point, a full disk, damage, and runs that are others."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dtheta.core.sphere import Grid
from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.ensemble.archiving import archive
from dtheta.ensemble.bred import BredVectors
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.layout import Field
from dtheta.ensemble.noise import WhiteNoise
from dtheta.ensemble.store import Archive, Missing, open_archive
from dtheta.errors import ConfigError, FormatError, OutputError, ShapeMismatch

xarray = pytest.importorskip("xarray")

FLOW = Lorenz96()
ANALYSES = FLOW.run(FLOW.spin_up(1)[0], 3)
LEADS = 5


def ensemble(members: int = 10, **settings: Any) -> Ensemble:
    settings = {"perturbation": BredVectors(0.1, WhiteNoise(0.1)), "rows": 4} | settings
    return Ensemble(FLOW.step, members, **settings)


def write(path: Path, found: Ensemble | None = None, **settings: Any) -> Archive:
    settings = {"leads": LEADS, "past": ANALYSES[:-1], "chunk": 4} | settings
    return archive(found or ensemble(), path, ANALYSES[-1], **settings)


def expected(found: Ensemble | None = None) -> dict[int, Tensor]:
    return dict((found or ensemble()).run(ANALYSES[-1], LEADS, past=ANALYSES[:-1]))


def same(found: Archive) -> bool:
    return all(torch.equal(x, expected()[lead]) for lead, x in found.states()) and not found.missing()


class Killed(Exception):
    """Stands for the end of a process."""


def killed_at(part: int, lead: int) -> Any:
    """Return a callback that ends the run after a lead of the part that begins with a member."""

    def progress(first: int, stop: int, at: int) -> None:
        if (first, at) == (part, lead):
            raise Killed

    return progress


def test_a_run_does_not_go_on_with_another_network_of_the_same_name(tmp_path: Path) -> None:
    file, step = tmp_path / "weights.safetensors", torch.nn.Linear(40, 40)

    def run(**settings: Any) -> Archive:
        return archive(Ensemble(step, 2, parameters=[file]), tmp_path / "a", ANALYSES[-1], LEADS, **settings)

    save_file(dict(step.state_dict()), file)
    with pytest.raises(Killed):
        run(progress=killed_at(0, 2))
    save_file({name: 2 * tensor for name, tensor in step.state_dict().items()}, file)
    with pytest.raises(ConfigError, match="is of another run: parameters differ"):
        run()
    save_file(dict(step.state_dict()), file)
    assert not run().missing()


@pytest.mark.parametrize("name", ["chunk", "hold"])
@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_a_number_of_members_that_cannot_be_meant_makes_no_folder(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        write(tmp_path / "a", **{name: value})
    assert not (tmp_path / "a").exists()


def test_an_archive_holds_the_run(tmp_path: Path) -> None:
    found = write(tmp_path / "a")
    assert same(found) and same(open_archive(tmp_path / "a"))
    assert "10 members, 6 leads, 60 states written" in repr(found)
    assert torch.equal(found.read(3, 6, 2), expected()[2][3:6])


def test_xarray_sees_cf_names_units_times_and_who_a_member_is(tmp_path: Path) -> None:
    grid = Grid(4, 8)
    fields = [Field("z500", "m", "geopotential_height"), Field("q700", "kg kg-1", "specific_humidity")]
    found = Ensemble(lambda x: x + 1, 3, perturbation=WhiteNoise(1.0))
    state = torch.zeros(2, 4, 8)
    data = archive(found, tmp_path / "a", state, [0, 4, 8], time="2020-01-31T12", fields=fields, grid=grid).to_xarray()
    assert data.z500.dims == ("realization", "forecast_period", "latitude", "longitude")
    assert data.z500.attrs["standard_name"] == "geopotential_height" and data.q700.attrs["units"] == "kg kg-1"
    assert data.latitude.attrs["units"] == "degrees_north" and bool((data.latitude.diff("latitude") < 0).all())
    assert list(data.forecast_period.values) == [0, 24, 48] and data.forecast_period.attrs["units"] == "hours"
    assert data.forecast_reference_time.values == np.datetime64("2020-01-31T12")
    assert data.time.values[-1] == np.datetime64("2020-02-02T12")
    assert list(data.member_draw.values) == [0, 1, 2] and "member_sign" in data.coords
    x = dict(found.run(state, 8, time="2020-01-31T12"))
    assert np.array_equal(data.z500.isel(forecast_period=1), x[4][:, 0])
    assert data.attrs["Conventions"].startswith("CF-")


@pytest.mark.parametrize("lead", range(LEADS + 1))
@pytest.mark.parametrize("hold", [None, 4])
def test_a_run_that_is_ended_anywhere_goes_on_with_the_same_bits(tmp_path: Path, lead: int, hold: int | None) -> None:
    with pytest.raises(Killed):
        write(tmp_path / "a", hold=hold, progress=killed_at(4 if hold else 0, lead))
    part = open_archive(tmp_path / "a")
    gap = part.missing()
    if hold is None:
        assert gap == ([Missing(0, 10, tuple(range(lead + 1, LEADS + 1)))] if lead < LEADS else [])
    else:
        assert gap[-1] == Missing(8, 10, tuple(range(LEADS + 1)))
    assert same(write(tmp_path / "a"))


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    calls = []

    class Counted(Lorenz96):
        def step(self, x_BK: Tensor) -> Tensor:
            calls.append(len(x_BK))
            return super().step(x_BK)

    counted = ensemble(perturbation=WhiteNoise(0.1))
    counted._networks.step = Counted().step
    with pytest.raises(Killed):
        write(tmp_path / "a", counted, progress=killed_at(0, 3))
    calls.clear()
    write(tmp_path / "a", counted)
    assert len(calls) == 2 * 3  # leads 4 and 5 of three blocks
    calls.clear()
    write(tmp_path / "a", counted)
    assert not calls


def test_a_chunk_without_its_line_in_the_journal_does_not_count(tmp_path: Path) -> None:
    write(tmp_path / "a")
    journal = next((tmp_path / "a" / "progress").glob("*.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]) + lines[7][:20])  # three chunks a lead; the eighth line is torn
    assert open_archive(tmp_path / "a").missing() == [Missing(0, 4, (3, 4, 5)), Missing(4, 10, (2, 3, 4, 5))]
    assert same(write(tmp_path / "a"))


def test_a_process_that_is_killed_leaves_an_archive_that_goes_on(tmp_path: Path) -> None:
    """A real kill, by the signal that nobody can catch, while a chunk is being written."""
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal, sys\n"
        "from tests.unit.ensemble.test_archive import write\n"
        "from dtheta.ensemble.progress import Progress\n"
        "add = Progress.add\n"
        "def killed(self, chunk, lead, digest):\n"
        "    if (chunk, lead) == (1, 2):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(self, chunk, lead, digest)\n"
        "Progress.add = killed\n"
        "write(sys.argv[1])\n"
    )
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    done = subprocess.run([sys.executable, script, tmp_path / "a"], env=environment, capture_output=True, timeout=120)
    assert done.returncode == -9, done.stderr[-2000:]
    assert open_archive(tmp_path / "a").missing() == [Missing(0, 4, (3, 4, 5)), Missing(4, 10, (2, 3, 4, 5))]
    assert same(write(tmp_path / "a"))


def test_a_full_disk_is_said_and_nothing_written_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr

    put, left = zarr.storage.LocalStore.set, [24]

    async def full(self: Any, *args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        await put(self, *args, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", full)
    with pytest.raises(OutputError, match=r"No space left on device. All leads before \d are kept.*goes on from there"):
        write(tmp_path / "a")
    part = open_archive(tmp_path / "a")
    stored = {lead for _, lead in part.progress.done}
    assert stored and all(torch.equal(part.read(0, 10, lead), expected()[lead]) for lead in sorted(stored)[:-1])
    left[0] = 1000
    assert same(write(tmp_path / "a"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 9599})())
    with pytest.raises(OutputError, match="it takes 9,600 bytes and the disk has 9,599 left"):
        write(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_data_that_was_changed_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write(tmp_path / "a", progress=killed_at(0, 2))
    chunk = tmp_path / "a" / "state" / "c" / "1" / "2" / "0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(FormatError, match="members 4 to 7 at lead 2 are not what was written"):
        write(tmp_path / "a")


@pytest.mark.parametrize(
    ("other", "settings", "message"),
    [
        (ensemble(seed=1), {}, "seed differ; seed there is 0, here 1"),
        (ensemble(11), {}, "members differ"),
        (ensemble(perturbation=BredVectors(0.2, WhiteNoise(0.1))), {}, "perturbation differ"),
        (ensemble(rows=8), {}, "rows differ"),
        (ensemble(), {"leads": 6}, "leads differ"),
        (ensemble(), {"time": 1}, "time differ"),
        (ensemble(), {"past": ANALYSES[:-1] + 1}, "start differ"),
    ],
)
def test_an_archive_of_another_run_is_refused(
    tmp_path: Path, other: Ensemble, settings: dict[str, Any], message: str
) -> None:
    write(tmp_path / "a")
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / "a", other, **settings)


def test_members_of_two_versions_of_torch_are_not_mixed(tmp_path: Path) -> None:
    found = write(tmp_path / "a")
    record = found.record | {"ensemble": found.record["ensemble"] | {"torch": "1.0"}}
    found.group.attrs["dtheta_ensemble"] = json.dumps(record)
    with pytest.raises(ConfigError, match=r"begun with torch 1\.0"):
        write(tmp_path / "a")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no ensemble that dtheta wrote"):
        open_archive(tmp_path / "nothing")
    (tmp_path / "a").mkdir()
    with pytest.raises(FormatError, match="no ensemble that dtheta wrote"):
        write(tmp_path / "a")
    with pytest.raises(ShapeMismatch, match="2 fields, and a state"):
        write(tmp_path / "b", fields=["u", "v"])
    with pytest.raises(ShapeMismatch, match=r"expected \(\.\.\., 4, 8\), as the grid"):
        write(tmp_path / "b", grid=Grid(4, 8))
    with pytest.raises(ConfigError, match="called 'time'"):
        Field("time")
    found = write(tmp_path / "c")
    with pytest.raises(ConfigError, match="expected whole chunks of 4"):
        found.write(2, 0, ANALYSES)


def test_states_of_a_dtype_that_arrays_have_not_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"states are torch.bfloat16; an archive holds float16"):
        archive(Ensemble(lambda x: x, 2), tmp_path / "a", torch.zeros(3, dtype=torch.bfloat16), 1)
    assert not list(tmp_path.iterdir())
