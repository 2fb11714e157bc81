"""The program `actseq`: first the handlers of signals, then all other imports."""

from actseq_cli.signals import Program


def start() -> None:
    """Carry out the command that the arguments of this process give, and end the process."""
    program = Program()
    from actseq_cli.main import main

    try:
        main(prog_name="actseq")
    except SystemExit as end:
        program.code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
