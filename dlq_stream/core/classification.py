"""What an error means: TRANSIENT (try again), PERMANENT (hopeless) or UNKNOWN (which is tried again, too).

Rules are tried in order, the queue's own before the default ones; the first that fits decides, and its text is kept
with the attempt so that people see why.  A rule fits by error type (any of the error's classes, base classes and
causes), by a piece of its message, or by a regular expression.  Core ships no regex engine: patterns come from
settings and messages from anywhere, so whoever wants them brings an engine whose time is linear (RE2).

Which type rules fit depends on the types alone, and a service fails in few ways at a time.  So for each combination
of types the rules are boiled down, once, to what has still to be looked at: nothing for an error known by its type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dlq_stream.core.default_rules import DEFAULT_RULES
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.rule import Rule as Rule
from dlq_stream.core.rule import short_name
from dlq_stream.core.shown import shown

CompileRegex = Callable[[str], Callable[[str], bool]]
"""Makes of a pattern a function that says whether it is found in a text; raises where the pattern is none."""

plans_cached_max = 1_024
"""So many combinations of error types are remembered; at the bound the least recently used is worked out again."""

_NO_RULE = "no rule"


@dataclass(frozen=True, slots=True)
class Decision:
    """What an error was found to be, and the rule that said so (``default ...`` for a built-in one, or ``no rule``)."""

    category: ErrorCategory
    rule: str


_Test = tuple[str | None, Callable[[str], bool] | None, Decision]
"""A rule that looks at the message: for a piece of it, lower-cased, or with a compiled pattern."""

_Plan = tuple[tuple[_Test, ...], Decision]


def no_regex_engine(pattern: str) -> Callable[[str], bool]:
    """What compiles regex rules where no engine was given: it refuses, with the fix."""
    raise ConfigurationError(
        f"rule regex {shown(pattern)}: there is no regular expression engine here; install google-re2 "
        "(pip install 'dlq-stream[worker]') or use a rule of kind 'text'"
    )


class Classifier:
    """The rules of one queue, ready to be asked.  Raises `ConfigurationError` for a regex that does not compile."""

    def __init__(self, rules: Sequence[Rule] = (), compile_regex: CompileRegex = no_regex_engine) -> None:
        decided = [(rule, Decision(rule.category, str(rule))) for rule in rules]
        decided += [(rule, Decision(rule.category, f"default {rule}")) for rule in DEFAULT_RULES]
        self._types: dict[str, int] = {}
        """Position of the first rule for each type name."""
        self._tests: list[tuple[int, _Test]] = []
        """The rules that look at the message, with their positions."""
        self._decisions = [decision for _, decision in decided]
        for position, (rule, decision) in enumerate(decided):
            if rule.kind == "type":
                self._types.setdefault(rule.pattern, position)
            else:
                self._tests.append((position, _test_of(rule, decision, compile_regex)))
        self._plan = lru_cache(plans_cached_max)(self._plan_of)

    def classify(self, error_types: Sequence[str], message: str) -> Decision:
        """The first rule that fits an error with these types (itself, its bases, its causes) and message."""
        tests, otherwise = self._plan(tuple(error_types))
        if tests:
            lower = message.lower()
            for piece, found_in, decision in tests:
                if piece in lower if piece is not None else found_in is not None and found_in(message):
                    return decision
        return otherwise

    def decided(self, error_types: tuple[str, ...]) -> Decision | None:
        """What `classify` says of errors with these types, whatever their message; None where that has a say."""
        tests, otherwise = self._plan(error_types)
        return None if tests else otherwise

    def _plan_of(self, error_types: tuple[str, ...]) -> _Plan:
        names = {*error_types, *map(short_name, error_types)}
        first = min((self._types[name] for name in names if name in self._types), default=None)
        if first is None:
            return tuple(test for _, test in self._tests), Decision(ErrorCategory.UNKNOWN, _NO_RULE)
        return tuple(test for position, test in self._tests if position < first), self._decisions[first]


def _test_of(rule: Rule, decision: Decision, compile_regex: CompileRegex) -> _Test:
    if rule.kind == "text":
        return rule.pattern.lower(), None, decision
    try:
        return None, compile_regex(rule.pattern), decision
    except ConfigurationError:
        raise
    except Exception as wrong:  # an engine has its own class of error
        raise ConfigurationError(f"rule regex {shown(rule.pattern)}: does not compile: {wrong}") from wrong
