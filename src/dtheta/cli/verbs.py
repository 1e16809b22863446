"""The verbs: each is the file of its name in this folder."""

from __future__ import annotations

VERBS = {
    "demo": "adapt a real model to real tasks by three methods, and write report.html",
    "adapt": "train a delta on your own texts or pictures, or on a packaged task",
    "apply": "run a model with a delta on texts or pictures",
    "show": "say what a file or folder is: base, size, norms, a table of its layers",
    "extract": "take the delta between two checkpoints, or from a peft adapter",
    "merge": "write the model with deltas added, or a delta as a peft adapter",
    "compress": "keep the signs of a delta's largest entries, or replace a model's MLPs; say what was lost",
    "compose": "add deltas with weights, or with coefficients learned on labeled texts",
    "compare": "say how alike deltas are: angles and sign conflicts, as a whole and by layer",
    "federate": "train one delta over parties that keep their data, over classical or quantum channels",
    "ensemble": "forecast with many members, score them against the truth, and run one of them again",
    "scout": "predict which method will do best on your texts, before any of them is trained",
    "probe": "find where a model keeps concepts: value vectors, their tokens, and what taking them out does",
    "unlearn": "take a concept out of a model as a delta, and leave other things",
    "kernel": "say what the tangent kernel of a method tells of training on your texts",
    "report": "draw one page from the results of earlier runs",
    "reproduce": "run the claims of the twelve papers again, and say which of them hold here",
    "methods": "list the methods: what trains, how much, and the paper",
    "models": "list the models known by name, and fetch them",
    "doctor": "check the installation, the cache and one exact round trip",
}

GROUPS = {
    "begin": ("demo", "doctor"),
    "make and use deltas": (
        "scout", "adapt", "unlearn", "federate", "apply", "extract", "merge", "compress", "compose",
    ),
    "forecast": ("ensemble",),
    "look": ("show", "compare", "probe", "kernel", "report", "methods", "models"),
    "check the papers": ("reproduce",),
}  # fmt: skip

#: Verbs that do several things: each is the file VERB_ACTION.
ACTIONS = {
    "ensemble": {
        "run": "run members from one or several starts into a zarr folder",
        "verify": "score a run against the truth, and draw a page",
        "replay": "run one member alone, and compare it with what was stored",
    },
}
