"""The command line without brokers: help, options, what is missing, and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import click
import pytest
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError, TopicAuthorizationFailedError, UnknownError
from click.testing import CliRunner, Result

from dlq_stream import __version__
from dlq_stream.cli import COMMANDS, main
from dlq_stream.cli import run as run_module
from dlq_stream.cli.options import LineOption
from dlq_stream.cli.run import EXTRAS, guard, need_extras
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, DLQError, UnsupportedFormat
from dlq_stream.settings import QueueSettings, Settings
from dlq_stream.settings.groups import AGENT_GROUPS, COMMAND_GROUPS, GROUPS

ID = "0123456789abcdef" * 2
NEEDED = {
    "policy set": ["heat", "--max-retries", "5"],
    "policy apply": [os.devnull],
    "show": [ID],
    "reschedule": [ID, "--in", "1h"],
    **{name: [ID] for name in ("retry", "resolve", "escalate", "redrive", "purge")},
    "quarantine show": ["3-1042"],
    "quarantine retry": ["3-1042"],
}
"""What a command does nothing without."""


def leaves() -> dict[str, click.Command]:
    """Every command by its words, those of groups one by one."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


LEAVES = leaves()

ALIKE = ("reschedule", "resolve", "escalate", "redrive", "purge")
"""Made as ``retry`` is."""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_version() -> None:
    """The installed version, and nothing else."""
    done = invoke("--version")
    assert (done.exit_code, done.output) == (0, f"dlq-stream {__version__}\n")


def test_version_and_help_load_next_to_nothing() -> None:
    """Whoever asks for the version does not wait for Kafka clients, Faust or pydantic."""
    probe = (
        "import sys; from dlq_stream.cli import main; main([sys.argv[1]], standalone_mode=False);"
        "print([name for name in ('pydantic', 'aiokafka', 'faust', 'rocksdict', 'rich') if name in sys.modules])"
    )
    for argument in ("--version", "--help"):
        done = subprocess.run([sys.executable, "-c", probe, argument], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_commands_in_order() -> None:
    """With one line each."""
    done = invoke("--help")
    listed = [line.split()[0] for line in done.output.partition("Commands:")[2].splitlines() if line]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", LEAVES)
def test_every_command_has_help(command: str) -> None:
    """Each is importable without brokers and says what it does."""
    done = invoke(*command.split(), "--help")
    assert done.exit_code == 0
    assert "--config" in done.output
    assert "DLQ_CONFIG" in done.output


def test_the_worker_has_an_option_for_every_setting() -> None:
    """But for the tables, which are the file's."""
    done = invoke("worker", "--help")
    for group in GROUPS:
        for name in group.model_fields:
            assert f"--{name.replace('_', '-')}" in done.output
            assert f"DLQ_{name.upper()}" in done.output.replace("\n", "").replace(" ", "")


def test_no_field_is_forgotten() -> None:
    """A field that is in no group has no option; only the file's own tables may be without."""
    grouped = {name for group in (*GROUPS, *AGENT_GROUPS, *COMMAND_GROUPS.values()) for name in group.model_fields}
    assert set(Settings.model_fields) - grouped == {"config", "queues", "rules", "by_error"}
    for command, group in COMMAND_GROUPS.items():
        assert all(name.startswith(f"{command}_") for name in group.model_fields)


@pytest.mark.parametrize("command", LEAVES)
def test_every_option_is_a_variable_and_a_key_of_the_file(command: str) -> None:
    """Without exception, but for ``--help`` and what is said on the command line only, which is no setting at all."""
    options = {each.name: each for each in LEAVES[command].params if isinstance(each, click.Option)}
    ours = {name for name, option in options.items() if isinstance(option, LineOption)}
    assert not ours & Settings.model_fields.keys()
    assert options.keys() - ours <= Settings.model_fields.keys()
    for name in options.keys() - ours:
        assert f"DLQ_{str(name).upper()}]" in str(options[name].help)


@pytest.mark.parametrize(
    ("command", "options", "variable", "key", "expected"),
    [
        ("init", ["--source", "a", "b"], "a, b", '["a", "b"]', {"init_source": ("a", "b")}),
        ("status", ["--json"], "yes", "true", {"status_json": True}),
        ("demo", ["--no-tty"], "0", "false", {"demo_tty": False}),
        ("demo", ["--seconds", "7"], "7", "7", {"demo_seconds": 7.0}),
    ],
)
def test_options_of_one_command_carry_its_name_elsewhere(
    command: str,
    options: list[str],
    variable: str,
    key: str,
    expected: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``--json`` of status is DLQ_STATUS_JSON and ``status_json``: wherever it is said, it means the same."""
    seen: list[Settings] = []
    monkeypatch.setattr(f"dlq_stream.cli.{command}._{command}", lambda settings: seen.append(settings) or 0)
    ((name, value),) = expected.items()
    file = tmp_path / "s.toml"
    file.write_text(f"{name} = {key}")
    assert invoke(command).exit_code == 0
    assert invoke(command, *options).exit_code == 0
    assert invoke(command, "--config", str(file)).exit_code == 0
    monkeypatch.setenv(f"DLQ_{name.upper()}", variable)
    said = invoke(command)
    assert (said.exit_code, said.stderr) == (0, "")
    default = Settings.model_fields[name].default
    assert [getattr(settings, name) for settings in seen] == [default, value, value, value]
    assert default != value


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["unknown"], "No such command"),
        (["init", "--nonsense"], "No such option"),
        (["init", "stray"], "source topics follow --source"),
        (["init", "--partitions", "0"], "partitions = '0' (from option --partitions)"),
        (["init", "--emit-to", "moon"], "emit-to"),
        (["status", "--config", "/nowhere/x.toml"], "settings file /nowhere/x.toml"),
        (["demo", "--seconds", "0"], "demo_seconds = '0' (from option --seconds)"),
        (["policy", "set", "heat"], "nothing to set"),
        (["policy", "set", "heat", "--reset", "--max-retries", "1"], "goes with no other field"),
        (["policy", "set", "heat", "--unset", "jitter", "--jitter", "full"], "and --unset jitter, too"),
        (["policy", "apply", "/nowhere/x.toml"], "policy file /nowhere/x.toml: No such file or directory; FILE must"),
        (["list", "--older-than", "5"], "'5' is not a duration"),
        (["list", "--status", "purged"], "'purged' is not one of"),
        (["show", "abc"], "'abc' is not a message id"),
        (["retry"], "which messages?"),
        (["retry", "xyz"], "'xyz' is not a message id"),
        (["retry", ID, "--queue", "heat"], "not both"),
        (["retry", ID, "--limit", "3"], "--limit belongs to a filter"),
        (["retry", ID, "--rate", "0"], "--rate"),
        (["retry", ID, "--reason", "x" * 1001], "--reason: 1001 characters, at most 1000"),
        (["reschedule", ID], "reschedule to when?"),
        (["reschedule", ID, "--in", "1h", "--at", "2026-11-25T06:00:00Z"], "one of them"),
        (["reschedule", ID, "--at", "2026-11-25T06:00:00"], "names no time zone"),
        (["quarantine", "show", "3"], "'3' is no record in quarantine"),
        (["quarantine", "retry"], "name records"),
    ],
)
def test_usage_and_configuration_are_code_2(arguments: list[str], told: str) -> None:
    """The text names what was wrong."""
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert told in done.output


def test_brokers_that_do_not_answer_are_code_69() -> None:
    """After --wait-seconds, with the addresses."""
    done = invoke("init", "--brokers", "127.0.0.1:1", "--wait-seconds", "0")
    assert done.exit_code == 69
    assert "no Kafka broker answered at 127.0.0.1:1" in done.output


def test_a_switch_of_a_setting_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--no-...`` beats a file that says yes; unset leaves the file's word."""
    seen: list[Settings] = []
    monkeypatch.setattr("dlq_stream.cli.init._init", lambda settings: seen.append(settings) or 0)
    file = tmp_path / "s.toml"
    file.write_text("write_compacted = true")
    assert invoke("init", "--config", str(file)).exit_code == 0
    assert invoke("init", "--config", str(file), "--no-write-compacted").exit_code == 0
    assert [settings.write_compacted for settings in seen] == [True, False]


def test_sources_may_follow_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--source a b`` is ``--source a --source b``."""
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr("dlq_stream.cli.init._init", lambda settings: seen.append(settings.init_source) or 0)
    invoke("init", "--source", "a", "b", "--partitions", "3", "--source", "c")
    assert [sorted(sources) for sources in seen] == [["a", "b", "c"]]


def test_variables_that_set_nothing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in the environment is a warning on standard error."""
    monkeypatch.setattr("dlq_stream.cli.init._init", lambda _: 0)
    monkeypatch.setenv("DLQ_BROKER", "x")
    done = invoke("init")
    assert done.exit_code == 0
    assert done.stderr == "Warning: environment variable DLQ_BROKER sets nothing; did you mean 'DLQ_BROKERS'?\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", [name for name in LEAVES if name not in ALIKE])
def test_a_command_that_waits_for_brokers_can_be_told_to_stop(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    """Code 0, at once, and a word on standard error: as when a worker runs."""
    environment = os.environ | {"DLQ_LOG_LEVEL": "info", "DLQ_DATA_DIR": str(tmp_path), "DLQ_WEB_PORT": "0"}
    arguments = [sys.executable, "-m", "dlq_stream.cli", *command.split(), *NEEDED.get(command, ())]
    arguments += ["--brokers", "127.0.0.1:1"]
    with subprocess.Popen(arguments, stdout=PIPE, stderr=PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        while "waiting up to 30 s for brokers" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        out, rest = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "told to stop" in rest or "Interrupted before there was anything to judge" in rest
    assert "Traceback" not in rest
    assert out == ""


def test_sigterm_ends_a_command_in_the_background_of_a_script() -> None:
    """Where SIGINT is ignored, which SIGTERM is told as."""
    probe = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import dlq_stream.cli as cli\n"
        "cli.import_module = lambda name: os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.main(['init'], prog_name='dlq-stream')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "told to stop before this was done\n")


def test_signals_are_as_they_were_after_a_command() -> None:
    """Whoever calls it in a process of his own has his handlers back."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert invoke("status", "--brokers", "127.0.0.1:1", "--wait-seconds", "0").exit_code == 69
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigurationError("the fix"), 2, "the fix"),
        (UnsupportedFormat("upgrade"), 2, "upgrade"),
        (TopicAuthorizationFailedError("t"), 2, "not allowed: Read or Write on topic t"),
        (AuthenticationFailedError("who?"), 2, "the brokers refuse: AuthenticationFailedError"),
        (BrokersUnavailable("nobody"), 69, "nobody"),
        (KafkaConnectionError("gone"), 69, "the brokers stopped answering"),
        (TimeoutError(), 69, "the brokers stopped answering: TimeoutError"),
        (DLQError("failed"), 1, "failed"),
        (UnknownError("odd"), 1, "odd"),
    ],
)
def test_what_an_exception_means(error: Exception, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code and one line on standard error, without a traceback."""

    def body() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        guard(body)
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith("Error: ")
    assert "Traceback" not in said


def test_anything_unexpected_is_code_70_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours is not hidden."""

    def body() -> int:
        raise ZeroDivisionError("ours")

    with pytest.raises(SystemExit) as ended:
        guard(body)
    assert ended.value.code == 70
    assert "ours" in caplog.text


def test_a_missing_extra_is_one_line_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """And code 2; nothing was started."""
    monkeypatch.setattr(run_module, "find_spec", lambda name: None if name in ("faust", "rich") else object())
    worker = invoke("worker")
    assert worker.exit_code == 2
    assert worker.output == (
        "Error: dlq-stream worker needs faust, not installed here: pip install 'dlq-stream[worker]'\n"
    )
    with pytest.raises(SystemExit):
        need_extras("demo", "worker", "demo")
    assert need_extras("status") is None


def test_the_extras_are_those_of_the_package() -> None:
    """What is asked for here is what ``pip install 'dlq-stream[...]'`` brings."""
    from importlib.metadata import requires

    wanted = {"faust": "faust-streaming", "mode": "mode-streaming", "re2": "google-re2", "rich": "rich"}
    declared = requires("dlq-stream") or []
    for extra, modules in EXTRAS.items():
        for module in modules:
            assert any(line.startswith(wanted[module]) and line.endswith(f'extra == "{extra}"') for line in declared), (
                module
            )


def test_policy_set_has_an_option_for_every_figure_of_a_queue() -> None:
    """But for the tables, which are a file's; ``--unset`` takes those back, too."""
    told = invoke("policy", "set", "--help").output
    for name in QueueSettings.model_fields:
        assert (f"--{name.replace('_', '-')}" in told) is (name not in ("rules", "by_error"))
