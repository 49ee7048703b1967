"""Trains the small tokenizer.model and writes goldens.json: what transformers makes of folders.

Run in the repository's root with transformers 4.57.6, tokenizers 0.22.2 and sentencepiece 0.2.3.
"""

import json
import os
import shutil
import tempfile

import sentencepiece
from transformers import AutoTokenizer

HERE = "tests/data/tokenizers"
TEXT = "examples/text/calibration.txt"
PIECES = 700


def train():
    """On a text with some runs of spaces; the model keeps the names of the files."""
    with open(TEXT, encoding="utf-8") as file:
        lines = file.read().split("\n")
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("text.txt", "w", encoding="utf-8") as file:
            file.write("\n".join("    " + line for line in lines))
        sentencepiece.SentencePieceTrainer.train(
            input="text.txt", model_prefix="tokenizer", vocab_size=PIECES, model_type="bpe",
            byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False,
            max_sentence_length=100000, character_coverage=0.999, minloglevel=2,
            user_defined_symbols=["[INST]", "->"], control_symbols=["<|end|>"],
        )  # fmt: skip
        os.chdir(here)
        shutil.copyfile(f"{folder}/tokenizer.model", f"{HERE}/tokenizer.model")


def token(content, **flags):
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **plain, **flags}


def old(content, **flags):
    return {"__type": "AddedToken", **token(content, **flags)}


NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAMA = {"tokenizer_class": "LlamaTokenizer", **NAMED}
CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"

OPT = {
    "errors": "replace",
    "unk_token": old("</s>", normalized=True),
    "bos_token": old("</s>", normalized=True),
    "eos_token": old("</s>", normalized=True),
    "add_prefix_space": False,
    "add_bos_token": True,
    "special_tokens_map_file": None,
    "tokenizer_class": "GPT2Tokenizer",
}
OPT_MAP = {
    **{name: token("</s>", normalized=True) for name in ("bos_token", "eos_token", "unk_token")},
    "pad_token": token("<pad>", normalized=True),
}


def digits(individual):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "added_tokens": [], "post_processor": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": individual}, byte_level,
        ]},
        "model": {
            "type": "BPE",
            "vocab": {"Ġ": 0, "Â": 1, "½": 2, "1": 3, "Â½": 4, "Â½Â½": 5, "11": 6, "ĠÂ½": 7},
            "merges": [["Â", "½"], ["Â½", "Â½"], ["1", "1"], ["Ġ", "Â½"]],
        },
    }  # fmt: skip


METASPACE = {
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    "post_processor": None,
    "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    "model": {
        "type": "BPE", "unk_token": "<unk>", "fuse_unk": True,
        "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁▁": 4, "▁a": 5, "ab": 6, "a▁": 7},
        "merges": [["▁", "▁"], ["a", "▁"], ["a", "b"], ["▁", "a"]],
    },
}  # fmt: skip

# What the tokenizer is made of, and the small files beside it. "model" is tokenizer.model; "pairs"
# are vocab.json and merges.txt of the example tiny-opt, and "json" is its tokenizer.json with
# members replaced by those that the case has for it.
CASES = {
    "legacy": ("model", {CONFIG: {**LLAMA, "legacy": True}}),
    "not legacy": ("model", {CONFIG: {**LLAMA, "legacy": False}}),
    "as Vicuna": ("model", {
        CONFIG: {
            "add_bos_token": True, "add_eos_token": False,
            "bos_token": old("<s>", normalized=True), "eos_token": old("</s>", normalized=True),
            "unk_token": old("<unk>", normalized=True), "pad_token": None, "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
        },
        MAP: {
            "bos_token": token("<s>", normalized=True),
            "eos_token": token("</s>", normalized=True),
            "unk_token": token("<unk>", normalized=True), "pad_token": "<unk>",
        },
    }),
    "without a space before": ("model", {CONFIG: {**LLAMA, "add_prefix_space": False}}),
    "not legacy, without a space before": (
        "model", {CONFIG: {**LLAMA, "legacy": False, "add_prefix_space": False}},
    ),
    "end without begin": (
        "model", {CONFIG: {**LLAMA, "add_bos_token": False, "add_eos_token": True}},
    ),
    "model_type alone": ("model", {"config.json": {"model_type": "mistral"}}),
    "added tokens": ("model", {
        CONFIG: {**LLAMA, "tokenizer_class": "LlamaTokenizerFast", "pad_token": "<old>"},
        ADDED: {"<ex tra>": PIECES + 1, "[PAD]": PIECES},
        MAP: {
            **NAMED, "pad_token": "[PAD]",
            "additional_special_tokens": ["<|new|>", token("<|im|>", lstrip=True, rstrip=True)],
        },
    }),
    "added tokens, not legacy": ("model", {
        CONFIG: {**LLAMA, "legacy": False},
        ADDED: {"<ex tra>": PIECES + 1, "[PAD]": PIECES},
        MAP: {**NAMED, "pad_token": "[PAD]", "additional_special_tokens": ["<|new|>"]},
    }),
    "added tokens by id": ("model", {
        CONFIG: {
            **LLAMA,
            "added_tokens_decoder": {
                str(PIECES + 1): token("<|new|>", rstrip=True, special=False),
                "1": token("<s>", special=True),
                str(PIECES): token("<|im|>", special=True),
            },
            "additional_special_tokens": ["<|im|>", "<ex tra>"],
            "extra_special_tokens": {"image_token": "[PAD]"},
        },
        MAP: {"pad_token": "l"},
    }),
    "as OPT": ("pairs", {CONFIG: OPT, MAP: OPT_MAP}),
    "as OPT, without a class": ("pairs", {
        CONFIG: {name: value for name, value in OPT.items() if name != "tokenizer_class"},
        "config.json": {"model_type": "opt"},
    }),
    "as GPT-2": ("pairs", {"config.json": {"model_type": "gpt2"}}),
    "GPT-2 with a space before": (
        "pairs", {CONFIG: {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}},
    ),
    "as Qwen2": ("pairs", {
        CONFIG: {
            "add_prefix_space": False, "bos_token": None, "eos_token": "<|im|>",
            "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
            "added_tokens_decoder": {
                "4096": token("<|endoftext|>", special=True),
                "4097": token("<|im|>", special=True),
                "4098": token("<|new|>", special=False),
            },
            "tokenizer_class": "Qwen2Tokenizer",
        },
    }),
    "Qwen2 with the model_type alone": ("pairs", {"config.json": {"model_type": "qwen3"}}),
    "a file of all": (
        "json", {CONFIG: {**LLAMA, "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}},
    ),
    "a file of all, begin and end": (
        "json", {CONFIG: {**LLAMA, "add_bos_token": True, "add_eos_token": True}},
    ),
    "a file of all, no begin": ("json", {CONFIG: {**LLAMA, "add_bos_token": False}}),
    "a file of all of another class, no begin": (
        "json", {CONFIG: {**LLAMA, "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}},
    ),
    "a file of all, a space before": ("json", {
        CONFIG: {**NAMED, "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        ADDED: {"[PAD]": 4096},
    }),
    "digits one by one": ("json", {
        CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"},
        "tokenizer.json": digits(True),
    }),
    "digits together": ("json", {
        CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"},
        "tokenizer.json": digits(False),
    }),
    "Metaspace that splits": ("json", {
        CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"}, "tokenizer.json": METASPACE,
    }),
}  # fmt: skip

TEXTS = [
    "", "Hello", " Hello", "  Hello", "Hello <s>.", "a</s> b", "</s>\n x", "<s> Hi<unk>there", " <s>",
    "\n\n", "a  b   c ", "é😀 \0\1", "▁x", "<0x0A>", "Hello</s>  world", "</s></s>", "x [PAD] y[PAD]",
    "<ex tra> a <ex tra>b", "a <|new|> b<|new|> c", "a <|im|> b<|im|>  c", "[INST] it->be<|end|> of",
    "<|endoftext|>Hi <pad>", "e\u0301 \u1e9b\u0323 中文", "\ufeffa \x85b", "1895 ½ ٣4", "It's they'Ll",
    "\t\ttab\r\nx", "\u00a0wide\u3000", "a" * 20, "ab a  ba b",
    "½½ ½ 11½",
]  # fmt: skip


def write(folder, source, files):
    if source == "model":
        shutil.copyfile(f"{HERE}/tokenizer.model", f"{folder}/tokenizer.model")
        content = {}
    else:
        with open("examples/models/tiny-opt/tokenizer.json", encoding="utf-8") as file:
            content = {"tokenizer.json": json.load(file)}
    if source == "pairs":
        model = content.pop("tokenizer.json")["model"]
        content["vocab.json"] = model["vocab"]
        with open(f"{folder}/merges.txt", "w", encoding="utf-8") as file:
            merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
            file.write("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
    for name, value in {**content, **files}.items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            json.dump({**content.get(name, {}), **value}, file)


def decoded(tokenizer, ids, skip):
    flags = {"clean_up_tokenization_spaces": False, "skip_special_tokens": skip}
    return [tokenizer.decode(i, **flags) for i in ids]


def golden(source, files):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, source, files)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.encode(text) for text in TEXTS]
    return {
        "source": source, "files": files, "size": len(tokenizer),
        "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "ids": ids,
        "decoded": decoded(tokenizer, ids, False), "without_special": decoded(tokenizer, ids, True),
    }  # fmt: skip


train()
with open(f"{HERE}/goldens.json", "w", encoding="utf-8") as file:
    cases = {name: golden(*case) for name, case in CASES.items()}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    file.write(f'{{"texts": {json.dumps(TEXTS)},\n"cases": {{\n{rows}\n}}}}\n')
