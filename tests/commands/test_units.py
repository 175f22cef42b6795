"""The unit files, as systemd itself judges them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from streamer.base.errors import ConfigError, LockedError, RefusedError

FOLDER = Path(__file__).parents[2] / "streamer" / "commands" / "install_service" / "units"
SYSTEM, USER = FOLDER / "streamer@.service", FOLDER / "streamer.service"
# An older systemd reports these two and goes on: the pause between restarts does not grow then.
NEWER_KEYS = ("RestartSteps", "RestartMaxDelaySec")


def analyze(*arguments: str, runtime: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, or skip the test; ``runtime`` is where a user's manager keeps its sockets."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_LOG_LEVEL": "warning"}
    return subprocess.run([tool, *arguments], capture_output=True, text=True, env=environ, check=False)


def copy(unit: Path, folder: Path, name: str) -> Path:
    """Copy a unit; where the programs would have to be installed, the copy has a stub."""
    stub = folder / "stub"
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    target = folder / name
    target.write_text(re.sub(r"^(Exec\w+=)\S+", rf"\g<1>{stub}", unit.read_text(), flags=re.MULTILINE))
    return target


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the values of each key of a unit."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", ["streamer@.service", "streamer@crafter.service"])
def test_systemd_finds_no_fault_with_the_system_unit(tmp_path: Path, name: str) -> None:
    """As a template, and as an instance."""
    unit = copy(SYSTEM, tmp_path, name)
    assert_no_fault(analyze("verify", "--man=no", str(unit), runtime=tmp_path))


def test_systemd_finds_no_fault_with_the_user_unit(tmp_path: Path) -> None:
    """As the manager of a user reads it."""
    unit = copy(USER, tmp_path, USER.name)
    assert_no_fault(analyze("--user", "verify", "--man=no", str(unit), runtime=tmp_path))


def test_a_fault_would_be_found(tmp_path: Path) -> None:
    """A misspelt key, so as to know that the tests above can fail."""
    unit = copy(SYSTEM, tmp_path, SYSTEM.name)
    unit.write_text(unit.read_text().replace("ProtectSystem=", "ProtectSytsem="))
    done = analyze("verify", "--man=no", str(unit), runtime=tmp_path)
    with pytest.raises(AssertionError, match="ProtectSytsem"):
        assert_no_fault(done)


def test_the_system_unit_exposes_next_to_nothing(tmp_path: Path) -> None:
    """On systemd's scale from 0 (safe) to 10."""
    unit = copy(SYSTEM, tmp_path, "streamer@crafter.service")
    done = analyze("security", "--offline=true", "--no-pager", str(unit), runtime=tmp_path)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit that is not installed")
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) < 1.0


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_a_restart_is_not_tried_for_a_configuration_that_cannot_be_used(unit: Path) -> None:
    """The exit statuses in the unit are those of the errors that only a person can mend."""
    errors = ConfigError, LockedError, RefusedError
    assert settings(unit)["RestartPreventExitStatus"] == [" ".join(str(error.exit_code) for error in errors)]


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_the_unit_keeps_the_daemons_side_of_the_protocol(unit: Path) -> None:
    """Readiness, watchdog, reload and stop are what the daemon is written for."""
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert found["NotifyAccess"] == ["main"]
    assert found["WatchdogSec"] == ["60"]
    assert found["KillSignal"] == ["SIGTERM"]
    assert found["ExecReload"][0].endswith("kill -HUP $MAINPID'")


def test_both_units_treat_the_daemon_alike() -> None:
    """What both files say about life, death and system calls is the same."""
    system, user = settings(SYSTEM), settings(USER)
    own = {"Description", "ExecStart", "EnvironmentFile", "StateDirectory", "WorkingDirectory", "WantedBy"}
    assert {key: user[key] for key in user if key not in own} == {
        key: system.get(key) for key in user if key not in own
    }


def assert_no_fault(done: subprocess.CompletedProcess[str]) -> None:
    """Fail if systemd said anything, but for keys that it is too old for."""
    if "Failed to initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.strip()}")
    lines = [line for line in done.stderr.splitlines() if not any(key in line for key in NEWER_KEYS)]
    assert lines == []
    assert done.returncode == 0
