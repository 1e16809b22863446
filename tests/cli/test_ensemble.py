"""``dtheta ensemble``: run, verify and replay on a simulated world, interrupted and resumed, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dtheta.cli import ensemble_run, ensemble_simulated
from dtheta.cli.ensemble_page import places_of
from dtheta.cli.ensemble_parts import members_of, part_of
from dtheta.ensemble import archiving
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.hindcast import Hindcast
from dtheta.errors import ConfigError, MembersMissing
from dtheta.models.zoo import EMULATORS
from tests.cli.conftest import Outcome

pytest.importorskip("zarr")
Run = Callable[..., Outcome]
SMALL = ("--model", "lorenz96(variables=8)", "--members", 4, "--days", 1, "--starts", 2, "--quiet")


def ran(dtheta: Run, *more: object, out: str = "run.zarr") -> Outcome:
    done = dtheta("ensemble", "run", *SMALL, *more, "--out", out, "--json")
    assert done.code == 0, done.err
    return done


def stored(path: str, start: int = 0) -> torch.Tensor:
    return torch.stack([x for _, x in Hindcast(path).archive(start).states()])


def test_run_verify_and_replay(dtheta: Run) -> None:
    found = ran(dtheta).json
    assert found["members"] == 4 and found["leads"] == [0, 1, 2, 3, 4] and found["starts"] == ["0", "1"]
    assert found["settings"]["seed"] == 0 and len(found["amplitude"]) == 1 and 0 < found["amplitude"][0] < 1
    scored = dtheta(
        "ensemble", "verify", "run.zarr", "--report", "page.html", "--out", "s.json", "--resamples", 50, "--json"
    )
    assert scored.code == 0, scored.err
    names = {score["metric"] for score in scored.json["scores"]}
    assert {"rmse", "crps", "spread_error", "acc", "spectrum_members", "reliability_above_p95"} <= names
    assert json.loads(Path("s.json").read_text())["scores"] == scored.json["scores"]
    page = Path("page.html").read_text()
    for title in ("Plumes", "Spectra", "Rank histograms", "95th percentile", "All scores"):
        assert title in page
    for member, start in ((0, 0), (3, 1)):
        again = dtheta("ensemble", "replay", "run.zarr", "--member", member, "--start", start, "--json")
        assert again.code == 0 and again.json["equal"] and len(again.json["leads"]) == 5
    assert not Path("run.zarr.part").exists()


def test_scores_are_those_of_the_stored_members_and_truth(dtheta: Run) -> None:
    ran(dtheta)
    scored = dtheta("ensemble", "verify", "run.zarr", "--resamples", 50, "--json").json["scores"]
    errors, spreads = [], []
    for start in range(2):
        members, truth = stored("run.zarr", start)[-1].double(), Hindcast("run.zarr").truth(start)
        assert truth is not None
        errors.append((members.mean(0) - truth[-1].double()).square().mean())
        spreads.append(members.var(0).mean() * 5 / 4)
    at = {score["metric"]: score["value"] for score in scored if score["lead"] == 24 and not score.get("axis")}
    assert at["rmse"] == pytest.approx(float(torch.stack(errors).mean().sqrt()), rel=1e-5)
    assert at["spread"] == pytest.approx(float(torch.stack(spreads).mean().sqrt()), rel=1e-5)


def test_members_are_perturbed_around_the_analysis_with_the_amplitude(dtheta: Run) -> None:
    ran(dtheta, "--perturbation", "bred(amplitude=0.2, cycles=2)", "--pairs", "--control", "--members", 6)
    members, (analysis, past) = stored("run.zarr")[0], Hindcast("run.zarr").analyses(0)
    assert torch.equal(members[0], analysis) and len(past) == 2
    torch.testing.assert_close(members[2] - analysis, analysis - members[3])
    sizes = (members[2:] - analysis).square().mean(1).sqrt()
    torch.testing.assert_close(sizes, torch.full((4,), 0.2), rtol=1e-4, atol=0)


def test_the_truth_is_a_trajectory_of_the_flow_and_the_seed_says_which(dtheta: Run) -> None:
    from dtheta.data.flows.lorenz96 import Lorenz96

    ran(dtheta, "--truth", "lorenz96(variables=8, forcing=8.5)")
    truth = Hindcast("run.zarr").truth(1)
    assert truth is not None
    flow = Lorenz96(variables=8, forcing=8.5)
    torch.testing.assert_close(truth[1:], flow.step(truth[:-1]), rtol=1e-5, atol=1e-5)
    ran(dtheta, "--seed", 1, out="other.zarr")
    other = Hindcast("other.zarr").truth(1)
    assert other is not None and not torch.equal(other, truth)


def test_yaml_is_the_same_as_flags_and_flags_win(dtheta: Run) -> None:
    Path("run.yaml").write_text(
        "model: {name: lorenz96, variables: 8}\nmembers: 4\ndays: 1\nstarts: 2\nquiet: true\n"
        "perturbation:\n  name: bred\n  cycles: 2\n"
    )
    done = dtheta("ensemble", "run", "--config", "run.yaml", "--out", "a.zarr")
    assert done.code == 0, done.err
    ran(dtheta, "--perturbation", "bred(cycles=2)", out="b.zarr")
    assert torch.equal(stored("a.zarr"), stored("b.zarr"))
    assert dtheta("ensemble", "run", "--config", "run.yaml", "--members", 3, "--out", "c.zarr").code == 0
    assert torch.equal(stored("c.zarr"), stored("a.zarr")[:, :3])


def test_an_interrupted_run_goes_on_with_the_same_bits(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(dtheta, out="whole.zarr")
    real, written = archiving.Archive.write, []

    def interrupted(self: Any, first: int, lead: int, x: torch.Tensor) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(lead)
        real(self, first, lead, x)

    monkeypatch.setattr(archiving.Archive, "write", interrupted)
    given = ("ensemble", "run", *SMALL, "--out", "run.zarr")
    broken = dtheta(*given)
    assert broken.code == 130 and "--resume" in broken.err and not Path("run.zarr").exists()
    monkeypatch.setattr(archiving.Archive, "write", real)
    lacking = dtheta("ensemble", "verify", "run.zarr.part")
    assert lacking.code == 1 and "members 0 to 3" in lacking.err
    refused = dtheta(*given)
    assert refused.code == 1 and "--resume" in refused.err
    other = dtheta(*given, "--resume", "--seed", 5)
    assert other.code == 2 and "seed there is 0, here 5" in other.err
    assert dtheta(*given, "--resume").code == 0
    for start in range(2):
        assert torch.equal(stored("run.zarr", start), stored("whole.zarr", start))
    assert not Path("run.zarr.part").exists()


def test_a_full_disk_keeps_what_was_written(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = archiving.Archive.write, []

    def full(self: Any, first: int, lead: int, x: torch.Tensor) -> None:
        if len(written) == 3:
            with self._writing(lead):
                raise OSError(28, "No space left on device")
        written.append(lead)
        real(self, first, lead, x)

    monkeypatch.setattr(archiving.Archive, "write", full)
    done = dtheta("ensemble", "run", *SMALL, "--out", "run.zarr")
    assert done.code == 1 and "No space left" in done.err
    monkeypatch.setattr(archiving.Archive, "write", real)
    assert dtheta("ensemble", "run", *SMALL, "--out", "run.zarr", "--resume").code == 0


def test_replay_tells_other_bits_and_another_network(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(dtheta)
    real = Ensemble.replay
    with monkeypatch.context() as patched:
        patched.setattr(Ensemble, "replay", lambda *a, **given: ((t, x + 1e-3) for t, x in real(*a, **given)))
        done = dtheta("ensemble", "replay", "run.zarr", "--member", 1, "--json")
    assert done.code == 1 and not done.json["equal"]
    assert (
        done.json["leads"][0]["difference"] == pytest.approx(1e-3, rel=0.01) and done.json["leads"][0]["unequal"] == 8
    )
    Path("net.py").write_text("def step(x):\n    return x\n")
    other = dtheta("ensemble", "replay", "run.zarr", "--member", 1, "--step", "net.py:step")
    assert other.code == 3 and "not that of" in other.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "channels"),
    [
        ("quasi-geostrophic(truncation=5)", ["z1", "z2"]),
        ("shallow-water(truncation=5, time_step=30)", ["height", "vorticity", "divergence"]),
    ],
)
def test_flows_on_the_sphere_have_maps_spectra_and_regions(
    dtheta: Run, model: str, channels: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ensemble_simulated, "_CLIMATE", (3, 8))
    monkeypatch.setattr(ensemble_simulated, "CYCLES", 2)
    given = ("--members", 2, "--days", 0.5, "--starts", 1, "--perturbation", "bred(cycles=1)", "--quiet")
    done = dtheta("ensemble", "run", "--model", model, *given, "--json")
    assert done.code == 0, done.err
    found = Hindcast("run.zarr")
    assert found.names == channels and len(done.json["amplitude"]) == len(channels)
    made = found.archive(0).record["ensemble"]["perturbation"]
    assert made["noise"]["name"] == "SphericalNoise" and made["rescaling"][0]["name"] == "HemisphericRescaling"
    assert made["noise"]["amplitude"][1:] == [0.0] * (len(channels) - 1)
    scored = dtheta(
        "ensemble", "verify", "run.zarr", "--region", "north=20:90", "--report", "p.html", "--resamples", 10, "--json"
    )
    assert scored.code == 0, scored.err
    spectra = [s for s in scored.json["scores"] if s["metric"] == "spectrum_members"]
    assert {len(s["value"]) for s in spectra} == {6} and {s["channel"] for s in spectra} == set(channels)
    assert "Maps of one start" in Path("p.html").read_text()
    assert dtheta("ensemble", "replay", "run.zarr", "--member", 1).code == 0


@pytest.mark.slow
def test_two_processes_write_what_one_writes(dtheta: Run) -> None:
    ran(dtheta, out="one.zarr")
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "dtheta.cli.main")
    command = [sys.executable, "-m", *launch, "ensemble", "run", *SMALL, "--out", "two.zarr"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for start in range(2):
        assert torch.equal(stored("one.zarr", start), stored("two.zarr", start))


@pytest.mark.slow
def test_the_networks_that_come_with_dtheta(dtheta: Run) -> None:
    sets = len(EMULATORS)
    given = ("--model", "qg-sfno", "--members", sets + 1, "--days", 2, "--starts", 2, "--every", 4, "--quiet")
    assert dtheta("ensemble", "run", *given, "--out", "run.zarr").code == 0
    found = dtheta("ensemble", "verify", "run.zarr", "--resamples", 20, "--json").json
    at = {s["metric"]: s["value"] for s in found["scores"] if s["lead"] == 48 and s["channel"] == "z1"}
    assert at["acc"] > 0.95 and 0.5 < at["spread_error"] < 1.5
    assert dtheta("ensemble", "replay", "run.zarr", "--member", sets).code == 0


def test_dry_runs_write_nothing(dtheta: Run) -> None:
    plan = dtheta("ensemble", "run", *SMALL, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert plan.json["writes"]["run.zarr"] == 4 * 8 * (2 * (4 * 5 + 4 + 5) + 22) and plan.json["seconds"] is not None
    refused = dtheta("ensemble", "run", *SMALL, "--starts", 0, "--dry-run")
    assert refused.code == 2 and "--starts is 0" in refused.err
    long = dtheta("ensemble", "run", *SMALL, "--days", 1e9, "--dry-run", "--json")
    assert long.code == 0, long.err
    assert long.json["writes"]["run.zarr"] == 4 * 8 * (2 * (4 * (n := 4_000_000_001) + 4 + n) + 22)
    assert long.json["memory"] > 4 * 8 * 2 * n  # the truth alone
    assert list(Path().iterdir()) == []
    ran(dtheta)
    before = sorted(Path().rglob("*"))
    for action, more in (("verify", ("--report", "p.html")), ("replay", ("--member", 0))):
        plan = dtheta("ensemble", action, "run.zarr", *more, "--dry-run", "--json")
        assert plan.code == 0 and plan.json["dry_run"], plan.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ((), 2, "give --model, such as qg-sfno or lorenz96, or --step"),
        (("--model", "lorenz96", "--step", "a.py:f"), 2, "one of the two"),
        (("--model", "lorenz69"), 2, "did you mean 'lorenz96'"),
        (("--model", "qg-sfno-99"), 2, "--model: there is no 'qg-sfno-99'"),
        (("--model", "lorenz96(forcings=8)"), 2, "has no field 'forcings'"),
        (("--model", "lorenz96", "--days", 0.1), 2, "expected whole steps"),
        (("--model", "lorenz96", "--days", 1e9), 1, "bytes and the disk has"),
        (("--model", "lorenz96", "--days", 1e300), 2, "too many to be counted"),
        (("--model", "lorenz96", "--days", 1e300, "--dry-run"), 2, "--days 1e+300 are 4e+300 steps of 6 hours"),
        (
            ("--model", "lorenz96", "--perturbation", "bred(amplitude=1e30)", "--out", "else.zarr"),
            1,
            "member 0, Member(parameters=0, draw=0, sign=1), is no longer finite",
        ),
        (("--model", "lorenz96", "--every", 3), 2, "divides the 40 steps"),
        (("--model", "lorenz96", "--hours", 5), 2, "a step of the truth is 6 hours, and --hours says 5"),
        (("--model", "lorenz96", "--starts", 0), 2, "--starts is 0"),
        (("--model", "lorenz96", "--start", "2020-01-01"), 2, "--start goes with --analyses FILE"),
        (("--model", "lorenz96", "--analysis-error", 0), 2, "--analysis-error is 0"),
        (("--model", "lorenz96", "--perturbation", "bread"), 2, "did you mean 'bred'"),
        (("--model", "lorenz96", "--perturbation", "bred(cycles=0)"), 2, "cycles is 0; expected 1 or more"),
        (("--model", "lorenz96", "--perturbation", "none"), 2, "different member; give --perturbation bred"),
        (("--model", "lorenz96", "--perturbation", "lagged(lags=2)", "--members", 5), 2, "3 here"),
        (("--model", "lorenz96", "--pairs", "--members", 5), 2, "give an even number"),
        (("--model", "lorenz96", "--perturbation", "spherical"), 2, "take white noise here"),
        (("--model", "lorenz96", "--nonnegative", "q"), 2, "--nonnegative: there is no channel 'q'"),
        (("--model", "lorenz96", "--hold", 0), 2, "--hold is 0"),
        (("--model", "lorenz96", "--stack", 2), 2, "give --stack 1"),
        (("--model", "lorenz96", "--perturbation", "bred(share=-1)"), 2, "0 or more"),
        (("--model", "lorenz96", "--perturbation", "white(amplitude=[1, -1])"), 2, "0 or more"),
        (
            ("--model", "lorenz96", "--perturbation", "none", "--members", 1, "--nonnegative", "q"),
            2,
            "--nonnegative bounds",
        ),
        (("--model", "lorenz96", "--out", "no/run.zarr"), 1, "create it first"),
        (("--step", "net.py:step"), 2, "net.py"),
        (("--step", "net"), 2, "not of the form PACKAGE.MODULE:NAME or FILE.py:NAME"),
        (("--step", "no_such_module:step"), 2, "cannot import no_such_module"),
        (("--step", "json:loads2"), 2, "did you mean 'loads'"),
        (("--step", "json:JSONDecoder"), 2, "is a class"),
        (("--step", "json:loads"), 2, "give --analyses FILE, or --truth FLOW"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_leaves_nothing(dtheta: Run, given: tuple, code: int, said: str) -> None:
    done = dtheta("ensemble", "run", *given, "--quiet")
    assert done.code == code, done.err
    assert said in done.err and done.out == ""
    assert list(Path().glob("run*")) == []


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("verify", "none.zarr"), 2, "none.zarr"),
        (("verify", "run.zarr", "--start", 2), 2, "this run has 2, from 0 to 1"),
        (("verify", "run.zarr", "--start", 1), 2, "--start says what the page shows"),
        (("verify", "run.zarr", "--point", "1"), 2, "--point says what the page shows"),
        (("verify", "run.zarr", "--percentile", 93), 2, "a multiple of 5"),
        (("verify", "run.zarr", "--block", 3), 2, "there are 2 starts"),
        (("verify", "run.zarr", "--region", "north=20:90"), 2, "states of this run have none"),
        (("verify", "run.zarr", "--report", "p.html", "--point", "9"), 2, "counted from 0"),
        (("verify", "run.zarr", "--report", "no/p.html"), 1, "create it first"),
        (("verify", "run.zarr", "--out", "run.zarr/truth/s.json"), 1, "(--out): it would lie in run.zarr (RUN)"),
        (("verify", "run.zarr", "--report", "run.zarr/truth/state/zarr.json"), 1, "it would lie in run.zarr (RUN)"),
        (("verify", "run.zarr", "--out", "run.zarr/zarr.json", "--dry-run"), 1, "it lies in run.zarr (RUN)"),
        (("replay", "run.zarr"), 2, "--member is missing"),
        (("replay", "run.zarr", "--member", 4), 2, "this run has 4, from 0 to 3"),
        (("replay", "run.zarr", "--member", 0, "--start", 2), 2, "this run has 2"),
        (("replay", "folder", "--member", 0), 1, "is no run of 'dtheta ensemble run'"),
        (("varify",), 2, "did you mean 'verify'"),
    ],
)
def test_what_verify_and_replay_refuse(dtheta: Run, given: tuple, code: int, said: str, once: Path) -> None:
    Path("run.zarr").symlink_to(once)
    Path("folder").mkdir()
    done = dtheta("ensemble", *given)
    assert done.code == code, done.err
    assert said in done.err


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run; read only."""
    from dtheta.cli.main import main

    out = tmp_path_factory.mktemp("once") / "run.zarr"
    assert main([str(a) for a in ("ensemble", "run", *SMALL, "--out", out)]) == 0
    return out


@pytest.mark.parametrize(
    "perturbation", ["white(amplitude=0.1)", "white(share=0.1)", "random", "lagged(lags=3)", "bred(rescaling=global)"]
)
def test_other_perturbations_run_and_are_replayed(dtheta: Run, perturbation: str) -> None:
    ran(dtheta, "--perturbation", perturbation)
    members = stored("run.zarr")[0]
    assert len({tuple(one.tolist()) for one in members}) == 4
    assert dtheta("ensemble", "replay", "run.zarr", "--member", 2).code == 0


def test_a_run_is_not_overwritten(dtheta: Run) -> None:
    ran(dtheta)
    again = dtheta("ensemble", "run", *SMALL)
    assert again.code == 1 and "it is there already" in again.err


def test_damage_on_the_disk_is_noticed(dtheta: Run) -> None:
    ran(dtheta)
    archive = Hindcast("run.zarr").archive(0)
    chunk = next(p for p in (archive.path / "state" / "c").rglob("*") if p.is_file() and p.parent.parent.name == "0")
    chunk.write_bytes(np.zeros(len(chunk.read_bytes()), np.uint8).tobytes())
    done = dtheta("ensemble", "replay", "run.zarr", "--member", 1)
    assert done.code == 1 and ("not what was written" in done.err or "differ" in done.out)


def test_without_the_extra_it_says_what_to_install(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    done = dtheta("ensemble", "run", *SMALL)
    assert done.code == 1 and "pip install 'dtheta[weather]'" in done.err and list(Path().iterdir()) == []


def test_the_verb_alone_shows_what_it_does(dtheta: Run) -> None:
    alone = dtheta("ensemble")
    assert alone.code == 2 and "usage: dtheta ensemble run|verify|replay" in alone.err
    assert dtheta("help", "ensemble").out == dtheta("ensemble", "--help").out == alone.err


def test_members_are_dealt_over_networks_in_turn() -> None:
    assert [(m.parameters, m.draw) for m in members_of(5, 2, part_of("white"), False, False)] == [
        (0, 0), (1, 0), (0, 1), (1, 1), (0, 2),
    ]  # fmt: skip
    paired = members_of(4, 2, part_of("bred"), True, True)
    assert [(m.parameters, m.draw, m.sign) for m in paired] == [(0, 0, 0), (0, 0, -1), (1, 0, 1), (1, 0, -1)]
    assert len(members_of(None, 3, part_of("lagged(lags=4)"), False, False)) == 15
    with pytest.raises(ConfigError, match="--members 2"):
        members_of(4, 2, None, False, False)


def test_networks_are_called_with_no_more_rows_than_they_have_members(dtheta: Run) -> None:
    ran(dtheta)
    assert Hindcast("run.zarr").archive(0).record["ensemble"]["rows"] == 4
    ran(dtheta, "--members", 40, out="b.zarr")
    assert Hindcast("b.zarr").archive(0).record["ensemble"]["rows"] == 16
    ran(dtheta, "--rows", 3, out="c.zarr")
    assert Hindcast("c.zarr").archive(0).record["ensemble"]["rows"] == 3


def test_verify_scores_the_extreme_forecast_index_and_more_events_where_asked(dtheta: Run, once: Path) -> None:
    given = ("--efi", "--percentile", 80, "--percentile", 5, "--resamples", 20)
    found = dtheta("ensemble", "verify", once, *given, "--json")
    assert found.code == 0, found.err
    names = {score["metric"] for score in found.json["scores"]}
    assert {"auc_efi_above_p80", "auc_above_p5", "brier_above_p80"} <= names and "brier_above_p95" not in names


def test_pairs_have_the_scores_that_allow_for_them(dtheta: Run) -> None:
    ran(dtheta, "--pairs")
    found = dtheta("ensemble", "verify", "run.zarr", "--resamples", 20, "--json").json
    assert {"crps_pairs", "spread_error_pairs"} <= {score["metric"] for score in found["scores"]}


def test_one_member_has_the_scores_that_need_no_more(dtheta: Run) -> None:
    ran(dtheta, "--members", 1)
    given = ("ensemble", "verify", "run.zarr", "--report", "page.html", "--resamples", 50, "--json")
    scored = dtheta(*given)
    assert scored.code == 0, scored.err
    names = {score["metric"] for score in scored.json["scores"]}
    assert {"rmse", "acc", "crps_biased"} <= names and not {"spread", "crps", "spread_error"} & names
    assert "All scores" in Path("page.html").read_text()


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = archiving.Archive.write, []

    def interrupted(self: Any, first: int, lead: int, x: torch.Tensor) -> None:
        if not seen:
            seen.append(torch.get_num_threads())
            raise KeyboardInterrupt
        seen.append(torch.get_num_threads())
        real(self, first, lead, x)

    monkeypatch.setattr(archiving.Archive, "write", interrupted)
    given, before = ("ensemble", "run", *SMALL, "--out", "run.zarr"), torch.get_num_threads()
    assert dtheta(*given).code == 130
    torch.set_num_threads(before + 1)
    try:
        assert dtheta(*given, "--resume").code == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {before}


def test_a_process_says_that_another_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("torch.distributed.barrier", lost)
    with pytest.raises(MembersMissing, match="another process of this run has ended"):
        ensemble_run._together(2)


def test_one_process_at_a_time_writes_to_an_output(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    forecasts, said = ensemble_run._forecasts, []

    def twice(*arguments: Any) -> None:
        for more in ((), ("--resume",)):
            said.append(dtheta("ensemble", "run", *SMALL, *more, "--out", "run.zarr"))
        forecasts(*arguments)

    monkeypatch.setattr(ensemble_run, "_forecasts", twice)
    ran(dtheta)
    assert [one.code for one in said] == [1, 1]
    assert all("another process is writing to run.zarr.part" in one.err for one in said)
    assert not Path("run.zarr.part").exists()


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_folder_that_is_there_is_no_output(dtheta: Run, out: str) -> None:
    done = dtheta("ensemble", "run", *SMALL, "--out", out)
    assert done.code == 1 and "it is there already" in done.err


@pytest.mark.parametrize(
    ("point", "said"),
    [("--1", "give 1 indices"), ("\u00b2", "give 1 indices"), ("1,2", "give 1 indices"), ("8", "counted from 0")],
)
def test_a_place_that_there_is_not_is_said_before_anything_is_written(
    dtheta: Run, once: Path, point: str, said: str
) -> None:
    done = dtheta("ensemble", "verify", once, f"--point={point}", "--report", "p.html", "--out", "s.json")
    assert done.code == 2 and said in done.err
    assert not Path("s.json").exists()
    alone = dtheta("ensemble", "verify", once, "--point", 1)
    assert alone.code == 2 and "give --report FILE" in alone.err


@pytest.mark.parametrize("shape", [(8,), (1,), (2,), (5, 6), (1, 1, 3)])
def test_plumes_have_places_whatever_the_cells(shape: tuple[int, ...]) -> None:
    options: Any = SimpleNamespace(point=())
    for whole, fields in ((shape, None), ((2, *shape), ())):
        found: Any = SimpleNamespace(shape=whole, fields=fields, grid=None)
        places = places_of(options, found)
        assert 1 <= len(places) == len({cell for _, cell in places}) <= 3
        assert all(0 <= i < n for _, cell in places for i, n in zip(cell, shape, strict=True))
