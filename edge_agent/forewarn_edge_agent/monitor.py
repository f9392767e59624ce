"""The models at work: what each asset's telemetry means, and what someone should be told about it.

Pure but for the states it holds: no I/O, no clock. The same telemetry in the same order always gives the same states
and advisories, which is what makes it possible to bring them up to date from the spool after a crash.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_edge_agent.log import event
from forewarn_edge_agent.spool import AssetRow
from forewarn_models import wire
from forewarn_models.advisory import AdvisoryMemory, advise, advise_silence
from forewarn_models.assessment import Assessment, Block, Condition, Maturity
from forewarn_models.asset_type import MAX_SIGNALS, AssetType, Signal, generic_asset_type
from forewarn_models.kernel import Model, Settings, State, StateError, assess, dump_state, load_state, new_state
from forewarn_models.kernel import reset_baseline as reset_state
from forewarn_models.kernel import set_clock_back as set_state_back
from forewarn_models.knowledge import FleetKnowledge

log = logging.getLogger(__name__)

_MEMORY: Final = msgspec.msgpack.Decoder(AdvisoryMemory)


@dataclass(kw_only=True, eq=False)
class _Watched:
    """One asset, a fleet of one for the kernel."""

    asset: str
    model: Model
    state: State
    memory: AdvisoryMemory | None = None
    condition: Condition = Condition.UNKNOWN
    maturity: Maturity = Maturity.LEARNING
    health_index: float | None = None
    last_ms: int = -1
    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What came of one record. `late` samples are older than what the asset's model has already seen; `fresh` says
    whether others were among them."""

    advisories: tuple[wire.Advisory, ...] = ()
    late: int = 0
    fresh: bool = False


class Monitor:
    """All assets of this agent.

    `asset_types`: the type of each asset, None where its first telemetry decides which signals it has; `rows`: what
    was kept of them; `knowledge`: what the fleet taught, of the assets that have a model. An asset whose model has
    changed since learns anew.
    """

    def __init__(
        self,
        asset_types: Mapping[str, AssetType | None],
        settings: Settings,
        rows: Iterable[AssetRow] = (),
        knowledge: Mapping[str, FleetKnowledge] = MappingProxyType({}),
    ) -> None:
        self._asset_types = dict(asset_types)
        self._settings = settings
        self._knowledge = knowledge
        self._watched: dict[str, _Watched] = {}
        self._changed: set[str] = set()
        self.restore(rows)

    def restore(self, rows: Iterable[AssetRow]) -> None:
        """Go on from what was kept."""
        for row in rows:
            if row.asset in self._asset_types:
                self._restore(row)

    def watches(self, asset: str) -> bool:
        return asset in self._asset_types

    def signals(self, asset: str) -> tuple[str, ...] | None:
        """The signals of an asset, None while they are not known yet."""
        asset_type = self._asset_types[asset]
        return None if asset_type is None else asset_type.signal_names

    def select(self, record: wire.Telemetry) -> tuple[wire.Telemetry | None, tuple[str, ...]]:
        """The record with the signals of its asset only, None if there are none; and the names that were left out."""
        if self._asset_types[record.asset] is None:
            self._asset_types[record.asset] = learned_type(record.signals)
            self._changed.add(record.asset)
        known = self.signals(record.asset) or ()
        signals = {name: record.signals[name] for name in known if name in record.signals}
        left_out = tuple(sorted(record.signals.keys() - signals.keys()))
        if not signals:
            return None, left_out
        return msgspec.structs.replace(record, signals=signals), left_out

    def observe(self, record: wire.Telemetry) -> Judgement:
        """Assess a record that `select` has let through."""
        watched = self._watch(record.asset)
        rows = _newer_rows(record.t_ms, watched.last_ms)
        late = len(record.t_ms) - len(rows)
        if not len(rows):
            return Judgement(late=late)
        block = _block(record, rows, watched.model.asset_type)
        assessment, state = assess(watched.model, watched.state, block)
        advisories, memory = advise(watched.model, watched.asset, 0, assessment, watched.memory)
        watched.state, watched.memory = state, memory
        _note(watched, assessment)
        self._changed.add(watched.asset)
        return Judgement(advisories=tuple(advisories), late=late, fresh=True)

    def reset_baseline(self, asset: str, at_ms: int) -> bool:
        """A repair: learn anew what is normal. False if the asset is not watched here."""
        if asset not in self._asset_types:
            return False
        if self._asset_types[asset] is not None:
            watched = self._watch(asset)
            watched.state = reset_state(watched.model, watched.state, 0, at_ms)
            self._changed.add(asset)
        return True

    def last_ms(self, asset: str) -> int:
        """The time of the newest sample, -1 if there was none."""
        return self._watched[asset].last_ms if asset in self._watched else -1

    def set_clock_back(self, asset: str, at_ms: int) -> None:
        """Samples after `at_ms` had a time from the future; what comes now is no longer late."""
        watched = self._watch(asset)
        watched.state = set_state_back(watched.state, 0, at_ms)
        watched.last_ms = min(watched.last_ms, at_ms)
        if (memory := watched.memory) is not None:
            told_ms, seen_ms = min(memory.told_ms, at_ms), min(memory.seen_ms, at_ms)
            watched.memory = msgspec.structs.replace(memory, told_ms=told_ms, seen_ms=seen_ms)
        self._changed.add(asset)

    def silent(self) -> frozenset[str]:
        """Assets of which was told that nothing is heard, and nothing since."""
        return frozenset(name for name, known in self._watched.items() if known.memory and known.memory.silent)

    def note_silence(self, asset: str, at_ms: int) -> wire.Advisory | None:
        """Nothing new is heard of an asset; what to tell of it, None if it never said anything or that was told."""
        watched = self._watched.get(asset)
        if watched is None or watched.memory is None or watched.memory.silent:
            return None
        health_index = 1.0 if watched.health_index is None else watched.health_index
        advisory, watched.memory = advise_silence(
            watched.model, asset, watched.memory, at_ms=at_ms, health_index=health_index
        )
        watched.condition = Condition.UNKNOWN
        self._changed.add(asset)
        return advisory

    def checkpoint(self) -> tuple[AssetRow, ...]:
        """The assets that changed since the last call."""
        rows = tuple(self._row(self._watch(asset)) for asset in sorted(self._changed))
        self._changed.clear()
        return rows

    def states(self) -> tuple[AssetRow, ...]:
        """All of them, changed or not."""
        return tuple(self._row(watched) for watched in self._watched.values())

    def _watch(self, asset: str) -> _Watched:
        if asset not in self._watched:
            asset_type = self._asset_types[asset]
            if asset_type is None:
                raise LookupError(f"the signals of {asset} are not known yet")
            model = Model(asset_type=asset_type, settings=self._settings, knowledge=self._knowledge.get(asset))
            self._watched[asset] = _Watched(asset=asset, model=model, state=new_state(model, 1))
        return self._watched[asset]

    def _restore(self, row: AssetRow) -> None:
        if self._asset_types[row.asset] is None:
            self._asset_types[row.asset] = learned_type(row.signals)
        watched = self._watch(row.asset)
        try:
            watched.state = load_state(watched.model, row.state)
            watched.memory = None if row.memory is None else _MEMORY.decode(row.memory)
        except (StateError, msgspec.DecodeError) as error:
            event(
                log, logging.WARNING, "baseline_lost", asset=row.asset, reason=error, consequence="it is learned anew"
            )
            return
        watched.condition, watched.maturity = Condition[row.condition], Maturity[row.maturity]
        watched.health_index, watched.last_ms, watched.samples = row.health_index, row.observed_at_ms, row.samples

    def _row(self, watched: _Watched) -> AssetRow:
        return AssetRow(
            asset=watched.asset,
            asset_type=watched.model.asset_type.asset_type,
            signals=watched.model.asset_type.signal_names,
            state=dump_state(watched.model, watched.state),
            memory=None if watched.memory is None else msgspec.msgpack.encode(watched.memory),
            condition=watched.condition.name,
            maturity=watched.maturity.name,
            health_index=watched.health_index,
            observed_at_ms=watched.last_ms,
            samples=watched.samples,
        )


def learned_type(names: Iterable[str]) -> AssetType:
    """The generic type of an asset that declared nothing: every name it sent first is a condition signal."""
    return generic_asset_type(tuple(Signal(name=name, unit="") for name in sorted(names)[:MAX_SIGNALS]))


def _newer_rows(t_ms: NDArray[np.int64], last_ms: int) -> NDArray[np.intp]:
    """Which samples are strictly newer than all before them; `t_ms` is sorted."""
    newer = np.diff(t_ms, prepend=last_ms) > 0
    newer[t_ms <= last_ms] = False
    return np.flatnonzero(newer)


def _block(record: wire.Telemetry, rows: NDArray[np.intp], asset_type: AssetType) -> Block:
    values = np.full((len(rows), 1, len(asset_type.signals)), np.nan)
    for k, name in enumerate(asset_type.signal_names):
        if name in record.signals:
            values[:, 0, k] = record.signals[name][rows]
    return Block(t_ms=record.t_ms[rows, None], values=values)


def _note(watched: _Watched, assessment: Assessment) -> None:
    watched.last_ms = int(assessment.t_ms[-1, 0])
    watched.samples += len(assessment.t_ms)
    watched.condition = Condition(int(assessment.condition[-1, 0]))
    watched.maturity = Maturity(int(assessment.maturity[-1, 0]))
    watched.health_index = float(assessment.health_index[-1, 0])
