"""Which tile a product takes, and how many programs share one's columns: by sizes and the GPU, without measuring."""

from __future__ import annotations

from typing import NamedTuple

from nvfp4.tuning import Problem

__all__ = [
    "DENSE",
    "FEW",
    "WORKSPACE_BYTES",
    "DenseTile",
    "Gpu",
    "Plan",
    "Shared",
    "Tile",
    "candidates",
    "choose",
    "cut_of",
    "few",
    "shared_tiles",
    "tile_for",
    "units_of",
]


class Gpu(NamedTuple):
    """What of a GPU the choice depends on.

    Attributes:
        capability: of computing, such as (9, 0).
        processors: multiprocessors.
        shared_bytes: shared memory that a program may have.
    """

    capability: tuple[int, int]
    processors: int
    shared_bytes: int

    @property
    def has_warpgroups(self) -> bool:
        """Whether products are issued by a group of four warps.

        SM100's, which the multiprocessor issues, Triton 3.6 compiles to a trap where tiles have 128 tokens.
        """
        return self.capability[0] == 9

    @property
    def has_early_launch(self) -> bool:
        """Whether a kernel may be launched before the one ahead of it has ended, and wait where it needs to."""
        return self.capability[0] >= 9

    @property
    def has_copy_engine(self) -> bool:
        """Whether tensors are copied by descriptors; on SM120 that would take more registers than it saves time."""
        return self.capability[0] in (9, 10)


class Tile(NamedTuple):
    """A tile of `64 * panels` rows by `tokens` tokens, `64 * steps` columns an iteration.

    `copied`: tokens come by the copy engine, where there is one.
    """

    panels: int
    tokens: int
    steps: int
    stages: int
    warps: int
    copied: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether a multiprocessor has one program of it at a time, and several share the last tiles."""
        return self.tokens > FEW

    @property
    def shared_bytes(self) -> int:
        """Of operands that wait in shared memory; the products of a warpgroup read tokens there a stage longer."""
        return self.steps * (self.stages * 128 * self.tokens + (self.stages - 1) * self.panels * 2304)

    def smaller(self, limit: int) -> Tile:
        """The same with fewer stages, and then fewer columns, until it fits into shared memory."""
        tile = self
        while tile.shared_bytes > limit:
            if tile.stages > 2:
                tile = tile._replace(stages=tile.stages - 1)
            elif tile.steps > 2:
                tile = tile._replace(steps=2)
            elif tile.tokens > 16:
                tile = tile._replace(tokens=tile.tokens // 2)
            else:
                return tile._replace(stages=1)
        return tile


class DenseTile(NamedTuple):
    """A tile of a product whose operands both are in memory."""

    tokens: int
    rows: int
    columns: int
    stages: int
    warps: int


DENSE = DenseTile(128, 256, 64, 3, 8)


class Shared(NamedTuple):
    """Tiles that several programs share, `columns` each.

    Attributes:
        tiles: the last ones.
        parts: programs of one.
        columns: of a part.
    """

    tiles: int
    parts: int
    columns: int


WORKSPACE_BYTES = 512 << 20
"""Most that a weight's numbers, or the sums of programs that share a tile, take in memory at many tokens."""


class Plan(NamedTuple):
    """How a product runs.

    Attributes:
        tile: of the fused product.
        splits: programs that share every tile's columns.
        route: ``fused``; ``dense``, by the weight's numbers in memory; or ``library``, the same by cuBLAS.
    """

    tile: Tile
    splits: int
    route: str = "fused"

    @property
    def shares_last_tiles(self) -> bool:
        """Whether several programs of a fused product share the last tiles, and only those."""
        return self.route == "fused" and self.tile.is_alone and self.splits == 1

    def __str__(self) -> str:
        """As `explain` and the benchmarks show it."""
        if self.route != "fused":
            return self.route
        t = self.tile
        shared = f", columns in {self.splits} parts" if self.splits > 1 else ""
        if self.shares_last_tiles:
            shared = ", last tiles shared"
        return f"{64 * t.panels}x{t.tokens}x{64 * t.steps}, {t.stages} stages, {t.warps} warps{shared}"


_TILES = (
    Tile(2, 8, 4, 3, 4),
    Tile(2, 16, 4, 3, 4),
    Tile(2, 32, 4, 3, 4),
    Tile(2, 64, 2, 3, 4),
    Tile(2, 256, 2, 3, 8, copied=True),
)
"""Measured best on an H200 and an H100 (`docs/triton.md`), each for up to as many tokens, that of 64 up to `FEW`."""

_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
FEW = 128
"""Tokens, up to which sums are split the same way for each power of two of them."""

_UNPACKED = 768
"""Tokens, up to which a fused product was the fastest of all weights that were measured, from 512 to 43008 rows."""

_LAUNCH = 1.5  # units' time that starting and ending a program takes

# Times in that of cuBLAS's product of the same sizes, from measurements on an H200 and an H100.
_FUSED = 1.15
_ALONE = 1.2  # where a multiprocessor has one program at a time
_ONE, _EACH = 0.42, 0.3  # in a tile's time, one of 64 tokens that is alone all the same, and of several each
_DENSE = 1.0
_LIBRARY = 1.06
_SUMS = 571.0  # over the columns: float32 sums to memory and back
_FEW_SUMS = 11.0  # over the columns, for each token and split, where the product takes the time of reading the weight
_PART, _FINISH = 7.6, 350.0  # over the columns, in a tile's time: a part's sums to memory and back, and their kernel
_UNPACKING = 263.0  # over the tokens: the weight's numbers to memory
_ANOTHER = 2e7  # over the weight's numbers: another kernel, which adds and finishes the sums


def units_of(k: int) -> int:
    """Units of 256 columns."""
    return -(-k // 256)


def _waves(programs: int, slots: int) -> float:
    """How much longer programs take than on a GPU that they fill."""
    return -(-programs // slots) * slots / programs


def _time_of_rest(rest: int, parts: int, columns: int, processors: int) -> float:
    """Of the last tiles in that of one, with that of writing, reading and adding parts' sums."""
    return -(-rest * parts // processors) / parts + (parts > 1) * (_PART * rest * parts + _FINISH) / columns


def shared_tiles(tiles: int, columns: int, step: int, gpu: Gpu) -> Shared:
    """Those that are to be shared, some steps of columns each, so that the last ones take all multiprocessors."""
    rest = tiles % gpu.processors
    times = {parts: _time_of_rest(rest, parts, columns, gpu.processors) for parts in range(1, 9)}
    parts = min(times, key=times.__getitem__)
    each = -(-columns // (parts * step)) * step
    parts = -(-columns // each)
    return Shared(rest if parts > 1 else 0, parts, each)


def cut_of(how: Plan, tiles: int, units: int, alike: bool, gpu: Gpu) -> tuple[int, Shared]:
    """Programs that share every tile's columns, and how the last tiles are shared, of a fused product.

    alike: all tiles have to be cut the same way.
    """
    each = -(-units // how.splits)
    splits, none = -(-units // each), Shared(0, 1, 256 * each)
    if not how.shares_last_tiles:
        return splits, none
    shared = shared_tiles(tiles, 256 * units, 256, gpu)
    if not alike:
        return 1, shared
    return (shared.parts, Shared(0, 1, shared.columns)) if shared.tiles == tiles else (1, none)


def _time_of_tiles(tiles: int, columns: int, step: int, gpu: Gpu) -> float:
    """In that of one, with the last ones shared."""
    shared = shared_tiles(tiles, columns, step, gpu)
    whole = (tiles - shared.tiles) // gpu.processors
    rest = tiles - whole * gpu.processors
    return whole + _time_of_rest(rest, shared.parts, columns, gpu.processors)


def _time_of_many(problem: Problem, tile: Tile, splits: int, gpu: Gpu) -> float:
    """Of a fused product of many tokens in the time of cuBLAS, where products are a group of four warps'."""
    units, largest = units_of(problem.k), _TILES[-1]
    whole = -(-problem.n // (64 * largest.panels)) * -(-problem.m // largest.tokens)
    if tile.is_alone:
        time = _time_of_tiles(whole, 256 * units, 256, gpu)
    else:
        programs = -(-problem.n // (64 * tile.panels)) * -(-problem.m // tile.tokens) * splits
        time = -(-units // splits) / units * max(_ONE, _EACH * -(-programs // gpu.processors))
        sums = _PART * programs * tile.panels * tile.tokens / (largest.panels * largest.tokens) + _FINISH
        time += (splits > 1) * sums / (256 * units)
    return _ALONE * time * gpu.processors / whole * (1 + _LAUNCH / units)


def tile_for(tokens: int, gpu: Gpu) -> Tile:
    """Of the fused product of as many tokens.

    Where products are a warp's own, larger tiles would not leave registers for the rest.
    """
    if tokens > FEW and gpu.has_warpgroups:
        tile = _TILES[-1]
    else:
        tile = next(tile for tile in _TILES if tile.tokens >= min(tokens, 64))
    return tile.smaller(gpu.shared_bytes)


def few(tokens: int) -> int:
    """Up to `FEW` tokens, the power of two of them, from 8 on, with which they share how columns are split."""
    return max(8, 1 << (tokens - 1).bit_length())


def _fused_time(problem: Problem, tile: Tile, splits: int, gpu: Gpu) -> float:
    """In the time of cuBLAS; of few tokens in that of reading the weight."""
    if problem.m > FEW and gpu.has_warpgroups:
        return _time_of_many(problem, tile, splits, gpu)
    units = units_of(problem.k)
    tiles = -(-problem.n // (64 * tile.panels)) * -(-problem.m // tile.tokens)
    each = -(-units // splits)
    # What programs of one multiprocessor share is memory, which waits, or of more tokens tensor cores, which do not.
    most = min(gpu.shared_bytes // tile.shared_bytes, 16 // tile.warps, 128 // tile.tokens)
    resident = max(1, most) if problem.m <= 64 else 1
    spent = _waves(tiles * splits, gpu.processors * resident) * (each + _LAUNCH) * splits / units
    sums = _SUMS * (splits + 1) / 2 if problem.m > FEW else _FEW_SUMS * splits * problem.m
    return _FUSED * spent + (splits > 1) * (sums / problem.k + _ANOTHER / (problem.n * problem.k))


def _by_memory(problem: Problem, gpu: Gpu) -> dict[str, float]:
    """Times of the two routes by the weight's numbers in memory."""
    unpacking = _UNPACKING / problem.m
    times = {"library": _LIBRARY + _SUMS / problem.k + unpacking}
    if gpu.has_copy_engine:
        tiles = -(-problem.m // DENSE.tokens) * -(-problem.n // DENSE.rows)
        columns = 256 * units_of(problem.k)
        times["dense"] = (
            _DENSE * _time_of_tiles(tiles, columns, DENSE.columns, gpu) * gpu.processors / tiles + unpacking
        )
    return times


def _splits_of(problem: Problem, tile: Tile) -> list[int]:
    most = 1 if tile.is_alone else units_of(problem.k)
    if problem.m > FEW:
        most = min(most, max(1, WORKSPACE_BYTES // (4 * problem.m * problem.n)))
    return [splits for splits in _SPLITS if splits <= most]


def _fused_plans(problem: Problem, gpu: Gpu) -> list[Plan]:
    """Those worth considering: of many tokens also by the tile of fewer, of which a small weight has enough."""
    tiles = {tile_for(problem.m, gpu), tile_for(min(problem.m, FEW), gpu)}
    return [Plan(tile, splits) for tile in sorted(tiles, reverse=True) for splits in _splits_of(problem, tile)]


def choose(problem: Problem, gpu: Gpu) -> Plan:
    """The plan with the least predicted time.

    Up to 128 tokens a power of two of them has the same plan, so that a token's result depends on how many others there
    are only through it.
    """
    if problem.m <= FEW:
        problem = problem._replace(m=few(problem.m))
    times = {how: _fused_time(problem, how.tile, how.splits, gpu) for how in _fused_plans(problem, gpu)}
    fused = min(times, key=times.__getitem__)
    if problem.m > (_UNPACKED if gpu.has_warpgroups else FEW):
        slow = 1.0 if gpu.has_warpgroups else problem.m / fused.tile.tokens  # as often the weight is unpacked again
        others = _by_memory(problem, gpu)
        route = min(others, key=others.__getitem__)
        if others[route] < times[fused] * slow:
            return Plan(tile_for(problem.m, gpu), 1, route)
    return fused


def candidates(problem: Problem, gpu: Gpu) -> dict[str, Plan]:
    """Plans worth timing, by name."""
    plans = _fused_plans(problem, gpu)
    if problem.m > FEW:
        plans += [Plan(tile_for(problem.m, gpu), 1, route) for route in _by_memory(problem, gpu)]
    return {str(plan): plan for plan in plans}
