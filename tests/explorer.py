"""A server of `actseq explore` for tests: a small run, and the page served from a thread."""

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actseq.explore.app import explore_app
from actseq.explore.guard import TOKEN
from actseq.explore.server import bind, server_of
from actseq.explore.studio import Studio
from actseq.inference.loaded_run import LoadedRun

OLD_RUNS = Path(__file__).parent / "old_runs"
SECRET = "the-token-of-this-start"


def small_studio(folder: Path) -> Studio:
    """A studio with a copy of a small run: drums at 8 kHz."""
    shutil.copytree(OLD_RUNS / "drums", folder / "drums")
    return Studio(LoadedRun.open(folder / "drums", device="cpu"))


@dataclass(frozen=True)
class Answer:
    """What the server said: its status, its headers, and its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(frozen=True)
class Server:
    """A running server. Requests go out as given: nothing is added to the path or the headers."""

    studio: Studio
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def legal(self) -> dict[str, str]:
        """The headers with which the page asks for a change."""
        return {"Host": self.host, "Origin": f"http://{self.host}", TOKEN: SECRET}

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None) -> Answer:
        """Send a request with exactly these headers; JSON for a body that is not bytes."""
        given = dict(self.legal if headers is None else headers)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(studio: Studio, address: str = "127.0.0.1") -> Iterator[Server]:
    """Serve the page of a studio until the block ends. An address other than this machine's only changes the guard."""
    with bind("127.0.0.1", 8900) as listening:
        port = int(listening.getsockname()[1])
        server = server_of(explore_app(studio, address, port, SECRET))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Server(studio, port)
        finally:
            server.should_exit = True
            thread.join()
