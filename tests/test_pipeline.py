"""The face: every name is loaded on first use, and tools see the same names."""

import ast
from pathlib import Path

import pytest

from actseq import pipeline


def test_tools_see_the_names_that_are_loaded() -> None:
    text = Path(pipeline.__file__).read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names if alias.asname == alias.name}
    assert seen == pipeline._MODULES
    assert dir(pipeline) == pipeline.__all__ == sorted(seen)


def test_every_name_is_what_its_module_defines() -> None:
    for name, module in pipeline._MODULES.items():
        found = getattr(pipeline, name)
        assert (found.__name__, found.__module__) == (name, module)
    with pytest.raises(AttributeError, match="has no attribute nothing"):
        pipeline.nothing  # noqa: B018
