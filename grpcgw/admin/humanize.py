"""Formats numbers and times for people."""

from __future__ import annotations

NEVER = "never"


def format_count(count: float) -> str:
    """Groups of three up to ten million, then `12.3 M`."""
    if count < 10_000_000:
        return f"{count:,.0f}"
    for factor, unit in ((1e12, "T"), (1e9, "G")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e6:.1f} M"


def format_latency(latency_ms: float) -> str:
    """Three significant digits at most: `0.84 ms`, `12 ms`, `1.2 s`."""
    if latency_ms >= 1000:
        return f"{latency_ms / 1000:.2g} s" if latency_ms < 100_000 else format_duration(latency_ms / 1000)
    if latency_ms >= 10:
        return f"{latency_ms:.0f} ms"
    return f"{latency_ms:.2g} ms"


def format_duration(seconds: float) -> str:
    """The greatest unit and the one next to it: `45 s`, `5 min`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    sizes = [("d", whole // 86_400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60)]
    first = next((index for index, (_, count) in enumerate(sizes) if count), len(sizes) - 1)
    shown = sizes[first : first + 1] + [size for size in sizes[first + 1 : first + 2] if size[1]]
    return " ".join(f"{count} {unit}" for unit, count in shown)


def format_age(now_s: float, then_s: float) -> str:
    """`just now`, `12 s ago`, `never` (0.0)."""
    if not then_s:
        return NEVER
    return "just now" if now_s - then_s < 1 else f"{format_duration(now_s - then_s)} ago"
