"""What the service promises, under a systemd that is real."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.helpers.producer import add_outcome
from tests.suites.systemd.container import until
from tests.suites.systemd.instance import STREAMER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.suites.systemd.container import Container
    from tests.suites.systemd.instance import Instance

    Make = Callable[..., Instance]

QUICK_WATCHDOG = "WatchdogSec=2\nTimeoutStopSec=2"
"""The unit's own minute would be long for a test."""

SMALL = 3 << 20
"""Bytes of a disk that is soon full."""


class Disk:
    """A state folder with a small disk of its own."""

    def __init__(self, instance: Instance) -> None:
        self._container = instance.container
        self._folder = instance.state
        self._container.run("mkdir", "-p", self._folder)
        self._container.run("mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", self._folder)

    def fill(self) -> None:
        """Leave no room at all."""
        script = f"cat /dev/zero > {self._folder}/filler"
        done = self._container.call("sh", "-c", script)
        assert "No space left" in done.stderr

    def free(self) -> None:
        """Make room again."""
        self._container.run("rm", f"{self._folder}/filler")

    def records(self) -> int:
        """Return how many there are: the disk is mounted in the container alone."""
        return int(self._container.run("sh", "-c", f"cat {self._folder}/high_reward.jsonl | wc -l"))

    def remove(self) -> None:
        """Take the disk away."""
        self._container.call("umount", "--lazy", self._folder)


@pytest.fixture
def disk(instance: Make) -> Iterator[tuple[Instance, Disk]]:
    """Return an instance whose state folder is on a small disk."""
    made = instance()
    small = Disk(made)
    yield made, small
    made.container.call("systemctl", "kill", "--signal=KILL", made.unit)
    made.container.call("systemctl", "stop", made.unit)
    small.remove()


def test_it_is_active_only_once_it_is_ready(disk: tuple[Instance, Disk]) -> None:
    """While it cannot recover it is activating, and says why; no one who waits for it goes on."""
    instance, small = disk
    small.fill()
    instance.container.run("systemctl", "start", "--no-block", instance.unit)
    instance.until_it(lambda it: it.show("StatusText").startswith("waiting: cannot"), "says what it waits for")
    assert instance.show("ActiveState") == "activating"
    small.free()
    instance.until_it(lambda it: it.show("ActiveState") == "active", "is active")
    assert instance.show("NRestarts") == "0"


def test_a_shard_and_its_outcome_become_records_and_the_status_says_so(instance: Make) -> None:
    """In plain words."""
    made = instance()
    made.start()
    made.write(3)
    made.write(1, run="late")
    made.until_it(lambda it: len(it.texts()) == 3, "has 3 records")
    shown = re.compile(r"3 records from 1 rollout; 1 waiting; \d[\d.]* (ms|s) behind")
    made.until_it(lambda it: shown.fullmatch(it.show("StatusText")), "says so")
    add_outcome(made.traces, "late", 1, 20)
    made.until_it_has_all()
    made.until_it(lambda it: it.show("StatusText").startswith("4 records from 2 rollouts; 0 waiting"), "says so")


def test_after_a_kill_it_is_started_again_and_nothing_is_lost_or_doubled(instance: Make) -> None:
    """While the producer goes on."""
    made = instance("[batch]\nrecords = 7\nmilliseconds = 1")
    made.start()
    for kills in range(1, 4):
        made.write(500)
        made.until_it(lambda it: len(it.texts()) > 0, "has begun")
        again = runs_anew(made.pid)
        made.container.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", made.unit)
        made.write(5)
        made.until_it(again, "runs again")
        assert made.show("NRestarts") == str(kills)
    made.until_it_has_all()
    assert made.status()["accounting"]["appended"] == 1515


def test_a_process_that_stands_still_is_killed_by_the_watchdog_and_started_again(instance: Make) -> None:
    """SIGSTOP: it is there, but nothing in it gets on."""
    made = instance(drop_in=QUICK_WATCHDOG)
    made.start()
    made.write(2)
    made.until_it_has_all()
    again = runs_anew(made.pid)
    made.container.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", made.unit)
    made.write(2)
    made.until_it(again, "runs again")
    made.until_it_has_all()
    assert any("Watchdog timeout" in str(entry["MESSAGE"]) for entry in made.journal())


def test_one_that_has_nothing_to_do_is_left_alone(instance: Make) -> None:
    """An idle daemon sends its beats: several periods of the watchdog pass."""
    made = instance(drop_in=QUICK_WATCHDOG)
    made.start()
    pid = made.pid
    began = int(made.show("WatchdogTimestampMonotonic"))
    made.until_it(lambda it: int(it.show("WatchdogTimestampMonotonic")) > began + 5_000_000, "has sent beats")
    assert (made.pid, made.show("NRestarts")) == (pid, "0")


def test_a_reload_puts_another_condition_in_force(instance: Make) -> None:
    """Without a restart."""
    made = instance()
    made.start()
    pid = made.pid
    made.write(1)
    made.until_it_has_all()
    made.container.write(made.config, made.configure("[qualify]\nwhere = 'total_reward = 0'"))
    made.container.run("systemctl", "reload", made.unit)
    made.until_it(lambda it: it.journal("STREAMER_EVENT=reloaded"), "has reloaded")
    assert made.show("ActiveState") == "active"
    made.write(1, run="bad")
    made.until_it_has_all()
    assert made.pid == pid
    assert made.journal("STREAMER_EVENT=reloaded")[0]["STREAMER_CHANGED"] == "qualify.where"


def test_it_stops_in_time_and_leaves_its_ledger_clean(instance: Make) -> None:
    """In the middle of work."""
    made = instance("[batch]\nrecords = 7\nmilliseconds = 1")
    made.start()
    made.write(3000)
    made.until_it(lambda it: len(it.texts()) > 0, "has begun")
    made.stop()
    assert (made.show("Result"), made.show("ExecMainStatus")) == ("success", "0")
    assert not made.path("high_reward.jsonl.ledger-wal").exists()
    assert made.status()["accounting"]["appended"] == len(made.texts())
    assert made.journal("STREAMER_EVENT=stopped")
    made.start()
    made.until_it_has_all()


def test_a_full_disk_is_waited_for_without_a_restart(disk: tuple[Instance, Disk]) -> None:
    """And then it goes on."""
    instance, small = disk
    instance.start()
    instance.write(3)
    until(lambda: small.records() == 3, "3 records")
    small.fill()
    instance.write(300)
    instance.until_it(lambda it: "cannot" in it.show("StatusText"), "says what it waits for")
    assert (instance.show("ActiveState"), instance.show("NRestarts")) == ("active", "0")
    small.free()
    until(lambda: small.records() == 303, "303 records")
    instance.until_it(lambda it: it.show("StatusText").startswith("303 records"), "says so")
    assert instance.show("NRestarts") == "0"


def test_its_resources_are_limited(instance: Make) -> None:
    """As systemd itself understood the unit."""
    made = instance()
    made.start()
    limits = {"MemoryMax": 2 << 30, "MemoryHigh": 1 << 30, "TasksMax": 64, "OOMScoreAdjust": 500}
    assert {name: int(made.show(name)) for name in limits} == limits
    assert made.show("OOMPolicy") == "kill"


def test_the_journal_has_fields_to_search_by(instance: Make) -> None:
    """Event, run and dataset, and no text from outside in any other."""
    made = instance()
    made.start()
    made.write(2)
    made.until_it_has_all()
    run = made.journal("STREAMER_RUN_ID=good")
    assert [entry["STREAMER_EVENT"] for entry in run] == ["committed"]
    assert (run[0]["STREAMER_APPENDED"], run[0]["PRIORITY"], run[0]["SYSLOG_IDENTIFIER"]) == ("2", "6", "streamer")
    assert run[0]["STREAMER_DATASET"] == made.name
    assert made.journal("STREAMER_EVENT=started")[0]["STREAMER_SHARDS"] == f"{made.folder}/ft_data"


def test_it_can_write_to_its_own_folder_and_nowhere_else(instance: Make) -> None:
    """Tried by its own user, in its own name spaces; and what is not its own to read is not to be seen."""
    made = instance(folder="/home/bob/evaluation")
    container = made.container
    container.write("/home/bob/diary", "private\n")
    container.write("/srv/others", "private\n")
    made.start()
    made.write(1)
    made.until_it_has_all()

    def tried(script: str) -> bool:
        inside = ["nsenter", f"--target={made.pid}", "--mount", "--net", "--wd=/"]
        as_streamer = ["setpriv", "--reuid=streamer", "--regid=streamer", "--clear-groups", "sh", "-c", script]
        return container.call(*inside, *as_streamer).returncode == 0

    assert tried(f"touch {made.state}/x && rm {made.state}/x")
    assert tried(f"cat {made.folder}/ft_data/good.jsonl")
    everywhere = container.run("find", "/", "-xdev", "-maxdepth", "2", "-type", "d", "-not", "-path", "/proc*").split()
    folders = [*everywhere, "/dev/shm", "/run/lock", made.folder, f"{made.folder}/ft_data", "/etc/streamer"]
    assert {folder for folder in folders if tried(f"touch {folder}/x")} <= {"/tmp", "/var/tmp"}
    assert container.call("test", "-e", "/tmp/x").returncode == 1, "its /tmp is its own"
    for secret in ("/home/bob/diary", "/srv/others", "/root/checkout/README.md"):
        assert container.path(secret).exists()
        assert not tried(f"cat {secret}")


def test_a_dataset_outside_its_folders_is_refused_by_the_sandbox(instance: Make) -> None:
    """The configuration alone opens nothing; installing it again does, where the user may write."""
    made = instance()
    elsewhere = '[dataset]\npath = "/opt/datasets/good.jsonl"'
    made.container.run("install", "-d", "-o", "streamer", "/opt/datasets")
    made.container.write(made.config, made.configure(elsewhere))
    made.container.call("systemctl", "start", "--no-block", made.unit)
    made.until_it(
        lambda it: any("Read-only file system" in str(entry["MESSAGE"]) for entry in it.journal()), "is refused"
    )
    assert not list(made.container.path("/opt/datasets").iterdir())
    made.stop()
    made.container.run(STREAMER, "install-service", "--system", "--name", made.name)
    made.container.run("systemctl", "daemon-reload")
    made.start()
    made.write(1)
    dataset = made.container.path("/opt/datasets/good.jsonl")
    until(lambda: dataset.exists() and dataset.read_bytes().count(b"\n") == 1, "a record")


def test_a_configuration_that_cannot_be_used_is_not_tried_again(instance: Make) -> None:
    """Exit code 2 is for a person."""
    made = instance()
    made.container.write(made.config, "[source]\nshard = 1\n")
    assert made.container.call("systemctl", "start", made.unit).returncode != 0
    assert (made.show("ActiveState"), made.show("ExecMainStatus"), made.show("NRestarts")) == ("failed", "2", "0")
    assert any("did you mean shards?" in str(entry["MESSAGE"]) for entry in made.journal())


def test_a_token_is_a_credential_and_in_no_environment(instance: Make) -> None:
    """Of a file that only root can read; without the file, the service starts as well."""
    made = instance()
    made.container.write(f"/etc/streamer/{made.name}.token", "hush-hush\n", 0o600)
    made.start()
    credentials = f"/run/credentials/{made.unit}"
    assert made.container.run("cat", f"{credentials}/turso-auth-token") == "hush-hush\n"
    environ = made.container.run("cat", f"/proc/{made.pid}/environ").split("\0")
    assert f"CREDENTIALS_DIRECTORY={credentials}" in environ
    assert not any("hush" in variable for variable in environ)


@pytest.mark.parametrize("place", ["srv", "home"])
def test_systemd_counts_next_to_no_exposure(instance: Make, place: str) -> None:
    """As installed, drop-ins included, wherever the shards are."""
    made = instance(folder=f"/{place}/someone/evaluation")
    said = made.container.run("systemd-analyze", "security", "--no-pager", made.unit)
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", said)
    assert exposure is not None
    assert float(exposure[1]) <= 1.5


def test_an_upgrade_goes_on_with_the_ledger_that_is_there(instance: Make) -> None:
    """From the last version whose ledgers have other keys: nothing is lost, and nothing is read twice."""
    made = instance()
    if not made.container.run("ls", "/previous").strip():
        pytest.skip("the history of this checkout does not reach back to that version")
    pip = ["/opt/streamer/bin/pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
    made.container.run(*pip, "--find-links=/previous", "--no-index", *previous(made.container))
    try:
        made.start()
        made.write(20)
        made.until_it_has_all()
        made.stop()
    finally:
        made.container.run(*pip, "streamer")
    made.write(20)
    made.container.run(STREAMER, "install-service", "--system", "--name", made.name)
    made.container.run("systemctl", "daemon-reload")
    made.start()
    made.until_it_has_all()
    assert made.status()["accounting"]["appended"] == 40
    assert made.status()["accounting"]["duplicate"] == 0


def runs_anew(was: str) -> Callable[[Instance], bool]:
    """Return whether an instance runs in another process than it did."""
    return lambda instance: instance.pid not in ("0", was)


def previous(container: Container) -> list[str]:
    """Return the wheel of the previous version, as pip takes it."""
    return [f"/previous/{name}" for name in container.run("ls", "/previous").split()]
