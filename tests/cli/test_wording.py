"""Messages speak of options that the verb has."""

from __future__ import annotations

import pytest

from dtheta.cli import adapt, apply, compress, ensemble_run, extract
from dtheta.cli.options import CommonOptions, fields_of
from dtheta.cli.wording import in_options
from dtheta.core.fingerprint import _mismatch


@pytest.mark.parametrize(
    ("verb", "message", "found"),
    [
        (adapt.Options, "n_train=9 must lie between 1 and 3", "--n-train 9 must lie between 1 and 3"),
        (adapt.Options, "head_lr must be a positive number, got 0", "--head-lr must be a positive number, got 0"),
        (adapt.Options, "full_lr must be a positive number, got 0", "--head-lr must be a positive number, got 0"),
        (adapt.Options, "is NaN. Lower lr (now 3), ...", "is NaN. Lower --lr (now 3), ..."),
        (adapt.Options, "leave it out with select='...|!x'", "leave it out with --select '...|!x'"),
        (adapt.Options, "give its encoding (encoding='latin-1'?)", "give its encoding (--encoding 'latin-1'?)"),
        (apply.Options, "give its encoding (encoding='latin-1'?)", "give its encoding (--encoding 'latin-1'?)"),
        (extract.Options, "; select=... compares a part, strict=False those that both have",
         "; --select ... compares a part, --partial those that both have"),
        (compress.Options, "by keep='NAME', or compress it too by new=True",
         "by --keep 'NAME', or compress it too by --new"),
        (ensemble_run.Options, "member 0, Member(parameters=0, draw=0, sign=1), is no longer finite: members=4",
         "member 0, Member(parameters=0, draw=0, sign=1), is no longer finite: --members 4"),
        (ensemble_run.Options, "f(g(rows=2), rows=3), rows=4 (rows=5)", "f(g(rows=2), rows=3), --rows 4 (--rows 5)"),
        (ensemble_run.Options, "is too strong; ensemble.only(...) runs the others", "is too strong"),
        (adapt.Options, "a.steps=3 and my_steps=3 and x/steps=3 stay", "a.steps=3 and my_steps=3 and x/steps=3 stay"),
    ],
)  # fmt: skip
def test_arguments_become_options(verb: type[CommonOptions], message: str, found: str) -> None:
    assert in_options(message, fields_of(verb)) == found


def test_no_verb_offers_another_base() -> None:
    message = in_options(_mismatch([], ["w"], 1, {}), fields_of(apply.Options))
    assert message.endswith("load the base it was made on ('dtheta show FILE' names it)")
