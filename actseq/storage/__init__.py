"""Files of a run: sequences, artifacts, the run folder."""
