"""CUDA graphs: GPU work that is recorded once and then replayed with a single launch.

A small network's step is hundreds of kernels of a few microseconds, which Python launches one by one more slowly than
the GPU computes them. On a CPU nothing is recorded. Invariant: a replay computes what the call would have computed.

Source: the PyTorch manual, "CUDA semantics", section "CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

WARM = 2
"""Warm-up calls before the recording, in which libraries allocate memory and choose kernels."""

T = TypeVar("T")


class NotRecordableError(RuntimeError):
    """Work that cannot be recorded; the text says what it does."""


class Recorded(Generic[T]):
    """`work()`, on a GPU as one launch from its third call on.

    `work` takes no arguments: what differs from call to call it reads from tensors that keep their address. It never
    waits for the device, and every number that is no tensor stays what it was at the recording. It may rebind tensors
    that are attributes of its `owners`: the replay leaves the new numbers in the same attributes. The tensors that it
    returns are overwritten by the next call.
    """

    def __init__(
        self,
        work: Callable[[], T],
        device: torch.device,
        *,
        owners: Sequence[object] = (),
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        """Prepare; the recording happens at a later call.

        Args:
            generators: of `device`, all that `work` draws from; each replay advances them as a call would.
        """
        self._work = work
        self._device = device
        self._owners, self._generators = owners, generators
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: list[T] = []

    def __call__(self) -> T:
        """The result of `work`.

        Raises:
            NotRecordableError: `work` waits for the device, or changes an attribute that is no tensor.
        """
        if self._device.type != "cuda":
            return self._work()
        with torch.cuda.device(self._device):
            if self._graph is None:
                if self._calls < WARM:
                    return self._beside()
                self._graph = self._recording()
            self._graph.replay()
        return self._result[0]

    def _beside(self) -> T:
        """Call on a side stream: the default stream cannot be recorded."""
        self._calls += 1
        current, side = torch.cuda.current_stream(), _side_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = self._work()
        current.wait_stream(side)
        return result

    def _recording(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        attributes_before = [dict(vars(owner)) for owner in self._owners]
        try:
            with torch.cuda.graph(graph, stream=_side_stream(self._device)):
                self._result = [self._work()]
                keep_places(self._owners, attributes_before)
        except NotRecordableError:
            raise
        except RuntimeError as error:
            raise NotRecordableError(
                f"this work on {self._device} cannot be recorded as a CUDA graph, because it waits for the device or "
                f"does what a recording does not hold: {error}"
            ) from error
        return graph


@cache
def _side_stream(device: torch.device) -> Any:
    """The stream of a device on which everything is recorded: autograd remembers the stream of a weight."""
    stream: Any = torch.cuda.Stream
    return stream(device)


def replayable(environment: object) -> bool:
    """Whether a step of these environments says that it can be recorded: see `training.rl.protocols.Environment`."""
    return bool(getattr(environment, "replayable", False))


def keep_places(owners: Sequence[object], attributes_before: Sequence[Mapping[str, Any]]) -> None:
    """Copy tensors that were rebound into those of `attributes_before`, and bind the latter again.

    Args:
        attributes_before: the former attributes of each owner, by name.

    Raises:
        NotRecordableError: an attribute changed that is neither a tensor nor an object of tensors, or two attributes
            shared one tensor and no longer do.
    """
    moves: list[tuple[Tensor, Tensor]] = []
    for owner, attributes in zip(owners, attributes_before, strict=True):
        moves.extend(_rebound(owner, attributes))
    places = {place.data_ptr() for place, _ in moves}
    if len(places) < len(moves):
        raise NotRecordableError("two attributes began as one tensor and are two afterwards: make them two at once")
    copies = [(place, value.clone() if value.data_ptr() in places else value) for place, value in moves]
    for place, value in copies:
        place.copy_(value)


def _rebound(owner: object, attributes_before: Mapping[str, Any]) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield the former and the new tensor of each rebound attribute of `owner`, and bind the former again."""
    for name, value in list(vars(owner).items()):
        was = attributes_before.get(name)
        if value is was:
            continue
        if isinstance(value, Tensor) and isinstance(was, Tensor) and value.shape == was.shape:
            yield was, value
        elif not isinstance(value, Tensor) and not isinstance(was, Tensor) and value == was:
            pass
        elif type(value) is type(was) and hasattr(value, "__dict__") and not isinstance(value, Tensor):
            yield from _rebound(value, vars(was))
        else:
            raise NotRecordableError(
                f"{type(owner).__name__}.{name} changes from {_short(was)} to {_short(value)}: expected a tensor of "
                f"one shape, as a replay repeats tensor operations alone"
            )
        setattr(owner, name, was)


def _short(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
