"""What the agent is doing, read from its spool while it runs."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from forewarn_edge_agent.clock import Clock, wall_ms
from forewarn_edge_agent.config import Config
from forewarn_edge_agent.link import SUSPICION
from forewarn_edge_agent.spool import Inspection
from forewarn_edge_agent.storage import Storage
from forewarn_edge_agent.uplink import UplinkConnection
from forewarn_edge_agent.watchdog import Watchdog


def as_json(
    config: Config, found: Inspection | None, live: dict[str, Any] | None = None, *, now_ms: int | None = None
) -> dict[str, Any]:
    """The status as it is printed with --json; `epoch` is null where the agent has never run.

    `live` is what a running agent tells of itself, see `live_status`.
    """
    now_ms = wall_ms() if now_ms is None else now_ms
    node = {"tenant": config.node.tenant, "node": config.node.node}
    if found is None:
        return {**node, "running": False, "epoch": None, "lanes": {}, "counters": {}, "assets": {}, "live": None}
    lanes = {}
    for name, state in found.lanes.items():
        lane = asdict(state)
        oldest_ms = lane.pop("oldest_at_ms")
        lane["oldest_at"] = _iso(oldest_ms)
        lane["oldest_age_s"] = None if oldest_ms is None else round(max(0, now_ms - oldest_ms) / 1000, 1)
        lane["gaps"] = [{"first_seq": first, "last_seq": last} for first, last in found.gaps[name]]
        lanes[name] = lane
    assets = {
        row.asset: {
            "asset_type": row.asset_type,
            "condition": row.condition,
            "maturity": row.maturity,
            "health_index": row.health_index,
            "observed_at": _iso(row.observed_at_ms if row.samples else None),
            "samples": row.samples,
        }
        for row in found.assets
    }
    return {
        **node,
        "running": found.in_use,
        "epoch": found.epoch,
        "lanes": lanes,
        "counters": found.counters,
        "assets": assets,
        "live": live,
    }


def live_status(uplink: UplinkConnection, storage: Storage, clock: Clock, watchdog: Watchdog) -> dict[str, Any]:
    """What only the running agent knows."""
    now_s, link = clock.monotonic(), uplink.link
    acknowledged_s = uplink.acknowledged_at_s
    return {
        "connection": {
            "state": link.state,
            "for_s": round(now_s - link.since_s, 1),
            "sessions": link.sessions,
            "failures": link.failures,
            "trouble": None if link.trouble is None else asdict(link.trouble),
            "takeover_suspected": link.is_suspicious,
        },
        "acknowledged_s_ago": None if acknowledged_s is None else round(now_s - acknowledged_s, 1),
        "replay_records_per_s": uplink.replay_records_per_s,
        "clock": {
            "offset_ms": clock.offset_ms(),
            "error_ms": clock.cloud.error_ms,
            "wrong": clock.is_wrong,
        },
        "storage": {"in_memory": storage.in_memory, "failures": storage.failures},
        "watchdog": watchdog.told(now_s),
    }


def as_text(status: dict[str, Any]) -> str:
    """The same for people."""
    if status["epoch"] is None:
        return f"{status['tenant']}/{status['node']}: has never run here"
    lines = [f"{status['tenant']}/{status['node']}: {'running' if status['running'] else 'not running'}", ""]
    lines.append(f"{'lane':<12}{'last':>12}{'acknowledged':>14}{'waiting':>10}{'dropped':>10}  oldest waiting")
    for name, lane in status["lanes"].items():
        counts = f"{lane['last_seq']:>12}{lane['acknowledged_seq']:>14}{lane['depth']:>10}{lane['dropped']:>10}"
        lines.append(f"{name:<12}{counts}  {lane['oldest_at'] or '-'}")
    lines += ["", f"{'asset':<24}{'condition':<11}{'maturity':<13}{'health':>7}{'samples':>10}  observed"]
    for name, asset in status["assets"].items():
        health = "-" if asset["health_index"] is None else f"{asset['health_index']:.2f}"
        words = f"{asset['condition']:<11}{asset['maturity']:<13}"
        lines.append(f"{name:<24}{words}{health:>7}{asset['samples']:>10}  {asset['observed_at'] or '-'}")
    if status["live"] is not None:
        lines += ["", *_live_lines(status["live"])]
    lines += ["", *(f"{name} = {value}" for name, value in status["counters"].items())]
    return "\n".join(lines)


def _live_lines(live: dict[str, Any]) -> list[str]:
    connection, clock = live["connection"], live["clock"]
    lines = [f"uplink       {connection['state']} for {connection['for_s']:g} s, session {connection['sessions']}"]
    if connection["trouble"] is not None:
        lines.append(f"             {connection['trouble']['reason']}")
        lines += [f"             {connection['trouble']['fix']}"] if connection["trouble"]["fix"] else []
    if connection["takeover_suspected"]:
        lines.append(f"             {SUSPICION}")
    ago = live["acknowledged_s_ago"]
    lines.append(f"acknowledged {'not since the start' if ago is None else f'{ago:g} s ago'}")
    if clock["offset_ms"] is None:
        lines.append("clock        not measured yet")
    else:
        wrong = ", wrong: the cloud's time is used" if clock["wrong"] else ""
        lines.append(f"clock        {-clock['offset_ms'] / 1000:+.3f} s from the cloud's{wrong}")
    if live["storage"]["in_memory"]:
        lines.append("storage      in memory: the disk cannot be written")
    silent = [asset for asset, found in live["watchdog"].items() if found["silent"]]
    return [*lines, *([f"silent       {', '.join(silent)}"] if silent else [])]


def _iso(t_ms: int | None) -> str | None:
    if t_ms is None:
        return None
    return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
