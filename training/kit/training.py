"""A training as one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from strategies.registry import add
from training.runs.display import Display
from training.runs.record import Outcome
from training.runs.run import Listener, train_and_export
from training.runs.settings import Settings, requests_of, settings_for

_PATHS = ("run_folder", "config")


def train(
    name: str,
    bars: Path | str,
    models_dir: Path | str,
    *,
    preset: str | None = None,
    listen: Listener | None = None,
    verbose: bool = False,
    **settings: Any,
) -> Outcome:
    """Train policies of a strategy, choose, test, report, and export one: what `train-and-export` does.

    A call with the same arguments goes on where an earlier one was stopped, and ends in the same bytes. It writes a
    version into the store, its trials into the store's ledger, and all else into `run_folder` (`runs/…`).

    Args:
        name: the strategy, or `path/to/file.py` of one of yours.
        bars: CSV, CSV.gz or Parquet file.
        models_dir: the model store. No desk uses the version yet: `rltraderctl models activate`.
        preset: steps and coefficients that go together; None: the strategy's first.
        listen: called with stages, updates, looks at the validation sessions, and finished trials.
        verbose: progress on standard error.
        settings: fields of `Settings`, such as `steps` (rounded up to whole updates), `seeds` (a number: that many,
            from 1 on), `folds`, `network`, `config`, `run_folder`, `processes` (1; with more of them a script needs
            `if __name__ == "__main__"`).

    Returns:
        The version's folder as `version`, the `run_folder`, the `findings` of the report, and whether the version is
        the `passive` policy, because no lead over the best baseline is proven.

    Raises:
        ValueError: the strategy, a setting or its value is unknown.
        TapeError, HistoryError: the file cannot be trained on.
        Stopped: SIGTERM or Ctrl-C; the same call goes on.
        RunFolderError, LedgerError, ExportError, OSError: the text names what was found and what helps.

    >>> import training
    >>> bars = training.bundled_bars("option_scalper")
    >>> done = training.train("option_scalper", bars, "store", steps=512, run_folder="first")
    >>> report = training.load_report(done.version)
    >>> report.synthetic, report.policy.figures.sessions
    (True, 2)
    >>> training.train("option_scalper", bars, "store", step=512)
    Traceback (most recent call last):
    ValueError: there is no setting 'step': did you mean 'steps'?
    """
    run_settings = settings_of(name, bars, models_dir, preset, {"processes": 1, **settings})
    with shown(run_settings, listen, verbose=verbose) as listener:
        return train_and_export(run_settings, listener)


def settings_of(
    name: str, bars: Path | str, models_dir: Path | str, preset: str | None, changes: Mapping[str, Any]
) -> Settings:
    """Return the settings of a run of a strategy with these changes. Raises ValueError for an unknown one."""
    names = {field.name for field in fields(Settings)} - {"strategy", "bars", "out"}
    for unknown in sorted(changes.keys() - names):
        near = get_close_matches(unknown, sorted(names), 1)
        raise ValueError(f"there is no setting {unknown!r}: {f'did you mean {near[0]!r}?' if near else 'see Settings'}")
    values = dict(changes)
    if isinstance(seeds := values.get("seeds"), int):
        values["seeds"] = tuple(range(1, seeds + 1))
    values |= {key: Path(values[key]) for key in _PATHS if values.get(key) is not None}
    usual = settings_for(add(name), Path(bars), Path(models_dir), preset=preset)
    result = replace(usual, base=preset or "", **values)
    for key in ("steps", "folds", "processes"):
        if not isinstance(value := getattr(result, key), int) or value < 1:
            raise ValueError(f"{key} is {value!r}: expected a whole number of at least 1")
    if not result.seeds:
        raise ValueError("seeds are none: expected at least one")
    return result


@contextmanager
def shown(settings: Settings, listen: Listener | None, *, verbose: bool) -> Iterator[Listener]:
    """Yield a run's listener: `listen`, the display on standard error, both, or neither."""
    listeners = [listen] if listen is not None else []

    def tell(news: Any) -> None:
        for listener in listeners:
            listener(news)

    if not verbose:
        yield tell
        return
    with Display(len(requests_of(settings)), settings.trained_steps) as display:
        listeners.append(display)
        yield tell
