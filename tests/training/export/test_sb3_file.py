"""Files that are broken, hostile or of another kind are refused, and a payload in them is never run."""

from __future__ import annotations

import base64
import io
import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from strategies.option_scalper import OptionScalper
from tests.support.rl.saved_sb3 import Carrying, rewritten, saved, stored, with_data
from training.export.import_sb3 import ImportSb3Error, read_sb3


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return saved(tmp_path_factory.mktemp("good") / "model.zip", net_arch=[8])[1].read_bytes()


@pytest.fixture
def model_zip(good: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    path.write_bytes(good)
    return path


def test_a_policy_that_needs_vec_normalize_is_refused_with_the_reason(model_zip: Path, tmp_path: Path) -> None:
    (tmp_path / "vecnormalize.pkl").write_bytes(b"never opened")
    with pytest.raises(ImportSb3Error, match=r"vecnormalize.pkl next to it shows that VecNormalize .* never opened"):
        read_sb3(model_zip, OptionScalper())
    (tmp_path / "vecnormalize.pkl").rename(tmp_path / "vec_norm_spy.pkl")
    with pytest.raises(ImportSb3Error, match=r"vec_norm_spy.pkl next to it shows that VecNormalize"):
        read_sb3(model_zip, OptionScalper())
    (tmp_path / "vec_norm_spy.pkl").unlink()
    with pytest.raises(ImportSb3Error, match="`env_wrapper` in its data shows that VecNormalize"):
        read_sb3(with_data(model_zip, env_wrapper="VecNormalize(DummyVecEnv)"), OptionScalper())
    rewritten(model_zip, lambda members: members.update({"vecnormalize.pkl": b"never opened"}))
    with pytest.raises(ImportSb3Error, match=r"member 'vecnormalize.pkl' shows that VecNormalize"):
        read_sb3(model_zip, OptionScalper())


class Payload:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_a_payload_is_never_run_wherever_it_is(model_zip: Path, tmp_path: Path) -> None:
    mark = tmp_path / "was_run"
    payload = pickle.dumps(Payload(mark))
    pickle.loads(payload)
    assert mark.exists()  # it does work
    mark.unlink()
    good = model_zip.read_bytes()
    for content in (stored(Payload(mark)), stored({"action_net.weight": Payload(mark)}), payload):
        model_zip.write_bytes(good)
        rewritten(model_zip, partial(dict.update, **{"policy.pth": content}))
        with pytest.raises(ImportSb3Error, match=r"policy.pth is (refused|no zip)"):
            read_sb3(model_zip, OptionScalper())
        assert not mark.exists()
    model_zip.write_bytes(good)
    serialized = {":type:": "x", ":serialized:": base64.b64encode(payload).decode()}
    with_data(model_zip, clip_range=serialized, lr_schedule=serialized, policy_class=serialized)
    rewritten(model_zip, lambda m: m.update({"policy.optimizer.pth": payload, "pytorch_variables.pth": payload}))
    read_sb3(model_zip, OptionScalper())  # reads, because none of these is looked at
    assert not mark.exists()


def _bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 20_000_000)
    return out.getvalue()


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"_stable_baselines3_version": b"2" * 200},
            "_stable_baselines3_version unpacks to 200 bytes, expected at most",
        ),
        ({"../../evil.py": b""}, "among its 7 members is '../../evil.py'; expected"),
        ({"policy.pth": _bomb()}, "policy.pth has 1 records of 20,000,000 bytes, compressed: True"),
        ({"policy.pth": stored([1, 2])}, "policy.pth holds a list, expected tensors by name"),
        ({"policy.pth": stored({"action_net.weight": torch.full((6, 8), torch.nan)})}, "expected finite float32"),
        ({"policy.pth": stored({"action_net.weight": torch.zeros(1, 1).expand(10**6, 10**6)})}, "contiguous: False"),
        ({"policy.pth": stored({"action_net.weight": torch.zeros(6, 8, device="meta")})}, "torch.float32 on meta"),
        ({"policy.pth": stored({"log_std": torch.zeros(2)})}, "policy.pth has log_std; expected the layers"),
        ({"data": b"[" * 100_000}, "`data` is no JSON"),
        ({"data": b"[]"}, "`data` is a list, expected an object"),
    ],
)
def test_a_hostile_or_broken_member_is_refused(members: dict[str, bytes], text: str, model_zip: Path) -> None:
    rewritten(model_zip, lambda value: value.update(members))
    with pytest.raises(ImportSb3Error, match=text):
        read_sb3(model_zip, OptionScalper())


def test_a_number_that_no_manifest_holds_is_left_out(model_zip: Path) -> None:
    imported = read_sb3(with_data(model_zip, num_timesteps=10**400, n_steps=64, gamma=float("nan")), OptionScalper())
    assert imported.hyperparameters["n_steps"] == 64
    assert not {"num_timesteps", "gamma"} & set(imported.hyperparameters)


def test_a_recurrent_weight_without_any_axis_is_refused(model_zip: Path) -> None:
    weights = {"action_net.weight": torch.zeros(6, 8), "lstm_actor.weight_hh_l0": torch.tensor(0.0)}
    rewritten(model_zip, lambda value: value.update({"policy.pth": stored(weights)}))
    with pytest.raises(ImportSb3Error, match="the LSTM's state has h and c of 0 layers x 0 units"):
        read_sb3(model_zip, Carrying())


@pytest.mark.parametrize("lost", [{"2.weight"}, {"2.bias"}, {"2.weight", "2.bias"}])
def test_a_hidden_layer_that_lost_tensors_is_never_left_out(lost: set[str], model_zip: Path) -> None:
    sizes = {"0": (8, 460), "2": (8, 8), "4": (8, 8)}  # the layers around the lost one follow one another
    shapes = {f"{number}.{part}": size for number, size in sizes.items() for part in ("weight", "bias")}
    tensors = {name: torch.zeros(size if "weight" in name else size[:1]) for name, size in shapes.items()}
    layers = {f"mlp_extractor.policy_net.{name}": tensor for name, tensor in tensors.items() if name not in lost}
    weights = {**layers, "action_net.weight": torch.zeros(6, 8), "action_net.bias": torch.zeros(6)}
    rewritten(model_zip, lambda value: value.update({"policy.pth": stored(weights)}))
    with pytest.raises(ImportSb3Error, match=r"policy_net\.2 has a weight (None|\(8, 8\)) and a bias (None|\(8,\))"):
        read_sb3(model_zip, OptionScalper())


def test_a_member_whose_compressed_bytes_are_damaged_is_refused(model_zip: Path) -> None:
    with zipfile.ZipFile(model_zip) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(model_zip, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        begin = archive.getinfo("data").header_offset + 30 + len("data")  # a local header has 30 bytes and the name
    damaged = bytearray(model_zip.read_bytes())
    damaged[begin] = 0xFF  # no kind of deflate block
    model_zip.write_bytes(bytes(damaged))
    with pytest.raises(ImportSb3Error, match=r"expected the zip that model\.save writes"):
        read_sb3(model_zip, OptionScalper())


def test_a_member_that_comes_twice_is_refused(model_zip: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(model_zip, "a") as archive:
        archive.writestr("policy.pth", b"")
    with pytest.raises(ImportSb3Error, match="among its 7 members is 'one twice'; expected those of a saved model"):
        read_sb3(model_zip, OptionScalper())


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, model_zip: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ImportSb3Error, match=r"text.zip: File is not a zip file; expected the zip that model.save"):
        read_sb3(tmp_path / "text.zip", OptionScalper())
    with pytest.raises(ImportSb3Error, match=r"no member policy.pth"):
        read_sb3(rewritten(model_zip, lambda members: members.__delitem__("policy.pth")), OptionScalper())
