"""Who holds a Lease, and until when, at an API server that keeps Kubernetes' rules; the clock is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.host.pod.lease import ApiError, ApiServer, Conflict, Lease, Tenure
from tests.support.deploy.lease_server import LeaseServer

DURATION_S = 600


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LeaseServer]:
    with LeaseServer(tmp_path, "rltraderd").serving() as server:
        yield server


def api(cluster: LeaseServer, name: str = "rltraderd") -> ApiServer:
    return ApiServer("127.0.0.1", cluster.port, cluster.account, name)


def tenure(cluster: LeaseServer, holder: str, clock: Clock) -> Tenure:
    return Tenure(api(cluster), holder, DURATION_S, clock)


def test_the_first_one_holds_a_lease_that_nobody_held_and_writes_what_the_cluster_shows(cluster: LeaseServer) -> None:
    clock = Clock()
    first = tenure(cluster, "pod-1", clock)
    assert first.attempt()
    assert (first.held, first.until) == (True, 1600.0)
    spec = cluster.leases["rltraderd"]["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("pod-1", 600, 1)
    assert spec["acquireTime"] == spec["renewTime"]
    clock.now += 10
    assert first.attempt()
    assert first.until == 1610.0
    again = cluster.leases["rltraderd"]["spec"]
    assert (again["leaseTransitions"], again["acquireTime"]) == (1, spec["acquireTime"])


def test_a_second_one_waits_for_the_whole_duration_after_it_last_saw_a_change(cluster: LeaseServer) -> None:
    clock = Clock()
    first, second = tenure(cluster, "pod-1", clock), tenure(cluster, "pod-2", clock)
    assert first.attempt()
    clock.now += 500
    assert not second.attempt()  # it sees the record for the first time now
    assert second.other == "pod-1"
    clock.now += 599
    assert not second.attempt()
    assert not first.held  # long before the second one may begin
    clock.now += 2
    assert second.attempt()
    assert cluster.holder("rltraderd") == "pod-2"


def test_a_renewal_lets_the_second_one_wait_anew(cluster: LeaseServer) -> None:
    clock = Clock()
    first, second = tenure(cluster, "pod-1", clock), tenure(cluster, "pod-2", clock)
    assert first.attempt()
    assert not second.attempt()
    clock.now += 590
    assert first.attempt()
    clock.now += 590
    assert not second.attempt()
    clock.now += 590
    assert not second.attempt()
    assert not first.held


def test_no_two_hold_it_at_once_whatever_the_order_of_their_attempts(cluster: LeaseServer) -> None:
    clock = Clock()
    both = [tenure(cluster, "pod-1", clock), tenure(cluster, "pod-2", clock)]
    for step in range(100):
        clock.now += (7, 180, 90, 310)[step * step % 4]
        both[(step * 7 // 3) % 2].attempt()
        assert sum(lease.held for lease in both) <= 1


def test_one_that_was_first_leaves_the_other_with_nothing(cluster: LeaseServer) -> None:
    clock = Clock()
    first, second = tenure(cluster, "pod-1", clock), tenure(cluster, "pod-2", clock)

    class Late(ApiServer):
        """The second one's server: somebody writes between its reading and its writing."""

        def write(self, lease: Lease) -> None:
            first.attempt()
            super().write(lease)

    late = Tenure(Late("127.0.0.1", cluster.port, cluster.account, "rltraderd"), "pod-2", DURATION_S, clock)
    assert not late.attempt()
    assert (first.held, late.held, second.attempt()) == (True, False, False)


def test_one_whose_lease_was_taken_away_by_hand_holds_nothing_from_then_on(cluster: LeaseServer) -> None:
    first = tenure(cluster, "pod-1", Clock())
    assert first.attempt()
    cluster.change("rltraderd", holderIdentity="somebody")
    assert not first.attempt()
    assert (first.held, first.other) == (False, "somebody")


def test_one_that_cannot_reach_the_server_holds_what_it_held_and_no_longer(cluster: LeaseServer) -> None:
    clock = Clock()
    first = tenure(cluster, "pod-1", clock)
    assert first.attempt()
    cluster.refuse = 503
    clock.now += 599
    with pytest.raises(ApiError, match="503"):
        first.attempt()
    assert first.held
    clock.now += 1
    assert not first.held


def test_what_is_given_back_is_free_at_once(cluster: LeaseServer) -> None:
    clock = Clock()
    first, second = tenure(cluster, "pod-1", clock), tenure(cluster, "pod-2", clock)
    assert first.attempt()
    first.release()
    assert not first.held
    assert second.attempt()
    first.release()  # it is another's now
    assert cluster.holder("rltraderd") == "pod-2"


def test_the_same_pod_goes_on_after_its_container_was_started_again(cluster: LeaseServer) -> None:
    clock = Clock()
    assert tenure(cluster, "pod-1", clock).attempt()
    assert tenure(cluster, "pod-1", clock).attempt()
    assert cluster.leases["rltraderd"]["spec"]["leaseTransitions"] == 1


def test_a_refusal_names_what_is_missing(cluster: LeaseServer, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match='answers 404 for the lease rltrader/other: leases "other" not found'):
        api(cluster, "other").read()
    (cluster.account / "token").write_text("an old one")
    with pytest.raises(ApiError, match="answers 401"):
        api(cluster).read()
    with pytest.raises(ApiError, match="KUBERNETES_SERVICE_HOST is not set"):
        ApiServer.of_pod({}, tmp_path, "rltraderd")
    server = ApiServer.of_pod({"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path, "a")
    assert (server.host, server.port, server.name) == ("10.43.0.1", 443, "a")


def test_a_server_that_the_cluster_s_authority_does_not_vouch_for_is_not_believed(
    cluster: LeaseServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = LeaseServer(tmp_path / "other", "rltraderd")
    with other.serving(), pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        ApiServer("127.0.0.1", cluster.port, other.account, "rltraderd").read()


def test_a_conflict_is_one(cluster: LeaseServer) -> None:
    read = api(cluster).read()
    cluster.change("rltraderd", holderIdentity="pod-9")
    with pytest.raises(Conflict):
        api(cluster).write(read)
