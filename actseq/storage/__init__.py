"""What lies on disk: sequences, artifacts, the run folder."""
