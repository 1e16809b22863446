"""``dtheta federate``: from flags and from YAML, over files of parties, interrupted, attacked, and what it refuses."""

from __future__ import annotations

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

import dtheta as dt
from dtheta.cli import federated, federated_run
from dtheta.data.tabular import load_tabular
from dtheta.federate.client import Client
from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]
SMALL = ("--data", "iris", "--clients", 3, "--rounds", 2, "--steps", 2, "--model", "linear", "--quiet")


def write_rows(path: Path, rows: list[tuple[float, float, str]], columns: str = "a,b,label") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows(rows)
    return path


def points(count: int, start: int = 0) -> list[tuple[float, float, str]]:
    """Rows whose class the sign of the first number tells."""
    found = []
    for i in range(start, start + count):
        sign = 1 if i % 2 else -1
        found.append((sign * (1 + i % 7 / 5), i / 10, "yes" if i % 2 else "no"))
    return found


def test_iris_with_a_quantum_model_baselines_and_a_page(dtheta: Run) -> None:
    given = ("--data", "iris", "--clients", 3, "--rounds", 2, "--steps", 4, "--model", "quantum(layers=2)")
    done = dtheta("federate", *given, "--baselines", "--report", "iris.html", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert [row["round"] for row in found["history"]] == [1, 2] and found["figures"]["answers"] == 6
    assert [one["examples"] for one in found["parties"]] == [40, 40, 40]
    assert found["accuracy"]["estimate"] == pytest.approx(found["figures"]["scores"]["accuracy"])
    baselines = found["baselines"]
    assert baselines["centralized"]["steps"] == 8 and baselines["centralized"]["examples"] == 120
    each = [one["scores"]["accuracy"] for one in baselines["alone"]]
    assert len(each) == 3 and baselines["alone_mean"] == pytest.approx(sum(each) / 3)
    page = Path("iris.html").read_text()
    assert "centralized" in page and "Who took part" in page and "quantum(layers=2)" in page
    assert not Path("federated.delta.run").exists()


def test_the_delta_on_the_same_model_gives_the_accuracy_that_was_told(dtheta: Run) -> None:
    found = dtheta("federate", *SMALL, "--model", "mlp(width=4)", "--json").json
    delta = dt.load("federated.delta")
    task = delta.provenance.task
    test = load_tabular("iris").test
    x = (test.x.double() - torch.tensor(task["scale"]["mean"])) / torch.tensor(task["scale"]["deviation"])
    from dtheta.models.perceptron import Perceptron

    net = Perceptron(4, 3, width=4)
    with dt.applied(net, delta), torch.no_grad():
        right = float((net(x.float()).logits.argmax(1) == test.labels).double().mean())
    assert right == pytest.approx(found["accuracy"]["estimate"]) and task["classes"] == found["classes"]
    assert delta.provenance.settings["command"]["verb"] == "federate"


def test_yaml_is_the_same_as_flags_and_flags_win(dtheta: Run) -> None:
    Path("run.yaml").write_text(
        "data: iris\nclients: 3\nrounds: 2\nsteps: 2\nmodel: {name: mlp, width: 4}\nquiet: true\n"
        "codec: {name: ternary, density: 0.5}\npartition:\n  name: dirichlet\n  alpha: 5\n"
        "server: {name: FedAvgM, momentum: 0.5}\naggregate: {name: NormClip, inner: {name: TrimmedMean, share: 0.4}}\n"
    )
    flags = (
        *SMALL, "--model", "mlp(width=4)", "--codec", "ternary(density=0.5)", "--partition", "dirichlet(alpha=5)",
        "--server", "fedavgm(momentum=0.5)", "--aggregate", "NormClip(inner=TrimmedMean(share=0.4))",
    )  # fmt: skip
    one = dtheta("federate", "--config", "run.yaml", "--json")
    assert one.code == 0, one.err
    two = dtheta("federate", *flags, "--json")
    assert one.json["digest"] == two.json["digest"]
    three = dtheta("federate", "--config", "run.yaml", "--codec", "sign", "--json").json
    assert three["settings"]["codec"] == "sign" and three["digest"] != one.json["digest"]


def test_an_interrupted_run_says_how_to_go_on_and_ends_with_the_same_bits(
    dtheta: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dtheta(
        "federate", *SMALL, "--rounds", 4, "--partition", "shards(each=2)", "--out", "a.delta", "--json"
    ).json
    real, calls = federated._accuracy, []

    def interrupted(model: object, **given: object) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, **given)

    monkeypatch.setattr(federated, "_accuracy", interrupted)
    given = (*SMALL, "--rounds", 4, "--partition", "shards(each=2)", "--out", "b.delta")
    broken = dtheta("federate", *given)
    assert broken.code == 130 and Path("b.delta.run/state.json").exists() and not Path("b.delta").exists()
    again = shlex.split(re.search(r"go on with:  dtheta (.*)", broken.err)[1])  # type: ignore[index]
    refused = dtheta("federate", *given)
    assert refused.code == 1 and "--resume" in refused.err
    done = dtheta(*again, "--json")
    assert done.code == 0, done.err
    assert done.json["digest"] == whole["digest"] and len(calls) == 5
    assert done.json["history"][0] == whole["history"][0] | {"seconds": done.json["history"][0]["seconds"]}
    assert not Path("b.delta.run").exists()


def test_a_kept_folder_goes_on_with_more_rounds_but_not_with_other_settings(dtheta: Run) -> None:
    assert dtheta("federate", *SMALL, "--folder", "kept").code == 0
    more = dtheta("federate", *SMALL, "--rounds", 3, "--folder", "kept", "--resume", "--json").json
    assert len(more["history"]) == 3 and Path("kept/state.json").exists()
    assert more["digest"] == dtheta("federate", *SMALL, "--rounds", 3, "--out", "x.delta", "--json").json["digest"]
    other = dtheta("federate", *SMALL, "--rounds", 4, "--folder", "kept", "--resume", "--codec", "sign")
    assert other.code == 2 and "codec" in other.err


def test_the_command_to_go_on_names_what_the_file_does_not(dtheta: Run) -> None:
    from dtheta.cli.federate import Options, again
    from dtheta.cli.options import parse

    Path("run.yaml").write_text("data: iris\nrounds: 5\ncodec: {name: ternary, density: 0.5}\nbaselines: true\n")
    options = parse(Options, ["--config", "run.yaml", "--rounds", "7", "--no-baselines"], "federate", "")
    assert options is not None
    command = again(options)
    assert command == "dtheta federate --config run.yaml --rounds 7 --no-baselines --resume"
    back = parse(Options, shlex.split(command)[2:], "federate", "")
    assert back is not None and back.rounds == 7 and back.codec == "ternary(density=0.5)" and not back.baselines
    party = parse(Options, ["--party", "a b.csv", "--party", "c.csv", "--lr", "1e-4"], "federate", "")
    assert party is not None and again(party) == "dtheta federate --party 'a b.csv' --party c.csv --lr 0.0001 --resume"


def test_a_file_a_party(dtheta: Run) -> None:
    write_rows(Path("a.csv"), points(40))
    write_rows(Path("b.csv"), [row for row in points(60, 40) if row[2] == "yes"])  # a party may lack a class
    write_rows(Path("t.csv"), points(20, 200))
    done = dtheta("federate", *SMALL[4:], "--party", "a.csv", "--party", "b.csv", "--test", "t.csv", "--json")
    assert done.code == 0, done.err
    assert [(one["name"], one["classes"]) for one in done.json["parties"]] == [("a", [20, 20]), ("b", [0, 30])]
    assert done.json["test"] == 20 and done.json["data"] == "a + b"
    held = dtheta("federate", *SMALL[4:], "--party", "a.csv", "--party", "b.csv", "--json").json
    assert held["test"] == 14 and sum(one["examples"] for one in held["parties"]) == 56


def test_texts_with_a_local_model(dtheta: Run, here: Path) -> None:
    given = (
        "--data", "reviews.csv", "--model", "bert", "--clients", 3, "--rounds", 6, "--steps", 4, "--max-length", 16,
        "--method", "LoRA(rank=2)", "--lr", 0.05, "--head-lr", 0.05, "--quiet",
    )  # fmt: skip
    done = dtheta("federate", *given, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["accuracy"]["estimate"] > 0.6 and found["figures"]["times_fewer_bits"] > 1
    told = dtheta("apply", "federated.delta", "--model", "bert", "--text", "a great day")
    assert told.code == 0, told.err
    other = dtheta("federate", *given, "--codec", "ternary(density=0.1)", "--out", "t.delta", "--json").json
    assert other["figures"]["bits_up"] < found["figures"]["bits_up"]


def test_parties_of_texts(dtheta: Run, here: Path) -> None:
    rows = sentences(60)
    write_table(Path("a.csv"), rows[:30])
    write_table(Path("b.csv"), rows[30:])
    given = ("--party", "a.csv", "--party", "b.csv", "--model", "bert", "--rounds", 1, "--steps", 1)
    done = dtheta("federate", *given, "--max-length", 16, "--method", "BitFit", "--json")
    assert done.code == 0, done.err
    assert sum(one["examples"] for one in done.json["parties"]) == 48


def test_liars_are_named_and_a_robust_aggregate_holds(dtheta: Run) -> None:
    given = (*SMALL, "--clients", 5, "--rounds", 6, "--steps", 5, "--attack", "sign-flip(clients=1, scale=30)")
    plain = dtheta("federate", *given, "--json").json
    robust = dtheta("federate", *given, "--aggregate", "Median", "--out", "r.delta", "--json").json
    assert sum(one["lies"] for one in plain["parties"]) == 1
    assert robust["accuracy"]["estimate"] > plain["accuracy"]["estimate"] + 0.2


def test_channel_dropout_and_privacy_are_told(dtheta: Run) -> None:
    channel = "quantum(kilometers=1, error=0.01, eavesdropper=intercept-resend(share=0.1))"
    done = dtheta("federate", *SMALL, "--clients", 5, "--channel", channel, "--dropout", 0.2, "--report", "q.html")
    assert done.code == 0, done.err
    assert "QBER" in done.out and "excluded" in done.out and "qubits" in done.out
    assert re.search(r"the first    party \d (dropped|aborted): ", done.out)  # in its own words
    assert "Errors of qubits" in Path("q.html").read_text()
    pytest.importorskip("dp_accounting")
    private = dtheta("federate", *SMALL, "--privacy", "clip=1, noise=2", "--sample", 0.5, "--json", "--out", "p.delta")
    assert private.code == 0 and private.json["figures"]["epsilon"] > 0
    least = dtheta(
        "federate", *SMALL, "--privacy", "clip=1, epsilon=3", "--sample", 0.5, "--json", "--out", "e.delta"
    ).json
    assert 2.9 < least["figures"]["epsilon"] <= 3


def test_an_interruption_before_the_first_round_leaves_nothing(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(federated, "_accuracy", interrupted)
    assert dtheta("federate", *SMALL).code == 130
    assert not list(Path().iterdir())
    Path("kept").mkdir()
    assert dtheta("federate", *SMALL, "--folder", "kept").code == 130 and Path("kept").is_dir()


def test_a_resume_of_nothing_says_that_it_begins(dtheta: Run) -> None:
    done = dtheta("federate", *SMALL[:-1], "--resume", "--json")
    assert done.code == 0 and "holds no run to go on with" in done.err
    assert len(done.json["history"]) == 2


def test_the_scale_that_is_saved_can_divide(dtheta: Run) -> None:
    with Path("a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("a", "same", "label"), *((a, 7, c) for a, _, c in points(40))])
    done = dtheta("federate", *SMALL[2:], "--data", "a.csv")
    assert done.code == 0, done.err
    scale = dt.load("federated.delta").provenance.task["scale"]
    assert scale["mean"][1] == 7 and scale["deviation"][1] == 1


def test_a_model_of_numbers_is_none_of_texts(dtheta: Run, here: Path) -> None:
    done = dtheta("federate", "--data", "reviews.csv", "--model", "mlp(width=4)")
    assert done.code == 2 and "mlp(width=4) is for numbers" in done.err
    told = dtheta("federate", "--party", "nowhere", "--party", "reviews.csv").err
    assert "nowhere: only .csv" in told and "there is no task" not in told


def test_a_delta_of_numbers_says_that_it_runs_in_python(dtheta: Run) -> None:
    assert dtheta("federate", *SMALL, "--rounds", 1).code == 0
    assert "over 3 parties and 1 round in" in dtheta("federate", *SMALL, "--rounds", 1, "--out", "b.delta").out
    for verb in ("show", "compress", "compare"):
        more = {"show": (), "compress": ("--out", "c.delta"), "compare": ("b.delta",)}[verb]
        assert dtheta(verb, "federated.delta", *more).code == 0
    for more in ((), ("--model", "minilm"), ("--dry-run",)):
        done = dtheta("apply", "federated.delta", "--text", "a", *more)
        assert done.code == 2 and "a classifier of numbers, which runs in Python alone" in done.err


def test_a_dry_run_makes_up_no_answers_of_a_huge_model(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.cli.federated_plan._LARGEST", 10)
    told = dtheta("federate", *SMALL, "--dry-run").out
    assert "15 entries travel" in told and "a round sends" not in told
    refused = dtheta("federate", *SMALL, "--dry-run", "--aggregate", "Krum(bad=1)")
    assert refused.code == 2 and "needs 5 clients" in refused.err


def test_yes_and_no_in_yaml(dtheta: Run) -> None:
    Path("run.yaml").write_text("data: {name: iris}\nasynchronous: yes\nsecure: no\nprivacy: false\n")
    done = dtheta("federate", *SMALL[2:], "--config", "run.yaml", "--json")
    assert done.code == 0, done.err
    assert done.json["settings"]["asynchronous"] == "yes" and done.json["settings"]["secure"] is None
    Path("run.yaml").write_text("data: iris\ncodec: true\n")
    assert "there is no 'yes'" in dtheta("federate", *SMALL[2:], "--config", "run.yaml").err


def test_a_federation_in_which_nothing_was_learned_has_failed(dtheta: Run) -> None:
    channel = "quantum(kilometers=1, eavesdropper=intercept-resend)"
    done = dtheta("federate", *SMALL, "--downlink", "sign", "--channel", channel)
    assert done.code == 1 and "nothing was learned" in done.err and "aborted: QBER" in done.err
    assert not Path("federated.delta").exists()
    told = dtheta("federate", *SMALL, "--channel", channel, "--out", "other.delta", "--dry-run").out
    assert "in the rehearsal" in told and "aborted" in told


def test_a_secure_sum(dtheta: Run) -> None:
    pytest.importorskip("cryptography")
    done = dtheta("federate", *SMALL, "--secure", "scale=0.05, density=1", "--json")
    assert done.code == 0, done.err
    assert done.json["figures"]["answers"] == 6 and done.json["figures"]["bits_up"] > 0


def test_a_dry_run_counts_what_would_travel_and_writes_nothing(dtheta: Run) -> None:
    told = dtheta("federate", *SMALL, "--codec", "ternary(density=0.2)", "--dry-run")
    assert told.code == 0 and "15 entries travel" in told.out and not list(Path().iterdir())
    planned = dtheta("federate", *SMALL, "--dry-run", "--json").json
    assert planned["seconds"] > 0 and planned["memory"] > 0
    said = next(note for note in planned["notes"] if note.startswith("a round sends"))
    real = dtheta("federate", *SMALL, "--json").json["history"][-1]
    assert f"{real['bits_up'] // 8} B up and {real['bits_down'] // 8} B down" in said


def test_a_dry_run_of_texts_looks_at_the_outline(dtheta: Run, here: Path) -> None:
    given = ("--data", "reviews.csv", "--model", "bert", "--max-length", 16, "--dry-run")
    told = dtheta("federate", *given, "--method", "LoRA(rank=2)")
    assert told.code == 0 and "entries travel" in told.out, told.err
    assert dtheta("federate", *given, "--method", "LoRA(rank=999)").code == 2


def test_the_file_of_the_documentation_can_be_run(dtheta: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "federate.md").read_text()
    Path("run.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
    told = dtheta("federate", "--config", "run.yaml", "--dry-run", "--json")
    assert told.code == 0, told.err
    assert told.json["settings"]["model"] == "quantum(layers=16)"


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--codec", "ternary(density=2)"), 2, "density"),
        (("--codec", "ternaryy"), 2, "did you mean 'ternary'"),
        (("--codec", "ternary(densty=0.1)"), 2, "has no field 'densty'"),
        (("--codec", "ternary(density=0.1"), 2, "is not of the form"),
        (("--codec", "ternary(density=much)"), 2, "must be a number"),
        (("--codec", "amplitude"), 2, "does not pass a classical channel"),
        (("--channel", "quantum"), 2, "quantum needs kilometers"),
        (("--channel", "quantum(kilometers=1, eavesdropper=eve(share=1))"), 2, "intercept-resend"),
        (("--partition", "dirichlet(alpha=-1)"), 2, "alpha"),
        (("--partition", "shards(k=2)"), 2, "has no field 'k'"),
        (("--aggregate", "Krum(bad=1)"), 2, "needs 5 clients"),
        (("--aggregate", "Krum"), 2, "Krum needs bad"),
        (("--privacy", "clip=1"), 2, "noise=... or epsilon=..."),
        (("--privacy", "clip=1, noise=1", "--aggregate", "Median"), 2, "plain mean"),
        (("--attack", "sign-flip(clients=3)"), 2, "honest"),
        (("--model", "mlpp"), 2, "--model: there is no 'mlpp'"),
        (("--model", "quantum(qubits=1)"), 2, "qubits"),
        (("--method", "Lora2"), 2, "unknown method"),
        (("--clients", 0), 2, "clients"),
        (("--sample", 2), 2, "sample"),
        (("--max-length", 9), 2, "--max-length is for texts"),
        (("--test", "t.csv"), 2, "--test"),
        (("--party", "a.csv"), 2, "one of the two"),
        (("--out", "nowhere/a.delta"), 1, "there is no folder"),
        (("--momentum", 0.5), 2, "momentum"),
        (("--min-clients", 2, "--asynchronous", "buffer=2"), 2, "leave min_clients out"),
        (("--asynchronous", "spread=1000"), 2, "spread must be from 0 to 10"),
        (("--asynchronous", "buffer=9"), 2, "so it never fills"),
        (("--aggregate", "TrimmedMean"), 2, "TrimmedMean(share=0.2) needs 5 clients; there are 3"),
        (("--privacy", "clip=1, noise=1, delta=0.9"), 2, "such as 1e-5"),
        (("--label", "species"), 2, "--label is for files of one's own"),
        (("--secure", "scale=0.1", "--codec", "sign"), 2, "--codec does nothing"),
        (("--model", "minilm"), 2, "--model minilm is for texts"),
        (("--out", "a.delta", "--folder", "a.delta"), 1, "choose another name"),
        (("--n-test", 500), 2, "distinct examples"),
    ],
)  # fmt: skip
def test_what_is_refused(dtheta: Run, dry: tuple, given: tuple, code: int, said: str) -> None:
    done = dtheta("federate", *SMALL, *given, *dry)
    assert done.code == code and said in done.err, done.err + done.out
    assert not Path("federated.delta").exists()


def test_files_that_do_not_fit_are_refused(dtheta: Run) -> None:
    write_rows(Path("a.csv"), points(20))
    write_rows(Path("b.csv"), points(20, 20), "a,c,label")
    given = (*SMALL[4:], "--party", "a.csv")
    assert "has the columns a, c" in dtheta("federate", *given, "--party", "b.csv").err
    assert "one --party is no federation" in dtheta("federate", *given).err
    write_rows(Path("c.csv"), points(20, 50))
    write_rows(Path("t.csv"), points(6, 52))
    done = dtheta("federate", *given, "--party", "c.csv", "--test", "t.csv")
    assert done.code == 1 and "t.csv, row 1 stands in c, row 3, too" in done.err
    assert "every --party is one client" in dtheta("federate", *given, "--party", "c.csv", "--clients", 2).err
    assert "no such file" in dtheta("federate", "--data", "irys").err
    assert dtheta("federate").code == 2


def test_what_lies_beside_the_output_is_not_removed(dtheta: Run) -> None:
    folder = Path("federated.delta.run")
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("keep me")
    for more in ((), ("--resume",), ("--dry-run",)):
        done = dtheta("federate", "--data", "iris", "--rounds", 1, "--clients", 2, "--model", "linear", *more)
        assert done.code == 1 and "is in the way: it holds something else than a federation" in done.err
    assert (folder / "mine.txt").read_text() == "keep me" and not Path("federated.delta").exists()


def test_a_file_of_the_users_among_those_of_a_federation_is_not_removed(dtheta: Run) -> None:
    folder = Path("federated.delta.run")
    folder.mkdir()
    for name in ("lock", "mine.txt"):
        (folder / name).write_text("keep me")
    done = dtheta("federate", *SMALL)
    assert done.code == 1 and "something else than a federation, mine.txt, and would be removed" in done.err
    assert (folder / "mine.txt").exists() and not Path("federated.delta").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="nothing keeps two runs apart there")
def test_of_two_runs_that_begin_together_one_is_refused_and_the_other_ends(
    dtheta: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find no folder; the second must not remove that of the first, which is in its first round."""
    folder = Path("federated.delta.run")
    hold = "import sys; from pathlib import Path; from dtheta.federate.lock import held\n"
    hold += "with held(Path(sys.argv[1])): print(1, flush=True); sys.stdin.read()"
    real, others = federated_run.run, []

    def begun_elsewhere(*given: object) -> None:
        others.append(subprocess.Popen([sys.executable, "-c", hold, folder], stdin=PIPE, stdout=PIPE))
        assert others[0].stdout.readline()
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(federated_run, "run", begun_elsewhere)
    try:
        done = dtheta("federate", *SMALL)
        assert done.code == 2 and "another process runs a federation in" in done.err
        assert (folder / "lock").exists()
    finally:
        others[0].communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_a_termination_ends_the_run_and_is_no_failure_of_a_client(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(Client, "train", terminated)
    assert dtheta("federate", *SMALL).code == 143
    assert not list(Path().iterdir())
