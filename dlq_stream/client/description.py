"""What an exception says, as plain values for headers.  Pure, and it cannot raise.

This runs where something has failed already, on objects that somebody else's code made: ``str(error)`` may raise, class
attributes may lie, chains of causes may be cyclic, tracebacks a million frames long, messages full of lone surrogates.
So attributes are read through the descriptors of ``type`` and ``BaseException``, which no subclass can override; every
walk has a bound; and text is made encodable before anyone wants to encode it.  Locals of frames are never looked at:
they hold what must not leave the process.

The standard `traceback` module formats frames, but not whole exceptions: ``TracebackException`` calls ``str``, follows
every link, and builds the text of all frames before one can cut it.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, TypeVar

from dlq_stream.client.errors import Permanent, RetryAfter
from dlq_stream.core.header_values import error_message_chars_max, error_stacktrace_bytes_max
from dlq_stream.core.masking import Secrets

TYPE_CHARS_MAX = 200
"""A class name longer than this is cut."""
TYPES_MAX = 16
"""So many names are given of an error (its class and bases) and of its causes."""
CAUSES_MAX = 16
"""At most so many exceptions of a chain of causes (members of groups included) are looked at."""
FRAMES_MAX = 200
"""At most so many frames, the innermost ones, of each traceback are formatted; more would not fit anyway."""
LAST_LINE_CHARS_MAX = 1_000
"""The message is cut to this in the last line of a stack trace, so that frames have room beside it."""

REMEMBERED_MAX = 4_096
"""So many classes' names and frames' texts are remembered, for most failures of a process look alike; at the bound all
are forgotten."""
REPEATS_MAX = 3
"""A frame that repeats (a recursion) is shown so many times, as Python does."""

_CUT = "[the beginning is cut]\n"
_DIRECT = "\nThe above exception was the direct cause of the following exception:\n\n"
_DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"
_MEMBER = "\nThe above exception is a member of the following group:\n\n"
_UNINTERESTING = (object, BaseException)

# Read past whatever a class or its metaclass defines under the same names.
_QUALNAME = type.__dict__["__qualname__"].__get__
_MODULE = type.__dict__["__module__"].__get__
_MRO = type.__dict__["__mro__"].__get__
_CAUSE = BaseException.__dict__["__cause__"].__get__
_CONTEXT = BaseException.__dict__["__context__"].__get__
_SUPPRESS = BaseException.__dict__["__suppress_context__"].__get__
_TRACEBACK = BaseException.__dict__["__traceback__"].__get__
_MEMBERS = BaseExceptionGroup.__dict__["exceptions"].__get__


KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Description:
    """An error in words.  ``types``: the dotted class name, then its base classes; ``causes``: dotted class names."""

    types: tuple[str, ...]
    message: str
    stacktrace: bytes
    causes: tuple[str, ...]


NO_SECRETS = Secrets()


def describe(error: object, secrets: Secrets = NO_SECRETS) -> Description:
    """What ``error`` says, but no ``secrets``; it need not even be an exception.  ``causes``: nearest first, once each.

    Of a `Permanent` or `RetryAfter` that was raised from another error, that error is what people want to see: types,
    causes and message are its own, the message behind the reason that was given.  The stack trace shows both.
    """
    chain = list(_chain(error))
    subject, causes, reason = error, chain[1:], ""
    if is_verdict(error) and causes and causes[0][1] is _DIRECT:
        subject, causes, reason = causes[0][0], causes[1:], _reason_of(error)
    message = _message_of(subject, error_message_chars_max, secrets)
    if reason:
        message = f"{secrets.hide(reason)}: {message}"[:error_message_chars_max] if message else secrets.hide(reason)
    return Description(
        types=_types_of(type(subject)),
        message=message,
        stacktrace=_stacktrace_of(chain, secrets) if _is_exception(error) else b"",
        causes=tuple(dict.fromkeys(_types_of(type(cause))[0] for cause, _ in causes))[:TYPES_MAX],
    )


def is_verdict(error: object) -> bool:
    """Whether a handler overrules policy with it."""
    return issubclass(type(error), Permanent | RetryAfter)


def encodable(text: str) -> str:
    """The same text with everything that UTF-8 cannot encode (lone surrogates) written as escapes."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


def _is_exception(error: object) -> bool:
    return issubclass(type(error), BaseException)  # isinstance() would ask the object's own __class__


def _types_of(cls: type) -> tuple[str, ...]:
    """The dotted name of a class, then those of its bases."""
    # By identity, for a metaclass may have a hash of its own; the class is kept, so that its id stays its own.
    known = _types.get(id(cls))
    if known is None:
        bases = (base for base in _MRO(cls)[1:] if base not in _UNINTERESTING)
        names = tuple(_name_of(each) for each in (cls, *bases))[:TYPES_MAX]
        known = _remember(_types, id(cls), (cls, names))
    return known[1]


_types: dict[int, tuple[type, tuple[str, ...]]] = {}
_frames: dict[tuple[str, int, str], str] = {}


def _remember(known: dict[KeyT, ValueT], key: KeyT, value: ValueT) -> ValueT:
    if len(known) >= REMEMBERED_MAX:
        known.clear()
    known[key] = value
    return value


def _name_of(cls: type) -> str:
    """``package.module.Class``; without the module for builtins.  Commas separate names in the header, so none stay."""
    module, name = _MODULE(cls), _QUALNAME(cls)
    if type(module) is str and module != "builtins":
        name = f"{module}.{name}"
    name = "".join("_" if char == "," or char.isspace() or not char.isprintable() else char for char in name)
    return name[-TYPE_CHARS_MAX:]


def _reason_of(error: Any) -> str:
    try:
        reason = error.reason
    except Exception:  # a subclass of someone's own
        return ""
    return encodable(str.__getitem__(reason, slice(0, error_message_chars_max))) if type(reason) is str else ""


def _message_of(error: object, chars_max: int, secrets: Secrets) -> str:
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise  # the user's, not the message's
    except BaseException as problem:
        return f"<no message: str() raised {_name_of(type(problem))}>"
    # A secret that the end would cut in two is hidden while it is whole.
    text = secrets.hide(str.__getitem__(text, slice(0, chars_max + secrets.chars_max)))
    return encodable(text[:chars_max])[:chars_max]


def _chain(error: object) -> Iterator[tuple[Any, str]]:
    """``error``, then what led to it, nearest first, each once; and how each is linked to the one before."""
    found: deque[tuple[Any, str]] = deque([(error, "")])
    seen = {id(error)}
    for _ in range(CAUSES_MAX):
        if not found:
            return
        current, link = found.popleft()
        yield current, link
        for cause, how in _links(current):
            if id(cause) not in seen:
                seen.add(id(cause))
                found.append((cause, how))


def _links(error: Any) -> Iterator[tuple[BaseException, str]]:
    if not _is_exception(error):
        return
    if issubclass(type(error), BaseExceptionGroup):
        yield from ((member, _MEMBER) for member in _MEMBERS(error)[:CAUSES_MAX])
    if (cause := _CAUSE(error)) is not None:
        yield cause, _DIRECT
    elif (context := _CONTEXT(error)) is not None and not _SUPPRESS(error):
        yield context, _DURING


def _stacktrace_of(chain: list[tuple[Any, str]], secrets: Secrets) -> bytes:
    """The chain as Python prints it, causes first; what is too much is cut at the beginning."""
    text = ""
    for error, link in chain:
        text = secrets.hide(_block(error, secrets)) + link + text
        if len(text) > error_stacktrace_bytes_max:
            break
    return _tail(text, error_stacktrace_bytes_max)


def _block(error: BaseException, secrets: Secrets) -> str:
    frames: deque[tuple[FrameType, int]] = deque(maxlen=FRAMES_MAX)
    step: TracebackType | None = _TRACEBACK(error)
    while step is not None:
        frames.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    message = _message_of(error, LAST_LINE_CHARS_MAX, secrets)
    last = _types_of(type(error))[0] + (f": {message}" if message else "")
    head = "Traceback (most recent call last):\n" if frames else ""
    return f"{head}{_frames_text(frames)}{last}\n"


def _frames_text(frames: deque[tuple[FrameType, int]]) -> str:
    """The frames as Python prints them, repeats included."""
    text, last, repeats = "", None, 0
    for frame, line in frames:
        code = frame.f_code
        place = (code.co_filename, line, code.co_name)
        if place != last:
            text += _repeated(repeats)
            last, repeats = place, 0
        repeats += 1
        if repeats <= REPEATS_MAX:
            text += _frames.get(place) or _remember(_frames, place, _frame_text(frame, line))
    return text + _repeated(repeats)


def _repeated(times: int) -> str:
    more = times - REPEATS_MAX
    return f"  [Previous line repeated {more} more time{'s' if more > 1 else ''}]\n" if more > 0 else ""


def _frame_text(frame: FrameType, line: int) -> str:
    try:
        return "".join(traceback.StackSummary.extract(iter([(frame, line)]), capture_locals=False).format())
    except Exception:  # a source loader of someone's own, asked for a line, may do anything
        return f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n'


def _tail(text: str, bytes_max: int) -> bytes:
    raw = encodable(text).encode().rstrip(b"\n")
    if len(raw) <= bytes_max:
        return raw
    kept = raw[len(raw) - bytes_max + len(_CUT) :]
    return (_CUT + kept.decode(errors="ignore")).encode()  # a character cut in two is dropped
