"""Alert rules, dashboard and README of docs/monitoring say nothing that is not so."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from streamer.daemon.observers.health import STUCK_AFTER, Health
from streamer.web.metrics import Metrics
from tests.helpers.monitoring import promtool

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
ALERTS = FOLDER / "alerts.yml"
OF_OTHERS = {"up"}
"""What Prometheus itself says of a target."""


def exposed(folder: Path) -> set[str]:
    """Return the names of all families that are exposed."""
    registry = Metrics(folder / "dataset", folder / "ledger", Health(time.monotonic)).registry
    return set(re.findall(r"^# TYPE (\S+) ", generate_latest(registry).decode(), re.MULTILINE))


def used(text: str) -> set[str]:
    """Return the names of metrics that a text has, without what a histogram adds to its own."""
    names = set(re.findall(r"\b(?:streamer|process|python)_[a-z_]+\b|\bup\b(?=\{)", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that show something."""
    found: list[dict[str, Any]] = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def test_alerts_and_dashboard_name_metrics_that_there_are(tmp_path: Path) -> None:
    """A metric that is renamed takes its alerts and panels with it."""
    names = exposed(tmp_path) | OF_OTHERS
    expressions = [line for line in ALERTS.read_text().splitlines() if not line.strip().startswith("description")]
    in_alerts = {name for name in used("\n".join(expressions)) if not name.startswith("python")}
    in_panels = used("\n".join(target["expr"] for panel in panels() for target in panel["targets"]))
    assert len(in_alerts) > 10
    assert len(in_panels) > 25
    assert in_alerts - names == set()
    assert in_panels - names == set()


def test_the_readme_lists_every_metric_and_no_other(tmp_path: Path) -> None:
    """One line for each."""
    rows = re.findall(r"^\| `(streamer_[a-z_]+)[`{]", (FOLDER / "README.md").read_text(), re.MULTILINE)
    ours = {name for name in exposed(tmp_path) if name.startswith("streamer_") and not name.endswith("_created")}
    assert sorted(rows) == sorted(ours)


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    """A summary, a description, a severity; and a test in which it fires."""
    text = ALERTS.read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) == len(set(alerts)) > 10
    for key in ("summary:", "description:", "severity:", "expr:"):
        assert text.count(f" {key}") == len(alerts)
    tests = (FOLDER / "alerts_test.yml").read_text()
    assert [alert for alert in alerts if f'alertname="{alert}"' not in tests] == []


@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_takes_the_alerts(arguments: tuple[str, ...]) -> None:
    """The rules are sound, and fire when they should."""
    done = subprocess.run(
        [promtool(), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    """With the variables of Grafana replaced as Grafana replaces them."""
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "1m").replace("$instance", ".*")}
        for number, expr in enumerate(expressions)
    ]
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool(), "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """Its data source is a variable, its panels have ids of their own, do not overlap, and show each state."""
    text = (FOLDER / "grafana-dashboard.json").read_text()
    dashboard = json.loads(text)
    assert "id" not in dashboard
    assert set(re.findall(r'"uid": "([^"]*)"', text)) == {"streamer", "${datasource}"}
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "instance"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    for state in ("appended", "duplicate", "below_bar", "waiting", "never_scored", "dead_lettered"):
        assert f'state=\\"{state}\\"' in text


def test_health_watchdog_and_alert_agree_on_what_is_stuck() -> None:
    """One limit, in the code, in both units, in the alert and in its README."""
    limits = [
        float(seconds)
        for unit in sorted((FOLDER.parents[1] / "systemd").glob("*.service"))
        for seconds in re.findall(r"^WatchdogSec=(\d+)$", unit.read_text(), re.MULTILINE)
    ]
    assert limits == [STUCK_AFTER] * 2
    assert f"expr: streamer_loop_silence_seconds > {STUCK_AFTER:.0f}" in ALERTS.read_text()
    assert f"503 if it has not for {STUCK_AFTER:.0f} s" in (FOLDER / "README.md").read_text()
