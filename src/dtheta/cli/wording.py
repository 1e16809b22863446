"""Wording: what the library says of its arguments, said of the options of a verb.

For example:
    n_train=9 must lie ...     ->  --n-train 9 must lie ...         any argument that is an option of the verb
    Member(parameters=0)       ->  as it is                         within a call it is code, and no option
    lr must be positive        ->  --lr must be positive
    ... or ask for strict=False    is left out: no verb puts a delta on another base
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dtheta.cli.options import Field

# What no rule finds; a verb that lacks the option keeps the sentence without the advice.
_PHRASES = (
    (r",? or ask for strict=False, knowing why", ""),
    (r"strict=False those that both have", "--partial those that both have"),
    (r", and new='keep' takes new tensors, such as a head, into the delta", ""),
    (r", or pass allow_unused=True if some modules rest in some steps \(experts\)", ""),
    (r"dt\.from_peft\(folder, model\) reads it", "'dtheta extract BASE FOLDER' makes a delta of it"),
    (r"dt\.load\(path\) reads it", "'dtheta show FILE' says what it is"),
    (r"compress it too by new=True", "compress it too by --new"),
    (r"; ensemble\.only\(\.\.\.\) runs the others", ""),
    (r"resume=True goes on with it", "--resume goes on with it"),
)
_CALL = re.compile(r"(\w\((?:[^()]|\([^()]*\))*\))")
_RENAMED = {"full_lr": "head_lr", "pattern": "select"}


def in_options(message: str, fields: Mapping[str, Field]) -> str:
    """Return a message of the library with the options of a verb in place of arguments.

    Args:
        message: What an error says.
        fields: The options of the verb, by name.
    """
    for pattern, words in _PHRASES:
        message = re.sub(pattern, words, message)
    flags = {name: f.called for name, f in fields.items() if not f.placed}
    flags |= {old: flags[new] for old, new in _RENAMED.items() if new in flags}
    pieces = _CALL.split(message)
    pieces[::2] = [_replaced(piece, flags) for piece in pieces[::2]]
    return "".join(pieces)


def _replaced(message: str, flags: Mapping[str, str]) -> str:
    for name, flag in flags.items():
        message = re.sub(rf"(?<![\w./=-]){name}=(?=\S)", f"{flag} ", message)  # n_train=9
        message = re.sub(rf"^{name} (?=must |is |cannot )", f"{flag} ", message)  # lr must be ...
        message = re.sub(rf"(?<=\bLower ){name}\b|(?<=\bwith ){name}\b(?!\s*=)", flag, message)
    return message
