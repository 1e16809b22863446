"""``NAME(field=value, ...)``: what it makes, from text and from YAML, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from dtheta.adapt.bitfit import BitFit
from dtheta.adapt.lora import LoRA
from dtheta.cli.written import built, call, flat, named, parsed, text_of, written_method
from dtheta.errors import ConfigError
from dtheta.federate.channels import InterceptResend, Pulses, Quantum
from dtheta.federate.codecs import Ternary, TopK
from dtheta.federate.codecs.registry import CODECS
from dtheta.federate.server.aggregate import Aggregate, Mean, NormClip
from dtheta.federate.server.coordinatewise import TrimmedMean
from dtheta.probe.erasure.persona import Persona

AGGREGATES: dict[str, type[Aggregate]] = named([Mean, TrimmedMean, NormClip])  # type: ignore[type-abstract]


def made(text: str, known: Any = CODECS) -> Any:
    return built(text, known, "--codec", "ternary(density=0.02)")


def test_names_and_fields_make_the_class() -> None:
    assert made("ternary") == Ternary()
    assert made(" Ternary ( density = 2e-2 , per=tensor ) ") == Ternary(density=0.02, per="tensor")
    assert made("top-k(density=0.1)") == made("TopK(density=0.1)") == made("top_k(density=0.1)") == TopK(0.1)


def test_a_table_of_a_name_alone_is_the_name() -> None:
    assert text_of({"name": "iris"}, "data") == "iris" and flat({"name": "FedAvg"}, False, "server") == "FedAvg"
    assert [flat(value, False, "secure", part=True) for value in (True, False, None)] == ["yes", None, None]
    assert flat(True, False, "json") is True


def test_parts_in_parts() -> None:
    found = made("NormClip(limit=2, inner=trimmed-mean(share=0.1))", AGGREGATES)
    assert found == NormClip(2.0, TrimmedMean(0.1))
    channel = {"quantum": Quantum}
    text = "quantum(kilometers=5, eavesdropper=intercept-resend(share=0.2))"
    assert made(text, channel) == Quantum(5.0, eavesdropper=InterceptResend(0.2))
    assert made("quantum(kilometers=5, eavesdropper=none)", channel) == Quantum(5.0)
    pulses = made("quantum(kilometers=5, pulses=Pulses(shares=[0.5, 0.3, 0.2], decoys=no))", channel).pulses
    assert pulses == Pulses(shares=(0.5, 0.3, 0.2), decoys=False)


def test_a_text_may_stand_in_quotes_as_in_python() -> None:
    """Before, the quotes were part of the text, and a comma in it made two."""
    assert made("Ternary(per='tensor')") == made('Ternary(per="tensor")') == Ternary(per="tensor")
    asked = {"persona": Persona}
    assert made("Persona(texts=['It is said, (often) of {concept}:', \"it's so\", plain's])", asked) == Persona(
        ("It is said, (often) of {concept}:", "it's so", "plain's")
    )
    with pytest.raises(ConfigError, match="is not of the form"):
        made("Persona(texts=['one, two])", asked)


def test_keyword_arguments_of_a_function_are_fields_but_for_the_seed() -> None:
    def deal(labels: list[int], clients: int, *, each: int = 2, seed: int = 0) -> tuple[Any, ...]:
        return labels, clients, each, seed

    found = call(parsed("deal(each=3)", "--partition", "deal"), {"deal": deal}, "--partition")
    assert found([1], 4, seed=7) == ([1], 4, 3, 7)
    with pytest.raises(ConfigError, match="has no field 'clients' \\(it has each\\)"):
        call(parsed("deal(clients=3)", "--partition", "deal"), {"deal": deal}, "--partition")
    with pytest.raises(ConfigError, match="has no field 'seed'"):
        call(parsed("deal(seed=3)", "--partition", "deal"), {"deal": deal}, "--partition")


@dataclass(frozen=True)
class Only:
    clip: float
    rest: int = field(default=2)


@pytest.mark.parametrize("text", ["clip=1.5", "only(clip=1.5)", "Only( clip = 1.5 )"])
def test_an_option_of_one_kind_needs_no_name(text: str) -> None:
    assert built(text, {"only": Only}, "--only", "clip=1", "only") == Only(1.5)


def test_yes_takes_the_only_kind_as_it_is() -> None:
    assert built("yes", {"only": lambda: 5}, "--only", "yes", "only") == 5
    with pytest.raises(ConfigError, match="only needs clip"):
        built("yes", {"only": Only}, "--only", "clip=1", "only")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ternary(density=0.1", "is not of the form"),
        ("ternary density=0.1)", "is not of the form"),
        ("ternary(density)", "is not of the form"),
        ("ternary(=1)", "is not of the form"),
        ("ternary(density=)", "is not of the form"),
        ("ternary(density=1))", "is not of the form"),
        ("", "is not of the form"),
        ("ternary(density=0.1, density=0.2)", "gives density twice"),
        ("ternry", "did you mean 'ternary'"),
        ("ternary(densit=1)", "did you mean 'density'"),
        ("ternary(density=[1, 2])", "must be a number"),
        ("ternary(per=layer)", "must be one of delta, tensor"),
        ("sign(density=1)", "it has none"),
        ("ternary on @attention", "goes with methods alone"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(text)
    assert said in str(caught.value) and "--codec" in str(caught.value)


def test_tables_of_yaml_become_what_one_would_write() -> None:
    table = {"name": "quantum", "kilometers": 5, "eavesdropper": {"name": "intercept-resend", "share": 0.2}}
    assert text_of(table, "x") == "quantum(kilometers=5, eavesdropper=intercept-resend(share=0.2))"
    assert text_of({"clip": 1, "draws": None, "x": True}, "x") == "clip=1, draws=none, x=true"
    assert text_of({"name": "LoRA", "rank": 8, "select": "@mlp"}, "x") == "LoRA(rank=8) on @mlp"
    assert text_of({"name": "Pulses", "shares": [0.5, 0.5]}, "x") == "Pulses(shares=[0.5, 0.5])"
    with pytest.raises(ConfigError, match="holds a bracket"):
        text_of({"name": "a", "b": "c, d=1"}, "codec")


def test_only_a_table_without_a_name_is_a_list_of_fields() -> None:
    assert flat({"gamma": 1e-4}, True, "set") == ["gamma=0.0001"]
    assert flat({"name": "LoRA", "rank": 2}, True, "method") == "LoRA(rank=2)"
    assert flat([{"name": "LoRA", "rank": 2}, "BitFit"], True, "method") == ["LoRA(rank=2)", "BitFit"]
    assert flat(3, False, "x") == 3


def test_methods() -> None:
    assert written_method("LoRA(rank=4, alpha=2) on @attention#1|head") == (
        LoRA(rank=4, alpha=2.0),
        "@attention#1|head",
    )
    assert written_method("BitFit") == (BitFit(), None)
    with pytest.raises(ConfigError, match="dtheta methods"):
        written_method("LoRA(rank=4")
