"""Writes the tables of keys in configs.md: `make docs`.

A table is between two comments that name a section of the configuration, or a family. Its rows are read from what the
code says: fields of `actseq.config` with the text below them, arguments of members with their line in `Args:`.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from actseq import build, config, registry

PAGE = Path(__file__).with_name("configs.md")
BLOCK = re.compile(r"(<!-- keys: ([\w.]+) -->\n).*?(<!-- end -->)", flags=re.S)
HEAD = ["| key | default | meaning |", "|---|---|---|"]


def written(value: Any) -> str:
    """A value as in YAML."""
    if value in (..., PydanticUndefined):
        return "required"
    return json.dumps(value).replace('"', "`")


def capital(text: str) -> str:
    """A sentence; a Greek letter at its head stays small."""
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """What is said below each field of a section, those of the sections that it extends included."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if one.__module__ != config.__name__:
            continue
        body = ast.parse(inspect.getsource(one)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def argument_texts(member: Callable[..., Any]) -> dict[str, str]:
    """The lines of `Args:`, and those of a function or class that the docstring refers to: "arguments as in `name`"."""
    text = inspect.getdoc(member) or ""
    _, _, after = text.partition("Args:\n")
    rows = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", after.partition("\n\n")[0], flags=re.M)
    other = re.search(r"arguments as(?: in)? `(\w+)`", text)
    known = argument_texts(getattr(inspect.getmodule(member), other[1])) if other else {}
    return known | {name: " ".join(found.split()) for name, found in rows}


def rows(defaults: Iterable[tuple[str, Any]], texts: dict[str, str], where: str) -> list[str]:
    """A table; a key without a text is an error."""
    made = []
    for key, default in defaults:
        if key not in texts:
            raise SystemExit(f"{where}: key '{key}' is not described; add it to the docstring")
        made.append(f"| `{key}` | {written(default)} | {capital(texts[key])} |")
    return [*HEAD, *made] if made else []


def section(name: str) -> Iterator[str]:
    """Keys of a section; a prior's and a vocoder's training lists only what the autoencoder's has not."""
    model: type[BaseModel] = config.Config
    for part in [] if name == "Config" else name.split("."):
        found = model.model_fields[part].annotation
        model = next(one for one in (found, *get_args(found)) if isinstance(one, type) and issubclass(one, BaseModel))
    inherited = config.TrainingConfig.model_fields if name in ("train_prior", "train_vocoder") else {}
    fields = [(key, one.default) for key, one in model.model_fields.items() if key not in inherited]
    if name == "Config":
        fields = [(key, default) for key, default in fields if key in ("preset", "seed")]
    shown = [(key, None if isinstance(default, BaseModel) else default) for key, default in fields]
    yield from rows(shown, field_texts(model), name)


def family(where: str) -> Iterator[str]:
    """Every member of a family: what it is, and its keys. Of objectives those that a network of this section names."""
    follows = {path: chooser for chooser, (path, _) in registry.FOLLOWING.items()}
    named = {getattr(one, "objective", None) for one in registry.FAMILIES[follows.get(where, where)].values()}
    usual = dict(registry.FOLLOWING.values())
    for kind, member in registry.FAMILIES[where].items():
        if where.endswith("objective") and kind not in named | {usual[where]}:
            continue
        first = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
        first = re.sub(rf"^`(?:\w+: {{)?(?:kind: )?{kind}}}?`: ", "", first)
        yield from (*textwrap.wrap(f"`kind: {kind}`. {capital(first)}", 120, break_on_hyphens=False), "")
        fields = [(key, one.default) for key, one in build.options_model(member).model_fields.items()]
        table = rows(fields, argument_texts(member), f"{where} {kind}")
        yield from (*table, "") if table else ()


def render(text: str) -> str:
    """The page with its tables as they should be."""

    def block(match: re.Match[str]) -> str:
        made = family(match[2]) if match[2] in registry.FAMILIES else section(match[2])
        return "\n".join([match[1], *made, *([] if match[2] in registry.FAMILIES else [""]), match[3]])

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
