"""An export is whole or absent, agrees with torch, and needs neither torch nor this machine afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs
from torch import Tensor, nn

from daemon.core.limits import Trading
from daemon.models.store import load as load_version
from strategies.golden import contract_hash
from strategies.kit.contract import Float32Array
from strategies.kit.manifest import Manifest, Training, decode, encode
from strategies.option_scalper import SPEC
from strategies.registry import daily_strategy, strategy
from tests.support.paths import REPOSITORY
from tests.support.toy.registered import registered
from training.desks.scalper.data import load, observations
from training.desks.scalper.network import CLIP, ActorCritic, Policy
from training.export import shelf as shelf_module
from training.export.export import Exported, Release, export, run_onnx, run_onnx_sequence
from training.export.shelf import ExportError, activate, put_version
from training.rl.layers import Scaling
from training.study.folds import single

TRAINED = Training(
    file="bars.csv",
    file_sha256="0" * 64,
    feed="sip",
    synthetic=True,
    sessions=10,
    first_session="2024-01-02",
    last_session="2024-01-16",
    splits={},
)


def write_report(folder: Path, digest: str, _: str) -> None:
    """A report of one line, which names the policy it is of."""
    (folder / "report.json").write_text(f"{digest} earns nothing\n")


RELEASE = Release(TRAINED, {"seed": 1}, {"net": 0.0}, write_report)
SCALING = Scaling(mean=(0.1,) * 23, scale=(0.7,) * 23, clip=(CLIP,) * 23)


class Poisoned(nn.Module):
    """Answers with a logit that is not a number."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation[:, -1, :6] * float("nan")


class Stubborn(nn.Module):
    """Answers `by` in torch and 0 in the graph, which was traced for zeros."""

    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        self.by = by

    def forward(self, observation: Tensor) -> Tensor:
        sign = 0.0 if torch.compiler.is_compiling() else self.by
        return observation[:, -1, :6] * 0.0 + sign


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = ActorCritic(SCALING, seed=3).policy
    generator = torch.Generator().manual_seed(3)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)  # no two tensors alike
    return policy


@pytest.fixture(scope="module")
def random_observations() -> Float32Array:
    return np.random.default_rng(5).normal(size=(100, 20, 23)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    policy: Policy,
    random_observations: Float32Array,
) -> Path:
    store = tmp_path_factory.mktemp("store")
    version = export(policy, strategy(SPEC.name), RELEASE, out=store, probes=random_observations)
    assert not (version.parent / "current").exists()  # exporting moves no pointer
    activate(version, "a test")
    return version


def _manifest(folder: Path) -> Manifest:
    return decode((folder / "manifest.json").read_bytes())


def test_a_version_has_its_last_session_and_its_digest_as_name_and_current_points_to_it_once_activated(
    folder: Path,
) -> None:
    digest = hashlib.sha256((folder / "policy.onnx").read_bytes()).hexdigest()
    assert folder.name == f"2024-01-16-{digest[:8]}"
    assert (folder.parent / "current").read_text() == f"{folder.name}\n"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, "current", "promotions.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "policy.onnx", "report.json"]
    assert _manifest(folder).policy_sha256 == digest


def test_the_manifest_vouches_for_every_other_file_and_the_history_tells_of_the_pointer(folder: Path) -> None:
    report = hashlib.sha256((folder / "report.json").read_bytes()).hexdigest()
    assert _manifest(folder).files == {"report.json": report}
    (line,) = (folder.parent / "promotions.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["pointer"], entry["from"], entry["to"]) == ("current", "", folder.name)


def test_the_manifest_carries_the_contract_and_golden_logits_that_onnxruntime_repeats(folder: Path) -> None:
    manifest = _manifest(folder)
    assert manifest.contract_hash == contract_hash(strategy(SPEC.name))
    golden = np.stack([np.frombuffer(data, dtype="<f4").reshape(20, 23) for data in manifest.golden.observations])
    assert np.abs(run_onnx(folder / "policy.onnx", golden) - np.array(manifest.golden.logits)).max() <= 1e-5


def test_the_graph_has_one_input_one_output_any_batch_and_no_critic(folder: Path) -> None:
    model = onnx.load(folder / "policy.onnx", load_external_data=False)
    (graph_input,), (answer,) = model.graph.input, model.graph.output
    assert (graph_input.name, answer.name) == ("observation", "logits")
    assert [d.dim_value for d in graph_input.type.tensor_type.shape.dim] == [0, 20, 23]
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == 1)
    scaling = 4 * 23  # mean, scale, clip and its negative
    assert weights == 163_559 - (64 * 32 + 32 + 32 + 1) + scaling


def test_the_graph_names_no_path_of_the_machine_that_made_it(folder: Path) -> None:
    data = (folder / "policy.onnx").read_bytes() + (folder / "manifest.json").read_bytes()
    for trace in (str(REPOSITORY), ".py", "site-packages"):
        assert trace.encode() not in data


def test_torch_and_onnxruntime_agree_on_a_thousand_real_observations(
    folder: Path, policy: Policy, data_dir: Path
) -> None:
    path = data_dir / "spy_1min_2024.parquet"
    data = load(path, strategy(SPEC.name), Trading())
    real = observations(data, single(tuple(data.days))[0], 1000, seed=1)
    assert real.shape == (1000, 20, 23)
    with torch.no_grad():
        expected = policy(torch.from_numpy(real)).numpy()
    assert np.abs(run_onnx(folder / "policy.onnx", real) - expected).max() <= 1e-5


def test_the_same_policy_exports_to_the_same_bytes_and_replaces_itself(
    folder: Path, policy: Policy, random_observations: Float32Array, tmp_path: Path
) -> None:
    for _ in range(2):
        again = export(policy, strategy(SPEC.name), RELEASE, out=tmp_path, probes=random_observations)
    assert again.name == folder.name
    for name in ("policy.onnx", "manifest.json", "report.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_version_of_the_same_name_with_another_contract_is_never_replaced(
    folder: Path, random_observations: Float32Array, tmp_path: Path
) -> None:
    own_hash, other = contract_hash(strategy(SPEC.name)), "0123456789abcdef" * 4
    version_path = tmp_path / SPEC.name / folder.name
    shutil.copytree(folder, version_path)
    (version_path / "manifest.json").write_bytes(encode(structs.replace(_manifest(folder), contract_hash=other)))
    before = sorted((path, path.read_bytes()) for path in version_path.parent.rglob("*") if path.is_file())
    message = (
        f"{version_path.name} is in {version_path.parent} with the contract {other[:12]}, "
        f"the strategy's is {own_hash[:12]} now: the "
    )
    with pytest.raises(ExportError, match=re.escape(message)):
        export(Exported(folder / "policy.onnx"), strategy(SPEC.name), RELEASE, out=tmp_path, probes=random_observations)
    assert sorted((path, path.read_bytes()) for path in version_path.parent.rglob("*") if path.is_file()) == before


def test_a_promoted_version_is_never_replaced_by_one_that_is_not(
    folder: Path, random_observations: Float32Array, tmp_path: Path
) -> None:
    version_path = tmp_path / SPEC.name / folder.name
    shutil.copytree(folder, version_path)
    (version_path / "manifest.json").write_bytes(encode(structs.replace(_manifest(folder), promoted=True)))
    before = (version_path / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match=f"{version_path.name} is in .* and was promoted to trade real money"):
        export(Exported(folder / "policy.onnx"), strategy(SPEC.name), RELEASE, out=tmp_path, probes=random_observations)
    assert (version_path / "manifest.json").read_bytes() == before


def test_a_version_that_is_promoted_while_another_export_of_it_writes_its_report_stays(
    folder: Path, random_observations: Float32Array, tmp_path: Path
) -> None:
    version = tmp_path / SPEC.name / folder.name
    shutil.copytree(folder, version)

    def promote_meanwhile(_: Path, __: str, ___: str) -> None:
        (version / "manifest.json").write_bytes(encode(structs.replace(_manifest(folder), promoted=True)))

    release = replace(RELEASE, report=promote_meanwhile)
    with pytest.raises(ExportError, match="was promoted to trade real money"):
        export(Exported(folder / "policy.onnx"), strategy(SPEC.name), release, out=tmp_path, probes=random_observations)
    assert _manifest(version).promoted
    assert [path.name for path in version.parent.iterdir()] == [version.name]


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (Poisoned(), "finite: False"),
        (Stubborn(), "differ by 1.0"),
        (Stubborn(2e-5), "expected at most 1e-05"),
    ],
)
def test_a_policy_that_fails_its_checks_leaves_nothing_behind_and_the_old_version_in_place(
    module: nn.Module,
    complaint: str,
    random_observations: Float32Array,
    tmp_path: Path,
    policy: Policy,
) -> None:
    good = export(policy, strategy(SPEC.name), RELEASE, out=tmp_path, probes=random_observations)
    activate(good, "a test")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=complaint):
        export(module, strategy(SPEC.name), RELEASE, out=tmp_path, probes=random_observations)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert (good.parent / "current").read_text() == f"{good.name}\n"


@pytest.mark.parametrize("holds", ["version", "replaced"])
def test_what_a_killed_export_left_goes_a_day_later_but_a_version_that_it_had_put_aside(
    tmp_path: Path, holds: str
) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from training.export.shelf import put_version\n"
        "put_version(Path(sys.argv[1]), lambda folder: os.kill(os.getpid(), signal.SIGKILL))"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=REPOSITORY, check=False)
    assert run.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    (leftover / holds).mkdir(exist_ok=True)
    assert put_version(tmp_path, lambda _: "v1").name == "v1"
    assert leftover.exists()  # it may be at work
    day_s = 25 * 3600
    os.utime(leftover, (leftover.stat().st_atime - day_s, leftover.stat().st_mtime - day_s))
    put_version(tmp_path, lambda _: "v2")
    assert leftover.exists() == (holds == "replaced")
    assert {path.name for path in tmp_path.iterdir()} - {leftover.name} == {"v1", "v2"}


KILLED_WHILE_IT_REPLACES = """
import os, shutil, signal, sys
from pathlib import Path
from training.export import shelf
renames = []
def rename(self, target, rename=Path.rename):
    renames.append(self)
    if len(renames) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = rename
if sys.argv[2:]:
    shelf.exchange = lambda *_: False  # as on a file system that cannot
source = next(Path(sys.argv[1]).glob("*/manifest.json")).parent
def write(folder):
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return source.name
shelf.put_version(Path(sys.argv[1]), write)
shelf.put_version(Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize("old_disk", [False, True])
def test_an_export_killed_while_it_replaces_a_version_takes_none_away(
    folder: Path, tmp_path: Path, old_disk: bool
) -> None:
    shelf = tmp_path / SPEC.name
    shutil.copytree(folder, shelf / folder.name)
    command = [sys.executable, "-c", KILLED_WHILE_IT_REPLACES, str(shelf), *["old"] * old_disk]
    killed = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    if old_disk:
        assert killed == -signal.SIGKILL
        assert put_version(shelf, lambda _: "v2").name == "v2"  # the next export of any version brings it back
    assert load_version(tmp_path, strategy(SPEC.name), folder.name).version == folder.name


@pytest.mark.parametrize("place", [1, 2])
def test_ctrl_c_while_a_version_is_replaced_takes_none_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    def write(text: str) -> Callable[[Path], str]:
        return lambda folder: ((folder / "policy.onnx").write_text(text), "v1")[1]

    put_version(tmp_path, write("old"))
    renames = iter(range(1, 9))

    def rename(path: Path, target: Path) -> None:
        if next(renames) == place:
            raise KeyboardInterrupt
        os.rename(path, target)  # noqa: PTH104  the method is this function

    monkeypatch.setattr(shelf_module, "exchange", lambda *_: False)  # a file system that cannot
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        put_version(tmp_path, write("new"))
    assert (tmp_path / "v1" / "policy.onnx").read_text() == "old"


def test_a_shelf_that_leads_out_of_its_store_is_refused_with_the_store_to_name(tmp_path: Path) -> None:
    other, store = tmp_path / "other", tmp_path / "store"
    (other / SPEC.name).mkdir(parents=True)
    store.mkdir()
    (store / SPEC.name).symlink_to(other / SPEC.name)
    with pytest.raises(ExportError, match=re.escape(f"--models-dir {other.resolve()})")):
        put_version(store / SPEC.name, lambda _: "v1")
    assert not list((other / SPEC.name).iterdir())
    (tmp_path / "linked").symlink_to(other)
    assert put_version(tmp_path / "linked" / SPEC.name, lambda _: "v1").is_dir()  # the store itself may be a link


class Steep(nn.Module):
    """A sine of sums of 460 numbers, about 20 each: what their order changes in the last bits is seen in the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 460, generator=torch.Generator().manual_seed(0)))

    def forward(self, observation: Tensor) -> Tensor:
        return torch.sin(nn.functional.linear(observation.flatten(1), self.weight))


def test_a_steep_policy_may_differ_by_what_the_last_bits_of_its_inputs_change(tmp_path: Path) -> None:
    probes = np.random.default_rng(1).normal(size=(200, 20, 23)).astype(np.float32)
    policy = Steep()
    version = export(policy, strategy(SPEC.name), RELEASE, out=tmp_path, probes=probes)
    exact = np.sin(probes.reshape(200, 460).astype(np.float64) @ policy.weight.detach().double().numpy().T)
    assert np.abs(run_onnx(version / "policy.onnx", probes) - exact).max() <= 1e-4


def test_an_exported_policy_runs_where_torch_cannot_be_imported(folder: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "print(session.run(None, {'observation': numpy.zeros((2, 20, 23), numpy.float32)})[0].shape)\n"
    )
    command = [sys.executable, "-c", script, str(folder / "policy.onnx")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    assert result.stdout.strip() == "(2, 6)"


class Bold(nn.Module):
    """Answers each stock with a multiple of its close."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, observation: Tensor) -> Tensor:
        return torch.tanh(observation[:, :50]) * self.most


class Rememberer(nn.Module):
    """Adds up what it sees, and answers with the sum so far: after n observations of ones its logits are n."""

    def forward(self, observation: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        after = hidden + observation[:, :1]
        return after[:, :16], after


class MemoryResetSwitcher(nn.Module):
    """Remembers in torch, and forgets in the graph."""

    def forward(self, observation: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        factor = 0.0 if torch.compiler.is_compiling() else 1.0
        after = hidden * factor + observation[:, :1]
        return after[:, :16], after


def test_a_continuous_policy_answers_with_actions(tmp_path: Path) -> None:
    probes = np.random.default_rng(5).normal(size=(10, 803)).astype(np.float32)
    rebalancer = daily_strategy("daily_rebalancer")
    version = export(Bold(1.0), rebalancer, RELEASE, out=tmp_path, probes=probes)
    (answer,) = onnx.load(version / "policy.onnx").graph.output
    assert (answer.name, [d.dim_value for d in answer.type.tensor_type.shape.dim]) == ("actions", [0, 50])
    assert np.abs(run_onnx(version / "policy.onnx", probes) - np.tanh(probes[:, :50])).max() <= 1e-6
    manifest = _manifest(version)
    assert manifest.golden.hidden == ()
    assert manifest.contract_hash == contract_hash(rebalancer)
    assert b'"hidden"' not in (version / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match=r"gives actions from .* expected -1 to 1: end it with tanh"):
        export(Bold(1.5), rebalancer, RELEASE, out=tmp_path, probes=probes)


class Crowd(nn.Module):
    """A row's return as its answer, with the heads of `toy_crowd` but for those `left_out`."""

    def __init__(self, left_out: int = 0) -> None:
        super().__init__()
        self.left_out = left_out

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        probabilities = torch.softmax(observation[:, :3] * 50.0, dim=1)
        confidence, wish = probabilities.amax(dim=1), torch.tanh(observation[:, 4])
        heads = (probabilities, confidence, wish, wish * confidence)
        return (wish * confidence, *heads[: 4 - self.left_out])


def test_a_policy_with_heads_answers_row_by_row_and_its_golden_heads_are_in_the_manifest(tmp_path: Path) -> None:
    probes = np.random.default_rng(5).normal(size=(10, 8)).astype(np.float32)
    release = replace(RELEASE, symbols=("SPY", "QQQ"))
    with registered(toy_crowd="tests.support.toy.crowd"):
        crowd = daily_strategy("toy_crowd")
        version = export(Crowd(), crowd, release, out=tmp_path, probes=probes)
        with pytest.raises(ExportError, match="gives 3 heads; expected actions, probabilities, confidence, b"):
            export(Crowd(left_out=1), crowd, release, out=tmp_path, probes=probes)
    outputs = {
        output.name: [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim]
        for output in onnx.load(version / "policy.onnx").graph.output
    }
    assert list(outputs) == ["actions", "probabilities", "confidence", "bold", "final"]
    assert [shape[1:] for shape in outputs.values()] == [[], [3], [], [], []]
    manifest = _manifest(version)
    assert (manifest.symbols, manifest.observation_shape, manifest.actions) == (("SPY", "QQQ"), (8,), ("final",))
    for data, logits, heads in zip(
        manifest.golden.observations, manifest.golden.logits, manifest.golden.heads, strict=True
    ):
        rows = np.frombuffer(data, dtype="<f4").reshape(3, 8)
        shares = np.exp(rows[:, :3] * 50.0)
        shares /= shares.sum(axis=1, keepdims=True)
        assert heads["probabilities"] == pytest.approx(shares.reshape(-1), abs=1e-5)
        assert logits == heads["final"] == pytest.approx(np.tanh(rows[:, 4]) * shares.max(axis=1), abs=1e-5)


def test_a_policy_with_a_memory_is_proven_over_a_sequence_from_the_zero_state(tmp_path: Path) -> None:
    probes = np.ones((5, 64), dtype=np.float32)
    switcher = daily_strategy("regime_switcher")
    version = export(Rememberer(), switcher, RELEASE, out=tmp_path, probes=probes)
    graph = onnx.load(version / "policy.onnx").graph
    assert [item.name for item in (*graph.input, *graph.output)] == ["observation", "hidden", "logits", "next_hidden"]
    answers, states, _ = run_onnx_sequence(version / "policy.onnx", probes, (128,))
    assert states is not None
    assert answers[:, 0].tolist() == states[:, 127].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    golden = _manifest(version).golden
    inputs = [np.frombuffer(data, dtype="<f4")[0] for data in golden.observations]
    memories = [np.frombuffer(data, dtype="<f4") for data in golden.hidden]
    assert all(len(state) == 128 for state in memories)
    assert np.abs(np.cumsum(inputs) - [state[0] for state in memories]).max() <= 1e-5
    assert np.abs(np.cumsum(inputs) - [logits[0] for logits in golden.logits]).max() <= 1e-5
    with pytest.raises(ExportError, match=r"torch and onnxruntime differ by"):
        export(MemoryResetSwitcher(), switcher, RELEASE, out=tmp_path, probes=probes)
