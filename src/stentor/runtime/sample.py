"""Metrics asked for when they are scraped, out of state that exists anyway: nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stentor.runtime.duration import Durations

L = TypeVar("L", bound=tuple[str, ...])


class Sampler(Collector):
    """Yields what `sample` yields."""

    def __init__(self, sample: Callable[[], Iterator[Metric]]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        yield from self._sample()


def registry(sample: Callable[[], Iterator[Metric]]) -> CollectorRegistry:
    """A registry whose metrics `sample` yields."""
    made = CollectorRegistry()
    made.register(Sampler(sample))
    return made


def gauge(name: str, text: str, samples: Mapping[L, float], labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    """A gauge with one sample a label combination."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def counter(name: str, text: str, samples: Mapping[L, float], labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    """A counter with one sample a label combination."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def histogram(
    name: str, text: str, samples: Mapping[L, Durations], labels: tuple[str, ...] = ()
) -> HistogramMetricFamily:
    """A histogram of seconds for each label combination."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, durations in samples.items():
        family.add_metric(values, durations.buckets(), durations.sum_s)
    return family
