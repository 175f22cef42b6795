"""The metrics of several datasets as those of one target: each sample says of which dataset it is.

What is so of the process, and not of a dataset, is told once and without that label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

_OF_THE_PROCESS = ("process_", "python_", "streamer_build", "streamer_loop_silence_seconds")


class Together:
    """Collects from the registry of each dataset, as a registry does.

    Args:
        registries: by the name of the dataset; the same metrics are in all of them.
    """

    def __init__(self, registries: Mapping[str, CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        """Yield each family once, with the samples of all datasets."""
        families: dict[str, Metric] = {}
        for dataset, registry in self._registries.items():
            for metric in registry.collect():
                found = families.setdefault(metric.name, _empty(metric))
                if not metric.name.startswith(_OF_THE_PROCESS):
                    found.samples += [
                        sample._replace(labels={**sample.labels, "dataset": dataset}) for sample in metric.samples
                    ]
                elif not found.samples:
                    found.samples += metric.samples
        yield from families.values()


def _empty(metric: Metric) -> Metric:
    return Metric(metric.name, metric.documentation, metric.type, metric.unit)


def distinct(names: Iterable[str]) -> list[str]:
    """Return names for datasets that may have the same one: later ones get a number."""
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}-{number}"
        found.append(candidate)
    return found
