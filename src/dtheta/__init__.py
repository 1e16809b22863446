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

from typing import TYPE_CHECKING

from dtheta._callable import lazy
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
    from dtheta.adapt.houlsby import Houlsby as Houlsby
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
    from dtheta.adapt.prompts.folding import fold_offsets as fold_offsets
    from dtheta.adapt.prompts.p_tuning import PTuning as PTuning
    from dtheta.adapt.prompts.prefix_tuning import PrefixTuning as PrefixTuning
    from dtheta.adapt.prompts.step_cost import StepCost as StepCost
    from dtheta.adapt.prompts.step_cost import step_cost as step_cost
    from dtheta.adapt.prompts.tuning import PromptTuning as PromptTuning
    from dtheta.adapt.prompts.upt import UPT as UPT
    from dtheta.adapt.prompts.vpt import VPT as VPT
    from dtheta.adapt.qpissa import NF4 as NF4
    from dtheta.adapt.qpissa import BestQ as BestQ
    from dtheta.adapt.qpissa import LoftQ as LoftQ
    from dtheta.adapt.qpissa import QPiSSA as QPiSSA
    from dtheta.adapt.quantized import dequantized as dequantized
    from dtheta.adapt.quantized import quantize as quantize
    from dtheta.adapt.snnk import SNNK as SNNK
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
    from dtheta.core.features import RandomFeatures as RandomFeatures
    from dtheta.core.features import features_of as features_of
    from dtheta.core.files import load as load
    from dtheta.core.fingerprint import Fingerprint as Fingerprint
    from dtheta.core.fingerprint import fingerprint as fingerprint
    from dtheta.core.interop import from_peft as from_peft
    from dtheta.core.interop import to_peft as to_peft
    from dtheta.core.recompress import recompress as recompress
    from dtheta.data.concepts import Concept as Concept
    from dtheta.data.concepts import Question as Question
    from dtheta.data.concepts import load_concepts as load_concepts
    from dtheta.data.image_batches import image_loader as image_loader
    from dtheta.data.image_tasks import load_image_task as load_image_task
    from dtheta.data.images import Images as Images
    from dtheta.data.mixture import Mixture as Mixture
    from dtheta.data.mixture import mixture_loader as mixture_loader
    from dtheta.data.own_images import load_images as load_images
    from dtheta.data.parties import load_parties as load_parties
    from dtheta.data.pixels import Pixels as Pixels
    from dtheta.data.shots import few_shot as few_shot
    from dtheta.data.table import load_table as load_table
    from dtheta.data.tabular import load_tabular as load_tabular
    from dtheta.data.tasks import load_task as load_task
    from dtheta.ensemble.bred import BredVectors as BredVectors
    from dtheta.ensemble.ensemble import Ensemble as Ensemble
    from dtheta.ensemble.noise import SphericalNoise as SphericalNoise
    from dtheta.ensemble.noise import WhiteNoise as WhiteNoise
    from dtheta.ensemble.verify import verify as verify
    from dtheta.federate.asynchronous import Asynchronous as Asynchronous
    from dtheta.federate.client import Client as Client
    from dtheta.federate.engine import InProcess as InProcess
    from dtheta.federate.federate import federate as federate
    from dtheta.federate.federation import Federation as Federation
    from dtheta.federate.privacy import Privacy as Privacy
    from dtheta.federate.processes import Processes as Processes
    from dtheta.federate.quantum.classifier import QuantumClassifier as QuantumClassifier
    from dtheta.federate.quantum.program import ProgramClassifier as ProgramClassifier
    from dtheta.federate.secure import Secure as Secure
    from dtheta.federate.server.server import Server as Server
    from dtheta.fit.loop import fit as fit
    from dtheta.fit.record import Record as Record
    from dtheta.fit.sharded import gathered as gathered
    from dtheta.fit.trainer_callback import trainer_callback as trainer_callback
    from dtheta.kernels import infinite as infinite
    from dtheta.kernels.bundle import bundle as bundle
    from dtheta.kernels.bundle import fold as fold
    from dtheta.kernels.closed_form import solve_head as solve_head
    from dtheta.kernels.drift import kernel_drift as kernel_drift
    from dtheta.kernels.drift import nonlinearity_index as nonlinearity_index
    from dtheta.kernels.dynamics import kernel_dynamics as kernel_dynamics
    from dtheta.kernels.feed_forward import FeedForward as FeedForward
    from dtheta.kernels.fit_mlp import fit_mlp as fit_mlp
    from dtheta.kernels.gaussian_limit import gaussian_limit as gaussian_limit
    from dtheta.kernels.head import SNNKHead as SNNKHead
    from dtheta.kernels.infinite import infinite_kernel as infinite_kernel
    from dtheta.kernels.learning_rate import max_learning_rate as max_learning_rate
    from dtheta.kernels.leave_one_out import best_penalty as best_penalty
    from dtheta.kernels.leave_one_out import early_stopping_time as early_stopping_time
    from dtheta.kernels.leave_one_out import leave_one_out as leave_one_out
    from dtheta.kernels.measures import alignment as alignment
    from dtheta.kernels.measures import definiteness as definiteness
    from dtheta.kernels.measures import effective_dimension as effective_dimension
    from dtheta.kernels.measures import label_complexity as label_complexity
    from dtheta.kernels.pca import kernel_pca as kernel_pca
    from dtheta.kernels.replace import replace_mlps as replace_mlps
    from dtheta.kernels.snnk import SNNKLayer as SNNKLayer
    from dtheta.kernels.tangent import tangent_kernel as tangent_kernel
    from dtheta.kernels.tangent_products import tangent_operator as tangent_operator
    from dtheta.models.classifier import classifier as classifier
    from dtheta.models.image_text import ImageTextClassifier as ImageTextClassifier
    from dtheta.models.image_text import image_text_classifier as image_text_classifier
    from dtheta.models.load import load_model as load_model
    from dtheta.models.load import load_tokenizer as load_tokenizer
    from dtheta.models.multitask_images import MultiTaskImages as MultiTaskImages
    from dtheta.models.perceptron import Perceptron as Perceptron
    from dtheta.models.pixels import load_pixels as load_pixels
    from dtheta.probe.concept_vectors import concept_vectors as concept_vectors
    from dtheta.probe.erasure.erasure import erasure as erasure
    from dtheta.probe.unlearning.unlearn import unlearn as unlearn
    from dtheta.score.ensemble.verification import Verification as Verification
    from dtheta.scout.kernel_study import study_kernel as study_kernel
    from dtheta.scout.scout import scout as scout

# Public names that need torch or more, and the module that each comes from.
_LAZY = {
    "ADePT": "dtheta.adapt.prompts.adept",
    "Adapter": "dtheta.adapt.adapter",
    "Asynchronous": "dtheta.federate.asynchronous",
    "Bank": "dtheta.compose.bank",
    "BestQ": "dtheta.adapt.qpissa",
    "BitFit": "dtheta.adapt.bitfit",
    "BredVectors": "dtheta.ensemble.bred",
    "CLIPSVD": "dtheta.adapt.clip_svd",
    "Change": "dtheta.core.change",
    "Client": "dtheta.federate.client",
    "CoCoOp": "dtheta.adapt.prompts.cocoop",
    "CoOp": "dtheta.adapt.prompts.coop",
    "Coefficients": "dtheta.compose.coefficients",
    "Compression": "dtheta.compress.report",
    "Concept": "dtheta.data.concepts",
    "DePT": "dtheta.adapt.prompts.dept",
    "Delta": "dtheta.core.delta",
    "Ensemble": "dtheta.ensemble.ensemble",
    "ErrorFeedback": "dtheta.compress.feedback",
    "Federation": "dtheta.federate.federation",
    "FeedForward": "dtheta.kernels.feed_forward",
    "FewShot": "dtheta.adapt.few_shot",
    "Fingerprint": "dtheta.core.fingerprint",
    "Full": "dtheta.adapt.full",
    "Houlsby": "dtheta.adapt.houlsby",
    "ImageTextClassifier": "dtheta.models.image_text",
    "Images": "dtheta.data.images",
    "InProcess": "dtheta.federate.engine",
    "LoRA": "dtheta.adapt.lora",
    "LoftQ": "dtheta.adapt.qpissa",
    "Method": "dtheta.adapt.method",
    "Mixture": "dtheta.data.mixture",
    "MultiTaskImages": "dtheta.models.multitask_images",
    "NF4": "dtheta.adapt.qpissa",
    "PTuning": "dtheta.adapt.prompts.p_tuning",
    "Perceptron": "dtheta.models.perceptron",
    "PiSSA": "dtheta.adapt.pissa",
    "Pixels": "dtheta.data.pixels",
    "PrefixTuning": "dtheta.adapt.prompts.prefix_tuning",
    "Privacy": "dtheta.federate.privacy",
    "Processes": "dtheta.federate.processes",
    "ProgramClassifier": "dtheta.federate.quantum.program",
    "PromptBank": "dtheta.adapt.prompts.bank",
    "PromptTuning": "dtheta.adapt.prompts.tuning",
    "QPiSSA": "dtheta.adapt.qpissa",
    "QuantumClassifier": "dtheta.federate.quantum.classifier",
    "Question": "dtheta.data.concepts",
    "RandomFeatures": "dtheta.core.features",
    "Record": "dtheta.fit.record",
    "SNNK": "dtheta.adapt.snnk",
    "SNNKHead": "dtheta.kernels.head",
    "SNNKLayer": "dtheta.kernels.snnk",
    "SORSA": "dtheta.adapt.sorsa",
    "Secure": "dtheta.federate.secure",
    "Server": "dtheta.federate.server.server",
    "SphericalNoise": "dtheta.ensemble.noise",
    "StepCost": "dtheta.adapt.prompts.step_cost",
    "Transfer": "dtheta.adapt.mvlpt.transfer",
    "UPT": "dtheta.adapt.prompts.upt",
    "VPT": "dtheta.adapt.prompts.vpt",
    "Verification": "dtheta.score.ensemble.verification",
    "WhiteNoise": "dtheta.ensemble.noise",
    "adapt_coefficients": "dtheta.compose.adaptation",
    "adapt_images": "dtheta.adapt.few_shot",
    "alignment": "dtheta.kernels.measures",
    "applied": "dtheta.core.apply",
    "attach": "dtheta.adapt.attach",
    "best_penalty": "dtheta.kernels.leave_one_out",
    "breadcrumbs": "dtheta.compose.breadcrumbs",
    "bundle": "dtheta.kernels.bundle",
    "changed_heads": "dtheta.adapt.interpret.changed",
    "classifier": "dtheta.models.classifier",
    "compose": "dtheta.compose.compose",
    "compress": "dtheta.compress.compeft",
    "compression_report": "dtheta.compress.report",
    "concept_vectors": "dtheta.probe.concept_vectors",
    "dare": "dtheta.compose.dare",
    "definiteness": "dtheta.kernels.measures",
    "dequantized": "dtheta.adapt.quantized",
    "describe_heads": "dtheta.adapt.interpret.captions",
    "early_stopping_time": "dtheta.kernels.leave_one_out",
    "effective_dimension": "dtheta.kernels.measures",
    "erasure": "dtheta.probe.erasure.erasure",
    "extract": "dtheta.core.extract",
    "features_of": "dtheta.core.features",
    "federate": "dtheta.federate.federate",
    "few_shot": "dtheta.data.shots",
    "fingerprint": "dtheta.core.fingerprint",
    "fit": "dtheta.fit.loop",
    "fit_mlp": "dtheta.kernels.fit_mlp",
    "fold": "dtheta.kernels.bundle",
    "fold_offsets": "dtheta.adapt.prompts.folding",
    "from_peft": "dtheta.core.interop",
    "gathered": "dtheta.fit.sharded",
    "gaussian_limit": "dtheta.kernels.gaussian_limit",
    "greedy_soup": "dtheta.compose.soups",
    "image_loader": "dtheta.data.image_batches",
    "image_problem": "dtheta.adapt.image_problem",
    "image_text_classifier": "dtheta.models.image_text",
    "infinite": "dtheta.kernels",
    "infinite_kernel": "dtheta.kernels.infinite",
    "judge_delta": "dtheta.adapt.few_shot",
    "judge_predictors": "dtheta.adapt.mvlpt.predictors",
    "kernel_drift": "dtheta.kernels.drift",
    "kernel_dynamics": "dtheta.kernels.dynamics",
    "kernel_pca": "dtheta.kernels.pca",
    "label_complexity": "dtheta.kernels.measures",
    "learn_coefficients": "dtheta.compose.atlas",
    "learn_negation": "dtheta.compose.negation",
    "learn_prompt": "dtheta.adapt.mvlpt.learning",
    "leave_one_out": "dtheta.kernels.leave_one_out",
    "linear_probe": "dtheta.adapt.image_problem",
    "load": "dtheta.core.files",
    "load_concepts": "dtheta.data.concepts",
    "load_image_task": "dtheta.data.image_tasks",
    "load_images": "dtheta.data.own_images",
    "load_model": "dtheta.models.load",
    "load_parties": "dtheta.data.parties",
    "load_pixels": "dtheta.models.pixels",
    "load_table": "dtheta.data.table",
    "load_tabular": "dtheta.data.tabular",
    "load_task": "dtheta.data.tasks",
    "load_tokenizer": "dtheta.models.load",
    "max_learning_rate": "dtheta.kernels.learning_rate",
    "measure_transfer": "dtheta.adapt.mvlpt.transfer",
    "merge": "dtheta.core.apply",
    "merge_checkpoints": "dtheta.compose.streaming",
    "merge_plan": "dtheta.compose.merge_plan",
    "mixture_loader": "dtheta.data.mixture",
    "nonlinearity_index": "dtheta.kernels.drift",
    "on_batches": "dtheta.compress.search",
    "pixel_probe": "dtheta.adapt.image_problem",
    "preflight": "dtheta.compose.preflight",
    "prompt_budget": "dtheta.adapt.prompts.budget",
    "quantize": "dtheta.adapt.quantized",
    "read_plan": "dtheta.compose.mergekit",
    "recompress": "dtheta.core.recompress",
    "replace_mlps": "dtheta.kernels.replace",
    "scout": "dtheta.scout.scout",
    "search_coefficients": "dtheta.compose.search",
    "search_compression": "dtheta.compress.search",
    "slerp": "dtheta.compose.slerp",
    "solve_head": "dtheta.kernels.closed_form",
    "step_cost": "dtheta.adapt.prompts.step_cost",
    "study_kernel": "dtheta.scout.kernel_study",
    "tangent_kernel": "dtheta.kernels.tangent",
    "tangent_operator": "dtheta.kernels.tangent_products",
    "ties": "dtheta.compose.ties",
    "to_peft": "dtheta.core.interop",
    "trainer_callback": "dtheta.fit.trainer_callback",
    "uniform_soup": "dtheta.compose.soups",
    "unlearn": "dtheta.probe.unlearning.unlearn",
    "variation": "dtheta.adapt.variation",
    "verify": "dtheta.ensemble.verify",
    "zero_shot": "dtheta.adapt.image_problem",
}

__all__ = [
    "CLIPSVD",
    "NF4",
    "SNNK",
    "SORSA",
    "UPT",
    "VPT",
    "ADePT",
    "Adapter",
    "Asynchronous",
    "Bank",
    "BaseMismatch",
    "BestQ",
    "BitFit",
    "BredVectors",
    "Change",
    "Client",
    "CoCoOp",
    "CoOp",
    "Coefficients",
    "Compression",
    "Concept",
    "ConfigError",
    "DePT",
    "Delta",
    "DthetaError",
    "DthetaWarning",
    "Ensemble",
    "ErrorFeedback",
    "Federation",
    "FeedForward",
    "FewShot",
    "Fingerprint",
    "FormatError",
    "Full",
    "Houlsby",
    "ImageTextClassifier",
    "Images",
    "InProcess",
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
    "Perceptron",
    "PiSSA",
    "Pixels",
    "PrefixTuning",
    "Privacy",
    "Processes",
    "ProgramClassifier",
    "PromptBank",
    "PromptTuning",
    "QPiSSA",
    "QuantumClassifier",
    "Question",
    "RandomFeatures",
    "Record",
    "SNNKHead",
    "SNNKLayer",
    "Secure",
    "Server",
    "ShapeMismatch",
    "SphericalNoise",
    "StepCost",
    "Transfer",
    "UnknownParameter",
    "UnsupportedLayer",
    "Verification",
    "WhiteNoise",
    "__version__",
    "adapt_coefficients",
    "adapt_images",
    "alignment",
    "applied",
    "attach",
    "best_penalty",
    "breadcrumbs",
    "bundle",
    "changed_heads",
    "classifier",
    "compose",
    "compress",
    "compression_report",
    "concept_vectors",
    "dare",
    "definiteness",
    "dequantized",
    "describe_heads",
    "early_stopping_time",
    "effective_dimension",
    "erasure",
    "extract",
    "features_of",
    "federate",
    "few_shot",
    "fingerprint",
    "fit",
    "fit_mlp",
    "fold",
    "fold_offsets",
    "from_peft",
    "gathered",
    "gaussian_limit",
    "greedy_soup",
    "image_loader",
    "image_problem",
    "image_text_classifier",
    "infinite",
    "infinite_kernel",
    "judge_delta",
    "judge_predictors",
    "kernel_drift",
    "kernel_dynamics",
    "kernel_pca",
    "label_complexity",
    "learn_coefficients",
    "learn_negation",
    "learn_prompt",
    "leave_one_out",
    "linear_probe",
    "load",
    "load_concepts",
    "load_image_task",
    "load_images",
    "load_model",
    "load_parties",
    "load_pixels",
    "load_table",
    "load_tabular",
    "load_task",
    "load_tokenizer",
    "max_learning_rate",
    "measure_transfer",
    "merge",
    "merge_checkpoints",
    "merge_plan",
    "mixture_loader",
    "nonlinearity_index",
    "on_batches",
    "pixel_probe",
    "preflight",
    "prompt_budget",
    "quantize",
    "read_plan",
    "recompress",
    "replace_mlps",
    "scout",
    "search_coefficients",
    "search_compression",
    "slerp",
    "solve_head",
    "step_cost",
    "study_kernel",
    "tangent_kernel",
    "tangent_operator",
    "ties",
    "to_peft",
    "trainer_callback",
    "uniform_soup",
    "unlearn",
    "variation",
    "verify",
    "zero_shot",
]


if not TYPE_CHECKING:  # a type checker would take it that every name exists
    __getattr__ = lazy(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
