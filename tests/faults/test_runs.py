"""Runs that are disturbed: by others, by a signal, by the network, by ``kill -9``."""

import signal

import pytest

from benchmarks.faults import Outcome, kills, locks, network, signals, upgraders
from benchmarks.projects import OURS


def hold(outcome: Outcome) -> None:
    """The case was tried, and nothing failed."""
    assert outcome.tries > 0
    assert outcome.failures == ()


@pytest.mark.parametrize("number", [2, 4, 8])
def test_of_several_upgraders_at_once_one_migrates(kind: str, number: int, sweep: bool) -> None:
    hold(upgraders.at_once(OURS, kind, number, rounds=25 if sweep else 1))


@pytest.mark.parametrize("words", [kills.UP, kills.DOWN], ids=["upgrade", "downgrade"])
def test_a_killed_run_is_carried_on(kind: str, words: tuple[str, ...], sweep: bool) -> None:
    hold(kills.killed(OURS, kind, words, step=1 if sweep else 9))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_at_a_revision(kind: str, number: signal.Signals) -> None:
    hold(signals.signalled(OURS, kind, number))


def test_a_second_interrupt_ends_the_process(kind: str) -> None:
    hold(signals.interrupted_twice(OURS, kind))


def test_no_revision_begins_without_the_lock(server: str) -> None:
    hold(locks.lock_lost(OURS, server))


def test_readers_come_through_while_a_revision_waits_for_their_table(postgresql: str) -> None:
    hold(locks.read_while_altered(OURS))


@pytest.mark.parametrize(("trouble", "points"), [("reset", 4), ("delay", 1), ("silence", 1)])
def test_a_failing_network_is_survived(server: str, trouble: network.Trouble, points: int, sweep: bool) -> None:
    hold(network.disturbed(OURS, server, trouble, points * (6 if sweep else 1)))
