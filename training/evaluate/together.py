"""Desks that differ in their rules alone, played together: equal steps run once.

The desks of a group share one state. Where their values differ, the state holds a mark instead; for a counter it holds
the change since. A step that only copies a mark is the same step for all. A step that reads a mark is abandoned: the
group is split by the desks' values there, and each part steps on its own. Groups whose states have become alike are
joined again. So each desk takes exactly the steps that it would take alone.
"""

from __future__ import annotations

import operator
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn

import msgspec

from daemon.core.draft import PaperMarket
from daemon.core.effects import AskPolicy
from daemon.core.events import Event, OrderFilled, PolicyAnswered, QuotesReceived
from daemon.core.limits import Trading
from daemon.core.paper.state import PaperState
from daemon.core.records import DecisionRow
from daemon.core.state import Ask, BasketState, Book, BrokerState, RiskState, State, Stats
from daemon.core.step import Core, Machine, QueueEntry, Step
from training.evaluate.machine import Answering

ALIKE_TABLES = ("broker", "exploration", "served", "protection", "guard_prefix")
"""Tables of rules that must be equal for desks played together."""
COMPARED = ("risk",)
"""Tables of rules whose numbers are only compared with, and never stored in a state."""
SETS_MOST = 4_096  # groups of desks whose common rules are cached


class Differs(BaseException):
    """A step read a value that differs between desks. Not an `Exception`, because a gate turns those into a denial."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


RULES = "rules."  # what paths of rules begin with


# --- marks ----------------------------------------------------------------------------------------------------------


class Mark:
    """Stands for a value that differs between desks, at this path of the state. It can only be copied."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __getattr__(self, _: str) -> NoReturn:
        raise Differs(self.path)


class Count:
    """Stands for a whole number that differs between desks, plus `plus`, which was added since. It can be added to."""

    __slots__ = ("path", "plus")

    def __init__(self, path: str, plus: int = 0) -> None:
        self.path, self.plus = path, plus

    def __getattr__(self, _: str) -> NoReturn:
        raise Differs(self.path)

    def __add__(self, more: Any) -> Count:
        if type(more) is not int:
            raise Differs(self.path)
        return Count(self.path, self.plus + more)

    __radd__ = __add__

    def __eq__(self, other: object) -> bool:
        if type(other) is not Count or other.path != self.path:
            raise Differs(self.path)
        return other.plus == self.plus

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # replaced below


class Limit:
    """Stands for a rule with several values. A comparison answers if it is the same for all the values."""

    __slots__ = ("path", "values")

    def __init__(self, path: str, values: tuple[Any, ...]) -> None:
        self.path, self.values = path, values

    def __getattr__(self, _: str) -> NoReturn:
        raise Differs(self.path)

    def _alike(self, other: Any, compared: Callable[[Any, Any], Any]) -> bool:
        answers = {bool(compared(value, other)) for value in self.values}
        if len(answers) > 1:
            raise Differs(self.path)
        return answers.pop()

    def __lt__(self, other: Any) -> bool:
        return self._alike(other, operator.lt)

    def __le__(self, other: Any) -> bool:
        return self._alike(other, operator.le)

    def __gt__(self, other: Any) -> bool:
        return self._alike(other, operator.gt)

    def __ge__(self, other: Any) -> bool:
        return self._alike(other, operator.ge)

    __hash__ = None  # type: ignore[assignment]  # replaced below


def _differs(self: Mark | Count | Limit, *_: Any) -> NoReturn:
    raise Differs(self.path)


USES = (
    *("bool", "len", "iter", "next", "contains", "getitem", "reversed", "call", "enter", "await"),
    *("eq", "ne", "lt", "le", "gt", "ge", "hash", "str", "repr", "format", "bytes", "reduce", "reduce_ex", "copy"),
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod"),
    *("divmod", "rdivmod", "pow", "rpow", "and", "rand", "or", "ror", "xor", "rxor", "lshift", "rlshift", "rshift"),
    *("rrshift", "matmul", "rmatmul", "neg", "pos", "abs", "invert", "int", "float", "complex", "index", "round"),
    *("trunc", "floor", "ceil", "deepcopy", "length_hint", "iadd", "isub", "ior", "iand"),
)
"""Python operators, by the method's name without underscores."""
for _use in USES:
    setattr(Mark, f"__{_use}__", _differs)
    if _use not in ("add", "radd", "eq", "ne", "iadd"):
        setattr(Count, f"__{_use}__", _differs)
    if _use not in ("lt", "le", "gt", "ge"):
        setattr(Limit, f"__{_use}__", _differs)


# --- where desks may differ -------------------------------------------------------------------------------------------

NODES: Mapping[str, tuple[Any, frozenset[str]]] = {
    "book": (Book, frozenset(("positions", "claim_close", "claim_base"))),
    "risk": (RiskState, frozenset(("by_hand", "strategy_off"))),
    "stats": (Stats, frozenset()),
    "broker": (BrokerState, frozenset()),
    "basket": (BasketState, frozenset()),
}
"""Parts of the state whose fields may differ, but for those named here."""
MAPPINGS = frozenset(("contracts", "closed", "wanted", "marks", "leaps"))
"""Fields of the state that may differ as a whole: steps never compare them, they only read their content."""
COUNTERS = frozenset(
    ("seq", "decision", *(f"stats.{name}" for name in Stats.__struct_fields__ if name not in ("actions", "denials")))
)
ACTIONS = "stats.actions"  # counters in a tuple
TOP = State.__struct_fields__
ALIKE = tuple(name for name in TOP if name not in {*NODES, *MAPPINGS, "seq", "decision", "trading"})
PAPER_MAY_DIFFER = frozenset(("cash", "seen"))


def _read_checked(self: Any, name: str) -> Any:
    value = object.__getattribute__(self, name)
    if type(value) is Mark:
        raise Differs(value.path)
    return value


@cache
def checked(kind: Any) -> Any:
    """The struct type with fields that raise `Differs` when a mark is read; `msgspec.structs.replace` copies marks."""
    return type(kind)(f"Common{kind.__name__}", (kind,), {"__getattribute__": _read_checked}, frozen=True)


def _raw(struct: Any) -> tuple[Any, ...]:
    return msgspec.structs.astuple(struct)


def alike(left: Any, right: Any) -> bool:
    """Whether two values are interchangeable: equal to the last digit and in the order of their parts."""
    if left is right:
        return True
    kind = type(left)
    if kind is not type(right):
        return False
    if kind is Decimal:
        return bool(left.compare_total(right) == 0)
    if kind is float:
        return repr(left) == repr(right)
    if kind is tuple:
        return len(left) == len(right) and all(map(alike, left, right))
    if kind is dict:
        return len(left) == len(right) and all(map(alike, left.items(), right.items()))
    if isinstance(left, msgspec.Struct):
        return all(map(alike, _raw(left), _raw(right)))
    if kind in (int, str, bytes, bool):
        return bool(left == right)
    return False


# --- desks and groups -------------------------------------------------------------------------------------------------


class Cascade:
    """Counts the paths that a step reads after the first, so that a group is split by all of them at once."""

    __slots__ = ("_begun", "_later", "_latest")

    def __init__(self) -> None:
        self._begun = 0
        self._later: Counter[str] = Counter()
        self._latest: set[str] = set()

    def begin(self) -> None:
        """Count a step that read the first path."""
        self._begun += 1
        self._latest = set()

    def then(self, path: str) -> Cascade:
        """Count a further path that this step read; returns the cascade."""
        if path not in self._latest:
            self._latest.add(path)
            self._later[path] += 1
        return self

    def paths(self, path: str) -> list[str]:
        """This path, and the further paths that more than half of its steps read."""
        return [path, *(later for later, count in self._later.items() if later != path and 2 * count > self._begun)]


class Member:
    """One desk of a group."""

    __slots__ = ("group", "place", "trading", "values", "watch")

    def __init__(self, place: int, trading: Trading, group: Group) -> None:
        self.place, self.trading, self.group = place, trading, group
        self.values: dict[str, Any] = {}  # by path, in place of the group's marks
        self.watch: Callable[[Event, Step], None] | None = None

    @property
    def state(self) -> State[Any]:
        """The desk's own state."""
        return self.group.state_of(self)

    def own(self, path: str) -> Any:
        """The desk's own value or rule at a path where its group differs; None where none is noted."""
        return _rule(self.trading, path) if path.startswith(RULES) else self.values.get(path)

    def value(self, value: Any) -> Any:
        """The desk's own value: `value` itself, or the value that a mark stands for."""
        kind = type(value)
        if kind is Mark:
            return self.values[value.path]
        if kind is Count:
            return self.values[value.path] + value.plus
        if kind is tuple and any(type(part) is Count for part in value):
            return tuple([self.value(part) for part in value])
        return value


class Group:
    """Desks that share one state, with their open question and their next event."""

    __slots__ = ("asked", "market", "market_state", "members", "queue", "state")

    def __init__(
        self,
        members: list[Member],
        state: State[Any],
        market: PaperMarket,
        market_state: Any,
        queue: Iterable[QueueEntry],
    ) -> None:
        self.members, self.state, self.market, self.market_state = members, state, market, market_state
        self.queue = deque(queue)
        self.asked = b""  # newest observation: groups with different ones cannot join
        for member in members:
            member.group = self

    def state_of(self, member: Member) -> State[Any]:
        """The state of one of the desks, without marks."""
        if len(self.members) == 1:
            return self.state
        value = member.value
        tops = [value(field) for field in _raw(self.state)]
        for name, (kind, _) in NODES.items():
            tops[_AT[name]] = kind(*map(value, _raw(tops[_AT[name]])))
        tops[_AT["ask"]] = _for(member, tops[_AT["ask"]])
        tops[_AT["trading"]] = member.trading
        return State(*tops)

    def market_state_of(self, member: Member) -> Any:
        """The same of its paper broker."""
        if len(self.members) == 1:
            return self.market_state
        return PaperState(*map(member.value, _raw(self.market_state)))


_AT = {name: place for place, name in enumerate(TOP)}


class Together:
    """Desks of one strategy on one feed, each under its own rules. See the module's docstring.

    `broker` makes the paper broker for given rules. The desks start in the states of `machines`, which are not used
    again.
    """

    def __init__(
        self,
        core: Core,
        broker: Callable[[Trading], PaperMarket],
        machines: Sequence[Machine],
        rules: Sequence[Trading],
    ) -> None:
        self._core, self._broker = core, broker
        self._rules: dict[tuple[int, ...], tuple[Trading, PaperMarket]] = {}
        self._cascades: dict[tuple[type[Event], str], Cascade] = {}
        self.groups: list[Group] = []
        self.members: list[Member] = []
        self.steps = 0  # made, of all groups
        for place, (machine, trading) in enumerate(zip(machines, rules, strict=True)):
            assert machine.market is not None, "desks are played together at a paper broker"
            group = Group([], machine.state, machine.market, machine.market_state, ())
            member = Member(place, trading, group)
            group.members.append(member)
            self.members.append(member)
            self.groups.append(group)
        self._join()

    def run(self, feed: Iterable[Event], answer: Answering) -> None:
        """Step a whole feed for all desks, as `Machine.run` does for one."""
        for event in feed:
            groups: list[Group] = []
            for group in self.groups:
                groups += self._stepped(group, event, answer)
            self.groups = groups
            if len(groups) > 1:
                self._join()

    def _stepped(
        self, group: Group, caused: QueueEntry, answer: Answering, cascade: Cascade | None = None
    ) -> list[Group]:
        """Step a group through an event and the events it causes; return the resulting groups."""
        while True:
            event: Event
            if isinstance(caused, AskPolicy):
                group.asked, event = caused.observation.data, answer(caused, group.state.now_ns)
            else:
                event = caused
            try:
                step = self._core.step(group.state, event)
                market_state, news = group.market.step(group.market_state, event, step.effects)
            except Differs as differs:
                cascade = self._asked_of(event, differs.path) if cascade is None else cascade.then(differs.path)
                parts = self._parted(group, event, cascade.paths(differs.path))
                return [
                    part_after
                    for part, own_event in parts
                    for part_after in self._stepped(part, own_event, answer, cascade)
                ]
            self.steps += 1
            cascade = None
            state_before, group.state, group.market_state = group.state, step.state, market_state
            queue = group.queue
            queue.extend(news)
            for effect in step.effects:
                if type(effect) is AskPolicy and not effect.served:
                    queue.append(effect)
            if _to_watch(state_before, event, step):
                for member in group.members:
                    if member.watch is not None:
                        member.watch(event, step)
            if not queue:
                return [group]
            caused = queue.popleft()

    # --- parting ------------------------------------------------------------------------------------------------------

    def _asked_of(self, event: Event, path: str) -> Cascade:
        """The cascade of this path for this kind of event, with one more step counted."""
        cascade = self._cascades.get((type(event), path))
        if cascade is None:
            cascade = self._cascades[type(event), path] = Cascade()
        cascade.begin()
        return cascade

    def _parted(self, group: Group, event: Event, paths: Sequence[str]) -> list[tuple[Group, Event]]:
        """The group split by the desks' values at these paths, each part with its form of the event.

        A single part is the same group, now with the values. For a counter the initial numbers are compared, which
        split the desks as the sums would.
        """
        parts: dict[tuple[Any, ...], list[Member]] = {}
        for member in group.members:
            parts.setdefault(tuple([_key(member.own(path)) for path in paths]), []).append(member)
        groups_with_event = []
        for members in parts.values():
            agreed = frozenset(paths) if len(members) > 1 else None
            groups_with_event.append((self._part(group, members, agreed), _for(members[0], event, agreed)))
        return groups_with_event

    def _part(self, group: Group, members: list[Member], paths: frozenset[str] | None) -> Group:
        """Some desks of a group that agree at these paths, as a separate group; `paths` None for a single desk."""
        first, trading, market = members[0], *self._common_rules(members)
        queue = [_for(first, caused, paths) for caused in group.queue]
        if paths is None:
            part = Group(members, group.state_of(first), market, group.market_state_of(first), queue)
        else:
            tops = [_resolve(first, field, paths) for field in _raw(group.state)]
            for name in {path.partition(".")[0] for path in paths} & NODES.keys():
                node = tops[_AT[name]]
                tops[_AT[name]] = type(node)(*[_resolve(first, field, paths) for field in _raw(node)])
            tops[_AT["ask"]] = _for(first, tops[_AT["ask"]], paths)
            tops[_AT["trading"]] = trading
            paper = [_resolve(first, field, paths) for field in _raw(group.market_state)]
            part = Group(members, State(*tops), market, type(group.market_state)(*paper), queue)
        part.asked = group.asked
        return part

    def _common_rules(self, members: Sequence[Member]) -> tuple[Trading, PaperMarket]:
        """The common rules of these desks, which raise `Differs` where they differ, and their paper broker."""
        key = tuple([member.place for member in members])
        rules_and_broker = self._rules.get(key)
        if rules_and_broker is None:
            if len(self._rules) >= SETS_MOST:
                self._rules.clear()
            rules = common_rules([member.trading for member in members])
            rules_and_broker = self._rules[key] = rules, self._broker(rules)
        return rules_and_broker

    # --- joining ------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Join groups that differ only where desks of a group may."""
        heads: dict[Any, list[list[Group]]] = {}
        for group in self.groups:
            state = group.state
            positions = object.__getattribute__(state.book, "positions")
            likely = (group.asked, state.watched, tuple(positions), tuple(state.orders), tuple(state.works))
            clusters = heads.setdefault(likely, [])
            cluster = next((cluster for cluster in clusters if _joinable(cluster[0], group)), None)
            if cluster is None:
                clusters.append([group])
            else:
                cluster.append(group)
        if sum(map(len, heads.values())) < len(self.groups):
            self.groups = [self._joined(cluster) for clusters in heads.values() for cluster in clusters]

    def _joined(self, cluster: list[Group]) -> Group:
        if len(cluster) == 1:
            return cluster[0]
        base, notes = cluster[0], list[Note]()
        tops = list(_raw(base.state))
        for name, (kind, _) in NODES.items():
            columns = zip(*[_raw(_top(group, name)) for group in cluster], strict=True)
            merged = [
                _merge(cluster, f"{name}.{field}", column, notes)
                for field, column in zip(kind.__struct_fields__, columns, strict=True)
            ]
            tops[_AT[name]] = checked(kind)(*merged)
        for name in (*MAPPINGS, "seq", "decision"):
            tops[_AT[name]] = _merge(cluster, name, [_top(group, name) for group in cluster], notes)
        paper = list(_raw(base.market_state))
        for place, name in enumerate(PaperState.__struct_fields__):
            if name in PAPER_MAY_DIFFER:
                column = [_raw(group.market_state)[place] for group in cluster]
                paper[place] = _merge(cluster, f"paper.{name}", column, notes)
        for member, path, value in notes:
            member.values[path] = value
        members = [member for group in cluster for member in group.members]
        tops[_AT["trading"]], market = self._common_rules(members)
        joined = Group(members, State(*tops), market, checked(PaperState)(*paper), ())
        joined.asked = base.asked
        return joined


def _top(group: Group, name: str) -> Any:
    return object.__getattribute__(group.state, name)


def _joinable(left: Group, right: Group) -> bool:
    """Whether two groups agree in all in which desks of a group may not differ."""
    mine, theirs = _raw(left.state), _raw(right.state)
    if not all(alike(mine[_AT[name]], theirs[_AT[name]]) for name in ALIKE):
        return False
    for name, (_, names) in NODES.items():
        books = mine[_AT[name]], theirs[_AT[name]]
        if not all(alike(*(object.__getattribute__(book, field) for book in books)) for field in names):
            return False
    papers = zip(PaperState.__struct_fields__, _raw(left.market_state), _raw(right.market_state), strict=True)
    return all(name in PAPER_MAY_DIFFER or alike(mine, theirs) for name, mine, theirs in papers)


Note = tuple[Member, str, Any]
"""(desk, path, value): a value in which the desk differs from its group."""


def _merge(cluster: Sequence[Group], path: str, column: Sequence[Any], notes: list[Note]) -> Any:
    """The common value of these groups at a path, or a mark; `notes` receive the values that a mark stands for."""
    first = column[0]
    if type(first) in (Mark, Count) and first.path == path:
        plus = 0 if type(first) is Mark else first.plus
        for group, field in zip(cluster, column, strict=True):
            if field is not first:
                notes.extend(
                    (member, path, member.value(field) - plus if plus else member.value(field))
                    for member in group.members
                )
        return first
    if all(field is first for field in column) and type(first) not in (Mark, Count) and not _counts(first):
        return first
    values = [
        (member, member.value(field)) for group, field in zip(cluster, column, strict=True) for member in group.members
    ]
    value = values[0][1]
    if all(alike(value, value_too) for _, value_too in values):
        return value
    if path == ACTIONS and len({len(actions) for _, actions in values}) == 1:
        places = [[(member, actions[place]) for member, actions in values] for place in range(len(value))]
        return tuple([_merge_numbers(f"{path}.{place}", numbers, notes) for place, numbers in enumerate(places)])
    if path in COUNTERS:
        return _merge_numbers(path, values, notes)
    notes.extend((member, path, member_value) for member, member_value in values)
    return Mark(path)


def _merge_numbers(path: str, numbers: Sequence[tuple[Member, int]], notes: list[Note]) -> int | Count:
    if all(number == numbers[0][1] for _, number in numbers):
        return numbers[0][1]
    notes.extend((member, path, number) for member, number in numbers)
    return Count(path)


def _counts(value: Any) -> bool:
    return type(value) is tuple and any(type(part) is Count for part in value)


def _resolve(member: Member, value: Any, paths: frozenset[str]) -> Any:
    """The value for desks that agree at `paths`, with marks at these paths resolved."""
    kind = type(value)
    if kind is Mark or kind is Count:
        return member.value(value) if value.path in paths else value
    return tuple([_resolve(member, part, paths) for part in value]) if kind is tuple and _counts(value) else value


def _for(member: Member, caused: Any, paths: frozenset[str] | None = None) -> Any:
    """A question, an open question or an answer with the desk's own decision number; `paths` None for a single desk."""
    if isinstance(caused, AskPolicy | PolicyAnswered | Ask):
        number: Any = caused.decision
        if type(number) is Count and (paths is None or number.path in paths):
            return msgspec.structs.replace(caused, decision=member.value(number))
    return caused


def _key(value: Any) -> Any:
    """A key that is equal for interchangeable values; containers are compared by identity."""
    kind = type(value)
    if kind is int or kind is str or value is None:
        return value
    return (kind, id(value)) if kind is dict else (kind, repr(value))


def _to_watch(before: State[Any], event: Event, step: Step) -> bool:
    """Whether the step can change what `training.evaluate.machine.PlayTally` counts."""
    if isinstance(event, OrderFilled):
        return True
    trades, now = (object.__getattribute__(state.stats, "trades") for state in (before, step.state))
    if trades is not now and not (type(trades) is type(now) and trades == now):
        return True
    if isinstance(event, QuotesReceived) and event.closes_bar_ns and step.state.book.positions:
        return True
    return any(isinstance(row, DecisionRow) and row.outcome == "ordered" for row in step.rows)


# --- rules ------------------------------------------------------------------------------------------------------------


def playable_together(rules: Sequence[Trading]) -> bool:
    """Whether desks by these rules differ only in keys of tables that a step reads key by key."""
    first = rules[0]
    return all(getattr(first, table) == getattr(rule, table) for rule in rules[1:] for table in ALIKE_TABLES)


def common_rules(rules: Sequence[Trading]) -> Trading:
    """The rules of several desks as one.

    A key in which they differ raises `Differs` where it is read; a limit, where it is more than compared, or they
    would not all compare alike.
    """
    if len(rules) == 1:
        return rules[0]
    tables = {}
    for field in fields(rules[0]):
        table = getattr(rules[0], field.name)
        if field.name in ALIKE_TABLES:
            tables[field.name] = table
            continue
        names = [field.name for field in fields(table)]
        columns = {name: [getattr(getattr(trading, field.name), name) for trading in rules] for name in names}
        different = frozenset(
            name for name, values in columns.items() if not all(alike(values[0], value) for value in values)
        )
        if different:
            kind: Any = type(table)
            compared = {name for name in different if field.name in COMPARED and _are_numbers(columns[name])}
            table = object.__new__(_unread(kind, field.name, different - compared))  # skips a constructor that may read
            for name, values in columns.items():
                limit = Limit(f"{RULES}{field.name}.{name}", tuple(dict.fromkeys(values))) if name in compared else None
                object.__setattr__(table, name, values[0] if limit is None else limit)
        tables[field.name] = table
    return Trading(**tables)


def parted(rules: Sequence[Trading], path: str) -> list[list[int]]:
    """Indices of rules grouped by their value at the path of a `Differs`, in order of first appearance."""
    parts: dict[Any, list[int]] = {}
    for place, trading in enumerate(rules):
        parts.setdefault(_key(_rule(trading, path)), []).append(place)
    return list(parts.values())


def _rule(trading: Trading, path: str) -> Any:
    _, table, name = path.split(".")
    return getattr(getattr(trading, table), name)


def _are_numbers(values: Sequence[Any]) -> bool:
    """Whether these are numbers of one type."""
    return type(values[0]) in (int, float, Decimal) and len({type(value) for value in values}) == 1


@cache
def _unread(kind: Any, table: str, names: frozenset[str]) -> Any:
    """The table's type with these keys raising `Differs` when read."""

    def read(self: Any, name: str) -> Any:
        if name in names:
            raise Differs(f"{RULES}{table}.{name}")
        return object.__getattribute__(self, name)

    return type(f"Common{kind.__name__}", (kind,), {"__slots__": (), "__getattribute__": read})
