"""What the user likes is written into `kept/` of the run, each sound with a JSON that says how it was made."""

from __future__ import annotations

import os
from itertools import count

from actseq import audio
from actseq.audio.origin import description
from actseq.explore.shelf import ShelfSound
from actseq.storage.artifacts import write_json
from actseq.storage.run_folder import RunFolder, exclusive


def keep_sound(run: RunFolder, sound: ShelfSound) -> str:
    """Write a sound and its JSON under a name that is not taken; the name of the file.

    Raises:
        ArtifactError: another process writes there.
        AudioError: the sound cannot be written.
    """
    with exclusive(run.kept):
        names = (run.kept / f"{sound.stem}-{number:02d}.wav" for number in count(1))
        path = next(path for path in names if not os.path.lexists(path) and not os.path.lexists(description(path)))
        gain = audio.write(path, sound.waveform, sound.sample_rate)
        about = {"file": path.name, "title": sound.title, "seconds": sound.seconds, "gain": gain}
        write_json(description(path), {**sound.about, **about})
    return path.name
