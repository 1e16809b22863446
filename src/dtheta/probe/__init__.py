"""Probing: where a network keeps a concept, unlearning it, and the proof in the parameters of what is gone.

``dtheta.concept_vectors``, ``dtheta.unlearn`` and ``dtheta.erasure`` do it; the parts that one chooses from stand here,
loaded on first use: ``from dtheta.probe import NPO, Repair, Relearning, known``.
"""

from typing import TYPE_CHECKING

from dtheta._callable import lazy

if TYPE_CHECKING:
    from dtheta.probe.ablation import noise as noise
    from dtheta.probe.answers import answer_scores as answer_scores
    from dtheta.probe.answers import continuations as continuations
    from dtheta.probe.benchmark import build_benchmark as build_benchmark
    from dtheta.probe.benchmark import load_benchmark as load_benchmark
    from dtheta.probe.decoder import open_decoder as open_decoder
    from dtheta.probe.erasure.erasure import Examination as Examination
    from dtheta.probe.erasure.in_context import InContext as InContext
    from dtheta.probe.erasure.paraphrase import Paraphrase as Paraphrase
    from dtheta.probe.erasure.persona import Persona as Persona
    from dtheta.probe.erasure.quantization import Quantization as Quantization
    from dtheta.probe.erasure.relearning import Relearning as Relearning
    from dtheta.probe.erasure.result import Erasure as Erasure
    from dtheta.probe.erasure.result import load_erasure as load_erasure
    from dtheta.probe.recall import known as known
    from dtheta.probe.scores import vector_scores as vector_scores
    from dtheta.probe.trace import Trace as Trace
    from dtheta.probe.trace import Traces as Traces
    from dtheta.probe.trace import load_traces as load_traces
    from dtheta.probe.traces import trace_report as trace_report
    from dtheta.probe.unlearning.ascent import UNDIAL as UNDIAL
    from dtheta.probe.unlearning.ascent import WGA as WGA
    from dtheta.probe.unlearning.ascent import GradAscent as GradAscent
    from dtheta.probe.unlearning.ascent import GradDiff as GradDiff
    from dtheta.probe.unlearning.edit import Ablate as Ablate
    from dtheta.probe.unlearning.edit import Needle as Needle
    from dtheta.probe.unlearning.edit import Negate as Negate
    from dtheta.probe.unlearning.edit import Repair as Repair
    from dtheta.probe.unlearning.memit import Memit as Memit
    from dtheta.probe.unlearning.objective import Unlearning as Unlearning
    from dtheta.probe.unlearning.preference import DPO as DPO
    from dtheta.probe.unlearning.preference import NPO as NPO
    from dtheta.probe.unlearning.preference import SimNPO as SimNPO
    from dtheta.probe.unlearning.rehearsal import Rehearsed as Rehearsed
    from dtheta.probe.unlearning.representation import RMU as RMU
    from dtheta.probe.unlearning.train import Training as Training
    from dtheta.probe.unlearning.unlearn import METHODS as METHODS
    from dtheta.probe.unlearning.unlearn import Unlearned as Unlearned
    from dtheta.probe.validation import validate as validate
    from dtheta.probe.value_vector import ValueVector as ValueVector

_LAZY = {
    "Ablate": "dtheta.probe.unlearning.edit",
    "DPO": "dtheta.probe.unlearning.preference",
    "Erasure": "dtheta.probe.erasure.result",
    "Examination": "dtheta.probe.erasure.erasure",
    "GradAscent": "dtheta.probe.unlearning.ascent",
    "GradDiff": "dtheta.probe.unlearning.ascent",
    "InContext": "dtheta.probe.erasure.in_context",
    "METHODS": "dtheta.probe.unlearning.unlearn",
    "Memit": "dtheta.probe.unlearning.memit",
    "NPO": "dtheta.probe.unlearning.preference",
    "Needle": "dtheta.probe.unlearning.edit",
    "Negate": "dtheta.probe.unlearning.edit",
    "Paraphrase": "dtheta.probe.erasure.paraphrase",
    "Persona": "dtheta.probe.erasure.persona",
    "Quantization": "dtheta.probe.erasure.quantization",
    "RMU": "dtheta.probe.unlearning.representation",
    "Rehearsed": "dtheta.probe.unlearning.rehearsal",
    "Relearning": "dtheta.probe.erasure.relearning",
    "Repair": "dtheta.probe.unlearning.edit",
    "SimNPO": "dtheta.probe.unlearning.preference",
    "Trace": "dtheta.probe.trace",
    "Traces": "dtheta.probe.trace",
    "Training": "dtheta.probe.unlearning.train",
    "UNDIAL": "dtheta.probe.unlearning.ascent",
    "Unlearned": "dtheta.probe.unlearning.unlearn",
    "Unlearning": "dtheta.probe.unlearning.objective",
    "ValueVector": "dtheta.probe.value_vector",
    "WGA": "dtheta.probe.unlearning.ascent",
    "answer_scores": "dtheta.probe.answers",
    "build_benchmark": "dtheta.probe.benchmark",
    "continuations": "dtheta.probe.answers",
    "known": "dtheta.probe.recall",
    "load_benchmark": "dtheta.probe.benchmark",
    "load_erasure": "dtheta.probe.erasure.result",
    "load_traces": "dtheta.probe.trace",
    "noise": "dtheta.probe.ablation",
    "open_decoder": "dtheta.probe.decoder",
    "trace_report": "dtheta.probe.traces",
    "validate": "dtheta.probe.validation",
    "vector_scores": "dtheta.probe.scores",
}
__all__ = [
    "DPO",
    "METHODS",
    "NPO",
    "RMU",
    "UNDIAL",
    "WGA",
    "Ablate",
    "Erasure",
    "Examination",
    "GradAscent",
    "GradDiff",
    "InContext",
    "Memit",
    "Needle",
    "Negate",
    "Paraphrase",
    "Persona",
    "Quantization",
    "Rehearsed",
    "Relearning",
    "Repair",
    "SimNPO",
    "Trace",
    "Traces",
    "Training",
    "Unlearned",
    "Unlearning",
    "ValueVector",
    "answer_scores",
    "build_benchmark",
    "continuations",
    "known",
    "load_benchmark",
    "load_erasure",
    "load_traces",
    "noise",
    "open_decoder",
    "trace_report",
    "validate",
    "vector_scores",
]

__getattr__ = lazy(__name__, _LAZY)
