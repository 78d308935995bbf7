"""The SM120 cost model against timings that others have published, and what it predicts for Gemma-4-31B's MLP.

``python bench/sm120_model.py`` prints both tables. All about our own kernels is *predicted*: no SM120 was at hand.
"""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

from nvfp4 import _C

dispatch = _C.dispatch
PUBLISHED = Path(__file__).parent / "results" / "sm120-published.csv"

# SMs; clock under load (5090: its boost clock; PRO 6000: between 1.95 GHz, seen under a tensor burn at 600 W, and its
# boost of 2.6 GHz); nominal bandwidth.
GPUS = {
    "5090": dispatch.Gpu(170, 2.4e9, 1.792e12),
    "PRO 6000": dispatch.Gpu(188, 2.3e9, 1.792e12),
    "PRO 6000 Server": dispatch.Gpu(188, 2.3e9, 1.6e12),
}
GEMMA = {"gate_up": (43008, 5376), "down": (5376, 21504)}


def published() -> list[tuple[dict[str, str], float]]:
    """Every published timing and the model's, in microseconds, for a kernel that makes whole tiles only."""
    rows = []
    with PUBLISHED.open() as file:
        for row in csv.DictReader(file):
            m, n, k = (int(row[name]) for name in ("m", "n", "k"))
            gpu = GPUS[row["card"]]
            shape = dispatch.sm120_shapes().index(row["shape"])
            tiles = -(-n // 128) * -(-m // 128)
            plan = dispatch.Sm120Plan(shape, min(gpu.sms, tiles), tiles, 1)
            rows.append((row, dispatch.sm120_predict(plan, m, n, k, gpu).seconds * 1e6))
    return rows


def median_error() -> float:
    """Of the model against the published timings, as a fraction."""
    return statistics.median(abs(predicted / float(row["microseconds"]) - 1) for row, predicted in published())


def main() -> None:
    print("| who | card | M x N x K | published, us | predicted, us | |\n|---|---|---|---|---|---|")
    for row, predicted in published():
        measured = float(row["microseconds"])
        size = f"{row['m']} x {row['n']} x {row['k']}"
        error = f"{100 * (predicted / measured - 1):+.0f} %"
        print(f"| {row['who']} | {row['card']} | {size} | {measured:.1f} | {predicted:.1f} | {error} |")
    print(f"\n{len(published())} timings, median error {100 * median_error():.0f} %\n")
    print("| | M | card | kernel | predicted, us | bound | of the bound |\n|---|---|---|---|---|---|---|")
    for name, (n, k) in GEMMA.items():
        for m in (1, 8, 32, 128, 256, 512, 2048, 8192):
            for card in ("PRO 6000", "5090"):
                gpu = GPUS[card]
                plan = dispatch.sm120_choose(m, n, k, gpu)
                memory = (n * k * 0.5625 + m * (k * 0.5625 + 2 * n)) / gpu.bandwidth
                multiply = m * n * k / (2048 * gpu.sms * gpu.clock)
                share = max(memory, multiply) / plan.seconds
                time = f"{plan.seconds * 1e6:.0f}"
                print(f"| {name} | {m} | {card} | {plan.name} | {time} | {plan.bound} | {100 * share:.0f} % |")


if __name__ == "__main__":
    main()
