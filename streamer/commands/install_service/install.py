"""Installs and removes the files of a service.

Invariants
- All checks run before the first write, and each file appears whole.
- Files that others wrote or edited are not replaced or removed without --force.
- No unit is started, stopped or enabled: the command prints these steps for the user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from streamer.base.errors import ConfigError, RefusedError, UnavailableError
from streamer.base.files import Files, sync_folder
from streamer.commands.install_service.plan import File, Service
from streamer.commands.install_service.stamp import Origin, origin, stamped, without_stamp

_NEWER_KEYS = ("RestartSteps", "RestartMaxDelaySec")
"""Keys that an older systemd reports as unknown, and ignores."""


class Change(StrEnum):
    """The change of one file."""

    WRITE = "wrote"
    KEEP = "kept"
    REMOVE = "removed"
    LEAVE = "left"


class Step(NamedTuple):
    """One file, and its change; ``why`` is the reason if the file is left as it is."""

    change: Change
    file: File
    why: str = ""


def steps_to_install(files: Iterable[File], *, force: bool, replace: frozenset[Path]) -> list[Step]:
    """Return the steps that install files.

    Args:
        files: The files of the service.
        force: Whether to replace files that others wrote or edited.
        replace: Files to replace although they are the user's, because the user has given new ones.

    Raises:
        RefusedError: a step would replace a file that someone else wrote or edited.
        UnavailableError: an existing file cannot be read.
    """
    steps: list[Step] = []
    for file in files:
        there = _content(file.path)
        if there == stamped(file.text) or (there is not None and file.is_users and without_stamp(there) == file.text):
            steps.append(Step(Change.KEEP, file, "it is up to date"))
        elif there is not None and file.is_users and file.path not in replace:
            steps.append(Step(Change.KEEP, file, "it is yours"))
        elif there is None or force or origin(there) is Origin.OURS:
            steps.append(Step(Change.WRITE, file))
        else:
            hint = "move it away, or replace it with --force; changes of your own belong into a drop-in: systemctl edit"
            raise RefusedError("replace", str(file.path), f"it is {origin(there).value}", hint)
    return steps


def steps_to_uninstall(service: Service, files: Iterable[Path], *, force: bool) -> list[Step]:
    """Return the steps that remove the existing files of a service.

    Raises:
        RefusedError: the service is running or enabled.
        UnavailableError: an existing file cannot be read.
    """
    _require_off(service)
    steps: list[Step] = []
    for path in files:
        there = _content(path)
        if there is None:
            continue
        file = File(path, there)
        if force or origin(there) is Origin.OURS:
            steps.append(Step(Change.REMOVE, file))
        else:
            steps.append(Step(Change.LEAVE, file, f"it is {origin(there).value}"))
    return steps


def own_paths(service: Service) -> list[Path]:
    """Return the files to remove with a service; for the last instance, this includes the shared ones."""
    own = [service.path_unit, service.access, service.environment, service.config]
    shared = [service.unit, *([service.sysusers] if service.sysusers is not None else [])]
    return own + (shared if not service.is_system or service.is_last else [])


def _require_off(service: Service) -> None:
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return
    units = [f"{service.name}.service", service.path_unit.name]
    on = [
        unit
        for unit in units
        for question in ("is-active", "is-enabled")
        if _says_yes(systemctl, service, question, unit)
    ]
    if on:
        stop = " ".join([service.systemctl, "disable", "--now", *dict.fromkeys(on)])
        raise RefusedError("uninstall", " and ".join(dict.fromkeys(on)), "it is running or enabled", f"first {stop}")


def _says_yes(systemctl: str, service: Service, question: str, unit: str) -> bool:
    command = [systemctl, *service.manager, "--quiet", question, unit]
    done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - no shell
    return done.returncode == 0


def verify(service: Service, files: Sequence[File]) -> None:
    """Let systemd check the units before they are installed.

    Raises:
        ConfigError: systemd rejects a unit.
        UnavailableError: systemd is not installed.
    """
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        hint = "a service needs systemd; without it, run `streamer run` from what starts programs here"
        raise UnavailableError("check the unit", service.unit.name, "systemd-analyze is not installed", hint)
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            if service.units in file.path.parents:
                copy = Path(folder) / file.path.relative_to(service.units)
                copy.parent.mkdir(exist_ok=True)
                copy.write_text(file.text, encoding="utf-8")
        units = [str(Path(folder, name)) for name in _units(service, files)]
        environ = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_COLORS": "0"}
        if not service.is_system:
            environ.setdefault("XDG_RUNTIME_DIR", folder)
        command = [analyze, *service.manager, "verify", "--man=no", *units]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)  # noqa: S603 - no shell
    # It may report on installed units, too.
    ours = [
        line.replace(f"{folder}/", "") for line in done.stderr.splitlines() if folder in line or service.name in line
    ]
    faults = [line for line in ours if not any(f"'{key}'" in line for key in _NEWER_KEYS)]
    if faults:
        raise ConfigError("use the unit", service.unit.name, "; ".join(faults), "see `man systemd.service`")


def _units(service: Service, files: Sequence[File]) -> list[str]:
    there = {file.path for file in files}
    return [f"{service.name}.service", *([service.path_unit.name] if service.path_unit in there else [])]


def carry_out(steps: Iterable[Step], files: Files) -> None:
    """Write and remove files.

    Raises:
        UnavailableError: a file cannot be written or removed.
    """
    for step in steps:
        path = step.file.path
        try:
            if step.change is Change.WRITE:
                _write(step.file, files)
            elif step.change is Change.REMOVE:
                files.unlink(path)
                with contextlib.suppress(OSError):  # it may hold a drop-in of someone else
                    path.parent.rmdir()
        except OSError as error:
            raise _not_allowed(
                f"{'write' if step.change is Change.WRITE else 'remove'} the file", path, error
            ) from error


def _write(file: File, files: Files) -> None:
    folder = file.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{file.path.name}.new"
    files.unlink(new)
    fd = files.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.fchmod(fd, file.mode)
        with open(fd, "w", encoding="utf-8", closefd=False) as out:
            out.write(stamped(file.text))
        files.fsync(fd)
    finally:
        files.close(fd)
    files.rename(new, file.path)
    sync_folder(files, folder)


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_allowed("read the file", path, error) from error


def _not_allowed(op: str, path: Path, error: OSError) -> UnavailableError:
    hint = "a system service is installed by root (sudo); --user installs one of your own"
    return UnavailableError(op, str(path), error.strerror or str(error), hint)
