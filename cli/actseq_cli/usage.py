"""What is wrong with a command line, as one line."""

from __future__ import annotations

import re
from pathlib import Path

import click

EXTRA = re.compile(r"unexpected extra arguments? \((?P<extra>.*)\)")


def usage_line(error: click.UsageError) -> str:
    """What is wrong with a command line, and where help is."""
    message = error.format_message().strip().replace(". (", " (").rstrip(".")
    found = EXTRA.search(message)
    if found and error.ctx is not None:
        message = _too_many(found["extra"], error.ctx)
    message = message[:1].lower() + message[1:]
    command = "actseq" if error.ctx is None else error.ctx.command_path
    return f"{message}; {command} --help lists what can be given"


def _too_many(extra: str, ctx: click.Context) -> str:
    """Why there may be too many words: a name with blanks has no quotation marks."""
    arguments = [one for one in ctx.command.params if isinstance(one, click.Argument)]
    expected = " ".join(one.make_metavar(ctx) for one in arguments) or "no argument"
    message = f"too many words: {extra}; expected {expected}; a name with blanks needs quotation marks"
    for argument in arguments:
        whole = f"{ctx.params.get(argument.name or '')} {extra}"
        if Path(whole).exists():
            return f'{message}: "{whole}"'
    return message
