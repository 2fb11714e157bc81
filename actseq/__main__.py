"""`python -m actseq`: the same as `actseq`."""

from actseq_cli.main import main

main(prog_name="actseq")
