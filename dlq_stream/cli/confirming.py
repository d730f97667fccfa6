"""Asking before something is done to many."""

from __future__ import annotations

import sys

import click

from dlq_stream.cli.run import EXIT_USAGE, fail


def agreed(question: str, *, yes: bool) -> None:
    """Return if ``--yes`` was given, or whoever sits at the terminal says so; end the process with code 2 otherwise."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody can be asked, standard input is no terminal: give --yes, or --dry-run", EXIT_USAGE)
    if not click.confirm(question, err=True):
        fail("nothing was done", EXIT_USAGE)
