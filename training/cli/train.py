"""`train-and-export`: train a strategy's policy on a bars file, evaluate it, and put it into the model store.

The command does this when no other command is named; `training.runs.run` has the steps.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.host.version import CommandLine, add_version, in_this_shell
from daemon.tapes.bar_folder import default_folder
from daemon.tapes.span_options import add_span
from rltrader import called
from strategies.kit.manifest import LEAD, RISK
from strategies.registry import STRATEGIES, add, typed
from training.cli.main import COMMANDS, DONE, ERRORS, NOT_ACTIVE, STOPPED, STOPPED_TEXT, add_models_dir, wrong
from training.cli.options import (
    add_computing,
    add_model_config,
    add_option_quotes,
    add_symbols,
    leave_out_own_symbols,
    quote_source,
    symbols_of,
    with_model_config,
    with_parameters,
    with_span,
)
from training.cli.promote import promoted
from training.cli.studies.run_file import CHANGES, OPTION, expanded
from training.desks.registry import kind
from training.desks.trial import ENGINES, RLLIB
from training.evidence.risk import DRAWDOWN
from training.export.sb3_file import ACTIVATIONS
from training.export.shelf import activate, is_active, read_version
from training.rl.dimensions import read_plan, with_values
from training.rl.pool import Stopped
from training.rl.presets import PASSIVE, practice_of
from training.runs.display import Display
from training.runs.settings import ENSEMBLES, IQM, NONE, SEEDS, SELECTS, Settings, requests_of, settings_for

if TYPE_CHECKING:
    from training.desks.kind import TrainingKind
    from training.runs.record import Outcome

SEED_MAX = 2**31
FORMERLY = "--out"  # what --models-dir was called
_LISTED = "--strategy NAME --help lists them"
_NAMED = f"one of {', '.join(STRATEGIES)}, an installed one of yours, or its file: path/to/file.py"


def parser() -> CommandLine:
    """The options of training itself."""
    defaults = Settings("", Path(), Path())
    options = CommandLine(
        prog=called("train-and-export"),
        epilog="other commands (each with its own --help):\n"
        + "\n".join(f"  {called('train-and-export')} {name:<12} {text}" for name, text in COMMANDS.items()),
        usage="%(prog)s --strategy NAME --bars FILE [options]\n       %(prog)s COMMAND [options]",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(options)
    what = options.add_argument_group("what to train on")
    _from_file(what)
    what.add_argument("--strategy", required=True, metavar="NAME", help=_NAMED)
    bars = "CSV, CSV.gz or Parquet file of bars, or a folder of them (data); several times for an open universe"
    what.add_argument("--bars", type=Path, action="append", metavar="FILE", help=bars)
    add_symbols(what)
    add_models_dir(what, "model store", FORMERLY)
    add_model_config(what)
    config = "of the desk that will use it: train by its limits, costs, gates and sizes (the strategy's defaults)"
    what.add_argument("--config", type=Path, metavar="FILE", help=config)
    what.add_argument("--feed", default=defaults.feed, help="the feed the bars of a file come from (%(default)s)")
    add_span(options)
    add_option_quotes(options)
    how = options.add_argument_group("how to train")
    how.add_argument("--preset", metavar="NAME", help=f"steps and coefficients that go together: {_LISTED}")
    how.add_argument("--steps", type=int, help="transitions of each trial (the preset's)")
    how.add_argument("--seed", type=int, default=1, help="of the first trial (%(default)s)")
    how.add_argument("--seeds", type=int, default=1, help="how many, one after the other (%(default)s)")
    how.add_argument("--network", metavar="NAME", help=_LISTED)
    how.add_argument("--reward", metavar="NAME", help=f"or size of an action: {_LISTED}")
    how.add_argument(
        "--coefficients", type=Path, metavar="FILE", help="changes to the preset's, as `search` writes them"
    )
    how.add_argument("--ablation", action="store_true", help="train on the other rewards as well, to compare")
    refit = "export the last fold's choice trained once more on all sessions, which nothing then tests"
    how.add_argument("--refit", action="store_true", help=refit)
    _otherwise(how)
    how.add_argument("--members", type=int, metavar="N", help="networks of a deep ensemble (the preset's)")
    passive = "train nothing: test the strategy's passive policy, and export it with what it claims"
    how.add_argument("--passive", action="store_true", help=passive)
    early = "stop early after so many looks at the validation sessions without a better one (never)"
    how.add_argument("--patience", type=int, default=defaults.patience, metavar="LOOKS", help=early)
    add_computing(how)
    share = "of one thread each: they share the trials, or the one trial's environments (%(default)s)"
    how.add_argument("--processes", type=int, default=defaults.processes, help=share)
    engine = "that trains a SAC: ours, or RLlib's on --ray (local) with --processes runners (%(default)s)"
    how.add_argument("--engine", choices=ENGINES, default=defaults.engine, help=engine)
    ray = "train through Ray: 'local' starts it here, 'auto' joins this machine's cluster, or the address of one"
    how.add_argument("--ray", default=defaults.ray, metavar="local|auto|ADDRESS", help=ray)
    _evaluation(options)
    _claims(options)
    _add_afterwards(options)
    _run_folder(options)
    _elsewhere(options)
    return options


def _elsewhere(options: argparse.ArgumentParser) -> None:
    group = options.add_argument_group("a policy that was trained elsewhere")
    bring = "bring the model in this Stable-Baselines3 zip into the store, with the same checks"
    group.add_argument("--import-sb3", type=Path, metavar="FILE", help=bring)
    graph = "bring the policy of this ONNX file into the store, made by any library, with the same checks"
    group.add_argument("--import-onnx", type=Path, metavar="FILE", help=graph)
    layers = "of that model's layers, which its file does not state readably (what it names, else the algorithm's own)"
    group.add_argument("--activation", choices=sorted(ACTIVATIONS), help=layers)
    proof = "outputs of the original that the imported policy must give again; see training/export/import_sb3.py"
    group.add_argument("--golden", type=Path, metavar="NPZ", help=proof)


def _otherwise(how: Any) -> None:
    """The options for the start of training and for its environments."""
    warm = "begin at the weights of this version of the store, critics included; 'current' for the one in use"
    how.add_argument("--warm-start", default="", metavar="VERSION", help=warm)
    practice = "what the environments that train do otherwise than the desk; several times"
    how.add_argument("--practice", action="append", default=[], metavar="KEY=VALUE", help=practice)


def _run_folder(options: argparse.ArgumentParser) -> None:
    """The options of the run's folder, and of what receives the figures."""
    run = options.add_argument_group("the run's folder (give the same command again to go on after a stop)")
    run.add_argument("--run-dir", type=Path, help="its path (runs/<strategy>-<network>-<digest of the settings>)")
    run.add_argument("--restart", action="store_true", help="throw away what an earlier run left there")
    sink = "also give each update and look to this: wandb, mlflow, module:Class, or file.py:Class; several times"
    run.add_argument("--sink", action="append", default=[], metavar="NAME", help=sink)
    run.add_argument(
        "--checkpoint-s", type=float, default=300.0, help="between two checkpoints, in seconds (%(default)s)"
    )


def _from_file(what: Any) -> None:
    """The option of a file with all options; `expanded` reads it."""
    text = "TOML file with these options as its keys, and [coefficients] that change the preset's"
    what.add_argument(OPTION, type=Path, metavar="FILE", help=text)
    what.add_argument(CHANGES, default="{}", help=argparse.SUPPRESS)  # its table of coefficients


def _add_afterwards(options: argparse.ArgumentParser) -> None:
    """The options for the new version: promotion, activation."""
    group = options.add_argument_group(
        "what to do with the new version (it is written into the store, and nothing else)"
    )
    promote = "let it trade real money, if it passes every criterion"
    group.add_argument("--promote", action="store_true", help=promote)
    active = "let the store's `current` name it: desks of that store use it from then on"
    group.add_argument("--activate", action="store_true", help=active)
    passive = "with --activate: also if it never traded in its test"
    group.add_argument("--allow-passive", action="store_true", help=passive)
    unproven = "export what was learned, marked so, where no lead over the best baseline is proven (the passive policy)"
    group.add_argument("--allow-unproven", action="store_true", help=unproven)


def _claims(options: argparse.ArgumentParser) -> None:
    """The options on what the version claims."""
    claims = options.add_argument_group("what the version claims (the better proven one, else nothing)")
    kind = "a lead over every baseline, or the risk of basket.volatility_target, proven or not"
    claims.add_argument("--claim", choices=(LEAD, RISK), default="", help=kind)
    deepest = f"greatest drawdown of a year that a risk states, above 0 and below 1 ({DRAWDOWN:g} times the target)"
    claims.add_argument("--claim-drawdown", type=float, metavar="FRACTION", help=deepest)


def _evaluation(options: argparse.ArgumentParser) -> None:
    """The options of folds."""
    test = options.add_argument_group("how to evaluate")
    folds = "walk-forward folds, counted from the end of the file (1; a file too short for it is split 60/20/20)"
    test.add_argument("--folds", type=int, help=folds)
    test.add_argument("--train-sessions", type=int, help="the fewest that a fold trains on (the strategy's)")
    test.add_argument("--validate-sessions", type=int, help="that a fold validates on (the strategy's)")
    test.add_argument(
        "--test-sessions", type=int, help="that a fold tests on (the strategy's: 20 of minutes, calendar years of days)"
    )
    purge = "left out between spans (the strategy's: its look-back and the time until a decision's result is known)"
    test.add_argument("--purge-sessions", type=int, help=purge)
    years = "one fold of the years that the strategy's reference has, not purged"
    select = (
        "settings and seeds by validation: a typical seed of the setting with the best middle half, or the best one"
    )
    test.add_argument("--select", choices=SELECTS, default=IQM, help=f"{select} (%(default)s)")
    mean = "what a fold ends with: the mean of all its seeds in one graph, or the seed that --select takes"
    test.add_argument("--ensemble", choices=ENSEMBLES, help=f"{mean} ({SEEDS}, where a strategy has one network)")
    test.add_argument("--reference-years", action="store_true", help=years)


def _asked_about(arguments: Sequence[str]) -> str:
    """The strategy that is named beside --help; "" for none."""
    words = argparse.ArgumentParser(add_help=False)
    words.add_argument("--strategy", default="")
    words.add_argument("-h", "--help", action="store_true")
    chosen, _ = words.parse_known_args(arguments)
    return str(chosen.strategy) if chosen.help else ""


def _offer_text(training_kind: TrainingKind) -> str:
    """Describe what a strategy offers."""
    names = (
        ("preset", tuple(training_kind.presets)),
        ("network", training_kind.networks),
        ("reward", training_kind.variants),
    )
    counts = [(name, preset.gradient_steps) for name, preset in training_kind.presets.items()]
    gradient_counts = ", ".join(f"{name} {count:,}" for name, count in counts if count is not None)
    options = "  ".join(f"--{option} {'|'.join(values)}" for option, values in names)
    steps = f"\n  gradient steps a trial: {gradient_counts}" if gradient_counts else ""
    return f"what {training_kind.strategy} has, its default first:\n  {options}{steps}"


def settings_from(chosen: argparse.Namespace) -> Settings:
    """Return the settings of these options.

    Raises:
        OSError, ValueError: the file of coefficients, or the model configuration, cannot be used; the text names file,
            field and cure. Or the strategy is unknown.
    """
    usual = settings_for(chosen.strategy, chosen.bars[0], chosen.models_dir, preset=chosen.preset)
    plan = usual.plan if chosen.members is None else with_values(usual.plan, {"members": chosen.members})
    plan = plan.changed(json.loads(chosen.changes), "[coefficients]")
    if chosen.coefficients:  # the command line's file comes after the table of `--run`
        plan = read_plan(chosen.coefficients, plan)
    plan = plan.at(chosen.precision)
    first = chosen.reward or usual.rewards[0]
    other_rewards = [name for name in kind(chosen.strategy).variants if chosen.ablation and name != first]
    settings = replace(
        usual,
        steps=usual.steps if chosen.steps is None else chosen.steps,
        seeds=tuple(range(chosen.seed, chosen.seed + chosen.seeds)),
        rewards=(first, *other_rewards),
        network=chosen.network or usual.network,
        precision=chosen.precision,
        device=chosen.device,
        feed=chosen.feed,
        folds=chosen.folds or plan.folds,
        train_sessions=chosen.train_sessions,
        validate_sessions=chosen.validate_sessions,
        test_sessions=chosen.test_sessions,
        purge_sessions=chosen.purge_sessions,
        reference_years=chosen.reference_years,
        refit=chosen.refit,
        config=chosen.config,
        select=chosen.select,
        ensemble=chosen.ensemble or usual.ensemble,
        allow_unproven=chosen.allow_unproven,
        passive=chosen.passive,
        claim=chosen.claim,
        claim_drawdown=chosen.claim_drawdown,
        patience=chosen.patience,
        sinks=tuple(chosen.sink),
        quotes=quote_source(chosen),
        warm_start=_version(chosen),
        practice=practice_of(chosen.practice, kind(chosen.strategy).procedure.practised, chosen.strategy),
        plan=plan,
        base=chosen.preset or "",
        more_bars=tuple(chosen.bars[1:]),
        symbols=symbols_of(chosen),
        processes=chosen.processes,
        engine=chosen.engine,
        ray=chosen.ray,
        checkpoint_s=chosen.checkpoint_s,
        run_folder=chosen.run_dir,
        restart=chosen.restart,
    )
    return with_parameters(with_model_config(settings, chosen.model_config), chosen.parameters)


def _version(chosen: argparse.Namespace) -> str:
    """The name of the version to begin at. Raises ValueError where the store has none of that name."""
    if not chosen.warm_start:
        return ""
    return read_version(chosen.models_dir, chosen.strategy, chosen.warm_start).manifest.version


def main(arguments: Sequence[str]) -> int:
    """Train, or import, and export; returns the exit code: 0, 1 not promoted or not active, 2 a fault, 130 stopped."""
    options = parser()
    try:
        arguments = expanded(arguments, options)
    except ValueError as error:
        return wrong(error)
    try:
        if strategy_name := _asked_about(arguments):
            options.epilog = f"{_offer_text(kind(add(strategy_name)))}\n\n{options.epilog}"
    except ValueError as error:
        return wrong(error)
    chosen = options.parse_args(arguments)
    try:
        chosen.strategy = add(chosen.strategy)
        training_kind = kind(chosen.strategy)
        leave_out_own_symbols(chosen, training_kind)
    except ValueError as error:
        return wrong(error)
    for name, least in (
        ("steps", 1), ("seed", 0), ("seeds", 1), ("folds", 1), ("processes", 1), ("patience", 0), ("members", 1),
        ("train_sessions", 1), ("validate_sessions", 1), ("test_sessions", 1), ("purge_sessions", 0),
        ("checkpoint_s", 0),
    ):  # fmt: skip
        if getattr(chosen, name) is not None and getattr(chosen, name) < least:
            options.error(f"--{name.replace('_', '-')} is {getattr(chosen, name)}: expected at least {least}")
    if not chosen.bars and not chosen.first_date:
        options.error("the following arguments are required: --bars")
    chosen.bars = chosen.bars or [default_folder()]
    if fault := _foreign(chosen, training_kind) or _contradiction(chosen, training_kind, options):
        options.error(fault)
    from training.rl.kernels import slow_products
    from training.runs.import_run import import_and_export, import_graph_and_export
    from training.runs.run import train_and_export

    try:
        settings = with_span(settings_from(chosen), chosen)
        if warning := slow_products(settings.precision, settings.device):
            sys.stderr.write(f"train-and-export: {warning}\n")
        with Display(len(requests_of(settings)), settings.trained_steps) as display:
            if chosen.import_sb3 is not None:
                alone = replace(settings, processes=1)
                outcome = import_and_export(alone, chosen.import_sb3, chosen.activation, chosen.golden, display)
            elif chosen.import_onnx is not None:
                outcome = import_graph_and_export(replace(settings, processes=1), chosen.import_onnx, display)
            else:
                outcome = train_and_export(settings, display)
    except Stopped:
        sys.stderr.write(f"train-and-export: {STOPPED_TEXT}\n")
        return STOPPED
    except ERRORS as error:
        return wrong(error)
    return _finish(outcome, chosen)


def _foreign(chosen: argparse.Namespace, training_kind: TrainingKind) -> str:
    """The first given name that the strategy does not have; "" for none."""
    for option, names in (
        ("reward", training_kind.variants),
        ("network", training_kind.networks),
        ("preset", tuple(training_kind.presets)),
    ):
        choice = getattr(chosen, option)
        if choice is not None and choice not in names:
            return f"argument --{option}: invalid choice: {choice!r} (choose from {', '.join(map(repr, names))})"
    return ""


def _contradiction(chosen: argparse.Namespace, training_kind: TrainingKind, options: argparse.ArgumentParser) -> str:
    """Return why these options contradict each other although each is in bounds; "" when they do not."""
    if chosen.seed + chosen.seeds > SEED_MAX:
        return f"--seed is {chosen.seed}: expected seeds below {SEED_MAX}"
    lacking = [
        name
        for name in training_kind.procedure.lacks()
        if getattr(chosen, name) not in (options.get_default(name), NONE)
    ]
    if problem := training_kind.refusal(lacking):
        return problem
    if chosen.engine == RLLIB and (chosen.precision, chosen.device) != ("float32", "cpu"):
        return "--engine rllib computes in float32 on a CPU: leave --precision and --device out"
    if chosen.engine == RLLIB and chosen.preset and training_kind.preset(chosen.preset).begins == PASSIVE:
        return f"--engine rllib draws the first weights itself: leave it or --preset {chosen.preset} out"
    if chosen.reference_years:
        for name in ("folds", "train_sessions", "validate_sessions", "test_sessions", "purge_sessions"):
            if getattr(chosen, name) is not None:
                return f"--reference-years is one fold of given years: leave --{name.replace('_', '-')} out"
    if chosen.import_sb3 is None:
        for name in ("activation", "golden"):
            if getattr(chosen, name) is not None:
                return f"--{name} needs --import-sb3: it describes a model that was trained elsewhere"
    if chosen.import_sb3 is not None and chosen.import_onnx is not None:
        return "--import-sb3 and --import-onnx bring in one policy each: choose one"
    brought = "--import-onnx" if chosen.import_onnx is not None else "--import-sb3" if chosen.import_sb3 else ""
    if brought and chosen.warm_start:
        return f"{brought} brings in a policy, and nothing is trained: leave --warm-start out"
    if chosen.refit and any(text.startswith("from_date=") for text in chosen.practice):
        return "--refit trains on all sessions: leave --practice from_date out"
    if chosen.passive and (needless := _of_training(chosen, options)):
        return f"--passive trains nothing: leave --{needless.replace('_', '-')} out"
    if training_kind.rule is not None and not brought and (needless := _of_training(chosen, options)):
        return f"{chosen.strategy} is a rule, and nothing is trained: leave --{needless.replace('_', '-')} out"
    alone = (chosen.folds or 1, chosen.seeds, chosen.ablation, chosen.refit) == (1, 1, False, False)
    if brought and not alone:
        return f"{brought} brings in one policy: it goes with neither --folds, --seeds, --ablation nor --refit"
    if chosen.claim_drawdown is not None and not 0.0 < chosen.claim_drawdown < 1.0:
        return f"--claim-drawdown is {chosen.claim_drawdown:g}: expected a fraction above 0 and below 1, such as 0.25"
    if chosen.allow_passive and not chosen.activate:
        return "--allow-passive needs --activate: it lets a version answer that never traded in its test"
    return ""


def _of_training(chosen: argparse.Namespace, options: argparse.ArgumentParser) -> str:
    """The first given option that concerns training or another policy; "" for none."""
    names = (
        "seeds", "steps", "members", "ablation", "refit", "warm_start", "practice", "coefficients", "allow_unproven",
        "engine", "import_sb3", "import_onnx", "patience",
    )  # fmt: skip
    return next((name for name in names if getattr(chosen, name) != options.get_default(name)), "")


def _finish(outcome: Outcome, chosen: argparse.Namespace) -> int:
    """Print the result, promote and activate it if requested, and print what comes next; returns the exit code."""
    sys.stderr.write(f"\n{outcome.findings.verdict}\nreport: {outcome.version / 'report.html'}\n")
    sys.stdout.write(f"{outcome.version}\n")
    code = promoted(outcome.version) if chosen.promote else DONE
    figures, version = outcome.findings.policy.figures, outcome.version
    idle = not figures.trades and not outcome.passive  # a passive policy may legitimately never trade
    passive = f"it never traded in its {figures.sessions} test sessions" if idle else ""
    if is_active(version):
        sys.stderr.write(f"exported; active already: `current` in {version.parent} names it\n")
        return code
    if not chosen.activate or (passive and not chosen.allow_passive):
        cure = "--allow-passive" if passive else ""
        command = activation(version, chosen.strategy, cure)
        sys.stderr.write(f"exported, not active{': ' + passive if passive else ''}; to let desks use it: {command}\n")
        return NOT_ACTIVE if chosen.activate else code
    try:
        activate(version, "exported with its report")
    except ERRORS as error:
        return wrong(error)
    sys.stderr.write(f"exported and active: `current` in {version.parent} names it, and running desks follow it\n")
    return code


def activation(version: Path, strategy: str, more: str = "") -> str:
    """The command that activates a version of a store."""
    store = version.parent.parent
    command = [
        "models",
        "activate",
        version.name,
        "--strategy",
        typed(strategy),
        "--models-dir",
        str(store),
        *more.split(),
    ]
    return in_this_shell(f'rltraderctl {shlex.join(command)} --reason "…"')
