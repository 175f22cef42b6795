"""Every command of the README's chapter on systemd, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces
from tests.suites.systemd.chapter import blocks, run_block
from tests.suites.systemd.container import until
from tests.suites.systemd.instance import STREAMER

if TYPE_CHECKING:
    from tests.suites.systemd.container import Container
    from tests.suites.systemd.instance import Instance

INSTALL, LOOK, UPGRADE, PATH, BIND, UNINSTALL, USER = range(7)
"""The blocks of the chapter."""

EVALUATION = """
[Service]
Type=exec
ExecStart=/bin/sleep infinity
"""


def test_the_chapter_has_these_blocks_and_no_other() -> None:
    """A block that is added to the README needs a test."""
    assert len(blocks()) == USER + 1


def test_the_life_of_a_system_service(crafter: Instance) -> None:
    """Installed (by the fixture), looked at, upgraded, started with an evaluation in both ways, removed."""
    container = crafter.container
    crafter.write(2)
    crafter.until_it_has_all()
    assert crafter.show("UnitFileState") == "enabled"

    crafter.write(1, run="eval-901")
    add_outcome(crafter.traces, "eval-901", 1, 20)
    crafter.until_it_has_all()
    crafter.until_it(lambda it: it.show("StatusText").startswith("3 records"), "says so")
    looked = run_block(container, LOOK)
    assert "3 records from 2 rollouts" in looked
    assert "1 record appended of 1 line" in looked

    was = crafter.pid
    run_block(container, UPGRADE)
    assert crafter.pid not in ("0", was)
    crafter.write(1)
    crafter.until_it_has_all()

    run_block(container, PATH, ten_minutes="1s")
    assert crafter.show("ActiveState") == "inactive"
    for _ in range(2):
        crafter.write(1)
        (crafter.shards / f"shard-{len(crafter.texts())}.jsonl").touch()
        crafter.until_it_has_all()
        crafter.until_it(lambda it: it.show("ActiveState") == "inactive", "has ended by itself")
        assert crafter.show("Result") == "success"
    assert crafter.journal("STREAMER_EVENT=idle")

    container.write("/etc/systemd/system/crafter-evaluation.service", EVALUATION)
    run_block(container, BIND)
    assert crafter.show("ActiveState") == "inactive"
    container.run("systemctl", "start", "crafter-evaluation")
    crafter.until_it(lambda it: it.show("ActiveState") == "active", "has started with the evaluation")
    crafter.write(1)
    container.run("systemctl", "stop", "crafter-evaluation")
    crafter.until_it(lambda it: it.show("ActiveState") == "inactive", "has stopped with the evaluation")
    crafter.until_it_has_all()

    done = container.call(STREAMER, "install-service", "--system", "--name", crafter.name, "--uninstall")
    assert done.returncode == 5
    assert f"systemctl disable --now {crafter.unit}" in done.stderr
    run_block(container, UNINSTALL)
    units = container.path("/etc/systemd/system")
    assert sorted(path.name for path in (units / f"{crafter.unit}.d").iterdir()) == ["evaluation.conf"]
    assert not (units / "streamer@crafter.path").exists()
    assert not container.path(crafter.config).exists()
    assert container.path(f"/etc/streamer/{crafter.name}.env").exists(), "it was edited"
    crafter.until_it_has_all()


@pytest.fixture
def ann(container: Container) -> str:
    """Return a user of the machine who has a checkout, and uv."""
    container.run("useradd", "--create-home", "ann")
    container.run("cp", "-r", "/root/checkout", "/home/ann/")
    container.run("chown", "-R", "ann:", "/home/ann")
    container.run("python3", "-m", "venv", "/opt/installers")
    container.run("/opt/installers/bin/pip", "install", "--quiet", "uv", "pipx")
    container.run("systemctl", "start", f"user@{container.run('id', '-u', 'ann').strip()}")
    return "ann"


def test_the_service_of_a_user(ann: str, container: Container) -> None:
    """Installed with uv, without root; the dataset is the user's own."""
    home = f"/home/{ann}"
    uid = container.run("id", "-u", ann).strip()
    environ = {
        "HOME": home,
        "USER": ann,
        "XDG_RUNTIME_DIR": f"/run/user/{uid}",
        "PATH": f"{home}/.local/bin:/opt/installers/bin:/usr/bin:/bin",
    }
    folder = f"{home}/evaluation"
    shards, traces = container.path(f"{folder}/ft_data"), container.path(f"{folder}/traces.db")
    shards.mkdir(parents=True)
    add_outcome(make_traces(traces), "good", 3, 10)
    config = f'[source]\nshards = "{folder}/ft_data"\ndatabase = "{folder}/traces.db"\n'
    container.write(f"{home}/checkout/crafter.toml", f'{config}[dataset]\npath = "{home}/good.jsonl"\n')

    run_block(container, USER, user=ann, environ=environ)

    def systemctl(*arguments: str) -> str:
        done = container.call("systemctl", "--user", *arguments, user=ann, environ=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert systemctl("is-active", "streamer") == "active"
    started = systemctl("show", "--value", "--property=ExecStart", "streamer")
    assert f"path={home}/.local/share/uv/tools/streamer/bin/streamer " in started
    (shards / "a.jsonl").write_bytes(jsonl(dialogue("good")))
    until(lambda: container.path(f"{home}/good.jsonl").read_bytes().count(b"\n") == 1, "a record")
    said = ("show", "--value", "--property=StatusText", "streamer")
    until(lambda: systemctl(*said).startswith("1 record from 1 rollout; 0 waiting"), "the status says so")

    pipx = container.call("pipx", "install", ".[images]", user=ann, folder=f"{home}/checkout", environ=environ | PIPX)
    assert pipx.returncode == 0, pipx.stderr
    command = ["/home/ann/pipx/bin/streamer", "install-service", "--user", "--name", "other", "--dry-run"]
    shown = container.call(*command, user=ann, environ=environ)
    assert "ExecStart=/home/ann/pipx/venvs/streamer/bin/streamer run" in shown.stdout, shown.stderr


PIPX = {"PIPX_HOME": "/home/ann/pipx", "PIPX_BIN_DIR": "/home/ann/pipx/bin"}
