"""Ask one state of a model: what does it choose, prefer, write or find likely?"""

from excise.evaluation.asking import ask
from excise.evaluation.choices import predict
from excise.evaluation.parts import ArrayJournal, Journal, parts

__all__ = ["ArrayJournal", "Journal", "ask", "parts", "predict"]
