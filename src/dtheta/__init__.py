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
    from dtheta.adapt.few_shot import FewShot as FewShot
    from dtheta.adapt.few_shot import adapt_images as adapt_images
    from dtheta.adapt.few_shot import judge_delta as judge_delta
    from dtheta.adapt.full import Full as Full
    from dtheta.adapt.image_problem import image_problem as image_problem
    from dtheta.adapt.image_problem import linear_probe as linear_probe
    from dtheta.adapt.image_problem import pixel_probe as pixel_probe
    from dtheta.adapt.image_problem import zero_shot as zero_shot
    from dtheta.adapt.interpret.captions import describe_heads as describe_heads
    from dtheta.adapt.interpret.changed import changed_heads as changed_heads
    from dtheta.adapt.lora import LoRA as LoRA
    from dtheta.adapt.method import Method as Method
    from dtheta.adapt.mvlpt.learning import learn_prompt as learn_prompt
    from dtheta.adapt.mvlpt.predictors import judge_predictors as judge_predictors
    from dtheta.adapt.mvlpt.transfer import Transfer as Transfer
    from dtheta.adapt.mvlpt.transfer import measure_transfer as measure_transfer
    from dtheta.adapt.pissa import PiSSA as PiSSA
    from dtheta.adapt.prompts.adept import ADePT as ADePT
    from dtheta.adapt.prompts.bank import PromptBank as PromptBank
    from dtheta.adapt.prompts.budget import prompt_budget as prompt_budget
    from dtheta.adapt.prompts.cocoop import CoCoOp as CoCoOp
    from dtheta.adapt.prompts.coop import CoOp as CoOp
    from dtheta.adapt.prompts.dept import DePT as DePT
    from dtheta.adapt.prompts.p_tuning import PTuning as PTuning
    from dtheta.adapt.prompts.prefix_tuning import PrefixTuning as PrefixTuning
    from dtheta.adapt.prompts.step_cost import StepCost as StepCost
    from dtheta.adapt.prompts.step_cost import step_cost as step_cost
    from dtheta.adapt.prompts.token_wise import fold_offsets as fold_offsets
    from dtheta.adapt.prompts.tuning import PromptTuning as PromptTuning
    from dtheta.adapt.prompts.upt import UPT as UPT
    from dtheta.adapt.prompts.vpt import VPT as VPT
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
    from dtheta.data.image_batches import image_loader as image_loader
    from dtheta.data.image_tasks import load_image_task as load_image_task
    from dtheta.data.images import Images as Images
    from dtheta.data.mixture import Mixture as Mixture
    from dtheta.data.mixture import mixture_loader as mixture_loader
    from dtheta.data.own_images import load_images as load_images
    from dtheta.data.pixels import Pixels as Pixels
    from dtheta.data.shots import few_shot as few_shot
    from dtheta.data.table import load_table as load_table
    from dtheta.data.tasks import load_task as load_task
    from dtheta.fit.loop import fit as fit
    from dtheta.fit.record import Record as Record
    from dtheta.fit.sharded import gathered as gathered
    from dtheta.fit.trainer_callback import trainer_callback as trainer_callback
    from dtheta.models.classifier import classifier as classifier
    from dtheta.models.image_text import ImageTextClassifier as ImageTextClassifier
    from dtheta.models.image_text import image_text_classifier as image_text_classifier
    from dtheta.models.load import load_model as load_model
    from dtheta.models.load import load_tokenizer as load_tokenizer
    from dtheta.models.multitask_images import MultiTaskImages as MultiTaskImages
    from dtheta.models.pixels import load_pixels as load_pixels

# Public names that need torch or more, and the module that each comes from.
_LAZY = {
    "ADePT": "dtheta.adapt.prompts.adept",
    "Adapter": "dtheta.adapt.adapter",
    "Bank": "dtheta.compose.bank",
    "BestQ": "dtheta.adapt.qpissa",
    "BitFit": "dtheta.adapt.bitfit",
    "CLIPSVD": "dtheta.adapt.clip_svd",
    "Change": "dtheta.core.change",
    "CoCoOp": "dtheta.adapt.prompts.cocoop",
    "CoOp": "dtheta.adapt.prompts.coop",
    "Coefficients": "dtheta.compose.coefficients",
    "Compression": "dtheta.compress.report",
    "DePT": "dtheta.adapt.prompts.dept",
    "Delta": "dtheta.core.delta",
    "ErrorFeedback": "dtheta.compress.feedback",
    "FewShot": "dtheta.adapt.few_shot",
    "Fingerprint": "dtheta.core.fingerprint",
    "Full": "dtheta.adapt.full",
    "ImageTextClassifier": "dtheta.models.image_text",
    "Images": "dtheta.data.images",
    "LoRA": "dtheta.adapt.lora",
    "LoftQ": "dtheta.adapt.qpissa",
    "Method": "dtheta.adapt.method",
    "Mixture": "dtheta.data.mixture",
    "MultiTaskImages": "dtheta.models.multitask_images",
    "NF4": "dtheta.adapt.qpissa",
    "PTuning": "dtheta.adapt.prompts.p_tuning",
    "PiSSA": "dtheta.adapt.pissa",
    "Pixels": "dtheta.data.pixels",
    "PrefixTuning": "dtheta.adapt.prompts.prefix_tuning",
    "PromptBank": "dtheta.adapt.prompts.bank",
    "PromptTuning": "dtheta.adapt.prompts.tuning",
    "QPiSSA": "dtheta.adapt.qpissa",
    "Record": "dtheta.fit.record",
    "SORSA": "dtheta.adapt.sorsa",
    "StepCost": "dtheta.adapt.prompts.step_cost",
    "Transfer": "dtheta.adapt.mvlpt.transfer",
    "UPT": "dtheta.adapt.prompts.upt",
    "VPT": "dtheta.adapt.prompts.vpt",
    "adapt_coefficients": "dtheta.compose.adaptation",
    "adapt_images": "dtheta.adapt.few_shot",
    "applied": "dtheta.core.apply",
    "attach": "dtheta.adapt.attach",
    "breadcrumbs": "dtheta.compose.breadcrumbs",
    "changed_heads": "dtheta.adapt.interpret.changed",
    "classifier": "dtheta.models.classifier",
    "compose": "dtheta.compose.compose",
    "compress": "dtheta.compress.compeft",
    "compression_report": "dtheta.compress.report",
    "dare": "dtheta.compose.dare",
    "dequantized": "dtheta.adapt.quantized",
    "describe_heads": "dtheta.adapt.interpret.captions",
    "extract": "dtheta.core.extract",
    "few_shot": "dtheta.data.shots",
    "fingerprint": "dtheta.core.fingerprint",
    "fit": "dtheta.fit.loop",
    "fold_offsets": "dtheta.adapt.prompts.token_wise",
    "from_peft": "dtheta.core.interop",
    "gathered": "dtheta.fit.sharded",
    "greedy_soup": "dtheta.compose.soups",
    "image_loader": "dtheta.data.image_batches",
    "image_problem": "dtheta.adapt.image_problem",
    "image_text_classifier": "dtheta.models.image_text",
    "judge_delta": "dtheta.adapt.few_shot",
    "judge_predictors": "dtheta.adapt.mvlpt.predictors",
    "learn_coefficients": "dtheta.compose.atlas",
    "learn_negation": "dtheta.compose.negation",
    "learn_prompt": "dtheta.adapt.mvlpt.learning",
    "linear_probe": "dtheta.adapt.image_problem",
    "load": "dtheta.core.files",
    "load_image_task": "dtheta.data.image_tasks",
    "load_images": "dtheta.data.own_images",
    "load_model": "dtheta.models.load",
    "load_pixels": "dtheta.models.pixels",
    "load_table": "dtheta.data.table",
    "load_task": "dtheta.data.tasks",
    "load_tokenizer": "dtheta.models.load",
    "measure_transfer": "dtheta.adapt.mvlpt.transfer",
    "merge": "dtheta.core.apply",
    "merge_checkpoints": "dtheta.compose.streaming",
    "merge_plan": "dtheta.compose.merge_plan",
    "mixture_loader": "dtheta.data.mixture",
    "on_batches": "dtheta.compress.search",
    "pixel_probe": "dtheta.adapt.image_problem",
    "preflight": "dtheta.compose.preflight",
    "prompt_budget": "dtheta.adapt.prompts.budget",
    "quantize": "dtheta.adapt.quantized",
    "read_plan": "dtheta.compose.mergekit",
    "recompress": "dtheta.core.recompress",
    "search_coefficients": "dtheta.compose.search",
    "search_compression": "dtheta.compress.search",
    "slerp": "dtheta.compose.slerp",
    "step_cost": "dtheta.adapt.prompts.step_cost",
    "ties": "dtheta.compose.ties",
    "to_peft": "dtheta.core.interop",
    "trainer_callback": "dtheta.fit.trainer_callback",
    "uniform_soup": "dtheta.compose.soups",
    "variation": "dtheta.adapt.variation",
    "zero_shot": "dtheta.adapt.image_problem",
}

__all__ = [
    "CLIPSVD",
    "NF4",
    "SORSA",
    "UPT",
    "VPT",
    "ADePT",
    "Adapter",
    "Bank",
    "BaseMismatch",
    "BestQ",
    "BitFit",
    "Change",
    "CoCoOp",
    "CoOp",
    "Coefficients",
    "Compression",
    "ConfigError",
    "DePT",
    "Delta",
    "DthetaError",
    "DthetaWarning",
    "ErrorFeedback",
    "FewShot",
    "Fingerprint",
    "FormatError",
    "Full",
    "ImageTextClassifier",
    "Images",
    "LoRA",
    "LoftQ",
    "Method",
    "MissingExtra",
    "Mixture",
    "MultiTaskImages",
    "NonFinite",
    "NotConverged",
    "OutputError",
    "PTuning",
    "PiSSA",
    "Pixels",
    "PrefixTuning",
    "PromptBank",
    "PromptTuning",
    "QPiSSA",
    "Record",
    "ShapeMismatch",
    "StepCost",
    "Transfer",
    "UnknownParameter",
    "UnsupportedLayer",
    "__version__",
    "adapt_coefficients",
    "adapt_images",
    "applied",
    "attach",
    "breadcrumbs",
    "changed_heads",
    "classifier",
    "compose",
    "compress",
    "compression_report",
    "dare",
    "dequantized",
    "describe_heads",
    "extract",
    "few_shot",
    "fingerprint",
    "fit",
    "fold_offsets",
    "from_peft",
    "gathered",
    "greedy_soup",
    "image_loader",
    "image_problem",
    "image_text_classifier",
    "judge_delta",
    "judge_predictors",
    "learn_coefficients",
    "learn_negation",
    "learn_prompt",
    "linear_probe",
    "load",
    "load_image_task",
    "load_images",
    "load_model",
    "load_pixels",
    "load_table",
    "load_task",
    "load_tokenizer",
    "measure_transfer",
    "merge",
    "merge_checkpoints",
    "merge_plan",
    "mixture_loader",
    "on_batches",
    "pixel_probe",
    "preflight",
    "prompt_budget",
    "quantize",
    "read_plan",
    "recompress",
    "search_coefficients",
    "search_compression",
    "slerp",
    "step_cost",
    "ties",
    "to_peft",
    "trainer_callback",
    "uniform_soup",
    "variation",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dtheta' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
