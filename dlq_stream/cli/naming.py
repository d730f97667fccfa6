"""Ids as arguments: each once, in the order given; ``-`` stands for those on standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import click

from dlq_stream.cli.kinds import message_id

IDS_MAX: Final = 100_000
"""More ids than this are refused."""


def read_ids(arguments: Iterable[str], standard_input: Iterable[str]) -> tuple[bytes, ...]:
    """The ids; raises click's UsageError for a word that is none, and beyond `IDS_MAX`."""
    ids: dict[bytes, None] = {}
    for word in words(arguments, standard_input):
        try:
            ids[message_id(word)] = None
        except ValueError as wrong:
            raise click.UsageError(str(wrong)) from None
        if len(ids) > IDS_MAX:
            raise click.UsageError(f"more than {IDS_MAX:,} ids; give them in several runs")
    return tuple(ids)


def words(arguments: Iterable[str], standard_input: Iterable[str]) -> Iterator[str]:
    """The arguments, with the words of standard input in the place of each ``-``."""
    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        for line in standard_input:
            yield from line.split()
