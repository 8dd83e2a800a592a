"""How a run is spread over processes. docs/distributed.md explains every key."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

from timeexpert.config import ConfigError


@dataclass(frozen=True)
class Degrees:
    """A layout of ``data * shard`` ranks.

    ``shard`` ranks in a row hold one copy of everything but the experts, there are ``data`` such copies. ``expert``
    ranks in a row hold one copy of the experts. Each rank's experts are sharded further over ``expert_shard`` ranks,
    and there are ``expert_data`` copies: ``expert_data * expert_shard * expert`` is the number of ranks as well.
    """

    data: int = 1
    shard: int = 1
    expert: int = 1

    @property
    def ranks(self) -> int:
        """Number of processes."""
        return self.data * self.shard

    @property
    def expert_shard(self) -> int:
        """Ranks that share the rows of one expert-parallel rank."""
        return max(1, self.shard // self.expert)

    @property
    def expert_data(self) -> int:
        """Copies of the experts."""
        return self.ranks // (self.expert_shard * self.expert)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Engine, dispatcher and degrees.

    ``engine``: ``torch`` (FSDP2 and our dispatcher), or ``deepspeed``: every rank trains a copy, and ZeRO of stage
    ``zero`` shares moments (1), gradients too (2), weights too (3); ``offload`` keeps moments, and at stage 3 weights,
    in host memory.

    ``data``: copies of the model, ``shard``: ranks that share one copy (FSDP2); together they are all ranks, and
    None is what is left of them (both None: one copy, sharded over all). ``expert``: ranks that share the experts;
    None: as many ranks of one node as divide both the slots and the shard group. ``timeout_s``: seconds after which
    a collective that some rank does not join is given up.
    """

    engine: Literal["torch", "deepspeed"] = "torch"
    zero: int | None = None
    offload: bool = False
    dispatcher: Literal["auto", "local", "all_to_all"] = "auto"
    data: int | None = None
    shard: int | None = None
    expert: int | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("data", "shard", "expert"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} ({value}) must be 1 or more, or null.")
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s ({self.timeout_s}) must be positive.")
        self._check_engine()

    def _check_engine(self) -> None:
        if self.engine == "torch":
            for name, value in (("zero", self.zero), ("offload", self.offload)):
                if value:
                    raise ConfigError(
                        f"{name} ({value}) is DeepSpeed's, but engine is 'torch'. Leave it out, or set engine: "
                        "deepspeed."
                    )
            return
        if self.zero not in (1, 2, 3):
            raise ConfigError(f"zero ({self.zero}) must be 1, 2 or 3 with engine 'deepspeed'. Set zero: 2.")
        for name, value in (("expert", self.expert), ("shard", self.shard)):
            if value is not None and value > 1:
                raise ConfigError(
                    f"{name} ({value}) must be 1 or null with engine 'deepspeed', which shares by ZeRO (zero: "
                    f"{self.zero}) over all ranks. Set {name}: null, or engine: torch."
                )
        if self.dispatcher == "all_to_all":
            raise ConfigError(
                "dispatcher ('all_to_all') is for experts on other ranks, which engine 'deepspeed' does not have. Set "
                "dispatcher: auto, or engine: torch."
            )

    def degrees(self, ranks: int, slots: int, ranks_per_node: int | None = None) -> Degrees:
        """The layout of ``ranks`` processes for layers of ``slots`` expert slots.

        Raises :class:`ConfigError` that names the nearest degree that works.
        """
        if self.engine == "deepspeed":
            if self.data not in (None, ranks):
                raise ConfigError(
                    f"parallel.data ({self.data}) is not the number of ranks ({ranks}), each of which trains a copy "
                    f"with parallel.engine 'deepspeed'. Set parallel.data to null, or start {self.data} ranks."
                )
            return Degrees(data=ranks)
        data, shard = self._dense(ranks)
        expert = self.expert
        if expert is None:
            node = ranks_per_node or ranks
            expert = 1 if self.dispatcher == "local" else gcd(slots, gcd(shard if shard > 1 else data, node))
        self._check_expert(expert, data, shard, slots)
        if self.dispatcher == "local" and expert > 1:
            raise ConfigError(
                f"parallel.dispatcher is 'local', but parallel.expert ({expert}) puts experts on other ranks. "
                "Set parallel.dispatcher to 'all_to_all', or parallel.expert to 1."
            )
        return Degrees(data, shard, expert)

    def _dense(self, ranks: int) -> tuple[int, int]:
        for name, other in (("data", "shard"), ("shard", "data")):
            value = getattr(self, name)
            if value is not None and ranks % value:
                raise ConfigError(
                    f"parallel.{name} ({value}) does not divide the number of ranks ({ranks}). "
                    f"Set parallel.{name} to {_nearest(value, divisors(ranks))}, or start {_multiple(ranks, value)} "
                    f"ranks; parallel.{other}: null takes what is left."
                )
        data, shard = self.data, self.shard
        if data is not None and shard is not None and data * shard != ranks:
            raise ConfigError(
                f"parallel.data ({data}) x parallel.shard ({shard}) is {data * shard}, but there are {ranks} ranks. "
                f"Set parallel.shard to {ranks // data}, or start {data * shard} ranks."
            )
        if data is None:
            data = 1 if shard is None else ranks // shard
        return data, ranks // data

    def _check_expert(self, expert: int, data: int, shard: int, slots: int) -> None:
        ranks = data * shard
        fits = [n for n in divisors(ranks) if slots % n == 0 and (shard % n == 0 or n % shard == 0 and ranks % n == 0)]
        if expert in fits:
            return
        if ranks % expert:
            rule = f"does not divide the number of ranks ({ranks})"
        elif slots % expert:
            rule = f"does not divide the expert slots of a layer (model.moe.max_experts or num_experts: {slots})"
        else:
            rule = f"is neither a divisor nor a multiple of parallel.shard ({shard})"
        raise ConfigError(
            f"parallel.expert ({expert}) {rule}. Set parallel.expert to {_nearest(expert, fits)}; "
            f"{', '.join(map(str, fits))} would fit."
        )


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def _nearest(value: int, options: list[int]) -> int:
    return min(options, key=lambda option: abs(option - value))


def _multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)
