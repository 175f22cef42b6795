"""The page and the metrics of a daemon with several datasets: each has an address, and a label, of its own."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.helpers.monitoring import promtool
from tests.helpers.place import until
from tests.helpers.producer import add_outcome, dialogue, make_traces
from tests.helpers.web import Site, flow, got, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

pytestmark = pytest.mark.slow


class Several(Site):
    """A place whose daemon writes three datasets, two of them called the same."""

    def configure(self, text: str = "", source: str = "", web: str = 'listen = "127.0.0.1:0"') -> None:
        """Write the configuration."""
        super().configure(text, source, web)
        tables = (
            '[[dataset]]\npath = "good.jsonl"\n'
            '[[dataset]]\npath = "other/good.jsonl"\nqualify.where = "total_reward >= 3"\n'
            '[[dataset]]\npath = "a b.jsonl"\n[dataset.records]\nmax_turn = 0\n'
        )
        self.config.write_text(self.config.read_text().replace('[dataset]\npath = "good.jsonl"\n', "") + tables)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a daemon that has read two rollouts for each of its datasets."""
    site = Several(tmp_path_factory.mktemp("page"))
    make_traces(site.traces)
    for run, reward in (("fine", 1), ("best", 3)):
        add_outcome(site.traces, run, reward, 9)
        site.shard(f"{run}.jsonl", *(dialogue(run, turn, f"{run} {turn}", image=turn == 1) for turn in range(3)))
    with site.served() as client:
        for address in PLACES:
            until(lambda at=address: got(client, f"{at}/api/state")["flow"]["read"] == 6)  # type: ignore[misc]
        yield client


PLACES = {"": 6, "/datasets/good.jsonl": 6, "/datasets/good.jsonl-2": 3, "/datasets/a-b.jsonl": 2}
"""How many records there are at each address. The first dataset is at two of them."""


def test_each_dataset_has_its_page_and_all_answers_below_its_address(client: httpx.Client) -> None:
    """State, records, images and rollouts are those of the dataset."""
    for address, records in PLACES.items():
        page = client.get(f"{address}/")
        assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
        assert client.get(f"{address}/rollouts/best").content == page.content
        assert flow(got(client, f"{address}/api/state"))["appended"] == records
        found = got(client, f"{address}/api/records")["records"]
        assert len(found) == records
        (whole,) = [got(client, f"{address}/api/records/{found[0]['offset']}")]
        assert whole["offset"] == found[0]["offset"]
        assert got(client, f"{address}/api/rollouts", session="best")
    image = client.get("/datasets/good.jsonl-2/api/records/0/images/0")
    assert image.status_code == 404
    refused(client, "/datasets/nothing/api/state", 404)


def test_each_page_links_to_all_of_them(client: httpx.Client) -> None:
    """And says which one it is."""
    for address in PLACES:
        links = got(client, f"{address}/api/state")["datasets"]
        assert [link["address"] for link in links] == [place for place in PLACES if place]
        assert [link["name"] for link in links] == ["good.jsonl", "good.jsonl-2", "a b.jsonl"]
        assert [link["address"] for link in links if link["here"]] == [address or "/datasets/good.jsonl"]


def test_metrics_say_of_which_dataset_they_are(client: httpx.Client) -> None:
    """Each family is there once; what is so of the process is told once and without a dataset."""
    text = client.get("/metrics").text
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names))
    found = dict(re.findall(r'^streamer_dataset_lines\{dataset="([^"]+)"\} (\S+)$', text, re.MULTILINE))
    assert {name: float(value) for name, value in found.items()} == {"good.jsonl": 6, "good.jsonl-2": 3, "a b.jsonl": 2}
    assert len(re.findall(r'^streamer_ready\{dataset="[^"]+"\} 1.0$', text, re.MULTILINE)) == 3
    assert re.findall(r"^process_resident_memory_bytes \S+$", text, re.MULTILINE)
    assert len(re.findall(r"^streamer_(?:build_info|loop_silence_seconds)", text, re.MULTILINE)) == 2
    ours = [line for line in text.splitlines() if re.match(r"streamer_(?!build|loop)", line)]
    assert all('dataset="' in line for line in ours)
    assert len(ours) == len({line.rpartition(" ")[0] for line in ours})


def test_the_daemon_is_ready_when_all_its_datasets_are(client: httpx.Client) -> None:
    """As good as the worst of them."""
    assert client.get("/readyz").text == "ready\n"
    assert client.get("/healthz").text == "alive\n"


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_promtool_finds_nothing_to_improve_in_the_metrics_of_several(client: httpx.Client, accept: str) -> None:
    """In either format: families are whole, and each sample is there once."""
    text = client.get("/metrics", headers={"accept": accept}).text
    assert text.endswith("# EOF\n") is accept.startswith("application/openmetrics")
    if accept == "text/plain":
        done = subprocess.run(
            [promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
