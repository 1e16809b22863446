"""dtheta: moves in the parameter space of a pretrained network.

One exact object, the ``Delta``: what changed, relative to which base, made by what. Everything else is a verb on it.

    import dtheta as dt

    model = dt.load_model("minilm")
    adapter = dt.attach(model, dt.PiSSA(rank=16))
    dt.fit(adapter, train, steps=200)
    adapter.delta().save("news.delta")

The names below are the public ones; everything else may change. They load on first use, so that importing dtheta
stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dtheta._version import __version__
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    DthetaError,
    DthetaWarning,
    FormatError,
    MissingExtra,
    NonFinite,
    NotConverged,
    OutputError,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
)

if TYPE_CHECKING:
    from dtheta.adapt.adapter import Adapter as Adapter
    from dtheta.adapt.attach import attach as attach
    from dtheta.adapt.bitfit import BitFit as BitFit
    from dtheta.adapt.clip_svd import CLIPSVD as CLIPSVD
    from dtheta.adapt.full import Full as Full
    from dtheta.adapt.lora import LoRA as LoRA
    from dtheta.adapt.method import Method as Method
    from dtheta.adapt.pissa import PiSSA as PiSSA
    from dtheta.adapt.prompts.dept import DePT as DePT
    from dtheta.adapt.prompts.p_tuning import PTuning as PTuning
    from dtheta.adapt.prompts.prefix_tuning import PrefixTuning as PrefixTuning
    from dtheta.adapt.prompts.tuning import PromptTuning as PromptTuning
    from dtheta.adapt.qpissa import NF4 as NF4
    from dtheta.adapt.qpissa import BestQ as BestQ
    from dtheta.adapt.qpissa import LoftQ as LoftQ
    from dtheta.adapt.qpissa import QPiSSA as QPiSSA
    from dtheta.adapt.quantized import dequantized as dequantized
    from dtheta.adapt.quantized import quantize as quantize
    from dtheta.adapt.sorsa import SORSA as SORSA
    from dtheta.adapt.variation import variation as variation
    from dtheta.compose.adaptation import adapt_coefficients as adapt_coefficients
    from dtheta.compose.atlas import learn_coefficients as learn_coefficients
    from dtheta.compose.bank import Bank as Bank
    from dtheta.compose.breadcrumbs import breadcrumbs as breadcrumbs
    from dtheta.compose.coefficients import Coefficients as Coefficients
    from dtheta.compose.compose import compose as compose
    from dtheta.compose.dare import dare as dare
    from dtheta.compose.merge_plan import merge_plan as merge_plan
    from dtheta.compose.mergekit import read_plan as read_plan
    from dtheta.compose.negation import learn_negation as learn_negation
    from dtheta.compose.preflight import preflight as preflight
    from dtheta.compose.search import search_coefficients as search_coefficients
    from dtheta.compose.slerp import slerp as slerp
    from dtheta.compose.soups import greedy_soup as greedy_soup
    from dtheta.compose.soups import uniform_soup as uniform_soup
    from dtheta.compose.streaming import merge_checkpoints as merge_checkpoints
    from dtheta.compose.ties import ties as ties
    from dtheta.compress.compeft import compress as compress
    from dtheta.compress.feedback import ErrorFeedback as ErrorFeedback
    from dtheta.compress.report import Compression as Compression
    from dtheta.compress.report import compression_report as compression_report
    from dtheta.compress.search import on_batches as on_batches
    from dtheta.compress.search import search_compression as search_compression
    from dtheta.core.apply import applied as applied
    from dtheta.core.apply import merge as merge
    from dtheta.core.change import Change as Change
    from dtheta.core.delta import Delta as Delta
    from dtheta.core.extract import extract as extract
    from dtheta.core.files import load as load
    from dtheta.core.fingerprint import Fingerprint as Fingerprint
    from dtheta.core.fingerprint import fingerprint as fingerprint
    from dtheta.core.interop import from_peft as from_peft
    from dtheta.core.interop import to_peft as to_peft
    from dtheta.core.recompress import recompress as recompress
    from dtheta.data.table import load_table as load_table
    from dtheta.data.tasks import load_task as load_task
    from dtheta.fit.loop import fit as fit
    from dtheta.fit.record import Record as Record
    from dtheta.fit.sharded import gathered as gathered
    from dtheta.fit.trainer_callback import trainer_callback as trainer_callback
    from dtheta.models.classifier import classifier as classifier
    from dtheta.models.load import load_model as load_model
    from dtheta.models.load import load_tokenizer as load_tokenizer

# Public names that need torch or more, and the module that each comes from.
_LAZY = {
    "Adapter": "dtheta.adapt.adapter",
    "Bank": "dtheta.compose.bank",
    "BestQ": "dtheta.adapt.qpissa",
    "BitFit": "dtheta.adapt.bitfit",
    "CLIPSVD": "dtheta.adapt.clip_svd",
    "Change": "dtheta.core.change",
    "Coefficients": "dtheta.compose.coefficients",
    "Compression": "dtheta.compress.report",
    "DePT": "dtheta.adapt.prompts.dept",
    "Delta": "dtheta.core.delta",
    "ErrorFeedback": "dtheta.compress.feedback",
    "Fingerprint": "dtheta.core.fingerprint",
    "Full": "dtheta.adapt.full",
    "LoRA": "dtheta.adapt.lora",
    "LoftQ": "dtheta.adapt.qpissa",
    "Method": "dtheta.adapt.method",
    "NF4": "dtheta.adapt.qpissa",
    "PTuning": "dtheta.adapt.prompts.p_tuning",
    "PiSSA": "dtheta.adapt.pissa",
    "PrefixTuning": "dtheta.adapt.prompts.prefix_tuning",
    "PromptTuning": "dtheta.adapt.prompts.tuning",
    "QPiSSA": "dtheta.adapt.qpissa",
    "Record": "dtheta.fit.record",
    "SORSA": "dtheta.adapt.sorsa",
    "adapt_coefficients": "dtheta.compose.adaptation",
    "applied": "dtheta.core.apply",
    "attach": "dtheta.adapt.attach",
    "breadcrumbs": "dtheta.compose.breadcrumbs",
    "classifier": "dtheta.models.classifier",
    "compose": "dtheta.compose.compose",
    "compress": "dtheta.compress.compeft",
    "compression_report": "dtheta.compress.report",
    "dare": "dtheta.compose.dare",
    "dequantized": "dtheta.adapt.quantized",
    "extract": "dtheta.core.extract",
    "fingerprint": "dtheta.core.fingerprint",
    "fit": "dtheta.fit.loop",
    "from_peft": "dtheta.core.interop",
    "gathered": "dtheta.fit.sharded",
    "greedy_soup": "dtheta.compose.soups",
    "learn_coefficients": "dtheta.compose.atlas",
    "learn_negation": "dtheta.compose.negation",
    "load": "dtheta.core.files",
    "load_model": "dtheta.models.load",
    "load_table": "dtheta.data.table",
    "load_task": "dtheta.data.tasks",
    "load_tokenizer": "dtheta.models.load",
    "merge": "dtheta.core.apply",
    "merge_checkpoints": "dtheta.compose.streaming",
    "merge_plan": "dtheta.compose.merge_plan",
    "on_batches": "dtheta.compress.search",
    "preflight": "dtheta.compose.preflight",
    "quantize": "dtheta.adapt.quantized",
    "read_plan": "dtheta.compose.mergekit",
    "recompress": "dtheta.core.recompress",
    "search_coefficients": "dtheta.compose.search",
    "search_compression": "dtheta.compress.search",
    "slerp": "dtheta.compose.slerp",
    "ties": "dtheta.compose.ties",
    "to_peft": "dtheta.core.interop",
    "trainer_callback": "dtheta.fit.trainer_callback",
    "uniform_soup": "dtheta.compose.soups",
    "variation": "dtheta.adapt.variation",
}

__all__ = [
    "CLIPSVD",
    "NF4",
    "SORSA",
    "Adapter",
    "Bank",
    "BaseMismatch",
    "BestQ",
    "BitFit",
    "Change",
    "Coefficients",
    "Compression",
    "ConfigError",
    "DePT",
    "Delta",
    "DthetaError",
    "DthetaWarning",
    "ErrorFeedback",
    "Fingerprint",
    "FormatError",
    "Full",
    "LoRA",
    "LoftQ",
    "Method",
    "MissingExtra",
    "NonFinite",
    "NotConverged",
    "OutputError",
    "PTuning",
    "PiSSA",
    "PrefixTuning",
    "PromptTuning",
    "QPiSSA",
    "Record",
    "ShapeMismatch",
    "UnknownParameter",
    "UnsupportedLayer",
    "__version__",
    "adapt_coefficients",
    "applied",
    "attach",
    "breadcrumbs",
    "classifier",
    "compose",
    "compress",
    "compression_report",
    "dare",
    "dequantized",
    "extract",
    "fingerprint",
    "fit",
    "from_peft",
    "gathered",
    "greedy_soup",
    "learn_coefficients",
    "learn_negation",
    "load",
    "load_model",
    "load_table",
    "load_task",
    "load_tokenizer",
    "merge",
    "merge_checkpoints",
    "merge_plan",
    "on_batches",
    "preflight",
    "quantize",
    "read_plan",
    "recompress",
    "search_coefficients",
    "search_compression",
    "slerp",
    "ties",
    "to_peft",
    "trainer_callback",
    "uniform_soup",
    "variation",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dtheta' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
