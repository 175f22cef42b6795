"""Who may ask the page what: methods, hosts, tokens, and the headers of every answer."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.helpers.place import PATIENCE, environment, until
from tests.helpers.producer import add_outcome, dialogue, make_traces
from tests.helpers.web import Site, got, raw, refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "a-token-of-some-length"
PATHS = ("/", "/api/state", "/api/records", "/api/nothing", "/static/app.js", "/healthz", "/metrics")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a page without a token."""
    site = Site(tmp_path_factory.mktemp("open"))
    make_traces(site.traces)
    add_outcome(site.traces, "good", 3, 10)
    site.shard("a.jsonl", dialogue("good", 0, "a", image=True))
    with site.served() as client:
        until(lambda: got(client, "/api/state")["dataset"]["records"] == 1)
        yield client


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client, which shows no token, of a page that asks for one and listens at every address."""
    site = Site(tmp_path_factory.mktemp("locked"))
    make_traces(site.traces)
    token = site.folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    site.configure(web='listen = "0.0.0.0:0"\ntoken_file = "token"')
    with site.served() as client, httpx.Client(base_url=f"http://127.0.0.1:{client.base_url.port}") as nobody:
        yield nobody
    assert TOKEN not in site.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_nothing_but_get_and_head_is_answered(client: httpx.Client, method: str) -> None:
    """There is nothing to be changed, and no preflight to be allowed."""
    for path in PATHS:
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_the_body(client: httpx.Client) -> None:
    """Of everything that can be got."""
    for path in PATHS:
        full, head = client.get(path), client.head(path)
        assert head.status_code == full.status_code
        assert head.headers["content-type"] == full.headers["content-type"]
        assert head.content == b""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.4",
        "",
        "[::2]",
    ],
)
def test_another_host_is_not_ours(client: httpx.Client, host: str) -> None:
    """A name that was made to point here (DNS rebinding) gets nothing, whatever it asks."""
    for path in PATHS:
        assert client.get(path, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:9999", "[::1]:8765"])
def test_every_name_of_this_machine_is(client: httpx.Client, host: str) -> None:
    """At any port: a forwarded one is another."""
    assert client.get("/api/state", headers={"Host": host}).status_code == 200


def test_a_request_names_one_host(client: httpx.Client) -> None:
    """Two are refused by the one or by the other."""
    two = b"GET /api/state HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert raw(client, two).split()[1] in (b"400", b"421")
    assert raw(client, b"GET /api/state HTTP/1.0\r\n\r\n").split()[1] == b"421"


def test_every_answer_has_the_headers_of_a_page_that_trusts_nobody(client: httpx.Client) -> None:
    """Errors too. No answer allows another site anything."""
    answers = [client.get(path) for path in PATHS]
    answers += [client.post("/"), client.get("/", headers={"Host": "evil.example", "Origin": "http://evil.example"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "server" not in answer.headers


def test_an_image_may_do_nothing(client: httpx.Client) -> None:
    """Not even if a browser took it for a page."""
    (record,) = got(client, "/api/records")["records"]
    answer = client.get(record["messages"][1]["parts"][1]["src"])
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_without_the_token_there_is_nothing_but_health(locked: httpx.Client) -> None:
    """Health tells nothing of the data."""
    for path in (
        "/",
        "/api/state",
        "/api/events",
        "/static/app.js",
        "/metrics",
        "/api/nothing",
        f"/api/state?token={TOKEN}",
    ):
        assert "token" in refused(locked, path, 401)
    assert locked.get("/healthz").status_code == 200
    assert locked.get("/readyz").status_code in (200, 503)


@pytest.mark.parametrize(
    "shown", [f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", f"Basic {TOKEN}", TOKEN, "Bearer \xff\xfe"]
)
def test_another_token_opens_nothing(locked: httpx.Client, shown: str) -> None:
    """Nor does a part of it, or more than it."""
    answer = locked.get("/api/state", headers={b"Authorization": shown.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_token_opens_everything(locked: httpx.Client) -> None:
    """As a header, for programs."""
    bearer = {"Authorization": f"bearer {TOKEN}"}
    for path in ("/", "/api/state", "/static/app.js", "/metrics"):
        assert locked.get(path, headers=bearer).status_code == 200


def test_a_browser_shows_the_token_once(locked: httpx.Client) -> None:
    """It gets a cookie that is not the token, and an address without it."""
    page, state = f"{locked.base_url}/", f"{locked.base_url}/api/state"
    assert httpx.get(page, params={"token": "wrong"}).status_code == 401
    answer = httpx.get(page, params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    shown = {"Cookie": cookie.partition(";")[0]}
    assert httpx.get(state, headers=shown).status_code == 200
    forged = {"Cookie": shown["Cookie"][:-1] + ("0" if shown["Cookie"][-1] != "0" else "1")}
    assert httpx.get(state, headers=forged).status_code == 401
    assert httpx.get(state, headers={"Cookie": "a=b; ;;="}).status_code == 401


def test_a_page_for_others_is_asked_by_address_or_by_name_of_the_machine(locked: httpx.Client) -> None:
    """An address cannot be made to point elsewhere; a name can."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert locked.get("/api/state", headers=bearer | {"Host": "192.168.7.7:80"}).status_code == 200
    assert locked.get("/api/state", headers=bearer | {"Host": "evil.example"}).status_code == 421


def test_a_page_for_others_is_refused_without_a_token(tmp_path: Path) -> None:
    """Exit code 2, before anything is served or written."""
    site = Site(tmp_path)
    site.configure(web='listen = "0.0.0.0:0"')
    done = site.call("run")
    assert done.returncode == 2
    assert "web.token_file" in done.stderr
    assert not site.dataset.exists()


_BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
from streamer.commands.cli import main
sys.argv = ["streamer", *{arguments!r}]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named(tmp_path: Path, missing: str) -> None:
    """With the page on; without it nothing of the extra is needed."""
    site = Site(tmp_path)
    make_traces(site.traces)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        blocked = {missing} if "--once" not in arguments else {"starlette", "uvicorn", "prometheus_client"}
        code = _BLOCK.format(blocked=blocked, arguments=["run", "--config", str(site.config), *arguments])
        return subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=False, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip

    done = run()
    assert done.returncode == 2, done.stderr
    assert f"{missing} is not installed" in done.stderr
    assert ".[web]" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("--once").returncode == 0
