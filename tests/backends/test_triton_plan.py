"""The choice of a tile and a route for Triton's products, for GPUs that are not here."""

from __future__ import annotations

import pytest

from nvfp4.backends.triton import plan
from nvfp4.tuning import Problem

H200 = plan.Gpu((9, 0), 132, 232448)
GATE_UP, DOWN = (43008, 5376), (5376, 21504)


def test_plans_fit_and_are_candidates() -> None:
    for gpu in (H200, plan.Gpu((8, 6), 82, 101376), plan.Gpu((7, 5), 40, 65536)):
        for n, k in ((43008, 5376), (5376, 21504), (64, 256), (48, 16), (1 << 18, 256)):
            for m in (1, 8, 9, 16, 33, 64, 65, 128, 129, 256, 257, 1024, 8192):
                how = plan.choose(Problem(m, n, k), gpu)
                assert how.tile.shared_bytes <= gpu.shared_bytes
                assert str(how) in plan.candidates(Problem(m, n, k), gpu)
                assert how.route == "fused" or (m > plan.FEW and not gpu.has_warpgroups)


@pytest.mark.parametrize(
    ("m", "weight", "how"),
    [
        (1, GATE_UP, "64x8x128, 4 stages, 4 warps, columns in 3 parts"),
        (16, GATE_UP, "128x16x128, 4 stages, 4 warps"),
        (16, DOWN, "128x16x128, 4 stages, 4 warps, columns in 6 parts"),
        (32, GATE_UP, "128x32x128, 4 stages, 4 warps"),
        (64, DOWN, "128x64x128, 3 stages, 4 warps, columns in 6 parts"),
        (128, GATE_UP, "64x128x128, 3 stages, 4 warps"),
        (128, DOWN, "64x128x128, 3 stages, 4 warps, columns in 3 parts"),
        (256, (512, 8192), "64x128x128, 3 stages, 4 warps, columns in 8 parts"),
        (256, (4096, 4096), "64x128x128, 3 stages, 4 warps"),
        (256, GATE_UP, "128x256x128, 3 stages, 8 warps, last tiles shared"),
        (8192, DOWN, "128x256x128, 3 stages, 8 warps, last tiles shared"),
    ],
)
def test_the_choice_on_an_h200(m: int, weight: tuple[int, int], how: str) -> None:
    assert str(plan.choose(Problem(m, *weight), H200)) == how


def test_without_warpgroups_cublas_has_many_tokens() -> None:
    assert str(plan.choose(Problem(2048, *DOWN), plan.Gpu((8, 0), 108, 166912))) == "library"


def test_few_tokens_are_split_the_same_way_however_many_they_are() -> None:
    for low, high in ((1, 8), (9, 16), (17, 32), (33, 64), (65, 128)):
        assert len({plan.choose(Problem(m, *DOWN), H200) for m in range(low, high + 1)}) == 1


def test_the_last_tiles_of_a_product_are_shared() -> None:
    shared = plan.shared_tiles(168, 21504, H200)
    assert shared == plan.Shared(tiles=36, parts=3, columns=7168)
    for tiles in (1, 4, 131, 132, 133, 200, 263, 264, 1000):
        for columns in (256, 512, 1280, 5376, 21504):
            shared = plan.shared_tiles(tiles, columns, H200)
            assert shared.tiles in (0, tiles % 132)
            assert (shared.tiles == 0) == (shared.parts == 1)
            assert shared.columns % 256 == 0
            assert (shared.parts - 1) * shared.columns < columns <= shared.parts * shared.columns


def test_all_tiles_are_cut_alike_where_they_have_to_be() -> None:
    """Of a weight with a global scale a row, or of float32 tokens; they fill a GPU all the same."""
    alone = plan.Plan(plan.tile_for(256, H200), 1)
    splits, shared = plan.cut_of(alone, 42, 84, True, H200)
    assert (splits, shared) == (3, plan.Shared(tiles=0, parts=1, columns=7168))
    assert plan.cut_of(alone, 42, 84, False, H200) == (1, plan.Shared(tiles=42, parts=3, columns=7168))
    assert plan.cut_of(alone, 168, 84, True, H200) == (1, plan.Shared(tiles=0, parts=1, columns=21504))
    few = plan.Plan(plan.tile_for(16, H200), 8)
    for alike in (False, True):
        assert plan.cut_of(few, 42, 84, alike, H200) == (8, plan.Shared(tiles=0, parts=1, columns=11 * 256))


def test_where_a_tile_is_too_large_it_gets_smaller() -> None:
    tile = plan.Tile(2, 64, 4, 4)
    assert tile.smaller(tile.shared_bytes) == tile
    limits = [100 << 10, 64 << 10, 48 << 10, 32 << 10, 20 << 10, 16 << 10, 1]
    smaller = [tile.smaller(limit) for limit in limits]
    assert [t.shared_bytes <= limit for t, limit in zip(smaller, limits, strict=True)] == [True] * 6 + [False]
    assert smaller[-1].tokens == 16
