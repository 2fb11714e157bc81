"""`python -m actseq`: the same as `actseq`."""

from actseq_cli.program import start

start()
