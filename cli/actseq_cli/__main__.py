"""`python -m actseq_cli`: the same as `actseq`."""

from actseq_cli.main import main

main(prog_name="actseq")
