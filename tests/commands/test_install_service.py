"""``streamer install-service``: which files it writes, and what it never touches. See also tests/suites/systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.base.address import Address
from streamer.base.errors import ConfigError, RefusedError, UnavailableError
from streamer.base.files import Files
from streamer.commands.install_service import plan
from streamer.commands.install_service.access import system_access, user_access
from streamer.commands.install_service.install import (
    Change,
    carry_out,
    own_paths,
    steps_to_install,
    steps_to_uninstall,
    verify,
)
from streamer.commands.install_service.program import check_for_all, installed
from streamer.commands.install_service.stamp import Origin, origin, stamped, without_stamp
from streamer.config import Config, Dataset, Source, Web
from tests.helpers.place import environment

STATE = Path("/var/lib/streamer/crafter")
COMMAND = Path("/bin/true")
"""Stands in for the command, where it has to be one."""

NOTHING: frozenset[Path] = frozenset()


def config(shards: str = "/data/eval/ft_data", database: str = "/data/eval/traces.db", dataset: str = "") -> Config:
    """Return what a configuration says."""
    path = Path(dataset) if dataset else Path("high_reward.jsonl")
    return Config(source=Source(Path(shards), database), dataset=Dataset(path, path.with_name(f"{path.name}.ledger")))


def files(service: plan.Service, text: str = "# mine\n") -> list[plan.File]:
    """Return the files of a service."""
    return plan.files(service, COMMAND, text, [config()])


def install(service: plan.Service, text: str = "# mine\n", *, force: bool = False) -> dict[str, Change]:
    """Install a service, and return what was done to each file."""
    steps = steps_to_install(files(service, text), force=force, replace=NOTHING)
    carry_out(steps, Files())
    return {step.file.path.name: step.change for step in steps}


@pytest.fixture
def service(tmp_path: Path) -> plan.Service:
    """Return a system service whose /etc is elsewhere."""
    return plan.system_service("crafter", tmp_path)


class TestStamp:
    """Who wrote a file, and whether it was changed."""

    @given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
    def test_what_was_stamped_is_ours_and_comes_back(self, text: str) -> None:
        """Whatever stands in it."""
        assert origin(stamped(text)) is Origin.OURS
        assert without_stamp(stamped(text)) == text

    @pytest.mark.parametrize("edit", ["{}x", "{}\n", "{}# more\n"])
    def test_any_edit_is_noticed(self, edit: str) -> None:
        """Be it a blank line."""
        assert origin(edit.format(stamped("a = 1\n"))) is Origin.EDITED

    @pytest.mark.parametrize("text", ["", "a = 1\n", "# Written by someone else\na = 1\n"])
    def test_what_has_no_stamp_is_someone_elses(self, text: str) -> None:
        """An empty file, too."""
        assert origin(text) is Origin.FOREIGN


class TestInstall:
    """Files get to their places, and none that is someone's own is replaced."""

    def test_all_files_are_written_and_a_second_time_none(self, service: plan.Service) -> None:
        """With the modes that they need."""
        assert set(install(service).values()) == {Change.WRITE}
        assert service.config.read_text() == stamped("# mine\n")
        assert service.environment.stat().st_mode & 0o777 == 0o600
        assert service.unit.stat().st_mode & 0o777 == 0o644
        assert f"ExecStart={COMMAND} run" in service.unit.read_text()
        assert "PathChanged=/data/eval/ft_data\n" in service.path_unit.read_text()
        assert set(install(service).values()) == {Change.KEEP}
        assert not [path for path in service.units.rglob("*") if path.name.startswith(".")]

    def test_an_older_unit_that_no_one_edited_is_replaced(self, service: plan.Service) -> None:
        """So an upgrade comes through."""
        install(service)
        service.unit.write_text(stamped("[Service]\nExecStart=/old\n"))
        assert install(service)["streamer@.service"] is Change.WRITE

    def test_settings_that_were_edited_stay(self, service: plan.Service) -> None:
        """They are there for that."""
        install(service)
        for file in (service.config, service.environment):
            file.write_text(file.read_text() + "# edited\n")
        assert install(service)["crafter.toml"] is Change.KEEP
        assert service.environment.read_text().endswith("# edited\n")

    @pytest.mark.parametrize("text", ["[Service]\n", stamped("[Service]\n") + "# edited\n"], ids=["foreign", "edited"])
    def test_a_unit_of_someone_else_is_refused_before_anything_is_written(
        self, service: plan.Service, text: str
    ) -> None:
        """Unless it is asked for."""
        service.access.parent.mkdir(parents=True)
        service.access.write_text(text)
        with pytest.raises(RefusedError, match="--force"):
            install(service)
        assert [path for path in service.units.rglob("*") if path.is_file()] == [service.access]
        assert not service.settings.exists()
        assert install(service, force=True)["access.conf"] is Change.WRITE

    def test_another_configuration_replaces_one_that_no_one_edited(self, service: plan.Service) -> None:
        """If it is given; one that was edited is refused."""
        install(service)
        given = frozenset({service.config})
        carry_out(steps_to_install(files(service, "# new\n"), force=False, replace=given), Files())
        assert service.config.read_text() == stamped("# new\n")
        service.config.write_text("# edited\n")
        with pytest.raises(RefusedError, match=r"crafter\.toml"):
            steps_to_install(files(service, "# newer\n"), force=False, replace=given)
        (step,) = (
            step for step in steps_to_install(files(service, "# edited\n"), force=False, replace=given)
            if step.file.path == service.config
        )  # fmt: skip
        assert step.change is Change.KEEP

    def test_a_place_that_cannot_be_written_is_named(self, service: plan.Service) -> None:
        """With what to do."""
        service.units.parent.mkdir(parents=True)
        service.units.write_text("no folder")
        with pytest.raises(UnavailableError, match="sudo"):
            install(service)


class TestUninstall:
    """What was installed goes, what is someone's own stays."""

    def uninstall(self, service: plan.Service, *, force: bool = False) -> dict[str, Change]:
        """Remove a service, and return what was done to each file."""
        steps = steps_to_uninstall(service, own_paths(service), force=force)
        carry_out(steps, Files())
        return {step.file.path.name: step.change for step in steps}

    def test_nothing_is_left_of_the_last_instance(self, service: plan.Service, tmp_path: Path) -> None:
        """Not even the folder of its drop-in."""
        install(service)
        assert set(self.uninstall(service).values()) == {Change.REMOVE}
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        assert not service.access.parent.exists()
        assert self.uninstall(service) == {}

    def test_what_others_share_stays_with_them(self, service: plan.Service, tmp_path: Path) -> None:
        """The unit goes with the last instance."""
        other = plan.system_service("other", tmp_path)
        install(service)
        install(other)
        assert "streamer@.service" not in self.uninstall(service)
        assert self.uninstall(other)["streamer@.service"] is Change.REMOVE

    def test_what_was_edited_stays_unless_asked_for(self, service: plan.Service) -> None:
        """And is told."""
        install(service)
        service.config.write_text("# edited\n")
        assert self.uninstall(service)["crafter.toml"] is Change.LEAVE
        assert self.uninstall(service, force=True)["crafter.toml"] is Change.REMOVE


class TestAccess:
    """What the system service may see and write."""

    @pytest.mark.parametrize(
        ("shards", "database", "shown"),
        [
            ("/srv/eval/ft_data", "/srv/eval/traces.db", '"/srv/eval"'),
            ("/srv/eval/ft_data", "/mnt/dbs/a/traces.db", '"/mnt/dbs/a" "/srv/eval"'),
            ("/home/ann/ft_data", "/home/ann/traces/t.db", '"/home/ann/ft_data" "/home/ann/traces"'),
            ("/tmp/ft_data", "sqlite+aiosqlite:////tmp/dbs/t.db", '"/tmp/dbs" "/tmp/ft_data"'),
        ],
    )
    def test_only_what_is_read_is_shown(self, shards: str, database: str, shown: str) -> None:
        """A folder by the one above it, but never a whole home."""
        text = system_access([config(shards, database)], STATE)
        assert f"BindReadOnlyPaths={shown}\n" in text
        assert "BindPaths" not in text.replace("BindReadOnlyPaths", "")
        assert ("ProtectHome=no" in text) is shards.startswith("/home")

    def test_what_is_not_hidden_needs_no_mount(self) -> None:
        """The rights of the user count there."""
        text = system_access([config()], STATE)
        assert "Paths=" not in text
        assert 'RequiresMountsFor="/data/eval"\n' in text

    @pytest.mark.parametrize(
        ("dataset", "line"),
        [
            ("/data/sets/good.jsonl", 'ReadWritePaths="/data/sets"\n'),
            ("/home/ann/sets/good.jsonl", 'BindPaths="/home/ann/sets"\n'),
            (f"{STATE}/good.jsonl", ""),
        ],
    )
    def test_a_dataset_elsewhere_can_be_written(self, dataset: str, line: str) -> None:
        """And nothing beside its folder."""
        text = system_access([config(dataset=dataset)], STATE)
        assert re.findall(r"^(?:ReadWrite|Bind)Paths=.*\n", text, re.MULTILINE) == ([line] if line else [])

    def test_each_of_several_datasets_can_be_written(self) -> None:
        """By one service, wherever they lie."""
        text = system_access([config(dataset="/data/a/good.jsonl"), config(dataset="/data/b/best.jsonl")], STATE)
        assert re.findall(r"^ReadWritePaths=.*\n", text, re.MULTILINE) == ['ReadWritePaths="/data/a" "/data/b"\n']

    def test_only_a_server_opens_the_network(self) -> None:
        """For the system service and for that of a user."""
        server = config(database="libsql://traces.example.org")
        assert "PrivateNetwork=no" in system_access([server], STATE)
        assert "PrivateNetwork=no" in user_access(server)
        assert "PrivateNetwork" not in system_access([config()], STATE)

    def test_the_page_opens_the_network_as_far_as_it_is_served(self) -> None:
        """To this machine alone where it listens there; a server needs all of it."""
        here = msgspec.structs.replace(config(), web=Web(Address("127.0.0.1", 8765)))
        found = system_access([here], STATE)
        assert "# The page is served at 127.0.0.1:8765.\nPrivateNetwork=no\n" in found
        assert found.endswith("IPAddressAllow=localhost\n")
        assert user_access(here).startswith("[Service]\n")
        for config_of_all in (
            msgspec.structs.replace(config(), web=Web(Address("0.0.0.0", 8765))),
            msgspec.structs.replace(config(database="libsql://traces.example.org"), web=here.web),
        ):
            assert system_access([config_of_all], STATE).endswith("AF_INET6\nIPAddressDeny=\n")
        assert user_access(config()) == ""

    @pytest.mark.parametrize(
        ("shards", "database", "named"),
        [
            ("ft_data", "/data/traces.db", "source.shards"),
            ("/data/ft_data", "/home/ann/traces.db", "a folder of its own"),
            ("/data/a:b/ft_data", "/dbs/traces.db", "colon"),
            ('/data/a"\nExecStartPre=/bin/x/ft_data', "/dbs/traces.db", "quote"),
        ],
    )
    def test_a_path_that_cannot_be_shown_is_named(self, shards: str, database: str, named: str) -> None:
        """And adds no line of its own to a unit."""
        with pytest.raises(ConfigError, match=named):
            system_access([config(shards, database)], STATE)


class TestNames:
    """What an instance may be called."""

    @pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "a b", "a\n", "x" * 65, "é", "a@b"])
    def test_what_is_no_name_is_refused(self, name: str, tmp_path: Path) -> None:
        """It becomes a path and a unit."""
        if not name:
            assert plan.system_service(name, tmp_path).name == "streamer@default"
            return
        with pytest.raises(ConfigError, match="--name"):
            plan.system_service(name, tmp_path)

    def test_a_user_has_one_service_without_a_name(self, tmp_path: Path) -> None:
        """And others with one."""
        environ = {"XDG_CONFIG_HOME": str(tmp_path)}
        assert plan.user_service(None, environ).unit == tmp_path / "systemd/user/streamer.service"
        assert plan.user_service("x", environ).config == tmp_path / "streamer/streamer-x.toml"


class TestVerify:
    """Systemd looks at what would be written."""

    @pytest.fixture(autouse=True)
    def _needs_systemd(self) -> None:
        if shutil.which("systemd-analyze") is None:
            pytest.skip("systemd-analyze is not installed")

    @pytest.mark.parametrize("scope", ["system", "user"])
    def test_it_finds_no_fault(self, tmp_path: Path, scope: str) -> None:
        """With the units as they are."""
        made = plan.system_service("x", tmp_path) if scope == "system" else plan.user_service("x", {"HOME": "/"})
        verify(made, files(made))

    def test_a_fault_is_named_and_its_file_not_that_of_the_trial(self, service: plan.Service) -> None:
        """A command that is not there."""
        with pytest.raises(ConfigError, match="/no/such/command") as caught:
            verify(service, plan.files(service, Path("/no/such/command"), "", [config()]))
        assert "tmp" not in str(caught.value)


class TestCommand:
    """The real command, for a user: nothing of the machine is touched."""

    def call(self, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it with a home of its own."""
        environ = {**environment(), "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
        command = [sys.executable, "-m", "streamer", "install-service", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environ, cwd=home)

    def test_a_dry_run_shows_all_and_writes_nothing(self, tmp_path: Path) -> None:
        """The unit starts the command of this very environment."""
        done = self.call(tmp_path, "--user", "--dry-run")
        if shutil.which("systemd-analyze") is None:
            assert done.returncode == 3
            return
        assert done.returncode == 0, done.stderr
        assert f"ExecStart={installed()} run --config %E/streamer/%N.toml" in done.stdout
        assert list(tmp_path.iterdir()) == []

    def test_without_a_configuration_it_installs_the_example_and_says_so(self, tmp_path: Path) -> None:
        """Then it is to be called again."""
        done = self.call(tmp_path, "--user", "--name", "x")
        if shutil.which("systemd-analyze") is None:
            assert done.returncode == 3
            return
        written = tmp_path / ".config/streamer/streamer-x.toml"
        assert f"set source.shards and source.database in {written}" in done.stdout, done.stderr
        assert "streamer install-service --user --name x" in done.stdout
        assert without_stamp(written.read_text()) == plan.example()

    def test_a_relative_path_is_refused(self, tmp_path: Path) -> None:
        """It would be another one where the configuration goes."""
        (tmp_path / "c.toml").write_text('[source]\nshards = "ft_data"\ndatabase = "/traces.db"\n')
        done = self.call(tmp_path, "--user", "--config", "c.toml")
        assert done.returncode == 2
        assert "source.shards: a relative path" in done.stderr
        assert not (tmp_path / ".config").exists()

    @pytest.mark.parametrize("arguments", [["--uninstall", "--config", "c.toml"], ["--name", "a/b"]])
    def test_wrong_usage_is_named(self, tmp_path: Path, arguments: list[str]) -> None:
        """Exit code 2, without a traceback."""
        done = self.call(tmp_path, "--user", *arguments)
        assert done.returncode == 2
        assert "what to do" in done.stderr


def test_the_system_service_starts_nothing_that_its_user_cannot_read(tmp_path: Path) -> None:
    """Said before anything is written, with a place that all can read."""
    command = tmp_path / "streamer"
    command.write_text("#!/bin/sh\n")
    os.chmod(command, 0o755)
    with pytest.raises(ConfigError, match="/opt/streamer"):
        check_for_all(command)
