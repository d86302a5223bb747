"""What a run will cost: prompts, tokens, passes, FLOPs, memory, disk, and time where measured."""

from excise.forecast.costs import Forecast, forecast
from excise.forecast.counting import Stage, stages
from excise.forecast.shapes import SHAPES, shaped
from excise.forecast.speed import Speed, measured_speed

__all__ = ["SHAPES", "Forecast", "Speed", "Stage", "forecast", "measured_speed", "shaped", "stages"]
