"""What handlers may say about their failures: verdicts, reports from within, and what must not be told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.client import Permanent, PlainRecord, RetryAfter
from dlq_stream.client.current import current_handling, current_record, handling
from dlq_stream.client.delivery import delivery_of
from dlq_stream.client.report import Report, Reporting
from dlq_stream.core import headers as names
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.headers import FailureEvent, parse_failure
from dlq_stream.core.masking import Masking
from dlq_stream.core.model import ErrorCategory, Origin
from tests.client.test_report import GROUP, NOW_MS, Read, report, retried, sent


def raised(error: Exception, cause: BaseException | None = None) -> Exception:
    """The error as an except clause gets it."""
    try:
        try:
            raise KeyError("looked up before")
        except KeyError:
            if cause is None:
                raise error  # noqa: B904 - a mere context is what is wanted
            raise error from cause
    except Exception as caught:
        return caught


def event_of(error: object, **given: Any) -> FailureEvent:
    return parse_failure(sent(report(Read(), error, **given)))


def test_permanent_is_a_category() -> None:
    """Of subclasses as well; it is described by itself where nothing else was there."""

    class Poison(Permanent):
        pass

    event = event_of(raised(Poison("no such furnace")))
    assert event.kind.category is ErrorCategory.PERMANENT
    assert event.kind.error_types[0].endswith("Poison")
    assert event.error_message == "no such furnace"
    assert event.retry_after_ms is None


def test_what_the_caller_says_wins() -> None:
    """It stands nearest to the report."""
    assert event_of(Permanent(), category="transient").kind.category is ErrorCategory.TRANSIENT
    assert event_of(RetryAfter(5), category="permanent").kind.category is ErrorCategory.PERMANENT


@pytest.mark.parametrize(
    ("seconds", "wanted"), [(0, 0), (30, 30_000), (0.0001, 1), (1.5, 1_500), (1e15, names.retry_after_ms_max)]
)
def test_retry_after_is_a_header(seconds: float, wanted: int) -> None:
    """In whole milliseconds, never earlier than asked, and never more than the system takes.

    And it is a retry, also where the error behind it is one that is never retried.
    """
    event = event_of(raised(RetryAfter(seconds), ValueError("odd")))
    assert (event.retry_after_ms, event.kind.category) == (wanted, ErrorCategory.TRANSIENT)


@pytest.mark.parametrize("broken", ["soon", None, float("nan"), float("inf"), -5])
def test_a_broken_verdict_does_not_cost_the_report(broken: Any) -> None:
    """Attributes are anybody's."""
    error = RetryAfter(1)
    error.seconds = error.reason = broken
    assert event_of(raised(error, ValueError("x"))).retry_after_ms in (None, 0)


def test_people_see_the_error_behind_the_verdict() -> None:
    """The one that it was raised from, behind the reason; the stack trace has both.  A mere context is not enough."""
    event = event_of(raised(RetryAfter(30, "backend is busy"), TimeoutError("no answer")))
    assert event.kind.error_types[0] == "TimeoutError"
    assert event.error_message == "backend is busy: no answer"
    assert event.kind.cause_types == ()
    assert b"TimeoutError: no answer" in event.error_stacktrace
    assert b"RetryAfter: backend is busy" in event.error_stacktrace
    assert event_of(raised(RetryAfter(30), TimeoutError("no answer"))).error_message == "no answer"
    alone = event_of(raised(RetryAfter(30)))
    assert alone.kind.error_types[0] == "dlq_stream.client.errors.RetryAfter"
    assert alone.kind.cause_types == ("KeyError",)
    assert alone.error_message == "retry after 30 s"


def test_only_the_error_itself_is_a_verdict() -> None:
    """A cause says why, not what to do: whoever caught it and raised another error has decided otherwise."""
    event = event_of(raised(ValueError("odd"), Permanent("gone")))
    assert (event.kind.category, event.kind.error_types[0]) == (None, "ValueError")
    assert event_of(ExceptionGroup("two", [Permanent(), RetryAfter(1)])).kind.category is None


# --- reports from within a handler


def nested(record: Any, current: Any, group: str = GROUP) -> FailureEvent:
    return parse_failure(sent(report(record, group=group, current=current)))


def test_the_record_that_is_handled_continues_its_message_however_it_is_given() -> None:
    """By hand, without our headers or without its timestamp, from where it was read or where it came from."""
    first = report(Read(headers=(("hop", b"a"),)), queue="furnaces")
    current = retried(first, 2)
    by_hand = [
        current,
        PlainRecord("heat-processing", 3, current.offset, -1, b"FRN-01", b"{}", (("hop", b"b"),)),
        PlainRecord("heat-processing", 3, 81, -1, b"FRN-01", b"[]"),
        Read(),
    ]
    for record in by_hand:
        event = nested(record, current)
        assert (event.id.hex(), event.kind.attempt, event.kind.queue) == (first.message_id, 2, "furnaces")
        assert event.origin == Origin("heat-processing", 3, 81, 1_700_000_000_000)
    assert nested(by_hand[1], current).headers == (("hop", b"b"),)
    of_first_delivery = nested(PlainRecord("heat-processing", 3, 81, -1, None, None), Read())
    assert (of_first_delivery.id.hex(), of_first_delivery.kind.attempt) == (first.message_id, 0)


def test_another_record_is_reported_for_itself() -> None:
    """A handler that reports what it read elsewhere does so on purpose."""
    current = retried(report(Read()), 2)
    other = Read(offset=82)
    assert nested(other, current).id.hex() == report(other).message_id
    assert nested(other, current).kind.attempt == 0
    of_another_message = retried(report(other), 5)
    event = nested(of_another_message, current)
    assert (event.id.hex(), event.kind.attempt) == (report(other).message_id, 5)
    assert nested(Read(topic="elsewhere"), current).id.hex() == report(Read(topic="elsewhere")).message_id


def test_a_current_record_that_was_changed_on_its_way_is_no_hindrance() -> None:
    """A consumer with deserializers cannot be reported, but its handler can report something else."""
    assert nested(Read(offset=82), Read(value={"a": 1})).id.hex() == report(Read(offset=82)).message_id


async def test_the_current_record_follows_the_handler_and_nobody_else() -> None:
    """Through tasks and threads; two handlers at once have one each."""

    async def handler(record: Read) -> None:
        with handling(record) as handled:
            await asyncio.sleep(0)
            assert current_record() is record
            assert await asyncio.to_thread(current_record) is record
            assert await asyncio.create_task(asyncio.sleep(0, current_handling())) is handled

    await asyncio.gather(handler(Read()), handler(Read()))
    assert current_record() is None


# --- masking


def masked(record: Read, error: object = None, *, metadata: Any = None, **what: tuple[str, ...]) -> Report:
    reporting = Reporting(GROUP, True, Masking(**what))
    error = error or ValueError("odd")
    return reporting.report(record, error, queue=None, category=None, metadata=metadata, now_ms=NOW_MS)


def test_what_is_masked_never_leaves() -> None:
    """Neither where it stood nor where the error, its causes or the metadata quote it; and the report says so."""
    record = Read(value=b'{"card": "4111 1111", "kiln": 7}', headers=(("Token", b"s3cret"), ("hop", b"a")))
    error = raised(ValueError("bad card '4111 1111'"), KeyError("s3cret"))
    metadata = {"seen": ["4111 1111"], "s3cret": 1}
    made = masked(record, error, metadata=metadata, header_patterns=("token",), pointers=("/card",))
    for part in (made.value or b"", *(value or b"" for _, value in made.headers)):
        assert b"4111" not in part
        assert b"s3cret" not in part
    event = parse_failure(sent(made))
    assert event.value == b'{"card": "***", "kiln": 7}'
    assert event.headers == (("Token", b"***"), ("hop", b"a"), (names.MASKED, b"headers,value"))
    assert event.error_message == "bad card '***'"
    assert json.loads(event.metadata or b"") == {"seen": ["***"], "***": 1}
    assert made.message_id == report(record).message_id


def test_a_retry_of_what_was_masked_says_so_and_goes_on_saying_so() -> None:
    """Its handler can tell; the next report masks nothing more, and keeps what was said."""
    first = masked(Read(value=b'{"card": 41114111}', headers=(("token", b"abc"),)), pointers=("/card",))
    again = retried(first, 1)
    assert (again.value, delivery_of(again, GROUP)) == (b'{"card": "***"}', delivery_of(again, GROUP))
    delivery = delivery_of(again, GROUP)
    assert delivery is not None
    assert delivery.masked
    for what in ({"pointers": ("/card",)}, {}):
        assert dict(masked(again, **what).headers)[names.MASKED] == b"value"  # type: ignore[arg-type]
    both = masked(again, header_patterns=("token",))
    assert [value for name, value in both.headers if name == names.MASKED] == [b"headers,value"]
    untouched = delivery_of(retried(report(Read()), 1), GROUP)
    assert untouched is not None
    assert not untouched.masked


def test_a_payload_that_cannot_be_looked_into_stays_at_home() -> None:
    """And a record with nothing to hide is reported as it is."""
    assert masked(Read(value=b"\x00avro"), pointers=("/card",)).value == b"***"
    plain = Read(value=b'{"kiln":7}', headers=(("hop", b"a"),))
    assert masked(plain, pointers=("/card",), header_patterns=("token",)) == report(plain)


@given(st.text(min_size=4, max_size=30), st.text(max_size=3_000), st.integers(0, 3_000))
def test_a_secret_does_not_survive_being_cut(secret: str, filler: str, at: int) -> None:
    """An error message that is cut in the middle of a secret does not show its beginning."""
    record = Read(value=json.dumps({"s": "Z" + secret}).encode())
    text = filler[:at].replace("Z", "") + "Z" + secret
    event = parse_failure(sent(masked(record, ValueError(text), pointers=("/s",))))
    assert "Z" not in event.error_message


def test_locals_of_frames_are_never_told() -> None:
    """Whatever the functions on the way held."""

    def handler() -> None:
        password = "hunter2" + "-" + "x" * 3
        raise ValueError(len(password))

    try:
        handler()
    except ValueError as error:
        made = report(Read(), error)
    assert not [value for _, value in made.headers if b"hunter2-" in (value or b"")]


def test_a_wrong_mask_is_refused_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the code and in the environment, and never taken for nothing to hide."""
    from dlq_stream import FailureReporter

    for wrong in ({"mask_pointers": ["card"]}, {"mask_pointers": "/card"}, {"mask_headers": [""]}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            FailureReporter("localhost:9092", GROUP, **wrong)  # type: ignore[arg-type]
    monkeypatch.setenv("DLQ_MASK_POINTERS", "/card,number")
    with pytest.raises(ConfigurationError, match=r"mask_pointers.*DLQ_MASK_POINTERS.*not a JSON pointer"):
        FailureReporter("localhost:9092", GROUP)
    FailureReporter("localhost:9092", GROUP, mask_pointers=(), mask_headers=())


def test_masks_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """An operator sets them for agents whose code knows nothing of it; other settings do not disturb."""
    from dlq_stream.settings.masking import masking_in_force

    assert masking_in_force() == Masking()
    file = tmp_path / "dlq.toml"
    file.write_text('mask_headers = ["x-token"]\nmask_pointers = ["/a,b"]\nweb_port = "nonsense"\nunknown = 1\n')
    monkeypatch.setenv("DLQ_CONFIG", str(file))
    monkeypatch.setenv("DLQ_PARTITIONS", "many")
    assert masking_in_force() == Masking(("x-token",), ("/a,b",))
    monkeypatch.setenv("DLQ_MASK_HEADERS", "authorization, *-token")
    assert masking_in_force() == Masking(("authorization", "*-token"), ("/a,b",))
