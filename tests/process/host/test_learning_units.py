"""The units of a desk that learns: no key of the broker, no network, and torch where memory may become executable."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.paths import REPOSITORY

SYSTEMD = REPOSITORY / "systemd"
REDIS, PUBLISHER, TRAINER = "rltrader-redis.service", "rltrader-publisher.service", "rltrader-trainer.service"
LEARNING = (REDIS, PUBLISHER, TRAINER)
SOCKET = "/run/rltrader-redis/redis.sock"


def settings(unit: str) -> dict[str, list[str]]:
    """Key -> its values, of a unit or drop-in."""
    values: dict[str, list[str]] = {}
    for line in (SYSTEMD / unit).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


@pytest.mark.parametrize("unit", LEARNING)
def test_a_unit_of_learning_has_no_network_and_no_key_of_the_broker(unit: str) -> None:
    directives = settings(unit)
    assert (directives["PrivateNetwork"], directives["IPAddressDeny"]) == (["yes"], ["any"])
    assert directives["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert "IPAddressAllow" not in directives
    assert not [value for values in directives.values() for value in values if "APCA" in value]
    assert any("-/etc/rltrader" in value.split() for value in directives["InaccessiblePaths"])
    assert (directives["LimitCORE"], directives["CapabilityBoundingSet"]) == (["0"], [""])


def test_the_trainer_sees_no_journal_and_writes_to_its_own_folder_and_the_store_alone() -> None:
    directives = settings(TRAINER)
    assert directives["InaccessiblePaths"] == ["-/etc/rltrader -/var/lib/rltrader"]
    assert (directives["ReadWritePaths"], directives["StateDirectory"]) == (
        ["/var/lib/rltrader-models/online_dqn"],
        ["rltrader-trainer"],
    )
    assert settings(PUBLISHER)["ReadOnlyPaths"] == ["/var/lib/rltrader /opt/rltrader"]


def test_the_clients_of_redis_may_enter_its_folder_and_each_has_its_own_password() -> None:
    assert settings(REDIS)["RuntimeDirectory"] == ["rltrader-redis"]
    assert f"unixsocket {SOCKET}" in (SYSTEMD / "redis" / "redis.conf").read_text()
    passwords = []
    for unit in (PUBLISHER, TRAINER, "online.conf"):
        directives = settings(unit)
        assert any("rltrader-redis" in value.split() for value in directives["SupplementaryGroups"]), unit
        (password,) = (value for value in directives["LoadCredential"] if value.startswith("REDIS_PASSWORD:"))
        passwords.append(password.rpartition("/")[2])
    users = set(re.findall(r"(?m)^user (\S+) on #", (SYSTEMD / "redis" / "users.acl").read_text()))
    assert len(set(passwords)) == 3
    assert set(passwords) <= users
    assert f"--redis unix://{SOCKET} --redis-user rltrader-publisher" in settings(PUBLISHER)["ExecStart"][0]


def test_the_page_of_a_desk_that_learns_shows_the_store_to_which_its_trainer_adds_versions() -> None:
    def words(unit: str) -> list[str]:
        return settings(unit)["ExecStart"][-1].split()

    page, trainer = words("online-dashboard.conf"), words(TRAINER)
    store = trainer[trainer.index("--models-dir") + 1]
    assert page[page.index("--models-dir") + 1] == store
    assert settings("online-dashboard.conf")["ReadOnlyPaths"] == [store]
    writers = settings(TRAINER)["SupplementaryGroups"][0].split()
    assert set(settings("online-dashboard.conf")["SupplementaryGroups"]) <= set(writers)  # whose files the group reads
    assert settings("online-dashboard.conf")["ExecStart"][0] == ""  # a drop-in adds a second command else
    plain = words("rltrader-dashboard.service")
    assert [word for word in page if word != store] == [word for word in plain if not word.endswith("/onnx_models")]


def test_every_user_and_group_of_the_units_is_made_at_the_installation() -> None:
    accounts = set(re.findall(r"(?m)^[ug] (\S+)", (SYSTEMD / "rltrader.sysusers").read_text()))
    for unit in (*LEARNING, "online.conf"):
        directives = settings(unit)
        names = {*directives.get("User", []), *directives.get("Group", [])}
        assert names | set(" ".join(directives.get("SupplementaryGroups", [])).split()) <= accounts


UNDER_THE_RULE = """
import ctypes, sys
if sys.argv[1] == "yes" and ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE
    sys.exit(77)
import torch
if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
    sys.exit(78)
with torch.autocast("cpu", torch.bfloat16):
    torch.nn.Linear(64, 64)(torch.ones(256, 64)).float().sum().backward()
"""


def test_torch_trains_in_bfloat16_under_the_rule_of_the_trainer_s_unit_and_not_under_the_daemon_s() -> None:
    def trains(rule: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", UNDER_THE_RULE, rule], capture_output=True, check=False, timeout=600
        ).returncode

    refused = trains(settings("rltraderd.service")["MemoryDenyWriteExecute"][0])
    if refused in (77, 78):
        pytest.skip("needs Linux 6.3 or newer and a processor with bfloat16")
    assert refused == 1
    assert trains(settings(TRAINER)["MemoryDenyWriteExecute"][0]) == 0
