"""When trainings stop for serving, by what serving says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.machine import yield_processor
from runtime.project import Gpu
from runtime.pulse import STALE_SECONDS, WINDOW_SECONDS, Pulse, PulseWriter, read_pulses
from trainers.pacing import CALM_SECONDS, LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Pacer, pause, resume

SPLIT = Gpu(share="split", max_p99_ms=100)


def pulse(p99_ms: float | None = None, in_flight: int = 0, last_asked: float = 0.0) -> Pulse:
    return Pulse(0.0, p99_ms, in_flight, last_asked)


def test_those_that_share_nothing_and_those_that_nobody_serves_beside_never_stop() -> None:
    assert Pacer(Gpu()).stop(pulse(9999.0, 5), 1.0) is None
    assert Pacer(SPLIT).stop(None, 1.0) is None
    assert Pacer(Gpu(share="sleep")).stop(None, 1.0) is None


def test_asleep_whenever_somebody_asks_and_a_while_after() -> None:
    pacer = Pacer(Gpu(share="sleep", quiet_seconds=2))
    assert pacer.stop(pulse(in_flight=1, last_asked=10.0), 10.1) == "serving answers"
    assert pacer.stop(pulse(last_asked=10.0), 11.9)
    assert pacer.stop(pulse(last_asked=10.0), 12.1) is None


def test_slow_answers_stop_trainings_for_longer_the_sooner_they_come_back() -> None:
    pacer, pauses, now = Pacer(SPLIT), list[float](), 0.0
    for _ in range(6):
        assert pacer.stop(pulse(90.0), now) is None
        now += 1
        assert "250 ms, 100 allowed" in (pacer.stop(pulse(250.0), now) or "")
        began = now
        while pacer.stop(pulse(50.0), now):
            now += 0.25
        pauses.append(now - began)
    assert pauses == [5, 10, 20, 40, 60, 60]
    now += CALM_SECONDS + 1
    assert pacer.stop(pulse(250.0), now)
    assert pacer.stop(pulse(50.0), now + PAUSE_SECONDS) is None, "it had been calm"


def test_as_long_as_answers_are_slow_nothing_goes_on() -> None:
    pacer = Pacer(SPLIT)
    assert all(pacer.stop(pulse(250.0), float(now)) for now in range(300))
    assert pacer.stop(pulse(None), 300.0) is None, "nobody asks any more"


@given(st.lists(st.tuples(st.floats(0.1, 20), st.one_of(st.none(), st.floats(0, 300))), max_size=60))
def test_trainings_go_on_in_the_end_and_never_while_answers_are_slow(steps: list[tuple[float, float | None]]) -> None:
    pacer, now = Pacer(SPLIT), 0.0
    for seconds, p99_ms in steps:
        now += seconds
        stopped = pacer.stop(pulse(p99_ms), now)
        assert stopped or p99_ms is None or p99_ms <= SPLIT.max_p99_ms
    assert pacer.stop(pulse(1.0), now + LONGEST_PAUSE_SECONDS) is None


def test_a_pulse_is_of_the_last_answers_and_of_those_who_still_live(tmp_path: Path) -> None:
    now = 1000.0
    writers = [PulseWriter(tmp_path / f"{name}.json", lambda: now) for name in "ab"]
    assert read_pulses(tmp_path, now) is None
    for at in range(100):
        with writers[0].answering():
            now += at / 1000
    writers[0].write()
    found = read_pulses(tmp_path, now)
    assert found
    assert found.p99_ms == pytest.approx(98.0)
    assert found.last_asked == pytest.approx(now - 0.099)
    assert found.in_flight == 0
    with writers[1].answering():  # the first one after a silence is told at once
        found = read_pulses(tmp_path, now)
        assert found
        assert found.p99_ms == pytest.approx(98.0)
        assert [found.in_flight, found.last_asked] == [1, now]
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_text(json.dumps({"at": now}))
    now += WINDOW_SECONDS + 1
    assert read_pulses(tmp_path, now) is None, f"nothing was heard for {STALE_SECONDS} s"
    assert writers[0].pulse().p99_ms is None


def test_a_process_and_those_below_it_stop_and_go_on() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        try:
            while len(family := [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]) < 2:
                time.sleep(0.02)
            pause(process.pid)
            deadline = time.monotonic() + 5
            while {one.status() for one in family} != {psutil.STATUS_STOPPED}:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            resume(process.pid)
            while psutil.STATUS_STOPPED in {one.status() for one in family}:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, 9)
    pause(process.pid)  # one that has gone is none of theirs


def test_who_yields_the_processor_is_weighed_least_with_its_session() -> None:
    code = f"import os; from {yield_processor.__module__} import yield_processor; yield_processor(); print(os.nice(0), open('/proc/self/autogroup').read() if os.path.exists('/proc/self/autogroup') else 'nice 19')"
    said = subprocess.run([sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True, check=True).stdout
    assert said.startswith("19 ")
    assert "nice 19" in said
