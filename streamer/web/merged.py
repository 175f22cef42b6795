"""Merge the metrics of several datasets into one registry: each sample gets the label ``dataset``.

Metrics of the process appear once, without that label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

_PROCESS_PREFIXES = ("process_", "python_", "streamer_build", "streamer_loop_silence_seconds")


class MergedRegistry:
    """Collects the metrics of several registries.

    Args:
        registries: The registries by dataset name, all with the same metrics.
    """

    def __init__(self, registries: Mapping[str, CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        """Yield each family once, with the samples of all datasets."""
        families: dict[str, Metric] = {}
        for dataset, registry in self._registries.items():
            for metric in registry.collect():
                found = families.setdefault(metric.name, _empty(metric))
                if not metric.name.startswith(_PROCESS_PREFIXES):
                    found.samples += [
                        sample._replace(labels={**sample.labels, "dataset": dataset}) for sample in metric.samples
                    ]
                elif not found.samples:
                    found.samples += metric.samples
        yield from families.values()


def _empty(metric: Metric) -> Metric:
    return Metric(metric.name, metric.documentation, metric.type, metric.unit)


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names made unique: repeated ones get a number."""
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}-{number}"
        found.append(candidate)
    return found
