"""The parsers of all programs: what completion and the reference of the site are made of.

A program is started up to the point where it parses its arguments; none is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rltrader import PROGRAMS, call, called, front, main


class Parsed(BaseException):  # no handler of a program catches it
    """Raised instead of running a program: the parser that it asked, and what that parser made of the arguments."""

    def __init__(self, parser: argparse.ArgumentParser, found: argparse.Namespace | None) -> None:
        super().__init__(parser.prog)
        self.parser, self.found = parser, found


class Command(NamedTuple):
    """A command: its words after the program's name, none for the program itself, and its parser."""

    words: tuple[str, ...]
    parser: argparse.ArgumentParser


def parse(program: str, arguments: Sequence[str], *, really: bool = True) -> Parsed:
    """Start a program up to the point where its arguments are parsed.

    With `really` false they are not: the parser alone is found. Raises SystemExit where the program refuses them, and
    ValueError where it ends before it parses any.
    """
    original = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> Any:
        raise Parsed(parser, original(parser, given) if really else None)

    before, argparse.ArgumentParser.parse_args = sys.argv, stop  # type: ignore[method-assign, assignment]
    # a program changes both for its process, and this is another one
    finders, names = list(sys.meta_path), {name: called(name) for name in PROGRAMS}
    sys.argv = [program, *arguments]
    try:
        main()
    except Parsed as parsed:
        return parsed
    finally:
        sys.argv, argparse.ArgumentParser.parse_args = before, original  # type: ignore[method-assign]
        sys.meta_path[:] = finders
        call(names)
    raise ValueError(f"{program} {' '.join(arguments)} parses no argument")


def commands(program: str) -> Iterator[Command]:
    """Yield the program itself and each of its commands, outer ones first."""
    if program == "rltrader":
        yield Command((), argparse.ArgumentParser(prog=program))
        for word in front.COMMANDS:
            yield from commands_behind(word)
        return
    if program == "train-and-export":  # each of its commands is a module with a parser of its own
        from training.cli.main import COMMANDS

        yield Command((), parse(program, [], really=False).parser)
        for name in COMMANDS:
            yield Command((name,), parse(program, [name], really=False).parser)
        return
    outer = parse(program, [], really=False).parser
    yield Command((), outer)
    for name in inner(outer):
        parser = inner(parse(program, [name], really=False).parser)[name]  # rltraderctl fills in the chosen one alone
        yield Command((name,), parser)
        for word, deeper in inner(parser).items():
            yield Command((name, word), deeper)


def commands_behind(word: str) -> Iterator[Command]:
    """Yield what `rltrader` starts by this word, and each of its commands. Raises as `parse`, and ImportError."""
    starts = front.COMMANDS[word].starts
    if starts in PROGRAMS:
        yield from (Command((word, *words), parser) for words, parser in commands(starts))
    else:
        outer = parse("rltrader", [word], really=False).parser
        yield Command((word,), outer)
        yield from (Command((word, name), parser) for name, parser in inner(outer).items())


def inner(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser; those under a former name are left out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            shown = {choice.dest for choice in action._choices_actions}
            return {name: found for name, found in action.choices.items() if name in shown}
    return {}
