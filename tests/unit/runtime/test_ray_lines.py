"""Lines that Ray prints: the first of a kind is told, the rest is counted."""

from __future__ import annotations

from sage_ray.runtime.ray_lines import MAX_CHARS, MAX_KINDS, RayLines, shortened


def batch(*lines: str, **more: object) -> dict[str, object]:
    return {"lines": list(lines), "pid": 17, "is_err": True, **more}


def test_a_kind_is_told_once_with_a_count_at_the_end() -> None:
    said: list[str] = []
    lines = RayLines(said.append)
    for pid in range(300):
        lines.take(batch(f"step {pid} took 0.{pid} s", task_name="run_trial", pid=pid), object(), False)
    lines.take(batch("\x1b[33mA worker died. Lease ID: 0a1b2c", pid="raylet"))
    lines.take(
        batch("A worker died. Lease ID: 0a1b2d [repeated 4x across cluster] (Ray deduplicates ...)", pid="raylet")
    )
    assert said == ["(run_trial) step took s", "(raylet) A worker died"]
    lines.close()
    assert said[2:] == ["299 more of: (run_trial) step took s", "4 more of: (raylet) A worker died"]
    lines.close()
    assert len(said) == 4


def test_many_kinds_are_bounded() -> None:
    said: list[str] = []
    lines = RayLines(said.append)
    letters = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    for name in letters:
        lines.take(batch(f"kind {name}"))
    lines.close()
    assert len(said) == MAX_KINDS + 1 and said[-1].startswith(f"{len(letters) - MAX_KINDS} other lines")


def test_a_long_line_is_its_first_sentence() -> None:
    assert shortened("(raylet) It died. Lease ID: 12 and more") == "(raylet) It died"
    assert len(shortened("word " * 100)) == MAX_CHARS and shortened("word " * 100).endswith("...")
