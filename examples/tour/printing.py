"""What the tour prints."""

import json
import os
import sys

WIDTH = 110
ROW = "{:>2}  {:<35} {:<16} {:<38} {:>9}"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
RED, GREEN, BOLD = "31", "32", "1"


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def changes(old, new, path=""):
    """The places where two JSON values differ, as (path, old, new); `...` stands for no value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            where = f"{path}.{name}" if path else name
            yield from changes(old.get(name, ...), new.get(name, ...), where)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new)):
            yield from changes(*pair, f"{path}[{index}]")
    elif old != new:
        yield path, old, new


def change_line(path, old, new):
    """One change, long texts cut down to where they begin to differ."""
    if not (isinstance(old, str) and isinstance(new, str)):
        before, after = (
            "nothing" if value is ... else cut(json.dumps(value)) for value in (old, new)
        )
        return f"{path}: {before} → {after}"
    start = max(0, len(os.path.commonprefix([old, new])) - 8)
    before, after = (
        f"“{'…' if start else ''}{cut(text[start:].replace(chr(10), '⏎'))}”" for text in (old, new)
    )
    return f"{path} ({len(old):,} → {len(new):,} characters): {before} → {after}"


def cut(text, width=24):
    return text if len(text) <= width else text[: width - 1] + "…"


def body_lines(shown, like, most=5):
    """What happened to the body between client and provider."""
    if not shown.called:
        return []
    if shown.received is None:
        return ["body on its way: this provider does not show what it received"]
    if like:
        return [f"body on its way: as in call {like}"]
    sizes = [len(text.encode()) for text in (shown.sent, shown.received)]
    if shown.received == shown.sent:
        return [f"body on its way: not a byte changed ({sizes[0]:,} bytes)"]
    lines = [f"body on its way: {sizes[0]:,} → {sizes[1]:,} bytes"]
    found = list(changes(json.loads(shown.sent), json.loads(shown.received)))
    lines += ["  " + change_line(*change) for change in found[:most]]
    if len(found) > most:
        lines.append(f"  and {len(found) - most} more")
    return lines


def arrivals(chunks, most=8):
    """When the chunks of an answer came."""
    times = [f"{ms:,.0f}" for ms in chunks]
    if len(times) > most:
        times[most - 2 : -1] = ["…"]
    return f"{len(chunks)} chunk{'s' * (len(chunks) != 1)} at {', '.join(times)} ms"


def print_head():
    print(ROW.format("#", "call", "client got", "module decided", "time"))
    print("─" * len(ROW.format("", "", "", "", "")))


def print_step(number, title, shown, wrong, like):
    """A row of the table with its details. `wrong` says what is not as it must be, `like` is the
    earlier call that had the same body on either side."""
    got = f"{shown.status} {'SSE' if shown.streamed else 'JSON'}"
    got += ", h2" if shown.protocol == "HTTP/2" else ""
    reason = shown.module.get("reason")
    decided = shown.status_word + (f": {reason}" if reason else "")
    row = ROW.format(number, title, got, decided, f"{shown.ms:,.0f} ms")
    print(paint(RED if wrong else GREEN, row))
    lines = [f"answer: {shown.text}"]
    if shown.streamed:
        lines.append(f"stream: {shown.events} events, {arrivals(shown.chunks)}")
    lines.append(f"provider: {'called' if shown.called else 'not called'}")
    decisions = shown.module.get("decisions")
    if isinstance(decisions, list) and shown.called and not like:
        applied = [decision for decision in decisions if decision.get("applied", True)]
        lines += [f"decision: {each.get('kind')}: {each.get('summary')}" for each in applied]
    lines += body_lines(shown, like)
    for line in lines:
        print("      " + cut(line, WIDTH - 6))
    for line in wrong:
        print(paint(RED, f"      NOT SO, AND IT MUST BE: {line}"))
    print(flush=True)


def print_call(entry):
    """One line for a line of Envoy's access log."""
    clock, _, _ = entry["time"].partition("T")[2].partition(".")
    decided = entry["optimizer"] or "no LLM call"
    took = f"{entry['ms']:,} ms"
    read, written = (entry[f"gen_ai.usage.{side}_tokens"] for side in ("input", "output"))
    tokens = f"{read or 0} → {written or 0} tokens" if read or written else ""
    line = f"{clock}  {entry['status']}  {decided:<38} {took:>10}  {tokens:<22} "
    print(line + f"{entry['method']} {entry['path']}", flush=True)
