"""What becomes of an exception, whatever its class does to prevent it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.client import description
from dlq_stream.client.description import CAUSES_MAX, TYPE_CHARS_MAX, describe, encodable
from dlq_stream.core.header_values import error_message_chars_max, error_stacktrace_bytes_max


def raised(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing raised")


class SensorError(ConnectionResetError):
    pass


def test_names_go_from_the_class_to_its_bases() -> None:
    """Rules may name the class or any base, dotted; what every error is says nothing."""
    assert describe(SensorError("x")).types == (
        f"{__name__}.SensorError",
        "ConnectionResetError",
        "ConnectionError",
        "OSError",
        "Exception",
    )


def test_a_plain_error_reads_as_python_prints_it() -> None:
    """The stack trace ends in the type and the message, and shows the failing line."""

    def fail() -> None:
        raise SensorError("no answer")

    found = describe(raised(fail))
    text = found.stacktrace.decode()
    assert found.message == "no answer"
    assert text.startswith("Traceback (most recent call last):\n")
    assert 'raise SensorError("no answer")' in text
    assert text.endswith(f"{__name__}.SensorError: no answer")


def test_an_error_that_was_never_raised_has_no_frames() -> None:
    """Its stack trace is its last line."""
    assert describe(ValueError("odd")).stacktrace == b"ValueError: odd"


@pytest.mark.parametrize("problem", [RuntimeError("again"), SystemExit(3), asyncio.CancelledError(), RecursionError()])
def test_a_message_that_raises_is_replaced(problem: BaseException) -> None:
    """Whatever __str__ raises stays where it is."""

    class Hostile(Exception):
        def __str__(self) -> str:
            raise problem

    found = describe(raised(lambda: (_ for _ in ()).throw(Hostile())))
    assert found.message == f"<no message: str() raised {describe(problem).types[0]}>"
    assert found.stacktrace.endswith(found.message.encode())


def test_ctrl_c_while_the_message_is_made_is_the_users() -> None:
    """Only KeyboardInterrupt passes: it came from outside."""

    class Slow(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(Slow())


def test_a_message_that_is_no_string_is_replaced() -> None:
    """str() raises TypeError then."""

    class Odd(Exception):
        def __str__(self) -> str:
            return 7  # type: ignore[return-value]

    assert "TypeError" in describe(Odd()).message


def test_a_string_with_methods_of_its_own_is_not_asked() -> None:
    """The message may be a subclass of str whose methods raise."""

    class Trap(str):
        def encode(self, *args: Any, **options: Any) -> bytes:
            raise RuntimeError

        def __getitem__(self, index: Any) -> str:
            raise RuntimeError

    class Odd(Exception):
        def __str__(self) -> str:
            return Trap("hello")

    assert describe(Odd()).message == "hello"


def test_classes_that_lie_are_read_past() -> None:
    """Properties of a metaclass or of the class do not get a say."""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError(name)

    class Liar(Exception, metaclass=Meta):
        __module__ = 5  # type: ignore[assignment]

        @property
        def __class__(self) -> Any:
            raise RuntimeError

        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            return Liar()

        @property
        def __traceback__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

    found = describe(Liar("x"))
    assert found.types[0].endswith("Liar")
    assert found.causes == ()


def test_a_class_name_stays_one_name() -> None:
    """Commas and line breaks in dynamic names would make two of it; long ones are cut."""
    name = describe(type("a,b\nc\x7f" + "x" * 500, (Exception,), {})()).types[0]
    assert len(name) == TYPE_CHARS_MAX
    assert not set(name) & set(",\n\x7f")


def test_a_cycle_of_causes_ends() -> None:
    """Each exception is looked at once."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    found = describe(first)
    assert found.causes == ("KeyError",)
    assert found.stacktrace.endswith(b"ValueError: first")


def test_an_endless_chain_of_causes_is_cut() -> None:
    """Ten thousand causes cost no more than the first few."""
    error = Exception("0")
    outermost = error
    for number in range(10_000):
        error.__cause__ = type(f"E{number}", (Exception,), {})(str(number))
        error = error.__cause__
    assert len(describe(outermost).causes) == CAUSES_MAX - 1


def test_the_cause_comes_first_in_the_stack_trace() -> None:
    """As Python prints chains."""

    def fail() -> None:
        try:
            raise TimeoutError("slow")
        except TimeoutError as error:
            raise RuntimeError("cannot calibrate") from error

    found = describe(raised(fail))
    text = found.stacktrace.decode()
    assert found.causes == ("TimeoutError",)
    assert text.index("TimeoutError: slow") < text.index("direct cause") < text.index("RuntimeError: cannot calibrate")


def test_a_suppressed_context_is_no_cause() -> None:
    """``raise ... from None`` is a decision."""

    def fail() -> None:
        try:
            raise TimeoutError
        except TimeoutError:
            raise RuntimeError from None

    assert describe(raised(fail)).causes == ()


def test_members_of_a_group_are_causes() -> None:
    """A task group wraps what really happened."""
    found = describe(ExceptionGroup("tasks", [TimeoutError("a"), KeyError("b"), TimeoutError("c")]))
    assert found.causes == ("TimeoutError", "KeyError")
    assert b"TimeoutError: a" in found.stacktrace


def test_of_an_enormous_traceback_the_innermost_frames_stay() -> None:
    """And the last line, and the cut is visible."""

    def deep(level: int) -> None:
        marker = f"level {level}"
        if level == 0:
            raise SensorError(f"at the bottom of {marker} " + "€" * 5_000)
        exec(f"{'#' * level}\ndeep(level - 1)  # {level}", {"deep": deep, "level": level})

    found = describe(raised(lambda: deep(300)))
    text = found.stacktrace.decode()
    assert len(found.stacktrace) <= error_stacktrace_bytes_max
    assert text.startswith("[the beginning is cut]\n")
    assert 'raise SensorError(f"at the bottom' in text
    assert "SensorError: at the bottom of level 0" in text.splitlines()[-1]


def test_locals_stay_in_the_process() -> None:
    """What a frame knew is nobody's business."""

    def fail() -> None:
        password = "hunter" + str(2)
        raise ValueError(len(password))

    found = describe(raised(fail))
    assert b"hunter2" not in found.stacktrace
    assert "hunter2" not in found.message


def test_frames_without_sources_are_named() -> None:
    """A loader that raises when asked for a line costs the line, not the frame."""

    class Loader:
        def get_source(self, name: str) -> str:
            raise RuntimeError("no sources here")

    space: dict[str, Any] = {"__name__": "generated", "__loader__": Loader()}
    exec(compile("def fail():\n    raise ValueError('x')", "<generated-7>", "exec"), space)
    assert b'File "<generated-7>", line 2, in fail' in describe(raised(space["fail"])).stacktrace


@pytest.mark.parametrize("thing", [None, "text", 7, object, type("Odd", (), {})()])
def test_what_is_no_exception_is_described_too(thing: object) -> None:
    """Callers make mistakes in their except blocks."""
    found = describe(thing)
    assert found.types
    assert found.stacktrace == b""


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_can_be_encoded(text: str) -> None:
    """Lone surrogates become escapes, everything else stays."""
    encodable(text).encode()
    assert describe(ValueError(text)).message == encodable(text)[:error_message_chars_max]


@given(st.integers(0, 40_000), st.sampled_from("aé€😀\ud800"))
def test_bounds_hold(length: int, char: str) -> None:
    """For messages of any length and width."""
    found = describe(ValueError(char * length))
    assert len(found.message) <= error_message_chars_max
    assert len(found.stacktrace) <= error_stacktrace_bytes_max


def test_frames_are_shown_as_python_shows_them() -> None:
    """Recursions are folded, and what is remembered from one failure to the next is the same text."""

    def one(depth: int) -> None:
        if depth:
            other(depth - 1) if depth % 7 == 0 else one(depth - 1)
        else:
            raise ValueError("deep")

    def other(depth: int) -> None:
        one(depth)

    for depth in (0, 1, 2, 3, 4, 5, 6, 7, 20, 50):
        with pytest.raises(ValueError, match="deep") as caught:
            one(depth)
        plain = "".join(traceback.StackSummary.extract(traceback.walk_tb(caught.tb)).format())
        for _ in range(2):
            assert plain in describe(caught.value).stacktrace.decode()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a class whose metaclass has a hash of its own is no hindrance."""
    monkeypatch.setattr(description, "REMEMBERED_MAX", 8)

    class Odd(type):
        def __hash__(cls) -> int:
            raise RuntimeError("no hash")

        def __eq__(cls, other: object) -> bool:
            raise RuntimeError("no comparison")

    for number in range(30):
        made = Odd(f"Error{number}", (ValueError,), {})
        assert describe(made()).types[0].endswith(f".Error{number}")
        assert len(description._types) <= 8
