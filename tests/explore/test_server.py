"""The server over real sockets: what it refuses, and that it goes on answering the page after each refusal."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner
from explorer import OLD_RUNS, SECRET, Answer, Server, serving

from actseq import pipeline
from actseq.errors import ConfigError
from actseq.explore.catalog import CorpusSounds
from actseq.explore.guard import LARGEST_BODY, TOKEN
from actseq.explore.server import PORTS, bind
from actseq.explore.studio import Studio
from actseq.inference.loaded_run import LoadedRun

NEW: dict[str, Any] = {"label": "kick", "seconds": 0.1, "seed": 1}


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


def generated(server: Server, headers: dict[str, str] | None = None) -> Answer:
    return server.ask("POST", "/api/generate", headers, NEW)


REFUSALS: dict[str, tuple[int, Callable[[Server], Answer]]] = {
    "missing Origin": (403, lambda server: generated(server, without(server.legal, "Origin"))),
    "foreign Origin": (403, lambda server: generated(server, server.legal | {"Origin": "http://evil.example"})),
    "null Origin": (403, lambda server: generated(server, server.legal | {"Origin": "null"})),
    "Origin of another port": (403, lambda server: generated(server, server.legal | {"Origin": "http://localhost:1"})),
    "foreign Origin reads": (
        403,
        lambda server: server.ask("GET", "/api/run", {"Host": server.host, "Origin": "http://evil.example"}),
    ),
    "Host evil": (403, lambda server: generated(server, server.legal | {"Host": "evil"})),
    "Host evil reads": (403, lambda server: server.ask("GET", "/", {"Host": "evil"})),
    "Host without port": (403, lambda server: server.ask("GET", "/", {"Host": "127.0.0.1"})),
    "no Host": (400, lambda server: server.ask("GET", "/api/run", {})),
    "DNS rebinding": (
        403,
        lambda server: generated(
            server, server.legal | {"Host": f"a.evil:{server.port}", "Origin": f"http://a.evil:{server.port}"}
        ),
    ),
    "missing token": (403, lambda server: generated(server, without(server.legal, TOKEN))),
    "token of another start": (403, lambda server: generated(server, server.legal | {TOKEN: "another"})),
    "path of the client": (404, lambda server: server.ask("GET", "/api/clips/..%2f..%2fconfig.yaml")),
    "path of the client, encoded twice": (
        400,
        lambda server: server.ask("GET", "/api/clips/..%252f..%252fconfig.yaml"),
    ),
    "path out of the page's files": (404, lambda server: server.ask("GET", "/static/..%2f..%2fapp.py")),
    "path out of the sounds": (404, lambda server: server.ask("GET", "/api/sounds/..%2f..%2f..%2fetc%2fpasswd")),
    "oversized upload": (
        413,
        lambda server: server.ask("POST", "/api/sounds", server.legal | {"Content-Length": str(LARGEST_BODY + 1)}),
    ),
    "chunked upload": (
        411,
        lambda server: server.ask("POST", "/api/sounds", server.legal | {"Transfer-Encoding": "chunked"}),
    ),
    "upload that is no sound": (400, lambda server: server.ask("POST", "/api/sounds", None, b"no sound at all")),
    "a key that does not exist": (422, lambda server: server.ask("POST", "/api/generate", None, NEW | {"path": "/x"})),
    "a sound of two hours": (422, lambda server: server.ask("POST", "/api/generate", None, NEW | {"seconds": 7200})),
    "a method that does not exist": (405, lambda server: server.ask("DELETE", "/api/run", None, b"")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_come_from_the_page_is_refused_and_the_page_goes_on(server: Server, name: str) -> None:
    status, attempt = REFUSALS[name]
    before = len(server.studio.shelf.sounds)
    refused = attempt(server)
    assert refused.status == status
    if name != "no Host":  # refused by the parser of HTTP
        assert set(refused.json) == {"error"}
        assert refused.json["error"]
        assert refused.headers["cross-origin-resource-policy"] == "same-origin"
    assert SECRET.encode() not in refused.body
    assert len(server.studio.shelf.sounds) == before
    welcome = generated(server)
    assert welcome.status == 200
    assert welcome.lines[-1]["kind"] == "sound"


def test_an_identifier_of_another_run_is_refused(server: Server, tmp_path: Path) -> None:
    shutil.copytree(OLD_RUNS / "drums", tmp_path / "other")
    marker = tmp_path / "other" / "latents" / "latents.json"
    (tmp_path / "other" / "latents" / "hashes.json").unlink(missing_ok=True)
    own = server.studio.catalog
    marker.write_text(marker.read_text().replace(own.fingerprint, "0" * 64))
    other = CorpusSounds(LoadedRun.open(tmp_path / "other", device="cpu")).catalog()
    assert [clip.key for clip in other.clips] == [clip.key for clip in own.clips]
    foreign = other.clips[0].id
    refused = server.ask("GET", f"/api/clips/{foreign}")
    assert refused.status == 400
    assert "no clip of that identifier" in refused.json["error"]
    refused = server.ask("POST", "/api/through", None, {"sounds": [foreign, own.clips[0].id]})
    assert refused.lines[-1]["kind"] == "error"
    assert server.ask("GET", f"/api/clips/{own.clips[0].id}").body.startswith(b"fLaC")


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_other_script(server: Server) -> None:
    page = server.ask("GET", "/", {"Host": server.host})
    assert page.status == 200
    assert SECRET in page.body.decode()
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert b"http" not in page.body.replace(b"http-equiv", b"").replace(b"http://www.w3.org/2000/svg", b"")


@pytest.mark.parametrize("name", ["localhost", "[::1]"])
def test_every_name_of_this_machine_is_welcome(server: Server, name: str) -> None:
    host = f"{name}:{server.port}"
    assert server.ask("GET", "/api/run", {"Host": host}).status == 200
    assert generated(server, server.legal | {"Host": host, "Origin": f"http://{host}"}).status == 200


def test_at_another_address_everything_about_the_run_needs_the_token(studio: Studio) -> None:
    with serving(studio, "192.0.2.7") as server:
        host = {"Host": f"192.0.2.7:{server.port}"}
        page = server.ask("GET", "/", host)
        assert page.status == 200
        assert SECRET not in page.body.decode()
        assert "drums" not in page.body.decode()
        assert server.ask("GET", "/api/run", host).status == 403
        assert server.ask("GET", f"/api/clips/{studio.catalog.clips[0].id}", host).status == 403
        assert server.ask("GET", "/api/run", host | {TOKEN: SECRET}).json["name"] == "drums"


def test_a_taken_port_gives_way_to_the_next() -> None:
    with bind("127.0.0.1", 8950) as first:
        taken = first.getsockname()[1]
        with bind("127.0.0.1", taken) as second:
            assert taken < second.getsockname()[1] < taken + PORTS


def test_the_command_prints_where_the_page_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[int] = []
    monkeypatch.setattr("actseq.explore.server.serve", lambda app, listening: served.append(listening.getsockname()[1]))
    shutil.copytree(OLD_RUNS / "drums", tmp_path / "drums")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        words = ["explore", str(tmp_path / "drums"), "--port", str(port), "--device", "cpu"]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"http://127.0.0.1:{served[0]}/\n"
    assert f"port {port} is taken" in result.stderr
    assert served[0] != port


def test_the_command_opens_a_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actseq.explore.server.serve", lambda app, listening: None)
    monkeypatch.chdir(tmp_path)
    words = ["explore", "voice:drumkit", "--device", "cpu", "--threads", "1"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "60 generated clips of voice:drumkit" in result.stderr
    assert not list(tmp_path.iterdir()), "nothing is written before a sound is kept"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "example.org"])
def test_an_address_that_is_not_one_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--address"):
        pipeline.explore(OLD_RUNS / "drums", address=address)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "actseq.explore.app", None)
    with pytest.raises(ConfigError, match=r"actseq\[web\]"):
        pipeline.explore(OLD_RUNS / "drums")
