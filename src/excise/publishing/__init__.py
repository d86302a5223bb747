"""Publishing: the model card of a run, and what goes to the Hugging Face Hub."""

from excise.publishing.card import card_of
from excise.publishing.push import Staged, check_login, staged, upload

__all__ = ["Staged", "card_of", "check_login", "staged", "upload"]
