"""Trial of a model: check its graph and run it in a child process before this one loads it.

The child has no key, no file to write, little memory, little time, and gets the bytes whose digests were compared over
its standard input. Invariant: whatever these bytes do to the child, the parent waits at most the deadline.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from pathlib import Path
from typing import IO

import msgspec

from daemon.models.child import ChildProcess, GivenUp
from daemon.models.pointer import ModelError
from daemon.models.store import LoadedModel
from strategies.kit.contract import Observation, Spec
from strategies.kit.manifest import decode, encode

DEADLINE_S = 60.0
CPU_S = 50
MEMORY_MIB = 2048  # of address space while the libraries load; they map 390 MiB (measured)
MEMORY_MORE_MIB = 1024  # for the model, beyond the libraries' use
FILES_OPEN = 64
ANSWER_CPU_S = 0.25  # processor time of the fastest golden answer: the trading loop waits for each
ROW_CPU_S = 0.002  # the same for each symbol of a policy that answers row by row, if that is more
VERDICT_MAX = 8192  # bytes of the child's verdict

_HEAD = struct.Struct(">II")  # bytes of manifest and policy
_FAILURES: tuple[type[Exception], ...] = (Exception,)  # of onnx and onnxruntime, which share no other base


class Verdict(msgspec.Struct, frozen=True):
    """The child's verdict: `check` "" for a model that passed."""

    check: str = ""
    text: str = ""


def try_model(
    model: LoadedModel, deadline_s: float = DEADLINE_S, symbols: tuple[str, ...] = (), config: str = ""
) -> None:
    """Check the graph of a loaded model and run its golden answers, on the CPU, in a child. Blocks.

    Where rows are symbols, an answer about all `symbols` of the desk (none: the strategy's own) is timed. `config` is
    the canonical text of the desk's model configuration, "" for the strategy's own.

    Raises:
        ModelError: a check failed there; "trial" when a limit or the deadline ended the child.
    """
    TrialProcess(deadline_s).run(model, symbols, config)


class TrialProcess:
    """One trial. `run` blocks; `kill` ends it from another thread."""

    def __init__(self, deadline_s: float = DEADLINE_S, answer_cpu_s: float = ANSWER_CPU_S) -> None:
        self._deadline_s = deadline_s
        self._answer_cpu_s = answer_cpu_s
        self._child = ChildProcess(deadline_s)

    def run(self, model: LoadedModel, symbols: tuple[str, ...] = (), config: str = "") -> None:
        """Try the model in a child process, as `try_model` does. Raises ModelError."""
        manifest = encode(model.manifest)
        question = _HEAD.pack(len(manifest), len(model.policy)), manifest, model.policy
        about = (model.manifest.strategy, str(model.path), str(self._answer_cpu_s), ",".join(symbols), config)
        late = f"{model.path} had no verdict after {self._deadline_s:g} s: it hangs, or this host is overloaded"
        try:
            output, status = self._child.ask("daemon.models.trial", about, question, VERDICT_MAX, late)
        except GivenUp as error:
            raise ModelError("trial", str(error)) from None
        except OSError as error:
            text = f"{model.path} cannot be tried, no process can be started: {error}"
            raise ModelError("trial", text) from error
        self._judge(model, output, status)

    def kill(self) -> None:
        """End the child and its processes; from any thread, any number of times."""
        self._child.kill("the trial was given up")

    def _judge(self, model: LoadedModel, output: bytes, status: int) -> None:
        try:
            verdict = msgspec.json.decode(output, type=Verdict)
        except (msgspec.DecodeError, UnicodeDecodeError):
            verdict = None
        if verdict is None:
            end_text = f"signal {-status}" if status < 0 else f"exit code {status}"
            problem = self._child.killed or (
                f"{model.path} ended its trial by {end_text}: it takes more than {MEMORY_MORE_MIB} MiB or {CPU_S} s of "
                f"processor time, or breaks the runtime; export a smaller policy"
            )
            raise ModelError("trial", problem)
        if verdict.check:
            raise ModelError(verdict.check[:100], verdict.text[:VERDICT_MAX])


# --- in the child -------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the child: limits, libraries, tighter limits, then the bytes. Prints one verdict."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CPU, CPU_S)
    _limit(resource.RLIMIT_AS, MEMORY_MIB * 2**20)
    _limit(resource.RLIMIT_NOFILE, FILES_OPEN)
    out, sys.stdout = sys.stdout, sys.stderr  # standard output carries only the verdict
    try:
        symbols = tuple(sys.argv[4].split(",")) if sys.argv[4] else ()
        _try(sys.stdin.buffer, sys.argv[1], (symbols, sys.argv[5]), Path(sys.argv[2]), float(sys.argv[3]))
        verdict = Verdict()
    except ModelError as error:
        verdict = Verdict(error.check, error.text)
    except MemoryError:
        verdict = Verdict("trial", f"{sys.argv[2]} takes more than {MEMORY_MORE_MIB} MiB: export a smaller policy")
    except _FAILURES as error:
        verdict = Verdict("trial", f"{sys.argv[2]} cannot be tried: {type(error).__name__}: {error}"[:1000])
    out.buffer.write(msgspec.json.encode(Verdict(verdict.check, verdict.text[:2000])))
    out.flush()
    os._exit(0)  # skip all exit handlers of the model


def _try(stream: IO[bytes], name: str, made_with: tuple[tuple[str, ...], str], path: Path, answer_cpu_s: float) -> None:
    from daemon.models.graph_check import check_graph
    from daemon.models.runtime import OnnxPolicy
    from strategies.golden import golden_observations
    from strategies.registry import strategy

    maker = strategy(name, *made_with)
    observations = [_about_all(observation, maker.spec) for observation in golden_observations(maker)]
    most_s = max(answer_cpu_s, ROW_CPU_S * maker.spec.rows) if maker.spec.rows_are_symbols else answer_cpu_s
    _limit(resource.RLIMIT_AS, _address_space() + MEMORY_MORE_MIB * 2**20)
    _limit(resource.RLIMIT_NPROC, 0)
    manifest_size, policy_size = _HEAD.unpack(_exactly(stream, _HEAD.size))
    manifest, policy = decode(_exactly(stream, manifest_size)), _exactly(stream, policy_size)
    check_graph(policy)
    model = LoadedModel(manifest.version, path, manifest, manifest.policy_sha256, policy)
    onnx_policy = OnnxPolicy.open(model, maker, "cpu", 1)
    fastest = min(onnx_policy.cost_s(observation) for observation in observations)
    if fastest >= most_s:
        raise ModelError(
            "speed",
            f"{path} takes {fastest:.4f} s of processor time for its fastest answer, expected less than "
            f"{most_s:g}: export a smaller policy",
        )


def _about_all(golden: Observation, spec: Spec) -> Observation:
    """Return a golden observation; where rows are symbols, with its rows repeated for each of the desk's symbols."""
    if not spec.rows_are_symbols:
        return golden
    width = len(golden.data) // golden.shape[0]
    repeats = -(-spec.rows // golden.shape[0])
    return Observation((golden.data * repeats)[: width * spec.rows], spec.asked_shape)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes came, expected {size}")
    return data


def _limit(kind: int, most: int) -> None:
    """Lower one limit, never above what the host allows."""
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _address_space() -> int:
    """Return the bytes of address space that this process has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
