"""A family of rules: numbers of a text, and the limits they are held against.

Where a text has several windows and the recipe says which share of them may be bad, it goes by that share: a window is
bad where one number is out of its limits. Else it goes by the numbers of the whole. The numbers themselves are
judgements in any case: the whole's, and the windows' greatest and mean one (and the least, where a least is asked for).
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from filters.curation.batch import Batch, Windows
from filters.curation.text import Judgement, Text
from filters.curation.tokens import Array
from schemas.curation.quality import QualityConfig

Config = TypeVar("Config", bound=QualityConfig)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of each text. `whole`: (texts,). `windows`: (windows,); None for what only a whole text has: that is
    always judged. Limits: None for no limit; a number equal to its limit is inside. `of`: bool (texts,), the texts that
    have it; None: all."""

    name: str
    whole: Array
    windows: Array | None
    least: float | None = None
    most: float | None = None
    of: Array | None = None

    def bad(self, values: Array) -> Array:
        bad = np.zeros(len(values), bool)
        if self.least is not None:
            bad |= values < self.least
        if self.most is not None:
            bad |= values > self.most
        return bad


def number(
    windows: Windows, name: str, values: Array, least: float | None = None, most: float | None = None
) -> Measure:
    """Of a number whose sum over windows is the whole's."""
    return Measure(name, np.add.reduceat(values, windows.firsts), values, least, most)


def share(
    windows: Windows, name: str, part: Array, of: Array, least: float | None = None, most: float | None = None
) -> Measure:
    """Of a share: what is counted and what it is a share of (nowhere 0), by window."""
    whole = np.add.reduceat(part, windows.firsts) / np.add.reduceat(of, windows.firsts)
    return Measure(name, whole, part / of, least, most)


class Family(Generic[Config]):
    """A rule (`rule.Rule`) that also takes a batch."""

    name: str

    def __init__(self, config: Config) -> None:
        self.config = config

    def measures(self, batch: Batch, windows: Windows) -> list[Measure]:
        raise NotImplementedError

    def judge(self, text: Text) -> list[Judgement]:
        return self.judge_all(text.alone)[0]

    def judge_all(self, batch: Batch) -> list[list[Judgement]]:
        """The judgements of each text; of one without any word there is one."""
        found = iter(self._judged(batch) if len(batch) else [])
        wordless = Judgement(f"{self.name}.n_words", 0.0, False, "no_words")
        return [next(found) if words else [wordless] for words in batch.words]

    def _judged(self, batch: Batch) -> list[list[Judgement]]:
        windows = batch.windows(self.config.window_words)
        measures = self.measures(batch, windows)
        counts = np.bincount(windows.texts())
        by_window = counts > 1 if self.config.max_bad_windows is not None else np.zeros(len(counts), bool)
        judged: list[list[Judgement]] = [[] for _ in range(len(batch))]
        for measure in measures:
            self._add(judged, measure, windows, by_window)
        for text in np.flatnonzero(by_window).tolist():
            start = int(windows.firsts[text])
            judged[text].append(self._bad_windows(measures, text, slice(start, start + int(counts[text]))))
        return judged

    def _add(self, judged: list[list[Judgement]], measure: Measure, windows: Windows, by_window: Array) -> None:
        name = f"{self.name}.{measure.name}"
        keep = ~measure.bad(measure.whole)
        if measure.windows is not None:
            keep |= by_window
        everyone = range(len(judged))
        texts = everyone if measure.of is None else np.flatnonzero(measure.of).tolist()
        values, keeps = measure.whole.astype(float).tolist(), keep.tolist()
        for text in texts:
            keep_it = keeps[text]
            judged[text].append(Judgement(name, values[text], keep_it, "" if keep_it else measure.name))
        if measure.windows is None or not windows.several():
            return
        ends = [*windows.firsts[1:].tolist(), len(windows)]
        for text in texts:
            part = measure.windows[int(windows.firsts[text]) : ends[text]]
            if len(part) > 1:
                judged[text].append(Judgement(f"{name}:window_max", float(part.max())))
                judged[text].append(Judgement(f"{name}:window_mean", float(part.mean())))
                if measure.least is not None:
                    judged[text].append(Judgement(f"{name}:window_min", float(part.min())))

    def _bad_windows(self, measures: list[Measure], text: int, part: slice) -> Judgement:
        """Its reason is the number that is out of its limits most often."""
        its = [one for one in measures if one.windows is not None and (one.of is None or one.of[text])]
        bad = np.stack([measure.bad(_of(measure, part)) for measure in its])
        value, limit = float(bad.any(axis=0).mean()), self.config.max_bad_windows
        assert limit is not None
        reason = "" if value <= limit else its[int(bad.sum(axis=1).argmax())].name
        return Judgement(f"{self.name}.bad_windows", value, value <= limit, reason)


def _of(measure: Measure, part: slice) -> Any:
    assert measure.windows is not None
    return measure.windows[part]
