"""docs/benchmarks.md and its charts, from target/bench/*.json. Starts no server and measures nothing.

A section is a function of a part's result. It returns the rows of the summary (number, what, target, measured, whether the
target is reached) and the section's text.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
from pathlib import Path

from bench.cluster import BASELINE, CHAT, OUT, ROOT, Failed, run, say, sql

DOCS = ROOT / "docs"
RATE_COLUMNS = ("messages/s", "steady", "latency p50 / p99, ms", "CPU µs per message")


def cpu(result, key="cpu_us_per_message"):
    return ", ".join(f"{name} {value:g}" for name, value in sorted(result[key].items()))


def plot(name, title, x, panels, places=None):
    """Draws docs/benchmarks/NAME.svg with `chat bench plot`; `panels` are pairs of a label and named series of points."""
    panels = [{"y": y, "series": [{"name": label, "points": points} for label, points in series]} for y, series in panels]
    drawing = run(CHAT, "bench", "plot", stdin=json.dumps({"title": title, "x": x, "places": places, "panels": panels}))
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    (DOCS / "benchmarks" / f"{name}.svg").write_text(drawing)
    return f"![{title}](benchmarks/{name}.svg)"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def step_rows(steps):
    return [
        (
            f"{step['rate']:,}",
            "yes" if step["steady"] else "no",
            f"{step['latency_ms']['p50']:.0f} / {step['latency_ms']['p99']:.0f}",
            cpu(step),
        )
        for step in steps
    ]


def best_rate(steps):
    """The highest rate that was steady."""
    return max((step["rate"] for step in steps if step["steady"]), default=0)


# ---- sections


def page_p1(result):
    best, few = best_rate(result["steps"]), best_rate(result["few"])
    base = result["baseline"]
    ratio = best / max(1, min(base["stored_per_s"], base["accepted_per_s"]))
    alone = max((burst["accepted_per_s"] for burst in result["burst"] if not burst["errors"]), default=0)
    text = (
        "1,000 rooms of 3 online members, 1,000 sockets, bodies of 200 bytes. Steady: half a second after the last send, every "
        "message has been delivered, once and in order.\n\n"
        + table(RATE_COLUMNS, step_rows(result["steps"]))
        + "\n\nThe same in 100 rooms with 300 sockets. The NestJS design that this one follows was measured with these numbers: a "
        "faithful build of it stored and delivered 1,100 to 1,400 messages per second on such a machine.\n\n"
        + table(RATE_COLUMNS, step_rows(result["few"]))
        + f"\n\nBaseline without batches (`chat bench {BASELINE} pipeline`): {base['accepted_per_s']:,.0f}/s accepted, "
        f"{base['stored_per_s']:,.0f}/s stored; CPU µs per message: {cpu(base)}.\n\nAccepted in a burst while no worker runs:\n\n"
        + table(
            ("sent/s", "accepted/s", "refused", "accept p50 / p99, ms", "CPU µs per message"),
            [
                (
                    f"{burst['rate']:,}",
                    f"{burst['accepted_per_s']:,.0f}",
                    sum(burst["errors"].values()),
                    f"{burst['accept_ms']['p50']:.0f} / {burst['accept_ms']['p99']:.0f}",
                    cpu(burst),
                )
                for burst in result["burst"]
            ],
        )
    )
    summary = [
        ("P1", "durable messages per second, end to end", "≥ 15,000", f"{best:,}", best >= 15000),
        ("", "… compared with the baseline without batches", "≥ 1.5 ×", f"{ratio:.2f} ×", ratio >= 1.5),
        ("", "300 sockets in 100 rooms, compared with 1,250 per second", "≥ 25 ×", f"{few:,}: {few / 1250:.0f} ×", few >= 25 * 1250),
        ("", "accepted per second while no worker runs", "≥ 40,000", f"{alone:,.0f}", alone >= 40000),
    ]
    return summary, text


def page_p2(result):
    rows = [
        (name, *(f"{one['latency_ms'][quantile]:.1f}" for quantile in ("p50", "p99", "p999", "max")), cpu(one))
        for name, one in result.items()
    ]
    cluster, alone = result["cluster"]["latency_ms"], result["standalone"]["latency_ms"]
    summary = [
        ("P2", "latency p50 at 1,000/s, cluster", "≤ 5 ms", f"{cluster['p50']:.1f} ms", cluster["p50"] <= 5),
        ("", "latency p99, cluster", "≤ 25 ms", f"{cluster['p99']:.1f} ms", cluster["p99"] <= 25),
        ("", "latency p50, standalone", "≤ 4 ms", f"{alone['p50']:.1f} ms", alone["p50"] <= 4),
    ]
    return summary, table(("", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "CPU µs per message"), rows)


def page_p3(result):
    rows, summary = [], []
    for row in result:
        chat, base = row["chat"], row["baseline"]
        ratio = chat["deliveries_per_s"] / base["deliveries_per_s"]
        rows.append(
            (
                row["name"],
                f"{chat['deliveries_per_s']:,.0f}",
                f"{base['deliveries_per_s']:,.0f}",
                f"{ratio:.2f}",
                chat["server_cpu_us_per_delivery"],
                base["server_cpu_us_per_delivery"],
            )
        )
        summary.append(("P3" if not summary else "", f"deliveries, {row['name']}", "≥ 0.85 × baseline", f"{ratio:.2f} ×", ratio >= 0.85))
    head = ("", "chat, per second", "baseline, per second", "ratio", "chat, CPU µs each", "baseline, CPU µs each")
    return summary, "Medians of three alternating runs. chat (standalone) also stores each message; the baseline does not.\n\n" + table(
        head, rows
    )


def page_p4(result):
    each, after = result["bytes_per_connection"], result["bytes_per_connection_after_burst"]
    summary = [
        (
            "P4",
            f"memory per socket, {result['connections']:,} idle in {result['rooms_each']} rooms",
            "≤ 4 KiB",
            f"{each / 1024:.2f} KiB",
            each <= 4096,
        ),
        ("", "the same after a burst", "± 20 %", f"{after / each - 1:+.0%}", abs(after / each - 1) <= 0.2),
    ]
    before, connected, burst = (result[key] / 2**20 for key in ("before_bytes", "connected_bytes", "after_burst_bytes"))
    text = (
        f"Memory of the edge process: {before:.0f} MiB before, {connected:.0f} MiB with all sockets connected, "
        f"{burst:.0f} MiB after a message to every room."
    )
    return summary, text


def page_p5(result):
    ratio = result["chat"]["per_s"] / result["baseline"]["per_s"]
    failed = result["chat"]["failed"]
    rows = [
        (name, f"{r['per_s']:,.0f}", r["failed"], f"{r['open_ms']['p50']:.1f} / {r['open_ms']['p99']:.1f}", cpu(r, "cpu_us_per_connection"))
        for name, r in result.items()
    ]
    summary = [
        (
            "P5",
            f"connect, authenticate, join: {result['chat']['connections']:,}",
            "≥ 0.6 × baseline, no failures",
            f"{ratio:.2f} ×, {failed} failed",
            ratio >= 0.6 and failed == 0,
        )
    ]
    return summary, table(("", "sockets/s", "failed", "p50 / p99 ms", "CPU µs each"), rows)


def page_p6(result):
    ratio = result["chat"]["per_s"] / result["baseline"]["per_s"]
    rows = [
        (
            name,
            f"{r['per_s']:,.0f}",
            r["answer_bytes"],
            f"{r['latency_ms']['p50']:.2f} / {r['latency_ms']['p99']:.2f}",
            cpu(r, "cpu_us_per_request"),
        )
        for name, r in result.items()
    ]
    return [("P6", "recent history over REST", "≥ 0.7 × baseline", f"{ratio:.2f} ×", ratio >= 0.7)], table(
        ("", "requests/s", "bytes", "p50 / p99 ms", "CPU µs each"), rows
    )


def page_p7(result):
    p99 = result["live"]["latency_ms"]["p99"]
    picture = plot("p7", "One worker drains a backlog", "seconds", [("stored", [("messages", result["curve"])])])
    summary = [
        ("P7", f"drain of {result['waiting']:,} messages", "≥ 25,000/s", f"{result['per_s']:,}/s", result["per_s"] >= 25000),
        ("", "live traffic at the same time, p99", "≤ 1 s", f"{p99:.0f} ms", p99 <= 1000),
    ]
    text = (
        f"From the worker's start to the last message stored: {result['seconds']:.1f} s. Live traffic: {result['live']['accepted']:,} "
        f"messages at 200/s, p50 {result['live']['latency_ms']['p50']:.0f} ms."
    )
    return summary, f"{text}\n\n{picture}"


def page_p8(result):
    summary, parts = [], []
    for series in dict.fromkeys(row["series"] for row in result):
        rows = [row for row in result if row["series"] == series]
        key = "per_delivery_us" if series == "members" else "server_us"
        what = "CPU µs per delivery" if series == "members" else "CPU µs per message"
        values = [row[key] for row in rows]
        growth = values[-1] / values[0] - 1
        summary.append(
            (
                "P8" if not summary else "",
                f"{what}, {series} {rows[0]['x']:,} → {rows[-1]['x']:,}",
                "within 15 %",
                f"{growth:+.0%}",
                growth <= 0.15,
            )
        )
        points = list(enumerate(values))
        parts.append(
            plot(f"p8-{series}", f"{what} by {series}", series, [(what, [("all servers", points)])], [f"{row['x']:,}" for row in rows])
        )
        parts.append(
            table(
                (series, "all servers, µs per message", "µs per delivery", "p50 ms", "each, µs per message"),
                [(f"{row['x']:,}", row["server_us"], row["per_delivery_us"], row["p50"], cpu(row, "cpu")) for row in rows],
            )
        )
    return summary, "\n\n".join(parts)


def page_p9(result):
    best, text = best_rate(result), table(RATE_COLUMNS, step_rows(result))
    return [("P9", "durable messages per second, standalone", "≥ 15,000", f"{best:,}", best >= 15000)], text


def page_scaling(result):
    drawing = re.search(r"<svg.*</svg>", (OUT / "scaling.html").read_text(), re.DOTALL)
    if not drawing:
        raise Failed(f"{OUT / 'scaling.html'} has no chart")
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    (DOCS / "benchmarks/scaling.svg").write_text(drawing[0])
    shutil.copy(OUT / "scaling.html", DOCS / "scaling-curve.html")
    text = (
        "200 messages per second, 4,000 for half a minute, 200 again; `autoscale.cooldown` is 10 s, "
        "`autoscale.messages_per_second` 1,500. [The whole report](scaling-curve.html)."
    )
    return [], f"{text}\n\n![Workers during a burst](benchmarks/scaling.svg)"


PAGES = {
    "p1": page_p1,
    "p2": page_p2,
    "p3": page_p3,
    "p4": page_p4,
    "p5": page_p5,
    "p6": page_p6,
    "p7": page_p7,
    "p8": page_p8,
    "p9": page_p9,
    "scaling": page_scaling,
}


# ---- results


def save(part, title, result):
    """Writes target/bench/PART.json, with the machine and the versions."""
    OUT.mkdir(parents=True, exist_ok=True)
    text = {"date": str(datetime.date.today()), "machine": machine(), "versions": versions(), "title": title, "result": result}
    (OUT / f"{part}.json").write_text(json.dumps(text, indent=1))


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {memory:.0f} GiB, Linux {kernel}"


def versions():
    postgres = sql("SHOW server_version").split()[0]
    rabbit = run(ROOT / "scripts/services", "rabbitmqctl", "-q", "version").strip()
    redis = re.search(r"v=(\S+)", run("redis-server", "--version"))[1]
    rust = run("rustc", "--version").split()[1]
    return f"PostgreSQL {postgres}, RabbitMQ {rabbit}, Redis {redis}, Rust {rust}"


def results():
    """The last result of each part, in the order of the page."""
    files = {part: OUT / f"{part}.json" for part in PAGES}
    kept = {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}
    if not kept:
        raise Failed(f"there are no results in {OUT}: run scripts/bench without --report first")
    return kept


def write_page(kept):
    summary, sections = [], []
    for part, one in kept.items():
        rows, text = PAGES[part](one["result"])
        summary += rows
        sections.append(f"## {part.upper() if part[1:].isdigit() else part.capitalize()}: {one['title']}\n\n{text}\n")
    newest = max(kept.values(), key=lambda one: one["date"])
    notes = DOCS / "benchmarks.notes.md"
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `scripts/bench`; measured on {newest['date']}. {newest['machine']}; {newest['versions']}.",
            "Generator, servers and databases share the machine. Absolute figures differ between machines and between hours. A figure",
            "and its baseline are from the same run. Latency counts from the time at which a message should have been sent.",
            "`scripts/bench --help` says how to run it.",
            "",
            table(("", "what", "target", "measured", ""), [(*row, "holds" if reached else "**missed**") for *row, reached in summary]),
            "",
            *([notes.read_text()] if notes.exists() else []),
            *sections,
        ]
    )
    (DOCS / "benchmarks.md").write_text(text.rstrip() + "\n")
    say(f"wrote {DOCS / 'benchmarks.md'}")
