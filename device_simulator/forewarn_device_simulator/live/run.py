"""`forewarn-sim run`: one live run, from its options to its end."""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

from forewarn_device_simulator.live.begin import BrokerAddress, begin_run
from forewarn_device_simulator.live.fleet import LiveFleet
from forewarn_device_simulator.live.player import Played, Player, window_samples
from forewarn_device_simulator.live.state import only_run
from forewarn_device_simulator.live.truth import TruthFile
from forewarn_device_simulator.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Options:
    broker: BrokerAddress
    client_id: str
    reconnect_max_seconds: float
    state_path: Path
    truth_path: Path | None = None
    seed: int | None = None
    rate: float | None = None
    begin_ms: int | None = None


def run_live(scenario: Scenario, options: Options) -> Played:
    """Play until the scenario ends, or SIGTERM or SIGINT: then to the end of the window under way.

    Raises:
        ScenarioError, StateError, BeginError: the run cannot begin; nothing was changed.
    """
    with only_run(options.state_path):
        begun = begin_run(scenario, options.state_path, seed=options.seed, rate=options.rate, begin_ms=options.begin_ms)
        player = Player(
            LiveFleet(scenario, begun.state.seed, begun.state.start_ms, begun.state.repairs),
            begun.state,
            state_path=options.state_path,
            truth=TruthFile(options.truth_path) if options.truth_path else None,
            clock=begun.clock,
            window=window_samples(scenario.interval_ms, begun.clock.timebase.rate),
        )
        return asyncio.run(_play(player, options))


async def _play(player: Player, options: Options) -> Played:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, player.stop)
    return await player.play(
        options.broker, client_id=options.client_id, reconnect_max_seconds=options.reconnect_max_seconds
    )
