"""Names that no file can have, given where files are read: one error of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtheta.cli.adapt import Options
from dtheta.cli.options import parse
from dtheta.cli.places import require_input
from dtheta.compose.mergekit import read_plan
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.files import load
from dtheta.errors import ConfigError
from dtheta.models.zoo import model_folder
from dtheta.probe.trace import load_traces

LONG = "a" * 300


@pytest.mark.parametrize("read", [load, open_checkpoint, load_traces, require_input, model_folder])
@pytest.mark.parametrize("name", [LONG, "~nobody-is-called-so", f"{LONG}/b"])
def test_a_name_that_cannot_be(read, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=name[:20]):
        read(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (LONG, "there is nothing at"), ("a\\0b", "there is nothing at"),
        ("~nobody-is-called-so", "models\\[0\\]: there is no home of the user"),
    ],
)  # fmt: skip
def test_a_plan_of_such_models(name: str, says: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f'merge_method: linear\nmodels: [{{model: "{name}"}}]\nparameters: {{weight: 1}}\n')
    with pytest.raises(ConfigError, match=says):
        read_plan(plan)


def test_an_option_that_names_the_home_of_nobody() -> None:
    with pytest.raises(ConfigError, match=r"a file called so is \./~nobody-is-called-so"):
        parse(Options, ["--model", "minilm", "--data", "x.csv", "--out", "~nobody-is-called-so"], "adapt", "")
