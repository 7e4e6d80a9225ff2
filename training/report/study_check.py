"""Whether a study can be reported on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from training.evidence.resampling import typical
from training.study.study import FORMAT, Fold, Study, Trial


def check(study: Study) -> None:
    """Check format, order of the spans, choice of the trials, and that all played the test sessions.

    Raises:
        ValueError: one does not hold; the text names it.
    """
    if study.format != FORMAT:
        raise ValueError(f"the study has format {study.format}, expected {FORMAT}: run it again")
    count = len(study.folds)
    if not count or len(study.chosen) != count:
        raise ValueError(
            f"the study has {count} folds and {len(study.chosen)} chosen trials; expected one for each fold"
        )
    _check_spans(study.folds)
    for index in range(count):
        _check_choice(study, index)
    played = {**{one.name: one.folds for one in study.baselines}, **study.scenarios}
    if study.account:
        played["the account of all tests"] = study.account
    if study.one_account is not None:
        played["the one account"] = study.one_account.folds
    if study.ensembles:
        played["the mean of the seeds"] = tuple(trial.test for trial in study.ensembles)
    for name, folds in played.items():
        found = tuple(tuple(session.date for session in one.sessions) for one in folds)
        if found != tuple(fold.test for fold in study.folds):
            raise ValueError(f"{name} was played on other sessions than the test sessions of the {count} folds")


def _check_spans(folds: Sequence[Fold]) -> None:
    tested: tuple[str, ...] = ()
    for index, fold in enumerate(folds):
        if not (fold.train and fold.validate and fold.test):
            raise ValueError(f"fold {index} has an empty span; expected sessions to train, validate and test on")
        for span in ((*fold.train, *fold.validate, *fold.test), (*tested, *fold.test)):
            if any(later <= before for before, later in itertools.pairwise(span)):
                raise ValueError(
                    f"the spans of fold {index} overlap or are not in the order of time; expected train before "
                    "validate before test, and test sessions after those of the fold before"
                )
        tested += fold.test


def _check_choice(study: Study, fold: int) -> None:
    """The chosen trial is one of the fold and the headline's reward, and none of those did better on validation."""
    place = study.chosen[fold]
    if not 0 <= place < len(study.trials) or study.trials[place].fold != fold:
        raise ValueError(f"the chosen trial of fold {fold} is trial {place}, which is not of that fold")
    rivals = [trial for trial in study.trials if trial.fold == fold and trial.reward == study.reward]
    chosen = study.trials[place]
    merits = [merit for _, merit in sorted((trial.seed, trial.merit) for trial in rivals)]
    typically = study.settings.get("select") == "iqm"
    wanted = merits[typical(merits)] if typically and merits else max(merits, default=0.0)
    if chosen.reward != study.reward or abs(chosen.merit - wanted) > 1e-9:
        which = "is typical" if typically else "did best"
        raise ValueError(
            f"the chosen trial of fold {fold} is of reward {chosen.reward} and seed {chosen.seed}; expected the one of "
            f"reward {study.reward} that {which} on validation, or the test sessions would have chosen"
        )
    _check_validated(study, fold, rivals)


def _check_validated(study: Study, fold: int, rivals: Sequence[Trial]) -> None:
    for trial in rivals:
        if tuple(result.date for result in trial.validate) != study.folds[fold].validate:
            raise ValueError(f"seed {trial.seed} of fold {fold} was validated on other sessions than the fold's")
