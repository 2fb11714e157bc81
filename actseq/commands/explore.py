"""`explore`: a page in the browser with the clips of a run on a map, and new sounds."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

from actseq.commands.common import AUTO, ONE_THREAD, Compute
from actseq.errors import ConfigError
from actseq.inference.loaded_run import LoadedRun

ADDRESS, PORT = "127.0.0.1", 8765


def explore(
    run: str | Path,
    *,
    prior: str | None = None,
    address: str = ADDRESS,
    port: int = PORT,
    show: Callable[[str], None] = print,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        prior: name of the prior; None takes the run's usual one, if there is one.
        address: IP address to listen on. Anything but this machine alone needs the token that is then printed.
        port: port to listen on; where it is taken, the next free one.
        show: receives where the page is, once it can be opened. No message to the reporter holds the token.

    Raises:
        ConfigError: a package is missing, the address cannot be used, or the run's latents do not hold the sound.
        ArtifactError: the run has no latents and is not packed, or something in it is damaged.
    """
    try:
        from actseq.explore.app import explore_app
        from actseq.explore.server import bind, serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the package {error.name} is not installed, which explore needs", action="pip install 'actseq[web]'"
        ) from error
    from actseq.explore.studio import Studio

    compute.use_threads(ONE_THREAD)
    reporter = compute.reporter
    _check_address(address)
    with bind(address, port) as listening:
        found = int(listening.getsockname()[1])
        if found != port:
            reporter.say(f"port {port} is taken; the page is at {found}")
        studio = Studio(LoadedRun.open(run, prior=prior, device=compute.device, overrides=overrides), reporter)
        studio.warm_up()
        token = secrets.token_urlsafe(32)
        app = explore_app(studio, address, found, token)
        host = f"[{address}]" if ":" in address else address
        behind = f"#{token}" if app.private else ""
        made = "generated clips" if studio.catalog.generated else "clips"
        reporter.say(f"{len(studio.catalog.clips)} {made} of {studio.loaded.run.name}; Ctrl-C stops the page")
        show(f"http://{host}:{found}/{behind}")
        serve(app, listening)


def _check_address(address: str) -> None:
    """Refuse what is not one address: the page must know its own name.

    Raises:
        ConfigError: it is a name, or stands for all addresses.
    """
    try:
        found = ip_address(address)
    except ValueError:
        raise ConfigError(f"--address is '{address}'", "an IP address of this machine, such as 127.0.0.1") from None
    if found.is_unspecified:
        raise ConfigError(f"--address {address} stands for all addresses", "the one under which the page is opened")
