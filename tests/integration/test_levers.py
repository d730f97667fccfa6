"""What an operator types: the commands as processes, on a real broker, with a worker that obeys them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shlex
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import ConsumerRecord

from tests.integration.conftest import MakeApp
from tests.integration.harness import CLI, App, attempt_of, eventually, id_of
from tests.kafka_clients import Outgoing
from tests.kafka_fixture import LocalKafka

LONG_SECONDS = 600
HOSTILE = "\x1b]0;owned\x07\x1b[2Jboom \u202egnp.exe"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """Retries are so far away that whatever happens is an operator's doing."""
    directory = tmp_path_factory.mktemp("levers")
    async with App(kafka, directory, initial_backoff_seconds=LONG_SECONDS, max_backoff_seconds=LONG_SECONDS) as app:
        await app.init()
        await app.worker().start()
        yield app


async def failed(app: App, source: str, count: int, **headers: object) -> list[ConsumerRecord]:
    """Records whose failures are stored and wait."""
    records = await app.produced(*(Outgoing(source, b'{"n":%d}' % n, b"key") for n in range(count)))
    await app.send(*(app.failure(record, **headers) for record in records))
    await app.processed()
    return records


async def told(app: App, *arguments: str, code: int = 0) -> Any:
    """What a command says with ``--json``."""
    done = await app.run(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def listed(app: App, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await told(app, "list", *arguments))["messages"]
    return found


async def test_list_says_what_waits_next_due_first(app: App) -> None:
    """As a table and as JSON, by every filter; how many more there are, and of which moment the answer is."""
    source, other = await app.source(), await app.source()
    first = await failed(app, source, 3)
    second = await failed(app, source, 1, error_type="httpx.ReadTimeout,Exception")
    await failed(app, other, 1)
    now = int(time.time() * 1000)
    answer = await told(app, "list", "--queue", source)
    ids = [each["message_id"] for each in answer["messages"]]
    assert answer["matched"] == 4
    assert sorted(ids[:3]) == sorted(map(id_of, first))
    assert ids[3] == id_of(second[0])
    assert [each["due_ms"] for each in answer["messages"]] == sorted(each["due_ms"] for each in answer["messages"])
    assert answer["lag"] == {"failures": 0, "commands": 0}
    assert abs(answer["as_of_ms"] - now) < 30_000
    assert 0 <= answer["age_seconds"] < 30
    row = answer["messages"][0]
    assert (row["status"], row["attempt"], row["revision"], row["error_type"]) == ("pending", 0, 1, "TimeoutError")
    assert row["original"]["topic"] == source
    by_type, by_status, by_age, by_pattern, few, everything = await asyncio.gather(
        listed(app, "--queue", source, "--error-type", "ReadT*"),
        listed(app, "--queue", source, "--status", "escalated"),
        listed(app, "--queue", source, "--older-than", "1h"),
        listed(app, "--queue", "heat-*", "--older-than", "0s", "--all"),
        app.run("list", "--queue", source, "--limit", "3"),
        app.run("list", "--queue", source, "--all"),
    )
    assert [each["message_id"] for each in by_type] == ids[3:]
    assert by_status == by_age == []
    assert len(by_pattern) >= 5
    text = few.stdout.splitlines()
    assert text[0].startswith(f"{app.app_id}, as of 20")
    assert text[0].endswith("not yet processed: failures 0, commands 0")
    assert text[2].split() == ["ID", "QUEUE", "STATUS", "ERROR", "TYPE", "ATTEMPT", "AGE", "DUE"]
    assert [line.split()[0] for line in text[3:6]] == ids[:3]
    assert text[6:] == ["", "1 more of 4; --limit N or --all shows them"]
    assert everything.stdout.splitlines()[7:] == ["", "4 messages"]


async def test_retry_by_id_is_done_and_said(app: App) -> None:
    """The result of each; given again, by the revision that is now, there is nothing to retry: not sent, code 1."""
    source = await app.source()
    records = await failed(app, source, 2)
    ids = [id_of(each) for each in records]
    unknown = "00" * 16
    done = await app.run("retry", *ids, "--by", "ops")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines[:2]) == sorted(ids)
    assert all(line.split(maxsplit=1)[1].startswith("applied") for line in lines[:2])
    assert lines[2].startswith("retry: 2 applied; sent 2 in ")
    retries = (await app.until(source, 4))[-2:]
    await app.figures(source, retrying=2)
    again = await told(app, "retry", ids[0], unknown, code=1)
    assert [(each["message_id"], each["outcome"], each["status"]) for each in again["results"]] == [
        (ids[0], "not_applicable", "retrying"),
        (unknown, "absent", None),
    ]
    assert again["results"][0]["why"] == "retry is for pending messages, this one is retrying"
    assert (again["sent"], again["counts"]) == (0, {"absent": 1, "not_applicable": 1})
    assert {attempt_of(each) for each in retries} <= {0, 1}


async def test_every_order_changes_what_it_says(app: App) -> None:
    """Reschedule, escalate, redrive, resolve, purge, one after the other, on one message."""
    source = await app.source()
    (record,) = await failed(app, source, 1)
    id_ = id_of(record)

    async def result(*arguments: str) -> dict[str, Any]:
        answer = await told(app, arguments[0], id_, *arguments[1:])
        (one,) = answer["results"]
        assert one["outcome"] == "applied", answer
        found: dict[str, Any] = one
        return found

    before = int(time.time() * 1000)
    one = await result("reschedule", "--in", "2h")
    assert 0 <= one["due_ms"] - before - 7_200_000 < 60_000
    one = await result("reschedule", "--at", "2099-01-01T00:00:00Z", "--reason", "the summer break")
    assert (one["status"], one["revision"], one["due_ms"]) == ("pending", 3, 4_070_908_800_000)
    one = await result("escalate", "--reason", "hopeless", "--by", "ops")
    assert (one["status"], one["revision"]) == ("escalated", 4)
    await app.until(f"{source}-dlq", 1)
    row = await app.row(id_, status="escalated", dead_letter="written")
    assert row.detail == "hopeless (ops)"
    one = await result("redrive")
    assert (one["status"], one["revision"]) == ("pending", 5)
    await app.row(id_, status="retrying")
    one = await result("resolve", "--reason", "done by hand", "--by", "ops")
    assert one["status"] == "resolved"
    one = await result("purge")
    assert one["status"] is None
    assert id_ not in await app.rows()
    assert await listed(app, "--queue", source) == []


async def test_a_filter_shows_and_asks_first(app: App) -> None:
    """Without a terminal and ``--yes`` it does nothing, with code 2; ``--dry-run`` does nothing either."""
    source = await app.source()
    await failed(app, source, 7)
    where = ("--queue", source, "--status", "pending")
    refused = await app.run("escalate", *where)
    assert refused.returncode == 2
    assert "7 fit, escalate is for 7" in refused.stdout
    assert "... and 2 more" in refused.stdout
    assert "Nobody can be asked, standard input is no terminal: give --yes" in refused.stderr
    dry = await app.run("escalate", *where, "--dry-run", "--limit", "3")
    assert dry.returncode == 0
    assert "7 fit, escalate is for 7: the first 3 (--limit)" in dry.stdout
    assert "dry run: nothing was sent, 3 would have been" in dry.stdout
    none = await app.run("escalate", "--queue", f"{source}-none")
    assert (none.returncode, "0 fit, escalate is for 0" in none.stdout) == (0, True)
    await app.figures(source, pending=7)


async def test_a_filter_redrives_a_canary_and_then_the_rest_at_a_pace(app: App) -> None:
    """The oldest first, at most so many a second, as the emissions' own times show; what it is not for is counted."""
    source = await app.source()
    records = await failed(app, source, 13)
    await told(app, "escalate", *map(id_of, records[:12]))
    await app.until(f"{source}-dlq", 12)
    order = [each["message_id"] for each in await listed(app, "--queue", source, "--status", "escalated")]
    canary = await told(app, "redrive", "--queue", source, "--limit", "2", "--yes")
    assert [each["message_id"] for each in canary["results"]] == order[:2]
    assert (canary["matched"], canary["selected"], canary["counts"]) == (13, 2, {"applied": 2})
    await app.until(source, 15)
    rest = await app.run("redrive", "--queue", source, "--yes", "--rate", "5")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert "not for 3 (pending 1, retrying 2)" in rest.stdout
    last = rest.stdout.splitlines()[-1]
    assert last.startswith("redrive: 10 applied; sent 10 in ")
    assert 4.0 < float(last.rsplit(", ", 1)[1].split()[0]) <= 5.3
    emitted = sorted(each.timestamp for each in (await app.until(source, 25)) if attempt_of(each))[-10:]
    assert emitted[-1] - emitted[0] >= 1_500


async def test_ids_from_standard_input(app: App) -> None:
    """``list --json | jq ... | dlq-stream resolve -``."""
    source = await app.source()
    ids = [id_of(each) for each in await failed(app, source, 3)]
    done = await asyncio.to_thread(
        subprocess.run,
        [*CLI, "resolve", "-"],
        input="\n".join([*ids, ids[0]]),
        capture_output=True,
        text=True,
        timeout=60,
        env=app.environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    await app.figures(source, resolved=3, total_resolved_by_operator=3)


async def piped(app: App, arguments: str, reader: str) -> tuple[int, str, str]:
    """A command whose output goes to another one: its exit code, what came through, and what it said itself."""
    script = f"{shlex.join(CLI)} {arguments} | {reader}; exit ${{PIPESTATUS[0]}}"
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], capture_output=True, text=True, timeout=60, env=app.environment
    )
    return done.returncode, done.stdout, done.stderr


async def test_a_reader_that_has_enough_is_no_crash(app: App) -> None:
    """``dlq-stream list | head``; orders stop, and what was sent is said where it can still be read."""
    source = await app.source()
    await failed(app, source, 5)
    code, out, err = await piped(app, f"list --queue {source}", "head -1")
    assert (code, len(out.splitlines()), err) == (1, 1, "")
    code, _, err = await piped(app, f"resolve --queue {source} --yes --rate 2", "head -1")
    assert code == 1
    assert "resolve: " in err
    assert "sent " in err
    assert "Traceback" not in err


async def test_a_terminal_is_asked_and_shows_progress(app: App) -> None:
    """A yes on the terminal is a yes; the bar is gone before the results."""
    source = await app.source()
    await failed(app, source, 3)
    main, end = pty.openpty()
    process = await asyncio.to_thread(
        subprocess.Popen,
        [*CLI, "resolve", "--queue", source],
        stdin=end,
        stdout=end,
        stderr=end,
        env=app.environment | {"TERM": "xterm"},
    )
    os.close(end)
    os.write(main, b"y\n")
    seen = b""

    def read_all() -> None:
        nonlocal seen
        try:
            while chunk := os.read(main, 4096):
                seen += chunk
        except OSError:  # the other end is closed
            return

    await asyncio.to_thread(read_all)
    assert await asyncio.to_thread(process.wait, 30) == 0
    os.close(main)
    text = seen.decode()
    assert "resolve 3 messages? [y/N]" in text
    assert "100%" in text
    assert text.count("applied") == 4
    await app.figures(source, resolved=3)


async def test_without_a_worker_orders_are_not_confirmed_but_obeyed_later(app: App) -> None:
    """Code 1, and said; an interrupt says what was sent, which is not all; given twice before a worker comes, each
    counts once."""
    source = await app.source()
    ids = [id_of(each) for each in await failed(app, source, 3)]
    (worker,) = app.workers
    await worker.stop()
    first = await told(app, "resolve", *ids, "--confirm-seconds", "0", code=1)
    assert (first["counts"], first["lag"]) == ({"unconfirmed": 3}, {"failures": 0, "commands": 0})
    again = await app.run("resolve", *ids, "--confirm-seconds", "0.5")
    assert again.returncode == 1
    assert "resolve: 3 not confirmed; sent 3" in again.stdout
    assert "is a worker running?" in again.stdout
    process = await asyncio.to_thread(
        subprocess.Popen,
        [*CLI, "resolve", *ids, "--rate", "1", "--confirm-seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=app.environment,
    )
    await eventually(app.status, wanted=lambda told: told["lag"]["commands"] > 6)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 1
    assert "told to stop" in err
    assert "resolve: " in out
    assert "not sent" in out
    assert "Traceback" not in err
    await worker.start()
    await app.figures(source, resolved=3, total_resolved_by_operator=3)


async def test_a_message_that_changes_meanwhile_is_not_claimed(app: App) -> None:
    """Someone resolves it while its turn is waited for: it is not sent, and said what it is now."""
    source = await app.source()
    await failed(app, source, 6)
    ids = [each["message_id"] for each in await listed(app, "--queue", source)]
    process = await asyncio.to_thread(
        subprocess.Popen,
        [*CLI, "escalate", "--queue", source, "--yes", "--rate", "1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=app.environment,
    )
    await app.row(ids[0], status="escalated")
    await app.send(app.command("resolve", ids[-1], revision=1, by="somebody else"))
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 1, out + err
    answer = json.loads(out)
    outcomes = {each["message_id"]: (each["outcome"], each["status"]) for each in answer["results"]}
    assert outcomes.pop(ids[-1]) == ("changed", "resolved")
    assert set(outcomes.values()) == {("applied", "escalated")}
    assert answer["sent"] == 5


async def test_show_tells_all_there_is_of_a_message(app: App) -> None:
    """State, every attempt, headers and payload; what settings hide is hidden, also where an error repeats it."""
    source = await app.source()
    value = b'{"card": {"number": "4111-1111"}, "id": 12345678901234567890123}'
    headers = [("Authorization", b"Bearer s3cr3t"), ("trace", b"\xff\x00"), ("trace", None)]
    (record,) = await app.produced(Outgoing(source, value, b"key", headers))
    words = {"error_message": "no card 4111-1111", "error_stacktrace": "at line 1\nat line 2", "metadata": '{"a":1}'}
    await app.send(app.failure(record, error_cause_type="OSError", **words))
    id_ = id_of(record)
    await app.row(id_, status="pending")
    await told(app, "retry", id_)
    (retry,) = [each for each in await app.until(source, 2) if attempt_of(each) == 1]
    await app.send(app.failure(retry, error_message="again"))
    await app.row(id_, status="pending", attempt=1)
    hidden = ("--mask-headers", "auth*", "--mask-pointers", "/card/number")
    answer, masked, plain, unmasked = await asyncio.gather(
        told(app, "show", id_),
        told(app, "show", id_, *hidden),
        app.run("show", id_, *hidden),
        app.run("show", id_, *hidden, "--unmasked"),
    )
    assert (answer["message"]["message_id"], answer["message"]["revision"]) == (id_, 4)
    first, second = answer["attempts"]
    assert (first["attempt"], first["error_types"], first["cause_types"]) == (0, ["TimeoutError"], ["OSError"])
    assert (first["error_message"], first["stacktrace"]) == ("no card 4111-1111", "at line 1\nat line 2")
    assert first["metadata"]["content"] == {"a": 1}
    assert (second["attempt"], second["error_message"]) == (1, "again")
    kept = answer["record"]
    assert (kept["key"]["kind"], kept["key"]["content"]) == ("text", "key")
    assert [(each["name"], each["kind"], each["content"]) for each in kept["headers"]] == [
        ("Authorization", "text", "Bearer s3cr3t"),
        ("trace", "hex", "ff00"),
        ("trace", "null", None),
    ]
    assert kept["value"]["content"] == json.loads(value)
    assert kept["masked"] == []
    assert masked["record"]["value"]["content"]["card"] == {"number": "***"}
    assert masked["record"]["headers"][0]["content"] == "***"
    assert masked["record"]["masked"] == ["headers", "value"]
    assert masked["attempts"][0]["error_message"] == "no card ***"
    text = plain.stdout
    assert "4111" not in text
    assert "s3cr3t" not in text
    assert '    "number": "***"' in text
    assert '"id": 12345678901234567890123' in text
    assert "status    pending, due 20" in text
    assert "4111-1111" in unmasked.stdout


async def test_hostile_bytes_do_not_reach_the_terminal(app: App) -> None:
    """Payload, headers, error texts and metadata may hold anything; what is shown is printable, and whole for JSON."""
    source = await app.source()
    headers = [(HOSTILE, HOSTILE.encode()), ("x", b"\x9b\xff")]
    (record,) = await app.produced(Outgoing(source, HOSTILE.encode() * 2_000, HOSTILE.encode(), headers))
    hostile = dict.fromkeys(("error_type", "error_message", "error_stacktrace", "error_cause_type"), HOSTILE)
    await app.send(app.failure(record, **hostile, metadata=HOSTILE))
    id_ = id_of(record)
    await app.row(id_, status="pending")
    outputs = await asyncio.gather(
        app.run("list", "--queue", source),
        app.run("list", "--queue", source, "--json"),
        app.run("show", id_),
        app.run("show", id_, "--json"),
        app.run("escalate", "--queue", source, "--dry-run"),
    )
    for done in outputs:
        assert done.returncode == 0, done.stderr
        assert all(char == "\n" or char.isprintable() for char in done.stdout), done.args
        assert "\\x1b]0;owned" in done.stdout or "\\u001b]0;owned" in done.stdout
    assert "--full shows them all" in outputs[2].stdout
    answer = json.loads(outputs[3].stdout)
    assert answer["record"]["value"]["content"] == HOSTILE * 2_000
    missing = await app.run("show", "00" * 16)
    assert missing.returncode == 1
    assert "there is none; it was never reported here, or purged" in missing.stderr


async def test_quarantine_is_listed_shown_and_retried(app: App) -> None:
    """What makes no more sense than before is held again, for the same reason, and said."""
    source = await app.source()
    (record,) = await app.produced(Outgoing(source, b'{"n": 1}', b"key"))
    bad = app.failure(record, retry_after_ms="soon", error_message=HOSTILE)
    (sent,) = await app.send(bad)
    await app.processed()
    answer = await told(app, "quarantine", "list", "--kind", "failures", "--reason", "retry-after")
    (held,) = answer["records"]
    assert held["received"] == {"topic": app.topic("failures"), "partition": sent.partition, "offset": sent.offset}
    assert "soon" in held["reason"]
    assert (held["kind"], held["value_bytes"], held["packed"], held["cut"]) == ("failures", 8, False, None)
    table = (await app.run("quarantine", "list", "--kind", "failures", "--reason", "retry-after")).stdout
    assert held["record"] in table
    one = await told(app, "quarantine", "show", held["record"])
    assert (one["value"]["content"], one["reason"]) == ({"n": 1}, held["reason"])
    assert "dlq-retry-after-ms" in {each["name"] for each in one["headers"]}
    text = (await app.run("quarantine", "show", held["record"])).stdout
    assert all(char == "\n" or char.isprintable() for char in text)
    asked = await app.run("quarantine", "retry", "--reason", "retry-after")
    assert asked.returncode == 2
    assert "1 fit, 1 are meant" in asked.stdout
    again = await told(app, "quarantine", "retry", held["record"], "99-0", code=1)
    by_record = {each["record"]: each for each in again["results"]}
    assert by_record[held["record"]]["outcome"] == "held_again"
    assert "soon" in by_record[held["record"]]["said"]
    assert by_record["99-0"]["outcome"] == "absent"
    assert len(await quarantined(app, "retry-after")) == 2


async def quarantined(app: App, reason: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await told(app, "quarantine", "list", "--reason", reason, "--all"))["records"]
    return found


async def test_quarantine_retry_works_after_the_settings_changed(kafka: LocalKafka, make_app: MakeApp) -> None:
    """A topic that was not allowed is allowed now: twice retried it is one message, also where nobody named an id."""
    app = await make_app(
        kafka, allowed_topics="none", initial_backoff_seconds=LONG_SECONDS, max_backoff_seconds=LONG_SECONDS
    )
    worker = await app.worker().start()
    source = await app.source()
    (record,) = await app.produced(Outgoing(source, b"value", b"key"))
    named = app.failure(record)
    nameless = Outgoing(app.topic("failures"), b"other", b"key", [("dlq-original-topic", source.encode())])
    await app.send(named, nameless)
    await app.processed()
    assert {each["kind"] for each in await quarantined(app, "")} == {"failures"}
    assert (await app.status())["queues"] == []
    await worker.stop()
    waiting = await app.run("quarantine", "retry", "--all", "--yes", "--confirm-seconds", "0")
    assert (waiting.returncode, waiting.stdout.count("not confirmed")) == (1, 3)
    worker.environment["DLQ_ALLOWED_TOPICS"] = "heat*"
    await worker.start()
    done = await app.run("quarantine", "retry", "--all", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "quarantine retry: 2 taken in"
    await app.figures(source, pending=2, duplicate=2)
    rows = await app.rows()
    assert id_of(record) in rows
    assert len(rows) == 2
