"""The tables of keys in docs/configs.md say what the code says."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from actseq import config, registry

PAGE = Path(__file__).parents[2] / "docs" / "configs.md"
spec = importlib.util.spec_from_file_location("keys", PAGE.with_name("keys.py"))
assert spec is not None
assert spec.loader is not None
keys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keys)


def test_the_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == keys.render(text), "run make docs"


def sections(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Names of the sections of a configuration, those inside others included."""
    for name, field in model.model_fields.items():
        for one in (field.annotation, *get_args(field.annotation)):
            if isinstance(one, type) and issubclass(one, config.Section) and one is not config.Member:
                yield f"{before}{name}"
                yield from sections(one, f"{before}{name}.")


def test_every_family_and_section_has_its_table() -> None:
    shown = {name for _, name, _ in keys.BLOCK.findall(PAGE.read_text(encoding="utf-8"))}
    assert shown == {"Config"} | set(registry.FAMILIES) | set(sections(config.Config))


def test_a_new_member_appears_and_one_that_is_not_described_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def quieter(sample_rate: int, *, factor: float = 0.5) -> None:
        """Turns a clip down.

        Args:
            sample_rate: Hz.
            factor: amplitude, below 1.
        """

    monkeypatch.setitem(registry.EFFECTS, "quieter", quieter)
    text = PAGE.read_text(encoding="utf-8")
    changed = keys.render(text)
    assert "`kind: quieter`. Turns a clip down." in changed
    assert "| `factor` | 0.5 | Amplitude, below 1. |" in changed
    monkeypatch.setattr(quieter, "__doc__", "Turns a clip down.")
    with pytest.raises(SystemExit, match="effects quieter: key 'factor' is not described"):
        keys.render(text)
