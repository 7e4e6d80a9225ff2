"""Log what a desk starts with."""

from __future__ import annotations

import dataclasses

from daemon.app.checked import CheckedDesk
from daemon.app.opening import OpenDesk
from daemon.core.strategy_rules import other_rules
from daemon.models.store import other_symbols, proof_words
from daemon.operator.log import Log


def announce(desk: OpenDesk, log: Log) -> None:
    """Log what starts: desk and journal, model, changed rules, what was recovered."""
    checked, recovered, meta = desk.checked, desk.recovered, desk.state_dir.meta
    settings, model, machine = checked.settings, checked.model, recovered.machine
    log(
        "run_started",
        desk=settings.desk.name,
        mode=meta["mode"],
        account=meta["account"],
        strategy=checked.strategy.spec.name,
        tape=meta.get("tape", ""),
        synthetic=bool(meta.get("synthetic")),
        state_dir=str(desk.state_dir.path),
        epoch=meta["epoch"],
        code=desk.code,
        resumed_at_event=machine.state.seq,
    )
    if model.digest:
        _announce_model(checked, meta["feed"], log)
    else:
        log("model_warning", version=model.version, reason=f"exits by rules alone: {checked.refused}")
    trading, before = settings.trading(), machine.state.trading
    if trading != before:
        names = [field.name for field in dataclasses.fields(trading)]
        log("rules_changed", tables=[name for name in names if getattr(trading, name) != getattr(before, name)])
    if desk.state_dir.fresh is False:
        log("recovered", events_replayed=recovered.replayed, under_way=len(machine.queue))


def _announce_model(checked: CheckedDesk, feed: str, log: Log) -> None:
    """Log the model, and what a person should know of it."""
    model, manifest = checked.model, checked.model.manifest
    log(
        "model_verified",
        version=model.version,
        promoted=manifest.promoted,
        feed=manifest.training.feed,
        provider=checked.policy.provider,
    )
    if not manifest.promoted:
        unproven = proof_words(manifest)
        log("model_warning", version=model.version, reason=f"it is not promoted{': ' + unproven if unproven else ''}")
    if manifest.training.feed != feed:
        reason = f"it was trained on feed {manifest.training.feed}, this desk uses {feed}"
        log("model_warning", version=model.version, reason=reason)
    for other in (
        other_symbols(manifest, checked.strategy.spec),
        other_rules(manifest.rules, checked.settings.trading()),
    ):
        if other:
            log("model_warning", version=model.version, reason=other)
