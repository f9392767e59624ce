"""What the agent is doing, read from its spool while it runs."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from forewarn_edge_agent.config import Config
from forewarn_edge_agent.spool import Inspection


def as_json(config: Config, found: Inspection | None) -> dict[str, Any]:
    """The status as it is printed with --json; `epoch` is null where the agent has never run."""
    node = {"tenant": config.node.tenant, "node": config.node.node}
    if found is None:
        return {**node, "running": False, "epoch": None, "lanes": {}, "counters": {}, "assets": {}}
    lanes = {}
    for name, state in found.lanes.items():
        lane = asdict(state)
        lane["oldest_at"] = _iso(lane.pop("oldest_at_ms"))
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
    lines += ["", *(f"{name} = {value}" for name, value in status["counters"].items())]
    return "\n".join(lines)


def _iso(t_ms: int | None) -> str | None:
    if t_ms is None:
        return None
    return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
