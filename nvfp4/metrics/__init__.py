"""How far a quantised model is from its reference: perplexity, KL divergence and top-1 agreement."""

from nvfp4.metrics.divergence import PositionStatistics, position_statistics
from nvfp4.metrics.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "PositionStatistics", "evaluate", "position_statistics"]
