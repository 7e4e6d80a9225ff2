"""Every way in which a version of the model store is refused, and what the refusal says."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from daemon.cli import ctl
from daemon.core.limits import Basket, Trading
from daemon.host.ed25519 import KeyProblem, keygen
from daemon.models import pointer
from daemon.models.pointer import (
    CANDIDATE,
    CURRENT,
    PROMOTIONS_FILE,
    canary_of,
    changes,
    former_version,
    point,
    pointer_text,
    version_of_pointer,
)
from daemon.models.signature import SIGNATURE_FILE, sign
from daemon.models.store import (
    MANIFEST_BYTES_MAX,
    POLICY_BYTES_MAX,
    LoadedModel,
    ModelError,
    check_rules,
    load,
    sight,
    versions,
)
from strategies import registry
from strategies.kit.contract import AnyStrategy
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, Manifest, encode
from strategies.kit.own.stand_in import spec_text
from strategies.kit.parameters import text_of
from strategies.registry import add
from strategies.registry import strategy as registered
from tests.support.models.tiny_models import manifest_of, put
from tests.support.own.files import forgotten_again, write_strategy
from training.cli.train import activation

GRAPH = b"the store compares these bytes and never reads them"
LOGITS = ((0.0,) * 6,) * 7


@pytest.fixture(scope="module")
def scalper() -> AnyStrategy:
    return registered("option_scalper")


@pytest.fixture(scope="module")
def manifest(scalper: AnyStrategy) -> Manifest:
    return manifest_of(scalper, GRAPH, LOGITS)


@pytest.fixture
def folder(tmp_path: Path, manifest: Manifest) -> Path:
    """The folder of the store's only version, v1, which is current. The store itself is its parent's parent."""
    return put(tmp_path / "store", manifest, GRAPH)


def refusal(folder: Path, strategy: AnyStrategy, version: str = "current") -> tuple[str, str]:
    """The failed check and the whole text."""
    with pytest.raises(ModelError) as caught:
        load(folder.parent.parent, strategy, version)
    return caught.value.check, str(caught.value)


def change(folder: Path, key: str, value: object) -> None:
    """Put another value into the version's manifest; None takes the key out."""
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_bytes())
    content[key] = value
    if value is None:
        del content[key]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("version", ["current", "v1"])
def test_a_version_is_loaded_by_its_name_and_as_the_current_one(
    folder: Path, scalper: AnyStrategy, manifest: Manifest, version: str
) -> None:
    model = load(folder.parent.parent, scalper, version)
    assert (model.version, model.path, model.policy) == ("v1", folder, GRAPH)
    assert model.manifest == manifest
    assert model.digest == sha256(GRAPH).hexdigest()


def test_a_version_that_an_export_replaces_while_it_is_read_is_one_of_both(
    folder: Path, scalper: AnyStrategy, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is read before it is replaced, the other files after: the new report is not the old manifest's."""

    def made(into: Path, report: bytes) -> bytes:
        (into / "report.html").write_bytes(report)
        data = encode(msgspec.structs.replace(manifest, files={"report.html": sha256(report).hexdigest()}))
        (into / MANIFEST_FILE).write_bytes(data)
        return data

    made(folder, b"old")
    newer = folder.parent / ".export-1"
    shutil.copytree(folder, newer)
    new_manifest = made(newer, b"new")

    def replaced_after_the_manifest(path: Path, *rest: Any, read: Callable[..., bytes] = pointer.read_plain) -> bytes:
        if path.name == POLICY_FILE and newer.exists():
            folder.rename(folder.parent / ".old")
            newer.rename(folder)
        return read(path, *rest)

    monkeypatch.setattr("daemon.models.store.read_plain", replaced_after_the_manifest)
    assert load(folder.parent.parent, scalper).manifest_digest == sha256(new_manifest).hexdigest()


def test_the_current_version_is_the_one_that_the_file_names(
    folder: Path, scalper: AnyStrategy, manifest: Manifest
) -> None:
    newer = manifest_of(scalper, b"newer", LOGITS, version="2024-12-31-0a1b2c3d", promoted=False)
    put(folder.parent.parent, newer, b"newer")
    model = load(folder.parent.parent, scalper)
    assert (model.version, model.policy, model.manifest.promoted) == ("2024-12-31-0a1b2c3d", b"newer", False)
    assert load(folder.parent.parent, scalper, "v1").policy == GRAPH
    assert versions(folder.parent.parent, "option_scalper") == ("2024-12-31-0a1b2c3d", "v1")


def test_a_store_without_the_strategy_is_refused_with_the_key_to_correct(tmp_path: Path, scalper: AnyStrategy) -> None:
    with pytest.raises(ModelError, match=r"option_scalper is no folder .* correct paths\.models_dir"):
        load(tmp_path, scalper)
    assert versions(tmp_path, "option_scalper") == ()


def test_an_unknown_version_is_refused_with_the_names_of_those_there_are(folder: Path, scalper: AnyStrategy) -> None:
    check, text = refusal(folder, scalper, "v9")
    assert check == "missing version"
    assert "v9 is no folder" in text
    assert "expected one of: v1" in text


def test_a_store_without_any_version_says_so(tmp_path: Path, scalper: AnyStrategy) -> None:
    (tmp_path / "option_scalper").mkdir()
    with pytest.raises(ModelError, match="no version at all: train and export a model"):
        load(tmp_path, scalper, "v1")
    with pytest.raises(ModelError, match=r"current cannot be read .* no version at all"):
        load(tmp_path, scalper)


@pytest.mark.parametrize("name", ["../v1", "..", ".", "", "a/b", "a\\b", "/etc", ".export-x", "a..b", "v1\0", "v1\n"])
def test_a_version_that_is_no_plain_name_is_refused(folder: Path, scalper: AnyStrategy, name: str) -> None:
    check, text = refusal(folder, scalper, name)
    assert check == "version name"
    assert repr(name) in text


def test_a_store_without_an_active_version_names_the_command_to_type(folder: Path, scalper: AnyStrategy) -> None:
    (folder.parent / "current").unlink()
    check, text = refusal(folder, scalper)
    where = f"--strategy {scalper.spec.name} --models-dir {folder.parent.parent}"
    assert (check, text) == (
        "missing file",
        (
            f"model refused, missing file: no version in {folder.parent} is active yet, so type: "
            f'rltraderctl models activate v1 {where} --reason "..."'
        ),
    )


def test_a_store_without_an_active_version_names_the_newest_that_fits_and_what_its_activation_needs(
    folder: Path, scalper: AnyStrategy
) -> None:
    """v2 was made for another meaning of the numbers; v1 never traded in its test."""
    shelf = folder.parent
    (shelf / "current").unlink()
    shutil.copytree(folder, shelf / "v2")
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    for version, fields in (("v1", {"metrics": {"test": {"trades": 0}}}), ("v2", {"contract_hash": "another"})):
        (shelf / version / MANIFEST_FILE).write_text(json.dumps(manifest | {"version": version} | fields))
    where = f"--strategy {scalper.spec.name} --models-dir {shelf.parent}"
    never = "it never traded in its test"
    assert refusal(folder, scalper)[1].partition("so type: ")[2] == (
        f'rltraderctl models activate v1 {where} --allow-passive --reason "..."; {never} (others: v2)'
    )
    shutil.rmtree(shelf / "v1")
    advice = f"and none passes the checks for this desk yet, so type: rltraderctl models check v2 {where}"
    assert refusal(folder, scalper)[1].endswith(advice)


def test_the_command_to_type_names_the_file_of_a_strategy_that_is_known_by_its_file_alone(tmp_path: Path) -> None:
    file = write_strategy(tmp_path / "my strategy.py", "toy_of_a_file")
    (tmp_path / "store" / "toy_of_a_file" / "v1").mkdir(parents=True)
    (tmp_path / "store" / "toy_of_a_file" / "v1" / "manifest.json").touch()
    with forgotten_again():
        maker = registered(add(str(file)))
        with pytest.raises(ModelError) as caught:
            load(tmp_path / "store", maker)
        printed = activation(tmp_path / "store" / "toy_of_a_file" / "v1", "toy_of_a_file")
    for command in (str(caught.value).partition("so type: ")[2], printed):
        words = shlex.split(command)
        with forgotten_again():  # as a new process: only what is typed is known
            assert add(words[words.index("--strategy") + 1]) == "toy_of_a_file"


@pytest.mark.parametrize("name", [b"../../elsewhere", b"", b"current", b"\xff\xfe", b"v1\nv2"])
def test_a_current_file_that_names_no_version_is_refused_by_its_path(
    folder: Path, scalper: AnyStrategy, name: bytes
) -> None:
    (folder.parent / "current").write_bytes(name)
    check, text = refusal(folder, scalper)
    assert check == "version name"
    assert str(folder.parent / "current") in text


@pytest.mark.parametrize("name", [MANIFEST_FILE, POLICY_FILE])
def test_a_missing_file_is_named(folder: Path, scalper: AnyStrategy, name: str) -> None:
    (folder / name).unlink()
    check, text = refusal(folder, scalper)
    assert check == "missing file"
    assert str(folder / name) in text


@pytest.mark.parametrize("name", [MANIFEST_FILE, POLICY_FILE, "../current"])
def test_a_pipe_in_place_of_a_file_is_refused_and_never_waited_for(
    folder: Path, scalper: AnyStrategy, name: str
) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert refusal(folder, scalper)[0] == "missing file"


@pytest.mark.parametrize("name", [MANIFEST_FILE, POLICY_FILE])
def test_a_link_that_leads_out_of_the_store_is_refused(folder: Path, scalper: AnyStrategy, name: str) -> None:
    outside = folder.parent.parent.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    check, text = refusal(folder, scalper)
    assert check == "file outside of the store"
    assert str(outside) in text


def test_a_version_folder_that_is_a_link_out_of_the_store_is_refused(folder: Path, scalper: AnyStrategy) -> None:
    outside = folder.parent.parent.parent / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    assert refusal(folder, scalper)[0] == "file outside of the store"


def test_links_in_a_circle_are_refused(folder: Path, scalper: AnyStrategy) -> None:
    (folder / POLICY_FILE).unlink()
    (folder / POLICY_FILE).symlink_to(folder / POLICY_FILE)
    assert refusal(folder, scalper)[0] == "missing file"


def test_a_link_to_the_whole_store_is_followed(folder: Path, scalper: AnyStrategy, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder.parent.parent)
    assert load(tmp_path / "link", scalper).policy == GRAPH


@pytest.mark.parametrize(("name", "limit"), [(MANIFEST_FILE, MANIFEST_BYTES_MAX), (POLICY_FILE, POLICY_BYTES_MAX)])
def test_a_file_beyond_its_limit_is_refused(folder: Path, scalper: AnyStrategy, name: str, limit: int) -> None:
    os.truncate(folder / name, limit + 1)  # a hole: takes no room on the disk
    check, text = refusal(folder, scalper)
    assert check == "file size"
    assert str(limit) in text


def test_a_manifest_that_is_no_json_is_refused(folder: Path, scalper: AnyStrategy) -> None:
    for damage in (b"{", b"", b"\xff\xff", b"[]"):
        (folder / MANIFEST_FILE).write_bytes(damage)
        assert refusal(folder, scalper)[0] == "manifest"


def test_a_manifest_names_the_field_that_is_wrong(folder: Path, scalper: AnyStrategy) -> None:
    change(folder, "promoted", "yes")
    check, text = refusal(folder, scalper)
    assert check == "manifest"
    assert "$.promoted" in text
    change(folder, "promoted", None)
    assert "`promoted`" in refusal(folder, scalper)[1]


def test_a_newer_format_is_called_so_even_when_its_fields_are_unknown_here(folder: Path, scalper: AnyStrategy) -> None:
    change(folder, "format", 2)
    change(folder, "field_of_the_future", 1)
    check, text = refusal(folder, scalper)
    assert check == "manifest format"
    assert "has format 2, expected 1" in text


@pytest.mark.parametrize(
    ("key", "value", "check"),
    [
        ("strategy", "regime_switcher", "strategy"),
        ("version", "v2", "version"),
        ("contract_hash", "0" * 64, "contract hash"),
        ("observation_shape", [23, 20], "observation shape"),
        ("actions", ["HOLD", "BUY_PUT", "BUY_CALL", "TRIM_50", "TRIM_70", "EXIT"], "actions"),
        ("golden", {"observations": [""], "logits": []}, "golden answers"),
        ("policy_sha256", "0" * 64, "policy digest"),
    ],
)
def test_a_manifest_of_something_else_is_refused_with_what_was_found_and_expected(
    folder: Path, scalper: AnyStrategy, manifest: Manifest, key: str, value: object, check: str
) -> None:
    change(folder, key, value)
    failed, text = refusal(folder, scalper)
    assert failed == check
    assert check in text
    assert "expected" in text
    if key != "golden":
        expected = getattr(manifest, key)
        assert (expected if isinstance(expected, str) else repr(expected)) in text


@pytest.mark.parametrize(
    ("trained_with", "desk_has", "named"),
    [
        ({"slow": 100}, "", "was trained with slow 100, this desk's model configuration has 50"),
        ({"fast": 20, "slow": 100}, '{"fast":20}', "was trained with slow 100, this desk's model configuration has 50"),
        ({}, '{"slow":100}', "was trained with slow 50, this desk's model configuration has 100"),
    ],
)
def test_a_parameter_that_differs_is_named_also_where_the_desk_or_the_model_has_the_default(
    tmp_path: Path, trained_with: dict[str, int], desk_has: str, named: str
) -> None:
    with forgotten_again() as patch:
        patch.chdir(tmp_path)
        assert ctl.main(["new-strategy", "pa", "--cadence", "session", "--holds", "shares", "--template", "plain"]) == 0
        add(str(tmp_path / "pa" / "pa.py"))
        made_with = registered("pa", (), text_of(registry.entry("pa").parameters, trained_with))
        one = msgspec.structs.replace(manifest_of(made_with, GRAPH, LOGITS), model_config=trained_with)
        put(tmp_path / "store", one, GRAPH)
        check, text = refusal(tmp_path / "store" / "pa" / "v1", registered("pa", (), desk_has))
    assert (check, named in text) == ("model configuration", True), text


def test_checks_come_in_their_order(folder: Path, scalper: AnyStrategy) -> None:
    """Everything is wrong at once; each repair brings up the next check."""
    good = json.loads((folder / MANIFEST_FILE).read_bytes())
    wrong: dict[str, object] = {
        "format": 0,
        "strategy": "x",
        "version": "x",
        "contract_hash": "x",
        "observation_shape": [1],
        "actions": ["x"],
        "policy_sha256": "x",
    }
    for key, value in wrong.items():
        change(folder, key, value)
    failed = []
    for key in wrong:
        failed.append(refusal(folder, scalper)[0])
        change(folder, key, good[key])
    assert failed == [
        "manifest format",
        "strategy",
        "version",
        "contract hash",
        "observation shape",
        "actions",
        "policy digest",
    ]
    assert load(folder.parent.parent, scalper).version == "v1"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:0],
    ],
    ids=["first bit", "last bit", "cut", "longer", "empty"],
)
def test_one_changed_byte_of_the_policy_is_refused(
    folder: Path, scalper: AnyStrategy, damage: Callable[[bytes], bytes]
) -> None:
    (folder / POLICY_FILE).write_bytes(damage(GRAPH))
    check, text = refusal(folder, scalper)
    assert check == "policy digest"
    assert sha256(damage(GRAPH)).hexdigest() in text
    assert sha256(GRAPH).hexdigest() in text


# --- rules without which answers mean something else ------------------------------------------------------------------

UNITS = {"basket.shares_per_unit": "100", "basket.notional_per_unit_usd": "0", "basket.equity_per_unit": "0.0"}
OF_50 = ((0.0,) * 50,) * 6


def rebalancing(folder: Path, rules: dict[str, str]) -> LoadedModel:
    """A version of `daily_rebalancer` whose manifest names these rules."""
    maker = registered("daily_rebalancer")
    put(folder, manifest_of(maker, GRAPH, OF_50, rules=rules), GRAPH)
    return load(folder, maker)


def with_basket(**changes: Any) -> Trading:
    return Trading(basket=replace(Basket(), **changes))


def test_a_model_runs_under_the_unit_of_action_that_it_was_trained_with(tmp_path: Path) -> None:
    model = rebalancing(tmp_path, UNITS)
    check_rules(model, registered("daily_rebalancer"), with_basket())
    check_rules(model, registered("daily_rebalancer"), with_basket(notional_per_unit_usd=Decimal("0.00")))


@pytest.mark.parametrize(
    ("rules", "changes", "message"),
    [
        (UNITS, {"shares_per_unit": 10}, "basket.shares_per_unit is 10, the model v1 was trained with 100"),
        (UNITS, {"notional_per_unit_usd": Decimal(10_000)}, "set basket.notional_per_unit_usd to that"),
        (UNITS, {"equity_per_unit": 0.01}, "basket.equity_per_unit is 0.01, the model v1 was trained with 0.0"),
        ({}, {}, "does not say what one unit of its actions is"),
        ({"basket.decide": "before_close"}, {}, "basket.decide is after_close"),
        ({"basket.unheard_of": "1"}, {}, "basket.unheard_of is None"),
        ({"unheard.of": "1"}, {}, "unheard.of is None"),
    ],
)
def test_under_other_rules_or_unknown_ones_it_is_refused(
    tmp_path: Path, rules: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match="model refused, rules") as caught:
        check_rules(rebalancing(tmp_path, rules), registered("daily_rebalancer"), with_basket(**changes))
    assert message in str(caught.value)


def test_the_digest_of_all_rules_refuses_nothing_and_stands_for_no_unit_of_action(tmp_path: Path) -> None:
    check_rules(rebalancing(tmp_path, {**UNITS, "digest": "0" * 64}), registered("daily_rebalancer"), with_basket())
    alone = rebalancing(tmp_path / "alone", {"digest": "0" * 64})
    with pytest.raises(ModelError, match="does not say what one unit of its actions is"):
        check_rules(alone, registered("daily_rebalancer"), with_basket())


def test_a_policy_of_logits_needs_no_rules(folder: Path, scalper: AnyStrategy) -> None:
    check_rules(load(folder.parent.parent, scalper), scalper, Trading())


# --- the other files ----------------------------------------------------------------------------------------------


def vouched(tmp_path: Path, scalper: AnyStrategy, files: dict[str, str]) -> Path:
    """A version with `report.html` whose manifest vouches for `files`."""
    folder = put(tmp_path / "store", manifest_of(scalper, GRAPH, LOGITS, files=files), GRAPH)
    (folder / "report.html").write_bytes(b"page")
    return folder


def test_every_file_that_the_manifest_names_must_be_the_one_that_was_exported(
    tmp_path: Path, scalper: AnyStrategy
) -> None:
    folder = vouched(tmp_path, scalper, {"report.html": sha256(b"page").hexdigest()})
    load(tmp_path / "store", scalper)
    (folder / "report.html").write_bytes(b"sold")
    check, text = refusal(folder, scalper)
    assert check == "file digest"
    assert str(folder / "report.html") in text
    (folder / "report.html").unlink()
    assert refusal(folder, scalper)[0] == "missing file"


@pytest.mark.parametrize("name", ["../v1/report.html", "/etc/passwd", "", "a\0b", ".hidden", "a..b", "x" * 200])
def test_a_file_in_the_manifest_that_is_no_plain_name_is_refused(
    tmp_path: Path, scalper: AnyStrategy, name: str
) -> None:
    assert refusal(vouched(tmp_path, scalper, {name: "0" * 64}), scalper)[0] == "file name"


def test_a_file_that_leads_out_of_the_store_is_refused(tmp_path: Path, scalper: AnyStrategy) -> None:
    (tmp_path / "elsewhere").write_bytes(b"page")
    folder = vouched(tmp_path, scalper, {"report.html": sha256(b"page").hexdigest()})
    (folder / "report.html").unlink()
    (folder / "report.html").symlink_to(tmp_path / "elsewhere")
    assert refusal(folder, scalper)[0] == "file outside of the store"


def test_a_manifest_nested_too_deep_is_refused(folder: Path, scalper: AnyStrategy) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    text = (folder / MANIFEST_FILE).read_text().replace('"hyperparameters": {}', f'"hyperparameters": {{"x": {deep}}}')
    (folder / MANIFEST_FILE).write_text(text)
    assert refusal(folder, scalper)[0] == "manifest"


# --- signatures ---------------------------------------------------------------------------------------------------


def test_with_a_public_key_only_its_own_signature_over_these_bytes_is_good(
    folder: Path, tmp_path: Path, scalper: AnyStrategy
) -> None:
    store, manifest = folder.parent.parent, folder / MANIFEST_FILE
    public, other = keygen(tmp_path / "key"), keygen(tmp_path / "other")
    assert public != other

    def refused(key: str = public) -> str:
        with pytest.raises(ModelError) as caught:
            load(store, scalper, public_key=key)
        return caught.value.check

    assert refused() == "signature"  # none
    assert sign(folder, manifest.read_bytes(), tmp_path / "key") == public
    assert load(store, scalper, public_key=public).version == "v1"
    assert refused(other) == "signature"
    for keys in (f"{other},{public}", f"{public},{other}"):
        assert load(store, scalper, public_key=keys).version == "v1"
    manifest.write_bytes(manifest.read_bytes() + b"\n")  # the same content in other bytes
    assert refused() == "signature"
    load(store, scalper)  # without a key nobody is asked
    for signature in (b"", b"no base64!", b"AAAA", b"A" * 1000):
        (folder / SIGNATURE_FILE).write_bytes(signature)
        assert refused() == "signature"
    assert refused("AAAA") == "signature"


def test_the_signature_is_what_openssl_makes_of_the_same_key(tmp_path: Path, folder: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the program openssl")
    keygen(tmp_path / "key")
    sign(folder, (folder / MANIFEST_FILE).read_bytes(), tmp_path / "key")
    arguments = ["pkeyutl", "-sign", "-inkey", tmp_path / "key", "-rawin", "-in", folder / MANIFEST_FILE]
    output = subprocess.run([openssl, *map(str, arguments)], capture_output=True, check=True, timeout=300).stdout
    assert base64.b64decode((folder / SIGNATURE_FILE).read_bytes()) == output


def test_a_private_key_is_for_its_owner_alone_and_never_told(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    keygen(key)
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text().splitlines()[1]
    with pytest.raises(KeyProblem, match="File exists"):
        keygen(key)
    key.chmod(0o644)
    with pytest.raises(KeyProblem, match="mode 644") as caught:
        sign(folder, b"", key)
    assert secret not in str(caught.value)
    key.chmod(0o440)
    with pytest.raises(KeyProblem, match="mode 440"):
        sign(folder, b"", key)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # its group is the service's own
    sign(folder, b"", key)
    for mode in (0o444, 0o460):
        key.chmod(mode)
        with pytest.raises(KeyProblem, match=f"mode {mode:o}"):
            sign(folder, b"", key)
    key.chmod(0o600)
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\0" * 5000):
        key.write_bytes(content)
        key.chmod(0o600)
        with pytest.raises(KeyProblem, match="no Ed25519 private key"):
            sign(folder, b"", key)
    with pytest.raises(KeyProblem, match="cannot be read"):
        sign(folder, b"", tmp_path / "none")


# --- pointers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Three folders, no pointer yet."""
    for version in ("a", "b", "c"):
        (tmp_path / "shelf" / version).mkdir(parents=True)
    return tmp_path / "shelf"


def point_to(
    shelf: Path, version: str, pointer: str = CURRENT, *, rollback: bool = False, canary: bool = False
) -> None:
    point(shelf, pointer, version, author="who", why="why", now_ns=7, rollback=rollback, canary=canary)


def test_a_pointer_names_its_version_and_the_history_who_changed_it_and_why(shelf: Path) -> None:
    point_to(shelf, "a")
    point_to(shelf, "b", CANDIDATE)
    point_to(shelf, "b")
    point_to(shelf, "", CANDIDATE)
    assert (shelf / CURRENT).read_text() == "b\n"
    assert not (shelf / CANDIDATE).exists()
    lines = [json.loads(line) for line in (shelf / PROMOTIONS_FILE).read_text().splitlines()]
    whole = {"time_ns": 7, "who": "who", "why": "why"}
    assert lines == [
        {**whole, "pointer": "current", "from": "", "to": "a"},
        {**whole, "pointer": "candidate", "from": "", "to": "b"},
        {**whole, "pointer": "current", "from": "a", "to": "b"},
        {**whole, "pointer": "candidate", "from": "b", "to": ""},
    ]
    assert sorted(path.name for path in shelf.iterdir()) == ["a", "b", "c", CURRENT, PROMOTIONS_FILE]


def test_a_process_that_hangs_with_the_shelf_s_lock_keeps_no_rollback_back(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointer, "LOCK_S", 0.1)
    for version in ("a", "b"):
        point_to(shelf, version)
    hanging = os.open(shelf, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(hanging, fcntl.LOCK_EX)
    try:
        point_to(shelf, "a", rollback=True)
    finally:
        os.close(hanging)
    assert version_of_pointer(shelf, CURRENT) == "a"


def test_each_rollback_goes_one_version_further_back(shelf: Path) -> None:
    for version in ("a", "b", "c"):
        point_to(shelf, version)
    assert former_version(shelf) == "b"
    point_to(shelf, "b", rollback=True)
    assert former_version(shelf) == "a"
    point_to(shelf, "a", rollback=True)
    with pytest.raises(ModelError, match="no version before 'a'"):
        former_version(shelf)
    point_to(shelf, "c")
    assert former_version(shelf) == "a"


@pytest.mark.parametrize("rollback", [False, True])
def test_no_rollback_leads_to_a_canary_that_never_was_champion(shelf: Path, *, rollback: bool) -> None:
    for version in ("a", "b"):
        point_to(shelf, version)
    point_to(shelf, "c", canary=True)
    assert former_version(shelf) == "b"
    point_to(shelf, "b", rollback=rollback)  # by a person's `activate`, or back
    assert former_version(shelf) == "a"
    point_to(shelf, "c", canary=True)
    point_to(shelf, "c")  # a champion now
    point_to(shelf, "a")
    assert former_version(shelf) == "c"


def test_the_history_is_not_trusted_beyond_what_it_tells(shelf: Path) -> None:
    with pytest.raises(ModelError, match=r"rollback.*current names no version: activate the one you want by its name"):
        former_version(shelf)
    point_to(shelf, "a")
    point_to(shelf, "b")
    with (shelf / PROMOTIONS_FILE).open("ab") as file:
        file.write(b'{"time_ns": 7, "pointer": "curr\n\xff\n')  # torn
    assert [change.after for change in changes(shelf)] == ["a", "b"]
    assert former_version(shelf) == "a"
    (shelf / CURRENT).write_text("c\n")  # by hand
    with pytest.raises(ModelError, match="nothing that leads to 'c'"):
        former_version(shelf)


def test_a_change_after_a_line_that_a_full_disk_cut_off_is_not_lost(shelf: Path) -> None:
    point_to(shelf, "a")
    with (shelf / PROMOTIONS_FILE).open("ab") as file:
        file.write(b'{"time_ns": 7, "pointer": "curr')
    point_to(shelf, "b")
    assert [change.after for change in changes(shelf)] == ["a", "b"]
    assert former_version(shelf) == "a"


def test_a_change_that_was_written_down_and_not_made_is_no_step_back(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(shelf, "a")
    point_to(shelf, "b")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            point_to(shelf, "c")
    assert pointer_text(shelf, CURRENT) == "b"
    assert not list(shelf.glob(".*"))
    point_to(shelf, "c")
    assert former_version(shelf) == "b"
    point_to(shelf, "b", rollback=True)
    assert former_version(shelf) == "a"


def test_changes_that_a_full_disk_left_unmade_keep_no_rollback_back_and_are_not_told(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(shelf, "a")
    point_to(shelf, "b")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", Mock(side_effect=OSError(28, "No space left on device")))
        for version in ("a", "a", "c"):
            with pytest.raises(OSError, match="No space"):
                point_to(shelf, version, rollback=version == "a")
    assert [change.after for change in changes(shelf)] == ["a", "b"]
    assert former_version(shelf) == "a"
    point_to(shelf, "a", rollback=True)
    assert [change.after for change in changes(shelf)] == ["a", "b", "a"]


def test_a_canary_whose_rollback_a_full_disk_left_unmade_is_one_still(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(shelf, "a")
    point(shelf, CURRENT, "b", author="ladder", why="why", now_ns=7, canary=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            point_to(shelf, "a", rollback=True)
    change = canary_of(shelf)
    assert change is not None
    assert (change.before, change.after) == ("a", "b")


@pytest.mark.parametrize("name", ["../a", "current", "candidate", "a\0", "x" * 101, ".", "d"])
def test_a_pointer_is_set_to_nothing_but_a_version_of_the_shelf(shelf: Path, name: str) -> None:
    with pytest.raises(ModelError):
        point_to(shelf, name)
    assert pointer_text(shelf, CURRENT) == ""
    with pytest.raises(ModelError):
        version_of_pointer(shelf, CURRENT)


def test_a_pipe_in_place_of_a_pointer_is_not_waited_for(shelf: Path) -> None:
    os.mkfifo(shelf / CURRENT)
    assert pointer_text(shelf, CURRENT) == ""
    with pytest.raises(ModelError, match="no plain file"):
        version_of_pointer(shelf, CURRENT)


def test_a_look_tells_when_a_versions_files_were_touched(folder: Path) -> None:
    store = folder.parent.parent
    first = sight(store, "option_scalper", CURRENT)
    assert (first.version, first) == ("v1", sight(store, "option_scalper", "v1"))
    (folder / SIGNATURE_FILE).write_text("x")
    second = sight(store, "option_scalper", CURRENT)
    assert second != first
    (folder / MANIFEST_FILE).write_text("{}")
    third = sight(store, "option_scalper", CURRENT)
    assert third.manifest_digest not in ("", second.manifest_digest)
    (folder / MANIFEST_FILE).unlink()
    assert sight(store, "option_scalper", CURRENT).manifest_digest == ""


def test_a_history_that_is_a_link_or_a_pipe_is_not_written_and_the_pointer_stays(folder: Path) -> None:
    shelf, elsewhere = folder.parent, folder.parents[2] / "elsewhere"
    elsewhere.write_bytes(b"somebody else's\n")
    before_all = (shelf / CURRENT).read_bytes()
    for put_there in (lambda path: path.symlink_to(elsewhere), os.mkfifo):
        put_there(shelf / PROMOTIONS_FILE)
        with pytest.raises(OSError, match=r"promotions\.jsonl cannot be written .* expected a plain file"):
            point(shelf, CURRENT, folder.name, author="alice", why="a drill", now_ns=1)
        (shelf / PROMOTIONS_FILE).unlink()
    assert elsewhere.read_bytes() == b"somebody else's\n"
    assert (shelf / CURRENT).read_bytes() == before_all


def test_a_pointer_that_is_a_link_to_a_secret_brings_nothing_of_it_into_the_history(folder: Path) -> None:
    shelf, secret = folder.parent, folder.parents[2] / "secret"
    secret.write_bytes(b"ops-laptop:5a5a5a5a\n")
    (shelf / CURRENT).unlink()
    (shelf / CURRENT).symlink_to(secret)
    assert pointer_text(shelf, CURRENT) == ""
    point(shelf, CURRENT, folder.name, author="alice", why="a drill", now_ns=1)
    assert b"5a5a" not in (shelf / PROMOTIONS_FILE).read_bytes()
    assert secret.read_bytes() == b"ops-laptop:5a5a5a5a\n"


def test_what_lies_in_the_way_of_a_new_pointer_is_neither_waited_for_nor_followed(folder: Path) -> None:
    shelf, elsewhere = folder.parent, folder.parents[2] / "elsewhere"
    elsewhere.write_bytes(b"somebody else's\n")
    part = shelf / f".{CURRENT}.{os.getpid()}.part"
    for put_there in (lambda path: path.symlink_to(elsewhere), lambda path: path.hardlink_to(elsewhere), os.mkfifo):
        put_there(part)
        point(shelf, CURRENT, folder.name, author="alice", why="a drill", now_ns=1)
        assert (shelf / CURRENT).read_text() == f"{folder.name}\n"
        assert not (shelf / CURRENT).is_symlink()
    assert elsewhere.read_bytes() == b"somebody else's\n"


def test_a_refusal_is_one_short_printable_line_whatever_the_manifest_says(
    folder: Path, scalper: AnyStrategy, manifest: Manifest
) -> None:
    document = json.loads((folder / MANIFEST_FILE).read_bytes())
    for field, value in (
        ("policy_sha256", "\x1b]52;c;b3duZWQ=\x07\r\n" + "x" * 1_000_000),
        ("files", {"report.json": "\x1b[8m"}),
        ("strategy", "\x1b[2J\u202e"),
    ):
        (folder / "report.json").write_bytes(b"{}")
        (folder / MANIFEST_FILE).write_text(json.dumps({**document, field: value}))
        _, text = refusal(folder, scalper)
        assert text.isprintable()
        assert len(text) < 2_100


def test_of_a_strategy_that_cannot_be_imported_no_version_is_blamed(folder: Path) -> None:
    """The version is whole: to export it again, as for another contract, would cure nothing."""
    name = "mine_scalper"
    shutil.copytree(folder.parent, folder.parents[1] / name)
    spec = msgspec.structs.replace(registered("option_scalper").spec, name=name)
    with forgotten_again():
        away = registered(registry.stand_in("/gone/mine.py:STRATEGY", spec_text(spec)))
        with pytest.raises(ModelError, match=f"strategy: {name} cannot be imported") as refused:
            load(folder.parents[1], away)
    assert "export" not in str(refused.value)
