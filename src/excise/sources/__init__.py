"""Every file that the project can download: where it is, what it must contain, who made it.

No dataset is shipped; `fetch` finds a file and checks its content.
"""

from excise.sources import bbq, bold, crows_pairs, glue, honest, stereoset, toxicity, winobias
from excise.sources.bbq import BBQ, BBQ_METADATA
from excise.sources.files import Source, fetch, find

__all__ = ["BBQ", "BBQ_METADATA", "SOURCES", "Source", "fetch", "find"]

SOURCES: tuple[Source, ...] = (
    *bbq.ENTRIES,  # one line per family
    *glue.ENTRIES,
    *stereoset.ENTRIES,
    *crows_pairs.ENTRIES,
    *winobias.ENTRIES,
    *honest.ENTRIES,
    *toxicity.ENTRIES,
    *bold.ENTRIES,
)
"""Every downloadable file."""
