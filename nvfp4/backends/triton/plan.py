"""Which tile a product takes, and how many programs share one's columns: by sizes and the GPU, without measuring."""

from __future__ import annotations

from typing import NamedTuple

from nvfp4.tuning import Problem

__all__ = [
    "FEW",
    "WORKSPACE_BYTES",
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
        """Whether products of 16 tokens and more are issued by a group of four warps, and a copy engine brings tokens.

        SM100's, which the multiprocessor issues, Triton 3.6 compiles to a trap where tiles have 128 tokens.
        """
        return self.capability[0] == 9

    @property
    def has_early_launch(self) -> bool:
        """Whether a kernel may be launched before the one ahead of it has ended, and wait where it needs to."""
        return self.capability[0] >= 9


class Tile(NamedTuple):
    """A tile of `64 * panels` rows by `tokens` tokens, 128 columns an iteration.

    `copied`: tokens come by the copy engine, where there are warpgroups.
    """

    panels: int
    tokens: int
    stages: int
    warps: int
    copied: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether a multiprocessor has one program of it at a time, and several share the last tiles."""
        return self.tokens > FEW

    @property
    def shared_bytes(self) -> int:
        """Of operands that wait in shared memory, and barriers; products of a warpgroup read tokens a stage longer."""
        return self.stages * 256 * self.tokens + (self.stages - 1) * self.panels * 4608 + 64

    def smaller(self, limit: int) -> Tile:
        """The same with fewer stages, and then fewer tokens, until it fits into shared memory."""
        tile = self
        while tile.shared_bytes > limit:
            if tile.stages > 2:
                tile = tile._replace(stages=tile.stages - 1)
            elif tile.tokens > 16:
                tile = tile._replace(tokens=tile.tokens // 2)
            else:
                return tile._replace(stages=1)
        return tile


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
        route: ``fused``; or ``library``, by the weight's numbers in memory and cuBLAS.
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
        return f"{64 * t.panels}x{t.tokens}x128, {t.stages} stages, {t.warps} warps{shared}"


_TILES = (
    Tile(1, 8, 4, 4),
    Tile(2, 16, 4, 4),
    Tile(2, 32, 4, 4, copied=True),
    Tile(2, 64, 3, 4, copied=True),
    Tile(1, 128, 3, 4, copied=True),
    Tile(2, 256, 3, 8, copied=True),
)
"""Measured best on an H100 (`docs/triton.md`), each for up to as many tokens."""

_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
FEW = 128
"""Tokens, up to which sums are split the same way for each power of two of them."""

_LAUNCH = 1.5  # units' time that starting and ending a program takes

# Times in that of cuBLAS's product of the same sizes, from measurements on an H100 and an H200; of few tokens in that
# of reading the weight.
_FUSED = 1.15
_LIBRARY = 1.06
_SUMS = 571.0  # over the columns: float32 sums to memory and back
_WAITING = 0.2  # of memory, where a multiprocessor has half of the four panels that keep it busy
_FEW_SUMS = 11.0  # over the columns, for each token and split, where the product takes the time of reading the weight
_UNPACKING = 263.0  # over the tokens: the weight's numbers to memory
_ANOTHER = 2e7  # over the weight's numbers: another kernel, which adds and finishes the sums

# Of many tokens in that of the largest tile: one of 128 tokens alone on a multiprocessor, and of several there each.
_ONE, _EACH = 0.42, 0.34
_PART, _FINISH = 7.6, 350.0  # over the columns: a part's sums to memory and back, and the kernel that adds them


def units_of(k: int) -> int:
    """Units of 256 columns."""
    return -(-k // 256)


def _waves(programs: int, processors: int, resident: int) -> float:
    """How much longer programs take than on a GPU that they fill.

    `resident` of them share a multiprocessor; where all do at once, the one with the most of them is waited for.
    """
    slots = processors * (resident if programs > processors * resident else 1)
    return -(-programs // slots) * slots / programs


def _time_of_rest(rest: int, parts: int, columns: int, processors: int) -> float:
    """Of the last tiles in that of one, with that of writing, reading and adding parts' sums."""
    return -(-rest * parts // processors) / parts + (parts > 1) * (_PART * rest * parts + _FINISH) / columns


def shared_tiles(tiles: int, columns: int, gpu: Gpu) -> Shared:
    """Those that are to be shared, some units of columns each, so that the last ones take all multiprocessors."""
    rest = tiles % gpu.processors
    times = {parts: _time_of_rest(rest, parts, columns, gpu.processors) for parts in range(1, 9)}
    parts = min(times, key=times.__getitem__)
    each = 256 * units_of(-(-columns // parts))
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
    shared = shared_tiles(tiles, 256 * units, gpu)
    if not alike:
        return 1, shared
    return (shared.parts, Shared(0, 1, shared.columns)) if shared.tiles == tiles else (1, none)


def _time_of_many(problem: Problem, tile: Tile, splits: int, gpu: Gpu) -> float:
    """Of a fused product of many tokens in the time of the largest tile, where there are warpgroups."""
    units, largest = units_of(problem.k), _TILES[-1]
    programs = -(-problem.n // (64 * tile.panels)) * -(-problem.m // tile.tokens) * splits
    if tile.is_alone:
        shared = shared_tiles(programs, 256 * units, gpu)
        whole = (programs - shared.tiles) // gpu.processors
        time = whole + _time_of_rest(programs - whole * gpu.processors, shared.parts, 256 * units, gpu.processors)
    else:
        time = -(-units // splits) / units * max(_ONE, _EACH * -(-programs // gpu.processors))
        sums = _PART * programs * tile.panels * tile.tokens / (largest.panels * largest.tokens) + _FINISH
        time += (splits > 1) * sums / (256 * units)
    return time


def tile_for(tokens: int, gpu: Gpu) -> Tile:
    """Of the fused product of as many tokens.

    Where products are a warp's own, larger tiles would not leave registers for the rest.
    """
    most = _TILES[-1].tokens if gpu.has_warpgroups else 64
    return next(tile for tile in _TILES if tile.tokens >= min(tokens, most)).smaller(gpu.shared_bytes)


def few(tokens: int) -> int:
    """Up to `FEW` tokens, the power of two of them, from 8 on, with which they share how columns are split."""
    return max(8, 1 << (tokens - 1).bit_length())


def _fused_time(problem: Problem, tile: Tile, splits: int, gpu: Gpu) -> float:
    """In the time of cuBLAS; of few tokens in that of reading the weight."""
    units = units_of(problem.k)
    tiles = -(-problem.n // (64 * tile.panels)) * -(-problem.m // tile.tokens)
    each = -(-units // splits)
    # What programs of one multiprocessor share is memory, which waits, or of more tokens tensor cores, which do not.
    most = min(gpu.shared_bytes // tile.shared_bytes, 16 // tile.warps, 128 // tile.tokens)
    resident = max(1, most) if problem.m <= 64 else 1
    spent = _waves(tiles * splits, gpu.processors, resident) * (each + _LAUNCH) * splits / units
    if problem.m <= 64:
        spent *= 1 + _WAITING * max(0.0, 4 * gpu.processors / (tiles * splits * tile.panels) - 1)
    sums = _SUMS * (splits + 1) / 2 if problem.m > FEW else _FEW_SUMS * splits * problem.m
    return _FUSED * spent + (splits > 1) * (sums / problem.k + _ANOTHER / (problem.n * problem.k))


def _library_time(problem: Problem) -> float:
    """By the weight's numbers in memory, in the time of cuBLAS's product alone."""
    return _LIBRARY + _SUMS / problem.k + _UNPACKING / problem.m


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
    time_of = _time_of_many if problem.m > FEW and gpu.has_warpgroups else _fused_time
    times = {how: time_of(problem, how.tile, how.splits, gpu) for how in _fused_plans(problem, gpu)}
    fused = min(times, key=times.__getitem__)
    if problem.m > FEW and not gpu.has_warpgroups:
        slow = problem.m / fused.tile.tokens  # as often the weight is unpacked again
        if _library_time(problem) < times[fused] * slow:
            return Plan(tile_for(problem.m, gpu), 1, "library")
    return fused


def candidates(problem: Problem, gpu: Gpu) -> dict[str, Plan]:
    """Plans worth timing, by name."""
    plans = _fused_plans(problem, gpu)
    if problem.m > FEW:
        plans.append(Plan(tile_for(problem.m, gpu), 1, "library"))
    return {str(plan): plan for plan in plans}
