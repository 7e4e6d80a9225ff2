"""Independent tasks over the processes of a Ray cluster: what `training.rl.pool` does on one machine.

Each process carries out one task at a time in one thread, while another thread hands its messages over and hears that
it shall stop. A task whose machine was lost is given to another process once, and resumes from its checkpoint.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from training.rl.pool import POLL_S, Emit, Flag, Stopped, Work, blamed_here

T = TypeVar("T")
RETRIES = 1  # retries of a task whose process was lost; also the number of idle processes that may be lost
LOST = (
    "a process of Ray was lost again ({last}), perhaps for lack of memory; what was kept is there: give the same "
    "command again"
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The result or the exception of a task."""

    result: Any = None
    error: BaseException | None = None


class Worker:
    """A process of the cluster, which reads what it needs at its first task."""

    def __init__(self, prepare: Callable[[Any], Any], argument: Any) -> None:
        self._prepare, self._argument = prepare, argument
        self._prepared: list[Any] = []
        self._stop = threading.Event()
        self._messages: deque[Any] = deque()

    def carry_out(self, work: Work[Any], task: Any) -> Any:
        """Do a task, or go on with it; its result."""
        torch.set_num_threads(1)  # the setting is per thread, and Ray may use another thread for each task
        with blamed_here():
            if not self._prepared:
                self._prepared.append(self._prepare(self._argument))
            if self._stop.is_set():
                raise Stopped("before it began")
            return work(self._prepared[0], task, self._stop, self._messages.append)

    def messages(self, stop: bool) -> list[Any]:
        """Tell the worker whether to stop; return the messages since the last call."""
        if stop:
            self._stop.set()
        return [self._messages.popleft() for _ in range(len(self._messages))]


@dataclass(slots=True)
class _Process:
    """A worker process as its driver sees it."""

    actor: Any
    open_call: Any = None  # the pending call of `messages`
    working: Any = None  # the pending call of `carry_out`
    task: int = -1
    ready: bool = False  # it has answered once


class ClusterPool:
    """Processes of a cluster that tasks are given to; they stay until Ray is disconnected, or others are needed."""

    def __init__(self, ray: Any, device: str, prepare: Callable[[Any], Any], argument: Any) -> None:
        """Start none yet.

        Args:
            ray: the module, connected.
            device: "cpu", else each process has a GPU.
            prepare: `prepare(argument)` runs once in every process, on whatever machine: paths hold on all of them.
        """
        self.ray, self._gpus = ray, int(device != "cpu")
        self._given = prepare, argument
        self._cores = 0
        self.processes: list[_Process] = []

    def work_through(self, work: Work[T], tasks: Sequence[Any], *, cores: int = 1, flag: Flag, emit: Emit) -> list[T]:
        """The results of `work` on each task, in their order, as `training.rl.pool.work_through` gives them.

        Args:
            cores: of each process.

        Raises:
            Stopped: `flag` was set; finished tasks have done what they do, the others can be gone on with.
            RuntimeError: the process of a task was lost twice.
            Exception: what `prepare` or `work` raised.
        """
        self._room_for(min(len(tasks), self._most(cores)), cores)
        answers = _Course(self, work, tasks, flag, emit).run()
        errors = [answer.error for answer in answers.values() if answer.error is not None]
        for error in errors:
            if not isinstance(error, Stopped):
                raise error
        if len(answers) < len(tasks) or errors:
            raise Stopped("as asked")
        return [answers[index].result for index in range(len(tasks))]

    def release(self) -> None:
        """Give all cores back."""
        self._room_for(0, 0)

    def start(self) -> None:
        """Start one more process."""
        kind = self.ray.remote(Worker).options(
            num_cpus=self._cores, num_gpus=self._gpus, max_concurrency=2, max_restarts=0
        )
        self.processes.append(_Process(kind.remote(*self._given)))

    def _room_for(self, count: int, cores: int) -> None:
        """Have at least `count` processes with `cores` cores each, and end processes with another number."""
        if cores != self._cores:
            for process in self.processes:
                self.ray.kill(process.actor)
            self.processes.clear()
            self._cores = cores
        while len(self.processes) < count:
            self.start()

    def _most(self, cores: int) -> int:
        """The number of processes that the cluster has room for, at least 1."""
        resources = self.ray.cluster_resources()
        room = int(resources.get("CPU", 0)) // cores
        return max(1, min(room, int(resources.get("GPU", 0))) if self._gpus else room)


class _Course:
    """Tasks under way, in the driver."""

    def __init__(self, pool: ClusterPool, work: Work[Any], tasks: Sequence[Any], flag: Flag, emit: Emit) -> None:
        self._pool, self._ray, self._processes = pool, pool.ray, pool.processes
        self._work, self._tasks, self._flag, self._emit = work, tasks, flag, emit
        self._waiting = deque(range(len(tasks)))
        self._answers: dict[int, _Answer] = {}
        self._lost: dict[int, int] = {}  # losses by task; -1 for idle processes

    def run(self) -> dict[int, _Answer]:
        """Wait until every task has an answer, or all started tasks have ended after a stop or an error."""
        while self._open:
            for process in self._processes:
                self._give(process)
            self._listen()
        return self._answers

    @property
    def _stopping(self) -> bool:
        """Whether no further task shall begin."""
        return self._flag.is_set() or any(answer.error is not None for answer in self._answers.values())

    @property
    def _open(self) -> bool:
        under_way = any(process.working is not None for process in self._processes)
        return under_way or (bool(self._waiting) and not self._stopping)

    def _give(self, process: _Process) -> None:
        """Give a task to a process that is there and has none; ask for messages."""
        stopping = self._stopping
        if process.ready and process.working is None and self._waiting and not stopping:
            process.task = self._waiting.popleft()
            process.working = process.actor.carry_out.remote(self._work, self._tasks[process.task])
        if process.open_call is None:
            process.open_call = process.actor.messages.remote(stopping)

    def _listen(self) -> None:
        """Handle the calls that have ended meanwhile."""
        calls = [call for p in self._processes for call in (p.working, p.open_call) if call is not None]
        ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=POLL_S)
        for process in list(self._processes):
            try:
                self._hear(process, process.open_call in ready, process.working in ready)
            except self._ray.exceptions.RayError as error:
                self._replace(process, error)

    def _hear(self, process: _Process, answered: bool, ended: bool) -> None:
        """Pass messages on, the last ones before the task's end is known."""
        if answered or ended:
            self._pass_on(self._ray.get(process.open_call))
            process.open_call, process.ready = None, True
        if ended:
            try:
                answer = _Answer(self._ray.get(process.working))
            except self._ray.exceptions.RayTaskError as error:
                answer = _Answer(error=error.cause)
            self._pass_on(self._ray.get(process.actor.messages.remote(stop=False)))
            self._answers[process.task] = answer
            process.working, process.task = None, -1

    def _pass_on(self, messages: Sequence[Any]) -> None:
        for message in messages:
            self._emit(message)

    def _replace(self, process: _Process, error: BaseException) -> None:
        """Start another process for one that was lost; its task begins once more, `RETRIES` times.

        Raises:
            RuntimeError: the retries are used up.
        """
        self._processes.remove(process)
        self._lost[process.task] = self._lost.get(process.task, 0) + 1
        if self._lost[process.task] > RETRIES:
            raise RuntimeError(LOST.format(last=str(error).strip().splitlines()[0])) from error
        if process.task >= 0:
            self._waiting.appendleft(process.task)
        if not self._stopping:
            self._pool.start()
