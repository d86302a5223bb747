"""The files of MRPC, RTE and QNLI, three parts of GLUE.

GLUE is distributed as archives without a version; these are copies in public repositories, pinned
by commit. RTE's training part is left out: no public copy of the whole file is known to be pinned.
"""

from __future__ import annotations

from excise.sources.files import Source

NON_COMMERCIAL = "Microsoft Research Shared Source, non-commercial only"
"""MRPC's licence, which ships with the corpus."""
_UNSTATED = "none stated"

_GLUE = "as distributed with GLUE (Wang et al., ICLR 2019)"
_MRPC_CITATION = (
    "Dolan and Brockett (2005), Automatically Constructing a Corpus of Sentential Paraphrases, "
    f"IWP 2005; {_GLUE}"
)
_RTE_CITATION = (
    "Dagan et al. (2006), Bar Haim et al. (2006), Giampiccolo et al. (2007) and Bentivogli et al. "
    f"(2009), the PASCAL Recognising Textual Entailment challenges; {_GLUE}"
)
_QNLI_CITATION = (
    "Rajpurkar et al. (2016), SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP "
    "2016; as recast for GLUE (Wang et al., ICLR 2019)"
)


def _at(repository: str, commit: str, path: str) -> str:
    return f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"


_MRPC_PLACE = ("Nstats/my_bert", "733d79335044b1b7eabb5b47a0eae0cd621dadc0")

MRPC_DEV = Source(
    name="MRPC",
    path="glue/MRPC/dev.tsv",
    url=_at(*_MRPC_PLACE, "data/MRPC/dev.tsv"),
    sha256="81c8a1a9e1dfe461dd2c1a4f98f43fe18bece44d2bf9e3d0b245b88e5aa5eaf7",
    licence=NON_COMMERCIAL,
    citation=_MRPC_CITATION,
)
"""408 pairs of sentences, GLUE's validation part."""

MRPC_TRAIN = Source(
    name="MRPC train",
    path="glue/MRPC/train.tsv",
    url=_at(*_MRPC_PLACE, "data/MRPC/train.tsv"),
    sha256="122becc469405bc16f9defcb8715d2a4b7ce600e9d9381e6dc42bfdd1494c51d",
    licence=NON_COMMERCIAL,
    citation=_MRPC_CITATION,
)
"""3,668 pairs of sentences, with the columns of `MRPC_DEV`."""

RTE_DEV = Source(
    name="RTE",
    path="glue/RTE/dev.tsv",
    url=_at(
        "amrnag/Specialized-Transformers",
        "fa673a93a5c27cb1f5954ac2a8a49eec6fcba6b9",
        "data/RTE/dev.tsv",
    ),
    sha256="80230dfa1347282e7b532b06a1004a76a710087541189bf874223ddf0e3819fb",
    licence=_UNSTATED,
    citation=_RTE_CITATION,
)
"""277 pairs of premise and hypothesis, GLUE's validation part."""

QNLI_DEV = Source(
    name="QNLI",
    path="glue/QNLI/dev.tsv",
    url=_at(
        "jonny-vr/LLMCBench",
        "720be179c2492271f61d7a09291ffd003f36f47d",
        "data/QNLI/dev.tsv",
    ),
    sha256="763e95932dd3578251de71582e06829015f9c3815a518c751dc537219b159de4",
    licence=_UNSTATED,
    citation=_QNLI_CITATION,
)
"""5,463 pairs of question and sentence, GLUE's validation part."""

QNLI_TRAIN_SAMPLE = Source(
    name="QNLI train, a tenth",
    path="glue/QNLI/train_sample.tsv",
    url=_at(
        "SJTUDuWei/Poisoned-Prompt-Tuning",
        "9fa25e0e7a0d5e18b6a6cfa7c4c743f63b2eb1c8",
        "data/qnli/dev.tsv",
    ),
    sha256="de31640dbcc60763b7acf72f287b24ca2db32513655bdabe9a1b3a0bc1255376",
    licence=_UNSTATED,
    citation=_QNLI_CITATION,
)
"""10,475 pairs of the training part, which the repository held out; labels 0 (entailment) and 1, no
column `index`, no pair of `QNLI_DEV`."""

ENTRIES: tuple[Source, ...] = (
    MRPC_DEV,
    MRPC_TRAIN,
    RTE_DEV,
    QNLI_DEV,
    QNLI_TRAIN_SAMPLE,
)
"""The files of this family, for the table in `excise.sources`."""
