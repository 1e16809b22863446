"""``dtheta apply`` on texts: the class of each by a classifier, or how a language model goes on, with a delta on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dtheta.cli.columns import require_columns
from dtheta.cli.idle import refuse_idle
from dtheta.cli.judge import max_length
from dtheta.cli.networks import base_name
from dtheta.cli.places import require_input
from dtheta.errors import ConfigError, NonFinite, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dtheta.cli.apply import Options


def texts_of(options: Options) -> tuple[list[str], list[str] | None]:
    """Return the texts, and their classes where these are asked for.

    Raises:
        ConfigError, FormatError: If the table is not there, is damaged, or lacks a column.
    """
    from dtheta.data.corpus import columns, table_column

    texts = list(options.text)
    if options.data is None:
        return texts, None
    there = columns(options.data, options.encoding)
    require_columns(options.data, there, {"--column": options.column, "--label": options.label})
    texts += table_column(options.data, options.column, options.encoding)
    if options.label is None:
        return texts, None
    return texts, table_column(options.data, options.label, options.encoding)


def network_of(options: Options, stack: ExitStack) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return the network with the delta on it, its tokenizer, and what the delta says of its task.

    Raises:
        ConfigError: If the delta is of pictures, an option of another task, or the model not known.
        BaseMismatch: If the model is another one.
    """
    from dtheta.adapt.attach import attach
    from dtheta.adapt.tasks import task_model
    from dtheta.cli.head import load_merged, task_in
    from dtheta.core.apply import applied
    from dtheta.core.files import load
    from dtheta.models.load import load_model, load_tokenizer

    path = require_input(options.delta)
    if path.is_dir():
        require_text_task(options, task_in(path))
        return load_merged(path)
    delta = load(path)
    task = dict(delta.provenance.task)
    require_text_task(options, task)
    name = base_name(task, options.model)
    net = task_model(delta, load_model(name))
    if delta.new:
        adapter = attach(net, delta, weight=options.weight)
        stack.callback(adapter.detach)
    else:
        stack.enter_context(applied(net, options.weight * delta) if options.weight != 1.0 else applied(net, delta))
    return net.eval(), load_tokenizer(name), task


def is_classifier(task: Mapping[str, Any]) -> bool:
    """Tell whether what a delta says of its task is that of a text classifier."""
    from dtheta.adapt.tasks import CLASSIFICATION

    return task.get("kind") == CLASSIFICATION


def require_text_task(options: Options, task: Mapping[str, Any]) -> None:
    """Raise unless a task is one of texts, and heeds the options.

    Raises:
        ConfigError: Naming the delta, or the option.
    """
    from dtheta.adapt.few_shot import IMAGE_TEXT

    if task.get("kind") == IMAGE_TEXT:
        raise ConfigError(f"{options.delta}: this delta is of pictures; give them with --image FILE")
    if is_classifier(task):
        refuse_idle(options, ("tokens",), f"goes on with a text, and {options.delta} tells classes; leave it out")
    else:
        refuse_idle(options, ("label",), "compares classes, and this delta's task has none; leave it out")


def require_classes(labels: Sequence[str] | None, task: Mapping[str, Any], options: Options) -> None:
    """Raise where the true classes of a table are not among those that a delta tells apart.

    Raises:
        ConfigError: Naming the first such class, its row, and the classes that there are.
    """
    classes = task.get("classes", ())
    for row, label in enumerate(labels or (), 1):
        if label not in classes:
            raise ConfigError(
                f"--label {options.label}: row {row} of {options.data} is of the class {label[:40]!r}, and "
                f"{options.delta} knows {', '.join(map(str, classes))[:200]}{did_you_mean(label, classes)}"
            )


def classified(net: nn.Module, tokenizer: Any, task: dict[str, Any], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for every text, its likeliest class and the probabilities of all.

    Raises:
        NonFinite: If the network gives no numbers.
    """
    from dtheta.adapt.frozen import predicted_logits
    from dtheta.data.batches import EncodedTexts
    from dtheta.data.text import Texts

    classes: list[str] = task["classes"]
    encoded = EncodedTexts(Texts(tuple(texts), (0,) * len(texts)), tokenizer, max_length(task))
    logits, rows = predicted_logits(net, encoded), []
    require_finite(logits)
    for text, probabilities in zip(texts, logits.softmax(1).tolist(), strict=True):
        best = max(range(len(classes)), key=lambda i: probabilities[i])
        each = dict(zip(classes, probabilities, strict=True))
        rows.append({"text": text, "label": classes[best], "probability": probabilities[best], "probabilities": each})
    return rows


def continued(net: nn.Module, tokenizer: Any, texts: Sequence[str], tokens: int) -> list[dict[str, Any]]:
    """Continue each text greedily by so many tokens.

    Raises:
        ConfigError: If the network generates no text, or a text has no token.
        NonFinite: If the network gives no numbers.
    """
    import torch

    if not callable(getattr(net, "generate", None)) or not net.can_generate():  # type: ignore[operator]
        raise ConfigError(
            f"no task is named here, and {type(net).__name__} generates no text; if it moves a classifier's encoder, "
            "'dtheta compose DELTA --head CLASSIFIER.delta' gives it a head; in Python, "
            "'with dt.applied(model, delta)' runs it for any use"
        )
    rows = []
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt")  # some tokenizers return more than a decoder takes
        given = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        if not given["input_ids"].numel():
            raise ConfigError(f"the text {text[:40]!r} has no token, so there is nothing to continue")
        with torch.no_grad():
            ids = net.generate(  # type: ignore[operator]
                **given,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id or 0,
                logits_processor=[_checked],
            )
        new = ids[0, given["input_ids"].shape[1] :]
        rows.append({"text": text, "continuation": tokenizer.decode(new, skip_special_tokens=True)})
    return rows


def _checked(_ids: Tensor, logits: Tensor) -> Tensor:
    """Return the logits of the next token as they are, once they are known to be numbers."""
    require_finite(logits)
    return logits


def require_finite(logits: Tensor) -> None:
    """Raise where the network gave no numbers.

    Raises:
        NonFinite: Saying what may be wrong.
    """
    if not bool(logits.isfinite().all()):
        raise NonFinite(
            "the network gives NaN or infinity with this delta on it; a smaller --weight may help, and --weight 0 "
            "tells whether the base alone does so"
        )
