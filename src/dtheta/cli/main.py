"""``dtheta VERB ...``: find the verb's file, import that one alone, run it, and turn errors into exit codes.

    0 done    1 failed    2 usage    3 wrong base    130 interrupted    143 terminated    129 its terminal was closed
    141 nobody reads the output

An error of ours is one clear message on stderr; ``DTHETA_DEBUG=1`` adds the traceback. Anything else that goes wrong is
a bug, and shows its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType

from dtheta._version import __version__
from dtheta.cli.verbs import ACTIONS, GROUPS, VERBS
from dtheta.errors import ConfigError, DthetaError, DthetaWarning, did_you_mean

_INTERRUPTED, _UNREAD = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` are those of the process by default."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    try:
        with _kept_handlers():
            code = _run(arguments)
            sys.stdout.flush()
            return code
    except DthetaError as error:
        return _fail(arguments, _as_options(arguments, str(error)), error.exit_code)
    except KeyboardInterrupt as interrupt:
        return _fail(arguments, f"interrupted{interrupt}", _INTERRUPTED)
    except _Terminated as terminated:
        return 128 + terminated.signal
    except BrokenPipeError:
        # the interpreter flushes once more as it ends: give it somewhere to flush to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD
    except MemoryError:
        return _fail(arguments, "not enough memory; 'dtheta VERB ... --dry-run' says how much a command needs", 1)
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(arguments, f"{where}{error.strerror}", 1)


# What the machine, and not this program, can get wrong at any place.
_SURROUNDINGS = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG,
}  # fmt: skip


_ENDS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # Windows has no terminals to close


@contextlib.contextmanager
def _kept_handlers() -> Iterator[None]:
    """Handle warnings and termination our way for the length of a block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A plain kill, or a terminal that is closed, would skip every "finally" and leave files that were written aside.
    # What nohup has the process ignore it goes on ignoring.
    ends = [sign for sign in _ENDS if signal.getsignal(sign) not in (signal.SIG_IGN, None)]
    before = {sign: signal.signal(sign, _terminate) for sign in ends}
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _open_streams() -> None:
    """Let a stream that was closed before the start (``>&-``), which Python holds as None, lead nowhere.

    Letters that a stream cannot carry, as in a name of a file under a code page of few letters, are written as escapes.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # as long as the process
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


class _Terminated(BaseException):
    """The process is asked to end. No SystemExit: a federation takes that of a client's code for the client's end."""

    def __init__(self, sign: int) -> None:
        super().__init__(sign)
        self.signal = sign


def _terminate(sign: int, _: object) -> None:
    raise _Terminated(sign)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[0] == "help":
            return _run([arguments[1], "--help"])
        print(overview(), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else ConfigError.exit_code
    if arguments[0] in ("-V", "--version"):
        print(f"dtheta {__version__}")
        return 0
    return run_verb(arguments[0], arguments[1:])


def run_verb(verb: str, arguments: list[str]) -> int:
    """Parse the options of one verb and run it.

    Raises:
        ConfigError: For an unknown verb or option, naming the nearest one.
    """
    if verb not in VERBS:
        raise ConfigError(f"there is no verb {verb!r}{did_you_mean(verb, VERBS)}; 'dtheta --help' lists them all")
    from dtheta.cli.console import Console
    from dtheta.cli.options import parse

    if verb in ACTIONS and (not arguments or arguments[0] in ("-h", "--help")):
        from dtheta.cli.help import actions_text

        about = import_module(f"dtheta.cli.{verb}").__doc__ or ""
        print(actions_text(verb, about), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else ConfigError.exit_code
    module, called, rest = _module(verb, arguments)
    options = parse(module.Options, rest, called, module.__doc__ or "")
    if options is None:  # the help was asked for, and is printed
        return 0
    return module.run(options, Console(json=options.json, quiet=options.quiet)) or 0


def _module(verb: str, arguments: Sequence[str]) -> tuple[ModuleType, str, Sequence[str]]:
    """Return the file of a verb, or of what it is to do, how both are called, and the arguments that are left.

    Raises:
        ConfigError: For an action that the verb has not.
    """
    if verb not in ACTIONS:
        return import_module(f"dtheta.cli.{verb}"), verb, arguments
    action = arguments[0] if arguments else ""
    if action not in ACTIONS[verb]:
        near = did_you_mean(action, ACTIONS[verb])
        raise ConfigError(f"expected {', '.join(ACTIONS[verb])} after 'dtheta {verb}', found {action!r}{near}")
    return import_module(f"dtheta.cli.{verb}_{action}"), f"{verb} {action}", arguments[1:]


def _show_warning(message: Warning | str, category: type[Warning], *place: object, **_: object) -> None:
    """Print a warning of ours as one line; those that other libraries address to programmers only when debugging."""
    if issubclass(category, DthetaWarning):
        print(f"dtheta: note: {message}", file=sys.stderr)
    elif os.environ.get("DTHETA_DEBUG") == "1":
        print(f"{category.__name__}: {message}", file=sys.stderr)


def overview() -> str:
    """Return the text of ``dtheta --help``."""
    width = max(map(len, VERBS))
    lines = ["dtheta: one exact object for everything that changes a pretrained network", ""]
    lines += ["usage: dtheta VERB [options]        dtheta VERB --help says more", ""]
    for title, names in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {VERBS[name]}" for name in names), ""]
    lines += ["Every verb takes --json, --quiet, --seed, --dry-run and --config FILE. Start with: dtheta demo", ""]
    return "\n".join(lines)


def _as_options(arguments: Sequence[str], message: str) -> str:
    """Return a message of the library in the words of the command line."""
    from dtheta.cli.options import fields_of
    from dtheta.cli.wording import in_options

    if not arguments or arguments[0] not in VERBS:
        return message
    try:
        module, _, _ = _module(arguments[0], arguments[1:])
    except ConfigError:
        return message
    return in_options(message, fields_of(module.Options))


def _fail(arguments: Sequence[str], message: str, code: int) -> int:
    verb = f" {arguments[0]}" if arguments and arguments[0] in VERBS else ""
    if os.environ.get("DTHETA_DEBUG") == "1" and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    try:
        print(f"dtheta{verb}: {message}", file=sys.stderr)
    except OSError:  # stderr is closed or full: the exit code must do
        pass
    return code


if __name__ == "__main__":
    sys.exit(main())
