"""A program's metrics, as Prometheus reads them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from prometheus_client import parser


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of observations.

    Attributes:
        buckets: upper bounds with the number of observations up to each, ascending; the last bound
            is infinite.
        seconds: sum of all observations.
    """

    buckets: Sequence[tuple[float, float]]
    seconds: float

    @property
    def count(self) -> float:
        return self.buckets[-1][1] if self.buckets else 0.0

    def quantile(self, part: float) -> float | None:
        """The value that this part (0 to 1) of all observations does not exceed; None without any.

        Taken as spread evenly within a bucket, as Prometheus' histogram_quantile does; beyond the
        last finite bound that bound is all that is known.
        """
        if not self.count:
            return None
        wanted = part * self.count
        lower, before = 0.0, 0.0
        for upper, until in self.buckets:
            if until >= wanted and until > before:
                if math.isinf(upper):
                    return lower
                return lower + (upper - lower) * (wanted - before) / (until - before)
            lower, before = upper, until
        return lower

    def share_within(self, bound: float) -> float | None:
        """The part of all observations up to a bound of a bucket; None without any."""
        found = dict(self.buckets).get(bound)
        return found / self.count if found is not None and self.count else None


class Scrape:
    """All samples of one moment, or what was added between two."""

    def __init__(self, samples: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
        self._samples = samples

    def since(self, earlier: Scrape) -> Scrape:
        """What was added after an earlier scrape of the same process."""
        before = earlier._samples
        return Scrape({key: value - before.get(key, 0.0) for key, value in self._samples.items()})

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Sums by the values of these labels; what is zero is left out."""
        found: dict[tuple[str, ...], float] = {}
        for (sample, pairs), value in self._samples.items():
            if sample == name and value:
                have = dict(pairs)
                key = tuple(have.get(label, "") for label in labels)
                found[key] = found.get(key, 0.0) + value
        return found

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The sum of all histograms of a name that have these labels."""
        buckets: dict[float, float] = {}
        seconds = 0.0
        for (sample, pairs), value in self._samples.items():
            have = dict(pairs)
            if any(have.get(label) != wanted for label, wanted in labels.items()):
                continue
            if sample == f"{name}_bucket":
                bound = float(have["le"])
                buckets[bound] = buckets.get(bound, 0.0) + value
            elif sample == f"{name}_sum":
                seconds += value
        return Histogram(sorted(buckets.items()), seconds)


def parse(text: str) -> Scrape:
    """Read Prometheus' text format."""
    return Scrape(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }
    )
