"""The measurements. Each part returns what goes into target/bench/PART.json; its docstring is its heading on the page."""

from __future__ import annotations

import re
import time
import urllib.request

from bench.cluster import (
    BASELINE,
    OUT,
    Cluster,
    Node,
    Paused,
    Standalone,
    baseline,
    bench,
    free_port,
    options,
    say,
    server_pids,
    sql,
)


def load(place, rate, seconds, rooms=1000, members=3, senders=1000, **more):
    flags = [flag for name, value in more.items() for flag in ([f"--{name.replace('_', '-')}"] + ([] if value is True else [value]))]
    result = bench(
        "--url", place.url, "--rooms", rooms, "--members", members, "--senders", senders,
        "--rate", rate, "--duration", f"{3 if options.quick else seconds}s", "--pid", place.pids, *flags,
    )  # fmt: skip
    clean = result["lost"] + result["duplicated"] + result["reordered"] == 0 and not result["examples"]
    # Everything that was accepted is delivered half a second after the last send.
    steady = clean and not result["errors"] and result["behind_ms"] < 500
    latency = result["latency_ms"]
    say(
        f"    {rate}/s: {result['accepted_per_s']:.0f} accepted, p50 {latency['p50']:.1f} p99 {latency['p99']:.1f} ms, "
        f"behind {result['behind_ms']:.0f} ms, {'clean' if clean else 'NOT CLEAN'}"
    )
    return {"rate": rate, "clean": clean, "steady": steady, **result}


def steps(place, rates, seconds, **more):
    """Measures rate after rate, up to the first one that is not steady."""
    results = []
    for rate in rates:
        results.append(load(place, rate, seconds, **more))
        if not results[-1]["steady"]:
            break
    return results


def p1():
    """Durable messages per second, through edge, RabbitMQ, worker, PostgreSQL and Redis to every member."""
    with Cluster() as cluster:
        load(cluster, 3000, 5)  # warm-up
        rates = [5000] if options.quick else [15000, 20000, 25000, 27500, 30000, 32500, 35000]
        results = steps(cluster, rates, 20)
        pids = ",".join(f"{name}={pid}" for name, pid in server_pids().items())
        one_by_one = bench(BASELINE, "pipeline", "--create-in-configured-servers", "--duration", "3s" if options.quick else "15s", "--pid", pids, env=cluster.env)
    with Cluster() as cluster:
        few = {"rooms": 100, "senders": 300}
        load(cluster, 3000, 5, **few)  # warm-up
        few = steps(cluster, [5000] if options.quick else [25000, 30000, 31250, 32500, 35000, 40000], 15, **few)
    burst = [accept_alone(rate, 8) for rate in ([10000] if options.quick else [40000, 60000])]
    return {"steps": results, "few": few, "baseline": one_by_one, "burst": burst}


def accept_alone(rate, seconds):
    """A burst into the queue while no worker runs. It begins when all users have joined."""
    with Cluster() as cluster:
        seconds = 3 if options.quick else seconds
        burst = Paused(
            cluster, "--rooms", 1000, "--members", 3, "--senders", 1000, "--rate", rate, "--duration", f"{seconds}s",
            "--accept-only", "--pid", ",".join(pid for pid in cluster.pids.split(",") if not pid.startswith("worker")),
        )  # fmt: skip
        cluster.workers.pop().stop()
        burst.send()
        result = burst.result()
    say(
        f"    without a worker: {result['accepted']} accepted at {result['accepted_per_s']:.0f}/s, "
        f"last answer after {result['accept_ms']['max']:.0f} ms, refused {result['errors']}"
    )
    return {"rate": rate, **result}


def p2():
    """Latency from the intended send to the last member, at 1,000 messages per second."""
    with Cluster() as cluster:
        load(cluster, 1000, 5)
        first = load(cluster, 1000, 20)
    with Standalone() as alone:
        load(alone, 1000, 5)
        second = load(alone, 1000, 20)
    return {"cluster": first, "standalone": second}


def p3():
    """Deliveries per second. Baseline: plain tokio sockets that write finished bytes."""
    shapes = [
        ("one room of 5,000, burst", 5000, 1, 200, None),
        ("1,000 rooms of 10, burst", 10000, 1000, 100, None),
        ("1,000 rooms of 10, paced", 10000, 1000, 50, "10s"),
    ]
    rows = []
    for name, sockets, rooms, messages, over in shapes:
        if options.quick:
            sockets, messages = max(sockets // 10, rooms), 5
        shape = ["--sockets", sockets, "--rooms", rooms, "--messages", messages]
        shape += ["--over", over] if over else []
        chat, base = [], []
        for _ in range(1 if options.quick else 3):
            with Standalone() as alone:
                chat.append(bench("fanout", "--url", alone.url, "--pid", alone.node.pid, *shape))
            with baseline("--frame", chat[-1]["frame_bytes"], "--rooms", rooms) as (pid, _, sockets_url):
                base.append(bench("fanout", f"--{BASELINE}", "--url", sockets_url, "--pid", pid, *shape))
            say(f"    {name}: {chat[-1]['deliveries_per_s']:.0f}/s, baseline {base[-1]['deliveries_per_s']:.0f}/s")
        rows.append({"name": name, "chat": middle(chat, "deliveries_per_s"), "baseline": middle(base, "deliveries_per_s")})
    return rows


def middle(results, key):
    return sorted(results, key=lambda result: result[key])[len(results) // 2]


def p4():
    """Memory of an idle, authenticated socket in three rooms."""
    with Cluster() as cluster:
        count = 500 if options.quick else 15000
        return bench(
            "idle", "--url", cluster.url, "--connections", count, "--join", 3, "--users", 100, "--pid", f"edge={cluster.edges[0].pid}"
        )


def p5():
    """Connections per second, 1,000 at a time: connect, authenticate, join a room. Baseline: poem's upgrade alone."""
    shape = ["--connections", 500 if options.quick else 15000, "--at-once", 1000]
    chat, base = [], []
    for _ in range(1 if options.quick else 3):
        with Cluster() as cluster:
            chat.append(bench("connect", "--url", cluster.url, "--pid", cluster.pids, *shape))
        with baseline() as (pid, http, _):
            base.append(bench("connect", f"--{BASELINE}", "--url", http, "--pid", f"baseline={pid}", *shape))
        say(f"    {chat[-1]['per_s']:.0f}/s, baseline {base[-1]['per_s']:.0f}/s")
    return {"chat": middle(chat, "per_s"), "baseline": middle(base, "per_s")}


def p6():
    """Recent history (50 messages) over REST, 64 connections. Baseline: poem with the same bytes from memory."""
    page = OUT / "page.json"
    seconds = "3s" if options.quick else "10s"
    with Cluster() as cluster:
        chat = bench("history", "--url", cluster.url, "--page", page, "--duration", seconds, "--pid", cluster.pids)
    with baseline("--page", page) as (pid, http, _):
        base = bench("history", "--url", http, "--path", "/static", "--duration", seconds, "--pid", f"baseline={pid}")
    return {"chat": chat, "baseline": base}


def p7():
    """One worker drains a million waiting messages, with live traffic in rooms without a backlog."""
    messages = 20000 if options.quick else 1000000
    with Cluster(CHAT__QUEUE__MAX_BACKLOG=str(3 * messages), CHAT__EDGE__PING_INTERVAL="10m") as cluster:
        # The backlog is in the rooms of one half of the partitions, the live traffic in those of the other.
        live = Paused(
            cluster, "--rooms", 50, "--members", 3, "--senders", 50, "--rate", 200, "--duration", "10s", "--partitions", "4,5,6,7/8"
        )
        fill = Paused(
            cluster, "--rooms", 1000, "--members", 1, "--senders", 1000, "--rate", 40000, "--duration", f"{max(1, messages // 40000)}s",
            "--accept-only", "--partitions", "0,1,2,3/8",
        )  # fmt: skip
        cluster.workers.pop().stop()
        fill.send()
        fill = fill.result()
        say(f"    {fill['accepted']} messages wait")

        port = free_port()
        started = time.time()
        cluster.workers.append(Node("worker", env={**cluster.env, "CHAT__METRICS__PORT": str(port)}))
        time.sleep(1)
        live.send()
        curve = [(0.0, 0)]
        while curve[-1][1] < fill["accepted"] and time.time() - started < 300:
            time.sleep(0.25)
            curve.append((round(time.time() - started, 2), stored_by(port)))
        live = live.result()
        stored = int(sql("SELECT count(*) FROM messages", cluster.name))
    say(f"    drained in {curve[-1][0]:.1f} s, live p99 {live['latency_ms']['p99']:.0f} ms")
    return {
        "waiting": fill["accepted"],
        "stored": stored,
        "seconds": curve[-1][0],
        "per_s": round(fill["accepted"] / curve[-1][0]),
        "live": live,
        "curve": curve,
    }


def stored_by(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return int(float(re.search(r"^chat_messages_stored_total (\S+)", text, re.M)[1]))


def p8():
    """CPU time per message as rooms, members, edges, workers and history grow."""
    rate, seconds = 3000, 8
    some = {"rooms": 300, "members": 3, "senders": 300}
    rows = []

    def point(series, x, result):
        cpu = result["cpu_us_per_message"]
        server = sum(value for name, value in cpu.items() if name != "generator")
        per_delivery = server / max(1, result["delivered"] / max(1, result["accepted"]))
        rows.append(
            {
                "series": series,
                "x": x,
                "server_us": round(server, 1),
                "per_delivery_us": round(per_delivery, 1),
                "p50": result["latency_ms"]["p50"],
                "clean": result["clean"],
                "cpu": cpu,
            }
        )

    for rooms in [1, 10] if options.quick else [1, 10, 100, 1000, 10000, 100000]:
        with Cluster() as cluster:
            load(cluster, 1000, 3, rooms=100, members=1, senders=100)
            point("rooms", rooms, load(cluster, rate, seconds, rooms=rooms, members=1, senders=min(rooms, 300)))
    for members in [1, 3] if options.quick else [1, 3, 10, 30]:
        with Cluster() as cluster:
            load(cluster, 1000, 3, rooms=100, members=members, senders=100)
            point("members", members, load(cluster, 1000, seconds, rooms=100, members=members, senders=100))
    for edges in [1, 2] if options.quick else [1, 2, 4]:
        with Cluster(edges=edges) as cluster:
            load(cluster, 1000, 3, **some)
            point("edges", edges, load(cluster, rate, seconds, **some))
    for workers in [1, 2] if options.quick else [1, 2, 4]:
        with Cluster(workers=workers) as cluster:
            load(cluster, 1000, 3, **some)
            point("workers", workers, load(cluster, rate, seconds, **some))
    with Cluster() as cluster:
        there = 0
        for rows_there in [0, 10000] if options.quick else [0, 1000000, 5000000]:
            sql(
                "INSERT INTO messages (room, seq, id, change_seq, sender, body, client_msg_id, created_at) "
                "SELECT md5((n % 1000)::text)::uuid, n, gen_random_uuid(), n, md5('x')::uuid, repeat('x', 200), n::text, now() "
                f"FROM generate_series({there + 1}, {rows_there}) n; ANALYZE messages",
                cluster.name,
            )
            there = rows_there
            load(cluster, 1000, 3, **some)
            point("history", rows_there, load(cluster, rate, seconds, **some))
    return rows


def p9():
    """Durable messages per second, standalone on SQLite."""
    with Standalone() as alone:
        load(alone, 3000, 5)
        return steps(alone, [5000] if options.quick else [10000, 15000, 17500, 20000, 25000], 20)


def scaling():
    """The number of workers follows the load: a burst of twenty times the quiet rate. `chat autoscale` starts with none."""
    port = free_port()
    with Cluster(workers=0) as cluster:
        env = {
            **cluster.env,
            "CHAT__METRICS__PORT": str(port),
            "CHAT__AUTOSCALE__COOLDOWN": "10s",
            "CHAT__AUTOSCALE__MESSAGES_PER_SECOND": "1500",
        }
        autoscaler = Node("autoscale", "--min", 0, "--max", 4, env=env)
        try:
            times = (
                ["--before", "3s", "--during", "3s", "--after", "5s"]
                if options.quick
                else ["--before", "20s", "--during", "30s", "--after", "40s"]
            )
            return bench(
                "scaling", "--url", cluster.url, "--autoscaler", f"http://127.0.0.1:{port}/metrics", "--quiet", 200,
                *times, "--html", OUT / "scaling.html", "--json", OUT / "scaling.curve.json",
            )  # fmt: skip
        finally:
            autoscaler.stop()


PARTS = {part.__name__: part for part in (p1, p2, p3, p4, p5, p6, p7, p8, p9, scaling)}
