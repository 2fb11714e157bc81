"""What may have been meant by the name of a file or folder that does not exist."""

from __future__ import annotations

import difflib
from pathlib import Path


def similar(path: Path) -> str:
    """Advice for a file or folder that does not exist: similar names in its nearest existing parent."""
    if path.is_symlink():
        return "it is a link that leads nowhere; name the file itself"
    missing = path
    while not missing.parent.is_dir() and missing != missing.parent:
        missing = missing.parent
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        names = []
    folded = {name.casefold(): name for name in reversed(names)}
    close = [folded[name] for name in difflib.get_close_matches(missing.name.casefold(), folded, n=3)]
    if close:
        return f"did you mean {' or '.join(str(missing.parent / name) for name in close)}?"
    return f"{missing.parent.absolute()} exists, but has no {missing.name}"
