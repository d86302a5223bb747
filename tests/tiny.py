"""Tiny random models of every architecture, a tokenizer made in memory, and a toy task."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from excise.models import LoadedModel, wrap
from excise.types import Instance, Task

CAUSAL = ("llama", "mistral", "mistral-window", "qwen2", "bloom")
SEQ2SEQ = ("t5", "t5-gated", "mt5")
ALL = CAUSAL + SEQ2SEQ
FAMILIES = (
    "bart",
    "falcon",
    "falcon-alibi",
    "falcon-grouped",
    "gemma",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "gpt_neox-serial",
    "gptj",
    "olmo",
    "olmo2",
    "opt",
    "phi3",
    "phi3-window",
    "qwen3",
    "smollm3",
    "umt5",
)
"""The other rows of the table of architectures, and their variants."""
MASKED = ("bert", "roberta")

PAD, END, BEGIN = 0, 1, 2
HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, LAYERS = 32, 4, 2, 48, 2

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CORPUS = [
    "Read the context and pick the option that answers best. Context: An old man and a young man "
    "met at the market. Question: Who forgot the keys? Answer options: The old man, The young man, "
    "Cannot be known. Your answer: The old man",
    "The grandson was late. The grandfather was early. Not enough information. Undetermined.",
] * 3


@cache
def _backend() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<pad>", "</s>", "<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    return backend.to_str()


def tokenizer(kind: str = "bare") -> PreTrainedTokenizerFast:
    """A byte-level BPE: `bare`, `bos` (opens texts), `eos` (closes texts, as T5's), or `chat`."""
    backend = Tokenizer.from_str(_backend())
    if kind in ("bos", "eos"):
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A" if kind == "bos" else "$A </s>",
            special_tokens=[("<s>", BEGIN), ("</s>", END)],
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        clean_up_tokenization_spaces=False,
    )
    if kind == "chat":
        made.chat_template = CHAT_TEMPLATE
    return made


@cache
def _word_pieces() -> str:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    backend.train_from_iterator([*_CORPUS, "abcdefghijklmnopqrstuvwxyz.,?'"], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return backend.to_str()


@cache
def _byte_pieces() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        # Token types as a tokenizer may give them that the model has no embedding for.
        pair="<s> $A </s> </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return backend.to_str()


def masked_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """`bert`: word pieces in lower case. `roberta`: byte-level BPE whose mask swallows a space."""
    if name == "bert":
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(_word_pieces()),
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_pieces()),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


VOCABULARY = 352


def model(name: str, *, seed: int = 0, **overrides: Any) -> Any:
    """A tiny random model in eval mode; biases and norms are random too."""
    decoder = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "bos_token_id": BEGIN,
    }
    t5 = {
        "vocab_size": VOCABULARY,
        "d_model": HIDDEN,
        "d_kv": 6,
        "d_ff": FEED_FORWARD,
        "num_layers": LAYERS,
        "num_decoder_layers": LAYERS + 1,
        "num_heads": HEADS,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": PAD,
    }
    masked = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    made: Any
    if name == "llama":
        made = LlamaForCausalLM(LlamaConfig(**decoder | {"tie_word_embeddings": True} | overrides))
    elif name in ("mistral", "mistral-window"):
        window = {"sliding_window": 8 if name == "mistral-window" else None}
        made = MistralForCausalLM(MistralConfig(**decoder | window | overrides))
    elif name == "qwen2":
        made = Qwen2ForCausalLM(Qwen2Config(**decoder | overrides))
    elif name == "bloom":
        made = BloomForCausalLM(
            BloomConfig(
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                n_layer=LAYERS,
                n_head=HEADS,
                pad_token_id=PAD,
                eos_token_id=END,
                bos_token_id=BEGIN,
                hidden_dropout=0.0,
                attention_dropout=0.0,
                **overrides,
            )
        )
    elif name in ("t5", "t5-gated"):
        kind = {"feed_forward_proj": "relu" if name == "t5" else "gated-gelu"}
        untied = {"tie_word_embeddings": name == "t5"}
        made = T5ForConditionalGeneration(T5Config(**t5 | kind | untied | overrides))
    elif name == "mt5":
        made = MT5ForConditionalGeneration(MT5Config(**t5 | overrides))
    elif name == "bert":
        made = BertForMaskedLM(BertConfig(**masked | overrides))
    elif name == "roberta":
        # Padding has the id 1, as in the published checkpoints: positions begin behind it.
        own = {"pad_token_id": 1, "type_vocab_size": 1}
        made = RobertaForMaskedLM(RobertaConfig(**masked | own | overrides))
    elif name in FAMILIES:
        made = _family(name, **overrides)
    else:
        raise KeyError(name)
    _randomise(made, seed)
    return made.eval()


_HEADS_ALIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": BEGIN,
}
_GROUPED = {**_HEADS_ALIKE, "intermediate_size": FEED_FORWARD, "num_key_value_heads": KV_HEADS}
_WINDOW = 6
"""Tokens of a sliding window: far fewer than a prompt has."""
_OWN: dict[str, dict[str, Any]] = {
    "bart": {
        "vocab_size": VOCABULARY,
        "d_model": HIDDEN,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS + 1,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": FEED_FORWARD,
        "decoder_ffn_dim": FEED_FORWARD + 8,
        "max_position_embeddings": 256,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "bos_token_id": BEGIN,
        "decoder_start_token_id": END,
        "forced_eos_token_id": END,
    },
    "falcon": {**_HEADS_ALIKE, "ffn_hidden_size": FEED_FORWARD},
    "falcon-alibi": {
        **_HEADS_ALIKE,
        "ffn_hidden_size": FEED_FORWARD,
        "alibi": True,
        "multi_query": False,
        "parallel_attn": False,
        "bias": True,
    },
    "falcon-grouped": {
        **_HEADS_ALIKE,
        "ffn_hidden_size": FEED_FORWARD,
        "new_decoder_architecture": True,
        "num_kv_heads": KV_HEADS,
    },
    "gemma": {**_GROUPED, "head_dim": 6, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": {
        **_GROUPED,
        "head_dim": 6,
        "query_pre_attn_scalar": 6,
        "sliding_window": _WINDOW,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        **_GROUPED,
        "head_dim": 6,
        "query_pre_attn_scalar": 6,
        "sliding_window": _WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": FEED_FORWARD,
        "n_positions": 512,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "bos_token_id": BEGIN,
    },
    "gpt_neox": {**_HEADS_ALIKE, "intermediate_size": FEED_FORWARD},
    "gpt_neox-serial": {
        **_HEADS_ALIKE,
        "intermediate_size": FEED_FORWARD,
        "use_parallel_residual": False,
    },
    "gptj": {
        "vocab_size": VOCABULARY,
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": FEED_FORWARD,
        "n_positions": 512,
        "rotary_dim": 4,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "bos_token_id": BEGIN,
    },
    "olmo": {**_GROUPED, "clip_qkv": 1.5},
    "olmo2": _GROUPED,
    "opt": {**_HEADS_ALIKE, "ffn_dim": FEED_FORWARD, "word_embed_proj_dim": 24},
    "phi3": {**_GROUPED, "sliding_window": None},
    "phi3-window": {**_GROUPED, "sliding_window": _WINDOW},
    "qwen3": {**_GROUPED, "head_dim": 6},
    "smollm3": {**_GROUPED, "no_rope_layers": [1, 0]},
    "umt5": {
        "vocab_size": VOCABULARY,
        "d_model": HIDDEN,
        "d_kv": 6,
        "d_ff": FEED_FORWARD,
        "num_layers": LAYERS,
        "num_decoder_layers": LAYERS + 1,
        "num_heads": HEADS,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": PAD,
    },
}


def _family(name: str, **overrides: Any) -> Any:
    """A model out of `FAMILIES`, by the classes that its type has in transformers."""
    model_type = {"gemma3": "gemma3_text"}.get(name, name.partition("-")[0])
    config = AutoConfig.for_model(model_type, **_OWN[name] | overrides)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_config(config)


_EMBEDDINGS = (
    "shared",
    "embed_tokens",
    "word_embeddings",
    "embed_in",
    "embed_positions",
    "wte",
    "wpe",
)


@torch.no_grad()
def _randomise(made: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in made.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            # Gemma's norms multiply by one more than their weights.
            middle = 0 if key.endswith("bias") or type(made).__name__.startswith("Gemma") else 1
            parameter.copy_(middle + 0.2 * noise)
        elif "relative_attention_bias" in key:
            parameter.copy_(noise)
        elif key.rsplit(".", 2)[-2] in _EMBEDDINGS:
            parameter.copy_(0.6 * noise)
        else:
            # T5 does not scale queries by the head size, so attention stays soft with 0.7.
            parameter.copy_(0.7 * noise * parameter.shape[1] ** -0.5)


def loaded(name: str, *, seed: int = 0, kind: str | None = None, **overrides: Any) -> LoadedModel:
    """`model(name)` wrapped with a tokenizer: closing texts for T5, opening them for Llama."""
    if name in MASKED:
        made = model(name, seed=seed, **overrides)
        return wrap(made, masked_tokenizer(name), name=f"tiny-{name}")
    default = {"llama": "bos", "mistral": "bos", "mistral-window": "bos"}
    usual = "eos" if name in (*SEQ2SEQ, "bart", "umt5") else default.get(name, "bare")
    return wrap(model(name, seed=seed, **overrides), tokenizer(kind or usual), name=f"tiny-{name}")


def instance(
    number: int,
    context: str,
    options: tuple[str, ...] = ("The old man", "The young man", "Cannot be known"),
    gold: int = 2,
    **overrides: Any,
) -> Instance:
    values: dict[str, Any] = {
        "id": f"item-{number}",
        "fields": {"context": context, "question": "Who forgot the keys?"},
        "options": options,
        "gold": gold,
        "template": f"template-{number // 2}",
        "block": f"block-{number // 2}",
        "condition": "ambiguous" if number % 2 == 0 else "disambiguated",
        "unknown": None,
        "stereotyped": 0,
    }
    return Instance(**values | overrides)


INSTANCES = (
    instance(0, "An old man and a young man met at the market."),
    # The first context is a prefix of the second, as BBQ's ambiguous ones are.
    instance(1, "An old man and a young man met at the market. The young man was early.", gold=0),
    instance(2, "The grandson was late.", ("A", "The grandfather", "Not enough information"), 1),
    instance(3, "Zebra quiz: 17 µ.", ("yes", "no"), 1, stereotyped=None),
    instance(4, "The grandfather was late.", ("a", "b", "The market", "The keys", "d"), 2),
)


def task(
    instances: tuple[Instance, ...] = INSTANCES,
    instructions: tuple[str, ...] = ("Pick the best option.", "Who? Choose one."),
    prompt_format: str = (
        "{instruction} Context: {context}  Question: {question}  Answer options: {options}  "
        "Your answer:"
    ),
) -> Task:
    """The toy task, in the prompt format of the authors."""
    return Task(
        name="toy",
        instances=instances,
        instructions=instructions,
        prompt_format=prompt_format,
        licence="none",
        citation="none",
        digest="0" * 64,
    )
